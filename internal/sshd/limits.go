package sshd

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Limits bound what strangers and tenants can hold. Zero means the default, negative means no limit.
// None is security against a thief of a key: they keep one address or tenant from starving the others.
type Limits struct {
	// LoginGrace is how long a connection may exist before its login, from accept. Default 30 s.
	LoginGrace time.Duration
	// MaxAuthTries is how many failed attempts a connection may make. Default 6.
	MaxAuthTries int
	// PreAuthPerAddress and PreAuthTotal bound connections that have not logged in, handshakes
	// included; an IPv6 address counts as its /64. Excess is closed before key exchange, unless one that was
	// accepted 2 s before can be closed for it. PreAuthTotal is for the addresses where a key was proved within Trust and for all
	// others apart. Default 20 (rclone opens 16 at once) and 100.
	PreAuthPerAddress, PreAuthTotal int
	// PreAuthRate is how many connections a second are taken from the others, with a burst of PreAuthTotal. Default 30.
	PreAuthRate int
	// BanMax is how long an address is refused at most after failed logins: see gate. Default 10 min.
	BanMax time.Duration
	// Trust is how long an address counts as one where a key was proved. Default 30 days.
	Trust time.Duration
	// ConnsPerTenant bounds connections that are logged in. Default 128.
	ConnsPerTenant int
	// SessionsPerConn and SessionsPerTenant bound open channels. Default 64 and 256.
	SessionsPerConn, SessionsPerTenant int
	// KeepAlive is the silence after which the client is asked for a sign of life; after
	// KeepAliveMissed such times without a byte from it the connection is cut. Default 30 s and 4.
	KeepAlive       time.Duration
	KeepAliveMissed int
	// Idle ends a connection without sessions, SessionIdle one with sessions, on which nothing
	// happened: no session byte either way, no request of the client (its own keepalives are
	// requests). A backup of unchanged data can be silent for hours. Default 1 h and 24 h.
	Idle, SessionIdle time.Duration
	// StopGrace is how long sessions may go on when the server stops: nobody is told, no new ones begin, and connections are closed
	// after their last one. Default none.
	StopGrace time.Duration
	// Drain is how long sessions get to end once they are told to, when the server stops. Default 20 s.
	Drain time.Duration
}

func (l Limits) withDefaults() Limits {
	fill(&l.LoginGrace, 30*time.Second)
	fill(&l.MaxAuthTries, 6)
	fill(&l.PreAuthPerAddress, 20)
	fill(&l.PreAuthTotal, 100)
	fill(&l.PreAuthRate, 30)
	fill(&l.BanMax, 10*time.Minute)
	fill(&l.Trust, 30*24*time.Hour)
	fill(&l.ConnsPerTenant, 128)
	fill(&l.SessionsPerConn, 64)
	fill(&l.SessionsPerTenant, 256)
	fill(&l.KeepAlive, 30*time.Second)
	fill(&l.KeepAliveMissed, 4)
	fill(&l.Idle, time.Hour)
	fill(&l.SessionIdle, 24*time.Hour)
	fill(&l.Drain, 20*time.Second)
	l.Drain, l.StopGrace = max(l.Drain, 0), max(l.StopGrace, 0)
	return l
}

