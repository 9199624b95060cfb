package rsync

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
)

// deletions counts what --delete removed, by kind, in the order of the wire (main.c: write_del_stats).
type deletions struct {
	files, dirs, symlinks, devices, specials int32
	limited                                  int64 // that --max-delete left
	skipped                                  int64 // that a strict vault kept
}

func (d *deletions) send(w *wire.Writer, proto int) {
	w.Index(wire.DeleteStats, proto)
	for _, n := range []int32{d.files, d.dirs, d.symlinks, d.devices, d.specials} {
		w.Varint(n)
	}
}

func (d *deletions) total() int64 {
	return int64(d.files) + int64(d.dirs) + int64(d.symlinks) + int64(d.devices) + int64(d.specials)
}

func (d *deletions) count(k appendonly.Kind) {
	switch k {
	case appendonly.KindDir:
		d.dirs++
	case appendonly.KindSymlink:
		d.symlinks++
	case appendonly.KindCharDev, appendonly.KindBlockDev:
		d.devices++
	case appendonly.KindFifo, appendonly.KindSocket:
		d.specials++
	default:
		d.files++
	}
}

// deletes says whether what the list does not have is to go. It is not where the client could not read everything
// (unless --ignore-errors): what is missing then may only be unreadable.
func (g *generator) deletes() bool {
	return g.opt.Delete && (g.ioError() == 0 || g.opt.IgnoreErrors)
}

// deleteIn removes what is in the directory of entry i and not in the list, while the directory is gone through.
func (g *generator) deleteIn(i int, e *flist.Entry, p string) error {
	if !g.deletes() || g.opt.DeleteBefore || g.opt.DeleteAfter {
		return nil
	}
	return g.prune(i, e, p)
}

// deleteAll does it for all directories at once: before, or after everything else (generator.c: do_delete_pass). What makes
// way afterwards meets no rules of the directories that were gone through.
func (g *generator) deleteAll() error {
	for i := range g.list.Len() {
		e := g.list.At(i)
		if e == nil || !e.IsDir() {
			continue
		}
		if err := g.prune(i, e, g.path(e)); err != nil {
			return err
		}
	}
	g.rules.LeaveAll()
	return nil
}

// prune removes what is in the directory at p and not among the list's entries of e (generator.c: delete_in_dir).
func (g *generator) prune(i int, e *flist.Entry, p string) error {
	if e.NoContent() || g.single != "" {
		return nil
	}
	have := g.names(i, e)
	if err := g.rules.Enter(e.Path()); err != nil {
		return err
	}
	d, err := g.FS.OpenDir(p)
	if err != nil {
		return nil // it could not be made, and that was reported; or --dry-run
	}
	var extra []appendonly.Info
	for {
		infos, err := d.Next(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return g.trouble("list", p, err)
		}
		for j := range infos {
			if _, listed := have[infos[j].Name]; !listed {
				extra = append(extra, infos[j])
			}
		}
	}
	inReverse(extra)
	for j := range extra {
		info := &extra[j]
		if err := g.remnant(path.Join(e.Path(), info.Name), path.Join(p, info.Name), info); err != nil {
			return err
		}
	}
	if len(extra) > 0 {
		g.there.forget()
	}
	return nil
}

// inReverse puts entries in the order in which rsync removes them, the last one first: --max-delete ends somewhere.
func inReverse(infos []appendonly.Info) {
	slices.SortStableFunc(infos, func(a, b appendonly.Info) int {
		ad, bd := a.Kind == appendonly.KindDir, b.Kind == appendonly.KindDir
		switch {
		case ad == bd && ad:
			return strings.Compare(b.Name+"/", a.Name+"/")
		case ad == bd:
			return strings.Compare(b.Name, a.Name)
		case ad:
			return -1
		}
		return 1
	})
}

// names are the list's entries directly in directory e.
func (g *generator) names(i int, e *flist.Entry) map[string]struct{} {
	out := map[string]struct{}{}
	g.list.Children(i, func(c *flist.Entry) {
		if !c.IsMissing() {
			out[c.Base()] = struct{}{}
		}
	})
	return out
}

