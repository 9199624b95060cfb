package volume

import (
	"cmp"
	"io"
	"io/fs"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// staged is an open content under staging/.
type staged struct {
	v      *Volume
	id     journal.ID
	f      *os.File
	closed atomic.Bool // its count in v.writers is given back
}

// checkRange refuses offsets and lengths that are negative or end above 2^63-1. They are the client's.
func checkRange(off, n int64) error {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return refused{unix.EINVAL}
	}
	return nil
}

// WriteAt writes all of p or fails; on failure the first n bytes are written. (os.File does not count
// those of a write that a full disk cut short.)
func (s *staged) WriteAt(p []byte, off int64) (n int, err error) {
	if err := checkRange(off, int64(len(p))); err != nil {
		return 0, fail("write", s.id.String(), err)
	}
	conn, err := s.f.SyscallConn()
	if err == nil {
		outer := conn.Control(func(fd uintptr) { n, err = pwrite(int(fd), p, off) })
		err = cmp.Or(outer, err)
	}
	return n, fail("write", s.id.String(), err)
}

func pwrite(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		var k int
		err := retry(func() (err error) { k, err = unix.Pwrite(fd, p[n:], off+int64(n)); return err })
		if err != nil {
			return n, err
		}
		if k == 0 {
			return n, io.ErrShortWrite
		}
		n += k
	}
	return n, nil
}

// ReadAt follows io.ReaderAt.
func (s *staged) ReadAt(p []byte, off int64) (int, error) { return readAt(s.f, p, off) }

// Truncate sets the length; what is new reads as zeros.
func (s *staged) Truncate(size int64) error {
	if err := checkRange(size, 0); err != nil {
		return fail("truncate", s.id.String(), err)
	}
	return fail("truncate", s.id.String(), s.f.Truncate(size))
}

func (s *staged) Size() (int64, error) {
	st, err := s.f.Stat()
	if err != nil {
		return 0, fail("stat", s.id.String(), err)
	}
	return st.Size(), nil
}

// SetMeta applies m by the open descriptor and notes that it did.
func (s *staged) SetMeta(kind journal.Kind, m journal.Meta) {
	conn, err := s.f.SyscallConn()
	if err == nil {
		outer := conn.Control(func(fd uintptr) { err = dressFile(int(fd), kind, m) })
		err = cmp.Or(outer, err)
	}
	s.v.mu.Lock()
	defer s.v.mu.Unlock()
	s.v.dressed[s.id] = dress{kind, m, err == nil}
}

func (s *staged) Close() error {
	err := s.f.Close()
	if s.closed.CompareAndSwap(false, true) {
		s.v.removeWriter(s.id)
	}
	return fail("close", s.id.String(), err)
}

// content is a content open for reading.
type content struct {
	f    *os.File
	size int64
}

func (c *content) ReadAt(p []byte, off int64) (int, error) { return readAt(c.f, p, off) }
func (c *content) Size() int64                             { return c.size }
func (c *content) Close() error                            { return fail("close", c.f.Name(), c.f.Close()) }

func readAt(f *os.File, p []byte, off int64) (int, error) {
	if err := checkRange(off, int64(len(p))); err != nil {
		return 0, fail("read", f.Name(), err)
	}
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		return n, io.EOF
	}
	return n, fail("read", f.Name(), err)
}

// CopyFrom shares blocks (FICLONERANGE) where the ranges are aligned and the file system can, lets the
// kernel copy (copy_file_range) where it can, and otherwise reads and writes. A range that is not in
// src, or that overlaps its target in the same content, is refused before anything is written.
func (s *staged) CopyFrom(src appendonly.Content, srcOff, dstOff, n int64) error {
	return fail("copy", s.id.String(), s.copyFrom(src, srcOff, dstOff, n))
}

