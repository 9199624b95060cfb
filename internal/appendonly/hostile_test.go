package appendonly_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
)

// hostile is a path that a client may send, and where it may lead.
type hostile struct {
	name string
	path string
	same string // it means the same as this path; "" if it is refused
	any  []error
}

func long(n int) string { return strings.Repeat("n", n) }

// deep is a path of n directories, or as many as paths can have.
func deep(n int) string { return strings.Repeat("d/", n-1) + "d" }

var hostiles = []hostile{
	// What means something inside the tenant, whatever it looks like.
	{name: "dot dot at the root", path: "../../../../f", same: "f"},
	{name: "dot dot through what is not there", path: "nothing/../f", same: "f"},
	{name: "dot dot through a file", path: "file/../f", same: "f"},
	{name: "dot dot through a link", path: "out/../f", same: "f"},
	{name: "doubled and trailing slashes", path: "//d///f//", same: "d/f"},
	{name: "dots", path: "./././d/./f/.", same: "d/f"},
	{name: "absolute", path: "/etc/../f", same: "f"},
	{name: "newline", path: "a\nb", same: "a\nb"},
	{name: "no UTF-8", path: "\xff\xfe", same: "\xff\xfe"},
	{name: "half a surrogate", path: "\xed\xa0\x80", same: "\xed\xa0\x80"},
	{name: "escape sequence", path: "\x1b[2J\x07", same: "\x1b[2J\x07"},
	{name: "blanks", path: " f ", same: " f "},
	{name: "backslash", path: `..\..\f`, same: `..\..\f`},
	{name: "dots that are a name", path: "...", same: "..."},
	{name: "what looks like a journal line", path: `x","chain":"`, same: `x","chain":"`},
	{name: "longest name", path: long(255), same: long(255)},
	{name: "longest path", path: strings.Repeat(long(255)+"/", 15) + long(255), same: strings.Repeat(long(255)+"/", 15) + long(255)},
	{name: "a thousand levels", path: deep(1000), same: deep(1000)},
	{name: "as deep as paths go", path: deep(2048), same: deep(2048)},
	{name: "looks like the past", path: ".vaults/x", same: ".vaults/x"},
	{name: "the past, elsewhere", path: "d/.vault/at/0s", same: "d/.vault/at/0s"},
	{name: "the past, another case", path: ".VAULT/at", same: ".VAULT/at"},

	// What is refused.
	{name: "NUL", path: "f\x00g", any: []error{appendonly.ErrBadName}},
	{name: "NUL first", path: "\x00", any: []error{appendonly.ErrBadName}},
	{name: "name too long", path: long(256), any: []error{appendonly.ErrNameTooLong}},
	{name: "directory's name too long", path: long(256) + "/f", any: []error{appendonly.ErrNameTooLong}},
	{name: "path too long", path: strings.Repeat(long(254)+"/", 16) + long(17), any: []error{appendonly.ErrNameTooLong}},
	{name: "too deep", path: deep(2049), any: []error{appendonly.ErrNameTooLong}},
	{name: "a file as directory", path: "file/f", any: []error{appendonly.ErrNotDir}},
	{name: "absolute link in the way", path: "out/f", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "relative link in the way", path: "up/f", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "link to a directory in the way", path: "in/f", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "loop in the way", path: "loop/f", any: []error{fs.ErrPermission, fs.ErrNotExist, appendonly.ErrLoop}},
	{name: "link to itself in the way", path: "self/f", any: []error{fs.ErrPermission, fs.ErrNotExist, appendonly.ErrLoop}},
	{name: "chain of links in the way", path: "chain0/f", any: []error{fs.ErrPermission, fs.ErrNotExist, appendonly.ErrLoop}},
	{name: "the past", path: ".vault/at/0s/new", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "reserved", path: ".vault", any: []error{fs.ErrPermission, fs.ErrNotExist, fs.ErrExist}},
	{name: "reserved, disguised", path: "d/.././/.vault/x", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "short form", path: ".at/0s/new", any: []error{fs.ErrPermission, fs.ErrNotExist}},
	{name: "the past through a link", path: "pastlink/new", any: []error{fs.ErrPermission, fs.ErrNotExist}},
}

