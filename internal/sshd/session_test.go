package sshd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

func TestExitStatus(t *testing.T) {
	denied := &appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/x", Rule: appendonly.P2, Why: "the file is sealed"}
	for _, tt := range []struct {
		name   string
		err    error // of the handler
		close  error // of the barrier
		code   int
		stderr string // what must be in it; "" wants nothing
	}{
		{name: "ok"},
		{name: "own status", err: &session.ExitError{Code: 127}, code: 127},
		{name: "wrapped status", err: fmt.Errorf("run: %w", &session.ExitError{Code: 3}), code: 3},
		{name: "absurd status", err: &session.ExitError{Code: 256}, code: 1}, // 256 would reach a shell as 0
		{name: "denied", err: fmt.Errorf("serve: %w", denied), code: 77, stderr: "vaultd: refused: remove \"/x\": the file is sealed (P2)\r\n"},
		{name: "read-only", err: appendonly.ErrReadOnly, code: 1, stderr: "vaultd: error: the vault is read-only after a storage error"},
		{name: "other", err: &os.PathError{Op: "open", Path: "/srv/vault/secret", Err: syscall.EIO}, code: 1, stderr: "vaultd: error: internal error; ask the operator about session "},
		// What was sent may not be stored: that must not end in 0.
		{name: "barrier", close: errors.New("fsync /srv/vault/secret"), code: 1, stderr: "vaultd: error: what was sent may not be stored; ask the operator about session "},
		{name: "barrier after a status", err: &session.ExitError{Code: 5}, close: errors.New("no"), code: 5, stderr: "may not be stored"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, func(context.Context, *session.Session) error { return tt.err }, func(_ *sshd.Config, a *access) {
				a.close = func(context.Context) error { return tt.close }
			})
			_, stderr, code := run(t, s.dial(), "x", "")
			if code != tt.code || !strings.Contains(stderr, tt.stderr) || (tt.stderr == "") != (stderr == "") || strings.Contains(stderr, "secret") {
				t.Errorf("status %d, stderr %q; want %d, %q", code, stderr, tt.code, tt.stderr)
			}
			if n := strings.Count(stderr, "\n"); n > 1 {
				t.Errorf("%d lines on stderr: %q", n, stderr)
			}
		})
	}
}

// The order that P4 needs: handler, barrier, count of refusals, exit status.
func TestBarrierBeforeExitStatus(t *testing.T) {
	release := make(chan struct{})
	s := start(t, func(_ context.Context, s *session.Session) error {
		for range 7 {
			s.Refused(errors.New("no"))
		}
		return nil
	}, func(_ *sshd.Config, a *access) {
		a.close = func(context.Context) error { <-release; return nil }
	})
	ses, err := s.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	ses.Stderr = &stderr
	if err := ses.Start("x"); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- ses.Wait() }()
	select {
	case <-ended:
		t.Error("exit status before the barrier")
	case <-time.After(200 * time.Millisecond):
	}
	close(release)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := stderr.String(); strings.Count(got, "refused: no") != 5 || !strings.Contains(got, "2 more refused") {
		t.Errorf("stderr %q", got)
	}
	eventually(t, "the session's line", func() bool { return len(s.log.lines(t, "session")) == 1 })
	l := s.log.lines(t, "session")[0]
	for k, want := range map[string]any{"tenant": "acme", "key": "key-of-acme", "proto": "exec", "refusals": 7.0, "exit": 0.0, "level": "INFO"} {
		if l[k] != want {
			t.Errorf("log: %s is %v, want %v", k, l[k], want)
		}
	}
	if l["remote"] == nil || l["duration"] == nil || len(l["session"].(string)) != 12 {
		t.Errorf("log: %v", l)
	}
}

// A panic ends its session with status 1; the connection's other session and the server go on.
func TestPanicEndsOneSession(t *testing.T) {
	s := start(t, func(ctx context.Context, s *session.Session) error {
		if s.Command == "panic" {
			panic("boom\nforged line")
		}
		return echo(ctx, s)
	})
	c := s.dial()
	other, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := other.StdinPipe()
	out, _ := other.StdoutPipe()
	if err := other.Start("cat"); err != nil {
		t.Fatal(err)
	}
	_, stderr, code := run(t, c, "panic", "")
	if code != 1 || !strings.Contains(stderr, "internal error") || strings.Contains(stderr, "boom") {
		t.Errorf("status %d, stderr %q", code, stderr)
	}
	io.WriteString(in, "still here")
	in.Close()
	if b, err := io.ReadAll(out); string(b) != "still here" || err != nil {
		t.Errorf("other session: %q, %v", b, err)
	}
	if err := other.Wait(); err != nil {
		t.Error(err)
	}
	if got := s.Stats().Panics; got != 1 {
		t.Errorf("%d panics counted", got)
	}
	if s.access.closed != 2 {
		t.Errorf("%d FS closed, want 2: also the one of the panic", s.access.closed)
	}
}

