package appendonly

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"time"

	"vaultd/internal/journal"
)

// After a crash the disk may hold, beside what a barrier covered:
//
//   - a torn end of the journal: cut off when it is opened;
//   - records whose contents never reached the disk: read back and compared, voided where they differ;
//   - a live tree that is ahead of the journal, or behind it: reconciled, name by name;
//   - published contents that were not moved into the store: moved;
//   - contents of the last minutes in the store without their attributes: given them again;
//   - staged contents with a note: interrupted uploads, cut to what is known to be whole;
//   - staged contents that nothing names: dropped. They were never acknowledged.
//
// Nothing of this ends a sealed content, and all of it may be interrupted and begun again.

// Repair is what recovery did.
type Repair struct {
	Torn    int64 // bytes cut from the journal
	Voided  int   // records whose content was lost
	Tree    int   // names mended in the live tree
	Resumed int   // interrupted uploads kept
	Dropped int   // staged contents that nothing named
}

// recover repairs what a crash left, as told by the journal's tail. The vault is not in use yet. It
// ends with a barrier that covers all of it.
func (v *Vault) recover(tail *journal.Tail) error {
	if err := v.loadLocks(); err != nil {
		return err
	}
	boot, clean := v.idx.Ending()
	clean = clean || v.cfg.Clean
	sameBoot := tail.SameBoot || !tail.Dirty && boot == v.cfg.Boot
	staged, err := v.vol.Staged()
	if err != nil {
		return err
	}
	v.covered = v.idx.Head().Seq
	// Closing makes no change of the live tree stable: after a power cut it may be behind.
	if !clean || tail.Dirty || len(staged) > 0 || boot != v.cfg.Boot {
		rep := Repair{Torn: tail.Torn}
		if err := v.repair(tail, staged, sameBoot, &rep); err != nil {
			return err
		}
		level, what := slog.LevelWarn, "recovered after a crash"
		if clean && !tail.Dirty { // symlinks are made again, whatever they were
			level, what = slog.LevelInfo, "made the live tree sure after the machine or its pool started again"
		}
		if rep != (Repair{}) {
			v.cfg.Log.Log(context.Background(), level, what, "torn_bytes", rep.Torn, "voided", rep.Voided, "names_mended", rep.Tree,
				"uploads_kept", rep.Resumed, "staged_dropped", rep.Dropped)
		}
		v.covered = 0
		if tail.Dirty || v.dirty() {
			if err := v.closeSegment(nil, false); err != nil {
				return err
			}
		}
	}
	return v.setEnding(false)
}

// setEnding says in the index whether the vault was closed cleanly.
func (v *Vault) setEnding(clean bool) error {
	if err := v.idx.Flush(); err != nil {
		return err
	}
	v.idx.SetEnding(v.cfg.Boot, clean)
	v.idx.Freeze()
	return v.idx.Flush()
}

func (v *Vault) repair(tail *journal.Tail, staged map[journal.ID]uint64, sameBoot bool, rep *Repair) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	late := v.idx.Newest().Add(-dressedLate) // now: what follows makes records
	if err := v.proveTail(tail, sameBoot, rep); err != nil {
		return err
	}
	nameless, err := v.sortStaged(staged)
	if err != nil {
		return err
	}
	// The kernel that made every change still runs: only names that lead to staged contents, or that
	// changed since the last barrier, can be wrong. After a power cut any can.
	var suspects map[uint64]bool
	if sameBoot {
		suspects = map[uint64]bool{}
		for _, inode := range staged {
			suspects[inode] = true
		}
	}
	proven := v.idx.Head().Seq
	if len(tail.Unproven) > 0 {
		proven = tail.Unproven[0].Seq - 1
	}
	undressed := map[journal.ID]sealing{}
	rep.Tree, err = v.reconcile(suspects, proven, func(e *journal.Entry) {
		if !sameBoot && e.Kind.HasContent() && (e.Received.After(late) || e.Since.After(late)) {
			undressed[e.ID] = sealing{e.Kind, e.Meta}
		}
	})
	if err != nil {
		return err
	}
	if err := v.dressAgain(undressed); err != nil {
		return err
	}
	// After the tree let go of what is nameless: what has a name can not be resumed, and would be lost
	// with its content.
	if rep.Resumed, err = v.loadNotes(nameless, sameBoot); err != nil {
		return err
	}
	for id := range nameless {
		rep.Dropped++
		if err := v.vol.Discard(id); err != nil {
			return err
		}
	}
	return nil
}

