package appendonly

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"vaultd/internal/journal"
)

// Bodies finds what the file system itself keeps of a tenant's snapshots (on ZFS: <dataset>/.zfs/snapshot). volume.Volume implements it.
type Bodies interface {
	// OpenBody opens the body of the snapshot called name: fs.ErrNotExist when it has none, ErrNoBodies where no snapshot has.
	OpenBody(name string) (Body, error)
}

// ErrNoBodies says that the file system keeps no snapshots of its own.
var ErrNoBodies = errors.New("the file system keeps no snapshots")

// Body is a tenant's dataset as the file system kept it, read-only: the names of the live tree as they were, and the contents. Paths are as
// those of a Volume, and no method follows a symlink. Nothing of it changes while it is open. All methods may be called concurrently.
type Body interface {
	// Each calls f with the names in a directory of the tree, in no order, until f returns false.
	Each(dir string, f func(name string) bool) error
	// Look describes names of one directory, in the order of names; what is missing has no kind.
	Look(dir string, names []string) ([]RawEntry, error)
	// Open opens what path stands for, a file, for reading.
	Open(path string) (Content, error)
	// Inode returns the inode number of a content, wherever it was.
	Inode(id journal.ID) (uint64, error)
	// Carries returns what of m a file of this kind has on disk. The mode and owner of a plain 0644 file are not kept.
	Carries(kind Kind, m Meta) Meta
	// ClosedSegments are the journal's, as it was.
	journal.ClosedSegments
	// Close ends the body; contents that it gave out stay open.
	Close() error
}

// RawEntry is what the disk says of a name. Directories and symlinks have no attributes there; Meta is what files have, without the time of access.
type RawEntry struct {
	Kind   Kind
	Size   int64
	Inode  uint64
	Target string
	Meta   Meta
}

// The bounds of what readers of the past may have the file system do: each body is a mount of its own.
const (
	maxBodies  = 4                // that are open, of one tenant
	bodyIdle   = 30 * time.Second // and how long after their use: an open one can not be destroyed
	bodyBurst  = 32               // openings at once, and
	bodyEvery  = 10 * time.Second // one more each so long
	bodyRetry  = time.Minute      // after a failure
	maxBodyLog = 256              // snapshots whose failure is remembered
)

// bodies are those of a vault that are open.
type bodies struct {
	rate *rate.Limiter

	mu     sync.Mutex // guards what follows and the fields of each; held while one is opened
	open   map[string]*heldBody
	failed map[string]failure
	closed bool
}

// failure is that a body could not be opened, or is missing where there should be one: it was told, and what failed is not tried again for a while.
type failure struct {
	at      time.Time
	missing bool
}

// heldBody is an open body.
type heldBody struct {
	Body
	snap journal.Snapshot
	refs int
	used time.Time
	out  bool // of the table: the last user closes it
}

func newBodies() *bodies {
	return &bodies{rate: rate.NewLimiter(rate.Every(bodyEvery), bodyBurst), open: map[string]*heldBody{}, failed: map[string]failure{}}
}

// holdBody returns the body of a snapshot, or nil: it has none, or none that can be read now, which is logged. The index shows the same instant
// then. release must follow.
func (v *Vault) holdBody(s journal.Snapshot) *heldBody {
	h, err := v.findBody(s, false)
	if err == nil {
		return h
	}
	b := v.bodies
	b.mu.Lock()
	defer b.mu.Unlock()
	now := v.cfg.Now()
	missing := errors.Is(err, fs.ErrNotExist)
	if f, told := b.failed[s.Name]; told && f.missing == missing && now.Sub(f.at).Abs() < bodyRetry {
		return nil
	}
	level := slog.LevelWarn
	switch {
	case errors.Is(err, ErrNoBodies), missing && s.Kind == "push":
		return nil // it never had one
	case missing:
		level = slog.LevelInfo
	}
	if len(b.failed) >= maxBodyLog {
		clear(b.failed)
	}
	b.failed[s.Name] = failure{now, missing}
	v.cfg.Log.Log(v.ctx, level, "snapshot is shown from the index and not from its body", "snapshot", s.Name, "error", err.Error())
	return nil
}

// errBodyFailed is what findBody says of a body that could not be opened a moment ago.
var errBodyFailed = errors.New("it could not be opened a moment ago")

