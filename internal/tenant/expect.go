package tenant

import (
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"

	"vaultd/internal/expect"
)

// bucketExpect holds what the operator expects of tenants' backups: tenant id -> []expect.Rule as JSON. It is missing until there is one. It
// promises clients nothing, so that a vaultd that does not know it may use the catalog all the same.
var bucketExpect = []byte("expect")

// Expect sets a tenant's expectation of the path that r names, in place of one that it has of that, or, with clear, ends it. It returns the
// tenant's expectations as they are then. One that is as it was is no error, and leaves no audit line.
func (d *DB) Expect(name string, r expect.Rule, clear bool) (list []expect.Rule, err error) {
	own, err := r.Normalize()
	if err != nil && !clear {
		return nil, fmt.Errorf("expect of %s: %w: %w", name, ErrInvalid, err)
	}
	own.Default, own.Since = false, d.now()
	own.Note = cleanComment(own.Note)
	err = d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, name)
		if err == nil {
			err = t.alive(d.now())
		}
		if err != nil {
			return err
		}
		b, err := tx.CreateBucketIfNotExists(bucketExpect)
		if err != nil {
			return err
		}
		if list, err = rulesOf(b, t.ID); err != nil {
			return err
		}
		i := slices.IndexFunc(list, func(x expect.Rule) bool { return x.Path == own.Path })
		e := Entry{What: "tenant expect", Tenant: t.Name, Detail: own.String()}
		switch {
		case clear && i < 0:
			return fmt.Errorf("expectation of %q: %w", own.Path, ErrNotFound)
		case clear:
			e.Detail = "no more: " + list[i].String()
			list = slices.Delete(list, i, i+1)
		case i >= 0:
			if own.Since = list[i].Since; list[i] == own {
				return nil
			}
			list[i] = own
		case len(list) >= expect.MaxRules:
			return fmt.Errorf("expect of %s: %d expectations of at most %d: %w", name, len(list), expect.MaxRules, ErrInvalid)
		default:
			list = append(list, own)
			slices.SortFunc(list, func(a, b expect.Rule) int { return strings.Compare(a.Path, b.Path) })
		}
		if err := put(b, []byte(t.ID), list); err != nil {
			return err
		}
		return d.log(tx, e)
	})
	return list, err
}

// rulesOf reads a tenant's expectations; b may be nil.
func rulesOf(b *bbolt.Bucket, id string) (list []expect.Rule, err error) {
	if b == nil {
		return nil, nil
	}
	if text := b.Get([]byte(id)); text != nil {
		err = decode(text, &list)
	}
	return list, err
}

// expected gives tenants their expectations.
func expected(tx *bbolt.Tx, tenants []Tenant) (err error) {
	b := tx.Bucket(bucketExpect)
	for i := 0; i < len(tenants) && b != nil && err == nil; i++ {
		tenants[i].Expect, err = rulesOf(b, tenants[i].ID)
	}
	return err
}

// watched are the directories of a tenant's expectations.
func (t Tenant) watched() (dirs []string) {
	for _, r := range t.Expect {
		if r.Path != "" {
			dirs = append(dirs, r.Path)
		}
	}
	return dirs
}
