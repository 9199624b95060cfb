package zfshelper_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
	"vaultd/internal/zfs/zfstest"
	"vaultd/internal/zfshelper"
)

// Whoever is expire's user can have the dataset unmounted of a tenant whose removal is due, and of nobody else; nothing is destroyed for it.
func TestUnmountHostile(t *testing.T) {
	full := errors.New("a file is in it")
	removed := map[string]bool{tenantID(2): true, tenantID(3): true, tenantID(9): true}
	var broken error
	h, fake, dir := newHelper(t, func(c *zfshelper.Config) {
		c.Removed = func(id string) (bool, error) { return removed[id], broken }
		c.Empty = func(dir string) error { return full }
	})
	ctx := t.Context()
	for n := 1; n <= 3; n++ {
		must(t, h.Create(ctx, tenantID(n), 0))
	}
	_, err := h.Take(ctx, []snapshot.Instant{instant(3, "kept")}, time.Minute)
	must(t, err)
	fake.Argv()
	r := remote(t, serveExpire(t, h))
	for _, id := range []string{"", ".", "..", "../t-aaaaaaaaaaaa", tenantID(2) + "/x", tenantID(2) + "@x", "-f", "-a", "T-" + tenantID(2)[2:]} {
		wants(t, "unmount "+id, r.Unmount(ctx, id), zfshelper.ErrInvalid)
	}
	wants(t, "a tenant that is not removed", r.Unmount(ctx, tenantID(1)), zfshelper.ErrKept)
	wants(t, "a tenant that the catalog does not know", r.Unmount(ctx, tenantID(7)), zfshelper.ErrKept)
	broken = errors.New("the catalog can not be read")
	if err := r.Unmount(ctx, tenantID(2)); err == nil {
		t.Error("without a catalog somebody was taken for removed")
	}
	broken = nil
	if argv := fake.Argv(); len(argv) > 0 {
		t.Errorf("was run: %q", argv)
	}
	wants(t, "one with a snapshot", r.Unmount(ctx, tenantID(3)), zfs.ErrDependent)
	wants(t, "one without a dataset", r.Unmount(ctx, tenantID(9)), fs.ErrNotExist)
	for _, argv := range fake.Argv() {
		if !slices.Contains([]string{"list", "get"}, argv[1]) {
			t.Errorf("was run: %q", argv)
		}
	}
	if err := r.Unmount(ctx, tenantID(2)); err == nil { // the fake mounts nothing: what is there is not the dataset
		t.Error("was unmounted, and nobody had looked into it")
	}
	for _, argv := range fake.Argv() {
		if !slices.Contains([]string{"list", "get", "mount", "umount", "unmount"}, argv[1]) || slices.ContainsFunc(argv, func(a string) bool { return a == "-f" || a == "-a" }) {
			t.Errorf("was run: %q", argv)
		}
	}
	fake.Change(func(s *zfstest.State) {
		if !s.Datasets[root+"/"+tenantID(2)].Mounted {
			t.Error("it is not mounted again")
		}
		s.Datasets[root].Mounted = false
	})
	wants(t, "the root is not mounted", r.Unmount(ctx, tenantID(2)), zfshelper.ErrAbsent)
	if _, err := os.Stat(filepath.Join(dir, tenantID(2))); err != nil {
		t.Error(err)
	}
	h, _, _ = newHelper(t, nil)
	wants(t, "a helper that asks no catalog", h.Unmount(ctx, tenantID(2)), zfshelper.ErrKept)
}

