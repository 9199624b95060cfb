package sshd_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/sshd"
)

// ban fails until the address is banned and returns for how long.
func ban(t *testing.T, g *sshd.Gate, a string) time.Duration {
	t.Helper()
	for range 10 {
		if d := g.Failed(a); d > 0 {
			return d
		}
	}
	t.Fatalf("%s is not banned after 10 failures", a)
	return 0
}

// Bans grow, end, and are forgotten with time; failures that are far apart ban nobody.
func TestBansGrowAndDecay(t *testing.T) {
	g := sshd.NewGate(sshd.Limits{})
	const a = "192.0.2.1"
	for _, want := range []time.Duration{15, 30, 60, 120, 240, 480, 600, 600} {
		if d := ban(t, g, a); d != want*time.Second {
			t.Fatalf("banned for %v, want %vs", d, want)
		}
		if _, err := g.Admit(a); err == nil {
			t.Fatal("admitted while banned")
		}
		if d := g.Failed(a); d != 0 { // of the same burst
			t.Fatalf("a ban was lengthened to %v", d)
		}
		g.Add(want*time.Second - 1)
		if _, err := g.Admit(a); err == nil {
			t.Fatal("admitted too early")
		}
		g.Add(1)
		if _, err := g.Admit(a); err != nil {
			t.Fatal(err)
		}
	}
	g.Add(3*time.Hour + time.Minute)
	if d := ban(t, g, a); d != 480*time.Second { // 8 bans, 3 forgotten
		t.Errorf("after three quiet hours banned for %v", d)
	}
	g.Add(24 * time.Hour)
	for range 100 {
		g.Add(6 * time.Second)
		if d := g.Failed(a); d != 0 {
			t.Fatal("banned for failures that had passed")
		}
	}
}

// Who logged in is exempt, whatever others fail behind the same address, until trust ends; an IPv6 /64 is one address.
func TestKnownAddressesAreNotBanned(t *testing.T) {
	g := sshd.NewGate(sshd.Limits{PreAuthRate: 1, PreAuthTotal: 5})
	for _, a := range []string{"192.0.2.7", "2001:db8:1:2::7"} {
		if ban(t, g, a) == 0 {
			t.Fatal()
		}
		g.Verified(a, "acme") // it was let in: its connection was there before
		for range 1000 {
			if d := g.Failed(a); d != 0 {
				t.Fatal("a known address was banned")
			}
			if known, err := g.Admit(a); !known || err != nil {
				t.Fatal(known, err)
			}
		}
	}
	if known, err := g.Admit("2001:db8:1:2:ffff::1"); !known || err != nil {
		t.Error("the same /64: ", known, err)
	}
	if known, _ := g.Admit("2001:db8:1:3::7"); known {
		t.Error("another /64 is known")
	}
	g.Add(31 * 24 * time.Hour)
	if known, _ := g.Admit("192.0.2.7"); known {
		t.Error("known for ever")
	}
	ban(t, g, "192.0.2.7")
}

// Strangers share a rate; those who are known do not feel it.
func TestStrangersShareARate(t *testing.T) {
	g := sshd.NewGate(sshd.Limits{PreAuthRate: 10, PreAuthTotal: 20})
	g.Verified("192.0.2.7", "acme")
	in := 0
	for i := range 1000 { // one second
		if _, err := g.Admit(fmt.Sprintf("127.0.%d.%d", i/250, i%250)); err == nil {
			in++
		}
		if _, err := g.Admit("192.0.2.7"); err != nil {
			t.Fatal(err)
		}
		g.Add(time.Millisecond)
	}
	if in < 29 || in > 30 {
		t.Errorf("%d strangers were let through in a second", in)
	}
}

// With as many addresses as anybody can have, an attacker neither erases bans nor fills the tables against others.
func TestGateIsBounded(t *testing.T) {
	g := sshd.NewGate(sshd.Limits{PreAuthRate: -1})
	for range 4 {
		ban(t, g, "198.51.100.1")
		g.Add(time.Hour / 2)
	}
	ban(t, g, "198.51.100.1")
	g.Verified("192.0.2.7", "victim")
	for i := range 60_000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}).String()
		g.Failed(a)
		six := fmt.Sprintf("2001:db8:%x:%x::1", i>>16, i&0xffff)
		g.Failed(six)
		g.Verified(six, "mallory")
	}
	known, offenders := g.Remembered()
	if known > 1<<14 || offenders > 2<<14 {
		t.Errorf("%d known, %d offenders are remembered", known, offenders)
	}
	if known > 1200 {
		t.Errorf("one tenant has %d known addresses", known)
	}
	if k, err := g.Admit("192.0.2.7"); !k || err != nil {
		t.Error("the victim's address was pushed out: ", k, err)
	}
	if len(g.Bans()) != 1 || g.Bans()[0].Source.String() != "198.51.100.1/32" {
		t.Errorf("bans: %v", g.Bans())
	}
	if _, err := g.Admit("203.0.113.9"); err != nil { // one that nobody could remember
		t.Error(err)
	}
	if n := g.Clear("198.51.100.1"); n != 1 || len(g.Bans()) != 0 {
		t.Errorf("%d bans ended, %v are left", n, g.Bans())
	}
}

