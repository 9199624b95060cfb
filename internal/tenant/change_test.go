package tenant_test

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

func TestChangeTenant(t *testing.T) {
	strict, versioned := appendonly.Strict, appendonly.Versioned
	type prefixes = []tenant.Prefix
	mixed := func(n *tenant.NewTenant) {
		n.Policy.Prefixes = prefixes{{Path: "www", Mode: versioned}, {Path: "www/db", Mode: strict}}
	}
	tests := []struct {
		name   string
		before func(*tenant.NewTenant) // nil: the defaults
		change tenant.Change
		weak   string // part of the refusal; "" means that it is applied
	}{
		{"strict to versioned", nil, tenant.Change{Mode: &versioned}, "mode: strict -> versioned"},
		{"versioned to strict", func(n *tenant.NewTenant) { n.Policy.Mode = versioned }, tenant.Change{Mode: &strict}, ""},
		{"a versioned prefix in strict", nil, tenant.Change{Prefixes: &prefixes{{Path: "a", Mode: versioned}}}, `"a": strict -> versioned`},
		{"a strict prefix in strict", nil, tenant.Change{Prefixes: &prefixes{{Path: "a", Mode: strict}}}, ""},
		{"a strict prefix in versioned", func(n *tenant.NewTenant) { n.Policy.Mode = versioned }, tenant.Change{Prefixes: &prefixes{{Path: "a", Mode: strict}}}, ""},
		{"dropping all prefixes hardens www", mixed, tenant.Change{Prefixes: &prefixes{}}, ""},
		{"dropping the inner prefix weakens it", mixed, tenant.Change{Prefixes: &prefixes{{Path: "www", Mode: versioned}}}, `"www/db"`},
		{"a deeper versioned prefix", mixed, tenant.Change{Prefixes: &prefixes{{Path: "www", Mode: versioned}, {Path: "www/db", Mode: strict}, {Path: "www/db/tmp", Mode: versioned}}}, `"www/db/tmp"`},
		// The whole turns versioned, but each path that was strict keeps a strict prefix except the root itself.
		{"versioned with strict prefixes", nil, tenant.Change{Mode: &versioned, Prefixes: &prefixes{{Path: "a", Mode: strict}}}, "mode: strict -> versioned"},
		{"strict with all prefixes as they were", mixed, tenant.Change{Mode: &strict}, ""},
		{"a neighbour with the same beginning", func(n *tenant.NewTenant) { n.Policy.Prefixes = prefixes{{Path: "www", Mode: versioned}} },
			tenant.Change{Prefixes: &prefixes{{Path: "www", Mode: versioned}, {Path: "www2", Mode: versioned}}}, `"www2"`},

		{"seal_after longer", nil, tenant.Change{SealAfter: ptr(time.Second)}, "seal_after: 0s -> 1s"},
		{"seal_after shorter", func(n *tenant.NewTenant) { n.Policy.SealAfter = time.Hour }, tenant.Change{SealAfter: ptr(time.Minute)}, ""},
		{"resume_window shorter", nil, tenant.Change{ResumeWindow: ptr(time.Hour)}, ""},
		{"resume_window longer", nil, tenant.Change{ResumeWindow: ptr(48 * time.Hour)}, "resume_window: 24h0m0s -> 48h0m0s"},
		{"durability stronger", nil, tenant.Change{Durability: ptr(tenant.AtClose)}, ""},
		{"durability weaker", func(n *tenant.NewTenant) { n.Policy.Durability = tenant.AtClose }, tenant.Change{Durability: ptr(tenant.AtSession)}, "durability: close -> session"},

		{"push-end off", nil, tenant.Change{PushEnd: ptr(false)}, "push-end"},
		{"push-end on", func(n *tenant.NewTenant) { n.Schedule.PushEnd = false }, tenant.Change{PushEnd: ptr(true)}, ""},
		{"no snapshots", nil, tenant.Change{Snapshots: &[]string{}}, "scheduled snapshots: on -> off"},
		{"daily only", nil, tenant.Change{Snapshots: &[]string{"@daily"}}, "longest time between snapshots: 1h0m0s -> 24h0m0s"},
		{"daily adds nothing to hourly", nil, tenant.Change{Snapshots: &[]string{"@hourly"}}, ""},
		{"another minute of the hour", nil, tenant.Change{Snapshots: &[]string{"30 * * * *"}}, ""},
		{"more often", nil, tenant.Change{Snapshots: &[]string{"*/10 * * * *"}}, ""},
		{"often, but not at night", nil, tenant.Change{Snapshots: &[]string{"* 8-18 * * *"}}, "longest time"},
		{"as far apart, but fewer", func(n *tenant.NewTenant) { n.Schedule.Snapshots = []string{"0 0 * * *", "0 1 * * *"} },
			tenant.Change{Snapshots: &[]string{"0 0,12 * * *"}}, ""},
		{"same gap and fewer", func(n *tenant.NewTenant) { n.Schedule.Snapshots = []string{"0 * * * *", "*/5 9 * * *"} },
			tenant.Change{Snapshots: &[]string{"@hourly"}}, "snapshots a day: 35 -> 24"},
		{"from none to some", func(n *tenant.NewTenant) { n.Schedule.Snapshots = nil }, tenant.Change{Snapshots: &[]string{"@weekly"}}, ""},

		{"smaller quota", func(n *tenant.NewTenant) { n.Quota.Bytes = 100 }, tenant.Change{QuotaBytes: ptr(int64(1)), QuotaFiles: ptr(int64(1))}, ""},
		{"suspend", nil, tenant.Change{Suspended: ptr(true)}, ""},
		{"nothing", nil, tenant.Change{}, ""},
		// One weakening among strengthenings refuses the whole.
		{"both at once", nil, tenant.Change{ResumeWindow: ptr(time.Hour), PushEnd: ptr(false), Mode: &versioned}, "mode: strict -> versioned; push-end"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db, _ := newDB(t)
			n := plain("acme")
			if tt.before != nil {
				tt.before(&n)
			}
			old, _, err := db.AddTenant(n)
			if err != nil {
				t.Fatal(err)
			}
			got, err := db.ChangeTenant("acme", tt.change)
			read, _ := snapshot(t, db).Tenant("acme")
			if tt.weak == "" {
				if err != nil || !same(got, read) {
					t.Errorf("got %v, %v; read %v", got, err, read)
				}
				return
			}
			var weak *tenant.WeakeningError
			if !errors.As(err, &weak) || !strings.Contains(err.Error(), tt.weak) || weak.Tenant != "acme" {
				t.Errorf("got %v, want a refusal with %q", err, tt.weak)
			}
			if !same(old, read) {
				t.Errorf("changed all the same: %v", read)
			}
		})
	}
}

