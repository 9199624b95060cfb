package appendonly

import (
	"errors"
	"io/fs"
	"math"
	"strings"

	"vaultd/internal/journal"
)

// A session with a root (Who.Root) sees one directory of the tenant as "/", at every instant: what it asks for below
// /.vault/at/T is what was below that path then. This file is the one place where a client's path becomes the
// tenant's: spot for changes, walk and what is below /.vault/versions for reading. Links are followed name by name
// from the session's root, and ".." ends there, so that no path leads out; what the session is told has its own paths.
//
// A root that is missing, or that another key moved, removed or made something else of, reads as an empty directory.
// The first change that needs it makes it. The session never gets another directory instead.

// nowhere is the number of a directory that is missing: nothing is in it, and no record can be applied to it.
const nowhere = journal.DirID(math.MaxInt64)

// inTenant is the path in the tenant of own, a cleaned path of the session's.
func (f *FS) inTenant(op Op, own string) (string, error) {
	rel := own
	switch {
	case own == "":
		rel = f.who.Root
	case f.who.Root != "":
		rel = f.who.Root + "/" + own
	}
	if len(rel) > maxPath {
		return "", pathError(op, "/"+own, ErrNameTooLong)
	}
	return rel, nil
}

// holds reports whether rel, a path in the tenant, is the session's root or below it.
func (f *FS) holds(rel string) bool { return within(rel, f.who.Root) }

// rootAt is the session's root, live or at an instant.
func (f *FS) rootAt(when Seq) (node, error) {
	n := node{entry: journal.Root(), when: when}
	for rest := f.who.Root; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		loc := journal.Loc{Dir: n.entry.Dir, Name: name}
		e, err := f.v.idx.Lookup(loc, when)
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.Kind != KindDir { // a symlink is not followed: whoever made it chose where to
			missing := *journal.Root()
			missing.Dir = nowhere
			return node{entry: &missing, when: when}, nil
		}
		if err != nil {
			return node{}, err
		}
		n.entry, n.loc = e, loc
	}
	return n, nil
}

// rootSpot is the session's root as a place for changes. v.mu is held.
func (f *FS) rootSpot(s *spot) error {
	n, err := f.rootAt(journal.Now)
	if err != nil {
		return err
	}
	s.loc, s.entry, s.root, s.state = n.loc, n.entry, true, StateDir
	if s.loc != (journal.Loc{}) {
		s.state = f.stateOf(s)
	}
	return nil
}

// parent is the live directory of s. v.mu is held.
func (f *FS) parent(op Op, s *spot) (journal.DirID, error) {
	dir, _ := split(s.rel)
	id, err := f.v.idx.LiveDir(dir)
	if errors.Is(err, fs.ErrNotExist) && f.who.Root != "" && dir == f.who.Root {
		return nowhere, nil
	}
	if err != nil {
		return 0, f.noParent(op, s.path, dir, err)
	}
	return id, nil
}

// needRoot makes the session's root, if it is missing and path stands in it for something that may be made. What
// can not be made is not told here: the change itself fails, for the same reason and in its own words. v.mu is held.
func (f *FS) needRoot(path string) error {
	if f.who.Root == "" {
		return nil
	}
	if _, err := f.v.idx.LiveDir(f.who.Root); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	own, err := clean(OpMkdir, path)
	if err != nil {
		return nil
	}
	if dir, _ := split(own); dir != "" { // its own directory is missing, and is not made by this
		return nil
	}
	if virtual, _ := f.virtual(own); virtual || f.writes(OpMkdir, &spot{}) != nil {
		return nil
	}
	done := ""
	for rest := f.who.Root; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		done = join(done, name)
		if _, err := f.v.idx.LiveDir(done); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err := f.makeRoot(done, "/"+own); err != nil {
			return err
		}
	}
	return nil
}

// makeRoot makes the directory rel on the way to the session's root, as this key. v.mu is held.
func (f *FS) makeRoot(rel, path string) error {
	at, err := f.v.idx.Locate(rel)
	if err != nil {
		return wrapIndex(OpMkdir, path, err)
	}
	s := spot{loc: at, rel: rel, path: path, mode: f.v.policy.ModeAt(rel), lock: f.v.scratch[at]}
	if s.state = f.stateOf(&s); s.state != StateAbsent {
		return pathError(OpMkdir, path, ErrNotDir)
	}
	if _, err := f.decide(OpMkdir, &s); err != nil {
		return err
	}
	return f.makeAt(OpMkdir, &s, NoMeta(), 0, f.mkdir)
}

// movedOut reports whether the directory n, which the session has open, is not below its root any more.
func (f *FS) movedOut(n node) bool {
	if f.who.Root == "" || n.when != journal.Now || n.entry.Dir == nowhere {
		return false
	}
	below, err := f.v.idx.Path(journal.Loc{Dir: n.entry.Dir, Name: "."})
	if err != nil {
		return true
	}
	rel, _ := split(below)
	id, err := f.v.idx.LiveDir(rel)
	return err != nil || id != n.entry.Dir || !f.holds(rel)
}

// maxNlink bounds the names of one content that are looked at for a session with a root.
const maxNlink = 64

// links counts the live names of a content: those that the session can reach.
func (f *FS) links(id journal.ID) (int, error) {
	all, err := f.v.idx.Links(id)
	if f.who.Root == "" || err != nil {
		return len(all), err
	}
	n := 0
	for _, at := range all[:min(len(all), maxNlink)] {
		if rel, err := f.v.idx.Path(at); err == nil && f.holds(rel) {
			n++
		}
	}
	return max(n, 1), nil
}
