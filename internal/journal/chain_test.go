package journal_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/journal"
)

// files is a journal that an attacker with access to the disk may rewrite: Segments over a map.
type files struct {
	closed map[string][]byte
	open   []byte
}

func (s *files) OpenSegment() (journal.SegmentFile, error) { return &openFile{s}, nil }

func (s *files) CloseSegment(name string) error {
	s.closed[name], s.open = s.open, nil
	return nil
}

func (s *files) Segments() ([]string, error) { return slices.Sorted(maps.Keys(s.closed)), nil }

func (s *files) ReadSegment(name string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s.closed[name])), nil
}

func (s *files) clone() *files {
	c := &files{closed: map[string][]byte{}, open: bytes.Clone(s.open)}
	for n, b := range s.closed {
		c.closed[n] = bytes.Clone(b)
	}
	return c
}

type openFile struct{ s *files }

func (f *openFile) Write(p []byte) (int, error) {
	f.s.open = append(f.s.open, p...)
	return len(p), nil
}
func (f *openFile) ReadAt(p []byte, off int64) (int, error) {
	return bytes.NewReader(f.s.open).ReadAt(p, off)
}
func (f *openFile) Size() (int64, error)   { return int64(len(f.s.open)), nil }
func (f *openFile) Truncate(n int64) error { f.s.open = f.s.open[:n]; return nil }
func (f *openFile) Sync() error            { return nil }
func (f *openFile) Close() error           { return nil }

// chain writes three closed segments of four records and an open one, whose head it returns.
func chain(t *testing.T, path string) (*files, journal.Head) {
	s := &files{closed: map[string][]byte{}}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	l, _, err := journal.Open(journal.Config{Segments: s, Now: func() time.Time { now = now.Add(time.Second); return now }, Boot: "b"},
		journal.Head{}, discard)
	ok(t, err)
	for i := range 4 {
		for range 3 {
			_, err := l.Append(&journal.Record{Op: journal.OpMkdir, Path: path, Meta: journal.NoMeta(), Key: "k"})
			ok(t, err)
		}
		if i < 3 {
			ok(t, l.Rotate())
		}
	}
	return s, l.Head()
}

const seg1, seg2, seg3 = "000000000001.jsonl", "000000000005.jsonl", "000000000009.jsonl"

// rewriteLines edits the lines of one segment.
func rewriteLines(s *files, name string, edit func(lines []string) []string) {
	lines := strings.SplitAfter(string(s.closed[name]), "\n")
	s.closed[name] = []byte(strings.Join(edit(lines[:len(lines)-1]), ""))
}

// Each row is what somebody with the disk in hand may do to a journal; reading it whole, or from the
// head that an index remembers, must tell. (Who rewrites everything from a point on, chain and all, is
// found out by a remembered head only: the last rows.)
func TestRewrittenPastIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name    string
		do      func(s, other *files)
		atOpen  bool // noticed by Open from the remembered head
		notRead bool // not noticed by reading alone
	}{
		{"line edited", func(s, _ *files) {
			s.closed[seg1] = bytes.Replace(s.closed[seg1], []byte(`"key":"k"`), []byte(`"key":"x"`), 1)
		}, false, false},
		{"line removed", func(s, _ *files) {
			rewriteLines(s, seg2, func(l []string) []string { return append(l[:2:2], l[3]) })
		}, false, false},
		{"line inserted", func(s, _ *files) {
			rewriteLines(s, seg2, func(l []string) []string { return append(l[:2:2], l[1:]...) })
		}, false, false},
		{"lines swapped", func(s, _ *files) {
			rewriteLines(s, seg1, func(l []string) []string { return []string{l[0], l[2], l[1], l[3]} })
		}, false, false},
		{"line dated back", func(s, _ *files) {
			s.closed[seg1] = bytes.Replace(s.closed[seg1], []byte("2026"), []byte("2025"), 2)
		}, false, false},
		{"end of a closed segment cut", func(s, _ *files) {
			rewriteLines(s, seg2, func(l []string) []string { return l[:3] })
		}, false, false},
		{"closed segment torn", func(s, _ *files) { s.closed[seg3] = s.closed[seg3][:len(s.closed[seg3])-5] }, true, false},
		{"first segment removed", func(s, _ *files) { delete(s.closed, seg1) }, false, false},
		{"segment removed", func(s, _ *files) { delete(s.closed, seg2) }, false, false},
		{"last closed segment removed", func(s, _ *files) { delete(s.closed, seg3) }, true, false},
		{"segments swapped", func(s, _ *files) { s.closed[seg1], s.closed[seg2] = s.closed[seg2], s.closed[seg1] }, false, false},
		{"segment under another name", func(s, _ *files) {
			s.closed["000000000006.jsonl"] = s.closed[seg2]
			delete(s.closed, seg2)
		}, false, false},
		{"segment of another journal", func(s, other *files) { s.closed[seg2] = other.closed[seg2] }, false, false},
		{"last segment of another journal", func(s, other *files) { s.closed[seg3] = other.closed[seg3] }, true, false},
		{"open segment of another journal", func(s, other *files) { s.open = other.open }, true, false},
		{"newest records cut", func(s, _ *files) { s.open = nil }, true, true},
		{"everything replaced", func(s, other *files) { *s = *other }, true, true},
		{"everything removed", func(s, _ *files) { *s = files{closed: map[string][]byte{}} }, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, head := chain(t, "mine")
			if got, torn, err := journal.NewReader(s).All(func(*journal.Record, []byte) error { return nil }); err != nil || torn != 0 || got != head {
				t.Fatalf("the journal is not good before: %+v, %d, %v", got, torn, err)
			}
			if _, _, err := journal.Open(journal.Config{Segments: s.clone(), Now: time.Now}, head, discard); err != nil {
				t.Fatal(err)
			}
			other, _ := chain(t, "theirs")
			c.do(s, other)
			_, _, err := journal.NewReader(s).All(func(*journal.Record, []byte) error { return nil })
			if c.notRead != (err == nil) || err != nil && !errors.Is(err, journal.ErrCorrupt) {
				t.Errorf("reading: %v", err)
			}
			if _, _, err := journal.Open(journal.Config{Segments: s.clone(), Now: time.Now}, head, discard); c.atOpen != errors.Is(err, journal.ErrCorrupt) {
				t.Errorf("opening after record %d: %v", head.Seq, err)
			}
			if _, _, err := journal.Open(journal.Config{Segments: s.clone(), Now: time.Now}, journal.Head{}, discard); c.notRead != (err == nil) {
				t.Errorf("opening from the start: %v", err)
			}
		})
	}
}

// A format that this program does not know is refused, whatever segment has it.
func TestNewerFormat(t *testing.T) {
	s, _ := chain(t, "x")
	line, err := journal.AppendLine(nil, &journal.Record{Seq: 1, Op: journal.OpSegment, Format: journal.Format + 1, Time: time.Unix(1, 0)}, journal.Hash{})
	ok(t, err)
	s.closed[seg1] = line
	if _, _, err := journal.Open(journal.Config{Segments: s.clone(), Now: time.Now}, journal.Head{}, discard); err == nil {
		t.Error("a closed segment is read")
	}
	s = &files{closed: map[string][]byte{}, open: line}
	if _, _, err := journal.Open(journal.Config{Segments: s, Now: time.Now}, journal.Head{}, discard); err == nil {
		t.Error("an open segment is read")
	}
}
