package sftpserver

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"hash"
	"hash/crc32"
	"io"
	"strings"

	"vaultd/internal/appendonly"
)

// extensions are advertised in this order. More than one may share a server function.
var extensions = []struct {
	name, version string
	serve         func(c *conn, id uint32, d *decoder) (reply []byte, err error)
}{
	{"posix-rename@openssh.com", "1", (*conn).posixRename},
	{"statvfs@openssh.com", "2", (*conn).statvfs},
	{"fstatvfs@openssh.com", "2", (*conn).fstatvfs},
	{"hardlink@openssh.com", "1", (*conn).hardlink},
	{"fsync@openssh.com", "1", (*conn).fsync},
	{"lsetstat@openssh.com", "1", (*conn).lsetstat},
	{"limits@openssh.com", "1", (*conn).limits},
	{"expand-path@openssh.com", "1", (*conn).expandPath},
	{"copy-data", "1", (*conn).copyData},
	{"home-directory", "1", (*conn).homeDirectory},
	{"users-groups-by-id@openssh.com", "1", (*conn).usersGroups},
	{"check-file", "1", (*conn).checkFileHandle},
	{"check-file-handle", "1", (*conn).checkFileHandle},
	{"check-file-name", "1", (*conn).checkFileName},
}

// hello answers INIT with VERSION. It has no request id. All clients get version 3, as from OpenSSH.
func (c *conn) hello() error {
	if c.init {
		return errors.New("a second INIT")
	}
	c.init = true
	b := beginPacket(nil, fxpVersion, 3)
	for _, e := range extensions {
		b = appendString(appendString(b, e.name), e.version)
	}
	return c.send(endPacket(b))
}

// extended serves SSH_FXP_EXTENDED.
func (c *conn) extended(id uint32, d *decoder) ([]byte, error) {
	name := d.bytes()
	if d.err != nil {
		return nil, d.err
	}
	for _, e := range extensions {
		if string(name) == e.name {
			return e.serve(c, id, d)
		}
	}
	return nil, errUnsupported
}

func (c *conn) posixRename(_ uint32, d *decoder) ([]byte, error) {
	from, to := d.path(), d.path()
	if d.err != nil {
		return nil, d.err
	}
	return nil, c.fs.Rename(from, to, true)
}

func (c *conn) hardlink(_ uint32, d *decoder) ([]byte, error) {
	old, path := d.path(), d.path()
	if d.err != nil {
		return nil, d.err
	}
	return nil, c.fs.Link(old, path)
}

// fsync makes durable what this handle has got; the barrier takes all of the tenant with it. All
// writes before it have been answered.
func (c *conn) fsync(_ uint32, d *decoder) ([]byte, error) {
	if _, err := c.decodeHandle(d); err != nil {
		return nil, err
	}
	return nil, c.fs.Barrier(c.ctx)
}

// lsetstat is SETSTAT that follows no link. A size makes no sense for one (OpenSSH's process_extended_lsetstat).
func (c *conn) lsetstat(_ uint32, d *decoder) ([]byte, error) {
	path, a := d.path(), d.attrs()
	if d.err == nil && a.flags&attrSize != 0 {
		d.err = errMalformed
	}
	if d.err != nil {
		return nil, d.err
	}
	return nil, c.setPath(path, a, false)
}

func (c *conn) limits(id uint32, _ *decoder) ([]byte, error) {
	b := beginPacket(nil, fxpExtendedReply, id)
	return endPacket(appendUint64s(b, maxPacket, maxData, maxData, uint64(c.cfg.MaxHandles))), nil
}

func (c *conn) statvfs(id uint32, d *decoder) ([]byte, error) {
	path := d.path()
	if d.err != nil {
		return nil, d.err
	}
	if _, err := c.fs.StatFollow(path); err != nil {
		return nil, err
	}
	return c.spaceReply(id)
}

func (c *conn) fstatvfs(id uint32, d *decoder) ([]byte, error) {
	if _, err := c.decodeHandle(d); err != nil {
		return nil, err
	}
	return c.spaceReply(id)
}

