package tenant_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

const day = 24 * time.Hour

func TestParseKeep(t *testing.T) {
	for in, want := range map[string]string{"all": "all", "hourly=24, daily=30": "hourly=24,daily=30", "yearly=1": "yearly=1", "daily=0": "daily=0"} {
		k, err := tenant.ParseKeep(in)
		if err != nil || k.String() != want {
			t.Errorf("%q: %v, %v", in, k, err)
		}
		if again, err := tenant.ParseKeep(k.String()); err != nil || again.String() != want {
			t.Errorf("%q again: %v, %v", in, again, err)
		}
	}
	for _, in := range []string{"", "daily", "daily=-1", "daily=1000000", "dayly=1", "daily=1;hourly=2"} {
		if k, err := tenant.ParseKeep(in); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%q: %v, %v", in, k, err)
		}
	}
}

// A lock is only ever lengthened, with a cool-down or without.
func TestLock(t *testing.T) {
	db, _ := newDB(t)
	n := plain("acme")
	n.Retention = tenant.DefaultRetention()
	if _, _, err := db.AddTenant(n); err != nil {
		t.Fatal(err)
	}
	if got, err := db.ChangeTenant("acme", tenant.Change{Lock: ptr(60 * day)}); err != nil || got.Retention.Lock != 60*day {
		t.Fatalf("lengthen: %v, %v", got.Retention, err)
	}
	var weak *tenant.WeakeningError
	if _, err := db.ChangeTenant("acme", tenant.Change{Lock: ptr(59 * day)}); !errors.As(err, &weak) || !weak.Never {
		t.Errorf("shorten: %v", err)
	}
	if _, err := db.Weaken("acme", tenant.Change{Lock: ptr(59 * day)}, day); !errors.As(err, &weak) || !weak.Never {
		t.Errorf("shorten later: %v", err)
	}
	if got, _ := snapshot(t, db).Tenant("acme"); got.Retention.Lock != 60*day || got.Pending != nil {
		t.Errorf("changed all the same: %+v", got)
	}
}

func TestRetentionRefuses(t *testing.T) {
	db, _ := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	keep := &tenant.Keep{Daily: 1}
	bad := &tenant.Keep{Daily: -1}
	for name, c := range map[string]tenant.Change{
		"a schedule without a lock": {Keep: &keep},
		"a negative lock":           {Lock: ptr(-day)},
		"a negative schedule":       {Keep: &bad, Lock: ptr(day)},
		"a rule outside":            {Rules: &[]tenant.ExpireRule{{Prefix: "../x", After: day}}},
		"a rule of a minute":        {Rules: &[]tenant.ExpireRule{{Prefix: "x", After: time.Minute}}},
	} {
		if _, err := db.ChangeTenant("acme", c); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{Lock: ptr(day), Keep: &keep, Rules: &[]tenant.ExpireRule{{Prefix: "/dumps/", After: day}, {After: 2 * day}}}); err != nil {
		t.Error(err)
	}
	if got, _ := snapshot(t, db).Tenant("acme"); got.Retention.Rules[0].Prefix != "dumps" || got.Retention.Rules[1].Prefix != "" {
		t.Errorf("rules %v", got.Retention.Rules)
	}
}

func TestHolds(t *testing.T) {
	db, _ := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	h := tenant.Hold{Snapshot: "s1", At: 7, Reason: "case 12"}
	if err := db.Hold("acme", h); err != nil {
		t.Fatal(err)
	}
	if err := db.Hold("acme", h); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
	if err := db.Hold("acme", tenant.Hold{Snapshot: "s2", At: 8}); !errors.Is(err, tenant.ErrInvalid) {
		t.Errorf("without a reason: %v", err)
	}
	h.Reason = "another"
	if err := db.Hold("acme", h); err != nil {
		t.Error(err)
	}
	got, _ := snapshot(t, db).Tenant("acme")
	if len(got.Retention.Holds) != 2 || got.Retention.Holds[0].Who != "olga" || !got.Retention.Holds[0].Since.Equal(epoch) {
		t.Errorf("holds %+v", got.Retention.Holds)
	}
	if err := db.Release("acme", "s1", "wrong"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("another reason: %v", err)
	}
	if err := db.Release("acme", "s1", ""); err != nil {
		t.Error(err)
	}
	if got, _ := snapshot(t, db).Tenant("acme"); len(got.Retention.Holds) != 0 {
		t.Errorf("holds %+v", got.Retention.Holds)
	}
}

