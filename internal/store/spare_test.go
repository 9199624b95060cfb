package store_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// spareStore is a store with tenants that have not come yet, and which no process has open.
func spareStore(t *testing.T, names ...string) (dir string, ids []string) {
	t.Helper()
	s := testStore(t, store.Config{}, names...)
	for _, n := range names {
		ids = append(ids, find(t, s, n).ID)
	}
	return s.Dir, ids
}

func TestSpares(t *testing.T) {
	dir, ids := spareStore(t, "one", "two", "three")
	s := store.NewSpares(dir)
	if err := s.Take(ids[0]); !errors.Is(err, store.ErrNoSpare) {
		t.Errorf("before Prepare: %v", err)
	}
	spoiled, err := s.Prepare(2)
	ok(t, err)
	if n := s.Left(); n != 5 || len(spoiled) != 0 { // one for each tenant that has not come, besides
		t.Errorf("%d are left, want 5; spoiled: %v", n, spoiled)
	}
	for _, bad := range []string{"", ".", "..", "../../etc", "t-../../../etc", "T-AAAAAAAAAAAA", "t-aaaaaaaaaaaa/x", ids[0] + "\n"} {
		if err := s.Take(bad); err == nil {
			t.Errorf("took one for %q", bad)
		}
	}
	if err := s.Take("t-aaaaaaaaaaaa"); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("a tenant that the catalog does not have: %v", err)
	}
	ok(t, s.Take(ids[0]))
	v, err := volume.Open(filepath.Join(dir, "tenants", ids[0]))
	ok(t, err)
	ok(t, v.Close())
	if err := s.Take(ids[0]); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if n := s.Left(); n != 4 {
		t.Errorf("%d are left, want 4", n)
	}
}

// What a confined server wrote to before it was given is told, and never given.
func TestSpoiledSpares(t *testing.T) {
	dir, ids := spareStore(t, "one", "two")
	s := store.NewSpares(dir)
	_, err := s.Prepare(1)
	ok(t, err)
	list, err := filepath.Glob(filepath.Join(dir, "spare", "0*"))
	ok(t, err)
	if len(list) != 3 {
		t.Fatalf("there are %v", list)
	}
	ok(t, os.WriteFile(filepath.Join(list[0], "staging", "planted"), nil, 0o600)) // after Prepare
	ok(t, s.Take(ids[0]))
	if _, err := os.Lstat(filepath.Join(dir, "tenants", ids[0], "staging", "planted")); err == nil {
		t.Error("a spoiled one was given")
	}
	ok(t, os.Remove(filepath.Join(list[2], "format"))) // as a crash may leave one that is being made
	spoiled, err := s.Prepare(2)
	ok(t, err)
	if len(spoiled) != 1 || spoiled[0] != list[0] {
		t.Errorf("spoiled: %v, want %s", spoiled, list[0])
	}
	if n := s.Left(); n != 3 {
		t.Errorf("%d are left, want 3", n)
	}
	for s.Left() > 0 {
		if err := s.Take(ids[1]); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "tenants", ids[1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Take(ids[1]); !errors.Is(err, store.ErrNoSpare) {
		t.Errorf("none is left: %v", err)
	}
}

// A store of an older vaultd: the server's files move to where it may write them, and datasets get their derived/.
func TestOlderStore(t *testing.T) {
	dir, ids := spareStore(t, "one")
	data := filepath.Join(dir, "tenants", ids[0])
	ok(t, volume.Create(data))
	ok(t, os.Remove(filepath.Join(data, "derived")))
	ok(t, os.WriteFile(filepath.Join(data, "policy.json"), []byte("{}"), 0o600))
	ok(t, os.RemoveAll(store.ServerDir(dir)))
	ok(t, os.WriteFile(filepath.Join(dir, "schedule.json"), []byte("{}"), 0o600))
	ok(t, os.Remove(filepath.Join(dir, "lock"))) // the one that the other store holds
	lock, err := store.Lock(dir)
	ok(t, err)
	if _, err := store.Lock(dir); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second lock: %v", err)
	}
	s, err := store.Open(dir, store.Config{Lock: lock, Boot: "this one"})
	ok(t, err)
	ok(t, s.With(t.Context(), ids[0], func(*appendonly.Vault) error { return nil }))
	ok(t, s.Close())
	for _, name := range []string{"server/schedule.json", "tenants/" + ids[0] + "/derived/policy.json", "tenants/" + ids[0] + "/derived/index.db"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	for _, name := range []string{"schedule.json", "tenants/" + ids[0] + "/policy.json"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is still there", name)
		}
	}
}
