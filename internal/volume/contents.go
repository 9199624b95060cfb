package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// sealing stands in Volume.writers while Seal moves a content.
const sealing = -1

// storeName is a sealed content's name relative to store/.
func storeName(id journal.ID) string { return id.Shard() + "/" + id.String() }

// Stage makes a new, empty content: openat(staging, id, O_RDWR|O_CREAT|O_EXCL), fchmod. Its name is
// stable after the next Sync that includes it.
func (v *Volume) Stage(id journal.ID) (appendonly.Staged, error) {
	return v.openStaged("stage", id, unix.O_CREAT|unix.O_EXCL)
}

// Resume opens a staged content for more writing. What is sealed is not found, and what has a second link
// is published and refused (fs.ErrPermission).
func (v *Volume) Resume(id journal.ID) (appendonly.Staged, error) {
	return v.openStaged("resume", id, 0)
}

func (v *Volume) openStaged(op string, id journal.ID, flags int) (appendonly.Staged, error) {
	if err := v.enter(); err != nil {
		return nil, fail(op, id.String(), err)
	}
	defer v.leave()
	if !v.addWriter(id) {
		return nil, fail(op, id.String(), fs.ErrNotExist)
	}
	fd, err := openat(v.staging, id.String(), unix.O_RDWR|flags, fileMode)
	if err == nil {
		if flags&unix.O_CREAT != 0 {
			err = setMode(fd, fileMode)
		} else {
			var st unix.Stat_t
			if st, err = statRegular(fd); err == nil && st.Nlink != 1 {
				err = fmt.Errorf("content has a name already: %w", fs.ErrPermission)
			}
		}
		if err != nil {
			unix.Close(fd)
		}
	}
	if err != nil {
		v.removeWriter(id)
		return nil, fail(op, id.String(), err)
	}
	return &staged{v: v, id: id, f: os.NewFile(uintptr(fd), id.String())}, nil
}

// setMode sets the mode of a file that was just made with it: the umask and default ACLs have no say. Asking whether they
// had is cheaper than changing the inode again.
func setMode(fd int, mode uint32) error {
	st, err := statRegular(fd)
	if err != nil || st.Mode&0o7777 == mode {
		return err
	}
	return unix.Fchmod(fd, mode)
}

// errNotRegular is found where somebody else than vaultd wrote to the dataset.
var errNotRegular = errors.New("content is not a regular file")

func statRegular(fd int) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return st, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return st, errNotRegular
	}
	return st, nil
}

// addWriter counts a handle that can write to id; it is false while id is being sealed.
func (v *Volume) addWriter(id journal.ID) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writers[id] == sealing {
		return false
	}
	v.writers[id]++
	return true
}

func (v *Volume) removeWriter(id journal.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.writers[id]--; v.writers[id] == 0 {
		delete(v.writers, id)
	}
}

// Open opens a content, staged or sealed, for reading. It costs a descriptor and nothing else.
func (v *Volume) Open(id journal.ID) (appendonly.Content, error) {
	if err := v.enter(); err != nil {
		return nil, fail("open", id.String(), err)
	}
	defer v.leave()
	fd, err := v.openContent(id)
	if err != nil {
		return nil, fail("open", id.String(), err)
	}
	st, err := statRegular(fd)
	if err == nil {
		err = unix.SetNonblock(fd, false) // so that the runtime does not try to poll it
	}
	if err != nil {
		unix.Close(fd)
		return nil, fail("open", id.String(), err)
	}
	return &content{f: os.NewFile(uintptr(fd), id.String()), size: st.Size}, nil
}

// openContent opens id read-only and without waiting (for the other end of a planted fifo). Most contents that are read
// are in the store; one that is in neither place has moved there between the two looks, or does not exist.
func (v *Volume) openContent(id journal.ID) (int, error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK
	fd, err := openat(v.store, storeName(id), flags, 0)
	if err == unix.ENOENT {
		fd, err = openat(v.staging, id.String(), flags, 0)
	}
	if err == unix.ENOENT {
		fd, err = openat(v.store, storeName(id), flags, 0)
	}
	return fd, err
}

// Inode returns the inode number of a content, staged or sealed: what TreeEntry.Inode of each of its
// names is.
func (v *Volume) Inode(id journal.ID) (uint64, error) {
	if err := v.enter(); err != nil {
		return 0, fail("stat", id.String(), err)
	}
	defer v.leave()
	st, err := v.statContent(id)
	return st.Ino, fail("stat", id.String(), err)
}

