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
	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// access lets keys in as the catalog says, and takes it back when the catalog changes.
type access struct {
	st    *store.Store
	state *tenant.State

	// observers are told of each session that has ended, after the state; fixed before the first one begins. They must not wait.
	observers []func(tenantID string, e push.Event)
	standing  func(tenantID string) (inventory.Tenant, bool) // nil: nobody knows
	soft      func(tenantID string) string                   // words for a tenant above its soft quota; nil: nobody knows
	unwritten func()                                         // told when audit lines could not be written into a journal; nil: nobody asks

	mu       sync.Mutex // guards what follows
	logins   map[*login]struct{}
	sessions map[string]begunSession // by session id, from Open on until it has ended

	told told // who was told today of what waits
}

// login is one key's connections: revoked is closed when the catalog does not let the key in any more.
type login struct {
	tenant, name, key string
	cert              *gossh.Certificate // nil: the key came by itself
	remote            netip.Addr
	given             tenant.Key // what the key was good for at the login
	revoked           chan struct{}

	sessions int         // guarded by access.mu
	ended    bool        // revoked is closed; guarded by access.mu
	expiry   *time.Timer // while there are sessions; guarded by access.mu
}

func newAccess(st *store.Store, state *tenant.State) *access {
	return &access{st: st, state: state, logins: map[*login]struct{}{}, sessions: map[string]begunSession{}}
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
	l := &login{tenant: t.ID, name: t.Name, key: k.ID, remote: remote, given: k, revoked: make(chan struct{})}
	who := appendonly.Who{Key: k.ID, Role: k.Role, Root: k.Path, Daily: appendonly.Ceiling(k.Daily)}
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
		Notices: func(daily bool) []string { return a.notices(k, remote, daily) },
		Ended:   func(e push.Event) { a.over(t.ID, e) },
		Own:     func() (inventory.Own, bool) { return a.own(t.ID, k) },
	}, nil
}

// still says why the key of l, or its certificate, may not be here, or not as what it is here: what it is good for was changed.
func (l *login) still(snap *tenant.Snapshot) error {
	var k tenant.Key
	var err error
	if l.cert != nil {
		_, k, err = snap.AuthenticateCert(l.name, l.cert, l.remote, time.Now())
	} else if err = snap.Recheck(l.tenant, l.key, l.remote, time.Now()); err == nil {
		k, _ = snap.Key(l.key)
	}
	if err == nil && (k.Role != l.given.Role || k.Path != l.given.Path || k.Daily != l.given.Daily) {
		err = fmt.Errorf("key %s: %w: it was changed; log in again", k.ID, tenant.ErrConflict)
	}
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
		return nil, nil, unavailable(err)
	}
	fs := v.Session(who)
	a.began(who.Session, begunSession{tenant: l.tenant, key: who.Key, protocol: who.Protocol, began: time.Now(), fs: fs})
	return fs, func(ctx context.Context) error {
		defer done()
		defer a.count(l, -1)
		return fs.Close(ctx)
	}, nil
}

// unavailable is an error of the store's as its client may see it: that storage is not there, and why, where the store has a text about that for clients.
func unavailable(err error) error {
	away := (*store.UnavailableError)(nil)
	switch {
	case errors.Is(err, store.ErrNoSpare):
		return &sshd.UnavailableError{Text: store.ErrNoSpare.Error(), Why: "no spare dataset"}
	case !errors.As(err, &away):
		return err
	case away.Text != "":
		return &sshd.UnavailableError{Text: away.Text + "; nothing of this session is stored", Why: away.Why}
	}
	return fmt.Errorf("%w: %s", sshd.ErrUnavailable, away.Why)
}

// ownPushes is how many of its newest pushes a tenant is shown.
const ownPushes = 10

// own is what a tenant may see of itself: with a key that is rooted in a directory, of that and of that key.
func (a *access) own(tenantID string, k tenant.Key) (out inventory.Own, known bool) {
	if a.standing == nil {
		return out, false
	}
	if out.Tenant, known = a.standing(tenantID); !known {
		return out, false
	}
	err := a.state.Pushes(tenantID, tenant.PushQuery{}, func(e push.Event) bool {
		if k.Path == "" || e.Key == k.ID {
			out.Pushes = append(out.Pushes, e)
		}
		return len(out.Pushes) < ownPushes
	})
	out.Below(k.Path)
	return out, err == nil
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
	case l.sessions > 0 && l.expiry == nil && !l.given.Expires.IsZero():
		l.expiry = time.AfterFunc(time.Until(l.given.Expires), a.recheck)
	}
}

// recheck ends the sessions of keys that may not log in any more (revoked, expired, or from elsewhere), and of those that
// were changed: they log in again as what they are now.
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
	a.announce(context.Background()) // logs what fails; the catalog's change is made all the same
	return err
}

// watch ends sessions whose key expires while they run, and takes over changes of policy that waited until now.
func (a *access) watch(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	a.announce(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.recheck()
			if err := a.settle(); err != nil {
				return err
			}
			a.announce(ctx)
		}
	}
}

// announce writes what is new of the audit log into the journals.
func (a *access) announce(ctx context.Context) {
	if err := a.st.Announce(ctx); err != nil && ctx.Err() == nil && a.unwritten != nil {
		a.unwritten()
	}
}

// settle reloads the catalog when a change or a removal that waited is due.
func (a *access) settle() error {
	for _, t := range a.st.Tenants().Tenants() { // those that were not removed when they were read
		if t.Pending != nil && !time.Now().Before(t.Pending.Due) || t.Removed(time.Now()) {
			return a.reload()
		}
	}
	return nil
}

var _ sshd.Access = (*access)(nil)
