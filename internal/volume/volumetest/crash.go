package volumetest

import (
	"bytes"
	"fmt"
	"maps"
	"math/bits"
	"slices"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// heir ends m and returns a Memory with st, that has no Fault. The caller holds mu.
func (m *Memory) heir(st state) *Memory {
	h := &Memory{Disk: m.Disk, tb: m.tb, state: st}
	m.state = state{dead: true}
	m.tb.Cleanup(h.Verify)
	return h
}

// Kill ends m as kill -9 ends a process, and returns the volume that the next one opens: everything is
// there, and what was not stable still is not.
func (m *Memory) Kill() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		panic("internal error: Kill of a dead volume")
	}
	for _, set := range []map[journal.ID]*inode{m.staging, m.store, m.discarded} {
		for _, n := range set {
			n.writers = 0
		}
	}
	return m.heir(m.state)
}

// Crash ends m as a power cut does, and returns the volume as the disk has it: what is surely stable,
// and of each other change what keep says. Its argument describes the change; it is called in the same
// order each time, without locks that a test could want.
func (m *Memory) Crash(keep func(what string) bool) *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		panic("internal error: Crash of a dead volume")
	}
	c := crash{m: m, keep: keep, copies: make(map[*inode]*inode), dirs: make(map[uint64]*node), parents: make(map[uint64]place)}
	st := state{numbers: m.numbers, used: m.used, segments: m.segments, discarded: make(map[journal.ID]*inode)}
	st.staging, st.store = c.contents()
	st.root = c.tree()
	st.disk = copyTree(st.root)
	c.countLinks(st.root)
	st.notes = c.notes()
	st.open = c.segment()
	return m.heir(st)
}

// crash is one power cut under way.
type crash struct {
	m       *Memory
	keep    func(what string) bool
	copies  map[*inode]*inode
	dirs    map[uint64]*node // directories of the new tree, also those without a name
	parents map[uint64]place // where those that have one are
}

func sortedIDs(m map[journal.ID]*inode) []journal.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b journal.ID) int { return bytes.Compare(a[:], b[:]) })
}

// contents decides where each content is. A sealed one is in the store or back in staging, whole.
func (c *crash) contents() (staging, store map[journal.ID]*inode) {
	staging, store = make(map[journal.ID]*inode), make(map[journal.ID]*inode)
	for _, id := range sortedIDs(c.m.staging) {
		if n := c.m.staging[id]; n.stable || c.keep(fmt.Sprintf("stage %s", id)) {
			staging[id] = c.inode(n)
		}
	}
	for _, id := range sortedIDs(c.m.store) {
		n := c.inode(c.m.store[id])
		if n.inStore || c.keep(fmt.Sprintf("seal %s", id)) {
			n.inStore = true
			store[id] = n
		} else {
			n.sealed = nil
			staging[id] = n
		}
	}
	for _, id := range sortedIDs(c.m.discarded) {
		if n := c.m.discarded[id]; !c.keep(fmt.Sprintf("discard %s", id)) && (n.stable || c.keep(fmt.Sprintf("stage %s", id))) {
			staging[id] = c.inode(n)
		}
	}
	for _, set := range []map[journal.ID]*inode{staging, store} {
		for _, n := range set {
			n.gone = false
		}
	}
	return staging, store
}

// inode returns what is left of n.
func (c *crash) inode(n *inode) *inode {
	if left := c.copies[n]; left != nil {
		return left
	}
	data := slices.Clone(n.synced)
	for i, ch := range n.changes {
		if c.keep(fmt.Sprintf("write %d of inode %d", i, n.num)) {
			data = ch.apply(data)
		}
	}
	left := &inode{num: n.num, data: data, synced: slices.Clone(data), stable: true, inStore: n.inStore, sealed: n.sealed, gone: true}
	c.copies[n] = left
	return left
}

// tree replays the changes that are kept on the tree of the last crash. Each takes place in the
// directories it was made in; one that has become impossible is lost.
func (c *crash) tree() *node {
	c.adopt(c.m.disk)
	for _, ch := range c.m.changes {
		if c.keep(ch.what) {
			c.apply(ch)
		}
	}
	return c.dir(rootNum)
}

