package volume_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume"
	"vaultd/internal/volume/volumetest"
)

func TestCreate(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "tenant")
	must(t, volume.Create(dir))
	b, err := os.ReadFile(filepath.Join(dir, "format"))
	if err != nil || string(b) != "vaultd-volume 1\n" {
		t.Errorf("format is %q, %v", b, err)
	}
	wantErr(t, "Create twice", volume.Create(dir), fs.ErrExist)

	half := filepath.Join(base, "half") // a Create that was cut short
	must(t, os.MkdirAll(filepath.Join(half, "store"), 0o755))
	must(t, os.WriteFile(filepath.Join(half, "format.new"), []byte("garbage and more garbage"), 0o600))
	must(t, volume.Create(half))
	openVolume(t, half)

	full := filepath.Join(base, "full")
	must(t, os.MkdirAll(filepath.Join(full, "files", "data"), 0o755))
	wantErr(t, "Create over data", volume.Create(full), fs.ErrExist)
	must(t, os.WriteFile(filepath.Join(base, "file"), nil, 0o600))
	wantErr(t, "Create over a file", volume.Create(filepath.Join(base, "file")), fs.ErrExist)
	wantErr(t, "Create below nothing", volume.Create(filepath.Join(base, "none", "x")), fs.ErrNotExist)
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(dir string) error
		want string
	}{
		{"no format", func(d string) error { return os.Remove(d + "/format") }, "no format file"},
		{"newer", func(d string) error { return os.WriteFile(d+"/format", []byte("vaultd-volume 2\n"), 0o600) }, "format 2 is newer"},
		{"huge", func(d string) error { return os.WriteFile(d+"/format", []byte("vaultd-volume 99999999999\n"), 0o600) }, "not one of vaultd's"},
		{"garbage", func(d string) error { return os.WriteFile(d+"/format", []byte("restic"), 0o600) }, "not one of vaultd's"},
		{"empty", func(d string) error { return os.Truncate(d+"/format", 0) }, "read format"},
		{"missing part", func(d string) error { return os.Remove(d + "/scratch") }, "scratch"},
		{"symlinked part", func(d string) error {
			return errors.Join(os.Rename(d+"/store", d+"/elsewhere"), os.Symlink("elsewhere", d+"/store"))
		}, "store"},
		{"symlinked format", func(d string) error {
			return errors.Join(os.Rename(d+"/format", d+"/f"), os.Symlink("f", d+"/format"))
		}, "format"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "tenant")
			must(t, volume.Create(dir))
			must(t, c.harm(dir))
			v, err := volume.Open(dir)
			if err == nil {
				v.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Open: %v, want %q", err, c.want)
			}
		})
	}
	if _, err := volume.Open(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}

// TestModes: neither an open nor a closed umask changes what is on disk.
func TestModes(t *testing.T) {
	for _, umask := range []int{0, 0o277} {
		dir := filepath.Join(t.TempDir(), "tenant")
		old := syscall.Umask(umask)
		t.Cleanup(func() { syscall.Umask(old) })
		must(t, volume.Create(dir))
		v := openVolume(t, dir)
		id := volumetest.PutSealed(t, v, []byte("x"))
		m := journal.NoMeta()
		m.Mode = 0o4777
		must(t, v.Seal(id, journal.KindFile, m))
		volumetest.PutContent(t, v, []byte("y"))
		must(t, v.Mkdir("d"))
		must(t, v.Link(id, "d/f"))
		must(t, v.PutNote(appendonly.AreaScratch, "lock", []byte("z")))
		f, err := v.OpenSegment()
		must(t, err)
		must(t, f.Close())
		must(t, v.CloseSegment("000000000001.jsonl"))
		syscall.Umask(old)
		n := 0
		must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			st, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o640)
			if d.IsDir() {
				want = fs.ModeDir | 0o750
			}
			if st.Mode() != want {
				t.Errorf("umask %03o: %s is %v", umask, p, st.Mode())
			}
			n++
			return nil
		}))
		if n < 12 {
			t.Errorf("saw %d entries only", n)
		}
	}
}

