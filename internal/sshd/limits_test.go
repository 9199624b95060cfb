package sshd_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/sshd"
)

// hello reads the server's version line, or says that the connection was closed before.
func hello(t testing.TB, addr string) (net.Conn, bool) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if errors.Is(err, syscall.ECONNRESET) { // refused before connect(2) had returned
		return nopConn{}, false
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 8)
	_, err = io.ReadFull(nc, b)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("neither served nor closed")
	}
	return nc, err == nil && string(b) == "SSH-2.0-"
}

// nopConn is a connection that was refused.
type nopConn struct{ net.Conn }

func (nopConn) Close() error { return nil }

func TestPreAuthLimits(t *testing.T) {
	for name, set := range map[string]func(*sshd.Limits){
		"address": func(l *sshd.Limits) { l.PreAuthPerAddress = 3 },
		"total":   func(l *sshd.Limits) { l.PreAuthTotal = 3 },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil, func(c *sshd.Config, _ *access) { set(&c.Limits) })
			in := s.dial() // logged in: counts no more
			var open []net.Conn
			for i := range 6 {
				nc, ok := hello(t, s.addr)
				if ok != (i < 3) {
					t.Fatalf("connection %d: served %v", i+1, ok)
				}
				open = append(open, nc)
			}
			eventually(t, "the counts", func() bool { // a refusal is counted after its connection was closed
				st := s.Stats()
				return st.PreAuth == 3 && st.Failures["rate_limited"] == 3 && st.Connections == 1
			})
			if _, _, code := run(t, in, "x", ""); code != 0 {
				t.Error("a connection that is in suffers")
			}
			for _, nc := range open {
				nc.Close()
			}
			eventually(t, "the count to go down", func() bool { return s.Stats().PreAuth == 0 })
			if _, ok := hello(t, s.addr); !ok {
				t.Error("refused although there is room again")
			}
		})
	}
}

func TestAuthTries(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Limits.MaxAuthTries = 3 })
	var keys []gossh.Signer
	for range 3 {
		k, _ := newKey(t, "ed25519")
		keys = append(keys, k)
	}
	c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", append(keys, s.key)...))
	if err == nil {
		c.Close()
		t.Fatal("logged in with the fourth key")
	}
	if !strings.Contains(err.Error(), "too many authentication failures") {
		t.Error(err)
	}
	c, err = gossh.Dial("tcp", s.addr, s.clientConfig("acme", append(keys[:2:2], s.key)...))
	if err != nil {
		t.Fatal("third key: ", err)
	}
	c.Close()
}

func TestConnectionsPerTenant(t *testing.T) {
	other, _ := newKey(t, "ed25519")
	s := start(t, nil, func(c *sshd.Config, a *access) {
		c.Limits.ConnsPerTenant = 2
		a.keys["other"] = map[string]appendonly.Role{gossh.FingerprintSHA256(other.PublicKey()): appendonly.Push}
	})
	first := s.dial()
	s.dial()
	_, stderr, code := s.ssh("", "127.0.0.1", "x")
	if code != 255 || !strings.Contains(stderr, "vaultd: refused: login: too many connections of this tenant (limit 2)") {
		t.Errorf("status %d, %q", code, stderr)
	}
	c, err := gossh.Dial("tcp", s.addr, s.clientConfig("other", other))
	if err != nil {
		t.Fatal("another tenant suffers: ", err)
	}
	c.Close()
	first.Close()
	eventually(t, "the place to be free", func() bool {
		c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", s.key))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func TestSessionLimits(t *testing.T) {
	for name, set := range map[string]func(*sshd.Limits){
		"connection": func(l *sshd.Limits) { l.SessionsPerConn = 2 },
		"tenant":     func(l *sshd.Limits) { l.SessionsPerTenant = 2 },
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, nil, func(c *sshd.Config, _ *access) { set(&c.Limits) })
			c := s.dial()
			var open []*gossh.Session
			for range 2 {
				ses, err := c.NewSession()
				if err != nil {
					t.Fatal(err)
				}
				open = append(open, ses)
			}
			var refused *gossh.OpenChannelError
			if _, err := c.NewSession(); !errors.As(err, &refused) || refused.Reason != gossh.ResourceShortage ||
				!strings.Contains(refused.Message, "too many sessions") {
				t.Errorf("third session: %v", err)
			}
			if name == "tenant" {
				if _, err := s.dial().NewSession(); err == nil {
					t.Error("a second connection passes the tenant's limit")
				}
			}
			if err := open[0].Run("x"); err != nil { // the connection goes on
				t.Error(err)
			}
			eventually(t, "the place to be free", func() bool {
				ses, err := c.NewSession()
				if err == nil {
					ses.Close()
				}
				return err == nil
			})
		})
	}
}

