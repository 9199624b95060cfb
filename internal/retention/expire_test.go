package retention_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

const day = 24 * time.Hour

func newTestWorld(t *testing.T) *world {
	w := newWorld(t, t.TempDir())
	t.Cleanup(func() { w.vault.Close(); w.vol.Close() })
	return w
}

func (w *world) snapshot(name string) {
	w.t.Helper()
	_, err := w.vault.Snapshot(context.Background(), name, "manual")
	w.must(err)
}

// contents lists what the store holds.
func (w *world) contents() (names []string) {
	list, err := filepath.Glob(filepath.Join(w.dir, "data", "store", "*", "*"))
	w.must(err)
	for _, p := range list {
		names = append(names, filepath.Base(p))
	}
	return names
}

// prepare makes a journal with a past of which everything could go: two versions of a name under an old snapshot, and a live one.
func (w *world) prepare() {
	w.policy.Keep = &tenant.Keep{Daily: 1}
	for i := range 3 {
		w.put("a")
		w.snapshot(fmt.Sprint("s", i))
		w.pass(day)
	}
	w.expire()
	w.settle()
	w.pass(60 * day)
}

// Whatever somebody does to the journal between two runs, nothing is freed by it, and the next run says so.
func TestForgedJournal(t *testing.T) {
	segment := func(w *world, i int) string {
		list, err := filepath.Glob(filepath.Join(w.dir, "data", "journal", "*.jsonl"))
		w.must(err)
		return list[i]
	}
	edit := func(w *world, i int, f func([][]byte) [][]byte) {
		p := segment(w, i)
		b, err := os.ReadFile(p)
		w.must(err)
		lines := f(bytes.SplitAfter(b, []byte("\n")))
		w.must(os.Chmod(p, 0o600))
		w.must(os.WriteFile(p, bytes.Join(lines, nil), 0o600))
	}
	tests := []struct {
		name  string
		forge func(*world)
	}{
		{"a line is removed", func(w *world) { edit(w, 0, func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) }) }},
		{"a line is inserted", func(w *world) { edit(w, 0, func(l [][]byte) [][]byte { return slices.Insert(l, 2, l[1]) }) }},
		{"a line is dated back", func(w *world) {
			edit(w, 0, func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("2026-"), []byte("2020-"), 1)
				return l
			})
		}},
		{"a line is dated ahead", func(w *world) {
			edit(w, 0, func(l [][]byte) [][]byte {
				l[2] = bytes.Replace(l[2], []byte("2026-"), []byte("2030-"), 1)
				return l
			})
		}},
		{"a line is cut in the middle", func(w *world) {
			edit(w, 0, func(l [][]byte) [][]byte { l[2] = l[2][:len(l[2])/2]; return l })
		}},
		{"a line with a chain of its own is inserted", func(w *world) {
			edit(w, 0, func(l [][]byte) [][]byte {
				return slices.Insert(l, 2, bytes.Replace(l[1], []byte(`"seq":2`), []byte(`"seq":3`), 1))
			})
		}},
		{"two lines change places", func(w *world) {
			edit(w, 0, func(l [][]byte) [][]byte { l[1], l[2] = l[2], l[1]; return l })
		}},
		{"the end is cut", func(w *world) { w.must(os.Remove(segment(w, 2))) }},
		{"the beginning is cut", func(w *world) { w.must(os.Remove(segment(w, 0))) }},
		{"everything is cut", func(w *world) {
			for range 3 {
				w.must(os.Remove(segment(w, 0)))
			}
		}},
		{"a hole", func(w *world) { w.must(os.Remove(segment(w, 1))) }},
		{"another tenant's", func(w *world) {
			other := newWorld(w.t, filepath.Join(w.dir, "other"))
			defer other.close()
			for i := range 3 {
				other.put("b")
				other.put("a")
				other.snapshot(fmt.Sprint("s", i))
			}
			for range 3 {
				w.must(os.Remove(segment(w, 0)))
			}
			list, err := filepath.Glob(filepath.Join(other.dir, "data", "journal", "*.jsonl"))
			w.must(err)
			for _, p := range list {
				b, err := os.ReadFile(p)
				w.must(err)
				w.must(os.WriteFile(filepath.Join(w.dir, "data", "journal", filepath.Base(p)), b, 0o600))
			}
		}},
		{"rewritten with a chain that is right in itself", func(w *world) {
			other := newWorld(w.t, filepath.Join(w.dir, "other"))
			defer other.close()
			for i := range 3 {
				other.put("a")
				other.snapshot(fmt.Sprint("s", i))
			}
			for i := range 3 {
				b, err := os.ReadFile(segment(other, i))
				w.must(err)
				w.must(os.Chmod(segment(w, i), 0o600))
				w.must(os.WriteFile(segment(w, i), b, 0o600))
			}
		}},
	}
	for _, index := range []bool{true, false} {
		for _, tt := range tests {
			t.Run(fmt.Sprintf("%s, index %v", tt.name, index), func(t *testing.T) {
				w := newWorld(t, t.TempDir())
				defer func() { w.vault.Close(); w.vol.Close() }()
				if tt.name == "another tenant's" || strings.HasPrefix(tt.name, "rewritten") {
					w.must(os.MkdirAll(filepath.Join(w.dir, "other"), 0o700))
				}
				w.prepare()
				before := w.contents()
				if !index {
					w.must(os.Remove(filepath.Join(w.dir, "state", "index.db")))
				}
				tt.forge(w)
				w.forged = true
				for range 2 {
					if _, err := w.tryExpire(); !errors.Is(err, retention.ErrForeign) && !errors.Is(err, journal.ErrCorrupt) {
						t.Errorf("got %v", err)
					}
				}
				if after := w.contents(); !slices.Equal(before, after) {
					t.Errorf("contents went: %d -> %d", len(before), len(after))
				}
			})
		}
	}
	// Without a forger the same history loses what it should.
	w := newTestWorld(t)
	w.prepare()
	before := len(w.contents())
	w.expire()
	if after := len(w.contents()); after >= before {
		t.Errorf("nothing went: %d -> %d", before, after)
	}
	w.check()
}

