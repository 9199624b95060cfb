package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
	"vaultd/internal/zfs/zfstest"
	"vaultd/internal/zfshelper"
)

const zfsRoot = "tank/vaultd"

// zfsStore is a store whose tenants are datasets of a fake zfs.
func zfsStore(t *testing.T, cfg store.Config, names ...string) (*store.Store, *store.ZFS, *zfstest.Fake) {
	t.Helper()
	fake := zfstest.New(t, "tank")
	z := &store.ZFS{Dataset: zfsRoot, MountedAt: fake.MountedAt}
	cfg.Driver, cfg.Bodies = z, z
	s := testStore(t, cfg, names...)
	z.Dir, z.Tenants = filepath.Join(s.Dir, "tenants"), s.Tenants
	client, err := zfs.New(zfs.Config{})
	ok(t, err)
	ok(t, client.Create(t.Context(), zfsRoot, map[string]string{"mountpoint": z.Dir}, nil))
	z.Verbs, err = zfshelper.New(zfshelper.Config{Client: client, Dataset: zfsRoot, Dir: z.Dir, UID: os.Getuid(), GID: os.Getgid(), Compression: "lz4", RecordSize: 128 << 10, MountOf: fake.MountOf})
	ok(t, err)
	fake.Argv()
	return s, z, fake
}

// The snapshots of all tenants that a line is due for are one batch: one process, one transaction, and each body is what its journal's record says.
func TestBatch(t *testing.T) {
	c := &clock{now: time.Date(2026, 11, 22, 10, 30, 0, 0, time.UTC)}
	var names []string
	for n := range 30 {
		names = append(names, fmt.Sprintf("tenant%d", n))
	}
	var held, bodiless atomic.Int64
	told := func(_ string, err error) {
		if err == nil {
			held.Add(1)
		} else {
			bodiless.Add(1)
		}
	}
	s, z, fake := zfsStore(t, store.Config{Now: c.Now, Embodied: told}, append(names, "idle")...)
	run(t, s) // a new store owes nothing
	for _, n := range names {
		ok(t, push(t, s, find(t, s, n).ID, "k", "a", "a")) // with a snapshot at its end
	}
	fake.Argv()
	c.add(31 * time.Minute)
	runUntil(t, s, func() bool {
		return len(snapshots(t, s, find(t, s, "tenant0").ID)) == 2 && bodiesOf(t, s, "tenant0") == 1
	})
	verbs := map[string]int{}
	for _, argv := range fake.Argv() {
		verbs[argv[1]]++
	}
	if verbs["program"] != 1 || verbs["hold"] != 1 {
		t.Errorf("processes: %v", verbs)
	}
	var txg uint64
	for _, n := range names {
		x := find(t, s, n)
		bodies, err := s.Bodies(x.ID)
		ok(t, err)
		ok(t, s.With(t.Context(), x.ID, func(v *appendonly.Vault) error {
			have, err := v.Snapshots()
			last := have[len(have)-1]
			b := bodies[last.Name]
			if last.Kind != "hourly" || b.Seq != uint64(last.At) || b.GUID == 0 || txg != 0 && b.CreateTXG != txg {
				t.Errorf("%s: %+v has the body %+v", n, last, b)
			}
			txg = b.CreateTXG
			return err
		}))
		fake.Change(func(st *zfstest.State) {
			for name, b := range bodies {
				x := st.Datasets[zfsRoot+"/"+x.ID].Snapshots["vaultd-"+name]
				if x == nil || x.GUID != b.GUID || fmt.Sprint(b.Seq) != x.Properties["vaultd:seq"] || b.Head != x.Properties["vaultd:head"] || strings.Join(x.Holds, " ") != "vaultd" {
					t.Errorf("%s: %+v, noted is %+v", name, x, b)
				}
			}
		})
	}
	if t.Failed() {
		return
	}
	// An hour later nothing has changed, and all have bodies: nothing runs but the look for who has none.
	c.add(time.Hour)
	run(t, s)
	for _, argv := range fake.Argv() {
		if argv[1] == "program" || argv[1] == "hold" {
			t.Errorf("nothing changed: %q", argv[:2])
		}
	}
	// What fails leaves records without bodies, and is tried again at the next hour.
	x := find(t, s, "tenant3")
	ok(t, push(t, s, x.ID, "k", "b", "b"))
	fake.Change(func(st *zfstest.State) {
		st.Fail = map[string]string{"program": "cannot execute: pool I/O is currently suspended"}
	})
	c.add(time.Hour)
	runUntil(t, s, func() bool { return len(snapshots(t, s, x.ID)) == 4 })
	fake.Change(func(st *zfstest.State) { st.Fail = nil })
	c.add(time.Hour)
	runUntil(t, s, func() bool { return bodiesOf(t, s, "tenant3") == 2 })
	ok(t, push(t, s, x.ID, "k", "c", "c")) // names move
	if held.Load() != 31 || bodiless.Load() != 1 {
		t.Errorf("told of %d bodies, and of %d that failed", held.Load(), bodiless.Load())
	}
	only, err := z.Held(t.Context())
	ok(t, err)
	if _, there := only[x.ID]; !there {
		t.Errorf("what only snapshots hold: %v", only)
	}
}

