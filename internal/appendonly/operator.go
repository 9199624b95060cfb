package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"vaultd/internal/journal"
)

// operatorKey is who the journal names for what the operator did.
const operatorKey = "operator"

// Freed has the journal say what retention let go of: contents whose bytes are gone, and snapshots whose names end. What is said
// twice counts once. A content that is there (somebody may have brought it back) is not recorded, and logged.
func (v *Vault) Freed(freed []journal.Freed, dropped []journal.Seq) error {
	r := &journal.Record{Op: journal.OpFree, Key: "expire"}
	for _, f := range freed {
		done, err := v.idx.Freed(f.ID)
		if err != nil {
			return err
		}
		if done {
			continue
		}
		if _, err := v.vol.Inode(f.ID); err == nil {
			v.cfg.Log.Error("a content that expire ended is there, and stays", "id", f.ID.String())
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("record content %s as freed: %w", f.ID, err)
		}
		r.Freed = append(r.Freed, f)
	}
	if len(dropped) > 0 {
		ending := make(map[Seq]bool, len(dropped))
		for _, at := range dropped {
			ending[at] = true
		}
		have, err := v.idx.Snapshots()
		if err != nil {
			return err
		}
		for _, s := range have {
			if ending[s.At] {
				r.Dropped = append(r.Dropped, s.At)
			}
		}
	}
	if len(r.Freed)+len(r.Dropped) == 0 {
		return nil
	}
	v.lockNames()
	defer v.mu.Unlock()
	return v.commit(r, journal.Loc{}, journal.Loc{})
}

// Retired is a name that was let go.
type Retired struct {
	Path string
	Kind Kind
	Size int64
}

// Retire lets live names go, directories with all below them (or, unless below, only empty ones), because the operator says so: in strict mode there is no other
// way. Their contents become the past and obey the lock. A name that is not there is passed over. why is for the journal.
// each is called for every name that went.
func (v *Vault) Retire(ctx context.Context, paths []string, below bool, why string, each func(Retired)) error {
	for _, p := range paths {
		rel, err := clean(OpRemove, p)
		if err != nil {
			return err
		}
		if rel == "" {
			return fmt.Errorf("retire /: name what is in it: %w", ErrBadName)
		}
		if err := v.retire(ctx, rel, below, why, each); err != nil {
			return err
		}
	}
	return v.Barrier(ctx)
}

// Standing is a live name and the record since which it stands for what it does.
type Standing struct {
	Path string
	From Seq
}

// RetireStanding lets names go that still stand for what they did when somebody looked: a name that a client gave to
// something else meanwhile stays. It is how expire's rules let go, which know the journal only up to its last closed segment.
func (v *Vault) RetireStanding(ctx context.Context, names []Standing, why string, each func(Retired)) error {
	for _, n := range names {
		rel, err := clean(OpRemove, n.Path)
		if err != nil {
			return err
		}
		at, err := v.idx.Locate(rel)
		var e *journal.Entry
		if err == nil {
			e, err = v.entry(at)
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
		if e == nil || e.From != n.From || e.Kind == KindDir {
			continue
		}
		if err := v.retireOne(at, e, why, each); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return v.Barrier(ctx)
}

// WouldRetire calls each with what Retire would let go, and changes nothing.
func (v *Vault) WouldRetire(ctx context.Context, paths []string, below bool, each func(Retired)) error {
	for _, p := range paths {
		rel, err := clean(OpRemove, p)
		if err != nil {
			return err
		}
		at, err := v.idx.Locate(rel)
		if err == nil {
			var e *journal.Entry
			if e, err = v.entry(at); err == nil && e != nil {
				if e.Kind == KindDir && below {
					err = v.eachLive(e.Dir, func(dir journal.DirID, n journal.Named) error {
						path, err := v.idx.Path(journal.Loc{Dir: dir, Name: n.Name})
						each(Retired{path, n.Kind, n.Size})
						return errors.Join(err, ctx.Err())
					})
				}
				each(Retired{rel, e.Kind, e.Size})
			}
		}
		if err := ignoreMissing(err); err != nil {
			return err
		}
	}
	return nil
}

// retire lets rel go, and with below what is below it first.
func (v *Vault) retire(ctx context.Context, rel string, below bool, why string, each func(Retired)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	at, err := v.idx.Locate(rel)
	if err != nil {
		return ignoreMissing(err)
	}
	e, err := v.entry(at)
	if err != nil || e == nil {
		return err
	}
	if e.Kind == KindDir && below {
		for after := ""; ; {
			list, err := v.idx.List(e.Dir, journal.Now, after, listBatch)
			if err != nil {
				return err
			}
			if len(list) == 0 {
				break
			}
			after = list[len(list)-1].Name
			for _, n := range list {
				if err := v.retire(ctx, join(rel, n.Name), below, why, each); err != nil {
					return err
				}
			}
		}
	}
	return v.retireOne(at, e, why, each)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, journal.ErrNotDir) {
		return nil
	}
	return err
}

// retireOne lets one name go, if it still stands for e and, of a directory, nothing came into it meanwhile.
func (v *Vault) retireOne(at journal.Loc, e *journal.Entry, why string, each func(Retired)) error {
	v.lockNames()
	defer v.mu.Unlock()
	now, err := v.entry(at)
	if err != nil || now == nil || now.From != e.From {
		return err
	}
	if now.Kind == KindDir {
		below, err := v.idx.List(now.Dir, journal.Now, "", 1)
		if err != nil || len(below) > 0 {
			return err
		}
	}
	rel, err := v.livePath(at)
	if err != nil {
		return ignoreMissing(err)
	}
	r := &journal.Record{Op: journal.OpRemove, Path: rel, Key: operatorKey, Note: why}
	if err := v.commit(r, at, journal.Loc{}); err != nil {
		return err
	}
	each(Retired{Path: rel, Kind: now.Kind, Size: now.Size})
	switch {
	case now.Fresh:
		v.dropFresh(now)
		return nil
	case now.Kind == KindDir:
		return v.dropped(rel, v.vol.Rmdir(rel))
	}
	return v.dropped(rel, v.vol.Unlink(rel))
}

// MadeBy lists the live names that a key made, or gave the content that they have, since a time: what is in a directory
// comes before it.
func (v *Vault) MadeBy(key string, since time.Time) ([]string, error) {
	var out []string
	err := v.eachLive(0, func(dir journal.DirID, n journal.Named) error {
		if n.Key != key || n.Received.Before(since) {
			return nil
		}
		path, err := v.idx.Path(journal.Loc{Dir: dir, Name: n.Name})
		out = append(out, path)
		return err
	})
	slices.Sort(out)
	slices.Reverse(out)
	return out, err
}
