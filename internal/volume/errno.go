package volume

import (
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// refused is an errno whose cause is the request (or a passing shortage) and not the disk: a name
// longer than this file system takes, an offset beyond its largest file, one hard link too many, no
// file descriptor left. It is fs.ErrInvalid, so that the core refuses the one request instead of
// taking the tenant out of service, and it is the errno too.
type refused struct{ errno unix.Errno }

func (e refused) Error() string        { return e.errno.Error() }
func (e refused) Unwrap() error        { return e.errno }
func (e refused) Is(target error) bool { return target == fs.ErrInvalid }

// classify turns a raw errno into refused where clients can provoke it. Everything else is left as it
// is: io/fs's own (ErrExist, ErrNotExist, ErrPermission), a full disk (ENOSPC, EDQUOT), a storage failure.
func classify(err error) error {
	var errno unix.Errno
	if !errors.As(err, &errno) {
		return err
	}
	switch errno {
	case unix.ENAMETOOLONG, unix.ENOTDIR, unix.EISDIR, unix.ELOOP, unix.EMLINK, unix.EINVAL, unix.EILSEQ, unix.EXDEV,
		unix.EFBIG, unix.EOVERFLOW, unix.EMFILE, unix.ENFILE, unix.ENOMEM:
		return refused{errno}
	}
	return err
}

// fail is the *fs.PathError of an operation on a name or content. It never holds a path of the server.
func fail(op, path string, err error) error {
	if err == nil {
		return nil
	}
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return &fs.PathError{Op: op, Path: path, Err: classify(err)}
}

// retry repeats f while a signal interrupts it, as package os does for its own calls.
func retry(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// openat is openat(2) that never follows a symlink at the end and never leaks into a child process.
func openat(dir int, name string, flags int, mode uint32) (int, error) {
	var fd int
	err := retry(func() (err error) {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	return fd, err
}