func bodiesOf(t *testing.T, s *store.Store, name string) int {
	bodies, err := s.Bodies(find(t, s, name).ID)
	ok(t, err)
	return len(bodies)
}

// runUntil lets the store's clockwork run until it is done.
func runUntil(t *testing.T, s *store.Store, done func() bool) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	defer func() { stop(); ok(t, <-ended) }()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not done after a minute")
		}
	}
}

// A dataset that is not mounted is not a tenant that has nothing: nothing is made for it, and who comes is told why.
func TestZFSNotMounted(t *testing.T) {
	s, z, fake := zfsStore(t, store.Config{}, "acme", "other")
	id := find(t, s, "acme").ID
	ok(t, push(t, s, id, "k", "a", "a"))
	ok(t, s.CloseUnused(id))
	for what, c := range map[string]struct {
		change func(root, d *zfstest.Dataset)
		want   error
	}{
		"not mounted": {func(_, d *zfstest.Dataset) { d.Mounted = false }, store.ErrOffline},
		"locked": {func(_, d *zfstest.Dataset) {
			d.Mounted, d.Locked, d.Properties["encryption"] = false, true, "aes-256-gcm"
		}, store.ErrLocked},
		"no root": {func(r, d *zfstest.Dataset) { d.Mounted, r.Mounted = false, false }, store.ErrOffline},
	} {
		fake.Change(func(st *zfstest.State) { c.change(st.Datasets[zfsRoot], st.Datasets[zfsRoot+"/"+id]) })
		fake.Argv()
		if err := s.With(t.Context(), id, func(*appendonly.Vault) error { return nil }); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
		for _, argv := range fake.Argv() {
			if argv[1] == "create" {
				t.Errorf("%s: %q", what, argv)
			}
		}
		fake.Change(func(st *zfstest.State) {
			for _, d := range []*zfstest.Dataset{st.Datasets[zfsRoot], st.Datasets[zfsRoot+"/"+id]} {
				d.Mounted, d.Locked = true, false
			}
		})
	}
	ok(t, push(t, s, id, "k", "b", "b"))
	// One whose directory is there, and was never a dataset, is not taken for one either.
	plain := filepath.Join(z.Dir, find(t, s, "other").ID)
	ok(t, volume.Create(plain))
	if _, err := z.Path(filepath.Base(plain)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a plain directory: %v", err)
	}
}

