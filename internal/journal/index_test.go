package journal_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"vaultd/internal/journal"
)

// failer is what *testing.T and *rapid.T have in common.
type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// subject is an index beside a naive one, and the records that both were given.
type subject struct {
	t       failer
	path    string
	x       *journal.Index
	n       *naive
	records []*journal.Record
	stable  int // records that the database may know: those before the newest Freeze
}

func newSubject(t failer, dir string) *subject {
	s := &subject{t: t, path: filepath.Join(dir, "index.db"), n: newNaive()}
	s.x = s.open(s.path)
	return s
}

func (s *subject) open(path string) *journal.Index {
	x, err := journal.OpenIndex(path)
	s.must(err)
	return x
}

func (s *subject) must(err error) {
	if err != nil {
		s.t.Helper()
		s.t.Fatal(err)
	}
}

// apply gives both one more record.
func (s *subject) apply(r *journal.Record) {
	s.n.now = s.n.now.Add(s.n.step)
	r.Seq, r.Time = journal.Seq(len(s.records)+1), s.n.now
	r.Chain = journal.Hash{byte(r.Seq), byte(r.Seq >> 8), 1}
	var at, to journal.Loc
	var err error
	if r.Path != "" {
		at, err = s.x.Locate(r.Path)
		s.must(err)
	}
	if r.To != "" {
		to, err = s.x.Locate(r.To)
		s.must(err)
	}
	if err := s.x.Apply(r, at, to); err != nil {
		s.t.Fatalf("apply %+v: %v", r, err)
	}
	s.records = append(s.records, r)
	s.n.apply(r, at, to)
}

// step draws a record that is possible now.
func (s *subject) step(t *rapid.T) {
	s.n.draw(t)
	path, to := s.n.place(t, "path"), s.n.place(t, "to")
	e := s.n.at(path)
	key := rapid.SampledFrom([]string{"k1", "k2"}).Draw(t, "key")
	op := rapid.SampledFrom([]journal.Op{journal.OpCreate, journal.OpCreate, journal.OpMkdir, journal.OpSymlink, journal.OpNode,
		journal.OpRemove, journal.OpSeal, journal.OpMove, journal.OpMove, journal.OpLink, journal.OpMeta, journal.OpVoid, journal.OpVoid, journal.OpHash,
		journal.OpBarrier, journal.OpSession}).Draw(t, "op")
	r := &journal.Record{Op: op, Path: path, Meta: journal.NoMeta(), Key: key}
	switch op {
	case journal.OpCreate, journal.OpNode:
		if e != nil && (e.Kind == journal.KindDir || op == journal.OpNode) {
			return
		}
		r.Kind, r.ID, r.Size = journal.KindFile, s.n.newID(), rapid.SampledFrom([]int64{0, 1, 4096, 4097, 1 << 40}).Draw(t, "size")
		if op == journal.OpNode {
			r.Kind, r.Size = journal.KindFifo, 0
		}
		r.Fresh = op == journal.OpCreate && (e == nil || e.Fresh) && rapid.Bool().Draw(t, "fresh")
	case journal.OpMkdir, journal.OpSymlink:
		if e != nil {
			return
		}
		r.Target = "target"
	case journal.OpRemove:
		if e == nil || e.Kind == journal.KindDir && s.n.holds(e.Dir) {
			return
		}
	case journal.OpSeal:
		if e == nil || !e.Fresh {
			return
		}
	case journal.OpMeta:
		if e == nil {
			return
		}
		r.Meta.Mode = rapid.Int32Range(0, 0o7777).Draw(t, "mode")
		r.Keep = rapid.Bool().Draw(t, "keep")
	case journal.OpMove:
		dst := s.n.at(to)
		if e == nil || path == to || strings.HasPrefix(to, path+"/") || dst != nil && (e.Kind == journal.KindDir ||
			dst.Kind == journal.KindDir || dst.ID == e.ID && e.Kind.HasContent()) {
			return
		}
		r.To = to
		r.Fresh = e.Fresh && (dst == nil || dst.Fresh) && rapid.Bool().Draw(t, "fresh")
	case journal.OpLink:
		if e == nil || e.Fresh || !e.Kind.HasContent() || s.n.at(to) != nil {
			return
		}
		r.To, r.ID = to, e.ID
	case journal.OpVoid:
		if e == nil || !e.Kind.HasContent() {
			return
		}
		r.ID = e.ID
	case journal.OpHash:
		if e == nil || !e.Kind.HasContent() {
			return
		}
		r.Path, r.ID, r.SHA256 = "", e.ID, journal.Hash{7, byte(len(s.records))}
	default:
		r.Path = ""
	}
	s.apply(r)
}

