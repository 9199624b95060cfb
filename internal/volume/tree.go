package volume

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// Link gives content id the name path:
//
//	linkat(staging, id, parent, name, 0), or where that says ENOENT linkat(store, xx/id, parent, name, 0)
//
// Staging first: contents move from there to the store and never back, so none is missed in between.
func (v *Volume) Link(id journal.ID, path string) error {
	if err := v.enter(); err != nil {
		return fail("link", path, err)
	}
	defer v.leave()
	v.tree.RLock()
	defer v.tree.RUnlock()
	return fail("link", path, v.inParent(path, func(dirfd int, name string) error { return v.linkTo(id, dirfd, name) }))
}

func (v *Volume) linkTo(id journal.ID, dirfd int, name string) error {
	err := unix.Linkat(v.staging, id.String(), dirfd, name, 0)
	if err == unix.ENOENT {
		err = unix.Linkat(v.store, storeName(id), dirfd, name, 0)
	}
	return err
}

// statDroppable looks at a name that is about to go, and refuses the only link of a regular file: its
// content would go with it, and contents are freed by expire and by nobody else. (Contents always have a
// link in staging or in the store; the caller serializes changes of names.)
func statDroppable(dirfd int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink == 1 {
		return fmt.Errorf("it is the only link of its content: %w", fs.ErrPermission)
	}
	return nil
}

// Relink lets the existing name path, not a directory, stand for content id:
//
//	fstatat(parent, name); linkat(content, files, .vault); renameat(files, .vault, parent, name);
//	unlinkat(files, .vault)
//
// The last one is not only for failures: rename(2) between two names of one inode does nothing and
// leaves both.
func (v *Volume) Relink(id journal.ID, path string) error {
	if err := v.enter(); err != nil {
		return fail("relink", path, err)
	}
	defer v.leave()
	v.tree.RLock()
	defer v.tree.RUnlock()
	v.relink.Lock()
	defer v.relink.Unlock()
	return fail("relink", path, v.inParent(path, func(dirfd int, name string) error {
		if err := statDroppable(dirfd, name); err != nil {
			return err
		}
		err := v.linkTo(id, v.files, swapName)
		if err == unix.EEXIST { // left by a crash
			if err = unix.Unlinkat(v.files, swapName, 0); err != nil {
				return err
			}
			err = v.linkTo(id, v.files, swapName)
		}
		if err != nil {
			return err
		}
		err = unix.Renameat(v.files, swapName, dirfd, name)
		if e := unix.Unlinkat(v.files, swapName, 0); err == nil && e != unix.ENOENT {
			err = e
		}
		return err
	}))
}

// Unlink drops a name that is not a directory's: fstatat(parent, name), unlinkat(parent, name, 0).
func (v *Volume) Unlink(path string) error {
	if err := v.enter(); err != nil {
		return fail("unlink", path, err)
	}
	defer v.leave()
	v.tree.RLock()
	defer v.tree.RUnlock()
	return fail("unlink", path, v.inParent(path, func(dirfd int, name string) error {
		if err := statDroppable(dirfd, name); err != nil {
			return err
		}
		return unix.Unlinkat(dirfd, name, 0)
	}))
}

