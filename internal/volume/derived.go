package volume

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// derivedDir holds what can be made again. It is a directory of its own because Landlock's rules are about directories: the server may
// replace what is in here, and nothing beside it.
const derivedDir = "derived"

// The names in it. Older vaultds had them in the dataset's directory.
const (
	indexName  = "index.db"
	policyName = "policy.json"
	bodiesName = "bodies.jsonl"
)

// makeDerived makes derived/ where it is missing, and moves what an older vaultd left beside it.
func (v *Volume) makeDerived() error {
	var st unix.Stat_t
	if err := unix.Fstatat(v.dir, derivedDir, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return unix.ENOTDIR
		}
		return nil
	} else if err != unix.ENOENT {
		return err
	}
	switch err := unix.Mkdirat(v.dir, derivedDir, dirMode); err {
	case nil, unix.EEXIST:
	case unix.EROFS, unix.EACCES, unix.EPERM: // a reader of what is another's, or of a snapshot; it needs no index
		return nil
	default:
		return err
	}
	for _, name := range []string{indexName, policyName} {
		if err := unix.Renameat(v.dir, name, v.dir, derivedDir+"/"+name); err != nil && err != unix.ENOENT {
			return err
		}
	}
	return nil
}

// Ready makes the volume in dir ready for rules about its directories, as Open does, and looks at no more than that takes: Create makes format last, so
// where that and derived/ are, all directories are. The error is Open's.
func Ready(dir string) error {
	var st unix.Stat_t
	if unix.Lstat(filepath.Join(dir, "format"), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && unix.Lstat(filepath.Join(dir, derivedDir), &st) == nil {
		return nil
	}
	v, err := Open(dir)
	if err != nil {
		return err
	}
	return v.Close()
}

// IndexPath is where the index belongs: derived data that may be deleted at any time. It is trusted
// for speed and for nothing else.
func (v *Volume) IndexPath() string { return filepath.Join(v.path, derivedDir, indexName) }

// PolicyPath is where a copy of the tenant's policy is left, for whoever adopts the dataset without the catalog.
func (v *Volume) PolicyPath() string { return filepath.Join(v.path, derivedDir, policyName) }

// PolicyCopy is PolicyPath, of the dataset in dir.
func PolicyCopy(dir string) string { return filepath.Join(dir, derivedDir, policyName) }

// BodiesPath is where, in the dataset in dir, the bodies of its snapshots are noted (package snapshot).
func BodiesPath(dir string) string { return filepath.Join(dir, derivedDir, bodiesName) }

// Untouched reports whether the volume in dir is as Create leaves it. Something that can not be read is not.
func Untouched(dir string) bool {
	v := &Volume{path: dir, dir: -1, store: -1, files: -1, staging: -1, scratch: -1, journal: -1}
	defer v.Close()
	var err error
	if v.dir, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil || v.checkFormat() != nil || v.makeDerived() != nil {
		return false
	}
	names, err := entries(v.dir)
	if err != nil || len(names) != len(subdirs)+2 { // format and derived/ besides
		return false
	}
	for _, sub := range append([]string{derivedDir}, subdirs[:]...) {
		fd, err := openat(v.dir, sub, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return false
		}
		names, err := entries(fd)
		unix.Close(fd)
		if err != nil || len(names) > 0 {
			return false
		}
	}
	return true
}

// entries are the names in an open directory; of one with many, some.
func entries(dir int) (names []string, err error) {
	for buf := make([]byte, 4096); len(names) < 100; {
		n, err := unix.ReadDirent(dir, buf)
		if n <= 0 || err != nil {
			return names, err
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
	return names, nil
}
