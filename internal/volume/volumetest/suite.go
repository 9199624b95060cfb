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
	// 2^63-1 is a length that some file systems take.
	if err := s.Truncate(math.MaxInt64); err != nil {
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

func testLinkRefuses(t *testing.T, v appendonly.Volume) {
	a, b := PutSealed(t, v, []byte("a")), PutContent(t, v, []byte("b"))
	must(t, v.Link(a, "file"))
	must(t, v.Mkdir("dir"))
	must(t, v.Symlink("file", "link"))
	must(t, v.Symlink("nowhere", "dangling"))
	for _, name := range []string{"file", "dir", "link", "dangling"} {
		was := inodeAt(t, v, name)
		wantErr(t, "Link over "+name, v.Link(b, name), fs.ErrExist)
		wantErr(t, "Link of the same over "+name, v.Link(a, name), fs.ErrExist)
		wantErr(t, "Mkdir over "+name, v.Mkdir(name), fs.ErrExist)
		wantErr(t, "Symlink over "+name, v.Symlink("x", name), fs.ErrExist)
		for _, from := range []string{"dir", "link"} {
			wantErr(t, "Rename "+from+" over "+name, v.Rename(from, name), fs.ErrExist)
		}
		if now := inodeAt(t, v, name); now != was {
			t.Errorf("%s had inode %d and has %d", name, was, now)
		}
	}
	for _, parent := range []string{"file", "link", "dangling"} {
		for verb, err := range verbs(v, b, parent+"/x") {
			wantErr(t, verb+" below "+parent, err, fs.ErrInvalid)
		}
	}
	wantErr(t, "Link below nothing", v.Link(a, "none/x"), fs.ErrNotExist)
	wantNames(t, v, "", "dangling", "dir", "file", "link")
}

func testRelink(t *testing.T, v appendonly.Volume) {
	a, b := PutSealed(t, v, []byte("a")), PutContent(t, v, []byte("b"))
	must(t, v.Mkdir("d"))
	must(t, v.Link(a, "d/f"))
	must(t, v.Relink(b, "d/f")) // staged
	wantContentAt(t, v, "d/f", b)
	must(t, v.Relink(a, "d/f")) // sealed
	wantContentAt(t, v, "d/f", a)
	must(t, v.Relink(a, "d/f")) // what it is already
	wantContentAt(t, v, "d/f", a)
	must(t, v.Symlink("elsewhere", "l"))
	must(t, v.Relink(b, "l")) // the link itself
	wantContentAt(t, v, "l", b)
	wantErr(t, "Relink of a missing name", v.Relink(a, "none"), fs.ErrNotExist)
	wantErr(t, "Relink to a missing content", v.Relink(journal.NewID(), "l"), fs.ErrNotExist)
	wantErr(t, "Relink of a directory", v.Relink(a, "d"), fs.ErrInvalid)
	wantNames(t, v, "", "d", "l")
	wantNames(t, v, "d", "f")
	if got := ReadContent(t, v, a); string(got) != "a" {
		t.Errorf("content %q", got)
	}
}

func testOnlyLink(t *testing.T, v appendonly.Volume) {
	id, other := PutContent(t, v, []byte("fresh")), PutContent(t, v, []byte("other"))
	must(t, v.Link(id, "f"))
	must(t, v.Discard(id)) // in the wrong order: the name should have gone first
	wantErr(t, "Unlink of the only link", v.Unlink("f"), fs.ErrPermission)
	wantErr(t, "Relink of the only link", v.Relink(other, "f"), fs.ErrPermission)
	wantNames(t, v, "", "f")
	must(t, v.Link(other, "g"))
	must(t, v.Unlink("g"))
	wantErr(t, "Unlink again", v.Unlink("g"), fs.ErrNotExist)
	if got := ReadContent(t, v, other); string(got) != "other" {
		t.Errorf("content after Unlink is %q", got)
	}
}

func testDirectories(t *testing.T, v appendonly.Volume) {
	id := PutSealed(t, v, []byte("x"))
	must(t, v.Mkdir("a"))
	must(t, v.Mkdir("a/b"))
	must(t, v.Link(id, "a/b/f"))
	wantErr(t, "Rmdir of a full one", v.Rmdir("a/b"), fs.ErrExist)
	wantErr(t, "Rmdir of a file", v.Rmdir("a/b/f"), fs.ErrInvalid)
	wantErr(t, "Unlink of a directory", v.Unlink("a/b"), fs.ErrInvalid)
	wantErr(t, "Rmdir of nothing", v.Rmdir("a/c"), fs.ErrNotExist)
	must(t, v.Unlink("a/b/f"))
	must(t, v.Rmdir("a/b"))
	must(t, v.Mkdir("a/b")) // again: nothing remembers the old one
	must(t, v.Link(id, "a/b/g"))
	wantNames(t, v, "a/b", "g")
	_, err := v.Entries("a/none")
	wantErr(t, "Entries of nothing", err, fs.ErrNotExist)
	_, err = v.Entries("a/b/g")
	wantErr(t, "Entries of a file", err, fs.ErrInvalid)
	must(t, v.Symlink("g", "a/b/s"))
	list, err := v.Entries("a/b")
	must(t, err)
	for _, e := range list {
		if want := map[string]journal.Kind{"g": journal.KindFile, "s": journal.KindSymlink}[e.Name]; e.Kind != want {
			t.Errorf("%s is a %v, want %v", e.Name, e.Kind, want)
		}
	}
	for i := range 40 { // more than any cache holds
		dir := strings.Repeat("d/", i) + "d"
		must(t, v.Mkdir(dir))
		must(t, v.Link(id, dir+"/f"))
	}
	must(t, v.Link(id, "d/g"))
	wantNames(t, v, "d", "d", "f", "g")
}

func testRename(t *testing.T, v appendonly.Volume) {
	a, b := PutSealed(t, v, []byte("a")), PutSealed(t, v, []byte("b"))
	must(t, v.Mkdir("old"))
	must(t, v.Mkdir("old/sub"))
	must(t, v.Link(a, "old/sub/f"))
	must(t, v.Rename("old", "new"))
	must(t, v.Link(b, "new/sub/g"))
	must(t, v.Mkdir("old")) // what was cached for old must not be taken for it
	must(t, v.Mkdir("old/sub"))
	must(t, v.Link(b, "old/sub/h"))
	wantNames(t, v, "new/sub", "f", "g")
	wantNames(t, v, "old/sub", "h")
	wantErr(t, "Rename into itself", v.Rename("new", "new/sub/x"), fs.ErrInvalid)
	wantErr(t, "Rename onto itself", v.Rename("new", "new"), fs.ErrExist)
	wantErr(t, "Rename of nothing", v.Rename("none", "x"), fs.ErrNotExist)
	wantErr(t, "Rename below nothing", v.Rename("new", "none/x"), fs.ErrNotExist)
	must(t, v.Mkdir("empty"))
	wantErr(t, "Rename over an empty directory", v.Rename("new", "empty"), fs.ErrExist)
	must(t, v.Symlink("../t", "new/l"))
	must(t, v.Rename("new/l", "old/l2"))
	wantNames(t, v, "old", "l2", "sub")
	wantNames(t, v, "new", "sub")
	wantContentAt(t, v, "new/sub/f", a)
}

func testSymlink(t *testing.T, v appendonly.Volume) {
	for i, target := range []string{"/etc/passwd", "../../..", ".", "a\nb", "\xff\xfe", strings.Repeat("t", 1000)} {
		must(t, v.Symlink(target, string(rune('a'+i))))
	}
	for _, target := range []string{"", "a\x00b", strings.Repeat("t", 4096)} {
		wantErr(t, "Symlink to a hostile target", v.Symlink(target, "x"), fs.ErrInvalid)
	}
	wantNames(t, v, "", "a", "b", "c", "d", "e", "f")
}

// verbs runs every verb that takes a name on path. id is a content.
func verbs(v appendonly.Volume, id journal.ID, path string) map[string]error {
	_, list := v.Entries(path)
	return map[string]error{
		"Link": v.Link(id, path), "Relink": v.Relink(id, path), "Unlink": v.Unlink(path),
		"Mkdir": v.Mkdir(path), "Symlink": v.Symlink("t", path), "Rmdir": v.Rmdir(path),
		"Rename from": v.Rename(path, "free"), "Rename to": v.Rename("dir", path), "Entries": list,
	}
}

// HostileNames are paths that every verb of a Tree refuses.
var HostileNames = []string{
	"", "/", ".", "..", "/etc", "//etc", "../x", "dir/..", "dir/../x", "dir/../../x", "./x", "dir/.", "dir/./x", "dir//x", "dir/",
	"x\x00", "\x00", "dir/x\x00y", "dir\x00/x",
	strings.Repeat("n", 256), "dir/" + strings.Repeat("n", 256), strings.Repeat("n", 256) + "/x",
	strings.Repeat("d/", 2048) + "x", strings.Repeat("n", 4096), strings.Repeat("../", 1000) + "x",
	".vault", ".vault/x",
}

func testHostileNames(t *testing.T, v appendonly.Volume) {
	id := PutSealed(t, v, []byte("x"))
	must(t, v.Mkdir("dir"))
	for _, path := range HostileNames {
		for verb, err := range verbs(v, id, path) {
			if verb == "Entries" && path == "" {
				continue // the root
			}
			if len(path) > 30 {
				path = path[:30] + "…"
			}
			wantErr(t, verb+" "+path, err, fs.ErrInvalid)
		}
	}
	wantNames(t, v, "", "dir")
	wantNames(t, v, "dir")
}

func testOddNames(t *testing.T, v appendonly.Volume) {
	id := PutSealed(t, v, []byte("x"))
	odd := []string{"new\nline", "\xff\xfe", " ", "-rf", "...", "a\\b", "\x1b[31m", strings.Repeat("n", 255), ".vaultx", "..a"}
	slices.Sort(odd)
	for _, name := range odd {
		must(t, v.Mkdir(name))
		must(t, v.Link(id, name+"/"+name))
		must(t, v.Symlink(name, name+"/l"))
		must(t, v.Rename(name+"/l", name+"/.l"))
		must(t, v.Relink(id, name+"/"+name))
		must(t, v.Unlink(name+"/.l"))
		wantNames(t, v, name, name)
	}
	wantNames(t, v, "", odd...)
	long := strings.Repeat("n", 254) + "/"
	deep := strings.TrimSuffix(strings.Repeat(long, 16), "/") // 4,079 bytes
	for i := 255; i <= len(deep)+1; i += 255 {
		must(t, v.Mkdir(deep[:i-1]))
	}
	must(t, v.Link(id, deep+"/"+strings.Repeat("f", 15)))
	wantErr(t, "path of 4,096 bytes", v.Link(id, deep+"/"+strings.Repeat("f", 16)), fs.ErrInvalid)
	wantNames(t, v, deep, strings.Repeat("f", 15))
}

func testSpace(t *testing.T, v appendonly.Volume) {
	s, err := v.Space()
	must(t, err)
	if s.Total == 0 || s.Free == 0 || s.Free > s.Total || s.FreeInodes > s.TotalInodes {
		t.Errorf("space %+v", s)
	}
}
