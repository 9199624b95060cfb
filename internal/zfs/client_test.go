package zfs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"vaultd/internal/zfs"
)

// fakeClient is a client of the fake, which answers with these exchanges, one after the other.
func fakeClient(t *testing.T, cfg zfs.Config, answers ...exchange) *zfs.Client {
	t.Helper()
	dir := t.TempDir()
	installFake(t, dir)
	name := filepath.Join(dir, "answers")
	must(t, os.WriteFile(name, nil, 0o600))
	for _, x := range answers {
		b, err := json.Marshal(x)
		must(t, err)
		must(t, appendLine(name, b))
	}
	t.Setenv(envRecording, name)
	t.Setenv(envReal, "")
	t.Setenv("ZFS_TEST_POSITION", filepath.Join(dir, "position"))
	t.Setenv(envCount, filepath.Join(dir, "count"))
	c, err := zfs.New(cfg)
	must(t, err)
	return c
}

// started is how many processes were started.
func started(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(os.Getenv(envCount))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(b)
}

var badDatasets = []string{"", "-r", "--", "/tank", "./tank", "tank/", "/", "tank//a", "tank/..", "tank/.", "tank/a/../b", "tank/a@b", "tank#b", "tank/a,b", "tank/a%b",
	"tank/a\x00", "tank/a\n", "tank/a\tb", "tank/ä", "tank/$(id)", "1tank", " tank", "tank/*", "tank=a", "a/" + strings.Repeat("x", 254), "a" + strings.Repeat("/a", 60), "-/a"}

