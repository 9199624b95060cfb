package main

import (
	"testing"
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

// The age at which metrics say that a tenant is late is the instant at which status says so.
func TestAllowedAge(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	night, err := expect.ParseWindow("22:00-06:00")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		created time.Duration // before now
		pushed  time.Duration // the same; 0: never
		rules   []expect.Rule
		common  time.Duration
		want    time.Duration
	}{
		{"what is expected of all", 100 * time.Hour, time.Hour, nil, 48 * time.Hour, 48 * time.Hour},
		{"nothing is expected", 100 * time.Hour, time.Hour, nil, 0, 0},
		{"its own, in time", 100 * time.Hour, time.Hour, []expect.Rule{{MaxAge: 26 * time.Hour}}, 48 * time.Hour, 26 * time.Hour},
		{"its own, late", 100 * time.Hour, 30 * time.Hour, []expect.Rule{{MaxAge: 26 * time.Hour}}, 48 * time.Hour, 26 * time.Hour},
		// Pushed at 23:00 two nights ago: 24 hours end at 23:00, and the window at 06:00.
		{"until the window has closed", 100 * time.Hour, 37 * time.Hour, []expect.Rule{{MaxAge: 24 * time.Hour, Window: night}}, 0, 31 * time.Hour},
		{"a directory's is another thing", 100 * time.Hour, time.Hour, []expect.Rule{{Path: "db", MaxAge: time.Hour}}, 48 * time.Hour, 48 * time.Hour},
		{"never, and it is not due", 2 * time.Hour, 0, nil, 48 * time.Hour, 48 * time.Hour},
		{"never, and it was due", 100 * time.Hour, 0, nil, 48 * time.Hour, 48 * time.Hour},
		{"never, and it was set an hour ago", 100 * time.Hour, 0, []expect.Rule{{MaxAge: 26 * time.Hour, Since: now.Add(-time.Hour)}}, 0, 125 * time.Hour},
		{"with nothing new", 100 * time.Hour, time.Hour, []expect.Rule{{MaxAge: 26 * time.Hour, MinFiles: 5}}, 0, 26 * time.Hour},
	} {
		k := inventory.Known{Tenant: inventory.Tenant{Name: "a", Created: now.Add(-c.created)}, Rules: c.rules}
		if c.pushed > 0 {
			k.Pushes, _ = k.Pushes.Plus(push.Event{Time: now.Add(-c.pushed), Restorable: true, Result: push.OK}, 10)
		}
		inv := inventory.Make(now, []inventory.Known{k}, expect.Rule{MaxAge: c.common})
		got := allowedAge(&inv.Tenants[0])
		if got != c.want {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
		late := false
		for _, v := range inv.Tenants[0].Verdicts {
			late = late || v.Path == "" && v.Level > expect.Well && (v.State == expect.Late || v.State == expect.Never)
		}
		age := c.created
		if c.pushed > 0 {
			age = c.pushed
		}
		if (got > 0 && age >= got) != late {
			t.Errorf("%s: %v old of %v, and status says late: %v", c.name, age, got, late)
		}
	}
}
