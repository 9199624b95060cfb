package appendonly_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

var errInjected = errors.New("injected")

// faults lets one operation of the volume fail: the n-th since it was armed.
type faults struct {
	n       int  // which one
	happens bool // it is carried out all the same

	mu    sync.Mutex // guards what follows: contents are also read for their digests, beside everything
	armed bool
	ops   []string
}

// arm begins and ends the time in which operations count. It returns those that did.
func (x *faults) arm(on bool) []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.armed = on
	return x.ops
}

func (x *faults) hook(op, arg string) (bool, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !x.armed {
		return true, nil
	}
	x.ops = append(x.ops, op)
	if len(x.ops) == x.n+1 {
		return x.happens, errInjected
	}
	return true, nil
}

// verb is something that a client or the server does, to "new" or to what prepare made.
type verb struct {
	name    string
	prepare func(t *testing.T, b *bench, a *appendonly.FS)
	do      func(b *bench, a *appendonly.FS) error
	// gone and there are live names after success; there maps to what they hold ("" for what is no file).
	gone  []string
	there map[string]string
}

var verbs = []verb{
	{name: "put", do: func(_ *bench, a *appendonly.FS) error { return put(a, "new", "data") }, there: map[string]string{"new": "data"}},
	{name: "put temporary", do: func(_ *bench, a *appendonly.FS) error { return put(a, "new.partial", "data") },
		there: map[string]string{"new.partial": "data"}},
	{name: "put over temporary",
		prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new.partial", "before")) },
		do:      func(_ *bench, a *appendonly.FS) error { return put(a, "new.partial", "data") },
		there:   map[string]string{"new.partial": "data"}},
	{name: "put with a gap", do: func(_ *bench, a *appendonly.FS) error {
		u, err := patch(a, "new", "ta", 2)
		if err == nil {
			if _, err = u.WriteAt([]byte("da"), 0); err == nil {
				return u.Close()
			}
			u.Discard()
		}
		return err
	}, there: map[string]string{"new": "data"}},
	{name: "extend", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "da")) },
		do: func(_ *bench, a *appendonly.FS) error {
			u, err := patch(a, "new", "ta", 2)
			if err == nil {
				return u.Close()
			}
			return err
		}, there: map[string]string{"new": "data"}},
	{name: "overwrite", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "before")) },
		do: func(_ *bench, a *appendonly.FS) error { return put(a, "new", "data") }, there: map[string]string{"new": "data"}},
	{name: "repeat", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "data")) },
		do: func(_ *bench, a *appendonly.FS) error { return put(a, "new", "data") }, there: map[string]string{"new": "data"}},
	{name: "resume", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) {
		u, err := patch(a, "new", "da", 0)
		ok(t, err)
		u.Abort()
	}, do: func(_ *bench, a *appendonly.FS) error {
		u, err := patch(a, "new", "data", 0)
		if err == nil {
			return u.Close()
		}
		return err
	}, there: map[string]string{"new": "data"}},
	{name: "mkdir", do: func(_ *bench, a *appendonly.FS) error { return a.Mkdir("new", appendonly.NoMeta()) }, there: map[string]string{"new": ""}},
	{name: "symlink", do: func(_ *bench, a *appendonly.FS) error { return a.Symlink("t", "new", appendonly.NoMeta()) },
		there: map[string]string{"new": ""}},
	{name: "mknod", do: func(_ *bench, a *appendonly.FS) error {
		return a.Mknod("new", appendonly.KindFifo, appendonly.NoMeta())
	}, there: map[string]string{"new": ""}},
	{name: "link", do: func(_ *bench, a *appendonly.FS) error { return a.Link("old", "new") }, there: map[string]string{"new": "sealed"}},
	{name: "replace", do: func(_ *bench, a *appendonly.FS) error { return a.Replace("new", []byte("data"), appendonly.NoMeta()) },
		there: map[string]string{"new": "data"}},
	{name: "remove", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "data")) },
		do: func(_ *bench, a *appendonly.FS) error { return a.Remove("new") }, gone: []string{"new"}},
	{name: "remove temporary", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new.partial", "data")) },
		do: func(_ *bench, a *appendonly.FS) error { return a.Remove("new.partial") }, gone: []string{"new.partial"}},
	{name: "rmdir", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, a.Mkdir("new", appendonly.NoMeta())) },
		do: func(_ *bench, a *appendonly.FS) error { return a.Rmdir("new") }, gone: []string{"new"}},
	{name: "rename", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "from", "data")) },
		do: func(_ *bench, a *appendonly.FS) error { return a.Rename("from", "new", false) }, gone: []string{"from"}, there: map[string]string{"new": "data"}},
	{name: "rename over", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) {
		ok(t, put(a, "from", "data"))
		ok(t, put(a, "new", "before"))
	}, do: func(_ *bench, a *appendonly.FS) error { return a.Rename("from", "new", true) }, gone: []string{"from"}, there: map[string]string{"new": "data"}},
	{name: "rename link over file", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) {
		ok(t, a.Symlink("t", "from", appendonly.NoMeta()))
		ok(t, put(a, "new", "before"))
	}, do: func(_ *bench, a *appendonly.FS) error { return a.Rename("from", "new", true) }, gone: []string{"from"}, there: map[string]string{"new": ""}},
	{name: "rename temporary", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new.partial", "data")) },
		do: func(_ *bench, a *appendonly.FS) error { return a.Rename("new.partial", "new", false) }, gone: []string{"new.partial"},
		there: map[string]string{"new": "data"}},
	{name: "rename directory", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) {
		ok(t, a.Mkdir("from", appendonly.NoMeta()))
		ok(t, put(a, "from/f", "data"))
	}, do: func(_ *bench, a *appendonly.FS) error { return a.Rename("from", "new", false) }, gone: []string{"from"},
		there: map[string]string{"new": "", "new/f": "data"}},
	{name: "setmeta", do: func(_ *bench, a *appendonly.FS) error {
		return a.SetMeta("old", appendonly.Meta{Mode: 0o600, UID: 1, GID: 1}, false)
	}},
	{name: "truncate", do: func(_ *bench, a *appendonly.FS) error { return a.Truncate("old2", 3) }, there: map[string]string{"old2": "sea"}},
	{name: "lock", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { resticRepo(t, a) },
		do: func(_ *bench, a *appendonly.FS) error { return put(a, "locks/"+strings.Repeat("a", 64), "data") }},
	{name: "barrier", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "data")) },
		do:    func(b *bench, _ *appendonly.FS) error { return b.vault.Barrier(context.Background()) },
		there: map[string]string{"new": "data"}},
	{name: "snapshot", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) { ok(t, put(a, "new", "data")) },
		do: func(b *bench, _ *appendonly.FS) error {
			_, err := b.vault.Snapshot(context.Background(), "snap", "manual")
			return err
		}, there: map[string]string{"new": "data"}},
	{name: "end of session", prepare: func(t *testing.T, _ *bench, a *appendonly.FS) {
		ok(t, put(a, "new", "data"))
		_, err := patch(a, "unfinished", "x", 0)
		ok(t, err)
	}, do: func(_ *bench, a *appendonly.FS) error { return a.Close(context.Background()) }, there: map[string]string{"new": "data"}},
	{name: "tick", prepare: func(t *testing.T, b *bench, a *appendonly.FS) {
		ok(t, put(a, "new.partial", "data"))
		_, err := patch(a, "unfinished", "x", 0)
		ok(t, err)
		b.clock.Add(25 * time.Hour)
	}, do: func(b *bench, _ *appendonly.FS) error { b.vault.Tick(); return nil }, there: map[string]string{"new.partial": "data"}},
}

