package appendonly

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"vaultd/internal/journal"
)

// entry returns what a live name stands for, nil when nothing.
func (v *Vault) entry(at journal.Loc) (*journal.Entry, error) {
	e, err := v.idx.Lookup(at, journal.Now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return e, err
}

// openContent opens a content, wherever it is.
func (v *Vault) openContent(id journal.ID) (Content, error) {
	c, err := v.vol.Open(id)
	if errors.Is(err, fs.ErrNotExist) { // it moves from staging to the store: once more
		c, err = v.vol.Open(id)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if freed, ferr := v.idx.Freed(id); ferr == nil && freed {
			err = ErrExpired
		}
	}
	return c, err
}

// contentHash returns the SHA-256 of e's content, computing it when no record has it yet.
func (v *Vault) contentHash(e *journal.Entry) (journal.Hash, error) {
	h, err := v.idx.Hash(e)
	if err != nil || !h.IsZero() {
		return h, err
	}
	c, err := v.openContent(e.ID)
	if err != nil {
		return h, err
	}
	defer c.Close()
	return hashContent(c, e.Size)
}

// publish lets loc stand for u's content, if it still stands for there and is still where u goes;
// otherwise it reports false. u.mu is held.
func (v *Vault) publish(u *Upload, op Op, loc journal.Loc, there *journal.Entry) (bool, error) {
	v.lockNames()
	defer v.mu.Unlock()
	if u.removed {
		return true, v.vol.Discard(u.id)
	}
	now, err := v.entry(loc)
	if err != nil || u.loc != loc || !sameEntry(there, now) {
		return false, err
	}
	rel, err := v.livePath(loc)
	if err == nil && !u.f.holds(rel) { // the session's root was moved away from above it
		err = fs.ErrNotExist
	}
	if err != nil {
		return false, wrapIndex(op, u.name, err)
	}
	s := spot{loc: loc, path: u.name, rel: rel, entry: now, mode: v.policy.ModeAt(rel)}
	s.state = u.f.stateOf(&s)
	verdict := Decide(u.f.query(op, &s))
	if verdict.Effect == Deny {
		return false, denied(op, u.name, verdict)
	}
	if verdict.Effect == Ignore {
		u.f.count.unchanged(rel, u.size)
		return true, v.repeat(u, &s)
	}
	// What is recorded is what is there: anything else would be found damaged, for ever.
	if have, err := u.staged.Size(); err != nil || have != u.size {
		return false, errors.Join(err, fmt.Errorf("publish upload: %d bytes are staged, %d were written", have, u.size))
	}
	if err := u.hold(u.size); err != nil {
		return false, err
	}
	fresh := v.staysFresh(&s)
	if !fresh {
		u.staged.SetMeta(journal.KindFile, u.meta)
	}
	if err := u.staged.Close(); err != nil { // what has a name has no write descriptor
		return false, err
	}
	u.staged = nil
	r := u.record(rel, fresh)
	if err := v.place(u.f, r, &s); err != nil {
		return false, err
	}
	if !isTemporary(loc.Name) {
		u.f.arrived(op, rel, u.size, now)
	}
	v.forgetUpload(u)
	v.settled(u.id)
	if r.SHA256.IsZero() {
		v.hashLater(u.id, u.size, u.digest)
	}
	return true, nil
}

// livePath returns the path of a place whose directory is still alive.
func (v *Vault) livePath(at journal.Loc) (string, error) {
	rel, err := v.idx.Path(at)
	if err != nil {
		return "", err
	}
	if now, err := v.idx.Locate(rel); err != nil || now != at {
		return "", fs.ErrNotExist
	}
	return rel, nil
}

// record describes u's content for the journal. u.mu is held.
func (u *Upload) record(rel string, fresh bool) *journal.Record {
	r := u.f.record(journal.OpCreate, rel)
	r.Kind, r.ID, r.Size, r.Meta, r.Fresh = journal.KindFile, u.id, u.size, u.meta, fresh
	if h, ok := u.digest.result(u.size); ok {
		r.SHA256 = h
	}
	return r
}

// staysFresh says whether content closed at s is not sealed yet: under a temporary name, or where the
// tenant waits; never where something sealed stands.
func (v *Vault) staysFresh(s *spot) bool {
	if s.entry != nil && !s.entry.Fresh {
		return false
	}
	return isTemporary(s.loc.Name) || v.policy.SealAfter > 0
}

// place gives the content of r the name s, in the tree (unless it stays fresh), then in the journal.
// Decide has allowed it; the kernel decides again whether the name is free. mu is held.
func (v *Vault) place(f *FS, r *journal.Record, s *spot) error {
	if err := f.mayRecord(0); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	old := s.entry
	if r.Fresh {
		if err := v.admitFresh(old, s.path); err != nil {
			return err
		}
		if err := v.commit(r, s.loc, journal.Loc{}); err != nil {
			return err
		}
		v.unsynced[r.ID] = struct{}{}
		v.dropFresh(old)
		return nil
	}
	undo, err := v.linkTree(r.ID, s)
	if err != nil {
		return err
	}
	if err := v.commit(r, s.loc, journal.Loc{}); err != nil {
		return v.undo(err, undo)
	}
	v.unsynced[r.ID] = struct{}{}
	v.unsealed[r.ID] = sealing{r.Kind, r.Meta}
	v.dropFresh(old)
	f.changed()
	return nil
}

// linkTree gives content id the name of s in the tree: over what stands there if that is sealed,
// otherwise only if the kernel finds the name free. undo takes it back.
func (v *Vault) linkTree(id journal.ID, s *spot) (undo func() error, err error) {
	rel, old := s.rel, s.entry
	if old == nil || old.Fresh {
		if err := v.vol.Link(id, rel); err != nil {
			if errors.Is(err, fs.ErrExist) {
				return nil, denied(OpOverwrite, s.path, noRemoval)
			}
			return nil, v.tree(err)
		}
		return func() error { return v.vol.Unlink(rel) }, nil
	}
	if err := v.vol.Relink(id, rel); err != nil {
		return nil, v.tree(err)
	}
	return func() error { return v.vol.Relink(old.ID, rel) }, nil
}

func (v *Vault) admitFresh(old *journal.Entry, path string) error {
	if old == nil && v.idx.Totals().Fresh >= maxFresh {
		return &DeniedError{OpCreate, path, RuleSize, "there are too many unfinished files", "Rename or remove some"}
	}
	return nil
}

// dropFresh lets go of a fresh content that no name stands for any more, after the next barrier.
func (v *Vault) dropFresh(old *journal.Entry) {
	if old != nil && old.Fresh && old.Kind.HasContent() {
		delete(v.unsynced, old.ID)
		v.discards = append(v.discards, old.ID)
	}
}

// repeat answers a client that put the same content again: nothing changes, and what the client says
// of its attributes right after is dropped (strict) or recorded (versioned).
func (v *Vault) repeat(u *Upload, s *spot) error {
	v.forgetUpload(u)
	if err := v.vol.Discard(u.id); err != nil {
		return err
	}
	if s.mode == Versioned {
		return v.setMeta(u.f, s, u.meta)
	}
	v.repeats(s, u.f.who.Key)
	return nil
}

// repeats remembers that key has just put again what s stands for. mu is held.
func (v *Vault) repeats(s *spot, key string) {
	if s.mode != Strict {
		return
	}
	if len(v.repeated) >= maxRemembered {
		clear(v.repeated)
	}
	v.repeated[s.loc] = repeat{key, v.cfg.Now()}
}

// forgetUpload takes u out of the table of uploads. mu is held.
func (v *Vault) forgetUpload(u *Upload) {
	us := v.uploads[u.loc]
	for i, x := range us {
		if x == u {
			us = append(us[:i:i], us[i+1:]...)
			v.uploadCount--
			break
		}
	}
	if len(us) == 0 {
		delete(v.uploads, u.loc)
	} else {
		v.uploads[u.loc] = us
	}
	v.unnote(u)
}

// unnote removes the note beside u's content. mu is held.
func (v *Vault) unnote(u *Upload) {
	if !u.noted {
		return
	}
	u.noted = false
	if err := v.vol.RemoveNote(AreaStaging, u.id.String()); err != nil {
		v.cfg.Log.Error("remove note", "error", err.Error())
	}
}

// retract ends an upload without a trace. u.mu is held.
func (v *Vault) retract(u *Upload) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.dropUpload(u)
}

