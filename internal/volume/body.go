package volume

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/snapshot"
)

// bodiesDir is where ZFS shows a dataset's snapshots, hidden from listings. Each is mounted when it is first entered.
var bodiesDir = [...]string{".zfs", "snapshot"}

// maxAttrs bounds what is read of one file's extended attributes: their number, and their bytes.
const (
	maxAttrs     = 512
	maxAttrBytes = 256 << 10
)

// unseen is set once a body was mounted where this process can not see it.
var unseen atomic.Bool

var errUnseen = errors.New("the host's mounts do not come into this process's mount namespace (of a unit: MountFlags=private)") // no errno, or classify would leave only that

// Body is the volume as a snapshot of its file system has it: read-only, whatever is done to it.
type Body struct{ v *Volume }

var _ appendonly.Bodies = (*Volume)(nil)
var _ appendonly.Body = (*Body)(nil)

// OpenBody opens what the file system keeps of the snapshot called name:
//
//	openat .zfs, openat snapshot, openat vaultd-<name> (O_DIRECTORY|O_NOFOLLOW, each below the one before)
//
// The last one mounts it. ELOOP means that the mount took place where this process can not see it; then no other is tried: ZFS does not know of such a
// mount, so it never ends by itself, and the snapshot can not be destroyed until somebody unmounts it. Below a body no symlink is followed, as in the volume.
func (v *Volume) OpenBody(name string) (appendonly.Body, error) {
	const op = "open body"
	if err := v.enter(); err != nil {
		return nil, fail(op, name, err)
	}
	defer v.leave()
	body := snapshot.BodyName(name)
	if len(body) > maxName || strings.ContainsAny(name, "/\x00") {
		return nil, fail(op, name, fs.ErrInvalid)
	}
	at := v.dir
	for _, step := range bodiesDir {
		fd, err := openat(at, step, unix.O_PATH|unix.O_DIRECTORY, 0)
		if at != v.dir {
			unix.Close(at)
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = appendonly.ErrNoBodies
		}
		if err != nil {
			return nil, fail(op, name, err)
		}
		at = fd
	}
	if unseen.Load() {
		unix.Close(at)
		return nil, fail(op, name, errUnseen)
	}
	fd, err := openat(at, body, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	unix.Close(at)
	if err == unix.ELOOP {
		unseen.Store(true)
		err = errUnseen
	}
	if err != nil {
		return nil, fail(op, name, err)
	}
	b, err := openBody(fd, v.noOpenat2)
	return b, fail(op, name, err)
}

// openBody opens a volume that nobody writes to, in the directory fd, which it owns.
func openBody(fd int, noOpenat2 bool) (_ appendonly.Body, err error) {
	v := &Volume{dir: fd, store: -1, files: -1, staging: -1, scratch: -1, journal: -1, noOpenat2: noOpenat2}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	if err := v.checkFormat(); err != nil {
		return nil, notMissing(err)
	}
	for _, sub := range []struct {
		name string
		fd   *int
	}{{"store", &v.store}, {"files", &v.files}, {"staging", &v.staging}, {"journal", &v.journal}} {
		if *sub.fd, err = openat(v.dir, sub.name, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return nil, notMissing(err)
		}
	}
	return &Body{v}, nil
}

// notMissing keeps a part that is missing from being taken for a body that is.
func notMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("it is no volume")
	}
	return err
}

// Close closes the body's descriptors.
func (b *Body) Close() error { return b.v.Close() }

// Segments lists the journal's closed segments, and ReadSegment opens one.
func (b *Body) Segments() ([]string, error) { return b.v.Segments() }

// ReadSegment opens a closed segment: an *os.File.
func (b *Body) ReadSegment(name string) (io.ReadCloser, error) { return b.v.ReadSegment(name) }

// Inode returns the inode number of a content, staged or sealed then.
func (b *Body) Inode(id journal.ID) (uint64, error) { return b.v.Inode(id) }

// in checks dir and calls f with its descriptor.
func (b *Body) in(op, path, dir string, f func(fd int) error) error {
	v := b.v
	if err := v.enter(); err != nil {
		return fail(op, path, err)
	}
	defer v.leave()
	if dir != "" {
		if err := checkPath(dir); err != nil {
			return fail(op, path, err)
		}
	}
	d, _, err := v.parent(dir)
	if err != nil {
		return fail(op, path, err)
	}
	defer v.parents.release(d)
	return fail(op, path, f(d.fd))
}