// TestFaults lets each operation of the volume fail once, both as "nothing happened" and as "it happened all the
// same", during everything that is done with it.
func TestFaults(t *testing.T) {
	for _, v := range verbs {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			for n := 0; ; n++ {
				var ran string
				for _, happens := range []bool{false, true} {
					ran = tryFault(t, v, n, happens)
				}
				if ran == "" {
					if n == 0 && v.name != "setmeta" {
						t.Fatal("it does nothing with the volume")
					}
					return
				}
			}
		})
	}
}

// tryFault returns the operation that failed, "" if there is no n-th one.
func tryFault(t *testing.T, v verb, n int, happens bool) string {
	t.Helper()
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	x := &faults{n: n, happens: happens}
	b.mem.Fault = x.hook
	a := b.session("alice")
	ok(t, put(a, "old", "sealed"))
	ok(t, put(a, "old2", "sealed"))
	b.barrier()
	if v.prepare != nil {
		v.prepare(t, b, a)
	}
	before, err := look(a, "")
	ok(t, err)
	x.arm(true)
	err = v.do(b, a)
	seen := x.arm(false)
	if len(seen) <= n {
		ok(t, err)
		return ""
	}
	at := fmt.Sprintf("%s %d (%s), happened %v", v.name, n, seen[n], happens)
	if err != nil && !errors.Is(err, errInjected) && !errors.Is(err, appendonly.ErrReadOnly) {
		t.Errorf("%s: %v", at, err)
	}
	if slices.Contains([]string{"Sync", "SegmentSync", "CloseSegment"}, seen[n]) && !errors.Is(b.vault.Err(), appendonly.ErrReadOnly) {
		t.Errorf("%s: the vault goes on", at)
	}
	live, lerr := look(b.session("alice"), "")
	ok(t, lerr)
	checkFault(t, at+", at once", v, err, before, live)
	if b.vault.Err() == nil {
		if err := put(b.session("bob"), "after", "after"); err != nil {
			t.Errorf("%s: the next upload: %v", at, err)
		}
	}
	b.kill()
	b.wantTree()
	a = b.as("alice")
	live, lerr = look(a, "")
	ok(t, lerr)
	checkFault(t, at+", after a restart", v, err, before, live)
	for name, data := range v.there { // what did not come about can be tried again
		if data != "" && !strings.Contains(name, "/") {
			ok(t, put(a, name, data))
			want(t, a, name, data)
		}
	}
	ok(t, b.vault.Barrier(context.Background()))
	if _, torn, err := journal.NewReader(b.mem).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 {
		t.Errorf("%s: the journal has %d torn bytes, %v", at, torn, err)
	}
	return seen[n]
}

