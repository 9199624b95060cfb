package sftpserver

import (
	"encoding/binary"
	"io"
	"io/fs"
	"strconv"
	"time"

	"github.com/pkg/sftp"

	"vaultd/internal/appendonly"
)

// forwarded holds, by type, the check of each request that goes to RequestServer: after it
// RequestServer's own decoding can not fail. instead replaces the packet, if it is not nil.
var forwarded = [256]func(c *conn, id uint32, d *decoder) (instead []byte, err error){
	fxpOpen:     checkOpen,
	fxpOpendir:  checkOpendir,
	fxpClose:    checkClose,
	fxpRead:     checkRead,
	fxpRemove:   checkPath,
	fxpRmdir:    checkPath,
	fxpRealpath: checkPath,
	fxpReadlink: checkPath,
	fxpRename:   checkPaths,
	fxpSymlink:  checkPaths,
}

// answered holds, by type, the requests that the framing layer serves. A nil reply without error is OK.
var answered [256]func(c *conn, id uint32, d *decoder) (reply []byte, err error)

func init() { // not in the declaration: the compiler sees a cycle through takePacket
	answered[fxpStat] = (*conn).stat
	answered[fxpLstat] = (*conn).lstat
	answered[fxpFstat] = (*conn).fstat
	answered[fxpSetstat] = (*conn).setstat
	answered[fxpFsetstat] = (*conn).fsetstat
	answered[fxpReaddir] = (*conn).readdir
	answered[fxpMkdir] = (*conn).mkdir
	answered[fxpExtended] = (*conn).extended
}

func checkPath(_ *conn, _ uint32, d *decoder) ([]byte, error) {
	d.path()
	return nil, d.err
}

func checkPaths(_ *conn, _ uint32, d *decoder) ([]byte, error) {
	d.path()
	d.path()
	return nil, d.err
}

// checkOpen keeps what RequestServer would lose (the attributes, and which object a handle is) and
// lets it open a name that no client can say.
func checkOpen(c *conn, id uint32, d *decoder) ([]byte, error) {
	h := &handle{c: c, path: d.path(), flags: d.uint32(), attrs: d.attrs()}
	if d.err != nil {
		return nil, d.err
	}
	key, err := c.announce(h)
	if err != nil {
		return nil, err
	}
	b := appendString(beginPacket(nil, fxpOpen, id), key)
	b = binary.BigEndian.AppendUint32(b, h.flags)
	return endPacket(binary.BigEndian.AppendUint32(b, 0)), nil
}

func checkOpendir(c *conn, id uint32, d *decoder) ([]byte, error) {
	h := &handle{c: c, path: d.path()}
	if d.err != nil {
		return nil, d.err
	}
	key, err := c.announce(h)
	if err != nil {
		return nil, err
	}
	return endPacket(appendString(beginPacket(nil, fxpOpendir, id), key)), nil
}

// announce enters a handle that is about to be opened, under the path that RequestServer gets.
func (c *conn) announce(h *handle) (key string, err error) {
	c.opens++
	key = "/\x00" + strconv.FormatUint(c.opens, 10)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.nopen >= c.cfg.MaxHandles {
		return "", errTooMany
	}
	c.nopen++
	c.opening[key] = h
	c.cur = request{open: h, key: key}
	return key, nil
}

