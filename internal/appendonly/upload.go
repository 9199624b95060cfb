package appendonly

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"syscall"
	"time"

	"vaultd/internal/journal"
)

// Upload is a content being written. Its methods may be called concurrently.
//
// Lock order: mu comes before the vault's lock.
//
// The bytes go to a staged content of its own. Opened without Truncate over something that is there
// (base), it shows what is there wherever it was not written, and takes those bytes over when it is closed.
type Upload struct {
	f      *FS
	v      *Vault
	id     journal.ID
	name   string         // as the client called it
	key    string         // whose it is
	locks  bool           // a lock in a repository: kept in memory
	under  *journal.Entry // what the name stood for at the opening; nil if nothing
	trunc  bool           // the client gives the whole content
	append int64          // writes below are relative to it; -1: the client did not ask for Append
	digest *digest
	opened time.Time

	loc         journal.Loc // where it will be published; guarded by v.mu
	interrupted bool        // its client is gone; guarded by v.mu
	since       time.Time   // since when; guarded by v.mu
	noted       bool        // a note of it is beside the content; guarded by v.mu
	stable      int64       // bytes on stable storage, as far as known; guarded by v.mu
	rewritten   bool        // bytes were written again: a note would not be true for long; changed under mu and v.mu
	removed     bool        // its name was removed while it was open; guarded by v.mu
	held        int64       // of its key's daily ceiling; guarded by v.todayMu

	writes sync.WaitGroup // writes under way; added to under mu, while not closed

	mu      sync.Mutex // guards what follows
	handles int        // that share it; the last one to close publishes
	staged  Staged
	base    Content // nil when there is none
	sealed  Content // what the name stands for and can not move on from; nil for keys that may not read, set once
	visible int64   // bytes of base that were not cut off
	size    int64
	ranges  extents
	bound   int64 // largest size that can be accepted; -1: any
	meta    Meta
	err     error // a write failed: the content can not be published any more
	closed  bool
	over    bool // err is the quota's, and counted
	guess   bool // holds bytes that its key neither sent nor may know: it is never compared with anything
}

// maxUploads bounds the uploads, open and interrupted, that one tenant may have.
const maxUploads = 8192

// maxFresh bounds the files that one tenant may keep unsealed.
const maxFresh = 16384

// WriteAt follows io.WriterAt. Writes may arrive in any order; overlapping ones must not be concurrent.
func (u *Upload) WriteAt(p []byte, off int64) (int, error) {
	u.mu.Lock()
	if u.closed {
		u.mu.Unlock()
		return 0, ErrClosed
	}
	if len(p) == 0 { // changes nothing, wherever it is
		u.mu.Unlock()
		return 0, nil
	}
	if u.append > 0 && off < u.append {
		off += u.append
	}
	if err := u.admitWrite(off, len(p)); err != nil {
		u.mu.Unlock()
		return 0, err
	}
	if u.ranges.meets(off, off+int64(len(p))) {
		if u.rewrite(); u.err != nil {
			err := u.err
			u.mu.Unlock()
			return 0, err
		}
	}
	u.writes.Add(1)
	u.mu.Unlock()
	defer u.writes.Done()

	if err := u.sameAsSealed(p, off); err != nil {
		return 0, err
	}
	hashed := u.takeIn(p, off)
	n, err := u.staged.WriteAt(p, off)
	hashed()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.digest.spoil()
		u.fail(err)
		return n, err
	}
	u.size = max(u.size, off+int64(n))
	if !u.ranges.add(off, off+int64(n)) {
		err = fmt.Errorf("write: more than %d separate ranges", maxExtents)
		u.fail(&DeniedError{OpCreate, u.name, RuleSize, err.Error(), "Write the file in order"})
		return n, u.err
	}
	return n, nil
}

// beside is the size from which a write is hashed while the disk takes it, on another processor if one is free: below it the
// switch costs more than that brings.
const beside = 128 << 10

