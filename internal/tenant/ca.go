package tenant

import (
	"encoding/base64"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"go.etcd.io/bbolt"
)

// CA is a key that lets nobody in itself: the certificates that it signs do, as one tenant and on the terms of its Key. A CA
// key may serve several tenants, each of which names it; it is never one that logs in, whose thief would else make keys for
// himself that its revocation does not end. It is never removed, only revoked.
type CA struct {
	Key
	Principals []string `json:"principals"`                // a certificate must name one of them; never empty
	Serials    []uint64 `json:"revoked_serials,omitempty"` // certificates that are refused; sorted
	KeyIDs     []string `json:"revoked_key_ids,omitempty"` // the same by the id that the CA gave them; sorted
}

// NewCA is what an operator says of a new CA.
type NewCA struct {
	NewKey
	Principals []string // none is the tenant's name, as sshd takes the user's
}

// Revocation is the key of certificates that a tenant refuses, though its CAs may go on signing them.
type Revocation struct {
	Key         string    `json:"key"`                   // KeyID
	Fingerprint string    `json:"fingerprint,omitempty"` // "" when only the id was given
	Tenant      string    `json:"tenant"`                // the tenant's ID
	Time        time.Time `json:"time"`                  // UTC
}

// Certs names certificates of one CA; the zero value is all of them, and the CA itself.
type Certs struct {
	Serials []uint64
	KeyIDs  []string
}

const (
	maxPrincipals = 64
	maxNamed      = 4096 // revoked serials and key ids of one CA: then it is time for a new one
)

func (d *DB) newCA(t Tenant, n NewCA) (CA, error) {
	k, err := d.newKey(t, n.NewKey)
	if err != nil {
		return CA{}, fmt.Errorf("add CA: %w", err)
	}
	if len(n.Principals) == 0 {
		n.Principals = []string{t.Name}
	}
	if len(n.Principals) > maxPrincipals {
		return CA{}, fmt.Errorf("add CA: %d principals of at most %d: %w", len(n.Principals), maxPrincipals, ErrInvalid)
	}
	for _, p := range n.Principals {
		if p == "" || len(p) > 255 || strings.ContainsFunc(p, func(r rune) bool { return !unicode.IsPrint(r) || r == ' ' || r == ',' }) {
			return CA{}, fmt.Errorf("add CA: principal %q: want printable text without blanks and commas: %w", p, ErrInvalid)
		}
	}
	principals := slices.Clone(n.Principals)
	slices.Sort(principals)
	return CA{Key: k, Principals: slices.Compact(principals)}, nil
}

// AddCAs implements Catalog.
func (d *DB) AddCAs(tenant string, list ...NewCA) ([]CA, error) {
	_, cas, err := d.Import(tenant, nil, list)
	return cas, err
}

// Import implements Catalog.
func (d *DB) Import(tenant string, list []NewKey, authorities []NewCA) (keys []Key, cas []CA, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		if err == nil {
			err = t.alive(d.now())
		}
		if err != nil {
			return err
		}
		if keys, err = d.putKeys(tx, t, list); err != nil {
			return err
		}
		cas, err = d.putCAs(tx, t, authorities)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	return keys, cas, nil
}

// Try says of each key and CA whether Import would take it, together with those before it. It changes nothing.
func (d *DB) Try(tenant string, list []NewKey, authorities []NewCA) (keys, cas []error, err error) {
	dry := *d
	dry.o.DryRun = true
	keys, cas = make([]error, len(list)), make([]error, len(authorities))
	err = dry.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		for i := 0; i < len(list) && err == nil; i++ {
			_, keys[i] = dry.putKeys(tx, t, list[i:i+1])
		}
		for i := 0; i < len(authorities) && err == nil; i++ {
			_, cas[i] = dry.putCAs(tx, t, authorities[i:i+1])
		}
		return err
	})
	return keys, cas, err
}

// ownedKey is the key, in the buckets of CAs and of revoked keys, of what is a tenant's by an id.
func ownedKey(tenantID, id string) string { return tenantID + "/" + id }

func (d *DB) putCAs(tx *bbolt.Tx, t Tenant, list []NewCA) ([]CA, error) {
	cas := make([]CA, 0, len(list))
	if len(list) == 0 {
		return cas, nil
	}
	b, err := tx.CreateBucketIfNotExists(bucketCAs)
	if err != nil {
		return nil, err
	}
	for _, n := range list {
		ca, err := d.newCA(t, n)
		if err != nil {
			return nil, err
		}
		if tx.Bucket(bucketKeys).Get([]byte(ca.ID)) != nil {
			return nil, fmt.Errorf("add CA %s: is a key that logs in, or did; a CA's only signs: %w", ca.Fingerprint, ErrConflict)
		}
		at := []byte(ownedKey(t.ID, ca.ID))
		if text := b.Get(at); text != nil {
			var old CA
			if err := decode(text, &old); err != nil {
				return nil, err
			}
			if !old.Revoked.IsZero() {
				return nil, fmt.Errorf("add CA %s: was revoked in this tenant; make a new one: %w", ca.Fingerprint, ErrConflict)
			}
			return nil, fmt.Errorf("add CA %s: is this tenant's already: %w", ca.Fingerprint, ErrConflict)
		}
		if err := put(b, at, ca); err != nil {
			return nil, err
		}
		detail := fmt.Sprintf("principals: %q; %s", ca.Principals, ca.terms())
		if err := d.log(tx, Entry{What: "ca add", Tenant: t.Name, Key: ca.ID, Detail: detail}); err != nil {
			return nil, err
		}
		cas = append(cas, ca)
	}
	return cas, nil
}

