package sshd

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// Why a connection or its sessions end; the cause of their contexts, and what clients are told.
var (
	errLost     = errors.New("connection lost")
	errDraining = errors.New("the server is shutting down")
	errRevoked  = errors.New("this key or certificate may not log in any more, or was changed")
	errIdle     = errors.New("idle for too long")
	errDead     = errors.New("the client does not answer")
)

// endGrace is how long the sessions of a connection that is to end get, when it is not the server that stops.
const endGrace = 10 * time.Second

// conn is one client's connection. It reads ahead in large pieces (x/crypto asks for 4 KiB at a
// time), ignores the deadlines that gliderlabs sets twice per packet, and knows whether the transport
// still waits for the client.
type conn struct {
	net.Conn
	srv    *Server
	raw    syscall.RawConn // nil when there is no descriptor
	remote netip.AddrPort
	key    netip.Prefix
	whose  string // the tenant whose key was proved from there before; "": a stranger's
	born   int64  // Server.now of the accept

	// ctx ends when the connection is lost or to end; its cause says which.
	ctx    context.Context
	cancel context.CancelCauseFunc
	once   sync.Once
	grace  *time.Timer

	lastRead atomic.Int64 // Server.now of the last byte from the client
	lastUse  atomic.Int64 // Server.now of the last thing that counts against idling
	pinging  atomic.Bool  // a keepalive is unanswered
	refusing atomic.Int32 // channels whose refusal is being sent

	// Owned by the goroutine that runs the handshake and then handle.
	ciphers []string // to offer
	greeted bool     // our version was sent, x/crypto's is to be dropped
	meta    gossh.ServerPreAuthConn
	tries   int      // attempts that failed
	lastKey string   // fingerprint of the last key offered
	why     []string // why offered keys would not do, of the log only; bounded by maxWhy
	reason  string   // why the last key offered would not do, where Access has a word for it
	refused error    // why a verified key was not let in
	failure error    // of the handshake

	// peer is the connection that came out of the handshake, nil before; set by bindConn, and called
	// by others only once they saw login under srv.mu.
	peer func() *gossh.ServerConn

	// Guarded by srv.mu.
	login    *Login // nil until a key is verified; then fixed
	cut      *time.Timer
	late     bool // the login grace is over
	pushed   bool // it made room for another one
	gone     bool // Close was called
	sessions int
	ending   error // no new sessions, and closed after the last one

	// Owned by the reader: one goroutine at a time calls Read.
	buf  *[readAhead]byte // from pool; nil while rest is empty or what greet has read
	rest []byte           // not yet read
	poll func(fd uintptr) bool
	n    int // results of poll
	err  error

	rmu     sync.Mutex // guards waiting and lost
	rcond   sync.Cond  // signals a change of either
	waiting bool       // all that came was read, and the reader waits for more
	lost    bool       // nothing more will be read
}

// readAhead is what one system call may bring. Buffers are taken when data is there and given back
// when it was read, so idle connections own none.
const readAhead = 64 << 10

var readBuffers = sync.Pool{New: func() any { return new([readAhead]byte) }}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{Conn: nc, srv: s}
	c.rcond.L = &c.rmu
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.remote = remoteOf(nc)
	c.key = addrKey(c.remote.Addr())
	if sc, ok := nc.(syscall.Conn); ok {
		c.raw, _ = sc.SyscallConn()
	}
	c.poll = c.readOnce
	c.born = s.now()
	c.lastRead.Store(c.born)
	c.use()
	return c
}

type connKey struct{}

// bindConn is gliderlabs' ConnCallback: it lets the other callbacks find the conn.
func bindConn(ctx ssh.Context, nc net.Conn) net.Conn {
	ctx.SetValue(connKey{}, nc)
	nc.(*conn).peer = func() *gossh.ServerConn {
		sc, _ := ctx.Value(ssh.ContextKeyConn).(*gossh.ServerConn)
		return sc
	}
	return nc
}

func connOf(ctx ssh.Context) *conn { return ctx.Value(connKey{}).(*conn) }