// What no name can be never reaches a process: every call, with every hostile name in every place.
func TestNamesAreChecked(t *testing.T) {
	c := fakeClient(t, zfs.Config{})
	const good = "tank/a"
	calls := map[string]func(name string) error{
		"Get":          func(n string) error { _, err := c.Get(ctx, n); return err },
		"List":         func(n string) error { _, err := c.List(ctx, n, 1); return err },
		"Create":       func(n string) error { return c.Create(ctx, n, nil, nil) },
		"Create key":   func(n string) error { return c.Create(ctx, n, nil, []byte("k")) },
		"SetQuota":     func(n string) error { return c.SetQuota(ctx, n, 1, 1) },
		"Rename":       func(n string) error { return c.Rename(ctx, n, good) },
		"Rename to":    func(n string) error { return c.Rename(ctx, good, n) },
		"Mount":        func(n string) error { return c.Mount(ctx, n) },
		"Unmount":      func(n string) error { return c.Unmount(ctx, n) },
		"LoadKey":      func(n string) error { return c.LoadKey(ctx, n, nil) },
		"UnloadKey":    func(n string) error { return c.UnloadKey(ctx, n) },
		"Clone to":     func(n string) error { return c.Clone(ctx, good+"@s", n, nil) },
		"DestroyClone": func(n string) error { return c.DestroyClone(ctx, n) },
		"DestroyEmpty": func(n string) error { return c.DestroyEmpty(ctx, n, 1, nil) },
		"Snapshots":    func(n string) error { _, err := c.Snapshots(ctx, n); return err },
		"AllSnapshots": func(n string) error { _, err := c.AllSnapshots(ctx, n); return err },
		"Allow":        func(n string) error { return c.Allow(ctx, n, "alice", "snapshot") },
		"Unallow":      func(n string) error { return c.Unallow(ctx, n, "alice", "snapshot") },
		"Delegations":  func(n string) error { _, err := c.Delegations(ctx, n); return err },
		"Pool":         func(n string) error { _, err := c.Pool(ctx, n); return err },
		"Scrub":        func(n string) error { return c.Scrub(ctx, n) },
		"Cache":        func(n string) error { _, err := c.NewCache(time.Hour).Snapshots(ctx, n); return err },
		// a dataset or a snapshot, but not half a snapshot
		"Set": func(n string) error {
			return c.Set(ctx, strings.TrimSuffix(n, "@b")+"@", map[string]string{"a:b": "c"})
		},
		"Inherit": func(n string) error { return c.Inherit(ctx, strings.TrimSuffix(n, "@b")+"@", "a:b") },
		"Receive": func(n string) error {
			return c.Receive(ctx, strings.NewReader(""), strings.TrimSuffix(n, "@b")+"@", zfs.ReceiveOptions{})
		},
		"Allow user":    func(n string) error { return c.Allow(ctx, good, n+"/", "snapshot") },
		"Allow perm":    func(n string) error { return c.Allow(ctx, good, "alice", n+"/") },
		"Set property":  func(n string) error { return c.Set(ctx, good, map[string]string{n + "/": "x"}) },
		"Get property":  func(n string) error { _, err := c.Snapshots(ctx, good, n+"/"); return err },
		"Mount option":  func(n string) error { return c.Mount(ctx, good, n+"/") },
		"Bookmark":      func(n string) error { return c.Bookmark(ctx, good+"@s", n+"/") },
		"Hold tag":      func(n string) error { return c.Hold(ctx, n+"/", good+"@s") },
		"Release tag":   func(n string) error { return c.Release(ctx, n+"/", good+"@s") },
		"Inherit named": func(n string) error { return c.Inherit(ctx, good, n+"/") },
	}
	for what, call := range calls {
		for _, name := range badDatasets {
			wants(t, fmt.Sprintf("%s %q", what, name), call(name), zfs.ErrName)
		}
	}
	snapshots := map[string]func(name string) error{
		"Snapshot":      func(n string) error { _, err := c.Snapshot(ctx, n); return err },
		"Take":          func(n string) error { return c.Take(ctx, nil, good+"@ok", n) },
		"TakeRecursive": func(n string) error { return c.TakeRecursive(ctx, nil, n) },
		"Hold":          func(n string) error { return c.Hold(ctx, "tag", n) },
		"HoldRecursive": func(n string) error { return c.HoldRecursive(ctx, "tag", n) },
		"Release":       func(n string) error { return c.Release(ctx, "tag", n) },
		"Holds":         func(n string) error { _, err := c.Holds(ctx, n); return err },
		"Destroy":       func(n string) error { return c.DestroySnapshot(ctx, n, 1) },
		"Clone":         func(n string) error { return c.Clone(ctx, n, good, nil) },
		"Send":          func(n string) error { return c.Send(ctx, io.Discard, n, zfs.SendOptions{}) },
		"Send from":     func(n string) error { return c.Send(ctx, io.Discard, good+"@s", zfs.SendOptions{From: n + "\n"}) },
		"Bookmark":      func(n string) error { return c.Bookmark(ctx, n, "m") },
	}
	bad := []string{good, "@", "@s", good + "@", good + "@.", good + "@..", good + "@a/b", good + "@a,b", good + "@a%b", good + "@%", good + "@a@b", good + "#b", good + "@a\n",
		"-r@s", good + "@" + strings.Repeat("x", 255)}
	for _, d := range badDatasets {
		bad = append(bad, d+"@s")
	}
	for what, call := range snapshots {
		for _, name := range bad {
			wants(t, fmt.Sprintf("%s %q", what, name), call(name), zfs.ErrName)
		}
	}
	wants(t, "a pool", c.DestroyEmpty(ctx, "tank", 1, nil), zfs.ErrName)
	// A comma in a permission or property would be another one, no permission is all of them.
	wants(t, "unallow everything", c.Unallow(ctx, good, "alice"), zfs.ErrName)
	wants(t, "two permissions in one", c.Allow(ctx, good, "alice", "snapshot,destroy"), zfs.ErrName)
	wants(t, "an option in a property", c.Set(ctx, good, map[string]string{"-r": ""}), zfs.ErrName)
	wants(t, "a snapshot with quota", c.Take(ctx, map[string]string{"quota": "1"}, good+"@s"), zfs.ErrName)
	for _, value := range []string{"a\nb", "a\tb", "\x00", "\x7f", strings.Repeat("x", 8192)} {
		wants(t, fmt.Sprintf("value %.10q", value), c.Set(ctx, good, map[string]string{"a:b": value}), zfs.ErrName)
	}
	if n := started(t); n != 0 {
		t.Errorf("%d processes were started", n)
	}
}