func fill[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

// over reports whether n things are more than limit allows.
func over(n, limit int) bool { return limit >= 0 && n > limit }

var (
	errTotal   = errors.New("too many connections before login")
	errAddress = errors.New("too many connections before login from this address")
)

// addrKey is what PreAuthPerAddress counts by: an IPv4 address, an IPv6 /64; the zero Prefix for
// what is not IP.
func addrKey(a netip.Addr) netip.Prefix {
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.WithZone("").Prefix(bits)
	return p
}

// admit counts a new connection in, or says why not. The login grace begins here. Most of what it is asked in a
// flood it refuses: until it is sure it makes nothing.
func (s *Server) admit(nc net.Conn) (*conn, error) {
	key := addrKey(remoteOf(nc).Addr())
	whose, err := s.gate.admit(key)
	if err != nil {
		return nil, err
	}
	c, pushed, err := s.place(nc, key, whose)
	if pushed != nil {
		pushed.Close()
	}
	return c, err
}

// pushAfter is how long a connection may take to log in when others wait for its place.
const pushAfter = 2 * time.Second

// place finds a place for a connection, where need be that of one which is to be closed for it.
func (s *Server) place(nc net.Conn, key netip.Prefix, whose string) (c, pushed *conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full, from := error(nil), netip.Prefix{}
	switch {
	case s.draining:
		return nil, nil, errDraining
	case over(s.preAddr[key]+1, s.limits().PreAuthPerAddress):
		full, from = errAddress, key
	case over(s.pre[index(whose)]+1, s.limits().PreAuthTotal):
		full = errTotal
	}
	if full != nil {
		if pushed = s.longest(whose, from); pushed == nil {
			return nil, nil, full
		}
		pushed.pushed = true
	}
	c = newConn(s, nc)
	c.whose = whose
	s.pre[index(whose)]++
	s.preAddr[key]++
	s.waiting[c] = struct{}{}
	s.active++
	s.conns[c] = struct{}{}
	if d := s.limits().LoginGrace; d >= 0 {
		// A timer and not a deadline: gliderlabs resets deadlines at every read and write.
		c.grace = time.AfterFunc(d, func() { s.graceOver(c) })
	}
	return c, pushed, nil
}

// index is where places of known addresses, and of others, are counted.
func index(whose string) int {
	if whose != "" {
		return 1
	}
	return 0
}

// longest finds the connection that has been waiting for its login for longest, and long enough, of those with places of the
// same sort, from one address if from is valid; nil if there is none. A tenant whose addresses have more than half of
// the places gives way to others at once. s.mu is held.
func (s *Server) longest(whose string, from netip.Prefix) *conn {
	oldest := map[string]*conn{} // by tenant
	count := map[string]int{}
	var found *conn
	for c := range s.waiting {
		if index(c.whose) != index(whose) || c.pushed || from.IsValid() && c.key != from {
			continue
		}
		count[c.whose]++
		if o := oldest[c.whose]; o == nil || c.born < o.born {
			oldest[c.whose] = c
		}
		if found == nil || c.born < found.born {
			found = c
		}
	}
	for t, n := range count {
		if t != whose && !from.IsValid() && n > s.cfg.Limits.PreAuthTotal/2 {
			return oldest[t]
		}
	}
	if found == nil || s.now()-found.born < int64(pushAfter) {
		return nil
	}
	return found
}

// graceOver closes a connection that has not logged in in time.
func (s *Server) graceOver(c *conn) {
	s.mu.Lock()
	late := c.login == nil
	c.late = late
	s.mu.Unlock()
	if late {
		c.Close()
	}
}

// enter turns a connection into one of a tenant's. It is the only place that sets c.login.
func (s *Server) enter(c *conn, l *Login) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining || c.gone || c.late {
		return errDraining
	}
	u := s.tenants[l.Tenant]
	if u == nil {
		u = &usage{}
		s.tenants[l.Tenant] = u
	}
	if limit := s.limits().ConnsPerTenant; over(u.conns+1, limit) {
		return &RefusedError{Why: fmt.Sprintf("too many connections of this tenant (limit %d)", limit)}
	}
	u.conns++
	s.leavePre(c)
	c.login = l
	return nil
}

// leavePre uncounts a connection that waited for its login. s.mu is held.
func (s *Server) leavePre(c *conn) {
	s.pre[index(c.whose)]--
	delete(s.waiting, c)
	if s.preAddr[c.key]--; s.preAddr[c.key] == 0 {
		delete(s.preAddr, c.key)
	}
}

// closed uncounts c; conn.Close calls it once.
func (s *Server) closed(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.gone = true
	if c.cut != nil {
		c.cut.Stop()
	}
	delete(s.conns, c)
	if c.login == nil {
		s.leavePre(c)
		return
	}
	s.tenants[c.login.Tenant].conns--
	s.forget(c.login.Tenant)
}

// forget drops a tenant's counts when there is nothing left to count. s.mu is held.
func (s *Server) forget(tenant string) {
	if u := s.tenants[tenant]; u != nil && *u == (usage{}) {
		delete(s.tenants, tenant)
	}
}

// openSession counts a channel in, or says why not. closeSession must follow.
func (s *Server) openSession(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.limits()
	u := s.tenants[c.login.Tenant]
	switch {
	case c.ending != nil:
		return c.ending
	case c.gone || u == nil:
		return net.ErrClosed
	case over(c.sessions+1, l.SessionsPerConn):
		return fmt.Errorf("too many sessions on this connection (limit %d)", l.SessionsPerConn)
	case over(u.sessions+1, l.SessionsPerTenant):
		return fmt.Errorf("too many sessions of this tenant (limit %d)", l.SessionsPerTenant)
	}
	c.sessions++
	u.sessions++
	s.active++
	return nil
}

// closeSession uncounts a channel. The last one of a connection that is to end closes it.
func (s *Server) closeSession(c *conn) {
	s.mu.Lock()
	c.sessions--
	s.tenants[c.login.Tenant].sessions--
	s.forget(c.login.Tenant)
	last := c.ending != nil && c.sessions == 0
	s.mu.Unlock()
	if last {
		c.Close()
	}
	s.done()
}
