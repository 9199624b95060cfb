package store_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/zfs/zfstest"
)

func TestMain(m *testing.M) {
	zfstest.Main() // the fake zfs is this program
	goleak.VerifyTestMain(m)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// testStore makes a store with the tenants named, each with a key of its own.
func testStore(t *testing.T, cfg store.Config, names ...string) *store.Store {
	t.Helper()
	dir := t.TempDir()
	ok(t, store.Create(dir))
	ok(t, store.Create(dir)) // once more changes nothing
	for _, n := range names {
		pub, _, err := ed25519.GenerateKey(nil)
		ok(t, err)
		key, err := gossh.NewPublicKey(pub)
		ok(t, err)
		keys, err := tenant.ParsePublicKeys(gossh.MarshalAuthorizedKey(key))
		ok(t, err)
		_, _, err = tenant.New(dir, tenant.Options{}).AddTenant(tenant.NewTenant{Name: n, Policy: tenant.DefaultPolicy(),
			Schedule: tenant.DefaultSchedule(), Keys: []tenant.NewKey{{Public: keys[0]}}})
		ok(t, err)
	}
	s, err := store.Open(dir, cfg)
	ok(t, err)
	t.Cleanup(func() { ok(t, s.Close()) })
	return s
}

func find(t *testing.T, s *store.Store, name string) tenant.Tenant {
	t.Helper()
	x, found := s.Tenants().Tenant(name)
	if !found {
		t.Fatalf("no tenant %s", name)
	}
	return x
}

// push is one session that stores a file.
func push(t *testing.T, s *store.Store, id, key, path, data string) error {
	t.Helper()
	v, done, err := s.Vault(t.Context(), id)
	ok(t, err)
	defer done()
	f := v.Session(appendonly.Who{Key: key, Session: "s"})
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
	if err == nil {
		if _, err = u.WriteAt([]byte(data), 0); err == nil {
			err = u.Close()
		} else {
			u.Discard()
		}
	}
	return errors.Join(err, f.Close(context.Background()))
}

func snapshots(t *testing.T, s *store.Store, id string) (kinds []string) {
	t.Helper()
	ok(t, s.With(t.Context(), id, func(v *appendonly.Vault) error {
		have, err := v.Snapshots()
		for _, x := range have {
			kinds = append(kinds, x.Kind)
		}
		return err
	}))
	return kinds
}

func TestOneProcessAtATime(t *testing.T) {
	s := testStore(t, store.Config{}, "acme")
	if _, err := store.Open(s.Dir, store.Config{}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("second: %v", err)
	}
	if _, err := store.Open(t.TempDir(), store.Config{}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("no store: %v", err)
	}
	if _, _, err := s.Vault(t.Context(), "t-nobody"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("no tenant: %v", err)
	}
}

// The first push of a minute gets its snapshot at once, those after it one together, later.
func TestPushSnapshots(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)}
	s := testStore(t, store.Config{Now: c.Now}, "acme")
	id := find(t, s, "acme").ID
	for _, p := range []string{"a", "b", "c"} {
		ok(t, push(t, s, id, "k", p, p))
	}
	if got := snapshots(t, s, id); len(got) != 1 || got[0] != "push" {
		t.Fatalf("after three pushes: %v", got)
	}
	run(t, s)
	if got := snapshots(t, s, id); len(got) != 1 {
		t.Fatalf("before the minute is over: %v", got)
	}
	c.add(time.Minute)
	run(t, s)
	if got := snapshots(t, s, id); len(got) != 2 {
		t.Fatalf("after the minute: %v", got)
	}
	c.add(time.Minute)
	run(t, s)
	if got := snapshots(t, s, id); len(got) != 2 {
		t.Fatalf("nothing changed: %v", got)
	}
}

// run lets the store's clockwork have one turn.
func run(t *testing.T, s *store.Store) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	time.Sleep(100 * time.Millisecond) // the first turn is at once, the next after 5 s
	stop()
	ok(t, <-done)
}

