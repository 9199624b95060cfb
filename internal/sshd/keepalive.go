package sshd

import (
	"context"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// tend looks after the connections that are logged in, until ctx ends: one goroutine for all, so that an idle
// connection costs no timer. Times are kept to within a quarter of the shortest.
func (s *Server) tend(ctx context.Context) {
	tick := time.NewTimer(s.tendEvery())
	defer tick.Stop()
	for ; ; tick.Reset(s.tendEvery()) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		type entry struct {
			c        *conn
			sessions int
		}
		var conns []entry
		s.mu.Lock()
		for c := range s.conns {
			if c.login != nil && c.ending == nil {
				conns = append(conns, entry{c, c.sessions})
			}
		}
		s.mu.Unlock()
		for _, e := range conns {
			s.look(e.c, e.sessions)
		}
	}
}

// tendEvery is the time between two looks, by the limits as they are now.
func (s *Server) tendEvery() time.Duration {
	l, every := s.limits(), 15*time.Second
	for _, d := range []time.Duration{l.KeepAlive, l.Idle, l.SessionIdle} {
		if d > 0 {
			every = min(every, max(d/4, 5*time.Millisecond))
		}
	}
	return every
}

// look cuts c when the client is dead, ends it when it is idle, and asks for a sign of life when it is silent.
// Any byte counts as one, so that a slow download is not cut because the answer queues behind it.
func (s *Server) look(c *conn, sessions int) {
	l, now := s.limits(), s.now()
	silent := time.Duration(now - c.lastRead.Load())
	if l.KeepAlive > 0 && l.KeepAliveMissed > 0 && silent >= l.KeepAlive*time.Duration(l.KeepAliveMissed) {
		s.stats.dead.Add(1)
		c.cancel(errDead)
		c.Close()
		return
	}
	limit := l.Idle
	if sessions > 0 {
		limit = l.SessionIdle
	}
	if limit > 0 && time.Duration(now-c.lastUse.Load()) >= limit {
		s.end(c, errIdle, endGrace)
		return
	}
	if l.KeepAlive > 0 && silent >= l.KeepAlive {
		c.ping()
	}
}

// ping asks for an answer, unless one is owed. The goroutine ends with the answer or the connection.
func (c *conn) ping() {
	sc := c.peer()
	if sc == nil || !c.pinging.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer c.pinging.Store(false)
		sc.SendRequest("keepalive@openssh.com", true, nil) // an error is a lost connection, seen by Read
	}()
}

// globalRequest answers the client's requests that belong to no channel. All forwarding is among those
// that are answered with a failure.
func globalRequest(ok bool) ssh.RequestHandler {
	return func(ctx ssh.Context, _ *ssh.Server, _ *gossh.Request) (bool, []byte) {
		connOf(ctx).use()
		return ok, nil
	}
}
