package appendonly

import (
	"encoding/json"
	"fmt"
	"time"

	"vaultd/internal/journal"
)

// uploadNote is what is kept beside the staged content of an unfinished upload.
type uploadNote struct {
	Dir    journal.DirID
	Name   string
	Key    string
	Path   string // as the client called it
	Since  time.Time
	Whole  int64 // bytes from the start without a gap
	Stable int64 // of them on stable storage
	Mode   int32
}

// note keeps what is known of an upload. mu is held.
func (v *Vault) note(u *Upload, whole, stable int64) {
	b, err := json.Marshal(uploadNote{u.loc.Dir, u.loc.Name, u.key, u.name, u.since, whole, stable, Unset})
	if err == nil {
		err = v.vol.PutNote(AreaStaging, u.id.String(), b)
	}
	if err != nil {
		v.cfg.Log.Error("note upload", "error", err.Error())
		return
	}
	u.noted = true
}

// interrupt keeps an upload whose client is gone. u.mu is held, its writes have ended.
func (v *Vault) interrupt(u *Upload) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if u.removed {
		v.dropUpload(u)
		return
	}
	u.interrupted, u.since = true, v.cfg.Now()
	v.unsynced[u.id] = struct{}{}
	v.note(u, u.size, 0)
	v.toStable = append(v.toStable, u)
}

// loadNotes finds the uploads that an earlier process left unfinished, and takes them out of
// nameless. A note of anything else is out of date: what has a name is never opened for writing again.
func (v *Vault) loadNotes(nameless map[journal.ID]bool, sameBoot bool) (int, error) {
	notes, err := v.vol.Notes(AreaStaging)
	if err != nil {
		return 0, err
	}
	kept := 0
	for name, b := range notes {
		var n uploadNote
		id, err := journal.ParseID(name)
		if err == nil {
			err = json.Unmarshal(b, &n)
		}
		size := n.Stable
		if sameBoot {
			size = n.Whole
		}
		if err != nil || !nameless[id] || size <= 0 {
			if err := v.vol.RemoveNote(AreaStaging, name); err != nil {
				return kept, err
			}
			continue
		}
		u := &Upload{v: v, id: id, name: n.Path, key: n.Key, append: -1, bound: -1, digest: newDigest(-1), trunc: true,
			loc: journal.Loc{Dir: n.Dir, Name: n.Name}, interrupted: true, since: n.Since, noted: true, opened: n.Since,
			size: size, meta: NoMeta(), closed: true}
		if u.since.IsZero() {
			u.since = v.cfg.Now()
			u.opened = u.since
		}
		u.digest.spoil()
		if err := v.cutStaged(u); err != nil {
			if storageFailed(err) {
				return kept, err
			}
			v.cfg.Log.Error("an interrupted upload can not be kept", "id", name, "error", err.Error())
			continue
		}
		v.keepHeld(u)
		delete(nameless, id)
		v.uploads[u.loc] = append(v.uploads[u.loc], u)
		v.uploadCount++
		kept++
	}
	return kept, nil
}

// cutStaged cuts an interrupted upload to what is known of it, and charges it.
func (v *Vault) cutStaged(u *Upload) error {
	s, err := v.vol.Resume(u.id)
	if err != nil {
		return err
	}
	defer s.Close()
	have, err := s.Size()
	if err != nil {
		return err
	}
	u.size = min(u.size, have)
	if v.cfg.Account != nil {
		v.cfg.Account.Adopt(u.id, u.size)
	}
	return s.Truncate(u.size)
}

// progress is how far an open upload has come.
type progress struct {
	u     *Upload
	whole int64
}

// openUploads returns the uploads that are being written and older than a tick, with how far they
// are. No lock is held: an upload's lock comes before the vault's.
func (v *Vault) openUploads() []progress {
	v.mu.Lock()
	var open []progress
	for _, us := range v.uploads {
		for _, u := range us {
			if !u.interrupted && !u.locks && v.cfg.Now().Sub(u.opened) >= v.cfg.BarrierEvery {
				open = append(open, progress{u: u})
			}
		}
	}
	v.mu.Unlock()
	for i := range open {
		u := open[i].u
		if u.mu.TryLock() { // busy publishing: nothing to note
			if u.base == nil && !u.rewritten { // else the staged content alone is not what was written
				open[i].whole = u.whole()
			}
			u.mu.Unlock()
		}
	}
	return open
}

// noteUploads keeps notes of uploads in progress, so that a crash does not cost them. Now and then
// their bytes are synced too: after a power cut only what is stable counts.
func (v *Vault) noteUploads() error {
	open := v.openUploads()
	v.mu.Lock()
	v.ticks++
	sync := v.ticks%syncTicks == 0
	for _, p := range open {
		if sync {
			v.unsynced[p.u.id] = struct{}{}
		}
	}
	waiting := v.toStable
	v.toStable = nil
	v.mu.Unlock()
	if sync || len(waiting) > 0 {
		if err := v.Barrier(v.ctx); err != nil {
			return err
		}
	}
	v.noteAll(open, waiting, sync)
	if sync && len(open) > 0 || len(waiting) > 0 { // notes that speak of stable bytes become stable after them
		if err := v.vol.Sync(nil); err != nil {
			return v.fail(fmt.Errorf("sync notes: %w", err))
		}
	}
	return nil
}

// noteAll writes the notes of uploads that are open, and of those that were interrupted and are stable now.
func (v *Vault) noteAll(open []progress, interrupted []*Upload, synced bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, p := range open {
		if synced {
			p.u.stable = p.whole
		}
		if p.whole > 0 && !p.u.interrupted && !p.u.rewritten && v.isPending(p.u) {
			v.note(p.u, p.whole, p.u.stable)
		}
	}
	for _, u := range interrupted {
		if v.isPending(u) {
			u.stable = u.size
			v.note(u, u.size, u.size)
		}
	}
}

// syncTicks is how many ticks pass between syncs of uploads in progress.
const syncTicks = 15

// isPending reports whether u is still unfinished. mu is held.
func (v *Vault) isPending(u *Upload) bool {
	for _, x := range v.uploads[u.loc] {
		if x == u {
			return true
		}
	}
	return false
}