// dressedLate is how long before the newest record a content may have got its attributes last: its key could set them until it was settled, and a file
// system takes some seconds to write them.
const dressedLate = journal.Settle + time.Minute

// dressAgain gives sealed contents their times and attributes once more. A file system may have kept a rename and lost the attributes that were set before it:
// OpenZFS before 2.2 does not log extended attributes in its intent log (xattr=sa). What is still to be sealed gets them then. v.mu is held.
func (v *Vault) dressAgain(contents map[journal.ID]sealing) error {
	for id, s := range contents {
		if _, waits := v.unsealed[id]; waits {
			continue
		}
		if err := v.vol.Seal(id, s.kind, s.meta); storageFailed(err) {
			return err
		} else if err != nil { // it is gone: that is for verify to report
			v.cfg.Log.Error("a content can not be given its attributes again", "id", id.String(), "error", err.Error())
		}
	}
	return nil
}

// proveTail reads back what was recorded since the last barrier. v.mu is held.
func (v *Vault) proveTail(tail *journal.Tail, sameBoot bool, rep *Repair) error {
	var lost []*journal.Record
	for _, r := range tail.Unproven {
		if r.Op != journal.OpCreate && r.Op != journal.OpNode {
			continue
		}
		hash, err := v.prove(r, sameBoot)
		if err == nil {
			v.unsynced[r.ID] = struct{}{}
			if r.SHA256.IsZero() && !hash.IsZero() {
				err := v.commit(&journal.Record{Op: journal.OpHash, ID: r.ID, SHA256: hash, Key: "server"}, journal.Loc{}, journal.Loc{})
				if err != nil {
					return err
				}
			}
			continue
		}
		if !errors.Is(err, errUnproven) {
			return err
		}
		lost = append(lost, r)
	}
	return v.voidAll(lost, rep)
}

// voidAll journals that these contents, oldest first, are not what was recorded: under every name that
// they have now, and also where they are only what a name stood for in between. What is neither
// was fresh and is gone: nothing shows it. v.mu is held.
func (v *Vault) voidAll(lost []*journal.Record, rep *Repair) error {
	if len(lost) == 0 {
		return nil
	}
	names, past := map[journal.ID][]journal.Loc{}, map[journal.ID]bool{}
	for _, r := range lost {
		names[r.ID], past[r.ID] = nil, false
	}
	err := v.eachLive(0, func(dir journal.DirID, n journal.Named) error {
		if have, ok := names[n.ID]; ok && n.Kind.HasContent() {
			names[n.ID] = append(have, journal.Loc{Dir: dir, Name: n.Name})
		}
		return nil
	})
	if err == nil {
		err = v.idx.Superseded(past)
	}
	for _, r := range lost {
		if err == nil {
			err = v.void(r, names[r.ID], past[r.ID], rep)
		}
	}
	return err
}

