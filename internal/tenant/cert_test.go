package tenant_test

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// keygen runs the real ssh-keygen in dir.
func keygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("ssh-keygen", args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TZ=UTC")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen %q: %v: %s", args, err, out)
	}
}

func readPub(t testing.TB, file string) ssh.PublicKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pubFile(t testing.TB, file string) tenant.PublicKey {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := tenant.ParsePublicKeys(text)
	if err != nil {
		t.Fatal(err)
	}
	return keys[0]
}

// certs is a catalog with tenants acme and other, and a directory with the keys ca, rogue, rsaca and user.
type certs struct {
	t   testing.TB
	db  *tenant.DB
	dir string
	ca  tenant.CA
}

func newCerts(t testing.TB, change func(*tenant.NewCA)) *certs {
	c := &certs{t: t, dir: t.TempDir()}
	c.db, _ = newDB(t)
	for _, name := range []string{"ca", "rogue", "user", "host"} {
		keygen(t, c.dir, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name)
	}
	keygen(t, c.dir, "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", "rsaca")
	for _, name := range []string{"acme", "other"} {
		if _, _, err := c.db.AddTenant(plain(name)); err != nil {
			t.Fatal(err)
		}
	}
	n := tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, filepath.Join(c.dir, "ca.pub"))}}
	if change != nil {
		change(&n)
	}
	cas, err := c.db.AddCAs("acme", n)
	if err != nil {
		t.Fatal(err)
	}
	c.ca = cas[0]
	return c
}

// sign makes a certificate of user's key; options are ssh-keygen's.
func (c *certs) sign(ca string, options ...string) *ssh.Certificate {
	c.t.Helper()
	keygen(c.t, c.dir, slices.Concat([]string{"-q", "-s", ca}, options, []string{"user.pub"})...)
	return readPub(c.t, filepath.Join(c.dir, "user-cert.pub")).(*ssh.Certificate)
}

func (c *certs) login(user string, cert *ssh.Certificate, from string, now time.Time) (tenant.Key, error) {
	c.t.Helper()
	s, err := c.db.Snapshot()
	if err != nil {
		c.t.Fatal(err)
	}
	_, k, err := s.AuthenticateCert(user, cert, netip.MustParseAddr(from), now)
	return k, err
}

// What sshd checks of a certificate, with certificates that the real ssh-keygen made; epoch is 2026-11-01 12:00 UTC.
func TestCertificates(t *testing.T) {
	c := newCerts(t, nil)
	if _, err := c.db.AddCAs("acme", tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, filepath.Join(c.dir, "rsaca.pub"))}}); err != nil {
		t.Fatal(err)
	}
	valid := []string{"-I", "laptop", "-n", "acme", "-V", "20261101:20261102"}
	with := func(more ...string) []string { return slices.Concat(valid, more) }
	for _, tt := range []struct {
		name, user, ca, from string
		options              []string
		reason               tenant.Reason
		detail               string
	}{
		{name: "good", options: valid},
		{name: "good by RSA with SHA-2", ca: "rsaca", options: valid},
		{name: "good among principals", options: []string{"-I", "x", "-n", "root,acme"}},
		{name: "good for ever", options: []string{"-I", "x", "-n", "acme"}},
		{name: "by RSA with SHA-1", ca: "rsaca", options: with("-t", "ssh-rsa"), reason: tenant.Certificate, detail: "algorithm"},
		{name: "unknown user", user: "nobody", options: valid, reason: tenant.UnknownUser},
		{name: "of a tenant without the CA", user: "other", options: []string{"-I", "x", "-n", "other"}, reason: tenant.UnknownKey},
		{name: "wrong CA", ca: "rogue", options: valid, reason: tenant.UnknownKey, detail: "no CA of this tenant"},
		{name: "expired", options: []string{"-I", "x", "-n", "acme", "-V", "20261030:20261101120000"}, reason: tenant.Expired, detail: "not valid any more"},
		{name: "not yet valid", options: []string{"-I", "x", "-n", "acme", "-V", "20261101120001:20261102"}, reason: tenant.Expired, detail: "not valid yet"},
		{name: "wrong principal", options: []string{"-I", "x", "-n", "other"}, reason: tenant.Certificate, detail: "principal"},
		{name: "part of a principal", options: []string{"-I", "x", "-n", "acme2,acm,*"}, reason: tenant.Certificate, detail: "principal"},
		{name: "no principals", options: []string{"-I", "x"}, reason: tenant.Certificate, detail: "no principal"},
		{name: "host certificate", options: with("-h"), reason: tenant.Certificate, detail: "not a user certificate"},
		{name: "unknown critical option", options: with("-O", "critical:x@example.com=1"), reason: tenant.Certificate, detail: "unknown critical option"},
		{name: "unknown extension", options: with("-O", "extension:x@example.com=1")},
		{name: "right address", options: with("-O", "source-address=192.0.2.0/24,2001:db8::1")},
		{name: "wrong address", options: with("-O", "source-address=192.0.2.0/24"), from: "198.51.100.1", reason: tenant.Address},
		{name: "right address, IPv6", options: with("-O", "source-address=192.0.2.0/24,2001:db8::1"), from: "2001:db8::1"},
		{name: "mapped address", options: with("-O", "source-address=192.0.2.0/24"), from: "::ffff:192.0.2.9"},
		{name: "forced to read", options: with("-O", "force-command=internal-sftp -R")},
		{name: "forced to what is not known", options: with("-O", "force-command=/usr/bin/backup --now"), reason: tenant.Certificate, detail: "force-command"},
		{name: "forced with a shell", options: with("-O", "force-command=borg serve; sh"), reason: tenant.Certificate, detail: "force-command"},
		{name: "hostile key id", options: []string{"-I", "a\nlevel=INFO\x1b[31m" + strings.Repeat("\U0001f4a9", 200), "-n", "x"}, reason: tenant.Certificate, detail: `a\nlevel=INFO\x1b[31m`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			user, ca, from := or(tt.user, "acme"), or(tt.ca, "ca"), or(tt.from, "192.0.2.9")
			k, err := c.login(user, c.sign(ca, tt.options...), from, epoch)
			var auth *tenant.AuthError
			if tt.reason == "" {
				if err != nil {
					errors.As(err, &auth)
					t.Fatalf("refused: %+v", auth)
				}
				if want := tenant.KeyID(readPub(t, filepath.Join(c.dir, "user.pub")).Marshal()); k.ID != want {
					t.Errorf("key %s, want that of the certified key, %s", k.ID, want)
				}
				return
			}
			if !errors.As(err, &auth) || auth.Reason != tt.reason || !strings.Contains(auth.Detail, tt.detail) {
				t.Fatalf("%+v, want %s with %q", auth, tt.reason, tt.detail)
			}
			if len(auth.Detail) > 600 || strings.ContainsFunc(auth.Detail, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("detail of %d bytes: %q", len(auth.Detail), auth.Detail)
			}
			if err.Error() != "authenticate: permission denied" {
				t.Errorf("the reason shows: %v", err)
			}
		})
	}
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