// missing removes what stands under a name that the user gave and the client does not have (--delete-missing-args).
func (g *generator) missing(e *flist.Entry, p string, info *appendonly.Info) error {
	if info == nil || g.rules.Protected(e.Path(), false) { // its kind is not known where the rules come from
		return nil
	}
	if g.FS.Ask(removal(info), p) != nil {
		g.stats.skipped++
		return nil
	}
	there := *info
	_, err := g.drop(e.Path(), p, &there, g.opt.Force || g.opt.Delete, false)
	g.there.forget()
	return err
}

// removal is what removing info is called.
func removal(info *appendonly.Info) appendonly.Op {
	if info.Kind == appendonly.KindDir {
		return appendonly.OpRmdir
	}
	return appendonly.OpRemove
}

// remnant removes one name that the list does not have, with everything below it, as far as rules and policy let it go.
func (g *generator) remnant(rel, p string, info *appendonly.Info) error {
	dir := info.Kind == appendonly.KindDir
	if g.rules.Protected(rel, dir) || g.isBackup(p, info) {
		return nil
	}
	if g.FS.Ask(removal(info), p) != nil {
		g.stats.skipped++
		return nil
	}
	if g.opt.DeleteDelay {
		g.delayed = append(g.delayed, surplus{rel, p, *info})
		return nil
	}
	_, err := g.drop(rel, p, info, true, false)
	return err
}

// surplus is a name that goes at the end (--delete-delay): what rules and policy say of it was asked when its directory was
// gone through. What is below it meets no rules but the top's and its own, as in rsync.
type surplus struct {
	rel, p string
	info   appendonly.Info
}

// deleteDelayed removes what was put off.
func (g *generator) deleteDelayed() error {
	g.rules.LeaveAll()
	for i := range g.delayed {
		d := &g.delayed[i]
		if _, err := g.drop(d.rel, d.p, &d.info, true, false); err != nil {
			return err
		}
	}
	g.delayed = nil
	return nil
}

// isBackup says whether a name is one that --backup made.
func (g *generator) isBackup(p string, info *appendonly.Info) bool {
	if strings.HasPrefix(p, g.backupRoot()) {
		return true
	}
	return g.opt.Backup && g.opt.BackupDir == "" && info.Kind != appendonly.KindDir && strings.HasSuffix(info.Name, g.opt.Suffix) && g.opt.Suffix != ""
}

// drop removes a name, a directory with what is in it if whole says so, and reports whether it is gone (delete.c:
// delete_item). room: something takes its place, which is no deletion to be told or counted.
func (g *generator) drop(rel, p string, info *appendonly.Info, whole, room bool) (gone bool, err error) {
	if info.Kind == appendonly.KindDir {
		if empty, err := g.empty(rel, p, whole); err != nil || !empty {
			return false, err
		}
	}
	return g.dropOne(rel, p, info, room)
}

// empty removes what is in a directory that is to go, and reports whether it is empty then (delete.c: delete_dir_contents).
// What rules protect keeps it, but for those that do not count in a directory that goes.
func (g *generator) empty(rel, p string, whole bool) (bool, error) {
	if err := g.rules.Enter(rel); err != nil {
		return false, err
	}
	defer g.rules.Leave()
	d, err := g.FS.OpenDir(p)
	if err != nil {
		return false, g.trouble("list", p, err)
	}
	ok := true
	var all []appendonly.Info
	for {
		infos, err := d.Next(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, g.trouble("list", p, err)
		}
		for i := range infos {
			name := infos[i].Name
			if g.rules.ProtectedDeep(path.Join(rel, name), infos[i].Kind == appendonly.KindDir) || g.isBackup(path.Join(p, name), &infos[i]) {
				ok = false
			} else {
				all = append(all, infos[i])
			}
		}
	}
	inReverse(all)
	for i := range all {
		if !whole {
			ok = false
			break
		}
		info := &all[i]
		below, at := path.Join(rel, info.Name), path.Join(p, info.Name)
		if info.Kind == appendonly.KindDir {
			empty, err := g.empty(below, at, true)
			if err != nil {
				return false, err
			}
			ok = ok && empty
		}
		gone, err := g.dropOne(below, at, info, false) // also of a directory that is not empty, as rsync does, which says so once more
		if err != nil {
			return false, err
		}
		ok = ok && gone
	}
	if !ok {
		g.notEmpty(rel)
	}
	return ok, nil
}