// spaceReply shows the tenant's space. restic takes no free inode, and too few free blocks, for a full
// disk; so a file system that does not count inodes must not look full.
func (c *conn) spaceReply(id uint32) ([]byte, error) {
	const block, noSuid, nameMax, manyInodes = 4096, 2, 255, 1 << 32
	s, err := c.fs.Statfs()
	if err != nil {
		return nil, err
	}
	if s.TotalInodes == 0 {
		s.TotalInodes, s.FreeInodes = manyInodes, manyInodes
	}
	free := s.Free / block
	b := beginPacket(nil, fxpExtendedReply, id)
	return endPacket(appendUint64s(b, block, block, s.Total/block, free, free,
		s.TotalInodes, s.FreeInodes, s.FreeInodes, 0, noSuid, nameMax)), nil
}

// expandPath is REALPATH with "~". There is one home: a tenant's root.
func (c *conn) expandPath(id uint32, d *decoder) ([]byte, error) {
	path := d.path()
	if d.err != nil {
		return nil, d.err
	}
	if rest, ok := strings.CutPrefix(path, "~"); ok {
		user, below, _ := strings.Cut(rest, "/")
		if user != "" && user != c.sess.Tenant {
			return nil, errNoUser
		}
		path = "/" + below
	}
	abs, err := c.fs.Resolve(path)
	if err != nil {
		return nil, err
	}
	return nameReply(id, abs), nil
}

func (c *conn) homeDirectory(id uint32, d *decoder) ([]byte, error) {
	user := d.string()
	switch {
	case d.err != nil:
		return nil, d.err
	case user != "" && user != c.sess.Tenant:
		return nil, errNoUser
	}
	return nameReply(id, "/"), nil
}

// usersGroups has no names to give: the numbers are the clients' own. An empty string is "unknown".
func (c *conn) usersGroups(id uint32, d *decoder) ([]byte, error) {
	uids, gids := d.bytes(), d.bytes()
	if d.err == nil && (len(uids)%4 != 0 || len(gids)%4 != 0) {
		d.err = errMalformed
	}
	if d.err != nil {
		return nil, d.err
	}
	b := beginPacket(nil, fxpExtendedReply, id)
	b = appendString(b, make([]byte, len(uids))) // each number becomes a length of 0, of the same four bytes
	b = appendString(b, make([]byte, len(gids)))
	return endPacket(b), nil
}

// copyChunk is how much of a copy is done between two looks at the session's end. It is a multiple
// of all block sizes, so that blocks can be shared.
const copyChunk = 64 << 20

// copyData follows draft-ietf-secsh-filexfer-extensions-00 section 7, and OpenSSH in answering EOF
// when the source ends before the length that was asked for.
func (c *conn) copyData(_ uint32, d *decoder) ([]byte, error) {
	from := c.handle(d.bytes())
	srcOff, n := d.uint64(), d.uint64()
	to := c.handle(d.bytes())
	dstOff := d.uint64()
	const limit = 1<<63 - 1
	switch {
	case d.err != nil:
		return nil, d.err
	case from == nil || to == nil:
		return nil, errBadHandle
	case !from.readable():
		return nil, errNotReadable
	case !to.writable():
		return nil, errNotWritable
	case from == to:
		return nil, errSameFile
	case srcOff > limit || n > limit:
		return nil, errTooFar
	}
	size, err := from.size()
	if err != nil {
		return nil, err
	}
	have := uint64(max(size-int64(srcOff), 0))
	short := n > have
	if n == 0 || short {
		n = have
	}
	if dstOff > limit-n {
		return nil, errTooFar
	}
	if err := c.copyRange(to.up, from, int64(srcOff), int64(dstOff), int64(n)); err != nil {
		return nil, err
	}
	if short {
		return nil, io.EOF
	}
	return nil, nil
}

func (c *conn) copyRange(to upload, from *handle, src, dst, n int64) error {
	for n > 0 {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		m := min(n, copyChunk)
		var err error
		if from.file != nil {
			err = to.CopyFrom(from.file, src, dst, m)
		} else {
			_, err = io.CopyBuffer(io.NewOffsetWriter(to, dst),
				struct{ io.Reader }{io.NewSectionReader(from.up, src, m)}, make([]byte, maxData))
		}
		if err != nil {
			return err
		}
		src, dst, n = src+m, dst+m, n-m
	}
	return nil
}

var hashes = map[string]func() hash.Hash{
	"md5": md5.New, "sha1": sha1.New, "sha224": sha256.New224, "sha256": sha256.New,
	"sha384": sha512.New384, "sha512": sha512.New,
	"crc32": func() hash.Hash { return crc32.NewIEEE() },
}

