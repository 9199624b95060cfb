package tenant

import (
	"bytes"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"golang.org/x/crypto/ssh"
)

// PublicKey is a parsed line of a .pub file.
type PublicKey struct {
	Blob    []byte // RFC 4253 §6.6 wire form
	Type    string // ssh-ed25519, ...
	Comment string // printable; at most 200 characters
}

const (
	maxPubFile  = 64 << 10
	maxComment  = 200
	minRSABits  = 2048
	privateMark = "PRIVATE KEY-----"
)

// ParsePublicKeys reads a .pub file: one key a line as ssh-keygen writes it, blank lines and # comments.
// Nothing is dropped in silence: a line with options, a certificate, a weak key or a line that is no key
// fails the whole file, all lines reported at once. The text of errors never holds the content of the file,
// which may be a private key given by mistake.
func ParsePublicKeys(data []byte) ([]PublicKey, error) {
	switch {
	case len(data) > maxPubFile:
		return nil, fmt.Errorf("parse public key: over %d bytes: %w", maxPubFile, ErrInvalid)
	case bytes.Contains(data, []byte(privateMark)) || bytes.HasPrefix(data, []byte("PuTTY-User-Key-File")):
		return nil, fmt.Errorf("parse public key: this is a private key, which must stay on the client; give its .pub file: %w", ErrInvalid)
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("---- BEGIN SSH2 PUBLIC KEY")):
		return nil, fmt.Errorf("parse public key: RFC 4716 form; convert it with ssh-keygen -i -f FILE: %w", ErrInvalid)
	case bytes.IndexByte(data, 0) >= 0:
		return nil, fmt.Errorf("parse public key: has NUL bytes; want plain UTF-8 text: %w", ErrInvalid)
	}
	var keys []PublicKey
	var faults []error
	for i, line := range bytes.Split(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), []byte("\n")) {
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		k, err := parseLine(line)
		if err != nil {
			faults = append(faults, fmt.Errorf("parse public key: line %d: %w", i+1, err))
			continue
		}
		keys = append(keys, k)
	}
	if len(keys) == 0 && len(faults) == 0 {
		return nil, fmt.Errorf("parse public key: no key in it: %w", ErrInvalid)
	}
	if len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	return keys, nil
}

// parseLine gives ParseAuthorizedKey exactly one line: it skips what it can not read and takes the next.
func parseLine(line []byte) (PublicKey, error) {
	pub, comment, options, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return PublicKey{}, fmt.Errorf("not a public key that vaultd knows: %w", ErrInvalid)
	}
	if len(options) > 0 {
		return PublicKey{}, optionError(options)
	}
	if err := checkStrength(pub); err != nil {
		return PublicKey{}, err
	}
	return PublicKey{Blob: pub.Marshal(), Type: pub.Type(), Comment: cleanComment(comment)}, nil
}

// optionError refuses options: each restricts the key, and dropping one would widen what it may do.
func optionError(options []string) error {
	names := make([]string, len(options))
	hint := "remove them; vaultd key import reads authorized_keys"
	for i, o := range options {
		name, _, _ := strings.Cut(o, "=")
		names[i] = fmt.Sprintf("%q", name)
		switch strings.ToLower(name) {
		case "from":
			hint = "use --from for the networks; vaultd key import reads authorized_keys"
		case "expiry-time":
			hint = "use --expires for the expiry; vaultd key import reads authorized_keys"
		}
	}
	return fmt.Errorf("options %s are not read (%s): %w", strings.Join(names, ", "), hint, ErrInvalid)
}

func checkStrength(pub ssh.PublicKey) error {
	if _, ok := pub.(*ssh.Certificate); ok {
		return fmt.Errorf("certificates are not accepted, give the plain key, or the CA's to vaultd ca add: %w", ErrInvalid)
	}
	switch pub.Type() {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
		ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		return nil
	case ssh.KeyAlgoRSA:
		c, ok := pub.(ssh.CryptoPublicKey)
		if !ok {
			return fmt.Errorf("RSA key without a modulus: %w", ErrInvalid)
		}
		if k, ok := c.CryptoPublicKey().(*rsa.PublicKey); !ok || k.N.BitLen() < minRSABits {
			return fmt.Errorf("RSA key under %d bits; make an ed25519 key: %w", minRSABits, ErrInvalid)
		}
		return nil
	}
	return fmt.Errorf("key type %q is not accepted; make an ed25519 key: %w", pub.Type(), ErrInvalid)
}

// checkTouch refuses what only a security key can be asked for, of any other key.
func checkTouch(n NewKey) error {
	switch n.Public.Type {
	case ssh.KeyAlgoSKED25519:
		return nil
	case ssh.KeyAlgoSKECDSA256:
		if n.Verify {
			// See internal/sshd/seckey.go. Taking it and not looking would be worse.
			return fmt.Errorf("add key: whether an ecdsa-sk key was verified can not be seen; make an ed25519-sk key, or sign a certificate: %w", ErrInvalid)
		}
		return nil
	}
	return fmt.Errorf("add key: touch and verification are a security key's, and this is %s: %w", n.Public.Type, ErrInvalid)
}

// cleanComment keeps a comment harmless in logs and on terminals: it is free text from the client's side.
func cleanComment(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > maxComment {
		s = string(r[:maxComment])
	}
	return strings.TrimSpace(s)
}