// dropUpload is retract with mu held, for uploads that nobody writes to any more.
func (v *Vault) dropUpload(u *Upload) {
	v.forgetUpload(u)
	v.letGo(u)
	delete(v.unsynced, u.id)
	if !u.locks {
		v.discard(u.id)
	}
}

// discard drops a staged content that no record names. A vault that failed keeps it until recovery:
// it is not known whether the live tree has a name for it, which then would be its only one. mu is held.
func (v *Vault) discard(id journal.ID) {
	if v.Err() != nil {
		return
	}
	if err := v.vol.Discard(id); err != nil {
		v.cfg.Log.Error("drop staged content", "id", id.String(), "error", err.Error())
	}
}

// drop is discard for those that do not hold mu.
func (v *Vault) drop(id journal.ID) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.discard(id)
}

// hashLater computes the hash of a content that was published without, and journals it. mu is held.
func (v *Vault) hashLater(id journal.ID, size int64, d *digest) {
	v.pendingHashes++
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		h, err := v.hashNow(id, size, d)
		v.lockNames()
		defer v.mu.Unlock()
		v.pendingHashes--
		if err == nil {
			err = v.commit(&journal.Record{Op: journal.OpHash, ID: id, SHA256: h, Key: "server"}, journal.Loc{}, journal.Loc{})
		}
		if err != nil {
			v.cfg.Log.Error("hash content", "id", id.String(), "error", err.Error())
		}
	}()
}

