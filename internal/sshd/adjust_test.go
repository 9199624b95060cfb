package sshd_test

import (
	"context"
	"strings"
	"testing"

	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// Limits and banner change for who comes next; who is there stays.
func TestAdjust(t *testing.T) {
	s := start(t, echo)
	first := s.dial()
	defer first.Close()
	if err := s.Adjust(sshd.Limits{ConnsPerTenant: 1}, "closed for\x1btoday"); err == nil {
		t.Error("a banner with an escape")
	}
	if err := s.Adjust(sshd.Limits{SessionsPerConn: 1, ConnsPerTenant: 1}, "hello there"); err != nil {
		t.Fatal(err)
	}
	if out, _, code := run(t, first, "x", ""); code != 0 {
		t.Errorf("a connection from before: %q, %d", out, code)
	}
	if _, stderr, code := s.ssh("", "127.0.0.1", "x"); code != 255 || !strings.Contains(stderr, "hello there") || !strings.Contains(stderr, "too many connections") {
		t.Errorf("status %d: %s", code, stderr)
	}
	first.Close()
	eventually(t, "the first connection to be gone", func() bool { return s.Stats().Connections == 0 })
	if err := s.Adjust(sshd.Limits{}, ""); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := s.ssh("", "127.0.0.1", "x"); code != 0 || strings.Contains(stderr, "hello") {
		t.Errorf("status %d: %s", code, stderr)
	}
}

// Notices come on stderr as a session begins, once for each that Notices says, and are there for the handler.
func TestNotices(t *testing.T) {
	asked := 0
	s := start(t, func(ctx context.Context, x *session.Session) error {
		_, err := x.Stdout.Write([]byte(strings.Join(x.Notices(), "|")))
		return err
	}, func(_ *sshd.Config, a *access) {
		a.notices = func(daily bool) []string {
			if asked++; daily && asked > 1 {
				return nil
			}
			return []string{"it ends", "tomorrow"}
		}
	})
	c := s.dial()
	defer c.Close()
	for i, want := range []string{"vaultd: notice: it ends\r\nvaultd: notice: tomorrow\r\n", ""} {
		if out, stderr, code := run(t, c, "x", ""); out != "it ends|tomorrow" || stderr != want || code != 0 {
			t.Errorf("session %d: %q, %q, %d", i, out, stderr, code)
		}
	}
}
