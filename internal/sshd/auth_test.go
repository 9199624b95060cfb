package sshd_test

import (
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// Without a PublicKeyHandler gliderlabs lets everybody in with "none", also when the server
// configuration has a PublicKeyCallback of its own.
func TestNoneAndPasswordNeverWork(t *testing.T) {
	s := start(t, nil)
	for name, auth := range map[string][]gossh.AuthMethod{
		"none":     nil, // x/crypto's client always begins with "none"
		"password": {gossh.Password("")},
		"keyboard": {gossh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })},
	} {
		t.Run(name, func(t *testing.T) {
			conf := s.clientConfig("acme")
			conf.Auth = auth
			c, err := gossh.Dial("tcp", s.addr, conf)
			if err == nil {
				c.Close()
				t.Fatal("logged in without a key")
			}
			if !strings.Contains(err.Error(), "unable to authenticate") {
				t.Errorf("error %v, want a failed authentication", err)
			}
		})
	}
	_, stderr, code := s.ssh("", "-oPreferredAuthentications=none,password,keyboard-interactive", "127.0.0.1", "help")
	if code != 255 || !strings.Contains(stderr, "Permission denied (publickey)") {
		t.Errorf("ssh without a key: status %d, %q", code, stderr)
	}
	if n := len(s.access.logins); n != 0 {
		t.Errorf("%d logins", n)
	}
}

// The CVE-2024-45337 class: a key that was only offered must not lend its role to the key that logs in.
// The real client offers A from its .pub file, is told that A would do, finds no private key and logs in with B.
func TestOfferedKeyIsNotTheLogin(t *testing.T) {
	victim, _ := newKey(t, "ed25519")
	fpA := gossh.FingerprintSHA256(victim.PublicKey())
	var mu sync.Mutex
	var offers []string
	s := start(t, nil, func(_ *sshd.Config, a *access) {
		a.keys["acme"][fpA] = appendonly.Full
		a.offered = func(_ string, k gossh.PublicKey, _ netip.Addr) {
			mu.Lock()
			defer mu.Unlock()
			offers = append(offers, gossh.FingerprintSHA256(k))
		}
	})
	pub := filepath.Join(s.dir, "victim")
	if err := os.WriteFile(pub+".pub", gossh.MarshalAuthorizedKey(victim.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	own := gossh.FingerprintSHA256(s.key.PublicKey())
	s.before = []string{"-oIdentityFile=" + pub} // -i would insist on the private key
	stdout, stderr, code := s.ssh("", "127.0.0.1", "hello")
	if code != 0 || stdout != "hello\n" {
		t.Fatalf("ssh: status %d, %q %q", code, stdout, stderr)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(offers) < 2 || offers[0] != fpA || !slices.Contains(offers, own) {
		t.Fatalf("offers %v: want the victim's key before ours, otherwise the test shows nothing", offers)
	}
	s.access.mu.Lock()
	defer s.access.mu.Unlock()
	if want := []string{"acme " + own}; !slices.Equal(s.access.logins, want) {
		t.Errorf("logins %v, want %v", s.access.logins, want)
	}
	if who := s.access.whos[0]; who.Role != appendonly.Push || who.Fingerprint != own {
		t.Errorf("session of %+v, want role push of %s", who, own)
	}
}

// gliderlabs remembers the first user name of a connection; a client may name another one later.
func TestOfferedSeesTheCurrentUser(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) { a.keys["bob"] = nil })
	for _, tt := range []struct {
		first, user string
		want        bool
	}{
		{"acme", "acme", true},
		{"bob", "acme", true},  // what counts is who is asked for now
		{"acme", "bob", false}, // and not who was asked for first
	} {
		if got := s.OfferAs(tt.first, tt.user, s.key.PublicKey()); got != tt.want {
			t.Errorf("offer as %s after %s: %v, want %v", tt.user, tt.first, got, tt.want)
		}
	}
}

// A key of one tenant under another's name, an unknown name and an unknown key are refused alike, in
// words and in time.
func TestRefusalsLookAlike(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) { a.keys["empty"] = nil })
	stranger, _ := newKey(t, "ed25519")
	var words []string
	for _, tt := range []struct {
		name, user string
		key        gossh.Signer
	}{
		{"unknown key", "acme", stranger},
		{"unknown user", "nobody", stranger},
		{"another tenant's key", "empty", s.key},
		{"absurd user", strings.Repeat("x", 10_000), s.key},
	} {
		begin := time.Now()
		c, err := gossh.Dial("tcp", s.addr, s.clientConfig(tt.user, tt.key))
		if err == nil {
			c.Close()
			t.Fatalf("%s: logged in", tt.name)
		}
		if d := time.Since(begin); d < sshd.RefusalTime {
			t.Errorf("%s: refused after %v, want at least %v", tt.name, d, sshd.RefusalTime)
		}
		words = append(words, err.Error())
	}
	if len(slices.Compact(words)) != 1 {
		t.Errorf("refusals differ: %q", words)
	}
	if len(s.access.logins) != 0 {
		t.Errorf("logins %v", s.access.logins)
	}
}

