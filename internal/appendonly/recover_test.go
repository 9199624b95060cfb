package appendonly_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/volume"
	"vaultd/internal/volume/volumetest"
)

// treeOf lists what a volume's live tree holds, one line for each name with its kind and the inode of its content.
func treeOf(t testing.TB, v appendonly.Volume, dir string) []string {
	t.Helper()
	list, err := v.Entries(dir)
	ok(t, err)
	var out []string
	for _, e := range list {
		p := strings.TrimPrefix(dir+"/"+e.Name, "/")
		if e.Kind != appendonly.KindFile {
			e.Inode = 0
		}
		out = append(out, fmt.Sprintf("%q %s %d", p, e.Kind, e.Inode))
		if e.Kind == appendonly.KindDir {
			out = append(out, treeOf(t, v, p)...)
		}
	}
	slices.Sort(out)
	return out
}

// liveOf lists what the live view says should be in the tree.
func liveOf(t testing.TB, f *appendonly.FS, dir string) []string {
	t.Helper()
	d, err := f.OpenDir("/" + dir)
	ok(t, err)
	var out []string
	for {
		infos, err := d.Next(100)
		if err != nil {
			slices.Sort(out)
			return out
		}
		for _, i := range infos {
			p := strings.TrimPrefix(dir+"/"+i.Name, "/")
			if i.Kind == appendonly.KindDir {
				out = append(out, fmt.Sprintf("%q %s 0", p, i.Kind))
				out = append(out, liveOf(t, f, p)...)
			} else if i.Sealed {
				kind := i.Kind
				if kind.HasContent() {
					kind = appendonly.KindFile
				}
				inode, err := f.InodeAt(p)
				ok(t, err)
				out = append(out, fmt.Sprintf("%q %s %d", p, kind, inode))
			}
		}
	}
}

func (b *bench) wantTree() {
	b.t.Helper()
	if got, want := treeOf(b.t, b.mem, ""), liveOf(b.t, b.all("tree"), ""); !slices.Equal(got, want) {
		b.t.Fatalf("the tree holds %q, live is %q", got, want)
	}
}

func (b *bench) barrier() {
	b.t.Helper()
	ok(b.t, b.vault.Barrier(context.Background()))
}

// lose keeps everything but the changes that contain one of these.
func lose(parts ...string) func(string) bool {
	return func(what string) bool {
		return !slices.ContainsFunc(parts, func(p string) bool { return strings.Contains(what, p) })
	}
}

// The process dies between giving a content its name and recording that. It had a note, having been
// written for long.
func TestKilledWhilePublishing(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	var heir *volumetest.Memory
	die := false
	b.mem.Fault = func(op, _ string) (bool, error) {
		if die && op == "SegmentWrite" {
			die = false
			heir = b.mem.Kill()
		}
		return true, nil
	}
	a := b.as("alice")
	ok(t, put(a, "x", "x"))
	u, err := patch(a, "f", "12345", 0)
	ok(t, err)
	b.clock.Add(2 * time.Hour)
	b.vault.Tick()
	die = true
	if err := u.Close(); err == nil {
		t.Fatal("no error")
	}
	b.vault.Kill()
	b.mem = heir
	b.open()
	b.wantTree()
	a = b.as("alice")
	wantList(t, a, "", "x")
	if info, err := a.Stat("f"); err != nil || info.Size != 5 || info.Sealed {
		t.Fatalf("%+v, %v", info, err)
	}
	u, err = patch(a, "f", "678", 5)
	ok(t, err)
	ok(t, u.Close())
	want(t, a, "f", "12345678")
}

