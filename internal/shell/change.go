package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
)

// Commands that change names, as far as the policy lets them.

// listBatch is how many names of a directory are read at a time.
const listBatch = 512

// each runs f for every operand, goes on after one that fails, and ends like the worst.
func (c *call) each(ctx context.Context, operands []string, f func(name string) error) error {
	var status error
	for _, name := range operands {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := f(name)
		if err == nil {
			continue
		}
		var exit *session.ExitError
		if !errors.As(err, &exit) {
			if err = c.failed(name, err); !errors.As(err, &exit) {
				return err
			}
		}
		if exit.Code == exitNotFound {
			exit = &session.ExitError{Code: exitFailed}
		}
		status = exit
	}
	return status
}

// entries calls f for what is in a directory, sorted by name, until it fails.
func entries(v *appendonly.FS, dir string, f func(*appendonly.Info) error) error {
	d, err := v.OpenDir(dir)
	if err != nil {
		return err
	}
	return d.Each(f)
}

func mkdir(ctx context.Context, c *call) error {
	opt, names, ok := c.options("pvm:", map[string]byte{"parents": 'p', "verbose": 'v', "mode": 'm'})
	meta, err := modeMeta(opt['m'])
	if !ok || err != nil || len(names) == 0 {
		return c.misused("mkdir [-p] [-m MODE] DIR...")
	}
	return c.each(ctx, names, func(name string) error {
		if has(opt, "p") {
			return makePath(c.FS, c.path(name), meta)
		}
		return c.FS.Mkdir(c.path(name), meta)
	})
}

// modeMeta is a mode in octal as attributes.
func modeMeta(mode string) (appendonly.Meta, error) {
	m := appendonly.NoMeta()
	if mode == "" {
		return m, nil
	}
	n, err := strconv.ParseUint(mode, 8, 12)
	m.Mode = int32(n)
	return m, err
}

// makePath makes a directory and those above it.
func makePath(f *appendonly.FS, p string, m appendonly.Meta) error {
	err := f.Mkdir(p, m)
	if errors.Is(err, fs.ErrNotExist) && path.Dir(p) != p {
		if err = makePath(f, path.Dir(p), appendonly.NoMeta()); err == nil {
			err = f.Mkdir(p, m)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		if info, serr := f.StatFollow(p); serr == nil && info.Kind == appendonly.KindDir {
			return nil
		}
	}
	return err
}

func rmdir(ctx context.Context, c *call) error {
	_, names, ok := c.options("v", map[string]byte{"verbose": 'v'})
	if !ok || len(names) == 0 {
		return c.misused("rmdir DIR...")
	}
	return c.each(ctx, names, func(name string) error { return c.FS.Rmdir(c.path(name)) })
}

func rm(ctx context.Context, c *call) error {
	opt, names, ok := c.options("rRfdvi", map[string]byte{"recursive": 'r', "force": 'f', "dir": 'd', "verbose": 'v'})
	if !ok || len(names) == 0 && !has(opt, "f") {
		return c.misused("rm [-rfd] NAME...")
	}
	return c.each(ctx, names, func(name string) error {
		p, err := c.FS.Resolve(c.path(name))
		if err != nil {
			return err
		}
		if p == "/" {
			return c.misused("rm -r with a directory below /")
		}
		info, err := c.FS.Stat(p)
		switch {
		case errors.Is(err, fs.ErrNotExist) && has(opt, "f"):
			return nil
		case err != nil:
			return err
		case info.Kind != appendonly.KindDir:
			return c.FS.Remove(p)
		case has(opt, "rR"):
			return removeAll(ctx, c.FS, p)
		case has(opt, "d"):
			return c.FS.Rmdir(p)
		}
		return appendonly.ErrIsDir
	})
}

// removeAll drops a directory with all that is in it, and ends with the first thing that can not be dropped.
func removeAll(ctx context.Context, f *appendonly.FS, p string) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := f.OpenDir(p)
		if err != nil {
			return err
		}
		infos, err := d.Next(listBatch)
		if err == io.EOF {
			return f.Rmdir(p)
		}
		if err != nil {
			return err
		}
		for i := range infos {
			at := path.Join(p, infos[i].Name)
			if infos[i].Kind == appendonly.KindDir {
				err = removeAll(ctx, f, at)
			} else {
				err = f.Remove(at)
			}
			if err != nil {
				return err
			}
		}
	}
}

