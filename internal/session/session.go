// Package session is the value that a transport hands to a protocol: one verified identity, one
// tenant's FS and the streams of one channel.
//
// A protocol package has a Server whose Serve runs one session to its end; it starts no goroutine
// that outlives Serve. When ctx is cancelled it finishes the reply in hand, aborts its open uploads and
// returns. The transport then closes the FS (which makes the barrier) and only after that sends the
// exit status.
package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"vaultd/internal/appendonly"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

// Handler serves one session.
type Handler interface {
	Serve(ctx context.Context, s *Session) error
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, s *Session) error

// Serve calls f.
func (f HandlerFunc) Serve(ctx context.Context, s *Session) error { return f(ctx, s) }

// Session is one channel of one connection.
type Session struct {
	ID      string // 12 hex digits, unique in this process; in logs and in the journal
	Tenant  string // name
	FS      *appendonly.FS
	Command string   // the exec request's line as the client sent it; "" when a shell was asked for
	Env     []string // LANG and LC_* only
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Log     *slog.Logger // carries tenant, proto, remote, session
	// Notices are what the vault's owner ought to know: what the operator is about to change. nil: nothing.
	Notices func() []string
	// OnRefused, when not nil, is told of each error that Refused is. It must not wait.
	OnRefused func(error)
	// Own is how the vault stands, as far as its owner may know; false: it is not known. nil: nobody knows.
	Own func() (inventory.Own, bool)

	mu      sync.Mutex // guards what follows
	refused int
	logged  int
	report  push.Report
}

// Report is how a protocol says what became of its session, as far as the core's counts do not show it; the last word counts. It may say
// first that the client came to store, and at the end whether all is there.
func (s *Session) Report(r push.Report) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report = r
}

// Reported returns the last Report.
func (s *Session) Reported() push.Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.report
}

// CommandError refuses a command line.
type CommandError struct {
	Command string // as it may be shown
	Why     string
}

// Error is fit for clients.
func (e *CommandError) Error() string {
	return fmt.Sprintf("exec %s: %s. See: ssh HOST help", e.Command, e.Why)
}

// ExitError ends a session with an exit status other than 0 or 1.
type ExitError struct{ Code int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Code) }

// maxRefusals is how many refusals a session spells out on stderr, and maxLogged in the log; the rest is counted.
const (
	maxRefusals = 5
	maxLogged   = 100
)

// Refused tells the person at the other end, on stderr, what was refused and what to do (clients
// like OpenSSH's sftp show a status code as two words). err's text must be fit for clients. It may be
// called by many goroutines.
func (s *Session) Refused(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused++
	if s.OnRefused != nil {
		s.OnRefused(err)
	}
	s.logRefusal(err)
	if s.refused <= maxRefusals {
		fmt.Fprintf(s.Stderr, "vaultd: refused: %v\r\n", err)
	}
}

// LogRefused writes a refusal to the log that the protocol itself tells the client.
func (s *Session) LogRefused(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logRefusal(err)
}

// logRefusal writes a warning with the promise that it keeps: what a client named is quoted, so that it stays within its field. A session that
// is refused without end does not fill the disk. mu is held.
func (s *Session) logRefusal(err error) {
	if s.logged++; s.logged > maxLogged {
		if s.logged == maxLogged+1 {
			s.Log.Warn("refused more", "error", "further refusals of this session are only counted")
		}
		return
	}
	var d *appendonly.DeniedError
	if errors.As(err, &d) {
		s.Log.Warn("refused", "op", d.Op.String(), "path", appendonly.QuotePath(d.Path), "rule", string(d.Rule), "error", err.Error())
		return
	}
	s.Log.Warn("refused", "error", err.Error())
}

// Finish writes the count of refusals that were not spelled out. The transport calls it once, after Serve.
func (s *Session) Finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.refused - maxRefusals; n > 0 {
		fmt.Fprintf(s.Stderr, "vaultd: … %d more refused\r\n", n)
	}
}

// Refusals returns how many requests were refused so far.
func (s *Session) Refusals() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}
