package rsync

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync/atomic"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/filter"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/option"
	"vaultd/internal/rsync/wire"
)

// generator goes through the client's list, makes what needs no bytes, and asks for what does (generator.c). It
// runs on Serve's goroutine and is the only one that writes to the client.
type generator struct {
	*conn
	attributes
	rules    *filter.Set
	q        *queue
	root     string // where the list's names begin; absolute in the tenant
	single   string // the only file's name in root, where the client named a file; "" otherwise
	there    *cursor
	links    links
	done     []int // sent whole, not covered by a barrier: for --remove-source-files
	phases   int   // of the client, that it ended
	redo     []*transfer
	madeRoot bool   // the destination did not exist
	lost     string // a directory that could not be made: nothing below it is tried
	ioErrors *atomic.Int32
	stats    deletions
	delayed  []surplus
}

// path is where entry e goes.
func (g *generator) path(e *flist.Entry) string {
	if g.single != "" {
		return path.Join(g.root, g.single)
	}
	return path.Join(g.root, e.Path())
}

// run does the work of one push, up to the last goodbye.
func (g *generator) run(ctx context.Context) error {
	if g.deletes() && g.opt.DeleteBefore {
		if err := g.deleteAll(); err != nil {
			return err
		}
	}
	for i := range g.list.Len() {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if e := g.list.At(i); e != nil {
			if err := g.entry(i, e); err != nil {
				return err
			}
		}
		if err := g.listen(g.q.full()); err != nil {
			return err
		}
	}
	return g.finish(ctx)
}

// finish ends the phases in the order that the client's protocol has (generator.c: generate_files, main.c: do_recv).
func (g *generator) finish(ctx context.Context) error {
	g.out.Index(done, g.proto)
	if err := g.await(1); err != nil { // everything that was asked for has been answered
		return err
	}
	if n := g.q.unanswered(); n > 0 && g.proto >= 30 { // older clients do not say what they can not send
		g.report.error(g.out, fmt.Sprintf("%d files were asked for and did not come", n))
	}
	for _, t := range g.redo {
		if err := g.askAgain(t); err != nil {
			return err
		}
	}
	g.out.Index(done, g.proto)
	g.out.Index(done, g.proto) // there is no phase of delayed updates: files appear when they are whole
	if g.deletes() && g.opt.DeleteAfter {
		if err := g.deleteAll(); err != nil {
			return err
		}
	}
	if err := g.deleteDelayed(); err != nil {
		return err
	}
	if err := g.await(3); err != nil {
		return err
	}
	g.endDeletes()
	g.report.summary(g.out)
	if err := g.barrier(ctx); err != nil {
		return err
	}
	if g.proto >= 31 {
		if g.deletes() {
			g.stats.send(g.out, g.proto)
		}
		g.out.Index(done, g.proto)
		if err := g.await(4); err != nil {
			return err
		}
	}
	g.out.Index(done, g.proto)
	return g.out.Flush()
}

// await waits until the client has ended n phases.
func (g *generator) await(n int) error {
	for g.phases < n {
		if err := g.listen(true); err != nil {
			return err
		}
	}
	return nil
}

// listen takes what the receiver has to say. With wait it waits for something, once the client has all that was
// written to it.
func (g *generator) listen(wait bool) error {
	if wait {
		if err := g.out.Flush(); err != nil {
			return err
		}
	}
	events, err := g.q.take(wait)
	if err != nil {
		return err
	}
	for _, e := range events {
		switch e.kind {
		case evPhase:
			g.phases++
		case evMessage:
			g.report.error(g.out, e.text)
		case evRedo:
			g.redo = append(g.redo, e.t)
		case evFailed:
			g.links.failed(g, e.t.index)
		case evDone:
			g.sent(e.t)
		}
	}
	return nil
}

// sent follows a file that came whole.
func (g *generator) sent(t *transfer) {
	if g.opt.RemoveSourceFiles {
		g.done = append(g.done, t.index)
	}
	g.links.come(g, t.index)
}

// barrier makes everything so far stable, and lets the client remove its sources (--remove-source-files).
func (g *generator) barrier(ctx context.Context) error {
	if g.opt.DryRun {
		return nil
	}
	if err := g.out.Flush(); err != nil {
		return err
	}
	if err := g.FS.Barrier(ctx); err != nil {
		return err
	}
	for _, i := range g.done {
		g.out.Message(wire.CodeSuccess, binary.LittleEndian.AppendUint32(nil, uint32(g.list.Wire(i))))
	}
	g.done = g.done[:0]
	return nil
}

