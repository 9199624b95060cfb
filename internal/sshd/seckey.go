package sshd

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"math/big"

	gossh "golang.org/x/crypto/ssh"
)

// A security key signs over a byte of flags: whether somebody touched it, and whether it knew who (a PIN, a finger). Whether they
// are wanted is the server's to say, for each key (PROTOCOL.u2f; authorized_keys options no-touch-required and verify-required).
//
// Touch: x/crypto wants it, unless the offered key's permissions or the certificate itself have the extension
// no-touch-required. A client whose signature lacks it is cut off by x/crypto, without a word.
//
// Verification: x/crypto checks the signature over the flags and shows them to nobody. But the key that it hands to
// VerifiedPublicKeyCallback is made of pieces of the client's packet: an ed25519 key's bytes, and a certificate's nonce, are
// slices of it, and the packet goes on behind them with the signature. So the flags are read there. Nothing rests on
// this staying so: what is found is only believed when it verifies, with the flags, as this client's signature for this
// connection. When it is not found, who needs it is refused. A plain ecdsa-sk key has no such piece (its point is parsed into numbers):
// for it verification can not be asked for, and tenant refuses to store that it were.
const (
	flagTouched  = 0x01 // SSH_SK_USER_PRESENCE_REQD
	flagVerified = 0x04 // SSH_SK_USER_VERIFICATION_REQD

	noTouchRequired = "no-touch-required"
)

// checkTouch enforces a login's NoTouch and Verify on the signature that was made just now. offered is what x/crypto looked at.
func checkTouch(m gossh.ConnMetadata, key gossh.PublicKey, offered *gossh.Permissions, l *Login) error {
	switch plain(key).Type() {
	case gossh.KeyAlgoSKED25519, gossh.KeyAlgoSKECDSA256:
	default:
		if l.Verify {
			return &RefusedError{Why: "this login needs a security key that verifies its user"}
		}
		return nil
	}
	waived := false
	if offered != nil {
		_, waived = offered.Extensions[noTouchRequired]
	}
	if cert, ok := key.(*gossh.Certificate); ok && !waived {
		_, waived = cert.Extensions[noTouchRequired]
	}
	if !l.Verify && (!waived || l.NoTouch) {
		return nil // nothing is wanted, or x/crypto has seen the touch
	}
	flags, ok := signatureFlags(m, key)
	switch {
	case !ok:
		return errors.New("the flags of the security key's signature are not to be seen")
	case l.Verify && flags&flagVerified == 0:
		return &RefusedError{Why: "this login needs a security key that verifies its user: make the key with ssh-keygen -O verify-required"}
	case !l.NoTouch && flags&flagTouched == 0:
		return &RefusedError{Why: "this login needs a touch of the security key"}
	}
	return nil
}

// signatureFlags finds the flags of the signature by which key was proven, and verifies it over them; false when it can not.
func signatureFlags(m gossh.ConnMetadata, key gossh.PublicKey) (byte, bool) {
	blob := key.Marshal()
	tail, ok := packetBehind(key, blob)
	if !ok {
		return 0, false
	}
	var field struct{ Signature []byte }
	var sig struct {
		Format  string
		Blob    []byte
		Flags   byte
		Counter uint32
	}
	// Unmarshal wants all of its input used up.
	if gossh.Unmarshal(tail, &field) != nil || gossh.Unmarshal(field.Signature, &sig) != nil || sig.Format != plain(key).Type() {
		return 0, false
	}
	data := sha256.Sum256(gossh.Marshal(struct { // RFC 4252 §7
		Session               []byte
		Message               byte
		User, Service, Method string
		Signed                bool
		Algorithm             string
		Key                   []byte
	}{m.SessionID(), 50, m.User(), "ssh-connection", "publickey", true, key.Type(), blob}))
	application, ok := applicationOf(plain(key))
	if !ok {
		return 0, false
	}
	app := sha256.Sum256([]byte(application))
	signed := gossh.Marshal(struct { // PROTOCOL.u2f, SSH U2F Signatures
		App     []byte `ssh:"rest"`
		Flags   byte
		Counter uint32
		Data    []byte `ssh:"rest"`
	}{app[:], sig.Flags, sig.Counter, data[:]})
	return sig.Flags, verifyRaw(plain(key), signed, sig.Blob)
}

// packetBehind returns what followed key in the client's packet. A slice of the packet has its capacity up to the packet's end.
func packetBehind(key gossh.PublicKey, blob []byte) ([]byte, bool) {
	var piece []byte
	if cert, ok := key.(*gossh.Certificate); ok {
		piece = cert.Nonce
	} else if ck, ok := key.(gossh.CryptoPublicKey); ok {
		piece, _ = ck.CryptoPublicKey().(ed25519.PublicKey)
	}
	at := 4 + len(key.Type()) + 4 // both are the blob's second string
	if piece == nil || at > len(blob) {
		return nil, false
	}
	packet, rest := piece[:cap(piece)], blob[at:]
	if !bytes.HasPrefix(packet, rest) {
		return nil, false
	}
	return packet[len(rest):], true
}

// applicationOf reads what a security key is for, usually "ssh:".
func applicationOf(key gossh.PublicKey) (string, bool) {
	if key.Type() == gossh.KeyAlgoSKED25519 {
		var w struct {
			Type        string
			Key         []byte
			Application string
		}
		err := gossh.Unmarshal(key.Marshal(), &w)
		return w.Application, err == nil
	}
	var w struct {
		Type, Curve string
		Key         []byte
		Application string
	}
	err := gossh.Unmarshal(key.Marshal(), &w)
	return w.Application, err == nil
}

// verifyRaw checks what the authenticator itself signed.
func verifyRaw(key gossh.PublicKey, signed, sig []byte) bool {
	ck, ok := key.(gossh.CryptoPublicKey)
	if !ok {
		return false
	}
	switch pub := ck.CryptoPublicKey().(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(pub, signed, sig)
	case *ecdsa.PublicKey:
		var rs struct{ R, S *big.Int }
		digest := sha256.Sum256(signed)
		return gossh.Unmarshal(sig, &rs) == nil && ecdsa.Verify(pub, digest[:], rs.R, rs.S)
	}
	return false
}
