package sshd

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/session"
)

// Bounds on what a client can say before its session starts.
const (
	maxEnv      = 32       // variables
	maxEnvName  = 64       // bytes
	maxEnvValue = 256      // bytes
	maxCommand  = 64 << 10 // bytes of an exec request
)

// floodMargin is how many channels above its limit a connection may have waiting for their refusal.
// gliderlabs starts a goroutine for each; a client that opens channels and reads no answers is cut here.
const floodMargin = 64

// serveChannel serves one "session" channel. Other types are refused by gliderlabs.
func (s *Server) serveChannel(_ *ssh.Server, sc *gossh.ServerConn, nc gossh.NewChannel, ctx ssh.Context) {
	c := connOf(ctx)
	l := loginOf(sc)
	if l == nil {
		s.log.Error("internal error: a channel without a login", "remote", c.remote.String())
		c.Close()
		return
	}
	c.use()
	if err := s.openSession(c); err != nil {
		if n := c.refusing.Add(1); n > floodMargin {
			s.log.Warn("connection cut: channels opened without reading the refusals", "tenant", l.Tenant, "remote", c.remote.String())
			c.Close()
		}
		nc.Reject(gossh.ResourceShortage, "vaultd: "+err.Error())
		c.refusing.Add(-1)
		return
	}
	defer s.closeSession(c)
	ch, reqs, err := nc.Accept()
	if err != nil {
		return // the connection is gone
	}
	k := &channel{srv: s, conn: c, login: l, ch: ch}
	// Until the client has closed its side too: then it has the exit status.
	for req := range reqs {
		c.use()
		ok := k.request(req)
		if req.WantReply {
			req.Reply(ok, nil)
		}
		if k.start != nil {
			k.running.Go(k.start) // after the reply: some clients take no data before it
			k.start = nil
		}
	}
	k.running.Wait()
	ch.Close()
}

// channel is one session before and while its handler runs. Its fields belong to serveChannel's goroutine.
type channel struct {
	srv   *Server
	conn  *conn
	login *Login
	ch    gossh.Channel

	env     []string
	tty     bool   // the client's terminal is in raw mode and waits for us to play one
	started bool   // one program per channel (RFC 4254 §6.5)
	start   func() // what the last request asked to run
	running sync.WaitGroup
}

// request answers one channel request of RFC 4254 §6. What is not named is refused: x11-req,
// auth-agent-req@openssh.com, break.
func (k *channel) request(req *gossh.Request) bool {
	var arg struct{ Value string }
	switch req.Type {
	case "keepalive@openssh.com":
		return true
	case "signal":
		return true // has no reply; closing the channel is how clients stop a session
	case "pty-req":
		// There is no terminal here. But OpenSSH's ssh -t gives up when it is refused one, and
		// "ssh -t tenant@host help" should help. See terminal.
		k.tty = !k.started
		return k.tty
	case "window-change":
		return k.tty
	case "env":
		return k.setenv(req.Payload)
	case "shell":
		if len(req.Payload) != 0 {
			return false
		}
		return k.run("shell", "", k.srv.cfg.Exec)
	case "exec":
		if gossh.Unmarshal(req.Payload, &arg) != nil || len(arg.Value) > maxCommand {
			return false
		}
		return k.run("exec", arg.Value, k.srv.cfg.Exec)
	case "subsystem":
		if gossh.Unmarshal(req.Payload, &arg) != nil {
			return false
		}
		return k.run(arg.Value, "", k.srv.cfg.Subsystems[arg.Value])
	}
	return false
}

// run prepares the one program of this channel.
func (k *channel) run(proto, command string, h session.Handler) bool {
	if k.started || h == nil {
		return false
	}
	k.started = true
	k.start = func() { k.srv.runSession(k, proto, command, h) }
	return true
}

// setenv takes LANG and LC_* in printable ASCII.
func (k *channel) setenv(payload []byte) bool {
	var kv struct{ Name, Value string }
	if k.started || gossh.Unmarshal(payload, &kv) != nil || len(k.env) >= maxEnv ||
		len(kv.Name) > maxEnvName || len(kv.Value) > maxEnvValue {
		return false
	}
	if kv.Name != "LANG" && !strings.HasPrefix(kv.Name, "LC_") {
		return false
	}
	for _, b := range []byte(kv.Name) {
		if b != '_' && (b < 'A' || b > 'Z') {
			return false
		}
	}
	for _, b := range []byte(kv.Value) {
		if b < ' ' || b > '~' {
			return false
		}
	}
	k.env = append(k.env, kv.Name+"="+kv.Value)
	return true
}

// stream is a channel as a handler's Stdin and Stdout.
type stream struct {
	conn *conn
	ch   gossh.Channel

	received, sent atomic.Int64 // bytes
}

// Read ends in io.EOF when the client ended its stream, in io.ErrUnexpectedEOF when the connection was
// lost, and in nothing else.
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ch.Read(p)
	s.received.Add(int64(n))
	s.conn.use()
	if err != nil && (err != io.EOF || !s.conn.saidEOF()) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.ch.Write(p)
	s.sent.Add(int64(n))
	s.conn.use()
	return n, err
}

// terminal is Stdout or Stderr when the client has put its terminal into raw mode: line feeds need
// their carriage returns. Such a session has no Stdin: nobody would make ^C and ^D of what is typed.
type terminal struct{ w io.Writer }

func (t terminal) Write(p []byte) (int, error) {
	var out []byte
	for i, b := range p {
		if b == '\n' && (i == 0 || p[i-1] != '\r') {
			out = append(out, '\r')
		}
		out = append(out, b)
	}
	if _, err := t.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// stderr serializes writers: x/crypto shares one packet among the writers of a stream.
type stderr struct {
	mu sync.Mutex
	ch gossh.Channel
}

func (e *stderr) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ch.Stderr().Write(p)
}
