package appendonly_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// machine drives one vault and its model.
//
// What must hold: the live tree is the model's after every step; every instant that was looked at stays what
// it was; after kill -9 nothing that was closed is lost; after a power cut everything that a barrier
// covered is there, and every other name is as it was at some moment since, whole.
type machine struct {
	rt *rapid.T
	b  *bench

	fs       map[string]*appendonly.FS
	world    world
	since    []world // the worlds since the last barrier, the one that it covered first
	moved    bool    // a directory was renamed since
	instants []past
	acked    appendonly.Seq
	handles  []*handle
	snaps    int

	mu   sync.Mutex // guards what follows: contents are also read for their digests, beside everything
	die  func()     // what the volume does in the middle of the next operation
	left int        // operations of the volume until then
	heir *volumetest.Memory

	supposing bool // the effect of an operation is tried that may not have been possible
}

// handle is an upload that the model has open.
type handle struct {
	u    *appendonly.Upload
	key  string
	path string
	data []byte
}

func (m *machine) fatalf(format string, args ...any) {
	m.rt.Helper()
	if m.supposing {
		panic(errImpossible)
	}
	m.rt.Fatalf(format, args...)
}

func (m *machine) must(err error) {
	if err != nil {
		m.rt.Helper()
		m.rt.Fatal(err)
	}
}

func (m *machine) draw(label string, from ...string) string {
	return rapid.SampledFrom(from).Draw(m.rt, label)
}

func (m *machine) path(label string) string {
	dir := m.draw(label+" in", "", "", "p/", "p/d/")
	return dir + m.draw(label, "a", "a", "b.partial", "d", "p")
}

func (m *machine) data() string { return m.draw("data", "", "a", "ab", "abc", "abcd", "b", "bc") }

func (m *machine) key() string { return m.draw("key", "k1", "k1", "k2") }

// linked reports whether two names are of one content.
func (m *machine) linked(w world, a, b string) bool {
	x, err := m.fs["k1"].Stat(a)
	y, err2 := m.fs["k1"].Stat(b)
	return err == nil && err2 == nil && x.Nlink > 1 && y.Nlink > 1 && w[a].same(w[b])
}

// do runs one operation. effect changes the model as its success would.
func (m *machine) do(run func() error, effect func(world)) {
	after := m.world.clone()
	err := run()
	if m.died() {
		m.revive(effect)
		return
	}
	if err != nil {
		return
	}
	effect(after)
	m.world = after
	m.since = append(m.since, after)
	m.check()
}

func (m *machine) check() {
	got, err := look(m.fs["k1"], "")
	m.must(err)
	if diff := got.difference(m.world); diff != "" {
		m.fatalf("live: %s", diff)
	}
	for p, x := range got { // sealing comes with time, and is never taken back
		if x.fresh && !m.world[p].fresh {
			m.fatalf("%q is not sealed any more", p)
		}
		y := m.world[p]
		y.fresh = x.fresh
		m.world[p] = y
	}
}

// remember looks at the present instant.
func (m *machine) remember() {
	seq := m.b.vault.Head()
	m.instants = append(m.instants, past{seq: seq, name: fmt.Sprintf("at/seq%d", seq), show: m.world.sealed()})
}

func (m *machine) checkInstants() {
	f := m.b.session("k1")
	for _, i := range m.instants {
		f.NameInstant(strings.TrimPrefix(i.name, "at/"), i.seq)
		got, err := look(f, "/.vault/"+i.name)
		if err != nil {
			m.fatalf("%s: %v", i.name, err)
		}
		if diff := got.difference(i.show); diff != "" {
			m.fatalf("%s: %s", i.name, diff)
		}
	}
}

// started is called with every vault that was opened.
func (m *machine) started() {
	m.fs = map[string]*appendonly.FS{}
	for _, k := range []string{"k1", "k2"} {
		m.fs[k] = m.b.session(k)
	}
	m.handles = nil
	m.b.mem.Fault = m.fault
	if got, want := treeOf(m.b.t, m.b.mem, ""), liveOf(m.b.t, m.b.all("tree"), ""); !slices.Equal(got, want) {
		m.fatalf("the tree holds %q, live is %q", got, want)
	}
}

// fault kills or cuts the power in the middle of an operation.
func (m *machine) fault(string, string) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.die != nil {
		if m.left--; m.left < 0 {
			die := m.die
			m.die = nil
			die()
		}
	}
	return true, nil
}

// died disarms the volume and reports whether it is too late for that.
func (m *machine) died() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.die = nil
	return m.heir != nil
}

