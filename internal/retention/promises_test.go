package retention_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// open opens the expire as tryExpire does, with f's changes of its configuration.
func (w *world) openExpire(t *testing.T, f func(*retention.Config)) (*retention.Expire, error) {
	t.Helper()
	w.settle()
	contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
	w.must(err)
	chain, err := volume.Open(filepath.Join(w.dir, "chain"))
	w.must(err)
	t.Cleanup(func() { contents.Close(); chain.Close() })
	cfg := retention.Config{Dir: filepath.Join(w.dir, "state"), Tenant: "t-1", Policy: w.policy, CoolDown: w.coolDown,
		Contents: contents, Chain: chain, Server: w, Machine: w}
	if f != nil {
		f(&cfg)
	}
	return retention.Open(context.Background(), cfg)
}

func (w *world) plan(t *testing.T) *retention.Plan {
	t.Helper()
	x, err := w.openExpire(t, nil)
	w.must(err)
	defer x.Close()
	p, err := x.Plan(context.Background())
	w.must(err)
	return p
}

// What a killed run had written down and not done yet is no promise to free it: a hold, a longer lock or a pause that comes
// before the next run counts.
func TestHoldAfterKill(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*world, appendonly.SnapshotInfo)
		went   int // beside what the killed run ended
	}{
		{"nothing", func(*world, appendonly.SnapshotInfo) {}, 2},
		{"hold", func(w *world, s appendonly.SnapshotInfo) {
			w.policy.Holds = []tenant.Hold{{Snapshot: s.Name, At: uint64(s.At), Reason: "test"}}
		}, 1},
		{"longer lock", func(w *world, _ appendonly.SnapshotInfo) { w.policy.Lock = 100 * day }, 0},
		{"pause", func(w *world, _ appendonly.SnapshotInfo) { w.policy.Pause = &tenant.Pause{Reason: "who knows"} }, 0},
	} {
		for kill := 1; kill < 30; kill++ {
			w := newWorld(t, t.TempDir())
			w.prepare()
			before := len(w.contents())
			snaps, err := w.vault.Snapshots()
			w.must(err)
			f := w.vault.Session(appendonly.Who{Key: "key"})
			versions, err := f.Versions("/a")
			w.must(errors.Join(err, f.Close(context.Background())))
			held := versions[1].Content.String() // what stood at the second of three snapshots
			w.kill = kill
			if w.expire() {
				w.close()
				break
			}
			w.settle()
			left := w.contents()
			ended := before - len(left)
			tt.change(w, snaps[1])
			w.expire()
			want := max(0, tt.went-ended)
			if tt.name == "hold" && !slices.Contains(left, held) { // the held one went before there was a hold
				want = 2 - ended
			}
			if tt.name == "hold" && slices.Contains(left, held) && !slices.Contains(w.contents(), held) {
				t.Errorf("killed at step %d: what is held went", kill)
			}
			if went := before - ended - len(w.contents()); went > want {
				t.Errorf("%s, killed at step %d: %d went before, %d after; want at most %d", tt.name, kill, ended, went, want)
			}
			if tt.name == "nothing" {
				w.check()
			}
			// What did go is journaled: nobody takes it for lost.
			f = w.vault.Session(appendonly.Who{Key: "key"})
			for i := range 3 {
				have, err := f.Versions("/a")
				w.must(err)
				if i < len(have) {
					_, err := f.Open(fmt.Sprintf("/.vault/at/%s/a", time.Date(2026, 1, 1+i, 12, 0, 0, 0, time.UTC).Format(time.RFC3339)))
					if err != nil && !errors.Is(err, appendonly.ErrExpired) {
						t.Errorf("%s, killed at step %d: version %d: %v", tt.name, kill, i, err)
					}
				}
			}
			w.must(f.Close(context.Background()))
			w.close()
		}
	}
}

