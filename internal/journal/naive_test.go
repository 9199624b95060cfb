package journal_test

import (
	"cmp"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/journal"
)

func must(t *rapid.T, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

func mkdir(path string) error { return os.Mkdir(path, 0o700) }

// span is a version of a name: what it was and from when to when. Entries are shared with the states of
// the instants, so that an amendment shows at all of them.
type span struct {
	e  *journal.Entry
	to journal.Seq
}

type spans []*span

// visible are the versions as the index tells them, newest first: without those that were fresh and are gone.
func (s spans) visible() []journal.Version {
	var out []journal.Version
	for _, x := range slices.Backward(s) {
		if x.to == journal.Now || !x.e.Fresh {
			out = append(out, journal.Version{Entry: x.e, To: x.to})
		}
	}
	return out
}

// naive is an index that remembers every version of every name in a list.
type naive struct {
	names    []string
	now      time.Time
	step     time.Duration
	ids      map[journal.ID]bool
	void     map[journal.ID]bool
	hashes   map[journal.ID]journal.Hash
	dirs     map[journal.DirID]bool
	versions map[journal.Loc]spans
	records  int64
}

func newNaive() *naive {
	return &naive{names: []string{"a", "a\x01", "b", "b\xff"}, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		ids: map[journal.ID]bool{}, void: map[journal.ID]bool{}, hashes: map[journal.ID]journal.Hash{},
		dirs: map[journal.DirID]bool{0: true}, versions: map[journal.Loc]spans{}}
}

func (n *naive) draw(t *rapid.T) {
	n.step = rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, journal.Settle}).Draw(t, "step")
}

func (n *naive) newID() journal.ID {
	id := journal.ID{byte(len(n.ids) + 1), byte(len(n.ids) >> 8)}
	n.ids[id] = true
	return id
}

func (n *naive) live(l journal.Loc) *journal.Entry {
	if s := n.versions[l]; len(s) > 0 && s[len(s)-1].to == journal.Now {
		return s[len(s)-1].e
	}
	return nil
}

func (n *naive) each(f func(journal.Loc, *span)) {
	for l, s := range n.versions {
		for _, x := range s {
			f(l, x)
		}
	}
}

func (n *naive) holds(dir journal.DirID) bool {
	for l := range n.versions {
		if l.Dir == dir && n.live(l) != nil {
			return true
		}
	}
	return false
}

// place draws the path of a name in a live directory.
func (n *naive) place(t *rapid.T, label string) string {
	paths := []string{""}
	var walk func(dir journal.DirID, path string)
	walk = func(dir journal.DirID, path string) {
		for _, name := range n.names {
			if e := n.live(journal.Loc{Dir: dir, Name: name}); e != nil && e.Kind == journal.KindDir {
				paths = append(paths, path+name+"/")
				walk(e.Dir, path+name+"/")
			}
		}
	}
	walk(0, "")
	return rapid.SampledFrom(paths).Draw(t, label+" in") + rapid.SampledFrom(append([]string{"a", "a", "a"}, n.names...)).Draw(t, label)
}

func (n *naive) at(path string) *journal.Entry {
	var dir journal.DirID
	parts := strings.Split(path, "/")
	for _, p := range parts[:len(parts)-1] {
		dir = n.live(journal.Loc{Dir: dir, Name: p}).Dir
	}
	return n.live(journal.Loc{Dir: dir, Name: parts[len(parts)-1]})
}

func (n *naive) begin(l journal.Loc, e *journal.Entry) {
	n.versions[l] = append(n.versions[l], &span{e, journal.Now})
}

func (n *naive) end(l journal.Loc, r *journal.Record) *journal.Entry {
	e := n.live(l)
	if e != nil {
		s := n.versions[l]
		s[len(s)-1].to = r.Seq
	}
	return e
}

