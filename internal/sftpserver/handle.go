package sftpserver

import (
	"io"
	"sync/atomic"

	"vaultd/internal/appendonly"
)

// handle is an open file or directory: what RequestServer reads from, writes to and closes.
//
// It is set up by the handler that opened it, before the HANDLE reply; after that only pending (the
// reader's) and closed change. At most one of up, file and dir is set.
type handle struct {
	c     *conn
	path  string // as the client named it at OPEN
	flags uint32 // of OPEN
	attrs attrs  // of OPEN

	up   upload
	file file
	dir  dir

	pending []appendonly.Info // read from dir, and not yet sent
	closed  atomic.Bool       // by CLOSE or by the end of the session, whichever was first
}

func (h *handle) writable() bool { return h.up != nil }

func (h *handle) readable() bool { return h.file != nil || h.up != nil && h.flags&flagRead != 0 }

// options are what OPEN asked for.
func (h *handle) options() appendonly.CreateOptions {
	return appendonly.CreateOptions{
		Create:    h.flags&flagCreate != 0,
		Exclusive: h.flags&flagCreate != 0 && h.flags&flagExcl != 0,
		Truncate:  h.flags&flagTrunc != 0,
		Append:    h.flags&flagAppend != 0,
		Meta:      h.attrs.creation(),
	}
}

// ReadAt serves READ. RequestServer shows io.EOF when nothing was read.
func (h *handle) ReadAt(p []byte, off int64) (n int, err error) {
	defer h.c.guard(&err)
	n, err = h.reader().ReadAt(p, off)
	if err != nil && err != io.EOF {
		err = h.c.fx(err)
	}
	return n, err
}

func (h *handle) reader() io.ReaderAt {
	if h.file != nil {
		return h.file
	}
	return h.up
}

// WriteAt serves WRITE. The framing layer has seen to it that off+len(p) does not overflow.
func (h *handle) WriteAt(p []byte, off int64) (n int, err error) {
	defer h.c.guard(&err)
	n, err = h.up.WriteAt(p, off)
	return n, h.c.fx(err)
}

// size is the present length of an open file.
func (h *handle) size() (int64, error) {
	if h.file != nil {
		return h.file.Stat().Size, nil
	}
	i, err := h.up.Stat()
	return i.Size, err
}

// stat describes the open object, whatever its path has become.
func (h *handle) stat() (appendonly.Info, error) {
	switch {
	case h.up != nil:
		return h.up.Stat()
	case h.file != nil:
		return h.file.Stat(), nil
	}
	return h.dir.Stat(), nil
}

// TransferError says that the session ended before CLOSE: what was uploaded is not published.
func (h *handle) TransferError(error) { h.abort() }

// Close serves CLOSE: it publishes an upload, and the client sees its error.
func (h *handle) Close() (err error) {
	defer h.c.guard(&err)
	if h.closed.Swap(true) {
		return nil
	}
	defer h.c.forget(h)
	switch {
	case h.up != nil:
		err = h.up.Close()
	case h.file != nil:
		err = h.file.Close()
	}
	return h.c.fx(err)
}

func (h *handle) abort() {
	if h.closed.Swap(true) {
		return
	}
	defer h.c.forget(h)
	switch {
	case h.up != nil:
		h.up.Abort()
	case h.file != nil:
		h.file.Close()
	}
}

// keep enters a handle that has been opened. If the session is over it is closed again.
func (c *conn) keep(h *handle) {
	c.mu.Lock()
	over := c.live == nil
	if !over {
		c.live[h] = struct{}{}
	}
	c.mu.Unlock()
	if over {
		h.abort()
	}
}

func (c *conn) forget(h *handle) {
	c.mu.Lock()
	delete(c.live, h)
	c.mu.Unlock()
}

// handle finds an open handle by the string that the client has from a HANDLE reply; nil if there is
// none. No request reaches RequestServer with another one: it would race with the OPEN it guessed.
func (c *conn) handle(name []byte) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.handles[string(name)]
}