// Who has proven a key may be told why it does not do.
func TestRefusalOfVerifiedKeyIsExplained(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) {
		a.refuse = &sshd.RefusedError{Why: "this key expired on 2026-01-31\x1b[2J\nforged"}
	})
	_, stderr, code := s.ssh("", "127.0.0.1", "help")
	if code != 255 || !strings.Contains(stderr, "vaultd: refused: login: this key expired on 2026-01-31?[2J?forged") ||
		!strings.Contains(stderr, "Permission denied (publickey)") {
		t.Errorf("status %d, stderr %q", code, stderr)
	}
	s.access.refuse = errors.New("open /var/lib/secret: no")
	_, stderr, _ = s.ssh("", "127.0.0.1", "help")
	if strings.Contains(stderr, "secret") {
		t.Errorf("an internal error reached the client: %q", stderr)
	}
	eventually(t, "a failure with its reason", func() bool { return len(s.log.lines(t, "login failed")) == 2 })
	if l := s.log.lines(t, "login failed")[1]; l["reason"] != "refused" || !strings.Contains(l["error"].(string), "secret") {
		t.Errorf("log %v", l)
	}
}

// Access that mixes up tenants is stopped here.
func TestLoginForAnotherTenantIsRefused(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, a *access) { c.Access = mixedUp{a} })
	if c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", s.key)); err == nil {
		c.Close()
		t.Fatal("logged in as another tenant than asked for")
	}
}

type mixedUp struct{ *access }

func (m mixedUp) Verified(user string, key gossh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	l, err := m.access.Verified(user, key, remote)
	l.Tenant = "other"
	return l, err
}

// Short RSA keys are refused even where Access lists them, also as a certificate's key or CA; RSA with SHA-2 works. What else a
// certificate says is Access's to judge.
func TestKeyKinds(t *testing.T) {
	for _, tt := range []struct {
		kind string
		want bool
	}{{"rsa1024", false}, {"rsa2048", true}, {"ecdsa", true}, {"cert ed25519 by ed25519", true}, {"cert rsa2048 by rsa2048", true},
		{"cert rsa1024 by ed25519", false}, {"cert ed25519 by rsa1024", false}} {
		t.Run(tt.kind, func(t *testing.T) {
			s := start(t, nil)
			kinds := strings.Fields(strings.TrimPrefix(tt.kind, "cert "))
			key, _ := newKey(t, kinds[0])
			if len(kinds) > 1 {
				ca, _ := newKey(t, kinds[2])
				cert := &gossh.Certificate{Key: key.PublicKey(), CertType: gossh.UserCert, ValidPrincipals: []string{"acme"}, ValidBefore: gossh.CertTimeInfinity}
				if err := cert.SignCert(rand.Reader, ca); err != nil {
					t.Fatal(err)
				}
				var err error
				if key, err = gossh.NewCertSigner(cert, key); err != nil {
					t.Fatal(err)
				}
			}
			s.access.keys["acme"][gossh.FingerprintSHA256(key.PublicKey())] = appendonly.Push
			c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", key))
			if err == nil {
				c.Close()
			}
			if (err == nil) != tt.want {
				t.Errorf("login with %s: %v, want %v", tt.kind, err, tt.want)
			}
		})
	}
}

