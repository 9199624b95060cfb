package quota_test

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/quota"
	"vaultd/internal/volume/volumetest"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func wantStaged(t testing.TB, q *quota.Volume, want int64) {
	t.Helper()
	if got := q.Account().Staged(); got != want {
		t.Errorf("staged %d, want %d", got, want)
	}
}

func stage(t testing.TB, q *quota.Volume) (journal.ID, appendonly.Staged) {
	t.Helper()
	id := journal.NewID()
	s, err := q.Stage(id)
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return id, s
}

// TestSuite: without limits and far below them the decorator is not noticed.
func TestSuite(t *testing.T) {
	for _, l := range []quota.Limits{{}, {Bytes: 1 << 40, Files: 1 << 30, Slack: 1 << 30}} {
		volumetest.Suite(t, func(t testing.TB) appendonly.Volume {
			return quota.New(volumetest.New(t), quota.Config{Limits: l, Floor: &quota.Floor{MinBytes: 1, MinInodes: 1}})
		})
	}
}

func TestCharges(t *testing.T) {
	q := quota.New(volumetest.New(t), quota.Config{Limits: quota.Limits{Bytes: 100_000}})
	id, s := stage(t, q)
	wantStaged(t, q, 4096)
	for _, step := range []struct {
		name string
		do   func() error
		want int64
	}{
		{"within the first block", func() error { _, err := s.WriteAt(make([]byte, 100), 0); return err }, 4096},
		{"beyond it", func() error { _, err := s.WriteAt(make([]byte, 1), 9999); return err }, 10_000},
		{"a hole filled", func() error { _, err := s.WriteAt(make([]byte, 5000), 1000); return err }, 10_000},
		{"nothing, far out", func() error { _, err := s.WriteAt(nil, 1<<40); return err }, 10_000},
		{"lengthened", func() error { return s.Truncate(20_000) }, 20_000},
		{"cut", func() error { return s.Truncate(6000) }, 6000},
		{"cut to nothing", func() error { return s.Truncate(0) }, 4096},
		{"to the limit", func() error { _, err := s.WriteAt([]byte{1}, 99_999); return err }, 100_000},
	} {
		must(t, step.do())
		if got := q.Account().Staged(); got != step.want {
			t.Errorf("%s: staged %d, want %d", step.name, got, step.want)
		}
	}
	_, err := s.WriteAt([]byte{1}, 100_000)
	wantErr(t, "one byte more", err, syscall.EDQUOT)
	var e *quota.ExceededError
	if !errors.As(err, &e) || e.Used != 100_000 || e.Limit != 100_000 || e.What != "bytes" {
		t.Errorf("error %#v", e)
	}
	wantErr(t, "longer", s.Truncate(1<<62), syscall.EDQUOT)
	_, err = q.Stage(journal.NewID())
	wantErr(t, "Stage when full", err, syscall.EDQUOT)
	wantStaged(t, q, 100_000)
	must(t, s.Close())
	must(t, q.Discard(id))
	wantStaged(t, q, 0)
	if _, err := s.WriteAt([]byte{1}, 0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("write after Discard: %v", err)
	}
	must(t, q.Discard(id))
	wantStaged(t, q, 0)
}

