package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"vaultd/internal/journal"
)

// Undo says what is to be undone: everything that one key, or everybody, did since a time, at and below a path.
type Undo struct {
	Key   string    // "": everybody
	Since time.Time // the first record of this time and all after it
	Path  string    // "" or "/": everywhere
	Why   string    // for the journal
	Dry   bool      // say it, and do nothing
}

// Step is what undoing does to one name.
type Step string

// The steps.
const (
	StepRemoved  Step = "removed"    // it had been added: it stands for nothing again
	StepRestored Step = "restored"   // it stands for what it stood for
	StepMoved    Step = "moved back" // from where it had been moved to
	StepMeta     Step = "attributes" // they are as they were
	StepLeft     Step = "left"       // it could not be undone: Why
)

// Undone is one name.
type Undone struct {
	Path string
	From string // moved back: from here
	Step Step
	Kind Kind
	Size int64
	Why  string
}

// Undo lets live names stand for what they stood for before somebody changed them: what was added goes, what was overwritten, removed,
// or moved on is there again, by new records in the operator's name. Nothing is lost by it: what it undoes becomes the past, and it can be
// undone itself. A name that somebody else has changed since is left as it is; so is what can not come back. each is told of every
// name, in the order in which things are done. Interrupted, it goes on where it stopped when it is asked again.
//
// No byte is copied: contents have never left the store. It asks nobody for quota, since a thief may have filled it.
func (v *Vault) Undo(ctx context.Context, o Undo, each func(Undone)) error {
	below, err := clean(OpRemove, o.Path)
	if err != nil {
		return err
	}
	if err := v.Barrier(ctx); err != nil { // the journal is read as it is on the disk
		return err
	}
	u := &undoing{v: v, o: o, below: below, each: each, found: map[journal.Loc]*place{}, wants: map[journal.ID]int{},
		home: map[journal.DirID]*place{}, anew: map[journal.DirID]journal.DirID{}, live: map[journal.ID]journal.Loc{}}
	if err := u.readJournal(ctx); err != nil {
		return err
	}
	if err := u.find(ctx); err != nil {
		return err
	}
	if o.Dry {
		return u.tell(ctx)
	}
	return errors.Join(u.do(ctx), v.Barrier(ctx))
}

// undoing is one Undo at work. It takes the vault's lock for one name at a time: clients go on beside it.
type undoing struct {
	v     *Vault
	o     Undo
	below string
	each  func(Undone)

	first    time.Time     // of the first record that counts
	by       []journal.Seq // the records that are undone, sorted
	seals    []journal.Seq // of what was fresh: done by the server to what a key had made
	operator []journal.Seq // of the operator's own removals: of what is undone, they are part of it

	places []*place
	found  map[journal.Loc]*place          // of places
	wants  map[journal.ID]int              // how many places wait for a content
	home   map[journal.DirID]*place        // where a directory is to be
	anew   map[journal.DirID]journal.DirID // directories that were made again for ones that are gone
	live   map[journal.ID]journal.Loc      // a live name of each content that is to come back
}

// place is a name that changed, with what it stands for and is to stand for; nil: nothing.
type place struct {
	at        journal.Loc
	path      string // as it is to be called
	now, then *journal.Entry
	done      bool
}

// readJournal collects the records that are undone.
func (u *undoing) readJournal(ctx context.Context) error {
	begun := false
	_, _, err := journal.NewReader(u.v.cfg.Segments).All(func(r *journal.Record, _ []byte) error {
		if begun = begun || !r.Time.Before(u.o.Since); !begun {
			return nil
		}
		if u.first.IsZero() {
			u.first = r.Time
		}
		switch {
		case r.Op == journal.OpSeal && r.Key == "server":
			u.seals = append(u.seals, r.Seq)
		case r.Op == journal.OpRemove && r.Key == operatorKey:
			u.operator = append(u.operator, r.Seq)
		}
		if u.o.Key == "" || r.Key == u.o.Key {
			u.by = append(u.by, r.Seq)
		}
		return ctx.Err()
	})
	return err
}

func in(list []journal.Seq, seq journal.Seq) bool {
	_, found := slices.BinarySearch(list, seq)
	return found
}

// made reports whether what is undone made e.
func (u *undoing) made(e *journal.Entry) bool {
	return in(u.by, e.From) || in(u.seals, e.From) && e.Key == u.o.Key && !e.Received.Before(u.first)
}

// ended reports whether what is undone ended v.
func (u *undoing) ended(v journal.Version) bool {
	return in(u.by, v.To) || in(u.operator, v.To) && u.made(v.Entry)
}

// before says what a name stood for before what is undone; nil is nothing. It is not touched when its newest change is somebody else's.
func (u *undoing) before(vs []journal.Version) (e *journal.Entry, touched bool) {
	if len(vs) == 0 || vs[0].To == journal.Now && !u.made(vs[0].Entry) || vs[0].To != journal.Now && !u.ended(vs[0]) {
		return nil, false
	}
	for i, v := range vs {
		if !u.made(v.Entry) {
			return v.Entry, true
		}
		if i+1 == len(vs) || vs[i+1].To != v.From && !u.ended(vs[i+1]) {
			break // nothing stood there before, or somebody else had ended it
		}
	}
	return nil, true
}