// Names that pass are those that ZFS takes, and none of them means something else to zfs(8).
func TestNameGrammar(t *testing.T) {
	for _, name := range []string{"tank", "tank/a", "tank/A-b_c.d:e f", "tank/-r", "tank/1", "a/" + strings.Repeat("x", 253)} {
		if err := zfs.CheckDataset(name); err != nil {
			t.Error(err)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringOfN(rapid.RuneFrom([]rune("ab-/.@#%, \n\t:_=é\x00")), 0, 12, -1).Draw(t, "name")
		if zfs.CheckDataset(name) == nil && (strings.ContainsAny(name, "@#%,\n\t\x00=é") || name[0] == '-' || name[0] == '/' || strings.Contains("/"+name+"/", "/../")) {
			t.Fatalf("%q passes as a dataset", name)
		}
		if zfs.CheckSnapshot(name) == nil && (strings.Count(name, "@") != 1 || strings.ContainsAny(name, "#%,\n\t\x00=é") || name[0] == '-') {
			t.Fatalf("%q passes as a snapshot", name)
		}
	})
}

func TestErrors(t *testing.T) {
	for text, want := range map[string]error{
		"cannot open 'tank/x': dataset does not exist":                                                zfs.ErrNotExist,
		"cannot create 'tank/a': dataset already exists":                                              zfs.ErrExist,
		"cannot destroy snapshot tank/a@s: dataset is busy":                                           zfs.ErrBusy,
		"cannot create snapshot 'tank/a@s': permission denied":                                        zfs.ErrPermission,
		"cannot create 'tank/a': out of space":                                                        zfs.ErrNoSpace,
		"cannot set property for 'tank/a': size is less than current used or reserved space":          zfs.ErrQuota,
		"cannot open 'tank': pool I/O is currently suspended":                                         zfs.ErrSuspended,
		"The ZFS modules are not loaded.\nTry running '/sbin/modprobe zfs' as root to load them.":     zfs.ErrNotZFS,
		"cannot receive new filesystem stream: checksum mismatch or incomplete stream.":               zfs.ErrStream,
		"cannot destroy 'tank/a@s': snapshot has dependent clones\nuse '-R' to destroy the following": zfs.ErrDependent,
		"Key load error: Incorrect key provided for 'tank/a'.":                                        zfs.ErrKey,
		"cannot hold snapshot 'tank/a@s': tag already exists on this dataset":                         zfs.ErrExist,
		"cannot release hold from snapshot 'tank/a@s': no such tag on this dataset":                   zfs.ErrNotExist,
		"cannot mount 'tank/a': Insufficient privileges":                                              zfs.ErrPermission,
		"something that nobody has seen":                                                              nil,
	} {
		if got := zfs.KindOf(text); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
	e := &zfs.Error{Op: "zfs destroy", Name: "tank/a@s", Kind: zfs.ErrHeld, Text: "cannot destroy:\n\x1b[31mbusy", Err: errors.New("exit status 1")}
	if got := e.Error(); got != "zfs destroy tank/a@s: cannot destroy: ?[31mbusy" {
		t.Errorf("Error: %q", got)
	}
	for _, kind := range []error{zfs.ErrHeld, zfs.ErrBusy} {
		wants(t, "Is", e, kind)
	}
	for err, kind := range map[error]error{zfs.ErrNotExist: fs.ErrNotExist, zfs.ErrQuota: syscall.EDQUOT, zfs.ErrNoSpace: syscall.ENOSPC, zfs.ErrSuspended: zfs.ErrPool} {
		wants(t, "Is", err, kind)
	}
	if errors.Is(zfs.ErrBusy, zfs.ErrHeld) {
		t.Error("whatever is busy is held")
	}
}

func TestNoTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	c, err := zfs.New(zfs.Config{})
	must(t, err)
	_, err = c.Snapshots(ctx, "tank/a")
	wants(t, "without zfs", err, zfs.ErrNotZFS)
	wants(t, "without zfs, through go-zfs", c.Mount(ctx, "tank/a"), zfs.ErrNotZFS)
	wants(t, "a stream without zfs", c.Send(ctx, io.Discard, "tank/a@s", zfs.SendOptions{}), zfs.ErrNotZFS)
}

// hang makes the fake not answer to verbs (none: to all) until what it returns is called.
func hang(t *testing.T, verbs ...string) (goOn func()) {
	name := filepath.Join(t.TempDir(), "hang")
	must(t, os.WriteFile(name, []byte(strings.Join(verbs, " ")), 0o600))
	t.Setenv(envHang, name)
	var once sync.Once
	goOn = func() { once.Do(func() { must(t, os.Remove(name)) }) }
	t.Cleanup(goOn)
	return goOn
}

