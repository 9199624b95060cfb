package sshd

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// gate decides, before a byte is exchanged, whether a connection is worth a key exchange. It knows addresses and nothing
// else: no user name and no offered key counts for anything here, as anybody can name those of others.
//
// An address (IPv4; the /64 of IPv6) where somebody proved a key that was let in, within Limits.Trust, is known. Nothing
// that fails there is held against it: behind it may be many, and one's failures lock out none of the others. It has
// places of its own, which no number of strangers takes. All other addresses are strangers': they share
// Limits.PreAuthRate, and each collects penalties, in the way of OpenSSH 9.8's PerSourcePenalties (srclimit.c): failures
// cost seconds, which pass; who has 15 of them is banned, longer each time up to Limits.BanMax, and bans are forgotten one
// by one every quiet hour.
//
// What it remembers is bounded, and what one stranger does erases nothing of another: in a full table a newcomer takes the place of
// a smaller penalty than its own or is not remembered, and then it still is a stranger. A tenant has a bounded share of the
// known addresses, so that none pushes out the others'.
type gate struct {
	rate   int           // strangers a second; negative: any
	burst  int           // of strangers
	banMax time.Duration // negative: nobody is banned
	trust  time.Duration // negative: nobody is known
	now    func() int64  // monotonic nanoseconds

	mu      sync.Mutex // guards what follows
	tokens  float64
	refill  int64
	known   map[netip.Prefix]*friend
	shares  map[string]int // of known, by tenant
	faults4 map[netip.Prefix]*offender
	faults6 map[netip.Prefix]*offender
}

// friend is an address where a key was proved.
type friend struct {
	at     int64 // when last
	tenant string
}

// offender is a stranger's address with failures.
type offender struct {
	score time.Duration // at last; it passes with time
	last  int64
	bans  int // how often it was banned; one less for every hour since
	until int64
}

// The bounds of the tables, and of a tenant's share of the known addresses.
const (
	maxKnown     = 1 << 14
	maxShare     = 1 << 10
	maxOffenders = 1 << 14 // of IPv4, and as many of IPv6
	sample       = 8       // entries that are looked at for one that makes room
)

// What failures cost, and from which sum on an address is banned: OpenSSH's numbers.
const (
	costAuth     = 5 * time.Second
	costGrace    = 10 * time.Second
	costProtocol = time.Second
	banFrom      = 15 * time.Second
	forgive      = time.Hour
)

var (
	errBanned = errors.New("banned for a while after failed logins")
	errRate   = errors.New("too many connections a second from addresses where nobody logged in")
)

func newGate(l Limits, now func() int64) *gate {
	g := &gate{now: now, known: map[netip.Prefix]*friend{}, shares: map[string]int{},
		faults4: map[netip.Prefix]*offender{}, faults6: map[netip.Prefix]*offender{}}
	g.adjust(l)
	g.tokens = float64(g.burst)
	return g
}

// adjust takes other limits over; bans that run go on.
func (g *gate) adjust(l Limits) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.rate, g.burst, g.banMax, g.trust = l.PreAuthRate, max(l.PreAuthTotal, 1), l.BanMax, l.Trust
}

// admit says whether an address may try, and whose it is: the tenant whose key was proved there, "" for a stranger's.
func (g *gate) admit(a netip.Prefix) (tenant string, err error) {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isKnown(a, now) {
		return g.known[a].tenant, nil
	}
	if o := g.faults(a)[a]; o != nil && now < o.until {
		return "", errBanned
	}
	if g.rate < 0 {
		return "", nil
	}
	g.tokens = min(float64(g.burst), g.tokens+time.Duration(now-g.refill).Seconds()*float64(g.rate))
	g.refill = now
	if g.tokens < 1 {
		return "", errRate
	}
	g.tokens--
	return "", nil
}

// isKnown reports whether a key was proved at a lately. mu is held.
func (g *gate) isKnown(a netip.Prefix, now int64) bool {
	f := g.known[a]
	return f != nil && time.Duration(now-f.at) < g.trust
}

func (g *gate) faults(a netip.Prefix) map[netip.Prefix]*offender {
	if a.Addr().Is4() {
		return g.faults4
	}
	return g.faults6
}

// verified notes that a key of a tenant was proved at a, and let in, so long ago.
func (g *gate) verified(a netip.Prefix, tenant string, ago time.Duration) {
	at := g.now() - int64(ago)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.trust < 0 || ago >= g.trust || !a.IsValid() {
		return
	}
	delete(g.faults(a), a)
	if f := g.known[a]; f != nil {
		f.at = max(f.at, at)
		return
	}
	switch {
	case g.shares[tenant] >= maxShare:
		g.forgetOldest(func(f *friend) bool { return f.tenant == tenant }, len(g.known))
	case len(g.known) >= maxKnown:
		g.forgetOldest(func(*friend) bool { return true }, sample)
	}
	g.known[a] = &friend{at, tenant}
	g.shares[tenant]++
}

