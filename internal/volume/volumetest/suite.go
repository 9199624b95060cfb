package volumetest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// Suite runs the conformance tests of appendonly.Volume. open returns an empty volume, which it
// closes itself.
func Suite(t *testing.T, open func(t testing.TB) appendonly.Volume) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, v appendonly.Volume)
	}{
		{"Content", testContent},
		{"ContentErrors", testContentErrors},
		{"HostileSizes", testHostileSizes},
		{"CopyFrom", testCopyFrom},
		{"SealKeepsNamesAndHandles", testSealKeeps},
		{"Staged", testStaged},
		{"Notes", testNotes},
		{"SyncMany", testSyncMany},
		{"LinkRefusesExisting", testLinkRefuses},
		{"Relink", testRelink},
		{"UnlinkKeepsOnlyLink", testOnlyLink},
		{"Directories", testDirectories},
		{"Rename", testRename},
		{"Symlink", testSymlink},
		{"HostileNames", testHostileNames},
		{"OddNames", testOddNames},
		{"Space", testSpace},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

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

// PutContent stages data, closes and syncs it.
func PutContent(t testing.TB, v appendonly.Volume, data []byte) journal.ID {
	t.Helper()
	id := journal.NewID()
	s, err := v.Stage(id)
	must(t, err)
	_, err = s.WriteAt(data, 0)
	must(t, err)
	must(t, s.Close())
	must(t, v.Sync([]journal.ID{id}))
	return id
}

// PutSealed stages and seals data.
func PutSealed(t testing.TB, v appendonly.Volume, data []byte) journal.ID {
	t.Helper()
	id := PutContent(t, v, data)
	must(t, v.Seal(id, journal.KindFile, journal.NoMeta()))
	return id
}

// ReadContent returns all of a content.
func ReadContent(t testing.TB, v appendonly.Volume, id journal.ID) []byte {
	t.Helper()
	c, err := v.Open(id)
	must(t, err)
	defer c.Close()
	b, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size()))
	must(t, err)
	return b
}

func names(t testing.TB, v appendonly.Volume, dir string) []string {
	t.Helper()
	list, err := v.Entries(dir)
	must(t, err)
	out := []string{}
	for _, e := range list {
		out = append(out, e.Name)
	}
	slices.Sort(out)
	return out
}

func wantNames(t testing.TB, v appendonly.Volume, dir string, want ...string) {
	t.Helper()
	if got := names(t, v, dir); !slices.Equal(got, want) {
		t.Errorf("entries of %q: %q, want %q", dir, got, want)
	}
}

// inodeAt is the inode number of a name, 0 when it is missing.
func inodeAt(t testing.TB, v appendonly.Volume, path string) uint64 {
	t.Helper()
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	list, err := v.Entries(dir)
	must(t, err)
	for _, e := range list {
		if e.Name == name {
			return e.Inode
		}
	}
	return 0
}

func wantContentAt(t testing.TB, v appendonly.Volume, path string, id journal.ID) {
	t.Helper()
	want, err := v.Inode(id)
	must(t, err)
	if got := inodeAt(t, v, path); got != want {
		t.Errorf("%q has inode %d, want %d of content %s", path, got, want, id)
	}
}

