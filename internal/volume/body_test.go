package volume_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume"
	"vaultd/internal/volume/volumetest"
)

// copyBody makes a copy of the volume in dir stand for what ZFS keeps of the snapshot called name.
func copyBody(t testing.TB, dir, name string) string {
	t.Helper()
	body := filepath.Join(dir, ".zfs/snapshot/vaultd-"+name)
	must(t, os.MkdirAll(body, 0o750))
	args := []string{"-a"}
	for _, sub := range []string{"format", "store", "files", "staging", "journal"} {
		args = append(args, filepath.Join(dir, sub))
	}
	if out, err := exec.Command("cp", append(args, body)...).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	return body
}

func openBody(t testing.TB, v *volume.Volume, name string) appendonly.Body {
	t.Helper()
	b, err := v.OpenBody(name)
	must(t, err)
	t.Cleanup(func() { b.Close() })
	return b
}

// look is one name of a directory.
func look(t testing.TB, b appendonly.Body, dir, name string) appendonly.RawEntry {
	t.Helper()
	got, err := b.Look(dir, []string{name})
	must(t, err)
	return got[0]
}

// A body is read as the volume was, whatever the volume does meanwhile.
func TestBody(t *testing.T) {
	for name, set := range map[string]func(*volume.Volume){"kernel": func(*volume.Volume) {}, "without openat2": volume.DisableOpenat2} {
		t.Run(name, func(t *testing.T) {
			v, dir := newVolume(t)
			set(v)
			if _, err := v.OpenBody("one"); !errors.Is(err, appendonly.ErrNoBodies) {
				t.Errorf("without .zfs: %v", err)
			}
			sealed, staged := volumetest.PutSealed(t, v, []byte("sealed")), volumetest.PutContent(t, v, []byte("staged"))
			must(t, v.Mkdir("d"))
			must(t, v.Link(sealed, "d/f"))
			must(t, v.Link(sealed, "g"))
			must(t, v.Link(staged, "d/s"))
			must(t, v.Symlink("/etc/passwd", "d/l"))
			copyBody(t, dir, "one")
			must(t, v.Unlink("d/f"))
			must(t, v.Rename("d", "e"))
			b := openBody(t, v, "one")
			var names []string
			must(t, b.Each("d", func(n string) bool { names = append(names, n); return true }))
			if slices.Sort(names); !slices.Equal(names, []string{"f", "l", "s"}) {
				t.Errorf("names: %q", names)
			}
			must(t, b.Each("d", func(string) bool { names = nil; return false }))
			got, err := b.Look("d", []string{"f", "x", "s", "l", "..", "a/b", "", "\x00", strings.Repeat("n", 256)})
			must(t, err)
			for i, kind := range []journal.Kind{journal.KindFile, 0, journal.KindFile, journal.KindSymlink, 0, 0, 0, 0, 0} {
				if got[i].Kind != kind {
					t.Errorf("%d is %v", i, got[i])
				}
			}
			if got[3].Target != "/etc/passwd" || got[0].Size != 6 || look(t, b, "", "d").Kind != journal.KindDir {
				t.Errorf("%+v", got)
			}
			for id, e := range map[journal.ID]appendonly.RawEntry{sealed: got[0], staged: got[2]} {
				if n, err := b.Inode(id); err != nil || n != e.Inode {
					t.Errorf("inode %d, %v; the name's is %d", n, err, e.Inode)
				}
			}
			if _, err := b.Inode(journal.NewID()); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			c, err := b.Open("d/f")
			must(t, err)
			must(t, b.Close())
			data, err := io.ReadAll(io.NewSectionReader(c, 0, c.Size())) // stays open
			must(t, err)
			must(t, c.Close())
			if string(data) != "sealed" {
				t.Errorf("%q", data)
			}
			if _, err := b.Look("", []string{"g"}); !errors.Is(err, fs.ErrClosed) {
				t.Errorf("closed: %v", err)
			}
		})
	}
}

// Nothing leads out of a body, and what can not be one is none.
func TestBodyHostile(t *testing.T) {
	v, dir := newVolume(t)
	must(t, v.Link(volumetest.PutSealed(t, v, []byte("x")), "f"))
	must(t, v.Mkdir("d"))
	body := copyBody(t, dir, "one")
	must(t, os.WriteFile(dir+"/secret", []byte("secret"), 0o600))
	must(t, os.Symlink(dir, body+"/files/out"))
	must(t, os.Symlink("../../../../secret", body+"/files/rel"))
	must(t, unix.Mkfifo(body+"/files/pipe", 0o600))
	must(t, os.WriteFile(body+"/files/.vault", nil, 0o600))
	b := openBody(t, v, "one")
	for _, p := range []string{"out/secret", "out", "rel", "pipe", "", "d", ".", "..", "../format", "/f", "f/", "d/../f", "f/x", ".vault", "\x00", strings.Repeat("d/", 3000) + "f", strings.Repeat("x", 256)} {
		if c, err := b.Open(p); err == nil {
			c.Close()
			t.Errorf("%q was opened", p)
		}
	}
	for _, dir := range []string{"out", "rel", "f", "..", "d/..", "/", ".vault", "x", strings.Repeat("d/", 3000) + "d"} {
		if err := b.Each(dir, func(string) bool { return true }); err == nil {
			t.Errorf("%q was listed", dir)
		}
		if got, err := b.Look(dir, []string{"secret"}); err == nil {
			t.Errorf("%q was looked into: %v", dir, got)
		}
	}
	if e := look(t, b, "", ".vault"); e.Kind != 0 {
		t.Errorf(".vault: %+v", e)
	}
	must(t, b.Each("", func(n string) bool {
		if n == ".vault" {
			t.Error(".vault is listed")
		}
		return true
	}))
	for _, name := range []string{"two", "", "../one", "one/../one", "one\x00", "..", strings.Repeat("x", 300)} {
		if b, err := v.OpenBody(name); err == nil {
			b.Close()
			t.Errorf("%q was opened", name)
		}
	}
	must(t, os.Rename(body, body+"x"))
	must(t, os.Symlink(body+"x", body))
	if b, err := v.OpenBody("one"); err == nil {
		b.Close()
		t.Error("a symlink was followed")
	}
	for _, part := range []string{"format", "store", "files", "staging", "journal"} {
		must(t, os.Rename(body+"x/"+part, body+"x/away"))
		if _, err := v.OpenBody("onex"); err == nil || errors.Is(err, fs.ErrNotExist) || errors.Is(err, appendonly.ErrNoBodies) {
			t.Errorf("without %s: %v", part, err)
		}
		must(t, os.Rename(body+"x/away", body+"x/"+part))
	}
	must(t, openBody(t, v, "onex").Close())
}

