package appendonly

import (
	"fmt"

	"vaultd/internal/journal"
)

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

// treeAdd gives what e is, a content or a symlink, a free name in the tree.
func (v *Vault) treeAdd(e *journal.Entry, rel string) error {
	if e.Kind.HasContent() {
		return v.vol.Link(e.ID, rel)
	}
	return v.vol.Symlink(e.Target, rel)
}