// RevokeCA implements Catalog.
func (d *DB) RevokeCA(tenant, ref string, only Certs) (ca CA, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		if err != nil {
			return err
		}
		if ca, err = findCA(tx, t, ref); err != nil {
			return err
		}
		detail := ca.Comment
		switch {
		case len(only.Serials)+len(only.KeyIDs) > 0:
			if detail, err = ca.refuse(only); err != nil {
				return err
			}
		case ca.Revoked.IsZero():
			ca.Revoked = d.now()
		default:
			return nil
		}
		if detail == "" && ca.Revoked.IsZero() {
			return nil
		}
		if err := put(tx.Bucket(bucketCAs), []byte(ownedKey(t.ID, ca.ID)), ca); err != nil {
			return err
		}
		return d.log(tx, Entry{What: "ca revoke", Tenant: t.Name, Key: ca.ID, Detail: detail})
	})
	if err != nil {
		return CA{}, err
	}
	return ca, nil
}

// refuse adds certificates to those that are refused, and words what is new.
func (c *CA) refuse(only Certs) (string, error) {
	var what []string
	for _, n := range only.Serials {
		if !slices.Contains(c.Serials, n) {
			c.Serials = append(c.Serials, n)
			what = append(what, fmt.Sprintf("serial %d", n))
		}
	}
	for _, id := range only.KeyIDs {
		if id == "" || len(id) > 1024 {
			return "", fmt.Errorf("revoke certificates: key id %q: %w", clipText(id), ErrInvalid)
		}
		if !slices.Contains(c.KeyIDs, id) {
			c.KeyIDs = append(c.KeyIDs, id)
			what = append(what, "key id "+quoteWord(id))
		}
	}
	if len(c.Serials)+len(c.KeyIDs) > maxNamed {
		return "", fmt.Errorf("revoke certificates: over %d of one CA; revoke the CA and make a new one: %w", maxNamed, ErrInvalid)
	}
	slices.Sort(c.Serials)
	slices.Sort(c.KeyIDs)
	return strings.Join(what, ", "), nil
}

func findCA(tx *bbolt.Tx, t Tenant, ref string) (CA, error) {
	all, err := readAll[CA](tx.Bucket(bucketCAs))
	if err != nil {
		return CA{}, err
	}
	i := slices.IndexFunc(all, func(c CA) bool { return c.Tenant == t.ID && (c.ID == ref || c.Fingerprint == ref) })
	if i < 0 {
		return CA{}, fmt.Errorf("CA %q of tenant %s: %w", ref, t.Name, ErrNotFound)
	}
	return all[i], nil
}

var idShape = regexp.MustCompile(`^[A-Za-z0-9_-]{16}$`)

// parseRef reads a key's id or fingerprint. The id is made of the first bytes of what the fingerprint shows.
func parseRef(ref string) (id, fingerprint string, ok bool) {
	if b64, is := strings.CutPrefix(ref, "SHA256:"); is {
		sum, err := base64.RawStdEncoding.Strict().DecodeString(b64)
		if err != nil || len(sum) != 32 {
			return "", "", false
		}
		return base64.RawURLEncoding.EncodeToString(sum[:12]), ref, true
	}
	return ref, "", idShape.MatchString(ref)
}

// revokeUnlisted refuses a key that the catalog does not list as t's: it can only come with a certificate. Only of a tenant that
// has a CA, since elsewhere a reference that is not found is a mistake.
func (d *DB) revokeUnlisted(tx *bbolt.Tx, t Tenant, ref string, cause error) (Key, error) {
	id, fingerprint, ok := parseRef(ref)
	cas, err := readAll[CA](tx.Bucket(bucketCAs))
	if err != nil {
		return Key{}, err
	}
	if !ok || !slices.ContainsFunc(cas, func(c CA) bool { return c.Tenant == t.ID }) {
		return Key{}, cause
	}
	if slices.ContainsFunc(cas, func(c CA) bool { return c.Tenant == t.ID && c.ID == id }) {
		return Key{}, fmt.Errorf("key %q of tenant %s is a CA, for vaultd ca revoke: %w", ref, t.Name, ErrNotFound)
	}
	b, err := tx.CreateBucketIfNotExists(bucketRevoked)
	if err != nil {
		return Key{}, err
	}
	at := []byte(ownedKey(t.ID, id))
	r := Revocation{Key: id, Fingerprint: fingerprint, Tenant: t.ID, Time: d.now()}
	if text := b.Get(at); text != nil {
		if err := decode(text, &r); err != nil {
			return Key{}, err
		}
	} else {
		if err := put(b, at, r); err != nil {
			return Key{}, err
		}
		if err := d.log(tx, Entry{What: "key revoke", Tenant: t.Name, Key: id, Detail: "comes with certificates only; " + fingerprint}); err != nil {
			return Key{}, err
		}
	}
	return r.asKey(), nil
}

func (r Revocation) asKey() Key {
	return Key{ID: r.Key, Fingerprint: r.Fingerprint, Tenant: r.Tenant, Revoked: r.Time, Comment: "(comes with certificates only)"}
}