func (v *Vault) void(r *journal.Record, names []journal.Loc, past bool, rep *Repair) error {
	if len(names) == 0 && !past {
		return nil
	}
	rep.Voided++
	v.cfg.Log.Error("content was lost in a crash before it was acknowledged", "path", r.Path, "id", r.ID.String())
	if len(names) == 0 {
		return v.commit(&journal.Record{Op: journal.OpVoid, ID: r.ID, Key: "server"}, journal.Loc{}, journal.Loc{})
	}
	for _, at := range names {
		rel, err := v.idx.Path(at)
		if err == nil {
			err = v.commit(&journal.Record{Op: journal.OpVoid, Path: rel, ID: r.ID, Key: "server"}, at, journal.Loc{})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

var errUnproven = errors.New("content is not what was recorded")

// prove compares a content with its record. Where the machine has not restarted, the kernel still has
// every byte that was written, and a missing digest is computed; otherwise only a digest proves.
func (v *Vault) prove(r *journal.Record, sameBoot bool) (journal.Hash, error) {
	c, err := v.vol.Open(r.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return journal.Hash{}, errUnproven
	}
	if err != nil {
		return journal.Hash{}, err
	}
	defer c.Close()
	want, err := v.idx.Hash(&journal.Entry{Kind: journal.KindFile, ID: r.ID, SHA256: r.SHA256})
	if err != nil {
		return want, err
	}
	if c.Size() != r.Size || r.Size > 0 && want.IsZero() && !sameBoot {
		return want, errUnproven
	}
	if r.Size == 0 {
		return want, nil
	}
	h, err := hashContent(c, r.Size)
	if err == nil && !want.IsZero() && h != want {
		err = errUnproven
	}
	return h, err
}

// named is a live name with its entry.
type named struct {
	loc   journal.Loc
	entry *journal.Entry
}

// findLive finds the live names of some contents: a scan of the live tree.
func (v *Vault) findLive(ids map[journal.ID]bool) (map[journal.ID]named, error) {
	out := map[journal.ID]named{}
	err := v.eachLive(0, func(dir journal.DirID, n journal.Named) error {
		if ids[n.ID] && n.Kind.HasContent() {
			out[n.ID] = named{journal.Loc{Dir: dir, Name: n.Name}, n.Entry}
		}
		return nil
	})
	return out, err
}

// eachLive calls f for every live entry below dir.
func (v *Vault) eachLive(dir journal.DirID, f func(journal.DirID, journal.Named) error) error {
	for dirs := []journal.DirID{dir}; len(dirs) > 0; {
		d := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		for after := ""; ; {
			batch, err := v.idx.List(d, journal.Now, after, listBatch)
			if err != nil {
				return err
			}
			if len(batch) == 0 {
				break
			}
			after = batch[len(batch)-1].Name
			for _, n := range batch {
				if err := f(d, n); err != nil {
					return err
				}
				if n.Kind == KindDir {
					dirs = append(dirs, n.Dir)
				}
			}
		}
	}
	return nil
}

const listBatch = 1024

// sortStaged says what each staged content is: fresh, or published and on its way into the store. It
// returns those that no record names: unfinished uploads.
func (v *Vault) sortStaged(staged map[journal.ID]uint64) (nameless map[journal.ID]bool, err error) {
	if len(staged) == 0 {
		return nil, nil
	}
	ids := make(map[journal.ID]bool, len(staged))
	for id := range staged {
		ids[id] = true
	}
	live, err := v.findLive(ids)
	if err != nil {
		return nil, err
	}
	past := make(map[journal.ID]bool, len(staged))
	for id := range staged {
		if _, ok := live[id]; !ok {
			past[id] = false
		}
	}
	if err := v.idx.Superseded(past); err != nil {
		return nil, err
	}
	nameless = map[journal.ID]bool{}
	for id := range staged {
		n, ok := live[id]
		switch {
		case ok && n.entry.Fresh:
			v.unsynced[id] = struct{}{}
		case ok:
			v.unsynced[id] = struct{}{}
			v.unsealed[id] = sealing{n.entry.Kind, n.entry.Meta}
		case past[id]:
			v.unsynced[id] = struct{}{}
			v.unsealed[id] = sealing{journal.KindFile, NoMeta()}
		default:
			nameless[id] = true
		}
	}
	return nameless, nil
}
