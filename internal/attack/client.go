package attack

import (
	"errors"
	"time"
)

// Errors that adapters return, beside fs.ErrPermission, fs.ErrNotExist and the protocol's own.
var (
	// ErrUnsupported: the protocol can not say this. The case is not applicable.
	ErrUnsupported = errors.New("not applicable")
	// ErrLost: no answer came, or the connection ended. It is never a refusal: a request must not cost
	// the session.
	ErrLost = errors.New("connection lost")
)

// Flag is how a file is opened, with SFTP's bits (draft-ietf-secsh-filexfer-02 §6.3).
type Flag uint32

// The flags of Open.
const (
	Read Flag = 1 << iota
	Write
	Append
	Create
	Truncate
	Exclusive
)

// Attrs are attributes to set; what is nil stays.
type Attrs struct {
	Size         *uint64
	UID, GID     *uint32 // both or none
	Mode         *uint32 // permission bits
	ATime, MTime *uint32 // seconds since 1970; both or none
}

// Info is what a listing or a stat tells.
type Info struct {
	Name     string // as listed; empty from Stat
	Size     uint64
	Mode     uint32 // with the type bits of POSIX (0170000)
	UID, GID uint32
	MTime    time.Time // whole seconds
}

// IsRegular, IsDir and IsSymlink tell the kind.
func (i Info) IsRegular() bool { return i.Mode&0o170000 == 0o100000 }

// IsDir reports whether i is a directory.
func (i Info) IsDir() bool { return i.Mode&0o170000 == 0o040000 }

// IsSymlink reports whether i is a symbolic link.
func (i Info) IsSymlink() bool { return i.Mode&0o170000 == 0o120000 }

// Space is what statvfs tells, in bytes.
type Space struct{ Total, Free, Avail uint64 }

// Client is one key's session with one tenant. It is as wide as a file protocol is; what a protocol
// lacks returns ErrUnsupported. Paths go to the server as they are, whatever their bytes. Every
// method answers within the adapter's own time limit (ErrLost after it) and connects again when the
// connection was lost before. A Client is used by one goroutine at a time.
type Client interface {
	// Put stores a whole file as the protocol's usual client does: create or truncate, write, close.
	Put(path string, data []byte) error
	// Open opens with exactly these flags, and the attributes in the same request.
	Open(path string, f Flag, a Attrs) (Handle, error)
	// Read returns a file's bytes, following links, at most MaxRead of them.
	Read(path string) ([]byte, error)
	// List names a directory's entries, without "." and "..".
	List(path string) ([]Info, error)
	// Stat does not follow a link at the end; Follow does.
	Stat(path string) (Info, error)
	Follow(path string) (Info, error)
	Readlink(path string) (string, error)
	Setstat(path string, a Attrs) error
	Remove(path string) error
	Rmdir(path string) error
	Mkdir(path string) error
	// Rename must not replace; PosixRename does.
	Rename(from, to string) error
	PosixRename(from, to string) error
	Symlink(target, path string) error
	Link(old, path string) error
	Statvfs(path string) (Space, error)
	// Drop loses the connection without closing anything. The next call connects again.
	Drop() error
}

// Handle is an open file. Its methods may be called after Close and after Drop: they must fail then.
type Handle interface {
	WriteAt(p []byte, off uint64) error
	Setstat(a Attrs) error
	Stat() (Info, error)
	// CopyFrom copies n bytes of src, a handle of the same client, inside the server (0: to its end).
	CopyFrom(src Handle, srcOff, n, dstOff uint64) error
	Close() error
}

// MaxRead bounds what Client.Read returns.
const MaxRead = 64 << 20

func ptr[T any](v T) *T { return &v }

// size, mode, times and owner are Attrs with one thing set.
func size(n uint64) Attrs         { return Attrs{Size: &n} }
func mode(m uint32) Attrs         { return Attrs{Mode: &m} }
func times(sec uint32) Attrs      { return Attrs{ATime: &sec, MTime: &sec} }
func owner(uid, gid uint32) Attrs { return Attrs{UID: &uid, GID: &gid} }
