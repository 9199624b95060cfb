package appendonly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// reconcile makes the live tree what the index says, and returns how many names it mended. Names that
// lead to a suspect inode, or that changed after proven, are compared by inode; without suspects all
// are. seen is told each entry that is not fresh. v.mu is held.
func (v *Vault) reconcile(suspects map[uint64]bool, proven journal.Seq, seen func(*journal.Entry)) (int, error) {
	mended := 0
	type dir struct {
		id  journal.DirID
		rel string
	}
	for dirs := []dir{{0, ""}}; len(dirs) > 0; {
		d := dirs[len(dirs)-1]
		dirs = dirs[:len(dirs)-1]
		if len(d.rel) > maxPath { // moved into another directory, out of everybody's reach
			continue
		}
		have, err := v.vol.Entries(d.rel)
		if err != nil {
			if err := v.leave(d.rel, err); err != nil {
				return mended, err
			}
			continue
		}
		disk := make(map[string]TreeEntry, len(have))
		for _, h := range have {
			disk[h.Name] = h
		}
		for after := ""; ; {
			batch, err := v.idx.List(d.id, journal.Now, after, listBatch)
			if err != nil {
				return mended, err
			}
			if len(batch) == 0 {
				break
			}
			after = batch[len(batch)-1].Name
			for _, n := range batch {
				if n.Fresh {
					continue // not in the tree: a name there is none of the index's
				}
				seen(n.Entry)
				h, ok := disk[n.Name]
				delete(disk, n.Name)
				rel := join(d.rel, n.Name)
				trusted := suspects != nil && !suspects[h.Inode] && n.From <= proven
				changed, err := v.mend(rel, n.Entry, h, ok, trusted)
				if err != nil {
					return mended, fmt.Errorf("mend tree: %w", err)
				}
				if changed {
					mended++
				}
				if n.Kind == KindDir {
					dirs = append(dirs, dir{n.Dir, rel})
				}
			}
		}
		for name, h := range disk {
			mended++
			if _, err := v.prune(join(d.rel, name), h); err != nil {
				return mended, fmt.Errorf("mend tree: %w", err)
			}
		}
	}
	return mended, nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// mend makes one name of the tree what e says. h is what the tree has there; trusted: it leads to the
// right content if it leads to any.
func (v *Vault) mend(rel string, e *journal.Entry, h TreeEntry, there, trusted bool) (bool, error) {
	want := e.Kind
	if want.HasContent() {
		want = KindFile
	}
	if there && h.Kind == want {
		if trusted || want == KindDir {
			return false, nil
		}
		if want == KindFile {
			inode, err := v.vol.Inode(e.ID)
			if err == nil && inode != h.Inode {
				return true, v.leave(rel, v.vol.Relink(e.ID, rel))
			}
			return false, v.leave(rel, err)
		} // else where a link leads is not told: it is made again
	}
	if there {
		if gone, err := v.prune(rel, h); !gone {
			return true, err
		}
	}
	switch {
	case len(rel) > maxPath: // see reconcile
		return false, nil
	case want == KindDir:
		return true, v.leave(rel, v.vol.Mkdir(rel))
	}
	return true, v.leave(rel, v.treeAdd(e, rel))
}

// leave passes on storage failures only. What else the tree refuses is left as it is: the journal and
// the store are the truth, and a content that is gone is for verify to report.
func (v *Vault) leave(rel string, err error) error {
	if err == nil || storageFailed(err) {
		return err
	}
	v.cfg.Log.Error("a name in the live tree can not be mended", "path", rel, "error", err.Error())
	return nil
}

// prune drops a name that the index does not know, with all below it, and reports whether it is gone.
// Contents stay: the volume refuses to drop the last link of one, and then the name stays too.
func (v *Vault) prune(rel string, h TreeEntry) (gone bool, err error) {
	if h.Kind != KindDir {
		err := v.vol.Unlink(rel)
		return err == nil, v.leave(rel, err)
	}
	if len(rel) > maxPath {
		return false, nil
	}
	below, err := v.vol.Entries(rel)
	if err != nil {
		return false, err
	}
	for _, b := range below {
		if _, err := v.prune(join(rel, b.Name), b); err != nil {
			return false, err
		}
	}
	err = v.vol.Rmdir(rel)
	return err == nil, v.leave(rel, err)
}

// RebuildTree makes the live tree from journal and store again, comparing every name. It returns how
// many names it mended.
func (v *Vault) RebuildTree() (int, error) {
	v.lockNames()
	defer v.mu.Unlock()
	return v.reconcile(nil, 0, func(*journal.Entry) {})
}

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