// findBody returns an open body of s. The operator is not bounded in how many are opened.
func (v *Vault) findBody(s journal.Snapshot, operator bool) (*heldBody, error) {
	if v.cfg.Bodies == nil {
		return nil, ErrNoBodies
	}
	b := v.bodies
	b.mu.Lock()
	defer b.mu.Unlock()
	now := v.cfg.Now()
	if b.closed {
		return nil, fs.ErrClosed
	}
	if h := b.open[s.Name]; h != nil {
		if h.snap.At == s.At {
			h.refs++
			h.used = now
			return h, nil
		}
		b.drop(h)
	}
	if f := b.failed[s.Name]; !f.at.IsZero() && !f.missing && !operator && now.Sub(f.at).Abs() < bodyRetry {
		return nil, errBodyFailed
	}
	if !operator && b.rate.Tokens() < 1 {
		return nil, errors.New("too many snapshots are opened")
	}
	body, err := v.openBody(s)
	if !errors.Is(err, ErrNoBodies) && !errors.Is(err, fs.ErrNotExist) { // what is not there costs nothing
		b.rate.Allow()
	}
	if err != nil {
		return nil, err
	}
	h := &heldBody{Body: body, snap: s, refs: 1, used: now}
	for len(b.open) >= maxBodies {
		var oldest *heldBody
		for _, x := range b.open {
			if oldest == nil || x.used.Before(oldest.used) {
				oldest = x
			}
		}
		b.drop(oldest)
	}
	b.open[s.Name] = h
	return h, nil
}

// openBody opens the body of s, if it is that of this instant: a name of a snapshot may be used again after its end.
func (v *Vault) openBody(s journal.Snapshot) (Body, error) {
	body, err := v.cfg.Bodies.OpenBody(s.Name)
	if err != nil {
		return nil, err
	}
	r, err := journal.SnapshotAtEnd(body, s.Name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && r.Seq != s.At {
		err = errors.New("what is called so is of another instant")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open body: %w", err), body.Close())
	}
	return body, nil
}

// drop takes h out of the table. mu is held.
func (b *bodies) drop(h *heldBody) {
	delete(b.open, h.snap.Name)
	h.out = true
	if h.refs == 0 {
		h.Close()
	}
}

// releaseBody ends a use of h; nil is none.
func (v *Vault) releaseBody(h *heldBody) {
	if h == nil {
		return
	}
	v.bodies.mu.Lock()
	defer v.bodies.mu.Unlock()
	h.refs--
	h.used = v.cfg.Now()
	if h.out && h.refs == 0 {
		h.Close()
	}
}

// closeBodies closes those that nobody used lately, or all, for good.
func (v *Vault) closeBodies(all bool) {
	b := v.bodies
	if all {
		b.mu.Lock()
	} else if !b.mu.TryLock() { // one is being opened, and a mount may hang: barriers do not wait for it
		return
	}
	defer b.mu.Unlock()
	b.closed = b.closed || all
	now := v.cfg.Now()
	for _, h := range b.open {
		if all || h.refs == 0 && now.Sub(h.used).Abs() >= bodyIdle {
			b.drop(h)
		}
	}
	maps.DeleteFunc(b.failed, func(_ string, f failure) bool { return now.Sub(f.at).Abs() >= bodyRetry })
}

// bodyEntry is what raw is for a reader. Names, kinds, bytes and targets are the disk's; e, what the index has under the name at that
// instant (nil: nothing), adds what the disk does not carry, if it speaks of the same.
func (h *heldBody) bodyEntry(raw *RawEntry, e *journal.Entry) (*journal.Entry, error) {
	same, err := h.isSame(raw, e)
	if err != nil {
		return nil, err
	}
	if !same {
		return &journal.Entry{Kind: raw.Kind, From: h.snap.At, Since: h.snap.Time, Received: h.snap.Time, Dir: nowhere, Size: raw.Size,
			Meta: raw.Meta, Target: raw.Target}, nil
	}
	if !e.Kind.HasContent() {
		return e, nil
	}
	out := *e
	out.Meta = overlay(e.Meta, h.Carries(e.Kind, e.Meta), raw.Meta)
	return &out, nil
}

// isSame reports whether raw is what e tells of: the same content, target, or a directory too.
func (h *heldBody) isSame(raw *RawEntry, e *journal.Entry) (bool, error) {
	switch {
	case e == nil || e.Fresh || e.Kind != raw.Kind:
		return false, nil
	case e.Kind == KindSymlink:
		return e.Target == raw.Target, nil
	case e.Kind == KindDir:
		return true, nil
	}
	inode, err := h.Inode(e.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && inode == raw.Inode, err
}

// overlay is the attributes m, as the journal has them, with what the disk has otherwise. carried is what the disk should have of m; what it
// lacks (no room for attributes) is the journal's.
func overlay(m, carried, raw Meta) Meta {
	if carried.Equal(raw) {
		return m
	}
	if raw.Mode != Unset && (raw.Mode != carried.Mode || raw.UID != carried.UID || raw.GID != carried.GID || raw.RDev != carried.RDev) {
		m.Mode, m.UID, m.GID, m.RDev = raw.Mode, raw.UID, raw.GID, raw.RDev
	}
	if !m.MTime.IsZero() && raw.MTime != carried.MTime { // where no client set it, the disk has when the bytes came
		m.MTime = raw.MTime
	}
	if len(raw.XAttrs) > 0 {
		all := maps.Clone(m.XAttrs)
		if all == nil {
			all = map[string][]byte{}
		}
		for name, val := range raw.XAttrs {
			if string(carried.XAttrs[name]) != string(val) {
				all[name] = val
			}
		}
		m.XAttrs = all
	}
	return m
}