// Staged lists what is staged. Names in staging/ that are not ids are passed over.
func (v *Volume) Staged() (map[journal.ID]uint64, error) {
	if err := v.enter(); err != nil {
		return nil, fail("list staged", "", err)
	}
	defer v.leave()
	list, err := readDirAt(v.staging)
	if err != nil {
		return nil, fail("list staged", "", err)
	}
	ids := make(map[journal.ID]uint64)
	for _, e := range list {
		if id, err := journal.ParseID(e.Name); err == nil && id.String() == e.Name {
			ids[id] = e.Inode
		}
	}
	return ids, nil
}

func (v *Volume) statContent(id journal.ID) (unix.Stat_t, error) {
	var st unix.Stat_t
	err := unix.Fstatat(v.staging, id.String(), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		err = unix.Fstatat(v.store, storeName(id), &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	return st, err
}

// errWriters is a bug of the caller: sealing would leave somebody who can still write to the content.
var errWriters = errors.New("internal error: content is still open for writing")

// Seal moves a content that the caller has synced into the store:
//
//	unless SetMeta did it: utimensat(staging, id); with metadata: openat, fsetxattr…, close;
//	renameat2(staging, id, store, xx/id, RENAME_NOREPLACE); on ENOENT mkdirat(store, xx), and again
//
// What is sealed already only gets its times and attributes once more, in place and without being opened
// for writing. Seal is not itself durable and need not be: on disk the content is in the one place or in
// the other, and both are looked into. Extended attributes are best effort (see dress).
func (v *Volume) Seal(id journal.ID, kind journal.Kind, m journal.Meta) error {
	if err := v.enter(); err != nil {
		return fail("seal", id.String(), err)
	}
	defer v.leave()
	v.mu.Lock()
	n := v.writers[id]
	if n == 0 {
		v.writers[id] = sealing
	}
	had, dressed := v.dressed[id]
	delete(v.dressed, id)
	v.mu.Unlock()
	if n > 0 {
		return fail("seal", id.String(), errWriters)
	}
	if n == 0 { // else another Seal of this id is under way; the kernel lets one of them win
		defer func() {
			v.mu.Lock()
			delete(v.writers, id)
			v.mu.Unlock()
		}()
	}
	var err error
	if !had.whole || had.kind != kind || !had.meta.Equal(m) {
		err = v.dress(v.staging, id.String(), kind, m, !dressed)
	}
	return fail("seal", id.String(), v.seal(id, kind, m, err))
}

// seal moves a content that was dressed in staging, where err is how that went.
func (v *Volume) seal(id journal.ID, kind journal.Kind, m journal.Meta, err error) error {
	if err == nil {
		err = v.moveNew(v.staging, id.String(), v.store, storeName(id))
	}
	if err == unix.ENOENT { // sealed already, or its shard is missing, or there is no such content
		if err = v.dress(v.store, storeName(id), kind, m, false); err != unix.ENOENT {
			return err
		}
		if err = v.makeShard(id.Shard()); err == nil {
			err = v.moveNew(v.staging, id.String(), v.store, storeName(id))
		}
	}
	if err != unix.EEXIST {
		return err
	}
	// Both names exist: a crash in the two-step form of moveNew, or an id used twice.
	var staged, sealed unix.Stat_t
	if err := unix.Fstatat(v.staging, id.String(), &staged, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if err := unix.Fstatat(v.store, storeName(id), &sealed, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if staged.Ino != sealed.Ino {
		return fmt.Errorf("another content is sealed under this id: %w", fs.ErrExist)
	}
	return unix.Unlinkat(v.staging, id.String(), 0)
}

func (v *Volume) makeShard(name string) error {
	if err := unix.Mkdirat(v.store, name, dirMode); err != nil {
		if err == unix.EEXIST {
			return nil
		}
		return err
	}
	fd, err := openat(v.store, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, dirMode)
}

// Discard removes a staged content: unlinkat(staging, id). What is sealed is not there and stays.
func (v *Volume) Discard(id journal.ID) error {
	if err := v.enter(); err != nil {
		return fail("discard", id.String(), err)
	}
	defer v.leave()
	v.mu.Lock()
	delete(v.dressed, id)
	v.mu.Unlock()
	err := retry(func() error { return unix.Unlinkat(v.staging, id.String(), 0) })
	if err == unix.ENOENT {
		err = nil
	}
	return fail("discard", id.String(), err)
}
