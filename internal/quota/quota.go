// Package quota bounds what a tenant can store.
//
// Volume decorates an appendonly.Volume: every byte that lengthens a staged content is reserved in the
// tenant's Account before it is written and given back if it was not. A staged content is charged by
// its highest end, at least MinCharge, so that neither empty nor sparse files are free. Once a content is
// published the journal's index counts it (Config.Totals) and the core says so with Settled; until then
// both count it, so that a tenant is refused a moment too early and never too late. Notes in scratch/
// (locks) have an allowance of their own and work when the tenant is full; a Floor keeps
// some of the disk free whatever the tenants' limits add up to.
//
// It guarantees that used + reserved never passes a limit by way of this Volume, however many
// sessions write at once, and that a failed operation leaves nothing charged that is not there.
//
// A soft limit is told and not enforced until it has lapsed (Meter), and then it refuses as a hard one does. Beside that the package knows what
// a tenant used, day by day (Day, Invoice), and when it will be full (Forecast).
//
// It does not know what is on disk beside what it is told: totals are the journal's, contents of
// earlier processes are charged by Adopt or when they are resumed. Lowering a limit takes nothing
// away. It does not bound the journal (its records are in Totals) nor the index.
//
// Concurrency: everything may be called by many goroutines. No lock is held while a byte is written but
// a content's own (writes share it, Truncate has it alone) and that of the notes in scratch/.
package quota

