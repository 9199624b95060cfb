package sshd

import (
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"
)

// Algorithms are the names offered to clients, best first. Of the ciphers our order decides (greet), of the rest
// the client's. Empty lists mean the defaults. Names that x/crypto calls insecure, and all with SHA-1, are refused.
// Strict key exchange is always on.
type Algorithms struct {
	KeyExchanges []string // default: mlkem768x25519-sha256, curve25519-sha256, then ECDH on the NIST curves
	Ciphers      []string // default: AES-GCM, then AES-CTR; no chacha20, which x/crypto has no assembly for
	MACs         []string // default: hmac-sha2 in encrypt-then-MAC, then plain for libssh2 before 1.11; unused with GCM
	HostKeys     []string // signatures by our host keys; default: ed25519, ecdsa, rsa-sha2-512 and -256
	PublicKeys   []string // signatures by clients, also of certified keys; default: ed25519, ecdsa, both as security keys, rsa-sha2
}

var defaultAlgorithms = Algorithms{
	KeyExchanges: []string{gossh.KeyExchangeMLKEM768X25519, gossh.KeyExchangeCurve25519,
		gossh.KeyExchangeECDHP256, gossh.KeyExchangeECDHP384, gossh.KeyExchangeECDHP521},
	Ciphers: []string{gossh.CipherAES128GCM, gossh.CipherAES256GCM,
		gossh.CipherAES128CTR, gossh.CipherAES192CTR, gossh.CipherAES256CTR},
	MACs:     []string{gossh.HMACSHA256ETM, gossh.HMACSHA512ETM, gossh.HMACSHA256, gossh.HMACSHA512},
	HostKeys: hostKeyAlgorithms,
	PublicKeys: []string{gossh.KeyAlgoED25519, gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256,
		gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384, gossh.KeyAlgoECDSA521,
		gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256},
}

var hostKeyAlgorithms = []string{gossh.KeyAlgoED25519, gossh.KeyAlgoECDSA256, gossh.KeyAlgoECDSA384,
	gossh.KeyAlgoECDSA521, gossh.KeyAlgoRSASHA512, gossh.KeyAlgoRSASHA256}

// withDefaults fills in empty lists and refuses names that can not or should not be used.
func (a Algorithms) withDefaults() (Algorithms, error) {
	known := gossh.SupportedAlgorithms()
	var errs []error
	pick := func(what string, names, def, known []string) []string {
		if len(names) == 0 {
			return slices.Clone(def)
		}
		for _, n := range names {
			if !slices.Contains(known, n) || strings.HasSuffix(n, "sha1") {
				errs = append(errs, fmt.Errorf("%s %q: unknown or insecure; known are %s", what, n, strings.Join(known, ", ")))
			}
		}
		return slices.Clone(names)
	}
	out := Algorithms{
		KeyExchanges: pick("key exchange", a.KeyExchanges, defaultAlgorithms.KeyExchanges, known.KeyExchanges),
		Ciphers:      pick("cipher", a.Ciphers, defaultAlgorithms.Ciphers, known.Ciphers),
		MACs: pick("MAC", a.MACs, defaultAlgorithms.MACs,
			slices.DeleteFunc(known.MACs, func(n string) bool { return n == gossh.HMACSHA1 })),
		HostKeys:   pick("host key algorithm", a.HostKeys, defaultAlgorithms.HostKeys, hostKeyAlgorithms),
		PublicKeys: pick("public key algorithm", a.PublicKeys, defaultAlgorithms.PublicKeys, known.PublicKeyAuths),
	}
	return out, errors.Join(errs...)
}

// hostSigners restricts each host key to the allowed signatures: left alone, x/crypto signs with an
// RSA key in SHA-1 when the client asks for it.
func hostSigners(keys []gossh.Signer, allowed []string) ([]ssh.Signer, error) {
	if len(keys) == 0 {
		return nil, errors.New("no host key")
	}
	seen := map[string]bool{}
	var out []ssh.Signer
	for _, k := range keys {
		typ := k.PublicKey().Type()
		if seen[typ] {
			return nil, fmt.Errorf("two host keys of type %s", typ)
		}
		seen[typ] = true
		if ck, ok := k.PublicKey().(gossh.CryptoPublicKey); ok {
			if r, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && r.N.BitLen() < minRSABits {
				return nil, fmt.Errorf("RSA host key of %d bits, want at least %d", r.N.BitLen(), minRSABits)
			}
		}
		as, ok := k.(gossh.AlgorithmSigner)
		if !ok {
			return nil, fmt.Errorf("host key of type %s can not choose its signature", typ)
		}
		var algos []string
		for _, a := range allowed {
			if a == typ || typ == gossh.KeyAlgoRSA && (a == gossh.KeyAlgoRSASHA256 || a == gossh.KeyAlgoRSASHA512) {
				algos = append(algos, a)
			}
		}
		if len(algos) == 0 {
			return nil, fmt.Errorf("host key of type %s: no allowed signature algorithm", typ)
		}
		m, err := gossh.NewSignerWithAlgorithms(as, algos)
		if err != nil {
			return nil, fmt.Errorf("restrict host key of type %s: %w", typ, err)
		}
		out = append(out, m)
	}
	return out, nil
}
