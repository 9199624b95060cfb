package tenant

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"go.etcd.io/bbolt"

	"vaultd/internal/appendonly"
)

// KeyChange changes a key; nil leaves something as it is.
type KeyChange struct {
	Role                     *appendonly.Role
	From                     *[]netip.Prefix
	Expires                  *time.Time // zero is never
	Path, Comment            *string
	DailyBytes, DailyRecords *int64
}

// SetKey changes a key of a tenant, found by its id or fingerprint. It fails with ErrConflict for one that was revoked: that is
// for ever. Sessions under way are not its business.
func (d *DB) SetKey(tenant, ref string, c KeyChange) (key Key, err error) {
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, tenant)
		if err == nil {
			err = t.alive(d.now())
		}
		if err != nil {
			return err
		}
		if key, err = findKey(tx, t, ref); err != nil {
			return err
		}
		if !key.Revoked.IsZero() {
			return fmt.Errorf("change key %s: was revoked; make a new key: %w", key.Fingerprint, ErrConflict)
		}
		if key, err = c.apply(key); err != nil {
			return err
		}
		if err := put(tx.Bucket(bucketKeys), []byte(key.ID), key); err != nil {
			return err
		}
		return d.log(tx, Entry{What: "key set", Tenant: t.Name, Key: key.ID, Detail: key.terms()})
	})
	if err != nil {
		return Key{}, err
	}
	return key, nil
}

func (c KeyChange) apply(k Key) (Key, error) {
	if c.Role != nil {
		k.Role = *c.Role
	}
	if c.From != nil {
		k.From = *c.From
	}
	if c.Expires != nil {
		k.Expires = c.Expires.UTC()
	}
	if c.Comment != nil {
		k.Comment = cleanComment(*c.Comment)
	}
	if c.DailyBytes != nil {
		k.Daily.Bytes = *c.DailyBytes
	}
	if c.DailyRecords != nil {
		k.Daily.Records = *c.DailyRecords
	}
	var err error
	if c.Path != nil {
		if k.Path, err = cleanRoot(*c.Path); err != nil {
			return k, err
		}
	}
	if k.Role > appendonly.Pull {
		return k, fmt.Errorf("change key: no such role: %w", ErrInvalid)
	}
	return k, k.Daily.check()
}

// cleanRoot returns a key's root as the catalog holds it: "" is the tenant's.
func cleanRoot(p string) (string, error) {
	if p = strings.Trim(p, "/"); p == "" {
		return "", nil
	}
	clean, err := cleanPrefix(p)
	if err != nil {
		return "", fmt.Errorf("path %q of a key: %w", p, err)
	}
	return clean, nil
}

func (c Ceiling) check() error {
	if c.Bytes < 0 || c.Records < 0 {
		return fmt.Errorf("daily ceiling of %d bytes and %d records: negative: %w", c.Bytes, c.Records, ErrInvalid)
	}
	return nil
}
