package rsync

import (
	"bytes"
	"errors"
	"io/fs"
	"path"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/option"
)

// Which file the sums are of (rsync.h: FNAMECMP_*); below basisName the number of a basis directory.
const (
	basisName  = 0x80
	basisFuzzy = 0x83
)

// basis is a file whose block sums the client gets.
type basis struct {
	path string
	info *appendonly.Info
	kind byte
}

// regular asks for a file that is missing or differs, and settles one that is the same.
func (g *generator) regular(i int, e *flist.Entry, p string, info *appendonly.Info) error {
	switch {
	case g.opt.MaxSize >= 0 && e.Size > g.opt.MaxSize, e.Size < g.opt.MinSize:
		return nil
	case info != nil && g.opt.Update && info.Kind == appendonly.KindFile && info.MTime.Sec()-e.MTime > int64(g.opt.ModifyWindow):
		return nil
	}
	if info != nil && info.Kind != appendonly.KindFile {
		if ok, err := g.makeWay(e, p, info); !ok || err != nil {
			return err
		}
		info = nil
	}
	if info != nil {
		same, err := g.same(e, p, info)
		if err != nil {
			return g.trouble("compare", p, err)
		}
		if same {
			g.unchanged(p, info)
			if err := g.settle(i, e, p, info); err != nil {
				return err
			}
			g.links.come(g, i)
			return g.madeSource(i)
		}
		if g.opt.Append > 0 && info.Size >= e.Size {
			return nil // only what is shorter is appended to
		}
	}
	from := basis{path: p, info: info, kind: basisName}
	if info == nil && len(g.opt.BasisDirs) > 0 {
		taken, found, err := g.fromBasisDirs(i, e, p)
		if taken || err != nil {
			return err
		}
		from = found
	}
	if from.info == nil && g.links.waits(i, e, p) {
		return nil
	}
	if info != nil {
		if err := g.mayChange(e, p, info); err != nil {
			if !g.opt.DryRun {
				g.FS.Refused(err, e.Size)
			}
			return g.trouble("store", p, err)
		}
	}
	if from.info == nil && g.opt.Fuzzy > 0 {
		from = g.fuzzy(e, p)
	}
	return g.ask(i, e, p, info, from)
}

// unchanged counts a file that needs no transfer.
func (g *generator) unchanged(p string, info *appendonly.Info) {
	if !g.opt.DryRun {
		g.FS.Unchanged(p, info.Size)
	}
}

// same is the quick check: whether a file needs no transfer (generator.c: quick_check_ok).
func (g *generator) same(e *flist.Entry, p string, info *appendonly.Info) (bool, error) {
	switch {
	case e.Size != info.Size:
		return false, nil
	case g.opt.Checksum:
		return g.sameContent(e, p)
	case g.opt.SizeOnly:
		return true, nil
	case g.opt.IgnoreTimes:
		return false, nil
	}
	return g.sameTime(e.MTime, e.NSec, info.MTime.Sec(), info.MTime.Nsec()), nil
}

// sameContent compares a file with the checksum in the list. A key that may not read is not told: the file comes
// again, whole.
func (g *generator) sameContent(e *flist.Entry, p string) (bool, error) {
	f, err := g.FS.Basis(p)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, appendonly.ErrQuarantined) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	sum, err := g.sums.OfFile(f, e.Size)
	return bytes.Equal(sum, e.Sum()), err
}

// mayChange refuses before the transfer what could only be refused after it: a changed file in a strict vault. What
// may still turn out to be the same, or longer, is let through.
func (g *generator) mayChange(e *flist.Entry, p string, info *appendonly.Info) error {
	denied := g.FS.Ask(appendonly.OpOverwrite, p)
	switch {
	case denied == nil:
		return nil
	case e.Size > info.Size && g.FS.Ask(appendonly.OpExtend, p) == nil:
		return nil
	case e.Size == info.Size && g.FS.Ask(appendonly.OpRepeat, p) == nil && g.FS.AskMeta(p, g.want(e, info)) == nil:
		return nil
	}
	return denied
}

