package rsync

import (
	"path"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
)

// links keeps the names of one file together (--hard-links; hlink.c): the first of a group in the list is treated like
// any file, the others become further names of it once it is there.
type links struct {
	leaders map[int]*group
}

// group is the names of one file, by the first one's index.
type group struct {
	path    string // of the first name, once it is there
	failed  bool
	waiting []follower
}

type follower struct {
	index int
	path  string
	info  *appendonly.Info // what stood at path, if anything
}

func (l *links) of(leader int) *group {
	if l.leaders == nil {
		l.leaders = map[int]*group{}
	}
	g := l.leaders[leader]
	if g == nil {
		g = &group{}
		l.leaders[leader] = g
	}
	return g
}

// follows says whether entry i is to be a further name of an earlier one. Symbolic links have no further names here.
func (l *links) follows(e *flist.Entry, i int) bool {
	leader := e.Group()
	return leader >= 0 && leader != i && !e.IsSymlink()
}

// follow makes entry i a further name, now or when the first one is there.
func (l *links) follow(g *generator, i int, e *flist.Entry, p string, info *appendonly.Info) error {
	grp := l.of(e.Group())
	switch {
	case grp.failed:
		return nil // its first name was reported
	case grp.path != "" || g.opt.DryRun:
		if grp.path == "" {
			grp.path = g.path(g.list.At(e.Group()))
		}
		return l.link(g, i, p, grp, info)
	}
	if info != nil {
		kept := *info
		info = &kept
	}
	grp.waiting = append(grp.waiting, follower{i, p, info})
	return nil
}

// link gives the group's file the further name p.
func (l *links) link(g *generator, i int, p string, grp *group, info *appendonly.Info) error {
	name, err := g.nameOf(grp.path)
	if err != nil {
		return err
	}
	return g.linkTo(i, g.list.At(i), p, grp.path, name, info)
}

// nameOf is a path as the list has it.
func (g *generator) nameOf(p string) (string, error) {
	if g.root == "/" {
		return p[1:], nil
	}
	return p[len(g.root)+1:], nil
}

// come says that entry i is there: its group's other names can be made.
func (l *links) come(g *generator, i int) {
	e := g.list.At(i)
	if e.Group() != i {
		return
	}
	grp := l.of(i)
	grp.path = g.path(e)
	waiting := grp.waiting
	grp.waiting = nil
	for _, f := range waiting {
		if err := l.link(g, f.index, f.path, grp, f.info); err != nil {
			g.report.error(g.out, g.line("link", f.path, err))
		}
	}
}

// failed says that entry i did not come.
func (l *links) failed(g *generator, i int) {
	if e := g.list.At(i); e.Group() == i {
		grp := l.of(i)
		grp.failed, grp.waiting = true, nil
	}
}

// linkTo makes p a further name of the file at target. name is what the client is told it was linked to; "" for one
// in a basis directory.
func (g *generator) linkTo(i int, e *flist.Entry, p, target, name string, info *appendonly.Info) error {
	there, err := g.FS.Stat(target)
	if err != nil && !g.opt.DryRun {
		return g.trouble("link", p, err)
	}
	if info != nil && err == nil && info.Kind.HasContent() && info.Content == there.Content {
		return g.settle(i, e, p, info)
	}
	if info != nil {
		if info.Kind == there.Kind && g.FS.Ask(appendonly.OpOverwrite, p) != nil { // strict: the same bytes under a name of their own will do
			if same, _ := g.same(e, p, info); same {
				return g.settle(i, e, p, info)
			}
		}
		if ok, err := g.makeWay(e, p, info); !ok || err != nil {
			return err
		}
	}
	if !g.opt.DryRun {
		if err := g.create(p, func() error { return g.FS.Link(target, p) }); err != nil {
			return g.trouble("link", path.Clean(p), err)
		}
	}
	old := info
	if old == nil && name == "" {
		old = &there
	}
	g.itemize(i, e, itemLocal|itemName, old, 0, name)
	return g.madeSource(i)
}
