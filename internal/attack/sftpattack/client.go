// Package sftpattack lets the attack suite speak SFTP version 3 (draft-ietf-secsh-filexfer-02 and
// OpenSSH's PROTOCOL file).
//
// A Client holds two channels with the same key: github.com/pkg/sftp's client stores and reads whole
// files, with many requests under way as restic and rclone do; everything else goes as raw packets,
// one at a time, because that client can not say it (attributes in OPEN, copy-data, length and times
// by handle after CLOSE, paths with any bytes) or says more than it was asked (its Remove falls back
// to RMDIR). A channel that gives no answer in time is closed and the request is attack.ErrLost.
package sftpattack

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"vaultd/internal/attack"
)

var (
	_ attack.Client = (*Client)(nil)
	_ attack.Handle = (*handle)(nil)
)

// Config says how to reach the server.
type Config struct {
	// Dial opens a new SFTP channel with the attacker's key; it may use one connection for all of them.
	Dial func() (io.ReadWriteCloser, error)
	// Timeout bounds one request, or one whole file; default 30 s.
	Timeout time.Duration
}

// Client implements attack.Client. It is used by one goroutine at a time.
type Client struct {
	cfg   Config
	raw   io.ReadWriteCloser // nil: dial at the next request
	id    uint32
	whole *sftp.Client // nil: dial at the next whole file
	pipe  io.Closer    // its channel
}

// New returns a client that dials when it is first used. Close ends it.
func New(cfg Config) *Client {
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	return &Client{cfg: cfg}
}

// Subsystem opens an SFTP channel on conn: a Config.Dial for one SSH connection.
func Subsystem(conn *ssh.Client) (io.ReadWriteCloser, error) {
	s, err := conn.NewSession()
	if err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	in, err := s.StdinPipe()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	out, err := s.StdoutPipe()
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.RequestSubsystem("sftp"); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for sftp: %w", err), s.Close())
	}
	return channel{out, in, s}, nil
}

type channel struct {
	io.Reader
	io.Writer
	s *ssh.Session
}

func (c channel) Close() error { return c.s.Close() }

// Close ends both channels, without closing what is open.
func (c *Client) Close() error { return c.Drop() }

// Drop closes both channels with everything that is open.
func (c *Client) Drop() error {
	if c.raw != nil {
		c.raw.Close()
		c.raw = nil
	}
	if c.whole != nil {
		c.pipe.Close()
		c.whole.Close()
		c.whole = nil
	}
	return nil
}

// lost drops the raw channel and says why.
func (c *Client) lost(what string, err error) error {
	if c.raw != nil {
		c.raw.Close()
		c.raw = nil
	}
	return fmt.Errorf("%s: %w: %w", what, attack.ErrLost, err)
}

// ask sends one request and returns the reply's type and body. A status other than OK is an error.
func (c *Client) ask(p packet) (byte, *reader, error) {
	if c.raw == nil {
		if err := c.dial(); err != nil {
			return 0, nil, err
		}
	}
	c.id++
	timer := time.AfterFunc(c.cfg.Timeout, func(ch io.Closer) func() { return func() { ch.Close() } }(c.raw))
	defer timer.Stop()
	if _, err := c.raw.Write(p.finish(c.id)); err != nil {
		return 0, nil, c.lost("send request", err)
	}
	typ, body, err := readPacket(c.raw)
	if err != nil {
		return 0, nil, c.lost("wait for reply", err)
	}
	r := &reader{b: body}
	if id := r.u32(); id != c.id || r.err != nil {
		return 0, nil, c.lost("read reply", fmt.Errorf("it is for request %d, asked was %d", id, c.id))
	}
	if typ == typeStatus {
		return typ, r, r.status()
	}
	return typ, r, nil
}

func (c *Client) dial() error {
	ch, err := c.cfg.Dial()
	if err != nil {
		return fmt.Errorf("dial: %w: %w", attack.ErrLost, err)
	}
	c.raw = ch
	timer := time.AfterFunc(c.cfg.Timeout, func() { ch.Close() })
	defer timer.Stop()
	if _, err := ch.Write([]byte{0, 0, 0, 5, typeInit, 0, 0, 0, 3}); err != nil {
		return c.lost("send init", err)
	}
	typ, _, err := readPacket(ch)
	if err == nil && typ != typeVersion {
		err = fmt.Errorf("packet of type %d", typ)
	}
	if err != nil {
		return c.lost("wait for version", err)
	}
	return nil
}