// hashSlots bounds the background reads of all vaults of the process.
var hashSlots = make(chan struct{}, 2)

func (v *Vault) hashNow(id journal.ID, size int64, d *digest) (journal.Hash, error) {
	hashSlots <- struct{}{}
	defer func() { <-hashSlots }()
	c, err := v.openContent(id)
	if err != nil {
		return journal.Hash{}, err
	}
	defer c.Close()
	return d.complete(c, size)
}

// sealOld seals what has been fresh for long enough. mu is held.
func (v *Vault) sealOld() {
	if v.idx.Totals().Fresh == 0 || v.Err() != nil {
		return
	}
	places, err := v.idx.Fresh()
	if err != nil {
		v.cfg.Log.Error("list fresh files", "error", err.Error())
		return
	}
	now := v.cfg.Now()
	for _, at := range places {
		e, err := v.entry(at)
		if err != nil || e == nil || !e.Fresh {
			continue
		}
		wait := defaultWindow
		if !isTemporary(at.Name) {
			wait = min(wait, v.policy.SealAfter)
		}
		if now.Sub(e.Received) < wait {
			continue
		}
		if err := v.sealFresh(at, e); err != nil {
			v.cfg.Log.Error("seal fresh file", "error", err.Error())
		}
	}
}

// sealFresh seals a fresh name where it is. mu is held.
func (v *Vault) sealFresh(at journal.Loc, e *journal.Entry) error {
	rel, err := v.livePath(at)
	if err != nil {
		return err
	}
	undo, err := v.linkTree(e.ID, &spot{loc: at, path: "/" + rel, rel: rel})
	if err != nil {
		return err
	}
	r := &journal.Record{Op: journal.OpSeal, Path: rel, Key: "server"}
	if err := v.commit(r, at, journal.Loc{}); err != nil {
		return v.undo(err, undo)
	}
	v.unsealed[e.ID] = sealing{e.Kind, e.Meta}
	return nil
}

// SealKey seals what a key left fresh and ends its interrupted uploads: it was revoked.
func (v *Vault) SealKey(key string) error {
	v.lockNames()
	defer v.mu.Unlock()
	places, err := v.idx.Fresh()
	if err != nil {
		return err
	}
	for _, at := range places {
		e, lerr := v.entry(at)
		if lerr == nil && e != nil && e.Fresh && e.Key == key {
			lerr = v.sealFresh(at, e)
		}
		err = errors.Join(err, lerr)
	}
	for _, us := range v.uploads {
		for _, u := range append([]*Upload(nil), us...) {
			if u.interrupted && u.key == key {
				v.dropUpload(u)
			}
		}
	}
	return err
}

// metaAt is m as the volume should carry it: with the time that clients are shown.
func metaAt(m journal.Meta, received time.Time) journal.Meta {
	if m.MTime.IsZero() {
		m.MTime = journal.At(received)
	}
	return m
}

// The bounds of what a client may say of one entry.
const (
	maxXAttrs     = 128
	maxXAttrBytes = 64 << 10
)

// mergeMeta returns m with what is set in change.
func mergeMeta(m, change journal.Meta) (journal.Meta, error) {
	if change.Mode != Unset {
		m.Mode = change.Mode & 0o7777
	}
	if change.UID != Unset {
		m.UID = change.UID
	}
	if change.GID != Unset {
		m.GID = change.GID
	}
	if !change.MTime.IsZero() {
		m.MTime = change.MTime
	}
	if !change.ATime.IsZero() {
		m.ATime = change.ATime
	}
	if change.RDev != 0 {
		m.RDev = change.RDev
	}
	if change.XAttrs != nil {
		size := 0
		for name, value := range change.XAttrs {
			size += len(name) + len(value)
		}
		if size > maxXAttrBytes || len(change.XAttrs) > maxXAttrs {
			return m, &DeniedError{OpSetMeta, "attributes", RuleSize, "they are too large to be stored", ""}
		}
		m.XAttrs = change.XAttrs
	}
	return m, nil
}
