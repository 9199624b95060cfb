package appendonly

import (
	"errors"
	"io/fs"
	"time"

	"vaultd/internal/journal"
)

// Mkdir makes a directory.
func (f *FS) Mkdir(path string, m Meta) error {
	return f.make(OpMkdir, path, m, 0, f.mkdir)
}

func (f *FS) mkdir(r *journal.Record) (undo func() error, err error) {
	return func() error { return f.v.vol.Rmdir(r.Path) }, f.v.vol.Mkdir(r.Path)
}

// Symlink makes a link. The target is stored as it is.
func (f *FS) Symlink(target, path string, m Meta) error {
	if len(target) > maxPath {
		return pathError(OpSymlink, path, ErrNameTooLong)
	}
	if target == "" || indexNUL(target) {
		return pathError(OpSymlink, path, ErrBadName)
	}
	return f.make(OpSymlink, path, m, 0, func(r *journal.Record) (func() error, error) {
		r.Target = target
		return func() error { return f.v.vol.Unlink(r.Path) }, f.v.vol.Symlink(target, r.Path)
	})
}

func indexNUL(s string) bool {
	for i := range len(s) {
		if s[i] == 0 {
			return true
		}
	}
	return false
}

// Mknod stores a fifo, socket or device as metadata on an empty content.
func (f *FS) Mknod(path string, k Kind, m Meta) (err error) {
	if !k.IsSpecial() {
		return pathError(OpMknod, path, ErrNotRegular)
	}
	id := journal.NewID()
	staged, err := f.v.vol.Stage(id)
	if err != nil {
		f.v.drop(id)
		return err
	}
	staged.Close()
	err = f.make(OpMknod, path, m, k, func(r *journal.Record) (func() error, error) {
		r.ID = id
		return func() error { return f.v.vol.Unlink(r.Path) }, f.v.vol.Link(id, r.Path)
	})
	if err != nil {
		f.v.drop(id)
		return err
	}
	f.v.settled(id)
	return nil
}

var makeOps = map[Op]journal.Op{OpMkdir: journal.OpMkdir, OpSymlink: journal.OpSymlink, OpMknod: journal.OpNode}

// make adds a name that is not a file's: in the tree first (apply, which returns how to undo it), then in the journal.
func (f *FS) make(op Op, path string, m Meta, k Kind, apply func(*journal.Record) (func() error, error)) (err error) {
	defer func() { f.count.denied(err) }()
	meta, err := mergeMeta(NoMeta(), m)
	if err != nil {
		return err
	}
	f.v.lockNames()
	defer f.v.mu.Unlock()
	if err := f.needRoot(path); err != nil {
		return err
	}
	s, err := f.spot(op, path)
	if err != nil {
		return err
	}
	if s.entry != nil || s.lock != nil {
		s.state = StateAbsent // whether the key may make names at all comes before whether this one is free
		if _, err := f.decide(op, &s); err != nil {
			return err
		}
		return pathError(op, s.path, fs.ErrExist)
	}
	if _, err := f.decide(op, &s); err != nil {
		return err
	}
	return f.makeAt(op, &s, meta, k, apply)
}

// makeAt is make, where it was found that it may be done. v.mu is held.
func (f *FS) makeAt(op Op, s *spot, meta Meta, k Kind, apply func(*journal.Record) (func() error, error)) error {
	if k != 0 {
		if err := f.mayRecord(journal.Charge(0)); err != nil {
			return err
		}
	}
	if err := f.admit(1, false); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	r := f.record(makeOps[op], s.rel)
	r.Kind, r.Meta = k, meta
	undo, err := apply(r)
	if err != nil {
		return f.treeError(op, s, err)
	}
	if err := f.v.commit(r, s.loc, journal.Loc{}); err != nil {
		return f.v.undo(err, undo)
	}
	if k != 0 {
		f.v.unsynced[r.ID] = struct{}{}
		f.v.unsealed[r.ID] = sealing{k, meta}
	}
	if op == OpMkdir {
		f.count.madeDir()
	} else {
		f.count.came(s.rel, 0)
	}
	f.changed()
	return nil
}

// treeError explains an error of the live tree: a taken name there that the index does not know is
// the second guard at work.
func (f *FS) treeError(op Op, s *spot, err error) error {
	if errors.Is(err, fs.ErrExist) && !errors.Is(err, ErrReadOnly) {
		return pathError(op, s.path, fs.ErrExist)
	}
	return f.v.tree(err)
}