func (c *conn) checkFileHandle(id uint32, d *decoder) ([]byte, error) {
	h, err := c.decodeHandle(d)
	if err != nil {
		return nil, err
	}
	alg, sums, err := c.decodeCheck(d)
	if err != nil {
		return nil, err
	}
	if h.dir != nil {
		return nil, appendonly.ErrIsDir
	}
	if !h.readable() {
		return nil, errNotReadable
	}
	size, err := h.size()
	if err != nil {
		return nil, err
	}
	n := max(size-sums.skip, 0)
	if sums.left >= 0 {
		n = min(n, sums.left)
	}
	src := io.NewSectionReader(h.reader(), sums.skip, n)
	sums.skip = 0
	if _, err := io.CopyBuffer(sums, struct{ io.Reader }{src}, make([]byte, maxData)); err != nil && !sums.full {
		return nil, err
	}
	return checkReply(id, alg, sums)
}

func (c *conn) checkFileName(id uint32, d *decoder) ([]byte, error) {
	path := d.path()
	alg, sums, err := c.decodeCheck(d)
	if err != nil {
		return nil, err
	}
	if err := c.fs.Hash(path, sums); err != nil && !sums.full {
		return nil, err
	}
	return checkReply(id, alg, sums)
}

// decodeCheck reads what both forms of check-file end with.
func (c *conn) decodeCheck(d *decoder) (alg string, s *blockSums, err error) {
	list := d.string()
	off, length, block := d.uint64(), d.uint64(), d.uint32()
	switch {
	case d.err != nil:
		return "", nil, d.err
	case off > 1<<63-1 || length > 1<<63-1:
		return "", nil, errTooFar
	case block != 0 && block < 256: // the draft's least
		return "", nil, errBlocks
	}
	for alg := range strings.SplitSeq(list, ",") {
		if make := hashes[alg]; make != nil {
			s := &blockSums{ctx: c.ctx, h: make(), skip: int64(off), left: int64(length), block: int64(block)}
			if length == 0 {
				s.left = -1
			}
			return alg, s, nil
		}
	}
	return "", nil, errNoHash
}

func checkReply(id uint32, alg string, s *blockSums) ([]byte, error) {
	if s.err != nil {
		return nil, s.err
	}
	if s.inBlock > 0 || len(s.sums) == 0 {
		s.sums = s.h.Sum(s.sums)
	}
	b := beginPacket(nil, fxpExtendedReply, id)
	b = appendString(appendString(b, "check-file"), alg)
	return endPacket(append(b, s.sums...)), nil
}

// maxSums bounds the digests of one reply.
const maxSums = 128 << 10

// blockSums is a writer that takes a whole file and digests a range of it, block by block.
type blockSums struct {
	ctx     context.Context // of Serve: hashing a large file must not hold up a shutdown
	h       hash.Hash
	skip    int64 // bytes still to be passed over
	left    int64 // bytes still to be taken; negative: all
	block   int64 // 0: one block
	inBlock int64
	sums    []byte
	full    bool  // no more bytes are wanted: the error from Write is only to stop the source
	err     error // why the digests are not to be used
}

func (s *blockSums) Write(p []byte) (int, error) {
	n := len(p)
	if err := s.ctx.Err(); err != nil {
		return 0, s.stop(err)
	}
	k := min(s.skip, int64(len(p)))
	s.skip -= k
	p = p[k:]
	if s.left >= 0 {
		p = p[:min(int64(len(p)), s.left)]
		s.left -= int64(len(p))
	}
	for len(p) > 0 {
		k := int64(len(p))
		if s.block > 0 {
			k = min(k, s.block-s.inBlock)
		}
		s.h.Write(p[:k])
		s.inBlock += k
		p = p[k:]
		if s.block > 0 && s.inBlock == s.block {
			s.sums = s.h.Sum(s.sums)
			s.h.Reset()
			s.inBlock = 0
			if len(s.sums) > maxSums {
				return 0, s.stop(errBlocks)
			}
		}
	}
	if s.left == 0 {
		return n, s.stop(nil)
	}
	return n, nil
}

func (s *blockSums) stop(err error) error {
	s.full, s.err = true, err
	return io.ErrShortWrite
}