// do is for requests that are answered with a status.
func (c *Client) do(p packet) error {
	_, err := c.want(p, typeStatus)
	return err
}

func (c *Client) want(p packet, typ byte) (*reader, error) {
	got, r, err := c.ask(p)
	if err == nil && got != typ {
		err = c.lost("read reply", fmt.Errorf("type %d instead of %d", got, typ))
	}
	return r, err
}

// library gives the pkg/sftp client to do, within the time limit, and maps its errors.
func (c *Client) library(do func(*sftp.Client) error) error {
	if c.whole == nil {
		ch, err := c.cfg.Dial()
		if err != nil {
			return fmt.Errorf("dial: %w: %w", attack.ErrLost, err)
		}
		timer := time.AfterFunc(c.cfg.Timeout, func() { ch.Close() })
		w, err := sftp.NewClientPipe(ch, ch, sftp.UseConcurrentWrites(true))
		timer.Stop()
		if err != nil {
			ch.Close()
			return fmt.Errorf("start sftp: %w: %w", attack.ErrLost, err)
		}
		c.whole, c.pipe = w, ch
	}
	timer := time.AfterFunc(c.cfg.Timeout, func(p io.Closer) func() { return func() { p.Close() } }(c.pipe))
	defer timer.Stop()
	err := do(c.whole)
	var status *sftp.StatusError
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.Is(err, io.EOF):
		return err
	case errors.As(err, &status) && status.Code != uint32(sftp.ErrSSHFxConnectionLost) && status.Code != uint32(sftp.ErrSSHFxNoConnection):
		return &StatusError{Code: status.Code, Text: status.Error()}
	}
	c.pipe.Close()
	c.whole.Close()
	c.whole = nil
	return fmt.Errorf("%w: %w", attack.ErrLost, err)
}

// Put follows attack.Client.
func (c *Client) Put(path string, data []byte) error {
	return c.library(func(w *sftp.Client) error {
		f, err := w.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	})
}

// Read follows attack.Client.
func (c *Client) Read(path string) ([]byte, error) {
	var data []byte
	err := c.library(func(w *sftp.Client) error {
		f, err := w.Open(path)
		if err != nil {
			return err
		}
		data, err = io.ReadAll(io.LimitReader(f, attack.MaxRead))
		return errors.Join(err, f.Close())
	})
	return data, err
}

// Open follows attack.Client.
func (c *Client) Open(path string, f attack.Flag, a attack.Attrs) (attack.Handle, error) {
	r, err := c.want(newPacket(typeOpen).str(path).u32(uint32(f)).attrs(a), typeHandle)
	if err != nil {
		return nil, err
	}
	h := &handle{c: c, ch: c.raw, id: r.str()}
	if r.err != nil {
		return nil, c.lost("read handle", r.err)
	}
	return h, nil
}

// List follows attack.Client.
func (c *Client) List(path string) ([]attack.Info, error) {
	r, err := c.want(newPacket(typeOpendir).str(path), typeHandle)
	if err != nil {
		return nil, err
	}
	h := r.str()
	var list []attack.Info
	for {
		r, err := c.want(newPacket(typeReaddir).str(h), typeName)
		if errors.Is(err, io.EOF) {
			return list, c.do(newPacket(typeClose).str(h))
		}
		if err != nil {
			return nil, errors.Join(err, c.do(newPacket(typeClose).str(h)))
		}
		for n := r.u32(); n > 0; n-- {
			name, _ := r.str(), r.str()
			i := r.attrs()
			if r.err != nil {
				return nil, c.lost("read names", r.err)
			}
			if i.Name = name; name != "." && name != ".." {
				list = append(list, i)
			}
		}
	}
}

func (c *Client) stat(p packet) (attack.Info, error) {
	r, err := c.want(p, typeAttrs)
	if err != nil {
		return attack.Info{}, err
	}
	i := r.attrs()
	if r.err != nil {
		return i, c.lost("read attributes", r.err)
	}
	return i, nil
}

// Stat follows attack.Client.
func (c *Client) Stat(path string) (attack.Info, error) {
	return c.stat(newPacket(typeLstat).str(path))
}