// Link gives the file at old the further name path.
func (f *FS) Link(old, path string) (err error) {
	defer func() { f.count.denied(err) }()
	f.v.lockNames()
	defer f.v.mu.Unlock()
	from, err := f.spot(OpLink, old)
	if err != nil {
		return err
	}
	to, err := f.spot(OpCreate, path)
	if err != nil {
		return err
	}
	if from.entry == nil && from.state == StateAbsent {
		if err := f.writes(OpLink, &from); err != nil {
			return err
		}
		return pathError(OpLink, from.path, fs.ErrNotExist)
	}
	if _, err := f.decide(OpLink, &from); err != nil {
		return err
	}
	if to.entry != nil || to.lock != nil {
		return pathError(OpLink, to.path, fs.ErrExist)
	}
	if _, err := f.decide(OpCreate, &to); err != nil {
		return err
	}
	if err := f.admit(1, false); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	if err := f.v.vol.Link(from.entry.ID, to.rel); err != nil {
		return f.treeError(OpLink, &to, err)
	}
	r := f.record(journal.OpLink, from.rel)
	r.To, r.ID = to.rel, from.entry.ID
	if err := f.v.commit(r, from.loc, to.loc); err != nil {
		return f.v.undo(err, func() error { return f.v.vol.Unlink(to.rel) })
	}
	f.count.unchanged(to.rel, from.entry.Size)
	f.changed()
	return nil
}

// Remove drops a name that is not a directory's: an own unfinished upload, a lock, or (versioned) a live name.
func (f *FS) Remove(path string) (err error) {
	defer func() { f.count.denied(err) }()
	f.v.lockNames()
	defer f.v.mu.Unlock()
	s, err := f.spot(OpRemove, path)
	if err != nil {
		return err
	}
	switch {
	case s.state == StateAbsent:
		if err := f.writes(OpRemove, &s); err != nil {
			return err
		}
		return pathError(OpRemove, s.path, fs.ErrNotExist)
	case s.entry != nil && s.entry.Kind == KindDir:
		if err := f.writes(OpRemove, &s); err != nil {
			return err
		}
		return pathError(OpRemove, s.path, ErrIsDir)
	}
	effect, err := f.decide(OpRemove, &s)
	if err != nil {
		return err
	}
	switch {
	case s.lock != nil:
		return f.v.removeLock(s.loc)
	case s.up != nil:
		return f.dropOwn(s.up)
	}
	return f.end(&s, effect)
}

// writes refuses keys and tenants that may not change anything, whatever stands at s.
func (f *FS) writes(op Op, s *spot) error {
	return f.may(Query{Mode: s.mode, Suspended: f.v.policy.Suspended, Op: OpCreate, State: StateAbsent}, s.path)
}

// dropOwn ends an unfinished upload of this key by its name. One that is being written can be closed,
// and is gone then, as POSIX has it.
func (f *FS) dropOwn(u *Upload) error {
	if u.interrupted {
		f.v.dropUpload(u)
		return nil
	}
	f.v.forgetUpload(u)
	u.removed = true
	return nil
}

// end records that s stands for nothing any more and drops its name from the tree. v.mu is held.
func (f *FS) end(s *spot, effect Effect) error {
	admit := f.admit
	if effect == Drop { // who may add nothing more today may still tidy up
		admit = f.v.admit
	}
	if err := admit(0, true); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	r := f.record(journal.OpRemove, s.rel)
	if effect == Drop { // fresh: not in the tree
		if err := f.v.commit(r, s.loc, journal.Loc{}); err != nil {
			return err
		}
		f.v.dropFresh(s.entry)
		return nil
	}
	// The journal comes first here: a name that is still in the tree is dropped again after a crash,
	// one that is missing without a record would have to be found out.
	if err := f.v.commit(r, s.loc, journal.Loc{}); err != nil {
		return err
	}
	f.changed()
	if s.entry.Kind == KindDir {
		return f.v.dropped(s.rel, f.v.vol.Rmdir(s.rel))
	}
	f.count.retired(s.entry.Size)
	return f.v.dropped(s.rel, f.v.vol.Unlink(s.rel))
}

// Rmdir drops an empty directory.
func (f *FS) Rmdir(path string) (err error) {
	defer func() { f.count.denied(err) }()
	f.v.lockNames()
	defer f.v.mu.Unlock()
	s, err := f.spot(OpRmdir, path)
	if err != nil {
		return err
	}
	switch {
	case s.entry == nil && s.state == StateAbsent, s.state == StateOpen:
		if err := f.writes(OpRmdir, &s); err != nil {
			return err
		}
		return pathError(OpRmdir, s.path, fs.ErrNotExist)
	case s.entry != nil && s.entry.Kind != KindDir:
		// pkg/sftp's client says RMDIR after a refused REMOVE, and restic retries whatever is no refusal.
		if _, err := f.decide(OpRemove, &s); err != nil {
			return err
		}
		return pathError(OpRmdir, s.path, ErrNotDir)
	}
	effect, err := f.decide(OpRmdir, &s)
	if err != nil {
		return err
	}
	if s.root || f.v.policy.bounds(s.rel) {
		return denied(OpRmdir, s.path, noRemoval)
	}
	below, err := f.v.idx.List(s.entry.Dir, journal.Now, "", 1)
	if err != nil {
		return err
	}
	if len(below) > 0 || f.v.holdsLocks(s.entry.Dir) {
		return pathError(OpRmdir, s.path, ErrNotEmpty)
	}
	return f.end(&s, effect)
}