func (s *staged) copyFrom(src appendonly.Content, srcOff, dstOff, n int64) error {
	if checkRange(srcOff, n) != nil || checkRange(dstOff, n) != nil || srcOff+n > src.Size() {
		return refused{unix.EINVAL}
	}
	if n == 0 {
		return nil
	}
	c, ok := src.(*content)
	if !ok {
		return s.copyBytes(src, srcOff, dstOff, n)
	}
	if srcOff < dstOff+n && dstOff < srcOff+n {
		a, err := s.f.Stat()
		if err != nil {
			return err
		}
		b, err := c.f.Stat()
		if err != nil {
			return err
		}
		if os.SameFile(a, b) {
			return refused{unix.EINVAL}
		}
	}
	if s.v.noCopy {
		return s.copyBytes(src, srcOff, dstOff, n)
	}
	done, err := s.clone(c, srcOff, dstOff, n)
	if done || err != nil {
		return err
	}
	copied, err := s.copyRange(c, srcOff, dstOff, n)
	if err != nil {
		return err
	}
	return s.copyBytes(src, srcOff+copied, dstOff+copied, n-copied)
}

// withFds calls f with the descriptors of two files, which can not be closed (and their numbers given
// to others) until it returns.
func withFds(src, dst *os.File, f func(src, dst int) error) error {
	a, err := src.SyscallConn()
	if err != nil {
		return err
	}
	b, err := dst.SyscallConn()
	if err != nil {
		return err
	}
	var inner, result error
	outer := a.Control(func(s uintptr) {
		inner = b.Control(func(d uintptr) { result = f(int(s), int(d)) })
	})
	return cmp.Or(outer, inner, result)
}

// cloneUnit is a multiple of no file system's block that matters and the block of most.
const cloneUnit = 4096

// clone is done when the whole range is shared. A file system that refuses for whatever reason but a
// full disk is answered by copying.
func (s *staged) clone(c *content, srcOff, dstOff, n int64) (done bool, err error) {
	if srcOff%cloneUnit != 0 || dstOff%cloneUnit != 0 || n%cloneUnit != 0 && srcOff+n != c.size {
		return false, nil
	}
	err = withFds(c.f, s.f, func(src, dst int) error {
		r := unix.FileCloneRange{Src_fd: int64(src), Src_offset: uint64(srcOff), Src_length: uint64(n), Dest_offset: uint64(dstOff)}
		return retry(func() error { return unix.IoctlFileCloneRange(dst, &r) })
	})
	if err == unix.ENOSPC || err == unix.EDQUOT || err == unix.EIO {
		return false, err
	}
	return err == nil, nil
}

// copyRange copies until the kernel will not; the rest is copyBytes's.
func (s *staged) copyRange(c *content, srcOff, dstOff, n int64) (copied int64, err error) {
	for copied < n {
		from, to := srcOff+copied, dstOff+copied
		var k int
		err := withFds(c.f, s.f, func(src, dst int) error {
			return retry(func() (err error) {
				k, err = unix.CopyFileRange(src, &from, dst, &to, int(min(n-copied, 1<<30)), 0)
				return err
			})
		})
		switch {
		case err == unix.ENOSYS, err == unix.EXDEV, err == unix.EOPNOTSUPP, err == unix.EINVAL, err == unix.EPERM:
			return copied, nil
		case err != nil:
			return copied, err
		case k <= 0:
			return copied, nil
		}
		copied += int64(k)
	}
	return copied, nil
}

func (s *staged) copyBytes(src appendonly.Content, srcOff, dstOff, n int64) error {
	if n == 0 {
		return nil
	}
	buf := make([]byte, min(n, 256<<10))
	for n > 0 {
		b := buf[:min(n, int64(len(buf)))]
		if k, err := src.ReadAt(b, srcOff); k < len(b) {
			if err == io.EOF { // cut since Open: only a staged content can be
				err = fs.ErrInvalid
			}
			return err
		}
		if _, err := s.WriteAt(b, dstOff); err != nil {
			return err
		}
		srcOff, dstOff, n = srcOff+int64(len(b)), dstOff+int64(len(b)), n-int64(len(b))
	}
	return nil
}
