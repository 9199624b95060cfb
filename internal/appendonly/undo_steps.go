package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"vaultd/internal/journal"
)

// do undoes: what was added and stands in nobody's way goes first (what has to be moved back waits for its place), then directories come
// back, then what was in them.
func (u *undoing) do(ctx context.Context) error {
	for again := true; again; {
		again = false
		for i := len(u.places) - 1; i >= 0; i-- { // what is in a directory before it
			p := u.places[i]
			if p.done || p.now == nil || !u.mustGo(p) {
				continue
			}
			gone, err := u.remove(ctx, p)
			if err != nil {
				return err
			}
			again = again || gone
		}
		for _, p := range u.places {
			if p.done || p.then == nil || p.then.Kind != KindDir {
				continue
			}
			moved, err := u.moveDir(ctx, p)
			if err != nil {
				return err
			}
			again = again || moved
		}
	}
	for _, p := range u.places {
		if p.done || p.then == nil {
			continue
		}
		if err := errors.Join(ctx.Err(), u.bring(p)); err != nil {
			return err
		}
	}
	clear(u.wants) // what could come back has: nothing waits for a content any more
	for i := len(u.places) - 1; i >= 0; i-- {
		p := u.places[i]
		if p.done {
			continue
		}
		if gone, err := u.remove(ctx, p); err != nil {
			return err
		} else if !gone {
			u.leave(p, leftOthers)
		}
	}
	return nil
}

// mustGo reports whether what stands at p has to go before, or is all that has to be done.
func (u *undoing) mustGo(p *place) bool {
	switch {
	case p.then == nil:
		return p.now.Kind != KindDir || u.home[p.now.Dir] == nil // that one is moved back
	case p.then.Kind == KindDir:
		return p.now.Kind != KindDir || p.now.Dir != p.then.Dir && u.isLive(p.then.Dir)
	case p.now.Kind.HasContent() && p.then.Kind.HasContent():
		return false // one takes the other's place
	}
	return p.now.Kind != p.then.Kind || p.now.Target != p.then.Target
}

// isLive reports whether a directory is somewhere in the live tree.
func (u *undoing) isLive(dir journal.DirID) bool {
	_, err := u.dirPath(dir)
	return err == nil
}

// dirPath is the live path of a directory; fs.ErrNotExist when it is gone.
func (u *undoing) dirPath(dir journal.DirID) (string, error) {
	if dir == 0 {
		return "", nil
	}
	at, err := u.v.idx.Place(dir)
	if err != nil {
		return "", err
	}
	rel, err := u.v.livePath(at)
	if err != nil {
		return "", fs.ErrNotExist
	}
	e, err := u.v.entry(at)
	if err == nil && (e == nil || e.Kind != KindDir || e.Dir != dir) {
		err = fs.ErrNotExist
	}
	return rel, err
}

// remove lets p's name go; a directory only when it is empty.
func (u *undoing) remove(ctx context.Context, p *place) (bool, error) {
	if u.movesBack(p) {
		return false, nil
	}
	gone := false
	err := errors.Join(ctx.Err(), u.v.retireOne(p.at, p.now, u.o.Why, func(r Retired) {
		gone = true
		if p.then == nil { // else its end is told when the other is back
			p.done = true
			u.each(Undone{Path: r.Path, Step: StepRemoved, Kind: r.Kind, Size: r.Size})
		}
	}))
	if gone {
		p.now = nil
	}
	return gone, err
}

// movesBack reports whether what was added at p is the content that another place waits for: it goes there in one step.
func (u *undoing) movesBack(p *place) bool {
	return p.then == nil && !p.now.Fresh && p.now.Kind.HasContent() && u.wants[p.now.ID] > 0 && u.live[p.now.ID] == p.at
}

