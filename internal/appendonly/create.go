package appendonly

import (
	"errors"
	"io/fs"

	"vaultd/internal/journal"
)

// CreateOptions say how a name is opened for writing.
type CreateOptions struct {
	Create    bool // the name may be new; otherwise a missing one is fs.ErrNotExist
	Exclusive bool // the name must be new, else fs.ErrExist
	Truncate  bool // start empty; otherwise from what the name holds (or from an interrupted upload of this key)
	Resume    bool // start from this key's interrupted upload, whatever the name holds, or else empty
	Append    bool // writes below the initial length are taken relative to it
	Meta      Meta // as far as the client said
}

// Create opens path for writing. No name is claimed, nothing visible changes before Upload.Close.
func (f *FS) Create(path string, o CreateOptions) (up *Upload, err error) {
	defer func() { f.count.created(path, o, err) }()
	meta, err := mergeMeta(NoMeta(), o.Meta)
	if err != nil {
		return nil, err
	}
	for {
		u, running, err := f.create(path, o, meta)
		if running == nil {
			return u, err
		}
		if running.f == f {
			if running.join() {
				return running, nil
			}
		} else {
			running.Abort()
		}
	}
}

// create is Create, unless this key is still writing the name without having truncated it: then it
// returns that upload. A second handle of the same session shares it. One of another session is taken for
// lost, as its client must have: what arrived is gone on with, or the client, which was told
// how much is there, would leave a hole.
func (f *FS) create(path string, o CreateOptions, meta Meta) (u, running *Upload, err error) {
	u = &Upload{f: f, v: f.v, id: journal.NewID(), key: f.who.Key, handles: 1, append: -1, bound: -1, meta: meta, opened: f.v.cfg.Now()}
	f.v.lockNames()
	var s spot
	if o.Create {
		err = f.needRoot(path)
	}
	if err == nil {
		s, err = f.spot(OpCreate, path)
	}
	if err == nil {
		err = f.admitUpload(&s, o)
	}
	if err != nil {
		f.v.mu.Unlock()
		return nil, nil, err
	}
	if !o.Truncate && !o.Exclusive {
		if up := f.v.ownUpload(s.loc, f.who.Key); up != nil && !up.interrupted && (up.f == f || s.entry == nil) {
			f.v.mu.Unlock()
			return nil, up, nil
		}
	}
	u.name, u.loc, u.locks = s.path, s.loc, s.locks
	resumed := f.takeUp(u, &s, o)
	o.Truncate = o.Truncate || o.Resume && resumed == nil
	f.v.mu.Unlock()
	err = u.begin(&s, o, resumed)
	f.v.mu.Lock()
	if err != nil {
		f.v.giveBack(u, resumed)
	} else {
		f.v.addUpload(u)
	}
	f.v.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if err := f.started(u); err != nil {
		u.Abort()
		return nil, nil, err
	}
	return u, nil, nil
}

// admitUpload refuses at once what closing the upload could only refuse. v.mu is held.
func (f *FS) admitUpload(s *spot, o CreateOptions) error {
	if err := f.writes(OpCreate, s); err != nil {
		return err
	}
	ask := OpCreate
	if s.entry != nil {
		ask = OpRepeat // whether it is the same, only its bytes can tell
	}
	if s.state == StateView || s.state == StateReserved || s.entry == nil || s.entry.Kind == KindFile {
		if _, err := f.decide(ask, s); err != nil {
			return err
		}
	}
	if err := f.v.Err(); err != nil && !s.locks {
		return err
	}
	switch e := s.entry; {
	case e == nil && s.lock == nil && !o.Create && s.up == nil:
		return pathError(OpCreate, s.path, fs.ErrNotExist)
	case (e != nil || s.lock != nil) && o.Exclusive:
		return pathError(OpCreate, s.path, fs.ErrExist)
	case e == nil:
	case e.Kind == KindDir:
		return pathError(OpCreate, s.path, ErrIsDir)
	case e.Kind == KindSymlink:
		return denied(OpOverwrite, s.path, noThrough)
	case e.Kind != KindFile:
		return pathError(OpCreate, s.path, ErrNotRegular)
	}
	if !s.locks {
		if err := f.mayRecord(1); err != nil {
			return err
		}
	}
	if f.v.uploadCount >= maxUploads && !s.locks { // who is attacked can still lock (P7)
		return &DeniedError{OpCreate, s.path, RuleSize, "there are too many unfinished uploads", "Finish some first"}
	}
	return nil
}

// takeUp finds the interrupted upload that u goes on with, and drops it when u starts anew. Where
// the name stands for something, that is what the client was shown and means, unless it says otherwise. The note of what is
// gone on with stays: what it tells of the bytes so far is as true as before. v.mu is held.
func (f *FS) takeUp(u *Upload, s *spot, o CreateOptions) *Upload {
	old := f.v.interruptedUpload(s.loc, f.who.Key)
	if old == nil {
		return nil
	}
	if o.Truncate || o.Exclusive || s.entry != nil && !o.Resume {
		f.v.dropUpload(old)
		return nil
	}
	u.noted, old.noted = old.noted, false
	f.v.forgetUpload(old)
	f.v.handOn(old, u)
	u.id, u.under, u.stable = old.id, old.under, old.stable
	return old
}