// jamListener's connections stop writing when it is jammed: the client reads no more, and the buffers are full.
type jamListener struct {
	net.Listener
	jammed atomic.Bool
}

func (l *jamListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	return &jamConn{Conn: nc, l: l, gone: make(chan struct{})}, err
}

type jamConn struct {
	net.Conn
	l    *jamListener
	gone chan struct{}
}

func (c *jamConn) Write(p []byte) (int, error) {
	if c.l.jammed.Load() {
		<-c.gone
	}
	return c.Conn.Write(p)
}

func (c *jamConn) Close() error { close(c.gone); return c.Conn.Close() }

// A client that opens channels without end and reads none of the refusals must not fill the memory.
func TestFloodOfChannels(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &jamListener{Listener: tcp}
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Limits.SessionsPerConn = 1 }).again(l)
	c := s.dial()
	if _, err := c.NewSession(); err != nil {
		t.Fatal(err)
	}
	l.jammed.Store(true)
	var wg sync.WaitGroup
	for range sshd.FloodMargin + 40 {
		wg.Go(func() { c.OpenChannel("session", nil) })
	}
	eventually(t, "the connection to be cut", func() bool { return s.Stats().Connections == 0 })
	if n := len(s.log.lines(t, "connection cut: channels opened without reading the refusals")); n == 0 {
		t.Error("cut for another reason")
	}
	wg.Wait()
}

func TestKeepaliveCutsTheDead(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) {
		c.Limits.KeepAlive, c.Limits.KeepAliveMissed = 200*time.Millisecond, 5
	})
	alive := s.dial() // answers, x/crypto's client does

	stuck := &stuckConn{stop: make(chan struct{})}
	defer stuck.release()
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	stuck.Conn = nc
	cc, chans, reqs, err := gossh.NewClientConn(stuck, s.addr, s.clientConfig("acme", s.key))
	if err != nil {
		t.Fatal(err)
	}
	dead := gossh.NewClient(cc, chans, reqs)
	ses, err := dead.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := ses.Start("hang"); err != nil {
		t.Fatal(err)
	}
	stuck.stick()
	eventually(t, "the dead client to be cut and its session to end", func() bool {
		st := s.Stats()
		return st.Connections == 1 && st.Dead == 1 && st.Sessions == 0
	})
	time.Sleep(time.Second)
	if _, _, code := run(t, alive, "x", ""); code != 0 {
		t.Error("the living client was cut too")
	}
	dead.Close()
}

func TestIdleEnds(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) {
		c.Limits.Idle, c.Limits.SessionIdle = 200*time.Millisecond, 600*time.Millisecond
		c.Limits.KeepAlive, c.Limits.KeepAliveMissed = 20*time.Millisecond, 10_000 // our own keepalives are no use of the connection
	})
	c := s.dial()
	begin := time.Now()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	ses.Stderr = &stderr
	if err := ses.Start("hang"); err != nil {
		t.Fatal(err)
	}
	var exit *gossh.ExitError
	if err := ses.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 1 || !strings.Contains(stderr.String(), "idle for too long") {
		t.Errorf("idle session: %v, %q", err, stderr.String())
	}
	if d := time.Since(begin); d < 550*time.Millisecond {
		t.Errorf("ended after %v", d)
	}
	c.Wait() // closed by the server

	c = s.dial()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, _, err := c.SendRequest("keepalive@openssh.com", true, nil); err != nil {
			t.Fatal("a client that sends keepalives was cut: ", err)
		}
	}
	begin = time.Now()
	c.Wait()
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("idle connection closed after %v", d)
	}
}

func TestRevokedKeyEndsSessions(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) { a.revoked = make(chan struct{}) })
	c := s.dial()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	ses.Stderr = &stderr
	if err := ses.Start("hang"); err != nil {
		t.Fatal(err)
	}
	close(s.access.revoked)
	var exit *gossh.ExitError
	if err := ses.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 1 || !strings.Contains(stderr.String(), "this key or certificate may not log in any more") {
		t.Errorf("%v, %q", err, stderr.String())
	}
	c.Wait()
	if s.access.closed != 1 {
		t.Error("FS not closed")
	}
}

// stuckConn is a client's connection whose reading can be stopped: the machine hangs, TCP does not know.
type stuckConn struct {
	net.Conn
	stop chan struct{}
	once sync.Once
}

func (c *stuckConn) stick() { c.Conn.SetReadDeadline(time.Unix(1, 0)) }

func (c *stuckConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		<-c.stop
	}
	return n, err
}

func (c *stuckConn) release() { c.once.Do(func() { close(c.stop) }); c.Conn.Close() }