// A pool that hangs costs its time once for each place, and after that nothing: nobody waits behind it.
func TestHang(t *testing.T) {
	c := fakeClient(t, zfs.Config{Timeout: 300 * time.Millisecond, Processes: 2})
	goOn := hang(t)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { wants(t, "a change that hangs", c.Hold(ctx, "tag", "tank/a@s"), zfs.ErrTimeout) })
	}
	both.Wait()
	if n := c.Hung(); n != 2 {
		t.Errorf("%d hang, want 2: a change is not killed", n)
	}
	before := started(t)
	for range 100 {
		_, err := c.Snapshots(ctx, "tank/a")
		wants(t, "a call with all places taken", err, zfs.ErrTimeout)
		wants(t, "one through go-zfs", c.Mount(ctx, "tank/a"), zfs.ErrTimeout)
	}
	if n := started(t); n != before {
		t.Errorf("%d more processes were started", n-before)
	}
	goOn()
	waitFor(t, func() bool { return c.Hung() == 0 })
	if _, err := c.Snapshots(ctx, "tank/a"); errors.Is(err, zfs.ErrTimeout) {
		t.Errorf("after it goes on: %v", err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("that does not come")
		}
	}
}

// The caller's context ends the wait, for a process and for a place.
func TestContext(t *testing.T) {
	c := fakeClient(t, zfs.Config{Processes: 1})
	goOn := hang(t)
	wait := func(what string) {
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		defer cancel()
		_, err := c.Snapshots(short, "tank/a")
		wants(t, "wait "+what, err, zfs.ErrTimeout)
		wants(t, "wait "+what, err, context.DeadlineExceeded)
	}
	wait("for a process")
	waitFor(t, func() bool { return c.Hung() == 0 }) // it was killed
	done := make(chan error)
	go func() { done <- c.Mount(ctx, "tank/a") }() // nobody gave this one up: others wait for its place
	waitFor(t, func() bool { return started(t) == 2 })
	wait("for a place")
	goOn()
	<-done
}

// A query that hangs is killed; what it left behind is nothing.
func TestQueryIsKilled(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	c := fakeClient(t, zfs.Config{Timeout: 200 * time.Millisecond, Processes: 1})
	goOn := hang(t)
	_, err := c.Snapshots(ctx, "tank/a")
	wants(t, "a query that hangs", err, zfs.ErrTimeout)
	waitFor(t, func() bool { return c.Hung() == 0 })
	goOn()
}

// A stream ends with its context.
func TestStreamEnds(t *testing.T) {
	c := fakeClient(t, zfs.Config{Streams: 1})
	hang(t)
	short, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- c.Send(short, io.Discard, "tank/a@s", zfs.SendOptions{}) }()
	waitFor(t, func() bool { return started(t) == 1 })
	soon, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	wants(t, "another stream", c.Send(soon, io.Discard, "tank/a@s", zfs.SendOptions{}), context.DeadlineExceeded)
	cancel()
	wants(t, "Send", <-done, context.Canceled)
}

// No more than Processes at once, whoever asks.
func TestProcessesAreBounded(t *testing.T) {
	c := fakeClient(t, zfs.Config{Processes: 3})
	goOn := hang(t)
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if i%2 == 0 {
				c.Mount(ctx, "tank/a") // through go-zfs
			} else {
				c.Hold(ctx, "tag", "tank/a@s")
			}
		})
	}
	waitFor(t, func() bool { return started(t) == 3 })
	time.Sleep(100 * time.Millisecond)
	if n := started(t); n != 3 {
		t.Errorf("%d processes at once", n)
	}
	goOn()
	all.Wait()
}

func TestTooManyArguments(t *testing.T) {
	c := fakeClient(t, zfs.Config{})
	var names []string
	for i := range 10000 {
		names = append(names, fmt.Sprintf("tank/%0150d@s", i))
	}
	wants(t, "Take of 1.5 MB of names", c.Take(ctx, nil, names...), zfs.ErrName)
	if started(t) != 0 {
		t.Error("a process was started")
	}
}

// snapshotLines are what `zfs list` would print of n snapshots.
func snapshotLines(n int) exchange {
	var out bytes.Buffer
	for i := range n {
		fmt.Fprintf(&out, "tank/a@s%d\t%d\t%d\t1764000000\t0\t98304\t0\t1\toff\n", i, 1000+i, 10+i)
	}
	return exchange{Argv: []string{"zfs", "list", "-Hp", "-t", "snapshot", "-o", "name,guid,createtxg,creation,used,referenced,written,userrefs,defer_destroy", "-d", "1", "tank/a"}, Stdout: out.String()}
}

