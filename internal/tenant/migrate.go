package tenant

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// migration is a catalog on its way to today's format.
type migration struct {
	from   int
	backup string // where the file as it was is; "" when nothing is migrated
}

// backUp looks at a catalog before it is changed. Of one that has an older format it leaves a copy beside it:
//
//	openat(vaultd.db.format-N.new, O_TRUNC|O_CREAT, 0600) ... fsync; rename to vaultd.db.format-N; fsync(dir)
//
// It is whole before the first byte of the catalog changes. A crash in between makes it again.
func (d *DB) backUp(db *bbolt.DB) (m migration, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		if m.from, err = checkFormat(tx, d.path, formatVersion); err != nil || m.from == formatVersion || d.o.DryRun {
			return err
		}
		m.backup = fmt.Sprintf("%s.format-%d", d.path, m.from)
		f, err := os.OpenFile(m.backup+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
		if err == nil {
			_, err = tx.WriteTo(f)
			err = errors.Join(err, f.Sync(), f.Close())
		}
		if err == nil {
			err = os.Rename(m.backup+".new", m.backup)
		}
		if err == nil {
			err = syncDir(filepath.Dir(m.backup))
		}
		if err != nil {
			return fmt.Errorf("back up the catalog of format %d before it is migrated: %w", m.from, err)
		}
		return nil
	})
	return m, err
}

// migrate makes the catalog one of today's format, in the transaction of the change that needs it. What the formats added is absent
// in older entries, and reads as what it was before: so there is nothing to rewrite.
func (d *DB) migrate(tx *bbolt.Tx, m migration) error {
	if m.from == formatVersion {
		return nil
	}
	if err := tx.Bucket(bucketMeta).Put(keyFormat, []byte(strconv.Itoa(formatVersion))); err != nil {
		return err
	}
	return d.log(tx, Entry{What: "catalog migrate", Detail: fmt.Sprintf("format %d -> %d; as it was: %s", m.from, formatVersion, filepath.Base(m.backup))})
}
