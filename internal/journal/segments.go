package journal

import "io"

// Segments stores a journal's bytes: closed segments, which nobody changes again, and the open one.
// volume.Volume and volumetest.Memory implement it.
type Segments interface {
	// OpenSegment opens the open segment for appending, and makes an empty one when there is none.
	OpenSegment() (SegmentFile, error)
	// CloseSegment makes the open segment stable and gives it its name for ever; it fails with
	// fs.ErrExist when the name is taken. Every SegmentFile of it is closed before.
	CloseSegment(name string) error
	// Segments lists the closed ones, sorted by name. Names are %012d.jsonl of the first record's Seq.
	Segments() ([]string, error)
	// ReadSegment opens a closed one.
	ReadSegment(name string) (io.ReadCloser, error)
}

// SegmentFile is the open segment.
type SegmentFile interface {
	io.Writer // appends
	io.ReaderAt
	Size() (int64, error)
	Truncate(size int64) error // the torn end of a crashed process
	Sync() error               // after an error the bytes' state is unknown: do not retry
	Close() error
}