// A policy that changes while contents are freed stops the run.
func TestPolicyChangesMeanwhile(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	before := w.contents()
	x, err := w.openExpire(t, func(c *retention.Config) {
		c.Current = func() (tenant.Retention, error) {
			now := w.policy
			now.Holds = []tenant.Hold{{Snapshot: "s0", At: 5, Reason: "just now"}}
			return now, nil
		}
	})
	w.must(err)
	defer x.Close()
	if _, err := x.Run(context.Background()); !errors.Is(err, retention.ErrChanged) {
		t.Errorf("got %v", err)
	}
	if after := w.contents(); !slices.Equal(before, after) {
		t.Errorf("%d contents went", len(before)-len(after))
	}
}

// While a tenant is paused nothing goes, and the plan says what would.
func TestPause(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	w.policy.Pause = &tenant.Pause{Reason: "odd pushes", Who: "anna"}
	before := w.contents()
	w.expire()
	if after := w.contents(); !slices.Equal(before, after) {
		t.Errorf("%d contents went", len(before)-len(after))
	}
	if p := w.plan(t); p.Paused == nil || len(p.Free) != 2 {
		t.Errorf("plan: paused %v, %d contents", p.Paused, len(p.Free))
	}
	w.policy.Pause = nil
	w.expire()
	w.check()
	if n := len(w.contents()); n != len(before)-2 {
		t.Errorf("%d contents of %d are left", n, len(before))
	}
}

// The own chain, the state, or both are lost, damaged, or of an earlier time.
func TestOwnChain(t *testing.T) {
	at := func(w *world, parts ...string) string { return filepath.Join(append([]string{w.dir}, parts...)...) }
	copyDir := func(w *world, from, to string) { w.must(os.CopyFS(at(w, to), os.DirFS(at(w, from)))) }
	remove := func(w *world, name string) { w.must(os.RemoveAll(at(w, name))) }
	noChain := func(w *world) {
		remove(w, "chain")
		w.must(volume.Create(at(w, "chain")))
	}
	segments := func(w *world) []string {
		list, err := filepath.Glob(at(w, "chain", "journal", "*.jsonl"))
		w.must(err)
		return list
	}
	tests := []struct {
		name string
		do   func(*world)
		err  error // nil: it goes on
		went int   // contents that the next run ends
	}{
		{"nothing happened", func(*world) {}, nil, 1},
		{"chain missing", noChain, retention.ErrChain, 0},
		{"chain of another time", func(w *world) { // a chain that is right in itself, and shorter
			remove(w, "chain")
			copyDir(w, "chain-early", "chain")
		}, retention.ErrChain, 0},
		{"chain and state of an earlier time", func(w *world) { // a restored disk image: what went since is known to be gone
			remove(w, "chain")
			remove(w, "state")
			copyDir(w, "chain-early", "chain")
			copyDir(w, "state-early", "state")
		}, nil, 1},
		{"state of an earlier time", func(w *world) {
			remove(w, "state")
			copyDir(w, "state-early", "state")
		}, nil, 1},
		{"state missing: everything is young again", func(w *world) { remove(w, "state") }, nil, 0},
		{"state and chain missing", func(w *world) { remove(w, "state"); noChain(w) }, nil, 0},
		{"state is no database", func(w *world) {
			w.must(os.WriteFile(at(w, "state", "state.db"), bytes.Repeat([]byte("x"), 8192), 0o600))
		}, retention.ErrState, 0},
		{"state is cut", func(w *world) { w.must(os.Truncate(at(w, "state", "state.db"), 100)) }, retention.ErrState, 0},
		{"last segment of the chain is cut", func(w *world) {
			list := segments(w)
			p := list[len(list)-1]
			b, err := os.ReadFile(p)
			w.must(err)
			w.must(os.Chmod(p, 0o600))
			w.must(os.WriteFile(p, b[:len(b)/2], 0o600))
		}, retention.ErrChain, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newTestWorld(t)
			w.prepare()
			copyDir(w, "chain", "chain-early")
			copyDir(w, "state", "state-early")
			w.expire() // frees two
			w.pass(day)
			w.put("a")
			w.snapshot("later")
			w.expire()
			w.pass(60 * day)
			w.settle()
			tt.do(w)
			before := len(w.contents())
			for range 2 {
				if _, err := w.tryExpire(); !errors.Is(err, tt.err) {
					t.Errorf("got %v, want %v", err, tt.err)
				}
			}
			if went := before - len(w.contents()); went > tt.went {
				t.Errorf("%d went, want %d", went, tt.went)
			}
			if tt.err != nil {
				return
			}
			if p := w.plan(t); len(p.Free) > 0 {
				t.Errorf("the plan frees %d that are gone, or young", len(p.Free))
			}
			w.policy.Lock = time.Hour // what the lost state knew of the lock is in the chain
			if p := w.plan(t); p.Lock != day {
				t.Errorf("lock %v", p.Lock)
			}
			w.pass(60 * day)
			w.expire()
			w.forged = true
		})
	}
}

