package tenant

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Snapshot is the whole catalog at one instant. It is immutable: neither it nor what its methods return
// (slices included) may be changed, and so any number of goroutines may use it without a lock.
type Snapshot struct {
	// Seq is the number of the last audit line: a server that has reloaded answers with it, so that
	// the CLI sees whether its own change is in force.
	Seq uint64

	tenants []Tenant         // all, sorted by name
	present []Tenant         // those that were not removed when this was read
	byName  map[string]int   // index into tenants
	byID    map[string]int   // index into tenants
	keys    map[string]*Key  // by Key.ID
	owned   map[string][]Key // by tenant id, in the order added

	cas         map[string]*CA         // by ownedKey
	authorities map[string][]CA        // by tenant id, in the order added
	revoked     map[string]*Revocation // by ownedKey
}

// Reason says why a login was refused, in the words of logs and metrics. It is never told to the client.
type Reason string

// The reasons, in the order in which they are looked at.
const (
	UnknownUser Reason = "unknown_user"
	UnknownKey  Reason = "unknown_key" // also a key of another tenant
	Revoked     Reason = "revoked"
	Expired     Reason = "expired"
	Address     Reason = "address"
	Certificate Reason = "certificate" // what else is wrong with one
	Removed     Reason = "removed"     // the tenant
)

// AuthError refuses a login. Its text is the same for every reason.
type AuthError struct {
	Reason Reason
	Detail string // of certificates: one line of printable ASCII for the log
}

func (*AuthError) Error() string { return "authenticate: permission denied" }

// FailureReason is the reason as a word for counters.
func (e *AuthError) FailureReason() string { return string(e.Reason) }

