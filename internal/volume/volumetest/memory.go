// Package volumetest helps to test what stands on an appendonly.Volume: Suite and SegmentSuite say what
// every implementation must do, and Memory is an implementation that enforces the promises and forgets.
//
// Memory fails the test when its user breaks P1 or an ordering that durability rests on:
//
//   - an id is used twice;
//   - a content is written or cut after it was sealed, or after it was given a name (a visible file is
//     never torn: a rewrite is a new content);
//   - a content is sealed that has bytes not covered by a Sync, or while it is open for writing;
//   - at the end of the test, a content that was sealed is missing or has other bytes.
//
// Fault is asked before each operation, so that each step can be tried as "failed and nothing happened"
// and as "failed though it happened".
//
// Kill is kill -9: everything stays as the operating system has it. Crash is a power cut: what is surely
// on disk stays, and keep is asked about every other change since the volume was made or the last Crash,
// so that a random keep gives any order of persistence. Surely on disk are, and nothing else is:
//
//   - bytes, length and the staged name of the contents that a successful Sync was given;
//   - notes as they were at a successful Sync;
//   - bytes of the open segment as of a successful SegmentFile.Sync, and its name since OpenSegment;
//   - closed segments since CloseSegment returned.
//
// Never sure, however old: each change of a name in the tree (no call makes them stable; one keep per
// verb, kept ones apply to the directory they were made in, wherever that has moved), and whether a
// sealed or discarded content has left staging. Each write and truncation of a content since its Sync is kept or
// lost by itself. Each append to the segment is kept, lost (zeros, if a later one is kept), or torn
// at any byte. A note that is lost may be what it was, or empty if it was new.
//
// After Kill and Crash the old Memory answers fs.ErrClosed to everything, its handles too.
package volumetest

import (
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// Memory is an appendonly.Volume and journal.Segments in maps. It is safe for concurrent use.
type Memory struct {
	// Fault, when set, is called before each operation, with the interface's method name ("Stage",
	// "WriteAt", "SegmentSync", …) and an id, path or name. A non-nil err is what the operation returns;
	// it is carried out all the same when apply is true. It runs without locks, so it may call
	// Kill or Crash. Set it before the Memory is shared.
	Fault func(op, arg string) (apply bool, err error)
	// Disk is what Space returns.
	Disk appendonly.Space

	tb testing.TB

	mu sync.Mutex // guards what follows, and everything reachable from it
	state
}

// state is what Kill and Crash hand on.
type state struct {
	dead      bool
	numbers   uint64 // inode numbers given so far
	used      map[journal.ID]bool
	staging   map[journal.ID]*inode
	store     map[journal.ID]*inode
	discarded map[journal.ID]*inode // perhaps still in staging on disk
	root      *node
	disk      *node        // the tree as it was at the last Crash
	changes   []treeChange // lead from disk to root
	notes     map[appendonly.Area]map[string]*note
	open      *openSegment // nil when there is none
	segments  map[string][]byte
}

// inode is the bytes of one content.
type inode struct {
	num     uint64
	data    []byte
	synced  []byte   // as of the last Sync
	changes []change // since then
	stable  bool     // its staged name is on disk
	inStore bool     // and its name in the store is
	writers int      // open Staged handles
	links   int      // names in the tree
	gone    bool     // it is neither staged nor sealed: only names are left of it
	sealed  *string  // the bytes as they were sealed, once it is
}

// change is a write, or with nil data a truncation to off.
type change struct {
	off  int64
	data []byte
}

func (c change) apply(b []byte) []byte {
	if c.data == nil {
		return resize(b, c.off)
	}
	if end := c.off + int64(len(c.data)); end > int64(len(b)) {
		b = resize(b, end)
	}
	copy(b[c.off:], c.data)
	return b
}

func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

type note struct {
	data   []byte // nil when removed
	synced []byte // nil when not on disk
}

// New returns an empty volume. What it finds wrong is an error of tb, also at its end.
func New(tb testing.TB) *Memory {
	m := &Memory{
		Disk: appendonly.Space{Total: 1 << 40, Free: 1 << 39, TotalInodes: 1 << 30, FreeInodes: 1 << 29},
		tb:   tb,
		state: state{
			numbers: rootNum, used: make(map[journal.ID]bool),
			staging: make(map[journal.ID]*inode), store: make(map[journal.ID]*inode), discarded: make(map[journal.ID]*inode),
			root: newDir(rootNum), disk: newDir(rootNum),
			notes:    map[appendonly.Area]map[string]*note{appendonly.AreaStaging: {}, appendonly.AreaScratch: {}},
			segments: make(map[string][]byte),
		},
	}
	tb.Cleanup(m.Verify)
	return m
}

// Verify fails the test if a sealed content is not what was sealed. New, Kill and Crash arrange that it is
// called at the end of the test.
func (m *Memory) Verify() {
	m.tb.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return // its heir has the contents
	}
	for id, n := range m.store {
		if n.sealed == nil || string(n.data) != *n.sealed {
			m.tb.Errorf("volumetest: sealed content %s is not what was sealed (P1)", id)
		}
	}
}