// from dials the server from an address of the loopback network.
func (s *server) from(ip string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 10 * time.Second}
	return d.Dial("tcp", s.addr)
}

// login logs in from an address.
func (s *server) login(ip string, key gossh.Signer) error {
	nc, err := s.from(ip)
	if err != nil {
		return err
	}
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	sc, chans, reqs, err := gossh.NewClientConn(nc, s.addr, s.clientConfig("acme", key))
	if err != nil {
		nc.Close()
		return err
	}
	go gossh.DiscardRequests(reqs)
	go func() {
		for range chans {
		}
	}()
	return sc.Close()
}

// A stranger who fails is banned, by its address alone: a victim's user name and public key, named by
// the attacker, do nothing to the victim. Bans can be seen and ended.
func TestBanOverTheWire(t *testing.T) {
	s := start(t, nil)
	stranger, _ := newKey(t, "ed25519")
	for range 10 {
		s.login("127.0.7.1", stranger)
	}
	if bans := s.Bans(); len(bans) != 1 || bans[0].Source.String() != "127.0.7.1/32" || bans[0].Left <= 0 {
		t.Fatalf("bans: %v", bans)
	}
	if err := s.login("127.0.7.1", s.key); err == nil {
		t.Error("let in while banned")
	}
	if n := s.Stats().Failures["unknown_key"]; n < 3 || n > 9 { // a failure is counted after its client is gone
		t.Errorf("%d failures came as far as a key", n)
	}
	if err := s.login("127.0.7.2", s.key); err != nil {
		t.Error("somebody else suffers: ", err)
	}
	if !strings.Contains(s.log.String(), `"banned_for":15000000000`) {
		t.Error("the log does not tell of the ban")
	}
	if s.ClearBans(netip.MustParseAddr("127.0.7.1")) != 1 {
		t.Error("no ban ended")
	}
	if err := s.login("127.0.7.1", s.key); err != nil {
		t.Error(err)
	}
	for range 10 { // it is known now
		s.login("127.0.7.1", stranger)
	}
	if err := s.login("127.0.7.1", s.key); err != nil || len(s.Bans()) != 0 {
		t.Error("a known address was banned: ", err)
	}
}

// Strangers that hold all places keep out neither those who are known nor, for long, each other.
func TestHeldPlaces(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Limits.PreAuthTotal = 3; c.Limits.PreAuthRate = -1 })
	if err := s.login("127.0.8.1", s.key); err != nil {
		t.Fatal(err)
	}
	var held []net.Conn
	for i := range 3 {
		nc, err := s.from(fmt.Sprintf("127.0.8.%d", 10+i))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		held = append(held, nc)
	}
	eventually(t, "the places to be taken", func() bool { return s.Stats().PreAuth == 3 })
	for range 5 {
		if err := s.login("127.0.8.1", s.key); err != nil {
			t.Fatal("a known address is kept out: ", err)
		}
	}
	eventually(t, "a place", func() bool { return s.login("127.0.8.2", s.key) == nil })
	held[0].SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.Copy(io.Discard, held[0]); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Error("the one that waited for longest was not closed: ", err)
	}
	if len(s.Bans()) != 0 {
		t.Errorf("who made room was banned: %v", s.Bans())
	}
}

// A tenant with many addresses does not keep the others out of the places for those who are known.
func TestATenantsPlaces(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, a *access) { c.Limits.PreAuthTotal = 6 })
	s.Known(netip.MustParseAddr("127.0.8.1"), "acme", 0)
	for i := range 6 {
		ip := fmt.Sprintf("127.0.8.%d", 10+i)
		s.Known(netip.MustParseAddr(ip), "greedy", time.Minute)
		nc, err := s.from(ip)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
	}
	eventually(t, "the places to be taken", func() bool { return s.Stats().PreAuth == 6 })
	for range 3 {
		if err := s.login("127.0.8.1", s.key); err != nil {
			t.Fatal(err)
		}
	}
}