func TestScheduledSnapshots(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)}
	s := testStore(t, store.Config{Now: c.Now}, "acme", "idle")
	id := find(t, s, "acme").ID
	run(t, s) // a new store owes nothing
	ok(t, push(t, s, id, "k", "a", "a"))
	c.add(30 * time.Second)
	ok(t, push(t, s, id, "k", "b", "b"))
	c.add(31 * time.Minute)
	run(t, s)
	if got := snapshots(t, s, id); strings.Join(got, " ") != "push hourly" {
		t.Fatalf("at eleven: %v", got)
	}
	if _, err := s.Dataset(find(t, s, "idle").ID); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a tenant that never came has a dataset: %v", err)
	}
}

// What the operator changes is in force after Reload, for vaults that are open.
func TestReload(t *testing.T) {
	s := testStore(t, store.Config{}, "acme")
	x := find(t, s, "acme")
	key := s.Tenants().Keys(x.ID)[0].ID
	ok(t, push(t, s, x.ID, key, "a", "a"))
	yes, small := true, int64(20_000)
	_, err := s.Catalog.ChangeTenant("acme", tenant.Change{QuotaBytes: &small})
	ok(t, err)
	ok(t, s.Reload())
	if err := push(t, s, x.ID, key, "big", strings.Repeat("x", 100_000)); err == nil || !strings.Contains(err.Error(), "quota exceeded") {
		t.Errorf("over quota: %v", err)
	}
	ok(t, push(t, s, x.ID, key, "x.partial", "x"))
	_, err = s.Catalog.RevokeKey("acme", key)
	ok(t, err)
	_, err = s.Catalog.ChangeTenant("acme", tenant.Change{Suspended: &yes})
	ok(t, err)
	ok(t, s.Reload())
	var denied *appendonly.DeniedError
	if err := push(t, s, x.ID, key, "b", "b"); !errors.As(err, &denied) || denied.Rule != appendonly.RuleHold {
		t.Errorf("suspended: %v", err)
	}
	ok(t, s.With(t.Context(), x.ID, func(v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: "operator", Role: appendonly.Pull})
		info, err := f.Stat("x.partial")
		if err == nil && !info.Sealed {
			t.Error("what a revoked key left is not sealed")
		}
		return errors.Join(err, f.Close(context.Background()))
	}))
}

func TestRebuildIndex(t *testing.T) {
	s := testStore(t, store.Config{}, "acme")
	id := find(t, s, "acme").ID
	ok(t, push(t, s, id, "k", "a", "a"))
	v, done, err := s.Vault(t.Context(), id)
	ok(t, err)
	before := v.Usage()
	if _, err := s.RebuildIndex(t.Context(), id); !errors.Is(err, store.ErrTenantInUse) {
		t.Errorf("in use: %v", err)
	}
	done()
	records, err := s.RebuildIndex(t.Context(), id)
	ok(t, err)
	ok(t, s.With(t.Context(), id, func(v *appendonly.Vault) error {
		if v.Usage() != before || uint64(v.Head()) != records {
			t.Errorf("%+v, head %d; want %+v, head %d", v.Usage(), v.Head(), before, records)
		}
		return nil
	}))
	path, err := s.Dataset(id)
	ok(t, err)
	if _, err := os.Stat(filepath.Join(path, "derived", "policy.json")); err != nil {
		t.Error(err)
	}
}

// An idle vault is closed, and opened again by who comes next.
func TestIdleVaultsClose(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)}
	s := testStore(t, store.Config{Now: c.Now, BarrierEvery: 5 * time.Millisecond}, "acme")
	id := find(t, s, "acme").ID
	ok(t, push(t, s, id, "k", "a", "a"))
	v1, done, err := s.Vault(t.Context(), id)
	ok(t, err)
	done()
	time.Sleep(50 * time.Millisecond) // until nothing waits for a barrier
	c.add(time.Hour)
	run(t, s)
	v2, done, err := s.Vault(t.Context(), id)
	ok(t, err)
	defer done()
	if v1 == v2 {
		t.Error("the vault is still open")
	}
}
