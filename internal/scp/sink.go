package scp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"syscall"

	"vaultd/internal/appendonly"
	"vaultd/internal/glob"
	"vaultd/internal/quota"
	"vaultd/internal/shellwords"
)

// sink takes what the client sends.
func (c *conn) sink(ctx context.Context) error {
	target := c.at(shellwords.Literal(c.opt.paths[0]))
	info, err := c.FS.StatFollow(target)
	isDir := err == nil && info.Kind == appendonly.KindDir
	if c.opt.dir && !isDir {
		if err == nil {
			err = appendonly.ErrNotDir
		}
		return c.tell(target, err)
	}
	if err := c.ok(); err != nil {
		return err
	}
	return c.take(ctx, target, isDir, 0)
}

// take takes entries until the directory, or the stream, ends. With isDir they go into target, otherwise the one that comes is target.
func (c *conn) take(ctx context.Context, target string, isDir bool, depth int) error {
	var times *header
	for {
		kind, err := c.in.ReadByte()
		if err == io.EOF && depth == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		line, err := c.line()
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		switch kind {
		case 1: // the client could not send one, and goes on
			c.failed = true
		case 2:
			return &errClient{line}
		case 'E':
			if depth == 0 {
				return c.fatal("end of a directory that did not begin")
			}
			return c.ok()
		case 'T':
			mtime, atime, err := parseTimes(line)
			if err != nil {
				return c.fatal("times are not delimited")
			}
			times = &header{mtime: mtime, atime: atime}
			if err := c.ok(); err != nil {
				return err
			}
		case 'C', 'D':
			h, err := parseEntry(line)
			if err != nil {
				return c.fatal(err.Error())
			}
			if times != nil {
				h.mtime, h.atime = times.mtime, times.atime
			}
			times = nil
			to := target
			if isDir {
				to = path.Join(target, h.name)
			}
			if kind == 'D' {
				err = c.takeDir(ctx, to, h, depth)
			} else {
				err = c.takeFile(ctx, to, h)
			}
			if err != nil {
				return err
			}
		default:
			return c.fatal("expected control record")
		}
	}
}

// meta is what a header says of an entry: modes are masked as a umask of 022 would do it, unless -p keeps them.
func (c *conn) meta(h header) appendonly.Meta {
	m := appendonly.NoMeta()
	m.Mode = h.mode & 0o777
	if !c.opt.preserve {
		m.Mode &^= 0o022
	}
	if !h.mtime.IsZero() {
		m.MTime, m.ATime = appendonly.TimeAt(h.mtime), appendonly.TimeAt(h.atime)
	}
	return m
}

// takeDir takes a directory with what is in it.
func (c *conn) takeDir(ctx context.Context, to string, h header, depth int) error {
	if !c.opt.recursive {
		return c.fatal("received directory without -r")
	}
	if depth == maxDepth {
		return c.fatal("too many directories in each other")
	}
	m := c.meta(h)
	m.Mode |= 0o700
	err := c.FS.Mkdir(to, m) // asked for first: what may not be made is refused, whatever stands there
	if errors.Is(err, fs.ErrExist) {
		var info appendonly.Info
		if info, err = c.FS.StatFollow(to); err == nil && info.Kind != appendonly.KindDir {
			err = appendonly.ErrNotDir
		}
	}
	if err != nil {
		return c.tell(to, err) // the client skips all of it
	}
	if err := c.ok(); err != nil {
		return err
	}
	if err := c.take(ctx, to, true, depth+1); err != nil {
		return err
	}
	if !c.opt.preserve {
		return nil
	}
	// Only now: what came into it must not change its times. The client has its answer already, so that all it sees is stderr and
	// the exit status.
	if err := c.FS.SetMeta(to, c.meta(h), true); err != nil {
		c.Refused(errors.New(c.describe(to, err)))
		c.failed = true
	}
	return nil
}

