package zfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// MountedAt returns the dataset that is mounted at a directory, as the kernel says it for this process's namespace: "" if the directory is
// not where something is mounted, or is not there, or that is not ZFS. It runs nothing, and asks no pool, so it answers also while one hangs.
// The directory itself is never a symlink; the way to it may be.
func MountedAt(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return MountOf(fd)
}

// MountOf is MountedAt, of a directory that is open: what is mounted there later is another one.
func MountOf(fd int) (string, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st); err != nil {
		return "", fmt.Errorf("find mount: %w", err)
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 || st.Mask&unix.STATX_MNT_ID == 0 {
		return "", errors.New("find mount: the kernel does not tell (5.8 and later do)")
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		return "", nil
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("read mounts: %w", err)
	}
	return mountSource(text, st.Mnt_id), nil
}

// mountSource finds the dataset of a mount in a table of mounts, of which it reads one line.
func mountSource(text []byte, id uint64) string {
	begin := []byte(strconv.FormatUint(id, 10) + " ")
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, begin) {
			m, _ := parseMount(string(line))
			return m.Dataset()
		}
	}
	return ""
}
