package rsync

import (
	"errors"
	"io"
	"io/fs"
	"strings"

	"vaultd/internal/appendonly"
)

// cursor looks up what the vault has under the names of a sorted list. The files of one directory come one after
// another there, so it reads along in the directory instead of finding each path anew.
type cursor struct {
	fs    *appendonly.FS
	dir   string // that is being read
	open  *appendonly.Dir
	buf   []appendonly.Info
	last  string          // the name that was asked for last in dir
	empty map[string]bool // directories that were made a moment ago, and the ones that do not exist (--dry-run)
	info  appendonly.Info
}

// batch is how many names are read at a time.
const batch = 512

func newCursor(f *appendonly.FS) *cursor { return &cursor{fs: f, empty: map[string]bool{}} }

// fresh says that nothing is below the directory p but what this session makes.
func (c *cursor) fresh(p string) {
	if len(c.empty) > 1<<16 {
		clear(c.empty)
	}
	c.empty[p] = true
}

// forget drops what was read of a directory: something in it was changed out of order.
func (c *cursor) forget() { c.dir, c.open, c.buf = "", nil, nil }

// find returns what stands at p; nil when nothing does. The answer is valid until the next call.
func (c *cursor) find(p string) (*appendonly.Info, error) {
	i := strings.LastIndexByte(p, '/') // p is clean
	dir, name := p[:max(i, 1)], p[i+1:]
	if name == "" {
		return c.stat(p)
	}
	if c.empty[dir] {
		return nil, nil
	}
	if c.open == nil || dir != c.dir {
		d, err := c.fs.OpenDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, appendonly.ErrNotDir) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		if c.open != nil {
			d.Reuse(c.open)
		}
		c.dir, c.open, c.buf, c.last = dir, d, nil, ""
	} else if name <= c.last { // files come before directories in the list
		return c.stat(p)
	}
	c.last = name
	for {
		for len(c.buf) > 0 && c.buf[0].Name < name {
			c.buf = c.buf[1:]
		}
		if len(c.buf) > 0 {
			if c.buf[0].Name == name {
				return &c.buf[0], nil
			}
			return nil, nil
		}
		more, err := c.open.Next(batch)
		if err == io.EOF {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		c.buf = more
	}
}

// stat looks p up on its own.
func (c *cursor) stat(p string) (*appendonly.Info, error) {
	info, err := c.fs.Stat(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, appendonly.ErrNotDir) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if !info.Sealed && info.From == 0 { // an unfinished upload is not there yet
		return nil, nil
	}
	c.info = info
	return &c.info, nil
}