func TestPanicInOpenAndClose(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) {
		a.open = func(context.Context, appendonly.Who) error { panic("open") }
	})
	c := s.dial()
	if _, _, code := run(t, c, "x", ""); code != 1 {
		t.Errorf("panic in Open: status %d", code)
	}
	s.access.open = nil
	s.access.close = func(context.Context) error { panic("close") }
	if _, _, code := run(t, c, "x", ""); code != 1 {
		t.Errorf("panic in close: status %d", code)
	}
}

func TestSessionValue(t *testing.T) {
	got := make(chan *session.Session, 10)
	s := start(t, func(_ context.Context, s *session.Session) error { got <- s; return nil })
	c := s.dial()
	for _, want := range []struct{ proto, command string }{{"exec", "do 'this'"}, {"shell", ""}, {"sftp", ""}} {
		ses, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		switch want.proto {
		case "exec":
			err = ses.Start(want.command)
		case "shell":
			err = ses.Shell()
		case "sftp":
			err = ses.RequestSubsystem("sftp")
		}
		if err != nil {
			t.Fatal(err)
		}
		v := <-got
		who := s.access.whos[len(s.access.whos)-1]
		if v.Command != want.command || v.Tenant != "acme" || v.FS == nil || len(v.ID) != 12 ||
			who.Protocol != want.proto || who.Session != v.ID || !strings.HasPrefix(who.Remote, "127.0.0.1:") {
			t.Errorf("%s: session %+v of %+v", want.proto, v, who)
		}
		ses.Close()
	}
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if ses.RequestSubsystem("netconf") == nil {
		t.Error("unknown subsystem accepted")
	}
	// The channel is still good for something that exists, but only for one.
	if err := ses.RequestSubsystem("sftp"); err != nil {
		t.Error("sftp after an unknown subsystem: ", err)
	}
	if ok, _ := ses.SendRequest("exec", true, gossh.Marshal(struct{ C string }{"x"})); ok {
		t.Error("a second program on one channel")
	}
}

// Only LANG and LC_* get in, few and short.
func TestEnvironment(t *testing.T) {
	got := make(chan []string, 1)
	s := start(t, func(_ context.Context, s *session.Session) error { got <- s.Env; return nil })
	ses, err := s.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, value string
		want        bool
	}{
		{"LANG", "de_DE.UTF-8", true}, {"LC_ALL", "C", true},
		{"PATH", "/tmp", false}, {"LD_PRELOAD", "x", false}, {"LANGUAGE", "x", false}, {"LC_x=LD_PRELOAD", "x", false},
		{"LC_LONG", strings.Repeat("x", 257), false}, {"LC_" + strings.Repeat("X", 62), "x", false}, {"LC_NL", "a\nb", false},
	} {
		if err := ses.Setenv(tt.name, tt.value); (err == nil) != tt.want {
			t.Errorf("%s=%q: %v, want %v", tt.name, tt.value, err, tt.want)
		}
	}
	refused := 0
	for range sshd.MaxEnv {
		if ses.Setenv("LC_MANY", "x") != nil {
			refused++
		}
	}
	if refused != 2 {
		t.Errorf("%d of %d more refused, want 2", refused, sshd.MaxEnv)
	}
	if err := ses.Run("x"); err != nil {
		t.Fatal(err)
	}
	if env := <-got; !slices.Equal(env[:2], []string{"LANG=de_DE.UTF-8", "LC_ALL=C"}) || len(env) != sshd.MaxEnv {
		t.Errorf("environment %q", env)
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	s := start(t, nil)
	c := s.dial()
	ch, reqs, err := c.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go gossh.DiscardRequests(reqs)
	for _, tt := range []struct {
		typ     string
		payload []byte
	}{
		{"exec", nil}, {"exec", []byte{0xff, 0xff, 0xff, 0xff, 'x'}}, {"env", []byte{0, 0, 0}}, {"subsystem", []byte{1}},
		{"shell", []byte("x")}, {"exec", gossh.Marshal(struct{ C string }{strings.Repeat("x", 65<<10)})},
		{"x11-req", nil}, {"auth-agent-req@openssh.com", nil}, {"window-change", nil}, {"break", nil}, {"", nil},
	} {
		if ok, err := ch.SendRequest(tt.typ, true, tt.payload); ok || err != nil {
			t.Errorf("%s: accepted %v, %v", tt.typ, ok, err)
		}
	}
	if ok, _ := ch.SendRequest("keepalive@openssh.com", true, nil); !ok {
		t.Error("keepalive on a channel not answered")
	}
	ch.Close()
	for _, typ := range []string{"direct-tcpip", "direct-streamlocal@openssh.com", "x11", "auth-agent@openssh.com", "tun@openssh.com"} {
		if _, _, err := c.OpenChannel(typ, nil); err == nil {
			t.Errorf("channel %s accepted", typ)
		}
	}
	for _, typ := range []string{"tcpip-forward", "streamlocal-forward@openssh.com"} {
		if ok, _, err := c.SendRequest(typ, true, gossh.Marshal(struct {
			A string
			P uint32
		}{"127.0.0.1", 0})); ok || err != nil {
			t.Errorf("%s: accepted %v, %v", typ, ok, err)
		}
	}
	if ok, _, err := c.SendRequest("keepalive@openssh.com", true, nil); !ok || err != nil {
		t.Errorf("keepalive: %v, %v", ok, err)
	}
}

