package appendonly

import (
	"errors"
	"io/fs"
	"slices"
	"strings"

	"vaultd/internal/journal"
)

// A snapshot that has a body is read there: names, kinds, bytes, targets and what the disk keeps of attributes. The index is asked about the same
// place at the same instant, for what the disk does not carry: attributes of directories and symlinks, who made a content and when it came,
// whether it was found damaged. What it says of anything else than what is in the body does not count (heldBody.bodyEntry).

// rootIn is the session's root in a body.
func (f *FS) rootIn(h *heldBody) (node, error) {
	n := node{entry: journal.Root(), when: h.snap.At, snap: &h.snap}
	dir := ""
	for rest := f.who.Root; rest != ""; {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		loc := journal.Loc{Dir: n.entry.Dir, Name: name}
		e, inode, err := f.v.lookBody(h, dir, loc)
		if errors.Is(err, fs.ErrNotExist) || err == nil && e.Kind != KindDir { // as in rootAt
			missing := *journal.Root()
			missing.Dir = nowhere
			return node{entry: &missing, when: h.snap.At}, nil
		}
		if err != nil {
			return node{}, err
		}
		n.entry, n.loc, n.inode = e, loc, inode
		dir = join(dir, name)
	}
	return n, nil
}

// lookIn is what loc, a name in the directory at, stands for: in the body h, or, if that is nil, in the index.
func (f *FS) lookIn(h *heldBody, at node, loc journal.Loc, when Seq) (*journal.Entry, uint64, error) {
	if h == nil || at.snap == nil { // a root that is missing in the body has nothing in it
		e, err := f.v.idx.Lookup(loc, when)
		return e, 0, err
	}
	dir, err := f.inTenant(OpStat, at.rel)
	if err != nil {
		return nil, 0, err
	}
	return f.v.lookBody(h, dir, loc)
}

// lookBody is what loc, a name in the tenant's directory dir, stands for in a body; fs.ErrNotExist when nothing.
func (v *Vault) lookBody(h *heldBody, dir string, loc journal.Loc) (*journal.Entry, uint64, error) {
	raws, err := h.Look(dir, []string{loc.Name})
	if err != nil {
		return nil, 0, err
	}
	if raws[0].Kind == journal.KindNone {
		return nil, 0, fs.ErrNotExist
	}
	known, err := v.idx.Lookup(loc, h.snap.At)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, 0, err
	}
	e, err := h.bodyEntry(&raws[0], known)
	return e, raws[0].Inode, err
}

// openInBody opens a file of a snapshot's body. What verification found damaged is not served from there either: it is the same content.
func (f *FS) openInBody(path string, n node, info Info) (*File, error) {
	h := f.v.holdBody(*n.snap)
	if h == nil { // it was there a moment ago
		if n.entry.ID.IsZero() {
			return nil, pathError(OpRead, path, fs.ErrNotExist)
		}
		return f.openEntry(path, n.entry, info)
	}
	defer f.v.releaseBody(h)
	void, err := f.v.voidIn(h, n)
	if err != nil {
		return nil, err
	}
	if void {
		return nil, pathError(OpRead, path, ErrQuarantined)
	}
	rel, err := f.inTenant(OpRead, n.rel)
	if err != nil {
		return nil, err
	}
	c, err := h.Open(rel)
	if err != nil {
		return nil, err
	}
	if c.Size() != n.entry.Size {
		c.Close()
		return nil, pathError(OpRead, path, ErrQuarantined)
	}
	hash, err := f.v.idx.Hash(n.entry)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &File{content: c, info: info, hash: hash}, nil
}

// voidIn reports whether n, in a body, is a content that is known to be damaged. Where the index knows no content under the name, the
// inodes of those that are damaged tell.
func (v *Vault) voidIn(h *heldBody, n node) (bool, error) {
	if !n.entry.ID.IsZero() {
		return v.idx.Void(n.entry.ID)
	}
	var ids []journal.ID
	if err := v.idx.EachVoid(func(id journal.ID, _ bool) bool { ids = append(ids, id); return true }); err != nil {
		return false, err
	}
	for _, id := range ids {
		inode, err := h.Inode(id)
		if err == nil && inode == n.inode {
			return true, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// bodyPage is how many names of a directory are kept at a time: the disk has them in no order.
const bodyPage = 8192

// bodyNames are the names of a directory of a body, sorted, a page at a time.
type bodyNames struct {
	dir   string
	from  string   // names are those after it
	names []string // nil: not read yet
	last  bool     // there are no more
}

// after returns up to n names, sorted, that come after name.
func (b *bodyNames) after(h *heldBody, name string, n int) ([]string, error) {
	find := func() []string {
		i, found := slices.BinarySearch(b.names, name)
		if found {
			i++
		}
		return b.names[i:min(i+n, len(b.names))]
	}
	if b.names != nil && name >= b.from {
		if out := find(); b.last || len(out) > 0 {
			return out, nil
		}
	}
	b.from, b.names, b.last = name, []string{}, true
	shrink := func() {
		slices.Sort(b.names)
		if len(b.names) > bodyPage {
			b.names, b.last = b.names[:bodyPage], false
		}
	}
	err := h.Each(b.dir, func(x string) bool {
		if x > name {
			b.names = append(b.names, x)
		}
		if len(b.names) >= 2*bodyPage {
			shrink()
		}
		return true
	})
	shrink()
	return find(), err
}

// bodyList lists a directory of a body.
type bodyList struct {
	f     *FS
	n     node
	names *bodyNames
	buf   []Info
}

// list is Dir's.
func (l *bodyList) list(after string, count int) ([]Info, error) {
	f, n := l.f, l.n
	h := f.v.holdBody(*n.snap)
	if h == nil {
		if n.entry.Dir == nowhere {
			return nil, pathError(OpList, "/"+n.rel, fs.ErrNotExist)
		}
		return f.listDir(nil, n, after, count)
	}
	defer f.v.releaseBody(h)
	dir, err := f.inTenant(OpList, n.rel)
	if err != nil {
		return nil, err
	}
	if l.names == nil {
		l.names = &bodyNames{dir: dir}
	}
	names, err := l.names.after(h, after, count)
	if err != nil {
		return nil, err
	}
	entries, err := f.v.bodyEntries(h, dir, n.entry.Dir, after, names)
	if err != nil {
		return nil, err
	}
	l.buf = l.buf[:0]
	for i, e := range entries {
		l.buf = append(l.buf, infoOf(names[i], e))
	}
	return l.buf, nil
}

// bodyEntries describes the names after after, sorted, of one directory of a body; id is the index's number of it.
func (v *Vault) bodyEntries(h *heldBody, dir string, id journal.DirID, after string, names []string) ([]*journal.Entry, error) {
	if len(names) == 0 {
		return nil, nil
	}
	raws, err := h.Look(dir, names)
	if err != nil {
		return nil, err
	}
	known := make([]*journal.Entry, len(names))
	i := 0
	if err := v.idx.Each(id, h.snap.At, after, func(name string, e *journal.Entry) bool {
		for i < len(names) && names[i] < name {
			i++
		}
		if i < len(names) && names[i] == name {
			kept := *e
			known[i] = &kept
			i++
		}
		return i < len(names)
	}); err != nil {
		return nil, err
	}
	out := make([]*journal.Entry, len(names))
	for i := range names {
		if raws[i].Kind == journal.KindNone { // the body does not change
			return nil, pathError(OpList, "/"+join(dir, names[i]), fs.ErrNotExist)
		}
		if out[i], err = h.bodyEntry(&raws[i], known[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}