// dropOne removes one name, of a directory only when it is empty.
func (g *generator) dropOne(rel, p string, info *appendonly.Info, room bool) (gone bool, err error) {
	if !room && g.opt.MaxDelete >= 0 && g.stats.total() >= g.opt.MaxDelete {
		g.stats.limited++
		return false, nil
	}
	if !g.opt.DryRun {
		err := g.putAside(p, info)
		if errors.Is(err, appendonly.ErrNotEmpty) { // of what is protected, of backups, or of what just came
			g.notEmpty(rel)
			return false, nil
		}
		if err != nil {
			return false, g.trouble("delete", p, err)
		}
	}
	if room {
		return true, nil
	}
	g.stats.count(info.Kind)
	name := []byte(rel)
	if info.Kind == appendonly.KindDir {
		name = append(name, 0)
	}
	g.out.Message(wire.CodeDeleted, name)
	return true, nil
}

// makeWay drops what stands at p and is of another kind than e (delete.c: delete_item). It reports whether the name
// is free then.
func (g *generator) makeWay(e *flist.Entry, p string, info *appendonly.Info) (bool, error) {
	if err := g.FS.Ask(removal(info), p); err != nil {
		return false, g.trouble("replace", p, err)
	}
	rel := strings.TrimPrefix(strings.TrimPrefix(p, g.root), "/")
	gone, err := g.drop(rel, p, info, g.opt.Force || g.opt.Delete, true)
	g.there.forget()
	if err != nil {
		return false, err
	}
	if !gone {
		return false, g.say("could not make way for a new "+kindName(e), p)
	}
	if g.opt.DryRun {
		g.there.fresh(p)
	}
	return true, nil
}

// kindName is what rsync calls an entry's kind.
func kindName(e *flist.Entry) string {
	switch {
	case e.IsDir():
		return "directory"
	case e.IsSymlink():
		return "symlink"
	case e.IsDevice():
		return "device file"
	case e.IsSpecial():
		return "special file"
	}
	return "regular file"
}

// remove drops one name.
func (g *generator) remove(p string, info *appendonly.Info) error {
	if info.Kind == appendonly.KindDir {
		return g.FS.Rmdir(p)
	}
	return g.FS.Remove(p)
}

// removeAll drops a name with all that is below it.
func (g *generator) removeAll(p string, info *appendonly.Info) error {
	if info.Kind == appendonly.KindDir {
		for {
			d, err := g.FS.OpenDir(p)
			if err != nil {
				return err
			}
			infos, _ := d.Next(batch)
			if len(infos) == 0 {
				break
			}
			for j := range infos {
				if err := g.removeAll(path.Join(p, infos[j].Name), &infos[j]); err != nil {
					return err
				}
			}
		}
	}
	return g.remove(p, info)
}

// notEmpty tells that a directory stays: what is in it does.
func (g *generator) notEmpty(rel string) {
	g.out.Message(wire.CodeInfo, []byte("cannot delete non-empty directory: "+printable(rel)+"\n"))
}

// backupRoot is where --backup-dir keeps things: never cleaned up. A text that no path begins with when there is none.
func (g *generator) backupRoot() string {
	if !g.opt.Backup || g.opt.BackupDir == "" {
		return "\x00"
	}
	return g.basisDir(g.opt.BackupDir) + "/"
}

// endDeletes tells what was not deleted, once.
func (g *generator) endDeletes() {
	if g.stats.skipped > 0 {
		code := wire.CodeWarning
		if g.FS.DeleteFails() {
			code, g.report.bad = wire.CodeErrorXfer, true
		}
		g.out.Message(code, fmt.Appendf(nil, "vaultd: %d entries that the source does not have were kept: a strict vault deletes nothing (P2)\n", g.stats.skipped))
	}
	if g.stats.limited > 0 {
		g.out.Message(wire.CodeWarning, fmt.Appendf(nil, "Deletions stopped due to --max-delete limit (%d skipped)\n", g.stats.limited))
	}
}
