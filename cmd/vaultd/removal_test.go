package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/retention"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

const testDay = 24 * time.Hour

// testMachine is a machine whose clocks the test moves.
type testMachine struct{ up time.Duration }

func (m *testMachine) Boot() (string, time.Duration, error) { return "boot", m.up, nil }
func (m *testMachine) Now() time.Time                       { return time.Now().Add(m.up) }

// ended is a store with one tenant, whose removal is due by the wall clock.
type ended struct {
	t       *testing.T
	a       *app
	out     bytes.Buffer
	machine testMachine
	kill    int // the step before which the next run is killed; 0: none
	id      string
	bodies  retention.Bodies // nil: of a directory
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newEnded(t *testing.T, push bool) *ended {
	t.Helper()
	return newEndedIn(t, t.TempDir(), push)
}

func newEndedIn(t *testing.T, dir string, push bool) *ended {
	t.Helper()
	e := &ended{t: t}
	e.a = &app{stdin: strings.NewReader(""), stdout: &e.out, stderr: &e.out, dir: dir}
	conf := DefaultConfig()
	must(t, e.a.initStore(&conf))
	must(t, os.WriteFile(filepath.Join(dir, ConfigName), []byte("[store]\nfree_bytes = \"0\"\nfree_inodes = 0\n"), 0o600)) // small disks will do
	n := conf.newTenant("acme")
	got, _, err := e.a.catalog().AddTenant(n)
	must(t, err)
	e.id = got.ID
	if push {
		e.push("a", "d/b", "d/e/c")
		must(t, e.a.local(func(o *operations) error {
			_, err := o.st.Snapshot(context.Background(), got, "first", "manual")
			return err
		}))
		e.run() // expire knows the tenant before its end
	}
	return e
}

func (e *ended) push(names ...string) {
	e.t.Helper()
	ctx := context.Background()
	must(e.t, e.a.local(func(o *operations) error {
		return o.st.With(ctx, e.id, func(v *appendonly.Vault) error {
			f := v.Session(appendonly.Who{Key: "key"})
			var errs error
			for _, name := range names {
				for at, r := range name {
					if r == '/' {
						if err := f.Mkdir("/"+name[:at], appendonly.Meta{}); err != nil && !errors.Is(err, fs.ErrExist) {
							errs = errors.Join(errs, err)
						}
					}
				}
				u, err := f.Create("/"+name, appendonly.CreateOptions{Create: true})
				if err == nil {
					_, err = u.WriteAt([]byte(name), 0)
					err = errors.Join(err, u.Close())
				}
				errs = errors.Join(errs, err)
			}
			return errors.Join(errs, f.Close(ctx))
		})
	}))
}

func (e *ended) remove() {
	e.t.Helper()
	_, err := tenant.New(e.a.dir, tenant.Options{Actor: "olga", Why: "left us"}).Remove("acme", time.Nanosecond)
	must(e.t, err)
	time.Sleep(time.Millisecond)
}

var errStop = errors.New("killed")

// run runs expire once, as long as it is not killed, and reports whether it was.
func (e *ended) run() (out expireReply, err error, killed bool) {
	e.t.Helper()
	x, err := e.a.openExpirer(context.Background(), 7*testDay, slog.New(slog.DiscardHandler))
	must(e.t, err)
	x.machine = &e.machine
	x.bodies = func(context.Context, place) (retention.Bodies, error) { return e.bodies, nil }
	steps := 0
	x.step = func(string) {
		if steps++; steps == e.kill {
			panic(errStop)
		}
	}
	defer func() {
		if p := recover(); p != nil {
			if p != errStop {
				panic(p)
			}
			killed = true
		}
		must(e.t, x.close())
	}()
	snap, err := e.a.catalog().Snapshot()
	must(e.t, err)
	t, _ := snap.TenantByID(e.id)
	out, err = x.one(context.Background(), t, false, false)
	return out, err, false
}

func (e *ended) dataset() string { return filepath.Join(e.a.dir, "tenants", e.id) }

func (e *ended) contents() int {
	n := 0
	filepath.WalkDir(filepath.Join(e.dataset(), "store"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			n++
		}
		return nil
	})
	return n
}

func (e *ended) live() int {
	list, _ := os.ReadDir(filepath.Join(e.dataset(), "files"))
	return len(list)
}

func (e *ended) gone() bool {
	_, err := os.Lstat(e.dataset())
	return errors.Is(err, fs.ErrNotExist)
}