// arm lets the process or the machine die within the next operations of the volume.
func (m *machine) arm() {
	mem := m.b.mem
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left = rapid.IntRange(0, 8).Draw(m.rt, "operations left")
	if rapid.Bool().Draw(m.rt, "power") {
		keep := m.keep()
		m.die = func() { m.heir = mem.Crash(keep); m.b.boot += "'" }
	} else {
		m.die = func() { m.heir = mem.Kill() }
	}
}

// keep decides at random what a power cut leaves, but for what the volume's documentation excludes: of the
// two names of one file, in staging and in the tree, the older one is not lost before the younger one, and not
// dropped before it. (It would be a name that is the only link of its content: nothing may drop that.)
func (m *machine) keep() func(string) bool {
	bits := rapid.Uint64().Draw(m.rt, "keep")
	what := m.draw("lose", "anything", "writes", "writes", "names", "nothing", "everything")
	n := 0
	return func(change string) bool {
		n++
		random := bits>>(n%64)&1 == 1
		switch {
		case what == "nothing", strings.HasPrefix(change, "stage") && what != "everything":
			return true
		case what == "everything", strings.HasPrefix(change, "discard"):
			return false
		case what == "writes":
			return random || !strings.HasPrefix(change, "write")
		case what == "names":
			return random || strings.HasPrefix(change, "write") || strings.Contains(change, "segment")
		}
		return random
	}
}

// revive starts again after a death in the middle of an operation that would have had this effect.
func (m *machine) revive(effect func(world)) {
	crashed := strings.Count(m.b.boot, "'") > strings.Count(m.b.opened, "'")
	m.b.vault.Kill()
	m.b.mem, m.heir = m.heir, nil
	m.b.open()
	if !crashed { // all that came before is as it was
		m.since = []world{m.world}
		m.moved = false
	}
	if after, ok := m.suppose(effect); ok {
		m.since = append(m.since, after)
	}
	m.survived()
}

var errImpossible = errors.New("this operation can not have succeeded")

// suppose returns the world as it is if the operation succeeded; false if it can not have.
func (m *machine) suppose(effect func(world)) (after world, ok bool) {
	m.supposing = true
	defer func() {
		m.supposing = false
		if p := recover(); p != nil {
			if p != errImpossible {
				panic(p)
			}
			ok = false
		}
	}()
	after = m.world.clone()
	effect(after)
	return after, true
}

// survived checks what is there after a death, and goes on from that.
func (m *machine) survived() {
	m.started()
	got, err := look(m.fs["k1"], "")
	m.must(err)
	for p := range m.paths(got) {
		x, there := got[p]
		if !m.possible(p, x, there) {
			m.fatalf("after the crash %q is %v (there: %v); since the barrier it was %v", p, x, there, m.everAt(p))
		}
	}
	for p, x := range got { // whose it is and since when, from the newest world that had it
		for _, w := range m.since {
			if y, ok := w[p]; ok && y.same(x) {
				y.fresh = x.fresh
				got[p] = y
			}
		}
	}
	m.instants = slices.DeleteFunc(m.instants, func(i past) bool { return i.seq > m.acked })
	m.world = got
	m.covered()
	m.checkInstants()
}

// covered notes that a barrier covers the present.
func (m *machine) covered() {
	m.since, m.moved = []world{m.world}, false
	m.acked = m.b.vault.Head()
}

func (m *machine) paths(got world) map[string]bool {
	out := map[string]bool{}
	for _, w := range append(slices.Clone(m.since), got) {
		for p := range w {
			out[p] = true
		}
	}
	return out
}

func (m *machine) everAt(p string) []string {
	var out []string
	for _, w := range m.since {
		if x, ok := w[p]; ok {
			out = append(out, x.String())
		} else {
			out = append(out, "absent")
		}
	}
	return out
}

// possible reports whether p may be x (or absent) after a crash.
func (m *machine) possible(p string, x thing, there bool) bool {
	fresh := false
	for _, w := range m.since {
		y, ok := w[p]
		if ok == there && (!ok || y.same(x)) {
			return true
		}
		fresh = fresh || ok && y.fresh
	}
	if !there { // written again while unsealed: the bytes before are not kept
		return fresh
	}
	if m.moved { // where a directory was moved, what it held before the barrier may come back under its new name
		for _, y := range m.since[0] {
			if y.same(x) {
				return true
			}
		}
	}
	return false
}