// What ssh-keygen does not make, or not any more.
func TestForgedCertificates(t *testing.T) {
	c := newCerts(t, nil)
	pem, err := os.ReadFile(filepath.Join(c.dir, "ca"))
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		t.Fatal(err)
	}
	for name, forge := range map[string]func(*ssh.Certificate){
		"signature over something else": func(k *ssh.Certificate) { k.ValidBefore++ },
		"another signature's bytes":     func(k *ssh.Certificate) { k.Signature.Blob[5] ^= 1 },
		"another serial":                func(k *ssh.Certificate) { k.Serial++ },
		"another principal":             func(k *ssh.Certificate) { k.ValidPrincipals = []string{"acme", "x"} },
		"an option taken off":           func(k *ssh.Certificate) { k.CriticalOptions = nil },
		"no signature":                  func(k *ssh.Certificate) { k.Signature = nil },
		"malformed source-address":      func(k *ssh.Certificate) { resign(t, k, signer, "source-address", "192.0.2.9/24") },
		"empty source-address":          func(k *ssh.Certificate) { resign(t, k, signer, "source-address", "") },
		"wildcard source-address":       func(k *ssh.Certificate) { resign(t, k, signer, "source-address", "192.0.2.*") },
		"negated source-address":        func(k *ssh.Certificate) { resign(t, k, signer, "source-address", "!192.0.2.1,192.0.2.0/24") },
		"verify-required with a value":  func(k *ssh.Certificate) { resign(t, k, signer, "verify-required", "x") },
		"300 principals": func(k *ssh.Certificate) {
			for range 300 {
				k.ValidPrincipals = append(k.ValidPrincipals, "acme")
			}
			resign(t, k, signer, "verify-required", "")
		},
		"ends before it begins": func(k *ssh.Certificate) {
			k.ValidAfter, k.ValidBefore = uint64(epoch.Unix()), uint64(epoch.Unix())
			resign(t, k, signer, "verify-required", "")
		},
		"begins after all time": func(k *ssh.Certificate) {
			k.ValidAfter = 1 << 63
			resign(t, k, signer, "verify-required", "")
		},
	} {
		cert := c.sign("ca", "-I", "x", "-n", "acme", "-O", "source-address=192.0.2.0/24")
		if _, err := c.login("acme", cert, "192.0.2.9", epoch); err != nil {
			t.Fatalf("before it is forged: %v", err)
		}
		forge(cert)
		if _, err := c.login("acme", cert, "192.0.2.9", epoch); err == nil {
			t.Errorf("%s: let in", name)
		}
	}
}