// keep freezes and flushes in any order, or opens the database again as after kill -9: what it lacks
// is replayed, as the vault does.
func (s *subject) keep(t *rapid.T) {
	switch rapid.IntRange(0, 12).Draw(t, "keep") {
	case 0, 1:
		if s.x.Freeze() {
			s.stable = len(s.records)
		}
	case 2, 3:
		s.must(s.x.Flush())
	case 4:
		s.must(s.x.Close())
		s.x = s.open(s.path)
		known := s.x.Head().Seq
		if int(known) > s.stable {
			s.t.Fatalf("the database knows record %d, frozen was %d", known, s.stable)
		}
		s.replay(s.x, s.records[known:])
	}
}

func (s *subject) replay(x *journal.Index, rs []*journal.Record) {
	for _, r := range rs {
		if err := x.ReplayBatched(r); err != nil {
			s.t.Fatalf("replay %+v: %v", r, err)
		}
	}
}

var entryOpts = cmp.Options{exact, cmpopts.EquateApproxTime(0), cmpopts.IgnoreFields(journal.Entry{}, "Since")}

// check compares all that can be asked of x, at every instant or some, with the naive index.
func (s *subject) check(x *journal.Index, every bool) {
	t := s.t
	if got, want := x.Totals(), s.n.totals(); got != want {
		t.Fatalf("totals %+v, want %+v", got, want)
	}
	instants := []journal.Seq{journal.Now}
	for i := range len(s.records) + 1 {
		if every || i%5 == len(s.records)%5 {
			instants = append(instants, journal.Seq(i))
		}
	}
	for _, when := range instants {
		state := s.n.stateAt(when)
		for dir := range s.n.dirs {
			want := map[string]*journal.Entry{}
			for l, e := range state {
				if l.Dir == dir {
					want[l.Name] = e
				}
			}
			s.checkList(x, dir, when, want)
		}
	}
	for l, want := range s.n.versions {
		got, err := x.Versions(l)
		s.must(err)
		if diff := cmp.Diff(want.visible(), got, entryOpts, cmpopts.IgnoreFields(journal.Version{}, "Gone")); diff != "" {
			t.Fatalf("versions of %v: %s", l, diff)
		}
	}
	for dir := range s.n.dirs {
		got, err := x.EverNames(dir, "", 1000)
		s.must(err)
		if want := s.n.everNames(dir); !slices.Equal(got, want) {
			t.Fatalf("names ever in %d: %q, want %q", dir, got, want)
		}
	}
	for id, want := range s.n.hashes {
		if got, err := x.Hash(&journal.Entry{Kind: journal.KindFile, ID: id}); err != nil || got != want {
			t.Fatalf("hash %v, %v; want %v", got, err, want)
		}
	}
	for id := range s.n.ids {
		if got, err := x.Void(id); err != nil || got != s.n.void[id] {
			t.Fatalf("void %v, %v; want %v", got, err, s.n.void[id])
		}
	}
	s.checkLinks(x)
	fresh, err := x.Fresh()
	s.must(err)
	if want := s.n.freshLocs(); !cmp.Equal(fresh, want, cmpopts.EquateEmpty()) {
		t.Fatalf("fresh %v, want %v", fresh, want)
	}
}

func (s *subject) checkLinks(x *journal.Index) {
	for at := range s.n.versions {
		e := s.n.live(at)
		if e == nil || !e.Linked {
			continue
		}
		got, err := x.Links(e.ID)
		s.must(err)
		if want := s.n.namesOf(at, e); !cmp.Equal(got, want, cmpopts.SortSlices(less)) {
			s.t.Fatalf("names of %v: %v, want %v", e.ID, got, want)
		}
	}
}

