package tenant

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"vaultd/internal/appendonly"
)

var datasetID = regexp.MustCompile(`^t-[a-z2-7]{12}$`)

// AddTenant implements Catalog.
func (d *DB) AddTenant(n NewTenant) (t Tenant, keys []Key, err error) {
	if err := CheckName(n.Name); err != nil {
		return Tenant{}, nil, err
	}
	id := n.ID
	if id == "" {
		id = newID()
	} else if !datasetID.MatchString(id) {
		return Tenant{}, nil, fmt.Errorf("id %q: %w", id, ErrInvalid)
	}
	t = Tenant{ID: id, Name: n.Name, Created: d.now(), Policy: n.Policy, Quota: n.Quota, Schedule: n.Schedule, Retention: n.Retention}
	if err := t.normalize(); err != nil {
		return Tenant{}, nil, err
	}
	err = d.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketTenants)
		if n.ID != "" {
			all, err := readAll[Tenant](b)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(all, func(x Tenant) bool { return x.ID == n.ID }) {
				return fmt.Errorf("id %s is a tenant's already: %w", n.ID, ErrConflict)
			}
		}
		if text := b.Get([]byte(n.Name)); text != nil {
			var old Tenant
			if err := decode(text, &old); err != nil {
				return err
			}
			if err := d.bury(tx, old, n.Over); err != nil {
				return err
			}
		}
		if err := put(b, []byte(n.Name), t); err != nil {
			return err
		}
		detail := fmt.Sprintf("%s; mode: %s; %s", t.ID, t.Policy.Mode, diff(Tenant{Policy: Policy{Mode: t.Policy.Mode}}, t))
		if err := d.log(tx, Entry{What: "tenant add", Tenant: t.Name, Detail: detail}); err != nil {
			return err
		}
		keys, err = d.putKeys(tx, t, n.Keys)
		return err
	})
	if err != nil {
		return Tenant{}, nil, err
	}
	return t, keys, nil
}

// ChangeTenant implements Catalog.
func (d *DB) ChangeTenant(name string, c Change) (Tenant, error) {
	return d.edit(name, func(tx *bbolt.Tx, old Tenant) (Tenant, Entry, error) {
		if lock := (Change{Lock: c.Lock}); c != lock { // what was removed can still be kept for longer
			if err := old.alive(d.now()); err != nil {
				return old, Entry{}, err
			}
		}
		if err := old.waits(c); err != nil {
			return old, Entry{}, err
		}
		t, what, err := c.judge(old)
		if err == nil && len(what) > 0 {
			err = &WeakeningError{Tenant: name, What: what}
		}
		return t, Entry{What: "tenant set"}, err
	})
}

// Weaken implements Catalog.
func (d *DB) Weaken(name string, c Change, wait time.Duration) (Tenant, error) {
	return d.edit(name, func(tx *bbolt.Tx, old Tenant) (Tenant, Entry, error) {
		if err := old.alive(d.now()); err != nil {
			return old, Entry{}, err
		}
		t, what, err := c.judge(old)
		if err != nil || len(what) == 0 {
			return t, Entry{What: "tenant set"}, err
		}
		if old.Pending != nil {
			return t, Entry{}, fmt.Errorf("set %s: another change waits until %s; veto that first: %w", name, old.Pending.Due.Format(time.RFC3339), ErrConflict)
		}
		if c, err = c.storable(); err != nil {
			return t, Entry{}, fmt.Errorf("set %s: %w", name, err)
		}
		old.Pending = &Pending{Change: c, What: what, Who: d.o.Actor, Why: d.o.Why, Since: d.now(), Due: d.now().Add(wait)}
		return old, Entry{What: "tenant set", Due: old.Pending.Due,
			Detail: fmt.Sprintf("waits until %s: %s", old.Pending.Due.Format(time.RFC3339), strings.Join(what, "; "))}, nil
	})
}