// A power cut takes the bytes of a new version that nobody was told to be safe; its name stands for
// the one before, which somebody was, and for nobody else's.
func TestLostVersionGivesWayToTheOneBefore(t *testing.T) {
	for _, mode := range []appendonly.Mode{appendonly.Strict, appendonly.Versioned} {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t, appendonly.Policy{Mode: mode})
			a := b.as("alice")
			ok(t, put(a, "f", "one"))
			ok(t, put(a, "g", "gone"))
			b.barrier()
			b.clock.Add(time.Minute)
			ok(t, put(a, "f", "one and two"))
			b.clock.Add(time.Minute)
			ok(t, put(a, "f", "one and two and three"))
			ok(t, put(a, "new", "new"))
			ok(t, a.Link("new", "further"))
			b.crash(lose("write "))
			a = b.as("alice")
			want(t, a, "f", "one")
			wantList(t, a, "", "f g")
			b.wantTree()
			if mode == appendonly.Strict {
				refused(t, appendonly.P1, put(b.as("mallory"), "f", "other"))
			}
			want(t, a, ".at/100s/f", "one")
			if got, err := get(a, ".at/10s/f"); !errors.Is(err, appendonly.ErrQuarantined) {
				t.Fatalf("a lost version reads %q, %v", got, err)
			}
			ok(t, put(a, "new", "again"))
			ok(t, put(a, "further", "again"))
			ok(t, put(a, "f", "one and two"))
			want(t, a, "f", "one and two")
			b.kill()
			want(t, b.as("alice"), "f", "one and two")
			b.wantTree()
		})
	}
}

// A version that was superseded before it was safe has the right length and wrong bytes after a
// power cut: it is not served at its instants.
func TestLostPastVersion(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	u, err := a.Create("f", create)
	ok(t, err)
	ok(t, u.Truncate(5))
	_, err = u.WriteAt([]byte("12345"), 0)
	ok(t, err)
	ok(t, u.Close())
	b.clock.Add(10 * time.Second)
	ok(t, put(a, "f", "later"))
	first := true
	b.crash(func(what string) bool {
		if first && strings.HasPrefix(what, "write 1 of") {
			first = false
			return false
		}
		return true
	})
	a = b.as("alice")
	want(t, a, "f", "later")
	if got, err := get(a, ".at/5s/f"); !errors.Is(err, appendonly.ErrQuarantined) {
		t.Fatalf("a lost version reads %q, %v", got, err)
	}
}

// After an orderly end, and a power cut right after it.
func TestPowerCutAfterClose(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "d/f", "f"))
	ok(t, a.Symlink("d/f", "link", appendonly.NoMeta()))
	ok(t, put(a, "gone", "gone"))
	b.reopen()
	ok(t, b.as("alice").Remove("gone"))
	ok(t, b.vault.Close())
	b.crash(lose("unlink ", "symlink "))
	b.wantTree()
	want(t, b.as("alice"), "link", "f")
	ok(t, put(b.as("alice"), "gone", "back"))
}

// Where a link leads is not told by listing the tree: after a power cut it is made again.
func TestSymlinkIsMended(t *testing.T) {
	root := filepath.Join(t.TempDir(), "v")
	ok(t, volume.Create(root))
	open := func(boot string) *appendonly.Vault {
		vol, err := volume.Open(root)
		ok(t, err)
		t.Cleanup(func() { vol.Close() })
		v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Boot: boot})
		ok(t, err)
		return v
	}
	v := open("1")
	f := v.Session(appendonly.Who{Key: "alice"})
	ok(t, f.Symlink("right", "link", appendonly.NoMeta()))
	ok(t, f.Close(context.Background()))
	ok(t, v.Close())
	link := filepath.Join(root, "files", "link")
	ok(t, os.Remove(link))
	ok(t, os.Symlink("wrong", link))
	v = open("2")
	ok(t, v.Close())
	if got, err := os.Readlink(link); err != nil || got != "right" {
		t.Fatalf("%q, %v", got, err)
	}
}

