package main

import (
	"context"
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

	told told // who was told today of what waits
}

// login is one key's connections: revoked is closed when the catalog does not let the key in any more.
type login struct {
	tenant, key string
	remote      netip.Addr
	sessions    int
	revoked     chan struct{}
}

func newAccess(st *store.Store, state *tenant.State) *access {
	return &access{st: st, state: state, logins: map[*login]struct{}{}}
}

// Offered implements sshd.Access.
func (a *access) Offered(user string, key gossh.PublicKey, remote netip.Addr) bool {
	_, _, err := a.st.Tenants().Authenticate(user, key.Marshal(), remote, time.Now())
	return err == nil
}

// Verified implements sshd.Access. Nobody but the holder of the key reaches it, so its words may say
// what is wrong.
func (a *access) Verified(user string, key gossh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	t, k, err := a.st.Tenants().Authenticate(user, key.Marshal(), remote, time.Now())
	if err != nil {
		return sshd.Login{}, err
	}
	l := &login{tenant: t.ID, key: k.ID, remote: remote, revoked: make(chan struct{})}
	a.state.Used(t.ID, k.ID, time.Now(), remote.String())
	return sshd.Login{
		Tenant: t.Name,
		Who:    appendonly.Who{Key: k.ID, Role: k.Role},
		Open: func(ctx context.Context, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
			return a.open(ctx, l, who)
		},
		Revoked: l.revoked,
		Notices: func(daily bool) []string { return a.notices(k, remote, daily) },
	}, nil
}

// open makes one session's FS.
func (a *access) open(ctx context.Context, l *login, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
	if err := a.st.Tenants().Recheck(l.tenant, l.key, l.remote, time.Now()); err != nil {
		return nil, nil, err
	}
	v, done, err := a.st.Vault(ctx, l.tenant)
	if err != nil {
		return nil, nil, err
	}
	a.count(l, 1)
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
}

// recheck ends the sessions of keys that may not log in any more: revoked, expired, or from elsewhere.
func (a *access) recheck() {
	snap := a.st.Tenants()
	a.mu.Lock()
	defer a.mu.Unlock()
	for l := range a.logins {
		if snap.Recheck(l.tenant, l.key, l.remote, time.Now()) != nil {
			close(l.revoked)
			delete(a.logins, l)
		}
	}
}

// reload takes over the catalog: policies, quotas, and who may still be here. Sessions of revoked keys
// end before what they left is sealed.
func (a *access) reload() error {
	err := a.st.Reload()
	a.recheck()
	a.st.Announce(context.Background()) // logs what fails; the catalog's change is made all the same
	return err
}

// watch ends sessions whose key expires while they run, and takes over changes of policy that waited until now.
func (a *access) watch(ctx context.Context) error {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	a.st.Announce(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			a.recheck()
			if err := a.settle(); err != nil {
				return err
			}
			a.st.Announce(ctx)
		}
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