// edit makes one change of a tenant, and its audit line: of what is different, and what f says. A change that waited for this
// moment is made first, and has a line of its own.
func (d *DB) edit(name string, f func(*bbolt.Tx, Tenant) (Tenant, Entry, error)) (t Tenant, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		stored, err := getTenant(tx, name)
		if err != nil {
			return err
		}
		old := stored.settled(d.now())
		var e Entry
		if t, e, err = f(tx, old); err != nil {
			return err
		}
		t = d.ease(old, t)
		if more := diff(old, t); more != "" {
			e.Detail = strings.TrimSuffix(more+"; "+e.Detail, "; ")
		}
		if e.Detail == "" {
			return nil
		}
		if err := d.came(tx, stored, old); err != nil {
			return err
		}
		if err := put(tx.Bucket(bucketTenants), []byte(name), t); err != nil {
			return err
		}
		e.Tenant = name
		return d.log(tx, e)
	})
	if err != nil {
		return Tenant{}, err
	}
	return t, nil
}

// came notes that a change that waited is in force.
func (d *DB) came(tx *bbolt.Tx, stored, now Tenant) error {
	if now.Came == nil {
		return nil
	}
	p := stored.Pending
	return d.log(tx, Entry{What: "tenant set in force", Tenant: stored.Name, Due: p.Due,
		Detail: fmt.Sprintf("since %s: %s; asked by %s on %s", p.Due.Format(time.RFC3339), diff(stored, now), p.Who, p.Since.Format(time.RFC3339))})
}

// AddKeys implements Catalog.
func (d *DB) AddKeys(tenant string, list ...NewKey) (keys []Key, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		if err == nil {
			err = t.alive(d.now())
		}
		if err != nil {
			return err
		}
		keys, err = d.putKeys(tx, t, list)
		return err
	})
	if err != nil {
		return nil, err
	}
	return keys, nil
}

// RevokeKey implements Catalog.
func (d *DB) RevokeKey(tenant, ref string) (key Key, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		if err != nil {
			return err
		}
		if key, err = findKey(tx, t, ref); errors.Is(err, ErrNotFound) {
			key, err = d.revokeUnlisted(tx, t, ref, err)
			return err
		} else if err != nil {
			return err
		}
		if !key.Revoked.IsZero() {
			return nil
		}
		key.Revoked = d.now()
		if err := put(tx.Bucket(bucketKeys), []byte(key.ID), key); err != nil {
			return err
		}
		return d.log(tx, Entry{What: "key revoke", Tenant: t.Name, Key: key.ID, Detail: key.Comment})
	})
	if err != nil {
		return Key{}, err
	}
	return key, nil
}

func getTenant(tx *bbolt.Tx, name string) (t Tenant, err error) {
	text := tx.Bucket(bucketTenants).Get([]byte(name))
	if text == nil {
		return Tenant{}, fmt.Errorf("tenant %q: %w", name, ErrNotFound)
	}
	return t, decode(text, &t)
}

func findKey(tx *bbolt.Tx, t Tenant, ref string) (key Key, err error) {
	b := tx.Bucket(bucketKeys)
	text := b.Get([]byte(ref))
	if text == nil && strings.HasPrefix(ref, "SHA256:") {
		all, err := readAll[Key](b)
		if err != nil {
			return Key{}, err
		}
		if i := slices.IndexFunc(all, func(k Key) bool { return k.Fingerprint == ref }); i >= 0 {
			text = b.Get([]byte(all[i].ID))
		}
	}
	if text != nil {
		err = decode(text, &key)
	}
	if err == nil && (text == nil || key.Tenant != t.ID) {
		err = fmt.Errorf("key %q of tenant %s: %w", ref, t.Name, ErrNotFound)
	}
	return key, err
}

