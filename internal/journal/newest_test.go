package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// dirSegments are closed segments in a directory: they can be sought in.
type dirSegments string

func (d dirSegments) Segments() ([]string, error) {
	list, err := os.ReadDir(string(d))
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, err
}

func (d dirSegments) ReadSegment(name string) (io.ReadCloser, error) {
	return os.Open(filepath.Join(string(d), name))
}

// A snapshot is found where nothing changed after it, in a segment of any length, and by no name that only looks like it.
func TestSnapshotAtEnd(t *testing.T) {
	m := volumetest.New(t)
	l, _ := open(t, m, journal.Head{})
	at := map[string]journal.Seq{}
	snap := func(name string) {
		r := &journal.Record{Op: journal.OpSnapshot, Note: name, What: "manual", Key: "server"}
		appendAll(t, l, []*journal.Record{r, {Op: journal.OpBarrier, Covers: 1}})
		at[name] = r.Seq
		ok(t, l.Rotate())
	}
	look := func(names ...string) {
		t.Helper()
		dir := t.TempDir()
		segs, err := m.Segments()
		ok(t, err)
		for _, s := range segs {
			rc, err := m.ReadSegment(s)
			ok(t, err)
			b, err := io.ReadAll(rc)
			ok(t, err)
			ok(t, os.WriteFile(filepath.Join(dir, s), b, 0o600))
		}
		for _, in := range []journal.ClosedSegments{m, dirSegments(dir)} {
			for name, seq := range at {
				r, err := journal.SnapshotAtEnd(in, name)
				if slices.Contains(names, name) != (err == nil) || err == nil && (r.Seq != seq || r.Chain == journal.Hash{}) || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: %v, %v", name, r, err)
				}
			}
			if r, err := journal.SnapshotAtEnd(in, "on"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%v, %v", r, err)
			}
		}
	}
	look()
	appendAll(t, l, sampleRecords())
	snap("one")
	look("one")
	snap("two") // nothing changed
	appendAll(t, l, []*journal.Record{{Op: journal.OpSession, Key: "k", Session: "s", Note: "x"}, {Op: journal.OpHash, ID: journal.ID{1}, SHA256: journal.Hash{2}}})
	snap("three")
	look("one", "two", "three")
	appendAll(t, l, []*journal.Record{{Op: journal.OpMkdir, Path: "new", Meta: journal.NoMeta(), Key: "k"}})
	look("one", "two", "three") // that is in the open segment
	snap("four")
	look("four")
	for i := range 3000 { // more than is looked at
		appendAll(t, l, []*journal.Record{{Op: journal.OpSymlink, Path: fmt.Sprint(i), Target: strings.Repeat("x", 200), Meta: journal.NoMeta(), Key: "k"}})
	}
	snap("five")
	look("five")
	for i := range 10 { // and more segments
		snap(fmt.Sprint("more", i))
	}
	look("more2", "more3", "more4", "more5", "more6", "more7", "more8", "more9")
}

// What is damaged there is an error, and none is "not there".
func TestSnapshotAtEndDamaged(t *testing.T) {
	m := volumetest.New(t)
	l, _ := open(t, m, journal.Head{})
	appendAll(t, l, []*journal.Record{{Op: journal.OpSnapshot, Note: "one", What: "manual", Key: "server"}, {Op: journal.OpBarrier, Covers: 1}})
	ok(t, l.Rotate())
	segs, err := m.Segments()
	ok(t, err)
	rc, err := m.ReadSegment(segs[0])
	ok(t, err)
	text, err := io.ReadAll(rc)
	ok(t, err)
	for what, b := range map[string][]byte{"empty": nil, "cut": text[:len(text)-3], "no JSON": bytes.ReplaceAll(text, []byte("{"), []byte("[")), "no chain": bytes.ReplaceAll(text, []byte(`"chain"`), []byte(`"chaim"`)),
		"NULs": make([]byte, 1000), "one long line": bytes.Repeat([]byte("x"), 1<<20)} {
		dir := t.TempDir()
		ok(t, os.WriteFile(filepath.Join(dir, segs[0]), b, 0o600))
		if r, err := journal.SnapshotAtEnd(dirSegments(dir), "one"); err == nil || errors.Is(err, fs.ErrNotExist) && what != "one long line" {
			t.Errorf("%s: %v, %v", what, r, err)
		}
	}
}
