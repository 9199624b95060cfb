package tenant_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// clocked is a catalog whose clock the test moves.
func clocked(t *testing.T) (*tenant.DB, *time.Time) {
	t.Helper()
	now := epoch
	db := tenant.New(t.TempDir(), tenant.Options{Actor: "olga", Why: "left us", CoolDown: 7 * day, Now: func() time.Time { return now }})
	if err := db.Create(); err != nil {
		t.Fatal(err)
	}
	return db, &now
}

func reasonOf(err error) tenant.Reason {
	var a *tenant.AuthError
	if errors.As(err, &a) {
		return a.Reason
	}
	return ""
}

// A removal waits, can be taken back until it is due and not after, refuses the keys from its instant on, and leaves an entry that
// no new tenant can be taken for.
func TestRemove(t *testing.T) {
	db, now := clocked(t)
	key := newKey(t)
	old, _, err := db.AddTenant(plain("acme", key))
	if err != nil {
		t.Fatal(err)
	}
	login := func(at time.Time) tenant.Reason {
		_, _, err := snapshot(t, db).Authenticate("acme", key.Blob, netip.MustParseAddr("192.0.2.1"), at)
		return reasonOf(err)
	}
	if _, err := db.Remove("nobody", 7*day); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	if got, err := db.Remove("acme", 7*day); err != nil || !got.Removal.Due.Equal(epoch.Add(7*day)) || got.Removal.Why != "left us" || got.Removal.Who != "olga" {
		t.Fatalf("remove: %+v, %v", got.Removal, err)
	}
	if _, err := db.Remove("acme", day); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
	// Until then nothing is different.
	if got := login(epoch.Add(7*day - 1)); got != "" {
		t.Errorf("before it is due: %q", got)
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{QuotaBytes: ptr(int64(7))}); err != nil {
		t.Error(err)
	}
	if _, err := db.Veto("acme"); err != nil {
		t.Fatal(err)
	}
	if got := login(epoch.Add(8 * day)); got != "" {
		t.Errorf("after a veto: %q", got)
	}
	if _, err := db.Remove("acme", 7*day); err != nil {
		t.Fatal(err)
	}
	// One snapshot, read before, answers for the instant that it is asked about.
	s := snapshot(t, db)
	if err := s.Recheck(old.ID, tenant.KeyID(key.Blob), netip.MustParseAddr("192.0.2.1"), epoch.Add(7*day)); reasonOf(err) != tenant.Removed {
		t.Errorf("recheck: %v", err)
	}
	*now = epoch.Add(7 * day)
	if got := login(*now); got != tenant.Removed {
		t.Errorf("when it is due: %q", got)
	}
	s = snapshot(t, db)
	gone, found := s.Tenant("acme")
	if !found || !gone.Core().Suspended || len(s.Tenants()) != 0 || len(s.All()) != 1 {
		t.Errorf("removed: %+v; %d tenants", gone, len(s.Tenants()))
	}
	for what, err := range map[string]error{
		"veto": second(db.Veto("acme")), "remove": second(db.Remove("acme", day)), "set": second(db.ChangeTenant("acme", tenant.Change{QuotaBytes: ptr(int64(1))})),
		"weaken": second(db.Weaken("acme", tenant.Change{Mode: ptr(appendonly.Versioned)}, day)), "key": second(db.AddKeys("acme", tenant.NewKey{Public: newKey(t)})),
	} {
		if !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("%s of a removed tenant: %v", what, err)
		}
	}
	// It can still be kept for longer.
	if err := db.Hold("acme", tenant.Hold{Snapshot: "s", At: 1, Reason: "court"}); err != nil {
		t.Error(err)
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{Lock: ptr(90 * day)}); err != nil {
		t.Error(err)
	}

	// The name goes to another only with the old one's id, which says that the caller saw that nothing is left.
	n := plain("acme")
	for _, over := range []string{"", "t-aaaaaaaaaaaa"} {
		n.Over = over
		if _, _, err := db.AddTenant(n); !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("over %q: %v", over, err)
		}
	}
	n.Over = old.ID
	again, _, err := db.AddTenant(n)
	if err != nil || again.ID == old.ID {
		t.Fatalf("again: %+v, %v", again, err)
	}
	s = snapshot(t, db)
	if got, _ := s.Tenant("acme"); got.ID != again.ID {
		t.Errorf("the name is %s's", got.ID)
	}
	if got, found := s.TenantByID(old.ID); !found || got.Removal == nil || got.Removal.Buried.IsZero() {
		t.Errorf("tombstone: %+v", got)
	}
	// The old one's keys are nobody's: neither can they log in, nor be added.
	if got := login(*now); got != tenant.UnknownKey {
		t.Errorf("the old key: %q", got)
	}
	if _, err := db.AddKeys("acme", tenant.NewKey{Public: key}); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("the old key again: %v", err)
	}
	n.Over = old.ID
	if _, _, err := db.AddTenant(n); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("a third time over the first: %v", err)
	}
	var lines []string
	if err := db.Audit(0, func(e tenant.Entry) bool {
		if e.Tenant != "" && (e.ID != old.ID && e.ID != again.ID || e.Why != "left us") {
			t.Errorf("entry %+v", e)
		}
		lines = append(lines, e.What)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{"catalog create", "tenant add", "key add", "tenant remove", "tenant set", "tenant veto", "tenant remove", "snapshot hold", "tenant set", "tenant bury", "tenant add"}
	if !slices.Equal(lines, want) {
		t.Errorf("audit log %q, want %q", lines, want)
	}
}

func second[T any](_ T, err error) error { return err }

// What keeps less is stored at once, announced for as long as the old one counts, and taken back by a veto.
func TestEased(t *testing.T) {
	db, now := clocked(t)
	n := plain("acme")
	n.Retention = tenant.DefaultRetention()
	if _, _, err := db.AddTenant(n); err != nil {
		t.Fatal(err)
	}
	if err := db.Hold("acme", tenant.Hold{Snapshot: "s", At: 1, Reason: "audit"}); err != nil {
		t.Fatal(err)
	}
	announced := func() string {
		got, _ := snapshot(t, db).Tenant("acme")
		var s []string
		for _, x := range got.Notices(*now) {
			s = append(s, strings.Join(x.What, "; ")+" until "+x.Due.Format(time.DateOnly))
		}
		return strings.Join(s, " | ")
	}
	if got := announced(); got != "" {
		t.Errorf("nothing waits: %q", got)
	}
	few := &tenant.Keep{Daily: 1}
	if _, err := db.ChangeTenant("acme", tenant.Change{Keep: &few, Rules: &[]tenant.ExpireRule{{Prefix: "dumps", After: 90 * day}}}); err != nil {
		t.Fatal(err)
	}
	const keep = "keep: hourly=24,daily=30,weekly=12,monthly=24,yearly=5 -> daily=1; expire: /dumps older than 90d"
	if got := announced(); got != keep+" until 2026-11-08" {
		t.Errorf("announced %q", got)
	}
	*now = epoch.Add(day)
	if err := db.Release("acme", "s", ""); err != nil {
		t.Fatal(err)
	}
	if got := announced(); got != keep+"; hold of s: released until 2026-11-09" {
		t.Errorf("announced %q", got)
	}
	// Partly taken back: the rest stays announced, for no longer than it was.
	*now = epoch.Add(2 * day)
	if _, err := db.ChangeTenant("acme", tenant.Change{Rules: &[]tenant.ExpireRule{}}); err != nil {
		t.Fatal(err)
	}
	if got := announced(); strings.Contains(got, "dumps") || !strings.HasSuffix(got, "until 2026-11-09") {
		t.Errorf("announced %q", got)
	}
	if got, err := db.Veto("acme"); err != nil || got.Retention.Keep.String() != tenant.DefaultRetention().Keep.String() || len(got.Retention.Holds) != 1 {
		t.Errorf("after a veto: %+v, %v", got.Retention, err)
	}
	if got := announced(); got != "" {
		t.Errorf("after a veto: %q", got)
	}
	if err := db.Release("acme", "s", "audit"); err != nil {
		t.Fatal(err)
	}
	*now = now.Add(7 * day)
	if got := announced(); got != "" {
		t.Errorf("after its time: %q", got)
	}
	if _, err := db.Veto("acme"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("veto after its time: %v", err)
	}
}

// What waits is not undone, and does not undo, by the way.
func TestPendingField(t *testing.T) {
	db, now := clocked(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Weaken("acme", tenant.Change{ResumeWindow: ptr(48 * time.Hour), Snapshots: &[]string{}}, 7*day); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]tenant.Change{"the same": {ResumeWindow: ptr(time.Hour)}, "a list": {Snapshots: &[]string{"@hourly"}, QuotaBytes: ptr(int64(3))}} {
		if _, err := db.ChangeTenant("acme", c); !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{QuotaBytes: ptr(int64(3)), Durability: ptr(tenant.AtClose)}); err != nil {
		t.Errorf("another: %v", err)
	}
	*now = epoch.Add(7 * day)
	got, _ := snapshot(t, db).Tenant("acme")
	if got.Policy.ResumeWindow != 48*time.Hour || len(got.Schedule.Snapshots) != 0 || got.Policy.Durability != tenant.AtClose || got.Quota.Bytes != 3 {
		t.Errorf("got %+v", got)
	}
}
