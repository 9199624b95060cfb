package appendonly

import (
	"io/fs"

	"vaultd/internal/journal"
)

// Rename moves a name. With replace, an existing target is overwritten as Create would; without, it is fs.ErrExist.
func (f *FS) Rename(from, to string, replace bool) (err error) {
	defer func() { f.count.denied(err) }()
	f.v.lockNames()
	defer f.v.mu.Unlock()
	src, err := f.spot(OpRename, from)
	if err != nil {
		return err
	}
	dst, err := f.spot(OpCreate, to)
	if err != nil {
		return err
	}
	if src.state == StateAbsent {
		if err := f.writes(OpRename, &src); err != nil {
			return err
		}
		if f.renamedBefore(src.loc, dst.loc) {
			return nil
		}
		return pathError(OpRename, src.path, fs.ErrNotExist)
	}
	if _, err := f.decide(OpRename, &src); err != nil {
		return err
	}
	if dst.state == StateView || dst.state == StateReserved {
		_, err := f.decide(OpCreate, &dst)
		return err
	}
	if src.loc == dst.loc {
		return nil
	}
	switch {
	case src.lock != nil:
		return f.v.moveLock(&src, &dst, replace)
	case src.up != nil && src.up.locks:
		return denied(OpRename, src.path, noUnfinished)
	case dst.locks:
		return denied(OpRename, dst.path, noKind)
	case src.up != nil:
		f.v.moveUpload(src.up, &dst)
		return nil
	case src.entry.Kind == KindDir:
		err = f.moveDir(&src, &dst)
	case src.entry.Fresh:
		err = f.moveFresh(&src, &dst, replace)
	default:
		err = f.moveSealed(&src, &dst, replace)
	}
	if err == nil {
		f.v.remember(src.loc, dst.loc, f.who.Key)
	}
	return err
}

// renamedBefore reports whether this key made just this rename a moment ago: the client's reply was lost.
func (f *FS) renamedBefore(from, to journal.Loc) bool {
	r, ok := f.v.renamed[from]
	return ok && r.to == to && r.key == f.who.Key && f.v.cfg.Now().Sub(r.at).Abs() < journal.Settle
}

func (v *Vault) remember(from, to journal.Loc, key string) {
	if len(v.renamed) >= maxRemembered {
		clear(v.renamed)
	}
	v.renamed[from] = rename{to, key, v.cfg.Now()}
}

// moveUpload lets an unfinished upload be published elsewhere.
func (v *Vault) moveUpload(u *Upload, dst *spot) {
	noted := u.noted
	v.forgetUpload(u)
	u.loc = dst.loc
	v.addUpload(u)
	if noted && u.interrupted {
		v.note(u, u.size, u.size)
	}
}

// moveFresh gives a closed upload under a temporary name another one; an ordinary name seals it.
func (f *FS) moveFresh(src, dst *spot, replace bool) error {
	e := src.entry
	if dst.entry != nil && !replace {
		return pathError(OpRename, dst.path, fs.ErrExist)
	}
	if dst.entry != nil {
		op, err := f.v.compareContents(e, dst.entry, f.who.Key)
		if err != nil {
			return err
		}
		effect, err := f.decide(op, dst)
		if err != nil {
			return err
		}
		if effect == Ignore { // the same is there already: the upload has done its work
			f.v.repeats(dst, f.who.Key)
			f.count.unchanged(dst.rel, e.Size)
			return f.end(src, Drop)
		}
	} else if _, err := f.decide(OpCreate, dst); err != nil {
		return err
	}
	if err := f.admit(0, true); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	r := f.record(journal.OpMove, src.rel)
	r.To, r.ID, r.Fresh = dst.rel, e.ID, f.v.staysFresh(dst)
	if r.Fresh {
		if err := f.v.commit(r, src.loc, dst.loc); err != nil {
			return err
		}
		f.v.dropFresh(dst.entry)
		return nil
	}
	undo, err := f.v.linkTree(e.ID, dst)
	if err != nil {
		return err
	}
	if err := f.v.commit(r, src.loc, dst.loc); err != nil {
		return f.v.undo(err, undo)
	}
	f.v.unsealed[e.ID] = sealing{e.Kind, e.Meta}
	if isTemporary(src.loc.Name) {
		f.arrived(OpCreate, dst.rel, e.Size, dst.entry)
	}
	f.v.dropFresh(dst.entry)
	f.changed()
	return nil
}

