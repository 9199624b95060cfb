package journal

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"slices"
)

// ClosedSegments is the part of Segments that reads what is closed.
type ClosedSegments interface {
	Segments() ([]string, error)
	ReadSegment(name string) (io.ReadCloser, error)
}

const (
	tailBytes    = 256 << 10 // how much of a segment's end is looked at
	tailSegments = 8         // and how many segments
)

// SnapshotAtEnd returns the record of the snapshot called name, if nothing changed in the closed segments after it; otherwise
// fs.ErrNotExist. It looks at the ends of the newest segments only, and proves no chain: it is for a journal that nobody can write, such as
// that in a file system's snapshot, to tell of which instant it is.
func SnapshotAtEnd(segs ClosedSegments, name string) (*Record, error) {
	names, err := segs.Segments()
	if err != nil {
		return nil, fmt.Errorf("list journal: %w", err)
	}
	slices.Reverse(names)
	for _, n := range names[:min(len(names), tailSegments)] {
		lines, whole, err := lastLines(segs, n)
		if err != nil {
			return nil, fmt.Errorf("read journal segment %s: %w", n, err)
		}
		for _, b := range slices.Backward(lines) {
			r, err := unprovenLine(b)
			if err != nil {
				return nil, fmt.Errorf("read journal segment %s: %w", n, err)
			}
			if r.Op == OpSnapshot && r.Note == name {
				return r, nil
			}
			if !r.still() {
				return nil, fs.ErrNotExist
			}
		}
		if !whole {
			break
		}
	}
	return nil, fs.ErrNotExist
}

// still reports whether a record changes nothing that a view of the past shows.
func (r *Record) still() bool {
	switch r.Op {
	case OpSegment, OpBarrier, OpSnapshot, OpSession, OpHash, OpEpoch, OpPolicy, OpFree, OpDamage:
		return true
	}
	return false
}

// lastLines returns the last lines of a segment, and whether they are all.
func lastLines(segs ClosedSegments, name string) (lines [][]byte, whole bool, err error) {
	rc, err := segs.ReadSegment(name)
	if err != nil {
		return nil, false, err
	}
	defer rc.Close()
	whole = true
	if s, ok := rc.(io.Seeker); ok {
		size, err := s.Seek(0, io.SeekEnd)
		if err == nil {
			whole = size <= tailBytes
			_, err = s.Seek(max(size-tailBytes, 0), io.SeekStart)
		}
		if err != nil {
			return nil, false, err
		}
	}
	b, err := io.ReadAll(rc)
	if err != nil {
		return nil, false, err
	}
	lines = bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))
	if !whole {
		lines = lines[1:] // of the first there is a part
	}
	return lines, whole, nil
}

// unprovenLine reads a line without the one before it: its chain is its own word.
func unprovenLine(b []byte) (*Record, error) {
	var l line
	if len(b) < chainLen || len(b) > maxLine {
		return nil, fmt.Errorf("%w: line of %d bytes", ErrCorrupt, len(b))
	}
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	r, err := l.record()
	if err == nil {
		err = r.Chain.parse(b[len(b)-chainLen:])
	}
	if err != nil {
		return nil, fmt.Errorf("%w: record %d: %w", ErrCorrupt, l.Seq, err)
	}
	return r, nil
}