func testContent(t *testing.T, v appendonly.Volume) {
	id := journal.NewID()
	s, err := v.Stage(id)
	must(t, err)
	for _, w := range []struct { // out of order, overlapping, with a hole
		off  int64
		data string
	}{{6, "world"}, {0, "hellO"}, {4, "o "}, {20, "!"}} {
		n, err := s.WriteAt([]byte(w.data), w.off)
		must(t, err)
		if n != len(w.data) {
			t.Errorf("WriteAt wrote %d", n)
		}
	}
	want := append([]byte("hello world"), make([]byte, 9)...)
	want = append(want, '!')
	got := make([]byte, 30)
	n, err := s.ReadAt(got, 0)
	if err != io.EOF || !bytes.Equal(got[:n], want) {
		t.Errorf("ReadAt of staged: %q, %v", got[:n], err)
	}
	must(t, s.Truncate(11))
	if size, err := s.Size(); err != nil || size != 11 {
		t.Errorf("Size %d, %v", size, err)
	}
	must(t, s.Close())
	s, err = v.Resume(id)
	must(t, err)
	_, err = s.WriteAt([]byte("!"), 11)
	must(t, err)
	must(t, s.Truncate(14))
	must(t, s.Close())
	const final = "hello world!\x00\x00"
	if got := ReadContent(t, v, id); string(got) != final {
		t.Errorf("staged content is %q", got)
	}
	must(t, v.Sync([]journal.ID{id}))
	m := journal.Meta{Mode: 0o4755, UID: 0, GID: 4294967295, MTime: journal.Unix(-5, 999999999), ATime: journal.Unix(math.MaxInt64, 0),
		XAttrs: map[string][]byte{"user.a": []byte("1"), "security.x": []byte("2"), "": {1}, "user.\x00": {1},
			"user." + strings.Repeat("n", 300): {1}, "user.big": make([]byte, 1<<20)}}
	must(t, v.Seal(id, journal.KindFile, m))
	must(t, v.Seal(id, journal.KindFile, journal.NoMeta())) // again is no error
	if got := ReadContent(t, v, id); string(got) != final {
		t.Errorf("sealed content is %q", got)
	}
	must(t, v.Discard(id)) // and never takes away what is sealed
	if got := ReadContent(t, v, id); string(got) != final {
		t.Errorf("sealed content after Discard is %q", got)
	}
	for _, k := range []journal.Kind{journal.KindFifo, journal.KindSocket, journal.KindCharDev, journal.KindBlockDev} {
		id := PutContent(t, v, nil)
		m := journal.NoMeta()
		m.RDev = 8<<32 | 1
		must(t, v.Seal(id, k, m))
	}
}

func testContentErrors(t *testing.T, v appendonly.Volume) {
	missing := journal.NewID()
	_, err := v.Resume(missing)
	wantErr(t, "Resume missing", err, fs.ErrNotExist)
	_, err = v.Open(missing)
	wantErr(t, "Open missing", err, fs.ErrNotExist)
	_, err = v.Inode(missing)
	wantErr(t, "Inode missing", err, fs.ErrNotExist)
	wantErr(t, "Seal missing", v.Seal(missing, journal.KindFile, journal.NoMeta()), fs.ErrNotExist)
	wantErr(t, "Link missing", v.Link(missing, "f"), fs.ErrNotExist)
	must(t, v.Discard(missing))
	must(t, v.Sync([]journal.ID{missing})) // discarded meanwhile

	sealed := PutSealed(t, v, []byte("x"))
	_, err = v.Resume(sealed)
	wantErr(t, "Resume sealed", err, fs.ErrNotExist)
	wantNames(t, v, "")

	published := PutContent(t, v, []byte("x"))
	must(t, v.Link(published, "f"))
	_, err = v.Resume(published)
	wantErr(t, "Resume published", err, fs.ErrPermission)
	must(t, v.Unlink("f"))
	s, err := v.Resume(published) // its publication was undone
	must(t, err)
	must(t, s.Close())

	id := PutContent(t, v, []byte("x"))
	must(t, v.Discard(id))
	_, err = v.Open(id)
	wantErr(t, "Open discarded", err, fs.ErrNotExist)

	s, err = v.Stage(journal.NewID())
	must(t, err)
	must(t, s.Close())
	if _, err := s.WriteAt([]byte("x"), 0); err == nil {
		t.Error("WriteAt after Close succeeded")
	}
	if err := s.Close(); err == nil {
		t.Error("second Close succeeded")
	}
}

