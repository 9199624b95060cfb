package appendonly

import (
	"io"
	"slices"
	"strings"
	"time"

	"vaultd/internal/journal"
)

// OpenDir opens a directory for listing, following links.
func (f *FS) OpenDir(path string) (*Dir, error) {
	n, err := f.lookup(OpList, path, true)
	if err != nil {
		return nil, err
	}
	if n.list == nil && (n.entry == nil || n.entry.Kind != KindDir) {
		return nil, pathError(OpList, path, ErrNotDir)
	}
	info, err := f.infoOfNode(n)
	if err != nil {
		return nil, err
	}
	d := &Dir{info: info, list: n.list}
	if n.snap != nil {
		d.list = (&bodyList{f: f, n: n}).list
	} else if n.list == nil {
		d.list = func(after string, count int) (_ []Info, err error) {
			d.buf, err = f.listDir(d.buf[:0], n, after, count)
			return d.buf, err
		}
	}
	return d, nil
}

// listDir lists a real directory; live, the locks in it come among the others.
func (f *FS) listDir(out []Info, n node, after string, count int) ([]Info, error) {
	if out := f.movedOut(n); out {
		return nil, nil
	}
	err := f.v.idx.Each(n.entry.Dir, n.when, after, func(name string, e *journal.Entry) bool {
		out = append(out, infoOf(name, e))
		return len(out) < count
	})
	if err != nil {
		return nil, err
	}
	if n.when != journal.Now {
		return out, nil
	}
	locks := f.v.locksIn(n.entry.Dir, after)
	if len(locks) == 0 {
		return out, nil
	}
	out = append(out, locks...)
	slices.SortFunc(out, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	out = slices.CompactFunc(out, func(a, b Info) bool { return a.Name == b.Name })
	return out[:min(len(out), count)], nil
}

// locksIn lists the locks of a directory that come after a name.
func (v *Vault) locksIn(dir journal.DirID, after string) []Info {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []Info
	for at, l := range v.scratch {
		if at.Dir == dir && at.Name > after {
			out = append(out, l.info(at.Name))
		}
	}
	return out
}

// Dir is an open directory. It is used by one goroutine at a time.
type Dir struct {
	info  Info
	list  func(after string, n int) ([]Info, error)
	after string
	done  bool
	buf   []Info
}

// Next returns up to n further entries, sorted by name bytes, without "." and ".."; at the end none and io.EOF.
// The slice is valid until the next call.
func (d *Dir) Next(n int) ([]Info, error) {
	if d.done {
		return nil, io.EOF
	}
	out, err := d.list(d.after, n)
	if err != nil {
		return nil, err
	}
	if len(out) == 0 {
		d.done = true
		return nil, io.EOF
	}
	d.after = out[len(out)-1].Name
	return out, nil
}

// Each calls f for every further entry, sorted by name, until it fails. What f is given is valid until it returns.
func (d *Dir) Each(f func(*Info) error) error {
	for {
		infos, err := d.Next(listBatch)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for i := range infos {
			if err := f(&infos[i]); err != nil {
				return err
			}
		}
	}
}

// Reuse lets d have the memory of a directory that was read before and is done with.
func (d *Dir) Reuse(done *Dir) { d.buf, done.buf = done.buf, nil }

// Stat describes the directory itself.
func (d *Dir) Stat() Info { return d.info }

// virtualDir is a directory of fixed names.
func virtualDir(name string, names ...string) node {
	infos := make([]Info, len(names))
	for i, n := range names {
		infos[i] = Info{Name: n, Kind: KindDir, Meta: Meta{Mode: 0o555, UID: Unset, GID: Unset, MTime: journal.Unix(0, 0)}, Nlink: 1, Sealed: true}
	}
	return listOf(name, infos)
}

func listOf(name string, infos []Info) node {
	slices.SortFunc(infos, func(a, b Info) int { return strings.Compare(a.Name, b.Name) })
	return node{name: name, list: func(after string, n int) ([]Info, error) {
		i, found := slices.BinarySearchFunc(infos, after, func(x Info, s string) int { return strings.Compare(x.Name, s) })
		if found {
			i++
		}
		return infos[i:min(i+n, len(infos))], nil
	}}
}

func (f *FS) snapshotsDir() (node, error) {
	snaps, err := f.v.idx.Snapshots()
	if err != nil {
		return node{}, err
	}
	infos := make([]Info, 0, len(snaps)+1)
	dir := func(name string, t time.Time) Info {
		return Info{Name: name, Kind: KindDir, Meta: Meta{Mode: 0o555, UID: Unset, GID: Unset, MTime: journal.At(t)}, Nlink: 1, Sealed: true}
	}
	for _, s := range snaps {
		infos = append(infos, dir(s.Name, s.Time))
	}
	if n := len(snaps); n > 0 {
		infos = append(infos, dir("latest", snaps[n-1].Time))
	}
	return listOf("snapshots", infos), nil
}
