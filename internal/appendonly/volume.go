package appendonly

import (
	"io"

	"vaultd/internal/journal"
)

// Volume is what the core needs of one tenant's dataset. volume.Volume implements it on a
// directory, quota.Volume wraps one, volumetest.Memory is the fake that enforces P1 and forgets
// what was not synced. It is larger than our interfaces usually are because it is the whole of the
// disk: splitting it would only spread one contract over several comments.
//
// A content is staged (writable through the Staged that made it), then sealed (never writable
// again). Both are found under the same ID, and an ID is never used twice. Paths are relative to
// the live tree, cleaned, without a leading slash, "" for its root; no method follows a symlink in
// any component. All methods may be called concurrently, except that the caller serializes those
// that change names. An error that is not one of io/fs's (or a full disk's) is a storage failure.
type Volume interface {
	Contents
	Tree
	// Sync returns once the bytes of these staged contents, and every Note put before, are on stable
	// storage. After an error the state of all of them is unknown: do not retry.
	Sync(ids []journal.ID) error
	// Space returns the file system's size and what this process may still use of it.
	Space() (Space, error)
}

// Contents is the part of a Volume that holds bytes.
type Contents interface {
	// Stage makes a new, empty content.
	Stage(id journal.ID) (Staged, error)
	// Resume opens a staged content for more writing. An implementation refuses one that has a name in
	// the tree: it is published.
	Resume(id journal.ID) (Staged, error)
	// Open opens a content, staged or sealed, for reading.
	Open(id journal.ID) (Content, error)
	// Seal ends writing for ever: the content, already synced, moves from staging to the store. m is
	// applied to the file as far as the file system can carry it, so that a raw dataset restores with
	// plain rsync --fake-super. Sealing what is sealed applies m again and is no error.
	Seal(id journal.ID, kind journal.Kind, m journal.Meta) error
	// Discard removes a staged content and never a sealed one. Discarding what is missing is no error.
	Discard(id journal.ID) error
	// Staged lists the contents that are staged, and the inode number of each (as in TreeEntry).
	Staged() (map[journal.ID]uint64, error)
	// Inode returns the inode number of a content, staged or sealed.
	Inode(id journal.ID) (uint64, error)
	// PutNote and RemoveNote keep a small file beside a staged content (what its name is to be) or in
	// scratch/; Notes reads them all. They carry no promise.
	PutNote(area Area, name string, data []byte) error
	RemoveNote(area Area, name string) error
	Notes(area Area) (map[string][]byte, error)
}

// Area is a place for notes.
type Area uint8

// The areas.
const (
	AreaStaging Area = iota // sidecars of interrupted uploads
	AreaScratch             // repository locks
)

// Tree is the part of a Volume that holds names.
type Tree interface {
	// Link gives content id (staged or sealed) the name path. It fails with fs.ErrExist when the name
	// is taken, by anything, decided by the kernel and not by a look beforehand.
	Link(id journal.ID, path string) error
	// Relink lets the existing name path stand for content id; at no moment is the name missing.
	Relink(id journal.ID, path string) error
	// Unlink drops a name that is not a directory's. The content stays: an implementation refuses to
	// drop the only link of a regular file.
	Unlink(path string) error
	// Mkdir, Symlink fail with fs.ErrExist when the name is taken.
	Mkdir(path string) error
	Symlink(target, path string) error
	// Rmdir drops an empty directory's name.
	Rmdir(path string) error
	// Rename moves a directory or symlink; it fails with fs.ErrExist when to is taken.
	Rename(from, to string) error
	// Entries lists what a directory of the tree really holds: for reconciling after a crash.
	Entries(path string) ([]TreeEntry, error)
}

// TreeEntry is one name as the disk has it.
type TreeEntry struct {
	Name  string
	Kind  journal.Kind // file, dir or symlink; specials are files on disk
	Inode uint64       // from the directory entry; comparable with Contents.Inode
}

// Staged is a content that can still be written.
type Staged interface {
	io.WriterAt
	io.ReaderAt
	Truncate(size int64) error
	// CopyFrom copies n bytes at srcOff of src to dstOff here, sharing blocks where the file system can.
	CopyFrom(src Content, srcOff, dstOff, n int64) error
	Size() (int64, error)
	// SetMeta is what Seal does with m, ahead of it while the file is open: a Seal with the same has less to do.
	// It is best effort.
	SetMeta(kind journal.Kind, m journal.Meta)
	// Close ends this handle; the content stays staged.
	Close() error
}

// Content is a content open for reading.
type Content interface {
	io.ReaderAt
	Size() int64
	Close() error
}

// Space is what statfs says, in bytes and inodes.
type Space struct {
	Total, Free             uint64
	TotalInodes, FreeInodes uint64
}