// putKeys adds keys to t. A key's id is made from its blob, so that one look-up finds it in any tenant.
func (d *DB) putKeys(tx *bbolt.Tx, t Tenant, list []NewKey) ([]Key, error) {
	b := tx.Bucket(bucketKeys)
	keys := make([]Key, 0, len(list))
	for _, n := range list {
		k, err := d.newKey(t, n)
		if err != nil {
			return nil, err
		}
		if text := b.Get([]byte(k.ID)); text != nil {
			return nil, conflict(tx, k, text)
		}
		if cas, err := readAll[CA](tx.Bucket(bucketCAs)); err != nil {
			return nil, err
		} else if slices.ContainsFunc(cas, func(c CA) bool { return c.ID == k.ID }) {
			return nil, fmt.Errorf("add key %s: is a CA, whose key only signs: %w", k.Fingerprint, ErrConflict)
		}
		if b := tx.Bucket(bucketRevoked); b != nil && b.Get([]byte(ownedKey(t.ID, k.ID))) != nil {
			return nil, fmt.Errorf("add key %s: was revoked in this tenant; make a new key: %w", k.Fingerprint, ErrConflict)
		}
		if n.NoTouch || n.Verify {
			if err := checkTouch(n); err != nil {
				return nil, err
			}
		}
		if err := put(b, []byte(k.ID), k); err != nil {
			return nil, err
		}
		if err := d.log(tx, Entry{What: "key add", Tenant: t.Name, Key: k.ID, Detail: k.terms()}); err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func (d *DB) newKey(t Tenant, n NewKey) (Key, error) {
	if len(n.Public.Blob) == 0 || n.Role > appendonly.Pull {
		return Key{}, fmt.Errorf("add key: no key or no such role: %w", ErrInvalid)
	}
	now := d.now()
	if !n.Expires.IsZero() && !now.Before(n.Expires) {
		return Key{}, fmt.Errorf("add key: expired at %s already: %w", n.Expires.UTC().Format("2006-01-02T15:04:05Z"), ErrInvalid)
	}
	root, err := cleanRoot(n.Path)
	if err == nil {
		err = n.Daily.check()
	}
	if err != nil {
		return Key{}, fmt.Errorf("add key: %w", err)
	}
	comment := n.Public.Comment
	if n.Comment != "" {
		comment = cleanComment(n.Comment)
	}
	return Key{ID: KeyID(n.Public.Blob), Fingerprint: Fingerprint(n.Public.Blob), Tenant: t.ID, Role: n.Role,
		From: n.From, Expires: n.Expires.UTC(), Path: root, Daily: n.Daily, NoTouch: n.NoTouch, Verify: n.Verify, Comment: comment, Added: now, PublicKey: n.Public.Blob}, nil
}

// conflict words why a key can not be added. It is for the operator, who may know of other tenants.
func conflict(tx *bbolt.Tx, k Key, text []byte) error {
	var old Key
	if err := decode(text, &old); err != nil {
		return err
	}
	owner := "another tenant"
	if old.Tenant == k.Tenant {
		owner = "this tenant"
	} else if all, err := readAll[Tenant](tx.Bucket(bucketTenants)); err == nil {
		if i := slices.IndexFunc(all, func(t Tenant) bool { return t.ID == old.Tenant }); i >= 0 {
			owner = "tenant " + all[i].Name
		}
	}
	if !old.Revoked.IsZero() {
		return fmt.Errorf("add key %s: was revoked in %s; make a new key: %w", k.Fingerprint, owner, ErrConflict)
	}
	return fmt.Errorf("add key %s: belongs to %s; make a key for each tenant: %w", k.Fingerprint, owner, ErrConflict)
}

// changeHolds makes one change of a tenant's holds: a removed one's too, which stays as long as it has any.
func (d *DB) changeHolds(name, what, detail string, f func([]Hold) ([]Hold, error)) error {
	return d.changeRetention(name, what, detail, func(r *Retention) (err error) {
		r.Holds, err = f(r.Holds)
		return err
	})
}

// changeRetention makes one change of what a tenant keeps, which promises no less than before or counts only after expire's cool-down.
func (d *DB) changeRetention(name, what, detail string, f func(*Retention) error) error {
	_, err := d.edit(name, func(_ *bbolt.Tx, t Tenant) (Tenant, Entry, error) {
		if err := f(&t.Retention); err != nil {
			return t, Entry{}, err
		}
		var err error
		t.Retention, err = t.Retention.normalized()
		return t, Entry{What: what, Detail: cleanComment(detail)}, err
	})
	return err
}