func TestZFSSpares(t *testing.T) {
	s, z, fake := zfsStore(t, store.Config{}, "one")
	sp := store.NewZFSSpares(s.Dir, z)
	spoiled, err := sp.Prepare(t.Context(), 3)
	ok(t, err)
	if n := sp.Left(); n != 3 || len(spoiled) != 0 {
		t.Errorf("%d are left; spoiled: %v", n, spoiled)
	}
	db := tenant.New(s.Dir, tenant.Options{})
	add := func(name string) string {
		snap, err := db.Snapshot()
		ok(t, err)
		id, err := z.FreshID(snap, nil)
		ok(t, err)
		got, _, err := db.AddTenant(tenant.NewTenant{Name: name, ID: id, Policy: tenant.DefaultPolicy(), Schedule: tenant.DefaultSchedule()})
		ok(t, err)
		if id != "" && got.ID != id {
			t.Errorf("the id is %s, not %s", got.ID, id)
		}
		_, _, err = db.AddTenant(tenant.NewTenant{Name: name + "2", ID: got.ID, Policy: tenant.DefaultPolicy()})
		if !errors.Is(err, tenant.ErrConflict) {
			t.Errorf("one id for two: %v", err)
		}
		return got.ID
	}
	two := add("two")
	if n := sp.Left(); n != 2 {
		t.Errorf("%d are left", n)
	}
	v, err := volume.Open(filepath.Join(z.Dir, two))
	ok(t, err)
	ok(t, v.Close())
	if err := sp.Take(t.Context(), two); !errors.Is(err, fs.ErrExist) {
		t.Errorf("one that is there: %v", err)
	}
	for _, bad := range []string{"", "../x", "t-aaaaaaaaaaaa"} {
		if err := sp.Take(t.Context(), bad); err == nil {
			t.Errorf("made one for %q", bad)
		}
	}
	// What a server wrote to is never given.
	snap, err := db.Snapshot()
	ok(t, err)
	next, err := z.FreshID(snap, nil)
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(z.Dir, next, "staging", "planted"), nil, 0o600))
	three := add("three")
	if three == next {
		t.Error("a spoiled one was given")
	}
	// None is left: a tenant that comes gets a dataset, which the next server can use.
	four := add("four")
	if err := sp.Take(t.Context(), four); !errors.Is(err, store.ErrNoSpare) {
		t.Errorf("none was left: %v", err)
	}
	if _, err := z.Path(four); err != nil {
		t.Error(err)
	}
	if n := sp.Left(); n != 0 {
		t.Errorf("%d are left, and one tenant waits", n)
	}
	spoiled, err = sp.Prepare(t.Context(), 2)
	ok(t, err)
	if len(spoiled) != 1 || !strings.HasSuffix(spoiled[0], next) || sp.Left() != 2 {
		t.Errorf("spoiled: %v; %d are left", spoiled, sp.Left())
	}
	// Encryption is switched on: what was made before is given to nobody.
	z.Encrypt = true
	snap, err = db.Snapshot()
	ok(t, err)
	plain, err := z.FreshID(snap, nil)
	ok(t, err)
	before := len(spoiled)
	spoiled, err = sp.Prepare(t.Context(), 0)
	ok(t, err)
	if id, err := z.FreshID(snap, nil); plain == "" || id != "" || err != nil || len(spoiled) < before+2 {
		t.Errorf("%q is given, it was %q; %v; spoiled: %v", id, plain, err, spoiled)
	}
	fake.Change(func(st *zfstest.State) {
		for name, d := range st.Datasets {
			if strings.HasPrefix(name, zfsRoot+"/") && d.Properties["quota"] != "" {
				t.Errorf("%s has a quota", name)
			}
		}
	})
}

// Refquotas grow with quotas; what is lowered is told, and left to the operator.
func TestSyncQuotas(t *testing.T) {
	s, z, fake := zfsStore(t, store.Config{}, "acme")
	x := find(t, s, "acme")
	ok(t, push(t, s, x.ID, "k", "a", "a"))
	for _, c := range []struct {
		quota, before, after uint64
		lower                int
	}{{1 << 30, 100, 1<<30 + 65<<20, 0}, {0, 1 << 30, 0, 0}, {1 << 30, 2 << 30, 2 << 30, 1}, {1 << 30, 0, 0, 1}} {
		fake.Change(func(st *zfstest.State) { st.Datasets[zfsRoot+"/"+x.ID].Properties["refquota"] = fmt.Sprint(c.before) })
		x.Quota.Bytes = int64(c.quota)
		lower, err := z.SyncQuotas(t.Context(), []tenant.Tenant{x})
		ok(t, err)
		all, err := z.Verbs.Datasets(t.Context())
		ok(t, err)
		if len(lower) != c.lower || all[0].RefQuota != c.after {
			t.Errorf("%+v: refquota %d, %d to lower", c, all[0].RefQuota, len(lower))
		}
	}
}
