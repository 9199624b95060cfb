package retention_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// world is a vault, its expire, and two clocks: the wall's, which anybody may set, and how long the machine has been up.
type world struct {
	t     tester
	dir   string
	vol   *volume.Volume
	vault *appendonly.Vault
	key   int

	wall time.Time
	boot int
	up   time.Duration

	policy   tenant.Retention
	coolDown time.Duration
	kill     int              // the step before which the next run is killed; 0: none
	report   retention.Report // of the last run

	forged bool  // the oracle reads the journal no more
	pool   *pool // nil: snapshots have no bodies

	// What the oracle knows.
	age      time.Duration // that counts: up time since the first run, as far as runs saw it
	lastBoot int
	lastUp   time.Duration
	lastWall time.Time
	base     time.Time
	sights   []sight
	policies []stood
	lock     time.Duration
	times    map[journal.Seq]time.Time // of snapshots, as believed
	believed time.Time
	dropped  map[journal.Seq]bool
	gone     map[journal.ID]bool // rightly: what is weaker than a later policy stays gone
}

type sight struct {
	seq journal.Seq
	age time.Duration
}

type stood struct {
	policy tenant.Retention
	until  time.Duration // -1: in force
}

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

var errKilled = errors.New("killed")

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) Boot() (string, time.Duration, error) { return fmt.Sprint("boot ", w.boot), w.up, nil }
func (w *world) Now() time.Time                       { return w.wall }

func newWorld(t tester, dir string) *world {
	w := &world{t: t, dir: dir, wall: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), boot: 1, up: time.Hour, coolDown: 48 * time.Hour,
		policy: tenant.Retention{Lock: 24 * time.Hour, Keep: &tenant.Keep{Hourly: 2, Daily: 3, Weekly: 2}},
		times:  map[journal.Seq]time.Time{}, dropped: map[journal.Seq]bool{}, gone: map[journal.ID]bool{}}
	w.must(volume.Create(filepath.Join(dir, "data")))
	w.must(volume.Create(filepath.Join(dir, "chain")))
	w.open()
	return w
}

func (w *world) open() {
	vol, err := volume.Open(filepath.Join(w.dir, "data"))
	w.must(err)
	v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Policy: appendonly.Policy{Mode: appendonly.Versioned},
		Now: w.Now, Boot: fmt.Sprint("boot ", w.boot), BarrierEvery: time.Hour, SegmentEvery: 24 * 365 * time.Hour})
	w.must(err)
	w.vol, w.vault = vol, v
}

func (w *world) close() {
	w.must(w.vault.Close())
	w.must(w.vol.Close())
}