func less(a, b journal.Loc) bool { return a.Dir < b.Dir || a.Dir == b.Dir && a.Name < b.Name }

func (s *subject) checkList(x *journal.Index, dir journal.DirID, when journal.Seq, want map[string]*journal.Entry) {
	got := map[string]*journal.Entry{}
	var names []string
	n := 1 + int(when)%4
	for after := ""; ; {
		page, err := x.List(dir, when, after, n)
		s.must(err)
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			got[e.Name] = e.Entry
			names = append(names, e.Name)
		}
		after = page[len(page)-1].Name
	}
	if !slices.Equal(names, slices.Sorted(maps.Keys(want))) {
		s.t.Fatalf("directory %d at %d lists %q, want %q", dir, when, names, slices.Sorted(maps.Keys(want)))
	}
	if diff := cmp.Diff(want, got, entryOpts); diff != "" {
		s.t.Fatalf("directory %d at %d: %s", dir, when, diff)
	}
	for _, name := range s.n.names {
		e, err := x.Lookup(journal.Loc{Dir: dir, Name: name}, when)
		if w := want[name]; w == nil && !errors.Is(err, fs.ErrNotExist) || w != nil && (err != nil || !cmp.Equal(w, e, entryOpts)) {
			s.t.Fatalf("%q in %d at %d: %+v, %v; want %+v", name, dir, when, e, err, w)
		}
	}
}

// The names of one content: it is live until the last is gone, and lives again when one comes back.
func TestLinkedNames(t *testing.T) {
	s := newSubject(t, t.TempDir())
	defer func() { s.x.Close() }()
	put := func(path string, id byte) {
		s.n.ids[journal.ID{id}] = true
		s.apply(&journal.Record{Op: journal.OpCreate, Path: path, Kind: journal.KindFile, ID: journal.ID{id}, Size: 5000, Meta: journal.NoMeta(), Key: "k1"})
	}
	for _, do := range []func(){
		func() { put("a", 1) },
		func() { s.apply(&journal.Record{Op: journal.OpLink, Path: "a", To: "b", ID: journal.ID{1}}) },
		func() { s.apply(&journal.Record{Op: journal.OpMove, Path: "b", To: "c", ID: journal.ID{1}}) },
		func() {
			s.apply(&journal.Record{Op: journal.OpMeta, Path: "c", Meta: journal.Meta{Mode: 1}, Key: "k1"})
		},
		func() { s.n.step = journal.Settle },
		func() {
			s.apply(&journal.Record{Op: journal.OpMeta, Path: "a", Meta: journal.Meta{Mode: 2}, Key: "k1"})
		},
		func() { put("a", 2) },
		func() { s.apply(&journal.Record{Op: journal.OpVoid, Path: "a", ID: journal.ID{2}}) },
		func() { s.apply(&journal.Record{Op: journal.OpRemove, Path: "c"}) },
		func() { put("a", 3) },
		func() { put("a", 4) },
		func() { s.apply(&journal.Record{Op: journal.OpVoid, ID: journal.ID{3}}) },
		func() { s.apply(&journal.Record{Op: journal.OpVoid, Path: "a", ID: journal.ID{4}}) },
		func() { s.apply(&journal.Record{Op: journal.OpLink, Path: "a", To: "d", ID: journal.ID{1}}) },
		func() { s.apply(&journal.Record{Op: journal.OpRemove, Path: "a"}) },
		func() { s.apply(&journal.Record{Op: journal.OpRemove, Path: "d"}) },
	} {
		do()
		s.check(s.x, true)
	}
}

// Whatever the records, and whenever the database follows: every instant stays what it was, and an
// index made anew from the records alone says the same.
func TestIndexModel(t *testing.T) {
	dir := t.TempDir()
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		runs++
		sub := fmt.Sprintf("%s/%d", dir, runs)
		must(t, mkdir(sub))
		s := newSubject(t, sub)
		defer func() { s.x.Close() }()
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			s.step(t)
			s.keep(t)
		}
		s.check(s.x, true)
		fresh := s.open(filepath.Join(sub, "again.db"))
		defer fresh.Close()
		s.replay(fresh, s.records)
		s.check(fresh, false)
	})
}
