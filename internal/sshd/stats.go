package sshd

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"
)

// Stats are numbers since New, or now where they say so.
type Stats struct {
	PreAuth     int              // connections that have not logged in, now
	Connections int              // connections that have, now
	Sessions    int64            // running, now
	Total       int64            // sessions that were started
	Panics      int64            // recovered
	Dead        int64            // connections cut for want of a sign of life
	Abandoned   int64            // sessions that were ended for their clients and still wait for storage, now
	Failures    map[string]int64 // connections that ended without a login, by reason
}

// Reasons why a connection ended without a login. They are labels: a fixed set.
const (
	failKey      = iota // offered keys that nobody knows, or none
	failRefused         // proved a key that was not let in
	failGrace           // took too long
	failProtocol        // no agreement on algorithms, or not SSH at all
	failLimited         // closed at accept
	failUser            // named a user that nobody is
	numFails
)

var failNames = [numFails]string{"unknown_key", "refused", "grace", "protocol", "rate_limited", "unknown_user"}

type counters struct {
	sessions, total, panics, dead, abandoned atomic.Int64
	fails                                    [numFails]atomic.Int64
}

// Stats returns the numbers for metrics.
func (s *Server) Stats() Stats {
	st := Stats{Sessions: s.stats.sessions.Load(), Total: s.stats.total.Load(), Panics: s.stats.panics.Load(),
		Dead: s.stats.dead.Load(), Abandoned: s.stats.abandoned.Load(), Failures: make(map[string]int64, numFails)}
	for i, n := range failNames {
		st.Failures[n] = s.stats.fails[i].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.PreAuth = s.pre[0] + s.pre[1]
	st.Connections = len(s.conns) - st.PreAuth
	return st
}

// handshakeFailed is gliderlabs' ConnectionFailedCallback. It is given a wrapper that hides the conn, and finds
// it through the address.
func (s *Server) handshakeFailed(nc net.Conn, err error) {
	if a, ok := nc.RemoteAddr().(clientAddr); ok {
		a.conn.failure = err
	}
}

// report counts and logs a connection that ended without a login.
func (s *Server) report(c *conn) {
	s.mu.Lock()
	in, late, pushed := c.login != nil, c.late, c.pushed
	s.mu.Unlock()
	if in {
		return
	}
	reason := failProtocol
	var auth *gossh.ServerAuthError
	cost := costProtocol
	switch {
	case pushed:
		reason, cost = failLimited, 0
	case late:
		reason, cost = failGrace, costGrace
	case c.refused != nil:
		reason, cost = failRefused, costAuth
	case c.tries > 0 || errors.As(c.failure, &auth):
		reason, cost = failKey, costAuth
		switch c.reason {
		case "", "unknown_key":
		case "unknown_user":
			reason = failUser
		default: // a key that somebody has, or had
			reason = failRefused
		}
	}
	s.stats.fails[reason].Add(1)
	if errors.Is(context.Cause(c.ctx), errDraining) {
		cost = 0
	}
	banned := s.gate.failed(c.key, cost)
	attrs := []slog.Attr{slog.String("remote", c.remote.String()), slog.String("reason", failNames[reason])}
	if c.meta != nil {
		attrs = append(attrs, slog.String("user", oneLine(clip(c.meta.User(), 64))), slog.Int("tries", c.tries))
	}
	if c.lastKey != "" {
		attrs = append(attrs, slog.String("offered", c.lastKey))
	}
	if len(c.why) > 0 {
		attrs = append(attrs, slog.String("why", strings.Join(c.why, "; ")))
	}
	if err := errors.Join(c.refused, c.failure); err != nil {
		attrs = append(attrs, slog.String("error", oneLine(err.Error())))
	}
	if banned > 0 {
		attrs = append(attrs, slog.Duration("banned_for", banned))
	}
	s.logFailure("login failed", func() []slog.Attr { return attrs })
}

// clip cuts s to at most n bytes.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

// logFailure logs at INFO, bounded in rate: strangers decide how often it is called. attrs is called for what is logged.
func (s *Server) logFailure(msg string, attrs func() []slog.Attr) {
	ok, dropped := s.fails.allow()
	if !ok {
		return
	}
	list := attrs()
	if dropped > 0 {
		list = append(list, slog.Int("lines_dropped_before", dropped))
	}
	s.log.LogAttrs(context.Background(), slog.LevelInfo, msg, list...)
}

// lineLimit is a token bucket that counts what it refused.
type lineLimit struct {
	now   func() time.Time
	burst int
	every time.Duration // one more token

	mu      sync.Mutex // guards what follows
	tokens  int
	last    time.Time
	dropped int
}

func (l *lineLimit) init(now func() time.Time, burst int, every time.Duration) {
	l.now, l.burst, l.every, l.tokens, l.last = now, burst, every, burst, now()
}

// allow takes a token and returns how many calls were refused since the last that was not.
func (l *lineLimit) allow() (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	if n := int(now.Sub(l.last) / l.every); n > 0 {
		l.tokens = min(l.burst, l.tokens+n)
		l.last = l.last.Add(time.Duration(n) * l.every)
	}
	if l.tokens == 0 {
		l.dropped++
		return false, 0
	}
	l.tokens--
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
