package appendonly_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vaultd/internal/appendonly"
)

// While names stand still, everything that changes one waits; bytes of uploads, reading, looking and barriers go on. What waited is done
// afterwards, and is not in the snapshot.
func TestStand(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	f := b.as("alice")
	for _, name := range []string{"/a", "/b", "/c", "/d", "/e"} {
		ok(t, put(f, name, "old"))
	}
	open, err := f.Create("/open", create)
	ok(t, err)
	info, move, err := b.vault.Stand(context.Background(), "snap", "manual", time.Hour)
	ok(t, err)
	if len(info.Chain) != 64 {
		t.Errorf("the record's hash is %q", info.Chain)
	}
	head := b.vault.Head()
	var moved atomic.Bool
	var all sync.WaitGroup
	change := func(what string, do func(*appendonly.FS) error) {
		s := b.as("alice")
		all.Go(func() {
			if err := do(s); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if !moved.Load() {
				t.Errorf("%s did not wait", what)
			}
		})
	}
	change("put", func(f *appendonly.FS) error { return put(f, "/new", "new") })
	change("overwrite", func(f *appendonly.FS) error { return put(f, "/a", "new") })
	change("mkdir", func(f *appendonly.FS) error { return f.Mkdir("/dir", appendonly.NoMeta()) })
	change("remove", func(f *appendonly.FS) error { return f.Remove("/b") })
	change("rename", func(f *appendonly.FS) error { return f.Rename("/c", "/moved", false) })
	change("link", func(f *appendonly.FS) error { return f.Link("/d", "/link") })
	change("symlink", func(f *appendonly.FS) error { return f.Symlink("a", "/sym", appendonly.NoMeta()) })
	change("close", func(*appendonly.FS) error { return open.Close() })
	change("push-end snapshot", func(*appendonly.FS) error {
		_, err := b.vault.Snapshot(context.Background(), "later", "push")
		return err
	})
	change("seal a key", func(*appendonly.FS) error { return b.vault.SealKey("bob") })
	change("announce", func(*appendonly.FS) error { return b.vault.Announce(context.Background(), "tenant set", "x") })
	want(t, f, "/a", "old")
	if names, err := list(f, "/"); err != nil || names != "a b c d e" {
		t.Errorf("the tree is %q, %v", names, err)
	}
	ok(t, b.vault.Barrier(context.Background()))
	if now := b.vault.Head(); now != head {
		t.Errorf("record %d was written after %d", now, head)
	}
	moved.Store(true)
	if !move() {
		t.Error("names moved before")
	}
	all.Wait()
	if move() {
		t.Error("a second time they stood still")
	}
	want(t, f, "/a", "new")
	want(t, f, "/.vault/snapshots/snap/a", "old")
	if names, err := list(f, "/.vault/snapshots/snap"); err != nil || names != "a b c d e" {
		t.Errorf("the snapshot shows %q, %v", names, err)
	}
}

// Nobody waits for ever: after its time names move by themselves, and who asked is told that they did.
func TestStandEnds(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	f := b.as("alice")
	ok(t, put(f, "/a", "x"))
	_, move, err := b.vault.Stand(context.Background(), "snap", "manual", time.Millisecond)
	ok(t, err)
	ok(t, put(f, "/b", "x")) // waits for that
	if move() {
		t.Error("names are said to have stood still")
	}
	_, second, err := b.vault.Stand(context.Background(), "again", "manual", time.Hour)
	ok(t, err)
	if move() || !second() {
		t.Error("the first one's end ended the second")
	}
	// One that fails to be taken leaves nothing standing.
	if _, _, err := b.vault.Stand(context.Background(), "snap", "manual", time.Hour); err == nil {
		t.Error("a taken name was taken again")
	}
	ok(t, put(f, "/c", "x"))
}