// checkClose ends a handle's name at once, so that no later READ or WRITE runs beside its CLOSE.
func checkClose(c *conn, _ uint32, d *decoder) ([]byte, error) {
	name := d.bytes()
	if d.err != nil {
		return nil, d.err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.handles[string(name)] == nil {
		return nil, errBadHandle
	}
	delete(c.handles, string(name))
	c.nopen--
	return nil, nil
}

// checkRead refuses what RequestServer takes for something else: a READ on a handle open for
// writing only would write one of its used buffers into the file.
func checkRead(c *conn, _ uint32, d *decoder) ([]byte, error) {
	h := c.handle(d.bytes())
	off, n := d.uint64(), d.uint32()
	switch {
	case d.err != nil:
		return nil, d.err
	case h == nil:
		return nil, errBadHandle
	case !h.readable():
		return nil, errNotReadable
	case off > 1<<63-1-maxData:
		return nil, io.EOF
	}
	c.cur = request{file: h, off: int64(off), end: int64(off) + int64(min(n, maxData))}
	return nil, nil
}

// handlers are the requests as RequestServer makes them, on its workers.
type handlers struct{ c *conn }

var (
	_ sftp.FileReader         = handlers{}
	_ sftp.OpenFileWriter     = handlers{}
	_ sftp.FileCmder          = handlers{}
	_ sftp.RealPathFileLister = handlers{}
	_ sftp.ReadlinkFileLister = handlers{}
	_ sftp.TransferError      = (*handle)(nil)
	_ io.Closer               = (*handle)(nil)
)

// open finds the handle that checkOpen announced, opens it with do, and keeps it.
func (hs handlers) open(r *sftp.Request, do func(h *handle) error) (h *handle, err error) {
	defer hs.c.guard(&err)
	hs.c.mu.Lock()
	h = hs.c.opening[r.Filepath]
	hs.c.mu.Unlock()
	if h == nil {
		return nil, errInternal
	}
	if err := do(h); err != nil {
		return nil, hs.c.fx(err)
	}
	hs.c.keep(h)
	return h, nil
}

// Fileread serves OPEN for reading only.
func (hs handlers) Fileread(r *sftp.Request) (io.ReaderAt, error) {
	return hs.open(r, func(h *handle) (err error) {
		h.file, err = hs.c.fs.Open(h.path)
		return err
	})
}

// Filewrite serves OPEN with any flag that changes something.
func (hs handlers) Filewrite(r *sftp.Request) (io.WriterAt, error) { return hs.OpenFile(r) }

// OpenFile serves such an OPEN when it reads, too.
func (hs handlers) OpenFile(r *sftp.Request) (sftp.WriterAtReaderAt, error) {
	return hs.open(r, func(h *handle) (err error) {
		h.up, err = hs.c.fs.Create(h.path, h.options())
		return err
	})
}

// Filelist serves OPENDIR.
func (hs handlers) Filelist(r *sftp.Request) (sftp.ListerAt, error) {
	h, err := hs.open(r, func(h *handle) (err error) {
		h.dir, err = hs.c.fs.OpenDir(h.path)
		return err
	})
	return lister{h}, err
}

// lister is a directory's handle as RequestServer holds it. The framing layer serves READDIR.
type lister struct{ *handle }

func (lister) ListAt([]fs.FileInfo, int64) (int, error) { return 0, errInternal }

// Filecmd serves REMOVE, RMDIR, RENAME and SYMLINK.
func (hs handlers) Filecmd(r *sftp.Request) (err error) {
	defer hs.c.guard(&err)
	switch r.Method {
	case "Remove":
		err = hs.c.fs.Remove(r.Filepath)
	case "Rmdir":
		err = hs.c.fs.Rmdir(r.Filepath)
	case "Rename": // version 3: the target must not exist (section 6.5)
		err = hs.c.fs.Rename(r.Filepath, r.Target, false)
	case "Symlink": // OpenSSH's order of arguments: target, then link
		err = hs.c.fs.Symlink(r.Filepath, r.Target, appendonly.NoMeta())
	default:
		err = errUnsupported
	}
	return hs.c.fx(err)
}

// RealPath serves REALPATH.
func (hs handlers) RealPath(path string) (abs string, err error) {
	defer hs.c.guard(&err)
	abs, err = hs.c.fs.Resolve(path)
	return abs, hs.c.fx(err)
}

// Readlink serves READLINK.
func (hs handlers) Readlink(path string) (target string, err error) {
	defer hs.c.guard(&err)
	target, err = hs.c.fs.Readlink(path)
	return target, hs.c.fx(err)
}

func (c *conn) stat(id uint32, d *decoder) ([]byte, error) {
	return c.statWith(c.fs.StatFollow, id, d)
}

func (c *conn) lstat(id uint32, d *decoder) ([]byte, error) {
	return c.statWith(c.fs.Stat, id, d)
}

func (c *conn) statWith(stat func(string) (appendonly.Info, error), id uint32, d *decoder) ([]byte, error) {
	path := d.path()
	if d.err != nil {
		return nil, d.err
	}
	i, err := stat(path)
	if err != nil {
		return nil, err
	}
	return c.attrsReply(id, i), nil
}

func (c *conn) fstat(id uint32, d *decoder) ([]byte, error) {
	h, err := c.decodeHandle(d)
	if err != nil {
		return nil, err
	}
	i, err := h.stat()
	if err != nil {
		return nil, err
	}
	return c.attrsReply(id, i), nil
}

func (c *conn) attrsReply(id uint32, i appendonly.Info) []byte {
	return endPacket(appendAttrs(beginPacket(nil, fxpAttrs, id), c.attrsOf(i)))
}

func (c *conn) decodeHandle(d *decoder) (*handle, error) {
	name := d.bytes()
	if d.err != nil {
		return nil, d.err
	}
	h := c.handle(name)
	if h == nil {
		return nil, errBadHandle
	}
	return h, nil
}

func (c *conn) setstat(_ uint32, d *decoder) ([]byte, error) {
	path, a := d.path(), d.attrs()
	if d.err != nil {
		return nil, d.err
	}
	// Owner and times of a link are the link's own: sshfs has no other request for lchown and utimensat, and its
	// kernel has followed links already. A mode or length would be meant for what it leads to, and is refused.
	return nil, c.setPath(path, a, a.flags&attrMode != 0)
}

// setPath changes the length first: changing it sets the time of change, which the client may want otherwise.
func (c *conn) setPath(path string, a attrs, follow bool) error {
	if a.flags&attrSize != 0 {
		if a.size > 1<<63-1 {
			return errTooFar
		}
		if err := c.fs.Truncate(path, int64(a.size)); err != nil {
			return err
		}
	}
	if a.flags&(attrOwner|attrMode|attrTimes) == 0 {
		return nil
	}
	return c.fs.SetMeta(path, a.meta(), follow)
}

// fsetstat acts on the open upload. What is open for reading is changed through its path, as long
// as the path still leads to it.
func (c *conn) fsetstat(_ uint32, d *decoder) ([]byte, error) {
	name, a := d.bytes(), d.attrs()
	if d.err != nil {
		return nil, d.err
	}
	h := c.handle(name)
	switch {
	case h == nil:
		return nil, errBadHandle
	case h.up == nil:
		if a.flags&attrSize != 0 {
			return nil, errNotWritable
		}
		open, _ := h.stat()
		if now, err := c.fs.StatFollow(h.path); err != nil {
			return nil, err
		} else if now.From != open.From || now.Kind != open.Kind {
			return nil, fs.ErrNotExist
		}
		return nil, c.setPath(h.path, a, true)
	case a.flags&attrSize != 0:
		if a.size > 1<<63-1 {
			return nil, errTooFar
		}
		if err := h.up.Truncate(int64(a.size)); err != nil {
			return nil, err
		}
	}
	if a.flags&(attrOwner|attrMode|attrTimes) == 0 {
		return nil, nil
	}
	return nil, h.up.SetMeta(a.meta())
}

func (c *conn) mkdir(_ uint32, d *decoder) ([]byte, error) {
	path, a := d.path(), d.attrs()
	if d.err != nil {
		return nil, d.err
	}
	return nil, c.fs.Mkdir(path, a.creation())
}

// readdir fills one reply, as far as clients take it.
func (c *conn) readdir(id uint32, d *decoder) ([]byte, error) {
	h, err := c.decodeHandle(d)
	if err != nil {
		return nil, err
	}
	if h.dir == nil {
		return nil, appendonly.ErrNotDir
	}
	b := beginPacket(nil, fxpName, id)
	b = binary.BigEndian.AppendUint32(b, 0)
	count, now := uint32(0), time.Now()
	for len(b) < maxNames {
		if len(h.pending) == 0 {
			h.pending, err = h.dir.Next(256)
			if len(h.pending) == 0 {
				break
			}
		}
		i := &h.pending[0]
		b = c.appendName(b, i, now)
		h.pending = h.pending[1:]
		count++
	}
	switch {
	case count > 0: // an error comes again
		binary.BigEndian.PutUint32(b[9:], count)
		return endPacket(b), nil
	case err == nil:
		err = io.EOF
	}
	return nil, err
}

func (c *conn) appendName(b []byte, i *appendonly.Info, now time.Time) []byte {
	a := c.attrsOf(*i)
	b = appendString(b, i.Name)
	b = append(b, 0, 0, 0, 0)
	start := len(b)
	b = appendLongName(b, i.Name, i.Nlink, a, now)
	binary.BigEndian.PutUint32(b[start-4:], uint32(len(b)-start))
	return appendAttrs(b, a)
}

// nameReply is a NAME reply with one path and no attributes.
func nameReply(id uint32, path string) []byte {
	b := beginPacket(nil, fxpName, id)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = appendString(b, path)
	b = appendString(b, path)
	return endPacket(binary.BigEndian.AppendUint32(b, 0))
}

var kindTypes = [...]uint32{appendonly.KindFile: typeFile, appendonly.KindDir: typeDir,
	appendonly.KindSymlink: typeLink, appendonly.KindFifo: typeFifo, appendonly.KindSocket: typeSocket,
	appendonly.KindCharDev: typeChar, appendonly.KindBlockDev: typeBlock}

// attrsOf renders what a client is told of an entry. Times outside of 1970 to 2106 become the nearest.
func (c *conn) attrsOf(i appendonly.Info) attrs {
	a := attrs{size: uint64(max(i.Size, 0)), uid: c.cfg.UID, gid: c.cfg.GID,
		mode: 0o644, mtime: clampTime(i.MTime), atime: clampTime(i.ATime)}
	switch {
	case i.Mode != appendonly.Unset:
		a.mode = uint32(i.Mode) & 0o7777
	case i.Kind == appendonly.KindDir:
		a.mode = 0o755
	case i.Kind == appendonly.KindSymlink:
		a.mode = 0o777
	}
	if int(i.Kind) < len(kindTypes) {
		a.mode |= kindTypes[i.Kind]
	}
	if i.UID != appendonly.Unset {
		a.uid = uint32(i.UID)
	}
	if i.GID != appendonly.Unset {
		a.gid = uint32(i.GID)
	}
	if i.ATime.IsZero() {
		a.atime = a.mtime
	}
	return a
}

func clampTime(t appendonly.Time) uint32 { return uint32(min(max(t.Sec(), 0), 1<<32-1)) }

// umask is taken off modes given at creation, as OpenSSH's server does: its client makes every
// directory with 0777, and leaves it to the server that nobody restores it like that.
const umask = 0o022

// creation is meta for OPEN and MKDIR.
func (a attrs) creation() appendonly.Meta {
	a.mode &^= umask
	return a.meta()
}

// meta is what a client wants set. The times are unsigned in version 3.
func (a attrs) meta() appendonly.Meta {
	m := appendonly.NoMeta()
	if a.flags&attrMode != 0 {
		m.Mode = int32(a.mode & 0o7777)
	}
	if a.flags&attrOwner != 0 {
		m.UID, m.GID = int64(a.uid), int64(a.gid)
	}
	if a.flags&attrTimes != 0 {
		m.ATime, m.MTime = appendonly.Unix(int64(a.atime), 0), appendonly.Unix(int64(a.mtime), 0)
	}
	return m
}