// Follow follows attack.Client.
func (c *Client) Follow(path string) (attack.Info, error) {
	return c.stat(newPacket(typeStat).str(path))
}

// Readlink follows attack.Client.
func (c *Client) Readlink(path string) (string, error) {
	r, err := c.want(newPacket(typeReadlink).str(path), typeName)
	if err != nil {
		return "", err
	}
	_ = r.u32()
	target := r.str()
	if r.err != nil {
		return "", c.lost("read link", r.err)
	}
	return target, nil
}

// Setstat follows attack.Client.
func (c *Client) Setstat(path string, a attack.Attrs) error {
	return c.do(newPacket(typeSetstat).str(path).attrs(a))
}

// Remove follows attack.Client.
func (c *Client) Remove(path string) error { return c.do(newPacket(typeRemove).str(path)) }

// Rmdir follows attack.Client.
func (c *Client) Rmdir(path string) error { return c.do(newPacket(typeRmdir).str(path)) }

// Mkdir follows attack.Client.
func (c *Client) Mkdir(path string) error {
	return c.do(newPacket(typeMkdir).str(path).attrs(attack.Attrs{}))
}

// Rename follows attack.Client.
func (c *Client) Rename(from, to string) error {
	return c.do(newPacket(typeRename).str(from).str(to))
}

// PosixRename follows attack.Client.
func (c *Client) PosixRename(from, to string) error {
	return c.do(newPacket(typeExtended).str("posix-rename@openssh.com").str(from).str(to))
}

// Symlink follows attack.Client. The order on the wire is OpenSSH's (PROTOCOL §4.1), not the draft's.
func (c *Client) Symlink(target, path string) error {
	return c.do(newPacket(typeSymlink).str(target).str(path))
}

// Link follows attack.Client.
func (c *Client) Link(old, path string) error {
	return c.do(newPacket(typeExtended).str("hardlink@openssh.com").str(old).str(path))
}

// Statvfs follows attack.Client.
func (c *Client) Statvfs(path string) (attack.Space, error) {
	r, err := c.want(newPacket(typeExtended).str("statvfs@openssh.com").str(path), typeExtendedReply)
	if err != nil {
		return attack.Space{}, err
	}
	_ = r.u64()
	unit := r.u64()
	s := attack.Space{Total: r.u64() * unit, Free: r.u64() * unit, Avail: r.u64() * unit}
	if r.err != nil {
		return s, c.lost("read statvfs", r.err)
	}
	return s, nil
}

// handle is an open file on one raw channel.
type handle struct {
	c  *Client
	ch io.ReadWriteCloser
	id string
}

var errGone = errors.New("the handle's connection is gone")

// do sends a request about the handle. On a later channel the same handle could be somebody else's.
func (h *handle) do(p packet) error {
	if h.c.raw != h.ch {
		return errGone
	}
	return h.c.do(p)
}

// WriteAt sends p in requests of 32 KiB.
func (h *handle) WriteAt(p []byte, off uint64) error {
	for {
		n := min(len(p), 32<<10)
		if err := h.do(newPacket(typeWrite).str(h.id).u64(off).str(string(p[:n]))); err != nil {
			return err
		}
		p, off = p[n:], off+uint64(n)
		if len(p) == 0 {
			return nil
		}
	}
}

// Setstat follows attack.Handle.
func (h *handle) Setstat(a attack.Attrs) error {
	return h.do(newPacket(typeFsetstat).str(h.id).attrs(a))
}

// Stat follows attack.Handle.
func (h *handle) Stat() (attack.Info, error) {
	if h.c.raw != h.ch {
		return attack.Info{}, errGone
	}
	return h.c.stat(newPacket(typeFstat).str(h.id))
}

// CopyFrom follows attack.Handle; draft-ietf-secsh-filexfer-extensions-00 §7.
func (h *handle) CopyFrom(src attack.Handle, srcOff, n, dstOff uint64) error {
	s, ok := src.(*handle)
	if !ok || s.ch != h.ch {
		return errGone
	}
	return h.do(newPacket(typeExtended).str("copy-data").str(s.id).u64(srcOff).u64(n).str(h.id).u64(dstOff))
}

// Close follows attack.Handle.
func (h *handle) Close() error { return h.do(newPacket(typeClose).str(h.id)) }
