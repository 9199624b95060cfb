package appendonly_test

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
)

// resticRepo makes what is recognised as one, and returns the name of its n-th lock.
func resticRepo(t testing.TB, f *appendonly.FS) func(n int) string {
	t.Helper()
	for _, d := range []string{"data", "keys", "snapshots", "locks"} {
		ok(t, f.Mkdir(d, appendonly.NoMeta()))
	}
	ok(t, put(f, "config", "c"))
	return func(n int) string { return fmt.Sprintf("locks/%064x", n) }
}

func TestLocks(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a, m := b.as("alice"), b.as("mallory")
	lock := resticRepo(t, a)
	ok(t, put(a, lock(1), "one"))
	want(t, a, lock(1), "one")
	ok(t, put(a, lock(1), "two"))
	ok(t, put(a, lock(3)+"-restic-temp-0a", "three"))
	ok(t, a.Rename(lock(3)+"-restic-temp-0a", lock(3), false))
	wantList(t, m, "locks", strings.TrimPrefix(lock(1), "locks/")+" "+strings.TrimPrefix(lock(3), "locks/"))
	wantList(t, m, ".at/0s/locks", "")
	if err := m.Rmdir("locks"); !errors.Is(err, fs.ErrPermission) && !errors.Is(err, appendonly.ErrNotEmpty) {
		t.Fatal(err)
	}
	b.kill()
	a, m = b.as("alice"), b.as("mallory")
	want(t, a, lock(1), "two")
	ok(t, m.Remove(lock(3))) // restic unlock
	wantList(t, a, "locks", strings.TrimPrefix(lock(1), "locks/"))
	ok(t, put(m, "locks/README", "x")) // no lock's name: a file like any other
	refused(t, appendonly.P2, m.Remove("locks/README"))
}

// A lock stays where locks are, and never stands in front of what is stored.
func TestLockDoesNotMove(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	lock := resticRepo(t, a)
	ok(t, put(a, lock(1), "one"))
	refused(t, appendonly.P2, a.Rename(lock(1), "elsewhere", true))
	ok(t, put(a, "x.partial", "x"))
	refused(t, appendonly.P2, a.Rename("x.partial", lock(2), true))
	u, err := a.Create(lock(2), create)
	ok(t, err)
	refused(t, appendonly.P2, a.Rename(lock(2), "elsewhere", true)) // unfinished
	ok(t, u.Close())
	if _, err := a.Stat("elsewhere"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	// A file of that name is stored while the lock is being written.
	u, err = a.Create(lock(3), create)
	ok(t, err)
	ok(t, a.Link("config", lock(3)))
	refused(t, appendonly.P2, u.Close())
	want(t, a, lock(3), "c")
}

// One key can not take the others' locks away by making too many, nor by leaving uploads unfinished (P7).
func TestLocksAreLimitedPerKey(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a, m := b.as("alice"), b.as("mallory")
	lock := resticRepo(t, a)
	n := 0
	for ; n < 5000; n++ {
		if err := put(m, lock(n), ""); err != nil {
			refused(t, appendonly.RuleSize, err)
			break
		}
	}
	if n == 5000 {
		t.Fatal("no limit")
	}
	ok(t, put(m, lock(0), "again"))
	for i := 0; ; i++ {
		u, err := m.Create(fmt.Sprintf("u%d", i), create)
		if err != nil {
			refused(t, appendonly.RuleSize, err)
			break
		}
		_, err = u.WriteAt([]byte("x"), 0)
		ok(t, err)
		u.Abort()
	}
	ok(t, put(a, lock(10000), "mine"))
	ok(t, a.Remove(lock(10000)))
	b.kill()
	ok(t, put(b.as("alice"), lock(10000), "mine"))
}
