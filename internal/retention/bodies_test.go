package retention_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
)

// pool is ZFS as far as one dataset's snapshots, their holds and their readers go.
type pool struct {
	w      *world
	all    map[string]*zsnap
	next   uint64
	before func(op, name string) error // fails a call that then does nothing
	after  func(op, name string) error // fails a call that was done
	calls  []string
}

type zsnap struct {
	retention.Body
	tags   map[string]bool
	reader bool
	of     *journal.Record // its snapshot's record; nil: of none
	seen   bool            // by a run that came to its end
}

func newPool(w *world) *pool { return &pool{w: w, all: map[string]*zsnap{}, next: 100} }

func (p *pool) add(name string, of *journal.Record, seq, head string, tags ...string) *zsnap {
	p.next++
	z := &zsnap{Body: retention.Body{Name: name, GUID: p.next * 1_000_003, CreateTXG: p.next, Created: p.w.wall, Seq: seq, Head: head}, tags: map[string]bool{}, of: of}
	for _, t := range tags {
		z.tags[t] = true
	}
	p.all[name] = z
	return z
}

// make makes the newest snapshot's body.
func (p *pool) make(w *world) *zsnap {
	_, snaps, _ := w.history()
	r := snaps[len(snaps)-1]
	return p.add(snapshot.BodyName(r.Note), r, fmt.Sprint(r.Seq), r.Chain.String(), snapshot.HoldTag)
}

func (p *pool) call(op, name string, do func() error) error {
	p.calls = append(p.calls, op+" "+name)
	if p.before != nil {
		if err := p.before(op, name); err != nil {
			return err
		}
	}
	if err := do(); err != nil {
		return err
	}
	if p.after != nil {
		return p.after(op, name)
	}
	return nil
}