// takeIn gives p to the digest, and returns what waits until that is done with it.
func (u *Upload) takeIn(p []byte, off int64) (wait func()) {
	if len(p) < beside {
		u.digest.write(p, off)
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		u.digest.write(p, off)
	}()
	return func() { <-done }
}

// compared are buffers for bytes that were stored before.
var compared = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// sameAsSealed refuses bytes that differ from those that the name stands for and keeps: closing could
// only refuse them, and some clients do not look at how their CLOSE ended (sshfs, paramiko). A key that
// may not read is told at its close, when it has sent everything: here it could find out byte after byte.
func (u *Upload) sameAsSealed(p []byte, off int64) error {
	if u.sealed == nil {
		return nil
	}
	buf := compared.Get().(*[32 << 10]byte)
	defer compared.Put(buf)
	for end := min(off+int64(len(p)), u.sealed.Size()); off < end; {
		b := buf[:min(int64(len(buf)), end-off)]
		if _, err := u.sealed.ReadAt(b, off); err != nil && err != io.EOF {
			return err
		}
		if !bytes.Equal(b, p[:len(b)]) {
			u.digest.spoil()
			u.mu.Lock()
			defer u.mu.Unlock()
			u.fail(denied(OpOverwrite, u.name, noChange))
			return u.err
		}
		p, off = p[len(b):], off+int64(len(b))
	}
	return nil
}

// admitWrite refuses what can not become part of an acceptable file. mu is held.
func (u *Upload) admitWrite(off int64, n int) error {
	switch {
	case u.err != nil:
		return u.err
	case off < 0 || off > math.MaxInt64-int64(n):
		return &DeniedError{OpCreate, u.name, RuleSize, "the offset is out of range", ""}
	case u.bound >= 0 && off+int64(n) > u.bound:
		u.fail(denied(OpOverwrite, u.name, noChange))
		return u.err
	}
	if err := u.hold(off + int64(n)); err != nil {
		u.fail(err)
		return err
	}
	return nil
}

// rewrite notes that bytes which arrived before change. A note of them is dropped: after a power cut
// it might vouch for a mixture of old and new ones. mu is held.
func (u *Upload) rewrite() {
	if u.rewritten {
		return
	}
	u.v.mu.Lock()
	noted := u.noted
	u.rewritten = true
	u.v.unnote(u)
	u.v.mu.Unlock()
	if !noted {
		return
	}
	if err := u.v.vol.Sync(nil); err != nil { // before the bytes themselves can be on the disk
		u.fail(u.v.fail(fmt.Errorf("sync notes: %w", err)))
	}
}

// fail makes the upload impossible to publish: the first reason counts. mu is held.
func (u *Upload) fail(err error) {
	if u.err == nil {
		u.err = err
		if u.over = errors.Is(err, syscall.EDQUOT); u.over {
			u.f.count.denied(err)
		}
	}
}