// Who writes the journal can not push kept snapshots out of the schedule with new ones that are dated into a time in
// which nothing happened.
func TestSnapshotsDatedBack(t *testing.T) {
	w := newTestWorld(t)
	w.policy = tenant.Retention{Lock: day, Keep: &tenant.Keep{Daily: 3}}
	for i := range 3 {
		w.put("a")
		w.snapshot(fmt.Sprint("good", i))
		w.pass(day)
	}
	w.expire()
	w.pass(30 * day)
	w.expire()
	now := w.wall
	for i := range 20 {
		w.wall = now.Add(-time.Duration(20-i) * day)
		w.put("a")
		w.snapshot(fmt.Sprint("forged", i))
	}
	w.wall = now
	w.pass(time.Hour)
	w.expire()
	w.check()
	have, err := w.vault.Snapshots()
	w.must(err)
	for _, name := range []string{"good1", "good2"} {
		if !slices.ContainsFunc(have, func(s appendonly.SnapshotInfo) bool { return s.Name == name }) {
			t.Errorf("%s was pushed out", name)
		}
	}
}

// A rule lets go of what it saw: not of what a client put under the name since.
func TestRuleAndOverwrite(t *testing.T) {
	w := newTestWorld(t)
	w.policy.Rules = []tenant.ExpireRule{{Prefix: "", After: 10 * day}}
	w.put("old")
	w.put("changed")
	w.snapshot("s1")
	w.expire()
	w.pass(20 * day)
	w.put("changed") // in the open segment, which expire does not read
	w.expire()
	f := w.vault.Session(appendonly.Who{Key: "key"})
	defer f.Close(context.Background())
	if _, err := f.Stat("/old"); err == nil {
		t.Error("what is old is there")
	}
	if _, err := f.Stat("/changed"); err != nil {
		t.Errorf("what was put a moment ago is gone: %v", err)
	}
}

// What verification found wrong stays as evidence, and so does the last good version of its name; until it is put right.
func TestDamage(t *testing.T) {
	w := newTestWorld(t)
	w.prepare() // three versions of a, the last one live; two would go
	f := w.vault.Session(appendonly.Who{Key: "key"})
	versions, err := f.Versions("/a")
	w.must(err)
	w.must(f.Close(context.Background()))
	w.settle()
	var paths []string // oldest first
	for i := range versions {
		list, err := filepath.Glob(filepath.Join(w.dir, "data", "store", "*", versions[len(versions)-1-i].Content.String()))
		if err != nil || len(list) != 1 {
			t.Fatal(list, err)
		}
		paths = append(paths, list[0])
	}
	spoil := func(i int) func() {
		was, err := os.ReadFile(paths[i])
		w.must(err)
		w.must(os.Chmod(paths[i], 0o600))
		w.must(os.WriteFile(paths[i], bytes.ToUpper(was), 0o600))
		return func() { w.must(os.WriteFile(paths[i], was, 0o600)) }
	}
	verify := func(want int) {
		n := 0
		w.must(w.vault.Verify(context.Background(), appendonly.VerifyOptions{}, func(appendonly.Wrong) { n++ }, func(appendonly.Verified) {}))
		if n != want {
			t.Fatalf("%d are wrong, want %d", n, want)
		}
		w.put("other")
		w.snapshot(fmt.Sprintf("v%d", w.key)) // the flags are in a closed segment
	}
	left := func() (n []int) {
		for i, p := range paths {
			if _, err := os.Stat(p); err == nil {
				n = append(n, i)
			}
		}
		return n
	}
	right := spoil(2) // the live one
	verify(1)
	w.expire()
	if have := left(); !slices.Equal(have, []int{1, 2}) {
		t.Errorf("left: %v; want the damaged one and the last good one", have)
	}
	if p := w.plan(t); p.Held[retention.Damaged].Contents != 1 {
		t.Errorf("held: %v", p.Held)
	}
	spoil(1) // now the last good one too: nothing is left but evidence
	verify(2)
	w.pass(100 * day)
	w.expire()
	if have := left(); !slices.Equal(have, []int{1, 2}) {
		t.Errorf("left: %v; want the evidence", have)
	}
	right()
	verify(1)
	w.expire()
	if have := left(); !slices.Equal(have, []int{1, 2}) {
		t.Errorf("left: %v; want the damaged past, and what is live", have)
	}
}