// scene is what hostile paths find. Verbs work on a copy of their own.
func scene(t *testing.T, b *bench) *appendonly.FS {
	t.Helper()
	a := b.as("alice")
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "file", "file"))
	links := map[string]string{"out": "/etc", "up": "../../..", "in": "d", "loop": "pool", "pool": "loop", "self": "self", "pastlink": "/.vault/at/0s"}
	for i := range 60 {
		links[fmt.Sprintf("chain%d", i)] = fmt.Sprintf("chain%d", i+1)
	}
	for name, target := range links {
		ok(t, a.Symlink(target, name, appendonly.NoMeta()))
	}
	return a
}

// parents makes the directories above a path.
func parents(t *testing.T, f *appendonly.FS, path string) {
	t.Helper()
	for i, c := range path {
		if c == '/' && i > 0 {
			if err := f.Mkdir(path[:i], appendonly.NoMeta()); err != nil && !errors.Is(err, fs.ErrExist) {
				t.Fatal(err)
			}
		}
	}
}

// pathVerbs are the operations that take a path. make: the path is to be free, and stands for something
// afterwards; the others want a file (or a directory) to be there.
var pathVerbs = []struct {
	name string
	make bool
	dir  bool // wants a directory there
	do   func(f *appendonly.FS, path string) error
}{
	{"put", true, false, func(f *appendonly.FS, p string) error { return put(f, p, "data") }},
	{"put temporary", true, false, func(f *appendonly.FS, p string) error {
		if err := put(f, "t.partial", "data"); err != nil {
			return err
		}
		return f.Rename("t.partial", p, false)
	}},
	{"mkdir", true, false, func(f *appendonly.FS, p string) error { return f.Mkdir(p, appendonly.NoMeta()) }},
	{"symlink", true, false, func(f *appendonly.FS, p string) error { return f.Symlink("x", p, appendonly.NoMeta()) }},
	{"mknod", true, false, func(f *appendonly.FS, p string) error {
		return f.Mknod(p, appendonly.KindFifo, appendonly.NoMeta())
	}},
	{"link", true, false, func(f *appendonly.FS, p string) error { return f.Link("file", p) }},
	{"rename to", true, false, func(f *appendonly.FS, p string) error {
		if err := put(f, "moving", "data"); err != nil {
			return err
		}
		return f.Rename("moving", p, false)
	}},
	{"replace", true, false, func(f *appendonly.FS, p string) error { return f.Replace(p, []byte("x"), appendonly.NoMeta()) }},
	{"open", false, false, func(f *appendonly.FS, p string) error { _, err := get(f, p); return err }},
	{"stat", false, false, func(f *appendonly.FS, p string) error { _, err := f.Stat(p); return err }},
	{"statfollow", false, false, func(f *appendonly.FS, p string) error { _, err := f.StatFollow(p); return err }},
	{"hash", false, false, func(f *appendonly.FS, p string) error { return f.Hash(p, sha256.New()) }},
	{"versions", false, false, func(f *appendonly.FS, p string) error { _, err := f.Versions(p); return err }},
	{"list", false, true, func(f *appendonly.FS, p string) error { _, err := list(f, p); return err }},
	{"rmdir", false, true, func(f *appendonly.FS, p string) error { return f.Rmdir(p) }},
	{"setmeta", false, false, func(f *appendonly.FS, p string) error {
		return f.SetMeta(p, appendonly.Meta{Mode: 0o600, UID: 1, GID: 1}, true)
	}},
	{"overwrite", false, false, func(f *appendonly.FS, p string) error { return put(f, p, "over") }},
	{"truncate", false, false, func(f *appendonly.FS, p string) error { return f.Truncate(p, 1) }},
	{"link from", false, false, func(f *appendonly.FS, p string) error { return f.Link(p, "linked") }},
	{"rename from", false, false, func(f *appendonly.FS, p string) error { return f.Rename(p, "renamed", false) }},
	{"remove", false, false, func(f *appendonly.FS, p string) error { return f.Remove(p) }},
}

// TestHostileNames runs every path through every verb. One that means a place in the tenant does there
// what its tame form does; the others are refused, each with a check that the verb would have done it
// under a tame name; and nothing ever appears outside, or through a link.
func TestHostileNames(t *testing.T) { testHostileNames(t, "") }