// A key goes when the dataset is gone of a tenant that the catalog says is removed, and at no other time.
func TestForget(t *testing.T) {
	keys, former := t.TempDir(), t.TempDir()
	removed := map[string]bool{}
	h, fake, _ := newHelper(t, func(c *zfshelper.Config) {
		c.Encrypt, c.KeyDir, c.Former = true, keys, former
		c.Removed = func(id string) (bool, error) { return removed[id], nil }
		c.Empty = func(dir string) error { return nil }
	})
	ctx := t.Context()
	id, other := tenantID(1), tenantID(2)
	must(t, h.Create(ctx, id, 0))
	must(t, h.Create(ctx, other, 0))
	r := remote(t, serveExpire(t, h))
	there := func(want bool) {
		t.Helper()
		if _, err := os.Stat(filepath.Join(keys, id+".key")); (err == nil) != want {
			t.Errorf("the key: %v", err)
		}
		if _, err := os.Stat(filepath.Join(keys, other+".key")); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "..", "../" + id, id + "/../" + other, id + ".key"} {
		wants(t, "forget "+bad, r.Forget(ctx, bad), zfshelper.ErrInvalid)
	}
	wants(t, "not removed", r.Forget(ctx, id), zfshelper.ErrKept)
	removed[id] = true
	wants(t, "its dataset is there", r.Forget(ctx, id), zfshelper.ErrKept)
	there(true)
	fake.Change(func(s *zfstest.State) { delete(s.Datasets, root+"/"+id) })
	must(t, os.Mkdir(filepath.Join(former, id), 0o700))
	wants(t, "it waits to be moved", r.Forget(ctx, id), zfshelper.ErrKept)
	must(t, os.Remove(filepath.Join(former, id)))
	fake.Change(func(s *zfstest.State) { s.Datasets[root].Mounted = false })
	wants(t, "the root is not mounted", r.Forget(ctx, id), zfshelper.ErrAbsent)
	fake.Change(func(s *zfstest.State) {
		s.Datasets[root].Mounted, s.Fail = true, map[string]string{"get": "cannot open: pool I/O is currently suspended", "list": "cannot open: pool I/O is currently suspended"}
	})
	if err := r.Forget(ctx, id); err == nil {
		t.Error("nobody could say whether the dataset is there")
	}
	there(true)
	fake.Change(func(s *zfstest.State) { s.Fail = nil })
	must(t, r.Forget(ctx, id))
	there(false)
	must(t, r.Forget(ctx, id))
}

// serveExpire answers as an installed helper does.
func serveExpire(t testing.TB, h *zfshelper.Helper) string {
	return serveAs(t, &zfshelper.Server{Verbs: h, UID: 1000, Leaver: h, Expire: 1001})
}

// The server's user can not do expire's part, nor expire the server's; a stranger none.
func TestVerbsOfUsers(t *testing.T) {
	h, _, _ := newHelper(t, nil)
	s := &zfshelper.Server{Verbs: h, UID: 1000, Leaver: h, Expire: 1001}
	all := "zfs.bodies zfs.create zfs.datasets zfs.load zfs.pool zfs.raise zfs.scrub zfs.take zfs.top"
	roots := strings.Replace(all, "zfs.datasets", "zfs.datasets zfs.forget", 1) + " zfs.unmount"
	for uid, want := range map[uint32]string{0: roots, 1000: all, 1001: "zfs.forget zfs.unmount", 1002: ""} {
		if got := strings.Join(s.VerbsFor(uid), " "); got != want {
			t.Errorf("user %d: %s", uid, got)
		}
	}
	s.Leaver = nil
	if got := s.VerbsFor(1001); len(got) > 0 {
		t.Errorf("without expire's part: %s", got)
	}
}

// Scrubs are of the helper's pool, and few.
func TestScrub(t *testing.T) {
	h, fake, _ := newHelper(t, func(c *zfshelper.Config) { c.Limits.Scrubs = 2 })
	r := remote(t, serve(t, h, os.Getuid()))
	for range 2 {
		r.Scrub(t.Context()) // the fake has none
	}
	wants(t, "one more", r.Scrub(t.Context()), zfshelper.ErrRate)
	argv := fake.Argv()
	for _, a := range argv {
		if strings.Join(a, " ") != "zpool scrub tank" {
			t.Errorf("was run: %q", a)
		}
	}
	if len(argv) != 2 {
		t.Errorf("%d were run", len(argv))
	}
}