// forgetOldest drops the oldest of some known addresses. mu is held.
func (g *gate) forgetOldest(of func(*friend) bool, n int) {
	var oldest netip.Prefix
	for a, f := range g.known {
		if of(f) && (!oldest.IsValid() || f.at < g.known[oldest].at) {
			oldest = a
		}
		if n--; n <= 0 {
			break
		}
	}
	if f := g.known[oldest]; f != nil {
		delete(g.known, oldest)
		if g.shares[f.tenant]--; g.shares[f.tenant] == 0 {
			delete(g.shares, f.tenant)
		}
	}
}

// failed notes that a connection from a ended without a login. It returns for how long that bans the address; 0 if not.
func (g *gate) failed(a netip.Prefix, cost time.Duration) time.Duration {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.banMax < 0 || cost == 0 || !a.IsValid() || g.isKnown(a, now) {
		return 0
	}
	o := g.offender(a, now, cost)
	if o == nil || now < o.until { // others of the same burst
		return 0
	}
	o.decay(now)
	if o.score += cost; o.score < banFrom {
		return 0
	}
	ban := min(g.banMax, banFrom<<min(o.bans, 20))
	o.bans, o.score, o.until = o.bans+1, 0, now+int64(ban)
	return ban
}

// decay lets time pass for o.
func (o *offender) decay(now int64) {
	o.score = max(0, o.score-time.Duration(now-o.last))
	if quiet := time.Duration(now - max(o.last, o.until)); quiet > forgive {
		o.bans = max(0, o.bans-int(quiet/forgive))
	}
	o.last = now
}

// weight is what is left of o's penalty.
func (o *offender) weight(now int64) time.Duration {
	if now < o.until {
		return time.Duration(o.until-now) + time.Duration(o.bans)*banFrom
	}
	return max(0, o.score-time.Duration(now-o.last)) + time.Duration(max(0, o.bans-int(time.Duration(now-o.until)/forgive)))*banFrom
}

// offender finds or makes a's entry; nil when there is no room for a penalty of that cost. mu is held.
func (g *gate) offender(a netip.Prefix, now int64, cost time.Duration) *offender {
	all := g.faults(a)
	if o := all[a]; o != nil {
		return o
	}
	if len(all) >= maxOffenders {
		least, of := cost, netip.Prefix{}
		n := sample
		for b, o := range all {
			if w := o.weight(now); w < least {
				least, of = w, b
			}
			if n--; n == 0 {
				break
			}
		}
		if !of.IsValid() {
			return nil
		}
		delete(all, of)
	}
	o := &offender{last: now}
	all[a] = o
	return o
}

// Ban is an address that is refused for a while.
type Ban struct {
	Source netip.Prefix  `json:"source"` // an IPv4 address, an IPv6 /64
	Left   time.Duration `json:"left_ns"`
	Times  int           `json:"times"` // that it was banned lately
}

// bans lists who is banned, the longest first.
func (g *gate) bans() []Ban {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	out := []Ban{}
	for _, all := range []map[netip.Prefix]*offender{g.faults4, g.faults6} {
		for a, o := range all {
			if now < o.until {
				out = append(out, Ban{a, time.Duration(o.until - now), o.bans})
			}
		}
	}
	slices.SortFunc(out, func(a, b Ban) int {
		if a.Left != b.Left {
			return int(min(max(b.Left-a.Left, -1), 1))
		}
		return a.Source.Addr().Compare(b.Source.Addr())
	})
	return out
}

// clear forgets the penalties of an address, or all of them, and returns how many bans ended.
func (g *gate) clear(of netip.Prefix) int {
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	n := 0
	for _, all := range []map[netip.Prefix]*offender{g.faults4, g.faults6} {
		for a, o := range all {
			if of.IsValid() && a != of {
				continue
			}
			if now < o.until {
				n++
			}
			delete(all, a)
		}
	}
	return n
}

// Bans lists the addresses that are banned, the longest first.
func (s *Server) Bans() []Ban { return s.gate.bans() }

// ClearBans ends the ban of an address (the zero Addr: all bans), forgets what led to it, and returns how many ended.
func (s *Server) ClearBans(a netip.Addr) int {
	if !a.IsValid() {
		return s.gate.clear(netip.Prefix{})
	}
	return s.gate.clear(addrKey(a.Unmap()))
}

// Known says that a key of a tenant was let in from an address so long ago: what an earlier process learned.
func (s *Server) Known(a netip.Addr, tenant string, ago time.Duration) {
	s.gate.verified(addrKey(a.Unmap()), tenant, ago)
}

// remoteOf is where nc comes from, without a detour through text for TCP.
func remoteOf(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	a, err := netip.ParseAddrPort(nc.RemoteAddr().String())
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// refuse closes a connection that is not worth an answer: with a reset, which leaves nothing behind in the kernel.
func refuse(nc net.Conn) {
	if t, ok := nc.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
	nc.Close()
}