// checkFault compares the live tree with what it was before, and would be after.
func checkFault(t *testing.T, at string, v verb, err error, before, live world) {
	t.Helper()
	done := before.clone()
	for _, p := range v.gone {
		for q := range before {
			if q == p || strings.HasPrefix(q, p+"/") {
				delete(done, q)
			}
		}
	}
	for p, data := range v.there {
		x := live[p]
		x.data = data
		if data == "" {
			x = live[p]
		}
		done[p] = x
	}
	for p := range v.there {
		if _, there := live[p]; !there && err == nil {
			t.Errorf("%s: no error, and %q is missing", at, p)
		}
	}
	delete(live, "after")
	if err == nil {
		if diff := live.difference(done); diff != "" {
			t.Errorf("%s: no error, and %s", at, diff)
		}
		return
	}
	if d1, d2 := live.difference(before), live.difference(done); d1 != "" && d2 != "" {
		t.Errorf("%s: %v; compared with before %s; with after %s", at, err, d1, d2)
	}
}

// TestOpenFails lets each operation fail while a vault that crashed is opened: the next Open succeeds.
func TestOpenFails(t *testing.T) {
	for n := 0; ; n++ {
		ran := false
		for _, happens := range []bool{false, true} {
			b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
			a := b.as("alice")
			ok(t, put(a, "old", "sealed"))
			b.barrier()
			ok(t, put(a, "x.partial", "fresh"))
			ok(t, put(a, "new", "new"))
			ok(t, a.Rename("old", "older", false))
			u, err := patch(a, "unfinished", "12345", 0)
			ok(t, err)
			u.Abort()
			heir := b.mem.Kill()
			b.vault.Kill()
			b.mem = heir
			x := &faults{n: n, happens: happens, armed: true}
			b.mem.Fault = x.hook
			var log strings.Builder
			v, err := appendonly.Open(appendonly.Config{Volume: b.mem, Segments: b.mem, IndexPath: b.index, Policy: b.pol,
				Now: b.clock.Now, Boot: b.boot, Log: slog.New(slog.NewTextHandler(&log, nil)), BarrierEvery: time.Hour})
			seen := x.arm(false)
			if ran = len(seen) > n; !ran {
				ok(t, err)
				ok(t, v.Close())
				break
			}
			if err == nil {
				v.Close()
			} else if !errors.Is(err, errInjected) {
				t.Errorf("%d (%s), happened %v: %v", n, seen[n], happens, err)
			}
			if strings.Contains(log.String(), "made anew") {
				t.Errorf("%d (%s), happened %v: the index was given up", n, seen[n], happens)
			}
			b.mem = b.mem.Kill()
			b.open()
			ok(t, b.vault.Err())
			b.wantTree()
			a = b.as("alice")
			wantList(t, a, "", "new older x.partial")
			want(t, a, "older", "sealed")
			want(t, a, "new", "new")
			want(t, a, "x.partial", "fresh")
			if i, err := a.Stat("unfinished"); errors.Is(err, fs.ErrNotExist) && seen[n] != "Resume" && seen[n] != "Truncate" && seen[n] != "Size" {
				t.Errorf("%d (%s), happened %v: the unfinished upload is lost: %+v", n, seen[n], happens, i)
			}
		}
		if !ran {
			return
		}
	}
}