// fromBasisDirs looks for the file in the directories of --link-dest, --copy-dest and --compare-dest (generator.c:
// try_dests_reg). taken says that nothing is left to do; otherwise found is the best basis there is.
func (g *generator) fromBasisDirs(i int, e *flist.Entry, p string) (taken bool, found basis, err error) {
	quality := 0
	for n, dir := range g.opt.BasisDirs {
		at := path.Join(g.basisDir(dir), e.Path())
		info, ferr := g.FS.Stat(at)
		if ferr != nil || info.Kind != appendonly.KindFile {
			continue
		}
		q := 1
		if same, _ := g.same(e, at, &info); same {
			if q = 2; g.differs(e, &info) == 0 {
				q = 3
			}
		}
		if q > quality {
			quality, found = q, basis{at, &info, byte(n)}
		}
		if q == 3 {
			break
		}
	}
	if quality < 2 {
		return false, found, nil
	}
	switch g.opt.BasisKind {
	case option.CompareDest:
		if quality == 3 {
			g.unchanged(p, found.info)
			g.itemize(i, e, 0, found.info, 0, "")
			return true, found, g.madeSource(i)
		}
	case option.LinkDest:
		if quality == 3 {
			return true, found, g.linkTo(i, e, p, found.path, "", nil)
		}
	}
	if g.opt.DryRun {
		g.itemize(i, e, itemLocal, found.info, 0, "")
		return true, found, nil
	}
	if err := g.copyOf(e, p, found); err != nil {
		return true, found, g.trouble("copy", p, err)
	}
	g.itemize(i, e, itemLocal, found.info, 0, "")
	g.later(i, e, p)
	g.links.come(g, i)
	return true, found, g.madeSource(i)
}

// like is what the basis directories have of an entry that is no file (generator.c: try_dests_non): the best of them, and
// whether it is the same in every way. nil: nothing of its kind.
func (g *generator) like(e *flist.Entry) (best *appendonly.Info, same bool) {
	quality := 0
	for _, dir := range g.opt.BasisDirs {
		info, err := g.FS.Stat(path.Join(g.basisDir(dir), e.Path()))
		if err != nil || info.Kind != kindOf(e) {
			continue
		}
		q := 1
		if e.IsDir() || e.IsSymlink() && info.Target == g.target(e) || e.IsDevice() && info.RDev == g.want(e, nil).RDev || e.IsSpecial() {
			if q = 2; g.differs(e, &info) == 0 {
				q = 3
			}
		}
		if q > quality {
			found := info
			quality, best = q, &found
		}
		if q == 3 {
			break
		}
	}
	return best, quality == 3
}

// likeItem tells of an entry that stands in a basis directory as it is to be, to clients that want to hear of those.
func (g *generator) likeItem(i int, e *flist.Entry, like *appendonly.Info) {
	if !g.opt.ItemizeUnchanged() {
		return
	}
	switch {
	case g.opt.BasisKind == option.LinkDest && !e.IsDir():
		g.itemize(i, e, itemLocal|itemName, like, 0, "")
	case g.opt.BasisKind == option.CompareDest && !e.IsDir():
		g.itemize(i, e, 0, like, 0, "")
	default:
		g.itemize(i, e, itemLocal, like, 0, "")
	}
}

// basisDir is where a basis directory is: relative to the destination.
func (g *generator) basisDir(dir string) string {
	if strings.HasPrefix(dir, "/") {
		return path.Clean(dir)
	}
	return path.Join(g.root, dir)
}

// copyOf stores the content of a basis under p, with the list's attributes.
func (g *generator) copyOf(e *flist.Entry, p string, from basis) error {
	f, err := g.FS.Basis(from.path)
	if err != nil {
		return err
	}
	defer f.Close()
	u, err := g.FS.Create(p, appendonly.CreateOptions{Create: true, Truncate: true, Meta: g.want(e, nil)})
	if err != nil {
		return err
	}
	if err := u.CopyFrom(f, 0, 0, f.Stat().Size); err != nil {
		u.Discard()
		return err
	}
	return u.Close()
}

// fuzzy looks in the file's directory for one that is likely to be like it (--fuzzy): of the same size and time, or with
// the most similar name.
func (g *generator) fuzzy(e *flist.Entry, p string) basis {
	none := basis{path: p, kind: basisName}
	d, err := g.FS.OpenDir(path.Dir(p))
	if err != nil {
		return none
	}
	best, score := none, len(e.Base())/3
	for range 64 { // a directory of 32,768 names is searched; no larger one
		infos, err := d.Next(batch)
		if err != nil {
			break
		}
		for j := range infos {
			c := &infos[j]
			if c.Kind != appendonly.KindFile || c.Size == 0 {
				continue
			}
			at := path.Join(path.Dir(p), c.Name)
			if c.Size == e.Size && g.sameTime(e.MTime, e.NSec, c.MTime.Sec(), c.MTime.Nsec()) {
				found := *c
				return basis{at, &found, basisFuzzy}
			}
			if s := likeness(c.Name, e.Base()); s > score {
				found := *c
				best, score = basis{at, &found, basisFuzzy}, s
			}
		}
	}
	return best
}

// likeness is how many bytes two names have in common at their beginnings and ends.
func likeness(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	m := 0
	for m < len(a)-n && m < len(b)-n && a[len(a)-1-m] == b[len(b)-1-m] {
		m++
	}
	return n + m
}