// adopt makes the directories of a tree of the last crash.
func (c *crash) adopt(old *node) {
	d := c.dir(old.num)
	for _, name := range slices.Sorted(maps.Keys(old.entries)) {
		n := old.entries[name]
		c.put(place{d.num, name}, n)
		if n.kind == journal.KindDir {
			c.adopt(n)
		}
	}
}

func (c *crash) dir(num uint64) *node {
	if c.dirs[num] == nil {
		c.dirs[num] = newDir(num)
	}
	return c.dirs[num]
}

// put makes an entry for n, whatever was there.
func (c *crash) put(to place, n *node) {
	e := &node{num: n.num, kind: n.kind, target: n.target}
	switch n.kind {
	case journal.KindDir:
		e = c.dir(n.num)
		c.parents[n.num] = to
	case journal.KindFile:
		e.file = c.inode(n.file)
	}
	c.dir(to.dir).entries[to.name] = e
}

func (c *crash) apply(ch treeChange) {
	isDir := ch.n.kind == journal.KindDir
	if ch.to != nil {
		old := c.dir(ch.to.dir).entries[ch.to.name]
		if old != nil && (!ch.replace || old.kind == journal.KindDir) || isDir && c.inside(ch.to.dir, ch.n.num) {
			return
		}
	}
	if ch.from != nil {
		d := c.dir(ch.from.dir)
		old := d.entries[ch.from.name]
		if old != nil && (old.kind == journal.KindDir) == isDir && (!isDir || old.num == ch.n.num) {
			if ch.to == nil && len(old.entries) > 0 {
				return // the removals of what was in it are lost
			}
			delete(d.entries, ch.from.name)
			delete(c.parents, old.num)
		}
	}
	if ch.to == nil {
		return
	}
	if at, ok := c.parents[ch.n.num]; ok && isDir { // an earlier move of it is lost: it has one name all the same
		delete(c.dir(at.dir).entries, at.name)
	}
	c.put(*ch.to, ch.n)
}

// inside reports whether directory num is top or below it.
func (c *crash) inside(num, top uint64) bool {
	for {
		if num == top {
			return true
		}
		p, ok := c.parents[num]
		if !ok {
			return false
		}
		num = p.dir
	}
}

func copyTree(n *node) *node {
	d := *n
	if n.kind == journal.KindDir {
		d.entries = make(map[string]*node, len(n.entries))
		for name, e := range n.entries {
			d.entries[name] = copyTree(e)
		}
	}
	return &d
}

func (c *crash) countLinks(n *node) {
	if n.file != nil {
		n.file.links++
	}
	for _, e := range n.entries {
		c.countLinks(e)
	}
}

func (c *crash) notes() map[appendonly.Area]map[string]*note {
	areas := make(map[appendonly.Area]map[string]*note)
	for _, area := range []appendonly.Area{appendonly.AreaStaging, appendonly.AreaScratch} {
		areas[area] = make(map[string]*note)
		for _, name := range slices.Sorted(maps.Keys(c.m.notes[area])) {
			n := c.m.notes[area][name]
			data := n.synced
			switch {
			case bytes.Equal(n.data, n.synced) && (n.data == nil) == (n.synced == nil):
			case c.keep("note " + name):
				data = n.data
			case n.synced == nil && c.keep("empty note "+name):
				data = []byte{}
			}
			if data != nil {
				areas[area][name] = &note{data: data, synced: data}
			}
		}
	}
	return areas
}

// segment decides how much of the open segment's unsynced bytes there is.
func (c *crash) segment() *openSegment {
	s := c.m.open
	if s == nil {
		return nil
	}
	data := slices.Clone(s.synced)
	for i, ch := range s.changes {
		if c.keep(fmt.Sprintf("segment change %d", i)) {
			data = ch.apply(data)
			continue
		}
		torn := 0
		for bit := range bits.Len(uint(len(ch.data))) {
			if c.keep(fmt.Sprintf("tear of segment change %d, bit %d", i, bit)) {
				torn |= 1 << bit
			}
		}
		if len(ch.data) > 0 && torn%len(ch.data) > 0 {
			data = change{ch.off, ch.data[:torn%len(ch.data)]}.apply(data)
		}
	}
	return &openSegment{data: data, synced: slices.Clone(data)}
}