func TestCache(t *testing.T) {
	ok := func(args ...string) exchange { return exchange{Argv: append([]string{"zfs"}, args...)} }
	c := fakeClient(t, zfs.Config{},
		snapshotLines(3),
		snapshotLines(4),                                // after its age
		ok("hold", "tag", "tank/b@s"), snapshotLines(5), // after a change
		ok("hold", "-r", "tag", "tank@s"), snapshotLines(6), // after one to unknown many
		exchange{Argv: snapshotLines(0).Argv, Stderr: "cannot open 'tank/a': pool I/O is currently suspended\n", Exit: 1},
	)
	cache := c.NewCache(time.Minute)
	now := time.Unix(1764000000, 0)
	cache.SetNow(func() time.Time { return now })
	want := func(what string, n, processes int) {
		t.Helper()
		for range 3 {
			all, err := cache.Snapshots(ctx, "tank/a")
			if err != nil || len(all) != n {
				t.Errorf("%s: %d snapshots, %v, want %d", what, len(all), err, n)
			}
		}
		if got := started(t); got != processes {
			t.Errorf("%s: %d processes, want %d", what, got, processes)
		}
	}
	want("at first", 3, 1)
	now = now.Add(59 * time.Second)
	want("within its age", 3, 1)
	now = now.Add(2 * time.Second)
	want("after its age", 4, 2)
	must(t, c.Hold(ctx, "tag", "tank/b@s"))
	want("after a change elsewhere", 4, 3)
	cache.Forget("tank/a")
	want("after Forget", 5, 4)
	must(t, c.HoldRecursive(ctx, "tag", "tank@s"))
	want("after a change of everything", 6, 6)
	now = now.Add(time.Hour)
	_, err := cache.Snapshots(ctx, "tank/a")
	wants(t, "while the pool is suspended", err, zfs.ErrSuspended)
	if all, at := cache.Last("tank/a"); len(all) != 6 || at.IsZero() {
		t.Errorf("Last: %d, %v", len(all), at)
	}
}

// Many who want the same list start one process.
func TestCacheReadsOnce(t *testing.T) {
	c := fakeClient(t, zfs.Config{}, snapshotLines(10))
	goOn := hang(t)
	cache := c.NewCache(time.Minute)
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if l, err := cache.Snapshots(ctx, "tank/a"); err != nil || len(l) != 10 {
				t.Errorf("%d, %v", len(l), err)
			}
		})
	}
	waitFor(t, func() bool { return started(t) == 1 })
	goOn()
	all.Wait()
	if n := started(t); n != 1 {
		t.Errorf("%d processes", n)
	}
}

// A change while a list is being read makes the list old: what was read may be from before it.
func TestCacheChangeWhileReading(t *testing.T) {
	c := fakeClient(t, zfs.Config{}, exchange{Argv: []string{"zfs", "hold", "tag", "tank/a@s"}}, snapshotLines(1), snapshotLines(2))
	cache := c.NewCache(time.Hour)
	goOn := hang(t, "list")
	done := make(chan int)
	go func() {
		l, _ := cache.Snapshots(ctx, "tank/a")
		done <- len(l)
	}()
	waitFor(t, func() bool { return started(t) == 1 })
	must(t, c.Hold(ctx, "tag", "tank/a@s"))
	goOn()
	if n := <-done; n != 1 {
		t.Errorf("%d snapshots before the change", n)
	}
	if l, err := cache.Snapshots(ctx, "tank/a"); err != nil || len(l) != 2 {
		t.Errorf("the list of before the change was kept: %d, %v", len(l), err)
	}
}

// Ten thousand snapshots come from memory: no process, and nothing that grows with their number.
func TestCache10000(t *testing.T) {
	c := fakeClient(t, zfs.Config{}, snapshotLines(10000))
	cache := c.NewCache(time.Hour)
	_, err := cache.Snapshots(ctx, "tank/a")
	must(t, err)
	if n := testing.AllocsPerRun(100, func() {
		if all, err := cache.Snapshots(ctx, "tank/a"); err != nil || len(all) != 10000 {
			t.Fatal(len(all), err)
		}
	}); n > 10 {
		t.Errorf("%v allocations for a list from memory", n)
	}
	if n := started(t); n != 1 {
		t.Errorf("%d processes", n)
	}
}