// begin asks Fault and takes the lock. When run is false the operation returns err at once, and when it
// is true it returns err after having been carried out; only then mu is held and end must follow.
func (m *Memory) begin(op, arg string) (run bool, err error) {
	if m.Fault != nil {
		apply, ferr := m.Fault(op, arg)
		if ferr != nil && !apply {
			return false, ferr
		}
		err = ferr
	}
	m.mu.Lock()
	if m.dead {
		m.mu.Unlock()
		return false, &fs.PathError{Op: op, Path: arg, Err: fs.ErrClosed}
	}
	return true, err
}

// do runs f under the lock; a failure of f comes before an injected one.
func (m *Memory) do(op, arg string, f func() error) error {
	run, err := m.begin(op, arg)
	if !run {
		return err
	}
	defer m.mu.Unlock()
	if ferr := f(); ferr != nil {
		return &fs.PathError{Op: op, Path: arg, Err: ferr}
	}
	return err
}

func (m *Memory) number() uint64 {
	m.numbers++
	return m.numbers
}

func (m *Memory) find(id journal.ID) *inode {
	if n := m.staging[id]; n != nil {
		return n
	}
	return m.store[id]
}

// Sync makes contents and notes stable.
func (m *Memory) Sync(ids []journal.ID) error {
	return m.do("Sync", fmt.Sprint(len(ids)), func() error {
		for _, id := range ids {
			n := m.find(id)
			if n == nil {
				continue // discarded meanwhile
			}
			n.synced, n.changes, n.stable = slices.Clone(n.data), nil, true
		}
		for _, area := range m.notes {
			for name, n := range area {
				if n.synced = n.data; n.data == nil {
					delete(area, name)
				}
			}
		}
		return nil
	})
}

// Space returns Disk.
func (m *Memory) Space() (appendonly.Space, error) {
	var s appendonly.Space
	err := m.do("Space", "", func() error { s = m.Disk; return nil })
	return s, err
}

// PutNote keeps a copy of data.
func (m *Memory) PutNote(area appendonly.Area, name string, data []byte) error {
	return m.do("PutNote", name, func() error {
		if name == "" || len(name) > 250 {
			return fs.ErrInvalid
		}
		n := m.notes[area][name]
		if n == nil {
			n = new(note)
			m.notes[area][name] = n
		}
		n.data = append([]byte{}, data...)
		return nil
	})
}

// RemoveNote drops a note.
func (m *Memory) RemoveNote(area appendonly.Area, name string) error {
	return m.do("RemoveNote", name, func() error {
		if n := m.notes[area][name]; n != nil {
			if n.data = nil; n.synced == nil {
				delete(m.notes[area], name)
			}
		}
		return nil
	})
}

// Notes returns copies of all notes of an area.
func (m *Memory) Notes(area appendonly.Area) (map[string][]byte, error) {
	notes := make(map[string][]byte)
	err := m.do("Notes", "", func() error {
		for name, n := range m.notes[area] {
			if n.data != nil {
				notes[name] = slices.Clone(n.data)
			}
		}
		return nil
	})
	return notes, err
}