// A state that is lost begins anew: what was old is young again. One of another tenant, or of a newer vaultd, is refused.
func TestState(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	w.must(os.RemoveAll(filepath.Join(w.dir, "state")))
	before := w.contents()
	if _, err := w.tryExpire(); err != nil {
		t.Fatal(err)
	}
	if after := w.contents(); !slices.Equal(before, after) {
		t.Errorf("a lost state freed %d contents", len(before)-len(after))
	}
	w.must(os.Rename(filepath.Join(w.dir, "state"), filepath.Join(w.dir, "mine")))
	contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
	w.must(err)
	defer contents.Close()
	cfg := retention.Config{Dir: filepath.Join(w.dir, "mine"), Tenant: "t-2", Policy: w.policy, Contents: contents, Chain: w.vol, Server: w, Machine: w}
	if _, err := retention.Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "it is of t-1") {
		t.Errorf("another tenant's state: %v", err)
	}
}

// The kernel's count of names has the last word: a content that the journal says is gone stays while it has a name.
func TestNameHasTheLastWord(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	victim := w.contents()[0]
	path, err := filepath.Glob(filepath.Join(w.dir, "data", "store", "*", victim))
	w.must(err)
	w.must(os.Link(path[0], filepath.Join(w.dir, "data", "files", "extra")))
	contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
	w.must(err)
	defer contents.Close()
	id, err := journal.ParseID(victim)
	w.must(err)
	info, err := os.Stat(path[0])
	w.must(err)
	if was, err := contents.Free(id, info.Size()); was || !errors.Is(err, volume.ErrLinked) {
		t.Errorf("with a name: %v, %v", was, err)
	}
	w.must(os.Remove(filepath.Join(w.dir, "data", "files", "extra")))
	if was, err := contents.Free(id, info.Size()+1); was || !errors.Is(err, volume.ErrSize) {
		t.Errorf("of another size: %v, %v", was, err)
	}
	if was, err := contents.Free(journal.NewID(), 1); was || err != nil {
		t.Errorf("unknown: %v, %v", was, err)
	}
}

// full is a chain on a disk without space.
type full struct{ *volume.Volume }

func (f full) OpenSegment() (journal.SegmentFile, error) {
	s, err := f.Volume.OpenSegment()
	return fullFile{s}, err
}

type fullFile struct{ journal.SegmentFile }