// Mkdir makes a directory: mkdirat, and an open with fchmod for the fixed mode. That descriptor goes
// to the cache, as a new directory is what the next names are made in.
func (v *Volume) Mkdir(path string) error {
	if err := v.enter(); err != nil {
		return fail("mkdir", path, err)
	}
	defer v.leave()
	v.tree.RLock()
	defer v.tree.RUnlock()
	return fail("mkdir", path, v.inParent(path, func(dirfd int, name string) error {
		if err := unix.Mkdirat(dirfd, name, dirMode); err != nil {
			return err
		}
		fd, err := openat(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		if err := unix.Fchmod(fd, dirMode); err != nil {
			unix.Close(fd)
			return err
		}
		v.parents.release(v.parents.put(path, fd))
		return nil
	}))
}

// Symlink makes a symlink; its target is stored as it is and never looked at.
func (v *Volume) Symlink(target, path string) error {
	if err := v.enter(); err != nil {
		return fail("symlink", path, err)
	}
	defer v.leave()
	// The kernel's answer to an empty target is ENOENT, which would read as "no such parent".
	if target == "" || strings.IndexByte(target, 0) >= 0 {
		return fail("symlink", path, fs.ErrInvalid)
	}
	v.tree.RLock()
	defer v.tree.RUnlock()
	return fail("symlink", path, v.inParent(path, func(dirfd int, name string) error { return unix.Symlinkat(target, dirfd, name) }))
}

// Rmdir drops an empty directory's name.
func (v *Volume) Rmdir(path string) error {
	if err := v.enter(); err != nil {
		return fail("rmdir", path, err)
	}
	defer v.leave()
	v.tree.Lock()
	defer v.tree.Unlock()
	v.parents.forget(path)
	return fail("rmdir", path, v.inParent(path, func(dirfd int, name string) error {
		return unix.Unlinkat(dirfd, name, unix.AT_REMOVEDIR)
	}))
}

// Rename moves a directory or a symlink: renameat2 with RENAME_NOREPLACE. Where the file system lacks
// it, a directory is renamed after a look (the kernel itself still refuses to replace anything but an
// empty directory by one), and everything else is linked and unlinked.
func (v *Volume) Rename(from, to string) error {
	if err := v.enter(); err != nil {
		return fail("rename", from, err)
	}
	defer v.leave()
	v.tree.Lock()
	defer v.tree.Unlock()
	v.parents.forget(from)
	err := v.inParent(from, func(fromfd int, fromName string) error {
		return v.inParent(to, func(tofd int, toName string) error {
			var st unix.Stat_t
			if err := unix.Fstatat(fromfd, fromName, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return err
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				return v.moveDir(fromfd, fromName, tofd, toName)
			}
			return v.moveNew(fromfd, fromName, tofd, toName)
		})
	})
	return fail("rename", from, err)
}

// moveDir renames a directory to a name that is free. The caller holds tree exclusively.
func (v *Volume) moveDir(fromfd int, from string, tofd int, to string) error {
	if !v.noFlags.Load() {
		err := unix.Renameat2(fromfd, from, tofd, to, unix.RENAME_NOREPLACE)
		if err != unix.EINVAL && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
			return err
		}
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(tofd, to, &st, unix.AT_SYMLINK_NOFOLLOW); err {
	case nil:
		return unix.EEXIST
	case unix.ENOENT:
		return unix.Renameat(fromfd, from, tofd, to)
	default:
		return err
	}
}

// moveNew renames what is not a directory to a name that is free, decided by the kernel either way.
// After a crash in the second form both names may be there, of one inode.
func (v *Volume) moveNew(fromfd int, from string, tofd int, to string) error {
	if !v.noFlags.Load() {
		err := unix.Renameat2(fromfd, from, tofd, to, unix.RENAME_NOREPLACE)
		if err != unix.EINVAL && err != unix.ENOSYS && err != unix.EOPNOTSUPP {
			return err
		}
		v.noFlags.Store(true)
	}
	if err := unix.Linkat(fromfd, from, tofd, to, 0); err != nil {
		return err
	}
	return unix.Unlinkat(fromfd, from, 0)
}

// Entries lists a directory of the tree, unsorted, straight from getdents64(2): one call per few
// hundred names and no stat for each.
func (v *Volume) Entries(path string) ([]appendonly.TreeEntry, error) {
	if err := v.enter(); err != nil {
		return nil, fail("list", path, err)
	}
	defer v.leave()
	if path != "" {
		if err := checkPath(path); err != nil {
			return nil, fail("list", path, err)
		}
	}
	v.tree.RLock()
	defer v.tree.RUnlock()
	fd, err := v.openDir(path, unix.O_RDONLY)
	if err != nil {
		return nil, fail("list", path, err)
	}
	defer unix.Close(fd)
	list, err := readDir(fd)
	if err != nil {
		return nil, fail("list", path, err)
	}
	if path == "" {
		for i, e := range list {
			if e.Name == swapName {
				return append(list[:i], list[i+1:]...), nil
			}
		}
	}
	return list, nil
}

// readDirAt reads all of directory at through a descriptor of its own, whose position is its own too.
func readDirAt(at int) ([]appendonly.TreeEntry, error) {
	fd, err := openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readDir(fd)
}

// readDir reads all of directory fd, whose position is at the start.
func readDir(fd int) ([]appendonly.TreeEntry, error) {
	var list []appendonly.TreeEntry
	buf := make([]byte, 64<<10)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(fd, buf); return err })
		if err != nil || n <= 0 {
			return list, err
		}
		// struct linux_dirent64: ino u64, off u64, reclen u16, type u8, name with a NUL and padding.
		for rest := buf[:n]; len(rest) >= 19; {
			reclen := int(binary.NativeEndian.Uint16(rest[16:]))
			if reclen < 19 || reclen > len(rest) {
				return nil, unix.EIO
			}
			name, _, _ := strings.Cut(string(rest[19:reclen]), "\x00")
			e := appendonly.TreeEntry{Name: name, Inode: binary.NativeEndian.Uint64(rest), Kind: kindOf(uint32(rest[18]) << 12)}
			rest = rest[reclen:]
			if name == "." || name == ".." {
				continue
			}
			if e.Kind == journal.KindNone { // a file system that does not say
				var st unix.Stat_t
				if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
					return nil, err
				}
				e.Kind = kindOf(st.Mode)
			}
			list = append(list, e)
		}
	}
}

// kindOf translates the file type bits of st_mode; d_type is the same shifted by 12.
func kindOf(mode uint32) journal.Kind {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return journal.KindFile
	case unix.S_IFDIR:
		return journal.KindDir
	case unix.S_IFLNK:
		return journal.KindSymlink
	case unix.S_IFIFO:
		return journal.KindFifo
	case unix.S_IFSOCK:
		return journal.KindSocket
	case unix.S_IFCHR:
		return journal.KindCharDev
	case unix.S_IFBLK:
		return journal.KindBlockDev
	}
	return journal.KindNone
}
