package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"vaultd/internal/journal"
	"vaultd/internal/volume"
	"vaultd/internal/volume/volumetest"
)

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

// snapshot describes everything below dir: names, kinds, modes, bytes, targets.
func snapshot(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		var data []byte
		switch {
		case st.Mode().IsRegular():
			data, err = os.ReadFile(p)
		case st.Mode()&fs.ModeSymlink != 0:
			var s string
			s, err = os.Readlink(p)
			data = []byte(s)
		}
		b.WriteString(p + " " + st.Mode().String() + " " + string(data) + "\n")
		return err
	}))
	return b.String()
}

// verbs runs every verb that takes a name.
func verbs(v *volume.Volume, id journal.ID, path string) map[string]error {
	_, list := v.Entries(path)
	return map[string]error{
		"Link": v.Link(id, path), "Relink": v.Relink(id, path), "Unlink": v.Unlink(path), "Mkdir": v.Mkdir(path),
		"Symlink": v.Symlink("t", path), "Rmdir": v.Rmdir(path), "Rename from": v.Rename(path, "free"),
		"Rename to": v.Rename("moved", path), "Entries": list,
	}
}

// TestSymlinkParents plants symlinks where the volume believes directories to be, with and without its
// having seen the real directory first, and runs every verb through them. Nothing outside may change. The
// attacker controls everything in files/ here, which no client does.
func TestSymlinkParents(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*volume.Volume)
	}{{"openat2", func(*volume.Volume) {}}, {"component by component", volume.DisableOpenat2}} {
		for _, target := range []string{"absolute", "relative", "inside", "magic"} {
			for _, swapped := range []bool{false, true} {
				t.Run(c.name+"/"+target+map[bool]string{true: " swapped in"}[swapped], func(t *testing.T) {
					v, dir := newVolume(t)
					c.set(v)
					trySymlinkParent(t, v, dir, target, swapped)
				})
			}
		}
	}
}

func trySymlinkParent(t *testing.T, v *volume.Volume, dir, target string, swapped bool) {
	outside := filepath.Join(filepath.Dir(dir), "outside")
	must(t, os.MkdirAll(filepath.Join(outside, "sub"), 0o755))
	must(t, os.WriteFile(filepath.Join(outside, "sub", "x"), []byte("precious"), 0o644))
	must(t, os.WriteFile(filepath.Join(outside, "x"), []byte("precious"), 0o644))
	id := volumetest.PutSealed(t, v, []byte("attack"))
	must(t, v.Mkdir("moved"))
	if swapped { // the parent is in the cache
		must(t, v.Mkdir("d"))
		must(t, v.Mkdir("d/sub"))
		must(t, v.Symlink("t", "d/sub/x"))
		must(t, v.Unlink("d/sub/x"))
		must(t, os.RemoveAll(filepath.Join(dir, "files", "d")))
	}
	to := map[string]string{"absolute": outside, "relative": "../../outside", "inside": "../store", "magic": "/proc/self/cwd"}[target]
	must(t, os.Symlink(to, filepath.Join(dir, "files", "d")))
	before := snapshot(t, filepath.Dir(dir))
	for _, path := range []string{"d/x", "d/new", "d/sub/x", "d/sub", "d/" + id.Shard() + "/" + id.String()} {
		for verb, err := range verbs(v, id, path) {
			if err == nil {
				t.Errorf("%s %s through a symlink succeeded", verb, path)
			} else if strings.Contains(err.Error(), dir) {
				t.Errorf("%s %s: the error %q tells a server path", verb, path, err)
			}
		}
	}
	if _, err := v.Entries("d"); err == nil {
		t.Error("Entries of a symlink succeeded")
	}
	wantErr(t, "Link over the symlink", v.Link(id, "d"), fs.ErrExist)
	if after := snapshot(t, filepath.Dir(dir)); after != before {
		t.Errorf("changed from\n%sto\n%s", before, after)
	}
	must(t, v.Relink(id, "d")) // replaces the symlink and not what it leads to
	must(t, v.Unlink("d"))
	if b, err := os.ReadFile(filepath.Join(outside, "x")); err != nil || string(b) != "precious" {
		t.Errorf("outside/x is %q, %v", b, err)
	}
}