// into returns where a source goes: into the destination when that is a directory (unless it is to be taken as it is).
func (c *call) into(source, to string, several, asItIs bool) (string, error) {
	info, err := c.FS.StatFollow(c.path(to))
	switch {
	case err == nil && info.Kind == appendonly.KindDir && !asItIs:
		name, err := c.FS.Resolve(c.path(source))
		return path.Join(c.path(to), path.Base(name)), err
	case several:
		return "", &fs.PathError{Op: c.name, Path: to, Err: appendonly.ErrNotDir}
	}
	return c.path(to), nil
}

func mv(ctx context.Context, c *call) error {
	opt, names, ok := c.options("fnvTi", map[string]byte{"force": 'f', "no-clobber": 'n', "verbose": 'v', "no-target-directory": 'T'})
	if !ok || len(names) < 2 {
		return c.misused("mv [-fnT] SOURCE... DESTINATION")
	}
	to := names[len(names)-1]
	return c.each(ctx, names[:len(names)-1], func(name string) error {
		dest, err := c.into(name, to, len(names) > 2, has(opt, "T"))
		if err != nil {
			return err
		}
		err = c.FS.Rename(c.path(name), dest, !has(opt, "n"))
		if has(opt, "n") && errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	})
}

func ln(ctx context.Context, c *call) error {
	opt, names, ok := c.options("sfnTv", map[string]byte{"symbolic": 's', "force": 'f', "no-dereference": 'n', "no-target-directory": 'T', "verbose": 'v'})
	if !ok || len(names) == 0 || len(names) > 2 {
		return c.misused("ln [-sfnT] TARGET [NAME]")
	}
	target, to := names[0], path.Base(names[0])
	if len(names) == 2 {
		to = names[1]
	}
	return c.each(ctx, []string{to}, func(to string) error {
		there, err := c.FS.Stat(c.path(to))
		dest := c.path(to)
		if !has(opt, "T") && (err != nil || there.Kind != appendonly.KindSymlink || !has(opt, "n")) {
			if dest, err = c.into(target, to, false, false); err != nil {
				return err
			}
		}
		if has(opt, "f") {
			if old, err := c.FS.Stat(dest); err == nil && old.Kind != appendonly.KindDir {
				if has(opt, "s") && old.Kind == appendonly.KindSymlink && old.Target == target {
					return nil
				}
				if err := c.FS.Remove(dest); err != nil {
					return err
				}
			}
		}
		if has(opt, "s") {
			return c.FS.Symlink(target, dest, appendonly.NoMeta())
		}
		return c.FS.Link(c.path(target), dest)
	})
}

func cp(ctx context.Context, c *call) error {
	opt, names, ok := c.options("arRplfnTvdPHxu", map[string]byte{"archive": 'a', "recursive": 'r', "link": 'l', "force": 'f', "no-clobber": 'n',
		"no-target-directory": 'T', "verbose": 'v', "no-dereference": 'P', "reflink": 'x', "sparse": 'x', "preserve": 'p', "one-file-system": 'x'})
	if !ok || len(names) < 2 {
		return c.misused("cp [-arplnT] SOURCE... DESTINATION")
	}
	y := copying{f: c.FS, whole: has(opt, "arR"), keep: has(opt, "ap"), link: has(opt, "l"), spare: has(opt, "n")}
	to := names[len(names)-1]
	return c.each(ctx, names[:len(names)-1], func(name string) error {
		dest, err := c.into(name, to, len(names) > 2, has(opt, "T"))
		if err != nil {
			return err
		}
		stat := c.FS.StatFollow
		if has(opt, "adPrR") {
			stat = c.FS.Stat
		}
		info, err := stat(c.path(name))
		if err != nil {
			return err
		}
		from, err := c.FS.Resolve(c.path(name))
		if err != nil {
			return err
		}
		if target, err := c.FS.Resolve(dest); err != nil || target == from || strings.HasPrefix(target, strings.TrimSuffix(from, "/")+"/") && info.Kind == appendonly.KindDir {
			return errors.Join(err, c.misused("cp: a directory can not be copied into itself"))
		}
		return y.entry(ctx, c.path(name), dest, &info)
	})
}