func (w *world) as(f func(*appendonly.FS) error) {
	s := w.vault.Session(appendonly.Who{Key: "key"})
	err := f(s)
	w.must(s.Close(context.Background()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
		w.t.Fatal(err)
	}
}

func (w *world) put(name string) {
	w.key++
	w.as(func(f *appendonly.FS) error {
		u, err := f.Create("/"+name, appendonly.CreateOptions{Create: true, Truncate: true})
		if err != nil {
			return err
		}
		if _, err := u.WriteAt(fmt.Appendf(nil, "content %d of %s", w.key, name), 0); err != nil {
			return err
		}
		return u.Close()
	})
}

// pass lets time go by, on both clocks.
func (w *world) pass(d time.Duration) {
	w.wall = w.wall.Add(d)
	w.up += d
}

// Freed implements retention.Server.
func (w *world) Freed(_ context.Context, freed []journal.Freed, dropped []journal.Seq) error {
	return w.vault.Freed(freed, dropped)
}

// Retire implements retention.Server.
func (w *world) Retire(ctx context.Context, names []retention.Name, why string) (n int, err error) {
	var standing []appendonly.Standing
	for _, x := range names {
		standing = append(standing, appendonly.Standing(x))
	}
	err = w.vault.RetireStanding(ctx, standing, why, func(appendonly.Retired) { n++ })
	return n, err
}

// settle waits until what was published is in the store: the vault moves it there beside everything else.
func (w *world) settle() {
	w.t.Helper()
	w.must(w.vault.Barrier(context.Background()))
	for range 10_000 {
		staged, err := w.vol.Staged()
		w.must(err)
		if len(staged) == 0 {
			return
		}
		time.Sleep(time.Millisecond)
	}
	w.t.Fatal("contents stay in staging")
}

// expire runs once, or is killed on the way. It reports whether it came to its end.
func (w *world) expire() (ended bool) {
	ended, err := w.tryExpire()
	w.must(err)
	return ended
}

func (w *world) tryExpire() (ended bool, err error) {
	w.settle()
	contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
	w.must(err)
	defer contents.Close()
	chain, err := volume.Open(filepath.Join(w.dir, "chain"))
	w.must(err)
	defer chain.Close()
	var x *retention.Expire
	steps, kill := 0, w.kill
	w.kill = 0
	defer func() {
		if p := recover(); p != nil {
			if p != errKilled {
				panic(p)
			}
			if x != nil { // the kernel closes what a process leaves
				x.Close()
			} else {
				retention.CloseLeaked()
			}
		}
	}()
	cfg := retention.Config{Dir: filepath.Join(w.dir, "state"), Tenant: "t-1", Policy: w.policy, CoolDown: w.coolDown,
		Contents: contents, Chain: chain, Server: w, Machine: w, Step: func(string) {
			if steps++; steps == kill {
				panic(errKilled)
			}
		}}
	if w.pool != nil {
		cfg.Bodies = w.pool
	}
	x, err = retention.Open(context.Background(), cfg)
	if err != nil {
		return false, err
	}
	if !w.forged {
		w.observe()
	}
	w.report, err = x.Run(context.Background())
	return true, errors.Join(err, x.Close())
}

// observe is what the oracle makes of a run: its own account of time, policies and records.
func (w *world) observe() {
	before := time.Time{}
	if !w.base.IsZero() {
		before = w.base.Add(w.age)
	}
	switch {
	case w.base.IsZero():
		w.base = w.wall
	case w.boot != w.lastBoot:
		w.age += max(0, min(w.up, w.wall.Sub(w.lastWall)))
	case w.up > w.lastUp:
		w.age += w.up - w.lastUp
	}
	w.lastBoot, w.lastUp, w.lastWall = w.boot, w.up, w.wall
	w.lock = max(w.lock, w.policy.Lock)
	if n := len(w.policies); n == 0 || fmt.Sprint(deep(w.policies[n-1].policy)) != fmt.Sprint(deep(w.policy)) {
		if n > 0 {
			w.policies[n-1].until = w.age
		}
		w.policies = append(w.policies, stood{w.policy, -1})
	}
	_, snaps, head := w.history()
	w.sights = append(w.sights, sight{head, w.age})
	for _, s := range snaps {
		if _, known := w.times[s.Seq]; known {
			continue
		}
		at := s.Time
		if at.Before(before) { // it was not there then
			at = before
		}
		if at.Before(w.believed) {
			at = w.believed
		}
		if now := w.base.Add(w.age); at.After(now) {
			at = now
		}
		w.believed, w.times[s.Seq] = at, at
	}
}

func deep(p tenant.Retention) string {
	keep := "all"
	if p.Keep != nil {
		keep = fmt.Sprint(*p.Keep)
	}
	return fmt.Sprint(p.Lock, keep, p.Rules, p.Holds)
}

// stay is a stretch in which a name stood for a content; to is 0 while it does.
type stay struct {
	id       journal.ID
	from, to journal.Seq
}

// history reads the closed segments as a child would.
func (w *world) history() (stays []stay, snaps []*journal.Record, head journal.Seq) {
	live := map[string]int{}
	end := func(name string, seq journal.Seq) {
		if i, ok := live[name]; ok {
			stays[i].to = seq
			delete(live, name)
		}
	}
	begin := func(name string, id journal.ID, seq journal.Seq) {
		end(name, seq)
		live[name] = len(stays)
		stays = append(stays, stay{id: id, from: seq})
	}
	_, err := journal.NewReader(w.vol).Closed(journal.Head{}, func(r *journal.Record) error {
		head = r.Seq
		switch r.Op {
		case journal.OpCreate:
			begin(r.Path, r.ID, r.Seq)
		case journal.OpRemove:
			end(r.Path, r.Seq)
		case journal.OpLink:
			begin(r.To, stays[live[r.Path]].id, r.Seq)
		case journal.OpMove:
			id := stays[live[r.Path]].id
			end(r.Path, r.Seq)
			begin(r.To, id, r.Seq)
		case journal.OpSnapshot:
			snaps = append(snaps, r)
		}
		return nil
	})
	w.must(err)
	return stays, snaps, head
}

// seen is the age at which a record was first seen.
func (w *world) seen(seq journal.Seq) time.Duration {
	for _, s := range w.sights {
		if seq <= s.seq {
			return s.age
		}
	}
	return w.age
}

// kept are the instants that schedules and holds keep.
func (w *world) kept(snaps []*journal.Record) map[journal.Seq]bool {
	out := map[journal.Seq]bool{}
	for _, s := range slices.Backward(snaps) {
		if !w.dropped[s.Seq] {
			out[s.Seq] = true // the newest state
			break
		}
	}
	for _, p := range w.policies {
		if p.until >= 0 && w.age-p.until >= w.coolDown {
			continue
		}
		for _, h := range p.policy.Holds {
			out[journal.Seq(h.At)] = true
		}
		if p.policy.Keep == nil {
			continue
		}
		week := func(t time.Time) string { y, n := t.ISOWeek(); return fmt.Sprint(y, "-", n) }
		for _, rule := range []struct {
			n  int
			of func(time.Time) string
		}{
			{p.policy.Keep.Hourly, func(t time.Time) string { return t.Format("2006-01-02T15") }},
			{p.policy.Keep.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
			{p.policy.Keep.Weekly, week},
			{p.policy.Keep.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
			{p.policy.Keep.Yearly, func(t time.Time) string { return t.Format("2006") }},
		} {
			newest := map[string]journal.Seq{}
			var order []string
			for _, s := range snaps {
				if w.dropped[s.Seq] {
					continue
				}
				k := rule.of(w.times[s.Seq].UTC())
				if _, ok := newest[k]; !ok {
					order = append(order, k)
				}
				newest[k] = s.Seq
			}
			for _, k := range order[max(0, len(order)-rule.n):] {
				out[newest[k]] = true
			}
		}
	}
	return out
}

// check compares the disk with what should be on it after a run that came to its end.
func (w *world) check() {
	stays, snaps, _ := w.history()
	kept := w.kept(snaps)
	all := false
	for _, p := range w.policies {
		all = all || p.policy.Keep == nil && (p.until < 0 || w.age-p.until < w.coolDown)
	}
	want := map[journal.ID]string{}
	for _, s := range stays {
		why := want[s.id]
		switch {
		case s.to == 0:
			why += " live"
		case all:
			why += " all"
		case w.age < w.seen(s.to)+w.lock:
			why += " locked"
		}
		for at := range kept {
			if s.from <= at && at < s.to {
				why += fmt.Sprint(" kept by ", at)
			}
		}
		want[s.id] = why
	}
	for id, why := range want {
		_, err := w.vol.Inode(id)
		switch {
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			w.t.Fatal(err)
		case w.gone[id]:
			if err == nil {
				w.t.Fatalf("content %s is there again", id)
			}
		case why != "" && err != nil:
			w.t.Fatalf("content %s is gone, and is%s", id, why)
		case why == "" && err == nil:
			w.t.Fatalf("content %s is there, and nothing keeps it", id)
		default:
			w.gone[id] = why == ""
		}
	}
	have, err := w.vault.Snapshots()
	w.must(err)
	for _, s := range snaps {
		listed := slices.ContainsFunc(have, func(x appendonly.SnapshotInfo) bool { return x.At == s.Seq })
		stays := all || kept[s.Seq] || w.age < w.seen(s.Seq)+w.lock
		if w.dropped[s.Seq] {
			stays = false
		}
		if w.pool != nil {
			stays = w.pool.check(w, s, stays)
		}
		if listed != stays {
			w.t.Fatalf("snapshot %s (record %d): listed %v, should be %v", s.Note, s.Seq, listed, stays)
		}
		if !stays {
			w.dropped[s.Seq] = true
		}
	}
	// What is live is whole, and the account says what is there.
	f := w.vault.Session(appendonly.Who{Key: "key"})
	defer f.Close(context.Background())
	d, err := f.OpenDir("/")
	w.must(err)
	for {
		list, err := d.Next(100)
		for _, n := range list {
			c, err := f.Open("/" + n.Name)
			w.must(err)
			w.must(c.Close())
		}
		if err != nil || len(list) == 0 {
			break
		}
	}
}

// passLock lets time go by until just before, or exactly to, the end of a lock.
func (w *world) passLock(t *rapid.T) {
	if w.boot != w.lastBoot || w.up < w.lastUp {
		return
	}
	stays, snaps, _ := w.history()
	var ends []time.Duration
	add := func(seq journal.Seq) {
		if d := w.seen(seq) + max(w.lock, w.policy.Lock) - w.age - (w.up - w.lastUp); d > time.Minute {
			ends = append(ends, d)
		}
	}
	for _, s := range stays {
		if s.to != 0 {
			add(s.to)
		}
	}
	for _, s := range snaps {
		add(s.Seq)
	}
	if len(ends) > 0 {
		w.pass(rapid.SampledFrom(ends).Draw(t, "end") - rapid.SampledFrom([]time.Duration{0, time.Nanosecond, time.Second}).Draw(t, "before"))
	}
}

// TestModel lets random histories, schedules, holds, clocks and crashes happen, and compares after each run what is on the disk
// with what a plain reading of the rules says: nothing that a rule keeps is gone, and nothing else is there.
func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		testModel(t, false)
	})
}

