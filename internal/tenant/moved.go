package tenant

import (
	"fmt"

	"go.etcd.io/bbolt"
)

// Moved notes in the audit log that a tenant's dataset is in another place now.
func (d *DB) Moved(name, from, to string) error {
	return d.update(func(tx *bbolt.Tx) error {
		t, err := getTenant(tx, name)
		if err != nil {
			return err
		}
		return d.log(tx, Entry{What: "tenant move", Tenant: t.Name, ID: t.ID, Detail: fmt.Sprintf("from %s to %s", from, to)})
	})
}