// copying is one cp.
type copying struct {
	f                        *appendonly.FS
	whole, keep, link, spare bool // -r, -p, -l, -n
}

// entry copies one name, a directory with what is in it.
func (y *copying) entry(ctx context.Context, from, to string, info *appendonly.Info) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	meta := appendonly.NoMeta()
	if y.keep {
		meta = info.Meta
	}
	if info.Kind == appendonly.KindDir {
		return y.directory(ctx, from, to, meta)
	}
	if _, err := y.f.Stat(to); err == nil && y.spare {
		return nil
	}
	switch {
	case y.link && info.Kind == appendonly.KindFile:
		return y.f.Link(from, to)
	case info.Kind == appendonly.KindFile:
		return y.file(from, to, meta)
	case info.Kind == appendonly.KindSymlink:
		return y.f.Symlink(info.Target, to, meta)
	}
	meta.RDev = info.RDev
	return y.f.Mknod(to, info.Kind, meta)
}

func (y *copying) directory(ctx context.Context, from, to string, meta appendonly.Meta) error {
	if !y.whole {
		return &fs.PathError{Op: "cp", Path: from, Err: appendonly.ErrIsDir}
	}
	if err := y.f.Mkdir(to, meta); err != nil {
		if info, serr := y.f.StatFollow(to); !errors.Is(err, fs.ErrExist) || serr != nil || info.Kind != appendonly.KindDir {
			return err
		}
	}
	return entries(y.f, from, func(i *appendonly.Info) error {
		return y.entry(ctx, path.Join(from, i.Name), path.Join(to, i.Name), i)
	})
}

func (y *copying) file(from, to string, meta appendonly.Meta) error {
	f, err := y.f.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	up, err := y.f.Create(to, appendonly.CreateOptions{Create: true, Truncate: true, Meta: meta})
	if err != nil {
		return err
	}
	if err := up.CopyFrom(f, 0, 0, f.Stat().Size); err != nil {
		up.Discard()
		return err
	}
	return up.Close()
}

func touch(ctx context.Context, c *call) error {
	const usage = "touch [-c] [-d TIME|-r FILE] FILE..."
	opt, names, ok := c.options("camd:r:", map[string]byte{"no-create": 'c', "date": 'd', "reference": 'r'})
	if !ok || len(names) == 0 {
		return c.misused(usage)
	}
	meta := appendonly.NoMeta()
	meta.MTime = appendonly.TimeAt(time.Now())
	if text, given := opt['d']; given {
		t, err := parseTime(text)
		if err != nil {
			return c.misused(usage)
		}
		meta.MTime = appendonly.TimeAt(t)
	}
	if like, given := opt['r']; given {
		info, err := c.FS.StatFollow(c.path(like))
		if err != nil {
			return c.failed(like, err)
		}
		meta.MTime = info.MTime
	}
	return c.each(ctx, names, func(name string) error {
		_, err := c.FS.StatFollow(c.path(name))
		if !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(err, c.FS.SetMeta(c.path(name), meta, true))
		}
		if has(opt, "c") {
			return nil
		}
		up, err := c.FS.Create(c.path(name), appendonly.CreateOptions{Create: true, Exclusive: true, Meta: meta})
		if err != nil {
			return err
		}
		return up.Close()
	})
}

// parseTime reads the forms of a time that scripts use; without a zone it is UTC.
func parseTime(s string) (time.Time, error) {
	if sec, ok := strings.CutPrefix(s, "@"); ok {
		n, err := strconv.ParseInt(sec, 10, 64)
		return time.Unix(n, 0), err
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("parse time %q", s)
}

func chmod(ctx context.Context, c *call) error {
	opt, names, ok := c.options("Rvf", map[string]byte{"recursive": 'R'})
	if !ok || len(names) < 2 || has(opt, "R") {
		return c.misused("chmod OCTAL FILE...")
	}
	meta, err := modeMeta(names[0])
	if err != nil || names[0] == "" {
		return c.misused("chmod OCTAL FILE...")
	}
	return c.each(ctx, names[1:], func(name string) error { return c.FS.SetMeta(c.path(name), meta, true) })
}