// A change that promises less waits, can be seen and taken back, and takes effect at its time and no sooner.
func TestWeaken(t *testing.T) {
	now := epoch
	dir := t.TempDir()
	db := tenant.New(dir, tenant.Options{Actor: "olga", Now: func() time.Time { return now }})
	if err := db.Create(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	versioned := tenant.Change{Mode: ptr(appendonly.Versioned)}
	got, err := db.Weaken("acme", versioned, 7*day)
	if err != nil || got.Policy.Mode != appendonly.Strict || got.Pending == nil || !got.Pending.Due.Equal(epoch.Add(7*day)) {
		t.Fatalf("weaken: %+v, %v", got, err)
	}
	if _, err := db.Weaken("acme", versioned, day); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := db.Veto("acme"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Veto("acme"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("veto of nothing: %v", err)
	}
	if _, err := db.Weaken("acme", versioned, 7*day); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		at   time.Duration
		want appendonly.Mode
	}{{6 * day, appendonly.Strict}, {7*day - 1, appendonly.Strict}, {7 * day, appendonly.Versioned}} {
		now = epoch.Add(step.at)
		if got, _ := snapshot(t, db).Tenant("acme"); got.Policy.Mode != step.want {
			t.Errorf("after %v: %v", step.at, got.Policy.Mode)
		}
	}
	// What promises no less is made at once, and with it what was due.
	if got, err := db.Weaken("acme", tenant.Change{QuotaBytes: ptr(int64(5))}, day); err != nil || got.Quota.Bytes != 5 || got.Pending != nil || got.Policy.Mode != appendonly.Versioned {
		t.Errorf("got %+v, %v", got, err)
	}
	var lines []string
	if err := db.Audit(0, func(e tenant.Entry) bool { lines = append(lines, e.Detail); return true }); err != nil {
		t.Fatal(err)
	}
	all := strings.Join(lines, "\n")
	for _, want := range []string{"waits until 2026-11-08T12:00:00Z: mode: strict -> versioned", "vetoed: mode: strict -> versioned",
		"since 2026-11-08T12:00:00Z: mode: strict -> versioned; asked by olga on 2026-11-01T12:00:00Z", "quota bytes: 0 -> 5"} {
		if !strings.Contains(all, want) {
			t.Errorf("audit log lacks %q:\n%s", want, all)
		}
	}
}

// A pause has a reason and a name, is there once, and ends.
func TestPause(t *testing.T) {
	db, _ := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	if err := db.Pause("acme", ""); !errors.Is(err, tenant.ErrInvalid) {
		t.Errorf("without a reason: %v", err)
	}
	if err := db.Resume("acme"); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("resume what goes on: %v", err)
	}
	if err := db.Pause("acme", "odd pushes"); err != nil {
		t.Fatal(err)
	}
	if err := db.Pause("acme", "again"); !errors.Is(err, tenant.ErrConflict) || !strings.Contains(err.Error(), "odd pushes") {
		t.Errorf("twice: %v", err)
	}
	if got, _ := snapshot(t, db).Tenant("acme"); got.Retention.Pause == nil || got.Retention.Pause.Reason != "odd pushes" || got.Retention.Pause.Who == "" || got.Retention.Pause.Since.IsZero() {
		t.Errorf("stored: %+v", got.Retention.Pause)
	}
	if err := db.Resume("acme"); err != nil {
		t.Fatal(err)
	}
	if got, _ := snapshot(t, db).Tenant("acme"); got.Retention.Pause != nil {
		t.Errorf("resumed: %+v", got.Retention.Pause)
	}
	if err := db.Pause("nobody", "x"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}