// TestSymlinkContents plants symlinks under the names of contents, notes and segments.
func TestSymlinkContents(t *testing.T) {
	v, dir := newVolume(t)
	precious := filepath.Join(filepath.Dir(dir), "precious")
	must(t, os.WriteFile(precious, []byte("precious"), 0o600))
	before := snapshot(t, precious)
	id := journal.NewID()
	must(t, os.Symlink(precious, filepath.Join(dir, "staging", id.String())))
	must(t, os.Symlink(precious, filepath.Join(dir, "staging", "journal-open")))
	must(t, os.Symlink(precious, filepath.Join(dir, "staging", "n.note")))
	must(t, os.Symlink(precious, filepath.Join(dir, "journal", "000000000001.jsonl")))
	if _, err := v.Open(id); err == nil {
		t.Error("Open followed")
	}
	if _, err := v.Resume(id); err == nil {
		t.Error("Resume followed")
	}
	if _, err := v.Stage(id); err == nil {
		t.Error("Stage followed")
	}
	if err := v.Sync([]journal.ID{id}); err == nil {
		t.Error("Sync followed")
	}
	if _, err := v.OpenSegment(); err == nil {
		t.Error("OpenSegment followed")
	}
	if err := v.CloseSegment("000000000002.jsonl"); err == nil {
		t.Error("CloseSegment followed")
	}
	if _, err := v.ReadSegment("000000000001.jsonl"); err == nil {
		t.Error("ReadSegment followed")
	}
	if _, err := v.Notes(0); err == nil {
		t.Error("Notes followed")
	}
	m := journal.NoMeta()
	m.MTime, m.UID = journal.Unix(1, 0), 0
	if err := v.Seal(id, journal.KindFile, m); err == nil {
		t.Error("Seal of a symlink succeeded")
	}
	must(t, v.PutNote(0, "n", []byte("note"))) // replaces the link
	must(t, v.Discard(id))
	if after := snapshot(t, precious); after != before {
		t.Errorf("changed from %s to %s", before, after)
	}
	st, err := os.Stat(precious)
	must(t, err)
	if st.ModTime().Unix() == 1 {
		t.Error("times were set through a symlink")
	}
}

// TestFifoContents plants a fifo under a content's name: opening it must neither block nor serve it.
func TestFifoContents(t *testing.T) {
	v, dir := newVolume(t)
	id := journal.NewID()
	must(t, syscall.Mkfifo(filepath.Join(dir, "staging", id.String()), 0o600))
	if _, err := v.Open(id); err == nil {
		t.Error("Open of a fifo succeeded")
	}
	if _, err := v.Resume(id); err == nil {
		t.Error("Resume of a fifo succeeded")
	}
}

// TestReplacedParent: a directory that somebody made anew (rebuild --tree does) is found in spite of the
// descriptor of the old one.
func TestReplacedParent(t *testing.T) {
	v, dir := newVolume(t)
	id := volumetest.PutSealed(t, v, []byte("x"))
	must(t, v.Mkdir("d"))
	must(t, os.Remove(filepath.Join(dir, "files", "d")))
	wantErr(t, "Link into a removed directory", v.Link(id, "d/x"), fs.ErrNotExist)
	must(t, os.Mkdir(filepath.Join(dir, "files", "d"), 0o750))
	must(t, v.Link(id, "d/x"))
	must(t, os.RemoveAll(filepath.Join(dir, "files", "d")))
	must(t, os.Mkdir(filepath.Join(dir, "files", "d"), 0o750))
	must(t, v.Link(id, "d/y"))
}
