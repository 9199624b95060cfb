package appendonly

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"vaultd/internal/journal"
)

// Barrier returns once everything that was written before the call is on stable storage (P4): the
// bytes first, then the records and the barrier record, then the journal. Calls that wait together
// share one barrier.
func (v *Vault) Barrier(ctx context.Context) error {
	err := v.stabilize(ctx)
	v.settle()
	return err
}

// stabilize is Barrier without what can be done after the answer: the keeper settles.
func (v *Vault) stabilize(ctx context.Context) error {
	if v.inline {
		defer v.settle()
	}
	v.mu.Lock()
	want, dirty := journal.Seq(v.head.Load()), len(v.unsynced) > 0
	v.mu.Unlock()
	v.barrierMu.Lock()
	defer v.barrierMu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if v.stable >= want && !dirty {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.barrier()
}

// work is what a barrier covers.
type work struct {
	covers   journal.Seq
	records  bool
	ids      []journal.ID
	ready    map[journal.ID]sealing
	discards []journal.ID
}

// collect takes over what waits for a barrier. mu is held.
func (v *Vault) collect() work {
	w := work{covers: journal.Seq(v.head.Load()), ready: make(map[journal.ID]sealing, len(v.unsealed)), discards: v.discards}
	w.records = w.covers > v.covered
	for id := range v.unsynced {
		w.ids = append(w.ids, id)
	}
	clear(v.unsynced)
	for id, s := range v.unsealed {
		w.ready[id] = s
	}
	v.discards = nil
	return w
}

// barrier makes one barrier. barrierMu is held, mu is not: clients go on meanwhile.
func (v *Vault) barrier() error {
	v.mu.Lock()
	w := v.collect()
	v.mu.Unlock()
	if err := v.syncContents(w.ids); err != nil {
		return err
	}
	if w.records {
		v.mu.Lock()
		frozen, err := v.barrierRecord(w.covers)
		v.mu.Unlock()
		if err != nil {
			return err
		}
		if err := v.log.Sync(); err != nil {
			return v.fail(err)
		}
		v.flush(frozen)
	}
	v.covers(w)
	return nil
}

// covers notes that w is stable. barrierMu is held.
func (v *Vault) covers(w work) {
	v.stable = w.covers
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(v.due.ready, w.ready)
	v.due.discards = append(v.due.discards, w.discards...)
	if v.inline {
		return
	}
	select {
	case v.wake <- struct{}{}:
	default: // the keeper is on its way
	}
}

func (v *Vault) syncContents(ids []journal.ID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := v.vol.Sync(ids); err != nil {
		return v.fail(fmt.Errorf("sync contents: %w", err))
	}
	return nil
}

// barrierRecord writes the barrier's record; mu is held. When it reports true, the index was frozen
// and may be flushed once the journal is synced.
func (v *Vault) barrierRecord(covers journal.Seq) (bool, error) {
	r := &journal.Record{Op: journal.OpBarrier, Covers: covers}
	if err := v.commit(r, journal.Loc{}, journal.Loc{}); err != nil {
		return false, v.fail(fmt.Errorf("write barrier: %w", err))
	}
	v.covered = r.Seq
	return v.freezeDue() && v.idx.Freeze(), nil
}

// flush lets the index's database follow, beside everything else.
func (v *Vault) flush(frozen bool) {
	if !frozen {
		return
	}
	v.flushed = v.cfg.Now()
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		if err := v.idx.Flush(); err != nil {
			v.cfg.Log.Error("index is behind the journal", "error", err.Error())
		}
	}()
}

// closeSegment closes the journal's open segment, with r (may be nil) as its last record but one. A
// closed segment ends with a barrier that covers all of it: nothing in it is ever unproven. The
// barrier before did nearly all of the work; the names stand still for what is left of it, and with stand for longer.
func (v *Vault) closeSegment(r *journal.Record, stand bool) error {
	v.barrierMu.Lock()
	defer v.barrierMu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.barrier(); err != nil {
		return err
	}
	v.mu.Lock()
	if r != nil {
		if err := v.commit(r, journal.Loc{}, journal.Loc{}); err != nil {
			v.mu.Unlock()
			return err
		}
	}
	w := v.collect()
	frozen, err := false, v.syncContents(w.ids)
	if err == nil && w.records {
		frozen, err = v.barrierRecord(w.covers)
	}
	if err == nil {
		if err = v.log.Rotate(); err != nil {
			err = v.fail(err)
		}
	}
	v.segment = time.Time{}
	v.still = stand && err == nil
	v.mu.Unlock()
	if err != nil {
		return err
	}
	v.flush(frozen)
	v.covers(w)
	return nil
}

const (
	flushEvery   = 5 * time.Second
	flushPending = 4096
)

func (v *Vault) freezeDue() bool {
	return v.idx.Pending() >= flushPending || v.cfg.Now().Sub(v.flushed).Abs() >= flushEvery
}

// settle moves published contents into the store and drops staged ones that nothing names any more, as far as barriers
// cover them. No answer to a client waits for it.
func (v *Vault) settle() {
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	v.mu.Lock()
	ready, discards := v.due.ready, v.due.discards
	v.due = work{ready: map[journal.ID]sealing{}}
	maps.DeleteFunc(ready, func(id journal.ID, _ sealing) bool { // sealed since the barrier saw it
		_, waits := v.unsealed[id]
		return !waits
	})
	v.mu.Unlock()
	const batch = 256 // how often mu is taken: those who publish wait for it
	moved := make([]journal.ID, 0, batch)
	note := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, id := range moved {
			if now, ok := v.unsealed[id]; ok && now.meta.Equal(ready[id].meta) {
				delete(v.unsealed, id) // else its attributes changed meanwhile: once more
			}
		}
		moved = moved[:0]
	}
	for id, s := range ready {
		if err := v.vol.Seal(id, s.kind, s.meta); err != nil {
			v.cfg.Log.Error("seal content", "id", id.String(), "error", err.Error())
			continue // it stays readable in staging, and is tried again at the next barrier
		}
		if moved = append(moved, id); len(moved) == batch {
			note()
		}
	}
	note()
	for _, id := range discards {
		if err := v.vol.Discard(id); err != nil {
			v.cfg.Log.Error("drop staged content", "id", id.String(), "error", err.Error())
		}
	}
}

// keep does what has to be done from time to time, until the vault is closed.
func (v *Vault) keep() {
	defer v.done.Done()
	tick := time.NewTicker(v.cfg.BarrierEvery)
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.wake:
			v.settle()
		case <-tick.C:
			v.tick()
		}
	}
}

// tick seals what is old enough, keeps notes of uploads in progress, makes a barrier when something
// is dirty, and closes an old journal segment. Failures are logged where they happen, and make the
// vault read-only.
func (v *Vault) tick() {
	v.closeBodies(false)
	if err := v.noteUploads(); err != nil && v.Err() == nil && v.ctx.Err() == nil {
		v.cfg.Log.Error("note uploads", "error", err.Error())
	}
	v.mu.Lock()
	if !v.still {
		v.sealOld()
	}
	v.forget()
	old := !v.segment.IsZero() && v.cfg.Now().Sub(v.segment).Abs() >= v.cfg.SegmentEvery
	v.mu.Unlock()
	err := v.Barrier(v.ctx)
	if err == nil && old {
		err = v.closeSegment(nil, false)
		v.settle()
	}
	if err != nil && v.ctx.Err() == nil && !errors.Is(err, ErrReadOnly) {
		v.cfg.Log.Error("barrier", "error", err.Error())
	}
}
