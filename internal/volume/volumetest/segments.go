package volumetest

import (
	"bytes"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"

	"vaultd/internal/journal"
)

var _ journal.Segments = (*Memory)(nil)

var segmentName = regexp.MustCompile(`^[0-9]{12}\.jsonl$`)

// openSegment is the bytes of the open segment. closed holds them from CloseSegment on.
type openSegment struct {
	data    []byte
	synced  []byte
	changes []change
	closed  bool
}

// OpenSegment opens the open segment.
func (m *Memory) OpenSegment() (journal.SegmentFile, error) {
	var f *segmentFile
	err := m.do("OpenSegment", "", func() error {
		if m.open == nil {
			m.open = new(openSegment)
		}
		f = &segmentFile{m: m, s: m.open}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return f, nil
}

// CloseSegment names the open segment.
func (m *Memory) CloseSegment(name string) error {
	return m.do("CloseSegment", name, func() error {
		switch {
		case !segmentName.MatchString(name):
			return fs.ErrInvalid
		case m.open == nil:
			return fs.ErrNotExist
		case m.segments[name] != nil:
			return fs.ErrExist
		}
		m.segments[name] = append([]byte{}, m.open.data...)
		m.open.closed = true
		m.open = nil
		return nil
	})
}

// Segments lists the closed segments.
func (m *Memory) Segments() ([]string, error) {
	var names []string
	err := m.do("Segments", "", func() error { names = slices.Sorted(maps.Keys(m.segments)); return nil })
	return names, err
}

// ReadSegment opens a closed segment.
func (m *Memory) ReadSegment(name string) (io.ReadCloser, error) {
	var b []byte
	err := m.do("ReadSegment", name, func() error {
		if !segmentName.MatchString(name) {
			return fs.ErrInvalid
		}
		if b = m.segments[name]; b == nil {
			return fs.ErrNotExist
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

// segmentFile is a handle of the open segment.
type segmentFile struct {
	m      *Memory
	s      *openSegment
	closed bool
}

func (f *segmentFile) change(op string, c func() change) error {
	return f.m.do(op, "", func() error {
		if f.closed {
			return fs.ErrClosed
		}
		if f.s.closed {
			f.m.tb.Errorf("volumetest: %s on a segment that is closed (P6)", op)
			return fs.ErrPermission
		}
		c := c()
		f.s.data = c.apply(f.s.data)
		f.s.changes = append(f.s.changes, c)
		return nil
	})
}

func (f *segmentFile) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	err := f.change("SegmentWrite", func() change { return change{int64(len(f.s.data)), slices.Clone(p)} })
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (f *segmentFile) Truncate(size int64) error {
	if size < 0 || size > MaxFile {
		return fs.ErrInvalid
	}
	return f.change("SegmentTruncate", func() change { return change{off: size} })
}

func (f *segmentFile) Sync() error {
	return f.m.do("SegmentSync", "", func() error {
		if f.closed {
			return fs.ErrClosed
		}
		f.s.synced, f.s.changes = slices.Clone(f.s.data), nil
		return nil
	})
}

func (f *segmentFile) ReadAt(p []byte, off int64) (int, error) {
	var n int
	err := f.m.do("SegmentReadAt", "", func() error {
		if f.closed {
			return fs.ErrClosed
		}
		if off < 0 {
			return fs.ErrInvalid
		}
		if off < int64(len(f.s.data)) {
			n = copy(p, f.s.data[off:])
		}
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *segmentFile) Size() (int64, error) {
	var n int64
	err := f.m.do("SegmentSize", "", func() error { n = int64(len(f.s.data)); return nil })
	return n, err
}

func (f *segmentFile) Close() error {
	return f.m.do("SegmentClose", "", func() error {
		if f.closed {
			return fs.ErrClosed
		}
		f.closed = true
		return nil
	})
}