// Who has broken into the server writes what it likes into the journal, in a chain that is right. None of it lets a content go
// that a held snapshot shows, nor one whose lock, counted from when this process saw the end, has not ended.
func TestServerLies(t *testing.T) {
	for _, tt := range []struct {
		name string
		lies func(*world, journal.ID) []*journal.Record
	}{
		{"sealed again", func(*world, journal.ID) []*journal.Record {
			return []*journal.Record{{Op: journal.OpSeal, Path: "a", Key: "k"}, {Op: journal.OpRemove, Path: "a", Key: "k"}}
		}},
		{"made fresh, and removed", func(*world, journal.ID) []*journal.Record {
			return []*journal.Record{{Op: journal.OpMove, Path: "a", To: "b", Fresh: true, Key: "k"}, {Op: journal.OpRemove, Path: "b", Key: "k"}}
		}},
		{"void", func(_ *world, id journal.ID) []*journal.Record {
			return []*journal.Record{{Op: journal.OpVoid, Path: "a", ID: id, Key: "server"}}
		}},
		{"freed already, with its snapshot", func(w *world, id journal.ID) []*journal.Record {
			have, err := w.vault.Snapshots()
			w.must(err)
			return []*journal.Record{{Op: journal.OpFree, Freed: []journal.Freed{{ID: id, Size: 1}}, Dropped: []journal.Seq{have[0].At}, Key: "expire"},
				{Op: journal.OpRemove, Path: "a", Key: "k"}}
		}},
		{"the same content under another name that ended", func(_ *world, id journal.ID) []*journal.Record {
			return []*journal.Record{{Op: journal.OpCreate, Kind: journal.KindFile, Path: "c", ID: id, Size: 3, Meta: journal.NoMeta(), Key: "k"},
				{Op: journal.OpRemove, Path: "c", Key: "k"}, {Op: journal.OpRemove, Path: "a", Key: "k"}}
		}},
		{"put right, and removed", func(_ *world, id journal.ID) []*journal.Record {
			return []*journal.Record{{Op: journal.OpDamage, Path: "a", ID: id, Key: "server"}, {Op: journal.OpDamage, Path: "a", ID: id, What: "good", Key: "server"},
				{Op: journal.OpRemove, Path: "a", Key: "k"}}
		}},
		{"a clock that is years ahead", func(w *world, _ journal.ID) []*journal.Record {
			w.wall = w.wall.Add(10 * 365 * day)
			return []*journal.Record{{Op: journal.OpRemove, Path: "a", Key: "k"}}
		}},
	} {
		for _, hold := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, hold %v", tt.name, hold), func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				w.policy = tenant.Retention{Lock: 10 * day, Keep: &tenant.Keep{}}
				w.put("a")
				w.snapshot("s")
				w.put("z")
				w.snapshot("later")
				have, err := w.vault.Snapshots()
				w.must(err)
				if hold {
					w.policy.Holds = []tenant.Hold{{Snapshot: "s", At: uint64(have[0].At), Reason: "test"}}
				}
				f := w.vault.Session(appendonly.Who{Key: "key"})
				versions, err := f.Versions("/a")
				w.must(errors.Join(err, f.Close(context.Background())))
				id := versions[0].Content
				w.expire()
				lies := tt.lies(w, id)
				w.close()
				vol, err := volume.Open(filepath.Join(w.dir, "data"))
				w.must(err)
				log, _, err := journal.Open(journal.Config{Segments: vol, Now: w.Now, Boot: "evil"}, journal.Head{}, func(*journal.Record) error { return nil })
				w.must(err)
				for _, r := range append(lies, &journal.Record{Op: journal.OpSnapshot, Note: "newest", What: "manual"}) {
					_, err := log.Append(r)
					w.must(err)
				}
				w.must(errors.Join(log.Rotate(), log.Close(), vol.Close(), os.RemoveAll(filepath.Join(w.dir, "data", "files", "a"))))
				path := filepath.Join(w.dir, "data", "store", id.Shard(), id.String())
				run := func(after time.Duration) {
					t.Helper()
					w.pass(after)
					contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
					w.must(err)
					chain, err := volume.Open(filepath.Join(w.dir, "chain"))
					w.must(err)
					x, err := retention.Open(context.Background(), retention.Config{Dir: filepath.Join(w.dir, "state"), Tenant: "t-1", Policy: w.policy,
						CoolDown: w.coolDown, Contents: contents, Chain: chain, Server: said{}, Machine: w})
					if err == nil {
						_, err = x.Run(context.Background())
						err = errors.Join(err, x.Close())
					}
					if err = errors.Join(err, contents.Close(), chain.Close()); err != nil && !errors.Is(err, retention.ErrForeign) {
						t.Fatal(err)
					}
				}
				run(0)
				run(9 * day)
				if _, err := os.Stat(path); err != nil {
					t.Errorf("gone before the lock ended: %v", err)
				}
				run(100 * day)
				if _, err := os.Stat(path); hold && err != nil {
					t.Errorf("gone, and held: %v", err)
				} else if !hold && err == nil && !strings.HasPrefix(tt.name, "the same content") { // of another size: refused, and told
					t.Error("there, and nothing keeps it")
				}
			})
		}
	}
}

