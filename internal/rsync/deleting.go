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

// deleteAll does it for all directories at once: before, or after everything else.
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
	var surplus []appendonly.Info
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
				surplus = append(surplus, infos[j])
			}
		}
	}
	if _, err := g.remnants(e.Path(), p, surplus); err != nil {
		return err
	}
	if len(surplus) > 0 {
		g.there.forget()
	}
	return nil
}

// remnants removes what is surplus in a directory, the last one first, as rsync does: --max-delete ends somewhere. It reports
// whether all of it is gone.
func (g *generator) remnants(rel, p string, infos []appendonly.Info) (all bool, err error) {
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
	all = true
	for i := range infos {
		gone, err := g.remnant(path.Join(rel, infos[i].Name), path.Join(p, infos[i].Name), &infos[i])
		if err != nil {
			return false, err
		}
		all = all && gone
	}
	return all, nil
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

// remnant removes one name that the list does not have, with everything below it that no rule protects. It reports
// whether it is gone.
func (g *generator) remnant(rel, p string, info *appendonly.Info) (gone bool, err error) {
	dir := info.Kind == appendonly.KindDir
	if g.rules.Protected(rel, dir) || strings.HasPrefix(p, g.backupRoot()) {
		return false, nil
	}
	if g.opt.Backup && g.opt.BackupDir == "" && !dir && strings.HasSuffix(info.Name, g.opt.Suffix) && g.opt.Suffix != "" {
		return false, nil
	}
	op := appendonly.OpRemove
	if dir {
		op = appendonly.OpRmdir
	}
	if g.FS.Ask(op, p) != nil {
		g.stats.skipped++
		return false, nil
	}
	whole := true
	if dir {
		if whole, err = g.remnantsIn(rel, p); err != nil {
			return false, err
		}
		if !whole {
			return false, g.notEmpty(rel)
		}
	}
	if g.opt.MaxDelete >= 0 && g.stats.total() >= g.opt.MaxDelete {
		g.stats.limited++
		return false, nil
	}
	if !g.opt.DryRun {
		err := g.putAside(p, info)
		if errors.Is(err, appendonly.ErrNotEmpty) { // of backups, or of what just came
			whole = false
		} else if err != nil {
			return false, g.trouble("delete", p, err)
		}
	}
	if !whole {
		return false, g.notEmpty(rel)
	}
	g.stats.count(info.Kind)
	name := []byte(rel)
	if dir {
		name = append(name, 0)
	}
	g.out.Message(wire.CodeDeleted, name)
	return true, nil
}

// notEmpty tells that a directory stays: what is in it does.
func (g *generator) notEmpty(rel string) error {
	g.out.Message(wire.CodeInfo, []byte("cannot delete non-empty directory: "+printable(rel)+"\n"))
	return nil
}

// remnantsIn empties a directory that goes, and reports whether it is empty now.
func (g *generator) remnantsIn(rel, p string) (whole bool, err error) {
	if err := g.rules.Enter(rel); err != nil {
		return false, err
	}
	defer g.rules.Leave()
	d, err := g.FS.OpenDir(p)
	if err != nil {
		return false, g.trouble("list", p, err)
	}
	var all []appendonly.Info
	for {
		infos, err := d.Next(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return false, g.trouble("list", p, err)
		}
		all = append(all, infos...)
	}
	return g.remnants(rel, p, all)
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
		g.out.Message(code, fmt.Appendf(nil, "vaultd: %d entries that the source does not have were kept: a strict vault deletes nothing (P2)\n", g.stats.skipped))
	}
	if g.stats.limited > 0 {
		g.out.Message(wire.CodeWarning, fmt.Appendf(nil, "Deletions stopped due to --max-delete limit (%d skipped)\n", g.stats.limited))
	}
}