// compareContents says which operation letting a name stand for e instead of there is. mu is held: both
// hashes are known, but for uploads with gaps.
func (v *Vault) compareContents(e, there *journal.Entry, key string) (Op, error) {
	if there.Fresh || there.Kind != KindFile || e.Kind != KindFile || e.Size < there.Size {
		return OpOverwrite, nil
	}
	want, err := v.contentHash(there)
	if err != nil {
		return OpOverwrite, err
	}
	if e.Size == there.Size {
		h, err := v.contentHash(e)
		if err == nil && h == want {
			return OpRepeat, nil
		}
		return OpOverwrite, err
	}
	if !v.goesOn(there, key) {
		return OpOverwrite, nil
	}
	c, err := v.openContent(e.ID)
	if err != nil {
		return OpOverwrite, err
	}
	defer c.Close()
	if h, err := hashContent(c, there.Size); err != nil || h != want {
		return OpOverwrite, err
	}
	return OpExtend, nil
}

// moveSealed moves a sealed name (versioned): the new one is there before the old one goes.
func (f *FS) moveSealed(src, dst *spot, replace bool) error {
	e := src.entry
	if dst.entry != nil {
		if !replace {
			return pathError(OpRename, dst.path, fs.ErrExist)
		}
		if dst.entry.Kind == KindDir {
			return pathError(OpRename, dst.path, ErrIsDir)
		}
		if effect, err := f.decide(OpOverwrite, dst); err != nil || effect == Deny {
			return err
		}
		if e.Kind.HasContent() && e.ID == dst.entry.ID {
			return nil // two names of one content: nothing happens, as POSIX has it
		}
	} else if _, err := f.decide(OpCreate, dst); err != nil {
		return err
	}
	if err := f.admit(0, true); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	r := f.record(journal.OpMove, src.rel)
	r.To, r.ID = dst.rel, e.ID
	undo, err := f.linkOver(e, dst)
	if err != nil {
		return f.treeError(OpRename, dst, err)
	}
	if err := f.v.commit(r, src.loc, dst.loc); err != nil {
		return f.v.undo(err, undo)
	}
	if dst.entry != nil && !dst.entry.Fresh {
		f.count.retired(dst.entry.Size)
	}
	f.count.retired(e.Size)
	f.v.dropFresh(dst.entry)
	f.changed()
	return f.v.dropped(src.rel, f.v.vol.Unlink(src.rel))
}

// linkOver gives what e is the name dst in the tree. undo takes it back.
func (f *FS) linkOver(e *journal.Entry, dst *spot) (undo func() error, err error) {
	old := dst.entry
	if e.Kind.HasContent() && (old == nil || old.Kind.HasContent()) {
		return f.v.linkTree(e.ID, dst)
	}
	if old == nil || old.Fresh {
		return func() error { return f.v.vol.Unlink(dst.rel) }, f.v.tree(f.v.treeAdd(e, dst.rel))
	}
	// Links can not replace each other: the name is missing for a moment.
	if err := f.v.vol.Unlink(dst.rel); err != nil {
		return nil, f.v.tree(err)
	}
	back := func() error { return f.v.treeAdd(old, dst.rel) }
	if err := f.v.tree(f.v.treeAdd(e, dst.rel)); err != nil {
		return nil, f.v.undo(err, back)
	}
	return func() error {
		if err := f.v.vol.Unlink(dst.rel); err != nil {
			return err
		}
		return back()
	}, nil
}

// moveDir moves a directory (versioned) with all below it: one record.
func (f *FS) moveDir(src, dst *spot) error {
	switch {
	case dst.entry != nil:
		return pathError(OpRename, dst.path, fs.ErrExist)
	case src.root || within(dst.rel, src.rel):
		return pathError(OpRename, dst.path, fs.ErrInvalid)
	case f.v.policy.bounds(src.rel), src.mode != dst.mode:
		return denied(OpRename, src.path, no(P2, "a boundary between two modes would move with it", "Ask the vault's operator"))
	}
	if _, err := f.decide(OpMkdir, dst); err != nil {
		return err
	}
	if err := f.admit(0, true); err != nil {
		return err
	}
	if err := f.introduce(); err != nil {
		return err
	}
	if err := f.v.vol.Rename(src.rel, dst.rel); err != nil {
		return f.treeError(OpRename, dst, err)
	}
	r := f.record(journal.OpMove, src.rel)
	r.To = dst.rel
	if err := f.v.commit(r, src.loc, dst.loc); err != nil {
		return f.v.undo(err, func() error { return f.v.vol.Rename(dst.rel, src.rel) })
	}
	f.count.retired(0)
	f.changed()
	return nil
}
