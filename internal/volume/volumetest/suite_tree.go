package volumetest

import (
	"io/fs"
	"slices"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

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
	wantErr(t, "Link below the old name", v.Link(b, "old/sub/h"), fs.ErrNotExist)
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
