package appendonly_test

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"vaultd/internal/appendonly"
)

// Every way to say a time, and what is none.
func TestTimes(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, put(a, "f", "old")) // 2026-11-22T10:00
	b.clock.Add(49 * time.Hour)
	ok(t, put(a, "f", "new"))
	b.clock.Add(10 * time.Second)
	for _, at := range []string{"0s", "5s", "2026-11-24T11:00:05Z", "2026-11-24T12:00:05+01:00", "2026-11-24T11-00-05Z", "2030-01-01"} {
		want(t, a, ".at/"+at+"/f", "new")
	}
	for _, at := range []string{"60s", "2h", "1d", "2d30m", "2026-11-23", "2026-11-22T12:00"} {
		want(t, a, ".at/"+at+"/f", "old")
	}
	for _, at := range []string{"3d", "1w", "2026-11-22", "1970-01-01", "0001-01-01", "106752d", "999999d", "999999w", "15251w", "999999w999999w"} {
		if got, err := get(a, ".at/"+at+"/f"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("at %s: %q, %v", at, got, err)
		}
		wantList(t, a, ".at/"+at, "")
	}
	for _, at := range []string{"", "x", "1", "s", "-1s", "1s2", "1y", "0x1s", "1234567s", "2026-13-01", "2026-11-22T25:00:00Z", "..", "1s\n"} {
		if got, err := get(a, "/.vault/at/"+at+"/f"); err == nil {
			t.Errorf("at %q: %q", at, got)
		}
	}
}

// Many ask for the same name at once: one snapshot has it.
func TestSnapshotNameIsTakenOnce(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	ok(t, put(a, "f", "f"))
	var wg sync.WaitGroup
	taken := make(chan error, 20)
	for range cap(taken) {
		wg.Go(func() { _, err := b.vault.Snapshot(context.Background(), "one", "manual"); taken <- err })
	}
	wg.Wait()
	close(taken)
	n := 0
	for err := range taken {
		if err == nil {
			n++
		} else if !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
	}
	if have, err := b.vault.Snapshots(); n != 1 || err != nil || len(have) != 1 {
		t.Fatalf("%d taken, %d listed, %v", n, len(have), err)
	}
}

// The same content again, by way of a temporary name: what the client says of it right after is dropped.
func TestAttributesAfterRepeatedRename(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	ok(t, put(b.as("bob"), "f", "one"))
	a := b.as("alice")
	ok(t, put(a, "f.partial", "one"))
	ok(t, a.Rename("f.partial", "f", true))
	meta := appendonly.NoMeta()
	meta.MTime = appendonly.Unix(5, 0)
	ok(t, a.SetMeta("f", meta, true))
	info, err := a.Stat("f")
	ok(t, err)
	if info.MTime == meta.MTime {
		t.Fatal("it was changed")
	}
}

// A snapshot is found by its name also after that went to another instant, and "latest" is always the newest.
func TestSnapshotsByName(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	take := func(name, data string) appendonly.Seq {
		t.Helper()
		ok(t, put(a, "f", data))
		s, err := b.vault.Snapshot(context.Background(), name, "manual")
		ok(t, err)
		return s.At
	}
	at := take("one", "1")
	for range 2 {
		want(t, a, ".snapshots/one/f", "1")
		want(t, a, ".snapshots/latest/f", "1")
	}
	take("two", "2")
	want(t, a, ".snapshots/latest/f", "2")
	want(t, a, ".snapshots/one/f", "1")
	ok(t, b.vault.Freed(nil, []appendonly.Seq{at}))
	if got, err := get(a, ".snapshots/one/f"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("let go of: %q, %v", got, err)
	}
	want(t, a, ".snapshots/latest/f", "2")
	take("one", "3")
	want(t, a, ".snapshots/one/f", "3")
	want(t, a, ".snapshots/latest/f", "3")
}