// ReadAt reads what the file would hold if closed now. Keys that may not read get a refusal.
func (u *Upload) ReadAt(p []byte, off int64) (int, error) {
	if err := u.f.may(Query{Op: OpRead}, u.name); err != nil {
		return 0, err
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return 0, ErrClosed
	case off < 0:
		return 0, &DeniedError{OpRead, u.name, RuleSize, "the offset is out of range", ""}
	case off >= u.size:
		return 0, io.EOF
	}
	want := p
	if rest := u.size - off; int64(len(p)) > rest {
		want = p[:rest]
	}
	clear(want)
	// Where nothing was written base shows through; staged reads as zero there.
	if n, err := u.staged.ReadAt(want, off); err != nil && err != io.EOF {
		return n, err
	}
	for _, g := range u.ranges.gaps(min(off+int64(len(want)), u.visible)) {
		from := max(g.from, off)
		if u.base == nil || from >= g.to {
			continue
		}
		if _, err := u.base.ReadAt(want[from-off:g.to-off], from); err != nil && err != io.EOF {
			return 0, err
		}
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}

// Stat describes the upload as if closed now.
func (u *Upload) Stat() (Info, error) {
	u.v.mu.Lock()
	name := u.loc.Name
	u.v.mu.Unlock()
	return u.info(name), nil
}

func (u *Upload) info(name string) Info {
	u.mu.Lock()
	defer u.mu.Unlock()
	m := u.meta
	if m.MTime.IsZero() {
		m.MTime = journal.At(u.opened)
	}
	return Info{Name: name, Kind: KindFile, Size: u.size, Meta: m, Nlink: 1, Received: u.opened}
}

// Truncate sets the length.
func (u *Upload) Truncate(size int64) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case u.closed:
		return ErrClosed
	case u.err != nil:
		return u.err
	case size < 0:
		return &DeniedError{OpTruncate, u.name, RuleSize, "the size is out of range", ""}
	case size == u.size:
		return nil
	case u.sealed != nil && !u.trunc && size < u.visible && size < u.sealed.Size():
		u.fail(denied(OpOverwrite, u.name, noChange))
		return u.err
	}
	written := int64(0)
	if n := len(u.ranges); n > 0 {
		written = u.ranges[n-1].to
	}
	if size < written {
		u.digest.spoil()
		if u.rewrite(); u.err != nil {
			return u.err
		}
	}
	if err := u.hold(size); err != nil {
		u.fail(err)
		return err
	}
	if size < written || size > u.visible || u.base == nil {
		if err := u.staged.Truncate(size); err != nil {
			u.fail(err)
			return err
		}
	}
	u.ranges.clip(size)
	u.visible = min(u.visible, size)
	u.size = size
	return nil
}

// SetMeta changes what the file will be published with.
func (u *Upload) SetMeta(m Meta) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	merged, err := mergeMeta(u.meta, m)
	if err == nil {
		u.meta = merged
	}
	return err
}

// CopyFrom copies n bytes of src (at srcOff) to dstOff, sharing blocks where the file system can.
func (u *Upload) CopyFrom(src *File, srcOff, dstOff, n int64) error {
	if srcOff < 0 || n < 0 || srcOff > src.info.Size || n > src.info.Size-srcOff || dstOff < 0 || dstOff > math.MaxInt64-n {
		return &DeniedError{OpCreate, u.name, RuleSize, "the range is out of bounds", ""}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	if err := u.admitWrite(dstOff, 0); err != nil {
		return err
	}
	if err := u.hold(dstOff + n); err != nil {
		u.fail(err)
		return err
	}
	u.digest.spoil()
	if u.ranges.meets(dstOff, dstOff+n) {
		if u.rewrite(); u.err != nil {
			return u.err
		}
	}
	if err := u.staged.CopyFrom(src.content, srcOff, dstOff, n); err != nil {
		u.fail(err)
		return err
	}
	u.size = max(u.size, dstOff+n)
	u.ranges.add(dstOff, dstOff+n)
	return nil
}

// takeOver copies what base shows where nothing was written. mu is held; writes have ended.
func (u *Upload) takeOver() error {
	if u.base == nil {
		return nil
	}
	gaps := u.ranges.gaps(min(u.size, u.visible))
	if len(gaps) > 0 {
		if err := u.hold(u.size); err != nil {
			return err
		}
	}
	for _, g := range gaps {
		u.digest.spoil()
		u.guess = u.guess || u.f.who.Role == Push && u.under.Key != u.key
		if err := u.staged.CopyFrom(u.base, g.from, g.from, g.to-g.from); err != nil {
			return err
		}
	}
	u.base.Close()
	u.base = nil
	return nil
}

// hash returns the content's SHA-256, reading it again if need be. mu is held, base was taken over.
func (u *Upload) hash() (journal.Hash, error) {
	return u.digest.complete(u.staged, u.size)
}

// join adds a handle, unless the upload has ended.
func (u *Upload) join() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.handles++
	return true
}
