package volumetest

import (
	"io"
	"io/fs"
	"slices"
	"testing"

	"vaultd/internal/journal"
)

// SegmentSuite runs the conformance tests of journal.Segments on an empty store.
func SegmentSuite(t *testing.T, open func(t testing.TB) journal.Segments) {
	t.Run("Lifecycle", func(t *testing.T) { testSegments(t, open(t)) })
	t.Run("Names", func(t *testing.T) { testSegmentNames(t, open(t)) })
}

func readSegment(t testing.TB, s journal.Segments, name string) string {
	t.Helper()
	r, err := s.ReadSegment(name)
	must(t, err)
	defer r.Close()
	b, err := io.ReadAll(r)
	must(t, err)
	return string(b)
}

func testSegments(t *testing.T, s journal.Segments) {
	const first, second = "000000000001.jsonl", "000000000002.jsonl"
	wantErr(t, "CloseSegment without one", s.CloseSegment(first), fs.ErrNotExist)
	f, err := s.OpenSegment()
	must(t, err)
	for _, line := range []string{"one\n", "two\n", "torn"} {
		n, err := f.Write([]byte(line))
		must(t, err)
		if n != len(line) {
			t.Errorf("wrote %d", n)
		}
	}
	must(t, f.Sync())
	must(t, f.Close())

	f, err = s.OpenSegment() // finds the same, and appends
	must(t, err)
	if size, err := f.Size(); err != nil || size != 12 {
		t.Errorf("size %d, %v", size, err)
	}
	b := make([]byte, 20)
	if n, err := f.ReadAt(b, 4); err != io.EOF || string(b[:n]) != "two\ntorn" {
		t.Errorf("read %q, %v", b[:n], err)
	}
	must(t, f.Truncate(8))
	_, err = f.Write([]byte("three\n"))
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
	must(t, s.CloseSegment(first))
	if got := readSegment(t, s, first); got != "one\ntwo\nthree\n" {
		t.Errorf("closed segment is %q", got)
	}

	f, err = s.OpenSegment() // a new one
	must(t, err)
	if size, err := f.Size(); err != nil || size != 0 {
		t.Errorf("size of the next %d, %v", size, err)
	}
	_, err = f.Write([]byte("four\n"))
	must(t, err)
	must(t, f.Close())
	wantErr(t, "CloseSegment under a taken name", s.CloseSegment(first), fs.ErrExist)
	must(t, s.CloseSegment(second))
	if got := readSegment(t, s, first); got != "one\ntwo\nthree\n" {
		t.Errorf("closed segment became %q", got)
	}
	names, err := s.Segments()
	must(t, err)
	if !slices.Equal(names, []string{first, second}) {
		t.Errorf("segments %q", names)
	}
	_, err = s.ReadSegment("000000000003.jsonl")
	wantErr(t, "ReadSegment of a missing one", err, fs.ErrNotExist)
}

func testSegmentNames(t *testing.T, s journal.Segments) {
	f, err := s.OpenSegment()
	must(t, err)
	must(t, f.Close())
	for _, name := range []string{"", "x", "../format", "00000000001.jsonl", "0000000000001.jsonl", "00000000000a.jsonl",
		"000000000001.json", "000000000001.jsonl\n", "000000000001xjsonl", "../000000001.jsonl"} {
		wantErr(t, "CloseSegment "+name, s.CloseSegment(name), fs.ErrInvalid)
		_, err := s.ReadSegment(name)
		wantErr(t, "ReadSegment "+name, err, fs.ErrInvalid)
	}
	if names, err := s.Segments(); err != nil || len(names) != 0 {
		t.Errorf("segments %q, %v", names, err)
	}
}