// moveDir moves the directory that p stood for back, if it is somewhere else and p's place is free.
func (u *undoing) moveDir(ctx context.Context, p *place) (bool, error) {
	u.v.lockNames()
	defer u.v.mu.Unlock()
	from, err := u.dirPath(p.then.Dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && p.now != nil && p.now.Dir == p.then.Dir {
		return false, nil
	}
	at, perr := u.v.idx.Place(p.then.Dir)
	there, eerr := u.v.entry(at)
	if err = errors.Join(ctx.Err(), err, perr, eerr); err != nil {
		return false, err
	}
	if there == nil || !u.made(there) { // somebody else has moved it since
		return false, nil
	}
	rel, err := u.free(p)
	if err != nil || rel == "" {
		return false, err
	}
	if within(rel, from) {
		return false, nil
	}
	if err := u.v.vol.Rename(from, rel); err != nil {
		return false, u.v.tree(err)
	}
	r := &journal.Record{Op: journal.OpMove, Path: from, To: rel, Key: operatorKey, Note: u.o.Why, Meta: NoMeta()}
	if err := u.v.commit(r, at, p.at); err != nil {
		return false, u.v.undo(err, func() error { return u.v.vol.Rename(rel, from) })
	}
	p.done = true
	u.each(Undone{Path: rel, From: from, Step: StepMoved, Kind: KindDir})
	if q := u.found[at]; q != nil {
		q.now, q.done = nil, q.then == nil
	}
	moved, err := u.v.entry(p.at)
	if err == nil && moved != nil {
		err = u.putMeta(p.at, rel, moved, p.then)
	}
	return true, err
}

// free returns p's live path when its directory is there and nothing stands at it; "" otherwise. v.mu is held.
func (u *undoing) free(p *place) (string, error) {
	if now, err := u.v.entry(p.at); err != nil || now != nil {
		return "", err
	}
	rel, err := u.v.livePath(p.at)
	return rel, ignoreMissing(err)
}

// bring lets p stand for what it stood for, or says why not.
func (u *undoing) bring(p *place) error {
	p.done = true
	why, err := u.bringBack(p)
	if err != nil {
		return fmt.Errorf("undo %s: %w", QuotePath("/"+p.path), err)
	}
	if why != "" {
		u.leave(p, why)
	}
	return nil
}

func (u *undoing) leave(p *place, why string) {
	e := p.then
	if e == nil {
		e = p.now
	}
	out := Undone{Path: p.path, Step: StepLeft, Why: why}
	if e != nil {
		out.Kind, out.Size = e.Kind, e.Size
	}
	u.each(out)
}

// The reasons for which a name is left.
const (
	leftOthers  = "it holds what others have put there"
	leftChanged = "it was changed since by somebody else"
	leftDir     = "its directory is gone, by somebody else"
	leftFreed   = "its content was let go by retention"
	leftDamaged = "its content is damaged"
)

// lost says why a content can not come back.
func (u *undoing) lost(e *journal.Entry) (string, error) {
	if !e.Kind.HasContent() {
		return "", nil
	}
	if freed, err := u.v.idx.Freed(e.ID); err != nil || freed {
		return leftFreed, err
	}
	if void, err := u.v.idx.Void(e.ID); err != nil || void {
		return leftDamaged, err
	}
	return "", nil
}

func (u *undoing) bringBack(p *place) (why string, err error) {
	u.v.lockNames()
	defer u.v.mu.Unlock()
	if why, err = u.lost(p.then); why != "" || err != nil {
		return why, err
	}
	if p.then.Kind == KindDir && u.isLive(p.then.Dir) && (p.now == nil || p.now.Dir != p.then.Dir) {
		return leftChanged, nil // it could not be moved back
	}
	dir, err := u.directory(p.at.Dir, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return leftDir, nil
	}
	if err != nil {
		return "", err
	}
	at := journal.Loc{Dir: dir, Name: p.at.Name}
	rel, err := u.v.livePath(at)
	if err != nil {
		return leftDir, ignoreMissing(err)
	}
	now, err := u.v.entry(at)
	if err != nil {
		return "", err
	}
	if now != nil && restores(now, p.then) {
		return "", nil
	}
	if at == p.at && (now == nil) != (p.now == nil) || now != nil && !u.made(now) {
		return leftChanged, nil
	}
	return u.put(p, at, rel, now)
}

// put lets at, which stands for now, stand for what p stood for. v.mu is held.
func (u *undoing) put(p *place, at journal.Loc, rel string, now *journal.Entry) (why string, err error) {
	e := p.then
	switch {
	case now != nil && now.Kind == e.Kind && (e.Kind == KindDir || now.ID == e.ID && now.Target == e.Target):
		if e.Kind == KindDir && now.Dir != e.Dir {
			u.anew[e.Dir] = now.Dir
		}
		return "", u.putMeta(at, rel, now, e)
	case now != nil && !(now.Kind.HasContent() && e.Kind.HasContent()):
		return leftOthers, nil
	case e.Kind == KindDir:
		return "", u.mkdir(p, at, rel)
	case e.Kind == KindSymlink:
		r := u.record(journal.OpSymlink, rel, e)
		r.Target = e.Target
		if err := u.v.tree(u.v.vol.Symlink(e.Target, rel)); err != nil {
			return "", err
		}
		return "", u.commit(r, at, journal.Loc{}, func() error { return u.v.vol.Unlink(rel) }, Undone{Path: rel, Step: StepRestored, Kind: e.Kind})
	}
	return "", u.putContent(at, rel, now, e)
}

func (u *undoing) record(op journal.Op, rel string, e *journal.Entry) *journal.Record {
	return &journal.Record{Op: op, Path: rel, Meta: e.Meta, Key: operatorKey, Note: u.o.Why}
}

func (u *undoing) commit(r *journal.Record, at, to journal.Loc, back func() error, told Undone) error {
	if err := u.v.commit(r, at, to); err != nil {
		return u.v.undo(err, back)
	}
	u.each(told)
	return nil
}

func (u *undoing) putMeta(at journal.Loc, rel string, now, e *journal.Entry) error {
	if now.Meta.Equal(e.Meta) {
		return nil
	}
	r := u.record(journal.OpMeta, rel, e)
	r.Keep = true
	if err := u.commit(r, at, journal.Loc{}, nil, Undone{Path: rel, Step: StepMeta, Kind: e.Kind, Size: e.Size}); err != nil {
		return err
	}
	if e.Kind.HasContent() {
		u.v.unsealed[e.ID] = sealing{e.Kind, e.Meta}
	}
	return nil
}

// directory returns the live directory for one that may be gone: it is made again where it was.
func (u *undoing) directory(dir journal.DirID, depth int) (journal.DirID, error) {
	if now, ok := u.anew[dir]; ok {
		dir = now
	}
	if _, err := u.dirPath(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	p := u.home[dir]
	if p == nil || depth > maxPath {
		return 0, fs.ErrNotExist
	}
	parent, err := u.directory(p.at.Dir, depth+1)
	if err != nil {
		return 0, err
	}
	at := journal.Loc{Dir: parent, Name: p.at.Name}
	rel, err := u.v.livePath(at)
	if err != nil {
		return 0, fs.ErrNotExist
	}
	now, err := u.v.entry(at)
	switch {
	case err != nil:
		return 0, err
	case now != nil && now.Kind == KindDir:
		return now.Dir, nil
	case now != nil:
		return 0, fs.ErrNotExist
	}
	p.done = true
	err = u.mkdir(p, at, rel)
	return u.anew[dir], err
}

// mkdir makes p's directory again. v.mu is held.
func (u *undoing) mkdir(p *place, at journal.Loc, rel string) error {
	if err := u.v.tree(u.v.vol.Mkdir(rel)); err != nil {
		return err
	}
	r := u.record(journal.OpMkdir, rel, p.then)
	err := u.commit(r, at, journal.Loc{}, func() error { return u.v.vol.Rmdir(rel) }, Undone{Path: rel, Step: StepRestored, Kind: KindDir})
	if err == nil {
		u.anew[p.then.Dir] = journal.DirID(r.Seq)
	}
	return err
}

// putContent gives a content that has never left the store the name rel again, over what stands there. v.mu is held.
func (u *undoing) putContent(at journal.Loc, rel string, now, e *journal.Entry) error {
	from, there, err := u.liveName(e)
	if err != nil {
		return err
	}
	told := Undone{Path: rel, Step: StepRestored, Kind: e.Kind, Size: e.Size}
	undo, err := u.v.linkTree(e.ID, &spot{loc: at, rel: rel, path: "/" + rel, entry: now})
	if err != nil {
		return err
	}
	var r *journal.Record
	var to journal.Loc
	src := at
	switch {
	case there == "":
		r = u.record(journal.OpRestore, rel, e)
		r.ID, r.Kind, r.Size, r.Managed = e.ID, e.Kind, e.Size, e.Managed
		if r.SHA256, err = u.v.idx.Hash(e); err != nil {
			return u.v.undo(err, undo)
		}
	case u.added(from):
		r = &journal.Record{Op: journal.OpMove, Path: there, To: rel, ID: e.ID, Key: operatorKey, Note: u.o.Why, Meta: NoMeta()}
		src, to, told.Step, told.From = from, at, StepMoved, there
	default:
		r = &journal.Record{Op: journal.OpLink, Path: there, To: rel, ID: e.ID, Key: operatorKey, Note: u.o.Why, Meta: NoMeta()}
		src, to = from, at
	}
	if err := u.commit(r, src, to, undo, told); err != nil {
		return err
	}
	u.live[e.ID] = at
	u.v.dropFresh(now)
	if r.Op != journal.OpMove {
		return nil
	}
	if err := u.v.dropped(there, u.v.vol.Unlink(there)); err != nil {
		return err
	}
	moved, err := u.v.entry(at)
	if err != nil || moved == nil {
		return err
	}
	return u.putMeta(at, rel, moved, e)
}

// liveName finds a live name of e's content; "" when it has none. v.mu is held.
func (u *undoing) liveName(e *journal.Entry) (journal.Loc, string, error) {
	places := []journal.Loc{}
	if at, ok := u.live[e.ID]; ok {
		places = append(places, at)
	}
	links, err := u.v.idx.Links(e.ID)
	for _, at := range append(places, links...) {
		x, xerr := u.v.entry(at)
		if err = errors.Join(err, xerr); err != nil {
			return at, "", err
		}
		if x == nil || x.ID != e.ID {
			continue
		}
		rel, perr := u.v.livePath(at)
		if perr == nil {
			return at, rel, nil
		}
		err = ignoreMissing(perr)
	}
	return journal.Loc{}, "", err
}

// added reports whether a name is one of those that go, and notes that it does.
func (u *undoing) added(at journal.Loc) bool {
	p := u.found[at]
	if p == nil || p.then != nil || p.done {
		return false
	}
	p.done = true
	return true
}

// tell says what do would do.
func (u *undoing) tell(ctx context.Context) error {
	moved := map[journal.Loc]bool{}
	var out []Undone
	for _, p := range u.places {
		if p.then == nil {
			continue
		}
		t := Undone{Path: p.path, Step: StepRestored, Kind: p.then.Kind, Size: p.then.Size}
		why, err := u.lost(p.then)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		from, away := u.live[p.then.ID], p.then.Kind.HasContent()
		if p.then.Kind == KindDir {
			if at, err := u.v.idx.Place(p.then.Dir); err == nil && u.isLive(p.then.Dir) {
				from, away = at, true
			}
		}
		switch {
		case why != "":
			t.Step, t.Why = StepLeft, why
		case p.now != nil && p.now.Kind == p.then.Kind && p.now.ID == p.then.ID && p.now.Target == p.then.Target && (p.then.Kind != KindDir || p.now.Dir == p.then.Dir || !away):
			t.Step = StepMeta
			if p.now.Meta.Equal(p.then.Meta) {
				continue
			}
		case away && from != (journal.Loc{}) && from != p.at && u.isAdded(from):
			t.Step = StepMoved
			t.From, _ = u.v.idx.Path(from)
			moved[from] = true
		}
		out = append(out, t)
	}
	for i := len(u.places) - 1; i >= 0; i-- {
		if p := u.places[i]; p.then == nil && !moved[p.at] {
			u.each(Undone{Path: p.path, Step: StepRemoved, Kind: p.now.Kind, Size: p.now.Size})
		}
	}
	for _, t := range out {
		u.each(t)
	}
	return nil
}

func (u *undoing) isAdded(at journal.Loc) bool {
	p := u.found[at]
	return p != nil && p.then == nil
}