// The same inside a root, where the longest paths are as much shorter.
func TestHostileNamesInRoot(t *testing.T) { testHostileNames(t, "srv/web") }

func testHostileNames(t *testing.T, root string) {
	for _, v := range pathVerbs {
		t.Run(v.name, func(t *testing.T) {
			bench := func() *bench {
				b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
				b.root = root
				scene(t, b)
				return b
			}
			shared, deep := bench(), bench()
			for i, h := range hostiles {
				if h.same != "" && len(root)+1+len(h.same) > 4095 && root != "" {
					h.same, h.any = "", []error{appendonly.ErrNameTooLong}
				}
				// A deep tree takes long to remove, and a managed file can not be removed.
				b, alone := shared, false
				if v.name == "replace" {
					b, alone = bench(), true
				} else if strings.Count(h.path, "/") > 100 {
					b, alone = deep, true
				}
				a := b.as("alice")
				tame := h.same
				if tame == "" {
					tame = fmt.Sprintf("tame%d", i)
				}
				parents(t, a, tame)
				if !v.make {
					if v.dir {
						ok(t, a.Mkdir(tame, appendonly.NoMeta()))
					} else {
						ok(t, put(a, tame, "before"))
					}
				}
				if h.same != "" {
					if err := v.do(a, h.path); err != nil {
						t.Errorf("%s: %v", h.name, err)
					}
					checkSame(t, a, h)
				} else {
					before := b.snapshotOf(a, h)
					err := v.do(a, h.path)
					if !isOneOf(err, h.any) && !(follows[v.name] && isOneOf(err, []error{nil, fs.ErrNotExist, appendonly.ErrNotRegular, appendonly.ErrIsDir, appendonly.ErrNotDir})) {
						t.Errorf("%s: %v", h.name, err)
					}
					a.Remove("t.partial")
					a.Remove("moving")
					if after := b.snapshotOf(a, h); after != before {
						t.Errorf("%s: it changed\n%.500s\ninto\n%.500s", h.name, before, after)
					}
					if err := v.do(a, tame); err != nil {
						t.Errorf("%s: under a tame name: %v", h.name, err)
					}
				}
				if alone {
					for _, p := range []string{tame, "linked", "renamed"} {
						a.Remove(p)
						a.Rmdir(p)
					}
				} else {
					clearPath(a, tame, "linked", "renamed", "moving", "t.partial")
				}
			}
			shared.kill()
			shared.wantTree()
		})
	}
}

// follows are the verbs that follow links on the way, inside the tenant: what they find there they may show.
var follows = map[string]bool{"open": true, "stat": true, "statfollow": true, "hash": true, "list": true, "versions": true}

// isOneOf reports whether err is one of these.
func isOneOf(err error, any []error) bool {
	for _, w := range any {
		if w == nil && err == nil || w != nil && errors.Is(err, w) {
			return true
		}
	}
	return false
}

// checkSame: a path and its tame form are the same to those that look.
func checkSame(t *testing.T, f *appendonly.FS, h hostile) {
	t.Helper()
	x, err1 := f.Stat(h.path)
	y, err2 := f.Stat(h.same)
	if (err1 == nil) != (err2 == nil) || x.From != y.From || x.Kind != y.Kind {
		t.Errorf("%s: %+v, %v; its tame form is %+v, %v", h.name, x, err1, y, err2)
	}
}

// snapshotOf describes the live tree; of a deep one its root, as the rest takes long.
func (b *bench) snapshotOf(f *appendonly.FS, h hostile) string {
	if strings.Count(h.path, "/") > 100 {
		names, err := list(f, "")
		ok(b.t, err)
		return names
	}
	w, err := look(f, "")
	ok(b.t, err)
	return fmt.Sprint(w)
}

// clearPath removes what a row left, whatever it is.
func clearPath(f *appendonly.FS, paths ...string) {
	for _, p := range paths {
		f.Remove(p)
		f.Rmdir(p)
	}
	for p := paths[0]; strings.Contains(p, "/"); {
		p = p[:strings.LastIndexByte(p, '/')]
		if p != "d" {
			f.Rmdir(p)
		}
	}
}