// TestSettled: a published content moves from the account to the journal's totals.
func TestSettled(t *testing.T) {
	var totals quota.Totals
	m := volumetest.New(t)
	q := quota.New(m, quota.Config{Limits: quota.Limits{Bytes: 20_000, Files: 3, Reserve: 1000}, Totals: func() quota.Totals { return totals }})
	id, s := stage(t, q)
	_, err := s.WriteAt(make([]byte, 10_000), 0)
	must(t, err)
	must(t, s.Close())
	totals = quota.Totals{Bytes: 10_600, Files: 1}
	q.Account().Settled(id)
	q.Account().Settled(id)
	wantStaged(t, q, 0)
	must(t, q.Account().Admit(9400, 2, false))
	wantErr(t, "Admit beyond", q.Account().Admit(9401, 0, false), syscall.EDQUOT)
	wantErr(t, "Admit beyond in files", q.Account().Admit(0, 3, false), syscall.EDQUOT)
	must(t, q.Account().Admit(10_400, 0, true))
	wantErr(t, "Admit beyond the reserve", q.Account().Admit(10_401, 0, true), syscall.EDQUOT)

	// Another process: what is in staging is charged once, by Adopt or Resume, whichever comes first.
	id2, s2 := stage(t, q)
	_, err = s2.WriteAt(make([]byte, 9000), 0)
	must(t, err)
	q = quota.New(m.Kill(), quota.Config{Limits: quota.Limits{Bytes: 20_000}, Totals: func() quota.Totals { return totals }})
	q.Account().Adopt(id2, 9000)
	s2, err = q.Resume(id2)
	must(t, err)
	wantStaged(t, q, 9000)
	q.Account().Adopt(id2, 9000)
	wantStaged(t, q, 9000)
	_, err = s2.WriteAt(make([]byte, 401), 9000)
	wantErr(t, "growth beyond", err, syscall.EDQUOT)
	_, err = s2.WriteAt(make([]byte, 400), 9000)
	must(t, err)

	q.SetLimits(quota.Limits{Bytes: 1000}) // lower than what there is
	must(t, q.Account().Admit(0, 0, false))
	wantErr(t, "Admit when over", q.Account().Admit(1, 0, true), syscall.EDQUOT)
	_, err = s2.WriteAt([]byte{1}, 0)
	must(t, err) // no growth
	must(t, s2.Truncate(100))
	must(t, s2.Close())
	if b, f := q.Account().Limits(); b != 1000 || f != 0 {
		t.Errorf("limits %d, %d", b, f)
	}
}

func TestScratch(t *testing.T) {
	m := volumetest.New(t)
	q := quota.New(m, quota.Config{Limits: quota.Limits{Bytes: 1, Slack: 3 * 4096}})
	for i := range 3 {
		must(t, q.PutNote(appendonly.AreaScratch, fmt.Sprint(i), []byte("lock")))
	}
	wantErr(t, "one too many", q.PutNote(appendonly.AreaScratch, "3", []byte("lock")), syscall.EDQUOT)
	must(t, q.PutNote(appendonly.AreaScratch, "0", make([]byte, 4096))) // refreshed
	wantErr(t, "grown", q.PutNote(appendonly.AreaScratch, "0", make([]byte, 4097)), syscall.EDQUOT)
	must(t, q.PutNote(appendonly.AreaStaging, "side", make([]byte, 10_000)))
	must(t, q.RemoveNote(appendonly.AreaScratch, "1"))
	must(t, q.PutNote(appendonly.AreaScratch, "3", []byte("lock")))

	m2 := m.Kill() // a new process counts what is there
	m2.Fault = func(op, arg string) (bool, error) {
		return arg == "applied", map[bool]error{true: syscall.EIO}[arg == "applied"]
	}
	q = quota.New(m2, quota.Config{Limits: quota.Limits{Slack: 4 * 4096}})
	wantErr(t, "failed though it happened", q.PutNote(appendonly.AreaScratch, "applied", nil), syscall.EIO)
	wantErr(t, "after it", q.PutNote(appendonly.AreaScratch, "5", nil), syscall.EDQUOT)
	must(t, q.RemoveNote(appendonly.AreaScratch, "3"))
	must(t, q.PutNote(appendonly.AreaScratch, "5", nil))
}

func TestErrorTexts(t *testing.T) {
	for _, c := range []struct {
		err  error
		is   error
		want string
	}{
		{&quota.ExceededError{Used: 3 << 29, Limit: 3 << 29, What: "bytes"}, syscall.EDQUOT, "quota exceeded: 1.5 GiB of 1.5 GiB used"},
		{&quota.ExceededError{Used: 1000, Limit: 1000, What: "files"}, syscall.EDQUOT, "quota exceeded: 1,000 of 1,000 files used"},
		{&quota.ExceededError{Used: 1 << 20, Limit: 1 << 20, What: "locks"}, syscall.EDQUOT, "quota exceeded: 1.0 MiB of 1.0 MiB for locks used"},
		{&quota.FullError{}, syscall.ENOSPC, "no space left on the server: it takes nothing more until its operator makes room"},
	} {
		if c.err.Error() != c.want || !errors.Is(fmt.Errorf("x: %w", c.err), c.is) {
			t.Errorf("%q, want %q that is %v", c.err, c.want, c.is)
		}
	}
}