// entry brings one name of the list to what it is to be.
func (g *generator) entry(i int, e *flist.Entry) error {
	p := g.path(e)
	if g.lost != "" {
		if strings.HasPrefix(p, g.lost+"/") {
			return nil
		}
		g.lost = ""
	}
	info, err := g.there.find(p)
	if err != nil {
		return g.trouble("look up", p, err)
	}
	switch {
	case e.IsMissing():
		return g.missing(e, p, info)
	case info == nil && g.opt.Existing && !(e.IsDir() && e.IsRoot()):
		if e.IsDir() {
			g.lost = p
		}
		return nil
	case info != nil && g.opt.IgnoreExisting && !(e.IsDir() && info.Kind == appendonly.KindDir):
		if e.IsDir() {
			g.lost = p
		}
		return nil
	case e.IsDir():
		return g.directory(i, e, p, info)
	case !g.makes(e):
		g.out.Message(wire.CodeInfo, []byte("skipping non-regular file \""+printable(e.Path())+"\"\n"))
		return nil
	case g.links.known(e):
		return g.links.follow(g, i, e, p, info)
	case e.IsSymlink():
		return g.symlink(i, e, p, info)
	case e.IsDevice() || e.IsSpecial():
		return g.node(i, e, p, info)
	case e.IsRegular():
		return g.regular(i, e, p, info)
	}
	return nil
}

// makes says whether the options have this kind of entry made.
func (g *generator) makes(e *flist.Entry) bool {
	switch {
	case e.IsSymlink():
		return g.opt.Links
	case e.IsDevice():
		return g.opt.Devices
	case e.IsSpecial():
		return g.opt.Specials
	}
	return true
}

// itemize tells the client what differs about an entry and what is done (generator.c: itemize), and reports
// whether it did.
func (g *generator) itemize(i int, e *flist.Entry, f itemFlags, old *appendonly.Info, basis byte, name string) {
	if old == nil {
		f |= itemNew
		if g.opt.XAttrs && g.list.HasXAttrs(e) {
			f |= itemXAttr
		}
	} else {
		if e.IsRegular() && e.Size != old.Size {
			f |= itemSize
		}
		f |= g.differs(e, old)
		if f&(itemSend|itemLocal) != 0 && !g.keepsTime(e) && f&itemName == 0 {
			f |= itemTime
		}
	}
	if g.proto < 29 {
		return
	}
	if f&itemSignificant == 0 && name == "" && !g.opt.ItemizeUnchanged() && f&itemSend == 0 {
		return
	}
	g.writeItem(i, e, f, basis, name)
}

// writeItem writes an index with its flags and what they say follows.
func (g *generator) writeItem(i int, e *flist.Entry, f itemFlags, basis byte, name string) {
	g.out.Index(g.list.Wire(i), g.proto)
	g.out.Short(uint16(f))
	if f&itemBasis != 0 {
		g.out.Byte(basis)
	}
	if f&itemName != 0 {
		g.out.VString([]byte(name))
	}
	if g.withXAttrs(f) {
		g.list.RequestXAttrs(g.out, e)
	}
}

// settle gives an entry that stands there the list's attributes, and tells the client what changed.
func (g *generator) settle(i int, e *flist.Entry, p string, info *appendonly.Info) error {
	f := g.differs(e, info)
	if f == 0 {
		g.itemize(i, e, 0, info, 0, "")
		return nil
	}
	meta := g.want(e, info)
	if err := g.FS.AskMeta(p, meta); err != nil {
		g.FS.Denied(err)
		return g.trouble("set attributes of", p, err)
	}
	if g.opt.DryRun {
		g.itemize(i, e, 0, info, 0, "")
		return nil
	}
	if f&itemXAttr != 0 && g.list.NeedsValues(e) { // they come with the client's answer
		g.q.ask(&transfer{index: i, path: p, meta: meta, have: true, old: *info})
		g.itemize(i, e, 0, info, 0, "")
		return nil
	}
	g.itemize(i, e, 0, info, 0, "")
	if err := g.FS.SetMeta(p, meta, false); err != nil {
		return g.trouble("set attributes of", p, err)
	}
	return nil
}

// directory makes a directory, or settles one that is there.
func (g *generator) directory(i int, e *flist.Entry, p string, info *appendonly.Info) error {
	if info != nil && info.Kind != appendonly.KindDir {
		ok, err := g.makeWay(e, p, info)
		if !ok || err != nil {
			g.lost = p
			return err
		}
		info = nil
	}
	if info == nil {
		if like, same := g.like(e); same {
			g.likeItem(i, e, like)
		} else {
			g.itemize(i, e, itemLocal, like, 0, "")
		}
		if !g.opt.DryRun {
			if err := g.create(p, func() error { return g.FS.Mkdir(p, g.want(e, nil)) }); err != nil {
				g.lost = p
				return g.trouble("make directory", p, err)
			}
			g.later(i, e, p)
		}
		g.there.fresh(p)
		return g.deleteIn(i, e, p)
	}
	if e.IsRoot() && g.madeRoot {
		if like, same := g.like(e); same {
			g.likeItem(i, e, like)
		} else {
			g.itemize(i, e, itemLocal, like, 0, "")
		}
		if err := g.FS.SetMeta(p, g.want(e, info), false); err != nil {
			return g.trouble("set attributes of", p, err)
		}
		g.later(i, e, p)
		return nil
	}
	if err := g.settle(i, e, p, info); err != nil {
		return err
	}
	return g.deleteIn(i, e, p)
}