// ask asks the client for a file, with the sums of what is there to build it from.
func (g *generator) ask(i int, e *flist.Entry, p string, info *appendonly.Info, from basis) error {
	g.links.asks(e)
	t := &transfer{index: i, path: p, meta: g.replacing(e, info), have: info != nil}
	if info != nil {
		t.old = *info
	}
	f := itemSend
	if g.opt.Checksum && info != nil {
		f |= itemChange
	}
	name := ""
	if from.kind != basisName && from.info != nil {
		f |= itemBasis
		if from.kind == basisFuzzy {
			f |= itemName
			name = path.Base(from.path)
		}
	}
	told := info
	if from.kind < basisName { // what is there is compared with, not what is not
		told = from.info
	}
	if g.opt.DryRun {
		g.itemize(i, e, f, told, from.kind, name)
		g.links.come(g, i)
		return nil
	}
	var err error
	if t.backup, err = g.backup(p, info); err != nil {
		return g.trouble("keep a backup of", p, err)
	}
	sums, err := g.basisOf(t, from)
	if err != nil {
		return g.trouble("compare", p, err)
	}
	defer sums.close()
	if !sums.none() {
		t.head = delta.HeadFor(sums.size(), g.opt.BlockSize, g.proto, &g.sums)
	}
	t.flags = f
	g.q.ask(t)
	g.itemize(i, e, f, told, from.kind, name)
	t.head.Write(g.out)
	if sums.none() || g.opt.Append > 0 {
		return nil
	}
	return g.sums.WriteBlocks(g.out, sums, t.head)
}

// backup makes ready where what p stands for goes when it is replaced (--backup). "" when it goes nowhere: in a strict vault
// it stays anyway.
func (g *generator) backup(p string, info *appendonly.Info) (string, error) {
	if !g.opt.Backup || info == nil || info.Kind == appendonly.KindDir || g.FS.Ask(appendonly.OpOverwrite, p) != nil {
		return "", nil
	}
	to := p + g.opt.Suffix
	if g.opt.BackupDir != "" {
		rel := strings.TrimPrefix(strings.TrimPrefix(p, g.root), "/")
		top := g.basisDir(g.opt.BackupDir)
		if err := g.backupDirs(top, path.Dir(rel)); err != nil {
			return "", err
		}
		to = path.Join(top, rel) + g.opt.Suffix
	}
	if to == p {
		return "", nil
	}
	if old, err := g.FS.Stat(to); err == nil && old.Kind == appendonly.KindDir {
		return to, g.removeAll(to, &old)
	}
	return to, nil
}

// backupDirs makes a directory below top, and those it is in, each like the one that it stands for.
func (g *generator) backupDirs(top, rel string) error {
	if err := makePath(g.FS, top); err != nil || rel == "." {
		return err
	}
	for i := 0; i <= len(rel); i++ {
		if i < len(rel) && rel[i] != '/' {
			continue
		}
		m := appendonly.NoMeta()
		if like, err := g.FS.Stat(path.Join(g.root, rel[:i])); err == nil {
			m = like.Meta
			m.MTime = appendonly.Time{}
		}
		if err := g.FS.Mkdir(path.Join(top, rel[:i]), m); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// putAside drops a name, or gives it its backup's.
func (g *generator) putAside(p string, info *appendonly.Info) error {
	to, err := g.backup(p, info)
	if err != nil {
		return err
	}
	if to == "" {
		return g.remove(p, info)
	}
	return g.FS.Rename(p, to, true)
}

// mungePrefix makes a symlink point nowhere while it is stored (--munge-links).
const mungePrefix = "/rsyncd-munged/"

// target is what the entry's symlink is to point to.
func (g *generator) target(e *flist.Entry) string {
	if g.opt.MungeLinks && !strings.HasPrefix(e.Target(), mungePrefix) {
		return mungePrefix + e.Target()
	}
	return e.Target()
}

// unsafeLink says whether a symlink leads out of the tree that is transferred (util1.c: unsafe_symlink).
func unsafeLink(target, from string) bool {
	if target == "" || target[0] == '/' {
		return true
	}
	depth := strings.Count(path.Clean(from), "/")
	parts := strings.Split(target, "/")
	for i, part := range parts {
		switch part {
		case "..":
			if depth--; depth < 0 {
				return true
			}
		case ".", "":
		default:
			if i < len(parts)-1 {
				depth++
			}
		}
	}
	return false
}

// makePath makes a directory and those above it.
func makePath(f *appendonly.FS, p string) error {
	err := f.Mkdir(p, appendonly.NoMeta())
	if errors.Is(err, fs.ErrNotExist) {
		if err = makePath(f, path.Dir(p)); err == nil {
			err = f.Mkdir(p, appendonly.NoMeta())
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}
