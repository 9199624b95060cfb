package tenant_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// way is what becomes of a change in one direction.
type way int

const (
	atOnce way = iota // promises no less
	waits             // refused without --weaken, and with it made after the cool-down
	eased             // stored, announced; expire goes by the old one for a cool-down
	never             // refused for good
)

// Every field that can be set, in both directions: there is first -> second, and back is second -> first.
func TestDirections(t *testing.T) {
	strict, versioned := appendonly.Strict, appendonly.Versioned
	prefix := func(list ...tenant.Prefix) tenant.Change { return tenant.Change{Prefixes: &list} }
	www := func(m appendonly.Mode) tenant.Prefix { return tenant.Prefix{Path: "www", Mode: m} }
	cron := func(list ...string) tenant.Change { return tenant.Change{Snapshots: &list} }
	rules := func(list ...tenant.ExpireRule) tenant.Change { return tenant.Change{Rules: &list} }
	keep := func(k *tenant.Keep) tenant.Change { return tenant.Change{Keep: &k} }
	tests := []struct {
		name          string
		first, second tenant.Change
		there, back   way
	}{
		{"Suspended", tenant.Change{Suspended: ptr(false)}, tenant.Change{Suspended: ptr(true)}, atOnce, atOnce},
		{"Mode", tenant.Change{Mode: &strict}, tenant.Change{Mode: &versioned}, waits, atOnce},
		{"Prefixes versioned in strict", prefix(), prefix(www(versioned)), waits, atOnce},
		{"Prefixes deeper strict", prefix(www(versioned), tenant.Prefix{Path: "www/db", Mode: strict}), prefix(www(versioned)), waits, atOnce},
		{"Prefixes that change nothing", prefix(), prefix(www(strict)), atOnce, atOnce},
		{"SealAfter", tenant.Change{SealAfter: ptr(time.Duration(0))}, tenant.Change{SealAfter: ptr(time.Hour)}, waits, atOnce},
		{"ResumeWindow", tenant.Change{ResumeWindow: ptr(time.Duration(0))}, tenant.Change{ResumeWindow: ptr(time.Hour)}, waits, atOnce},
		{"Durability", tenant.Change{Durability: ptr(tenant.AtClose)}, tenant.Change{Durability: ptr(tenant.AtSession)}, waits, atOnce},
		{"DeleteFails", tenant.Change{DeleteFails: ptr(true)}, tenant.Change{DeleteFails: ptr(false)}, waits, atOnce},
		{"QuotaBytes", tenant.Change{QuotaBytes: ptr(int64(10))}, tenant.Change{QuotaBytes: ptr(int64(5))}, atOnce, atOnce},
		{"QuotaFiles", tenant.Change{QuotaFiles: ptr(int64(10))}, tenant.Change{QuotaFiles: ptr(int64(5))}, atOnce, atOnce},
		{"SoftBytes", tenant.Change{SoftBytes: ptr(int64(10))}, tenant.Change{SoftBytes: ptr(int64(5))}, atOnce, atOnce},
		{"Grace", tenant.Change{Grace: ptr(2 * day)}, tenant.Change{Grace: ptr(day)}, atOnce, atOnce},
		{"Snapshots less often", cron("@hourly"), cron("@daily"), waits, atOnce},
		{"Snapshots none", cron("@hourly"), cron(), waits, atOnce},
		{"Snapshots fewer", cron("@hourly", "30 9 * * *"), cron("@hourly"), waits, atOnce},
		{"PushEnd", tenant.Change{PushEnd: ptr(true)}, tenant.Change{PushEnd: ptr(false)}, waits, atOnce},
		{"Lock", tenant.Change{Lock: ptr(2 * day)}, tenant.Change{Lock: ptr(day)}, never, atOnce},
		{"Keep everything", keep(nil), keep(&tenant.Keep{Daily: 9999}), eased, atOnce},
		{"Keep fewer hours", keep(&tenant.Keep{Hourly: 2}), keep(&tenant.Keep{Hourly: 1}), eased, atOnce},
		{"Keep fewer days", keep(&tenant.Keep{Daily: 2}), keep(&tenant.Keep{Daily: 1}), eased, atOnce},
		{"Keep fewer weeks", keep(&tenant.Keep{Weekly: 2}), keep(&tenant.Keep{Weekly: 1}), eased, atOnce},
		{"Keep fewer months", keep(&tenant.Keep{Monthly: 2}), keep(&tenant.Keep{Monthly: 1}), eased, atOnce},
		{"Keep fewer years", keep(&tenant.Keep{Yearly: 2}), keep(&tenant.Keep{Yearly: 1}), eased, atOnce},
		{"Keep days for hours", keep(&tenant.Keep{Daily: 5}), keep(&tenant.Keep{Hourly: 500}), eased, eased},
		{"Rules one more", rules(), rules(tenant.ExpireRule{Prefix: "a", After: day}), eased, atOnce},
		{"Rules sooner", rules(tenant.ExpireRule{Prefix: "a", After: 2 * day}), rules(tenant.ExpireRule{Prefix: "a", After: day}), eased, atOnce},
		{"Rules wider", rules(tenant.ExpireRule{Prefix: "a/b", After: day}), rules(tenant.ExpireRule{Prefix: "a", After: day}), eased, atOnce},
		{"Rules elsewhere", rules(tenant.ExpireRule{Prefix: "a", After: day}), rules(tenant.ExpireRule{Prefix: "ab", After: day}), eased, eased},
	}
	// No field is forgotten.
	for f := range reflect.TypeFor[tenant.Change]().Fields() {
		found := false
		for _, tt := range tests {
			found = found || strings.HasPrefix(tt.name, f.Name)
		}
		if !found {
			t.Errorf("no test of %s", f.Name)
		}
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			direction(t, "there", tt.first, tt.second, tt.there)
			direction(t, "back", tt.second, tt.first, tt.back)
		})
	}
}

