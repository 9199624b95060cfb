package sshd

import (
	"net"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// Internals for tests.
var (
	OneLine       = oneLine
	ClientCiphers = clientCiphers
)

const (
	ReadAhead   = readAhead
	RefusalTime = refusalTime
	FloodMargin = floodMargin
	MaxEnv      = maxEnv
	GreetWait   = greetWait
)

// fakeContext is gliderlabs' context of a connection on which the first user name was first.
type fakeContext struct {
	ssh.Context
	first string
	conn  *conn
	perms ssh.Permissions
}

func (f *fakeContext) User() string { return f.first }

func (f *fakeContext) Permissions() *ssh.Permissions { return &f.perms }
func (f *fakeContext) Value(k any) any {
	if k == (connKey{}) {
		return f.conn
	}
	return nil
}

type fakeMeta struct {
	gossh.ServerPreAuthConn
	user string
}

func (m fakeMeta) User() string { return m.user }

// OfferAs offers key on a connection whose client named first before it named user.
func (s *Server) OfferAs(first, user string, key gossh.PublicKey) bool {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	c := newConn(s, a)
	defer c.cancel(nil)
	c.meta = fakeMeta{user: user}
	return s.offered(&fakeContext{first: first, conn: c}, key)
}

// NewLineLimit makes the limit of log lines with a clock of its own.
func NewLineLimit(now func() time.Time, burst int, every time.Duration) func() (bool, int) {
	var l lineLimit
	l.init(now, burst, every)
	return l.allow
}

// WrapConn makes a conn of nc outside any server loop.
func (s *Server) WrapConn(nc net.Conn) net.Conn { return newConn(s, nc) }

// BuffersHeld says whether a wrapped connection owns a read buffer now. Only while nobody reads.
func BuffersHeld(nc net.Conn) bool { return nc.(*conn).buf != nil }
