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
	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

// Access decides who may come in. Its methods are called by many goroutines.
type Access interface {
	// Offered says why key could not log in as user: nil when it could. Nobody has proven to have it: the answer must
	// have no effect, and the client sees no difference between errors, whose text goes to the log. One with FailureReason() string says for
	// Stats what is wrong: "unknown_user", "unknown_key", or else that the key was somebody's. With noTouch a
	// security key's signature may do without a touch, for as long as Verified says so too.
	Offered(user string, key gossh.PublicKey, remote netip.Addr) (noTouch bool, err error)
	// Verified logs in whoever has just proven to have key, which may be a *gossh.Certificate; what that says is for
	// Access to check. A *RefusedError's text is shown to them. It is asked once for each proof; after an error the
	// client may prove another key.
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
	// NoTouch takes a security key's signature without a touch; Verify wants one of a verified user (a PIN, a finger).
	NoTouch, Verify bool
	// Revoked, when not nil, ends the connection's sessions when it is closed.
	Revoked <-chan struct{}
	// Notices, when not nil, are what whoever logs in ought to know. With daily it returns those that a session shows unasked on
	// stderr as it begins, which it does at most once a day, since they end up in the mail of cron jobs.
	Notices func(daily bool) []string
	// Ended, when not nil, is told of each session that has ended, after its barrier; of those that only read, too. It must not wait.
	Ended func(push.Event)
	// Own, when not nil, is what whoever logs in may know of how their vault stands; false: it is not known.
	Own func() (inventory.Own, bool)
}

// ErrRevoked is what Open returns when the login would not be let in any more.
var ErrRevoked = errRevoked

// RefusedError is a refusal whose text its cause may know: the owner of a verified key.
type RefusedError struct{ Why string }

func (e *RefusedError) Error() string { return e.Why }

// refusalTime is the least time that refusing an offered key takes, so that looking up an unknown user
// is not told from looking up a key of a known one.
const refusalTime = 10 * time.Millisecond

// maxUser is the longest user name that Access is asked about.
const maxUser = 255

// maxWhy is how many offered keys the log says something of: a client offers a certificate and then its key.
const maxWhy = 4

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
		MaxAuthTries:            s.limits().MaxAuthTries,
		PreAuthConnCallback:     func(m gossh.ServerPreAuthConn) { c.meta = m },
		AuthLogCallback: func(_ gossh.ConnMetadata, method string, err error) {
			if err != nil && method != "none" {
				c.tries++
			}
		},
	}
	conf.VerifiedPublicKeyCallback = func(m gossh.ConnMetadata, key gossh.PublicKey, offered *gossh.Permissions, _ string) (*gossh.Permissions, error) {
		return s.verified(c, m, key, offered)
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
	c.lastKey = gossh.FingerprintSHA256(plain(key))
	// gliderlabs shares one object among all keys of a connection; each gets its own, since x/crypto reads in it whether to look
	// for a touch.
	perms := &gossh.Permissions{}
	ctx.Permissions().Permissions = perms
	err := acceptableKey(key)
	if len(user) > maxUser {
		err = errors.New("user name too long")
	}
	noTouch := false
	if err == nil {
		noTouch, err = s.cfg.Access.Offered(user, key, c.remote.Addr())
	}
	if err != nil {
		var r interface{ FailureReason() string }
		if errors.As(err, &r) {
			c.reason = r.FailureReason()
		}
		if len(c.why) < maxWhy {
			c.why = append(c.why, oneLine(err.Error()))
		}
		time.Sleep(refusalTime - time.Since(start))
		return false
	}
	if noTouch {
		perms.Extensions = map[string]string{noTouchRequired: ""}
	}
	return true
}

// verified decides who the client is: the owner of key, whose signature was checked just now. Of what was said when the key was
// offered nothing counts (the CVE-2024-45337 class of errors); offered only tells whether x/crypto looked for a touch.
func (s *Server) verified(c *conn, m gossh.ConnMetadata, key gossh.PublicKey, offered *gossh.Permissions) (*gossh.Permissions, error) {
	user := m.User()
	err := acceptableKey(key)
	var l Login
	if err == nil {
		l, err = s.cfg.Access.Verified(user, key, c.remote.Addr())
	}
	if err == nil && (l.Tenant != user || l.Open == nil) {
		err = fmt.Errorf("internal error: login for tenant %q where %q was asked for", l.Tenant, user)
	}
	if err == nil {
		err = checkTouch(m, key, offered, &l)
	}
	if err == nil {
		s.gate.verified(c.key, l.Tenant, 0) // whatever follows: who has such a key is no stranger
		l.Who.Fingerprint = gossh.FingerprintSHA256(plain(key))
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

// plain is the key itself, of a certificate the one that it certifies.
func plain(key gossh.PublicKey) gossh.PublicKey {
	if cert, ok := key.(*gossh.Certificate); ok {
		return cert.Key
	}
	return key
}

// acceptableKey refuses what no policy should have to think about: short RSA keys, also of a certificate's CA. The rest of what a
// certificate says is Access's to judge.
func acceptableKey(key gossh.PublicKey) error {
	if cert, ok := key.(*gossh.Certificate); ok {
		return errors.Join(acceptableKey(cert.Key), acceptableKey(cert.SignatureKey))
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