// giveBack undoes takeUp: u could not be begun. mu is held.
func (v *Vault) giveBack(u, resumed *Upload) {
	if resumed == nil {
		v.discard(u.id)
		return
	}
	resumed.noted = u.noted
	v.handOn(u, resumed)
	v.addUpload(resumed)
}

// addUpload puts u into the table of uploads, as the newest under its name. mu is held.
func (v *Vault) addUpload(u *Upload) {
	v.uploads[u.loc] = append(v.uploads[u.loc], u)
	v.uploadCount++
}

// begin opens u's content: the interrupted one's, or a new one.
func (u *Upload) begin(s *spot, o CreateOptions, resumed *Upload) error {
	var err error
	switch {
	case u.locks:
		u.staged, u.trunc, u.digest = newLockContent(), true, newDigest(-1)
		if s.lock != nil && !o.Truncate {
			u.staged, u.size = newLockContent(s.lock.data...), int64(len(s.lock.data))
		}
	case resumed != nil:
		u.staged, err = u.v.vol.Resume(u.id)
		u.size, u.ranges, u.digest, u.trunc = resumed.size, extents{{0, resumed.size}}, resumed.digest, resumed.trunc
		if o.Meta.Mode == Unset {
			u.meta.Mode = resumed.meta.Mode
		}
	default:
		err = u.beginNew(s, o)
	}
	if err != nil {
		return err
	}
	if o.Append {
		u.append = u.size
	}
	return nil
}

func (u *Upload) beginNew(s *spot, o CreateOptions) error {
	var err error
	mark := int64(-1)
	u.under, u.trunc = s.entry, o.Truncate || s.entry == nil
	if e := s.entry; e != nil && !e.Fresh && s.mode == Strict {
		mark = e.Size
		if u.extends(e) != OpExtend {
			u.bound = e.Size // longer can only be refused: at the first byte too many
		}
	}
	u.digest = newDigest(mark)
	if !u.trunc {
		if u.base, err = u.v.openContent(s.entry.ID); err != nil {
			return err
		}
		u.visible, u.size = s.entry.Size, s.entry.Size
		u.digest.hasty = true // what it does not write is there: nothing to wait for
	}
	if mark >= 0 && u.f.who.Role != Push {
		if u.sealed, err = u.v.openContent(s.entry.ID); err != nil {
			u.closeSources()
			return err
		}
	}
	if u.staged, err = u.v.vol.Stage(u.id); err != nil {
		u.closeSources()
	}
	return err
}

// ownUpload returns the newest unfinished upload of key under a name. mu is held.
func (v *Vault) ownUpload(at journal.Loc, key string) *Upload {
	us := v.uploads[at]
	for i := len(us) - 1; i >= 0; i-- {
		if us[i].key == key {
			return us[i]
		}
	}
	return nil
}

// interruptedUpload returns the newest upload of key under a name whose client is gone. mu is held.
func (v *Vault) interruptedUpload(at journal.Loc, key string) *Upload {
	us := v.uploads[at]
	for i := len(us) - 1; i >= 0; i-- {
		if us[i].key == key && us[i].interrupted {
			return us[i]
		}
	}
	return nil
}

// Replace stores a new generation of a file that a protocol manages itself (a borg config). Earlier ones stay.
func (f *FS) Replace(path string, data []byte, m Meta) (err error) {
	defer func() { f.count.denied(err) }()
	meta, err := mergeMeta(NoMeta(), m)
	if err != nil {
		return err
	}
	id := journal.NewID()
	staged, err := f.v.vol.Stage(id)
	if err == nil {
		_, err = staged.WriteAt(data, 0)
		err = errors.Join(err, staged.Close())
	}
	if err == nil {
		err = f.replace(path, id, data, meta)
	}
	if err != nil {
		f.v.drop(id)
	}
	return err
}

func (f *FS) replace(path string, id journal.ID, data []byte, meta Meta) error {
	f.v.lockNames()
	defer f.v.mu.Unlock()
	if err := f.needRoot(path); err != nil {
		return err
	}
	s, err := f.spot(OpReplace, path)
	if err != nil {
		return err
	}
	if _, err := f.decide(OpReplace, &s); err != nil {
		return err
	}
	if err := f.mayRecord(journal.Charge(int64(len(data)))); err != nil {
		return err
	}
	d := newDigest(-1)
	d.write(data, 0)
	r := f.record(journal.OpCreate, s.rel)
	r.Kind, r.ID, r.Size, r.Meta, r.Managed = KindFile, id, int64(len(data)), meta, true
	r.SHA256, _ = d.result(r.Size)
	if err := f.v.place(f, r, &s); err != nil {
		return err
	}
	f.arrived(OpReplace, s.rel, r.Size, s.entry)
	f.v.settled(id)
	return nil
}
