package appendonly

import (
	"errors"
	"syscall"

	"vaultd/internal/journal"
)

// Close publishes: it claims the name, at once and for ever. On an error nothing became visible. Where
// Create returned the same upload several times, only the last Close does.
func (u *Upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return ErrClosed
	}
	if u.handles--; u.handles > 0 {
		return u.err
	}
	u.closed = true
	u.mu.Unlock()
	u.writes.Wait()
	u.mu.Lock()
	defer u.release()
	err := u.err
	if err == nil {
		err = u.publish()
	}
	if err != nil {
		u.lost(err)
		u.v.retract(u)
		return err
	}
	u.v.letGo(u)
	if u.v.Policy().SyncClose && !u.locks {
		return u.v.stabilize(u.v.ctx)
	}
	return nil
}

// release closes the files. mu is held.
func (u *Upload) release() {
	u.closeSources()
	if u.staged != nil {
		u.staged.Close()
	}
	u.f.ended(u)
}

// closeSources closes what the upload reads from. mu is held, or nobody else knows u yet.
func (u *Upload) closeSources() {
	for _, c := range []*Content{&u.base, &u.sealed} {
		if *c != nil {
			(*c).Close()
			*c = nil
		}
	}
}

// publish decides what the upload is to what its name stands for and lets the name stand for it. mu
// is held. Hashing happens without v.mu; if the name moved on meanwhile, it is looked at again.
func (u *Upload) publish() error {
	for {
		u.v.mu.Lock()
		loc := u.loc
		u.v.mu.Unlock()
		if u.locks {
			return u.v.putLock(u, loc)
		}
		there, err := u.v.entry(loc)
		if err != nil {
			return err
		}
		op, err := u.relation(there)
		if err != nil {
			return err
		}
		done, err := u.v.publish(u, op, loc, there)
		if done || err != nil {
			return err
		}
	}
}

func sameEntry(a, b *journal.Entry) bool {
	return a == nil && b == nil || a != nil && b != nil && a.ID == b.ID && a.From == b.From && a.Kind == b.Kind
}

// relation says which operation closing the upload is: on nothing it creates; over a sealed file it
// repeats the same content, extends it, or overwrites it. What the client did not send itself is
// never compared, so that a key that may not read can not find out bytes by guessing them. mu is held.
func (u *Upload) relation(there *journal.Entry) (Op, error) {
	if there == nil {
		return OpCreate, u.takeOver()
	}
	if there.Fresh || there.Kind != KindFile {
		return OpOverwrite, u.takeOver()
	}
	if !u.trunc && u.under != nil && u.under.ID == there.ID && u.base != nil {
		gaps := u.ranges.gaps(there.Size)
		untouched := len(gaps) == 1 && gaps[0] == extent{0, there.Size}
		switch {
		case u.visible < there.Size: // cut off
			return OpOverwrite, u.takeOver()
		case untouched && u.size == there.Size:
			return OpRepeat, nil
		case untouched:
			return u.extends(there), u.takeOver()
		case len(gaps) > 0:
			return OpOverwrite, u.takeOver()
		}
	}
	if err := u.takeOver(); err != nil || u.guess {
		return OpOverwrite, err
	}
	return u.compare(there)
}

// compare compares by hash. mu is held.
func (u *Upload) compare(there *journal.Entry) (Op, error) {
	if u.size < there.Size {
		return OpOverwrite, nil
	}
	want, err := u.v.contentHash(there)
	if err != nil {
		return OpOverwrite, err
	}
	if u.size == there.Size {
		h, err := u.hash()
		if err == nil && h == want {
			return OpRepeat, nil
		}
		return OpOverwrite, err
	}
	h, ok := u.digest.prefix()
	if !ok || u.digest.mark != there.Size {
		if h, err = hashContent(u.staged, there.Size); err != nil {
			return OpOverwrite, err
		}
	}
	if h == want {
		return u.extends(there), nil
	}
	return OpOverwrite, nil
}

// extends says what a longer content with the same beginning is.
func (u *Upload) extends(there *journal.Entry) Op {
	u.v.mu.Lock()
	defer u.v.mu.Unlock()
	if u.v.goesOn(there, u.f.who.Key) {
		return OpExtend
	}
	return OpOverwrite
}

// Abort ends an upload whose client is gone: what arrived is kept for the resume window, unless it
// was to change what is there under its name: that is what the client will see, and go on from.
func (u *Upload) Abort() { u.abort(true) }

// lost counts an upload that came to nothing because of err. mu is held.
func (u *Upload) lost(err error) {
	if !u.locks {
		if !u.over || !errors.Is(err, syscall.EDQUOT) {
			u.f.count.denied(err)
		}
		u.f.count.lost(err, u.size)
	}
}

// abort is Abort; one that is as unfinished afterwards as it was before does not count.
func (u *Upload) abort(counts bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	if counts {
		u.lost(u.err)
	}
	u.closed = true
	u.mu.Unlock()
	u.writes.Wait()
	u.mu.Lock()
	defer u.release()
	whole := u.whole()
	if u.err != nil || u.locks || u.base != nil || whole == 0 {
		u.v.retract(u)
		return
	}
	if err := u.cutTo(whole); err != nil {
		u.v.retract(u)
		return
	}
	u.v.interrupt(u)
}

// whole is how many bytes from the start arrived without a gap: what a client can resume from. mu is held.
func (u *Upload) whole() int64 {
	if len(u.ranges) == 0 || u.ranges[0].from > 0 {
		return 0
	}
	return u.ranges[0].to
}

// resumable is whole for those who do not hold the lock.
func (u *Upload) resumable() int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return u.size
	}
	return u.whole()
}

// cutTo makes the staged content exactly the first n bytes. mu is held.
func (u *Upload) cutTo(n int64) error {
	u.digest.cut(n)
	u.size, u.ranges = n, extents{{0, n}}
	return u.staged.Truncate(n)
}

// Discard ends an upload that its client gave up: what arrived is dropped.
func (u *Upload) Discard() { u.discard(true) }

// Supersede is Discard for an upload whose file comes in another one: it has not failed.
func (u *Upload) Supersede() { u.discard(false) }

func (u *Upload) discard(counts bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return
	}
	if counts {
		u.lost(u.err)
	}
	u.closed = true
	u.mu.Unlock()
	u.writes.Wait()
	u.mu.Lock()
	defer u.release()
	u.v.retract(u)
}
