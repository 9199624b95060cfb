package volume

import (
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"vaultd/internal/journal"
)

// openSegment is the open segment's name in staging/: the only part of the journal that can be written.
const openSegment = "journal-open"

var _ journal.Segments = (*Volume)(nil)

// isSegment reports whether name is ^[0-9]{12}\.jsonl$.
func isSegment(name string) bool {
	if len(name) != 18 || name[12:] != ".jsonl" {
		return false
	}
	for _, c := range []byte(name[:12]) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

// OpenSegment opens the open segment for appending and makes it when it is missing; then its name
// is stable at return:
//
//	openat(staging, journal-open, O_RDWR|O_CREAT|O_APPEND), fchmod, fsync(staging)
func (v *Volume) OpenSegment() (journal.SegmentFile, error) {
	if err := v.enter(); err != nil {
		return nil, fail("open segment", "", err)
	}
	defer v.leave()
	v.segments.Lock()
	defer v.segments.Unlock()
	for {
		fd, err := openat(v.staging, openSegment, unix.O_RDWR|unix.O_APPEND, 0)
		if err == unix.ENOENT {
			fd, err = openat(v.staging, openSegment, unix.O_RDWR|unix.O_APPEND|unix.O_CREAT|unix.O_EXCL, fileMode)
			if err == nil {
				err = unix.Fchmod(fd, fileMode)
			}
			if err == nil {
				err = retry(func() error { return unix.Fsync(v.staging) })
			}
			if err == unix.EEXIST { // made by another process's reader
				continue
			}
		}
		if err != nil {
			return nil, fail("open segment", "", err)
		}
		f := os.NewFile(uintptr(fd), openSegment)
		closed, err := v.finishClose(fd)
		if err == nil && !closed {
			return &segment{f}, nil
		}
		f.Close()
		if err != nil {
			return nil, fail("open segment", "", err)
		}
	}
}

// finishClose removes the name journal-open when a crash left it beside the closed segment of the same
// inode: appending to it would change what is closed.
func (v *Volume) finishClose(fd int) (closed bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink == 1 {
		return false, err
	}
	list, err := v.segmentEntries()
	if err != nil {
		return false, err
	}
	for _, e := range list {
		if e.inode == st.Ino {
			return true, v.dropOpenSegment()
		}
	}
	return false, nil
}

// dropOpenSegment ends CloseSegment: fsync(journal), unlinkat(staging, journal-open), fsync(staging).
func (v *Volume) dropOpenSegment() error {
	if err := retry(func() error { return unix.Fsync(v.journal) }); err != nil {
		return err
	}
	if err := unix.Unlinkat(v.staging, openSegment, 0); err != nil && err != unix.ENOENT {
		return err
	}
	return retry(func() error { return unix.Fsync(v.staging) })
}

// CloseSegment gives the open segment its name for ever. At return bytes and name are stable:
//
//	openat(staging, journal-open), fsync, close; linkat(staging, journal-open, journal, name);
//	fsync(journal); unlinkat(staging, journal-open); fsync(staging)
//
// link(2) refuses a taken name; the closed name is stable before the open one goes, and OpenSegment
// understands what a crash in between leaves.
func (v *Volume) CloseSegment(name string) error {
	if err := v.enter(); err != nil {
		return fail("close segment", name, err)
	}
	defer v.leave()
	if !isSegment(name) {
		return fail("close segment", name, fs.ErrInvalid)
	}
	v.segments.Lock()
	defer v.segments.Unlock()
	if err := v.fsync(v.staging, openSegment); err != nil {
		return fail("close segment", name, err)
	}
	if err := unix.Linkat(v.staging, openSegment, v.journal, name, 0); err != nil {
		return fail("close segment", name, err)
	}
	return fail("close segment", name, v.dropOpenSegment())
}

// Segments lists the closed segments, sorted. Names of another form are not segments.
func (v *Volume) Segments() ([]string, error) {
	if err := v.enter(); err != nil {
		return nil, fail("list segments", "", err)
	}
	defer v.leave()
	list, err := v.segmentEntries()
	if err != nil {
		return nil, fail("list segments", "", err)
	}
	names := make([]string, 0, len(list))
	for _, e := range list {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return names, nil
}

type segmentEntry struct {
	name  string
	inode uint64
}

func (v *Volume) segmentEntries() ([]segmentEntry, error) {
	all, err := readDirAt(v.journal)
	if err != nil {
		return nil, err
	}
	var list []segmentEntry
	for _, e := range all {
		if isSegment(e.Name) {
			list = append(list, segmentEntry{e.Name, e.Inode})
		}
	}
	return list, nil
}

// ReadSegment opens a closed segment.
func (v *Volume) ReadSegment(name string) (io.ReadCloser, error) {
	if err := v.enter(); err != nil {
		return nil, fail("read segment", name, err)
	}
	defer v.leave()
	if !isSegment(name) {
		return nil, fail("read segment", name, fs.ErrInvalid)
	}
	fd, err := openat(v.journal, name, unix.O_RDONLY, 0)
	if err != nil {
		return nil, fail("read segment", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// segment is the open segment: an *os.File in append mode that knows its size.
type segment struct{ *os.File }

// Size returns the length in bytes.
func (s *segment) Size() (int64, error) {
	st, err := s.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}