// find looks for the names that are to change: two scans of the index.
func (u *undoing) find(ctx context.Context) error {
	touched := map[journal.Loc]bool{}
	rows := 0
	more := func() bool { rows++; return rows%4096 != 0 || ctx.Err() == nil }
	err := u.v.idx.EachLive(func(at journal.Loc, e *journal.Entry) bool {
		if u.made(e) {
			touched[at] = true
		}
		return more()
	})
	err = errors.Join(err, u.v.idx.EachPast(func(at journal.Loc, v journal.Version) bool {
		if u.ended(v) || u.made(v.Entry) {
			touched[at] = true
		}
		return more()
	}), ctx.Err())
	for at := range touched {
		if err != nil {
			return err
		}
		err = u.consider(at)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(u.sort(), u.skipDone()); err != nil {
		return err
	}
	for _, p := range u.places {
		u.found[p.at] = p
		if p.then != nil && p.then.Kind.HasContent() {
			u.wants[p.then.ID]++
		}
	}
	err = u.v.idx.EachLive(func(at journal.Loc, e *journal.Entry) bool {
		if e.Kind.HasContent() && u.wants[e.ID] > 0 {
			u.live[e.ID] = at
		}
		return more()
	})
	return errors.Join(err, ctx.Err())
}

func (u *undoing) consider(at journal.Loc) error {
	vs, err := u.v.idx.Versions(at)
	if err != nil {
		return err
	}
	then, touched := u.before(vs)
	if !touched {
		return nil
	}
	p := &place{at: at, then: then}
	if vs[0].To == journal.Now {
		p.now = vs[0].Entry
	}
	if p.now == nil && then == nil || p.now != nil && then != nil && alike(p.now, then) {
		return nil
	}
	u.places = append(u.places, p)
	if then != nil && then.Kind == KindDir {
		u.home[then.Dir] = p
	}
	return nil
}

// restores reports whether now is what then was: a directory that was made again has another number.
func restores(now, then *journal.Entry) bool {
	return now.Kind == KindDir && then.Kind == KindDir && now.Dir != then.Dir && now.Key == operatorKey && now.Meta.Equal(then.Meta) ||
		now.Kind != KindDir && alike(now, then)
}

// skipDone drops the places that an earlier Undo has put right in directories that it had to make again.
func (u *undoing) skipDone() error {
	var kept []*place
	for _, p := range u.places { // directories first
		if now, err := u.madeAgain(p.at); err != nil {
			return err
		} else if now == nil || p.then == nil || !restores(now, p.then) {
			kept = append(kept, p)
			continue
		} else if now.Kind == KindDir {
			u.anew[p.then.Dir] = now.Dir
			delete(u.home, p.then.Dir)
		}
	}
	u.places = kept
	return nil
}

// madeAgain returns what stands at a place whose directory is gone and was made again by an earlier Undo; nil otherwise.
func (u *undoing) madeAgain(at journal.Loc) (*journal.Entry, error) {
	if u.isLive(at.Dir) || u.home[at.Dir] != nil {
		return nil, nil
	}
	dir, ok := u.anew[at.Dir]
	if !ok {
		was, err := u.v.idx.Place(at.Dir)
		if err != nil {
			return nil, err
		}
		e, err := u.v.entry(was)
		if err != nil || e == nil || e.Kind != KindDir || e.Key != operatorKey {
			return nil, err
		}
		dir = e.Dir
		u.anew[at.Dir] = dir
	}
	return u.v.entry(journal.Loc{Dir: dir, Name: at.Name})
}

// alike reports whether a client could tell a from b.
func alike(a, b *journal.Entry) bool {
	return a.Kind == b.Kind && a.ID == b.ID && a.Dir == b.Dir && a.Target == b.Target && a.Meta.Equal(b.Meta)
}

// sort names the places as they are to be called, drops those that were not asked for, and puts directories before what is in them.
func (u *undoing) sort() error {
	var kept []*place
	for _, p := range u.places {
		path, err := u.pathThen(p.at)
		if err != nil {
			return err
		}
		p.path = path
		if within(path, u.below) {
			kept = append(kept, p)
		} else if p.then != nil && p.then.Kind == KindDir {
			delete(u.home, p.then.Dir)
		}
	}
	slices.SortFunc(kept, func(a, b *place) int { return strings.Compare(a.path, b.path) })
	u.places = kept
	return nil
}

// pathThen is a place's path once directories are where they are to be.
func (u *undoing) pathThen(at journal.Loc) (string, error) {
	path := at.Name
	for dir := at.Dir; dir != 0; {
		if len(path) > 4*maxPath {
			return "", fmt.Errorf("undo: directory %d has no place: %w", at.Dir, fs.ErrInvalid)
		}
		up, err := u.v.idx.Place(dir)
		if err != nil {
			return "", err
		}
		if h := u.home[dir]; h != nil {
			up = h.at
		}
		path, dir = up.Name+"/"+path, up.Dir
	}
	return path, nil
}
