package zfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Names are published with link(2), because rename flags are not there.
func TestFactPublish(t *testing.T) {
	_, dir := dataset(t, "")
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, os.WriteFile(a, nil, 0o600))
	if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE); err != unix.EINVAL {
		t.Errorf("RENAME_NOREPLACE: %v, want EINVAL: has this ZFS learned it?", err)
	}
	must(t, os.Link(a, b))
	if err := os.Link(a, b); !errors.Is(err, os.ErrExist) {
		t.Errorf("link over a name: %v", err)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY, 0o600)
	must(t, err)
	unix.Close(fd)
}

// Snapshots can be read at their hidden place and not be changed there.
func TestFactBrowse(t *testing.T) {
	ds, dir := dataset(t, "-o snapdir=hidden")
	must(t, os.WriteFile(dir+"/f", []byte("then"), 0o644))
	sh(t, "zfs create %[1]s/child; echo x >%[2]s/child/x; zfs snapshot -r %[1]s@s; echo now >%[2]s/f", ds, dir)
	past := dir + "/.zfs/snapshot/s"
	if b, err := os.ReadFile(past + "/f"); err != nil || string(b) != "then" {
		t.Errorf("the past is %q, %v", b, err)
	}
	if err := os.WriteFile(past+"/g", nil, 0o644); !errors.Is(err, syscall.EROFS) {
		t.Errorf("write into a snapshot: %v", err)
	}
	if err := os.Remove(past + "/f"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("remove in a snapshot: %v", err)
	}
	if err := os.Mkdir(dir+"/.zfs/snapshot/made", 0o755); err == nil {
		t.Error("mkdir made a snapshot")
	}
	if names, err := os.ReadDir(past + "/child"); err != nil || len(names) != 0 {
		t.Errorf("a child in its parent's snapshot: %v, %v, want an empty directory", names, err)
	}
	if _, err := os.Stat(dir + "/child/.zfs/snapshot/s/x"); err != nil {
		t.Errorf("a child's own snapshot: %v", err)
	}
	if names, _ := os.ReadDir(dir); strings.Contains(sh(t, "ls -a %s", dir), ".zfs") {
		t.Errorf(".zfs is listed: %v", names)
	}
}

// Reading a snapshot mounts it: for anybody, and below a bind mount or in a mount namespace of one's own only if mounts propagate
// there (systemd shares all mounts at boot, and its PrivateTmp= and ProtectSystem= make slaves, which is well).
func TestFactAutomount(t *testing.T) {
	makeUser(t)
	ds, dir := dataset(t, "")
	snap := func(name string) string {
		sh(t, "echo %[1]s >%[3]s/f; zfs snapshot %[2]s@%[1]s", name, ds, dir)
		return ".zfs/snapshot/" + name + "/f"
	}
	want := func(what, got string) {
		t.Helper()
		if got != what {
			t.Errorf("%s: read %q", what, got)
		}
	}
	f := snap("unprivileged")
	want("unprivileged", sh(t, "runuser -u %s -- cat %s/%s", user, dir, f))
	f = snap("bind")
	bind := t.TempDir()
	sh(t, "mount --bind %s %s", dir, bind)
	defer sh(t, "umount -l %s", bind)
	want("bind", sh(t, "cat %s/%s", bind, f))
	f = snap("slave")
	want("slave", sh(t, "unshare -m --propagation slave cat %s/%s", dir, f))
	f = snap("private")
	refused(t, "Too many levels of symbolic links", "unshare -m --propagation private cat %s/%s", dir, f)
}

// A hold stands between a snapshot and everything that would end it.
func TestFactHold(t *testing.T) {
	ds, dir := dataset(t, "")
	sh(t, "zfs create %[1]s/a; zfs create %[1]s/b; echo x >%[2]s/a/x", ds, dir)
	sh(t, "zfs snapshot %[1]s/a@s; zfs snapshot %[1]s/a@t; zfs snapshot %[1]s/b@s; zfs hold keep %[1]s/a@s; zfs hold keep %[1]s/a@t", ds)
	refused(t, "dataset is busy", "zfs destroy %s/a@s", ds)
	refused(t, "busy", "zfs destroy -r %s/a", ds)
	refused(t, "busy", "zfs destroy -R %s/a", ds)
	refused(t, "busy", "zfs rollback -r %s/a@s", ds)
	if got := sh(t, "zfs list -Hr -t snapshot -o name %s/a", ds); got != ds+"/a@s\n"+ds+"/a@t" {
		t.Errorf("left: %s", got)
	}
	sh(t, "zfs destroy -d %[1]s/a@s; zfs list %[1]s/a@s; zfs release keep %[1]s/a@s", ds)
	refused(t, "does not exist", "zfs list %s/a@s", ds)
	// It protects its own dataset and no other.
	refused(t, "busy", "zfs destroy -r %s", ds)
	if got := sh(t, "zfs list -Hr -t snapshot -o name %s", ds); got != ds+"/a@t" {
		t.Errorf("left after destroy -r of the parent: %s; b@s had no hold", got)
	}
}

// zpool destroy asks no hold: who is root on the host is beyond what vaultd can stop.
func TestFactPoolDestroyIgnoresHolds(t *testing.T) {
	sh(t, "truncate -s 128M /var/tmp/p; zpool create p /var/tmp/p; zfs snapshot p@s; zfs hold keep p@s; zpool destroy p; rm /var/tmp/p")
}