func testHostileSizes(t *testing.T, v appendonly.Volume) {
	src := PutContent(t, v, []byte("0123456789"))
	c, err := v.Open(src)
	must(t, err)
	defer c.Close()
	s, err := v.Stage(journal.NewID())
	must(t, err)
	defer s.Close()
	for _, off := range []int64{-1, math.MinInt64, math.MaxInt64, math.MaxInt64 - 1} {
		_, err := s.WriteAt([]byte("abc"), off)
		wantErr(t, "WriteAt hostile offset", err, fs.ErrInvalid)
		if _, err := s.ReadAt(make([]byte, 3), off); err == nil {
			t.Errorf("ReadAt %d succeeded", off)
		}
		wantErr(t, "CopyFrom hostile dstOff", s.CopyFrom(c, 0, off, 5), fs.ErrInvalid)
		wantErr(t, "CopyFrom hostile srcOff", s.CopyFrom(c, off, 0, 5), fs.ErrInvalid)
		wantErr(t, "CopyFrom hostile n", s.CopyFrom(c, 1, 1, off), fs.ErrInvalid)
	}
	for _, size := range []int64{-1, math.MinInt64} {
		wantErr(t, "Truncate hostile size", s.Truncate(size), fs.ErrInvalid)
	}
	// 2^63-1 is a length that some file systems take, and more than any quota.
	if err := s.Truncate(math.MaxInt64); errors.Is(err, syscall.EDQUOT) {
		wantErr(t, "Truncate again", s.Truncate(math.MaxInt64), syscall.EDQUOT)
	} else if err != nil {
		wantErr(t, "Truncate 2^63-1", err, fs.ErrInvalid)
	} else {
		must(t, s.Truncate(0))
	}
	wantErr(t, "CopyFrom beyond the end", s.CopyFrom(c, 5, 0, 6), fs.ErrInvalid)
	if size, err := s.Size(); err != nil || size != 0 {
		t.Errorf("size after refusals: %d, %v", size, err)
	}
}

func testCopyFrom(t *testing.T, v appendonly.Volume) {
	data := make([]byte, 3*4096+100)
	for i := range data {
		data[i] = byte(i * 7)
	}
	c, err := v.Open(PutSealed(t, v, data))
	must(t, err)
	defer c.Close()
	for _, r := range []struct{ src, dst, n int64 }{
		{0, 0, int64(len(data))},       // all of it, aligned
		{4096, 8192, 4096},             // one block
		{8192, 4096, 4096 + 100},       // up to the end
		{1, 4097, 5000}, {100, 0, 100}, // nothing aligned
		{0, 0, 0},
	} {
		id := journal.NewID()
		s, err := v.Stage(id)
		must(t, err)
		want := bytes.Repeat([]byte{'x'}, 6000)
		_, err = s.WriteAt(want, 0)
		must(t, err)
		must(t, s.CopyFrom(c, r.src, r.dst, r.n))
		must(t, s.Close())
		if end := int(r.dst + r.n); end > len(want) && r.n > 0 {
			want = append(want, make([]byte, end-len(want))...)
		}
		copy(want[r.dst:], data[r.src:r.src+r.n])
		if !bytes.Equal(ReadContent(t, v, id), want) {
			t.Errorf("copy of %+v gives other bytes", r)
		}
	}
	// From itself: what does not overlap is copied, what does is refused.
	id := journal.NewID()
	s, err := v.Stage(id)
	must(t, err)
	defer s.Close()
	_, err = s.WriteAt(data, 0)
	must(t, err)
	self, err := v.Open(id)
	must(t, err)
	defer self.Close()
	wantErr(t, "overlapping copy", s.CopyFrom(self, 0, 10, 100), fs.ErrInvalid)
	must(t, s.CopyFrom(self, 0, 4096, 4096))
	if got := ReadContent(t, v, id); !bytes.Equal(got[4096:8192], data[:4096]) {
		t.Error("copy within a content gives other bytes")
	}
}