// TestSealNeverReplaces plants another content under the id in the store.
func TestSealNeverReplaces(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*volume.Volume)
	}{{"flags", func(*volume.Volume) {}}, {"no flags", volume.DisableRenameFlags}} {
		t.Run(c.name, func(t *testing.T) {
			v, dir := newVolume(t)
			c.set(v)
			id := volumetest.PutContent(t, v, []byte("new"))
			shard := filepath.Join(dir, "store", id.Shard())
			must(t, os.Mkdir(shard, 0o750))
			must(t, os.WriteFile(filepath.Join(shard, id.String()), []byte("sealed"), 0o640))
			wantErr(t, "Seal", v.Seal(id, journal.KindFile, journal.NoMeta()), fs.ErrExist)
			if b, err := os.ReadFile(filepath.Join(shard, id.String())); err != nil || string(b) != "sealed" {
				t.Errorf("sealed content is %q, %v", b, err)
			}

			// What a crash leaves between link and unlink is finished by the next Seal.
			id = volumetest.PutContent(t, v, []byte("both"))
			must(t, os.MkdirAll(filepath.Join(dir, "store", id.Shard()), 0o750))
			must(t, os.Link(filepath.Join(dir, "staging", id.String()), filepath.Join(dir, "store", id.Shard(), id.String())))
			must(t, v.Seal(id, journal.KindFile, journal.NoMeta()))
			if staged, err := v.Staged(); err != nil || len(staged) != 1 {
				t.Errorf("staged %v, %v", staged, err)
			}
			if got := volumetest.ReadContent(t, v, id); string(got) != "both" {
				t.Errorf("content is %q", got)
			}
		})
	}
}

func TestSealRefusesWriters(t *testing.T) {
	v, _ := newVolume(t)
	id := volumetest.PutContent(t, v, []byte("x"))
	s, err := v.Resume(id)
	must(t, err)
	if err := v.Seal(id, journal.KindFile, journal.NoMeta()); err == nil {
		t.Error("Seal while open for writing succeeded")
	}
	must(t, s.Close())
	must(t, v.Seal(id, journal.KindFile, journal.NoMeta()))
}

// TestRelinkNeverMissing looks at a name from outside while it changes hands, with a rest of an earlier
// crash in the way.
func TestRelinkNeverMissing(t *testing.T) {
	v, dir := newVolume(t)
	a, b := volumetest.PutSealed(t, v, []byte("aaaa")), volumetest.PutContent(t, v, []byte("bbbb"))
	must(t, v.Link(a, "f"))
	must(t, os.WriteFile(filepath.Join(dir, "files", ".vault"), []byte("left"), 0o600))
	if list, err := v.Entries(""); err != nil || len(list) != 1 {
		t.Errorf("entries %v, %v", list, err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if got, err := os.ReadFile(filepath.Join(dir, "files", "f")); err != nil || string(got) != "aaaa" && string(got) != "bbbb" {
				t.Errorf("f is %q, %v", got, err)
				return
			}
		}
	})
	for i := range 1000 {
		must(t, v.Relink([]journal.ID{b, a}[i%2], "f"))
	}
	close(stop)
	wg.Wait()
	must(t, v.Relink(a, "f")) // as it is: rename(2) does nothing and leaves both names
	list, err := os.ReadDir(filepath.Join(dir, "files"))
	if err != nil || len(list) != 1 {
		t.Errorf("left in files/: %v, %v", list, err)
	}
}

// TestSegmentClosedTwice is a crash between linking a closed segment and unlinking the open one: what is
// closed is not opened again.
func TestSegmentClosedTwice(t *testing.T) {
	v, dir := newVolume(t)
	f, err := v.OpenSegment()
	must(t, err)
	_, err = f.Write([]byte("closed\n"))
	must(t, err)
	must(t, f.Close())
	name := filepath.Join(dir, "journal", "000000000001.jsonl")
	must(t, os.Link(filepath.Join(dir, "staging", "journal-open"), name))
	f, err = v.OpenSegment()
	must(t, err)
	_, err = f.Write([]byte("next\n"))
	must(t, err)
	must(t, f.Close())
	if b, err := os.ReadFile(name); err != nil || string(b) != "closed\n" {
		t.Errorf("closed segment is %q, %v", b, err)
	}
	must(t, v.CloseSegment("000000000002.jsonl"))
	if b, err := os.ReadFile(filepath.Join(dir, "journal", "000000000002.jsonl")); err != nil || string(b) != "next\n" {
		t.Errorf("next segment is %q, %v", b, err)
	}
}

