package volumetest

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

const rootNum = 1

// node is what a name in the tree stands for.
type node struct {
	num     uint64 // of a directory or symlink
	kind    journal.Kind
	file    *inode // of a file
	target  string // of a symlink
	entries map[string]*node
}

func newDir(num uint64) *node {
	return &node{num: num, kind: journal.KindDir, entries: make(map[string]*node)}
}

// place is an entry of a directory, whatever the directory is called.
type place struct {
	dir  uint64
	name string
}

// treeChange is one verb: what takes place from away and puts n to to, both or neither. replace lets n
// take the place of another.
type treeChange struct {
	what     string
	from, to *place
	n        *node
	replace  bool
}

// walk returns the directory path, without following anything.
func (m *Memory) walk(path string) (*node, error) {
	d := m.root
	if path == "" {
		return d, nil
	}
	for name := range strings.SplitSeq(path, "/") {
		next := d.entries[name]
		if next == nil {
			return nil, fs.ErrNotExist
		}
		if next.kind != journal.KindDir {
			return nil, fs.ErrInvalid
		}
		d = next
	}
	return d, nil
}

// parent checks path and returns the directory that holds its last name.
func (m *Memory) parent(path string) (*node, string, error) {
	if len(path) > 4095 || strings.IndexByte(path, 0) >= 0 || path == ".vault" || strings.HasPrefix(path, ".vault/") {
		return nil, "", fs.ErrInvalid
	}
	for name := range strings.SplitSeq(path, "/") {
		if name == "" || name == "." || name == ".." || len(name) > 255 {
			return nil, "", fs.ErrInvalid
		}
	}
	dir, name := "", path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		dir, name = path[:i], path[i+1:]
	}
	d, err := m.walk(dir)
	return d, name, err
}

// add puts n under a free name.
func (m *Memory) add(what, path string, n *node) error {
	d, name, err := m.parent(path)
	if err != nil {
		return err
	}
	if d.entries[name] != nil {
		return fs.ErrExist
	}
	d.entries[name] = n
	m.changes = append(m.changes, treeChange{what: what + " " + path, to: &place{d.num, name}, n: n})
	return nil
}

// Link names a content.
func (m *Memory) Link(id journal.ID, path string) error {
	return m.do("Link", path, func() error {
		n := m.find(id)
		if n == nil {
			return fs.ErrNotExist
		}
		err := m.add("link", path, &node{kind: journal.KindFile, file: n})
		if err == nil {
			n.links++
		}
		return err
	})
}

// droppable returns the node of a name that may go: it exists and is not a directory's nor the only
// link of its content.
func (m *Memory) droppable(path string) (*node, *node, string, error) {
	d, name, err := m.parent(path)
	if err != nil {
		return nil, nil, "", err
	}
	old := d.entries[name]
	switch {
	case old == nil:
		return nil, nil, "", fs.ErrNotExist
	case old.kind == journal.KindDir:
		return nil, nil, "", fs.ErrInvalid
	case old.file != nil && old.file.links == 1 && old.file.gone:
		return nil, nil, "", fs.ErrPermission
	}
	return old, d, name, nil
}

// Relink lets a name stand for another content.
func (m *Memory) Relink(id journal.ID, path string) error {
	return m.do("Relink", path, func() error {
		old, d, name, err := m.droppable(path)
		if err != nil {
			return err
		}
		f := m.find(id)
		if f == nil {
			return fs.ErrNotExist
		}
		if old.file != nil {
			old.file.links--
		}
		f.links++
		n := &node{kind: journal.KindFile, file: f}
		d.entries[name] = n
		m.changes = append(m.changes, treeChange{what: "relink " + path, to: &place{d.num, name}, n: n, replace: true})
		return nil
	})
}

// Unlink drops a name.
func (m *Memory) Unlink(path string) error {
	return m.do("Unlink", path, func() error {
		old, d, name, err := m.droppable(path)
		if err != nil {
			return err
		}
		if old.file != nil {
			old.file.links--
		}
		delete(d.entries, name)
		m.changes = append(m.changes, treeChange{what: "unlink " + path, from: &place{d.num, name}, n: old})
		return nil
	})
}

// Mkdir makes a directory.
func (m *Memory) Mkdir(path string) error {
	return m.do("Mkdir", path, func() error { return m.add("mkdir", path, newDir(m.number())) })
}

// Symlink makes a symlink.
func (m *Memory) Symlink(target, path string) error {
	return m.do("Symlink", path, func() error {
		if target == "" || len(target) > 4095 || strings.IndexByte(target, 0) >= 0 {
			return fs.ErrInvalid
		}
		return m.add("symlink", path, &node{num: m.number(), kind: journal.KindSymlink, target: target})
	})
}

// Rmdir drops an empty directory.
func (m *Memory) Rmdir(path string) error {
	return m.do("Rmdir", path, func() error {
		d, name, err := m.parent(path)
		if err != nil {
			return err
		}
		old := d.entries[name]
		switch {
		case old == nil:
			return fs.ErrNotExist
		case old.kind != journal.KindDir:
			return fs.ErrInvalid
		case len(old.entries) > 0:
			return fs.ErrExist // as ENOTEMPTY is
		}
		delete(d.entries, name)
		m.changes = append(m.changes, treeChange{what: "rmdir " + path, from: &place{d.num, name}, n: old})
		return nil
	})
}

// Rename moves a name.
func (m *Memory) Rename(from, to string) error {
	return m.do("Rename", from, func() error {
		a, aName, err := m.parent(from)
		if err != nil {
			return err
		}
		b, bName, err := m.parent(to)
		if err != nil {
			return err
		}
		n := a.entries[aName]
		switch {
		case n == nil:
			return fs.ErrNotExist
		case strings.HasPrefix(to, from+"/"):
			return fs.ErrInvalid
		case b.entries[bName] != nil:
			return fs.ErrExist
		}
		delete(a.entries, aName)
		b.entries[bName] = n
		m.changes = append(m.changes, treeChange{what: fmt.Sprintf("rename %s %s", from, to),
			from: &place{a.num, aName}, to: &place{b.num, bName}, n: n})
		return nil
	})
}

// Entries lists a directory.
func (m *Memory) Entries(path string) ([]appendonly.TreeEntry, error) {
	var list []appendonly.TreeEntry
	err := m.do("Entries", path, func() error {
		if path != "" {
			if _, _, err := m.parent(path); err != nil {
				return err
			}
		}
		d, err := m.walk(path)
		if err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(d.entries)) {
			n := d.entries[name]
			e := appendonly.TreeEntry{Name: name, Kind: n.kind, Inode: n.num}
			if n.file != nil {
				e.Inode = n.file.num
			}
			list = append(list, e)
		}
		return nil
	})
	return list, err
}
