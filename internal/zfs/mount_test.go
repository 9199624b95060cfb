package zfs_test

import (
	"testing"

	"vaultd/internal/zfs"
)

func TestMountSource(t *testing.T) {
	const table = `22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
40 22 0:34 / /srv/vault/tenants rw,noatime shared:2 - zfs tank/vaultd rw,xattr,posixacl
41 40 0:35 / /srv/vault/tenants/t-aaaaaaaaaaaa rw,noatime - zfs tank/vaultd/t-aaaaaaaaaaaa rw
42 40 0:35 /files /srv/vault/tenants/t-bbbbbbbbbbbb rw,noatime - zfs tank/vaultd/t-aaaaaaaaaaaa rw
44 43 0:37 / /srv/vault/tenants/t-cccccccccccc rw - tmpfs zfs rw
45 40 0:38 / /srv/with\040space rw master:3 propagate_from:2 - zfs tank/with\040space rw
`
	for _, c := range []struct {
		id          uint64
		want, shows string
	}{
		{40, "tank/vaultd", "a mount"},
		{41, "tank/vaultd/t-aaaaaaaaaaaa", "a mount without a peer group"},
		{42, "", "a directory of another dataset, bound there"},
		{44, "", "not ZFS"},
		{22, "", "not ZFS"},
		{4, "", "the beginning of another's number"},
		{45, "tank/with space", "what the kernel escapes"},
	} {
		if got := zfs.MountSource(table, c.id); got != c.want {
			t.Errorf("%s: %d is %q, want %q", c.shows, c.id, got, c.want)
		}
	}
	for _, dir := range []string{t.TempDir(), "/proc", t.TempDir() + "/none"} {
		if got, err := zfs.MountedAt(dir); got != "" || err != nil {
			t.Errorf("%s: %q, %v", dir, got, err)
		}
	}
}