func resign(t *testing.T, k *ssh.Certificate, ca ssh.Signer, name, value string) {
	k.CriticalOptions = map[string]string{name: value}
	if err := k.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
}

// The key that comes out has what the CA and the certificate give, both together.
func TestCertificateTerms(t *testing.T) {
	until := epoch.Add(90 * time.Minute)
	c := newCerts(t, func(n *tenant.NewCA) {
		n.Path, n.Role, n.Expires, n.Principals = "laptops", appendonly.Full, until, []string{"backup", "staff"}
		n.Daily = tenant.Ceiling{Bytes: 7, Records: 8}
	})
	k, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "staff", "-V", "20261101:20261101130000", "-O", "force-command=rrsync -wo /ann"), "192.0.2.9", epoch)
	if err != nil {
		t.Fatal(err)
	}
	if k.Path != "laptops/ann" || k.Role != appendonly.Push || k.Daily != c.ca.Daily || !k.Expires.Equal(epoch.Add(time.Hour)) {
		t.Errorf("%+v", k)
	}
	if k, err = c.login("acme", c.sign("ca", "-I", "x", "-n", "backup"), "192.0.2.9", epoch); err != nil || !k.Expires.Equal(until) || k.Path != "laptops" {
		t.Errorf("%+v, %v", k, err)
	}
	// A renewed certificate is the same key.
	again, err := c.login("acme", c.sign("ca", "-I", "y", "-z", "9", "-n", "backup"), "192.0.2.9", epoch)
	if err != nil || again.ID != k.ID || again.Fingerprint != k.Fingerprint {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "acme"), "192.0.2.9", epoch); err == nil {
		t.Error("the tenant's name does though other principals are given")
	}
	if _, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "staff"), "192.0.2.9", until); err == nil {
		t.Error("let in after the CA's time")
	}
	if _, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "staff", "-O", "force-command=rrsync -no-del /ann"), "192.0.2.9", epoch); err != nil {
		t.Errorf("-no-del in a strict tenant: %v", err)
	}
	versioned := []tenant.Prefix{{Path: "laptops/old", Mode: appendonly.Versioned}}
	if _, err := c.db.Weaken("acme", tenant.Change{Prefixes: &versioned}, -time.Hour); err != nil {
		t.Fatal(err)
	}
	if _, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "staff", "-O", "force-command=rrsync -no-del /ann"), "192.0.2.9", epoch); err == nil {
		t.Error("-no-del in a tenant that is versioned somewhere: let in, and could remove")
	}
	if _, err := c.login("acme", c.sign("ca", "-I", "x", "-n", "staff", "-O", "force-command=borg serve --storage-quota 1G"), "192.0.2.9", epoch); err == nil {
		t.Error("a quota that the tenant has not: let in")
	}
	pull := newCerts(t, func(n *tenant.NewCA) { n.Role = appendonly.Pull })
	if _, err := pull.login("acme", pull.sign("ca", "-I", "x", "-n", "acme", "-O", "force-command=rrsync -wo /ann"), "192.0.2.9", epoch); err == nil {
		t.Error("pull and push: let in")
	}
}

func TestRevokedCertificates(t *testing.T) {
	for name, revoke := range map[string]func(c *certs) error{
		"the CA": func(c *certs) error { _, err := c.db.RevokeCA("acme", c.ca.Fingerprint, tenant.Certs{}); return err },
		"the serial": func(c *certs) error {
			_, err := c.db.RevokeCA("acme", c.ca.ID, tenant.Certs{Serials: []uint64{7}})
			return err
		},
		"the key id": func(c *certs) error {
			_, err := c.db.RevokeCA("acme", c.ca.ID, tenant.Certs{KeyIDs: []string{"laptop"}})
			return err
		},
		"the key, unlisted": func(c *certs) error { _, err := c.db.RevokeKey("acme", fingerprint(c)); return err },
		"the key, by id": func(c *certs) error {
			_, err := c.db.RevokeKey("acme", tenant.KeyID(readPub(c.t, c.dir+"/user.pub").Marshal()))
			return err
		},
		"the key, of another's": func(c *certs) error {
			if _, err := c.db.AddKeys("other", tenant.NewKey{Public: pubFile(c.t, c.dir+"/user.pub")}); err != nil {
				return err
			}
			_, err := c.db.RevokeKey("other", fingerprint(c))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCerts(t, nil)
			cert := c.sign("ca", "-I", "laptop", "-z", "7", "-n", "acme")
			if _, err := c.login("acme", cert, "192.0.2.9", epoch); err != nil {
				t.Fatal(err)
			}
			for range 2 { // twice is no error
				if err := revoke(c); err != nil && name != "the key, of another's" {
					t.Fatal(err)
				}
			}
			var auth *tenant.AuthError
			if _, err := c.login("acme", cert, "192.0.2.9", epoch); !errors.As(err, &auth) || auth.Reason != tenant.Revoked {
				t.Errorf("%+v", auth)
			}
			_, err := c.login("acme", c.sign("ca", "-I", "other", "-z", "8", "-n", "acme"), "192.0.2.9", epoch)
			if one := name == "the serial" || name == "the key id"; (err == nil) != one {
				t.Errorf("another certificate: %v", err)
			}
			// It never comes back.
			if strings.HasPrefix(name, "the key, ") {
				if _, err := c.db.AddKeys("acme", tenant.NewKey{Public: pubFile(t, c.dir+"/user.pub")}); !errors.Is(err, tenant.ErrConflict) {
					t.Errorf("added again: %v", err)
				}
			}
			if name == "the CA" {
				if _, err := c.db.AddCAs("acme", tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, c.dir+"/ca.pub")}}); !errors.Is(err, tenant.ErrConflict) {
					t.Errorf("added again: %v", err)
				}
			}
		})
	}
}