// Who verifies while expire is at work does not take what expire has ended, and not told yet, for a loss; what is lost is one.
func TestVerifyBesideExpire(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	verify := func(grace time.Duration) (wrong []string) {
		w.must(w.vault.Verify(context.Background(), appendonly.VerifyOptions{Grace: grace}, func(x appendonly.Wrong) { wrong = append(wrong, x.What) }, func(appendonly.Verified) {}))
		return wrong
	}
	ended := make(chan struct{})
	tell := make(chan struct{})
	x, err := w.openExpire(t, func(c *retention.Config) {
		c.Step = func(what string) {
			if what == "tell" && len(w.contents()) == 1 { // of three
				select {
				case <-ended:
				default:
					close(ended)
				}
				<-tell
			}
		}
	})
	w.must(err)
	done := make(chan error, 1)
	go func() { _, err := x.Run(context.Background()); done <- errors.Join(err, x.Close()) }()
	<-ended
	result := make(chan []string, 1)
	go func() { result <- verify(time.Minute) }()
	time.Sleep(50 * time.Millisecond) // it looks, and waits
	close(tell)
	w.must(<-done)
	if wrong := <-result; len(wrong) > 0 {
		t.Errorf("verify: %q", wrong)
	}
	// Something that nobody let go of is missing.
	w.put("a")
	w.snapshot("again")
	w.settle()
	list, err := filepath.Glob(filepath.Join(w.dir, "data", "store", "*", "*"))
	w.must(err)
	slices.Sort(list)
	for _, p := range list {
		w.must(os.Remove(p))
	}
	if wrong := verify(time.Millisecond); len(wrong) != 2 || wrong[0] != "missing" {
		t.Errorf("verify found %q", wrong)
	}
}