func same(a, b tenant.Tenant) bool { return equalJSON(a, b) }

// The core's zero is 24 h: a tenant without a resume window must not get one.
func TestCore(t *testing.T) {
	n := tenant.Tenant{Suspended: true, Policy: tenant.Policy{Mode: appendonly.Versioned, SealAfter: time.Hour, Durability: tenant.AtClose,
		Prefixes: []tenant.Prefix{{Path: "a/b", Mode: appendonly.Strict}}}}
	p := n.Core()
	if p.ResumeWindow >= 0 || !p.Suspended || !p.SyncClose || p.SealAfter != time.Hour {
		t.Errorf("got %+v", p)
	}
	if p.ModeAt("a/b/c") != appendonly.Strict || p.ModeAt("a/bc") != appendonly.Versioned {
		t.Errorf("got %+v", p)
	}
	n.Policy.ResumeWindow = time.Minute
	if got := n.Core().ResumeWindow; got != time.Minute {
		t.Errorf("got %v", got)
	}
}

func TestChangeRefusesNonsense(t *testing.T) {
	db, _ := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []tenant.Change{{QuotaBytes: ptr(int64(-1))}, {Durability: ptr(tenant.Durability("x"))}, {Snapshots: &[]string{"* *"}}} {
		if _, err := db.ChangeTenant("acme", c); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := db.ChangeTenant("nobody", tenant.Change{}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("no tenant: %v", err)
	}
}

func TestCheckCron(t *testing.T) {
	good := []string{"@hourly", "@daily", "@weekly", "@monthly", "0 * * * *", "*/15 8-18 * * 1-5", "0 3 1 * *", "0 3 L * *", "0 3 * * 1#1", "0 0 29 2 *", "30 4 * jan mon"}
	bad := []string{"", "*", "* * * *", "@every 1h", "@everysecond", "0 0 30 2 *", "60 * * * *", "* 24 * * *", "*,99 * * * *",
		"* * * * * *", "* * * * * 2030", "0 0 0 * *", "a b c d e", "*/0 * * * *", "0 0 1 1 * \x00", "5-1 * * * *", ",,,, * * * *"}
	for _, l := range good {
		if err := tenant.CheckCron(l); err != nil {
			t.Errorf("%q: %v", l, err)
		}
	}
	for _, l := range bad {
		if err := tenant.CheckCron(l); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%q: %v", l, err)
		}
	}
}

func TestCoverage(t *testing.T) {
	const days = 4*365 + 1
	day := 24 * time.Hour
	tests := []struct {
		lines []string
		gap   time.Duration
		ticks int
	}{
		{nil, math.MaxInt64, 0},
		{[]string{"* * * * *"}, time.Minute, days * 1440},
		{[]string{"@hourly", "@daily"}, time.Hour, days * 24}, // midnight counts once
		{[]string{"@daily"}, day, days},
		{[]string{"@yearly"}, 366 * day, 4},
		{[]string{"0 0 29 2 *"}, days * day, 1},
		{[]string{"0 22 * * *", "0 2 * * *"}, 20 * time.Hour, 2 * days}, // over midnight
		{[]string{"0 12 * * 1-5"}, 3 * day, 1043},                       // Friday noon to Monday noon
	}
	for _, tt := range tests {
		gap, ticks, err := tenant.Coverage(tt.lines)
		if err != nil || gap != tt.gap || ticks != tt.ticks {
			t.Errorf("%q: gap %v, ticks %d, %v; want %v, %d", tt.lines, gap, ticks, err, tt.gap, tt.ticks)
		}
	}
}
