package volumetest_test

import (
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

func TestSuite(t *testing.T) {
	volumetest.Suite(t, func(t testing.TB) appendonly.Volume { return volumetest.New(t) })
	volumetest.SegmentSuite(t, func(t testing.TB) journal.Segments { return volumetest.New(t) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// recorder is a testing.TB that keeps what it is told.
type recorder struct {
	testing.TB
	errors   []string
	cleanups []func()
}

func (r *recorder) Helper()                           {}
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Errorf(format string, args ...any) { r.errors = append(r.errors, format) }

// TestEnforces: each breach is an error of the test that made the Memory.
func TestEnforces(t *testing.T) {
	for _, c := range []struct {
		name, want string
		breach     func(t *testing.T, m *volumetest.Memory)
	}{
		{"id reused", "used again", func(t *testing.T, m *volumetest.Memory) {
			id := volumetest.PutContent(t, m, []byte("x"))
			must(t, m.Discard(id))
			_, err := m.Stage(id)
			wantErr(t, err, fs.ErrExist)
		}},
		{"write while named", "while it has a name", func(t *testing.T, m *volumetest.Memory) {
			id := journal.NewID()
			s, err := m.Stage(id)
			must(t, err)
			must(t, m.Link(id, "f"))
			_, err = s.WriteAt([]byte("x"), 0)
			wantErr(t, err, fs.ErrPermission)
		}},
		{"seal while open", "open for writing", func(t *testing.T, m *volumetest.Memory) {
			id := volumetest.PutContent(t, m, []byte("x"))
			_, err := m.Resume(id)
			must(t, err)
			if m.Seal(id, journal.KindFile, journal.NoMeta()) == nil {
				t.Error("sealed")
			}
		}},
		{"seal before sync", "before it was synced", func(t *testing.T, m *volumetest.Memory) {
			id := volumetest.PutContent(t, m, []byte("x"))
			s, err := m.Resume(id)
			must(t, err)
			must(t, s.Truncate(0))
			must(t, s.Close())
			must(t, m.Seal(id, journal.KindFile, journal.NoMeta()))
		}},
		{"append to a closed segment", "segment that is closed", func(t *testing.T, m *volumetest.Memory) {
			f, err := m.OpenSegment()
			must(t, err)
			must(t, m.CloseSegment("000000000001.jsonl"))
			_, err = f.Write([]byte("x"))
			wantErr(t, err, fs.ErrPermission)
		}},
		{"nothing", "", func(t *testing.T, m *volumetest.Memory) {
			id := volumetest.PutSealed(t, m, []byte("x"))
			must(t, m.Discard(id))
			must(t, m.Link(id, "f"))
			m.Crash(func(string) bool { return false }).Kill()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &recorder{TB: t}
			c.breach(t, volumetest.New(r))
			for _, f := range r.cleanups {
				f()
			}
			if c.want == "" && len(r.errors) > 0 || c.want != "" && (len(r.errors) != 1 || !strings.Contains(r.errors[0], c.want)) {
				t.Errorf("told %q, want %q", r.errors, c.want)
			}
		})
	}
}

func wantErr(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%v, want %v", err, want)
	}
}

func TestFault(t *testing.T) {
	m := volumetest.New(t)
	apply := false
	var ops []string
	m.Fault = func(op, arg string) (bool, error) {
		ops = append(ops, op+" "+arg)
		if arg == "bad" {
			return apply, syscall.EIO
		}
		return false, nil
	}
	wantErr(t, m.Mkdir("bad"), syscall.EIO)
	must(t, m.Mkdir("good"))
	if list, err := m.Entries(""); err != nil || len(list) != 1 {
		t.Errorf("entries %v, %v", list, err)
	}
	apply = true
	wantErr(t, m.Mkdir("bad"), syscall.EIO)
	if list, err := m.Entries(""); err != nil || len(list) != 2 {
		t.Errorf("entries %v, %v", list, err)
	}
	wantErr(t, m.Mkdir("bad"), fs.ErrExist) // its own failure is the truer one
	if want := []string{"Mkdir bad", "Mkdir good", "Entries ", "Mkdir bad", "Entries ", "Mkdir bad"}; !slices.Equal(ops, want) {
		t.Errorf("asked for %q", ops)
	}
}

func none(string) bool { return false }
func all(string) bool  { return true }

func tree(t testing.TB, m *volumetest.Memory, dir string) []string {
	t.Helper()
	list, err := m.Entries(dir)
	must(t, err)
	out := []string{}
	for _, e := range list {
		p := strings.TrimPrefix(dir+"/"+e.Name, "/")
		out = append(out, p)
		if e.Kind == journal.KindDir {
			out = append(out, tree(t, m, p)...)
		}
	}
	return out
}

func wantTree(t testing.TB, m *volumetest.Memory, want ...string) {
	t.Helper()
	if got := tree(t, m, ""); !slices.Equal(got, want) {
		t.Errorf("tree %q, want %q", got, want)
	}
}

// keepOnly keeps the changes whose description begins with one of these.
func keepOnly(prefixes ...string) func(string) bool {
	return func(what string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(what, p) })
	}
}

// TestCrashContents: what Sync covered is there, and of the rest what keep says.
func TestCrashContents(t *testing.T) {
	build := func() (*volumetest.Memory, journal.ID, journal.ID, journal.ID) {
		m := volumetest.New(t)
		sealed := volumetest.PutSealed(t, m, []byte("sealed"))
		synced := volumetest.PutContent(t, m, []byte("synced"))
		s, err := m.Resume(synced)
		must(t, err)
		_, err = s.WriteAt([]byte("AB"), 6)
		must(t, err)
		_, err = s.WriteAt([]byte("CD"), 8)
		must(t, err)
		never := journal.NewID()
		s, err = m.Stage(never)
		must(t, err)
		_, err = s.WriteAt([]byte("never"), 0)
		must(t, err)
		return m, sealed, synced, never
	}
	for _, c := range []struct {
		name            string
		keep            func(string) bool
		synced, never   string
		staged          int
		sealedIsStaging bool
	}{
		{"nothing kept", none, "synced", "-", 2, true},
		{"all kept", all, "syncedABCD", "never", 2, false},
		{"a later write only", keepOnly("write 1", "seal"), "synced\x00\x00CD", "-", 1, false},
		{"the name and no bytes", keepOnly("stage", "seal"), "synced", "", 2, false},
	} {
		m, sealed, synced, never := build()
		old := m
		m = m.Crash(c.keep)
		wantErr(t, old.Mkdir("x"), fs.ErrClosed)
		if got := volumetest.ReadContent(t, m, sealed); string(got) != "sealed" {
			t.Errorf("%s: sealed is %q", c.name, got)
		}
		if got := volumetest.ReadContent(t, m, synced); string(got) != c.synced {
			t.Errorf("%s: synced is %q, want %q", c.name, got, c.synced)
		}
		if _, err := m.Open(never); (err != nil) != (c.never == "-") {
			t.Errorf("%s: never synced: %v", c.name, err)
		} else if err == nil && string(volumetest.ReadContent(t, m, never)) != c.never {
			t.Errorf("%s: never synced has other bytes", c.name)
		}
		staged, err := m.Staged()
		must(t, err)
		if _, ok := staged[sealed]; ok != c.sealedIsStaging || len(staged) != c.staged {
			t.Errorf("%s: staged %v", c.name, staged)
		}
		must(t, m.Seal(sealed, journal.KindFile, journal.NoMeta()))
		m = m.Kill()
		if got := volumetest.ReadContent(t, m, synced); string(got) != c.synced {
			t.Errorf("%s: after Kill synced is %q", c.name, got)
		}
	}
}

func TestCrashDiscard(t *testing.T) {
	for _, kept := range []bool{true, false} {
		m := volumetest.New(t)
		id := volumetest.PutContent(t, m, []byte("x"))
		must(t, m.Discard(id))
		m = m.Crash(func(string) bool { return kept })
		if _, err := m.Open(id); (err != nil) != kept {
			t.Errorf("discard kept %v: %v", kept, err)
		}
	}
}

// TestCrashTree: changes of names persist in any order, each in the directory it was made in.
func TestCrashTree(t *testing.T) {
	build := func() *volumetest.Memory {
		m := volumetest.New(t)
		a, b := volumetest.PutSealed(t, m, []byte("a")), volumetest.PutSealed(t, m, []byte("b"))
		must(t, m.Mkdir("d"))
		must(t, m.Mkdir("d/e"))
		m = m.Crash(all)
		must(t, m.Rename("d", "n"))
		must(t, m.Link(a, "n/e/f"))
		must(t, m.Relink(b, "n/e/f"))
		must(t, m.Mkdir("n/new"))
		must(t, m.Symlink("t", "n/new/s"))
		return m
	}
	wantTree(t, build().Crash(none), "d", "d/e")
	wantTree(t, build().Crash(all), "n", "n/e", "n/e/f", "n/new", "n/new/s")
	wantTree(t, build().Crash(keepOnly("link", "symlink")), "d", "d/e", "d/e/f")
	wantTree(t, build().Crash(keepOnly("relink", "rename")), "n", "n/e", "n/e/f")
	wantTree(t, build().Crash(keepOnly("mkdir")), "d", "d/e", "d/new")
	wantTree(t, build().Kill().Crash(none), "d", "d/e")

	m := build()
	must(t, m.Unlink("n/e/f"))
	must(t, m.Rmdir("n/e"))
	wantTree(t, m.Crash(keepOnly("link", "rmdir")), "d", "d/e", "d/e/f") // it would not be empty
	m = build()
	must(t, m.Mkdir("x"))
	must(t, m.Rename("n", "x/n"))
	must(t, m.Rename("x/n/e", "e"))
	must(t, m.Rename("x", "e/x"))
	wantTree(t, m.Crash(keepOnly("rename", "mkdir x")), "e", "e/x", "e/x/n")
	m = build()
	must(t, m.Mkdir("x"))
	must(t, m.Rename("n/e", "x/e"))
	must(t, m.Rename("x", "n/x"))
	must(t, m.Rename("n/x/e", "e"))
	must(t, m.Rename("n", "e/n"))
	// The move of e out of n is lost and the one of n into e kept: n can not be inside itself.
	wantTree(t, m.Crash(keepOnly("rename n e/n")), "d", "d/e")
}

func TestCrashNotes(t *testing.T) {
	build := func() *volumetest.Memory {
		m := volumetest.New(t)
		must(t, m.PutNote(appendonly.AreaStaging, "old", []byte("1")))
		must(t, m.PutNote(appendonly.AreaStaging, "gone", []byte("1")))
		must(t, m.Sync(nil))
		must(t, m.PutNote(appendonly.AreaStaging, "old", []byte("2")))
		must(t, m.RemoveNote(appendonly.AreaStaging, "gone"))
		must(t, m.PutNote(appendonly.AreaStaging, "new", []byte("3")))
		return m
	}
	for _, c := range []struct {
		name           string
		keep           func(string) bool
		old, gone, new string
	}{
		{"nothing kept", none, "1", "1", "-"}, {"all kept", all, "2", "-", "3"}, {"empty", keepOnly("empty"), "1", "1", ""},
	} {
		notes, err := build().Crash(c.keep).Notes(appendonly.AreaStaging)
		must(t, err)
		for name, want := range map[string]string{"old": c.old, "gone": c.gone, "new": c.new} {
			if b, ok := notes[name]; ok != (want != "-") || ok && string(b) != want {
				t.Errorf("%s: %s is %q, %v", c.name, name, b, ok)
			}
		}
	}
}

// TestCrashSegment: what was synced is there, the rest is a prefix, a hole or a tear of what was written,
// and every length of tear comes up.
func TestCrashSegment(t *testing.T) {
	build := func() *volumetest.Memory {
		m := volumetest.New(t)
		f, err := m.OpenSegment()
		must(t, err)
		for i, s := range []string{"closed\n", "synced\n", "first\n", "second\n"} {
			_, err = f.Write([]byte(s))
			must(t, err)
			if i == 0 {
				must(t, f.Close())
				must(t, m.CloseSegment("000000000001.jsonl"))
				f, err = m.OpenSegment()
				must(t, err)
			}
			if i == 1 {
				must(t, f.Sync())
			}
		}
		return m
	}
	read := func(m *volumetest.Memory) string {
		f, err := m.OpenSegment()
		must(t, err)
		size, err := f.Size()
		must(t, err)
		b, err := io.ReadAll(io.NewSectionReader(f, 0, size))
		must(t, err)
		r, err := m.ReadSegment("000000000001.jsonl")
		must(t, err)
		if closed, err := io.ReadAll(r); err != nil || string(closed) != "closed\n" {
			t.Errorf("closed segment %q, %v", closed, err)
		}
		return string(b)
	}
	if got := read(build().Crash(none)); got != "synced\n" {
		t.Errorf("nothing kept: %q", got)
	}
	if got := read(build().Crash(all)); got != "synced\nfirst\nsecond\n" {
		t.Errorf("all kept: %q", got)
	}
	if got := read(build().Crash(keepOnly("segment change 1"))); got != "synced\n\x00\x00\x00\x00\x00\x00second\n" {
		t.Errorf("hole: %q", got)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	lengths := map[int]bool{}
	for range 400 {
		got := read(build().Crash(func(string) bool { return rng.IntN(2) == 0 }))
		if !strings.HasPrefix(got, "synced\n") || len(got) > 20 {
			t.Fatalf("crash left %q", got)
		}
		lengths[len(got)] = true
	}
	if len(lengths) < 12 {
		t.Errorf("only these lengths came up: %v", lengths)
	}
}
