package sshd_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// A server that stops: no new connections, strangers and idle connections closed, sessions end with a word
// and a status, after their barrier.
func TestDrain(t *testing.T) {
	inHand := make(chan struct{})
	s := start(t, func(ctx context.Context, s *session.Session) error {
		<-ctx.Done()
		<-inHand // the request in hand
		io.WriteString(s.Stdout, "finished")
		return nil
	})
	stranger, _ := hello(t, s.addr)
	idle := s.dial()
	c := s.dial()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	ses.Stdout, ses.Stderr = &stdout, &stderr
	if err := ses.Start("x"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session", func() bool { return s.Stats().Sessions == 1 })
	s.stop()
	idle.Wait()
	if _, err := io.Copy(io.Discard, stranger); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Error(err)
	}
	if nc, err := net.Dial("tcp", s.addr); err == nil {
		nc.Close()
		t.Error("still listening")
	}
	if _, err := c.NewSession(); err == nil {
		t.Error("a new session while draining")
	}
	close(inHand)
	var exit *gossh.ExitError
	if err := ses.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 1 {
		t.Errorf("session ended with %v, want status 1: it was cut short", err)
	}
	if stdout.String() != "finished" || !strings.Contains(stderr.String(), "vaultd: session ended: the server is shutting down\r\n") {
		t.Errorf("%q, %q", stdout.String(), stderr.String())
	}
	c.Wait()
	if err := s.wait(); err != nil {
		t.Error("Serve: ", err)
	}
	if s.access.closed != 1 {
		t.Error("no barrier")
	}
}

// A handler blocked in reading does not hold up the drain: the real client gets its status.
func TestDrainOfReader(t *testing.T) {
	s := start(t, nil)
	r, w := io.Pipe()
	defer w.Close()
	cmd := s.openssh(t.Context(), "127.0.0.1", "cat")
	cmd.Stdin = r
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session", func() bool { return s.Stats().Sessions == 1 })
	begin := time.Now()
	s.stop()
	if err := s.wait(); err != nil {
		t.Error("Serve: ", err)
	}
	if d := time.Since(begin); d > 8*time.Second {
		t.Errorf("drained after %v", d)
	}
	w.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(stderr.String(), "the server is shutting down") {
		t.Errorf("status %d, %q", code, stderr.String())
	}
	if s.access.closed != 1 {
		t.Errorf("FS closed %d times", s.access.closed)
	}
}

// At the deadline what remains is cut, and Serve says so; a barrier then sees its ctx end.
func TestDrainDeadline(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, a *access) {
		c.Limits.Drain = 200 * time.Millisecond
		a.close = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	})
	c := s.dial()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := ses.Start("hang"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the session", func() bool { return s.Stats().Sessions == 1 })
	begin := time.Now()
	s.stop()
	if err := s.wait(); err == nil || !strings.Contains(err.Error(), "cut after 200ms") {
		t.Errorf("Serve: %v", err)
	}
	if d := time.Since(begin); d < 150*time.Millisecond || d > 4*time.Second {
		t.Errorf("drained after %v", d)
	}
	ses.Wait()
}

// A listener that breaks ends Serve with an error, after a drain.
func TestBrokenListener(t *testing.T) {
	host, _ := newKey(t, "ed25519")
	s, err := sshd.New(sshd.Config{HostKeys: []gossh.Signer{host}, Access: &access{t: t}, Exec: session.HandlerFunc(echo)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := s.Serve(t.Context(), l); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want %v", err, net.ErrClosed)
	}
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "serves once") {
		t.Errorf("second Serve: %v", err)
	}
}

// Sessions that go on when the server stops end as if it did not, and those that go on for longer than the grace are ended.
func TestStopGrace(t *testing.T) {
	goOn := make(chan struct{})
	s := start(t, func(ctx context.Context, s *session.Session) error {
		if s.Command == "stay" {
			<-ctx.Done()
			return ctx.Err()
		}
		select {
		case <-goOn:
		case <-ctx.Done():
			return ctx.Err()
		}
		io.WriteString(s.Stdout, "whole")
		return nil
	}, func(c *sshd.Config, _ *access) { c.Limits.StopGrace = 2 * time.Second })
	idle, busy, stays := s.dial(), s.dial(), s.dial()
	run := func(c *gossh.Client, line string) (*gossh.Session, *strings.Builder) {
		ses, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		ses.Stdout = &out
		if err := ses.Start(line); err != nil {
			t.Fatal(err)
		}
		return ses, &out
	}
	one, out := run(busy, "x")
	two, _ := run(stays, "stay")
	eventually(t, "the sessions", func() bool { return s.Stats().Sessions == 2 })
	s.stop()
	idle.Wait()
	eventually(t, "no new sessions", func() bool {
		ses, err := busy.NewSession()
		if err == nil {
			ses.Close()
		}
		return err != nil
	})
	close(goOn)
	if err := one.Wait(); err != nil || out.String() != "whole" {
		t.Errorf("what ended by itself: %v, %q", err, out)
	}
	busy.Wait() // is closed after its last session
	var exit *gossh.ExitError
	if err := two.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 1 {
		t.Errorf("what stayed ended with %v, want status 1", err)
	}
	if err := s.wait(); err != nil {
		t.Error("Serve: ", err)
	}
}
