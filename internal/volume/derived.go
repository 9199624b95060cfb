package volume

import (
	"os"
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
	v, err := Open(dir)
	if err != nil {
		return false
	}
	v.Close()
	for _, sub := range append([]string{derivedDir}, subdirs[:]...) {
		list, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil || len(list) > 0 {
			return false
		}
	}
	list, err := os.ReadDir(dir)
	return err == nil && len(list) == len(subdirs)+2 // format and derived/ besides
}
