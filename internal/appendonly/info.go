package appendonly

import "time"

// Info describes one entry, live or at an instant.
type Info struct {
	Name     string // last element of the path asked for
	Kind     Kind
	Size     int64     // bytes of a file, length of a symlink's target, otherwise 0
	Meta               // Mode, UID, GID may be Unset; MTime is always set
	Nlink    int       // live names of a file; 1 in views
	Target   string    // of a symlink
	From     Seq       // since when the name stands for this
	Received time.Time // server's clock when the content was closed
	Sealed   bool      // false for unfinished and fresh uploads and for locks
	Content  ID        // of what has content; equal for the names of one file (hard links)
	Linked   bool      // the content has, or had, further names
}