// TestFloor: two tenants share one disk, and what either writes counts until the next look.
func TestFloor(t *testing.T) {
	now := time.Unix(1000, 0)
	looks := 0
	free := appendonly.Space{Total: 1 << 30, Free: 100_000, TotalInodes: 100, FreeInodes: 12}
	floor := &quota.Floor{MinBytes: 50_000, MinInodes: 10, Now: func() time.Time { return now },
		Space: func() (appendonly.Space, error) { looks++; return free, nil }}
	a, b := quota.New(volumetest.New(t), quota.Config{Floor: floor}), quota.New(volumetest.New(t), quota.Config{Floor: floor})
	_, sa := stage(t, a)
	_, sb := stage(t, b)
	_, err := sa.WriteAt(make([]byte, 30_000), 0)
	must(t, err)
	_, err = sb.WriteAt(make([]byte, 20_000), 0)
	wantErr(t, "below the floor", err, syscall.ENOSPC)
	_, err = sb.WriteAt(make([]byte, 10_000), 1<<27) // sparse: what is written counts
	must(t, err)
	_, err = a.Stage(journal.NewID())
	wantErr(t, "Stage without inodes", err, syscall.ENOSPC)
	wantErr(t, "Admit", b.Account().Admit(600, 1, false), syscall.ENOSPC)
	must(t, b.Account().Admit(600, 0, true))
	must(t, a.PutNote(appendonly.AreaScratch, "lock", make([]byte, 50_000)))
	if looks != 1 {
		t.Errorf("looked %d times", looks)
	}
	now = now.Add(time.Second)
	free.Free, free.FreeInodes = 70_000, 20
	_, err = sb.WriteAt(make([]byte, 20_000), 0)
	must(t, err)
	_, err = sb.WriteAt(make([]byte, 1), 0)
	wantErr(t, "at the floor", err, syscall.ENOSPC)
	stage2 := journal.NewID()
	_, err = a.Stage(stage2)
	wantErr(t, "Stage at the floor", err, syscall.ENOSPC)
	if looks != 2 {
		t.Errorf("looked %d times", looks)
	}
	now = now.Add(-time.Hour) // a clock that jumps does not blind it
	free.Free = 1 << 20
	_, err = a.Stage(stage2)
	must(t, err)
	wantStaged(t, a, 30_000+4096)
}

func TestSpace(t *testing.T) {
	disk := appendonly.Space{Total: 1 << 30, Free: 1 << 20, TotalInodes: 1000, FreeInodes: 100}
	totals := func() quota.Totals { return quota.Totals{Bytes: 1000, Files: 10} }
	floor := &quota.Floor{MinBytes: 1 << 19, MinInodes: 50}
	for _, c := range []struct {
		name string
		disk appendonly.Space
		cfg  quota.Config
		want appendonly.Space
	}{
		{"no limit: what the disk has", disk, quota.Config{Totals: totals}, appendonly.Space{Total: 1000 + 1<<20, Free: 1 << 20, TotalInodes: 110, FreeInodes: 100}},
		{"the limit", disk, quota.Config{Totals: totals, Limits: quota.Limits{Bytes: 5000, Files: 20}}, appendonly.Space{Total: 5000, Free: 4000, TotalInodes: 20, FreeInodes: 10}},
		{"the disk is less", disk, quota.Config{Totals: totals, Limits: quota.Limits{Bytes: 1 << 40}, Floor: floor}, appendonly.Space{Total: 1000 + 1<<19, Free: 1 << 19, TotalInodes: 60, FreeInodes: 50}},
		{"over the limit", disk, quota.Config{Totals: totals, Limits: quota.Limits{Bytes: 10, Files: 1}}, appendonly.Space{Total: 1000, TotalInodes: 10}},
		{"no inodes counted", appendonly.Space{Total: 10, Free: 5}, quota.Config{Limits: quota.Limits{Files: 7}}, appendonly.Space{Total: 5, Free: 5, TotalInodes: 7, FreeInodes: 7}},
		{"nor limited", appendonly.Space{Total: 10, Free: 5}, quota.Config{}, appendonly.Space{Total: 5, Free: 5}},
	} {
		m := volumetest.New(t)
		m.Disk = c.disk
		if got, err := quota.New(m, c.cfg).Space(); err != nil || got != c.want {
			t.Errorf("%s: %+v, %v, want %+v", c.name, got, err, c.want)
		}
	}
}