import (
	"fmt"
	"io/fs"
	"math"
	"sync"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// Config is what a Volume is made of; its zero value limits nothing.
type Config struct {
	Limits Limits
	// Totals returns what the journal's index charges for. It is called on every growth, under the
	// account's lock: it must be cheap and must not call back.
	Totals func() Totals
	// Floor is shared by all tenants of one disk. nil: the disk may be filled to the last byte.
	Floor *Floor
}

// Volume is an appendonly.Volume that counts and refuses.
type Volume struct {
	appendonly.Volume // what it does not mention passes through
	account           *Account

	scratchMu sync.Mutex       // held through changes of notes in scratch/; guards scratch
	scratch   map[string]int64 // their sizes; nil: to be read again
}

var _ appendonly.Volume = (*Volume)(nil)

// New returns v with the limits of c.
func New(v appendonly.Volume, c Config) *Volume {
	return &Volume{Volume: v, account: newAccount(c, v.Space)}
}

// Account returns the counters of this tenant.
func (q *Volume) Account() *Account { return q.account }

// SetLimits changes the limits at run time.
func (q *Volume) SetLimits(l Limits) { q.account.setLimits(l) }

// Stage makes a content after reserving MinCharge and one file for it.
func (q *Volume) Stage(id journal.ID) (appendonly.Staged, error) {
	c, err := q.account.stage(id)
	if err != nil {
		return nil, err
	}
	if err := q.account.takeDisk(MinCharge, 1); err != nil {
		q.account.drop(id, c)
		return nil, err
	}
	s, err := q.Volume.Stage(id)
	if err != nil {
		q.account.drop(id, c)
		return nil, err
	}
	return &staged{Staged: s, q: q, id: id, c: c}, nil
}

// Resume opens a staged content; one of an earlier process is charged from now on if it was not.
func (q *Volume) Resume(id journal.ID) (appendonly.Staged, error) {
	s, err := q.Volume.Resume(id)
	if err != nil {
		return nil, err
	}
	size, err := s.Size()
	if err != nil {
		s.Close()
		return nil, err
	}
	return &staged{Staged: s, q: q, id: id, c: q.account.adopt(id, size)}, nil
}

// Discard removes a staged content and what is charged for it. After a failure it stays charged, since
// it may be there still.
func (q *Volume) Discard(id journal.ID) error {
	err := q.Volume.Discard(id)
	if err == nil {
		q.account.Settled(id)
	}
	return err
}

// PutNote keeps a note. Those in scratch/ are bounded by Limits.Slack together, and by no other limit.
func (q *Volume) PutNote(area appendonly.Area, name string, data []byte) error {
	if area != appendonly.AreaScratch {
		return q.Volume.PutNote(area, name, data)
	}
	q.scratchMu.Lock()
	defer q.scratchMu.Unlock()
	if err := q.readScratch(); err != nil {
		return err
	}
	var used int64
	for n, size := range q.scratch {
		if n != name {
			used += Charge(size)
		}
	}
	size := int64(len(data))
	if limit := q.account.slack(); limit > 0 && used+Charge(size) > limit {
		return &ExceededError{Used: used, Limit: limit, What: "locks"}
	}
	if err := q.Volume.PutNote(area, name, data); err != nil {
		q.scratch = nil // whatever happened, the disk knows
		return err
	}
	q.scratch[name] = size
	return nil
}

// RemoveNote drops a note.
func (q *Volume) RemoveNote(area appendonly.Area, name string) error {
	if area != appendonly.AreaScratch {
		return q.Volume.RemoveNote(area, name)
	}
	q.scratchMu.Lock()
	defer q.scratchMu.Unlock()
	if err := q.Volume.RemoveNote(area, name); err != nil {
		q.scratch = nil
		return err
	}
	delete(q.scratch, name)
	return nil
}

// readScratch reads the sizes of the notes when they are not known. The caller holds scratchMu.
func (q *Volume) readScratch() error {
	if q.scratch != nil {
		return nil
	}
	notes, err := q.Notes(appendonly.AreaScratch)
	if err != nil {
		return err
	}
	q.scratch = make(map[string]int64, len(notes))
	for name, data := range notes {
		q.scratch[name] = int64(len(data))
	}
	return nil
}

// Space returns the tenant's own numbers: what is charged, and what it may still use of its limit or
// of the disk (above the floor), whichever is less. Used is Total - Free.
func (q *Volume) Space() (appendonly.Space, error) {
	disk, err := q.Volume.Space()
	if err != nil {
		return disk, err
	}
	usedBytes, usedFiles, l := q.account.used()
	minBytes, minInodes := q.account.floor.minimum()
	var s appendonly.Space
	limit, _ := l.bytes()
	s.Total, s.Free = own(usedBytes, limit, disk.Free, minBytes)
	if disk.TotalInodes == 0 && l.Files == 0 {
		return s, nil // a file system that does not count inodes, and nobody else does
	}
	if disk.TotalInodes == 0 {
		disk.FreeInodes = math.MaxInt64
	}
	s.TotalInodes, s.FreeInodes = own(usedFiles, l.Files, disk.FreeInodes, minInodes)
	return s, nil
}

func own(used, limit int64, diskFree, floor uint64) (total, free uint64) {
	if diskFree > floor {
		free = diskFree - floor
	}
	if limit > 0 {
		free = min(free, uint64(max(limit-used, 0)))
	}
	return uint64(used) + free, free
}

// staged charges for growth.
type staged struct {
	appendonly.Staged
	q  *Volume
	id journal.ID
	c  *content
}

// WriteAt reserves up to off+len(p) and writes.
func (s *staged) WriteAt(p []byte, off int64) (n int, err error) {
	err = s.grow("write", off, int64(len(p)), func() error { n, err = s.Staged.WriteAt(p, off); return err })
	return n, err
}

// CopyFrom reserves up to dstOff+n and copies. Shared blocks are charged like others.
func (s *staged) CopyFrom(src appendonly.Content, srcOff, dstOff, n int64) error {
	if srcOff < 0 || n > src.Size()-srcOff {
		return s.Staged.CopyFrom(src, srcOff, dstOff, n) // refuses; nothing is reserved for it
	}
	return s.grow("copy", dstOff, n, func() error { return s.Staged.CopyFrom(src, srcOff, dstOff, n) })
}

// grow runs f, which writes n bytes at off. Impossible ranges are left to f to refuse.
func (s *staged) grow(op string, off, n int64, f func() error) error {
	if n <= 0 || off < 0 || off > math.MaxInt64-n {
		return f()
	}
	s.c.rw.RLock()
	defer s.c.rw.RUnlock()
	if err := s.q.account.begin(s.c, off+n); err != nil {
		return s.wrap(op, err)
	}
	if err := s.q.account.takeDisk(n, 0); err != nil { // after the quota: who is full takes nothing from others
		s.q.account.end(s.c, 0)
		return err
	}
	err := f()
	end := off + n
	if err != nil {
		end = s.actual(end)
	}
	s.q.account.end(s.c, end)
	return err
}

// actual is how long the content is after a failure, asked of the handle and, as that may be what is
// closed, of the volume. What can not be found out counts as written.
func (s *staged) actual(want int64) int64 {
	if size, err := s.Size(); err == nil {
		return size
	}
	c, err := s.q.Open(s.id)
	if err != nil {
		return want
	}
	defer c.Close()
	return c.Size()
}

// Truncate reserves growth before, and gives back what was cut off after.
func (s *staged) Truncate(size int64) error {
	if size < 0 {
		return s.Staged.Truncate(size)
	}
	s.c.rw.Lock()
	defer s.c.rw.Unlock()
	if err := s.q.account.begin(s.c, size); err != nil {
		return s.wrap("truncate", err)
	}
	err := s.Staged.Truncate(size)
	if err != nil {
		size = s.actual(s.q.account.charged(s.c))
	}
	s.q.account.set(s.c, size)
	return err
}

func (s *staged) wrap(op string, err error) error {
	if err == fs.ErrClosed || err == fs.ErrInvalid {
		return &fs.PathError{Op: op, Path: s.id.String(), Err: err}
	}
	return fmt.Errorf("%s: %w", op, err)
}