// ssh-rsa is RSA with SHA-1: refused for the client's signature and for ours.
func TestNoSHA1(t *testing.T) {
	hostRSA, _ := newKey(t, "rsa2048")
	key, _ := newKey(t, "rsa2048")
	s := start(t, nil, func(c *sshd.Config, a *access) {
		c.HostKeys = append(c.HostKeys, hostRSA)
		a.keys["acme"][gossh.FingerprintSHA256(key.PublicKey())] = appendonly.Push
	})
	old, err := gossh.NewSignerWithAlgorithms(key.(gossh.AlgorithmSigner), []string{gossh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", old)); err == nil {
		c.Close()
		t.Error("logged in with a SHA-1 signature")
	}
	conf := s.clientConfig("acme", key)
	conf.HostKeyCallback = gossh.FixedHostKey(hostRSA.PublicKey())
	conf.HostKeyAlgorithms = []string{gossh.KeyAlgoRSA}
	if c, err := gossh.Dial("tcp", s.addr, conf); err == nil {
		c.Close()
		t.Error("the host signed with SHA-1")
	}
	conf.HostKeyAlgorithms = []string{gossh.KeyAlgoRSASHA512}
	c, err := gossh.Dial("tcp", s.addr, conf)
	if err != nil {
		t.Fatal("RSA with SHA-2: ", err)
	}
	c.Close()
}

func TestConfigIsChecked(t *testing.T) {
	host, _ := newKey(t, "ed25519")
	host2, _ := newKey(t, "ed25519")
	short, _ := newKey(t, "rsa1024")
	a := &access{t: t}
	h := session.HandlerFunc(echo)
	for _, tt := range []struct {
		name, want string
		cfg        sshd.Config
	}{
		// gliderlabs would invent a key, and clients would be taught to accept any.
		{"no host key", "no host key", sshd.Config{Access: a, Exec: h}},
		{"two of a type", "two host keys", sshd.Config{Access: a, Exec: h, HostKeys: []gossh.Signer{host, host2}}},
		{"short host key", "1024 bits", sshd.Config{Access: a, Exec: h, HostKeys: []gossh.Signer{short}}},
		{"no access", "required", sshd.Config{Exec: h, HostKeys: []gossh.Signer{host}}},
		{"sha1", "insecure", sshd.Config{Access: a, Exec: h, HostKeys: []gossh.Signer{host},
			Algorithms: sshd.Algorithms{MACs: []string{"hmac-sha1"}}}},
		{"cbc", "insecure", sshd.Config{Access: a, Exec: h, HostKeys: []gossh.Signer{host},
			Algorithms: sshd.Algorithms{Ciphers: []string{"aes128-cbc"}}}},
		{"ssh-rsa", "insecure", sshd.Config{Access: a, Exec: h, HostKeys: []gossh.Signer{host},
			Algorithms: sshd.Algorithms{PublicKeys: []string{"ssh-rsa"}}}},
	} {
		if _, err := sshd.New(tt.cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want an error with %q", tt.name, err, tt.want)
		}
	}
}

// The login grace holds although gliderlabs resets deadlines with every byte.
func TestLoginGrace(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Limits.LoginGrace, c.Limits.BanMax = 300*time.Millisecond, -1 })
	for name, hello := range map[string]string{"silent": "", "after the version": "SSH-2.0-slow\r\n"} {
		nc, err := net.Dial("tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		io.WriteString(nc, hello)
		nc.SetDeadline(begin.Add(10 * time.Second))
		_, err = io.Copy(io.Discard, nc)
		nc.Close()
		if d := time.Since(begin); errors.Is(err, os.ErrDeadlineExceeded) || d < 250*time.Millisecond || d > 5*time.Second {
			t.Errorf("%s: closed after %v (%v), want about 300 ms", name, d, err)
		}
	}
	// Trickling bytes does not help.
	nc, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	begin := time.Now()
	for err == nil && time.Since(begin) < 10*time.Second {
		_, err = nc.Write([]byte("a"))
		time.Sleep(20 * time.Millisecond)
	}
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("trickle: still open after %v", d)
	}
	eventually(t, "three failures of the grace", func() bool { return s.Stats().Failures["grace"] == 3 })
	if s.Stats().PreAuth != 0 {
		t.Errorf("%+v", s.Stats())
	}
	// And who is in stays in.
	c := s.dial()
	time.Sleep(400 * time.Millisecond)
	if out, _, code := run(t, c, "hello", ""); out != "hello\n" || code != 0 {
		t.Errorf("after the grace: %q, status %d", out, code)
	}
}

// Whatever user name strangers choose, a log line stays one line.
func TestUserNamesForgeNoLines(t *testing.T) {
	var text logBuffer
	s := start(t, nil, func(c *sshd.Config, _ *access) {
		c.Log = slog.New(slog.NewTextHandler(&text, nil))
	})
	stranger, _ := newKey(t, "ed25519")
	name := "x\nlevel=INFO msg=session tenant=acme\x1b[31m\u2028\u202e" + strings.Repeat("y", 500)
	if c, err := gossh.Dial("tcp", s.addr, s.clientConfig(name, stranger)); err == nil {
		c.Close()
		t.Fatal("logged in")
	}
	eventually(t, "the log line", func() bool { return strings.Contains(text.String(), "login failed") })
	got := text.String()
	if strings.Count(got, "\n") != 1 || strings.ContainsAny(got, "\x1b\u2028\u202e") || len(got) > 500 {
		t.Errorf("log %q", got)
	}
}

func TestLogOfFailuresIsBounded(t *testing.T) {
	now := time.Unix(0, 0)
	allow := sshd.NewLineLimit(func() time.Time { return now }, 2, time.Second)
	var got []int
	for range 5 {
		if ok, dropped := allow(); ok {
			got = append(got, dropped)
		}
	}
	now = now.Add(1500 * time.Millisecond)
	for range 2 {
		if ok, dropped := allow(); ok {
			got = append(got, dropped)
		}
	}
	if !slices.Equal(got, []int{0, 0, 3}) {
		t.Errorf("lines dropped before each line: %v, want 0 0 3", got)
	}
}
