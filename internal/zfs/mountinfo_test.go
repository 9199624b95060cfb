package zfs_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/zfs"
)

// What a path leads into is what the kernel would say: the topmost mount, unless something further up covers it, whatever order the lines have.
func TestMountsDataset(t *testing.T) {
	const base = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:30 / /srv rw shared:3 - xfs /dev/vdb rw
40 30 0:34 / /srv/v/tenants rw,noatime shared:2 - zfs tank/v rw,xattr
41 40 0:35 / /srv/v/tenants/t-a rw,noatime - zfs tank/v/t-a rw
`
	for _, x := range []struct{ name, more, dir, want string }{
		{"the root", "", "/srv/v/tenants", "tank/v"},
		{"a tenant's", "", "/srv/v/tenants/t-a", "tank/v/t-a"},
		{"another way to say it", "", "/srv//v/tenants/./t-a/", "tank/v/t-a"},
		{"nothing there", "", "/srv/v/tenants/t-b", ""},
		{"below a mount", "", "/srv/v/tenants/t-a/files", ""},
		{"beginning like one", "", "/srv/v/tenants/t-", ""},
		{"another file system", "", "/srv", ""},
		{"over it", "50 41 0:9 / /srv/v/tenants/t-a rw - tmpfs tmpfs rw\n", "/srv/v/tenants/t-a", ""},
		{"over it, and ZFS", "50 41 0:9 / /srv/v/tenants/t-a rw - zfs tank/x rw\n", "/srv/v/tenants/t-a", "tank/x"},
		{"over what is over it", "51 50 0:9 / /srv/v/tenants/t-a rw - zfs tank/v/t-a rw\n50 41 0:9 / /srv/v/tenants/t-a rw - tmpfs tmpfs rw\n", "/srv/v/tenants/t-a", "tank/v/t-a"},
		{"the root is covered, and all below", "50 40 0:9 / /srv/v/tenants rw - tmpfs tmpfs rw\n", "/srv/v/tenants/t-a", ""},
		{"what is further up is covered", "50 30 0:9 / /srv rw - tmpfs tmpfs rw\n", "/srv/v/tenants/t-a", ""},
		{"the same", "50 30 0:9 / /srv/v rw - tmpfs tmpfs rw\n", "/srv/v/tenants", ""},
		{"a part of it", "50 40 0:35 /files /srv/v/tenants/t-c rw - zfs tank/v/t-a rw\n", "/srv/v/tenants/t-c", ""},
		{"called zfs", "50 40 0:36 / /srv/v/tenants/t-d rw - tmpfs zfs rw\n", "/srv/v/tenants/t-d", ""},
		{"what the kernel escapes", `50 22 0:38 / /with\040blank\134040\012- rw master:3 propagate_from:2 - zfs tank/with\040blank rw` + "\n", "/with blank\\040\n-", "tank/with blank"},
		{"a name made to look like the end of a line", `50 22 0:38 /\040-\040zfs\040tank/v / rw - tmpfs \040-\040zfs\040tank/v\012 rw` + "\n", "/", ""},
		{"a source without a name", "50 40 0:38 / /srv/v/tenants/t-e rw - zfs  rw\n", "/srv/v/tenants/t-e", ""},
		{"escapes that are none", `50 22 0:38 / /a\9\777\04 rw - zfs tank/v rw` + "\n", `/a\9\777\04`, "tank/v"},
		{"lines that are none", "x\n\n - \n1 2 3 4 5 -\n-1 2 0:1 / /a rw - zfs tank/v rw\n9 22 0:1 / /a rw zfs tank/v rw\n9 22 0:1 / /a rw - zfs\n", "/a", ""},
		{"one that is its own parent, and two that are each other's", "60 60 0:1 / / rw - tmpfs x rw\n61 62 0:1 / /a rw - zfs a rw\n62 61 0:1 / /a rw - zfs b rw\n", "/a", ""},
	} {
		m, err := zfs.ReadMounts(strings.NewReader(base + x.more))
		if got := m.Dataset(x.dir); err != nil || got != x.want {
			t.Errorf("%s: %q, %v; want %q", x.name, got, err, x.want)
		}
	}
	m, err := zfs.ReadMounts(strings.NewReader("40 30 0:34 / /srv/tenants rw - zfs tank/v rw\n")) // in a chroot that is no mount
	if got := m.Dataset("/srv/tenants"); err != nil || got != "tank/v" {
		t.Errorf("below a root that is not listed: %q, %v", got, err)
	}
	if one, at, ok := m.Holds("/srv"); ok {
		t.Errorf("what holds nothing: %+v %q", one, at)
	}
	if _, err := zfs.ReadMounts(strings.NewReader(base + strings.Repeat("x", 2<<20))); err == nil {
		t.Error("half a table was taken for one")
	}
}

// This machine's own table is read, and says what holds a directory.
func TestCurrentMounts(t *testing.T) {
	m, err := zfs.CurrentMounts()
	if err != nil {
		t.Fatal(err)
	}
	if one, at, ok := m.Holds("/proc/self"); !ok || one.Type != "proc" || at != "/proc" || len(one.Source) == 0 {
		t.Errorf("%+v %q %v", one, at, ok)
	}
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, at, ok := m.Holds(dir); !ok || !strings.HasPrefix(dir, strings.TrimSuffix(at, "/")) {
		t.Errorf("%s is held at %q, %v", dir, at, ok)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

// FuzzMounts: whatever a table says, a look into it ends.
func FuzzMounts(f *testing.F) {
	f.Add("22 1 254:1 / / rw shared:1 - ext4 /dev/vda1 rw\n40 22 0:34 / /a\\040b rw - zfs tank/v rw\n", "/a b")
	f.Fuzz(func(t *testing.T, table, dir string) {
		m, err := zfs.ReadMounts(strings.NewReader(table))
		if err == nil {
			m.Dataset("/" + dir)
		}
	})
}