func (fullFile) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A full disk stops expire before anything is ended, and the next run does it.
func TestDiskFull(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	before := w.contents()
	contents, err := volume.OpenFreer(filepath.Join(w.dir, "data"))
	w.must(err)
	defer contents.Close()
	chain, err := volume.Open(filepath.Join(w.dir, "chain"))
	w.must(err)
	defer chain.Close()
	x, err := retention.Open(context.Background(), retention.Config{Dir: filepath.Join(w.dir, "state"), Tenant: "t-1", Policy: w.policy, CoolDown: w.coolDown,
		Contents: contents, Chain: full{chain}, Server: w, Machine: w})
	w.must(err)
	w.observe()
	if _, err := x.Run(context.Background()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got %v", err)
	}
	w.must(x.Close())
	if after := w.contents(); !slices.Equal(before, after) {
		t.Errorf("a full disk freed %d contents", len(before)-len(after))
	}
	w.expire()
	w.check()
}

// What was let go is known, and says so; the account gets its bytes back; a dropped snapshot's name can be given again.
func TestServerAfterwards(t *testing.T) {
	w := newTestWorld(t)
	w.prepare()
	used := w.vault.Usage()
	w.expire()
	w.check()
	now := w.vault.Usage()
	if now.Versions >= used.Versions || now.Live != used.Live {
		t.Errorf("versions %d -> %d, live %d -> %d", used.Versions, now.Versions, used.Live, now.Live)
	}
	for range 2 { // the second time with an index made anew from the journal
		f := w.vault.Session(appendonly.Who{Key: "key"})
		versions, err := f.Versions("/a")
		if err != nil || len(versions) != 3 {
			t.Fatalf("versions %v, %v", versions, err)
		}
		_, err = f.Open(fmt.Sprintf("/.vault/at/%s/a", time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC).Format(time.RFC3339)))
		if !errors.Is(err, appendonly.ErrExpired) || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read what was let go: %v", err)
		}
		w.must(f.Close(context.Background()))
		if got := w.vault.Usage(); got.Versions != now.Versions {
			t.Errorf("versions %d, then %d", now.Versions, got.Versions)
		}
		w.close()
		w.must(os.Remove(filepath.Join(w.dir, "data", "derived", "index.db")))
		w.open()
	}
	w.snapshot("s0")
}

// A rule of a strict tenant lets names go by age, after it stood for a cool-down; what they stood for obeys the lock.
func TestRules(t *testing.T) {
	w := newTestWorld(t)
	w.vault.SetPolicy(appendonly.Policy{Mode: appendonly.Strict})
	w.as(func(f *appendonly.FS) error {
		return errors.Join(f.Mkdir("/dumps", appendonly.NoMeta()), f.Mkdir("/keep", appendonly.NoMeta()))
	})
	w.put("dumps/old")
	w.put("keep/old")
	w.snapshot("s1")
	if _, err := w.tryExpire(); err != nil {
		t.Fatal(err)
	}
	w.policy.Rules = []tenant.ExpireRule{{Prefix: "dumps", After: 10 * day}}
	w.policy.Keep = &tenant.Keep{Hourly: 1}
	live := func(want ...string) {
		t.Helper()
		if _, err := w.tryExpire(); err != nil {
			t.Fatal(err)
		}
		var have []string
		for _, n := range []string{"dumps/old", "dumps/new", "keep/old"} {
			f := w.vault.Session(appendonly.Who{Key: "key"})
			if _, err := f.Stat("/" + n); err == nil {
				have = append(have, n)
			}
			w.must(f.Close(context.Background()))
		}
		if !slices.Equal(have, want) {
			t.Errorf("live: %q, want %q", have, want)
		}
	}
	w.pass(11 * day) // old enough, but nobody has seen the rule before
	live("dumps/old", "keep/old")
	w.pass(w.coolDown + time.Hour)
	w.put("dumps/new")
	w.snapshot("s2")
	live("dumps/new", "keep/old")
	w.snapshot("s3") // so that the removal is in a closed segment
	stored := len(w.contents())
	live("dumps/new", "keep/old")
	if n := len(w.contents()); n != stored {
		t.Errorf("%d contents went before the lock ended", stored-n)
	}
	w.pass(w.policy.Lock + time.Hour)
	live("dumps/new", "keep/old")
	if n := len(w.contents()); n != stored-1 {
		t.Errorf("%d contents, want %d", n, stored-1)
	}
}
