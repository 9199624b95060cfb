package rsync

import (
	"path"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/option"
)

// links keeps the names of one file together (--hard-links; generator.c, hlink.c). The others are linked to the first name in
// the list that something stands under, which is settled or transferred, or else to the last one.
type links struct {
	groups map[int]*group // by the number of the first name
}

// group is the names of one file.
type group struct {
	last    int    // number of the last name
	path    string // of the name that is there; "" so far
	asked   bool   // one is being transferred
	failed  bool
	waiting []follower
}

type follower struct {
	index int
	path  string
	info  *appendonly.Info // what stood at path, if anything
}

// newLinks finds the groups of a list.
func newLinks(list *flist.List) links {
	l := links{map[int]*group{}}
	for i := range list.Len() {
		if e := list.At(i); e != nil && e.Group() >= 0 && !e.IsSymlink() { // symbolic links have no further names here
			g := l.groups[e.Group()]
			if g == nil {
				g = &group{}
				l.groups[e.Group()] = g
			}
			g.last = i
		}
	}
	return l
}

// of returns the group of an entry; nil when it has one name.
func (l *links) of(e *flist.Entry) *group {
	if e.Group() < 0 {
		return nil
	}
	return l.groups[e.Group()]
}

// known says whether another name of e's file is there already.
func (l *links) known(e *flist.Entry) bool {
	g := l.of(e)
	return g != nil && (g.path != "" || g.failed || g.asked)
}

// follow makes entry i a further name of the one that is there.
func (l *links) follow(g *generator, i int, e *flist.Entry, p string, info *appendonly.Info) error {
	grp := l.of(e)
	switch {
	case grp.failed:
		return nil // it was reported
	case grp.path == "":
		grp.wait(i, p, info)
		return nil
	}
	return l.link(g, i, p, grp, info)
}

// wait notes a name that is to be linked.
func (g *group) wait(i int, p string, info *appendonly.Info) {
	if info != nil {
		kept := *info
		info = &kept
	}
	g.waiting = append(g.waiting, follower{i, p, info})
}

// asks says that entry i is being transferred.
func (l *links) asks(e *flist.Entry) {
	if g := l.of(e); g != nil {
		g.asked = true
	}
}

// waits says whether entry i, where nothing stands, waits for a later name of its file.
func (l *links) waits(i int, e *flist.Entry, p string) bool {
	grp := l.of(e)
	if grp == nil || i == grp.last {
		return false
	}
	grp.wait(i, p, nil)
	return true
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

// come says that entry i is there: its file's other names can be made.
func (l *links) come(g *generator, i int) {
	grp := l.of(g.list.At(i))
	if grp == nil || grp.path != "" {
		return
	}
	grp.path = g.path(g.list.At(i))
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
	if grp := l.of(g.list.At(i)); grp != nil {
		grp.failed, grp.waiting = true, nil
	}
}

// alternative is what the basis directories have under the name of an entry that was linked to another of its names (hlink.c:
// hard_link_check); nil when nothing fits. same: they have this very file there.
func (g *generator) alternative(e *flist.Entry, there *appendonly.Info) (alt *appendonly.Info, same bool) {
	var last appendonly.Info
	fits := false
	for _, dir := range g.opt.BasisDirs {
		at := path.Join(g.basisDir(dir), e.Path())
		info, err := g.FS.Stat(at)
		switch {
		case err != nil:
			continue
		case g.opt.BasisKind == option.LinkDest:
			if info.Content == there.Content && info.Kind.HasContent() {
				return &info, true
			}
			continue
		}
		last = info // rsync tells of the one that it looked at last, whether or not that fitted
		if info.Kind != appendonly.KindFile {
			continue
		}
		if ok, err := g.same(e, at, &info); !ok || err != nil {
			continue
		}
		if fits = true; g.differs(e, &info) == 0 {
			break
		}
	}
	if !fits {
		return nil, false
	}
	return &last, false
}

// linkTo makes p a further name of the file at target. name is what the client is told it was linked to; "" for one
// in a basis directory.
func (g *generator) linkTo(i int, e *flist.Entry, p, target, name string, info *appendonly.Info) error {
	there, err := g.FS.Stat(target)
	if err != nil && !g.opt.DryRun {
		return g.trouble("link", p, err)
	}
	if info != nil && err == nil && info.Kind.HasContent() && info.Content == there.Content {
		if !g.opt.DryRun { // its attributes are those of the first name, which has been settled
			info = &there
		}
		g.itemize(i, e, itemLocal|itemName, info, 0, "")
		return nil
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
	switch {
	case old == nil && name == "":
		old = &there
	case old == nil:
		alt, same := g.alternative(e, &there)
		if same && !g.opt.ItemizeUnchanged() {
			return g.madeSource(i)
		}
		old = alt
	}
	g.itemize(i, e, itemLocal|itemName, old, 0, name)
	return g.madeSource(i)
}