func (n *naive) apply(r *journal.Record, at, to journal.Loc) {
	switch r.Op {
	case journal.OpHash:
		n.hashes[r.ID] = r.SHA256
		return
	case journal.OpVoid:
		n.applyVoid(r, at)
		return
	case journal.OpBarrier:
		return
	}
	n.records++
	switch r.Op {
	case journal.OpCreate, journal.OpNode, journal.OpMkdir, journal.OpSymlink:
		e := &journal.Entry{Kind: r.Kind, Fresh: r.Fresh, From: r.Seq, Received: r.Time, ID: r.ID, Size: r.Size, Meta: r.Meta, Key: r.Key}
		switch r.Op {
		case journal.OpMkdir:
			e.Kind, e.Dir = journal.KindDir, journal.DirID(r.Seq)
			n.dirs[e.Dir] = true
		case journal.OpSymlink:
			e.Kind, e.Target, e.Size = journal.KindSymlink, r.Target, int64(len(r.Target))
		}
		if old := n.end(at, r); old != nil && old.Fresh && e.Fresh {
			e.Received = old.Received
		}
		n.begin(at, e)
	case journal.OpRemove:
		n.end(at, r)
	case journal.OpSeal:
		n.changed(at, r, func(e *journal.Entry) { e.Fresh = false })
	case journal.OpMeta:
		e := n.live(at)
		amends := e.Settling(r.Key, r.Time) && (e.Fresh || !r.Keep)
		for _, l := range n.namesOf(at, e) {
			if amends {
				n.live(l).Meta = r.Meta
			} else {
				n.changed(l, r, func(e *journal.Entry) { e.Meta = r.Meta })
			}
		}
	case journal.OpLink:
		n.live(at).Linked = true
		n.copyTo(to, r, n.live(at), func(*journal.Entry) {})
	case journal.OpMove:
		e := n.end(at, r)
		n.end(to, r)
		n.copyTo(to, r, e, func(e *journal.Entry) { e.Fresh = r.Fresh })
	}
}

// changed begins a new version of l, that differs by f.
func (n *naive) changed(l journal.Loc, r *journal.Record, f func(*journal.Entry)) {
	n.copyTo(l, r, n.end(l, r), f)
}

func (n *naive) copyTo(l journal.Loc, r *journal.Record, e *journal.Entry, f func(*journal.Entry)) {
	c := *e
	c.From = r.Seq
	f(&c)
	n.begin(l, &c)
}

func (n *naive) namesOf(at journal.Loc, e *journal.Entry) []journal.Loc {
	if !e.Kind.HasContent() {
		return []journal.Loc{at}
	}
	var out []journal.Loc
	for l := range n.versions {
		if x := n.live(l); x != nil && x.Kind.HasContent() && x.ID == e.ID {
			out = append(out, l)
		}
	}
	return out
}

func (n *naive) applyVoid(r *journal.Record, at journal.Loc) {
	n.void[r.ID] = true
	if r.Path == "" {
		return
	}
	until := n.end(at, r).From
	for _, x := range slices.Backward(n.versions[at]) {
		if x.to == r.Seq || x.e.Fresh {
			continue
		}
		if x.to != until {
			return
		}
		if !x.e.Kind.HasContent() || !n.void[x.e.ID] {
			n.copyTo(at, r, x.e, func(*journal.Entry) {})
			return
		}
		until = x.e.From
	}
}

// stateAt is what every name stood for at an instant.
func (n *naive) stateAt(when journal.Seq) map[journal.Loc]*journal.Entry {
	out := map[journal.Loc]*journal.Entry{}
	n.each(func(l journal.Loc, x *span) {
		if when == journal.Now && x.to == journal.Now || when != journal.Now && !x.e.Fresh && x.e.From <= when && when < x.to {
			out[l] = x.e
		}
	})
	return out
}

func (n *naive) everNames(dir journal.DirID) []string {
	out := map[string]bool{}
	for l, s := range n.versions {
		if l.Dir == dir && len(s.visible()) > 0 {
			out[l.Name] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

func (n *naive) freshLocs() []journal.Loc {
	var out []journal.Loc
	for l := range n.versions {
		if e := n.live(l); e != nil && e.Fresh {
			out = append(out, l)
		}
	}
	slices.SortFunc(out, func(a, b journal.Loc) int {
		return cmp.Or(cmp.Compare(a.Dir, b.Dir), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// totals counts everything anew.
func (n *naive) totals() journal.Totals {
	t := journal.Totals{Records: n.records}
	live, past := map[journal.ID]int64{}, map[journal.ID]int64{}
	n.each(func(_ journal.Loc, x *span) {
		switch {
		case x.to == journal.Now:
			t.Files++
			if x.e.Fresh {
				t.Fresh++
			}
			if x.e.Kind.HasContent() {
				live[x.e.ID] = journal.Charge(x.e.Size)
			}
		case x.e.Kind.HasContent() && !x.e.Fresh:
			past[x.e.ID] = journal.Charge(x.e.Size)
		}
	})
	for id, c := range past {
		if live[id] == 0 {
			t.Past += c
		}
	}
	for _, c := range live {
		t.Live += c
	}
	return t
}