// A helper that can not unmount believes the mounter's word alone, and the mounter nobody's: what is marked is looked into like all else.
func TestLeaveByMounter(t *testing.T) {
	var place func() error
	removed := map[string]bool{tenantID(2): true}
	h, fake, dir := newHelper(t, func(c *zfshelper.Config) {
		c.Removed = func(id string) (bool, error) { return removed[id], nil }
		c.Empty = func(string) error { return nil }
		c.Place = func(context.Context) error { return place() }
	})
	ctx := t.Context()
	ds := func(n int) string { return root + "/" + tenantID(n) }
	mount := func() error {
		fake.Change(func(s *zfstest.State) {
			for name, d := range s.Datasets {
				d.Mounted = true
				must(t, os.MkdirAll(filepath.Join(s.Datasets[root].Properties["mountpoint"], filepath.Base(name)), 0o755))
			}
		})
		return nil
	}
	place = mount
	for n := 1; n <= 2; n++ {
		must(t, h.Create(ctx, tenantID(n), 0))
	}
	mark := func(n int) (mark string, mounted bool) {
		fake.Change(func(s *zfstest.State) {
			mark, mounted = s.Datasets[ds(n)].Properties["vaultd:leave"], s.Datasets[ds(n)].Mounted
		})
		return mark, mounted
	}
	place = func() error { t.Error("the mounter was asked"); return nil }
	wants(t, "a tenant that is not removed", h.Unmount(ctx, tenantID(1)), zfshelper.ErrKept)

	place = func() error {
		if m, _ := mark(2); m != "asked" {
			t.Errorf("marked %q", m)
		}
		fake.Change(func(s *zfstest.State) {
			s.Datasets[ds(2)].Properties["vaultd:leave"] = "done"
			s.Datasets[ds(2)].Mounted = false
		})
		return nil
	}
	must(t, h.Unmount(ctx, tenantID(2)))
	for what, p := range map[string]func() error{
		"a mounter that refuses":      func() error { return errors.New("it is in use") },
		"one that says nothing":       func() error { return nil },
		"unmounted, by somebody else": func() error { fake.Change(func(s *zfstest.State) { s.Datasets[ds(2)].Mounted = false }); return nil },
		"agreed to, and mounted again though": func() error {
			fake.Change(func(s *zfstest.State) { s.Datasets[ds(2)].Properties["vaultd:leave"] = "done" })
			return nil
		},
	} {
		must(t, mount())
		place = p
		wants(t, what, h.Unmount(ctx, tenantID(2)), zfshelper.ErrKept)
		if m, _ := mark(2); m != "no" {
			t.Errorf("%s: marked %q", what, m)
		}
	}

	// The mounter's side: a mark on a tenant that is not removed does nothing, on one that is it has it looked into (which fails here: the fake mounts nothing).
	must(t, mount())
	fake.Change(func(s *zfstest.State) {
		for n := 1; n <= 2; n++ {
			s.Datasets[ds(n)].Properties["vaultd:leave"] = "asked"
		}
	})
	client, err := zfs.New(zfs.Config{})
	must(t, err)
	m, err := zfshelper.New(zfshelper.Config{Client: client, Dataset: root, Dir: dir, Removed: func(id string) (bool, error) { return removed[id], nil },
		Empty: func(string) error { return nil }, MountOf: fake.MountOf})
	must(t, err)
	fake.Argv()
	err = m.Places(ctx)
	wants(t, "places", err, zfshelper.ErrKept)
	for _, argv := range fake.Argv() {
		last := argv[len(argv)-1]
		if slices.Contains([]string{"mount", "umount", "unmount", "set"}, argv[1]) && strings.Contains(last, tenantID(1)) {
			t.Errorf("was run: %q", argv)
		}
	}
	for n := 1; n <= 2; n++ {
		if mark, mounted := mark(n); mark != "asked" || !mounted {
			t.Errorf("%d: marked %q, mounted %v", n, mark, mounted)
		}
	}
}
