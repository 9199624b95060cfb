package appendonly

import (
	"context"
	"io"
	"time"

	"vaultd/internal/journal"
)

// The journal's types that the verbs of FS speak of, so that protocol packages import only this one.
type (
	Kind = journal.Kind
	Meta = journal.Meta
	Time = journal.Time
	Seq  = journal.Seq
)

// The kinds, by the names that protocol packages use.
const (
	KindFile     = journal.KindFile
	KindDir      = journal.KindDir
	KindSymlink  = journal.KindSymlink
	KindFifo     = journal.KindFifo
	KindSocket   = journal.KindSocket
	KindCharDev  = journal.KindCharDev
	KindBlockDev = journal.KindBlockDev
	Unset        = journal.Unset
)

// NoMeta is a Meta with nothing set.
func NoMeta() Meta { return journal.NoMeta() }

// Unix is the time stamp of these seconds and nanoseconds since 1970; TimeAt converts.
func Unix(sec int64, nsec uint32) Time { return journal.Unix(sec, nsec) }

// TimeAt converts t.
func TimeAt(t time.Time) Time { return journal.At(t) }

// Who is behind a session: taken from the verified key, written to the journal with the first change.
type Who struct {
	Key         string // the key's id in the catalog; "operator" for the operator's own acts
	Fingerprint string // SHA256:...
	Role        Role
	Protocol    string // sftp, exec, ...
	Remote      string // address:port
	Session     string // the session's id in the logs
}

// Info describes one entry, live or at an instant.
type Info struct {
	Name     string // last element of the path asked for
	Kind     Kind
	Size     int64 // bytes of a file, length of a symlink's target, otherwise 0
	Meta           // Mode, UID, GID may be Unset; MTime is always set
	Nlink    int
	Target   string    // of a symlink
	From     Seq       // since when the name stands for this
	Received time.Time // server's clock at From
	Sealed   bool      // false for open and fresh uploads
}

// FS is one session's view of one tenant: the only way for a protocol to reach tenant data. Paths
// are what clients send: absolute or relative to the tenant's root, any bytes but NUL; "..", "." and
// doubled slashes are resolved lexically and can not leave the root. /.vault/snapshots/NAME,
// /.vault/at/TIME, /.vault/versions/PATH (short: /.snapshots, /.at, /.versions) are read-only views.
//
// Errors: *DeniedError (a refusal), *fs.PathError with the client's path and fs.ErrNotExist,
// fs.ErrExist or one of this package's causes, *quota.ExceededError, ErrReadOnly, ErrClosed.
// An FS may be used by many goroutines.
type FS struct{ v *Vault }

// Stat describes path without following a symlink at its end.
func (f *FS) Stat(path string) (Info, error) { panic("unwritten") }

// StatFollow describes what path leads to. Links are followed inside the tenant only.
func (f *FS) StatFollow(path string) (Info, error) { panic("unwritten") }

// Readlink returns the target of a symlink, as it was stored.
func (f *FS) Readlink(path string) (string, error) { panic("unwritten") }

// Resolve cleans path and follows links as far as it exists, as realpath does; the answer is absolute.
func (f *FS) Resolve(path string) (string, error) { panic("unwritten") }

// Open opens a file for reading, following links inside the tenant.
func (f *FS) Open(path string) (*File, error) { panic("unwritten") }

// File is a content open for reading, at one instant for ever.
type File struct{}

// ReadAt follows io.ReaderAt.
func (*File) ReadAt(p []byte, off int64) (int, error) { panic("unwritten") }

// Stat describes the file as it was opened.
func (*File) Stat() Info { panic("unwritten") }

// Close releases the file.
func (*File) Close() error { panic("unwritten") }

// OpenDir opens a directory for listing, following links.
func (f *FS) OpenDir(path string) (*Dir, error) { panic("unwritten") }

// Dir is an open directory.
type Dir struct{}

// Next returns up to n further entries, sorted by name bytes, without "." and ".."; at the end none and io.EOF.
func (*Dir) Next(n int) ([]Info, error) { return nil, io.EOF }

// Stat describes the directory itself.
func (*Dir) Stat() Info { panic("unwritten") }

// CreateOptions say how a name is opened for writing.
type CreateOptions struct {
	Create    bool // the name may be new; otherwise a missing one is fs.ErrNotExist
	Exclusive bool // the name must be new, else fs.ErrExist
	Truncate  bool // start empty; otherwise from what the name holds (or from an interrupted upload of this key)
	Append    bool // writes below the initial length are taken relative to it
	Read      bool // the upload will also be read
	Meta      Meta // as far as the client said
}

// Create opens path for writing. No name is claimed, nothing visible changes before Upload.Close.
func (f *FS) Create(path string, o CreateOptions) (*Upload, error) { panic("unwritten") }

// Upload is a content being written. Its methods may be called concurrently.
type Upload struct{}