// Each calls f with the names in dir as getdents64(2) gives them, until f returns false.
func (b *Body) Each(dir string, f func(name string) bool) error {
	return b.in("list", dir, dir, func(at int) error {
		fd, err := openat(at, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return eachName(fd, func(name string) bool { return dir == "" && name == swapName || f(name) })
	})
}

func eachName(fd int, f func(name string) bool) error {
	buf := make([]byte, 64<<10)
	for {
		var n int
		err := retry(func() (err error) { n, err = unix.ReadDirent(fd, buf); return err })
		if err != nil || n <= 0 {
			return err
		}
		for rest := buf[:n]; len(rest) >= 19; { // as in readDir
			reclen := int(binary.NativeEndian.Uint16(rest[16:]))
			if reclen < 19 || reclen > len(rest) {
				return unix.EIO
			}
			name, _, _ := strings.Cut(string(rest[19:reclen]), "\x00")
			rest = rest[reclen:]
			if name != "." && name != ".." && !f(name) {
				return nil
			}
		}
	}
}

// Look describes names of dir: fstatat; openat, flistxattr and fgetxattr for files; readlinkat for symlinks.
func (b *Body) Look(dir string, names []string) ([]appendonly.RawEntry, error) {
	out := make([]appendonly.RawEntry, len(names))
	err := b.in("look", dir, dir, func(at int) error {
		for i, name := range names {
			path := name
			if dir != "" {
				path = dir + "/" + name
			}
			if strings.Contains(name, "/") || checkPath(path) != nil {
				continue // what can be no name is not there
			}
			var err error
			if out[i], err = rawEntry(at, name); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// rawEntry describes one name; what is missing has no kind.
func rawEntry(at int, name string) (e appendonly.RawEntry, err error) {
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if err == unix.ENOENT {
			err = nil
		}
		return e, err
	}
	e.Kind, e.Inode, e.Meta = kindOf(st.Mode), st.Ino, journal.NoMeta()
	switch e.Kind {
	case journal.KindSymlink:
		buf := make([]byte, maxPath+1)
		n, err := unix.Readlinkat(at, name, buf)
		if err != nil {
			return e, err
		}
		e.Target = string(buf[:n])
	case journal.KindFile:
		e.Size = st.Size
		attrs, err := readAttrs(at, name)
		if err != nil {
			return e, err
		}
		e.Kind, e.Meta = fromFakeSuper(attrs)
		if e.Kind != journal.KindFile {
			e.Size = 0
		}
		e.Meta.MTime = journal.Unix(st.Mtim.Sec, uint32(st.Mtim.Nsec))
	}
	return e, nil
}

// readAttrs reads the user attributes of a file.
func readAttrs(at int, name string) (map[string][]byte, error) {
	fd, err := openat(at, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Flistxattr(fd, nil)
	if n <= 0 || err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	list := make([]byte, min(n, 64<<10))
	if n, err = unix.Flistxattr(fd, list); err != nil {
		return nil, err
	}
	attrs, size := map[string][]byte{}, 0
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		n, err := unix.Fgetxattr(fd, name, nil)
		if err != nil {
			return nil, err
		}
		if size += n; size > maxAttrBytes || len(attrs) == maxAttrs {
			break // more than the core lets anybody set
		}
		val := make([]byte, n)
		if n > 0 {
			if n, err = unix.Fgetxattr(fd, name, val); err != nil {
				return nil, err
			}
		}
		attrs[name] = val[:n]
	}
	return attrs, nil
}

// Open opens the file path for reading; anything else is fs.ErrNotExist.
func (b *Body) Open(path string) (c appendonly.Content, err error) {
	if err := checkPath(path); err != nil {
		return nil, fail("open", path, err)
	}
	dir, name := splitPath(path)
	err = b.in("open", path, dir, func(at int) error {
		fd, err := openat(at, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		st, err := statRegular(fd)
		if err == nil {
			err = unix.SetNonblock(fd, false)
		}
		if err != nil {
			unix.Close(fd)
			return err
		}
		c = &content{f: os.NewFile(uintptr(fd), name), size: st.Size}
		return nil
	})
	return c, err
}

// Carries returns what Seal leaves of m on disk.
func (b *Body) Carries(kind journal.Kind, m journal.Meta) journal.Meta {
	_, out := fromFakeSuper(fakeSuper(kind, m))
	out.MTime = m.MTime
	return out
}
