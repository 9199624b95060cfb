package tests

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// smallDisk mounts a file system of its own.
func smallDisk(t *testing.T, size string) string {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: this test mounts a small disk")
		}
		t.Skip("a disk of its own needs root to mount it: run tests/run as root to see this one")
	}
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Fatalf("mount tmpfs: %v", err)
	}
	t.Cleanup(func() { must(t, syscall.Unmount(dir, syscall.MNT_DETACH)) })
	return dir
}

// fails runs a client that must fail and say one of words.
func (v *vault) fails(t *testing.T, words string, who string, args ...string) {
	t.Helper()
	out, err := v.as(who, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s %v: %v, want a failure\n%s", who, args, err, out)
	}
	for w := range strings.SplitSeq(words, "|") {
		if bytes.Contains(bytes.ToLower(out), []byte(w)) {
			return
		}
	}
	t.Errorf("%s %v says none of %q:\n%s", who, args, words, out)
}

func (v *vault) works(t *testing.T, who string, args ...string) string {
	t.Helper()
	out, err := v.as(who, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", who, args, err, out)
	}
	return string(out)
}

// files makes files beside the store, which is on another disk.
func files(t *testing.T, dir string, sizes map[string]int) {
	for name, n := range sizes {
		must(t, os.WriteFile(filepath.Join(dir, name), noise(name, n), 0o666))
	}
}

// A disk that is full: down to the floor that vaultd keeps, and to the last byte by somebody else. The
// upload fails in clear words, reads go on, and when there is room again so do uploads.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	v, err := newVault(smallDisk(t, "64M"))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte("[store]\nfree_bytes = \"8MiB\"\nfree_inodes = 100\n"), 0o600))
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	disk := v.root
	v.root = t.TempDir() // where clients work: on another disk
	files(t, v.root, map[string]int{"small": 100_000, "mid": 3_000_000, "big": 80_000_000})
	back := filepath.Join(v.root, "back")
	const words = "no space left|not enough space|no enough space"
	reads := func() {
		t.Helper()
		for _, who := range []string{"alice", "bob"} {
			v.works(t, who, "sftp", "get small back", "ls -l", "df")
			got, err := os.ReadFile(back)
			if must(t, err); !bytes.Equal(got, noise("small", 100_000)) {
				t.Errorf("%s read %d wrong bytes", who, len(got))
			}
		}
	}
	v.works(t, "alice", "sftp", "put small")
	v.works(t, "bob", "sftp", "put small")
	v.works(t, "alice", "restic", "-r", "/repo", "init")
	v.works(t, "alice", "restic", "-r", "/repo", "backup", "small")

	v.fails(t, words, "alice", "sftp", "put big")
	v.fails(t, words, "alice", "rclone", "copyto", "big", "vault:big2")
	v.fails(t, words, "alice", "restic", "-r", "/repo", "backup", "big") // 0.14 tries ten times, whatever it is told
	reads()
	v.works(t, "alice", "restic", "-r", "/repo", "restore", "latest", "--target", filepath.Join(v.root, "restored"))

	// Somebody else takes all of it.
	hog := filepath.Join(disk, "hog")
	out, err := exec.Command("dd", "if=/dev/zero", "of="+hog, "bs=64k").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "No space left") {
		t.Fatalf("the disk is not full: %v\n%s", err, out)
	}
	v.fails(t, words, "alice", "sftp", "put mid")
	v.fails(t, words, "bob", "sftp", "mkdir d")
	reads()
	must(t, os.Remove(hog))
	time.Sleep(1200 * time.Millisecond) // the floor looks once a second
	for _, who := range []string{"alice", "bob"} {
		v.works(t, who, "sftp", "put mid", "mkdir d")
	}
	v.works(t, "alice", "restic", "-r", "/repo", "backup", "mid")
	v.works(t, "alice", "restic", "-r", "/repo", "check")
	reads()
	must(t, v.stop())
	v.audit(t)
}