// What a user with delegated rights can do, and what not.
func TestFactDelegation(t *testing.T) {
	makeUser(t)
	ds, _ := dataset(t, "")
	other, _ := *pool+"/other", sh(t, "zfs create %s/other", *pool)
	t.Cleanup(func() { clean(t, other) })
	as := "runuser -u " + user + " -- /sbin/zfs "
	sh(t, "zfs create %[1]s/a; zfs snapshot %[1]s/a@old; zfs hold keep %[1]s/a@old; zfs allow %[2]s create,snapshot,hold,mount,userprop %[1]s", ds, user)
	sh(t, as+"snapshot %s/a@s", ds)
	sh(t, as+"snapshot -r %s@batch", ds)
	sh(t, as+"hold keep %s/a@s", ds)
	sh(t, as+"set vaultd:x=y %s/a@s", ds)
	for _, c := range []string{"destroy %s/a@s", "destroy -d %s/a@old", "release keep %s/a@old", "rollback %s/a@s", "set quota=1G %s/a", "set refquota=none %s/a",
		"rename %s/a@s %[1]s/a@gone", "rename %s/a %[1]s/b", "allow " + user + " destroy %s", "destroy -r %s", "set readonly=off %s/a", "promote %s/a"} {
		refused(t, "", as+c, ds)
	}
	if got := sh(t, "zfs get -Hp -o value userrefs %s/a@old", ds); got != "1" {
		t.Errorf("%s holds", got)
	}
	refused(t, "ermission denied", as+"snapshot %s@s", other)
	refused(t, "", as+"create %s/new", ds) // it is made, and only root can mount it
	if got := sh(t, "zfs get -Hp -o value mounted %s/new", ds); got != "no" {
		t.Errorf("a user's new dataset: mounted is %s", got)
	}
	if got := sh(t, as+"list -H -o name %s", other); got != other {
		t.Errorf("other datasets are hidden: %s", got)
	}
}

// Quotas are exact, can be seen by statfs, and leave room to remove.
func TestFactQuota(t *testing.T) {
	ds, dir := dataset(t, "-o refquota=16M -o recordsize=128K")
	var st unix.Statfs_t
	must(t, unix.Statfs(dir, &st))
	if total := st.Blocks * uint64(st.Bsize); total > 16<<20 || total < 15<<20 {
		t.Errorf("statfs: %d bytes", total)
	}
	fill := func(name string) error {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		defer f.Close()
		data := noise(name, 1<<20)
		for range 64 {
			if _, err := f.Write(data); err != nil {
				return err
			}
			if err := f.Sync(); err != nil {
				return err
			}
		}
		return nil
	}
	if err := fill("f"); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("beyond refquota: %v", err)
	}
	must(t, os.Remove(filepath.Join(dir, "f")))
	sh(t, "zpool sync %s", *pool)
	must(t, os.WriteFile(filepath.Join(dir, "g"), noise("g", 4<<20), 0o600)) // there is room again
	// With quota, what a snapshot keeps counts: removing works and frees nothing.
	sh(t, "zfs set refquota=none %[1]s; zfs set quota=32M %[1]s", ds)
	if err := fill("h"); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("beyond quota: %v", err)
	}
	sh(t, "zfs snapshot %[1]s@s; rm %[2]s/h; zpool sync %[3]s", ds, dir, *pool)
	if err := fill("i"); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("after removing what a snapshot keeps: %v", err)
	}
}

// An open file in a snapshot keeps it; expiry tries again later.
func TestFactBusySnapshot(t *testing.T) {
	ds, dir := dataset(t, "")
	sh(t, "echo x >%s/f; zfs snapshot %s@s", dir, ds)
	f, err := os.Open(dir + "/.zfs/snapshot/s/f")
	must(t, err)
	refused(t, "dataset is busy", "zfs destroy %s@s", ds)
	must(t, f.Close())
	sh(t, "zfs destroy %s@s", ds)
}

// snapshot -r, and several names, are one transaction.
func TestFactAtomicSnapshots(t *testing.T) {
	ds, _ := dataset(t, "")
	sh(t, "for i in $(seq 50); do zfs create -o canmount=off %[1]s/$i; done; zfs snapshot -r %[1]s@r; zfs snapshot %[1]s/1@m %[1]s/2@m", ds)
	if got := sh(t, "zfs get -Hpr -t snapshot -o value createtxg %s | sort | uniq -c | awk '{print $1}' | sort -n | xargs", ds); got != "2 51" {
		t.Errorf("snapshots by transaction: %s, want 2 and 51", got)
	}
}

// The properties that a tenant's dataset gets.
func TestFactProperties(t *testing.T) {
	_, dir := dataset(t, "-o xattr=sa -o acltype=posixacl -o recordsize=1M -o compression=zstd -o exec=off -o setuid=off -o devices=off -o atime=off")
	makeUser(t)
	f := dir + "/f"
	must(t, os.WriteFile(f, []byte("#!/bin/sh\n"), 0o755))
	must(t, unix.Setxattr(f, "user.rsync.%stat", []byte("100644 0,0 1:2"), 0))
	sh(t, "setfacl -m u:%s:r %s; getfacl %[2]s | grep user:%[1]s:r--", user, f)
	refused(t, "ermission denied", "%s", f)
	sh(t, "mknod %s/null c 1 3", dir)
	refused(t, "ermission denied", "echo x >%s/null", dir)
}

// What of Landlock the guest's kernel has: DESIGN 8 wants ABI 3, in which truncation is covered.
func TestFactLandlock(t *testing.T) {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, 1)
	if errno != 0 {
		t.Fatalf("no Landlock: %v", errno)
	}
	t.Logf("Landlock ABI %d on %s", abi, sh(t, "uname -r"))
	if abi != 2 {
		t.Errorf("Landlock ABI %d, want 2: the tests about what is left open with it prove nothing", abi)
	}
}