func testSealKeeps(t *testing.T, v appendonly.Volume) {
	id := PutContent(t, v, []byte("bytes"))
	must(t, v.Link(id, "before"))
	before, err := v.Inode(id)
	must(t, err)
	c, err := v.Open(id)
	must(t, err)
	defer c.Close()
	must(t, v.Seal(id, journal.KindFile, journal.NoMeta()))
	must(t, v.Link(id, "after"))
	wantContentAt(t, v, "before", id)
	wantContentAt(t, v, "after", id)
	if after, err := v.Inode(id); err != nil || after != before {
		t.Errorf("inode %d became %d, %v", before, after, err)
	}
	b := make([]byte, 5)
	if _, err := c.ReadAt(b, 0); err != nil || string(b) != "bytes" {
		t.Errorf("handle from before reads %q, %v", b, err)
	}
	must(t, v.Sync([]journal.ID{id}))
}

func testStaged(t *testing.T, v appendonly.Volume) {
	a, b := PutContent(t, v, []byte("a")), PutContent(t, v, []byte("b"))
	PutSealed(t, v, []byte("c"))
	must(t, v.PutNote(appendonly.AreaStaging, a.String(), []byte("note")))
	got, err := v.Staged()
	must(t, err)
	want := map[journal.ID]uint64{}
	for _, id := range []journal.ID{a, b} {
		want[id], err = v.Inode(id)
		must(t, err)
	}
	if !maps.Equal(got, want) {
		t.Errorf("Staged %v, want %v", got, want)
	}
}

func testNotes(t *testing.T, v appendonly.Volume) {
	odd := []string{"plain", "a/b", "..", ".", "nul\x00", "new\nline", "\xff", "100%", "ünï"}
	for _, area := range []appendonly.Area{appendonly.AreaStaging, appendonly.AreaScratch} {
		want := map[string]string{}
		for i, name := range odd {
			must(t, v.PutNote(area, name, []byte("first version, which is longer")))
			if i%2 == 0 {
				must(t, v.PutNote(area, name, []byte("second")))
				want[name] = "second"
			} else {
				want[name] = "first version, which is longer"
			}
		}
		must(t, v.PutNote(area, "empty", nil))
		want["empty"] = ""
		must(t, v.PutNote(area, "gone", []byte("x")))
		must(t, v.RemoveNote(area, "gone"))
		must(t, v.RemoveNote(area, "never"))
		must(t, v.Sync(nil))
		wantErr(t, "note without name", v.PutNote(area, "", nil), fs.ErrInvalid)
		wantErr(t, "note with a long name", v.PutNote(area, strings.Repeat("n", 251), nil), fs.ErrInvalid)
		notes, err := v.Notes(area)
		must(t, err)
		got := map[string]string{}
		for name, b := range notes {
			got[name] = string(b)
		}
		if !maps.Equal(got, want) {
			t.Errorf("notes of area %d: %q, want %q", area, got, want)
		}
	}
}

func testSyncMany(t *testing.T, v appendonly.Volume) {
	var ids []journal.ID
	for range 100 {
		id := journal.NewID()
		s, err := v.Stage(id)
		must(t, err)
		_, err = s.WriteAt([]byte("x"), 0)
		must(t, err)
		must(t, s.Close())
		ids = append(ids, id)
	}
	must(t, v.Sync(ids))
	for _, id := range ids {
		must(t, v.Seal(id, journal.KindFile, journal.NoMeta()))
	}
	must(t, v.Sync(ids[:10])) // found in the store
	must(t, v.Sync(nil))
}

func testSpace(t *testing.T, v appendonly.Volume) {
	s, err := v.Space()
	must(t, err)
	if s.Total == 0 || s.Free == 0 || s.Free > s.Total || s.FreeInodes > s.TotalInodes {
		t.Errorf("space %+v", s)
	}
}