// TestModelBodies is TestModel on ZFS, as far as that is lists, holds and destroying, with readers, others' snapshots, and calls that fail, or fail
// when they are done: no body that a rule, the lock or a hold keeps is ever destroyed, by whatever call, and what should go is gone in the end.
func TestModelBodies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		testModel(t, true)
	})
}

func testModel(t *rapid.T, bodies bool) {
	dir, err := os.MkdirTemp("", "retention")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	w := newWorld(t, dir)
	if bodies {
		w.pool = newPool(w)
	}
	defer func() { w.vault.Close(); w.vol.Close() }()
	name := rapid.SampledFrom([]string{"a", "b", "c", "d"})
	snapshots := 0
	actions := map[string]func(*rapid.T){
		"put":  func(t *rapid.T) { w.t = t; w.put(name.Draw(t, "name")) },
		"put2": func(t *rapid.T) { w.t = t; w.put(name.Draw(t, "name")) },
		"remove": func(t *rapid.T) {
			w.t = t
			w.as(func(f *appendonly.FS) error { return f.Remove("/" + name.Draw(t, "name")) })
		},
		"link": func(t *rapid.T) {
			w.t = t
			w.as(func(f *appendonly.FS) error { return f.Link("/"+name.Draw(t, "from"), "/"+name.Draw(t, "to")) })
		},
		"rename": func(t *rapid.T) {
			w.t = t
			w.as(func(f *appendonly.FS) error {
				return f.Rename("/"+name.Draw(t, "from"), "/"+name.Draw(t, "to"), true)
			})
		},
		"snapshot": func(t *rapid.T) {
			w.t = t
			snapshots++
			w.snapshot(fmt.Sprint("s", snapshots))
			if w.pool != nil && rapid.IntRange(0, 3).Draw(t, "body") > 0 { // a push's has none
				w.pool.make(w)
			}
		},
		"pass": func(t *rapid.T) {
			w.t = t
			w.pass(time.Duration(rapid.IntRange(1, 40*60).Draw(t, "minutes")) * time.Minute)
		},
		"days": func(t *rapid.T) {
			w.t = t
			w.pass(time.Duration(rapid.IntRange(1, 20).Draw(t, "days")) * 24 * time.Hour)
		},
		"a lock ends": func(t *rapid.T) { // or is about to
			w.t = t
			w.passLock(t)
			if w.expire() {
				w.check()
			}
		},
		"clock is set": func(t *rapid.T) {
			w.t = t
			w.wall = w.wall.Add(time.Duration(rapid.IntRange(-90, 400).Draw(t, "days")) * 24 * time.Hour)
		},
		"reboot": func(t *rapid.T) {
			w.t = t
			w.close()
			w.boot++
			w.up = time.Duration(rapid.IntRange(0, 3).Draw(t, "hours")) * time.Hour
			w.wall = w.wall.Add(time.Duration(rapid.IntRange(0, 72).Draw(t, "hours off")) * time.Hour)
			w.open()
		},
		"set back": func(t *rapid.T) {
			w.t = t
			w.up = max(0, w.up-time.Duration(rapid.IntRange(1, 200).Draw(t, "hours"))*time.Hour)
		},
		"policy": func(t *rapid.T) {
			w.t = t
			n := rapid.IntRange(0, 4)
			w.policy.Keep = &tenant.Keep{Hourly: n.Draw(t, "h"), Daily: n.Draw(t, "d"), Weekly: n.Draw(t, "w"), Monthly: n.Draw(t, "m"), Yearly: n.Draw(t, "y")}
			switch rapid.IntRange(0, 7).Draw(t, "all or nothing") {
			case 0:
				w.policy.Keep = nil
			case 1:
				w.policy.Keep = &tenant.Keep{}
			}
			w.policy.Lock = time.Duration(rapid.IntRange(1, 60).Draw(t, "lock hours")) * time.Hour
		},
		"hold": func(t *rapid.T) {
			w.t = t
			have, err := w.vault.Snapshots()
			w.must(err)
			if len(have) > 0 {
				s := rapid.SampledFrom(have).Draw(t, "snapshot")
				w.policy.Holds = append(slices.Clip(w.policy.Holds), tenant.Hold{Snapshot: s.Name, At: uint64(s.At), Reason: "test"})
			}
		},
		"release": func(t *rapid.T) { w.t = t; w.policy.Holds = nil },
		"expire": func(t *rapid.T) {
			w.t = t
			if w.expire() {
				w.check()
			}
		},
		"killed": func(t *rapid.T) {
			w.t = t
			w.passLock(t) // so that there is something to be killed in
			w.kill = rapid.IntRange(1, 30).Draw(t, "step")
			w.expire()
			for !w.expire() { // the next one does the rest
			}
			w.check()
		},
		"index lost": func(t *rapid.T) {
			w.t = t
			os.Remove(filepath.Join(w.dir, "state", "index.db"))
		},
	}
	if bodies {
		w.pool.actions(w, actions)
	}
	t.Repeat(actions)
}
