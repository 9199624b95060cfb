package session_test

import (
	"errors"
	"log/slog"
	"strings"
	"testing"

	"vaultd/internal/session"
)

// Five refusals are spelled out, the rest is counted.
func TestRefused(t *testing.T) {
	var stderr strings.Builder
	s := &session.Session{Stderr: &stderr, Log: slog.New(slog.DiscardHandler)}
	for range 7 {
		s.Refused(errors.New(`remove "/x": sealed (P2)`))
	}
	s.Finish()
	if n := strings.Count(stderr.String(), "vaultd: refused: remove"); n != 5 || s.Refusals() != 7 {
		t.Errorf("%d lines of %d refusals, want 5 of 7", n, s.Refusals())
	}
	if !strings.Contains(stderr.String(), "2 more refused") {
		t.Errorf("no count: %q", stderr.String())
	}
	if got := (&session.ExitError{Code: 77}).Error(); got != "exit status 77" {
		t.Error(got)
	}
}