// SetMeta changes mode, owner, times or attributes of a name: those of m that are set. With follow, a
// symlink at its end is refused: no change follows one.
func (f *FS) SetMeta(path string, m Meta, follow bool) (err error) {
	defer func() { f.count.denied(err) }()
	f.v.lockNames()
	if own, err := clean(OpSetMeta, path); err == nil && own == "" {
		if err := f.needRoot(path); err != nil {
			f.v.mu.Unlock()
			return err
		}
	}
	s, err := f.spot(OpSetMeta, path)
	if err == nil && follow && s.entry != nil && s.entry.Kind == KindSymlink {
		err = denied(OpSetMeta, s.path, noThrough)
	}
	if err == nil && s.state == StateAbsent {
		if err = f.writes(OpSetMeta, &s); err == nil {
			err = pathError(OpSetMeta, s.path, fs.ErrNotExist)
		}
	}
	if err == nil && s.up != nil {
		_, err = f.decide(OpSetMeta, &s)
	}
	if err != nil || s.up == nil {
		defer f.v.mu.Unlock()
		if err != nil {
			return err
		}
		return f.v.setMeta(f, &s, m)
	}
	u := s.up
	f.v.mu.Unlock() // an upload's lock comes before the vault's
	err = u.SetMeta(m)
	if errors.Is(err, ErrClosed) {
		return nil // interrupted: what it is published with is said again by who resumes it
	}
	return err
}

// setMeta changes what is set in m of s. v.mu is held.
func (v *Vault) setMeta(f *FS, s *spot, m Meta) error {
	old := NoMeta()
	if s.entry != nil {
		old = s.entry.Meta
	}
	merged, err := mergeMeta(old, m)
	if err != nil {
		return err
	}
	effect, err := f.decide(metaOp(old, merged, s), s)
	if err != nil || effect == Ignore || s.entry == nil {
		return err
	}
	if old.Equal(merged) || s.loc == (journal.Loc{}) { // the tenant's root has none
		return nil
	}
	if err := f.admit(0, true); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	r := f.record(journal.OpMeta, s.rel)
	r.Meta = merged
	if effect == Amend && s.mode == Versioned && !s.entry.Fresh && s.entry.From <= f.since {
		effect, r.Keep = Keep, true // a later session's change is one of its own: an instant between the two shows what was
	}
	if err := v.commit(r, s.loc, journal.Loc{}); err != nil {
		return err
	}
	if s.entry.Kind.HasContent() && !s.entry.Fresh {
		v.unsealed[s.entry.ID] = sealing{s.entry.Kind, merged}
	}
	if effect == Keep {
		f.changed()
	}
	return nil
}

// metaOp says which operation a change of attributes is.
func metaOp(old, merged Meta, s *spot) Op {
	tighter := merged
	tighter.Mode = old.Mode
	oldMode := old.Mode
	if oldMode == Unset && s.entry != nil {
		oldMode = DefaultMode(s.entry.Kind)
	}
	onlyMode := old.Equal(tighter)
	if onlyMode && (merged.Mode == old.Mode || merged.Mode&^oldMode == 0 && oldMode&^merged.Mode&^0o222 == 0) {
		return OpTighten
	}
	rest := merged
	rest.MTime, rest.ATime = old.MTime, old.ATime
	if old.Equal(rest) {
		if merged.ATime == old.ATime && s.entry != nil && old.MTime.IsZero() && merged.MTime == journal.At(s.entry.Received.Truncate(time.Second)) {
			return OpTighten // the very time it is shown with
		}
		return OpSetTimes
	}
	return OpSetMeta
}

// DefaultMode is the mode shown for entries of kind k whose mode no client set.
func DefaultMode(k Kind) int32 {
	switch k {
	case KindDir:
		return 0o755
	case KindSymlink:
		return 0o777
	}
	return 0o644
}

// Truncate changes a length by path (SETSTAT size): an open with writing, a truncation and a close in one.
func (f *FS) Truncate(path string, size int64) error {
	if size < 0 {
		return &DeniedError{OpTruncate, path, RuleSize, "the size is out of range", ""}
	}
	f.v.mu.Lock()
	s, err := f.spot(OpTruncate, path)
	if err == nil && s.up != nil {
		_, err = f.decide(OpTruncate, &s)
	}
	running := s.up != nil && !s.up.interrupted
	f.v.mu.Unlock()
	if err != nil {
		f.count.denied(err)
		return err
	}
	if running {
		return s.up.Truncate(size)
	}
	u, err := f.Create(path, CreateOptions{Truncate: size == 0, Meta: NoMeta()})
	if err != nil {
		return err
	}
	if err := u.Truncate(size); err != nil {
		u.Abort()
		return err
	}
	if s.up != nil { // it is as unfinished as before
		u.abort(false)
		return nil
	}
	return u.Close()
}