func fingerprint(c *certs) string { return ssh.FingerprintSHA256(readPub(c.t, c.dir+"/user.pub")) }

// What is not stored.
func TestCAErrors(t *testing.T) {
	c := newCerts(t, nil)
	pub := pubFile(t, c.dir+"/rogue.pub")
	for name, n := range map[string]tenant.NewCA{
		"principal with a comma": {NewKey: tenant.NewKey{Public: pub}, Principals: []string{"a,b"}},
		"empty principal":        {NewKey: tenant.NewKey{Public: pub}, Principals: []string{""}},
		"path out":               {NewKey: tenant.NewKey{Public: pub, Path: "../x"}},
		"no key":                 {},
	} {
		if _, err := c.db.AddCAs("acme", n); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.db.AddCAs("acme", tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, c.dir+"/ca.pub")}}); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("twice: %v", err)
	}
	// A CA's key does not log in, and one that logs in signs for nobody.
	if _, err := c.db.AddKeys("other", tenant.NewKey{Public: pubFile(t, c.dir+"/ca.pub")}); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("a CA as a key: %v", err)
	}
	if _, err := c.db.AddKeys("other", tenant.NewKey{Public: pubFile(t, c.dir+"/host.pub")}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.db.AddCAs("acme", tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, c.dir+"/host.pub")}}); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("a key as a CA: %v", err)
	}
	// Who revokes a CA as a key must not think that it is done.
	if _, err := c.db.RevokeKey("acme", c.ca.Fingerprint); !errors.Is(err, tenant.ErrNotFound) || !strings.Contains(err.Error(), "ca revoke") {
		t.Errorf("a CA revoked as a key: %v", err)
	}
	// Several tenants may name one CA; each does.
	if _, err := c.db.AddCAs("other", tenant.NewCA{NewKey: tenant.NewKey{Public: pubFile(t, c.dir+"/ca.pub")}}); err != nil {
		t.Error(err)
	}
	if _, err := c.db.RevokeCA("acme", "SHA256:nothing", tenant.Certs{}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("unknown CA: %v", err)
	}
	for _, ref := range []string{"", "short", "SHA256:x", "SHA256:" + strings.Repeat("A", 44), "0123456789abcde/"} {
		if _, err := c.db.RevokeKey("acme", ref); !errors.Is(err, tenant.ErrNotFound) {
			t.Errorf("revoke %q: %v", ref, err)
		}
	}
	for _, k := range []tenant.NewKey{{Public: pub, NoTouch: true}, {Public: pub, Verify: true}} {
		if _, err := c.db.AddKeys("acme", k); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("touch of a plain key: %v", err)
		}
	}
}

// Whatever a client sends as a certificate, it is refused or it was signed: no panic, no way in.
func FuzzCertificate(f *testing.F) {
	c := newCerts(f, nil)
	cert := c.sign("ca", "-I", "laptop", "-n", "acme", "-O", "source-address=192.0.2.0/24", "-O", "force-command=internal-sftp -R")
	f.Add(cert.Marshal())
	f.Add(c.sign("rogue", "-I", "x", "-n", "acme").Marshal())
	s, err := c.db.Snapshot()
	if err != nil {
		f.Fatal(err)
	}
	good := string(cert.Marshal())
	f.Fuzz(func(t *testing.T, blob []byte) {
		k, err := ssh.ParsePublicKey(blob)
		if err != nil {
			return
		}
		parsed, ok := k.(*ssh.Certificate)
		if !ok {
			return
		}
		if _, _, err := s.AuthenticateCert("acme", parsed, netip.MustParseAddr("192.0.2.9"), epoch); err == nil && string(blob) != good {
			t.Errorf("let in with %x", blob)
		}
	})
}
