package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/store"
)

// failing is a volume that fails to sync while broken is set.
type failing struct {
	appendonly.Volume
	broken *atomic.Bool
}

func (f failing) Sync(ids []journal.ID) error {
	if f.broken.Load() {
		return syscall.EIO
	}
	return f.Volume.Sync(ids)
}

func put(v *appendonly.Vault, name, text string) error {
	f := v.Session(appendonly.Who{Key: "k", Protocol: "test"})
	u, err := f.Create(name, appendonly.CreateOptions{Create: true, Meta: appendonly.NoMeta()})
	if err != nil {
		return errors.Join(err, f.Close(context.Background()))
	}
	_, err = u.WriteAt([]byte(text), 0)
	return errors.Join(err, u.Close(), f.Close(context.Background()))
}

// A vault whose storage failed is told apart from one that is well and from one whose journal is damaged; opened again by another process, on storage that
// is well, it has what was acknowledged and takes more.
func TestFailed(t *testing.T) {
	broken := &atomic.Bool{}
	dir, ids := spareStore(t, "acme")
	ok(t, os.Remove(filepath.Join(dir, "lock"))) // the one that the other store holds
	s, err := store.Open(dir, store.Config{})
	ok(t, err)
	s.Wrap(func(v appendonly.Volume) appendonly.Volume { return failing{v, broken} })
	id, ctx := ids[0], t.Context()
	ok(t, s.With(ctx, id, func(v *appendonly.Vault) error { return errors.Join(put(v, "one", "1"), v.Barrier(ctx)) }))
	if s.Failed() {
		t.Error("a vault that is well has failed")
	}
	broken.Store(true)
	err = s.With(ctx, id, func(v *appendonly.Vault) error { return errors.Join(put(v, "two", "2"), v.Barrier(ctx)) })
	if !errors.Is(err, appendonly.ErrReadOnly) || !errors.Is(err, syscall.EIO) || !s.Failed() {
		t.Errorf("after EIO: %v, failed: %v", err, s.Failed())
	}
	broken.Store(false)
	if err := s.With(ctx, id, func(v *appendonly.Vault) error { return put(v, "three", "3") }); !errors.Is(err, appendonly.ErrReadOnly) {
		t.Errorf("what is on the disk is not known, and it was tried again: %v", err)
	}
	s.Close() // tells that it failed
	s, err = store.Open(s.Dir, store.Config{Boot: "the pool was imported anew"})
	ok(t, err)
	ok(t, s.With(ctx, id, func(v *appendonly.Vault) error {
		return errors.Join(put(v, "three", "3"), v.Barrier(ctx), v.Err())
	}))
	if s.Failed() {
		t.Error("it is still failed")
	}
	ok(t, s.Close())

	seg, err := filepath.Glob(filepath.Join(s.Dir, "tenants", id, "journal", "*1.jsonl"))
	ok(t, err)
	if len(seg) == 0 {
		t.Fatal(seg)
	}
	text, err := os.ReadFile(seg[0])
	ok(t, err)
	text[len(text)/2] ^= 1
	ok(t, os.Chmod(seg[0], 0o600))
	ok(t, os.WriteFile(seg[0], text, 0o600))
	ok(t, os.RemoveAll(filepath.Join(s.Dir, "tenants", id, "derived", "index.db")))
	s, err = store.Open(s.Dir, store.Config{})
	ok(t, err)
	err = s.With(ctx, id, func(v *appendonly.Vault) error { return v.Err() })
	if err == nil || s.Failed() {
		t.Errorf("a damaged journal: %v; failed: %v: nothing would be better after another start", err, s.Failed())
	}
	s.Close()
}

// Storage that is not there is not touched: no dataset is made, and what asks gets an answer, also where somebody hangs with the tenant's lock.
func TestUnavailable(t *testing.T) {
	away := &atomic.Bool{}
	away.Store(true)
	s := testStore(t, store.Config{Available: func(string) error {
		if away.Load() {
			return &store.UnavailableError{Why: "not mounted"}
		}
		return nil
	}}, "acme")
	id, ctx := find(t, s, "acme").ID, t.Context()
	nothing := func() {
		t.Helper()
		var x *store.UnavailableError
		if err := s.With(ctx, id, func(*appendonly.Vault) error { return nil }); !errors.As(err, &x) || x.Why != "not mounted" || err.Error() != "storage is not available; try again later" {
			t.Errorf("With: %v", err)
		}
		if _, _, err := s.Vault(ctx, id); !errors.As(err, &x) {
			t.Errorf("Vault: %v", err)
		}
		if _, err := s.RebuildIndex(ctx, id); !errors.As(err, &x) {
			t.Errorf("RebuildIndex: %v", err)
		}
	}
	nothing()
	if _, err := os.Stat(filepath.Join(s.Dir, "tenants", id)); err == nil {
		t.Error("a dataset was made")
	}
	away.Store(false)
	ok(t, s.With(ctx, id, func(*appendonly.Vault) error { return nil }))
	hang, held := make(chan struct{}), make(chan struct{})
	ok(t, s.CloseUnused(id))
	s.Wrap(func(v appendonly.Volume) appendonly.Volume { close(held); <-hang; return v })
	done := make(chan error)
	go func() { done <- s.With(ctx, id, func(*appendonly.Vault) error { return nil }) }()
	<-held // an opening hangs
	away.Store(true)
	nothing()
	if s.Failed() { // must not wait, either
		t.Error("failed")
	}
	close(hang)
	ok(t, <-done)
}

// spaced is a driver that knows what is free for all.
type spaced struct {
	store.Directory
	free uint64
}

func (d spaced) Space() (appendonly.Space, error) {
	return appendonly.Space{Total: 1 << 30, Free: d.free}, nil
}

// absent is a driver whose datasets are not mounted.
type absent struct{ store.Directory }

func (absent) Path(string) (string, error) { return "", store.ErrOffline }

// The reserve and the floor: the larger of the two counts, whatever is set later.
func TestReserve(t *testing.T) {
	free := uint64(100 << 20)
	s := testStore(t, store.Config{FloorBytes: 10 << 20, Driver: spaced{store.Directory{Dir: t.TempDir()}, free}}, "acme")
	id, ctx := find(t, s, "acme").ID, t.Context()
	try := func(name string) error {
		return s.With(ctx, id, func(v *appendonly.Vault) error { return put(v, name, "x") })
	}
	ok(t, try("a"))
	s.SetReserve(200 << 20)
	if err := try("b"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("below the reserve: %v", err)
	}
	s.SetFloor(1<<20, 0)
	if err := try("c"); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a floor that is lower than the reserve replaced it: %v", err)
	}
	s.SetReserve(1 << 20)
	ok(t, try("d"))
}

// In place of a dataset that is not mounted none is made.
func TestNotMounted(t *testing.T) {
	dir := t.TempDir()
	s := testStore(t, store.Config{Driver: absent{store.Directory{Dir: dir}}}, "acme")
	id, ctx := find(t, s, "acme").ID, t.Context()
	var x *store.UnavailableError
	if err := s.With(ctx, id, func(*appendonly.Vault) error { return nil }); !errors.As(err, &x) || !errors.Is(err, store.ErrOffline) {
		t.Errorf("With: %v", err)
	}
	if _, err := s.RebuildIndex(ctx, id); !errors.As(err, &x) {
		t.Errorf("RebuildIndex: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, id)); err == nil {
		t.Error("a dataset was made")
	}
}