// WriteAt follows io.WriterAt. Writes may arrive in any order.
func (*Upload) WriteAt(p []byte, off int64) (int, error) { panic("unwritten") }

// ReadAt reads what the file would hold if closed now. Keys that may not read get a refusal.
func (*Upload) ReadAt(p []byte, off int64) (int, error) { panic("unwritten") }

// Stat describes the upload as if closed now.
func (*Upload) Stat() (Info, error) { panic("unwritten") }

// Truncate sets the length.
func (*Upload) Truncate(size int64) error { panic("unwritten") }

// SetMeta changes what the file will be published with.
func (*Upload) SetMeta(m Meta) error { panic("unwritten") }

// CopyFrom copies n bytes of src (at srcOff) to dstOff, sharing blocks where the file system can.
func (*Upload) CopyFrom(src *File, srcOff, dstOff, n int64) error { panic("unwritten") }

// Close publishes: it claims the name, at once and for ever. On an error nothing became visible.
func (*Upload) Close() error { panic("unwritten") }

// Abort ends an upload whose client is gone: what arrived is kept for the resume window.
func (*Upload) Abort() { panic("unwritten") }

// Discard ends an upload that its client gave up: what arrived is dropped.
func (*Upload) Discard() { panic("unwritten") }

// Mkdir makes a directory.
func (f *FS) Mkdir(path string, m Meta) error { panic("unwritten") }

// Symlink makes a link. The target is stored as it is.
func (f *FS) Symlink(target, path string, m Meta) error { panic("unwritten") }

// Link gives the file at old the further name path.
func (f *FS) Link(old, path string) error { panic("unwritten") }

// Mknod stores a fifo, socket or device as metadata on an empty content.
func (f *FS) Mknod(path string, k Kind, m Meta) error { panic("unwritten") }

// Remove drops a name that is not a directory's: an own unfinished upload, a scratch file, or (versioned) a live name.
func (f *FS) Remove(path string) error { panic("unwritten") }

// Rmdir drops an empty directory.
func (f *FS) Rmdir(path string) error { panic("unwritten") }

// Rename moves a name. With replace, an existing target is overwritten as Create would; without, it is fs.ErrExist.
func (f *FS) Rename(from, to string, replace bool) error { panic("unwritten") }

// SetMeta changes mode, owner, times or attributes of a name: those of m that are set. follow: through a symlink at its end.
func (f *FS) SetMeta(path string, m Meta, follow bool) error { panic("unwritten") }

// Truncate changes a length by path (SETSTAT size): an open with writing, a truncation and a close in one.
func (f *FS) Truncate(path string, size int64) error { panic("unwritten") }

// Hash computes a digest of a file's content with h. A push key may ask for what it made itself.
func (f *FS) Hash(path string, h io.Writer) error { panic("unwritten") }

// Replace stores a new generation of a file that a protocol manages itself (a borg config). Earlier ones stay.
func (f *FS) Replace(path string, data []byte, m Meta) error { panic("unwritten") }

// Version is one thing that a name stood for.
type Version struct {
	Info
	To     Seq       // instant from which it did not any more; Now while live
	Gone   time.Time // server's clock at To; zero while live
	SHA256 string    // hex; empty for what has no content or no hash yet
	Key    string    // who made it
}

// Versions lists what path stood for, newest first.
func (f *FS) Versions(path string) ([]Version, error) { panic("unwritten") }

// SnapshotInfo is a name for an instant.
type SnapshotInfo struct {
	Name string
	At   Seq
	Time time.Time
	Kind string // push, manual, or the schedule that made it
}

// Snapshots lists the tenant's snapshots, oldest first.
func (f *FS) Snapshots() ([]SnapshotInfo, error) { panic("unwritten") }

// Usage is the tenant's account, in bytes and counts.
type Usage struct {
	Live, Versions, Staging, Journal int64 // bytes charged
	Files                            int64 // live files
	Limit                            int64 // hard limit in bytes; 0 is none
	FilesLimit                       int64 // 0 is none
}

// Used is what is charged against Limit.
func (u Usage) Used() int64 { return u.Live + u.Versions + u.Staging + u.Journal }

// Usage returns the tenant's account.
func (f *FS) Usage() Usage { panic("unwritten") }

// Statfs returns the tenant's own numbers: its limit, or what the disk has where that is less.
func (f *FS) Statfs() (Space, error) { panic("unwritten") }

// Barrier returns once everything that this tenant wrote before the call is on stable storage (P4).
func (f *FS) Barrier(ctx context.Context) error { panic("unwritten") }

// Close ends the session: open uploads are aborted, a barrier is made, and a push that changed
// something gets its snapshot. The exit status must be sent after it.
func (f *FS) Close(ctx context.Context) error { panic("unwritten") }

// Who returns the session's identity.
func (f *FS) Who() Who { panic("unwritten") }

// Vault is one tenant's core: its namespace, journal and volume.
type Vault struct{}
