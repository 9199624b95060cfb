package sshd_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// Storage that hangs: wherever a session waits for it (opening, at work, in its last barrier), its client is told and let go; who comes after is
// told, and touches nothing. What hung is counted until it goes on.
func TestAbandon(t *testing.T) {
	hang := make(chan struct{})
	at := make(chan string, 3)
	s := start(t, func(_ context.Context, s *session.Session) error {
		if s.Command == "serve" {
			at <- s.Command
			<-hang
		}
		return nil
	})
	opened := 0
	s.access.open = func(_ context.Context, who appendonly.Who) error {
		opened++ // sessions are begun one after the other here
		if opened == 1 {
			at <- "open"
			<-hang
		}
		return nil
	}
	s.access.close = func(context.Context) error {
		at <- "close"
		<-hang
		return nil
	}
	type client struct {
		what   string
		ses    *gossh.Session
		stderr *strings.Builder
	}
	var clients []client
	c := s.dial()
	for _, what := range []string{"open", "serve", "close"} {
		ses, err := c.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		x := client{what, ses, &strings.Builder{}}
		ses.Stderr = x.stderr
		if err := ses.Start(what); err != nil {
			t.Fatal(err)
		}
		if got := <-at; got != what {
			t.Fatalf("hangs in %s, want %s", got, what)
		}
		clients = append(clients, x)
	}
	s.Abandon()
	ended := func(what string, err error, stderr, words string) {
		t.Helper()
		var exit *gossh.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 75 || strings.Count(stderr, "vaultd: error: "+words) != 1 {
			t.Errorf("%s: %v, %q", what, err, stderr)
		}
	}
	for _, x := range clients {
		ended(x.what, x.ses.Wait(), x.stderr.String(), "storage does not answer: take nothing of this upload as stored, and try again later\r\n")
	}
	if n := s.Stats().Abandoned; n != 3 {
		t.Errorf("%d sessions are counted as abandoned, want 3", n)
	}
	later, err := s.dial().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	later.Stderr = &stderr
	ended("later", later.Run("x"), stderr.String(), "storage is not available; nothing of this session is stored; try again later\r\n")
	if opened != 3 {
		t.Errorf("%d sessions were opened, want 3: one came after storage was gone", opened)
	}
	go func() { // of the session in Serve, whose close comes now
		for range at {
		}
	}()
	close(hang)
	eventually(t, "what hung to go on", func() bool { return s.Stats().Abandoned == 0 && s.Stats().Sessions == 0 })
	s.stop()
	s.wait()
	close(at)
}

// A tenant whose storage is not there is told so, in one line, and with the status that means: later.
func TestUnavailable(t *testing.T) {
	for _, x := range []struct {
		err  error
		text string
	}{
		{fmt.Errorf("%w: dataset tank/secret is not mounted", sshd.ErrUnavailable), "storage is not available; nothing of this session is stored; try again later"},
		{fmt.Errorf("open: %w", &sshd.UnavailableError{Text: "the vault is locked\n\x1b[2J", Why: "key of tank/secret is not loaded"}), "the vault is locked??[2J"},
	} {
		s := start(t, nil)
		s.access.open = func(context.Context, appendonly.Who) error { return x.err }
		ses, err := s.dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		ses.Stderr = &stderr
		var exit *gossh.ExitError
		if err := ses.Run("x"); !errors.As(err, &exit) || exit.ExitStatus() != 75 || stderr.String() != "vaultd: error: "+x.text+"\r\n" {
			t.Errorf("%v, %q", err, stderr.String())
		}
		s.stop()
		s.wait()
	}
}
