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

// serveExpire answers as an installed helper does.
func serveExpire(t testing.TB, h *zfshelper.Helper) string {
	return serveAs(t, &zfshelper.Server{Verbs: h, UID: 1000, Leaver: h, Expire: 1001})
}

// The server's user can not do expire's part, nor expire the server's; a stranger none.
func TestVerbsOfUsers(t *testing.T) {
	h, _, _ := newHelper(t, nil)
	s := &zfshelper.Server{Verbs: h, UID: 1000, Leaver: h, Expire: 1001}
	all := "zfs.bodies zfs.create zfs.datasets zfs.load zfs.pool zfs.raise zfs.scrub zfs.take zfs.top"
	for uid, want := range map[uint32]string{0: all + " zfs.unmount", 1000: all, 1001: "zfs.unmount", 1002: ""} {
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

// A helper that can not unmount has it done, and believes what ZFS says of it; the mounter leaves nothing of who is not removed, and disturbs nothing that
// is not empty.
func TestUnmountByMounter(t *testing.T) {
	asked, left := 0, false
	var fake *zfstest.Fake
	var dir string
	removed := func(id string) (bool, error) { return id == tenantID(2), nil }
	h, f, at := newHelper(t, func(c *zfshelper.Config) {
		c.Removed = removed
		c.Empty = func(string) error { return errors.New("not asked here") }
		c.Place = func(context.Context) error {
			asked++
			fake.Change(func(s *zfstest.State) {
				for name, d := range s.Datasets {
					d.Mounted = true
					must(t, os.MkdirAll(filepath.Join(dir, strings.TrimPrefix(name, root)), 0o755))
				}
				if left {
					s.Datasets[root+"/"+tenantID(2)].Mounted = false
				}
			})
			return nil
		}
	})
	fake, dir = f, at
	ctx := t.Context()
	must(t, h.Create(ctx, tenantID(1), 0))
	must(t, h.Create(ctx, tenantID(2), 0))
	asked = 0
	fake.Argv()
	wants(t, "not removed", h.Unmount(ctx, tenantID(1)), zfshelper.ErrKept)
	if asked > 0 {
		t.Error("the mounter was asked for it")
	}
	wants(t, "not left", h.Unmount(ctx, tenantID(2)), zfshelper.ErrKept)
	left = true
	wants(t, "left", h.Unmount(ctx, tenantID(2)), nil)
	for _, argv := range fake.Argv() {
		if !slices.Contains([]string{"list", "get"}, argv[1]) {
			t.Errorf("was run: %q", argv)
		}
	}

	looked := map[string]bool{}
	mounter, fake, _ := newHelper(t, func(c *zfshelper.Config) {
		c.Removed = removed
		c.Empty = func(dir string) error { looked[filepath.Base(dir)] = true; return errors.New("a file is in it") }
	})
	must(t, mounter.Create(ctx, tenantID(1), 0))
	must(t, mounter.Create(ctx, tenantID(2), 0))
	fake.Argv()
	must(t, mounter.Leave(ctx))
	if len(looked) != 1 || !looked[tenantID(2)] {
		t.Errorf("looked into %v", looked)
	}
	for _, argv := range fake.Argv() {
		if !slices.Contains([]string{"list", "get"}, argv[1]) {
			t.Errorf("was run: %q", argv)
		}
	}
}
