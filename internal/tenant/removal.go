package tenant

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// Removal is the end of a tenant, asked for.
//
// Until Due nothing is different, so that an operator who meant another one has lost no backup, and a thief of the operator's
// account has gained nothing that a veto does not take back (who wants pushes to stop at once suspends the tenant). From then
// on its keys are refused, the expire process lets go of its names, and its contents obey lock and holds as all do. The entry
// stays for ever: its id is never used again, its keys never belong to anybody else, and its name only to a tenant that is added
// when nothing is left of it.
type Removal struct {
	Who    string    `json:"who"`
	Why    string    `json:"why,omitempty"`
	Since  time.Time `json:"since"`
	Due    time.Time `json:"due"`
	Buried time.Time `json:"buried,omitzero"` // when another tenant got the name
}

// Removed reports whether the tenant's end has come.
func (t Tenant) Removed(now time.Time) bool { return t.Removal != nil && !now.Before(t.Removal.Due) }

// buried reports whether the tenant's name has gone to another.
func (t Tenant) buried() bool { return t.Removal != nil && !t.Removal.Buried.IsZero() }

// buryKey is the catalog's key of a buried tenant: no name.
func buryKey(id string) []byte { return []byte("/" + id) }

// alive refuses a change of a tenant whose end has come.
func (t Tenant) alive(now time.Time) error {
	if t.Removed(now) {
		return fmt.Errorf("tenant %q: was removed on %s: %w", t.Name, t.Removal.Due.Format(time.RFC3339), ErrConflict)
	}
	return nil
}

// Remove implements Catalog.
func (d *DB) Remove(name string, wait time.Duration) (Tenant, error) {
	return d.edit(name, func(_ *bbolt.Tx, old Tenant) (Tenant, Entry, error) {
		if err := old.alive(d.now()); err != nil {
			return old, Entry{}, err
		}
		if r := old.Removal; r != nil {
			return old, Entry{}, fmt.Errorf("remove %s: was asked for on %s, and is due on %s: %w", name, r.Since.Format(time.RFC3339), r.Due.Format(time.RFC3339), ErrConflict)
		}
		old.Removal = &Removal{Who: d.o.Actor, Why: d.o.Why, Since: d.now(), Due: d.now().Add(wait)}
		return old, Entry{What: "tenant remove", Detail: "waits until " + old.Removal.Due.Format(time.RFC3339), Due: old.Removal.Due}, nil
	})
}

// Veto implements Catalog.
func (d *DB) Veto(name string) (Tenant, error) {
	return d.edit(name, func(_ *bbolt.Tx, old Tenant) (Tenant, Entry, error) {
		if err := old.alive(d.now()); err != nil {
			return old, Entry{}, err
		}
		var what []string
		if old.Pending != nil {
			what = append(what, old.Pending.What...)
		}
		if e := old.Eased; e != nil {
			what = append(what, e.What...)
			old.Retention.Keep, old.Retention.Rules = e.Before.Keep, e.Before.Rules
			for _, h := range e.Before.Holds {
				if !slices.ContainsFunc(old.Retention.Holds, h.same) {
					old.Retention.Holds = append(slices.Clip(old.Retention.Holds), h)
				}
			}
		}
		if old.Removal != nil {
			what = append(what, "removal")
		}
		if len(what) == 0 {
			return old, Entry{}, fmt.Errorf("veto %s: nothing waits: %w", name, ErrNotFound)
		}
		old.Pending, old.Eased, old.Removal = nil, nil, nil
		return old, Entry{What: "tenant veto", Detail: "vetoed: " + strings.Join(what, "; ")}, nil
	})
}

// bury gives a removed tenant's name free, in the transaction of the tenant that gets it.
func (d *DB) bury(tx *bbolt.Tx, old Tenant, id string) error {
	if old.Removed(d.now()) && old.ID != id {
		return fmt.Errorf("add tenant %q: one of this name was removed, and something is left of it: %w", old.Name, ErrConflict)
	}
	if old.ID != id || !old.Removed(d.now()) {
		return fmt.Errorf("add tenant %q: already there: %w", old.Name, ErrConflict)
	}
	r := *old.Removal
	r.Buried = d.now()
	old.Removal = &r
	if err := put(tx.Bucket(bucketTenants), buryKey(id), old); err != nil {
		return err
	}
	return d.log(tx, Entry{What: "tenant bury", Tenant: old.Name, ID: id, Detail: "nothing is left of it; its name goes to a new tenant"})
}

// Notice is something that promises less and waits.
type Notice struct {
	What []string
	Who  string
	Why  string
	Due  time.Time
}

// Notices lists what waits to promise less, for the tenant and for the operator: first what is due first.
func (t Tenant) Notices(now time.Time) []Notice {
	var out []Notice
	if p := t.Pending; p != nil {
		out = append(out, Notice{p.What, p.Who, p.Why, p.Due})
	}
	if e := t.Eased; e != nil && now.Before(e.Until) {
		out = append(out, Notice{e.What, e.Who, e.Why, e.Until})
	}
	if r := t.Removal; r != nil {
		out = append(out, Notice{[]string{"the vault is removed"}, r.Who, r.Why, r.Due})
	}
	slices.SortStableFunc(out, func(a, b Notice) int { return a.Due.Compare(b.Due) })
	return out
}
