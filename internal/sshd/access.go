package sshd

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
)

// Access decides who may come in. Its methods are called by many goroutines.
type Access interface {
	// Offered says whether key could log in as user. Nobody has proven to have it: the answer must
	// have no effect, and be false alike for an unknown user and an unknown key.
	Offered(user string, key gossh.PublicKey, remote netip.Addr) bool
	// Verified logs in whoever has just proven to have key. A *RefusedError's text is shown to them.
	// It is asked once for each proof; after an error the client may prove another key.
	Verified(user string, key gossh.PublicKey, remote netip.Addr) (Login, error)
}

// Login is what a verified key is good for.
type Login struct {
	// Tenant is the user name that was asked for, otherwise the login is refused.
	Tenant string
	// Who is passed to Open with Fingerprint, Protocol, Remote and Session filled in.
	Who appendonly.Who
	// Open makes one session's FS. close ends it and makes the barrier; it is called once, also
	// when the connection is gone, and with a ctx of its own.
	Open func(ctx context.Context, who appendonly.Who) (fs *appendonly.FS, close func(context.Context) error, err error)
	// Revoked, when not nil, ends the connection's sessions when it is closed.
	Revoked <-chan struct{}
}

// RefusedError is a refusal whose text its cause may know: the owner of a verified key.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// refusalTime is the least time that refusing an offered key takes, so that looking up an unknown user
// is not told from looking up a key of a known one.
const refusalTime = 10 * time.Millisecond

// maxUser is the longest user name that Access is asked about.
const maxUser = 255

// minRSABits is the smallest RSA key accepted, of clients and of the host.
const minRSABits = 2048

type loginKey struct{}

// serverConfig is what a fresh connection speaks and asks. gliderlabs adds host keys, banner and
// PublicKeyCallback (offered).
func (s *Server) serverConfig(ctx ssh.Context) *gossh.ServerConfig {
	c, a := connOf(ctx), s.cfg.Algorithms
	conf := &gossh.ServerConfig{
		Config:                  gossh.Config{KeyExchanges: a.KeyExchanges, Ciphers: c.ciphers, MACs: a.MACs},
		PublicKeyAuthAlgorithms: a.PublicKeys,
		MaxAuthTries:            s.cfg.Limits.MaxAuthTries,
		PreAuthConnCallback:     func(m gossh.ServerPreAuthConn) { c.meta = m },
		AuthLogCallback: func(_ gossh.ConnMetadata, method string, err error) {
			if err != nil && method != "none" {
				c.tries++
			}
		},
	}
	conf.VerifiedPublicKeyCallback = func(m gossh.ConnMetadata, key gossh.PublicKey, _ *gossh.Permissions, _ string) (*gossh.Permissions, error) {
		return s.verified(c, m.User(), key)
	}
	return conf
}

// offered answers whether a key may try. What it is told about is not who the client is, and it
// leaves nothing behind but words for the log. gliderlabs makes it the PublicKeyCallback.
func (s *Server) offered(ctx ssh.Context, key ssh.PublicKey) bool {
	c := connOf(ctx)
	start := time.Now()
	// Not ctx.User(): gliderlabs keeps the first name that a connection named, and clients may change it.
	user := c.meta.User()
	c.lastKey = gossh.FingerprintSHA256(key)
	if len(user) <= maxUser && acceptableKey(key) == nil && s.cfg.Access.Offered(user, key, c.remote.Addr()) {
		return true
	}
	time.Sleep(refusalTime - time.Since(start))
	return false
}

// verified decides who the client is: the owner of key, whose signature was checked just now. The
// permissions of offered keys are dropped: gliderlabs shares one object among all of them
// (the CVE-2024-45337 class of errors).
func (s *Server) verified(c *conn, user string, key gossh.PublicKey) (*gossh.Permissions, error) {
	err := acceptableKey(key)
	var l Login
	if err == nil {
		l, err = s.cfg.Access.Verified(user, key, c.remote.Addr())
	}
	if err == nil && (l.Tenant != user || l.Open == nil) {
		err = fmt.Errorf("internal error: login for tenant %q where %q was asked for", l.Tenant, user)
	}
	if err == nil {
		s.gate.verified(c.key, l.Tenant, 0) // whatever follows: who has such a key is no stranger
		l.Who.Fingerprint = gossh.FingerprintSHA256(key)
		err = s.enter(c, &l)
	}
	if err != nil {
		c.refused = err
		var r *RefusedError
		if errors.As(err, &r) {
			return nil, &gossh.BannerError{Err: err, Message: "vaultd: refused: login: " + oneLine(r.Why) + "\r\n"}
		}
		return nil, err
	}
	if c.grace != nil {
		c.grace.Stop()
	}
	c.use()
	if l.Revoked != nil {
		go s.watch(c, l.Revoked)
	}
	return &gossh.Permissions{ExtraData: map[any]any{loginKey{}: &l}}, nil
}

// watch ends a connection whose key is revoked.
func (s *Server) watch(c *conn, revoked <-chan struct{}) {
	select {
	case <-revoked:
		s.end(c, errRevoked, endGrace)
	case <-c.ctx.Done():
	}
}

// loginOf returns what verified decided, from the connection that came out of the handshake.
func loginOf(sc *gossh.ServerConn) *Login {
	if sc.Permissions == nil {
		return nil
	}
	l, _ := sc.Permissions.ExtraData[loginKey{}].(*Login)
	return l
}

// acceptableKey refuses what no policy should have to think about: certificates, whose restrictions
// nobody here checks, and short RSA keys.
func acceptableKey(key gossh.PublicKey) error {
	if _, ok := key.(*gossh.Certificate); ok {
		return errors.New("certificates are not accepted")
	}
	ck, ok := key.(gossh.CryptoPublicKey)
	if !ok {
		return nil // security keys: ed25519 and P-256 only
	}
	if k, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && k.N.BitLen() < minRSABits {
		return fmt.Errorf("RSA key of %d bits, want at least %d", k.N.BitLen(), minRSABits)
	}
	return nil
}