// A removed tenant goes in its time: names after the cool-down of the expire process itself, contents after the lock, the dataset last.
func TestRemovalLife(t *testing.T) {
	e := newEnded(t, true)
	time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second + 10*time.Millisecond)))
	before := time.Now().UTC().Format(time.RFC3339)
	e.remove()
	step := func(when string, live, contents int, gone bool) {
		t.Helper()
		for range 2 { // a second run changes nothing
			if _, err, _ := e.run(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		if e.gone() != gone || !gone && (e.live() != live || e.contents() != contents) {
			t.Fatalf("%s: gone %v, %d live, %d contents", when, e.gone(), e.live(), e.contents())
		}
	}
	step("when it is due by the catalog's clock", 2, 3, false)
	e.machine.up += 7*testDay - time.Second
	step("before expire's own cool-down is over", 2, 3, false)
	e.machine.up += time.Second
	step("after the cool-down", 0, 3, false)
	e.machine.up += 30*testDay - time.Second
	step("before the lock is over", 0, 3, false)

	// Until then the operator gets everything back.
	to := filepath.Join(t.TempDir(), "back")
	if code := run([]string{"restore", "acme", "--at", before, "--to", to, "--dir", e.a.dir}, strings.NewReader(""), &e.out, &e.out); code != 0 {
		t.Fatalf("restore: %d\n%s", code, &e.out)
	}
	if b, _ := os.ReadFile(filepath.Join(to, "d", "e", "c")); string(b) != "d/e/c" {
		t.Errorf("restored %q", b)
	}
	must(t, e.a.catalog().Hold("acme", tenant.Hold{Snapshot: "first", At: 1 << 40, Reason: "court"}))
	e.machine.up += 300 * testDay
	step("with a hold, though of nothing", 0, 0, false)
	must(t, e.a.catalog().Release("acme", "first", ""))
	step("in the cool-down of the release", 0, 0, false)
	e.machine.up += 7 * testDay
	step("after the last hold", 0, 0, true)

	r, err := retention.ReadRemoved(filepath.Join(e.a.dir, expireDir, e.id))
	if err != nil || r.Name != "acme" || r.Who != "olga" || r.Why != "left us" || r.Tenant != e.id {
		t.Errorf("removed.json: %+v, %v", r, err)
	}
	e.again()
}

// again adds a tenant of the same name.
func (e *ended) again() {
	e.t.Helper()
	e.out.Reset()
	if code := run([]string{"tenant", "add", "acme", "--dir", e.a.dir}, strings.NewReader(""), &e.out, &e.out); code != 0 {
		e.t.Fatalf("again: %d\n%s", code, &e.out)
	}
	snap, err := e.a.catalog().Snapshot()
	must(e.t, err)
	if got, _ := snap.Tenant("acme"); got.ID == e.id || got.Removal != nil || len(snap.All()) != 2 || !e.gone() {
		e.t.Errorf("again: %+v", got)
	}
}

// The name is not free a moment too early.
func TestRemovedNameIsTaken(t *testing.T) {
	e := newEnded(t, true)
	e.remove()
	for range 3 {
		if code := run([]string{"tenant", "add", "acme", "--dir", e.a.dir}, strings.NewReader(""), &e.out, &e.out); code != exitConflict {
			t.Fatalf("add: %d\n%s", code, &e.out)
		}
		e.machine.up += 8 * testDay
		e.run()
	}
}

// A tenant that never had a dataset goes when it is due.
func TestRemoveNeverUsed(t *testing.T) {
	e := newEnded(t, false)
	e.remove()
	if out, err, _ := e.run(); err != nil || out.Removed {
		t.Fatalf("too early: %+v, %v", out, err)
	}
	e.machine.up += 7 * testDay
	if out, err, _ := e.run(); err != nil || !out.Removed {
		t.Fatalf("%+v, %v", out, err)
	}
	e.again()
}

// A dataset that is not there is an error, until it is there again.
func TestRemoveMissingDataset(t *testing.T) {
	e := newEnded(t, true)
	e.remove()
	e.run()
	e.machine.up += 7 * testDay
	away := e.dataset() + ".away"
	must(t, os.Rename(e.dataset(), away))
	if out, err, _ := e.run(); !errors.Is(err, retention.ErrMissing) || out.Removed {
		t.Fatalf("%+v, %v", out, err)
	}
	must(t, os.Rename(away, e.dataset()))
	if out, err, _ := e.run(); err != nil || out.Retired == 0 {
		t.Fatalf("%+v, %v", out, err)
	}
}

// What somebody put into the store is not taken away with the directory.
func TestRemoveNotEmpty(t *testing.T) {
	e := newEnded(t, true)
	e.remove()
	e.run()
	e.machine.up += 7 * testDay
	e.run()
	e.run() // sees what it let go of
	e.machine.up += 31 * testDay
	strange := filepath.Join(e.dataset(), "store", "strange")
	must(t, os.WriteFile(strange, []byte("x"), 0o600))
	e.run()
	if _, err, _ := e.run(); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(strange); err != nil {
		t.Error(err)
	}
	must(t, os.Remove(strange))
	if out, err, _ := e.run(); err != nil || !e.gone() {
		t.Errorf("%+v, %v", out, err)
	}
}

// A veto in time leaves nothing behind: the next removal waits anew.
func TestRemovalVetoed(t *testing.T) {
	e := newEnded(t, true)
	_, err := tenant.New(e.a.dir, tenant.Options{}).Remove("acme", time.Hour)
	must(t, err)
	e.machine.up += testDay
	e.run()
	_, err = e.a.catalog().Veto("acme")
	must(t, err)
	e.machine.up += 9 * testDay
	e.run()
	e.remove()
	if _, err, _ := e.run(); err != nil || e.live() != 2 {
		t.Errorf("%d live, %v", e.live(), err)
	}
}

// Killed before any of its steps, the next run goes on; and what is kept is there until its time.
func TestRemovalKilled(t *testing.T) {
	for kill := 1; ; kill++ {
		e := newEnded(t, true)
		e.remove()
		kills := 0
		again := func(what string) {
			t.Helper()
			e.kill = kill
			_, err, killed := e.run()
			if !killed && err != nil {
				t.Fatalf("%s, step %d: %v", what, kill, err)
			}
			if killed {
				kills++
			}
			e.kill = 0
			for range 2 {
				if _, err, _ := e.run(); err != nil {
					t.Fatalf("%s, step %d, gone on with: %v", what, kill, err)
				}
			}
		}
		again("seen")
		e.machine.up += 7 * testDay
		again("cleared")
		if e.live() != 0 || e.contents() != 3 {
			t.Fatalf("step %d: %d live, %d contents", kill, e.live(), e.contents())
		}
		e.machine.up += 31 * testDay
		again("freed")
		e.kill = kill
		if _, _, killed := e.run(); killed {
			kills++
		}
		e.kill = 0
		if out, err, _ := e.run(); err != nil || !out.Removed || !e.gone() {
			t.Fatalf("step %d: %+v, %v", kill, out, err)
		}
		left, _ := filepath.Glob(filepath.Join(e.a.dir, "tenants", ".*"))
		if len(left) > 0 {
			t.Fatalf("step %d: left %v", kill, left)
		}
		if kills == 0 {
			if kill < 10 {
				t.Fatalf("only %d steps", kill)
			}
			return
		}
	}
}

// The last run of all, killed at each of its steps.
func TestRemovalLastRunKilled(t *testing.T) {
	for kill := 1; ; kill++ {
		e := newEnded(t, true)
		e.remove()
		e.run()
		e.machine.up += 7 * testDay
		e.run()
		e.run() // sees what it let go of
		e.machine.up += 31 * testDay
		e.run() // frees; the next one is the last
		e.kill = kill
		_, err, killed := e.run()
		if !killed {
			if err != nil || !e.gone() || kill < 8 {
				t.Fatalf("after %d steps: %v, gone %v", kill, err, e.gone())
			}
			return
		}
		e.kill = 0
		if out, err, _ := e.run(); err != nil || !out.Removed || !e.gone() {
			t.Fatalf("step %d: %+v, %v", kill, out, err)
		}
		e.again()
	}
}

// The server lets nobody clear or release a tenant that was not removed.
func TestClearRefused(t *testing.T) {
	e := newEnded(t, true)
	must(t, e.a.local(func(o *operations) error {
		for what, err := range map[string]error{
			"clear":   func() error { _, err := o.st.Clear(context.Background(), e.id, "x"); return err }(),
			"release": o.st.Release(e.id),
		} {
			if !errors.Is(err, tenant.ErrConflict) {
				t.Errorf("%s: %v", what, err)
			}
		}
		return nil
	}))
	e.remove()
	must(t, os.RemoveAll(e.dataset()))
	st, err := store.Open(e.a.dir, store.Config{})
	must(t, err)
	if err := st.With(context.Background(), e.id, func(*appendonly.Vault) error { return nil }); !errors.Is(err, tenant.ErrNotFound) || !e.gone() {
		t.Errorf("a dataset for a removed tenant: %v", err)
	}
	if _, _, err := st.Vault(context.Background(), e.id); !errors.Is(err, store.ErrRemoved) {
		t.Errorf("a session: %v", err)
	}
	must(t, st.Close())
}

// On a disk that is full nothing goes that was not written down before, and with room again the removal goes on.
func TestRemovalDiskFull(t *testing.T) {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: this test mounts a small disk")
		}
		t.Skip("a disk of its own needs root to mount it: run tests/run as root to see this one")
	}
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"))
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	e := newEndedIn(t, dir, true)
	e.remove()
	filler := filepath.Join(dir, "filler")
	failed := 0
	stage := func(what string, gone bool) {
		t.Helper()
		f, err := os.Create(filler)
		must(t, err)
		for b := make([]byte, 1<<16); err == nil; {
			_, err = f.Write(b)
		}
		for err = nil; err == nil; {
			_, err = f.Write([]byte{0})
		}
		must(t, f.Close())
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
		if _, err, _ := e.run(); err != nil {
			failed++
		}
		must(t, os.Remove(filler))
		for range 2 {
			if _, err, _ := e.run(); err != nil {
				t.Fatalf("%s: with room again: %v", what, err)
			}
		}
		if e.gone() != gone {
			t.Fatalf("%s: gone %v", what, e.gone())
		}
	}
	stage("seen", false)
	e.machine.up += 7 * testDay
	stage("cleared", false)
	if e.live() != 0 || e.contents() != 3 {
		t.Fatalf("%d live, %d contents", e.live(), e.contents())
	}
	e.machine.up += 31 * testDay
	stage("freed and gone", true)
	if failed < 2 {
		t.Errorf("only %d runs found the disk full", failed)
	}
	e.again()
}