// newSnapshot checks what only the whole can show and takes ownership of its arguments.
func newSnapshot(seq uint64, tenants []Tenant, keys []Key) (*Snapshot, error) {
	s := &Snapshot{Seq: seq, tenants: tenants, byName: make(map[string]int, len(tenants)),
		byID: make(map[string]int, len(tenants)), keys: make(map[string]*Key, len(keys)), owned: map[string][]Key{}}
	slices.SortFunc(tenants, func(a, b Tenant) int { return strings.Compare(a.Name, b.Name) })
	for i, t := range tenants {
		if _, twice := s.byID[t.ID]; twice {
			return nil, fmt.Errorf("read catalog: tenant id %q twice", t.ID)
		}
		s.byID[t.ID] = i
		if t.buried() {
			continue
		}
		if _, twice := s.byName[t.Name]; twice {
			return nil, fmt.Errorf("read catalog: tenant %q twice", t.Name)
		}
		s.byName[t.Name] = i
		if !t.gone {
			s.present = append(s.present, t)
		}
	}
	slices.SortFunc(keys, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	slices.SortStableFunc(keys, func(a, b Key) int { return a.Added.Compare(b.Added) })
	for i := range keys {
		k := &keys[i]
		if _, known := s.byID[k.Tenant]; !known || KeyID(k.PublicKey) != k.ID {
			return nil, fmt.Errorf("read catalog: key %q has no tenant or a wrong id", k.ID)
		}
		s.keys[k.ID] = k
		s.owned[k.Tenant] = append(s.owned[k.Tenant], *k)
	}
	return s, nil
}

// Authenticate says whether the holder of a key (its RFC 4253 §6.6 wire form) may log in as user from addr.
// A refusal is an *AuthError: the same text whatever the reason, and the same look-ups are made, so that
// neither tells whether a tenant exists. O(1) in tenants and keys. Possession of the key is the caller's to prove.
//
// An attacker controls user, blob and addr.
func (s *Snapshot) Authenticate(user string, blob []byte, addr netip.Addr, now time.Time) (Tenant, Key, error) {
	id := KeyID(blob)
	at, known := s.byName[user]
	k, listed := s.keys[id]
	if !listed || !bytes.Equal(k.PublicKey, blob) {
		k = &Key{}
	}
	var t Tenant
	if known {
		t = s.tenants[at]
	}
	if reason := verdict(known, t, k, addr, now); reason != "" {
		return Tenant{}, Key{}, &AuthError{Reason: reason}
	}
	return t, *k, nil
}

// Recheck says whether a session that logged in under an earlier snapshot could still log in: asked for
// each live session after a reload, and when a key expires.
func (s *Snapshot) Recheck(tenantID, keyID string, addr netip.Addr, now time.Time) error {
	t, known := s.TenantByID(tenantID)
	k, listed := s.keys[keyID]
	if !listed {
		k = &Key{}
	}
	if reason := verdict(known, t, k, addr, now); reason != "" {
		return &AuthError{Reason: reason}
	}
	return nil
}

// verdict answers every question before it picks the first that failed. The zero Key is of no tenant.
func verdict(known bool, t Tenant, k *Key, addr netip.Addr, now time.Time) Reason {
	own := k.ID != "" && k.Tenant == t.ID
	revoked := !k.Revoked.IsZero()
	expired := !k.Expires.IsZero() && !now.Before(k.Expires)
	near := k.mayComeFrom(addr)
	removed := t.Removed(now)
	switch {
	case !known:
		return UnknownUser
	case !own:
		return UnknownKey
	case revoked:
		return Revoked
	case expired:
		return Expired
	case !near:
		return Address
	case removed:
		return Removed
	}
	return ""
}

// trust takes the CAs and revoked keys in.
func (s *Snapshot) trust(cas []CA, revoked []Revocation) error {
	s.cas, s.authorities, s.revoked = make(map[string]*CA, len(cas)), map[string][]CA{}, make(map[string]*Revocation, len(revoked))
	slices.SortFunc(cas, func(a, b CA) int { return strings.Compare(a.ID, b.ID) })
	slices.SortStableFunc(cas, func(a, b CA) int { return a.Added.Compare(b.Added) })
	for i := range cas {
		c := &cas[i]
		if _, known := s.byID[c.Tenant]; !known || KeyID(c.PublicKey) != c.ID || len(c.Principals) == 0 {
			return fmt.Errorf("read catalog: CA %q has no tenant, no principal or a wrong id", c.ID)
		}
		s.cas[ownedKey(c.Tenant, c.ID)] = c
		s.authorities[c.Tenant] = append(s.authorities[c.Tenant], *c)
	}
	for i := range revoked {
		s.revoked[ownedKey(revoked[i].Tenant, revoked[i].Key)] = &revoked[i]
	}
	return nil
}

// AllKeys lists a tenant's keys, and behind them its revoked keys that only ever came with certificates.
func (s *Snapshot) AllKeys(tenantID string) []Key {
	var unlisted []Key
	for _, r := range s.revoked {
		if r.Tenant == tenantID {
			unlisted = append(unlisted, r.asKey())
		}
	}
	slices.SortFunc(unlisted, func(a, b Key) int { return cmp.Or(a.Revoked.Compare(b.Revoked), strings.Compare(a.ID, b.ID)) })
	return append(slices.Clip(s.owned[tenantID]), unlisted...)
}

// CAs lists a tenant's CAs in the order added, revoked ones too.
func (s *Snapshot) CAs(tenantID string) []CA { return s.authorities[tenantID] }

// Tenant finds a tenant by name: one that was removed too, until another has its name.
func (s *Snapshot) Tenant(name string) (Tenant, bool) {
	i, ok := s.byName[name]
	if !ok {
		return Tenant{}, false
	}
	return s.tenants[i], true
}

// TenantByID finds a tenant by id, whether it was removed or not.
func (s *Snapshot) TenantByID(id string) (Tenant, bool) {
	i, ok := s.byID[id]
	if !ok {
		return Tenant{}, false
	}
	return s.tenants[i], true
}

// Tenants lists those that were not removed when this was read, sorted by name.
func (s *Snapshot) Tenants() []Tenant { return s.present }

// All lists all that ever were, sorted by name.
func (s *Snapshot) All() []Tenant { return s.tenants }

// Key finds a key by id, revoked ones too.
func (s *Snapshot) Key(id string) (Key, bool) {
	k, ok := s.keys[id]
	if !ok {
		return Key{}, false
	}
	return *k, true
}

// Keys lists a tenant's keys in the order added, revoked ones too.
func (s *Snapshot) Keys(tenantID string) []Key { return s.owned[tenantID] }