// TestNoOvershoot: sessions that all write at once get the limit to the byte and not one byte more.
func TestNoOvershoot(t *testing.T) {
	const limit = 1_000_000
	m := volumetest.New(t)
	q := quota.New(m, quota.Config{Limits: quota.Limits{Bytes: limit, Files: 100}})
	var over atomic.Bool
	m.Fault = func(string, string) (bool, error) {
		if q.Account().Staged() > limit {
			over.Store(true)
		}
		return false, nil
	}
	var wg sync.WaitGroup
	var sessions []appendonly.Staged
	for range 8 {
		_, s := stage(t, q)
		sessions = append(sessions, s)
	}
	for _, s := range sessions {
		wg.Go(func() {
			for off := int64(0); ; off += 1000 {
				if _, err := s.WriteAt(make([]byte, 1000), off); err != nil {
					if !errors.Is(err, syscall.EDQUOT) {
						t.Error(err)
					}
					return
				}
			}
		})
	}
	wg.Wait()
	if got := q.Account().Staged(); over.Load() || got > limit || got < limit-8*1000 {
		t.Errorf("staged %d of %d, over %v", got, limit, over.Load())
	}
}

// op is one step of TestProperty.
type op struct {
	verb      string
	slot      int
	off, size int64
}

// TestProperty runs random operations of several goroutines, some of which fail with or without having
// happened. The limit is never passed, and when all are done the account is what a fresh count gives.
func TestProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		limit := rapid.SampledFrom([]int64{20_000, 50_000, 120_000, 1 << 40}).Draw(rt, "limit")
		seed := rapid.Uint64().Draw(rt, "faults")
		gen := rapid.Custom(func(rt *rapid.T) op {
			return op{rapid.SampledFrom([]string{"stage", "write", "write", "write", "truncate", "copy", "discard", "settle", "resume"}).Draw(rt, "verb"),
				rapid.IntRange(0, 3).Draw(rt, "slot"),
				rapid.SampledFrom([]int64{0, 1, 4095, 4096, 9000, 20_000, 60_000}).Draw(rt, "off"),
				rapid.SampledFrom([]int64{0, 1, 100, 4096, 4097, 10_000, 30_000}).Draw(rt, "size")}
		})
		var sessions [3][]op
		for i := range sessions {
			sessions[i] = rapid.SliceOfN(gen, 10, 60).Draw(rt, fmt.Sprintf("session %d", i))
		}
		newWorld(t, limit, seed).run(rt, sessions)
	})
}

// world is a volume with faults, and slots that all sessions share.
type world struct {
	m      *volumetest.Memory
	q      *quota.Volume
	limit  int64
	totals atomic.Int64
	quiet  atomic.Bool
	over   atomic.Int64

	mu    sync.Mutex // guards what follows and is held by stage, discard, settle and resume
	slots [4]slot
	gone  []journal.ID // discarded, perhaps with an error
}

type slot struct {
	id journal.ID
	s  appendonly.Staged
}

func newWorld(t *testing.T, limit int64, seed uint64) *world {
	w := &world{m: volumetest.New(t), limit: limit}
	w.q = quota.New(w.m, quota.Config{Limits: quota.Limits{Bytes: limit}, Totals: func() quota.Totals { return quota.Totals{Bytes: w.totals.Load()} }})
	for i := range w.slots {
		w.step(op{verb: "stage", slot: i})
	}
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	w.m.Fault = func(op, arg string) (bool, error) {
		if w.quiet.Load() {
			return false, nil
		}
		if staged := w.q.Account().Staged(); staged > limit {
			w.over.Store(staged)
		}
		runtime.Gosched() // lets another session in between reserving and writing
		mu.Lock()
		defer mu.Unlock()
		switch op {
		case "Stage", "WriteAt", "Truncate", "CopyFrom", "Discard", "Resume":
			if rng.IntN(5) == 0 {
				return rng.IntN(2) == 0, syscall.EIO
			}
		}
		return false, nil
	}
	return w
}