// A power cut can take the attributes of what was sealed in the last seconds before it, and leave the contents sealed: they get them again, and what is older is
// not touched. The machine's next start alone is no reason, nor is a kill.
func TestPowerCutTakesAttributes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "v")
	ok(t, volume.Create(root))
	clock := newClock()
	open := func(boot string) *appendonly.Vault {
		vol, err := volume.Open(root)
		ok(t, err)
		t.Cleanup(func() { vol.Close() })
		v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Boot: boot, Now: clock.Now})
		ok(t, err)
		return v
	}
	const attr = "user.rsync.%stat"
	get := func(name string) string {
		t.Helper()
		b := make([]byte, 100)
		n, err := unix.Getxattr(filepath.Join(root, "files", name), attr, b)
		if errors.Is(err, unix.ENODATA) {
			return ""
		}
		ok(t, err)
		return string(b[:n])
	}
	store := func(f *appendonly.FS, name string) {
		t.Helper()
		m := appendonly.NoMeta()
		m.Mode, m.UID, m.GID = 0o640, 1000, 1000
		ok(t, put(f, name, name))
		ok(t, f.SetMeta(name, m, false))
	}
	v := open("1")
	f := v.Session(appendonly.Who{Key: "alice"})
	store(f, "old")
	ok(t, f.Close(context.Background()))
	clock.Add(time.Hour)
	f = v.Session(appendonly.Who{Key: "alice"})
	store(f, "new")
	ok(t, f.Close(context.Background()))
	ok(t, v.Close())
	want := get("new")
	if want == "" || get("old") != want {
		t.Fatalf("%q, %q", want, get("old"))
	}
	take := func() {
		t.Helper()
		for _, name := range []string{"old", "new"} {
			ok(t, unix.Removexattr(filepath.Join(root, "files", name), attr))
		}
	}
	take()
	ok(t, open("1").Close())
	if get("new") != "" {
		t.Error("the kernel that set them still runs, and they were set again")
	}
	clock.Add(24 * time.Hour) // it was off for long
	ok(t, open("2").Close())
	if get("new") != want || get("old") != "" {
		t.Errorf("after a power cut: %q of what is new, want %q; %q of what is old", get("new"), want, get("old"))
	}
}

// A client moves directories into each other until no path reaches what is inside. Nothing is lost by
// that, and it does not keep the vault from starting.
func TestTooDeepToReach(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("mallory")
	deep := func(top string) string {
		ok(t, a.Mkdir(top, appendonly.NoMeta()))
		path := top
		for len(path) < 2500 {
			path += "/" + strings.Repeat("d", 200)
			ok(t, a.Mkdir(path, appendonly.NoMeta()))
		}
		return path
	}
	one, two := deep("one"), deep("two")
	ok(t, put(a, two+"/f", "deep"))
	ok(t, a.Rename("two", one+"/two", false))
	b.kill()
	b.crash(all)
	b.crash(none)
	a = b.as("mallory")
	ok(t, a.Rename(one+"/two", "two", false))
	want(t, a, two+"/f", "deep")
}

// The journal can not be written in the middle of replacing one kind of name by another: the tree is as before.
func TestMoveUndone(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	broken := false
	b.mem.Fault = func(op, _ string) (bool, error) {
		if broken && op == "SegmentWrite" {
			return false, errors.New("injected")
		}
		return true, nil
	}
	a := b.as("alice")
	ok(t, put(a, "file", "f"))
	ok(t, put(a, "other", "o"))
	ok(t, a.Symlink("t1", "link", appendonly.NoMeta()))
	ok(t, a.Symlink("t2", "link2", appendonly.NoMeta()))
	for _, from := range []string{"file", "link", "other"} {
		for _, to := range []string{"file", "link2", "free"} {
			if from == to {
				continue
			}
			broken = true
			if err := a.Rename(from, to, true); err == nil {
				t.Fatalf("%s to %s: no error", from, to)
			}
			broken = false
			b.wantTree()
		}
	}
	ok(t, a.Rename("link", "file", true))
	ok(t, a.Rename("other", "link2", true))
	b.wantTree()
	b.reopen()
	b.wantTree()
}

// Storage said that it failed to give a content its name, and did it all the same: nobody knows what is
// true, so nothing more is taken until somebody looks; then the name is free.
func TestLinkFailsThoughItHappened(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	b.mem.Fault = func(op, arg string) (bool, error) {
		if op == "Link" && arg == "f" {
			return true, errors.New("injected")
		}
		return true, nil
	}
	a := b.as("alice")
	ok(t, put(a, "before", "b"))
	if err := put(a, "f", "f"); !errors.Is(err, appendonly.ErrReadOnly) {
		t.Fatal(err)
	}
	if err := put(a, "after", "a"); !errors.Is(err, appendonly.ErrReadOnly) {
		t.Fatal(err)
	}
	want(t, a, "before", "b")
	b.kill()
	b.wantTree()
	a = b.as("alice")
	if _, err := a.Stat("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	ok(t, put(a, "f", "again"))
	want(t, a, "f", "again")
}