// What Seal writes of attributes is what a body has of them: Carries says so beforehand.
func TestBodyCarries(t *testing.T) {
	v, dir := newVolume(t)
	acl := []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x08\x00\x00\x00\x08\x00\x00\x00\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")
	type case1 struct {
		id   journal.ID
		kind journal.Kind
		meta journal.Meta
	}
	cases := map[string]case1{}
	for name, m := range map[string]journal.Meta{
		"nothing": journal.NoMeta(), "mode": {Mode: 0o4711, UID: -1, GID: -1}, "owner": {Mode: -1, UID: 5, GID: -1}, "plain": {Mode: 0o644, UID: -1, GID: -1},
		"time": {Mode: -1, UID: -1, GID: -1, MTime: journal.Unix(-7, 5)}, "device": {Mode: 0o660, UID: 0, GID: 6, RDev: 8<<32 | 17},
		"attributes": {Mode: 0o600, UID: 1 << 31, GID: 1<<32 - 1, XAttrs: map[string][]byte{"user.a": []byte("b"), "user.empty": {}, "security.capability": {1, 0}, "user.rsync.%stat": []byte("x"),
			"system.posix_acl_access": acl, "system.posix_acl_default": []byte("broken"), "trusted.\xff": {2}}},
	} {
		c := case1{journal.NewID(), journal.KindFile, m}
		if name == "device" {
			c.kind = journal.KindBlockDev
		}
		s, err := v.Stage(c.id)
		must(t, err)
		must(t, s.Close())
		must(t, v.Sync([]journal.ID{c.id}))
		must(t, v.Seal(c.id, c.kind, m))
		must(t, v.Link(c.id, name))
		cases[name] = c
	}
	copyBody(t, dir, "one")
	b := openBody(t, v, "one")
	for name, c := range cases {
		e, want := look(t, b, "", name), b.Carries(c.kind, c.meta)
		if want.MTime.IsZero() {
			e.Meta.MTime = journal.Time{}
		}
		if e.Kind != c.kind || !e.Meta.Equal(want) {
			t.Errorf("%s: %v %+v, want %v %+v", name, e.Kind, e.Meta, c.kind, want)
		}
	}
	got := b.Carries(journal.KindFile, cases["attributes"].meta)
	if got.Mode != 0o600 || got.UID != 1<<31 || string(got.XAttrs["system.posix_acl_access"]) != string(acl) || len(got.XAttrs) != 5 {
		t.Errorf("%+v", got)
	}
	if got := b.Carries(journal.KindFile, journal.Meta{Mode: 0o644, UID: -1, GID: -1}); !got.Equal(journal.NoMeta()) {
		t.Errorf("plain: %+v", got)
	}
}

// Attributes that nobody's vaultd wrote are read without harm.
func TestBodyAttributesOfAnybody(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		attrs := rapid.MapOf(rapid.SampledFrom([]string{"user.rsync.%stat", "user.rsync.%aacl", "user.rsync.%dacl", "user.rsync.%x", "user.rsync.", "user.rsync.a", "user.b"}),
			rapid.OneOf(rapid.SliceOf(rapid.Byte()), rapid.Map(rapid.StringMatching(`[0-7]{1,12} [0-9]{1,11},[0-9]{1,11} -?[0-9]{1,11}:[0-9]{1,11}`), func(s string) []byte { return []byte(s) }))).Draw(t, "attrs")
		kind, m := volume.FromFakeSuper(attrs)
		if !kind.HasContent() || m.Mode < -1 || m.Mode > 0o7777 || m.UID < -1 || m.UID > 1<<32-1 || m.GID < -1 || m.GID > 1<<32-1 {
			t.Fatalf("%v %+v", kind, m)
		}
		again, back := volume.FromFakeSuper(volume.FakeSuper(kind, m))
		if again != kind || m.Mode != back.Mode && !(m.Mode == 0o644 && m.UID == -1) {
			t.Fatalf("%v %+v, and back %v %+v", kind, m, again, back)
		}
	})
}