// later has attributes that come with the client's answer set on what was just made at p.
func (g *generator) later(i int, e *flist.Entry, p string) {
	if g.opt.XAttrs && g.list.NeedsValues(e) {
		g.q.ask(&transfer{index: i, path: p, meta: g.want(e, nil)})
	}
}

// create does make; where the directory of p is missing (--relative without implied directories, --mkpath) it
// makes that first.
func (g *generator) create(p string, make func() error) error {
	err := make()
	if !errors.Is(err, fs.ErrNotExist) || !g.opt.Relative {
		return err
	}
	if err := makePath(g.FS, path.Dir(p)); err != nil {
		return err
	}
	return make()
}

// symlink makes a symbolic link, or settles one with the same target.
func (g *generator) symlink(i int, e *flist.Entry, p string, info *appendonly.Info) error {
	target := g.target(e)
	if g.opt.SafeLinks && unsafeLink(e.Target(), e.Path()) {
		if g.opt.Verbose > 0 {
			g.out.Message(wire.CodeInfo, []byte("ignoring unsafe symlink \""+printable(e.Path())+"\" -> \""+printable(e.Target())+"\"\n"))
		}
		return nil
	}
	if info != nil && info.Kind == appendonly.KindSymlink && info.Target == target {
		return g.settle(i, e, p, info)
	}
	f := itemLocal
	if info != nil {
		if info.Kind == appendonly.KindSymlink {
			f |= itemChange
		}
		if ok, err := g.makeWay(e, p, info); !ok || err != nil {
			return err
		}
		if info.Kind != appendonly.KindSymlink {
			info = nil
		}
	}
	if gone, err := g.madeLike(i, e, f, info); gone || err != nil {
		return err
	}
	if g.opt.DryRun {
		return nil
	}
	if err := g.create(p, func() error { return g.FS.Symlink(target, p, g.want(e, nil)) }); err != nil {
		return g.trouble("make symlink", p, err)
	}
	g.links.come(g, i)
	return g.madeSource(i)
}

// madeLike tells of a symlink, device or special that is about to be made, by what the basis directories have of it. It reports
// whether it is not to be made: --compare-dest has it.
func (g *generator) madeLike(i int, e *flist.Entry, f itemFlags, info *appendonly.Info) (skip bool, err error) {
	if info != nil {
		g.itemize(i, e, f, info, 0, "")
		return false, nil
	}
	like, same := g.like(e)
	if !same {
		if like != nil {
			f |= itemChange
		}
		g.itemize(i, e, f, like, 0, "")
		return false, nil
	}
	g.likeItem(i, e, like)
	if g.opt.BasisKind == option.CompareDest {
		return true, g.madeSource(i)
	}
	return false, nil
}

// node makes a device, fifo or socket, or settles one that is the same.
func (g *generator) node(i int, e *flist.Entry, p string, info *appendonly.Info) error {
	kind := kindOf(e)
	meta := g.want(e, nil)
	if info != nil && info.Kind == kind && (!e.IsDevice() || info.RDev == meta.RDev) {
		return g.settle(i, e, p, info)
	}
	if info != nil {
		if ok, err := g.makeWay(e, p, info); !ok || err != nil {
			return err
		}
		info = nil
	}
	if gone, err := g.madeLike(i, e, itemLocal, info); gone || err != nil {
		return err
	}
	if g.opt.DryRun {
		return nil
	}
	if err := g.create(p, func() error { return g.FS.Mknod(p, kind, meta) }); err != nil {
		return g.trouble("make node", p, err)
	}
	g.later(i, e, p)
	g.links.come(g, i)
	return g.madeSource(i)
}

// madeSource notes that what needed no transfer is there (--remove-source-files).
func (g *generator) madeSource(i int) error {
	if g.opt.RemoveSourceFiles {
		g.done = append(g.done, i)
	}
	return nil
}

// kindOf is the vault's word for an entry's type.
func kindOf(e *flist.Entry) appendonly.Kind {
	switch e.Mode & 0o170000 {
	case 0o010000:
		return appendonly.KindFifo
	case 0o140000:
		return appendonly.KindSocket
	case 0o020000:
		return appendonly.KindCharDev
	case 0o060000:
		return appendonly.KindBlockDev
	case 0o040000:
		return appendonly.KindDir
	case 0o120000:
		return appendonly.KindSymlink
	}
	return appendonly.KindFile
}

// askAgain asks for a file whose checksum was wrong, whole.
func (g *generator) askAgain(t *transfer) error {
	t.redo, t.basis, t.going, t.head = true, "", false, delta.Head{}
	g.q.ask(t)
	e := g.list.At(t.index)
	g.writeItem(t.index, e, itemSend|t.flags&itemNew, 0, "")
	t.head.Write(g.out)
	return g.listen(g.q.full())
}
