package rsync

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/session"
)

const done = wire.Done

// vanished is what a client says of files that were removed while it sent (rsync.h: IOERR_VANISHED): they were not part of what it has.
const vanished = 1 << 1

// push receives a tree, and says whether the client could not read some of it, which alone is not for the server to fail for.
func (c *conn) push(ctx context.Context) (unsent bool, err error) {
	q := newQueue()
	r := &receiver{conn: c, q: q}
	err = c.take(ctx, q, r)
	failed := r.ioError.Load()
	return failed&^vanished != 0 || failed == 0 && r.unsent.Load(), err
}

// take does the work of push (main.c: do_server_recv; io.c: start_filesfrom_forwarding).
func (c *conn) take(ctx context.Context, q *queue, r *receiver) (err error) {
	if r.tokens, err = c.codec.Reader(); err != nil {
		return err
	}
	if c.proto >= 30 {
		c.in.Multiplexed(r.message)
	}
	rules, err := c.readRules()
	if err != nil {
		return err
	}
	named, err := c.sendNames()
	if err != nil {
		return err
	}
	if r.list, err = flist.Decode(c.in, c.listConfig()); err != nil {
		return err
	}
	<-named
	r.ioError.Store(r.list.IOError)
	g := &generator{conn: c, attributes: attributes{c.opt, r.list}, rules: rules, q: q, there: newCursor(c.FS), links: newLinks(r.list), ioErrors: &r.ioError}
	if g.root, g.single, err = g.destination(); err != nil {
		return err
	}
	rules.SetRoot(g.root)
	for _, name := range r.list.Odd {
		g.report.error(g.out, "store "+appendonly.QuotePath(name)+": the character set of --iconv has no such name")
	}
	if c.opt.PruneEmptyDirs {
		r.list.PruneEmptyDirs(func(dir string) bool { return rules.Protected(dir, true) })
	}
	if c.opt.UserMap != nil || c.opt.GroupMap != nil {
		r.list.MapIDs(c.opt.UserMap.Map, c.opt.GroupMap.Map)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		q.end(protect(r.run))
	}()
	err = g.run(ctx)
	if err != nil {
		c.src.stop()
		select {
		case <-ended:
		case <-time.After(grace): // it waits for a client that says nothing any more
		}
		return err
	}
	<-ended
	if g.report.bad || r.list.IOError != 0 {
		return &session.ExitError{Code: exitPartial}
	}
	if g.stats.limited > 0 {
		return &session.ExitError{Code: exitDeleteLimit}
	}
	return nil
}

// destination says where the list's names go (main.c: get_local_name): into a directory, which is made when it is
// missing, or, for a single file, to the very name that the client gave.
func (g *generator) destination() (root, single string, err error) {
	dest := "."
	if n := len(g.opt.Paths); n > 0 {
		dest = g.opt.Paths[n-1]
	}
	slash := strings.HasSuffix(dest, "/") || dest == "" || dest == "."
	root, err = g.FS.Resolve(g.at(dest))
	if err != nil {
		return "", "", g.fatal(exitSelect, errors.New(g.line("use", dest, err)))
	}
	if g.opt.Mkpath && !g.opt.DryRun {
		above := root
		if !slash {
			above = path.Dir(root)
		}
		if err := makePath(g.FS, above); err != nil {
			return "", "", g.fatal(exitFile, errors.New(g.line("make directory", above, err)))
		}
	}
	info, err := g.FS.StatFollow(root)
	missing := errors.Is(err, fs.ErrNotExist) || err == nil && info.From == 0 && !info.Sealed
	switch {
	case err != nil && !missing:
		return "", "", g.fatal(exitSelect, errors.New(g.line("use", root, err)))
	case !missing && info.Kind == appendonly.KindDir:
		return root, "", nil
	case !missing && (g.list.Count() > 1 || slash):
		return "", "", g.fatal(exitSelect, errors.New("the destination "+appendonly.QuotePath(root)+" is no directory"))
	case g.list.Count() == 1 && !slash && !g.list.First().IsRoot():
		if e := g.list.First(); !missing && e.IsDir() {
			return "", "", g.fatal(exitSelect, errors.New("a directory can not replace what is no directory: "+appendonly.QuotePath(root)))
		}
		return path.Dir(root), path.Base(root), nil
	case g.opt.DryRun:
		g.there.fresh(root)
		return root, "", nil
	}
	if err := g.FS.Mkdir(root, appendonly.NoMeta()); err != nil {
		return "", "", g.fatal(exitFile, errors.New(g.line("make directory", root, err)))
	}
	g.madeRoot = true
	return root, "", nil
}

// sendNames sends the names of a --files-from that is here, while the list that the client makes of them comes
// (main.c: do_server_recv). The channel is closed when they are written.
func (c *conn) sendNames() (<-chan struct{}, error) {
	sent := make(chan struct{})
	if c.opt.FilesFrom == "" {
		close(sent)
		return sent, nil
	}
	names, err := c.filesFrom()
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(sent)
		if c.proto < 31 { // it takes them as they are
			c.out.Plain()
			defer c.out.Multiplexed()
		}
		for _, n := range names {
			c.out.Write(append([]byte(n), 0))
		}
		c.out.Byte(0)
		if len(names) == 0 {
			c.out.Byte(0)
		}
		c.out.Flush() // its error comes back with the next one
	}()
	return sent, nil
}

// at is where a path of the options is.
func (c *conn) at(p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return path.Join(c.top, p)
}

// ioError is what the client could not read, so far.
func (g *generator) ioError() int32 { return g.ioErrors.Load() }