// use notes that the client is not idle.
func (c *conn) use() { c.lastUse.Store(c.srv.now()) }

// Read is called by x/crypto's one reader.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		c.setWaiting(true)
		n, err := c.fill(p)
		c.lastRead.Store(c.srv.now())
		c.rmu.Lock()
		c.waiting = false
		c.lost = c.lost || err != nil
		c.rcond.Broadcast()
		c.rmu.Unlock()
		if err != nil {
			c.cancel(errLost)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	n := copy(p, c.rest)
	if c.rest = c.rest[n:]; len(c.rest) == 0 {
		if c.buf != nil {
			readBuffers.Put(c.buf)
		}
		c.buf, c.rest = nil, nil
	}
	return n, nil
}

func (c *conn) setWaiting(w bool) {
	c.rmu.Lock()
	c.waiting = w
	c.rcond.Broadcast()
	c.rmu.Unlock()
}

// fill reads into p where p is large, otherwise into c.rest and returns 0.
func (c *conn) fill(p []byte) (int, error) {
	if c.raw == nil || len(p) >= readAhead {
		return c.Conn.Read(p)
	}
	if err := c.raw.Read(c.poll); err != nil {
		return 0, err
	}
	switch {
	case c.err != nil:
		return 0, os.NewSyscallError("read", c.err)
	case c.n == 0:
		return 0, io.EOF
	}
	c.rest = c.buf[:c.n]
	return 0, nil
}

// readOnce takes a buffer only when the descriptor is readable; false makes RawConn.Read wait.
func (c *conn) readOnce(fd uintptr) bool {
	buf := readBuffers.Get().(*[readAhead]byte)
	for {
		c.n, c.err = syscall.Read(int(fd), buf[:])
		if c.err != syscall.EINTR {
			break
		}
	}
	if c.n > 0 {
		c.buf = buf
		return true
	}
	readBuffers.Put(buf)
	return c.err != syscall.EAGAIN
}

// saidEOF is asked when a channel's stream has ended: did the client end it, or is it that the
// connection is gone? x/crypto tells both by io.EOF. After an end by the client its reader
// comes back to wait for more; after a loss, or a disconnect message, it never does.
func (c *conn) saidEOF() bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	for !c.waiting && !c.lost {
		c.rcond.Wait()
	}
	return !c.lost
}

// clientAddr is the client's address, and leads back to the conn from where gliderlabs shows only a net.Conn.
type clientAddr struct {
	net.Addr
	conn *conn
}

// RemoteAddr returns a clientAddr.
func (c *conn) RemoteAddr() net.Addr { return clientAddr{c.Conn.RemoteAddr(), c} }

// SetDeadline does nothing: gliderlabs sets deadlines before each read and write, the janitor and the login
// grace watch instead.
func (c *conn) SetDeadline(time.Time) error { return nil }

// Close closes the connection and ends its context. Later calls do nothing.
func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.rmu.Lock()
		c.lost = true
		c.rcond.Broadcast()
		c.rmu.Unlock()
		if c.grace != nil {
			c.grace.Stop()
		}
		err = c.Conn.Close()
		c.cancel(errLost)
		c.srv.closed(c)
	})
	return err
}

// endAfter has no new sessions on a connection, and closes it after the last of those that go on.
func (s *Server) endAfter(c *conn, cause error) {
	s.mu.Lock()
	idle := c.sessions == 0
	if !c.gone && c.ending == nil {
		c.ending = cause
	}
	s.mu.Unlock()
	if idle {
		c.cancel(cause)
		c.Close()
	}
}

// end ends a connection politely: no new sessions, the running ones are cancelled with cause, the
// connection closed after the last of them and at the latest after grace.
func (s *Server) end(c *conn, cause error, grace time.Duration) {
	s.mu.Lock()
	if c.gone || c.cut != nil {
		s.mu.Unlock()
		return
	}
	c.ending = cause
	idle := c.sessions == 0
	if !idle {
		c.cut = time.AfterFunc(grace, func() { c.Close() })
	}
	s.mu.Unlock()
	c.cancel(cause)
	if idle {
		c.Close()
	}
}
