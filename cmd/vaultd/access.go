package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// access lets keys in as the catalog says, and takes it back when the catalog changes.
type access struct {
	st    *store.Store
	state *tenant.State

	mu     sync.Mutex // guards logins
	logins map[*login]struct{}
}

// login is one key's connections: revoked is closed when the catalog does not let the key in any more.
type login struct {
	tenant, name, key string
	cert              *gossh.Certificate // nil: the key came by itself
	remote            netip.Addr
	until             time.Time // when the key or certificate expires; zero is never
	revoked           chan struct{}

	sessions int         // guarded by access.mu
	ended    bool        // revoked is closed; guarded by access.mu
	expiry   *time.Timer // while there are sessions; guarded by access.mu
}

func newAccess(st *store.Store, state *tenant.State) *access {
	return &access{st: st, state: state, logins: map[*login]struct{}{}}
}

// authenticate looks a key, or a certificate, up in the catalog. The error's text tells the reason, and is for the log.
func (a *access) authenticate(user string, key gossh.PublicKey, remote netip.Addr) (t tenant.Tenant, k tenant.Key, err error) {
	snap := a.st.Tenants()
	if cert, ok := key.(*gossh.Certificate); ok {
		t, k, err = snap.AuthenticateCert(user, cert, remote, time.Now())
	} else {
		t, k, err = snap.Authenticate(user, key.Marshal(), remote, time.Now())
	}
	return t, k, reasoned(err)
}

// reasoned adds to a refusal what the catalog keeps out of its text.
func reasoned(err error) error {
	var auth *tenant.AuthError
	if !errors.As(err, &auth) {
		return err
	}
	if auth.Detail == "" {
		return fmt.Errorf("%w: %s", err, auth.Reason)
	}
	return fmt.Errorf("%w: %s: %s", err, auth.Reason, auth.Detail)
}

// Offered implements sshd.Access.
func (a *access) Offered(user string, key gossh.PublicKey, remote netip.Addr) (noTouch bool, err error) {
	_, k, err := a.authenticate(user, key, remote)
	return k.NoTouch, err
}

// Verified implements sshd.Access. Nobody but the holder of the key reaches it, so its words may say
// what is wrong.
func (a *access) Verified(user string, key gossh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	t, k, err := a.authenticate(user, key, remote)
	if err != nil {
		return sshd.Login{}, err
	}
	l := &login{tenant: t.ID, name: t.Name, key: k.ID, remote: remote, until: k.Expires, revoked: make(chan struct{})}
	who := appendonly.Who{Key: k.ID, Role: k.Role}
	used := k.ID
	if cert, ok := key.(*gossh.Certificate); ok {
		l.cert, who.Cert = cert, tenant.CertWords(cert)
		used = tenant.CertUse(t.ID, tenant.KeyID(cert.SignatureKey.Marshal()))
	}
	a.state.Used(t.ID, used, time.Now(), remote.String())
	return sshd.Login{
		Tenant: t.Name,
		Who:    who,
		Open: func(ctx context.Context, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
			return a.open(ctx, l, who)
		},
		NoTouch: k.NoTouch,
		Verify:  k.Verify,
		Revoked: l.revoked,
	}, nil
}

// still says whether a login would be let in now.
func (l *login) still(snap *tenant.Snapshot) error {
	if l.cert == nil {
		return snap.Recheck(l.tenant, l.key, l.remote, time.Now())
	}
	_, _, err := snap.AuthenticateCert(l.name, l.cert, l.remote, time.Now())
	return err
}

// open makes one session's FS.
func (a *access) open(ctx context.Context, l *login, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
	a.count(l, 1) // first, so that a change of the catalog that still does not see finds the login in recheck
	if err := l.still(a.st.Tenants()); err != nil {
		a.count(l, -1)
		return nil, nil, fmt.Errorf("%w: %w", sshd.ErrRevoked, err)
	}
	v, done, err := a.st.Vault(ctx, l.tenant)
	if err != nil {
		a.count(l, -1)
		return nil, nil, err
	}
	fs := v.Session(who)
	return fs, func(ctx context.Context) error {
		defer done()
		defer a.count(l, -1)
		return fs.Close(ctx)
	}, nil
}

func (a *access) count(l *login, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if l.sessions += n; l.sessions > 0 {
		a.logins[l] = struct{}{}
	} else {
		delete(a.logins, l)
	}
	// At the second, and not at watch's next tick; that is for clocks that were set.
	switch {
	case l.sessions == 0 && l.expiry != nil:
		l.expiry.Stop()
		l.expiry = nil
	case l.sessions > 0 && l.expiry == nil && !l.until.IsZero():
		l.expiry = time.AfterFunc(time.Until(l.until), a.recheck)
	}
}

// recheck ends the sessions of keys that may not log in any more: revoked, expired, or from elsewhere.
func (a *access) recheck() {
	snap := a.st.Tenants()
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.logins {
		if !l.ended && l.still(snap) != nil {
			close(l.revoked)
			l.ended = true
		}
	}
}

// reload takes over the catalog: policies, quotas, and who may still be here. Sessions of revoked keys
// end before what they left is sealed.
func (a *access) reload() error {
	err := a.st.Reload()
	a.recheck()
	return err
}

// watch ends sessions whose key expires while they run, and takes over changes of policy that waited until now.
func (a *access) watch(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.recheck()
			if err := a.settle(); err != nil {
				return err
			}
		}
	}
}

// settle reloads the catalog when a change that waited is due.
func (a *access) settle() error {
	for _, t := range a.st.Tenants().Tenants() {
		if t.Pending != nil && !time.Now().Before(t.Pending.Due) {
			return a.reload()
		}
	}
	return nil
}

var _ sshd.Access = (*access)(nil)
