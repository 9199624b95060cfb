package retention

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
)

// Last is what a tenant's expire remembers of its last run.
type Last struct {
	Ran   time.Time // by the wall clock
	Clock time.Time // what the retention clock showed then
}

// ReadLast reads it from dir, beside an expire process that may be at work; fs.ErrNotExist when it has never run. It changes nothing.
func ReadLast(dir string) (Last, error) {
	path := filepath.Join(dir, "state.db")
	if _, err := os.Stat(path); err != nil {
		return Last{}, err
	}
	db, err := bbolt.Open(path, 0, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	if err != nil {
		return Last{}, fmt.Errorf("read expire state: %w", err)
	}
	var m meta
	err = db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketMeta)
		if b == nil || b.Get(keyMeta) == nil {
			return fs.ErrNotExist
		}
		return json.Unmarshal(b.Get(keyMeta), &m)
	})
	return Last{Ran: m.Last, Clock: m.Clock.wall(m.Clock.Age)}, errors.Join(err, db.Close())
}