func (w *world) run(rt *rapid.T, sessions [3][]op) {
	var wg sync.WaitGroup
	for _, ops := range sessions {
		wg.Go(func() {
			for _, o := range ops {
				w.step(o)
			}
		})
	}
	wg.Wait()
	w.quiet.Store(true)
	for _, id := range w.gone { // as the core does with what it could not discard
		if err := w.q.Discard(id); err != nil {
			rt.Fatal(err)
		}
	}
	if over := w.over.Load(); over > 0 {
		rt.Fatalf("%d were charged with a limit of %d", over, w.limit)
	}
	var want int64
	for _, s := range w.slots {
		if s.s == nil {
			continue
		}
		c, err := w.m.Open(s.id)
		if err != nil {
			rt.Fatal(err)
		}
		want += quota.Charge(c.Size())
	}
	if got := w.q.Account().Staged(); got != want {
		rt.Fatalf("charged %d, there is %d", got, want)
	}
}

func (w *world) step(o op) {
	w.mu.Lock()
	sl := &w.slots[o.slot]
	cur := *sl
	switch {
	case o.verb == "stage" && cur.s == nil:
		id := journal.NewID()
		if s, err := w.q.Stage(id); err == nil {
			*sl = slot{id, s}
		}
	case o.verb == "discard" && cur.s != nil:
		cur.s.Close()
		w.q.Discard(cur.id)
		w.gone = append(w.gone, cur.id)
		*sl = slot{}
	case o.verb == "settle" && cur.s != nil:
		cur.s.Close()
		w.q.Account().Settled(cur.id)
		*sl = slot{}
	case o.verb == "resume" && cur.s != nil:
		if s, err := w.q.Resume(cur.id); err == nil {
			*sl = slot{cur.id, s}
			defer cur.s.Close()
		}
	}
	w.mu.Unlock()
	if cur.s == nil {
		return
	}
	switch o.verb { // these race with the ones above, on purpose
	case "write":
		cur.s.WriteAt(make([]byte, o.size), o.off)
	case "truncate":
		cur.s.Truncate(o.off)
	case "copy":
		if c, err := w.q.Open(cur.id); err == nil {
			cur.s.CopyFrom(c, 0, c.Size(), min(c.Size(), o.size))
			c.Close()
		}
	}
}

// A soft limit is only a number until it has lapsed; then it refuses as a hard one, and says why. Removals and renames are none of its business.
func TestLapsed(t *testing.T) {
	totals := quota.Totals{Bytes: 500_000}
	q := quota.New(volumetest.New(t), quota.Config{Limits: quota.Limits{Bytes: 1_000_000, Soft: 400_000}, Totals: func() quota.Totals { return totals }})
	must(t, q.Account().Admit(1000, 0, false))
	soft := quota.Limits{Bytes: 1_000_000, Soft: 400_000, Reserve: 1000, Lapsed: true}
	q.SetLimits(soft)
	err := q.Account().Admit(1, 0, false)
	wantErr(t, "above a lapsed soft limit", err, syscall.EDQUOT)
	if want := "quota exceeded: 488 KiB of 391 KiB used (the soft limit, for longer than its grace)"; err == nil || err.Error() != want {
		t.Errorf("%v, want %q", err, want)
	}
	must(t, q.Account().Admit(1000, 0, true))
	s, err := q.Space()
	must(t, err)
	if s.Free != 0 {
		t.Errorf("%d free", s.Free)
	}
	totals.Bytes = 399_000
	must(t, q.Account().Admit(1000, 0, false))
	wantErr(t, "up to it", q.Account().Admit(1001, 0, false), syscall.EDQUOT)
	for _, l := range []quota.Limits{{Soft: 400_000, Lapsed: true}, {Bytes: 400_000, Soft: 500_000, Lapsed: true}} {
		q.SetLimits(l)
		wantErr(t, "the lower one", q.Account().Admit(1001, 0, false), syscall.EDQUOT)
		if b, _ := q.Account().Limits(); b != 400_000 {
			t.Errorf("%+v: limit %d", l, b)
		}
	}
	q.SetLimits(quota.Limits{Bytes: 400_000, Lapsed: true})
	must(t, q.Account().Admit(1000, 0, false))
}