func direction(t *testing.T, name string, from, to tenant.Change, want way) {
	t.Helper()
	db, now := clocked(t)
	n := plain("acme")
	n.Retention.Lock = 12 * time.Hour
	n.Policy.Mode, n.Policy.ResumeWindow, n.Schedule = appendonly.Versioned, 0, tenant.Schedule{}
	n.Policy.Durability = tenant.AtSession
	if from.Prefixes != nil {
		n.Policy.Mode = appendonly.Strict
	}
	set := func(c tenant.Change) {
		if c.SealAfter != nil {
			n.Policy.SealAfter = *c.SealAfter
		}
		if c.ResumeWindow != nil {
			n.Policy.ResumeWindow = *c.ResumeWindow
		}
		if c.Prefixes != nil {
			n.Policy.Prefixes = *c.Prefixes
		}
		if c.Mode != nil {
			n.Policy.Mode = *c.Mode
		}
		if c.Keep != nil {
			n.Retention.Keep = *c.Keep
		}
		if c.Rules != nil {
			n.Retention.Rules = *c.Rules
		}
	}
	set(from)
	if _, _, err := db.AddTenant(n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeTenant("acme", from); err != nil { // the rest of the fields: from their weakest value on
		t.Fatalf("%s: begin: %v", name, err)
	}
	before, _ := snapshot(t, db).Tenant("acme")
	got, err := db.ChangeTenant("acme", to)
	var weak *tenant.WeakeningError
	switch want {
	case atOnce, eased:
		if err != nil || (got.Eased != nil) != (want == eased) || got.Pending != nil {
			t.Errorf("%s: %+v, %v; want eased: %v", name, got.Eased, err, want == eased)
		}
	case never:
		_, later := db.Weaken("acme", to, 7*day)
		if !errors.As(err, &weak) || !weak.Never || !errors.As(later, &weak) || !weak.Never {
			t.Errorf("%s: %v, %v", name, err, later)
		}
	case waits:
		if !errors.As(err, &weak) || weak.Never {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := db.Weaken("acme", to, 7*day); err != nil {
			t.Fatal(err)
		}
		*now = epoch.Add(7*day - 1)
		still, _ := snapshot(t, db).Tenant("acme")
		still.Pending = nil
		if !same(still, before) || len(still.Notices(*now)) != 0 {
			t.Errorf("%s: it did not wait: %+v", name, still)
		}
		*now = epoch.Add(7 * day)
		if after, _ := snapshot(t, db).Tenant("acme"); same(after, before) || after.Came == nil {
			t.Errorf("%s: it did not come: %+v", name, after)
		}
	}
}
