package tenant_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/tenant"
)

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func line(t testing.TB, key any) string {
	t.Helper()
	k, err := ssh.NewPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k)))
}

func edLine(t testing.TB) string {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return line(t, pub)
}

func certLine(t testing.TB) string {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{Key: k, CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := c.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(c)))
}

func rsaLine(bits int) string {
	// Nobody signs with it, so any odd modulus of the right length will do.
	n := new(big.Int).SetBit(big.NewInt(1), bits-1, 1)
	blob := ssh.Marshal(struct {
		Name string
		E, N *big.Int
	}{"ssh-rsa", big.NewInt(65537), n})
	return "ssh-rsa " + b64(blob)
}

func dsaLine() string {
	n := new(big.Int).SetBit(big.NewInt(1), 1023, 1)
	q := new(big.Int).SetBit(big.NewInt(1), 159, 1)
	return "ssh-dss " + b64(ssh.Marshal(struct {
		Name       string
		P, Q, G, Y *big.Int
	}{"ssh-dss", n, q, big.NewInt(2), big.NewInt(3)}))
}

func TestParsePublicKeys(t *testing.T) {
	ed, ed2 := edLine(t), edLine(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	type32 := strings.Fields(ed)[1]
	tests := []struct {
		name string
		in   string
		want []string // type and comment of each key
		err  string   // part of the error
	}{
		{"ed25519 with a comment", ed + " ann@web 1\n", []string{"ssh-ed25519 ann@web 1"}, ""},
		{"without a newline or comment", ed, []string{"ssh-ed25519 "}, ""},
		{"CRLF, BOM, blanks and remarks", "\xef\xbb\xbf# mine\r\n\r\n  " + ed + " a\r\n" + ed2 + " b\r\n", []string{"ssh-ed25519 a", "ssh-ed25519 b"}, ""},
		{"ecdsa", line(t, &ec.PublicKey), []string{"ecdsa-sha2-nistp256 "}, ""},
		{"RSA 2048", rsaLine(2048), []string{"ssh-rsa "}, ""},
		{"comment that draws on a terminal", ed + " a\x1b[2Jb\u202ec", []string{"ssh-ed25519 a?[2Jb?c"}, ""},
		{"comment that is not UTF-8", ed + " a\xffb", []string{"ssh-ed25519 a?b"}, ""},
		{"a very long comment", ed + " " + strings.Repeat("x", 999), []string{"ssh-ed25519 " + strings.Repeat("x", 200)}, ""},

		{"RSA 2047", rsaLine(2047), nil, "line 1: RSA key under 2048 bits"},
		{"RSA 1024", rsaLine(1024), nil, "RSA key under 2048 bits"},
		{"RSA absurd", rsaLine(16385), nil, "not a public key"},
		{"DSA", dsaLine(), nil, `"ssh-dss" is not accepted`},
		{"certificate", certLine(t), nil, "certificates are not accepted"},
		{"from=", `from="192.0.2.0/24" ` + ed, nil, "use --from"},
		{"expiry-time=", `expiry-time="20300101" ` + ed, nil, "use --expires"},
		{"command= with blanks", `command="echo hi, there",no-pty ` + ed, nil, `options "command", "no-pty" are not read`},
		{"restrict", "restrict " + ed, nil, `options "restrict" are not read (remove them; vaultd key import reads authorized_keys)`},
		{"an option behind a good line", ed + "\nrestrict " + ed2, nil, "line 2: options"},
		{"rubbish behind a good line", ed + "\nrubbish\n", nil, "line 2: not a public key"},
		{"declared as another type", "ssh-rsa " + type32, nil, "not a public key"},
		{"cut short", ed[:len(ed)-8], nil, "not a public key"},
		{"two keys on a line with CR", ed + "\r" + ed2, nil, "line 1: not a public key"},
		{"a private key", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\n", nil, "private key, which must stay"},
		{"a PuTTY private key", "PuTTY-User-Key-File-3: ssh-ed25519\n", nil, "private key"},
		{"RFC 4716", "---- BEGIN SSH2 PUBLIC KEY ----\nAAAA\n", nil, "ssh-keygen -i"},
		{"UTF-16", "s\x00s\x00h\x00", nil, "NUL"},
		{"empty", "# nothing\n\n", nil, "no key in it"},
		{"too long", strings.Repeat("#", 64<<10+1), nil, "over 65536 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			keys, err := tenant.ParsePublicKeys([]byte(tt.in))
			if tt.err != "" {
				if !errors.Is(err, tenant.ErrInvalid) || !strings.Contains(err.Error(), tt.err) || keys != nil {
					t.Fatalf("got %v, %v, want %q", keys, err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, k := range keys {
				got = append(got, k.Type+" "+k.Comment)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
	// All faults at once.
	if _, err := tenant.ParsePublicKeys([]byte("x\n" + dsaLine() + "\n" + ed)); err == nil || strings.Count(err.Error(), "line ") != 2 {
		t.Errorf("got %v", err)
	}
}

// What the real ssh-keygen writes and prints is what we read and print.
func TestSSHKeygen(t *testing.T) {
	for _, args := range [][]string{{"-t", "ed25519"}, {"-t", "ecdsa", "-b", "521"}, {"-t", "rsa", "-b", "2048"}} {
		file := filepath.Join(t.TempDir(), "k")
		if out, err := exec.Command("ssh-keygen", append(args, "-q", "-N", "", "-C", "ann@web", "-f", file)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
		text, err := os.ReadFile(file + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		keys, err := tenant.ParsePublicKeys(text)
		if err != nil || len(keys) != 1 || keys[0].Comment != "ann@web" {
			t.Fatalf("%v: %v, %v", args, keys, err)
		}
		out, err := exec.Command("ssh-keygen", "-l", "-f", file+".pub").Output()
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.Fields(string(out))[1]; tenant.Fingerprint(keys[0].Blob) != want {
			t.Errorf("fingerprint %s, want %s", tenant.Fingerprint(keys[0].Blob), want)
		}
		private, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tenant.ParsePublicKeys(private); err == nil || bytes.Contains(private, []byte(err.Error())) {
			t.Errorf("private key: %v", err)
		}
	}
}

func TestParseFrom(t *testing.T) {
	got, err := tenant.ParseFrom("192.0.2.7/24, 2001:db8::1", "::ffff:198.51.100.1", "192.0.2.0/24", "")
	want := []string{"192.0.2.0/24", "2001:db8::1/128", "198.51.100.1/32"}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %v, %v", got, err)
	}
	for i, p := range got {
		if p != netip.MustParsePrefix(want[i]) {
			t.Errorf("got %v, want %s", p, want[i])
		}
	}
	for _, s := range []string{"example.org", "192.0.2.0/33", "192.0.2", "::ffff:192.0.2.0/120", "fe80::1%eth0", "!192.0.2.1", "*"} {
		if _, err := tenant.ParseFrom(s); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%q: %v", s, err)
		}
	}
	if _, err := tenant.ParseFrom("x", "192.0.2.1", "y"); err == nil || !strings.Contains(err.Error(), `"x", "y"`) {
		t.Errorf("got %v", err)
	}
}

// Whatever is taken survives being written and read again, is strong, and is harmless on a terminal.
func FuzzParsePublicKeys(f *testing.F) {
	for _, s := range []string{edLine(f), edLine(f) + " comment\n" + edLine(f), certLine(f), dsaLine(), rsaLine(2048), "restrict " + edLine(f), "# x\n", "ssh-ed25519 AAAA"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		keys, err := tenant.ParsePublicKeys(in)
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%d keys, %v", len(keys), err)
		}
		for _, k := range keys {
			again, err := tenant.ParsePublicKeys([]byte(k.Type + " " + b64(k.Blob) + " " + k.Comment))
			if err != nil || len(again) != 1 || !bytes.Equal(again[0].Blob, k.Blob) || again[0].Comment != k.Comment {
				t.Fatalf("%+v read again is %+v, %v", k, again, err)
			}
			if strings.ContainsAny(k.Comment, "\n\r\x1b") || strings.Contains(k.Type, "cert") {
				t.Fatalf("taken: %+v", k)
			}
			if pub, err := ssh.ParsePublicKey(k.Blob); err != nil {
				t.Fatal(err)
			} else if r, ok := pub.(ssh.CryptoPublicKey).CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < 2048 {
				t.Fatal("weak key taken")
			}
		}
	})
}