// takeFile takes one file. It has its name once everything of it came and the client said so.
func (c *conn) takeFile(ctx context.Context, to string, h header) error {
	u, err := c.FS.Create(to, appendonly.CreateOptions{Create: true, Truncate: true, Meta: c.meta(h)})
	if err != nil {
		return c.tell(to, err) // the client sends no bytes after that
	}
	if err := c.ok(); err != nil {
		u.Discard()
		return err
	}
	var wrong error
	for off := int64(0); off < h.size; {
		if err := ctx.Err(); err != nil {
			u.Abort()
			return err
		}
		b := c.buf[:min(int64(len(c.buf)), h.size-off)]
		n, err := io.ReadFull(c.in, b)
		if n > 0 && wrong == nil {
			_, wrong = u.WriteAt(b[:n], off)
		}
		off += int64(n)
		if err != nil {
			u.Abort() // the line is dead: what came can be continued, by sftp's reput
			return err
		}
	}
	again, err := c.answer()
	switch {
	case err != nil:
		u.Abort()
		return err
	case again != nil: // the client could not read all of it
		u.Discard()
		return c.tell(to, errUnread)
	case wrong == nil && h.size == 0:
		wrong = u.Truncate(0)
	}
	if wrong != nil {
		u.Discard()
		return c.tell(to, wrong)
	}
	if err := u.Close(); err != nil {
		return c.tell(to, err)
	}
	return c.ok()
}

// complaint is an error in our own words, fit for a client.
type complaint string

func (e complaint) Error() string { return string(e) }

const (
	errUnread    = complaint("not stored: the client could not read it")
	errLineBreak = complaint("a name with a line break can not be said in this protocol; use scp without -O")
)

// causes are what may happen to one file, in a client's words.
var causes = []struct {
	cause error
	text  string
}{
	{appendonly.ErrExpired, "this version was let go by the vault's retention"},
	{fs.ErrNotExist, "No such file or directory"},
	{appendonly.ErrNotDir, "Not a directory"},
	{appendonly.ErrIsDir, "Is a directory"},
	{appendonly.ErrNotRegular, "not a regular file"},
	{appendonly.ErrNameTooLong, "File name too long"},
	{appendonly.ErrBadName, "name can not be stored"},
	{glob.ErrMany, glob.ErrMany.Error()},
	{appendonly.ErrLoop, "Too many levels of symbolic links"},
	{appendonly.ErrQuarantined, appendonly.ErrQuarantined.Error()},
	{appendonly.ErrReadOnly, appendonly.ErrReadOnly.Error()},
	{fs.ErrExist, "File exists"},
	{syscall.ENOSPC, "No space left on the server"},
}

// describe says in one line what went wrong with a client's path.
func (c *conn) describe(p string, err error) string {
	var denied *appendonly.DeniedError
	var exceeded *quota.ExceededError
	var ceiling *appendonly.CeilingError
	var full *quota.FullError
	switch {
	case errors.As(err, &denied):
		c.LogRefused(err)
		return fmt.Sprintf("refused: %v", denied)
	case errors.As(err, &exceeded):
		return fmt.Sprintf("%s: %v", appendonly.QuotePath(p), exceeded)
	case errors.As(err, &ceiling):
		return fmt.Sprintf("%s: %v", appendonly.QuotePath(p), ceiling)
	case errors.As(err, &full):
		return fmt.Sprintf("%s: %v", appendonly.QuotePath(p), full)
	case errors.Is(err, syscall.EDQUOT): // the file system's own, behind the vault's
		return fmt.Sprintf("%s: quota exceeded", appendonly.QuotePath(p))
	}
	for _, k := range causes {
		if errors.Is(err, k.cause) {
			return fmt.Sprintf("%s: %s", appendonly.QuotePath(p), k.text)
		}
	}
	var own complaint
	if errors.As(err, &own) {
		return fmt.Sprintf("%s: %s", appendonly.QuotePath(p), string(own))
	}
	c.Log.Error("scp failed", "error", err.Error())
	return fmt.Sprintf("%s: the server failed; its operator can see why in the log", appendonly.QuotePath(p))
}