func (p *pool) List(_ context.Context, names ...string) (out []retention.Body, err error) {
	err = p.call("list", strings.Join(names, ","), func() error {
		for _, name := range slices.Sorted(maps.Keys(p.all)) {
			if z := p.all[name]; len(names) == 0 || slices.Contains(names, name) {
				b := z.Body
				b.Refs = len(z.tags)
				if len(names) > 0 {
					b.Holds = slices.Sorted(maps.Keys(z.tags))
				}
				out = append(out, b)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// is finds the one that is still b.
func (p *pool) is(b retention.Body) (*zsnap, error) {
	z := p.all[b.Name]
	if z == nil || z.GUID != b.GUID || z.CreateTXG != b.CreateTXG {
		return nil, errors.New("no such snapshot")
	}
	return z, nil
}

func (p *pool) Hold(_ context.Context, b retention.Body, tag string) error {
	return p.call("hold", b.Name, func() error {
		z, err := p.is(b)
		if err == nil {
			z.tags[tag] = true
		}
		return err
	})
}

func (p *pool) Release(_ context.Context, b retention.Body, tag string) error {
	return p.call("release", b.Name, func() error {
		z, err := p.is(b)
		if err == nil {
			delete(z.tags, tag)
		}
		return err
	})
}

func (p *pool) Destroy(_ context.Context, b retention.Body) error {
	return p.call("destroy", b.Name, func() error {
		z, err := p.is(b)
		switch {
		case err != nil:
			return err
		case len(z.tags) > 0 || z.reader:
			return retention.ErrInUse
		}
		p.safe(z)
		delete(p.all, b.Name)
		return nil
	})
}

// safe is asked of every body that is destroyed: by a plain reading of the rules, may it?
func (p *pool) safe(z *zsnap) {
	w := p.w
	if z.of == nil {
		w.t.Fatalf("%s, which is no body of ours, is destroyed", z.Name)
	}
	if w.forged {
		return
	}
	_, snaps, _ := w.history()
	if w.keeps(snaps, z.of) {
		w.t.Fatalf("%s is destroyed, and is kept", z.Name)
	}
}

// keeps says whether a rule, the lock or a hold keeps a snapshot.
func (w *world) keeps(snaps []*journal.Record, s *journal.Record) bool {
	for _, p := range w.policies {
		if p.policy.Keep == nil && (p.until < 0 || w.age-p.until < w.coolDown) {
			return true
		}
	}
	return w.kept(snaps)[s.Seq] || w.age < w.seen(s.Seq)+w.lock
}

// check says whether a snapshot is to be listed, and wants its body to be there for as long, with the holds that it should have.
func (p *pool) check(w *world, s *journal.Record, stays bool) bool {
	z := p.all[snapshot.BodyName(s.Note)]
	if z == nil || z.of == nil {
		return stays
	}
	held := false
	for _, x := range w.policies {
		if x.until < 0 || w.age-x.until < w.coolDown {
			held = held || slices.ContainsFunc(x.policy.Holds, func(h tenant.Hold) bool { return journal.Seq(h.At) == s.Seq })
		}
	}
	switch {
	case held != z.tags[snapshot.LegalTag]:
		w.t.Fatalf("%s: held %v, tags %v", z.Name, held, z.tags)
	case w.seen(s.Seq) < w.age && !z.tags[snapshot.HoldTag] && !z.tags["else"]:
		w.t.Fatalf("%s is there without a hold", z.Name)
	case stays:
	case !z.reader && !z.tags["else"]:
		w.t.Fatalf("%s is there, and nothing keeps it", z.Name)
	case !slices.ContainsFunc(w.report.Busy, func(b retention.Strange) bool { return b.Name == z.Name }):
		w.t.Fatalf("%s stays, and is not told: %v", z.Name, w.report.Busy)
	}
	z.seen = true
	return true
}

var errPool = errors.New("pool I/O is currently suspended")

// actions adds to the model what happens on ZFS.
func (p *pool) actions(w *world, m map[string]func(*rapid.T)) {
	some := func(t *rapid.T) *zsnap {
		names := slices.Sorted(maps.Keys(p.all))
		if len(names) == 0 {
			return nil
		}
		return p.all[rapid.SampledFrom(names).Draw(t, "body")]
	}
	m["reader"] = func(t *rapid.T) {
		if z := some(t); z != nil {
			z.reader = !z.reader
		}
	}
	m["somebody's hold"] = func(t *rapid.T) {
		if z := some(t); z != nil && z.tags["else"] {
			delete(z.tags, "else")
		} else if z != nil {
			z.tags["else"] = true
		}
	}
	m["hold lost"] = func(t *rapid.T) {
		if z := some(t); z != nil {
			delete(z.tags, snapshot.HoldTag)
		}
	}
	m["strange"] = func(t *rapid.T) {
		w.t = t
		_, snaps, _ := w.history()
		if len(snaps) == 0 {
			return
		}
		r := rapid.SampledFrom(snaps).Draw(t, "of")
		head := r.Chain.String()
		switch name := snapshot.BodyName(r.Note); rapid.IntRange(0, 4).Draw(t, "how") {
		case 0:
			p.add("autosnap", nil, fmt.Sprint(r.Seq), head)
		case 1:
			p.add(snapshot.BodyName("other"), nil, fmt.Sprint(r.Seq), head)
		case 2:
			p.add(snapshot.BodyName("copy"), nil, "", "")
		default: // another under a name that we know
			if z := p.all[name]; z == nil {
				p.add(name, nil, fmt.Sprint(r.Seq), strings.Repeat("0", len(head)))
			} else if z.seen && z.of != nil {
				p.add(name, nil, z.Seq, z.Head)
			}
		}
	}
	m["calls fail"] = func(t *rapid.T) {
		w.t = t
		w.passLock(t)
		fail := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 30).Draw(t, "faults")
		n := 0
		fault := func(kind int) func(string, string) error {
			return func(string, string) error {
				n++
				if fail[n%len(fail)] == kind {
					return errPool
				}
				return nil
			}
		}
		p.before, p.after = fault(0), fault(1)
		w.kill = rapid.IntRange(0, 60).Draw(t, "step")
		_, err := w.tryExpire()
		p.before, p.after = nil, nil
		if err != nil && !errors.Is(err, errPool) {
			t.Fatal(err)
		}
		for !w.expire() { // well again
		}
		w.check()
	}
}

// bodied is a world with three snapshots, of which the first two may go, with bodies.
func bodied(t *testing.T) *world {
	w := newTestWorld(t)
	w.pool = newPool(w)
	w.policy.Keep = &tenant.Keep{Daily: 1}
	for i := range 3 {
		w.put("a")
		w.snapshot(fmt.Sprint("s", i))
		w.pool.make(w)
		w.pass(day)
	}
	w.expire()
	w.pass(60 * day)
	return w
}

func (p *pool) names() string { return strings.Join(slices.Sorted(maps.Keys(p.all)), " ") }

func (w *world) listed() string {
	have, err := w.vault.Snapshots()
	w.must(err)
	var s []string
	for _, x := range have {
		s = append(s, x.Name)
	}
	return strings.Join(s, " ")
}

func (w *world) chainText() string {
	var s []string
	x, err := w.openExpire(w.t.(*testing.T), nil)
	w.must(err)
	defer x.Close()
	for _, r := range retention.ChainRecords(x) {
		if r.What == "body" {
			s = append(s, strings.TrimSpace(fmt.Sprint(r.Op, " ", r.Note)))
		}
	}
	return strings.Join(s, "\n")
}

// Bodies go first, one at a time, and the own chain has it before and after.
func TestBodies(t *testing.T) {
	w := bodied(t)
	w.pool.calls = nil
	w.expire()
	w.check()
	if w.pool.names() != "vaultd-s2" || w.listed() != "s2" || w.report.Bodies != 2 || w.report.Dropped != 2 || w.report.Contents != 2 {
		t.Errorf("left %s, listed %s, report %+v", w.pool.names(), w.listed(), w.report)
	}
	if got := strings.Join(w.pool.calls, "; "); got != "list ; list vaultd-s0; release vaultd-s0; destroy vaultd-s0; list vaultd-s1; release vaultd-s1; destroy vaultd-s1" {
		t.Errorf("calls: %s", got)
	}
	got := w.chainText()
	if n := strings.Count(got, "free body vaultd-s"); n != 2 || strings.Count(got, "barrier destroyed") != 2 || !strings.Contains(got, ", guid ") {
		t.Errorf("chain:\n%s", got)
	}
}

// What keeps a body at the last moment, and what the run says of it; the next run does what is left.
func TestBodyStays(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(w *world, s0 *zsnap)
		undo func(w *world, s0 *zsnap)
		says string // of vaultd-s0
		err  error
		end  string // what is left at the end
	}{
		{"a reader", func(_ *world, z *zsnap) { z.reader = true }, func(_ *world, z *zsnap) { z.reader = false }, "in use", nil, "vaultd-s2"},
		{"somebody's hold", func(_ *world, z *zsnap) { z.tags["court"] = true }, func(_ *world, z *zsnap) { delete(z.tags, "court") }, `held with the tag "court"`, nil, "vaultd-s2"},
		{"the operator's tag before the policy says so", func(_ *world, z *zsnap) { z.tags[snapshot.LegalTag] = true }, func(*world, *zsnap) {}, `held with the tag "vaultd-legal"`, nil, "vaultd-s0 vaultd-s2"},
		{"another was made under its name", func(w *world, z *zsnap) { w.pool.add(z.Name, nil, z.Seq, z.Head) }, func(*world, *zsnap) {}, "it was another when it was seen first", nil, "vaultd-s0 vaultd-s2"},
		{"a copy in another pool", func(_ *world, z *zsnap) { z.CreateTXG += 1000; z.reader = true }, func(_ *world, z *zsnap) { z.reader = false }, "in use", nil, "vaultd-s2"},
		{"its number was changed", func(_ *world, z *zsnap) { z.Seq = "7"; z.of = nil }, func(*world, *zsnap) {}, "", nil, "vaultd-s0 vaultd-s2"},
		{"its number is none", func(_ *world, z *zsnap) { z.Seq = "0x5"; z.of = nil }, func(*world, *zsnap) {}, "it does not say the number of a record", nil, "vaultd-s0 vaultd-s2"},
		{"its number is of no record yet", func(_ *world, z *zsnap) { z.Seq = "99999"; z.of = nil }, func(*world, *zsnap) {}, "there is no record 99999", nil, "vaultd-s0 vaultd-s2"},
		{"its hash was changed", func(_ *world, z *zsnap) { z.Head = strings.Repeat("a", 64); z.of = nil }, func(*world, *zsnap) {}, "the hash of record", nil, "vaultd-s0 vaultd-s2"},
		{"the pool is suspended", func(w *world, _ *zsnap) { w.pool.before = func(string, string) error { return errPool } }, func(w *world, _ *zsnap) { w.pool.before = nil }, "", errPool, "vaultd-s2"},
		{"releasing fails", func(w *world, _ *zsnap) { w.pool.before = failing("release") }, func(w *world, _ *zsnap) { w.pool.before = nil }, "", errPool, "vaultd-s2"},
		{"releasing fails, and was done", func(w *world, _ *zsnap) { w.pool.after = failing("release") }, func(w *world, _ *zsnap) { w.pool.after = nil }, "", errPool, "vaultd-s2"},
		{"destroying fails", func(w *world, _ *zsnap) { w.pool.before = failing("destroy") }, func(w *world, _ *zsnap) { w.pool.before = nil }, "", errPool, "vaultd-s2"},
		{"destroying fails, and was done", func(w *world, _ *zsnap) { w.pool.after = failing("destroy") }, func(w *world, _ *zsnap) { w.pool.after = nil }, "", errPool, "vaultd-s2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := bodied(t)
			s0 := w.pool.all["vaultd-s0"]
			before := len(w.contents())
			tt.do(w, s0)
			_, err := w.tryExpire()
			if !errors.Is(err, tt.err) {
				t.Fatalf("got %v, want %v", err, tt.err)
			}
			if tt.err != nil {
				if n := len(w.contents()); n != before || w.listed() != "s0 s1 s2" {
					t.Errorf("%d of %d contents are left, listed %s", n, before, w.listed())
				}
			} else {
				said := w.report.Busy
				if p := w.report.Plan; p != nil {
					said = append(said, p.Bodies.Strange...)
				}
				if !slices.ContainsFunc(said, func(s retention.Strange) bool { return s.Name == "vaultd-s0" && strings.Contains(s.Why, tt.says) }) {
					t.Errorf("said %v", said)
				}
				if w.pool.all["vaultd-s0"] == nil || w.pool.all["vaultd-s1"] != nil {
					t.Errorf("left %s", w.pool.names())
				}
				if z := w.pool.all["vaultd-s0"]; z == s0 && z.of != nil && !z.tags[snapshot.HoldTag] {
					t.Error("it lost its hold")
				}
			}
			tt.undo(w, s0)
			for range 2 {
				if _, err := w.tryExpire(); err != nil {
					t.Fatal(err)
				}
			}
			if got := w.pool.names(); got != tt.end {
				t.Errorf("in the end %s is left, want %s", got, tt.end)
			}
		})
	}
}

func failing(op string) func(string, string) error {
	return func(o, _ string) error {
		if o == op {
			return errPool
		}
		return nil
	}
}

// A hold of the operator's is one of ZFS, for as long as it counts.
func TestLegalHold(t *testing.T) {
	w := bodied(t)
	have, err := w.vault.Snapshots()
	w.must(err)
	legal := func(want bool) {
		t.Helper()
		w.expire()
		if z := w.pool.all["vaultd-s0"]; z == nil || z.tags[snapshot.LegalTag] != want || !z.tags[snapshot.HoldTag] {
			t.Fatalf("want legal %v: %+v", want, z)
		}
	}
	w.policy.Holds = []tenant.Hold{{Snapshot: "s0", At: uint64(have[0].At), Reason: "court"}}
	legal(true)
	delete(w.pool.all["vaultd-s0"].tags, snapshot.LegalTag)
	legal(true) // it is put right
	w.policy.Holds = nil
	legal(true)
	w.pass(w.coolDown - time.Minute)
	legal(true)
	w.pass(time.Minute)
	w.expire()
	w.check()
	if got := w.pool.names(); got != "vaultd-s2" {
		t.Errorf("left: %s", got)
	}
}

// Whoever takes a hold puts the tag on, changes the policy, and puts the tag on again. Wherever a run is meanwhile, a hold that was taken so keeps its body;
// or the second time finds none, and the operator is told.
func TestHoldMeanwhile(t *testing.T) {
	for _, old := range []bool{false, true} { // with a tag of an earlier hold that counts no more
		for at := 0; ; at++ {
			when, gap := at/4, [2]int{at / 2 % 2, at % 2} // calls of the run between the acts
			w := bodied(t)
			have, err := w.vault.Snapshots()
			w.must(err)
			hold := tenant.Hold{Snapshot: "s0", At: uint64(have[0].At), Reason: "court"}
			if old {
				w.policy.Holds = []tenant.Hold{hold}
				w.expire()
				w.policy.Holds = nil
				w.expire()
				w.pass(w.coolDown)
			}
			z := w.pool.all["vaultd-s0"]
			acts := []func(){
				func() { z.tags[snapshot.LegalTag] = true },
				func() { w.policy.Holds = []tenant.Hold{hold} },
				func() { z.tags[snapshot.LegalTag] = true },
			}
			n, done := 0, 0
			w.forged = true // the oracle does not know policies that change meanwhile
			told := false
			w.pool.before = func(string, string) error {
				for done < len(acts) && n >= []int{when, when + gap[0], when + gap[0] + gap[1]}[done] {
					acts[done]()
					if done++; done == len(acts) {
						told = w.pool.all["vaultd-s0"] != z
					}
				}
				n++
				return nil
			}
			x, err := w.openExpire(t, func(c *retention.Config) {
				c.Bodies = w.pool
				c.Current = func() (tenant.Retention, error) { return w.policy, nil }
			})
			w.must(err)
			_, err = x.Run(context.Background())
			w.must(x.Close())
			if err != nil && !errors.Is(err, retention.ErrChanged) {
				t.Fatal(err)
			}
			if w.pool.before = nil; done == 0 {
				if when < 5 {
					t.Errorf("only %d calls", when)
				}
				break
			}
			for ; done < len(acts); done++ { // the run was over before
				acts[done]()
				told = w.pool.all["vaultd-s0"] != z
			}
			if !told && !z.tags[snapshot.LegalTag] { // who was told that it is held may rely on it from that moment
				t.Errorf("old %v, from call %d, %v: the tag is lost until the next run", old, when, gap)
			}
			if _, err := w.tryExpire(); err != nil {
				t.Fatal(err)
			}
			if there := w.pool.all["vaultd-s0"] == z; !there && !told || there && !z.tags[snapshot.LegalTag] {
				t.Errorf("old %v, from call %d, %v: there %v, told %v, tags %v", old, when, gap, there, told, z.tags)
			}
		}
	}
}

// Who may only change the policy saves the body up to the last moment.
func TestPolicyHasTheLastWord(t *testing.T) {
	w := bodied(t)
	w.forged = true
	w.pool.before = func(op, name string) error {
		if op == "list" && name == "vaultd-s0" {
			w.policy.Holds = []tenant.Hold{{Snapshot: "s0", At: 1, Reason: "court"}}
		}
		return nil
	}
	x, err := w.openExpire(t, func(c *retention.Config) {
		c.Bodies = w.pool
		c.Current = func() (tenant.Retention, error) { return w.policy, nil }
	})
	w.must(err)
	defer x.Close()
	if _, err := x.Run(context.Background()); !errors.Is(err, retention.ErrChanged) {
		t.Errorf("got %v", err)
	}
	if z := w.pool.all["vaultd-s0"]; z == nil || !z.tags[snapshot.HoldTag] {
		t.Errorf("left %s: %+v", w.pool.names(), z)
	}
}

// A tenant that is paused loses no body, and holds are put right all the same.
func TestBodiesPaused(t *testing.T) {
	w := bodied(t)
	w.policy.Pause = &tenant.Pause{Reason: "odd"}
	delete(w.pool.all["vaultd-s2"].tags, snapshot.HoldTag)
	w.expire()
	if got := w.pool.names(); got != "vaultd-s0 vaultd-s1 vaultd-s2" || !w.pool.all["vaultd-s2"].tags[snapshot.HoldTag] {
		t.Errorf("left %s, %v", got, w.pool.all["vaultd-s2"].tags)
	}
	if p := w.report.Plan.Bodies; len(p.Go) != 2 || len(p.Kept) != 1 {
		t.Errorf("plan: %+v", p)
	}
}

// Killed before each of its steps, the next run does the rest.
func TestBodiesKilled(t *testing.T) {
	for kill := 1; ; kill++ {
		w := bodied(t)
		w.kill = kill
		if w.expire() {
			if kill < 20 {
				t.Errorf("only %d steps", kill)
			}
			return
		}
		w.expire()
		w.check()
		if w.pool.names() != "vaultd-s2" || w.listed() != "s2" {
			t.Errorf("killed at step %d: left %s, listed %s", kill, w.pool.names(), w.listed())
		}
	}
}
