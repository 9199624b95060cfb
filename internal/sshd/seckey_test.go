package sshd_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"math/big"
	"net/netip"
	"strings"
	"testing"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/sshd"
)

// securityKey signs as PROTOCOL.u2f says, with the flags that it is told.
type securityKey struct {
	pub   gossh.PublicKey
	ed    ed25519.PrivateKey
	ec    *ecdsa.PrivateKey
	flags byte
}

func newSecurityKey(t *testing.T, kind string, flags byte) *securityKey {
	t.Helper()
	s := &securityKey{flags: flags}
	var blob []byte
	if kind == "ed25519" {
		_, s.ed, _ = ed25519.GenerateKey(rand.Reader)
		blob = gossh.Marshal(struct {
			Type string
			Key  []byte
			App  string
		}{gossh.KeyAlgoSKED25519, s.ed.Public().(ed25519.PublicKey), "ssh:"})
	} else {
		var err error
		if s.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			t.Fatal(err)
		}
		point, err := s.ec.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		blob = gossh.Marshal(struct {
			Type, Curve string
			Key         []byte
			App         string
		}{gossh.KeyAlgoSKECDSA256, "nistp256", point, "ssh:"})
	}
	var err error
	if s.pub, err = gossh.ParsePublicKey(blob); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *securityKey) PublicKey() gossh.PublicKey { return s.pub }

func (s *securityKey) Sign(_ io.Reader, data []byte) (*gossh.Signature, error) {
	app, message := sha256.Sum256([]byte("ssh:")), sha256.Sum256(data)
	state := []byte{s.flags, 0, 0, 0, 9}
	signed := append(append(app[:], state...), message[:]...)
	sig := &gossh.Signature{Format: s.pub.Type(), Rest: state}
	if s.ed != nil {
		sig.Blob = ed25519.Sign(s.ed, signed)
		return sig, nil
	}
	digest := sha256.Sum256(signed)
	r, ss, err := ecdsa.Sign(rand.Reader, s.ec, digest[:])
	sig.Blob = gossh.Marshal(struct{ R, S *big.Int }{r, ss})
	return sig, err
}

// certified is the key with a certificate of some CA, which says waive or not.
func (s *securityKey) certified(t *testing.T, waive bool) gossh.Signer {
	t.Helper()
	ca, _ := newKey(t, "ed25519")
	cert := &gossh.Certificate{Key: s.pub, CertType: gossh.UserCert, ValidPrincipals: []string{"acme"}, ValidBefore: gossh.CertTimeInfinity}
	if waive {
		cert.Extensions = map[string]string{"no-touch-required": ""}
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	signer, err := gossh.NewCertSigner(cert, s)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

// The flags of the signature decide, and not what x/crypto was told when the key was offered.
func TestSecurityKeys(t *testing.T) {
	const touch, pin = 1, 4
	for _, tt := range []struct {
		name  string
		flags byte
		login sshd.Login // NoTouch, Verify
		waive bool       // Offered says no touch (the catalog may change before Verified), or the certificate does
		want  bool
		blind bool // what a plain ecdsa-sk key is refused for: its flags are not to be seen
	}{
		{name: "touched", flags: touch, want: true},
		{name: "not touched"},
		{name: "not touched, waived", login: sshd.Login{NoTouch: true}, waive: true, want: true},
		{name: "not touched, waived when offered and not any more", waive: true},
		{name: "touched, waived when offered and not any more", flags: touch, waive: true, want: true, blind: true},
		{name: "verified where wanted", flags: touch | pin, login: sshd.Login{Verify: true}, want: true, blind: true},
		{name: "touched where verified is wanted", flags: touch, login: sshd.Login{Verify: true}},
		{name: "verified, not touched", flags: pin, login: sshd.Login{Verify: true}},
		{name: "verified, not touched, touch waived", flags: pin, login: sshd.Login{Verify: true, NoTouch: true}, waive: true, want: true, blind: true},
		{name: "other flags", flags: 0xfa, login: sshd.Login{Verify: true, NoTouch: true}, waive: true},
	} {
		for _, kind := range []string{"ed25519", "ed25519 certificate", "ecdsa", "ecdsa certificate"} {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				name, cert := strings.CutSuffix(kind, " certificate")
				sk := newSecurityKey(t, name, tt.flags)
				var key gossh.Signer = sk
				if cert {
					key = sk.certified(t, tt.waive)
				}
				s := start(t, nil, func(_ *sshd.Config, a *access) {
					a.login = tt.login
					a.waive = tt.waive
					a.keys["acme"][gossh.FingerprintSHA256(key.PublicKey())] = appendonly.Push
				})
				c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", key))
				if err == nil {
					c.Close()
				}
				if want := tt.want && !(tt.blind && kind == "ecdsa"); (err == nil) != want {
					t.Errorf("%v, want let in: %v", err, want)
				}
			})
		}
	}
}

// Who has no security key can not have verified its user.
func TestVerifyWantsASecurityKey(t *testing.T) {
	s := start(t, nil, func(_ *sshd.Config, a *access) { a.login.Verify = true })
	_, stderr, code := s.ssh("", "127.0.0.1", "x")
	if code != 255 || !strings.Contains(stderr, "vaultd: refused: login: this login needs a security key that verifies its user") {
		t.Errorf("status %d, %q", code, stderr)
	}
}

// That one key needs no touch is of no use to another. (That it was offered before is tried with the real client, tests/testdata/fido.txtar.)
func TestTouchIsPerKey(t *testing.T) {
	lazy, other := newSecurityKey(t, "ed25519", 0), newSecurityKey(t, "ed25519", 0)
	s := start(t, nil, func(c *sshd.Config, a *access) {
		for _, k := range []*securityKey{lazy, other} {
			a.keys["acme"][gossh.FingerprintSHA256(k.pub)] = appendonly.Push
		}
		c.Access = perKey{a, gossh.FingerprintSHA256(lazy.pub)}
	})
	for _, tt := range []struct {
		name string
		keys []gossh.Signer
		want bool
	}{
		{"the key that needs none", []gossh.Signer{lazy}, true},
		{"the other", []gossh.Signer{other}, false},
	} {
		c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", tt.keys...))
		if err == nil {
			c.Close()
		}
		if (err == nil) != tt.want {
			t.Errorf("%s: %v, want let in: %v", tt.name, err, tt.want)
		}
	}
}

// perKey takes signatures without a touch from one key.
type perKey struct {
	*access
	lazy string
}

func (p perKey) Offered(user string, key gossh.PublicKey, remote netip.Addr) (bool, error) {
	_, err := p.access.Offered(user, key, remote)
	return gossh.FingerprintSHA256(key) == p.lazy, err
}

func (p perKey) Verified(user string, key gossh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	l, err := p.access.Verified(user, key, remote)
	l.NoTouch = gossh.FingerprintSHA256(key) == p.lazy
	return l, err
}