func TestClosed(t *testing.T) {
	v, _ := newVolume(t)
	id := volumetest.PutContent(t, v, []byte("x"))
	c, err := v.Open(id)
	must(t, err)
	must(t, v.Close())
	must(t, v.Close())
	for verb, err := range verbs(v, id, "x") {
		wantErr(t, verb, err, fs.ErrClosed)
	}
	_, err = v.Open(id)
	wantErr(t, "Open", err, fs.ErrClosed)
	wantErr(t, "Sync", v.Sync([]journal.ID{id}), fs.ErrClosed)
	wantErr(t, "Seal", v.Seal(id, journal.KindFile, journal.NoMeta()), fs.ErrClosed)
	if b := make([]byte, 1); true { // handles live on
		if _, err := c.ReadAt(b, 0); err != nil || b[0] != 'x' {
			t.Errorf("read %q, %v", b, err)
		}
	}
	must(t, c.Close())
}

// TestConcurrent lets names and directories come and go at once; the race detector and the end state
// are the judges: every content lies in the directory it was linked into and nowhere else.
func TestConcurrent(t *testing.T) {
	v, _ := newVolume(t)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			a, b := fmt.Sprintf("a%d", g), fmt.Sprintf("b%d", g)
			for i := range 60 {
				if err := errors.Join(v.Mkdir(a), v.Mkdir(a+"/s")); err != nil {
					t.Error(err)
					return
				}
				id := volumetest.PutContent(t, v, []byte(a))
				path := fmt.Sprintf("%s/s/%d", a, i)
				if err := errors.Join(v.Link(id, path), v.Seal(id, journal.KindFile, journal.NoMeta()), v.Relink(id, path),
					v.Rename(a, b), v.Unlink(fmt.Sprintf("%s/s/%d", b, i)), v.Rmdir(b+"/s"), v.Rmdir(b)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if list, err := v.Entries(""); err != nil || len(list) > 0 {
		t.Errorf("left: %v, %v", list, err)
	}
}

// TestDiskFull fills a tmpfs of its own: the write fails with ENOSPC, what was there stays, and after
// discarding it goes on.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: this test mounts a small disk")
		}
		t.Skip("only root can mount a small tmpfs")
	}
	mnt := t.TempDir()
	must(t, syscall.Mount("vaultd-test", mnt, "tmpfs", 0, "size=1m,nr_inodes=64"))
	t.Cleanup(func() {
		if err := syscall.Unmount(mnt, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir := filepath.Join(mnt, "tenant")
	must(t, volume.Create(dir))
	v := openVolume(t, dir)
	kept := volumetest.PutSealed(t, v, []byte("kept"))
	must(t, v.Link(kept, "kept"))

	id := journal.NewID()
	s, err := v.Stage(id)
	must(t, err)
	n, err := s.WriteAt(bytes.Repeat([]byte("x"), 2<<20), 0)
	wantErr(t, "WriteAt", err, syscall.ENOSPC)
	if size, err := s.Size(); err != nil || size != int64(n) || n == 0 {
		t.Errorf("wrote %d, size %d, %v", n, size, err)
	}
	c, err := v.Open(kept)
	must(t, err)
	wantErr(t, "CopyFrom", s.CopyFrom(c, 0, 3<<20, 4), syscall.ENOSPC)
	must(t, c.Close())
	if sp, err := v.Space(); err != nil || sp.Free != 0 || sp.Total != 1<<20 {
		t.Errorf("space %+v, %v", sp, err)
	}
	must(t, s.Close())
	must(t, v.Discard(id))

	var last error
	for range 64 {
		if last = v.Mkdir("d" + journal.NewID().String()); last != nil {
			break
		}
	}
	wantErr(t, "Mkdir without inodes", last, syscall.ENOSPC)
	_, err = v.Stage(journal.NewID())
	wantErr(t, "Stage without inodes", err, syscall.ENOSPC)
	wantErr(t, "PutNote without inodes", v.PutNote(appendonly.AreaScratch, "n", []byte("x")), syscall.ENOSPC)
	if got := volumetest.ReadContent(t, v, kept); string(got) != "kept" {
		t.Errorf("kept is %q", got)
	}
	must(t, v.Unlink("kept"))
}

// TestFakeSuper checks what rsync --fake-super will read, and on a file system without extended
// attributes that sealing works without.
func TestFakeSuper(t *testing.T) {
	v, dir := newVolume(t)
	acl := []byte("\x02\x00\x00\x00" + "\x01\x00\x06\x00\xff\xff\xff\xff" + "\x02\x00\x07\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff")
	raclFixed := "\x06\x00\x00\x00\x04\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00"
	for _, c := range []struct {
		name string
		kind journal.Kind
		meta journal.Meta
		want map[string]string // of user.*; "" is absent
	}{
		{"plain", journal.KindFile, journal.NoMeta(), map[string]string{"user.rsync.%stat": ""}},
		{"plain 0644", journal.KindFile, journal.Meta{Mode: 0o644, UID: -1, GID: -1}, map[string]string{"user.rsync.%stat": ""}},
		{"root", journal.KindFile, journal.Meta{Mode: 0o644}, map[string]string{"user.rsync.%stat": "100644 0,0 0:0"}},
		{"setuid", journal.KindFile, journal.Meta{Mode: 0o4755, UID: 1000, GID: -1}, map[string]string{"user.rsync.%stat": "104755 0,0 1000:0"}},
		{"big ids", journal.KindFile, journal.Meta{Mode: -1, UID: 4294967294, GID: 100}, map[string]string{"user.rsync.%stat": "100644 0,0 4294967294:100"}},
		{"device", journal.KindBlockDev, journal.Meta{Mode: 0o660, GID: 6, RDev: 259<<32 | 70000}, map[string]string{"user.rsync.%stat": "60660 259,70000 0:6"}},
		{"fifo", journal.KindFifo, journal.NoMeta(), map[string]string{"user.rsync.%stat": "10644 0,0 0:0"}},
		{"attributes", journal.KindFile, journal.Meta{Mode: -1, UID: -1, GID: -1, XAttrs: map[string][]byte{
			"user.mine": []byte("1"), "trusted.t": []byte("2"), "user.rsync.%stat": []byte("100777 0,0 0:0"), "system.posix_acl_access": acl,
			"system.posix_acl_default": []byte("short")}},
			map[string]string{"user.mine": "1", "user.rsync.trusted.t": "2", "user.rsync.%stat": "",
				"user.rsync.%aacl": raclFixed + "\xe8\x03\x00\x00\x07\x00\x00\x80", "user.rsync.%dacl": ""}},
	} {
		c.meta.MTime = journal.Unix(1e9, 5000)
		odd := journal.Meta{Mode: 0o600, UID: 7, GID: 7, MTime: journal.Unix(5, 5), XAttrs: map[string][]byte{"user.odd": {1}}}
		for _, ahead := range []*journal.Meta{nil, &c.meta, &odd} { // what SetMeta was given before
			id := journal.NewID()
			s, err := v.Stage(id)
			must(t, err)
			if ahead != nil {
				s.SetMeta(c.kind, *ahead)
			}
			must(t, errors.Join(s.Close(), v.Seal(id, c.kind, c.meta)))
			p := filepath.Join(dir, "store", id.Shard(), id.String())
			st, err := os.Stat(p)
			must(t, err)
			if st.ModTime().UnixNano() != 1e18+5000 || st.Mode().Perm() != 0o640 {
				t.Errorf("%s: mtime %v, mode %v", c.name, st.ModTime(), st.Mode())
			}
			c.want["user.odd"] = ""
			buf := make([]byte, 200)
			for name, want := range c.want {
				n, err := syscall.Getxattr(p, name, buf)
				if err == syscall.ENOTSUP {
					t.Logf("%s: no extended attributes here; sealed without", c.name)
					break
				}
				if got := string(buf[:max(n, 0)]); got != want || (err == nil) != (want != "") {
					t.Errorf("%s: %s is %q, %v, want %q", c.name, name, got, err, want)
				}
			}
			must(t, v.Seal(id, journal.KindFile, journal.NoMeta())) // again, plain: the first's attributes go
			if n, err := syscall.Listxattr(p, buf); err != syscall.ENOTSUP && strings.Contains(string(buf[:max(n, 0)]), "user.") {
				t.Errorf("%s: left %q, %v", c.name, buf[:n], err)
			}
		}
	}
}

// BenchmarkPut is the hot path of a small file: stage, write, close, link, seal; synced in one at the end.
func BenchmarkPut(b *testing.B) {
	v, _ := newVolume(b)
	data := make([]byte, 4096)
	must(b, v.Mkdir("d"))
	must(b, v.Mkdir("d/e"))
	var ids []journal.ID
	for b.Loop() {
		id := journal.NewID()
		s, err := v.Stage(id)
		must(b, err)
		_, err = s.WriteAt(data, 0)
		must(b, err)
		must(b, s.Close())
		must(b, v.Link(id, "d/e/"+id.String()))
		ids = append(ids, id)
	}
	must(b, v.Sync(ids))
	for _, id := range ids {
		must(b, v.Seal(id, journal.KindFile, journal.NoMeta()))
	}
}
