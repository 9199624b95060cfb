package volumetest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"slices"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

var _ appendonly.Volume = (*Memory)(nil)

// MaxFile is the largest content in bytes; beyond, Memory answers fs.ErrInvalid as a file system does.
const MaxFile = 1 << 28

// Stage makes a content.
func (m *Memory) Stage(id journal.ID) (appendonly.Staged, error) {
	var s appendonly.Staged
	err := m.do("Stage", id.String(), func() error {
		if m.used[id] {
			m.tb.Errorf("volumetest: id %s is used again", id)
			return fs.ErrExist
		}
		m.used[id] = true
		n := &inode{num: m.number(), writers: 1}
		m.staging[id] = n
		s = &staged{m: m, id: id, n: n}
		return nil
	})
	return give(s, err)
}

// give returns no handle beside an injected error; what was done stays done.
func give(s appendonly.Staged, err error) (appendonly.Staged, error) {
	if err == nil {
		return s, nil
	}
	if s, ok := s.(*staged); ok {
		s.m.mu.Lock()
		s.release()
		s.m.mu.Unlock()
	}
	return nil, err
}

// Resume opens a staged content.
func (m *Memory) Resume(id journal.ID) (appendonly.Staged, error) {
	var s appendonly.Staged
	err := m.do("Resume", id.String(), func() error {
		n := m.staging[id]
		switch {
		case n == nil:
			return fs.ErrNotExist
		case n.links > 0:
			return fs.ErrPermission // it is published
		}
		n.writers++
		s = &staged{m: m, id: id, n: n}
		return nil
	})
	return give(s, err)
}

// Open opens a content for reading.
func (m *Memory) Open(id journal.ID) (appendonly.Content, error) {
	var c *content
	err := m.do("Open", id.String(), func() error {
		n := m.find(id)
		if n == nil {
			return fs.ErrNotExist
		}
		c = &content{m: m, id: id, n: n, size: int64(len(n.data))}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Seal moves a content to the store.
func (m *Memory) Seal(id journal.ID, _ journal.Kind, _ journal.Meta) error {
	return m.do("Seal", id.String(), func() error {
		n := m.staging[id]
		switch {
		case n == nil && m.store[id] != nil:
			return nil
		case n == nil:
			return fs.ErrNotExist
		case n.writers > 0:
			m.tb.Errorf("volumetest: content %s is sealed while it is open for writing (P1)", id)
			return errors.New("content is still open for writing")
		case !n.stable || len(n.changes) > 0:
			m.tb.Errorf("volumetest: content %s is sealed before it was synced (P4)", id)
		}
		delete(m.staging, id)
		m.store[id] = n
		bytes := string(n.data)
		n.sealed = &bytes
		return nil
	})
}

// Discard removes a staged content.
func (m *Memory) Discard(id journal.ID) error {
	return m.do("Discard", id.String(), func() error {
		if n := m.staging[id]; n != nil {
			delete(m.staging, id)
			m.discarded[id] = n
			n.gone = true
		}
		return nil
	})
}

// Staged lists what is staged.
func (m *Memory) Staged() (map[journal.ID]uint64, error) {
	ids := make(map[journal.ID]uint64)
	err := m.do("Staged", "", func() error {
		for id, n := range m.staging {
			ids[id] = n.num
		}
		return nil
	})
	return ids, err
}

// Inode returns a content's inode number.
func (m *Memory) Inode(id journal.ID) (uint64, error) {
	var num uint64
	err := m.do("Inode", id.String(), func() error {
		n := m.find(id)
		if n == nil {
			return fs.ErrNotExist
		}
		num = n.num
		return nil
	})
	return num, err
}

// staged is a handle for writing.
type staged struct {
	m      *Memory
	id     journal.ID
	n      *inode
	closed bool
}

// release gives the handle back. The caller holds mu.
func (s *staged) release() {
	if !s.closed {
		s.closed = true
		s.n.writers--
	}
}

// change applies c after the checks that all writing shares. The caller holds mu.
func (s *staged) change(c change, end int64) error {
	switch {
	case s.closed:
		return fs.ErrClosed
	case c.off < 0 || end < c.off || end > MaxFile:
		return fs.ErrInvalid
	case s.n.sealed != nil:
		s.m.tb.Errorf("volumetest: sealed content %s is written to (P1)", s.id)
		return fs.ErrPermission
	case s.n.links > 0:
		s.m.tb.Errorf("volumetest: content %s is written to while it has a name", s.id)
		return fs.ErrPermission
	}
	s.n.data = c.apply(s.n.data)
	s.n.changes = append(s.n.changes, c)
	return nil
}

func end(off, n int64) int64 {
	if off > math.MaxInt64-n {
		return -1
	}
	return off + n
}

func (s *staged) WriteAt(p []byte, off int64) (int, error) {
	err := s.m.do("WriteAt", s.id.String(), func() error {
		if len(p) == 0 {
			return nil
		}
		return s.change(change{off, slices.Clone(p)}, end(off, int64(len(p))))
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

func (s *staged) Truncate(size int64) error {
	return s.m.do("Truncate", s.id.String(), func() error { return s.change(change{off: size}, size) })
}

func (s *staged) CopyFrom(src appendonly.Content, srcOff, dstOff, n int64) error {
	if srcOff < 0 || dstOff < 0 || n < 0 || srcOff > src.Size()-n {
		return fmt.Errorf("copy %s: %w", s.id, fs.ErrInvalid)
	}
	if c, ok := src.(*content); ok && c.n == s.n && srcOff < dstOff+n && dstOff < srcOff+n {
		return fmt.Errorf("copy %s: %w", s.id, fs.ErrInvalid)
	}
	buf := make([]byte, n)
	if _, err := src.ReadAt(buf, srcOff); err != nil && err != io.EOF {
		return err
	}
	return s.m.do("CopyFrom", s.id.String(), func() error {
		if n == 0 {
			return nil
		}
		return s.change(change{dstOff, buf}, end(dstOff, n))
	})
}

func (s *staged) ReadAt(p []byte, off int64) (int, error) { return s.m.readAt(s.id, s.n, p, off) }

func (s *staged) Size() (int64, error) {
	var size int64
	err := s.m.do("Size", s.id.String(), func() error { size = int64(len(s.n.data)); return nil })
	return size, err
}

// SetMeta does nothing: Memory has no attributes.
func (s *staged) SetMeta(journal.Kind, journal.Meta) {}

func (s *staged) Close() error {
	return s.m.do("CloseStaged", s.id.String(), func() error {
		if s.closed {
			return fs.ErrClosed
		}
		s.release()
		return nil
	})
}

// content is a handle for reading.
type content struct {
	m    *Memory
	id   journal.ID
	n    *inode
	size int64
}

func (c *content) ReadAt(p []byte, off int64) (int, error) { return c.m.readAt(c.id, c.n, p, off) }
func (c *content) Size() int64                             { return c.size }

func (c *content) Close() error {
	return c.m.do("CloseContent", c.id.String(), func() error { return nil })
}

func (m *Memory) readAt(id journal.ID, from *inode, p []byte, off int64) (n int, err error) {
	var eof bool
	err = m.do("ReadAt", id.String(), func() error {
		if off < 0 {
			return fs.ErrInvalid
		}
		if off < int64(len(from.data)) {
			n = copy(p, from.data[off:])
		}
		eof = n < len(p)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if eof {
		err = io.EOF
	}
	return n, err
}