// verify checks what can be recomputed: the chain, and an index made anew.
func (m *machine) verify() {
	m.checkInstants()
	bytes, files := m.b.vault.Totals()
	for _, f := range m.fs {
		m.must(f.Close(context.Background()))
	}
	m.handles = nil
	m.must(m.b.vault.Close())
	if _, torn, err := journal.NewReader(m.b.mem).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 {
		m.fatalf("the journal does not verify: torn %d, %v", torn, err)
	}
	m.must(journal.RemoveIndex(m.b.index))
	m.b.open()
	if b, f := m.b.vault.Totals(); b-bytes > 2*journal.RecordCharge || b < bytes || f != files {
		m.fatalf("counted anew: %d bytes, %d files; before %d, %d", b, f, bytes, files)
	}
	m.started()
	m.check()
	m.covered()
	m.checkInstants()
}

func TestModel(t *testing.T) { testModel(t, "") }

// The same inside a root: a session sees of its directory what it would see of a tenant.
func TestModelInRoot(t *testing.T) { testModel(t, "srv/web") }

func testModel(t *testing.T, root string) {
	rapid.Check(t, func(rt *rapid.T) {
		p := appendonly.Policy{}
		switch rapid.IntRange(0, 2).Draw(rt, "policy") {
		case 1:
			p = appendonly.Policy{Mode: appendonly.Versioned, Prefixes: []appendonly.Prefix{{Path: "p", Mode: appendonly.Strict}}}
		case 2:
			p = appendonly.Policy{Prefixes: []appendonly.Prefix{{Path: "p", Mode: appendonly.Versioned}, {Path: "p/d", Mode: appendonly.Strict}}}
		}
		for i := range p.Prefixes {
			p.Prefixes[i].Path = strings.TrimPrefix(root+"/"+p.Prefixes[i].Path, "/")
		}
		tb := &quiet{TB: t, rt: rt}
		m := &machine{rt: rt, b: newBench(tb, p), world: world{}}
		m.b.root = root
		defer func() {
			m.b.vault.Kill()
			tb.rt = nil
		}()
		m.started()
		m.covered()
		for range rapid.IntRange(1, 60).Draw(rt, "steps") {
			m.step()
		}
		m.verify()
	})
}

// quiet is a test whose log nobody reads, as a vault says much of every crash, and whose failures are rapid's.
type quiet struct {
	testing.TB
	rt *rapid.T // nil when the run has ended
}

func (q *quiet) Log(...any)          {}
func (q *quiet) Logf(string, ...any) {}

func (q *quiet) Errorf(format string, args ...any) {
	if q.rt == nil {
		q.TB.Errorf(format, args...)
		return
	}
	q.rt.Errorf(format, args...)
}

func (q *quiet) Fatal(args ...any) { q.Fatalf("%s", fmt.Sprint(args...)) }

func (q *quiet) Fatalf(format string, args ...any) {
	if q.rt == nil {
		q.TB.Fatalf(format, args...)
	}
	q.rt.Fatalf(format, args...)
}

func (m *machine) step() {
	switch rapid.IntRange(0, 19).Draw(m.rt, "step") {
	case 0:
		m.must(m.b.vault.Barrier(context.Background()))
		m.covered()
	case 1:
		m.snaps++
		s, err := m.b.vault.Snapshot(context.Background(), fmt.Sprintf("s%d", m.snaps), "manual")
		m.must(err)
		m.covered()
		m.instants = append(m.instants, past{seq: s.At, name: "snapshots/" + s.Name, show: m.world.sealed()})
	case 2:
		m.remember()
	case 3:
		m.b.clock.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Minute, 11 * time.Minute, 25 * time.Hour, -time.Hour, time.Hour}).Draw(m.rt, "clock"))
	case 4:
		m.b.vault.Tick()
		m.check()
	case 5:
		m.restart()
	case 6:
		m.arm()
		m.change()
		if m.died() {
			m.revive(func(world) {})
		}
	default:
		m.change()
	}
}

// restart ends the vault in one of four ways.
func (m *machine) restart() {
	switch m.draw("end", "close", "session", "kill", "crash") {
	case "close":
		for _, f := range m.fs {
			m.must(f.Close(context.Background()))
		}
		m.must(m.b.vault.Close())
		m.b.open()
		m.started()
		m.check()
		m.covered()
		m.checkInstants()
	case "session": // its end is a barrier
		k := m.key()
		m.handles = slices.DeleteFunc(m.handles, func(h *handle) bool { return h.key == k })
		err := m.fs[k].Close(context.Background())
		m.must(err)
		m.fs[k] = m.b.session(k)
		m.check()
	case "kill":
		heir := m.b.mem.Kill()
		m.b.vault.Kill()
		m.b.mem = heir
		m.b.open()
		m.since = []world{m.world}
		m.survived()
	case "crash":
		heir := m.b.mem.Crash(m.keep())
		m.b.vault.Kill()
		m.b.mem = heir
		m.b.boot += "'"
		m.b.open()
		m.survived()
	}
}