// A handler must be able to tell a finished dump from one that was cut.
func TestEndOfStdin(t *testing.T) {
	type end struct {
		n   int64
		err error
		ctx error
	}
	ends := make(chan end, 20) // a client that is interrupted at once may be gone before its session begins
	s := start(t, func(ctx context.Context, s *session.Session) error {
		n, err := io.Copy(io.Discard, s.Stdin)
		if err != nil {
			<-ctx.Done() // a lost connection cancels
		}
		ends <- end{n, err, ctx.Err()}
		return err
	})
	data := bytes.Repeat([]byte("x"), 300_000)
	begin := func() (*gossh.Client, *gossh.Session, io.WriteCloser) {
		c := s.dial()
		ses, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		in, _ := ses.StdinPipe()
		if err := ses.Start("put"); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write(data); err != nil {
			t.Fatal(err)
		}
		return c, ses, in
	}
	t.Run("said by the client", func(t *testing.T) {
		for range 20 {
			c, ses, in := begin()
			in.Close()
			if err := ses.Wait(); err != nil {
				t.Error(err)
			}
			if e := <-ends; e.err != nil || e.n != int64(len(data)) || e.ctx != nil {
				t.Fatalf("%+v, want a clean end", e)
			}
			c.Close()
		}
	})
	t.Run("connection cut", func(t *testing.T) {
		for range 20 {
			c, _, _ := begin()
			c.Close()
			if e := <-ends; !errors.Is(e.err, io.ErrUnexpectedEOF) {
				t.Fatalf("%+v, want an unexpected EOF", e)
			}
		}
	})
	// The real client sends a disconnect message when it is interrupted.
	t.Run("ssh interrupted", func(t *testing.T) {
		for range 10 {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			cmd := s.openssh(t.Context(), "127.0.0.1", "put")
			cmd.Stdin = r
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			r.Close()
			w.Write(data)
			cmd.Process.Signal(syscall.SIGINT)
			cmd.Wait()
			w.Close()
			eventually(t, "sessions to end", func() bool { return s.Stats().Connections == 0 && s.Stats().Sessions == 0 })
			select {
			case e := <-ends:
				if !errors.Is(e.err, io.ErrUnexpectedEOF) {
					t.Fatalf("%+v, want an unexpected EOF", e)
				}
			default: // interrupted before the session began
			}
		}
	})
}

// The barrier is made although the connection is gone, with a ctx that still lives.
func TestLostConnectionStillCloses(t *testing.T) {
	closed := make(chan error, 1)
	s := start(t, nil, func(_ *sshd.Config, a *access) {
		a.close = func(ctx context.Context) error { closed <- ctx.Err(); return nil }
	})
	c := s.dial()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := ses.Start("hang"); err != nil {
		t.Fatal(err)
	}
	c.Close()
	select {
	case err := <-closed:
		if err != nil {
			t.Error("closed with a dead ctx: ", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a lost connection did not end the session")
	}
	eventually(t, "the session's line", func() bool { return len(s.log.lines(t, "session")) == 1 })
	if l := s.log.lines(t, "session")[0]; l["error"] != "connection lost" || l["exit"] != 1.0 {
		t.Errorf("log %v", l)
	}
}

// Writers on stderr may be many; x/crypto shares a packet among them.
func TestStderrIsShared(t *testing.T) {
	s := start(t, func(_ context.Context, s *session.Session) error {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 50 {
					io.WriteString(s.Stderr, "0123456789\n")
				}
			})
		}
		wg.Wait()
		return nil
	})
	_, stderr, _ := run(t, s.dial(), "x", "")
	if stderr != strings.Repeat("0123456789\n", 400) {
		t.Error("lines mixed up")
	}
}

func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain ü":                "plain ü",
		"a\nb\r\x1b[1m\x7f":      "a?b??[1m?",
		"\u202eevil\u2066":       "?evil?",
		"\x9b\xff\u009b":         "??",
		strings.Repeat("ü", 300): strings.Repeat("ü", 200) + "…",
	} {
		if got := sshd.OneLine(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
