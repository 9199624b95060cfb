package sshd

import (
	"net"
	"net/netip"
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

// Gate is the gate with a clock of its own, for tests of what it remembers.
type Gate struct {
	g     *gate
	clock int64
}

// NewGate makes a gate.
func NewGate(l Limits) *Gate {
	t := &Gate{clock: int64(time.Hour)}
	t.g = newGate(l.withDefaults(), func() int64 { return t.clock })
	return t
}

// Add lets time pass.
func (t *Gate) Add(d time.Duration) { t.clock += int64(d) }

// Admit asks the gate.
func (t *Gate) Admit(a string) (known bool, err error) {
	tenant, err := t.g.admit(addrKey(netip.MustParseAddr(a)))
	return tenant != "", err
}

// Failed fails as who offers unknown keys does.
func (t *Gate) Failed(a string) time.Duration {
	return t.g.failed(addrKey(netip.MustParseAddr(a)), costAuth)
}

// Verified proves a key.
func (t *Gate) Verified(a, tenant string) {
	t.g.verified(addrKey(netip.MustParseAddr(a)), tenant, 0)
}

// Bans lists them.
func (t *Gate) Bans() []Ban { return t.g.bans() }

// Clear ends one.
func (t *Gate) Clear(a string) int { return t.g.clear(addrKey(netip.MustParseAddr(a))) }

// Remembered is how many known addresses and offenders there are.
func (t *Gate) Remembered() (known, offenders int) {
	return len(t.g.known), len(t.g.faults4) + len(t.g.faults6)
}
