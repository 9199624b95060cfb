package tenant

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"
)

// FileName is the catalog's name in the store's directory.
const FileName = "vaultd.db"

// formatVersion 2 added retention and what waits; 3 keys with a root and ceilings of their own, removed tenants and reasons: a
// program that does not know these would let in more than it may. An older catalog is read as it is, and migrated by its next change.
const formatVersion = 3

var (
	bucketMeta    = []byte("meta")
	bucketTenants = []byte("tenants")
	bucketKeys    = []byte("keys")
	bucketAudit   = []byte("audit")
	bucketCAs     = []byte("cas")     // missing until there is one
	bucketRevoked = []byte("revoked") // the same
	keyFormat     = []byte("format")
)

// Options are how a DB works; the zero value is usable.
type Options struct {
	Actor  string           // who the audit log names; "" is the OS user
	DryRun bool             // check and answer as if a change were made, and make none
	Wait   time.Duration    // how long to wait for the file's lock; 0 is 5 s
	Now    func() time.Time // nil is time.Now
	// Why is the operator's reason for what is done, for the audit log.
	Why string
	// CoolDown is how long a retention that keeps less does not count yet (see Eased); 0 is 7 days.
	CoolDown time.Duration
	// Migrated is told after a catalog of an older format became one of today's, and where the old one was left; nil: nobody is.
	Migrated func(from, to int, backup string)
}

// DB is the catalog in a bbolt file. It holds no descriptor between calls.
type DB struct {
	path string
	o    Options
}

var _ Catalog = (*DB)(nil)

// New returns the catalog of the store in dir. It touches nothing; a missing file is ErrNotFound later,
// since vaultd never makes a catalog because a path is missing (see Create).
func New(dir string, o Options) *DB {
	if o.Actor == "" {
		o.Actor = osUser()
	}
	if o.Wait == 0 {
		o.Wait = 5 * time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.CoolDown == 0 {
		o.CoolDown = 7 * 24 * time.Hour
	}
	o.Why = cleanComment(o.Why)
	return &DB{path: filepath.Join(dir, FileName), o: o}
}

func osUser() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "uid " + strconv.Itoa(os.Getuid())
}

// Create makes an empty catalog. A catalog that is already there is ErrConflict.
//
// It is written under a name that nobody reads, then linked:
//
//	openat(.vaultd.db.<random>, O_RDWR|O_CREAT|O_EXCL, 0600) ... fdatasync; linkat(..., vaultd.db); unlinkat; fsync(dir)
//
// so that a crash leaves either no catalog or a whole one, and an existing one is never replaced.
func (d *DB) Create() (err error) {
	if d.o.DryRun {
		if _, err := os.Lstat(d.path); err == nil {
			return fmt.Errorf("create catalog %q: already there: %w", d.path, ErrConflict)
		}
		return nil
	}
	dir := filepath.Dir(d.path)
	tmp := filepath.Join(dir, "."+FileName+"."+newID())
	db, err := bbolt.Open(tmp, 0o600, &bbolt.Options{Timeout: d.o.Wait, OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
		return os.OpenFile(name, flag|os.O_EXCL, perm)
	}})
	if err != nil {
		return fmt.Errorf("create catalog: %w", err)
	}
	defer func() { err = errors.Join(err, os.Remove(tmp)) }()
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range [][]byte{bucketMeta, bucketTenants, bucketKeys, bucketAudit} {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		if err := tx.Bucket(bucketMeta).Put(keyFormat, []byte(strconv.Itoa(formatVersion))); err != nil {
			return err
		}
		return d.log(tx, Entry{What: "catalog create"})
	})
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("create catalog: %w", err)
	}
	if err := os.Link(tmp, d.path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create catalog %q: already there: %w", d.path, ErrConflict)
	} else if err != nil {
		return fmt.Errorf("create catalog: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return errors.Join(f.Sync(), f.Close())
}

// open opens a bbolt file that exists and is a plain file.
func open(path string, wait time.Duration, readOnly bool) (*bbolt.DB, error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: wait, ReadOnly: readOnly,
		OpenFile: func(name string, flag int, perm os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag&^os.O_CREATE|unix.O_NOFOLLOW, perm)
		}})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open %q: %w", path, ErrNotFound)
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("open %q: %w", path, ErrBusy)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("open %q: %w: %w", path, ErrFormat, err)
	}
	return nil, fmt.Errorf("open %q: %w", path, err)
}

// checkFormat returns the format that a file has, and refuses what a newer version wrote: reading past a field that restricts a
// key would widen it.
func checkFormat(tx *bbolt.Tx, path string, version int) (int, error) {
	meta := tx.Bucket(bucketMeta)
	if meta == nil {
		return 0, fmt.Errorf("open %q: not a file of vaultd: %w", path, ErrFormat)
	}
	found, err := strconv.Atoi(string(meta.Get(keyFormat)))
	if err != nil || found < 1 {
		return 0, fmt.Errorf("open %q: format %q: %w", path, meta.Get(keyFormat), ErrFormat)
	}
	if found > version {
		return 0, fmt.Errorf("open %q: format %d is newer than %d, the newest that this vaultd reads: %w", path, found, version, ErrFormat)
	}
	return found, nil
}

// guarded turns bbolt's panics on a damaged file, and faults on a truncated mapping, into an error: a
// server that reloads must go on with what it had.
func guarded(path string, f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("read %q: damaged: %v", path, p)
		}
	}()
	return f()
}

// Snapshot implements Reader.
func (d *DB) Snapshot() (s *Snapshot, err error) {
	err = d.view(func(tx *bbolt.Tx) error {
		tenants, err := readAll[Tenant](tx.Bucket(bucketTenants))
		if err != nil {
			return err
		}
		for i := range tenants {
			tenants[i] = tenants[i].settled(d.now())
		}
		if err := expected(tx, tenants); err != nil {
			return err
		}
		keys, err := readAll[Key](tx.Bucket(bucketKeys))
		if err != nil {
			return err
		}
		if s, err = newSnapshot(tx.Bucket(bucketAudit).Sequence(), tenants, keys); err != nil {
			return err
		}
		cas, err := readAll[CA](tx.Bucket(bucketCAs))
		if err != nil {
			return err
		}
		revoked, err := readAll[Revocation](tx.Bucket(bucketRevoked))
		if err != nil {
			return err
		}
		return s.trust(cas, revoked)
	})
	return s, err
}

// Audit calls yield for the audit lines after seq, oldest first, until it returns false.
func (d *DB) Audit(after uint64, yield func(Entry) bool) error {
	return d.view(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketAudit).Cursor()
		for k, v := c.Seek(seqKey(after + 1)); k != nil; k, v = c.Next() {
			var e Entry
			if err := decode(v, &e); err != nil {
				return err
			}
			if !yield(e) {
				return nil
			}
		}
		return nil
	})
}

func (d *DB) view(f func(*bbolt.Tx) error) error {
	return guarded(d.path, func() (err error) {
		db, err := open(d.path, d.o.Wait, true)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }() // after a panic too: the lock goes with it
		return db.View(func(tx *bbolt.Tx) error {
			if _, err := checkFormat(tx, d.path, formatVersion); err != nil {
				return err
			}
			return f(tx)
		})
	})
}

var errDryRun = errors.New("dry run")

// update makes one transaction: all of f and its audit lines, or nothing.
func (d *DB) update(f func(*bbolt.Tx) error) error {
	return guarded(d.path, func() (err error) {
		db, err := open(d.path, d.o.Wait, false)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, db.Close()) }()
		m, err := d.backUp(db)
		if err != nil {
			return err
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			if err := d.migrate(tx, m); err != nil {
				return err
			}
			if err := f(tx); err != nil {
				return err
			}
			if d.o.DryRun {
				return errDryRun
			}
			return nil
		})
		if err == errDryRun {
			return nil
		}
		if err == nil && m.from != formatVersion && d.o.Migrated != nil {
			d.o.Migrated(m.from, formatVersion, m.backup)
		}
		return err
	})
}

// log appends to the audit log, in the transaction of the change itself.
func (d *DB) log(tx *bbolt.Tx, e Entry) error {
	b := tx.Bucket(bucketAudit)
	seq, err := b.NextSequence()
	if err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	e.Seq, e.Time, e.Who, e.Why = seq, d.now(), d.o.Actor, d.o.Why
	if e.Tenant != "" && e.ID == "" {
		t, err := getTenant(tx, e.Tenant)
		if err != nil {
			return fmt.Errorf("write audit log: %w", err)
		}
		e.ID = t.ID
	}
	return put(b, seqKey(seq), e)
}

func (d *DB) now() time.Time { return d.o.Now().UTC().Round(0) }

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func put(b *bbolt.Bucket, key []byte, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %q: %w", key, err)
	}
	return b.Put(key, text)
}

// decode refuses unknown fields for the same reason as checkFormat refuses unknown versions.
func decode(text []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("read catalog: %w", err)
	}
	return nil
}

func readAll[T any](b *bbolt.Bucket) ([]T, error) {
	list := make([]T, 0, 16)
	if b == nil {
		return list, nil
	}
	return list, b.ForEach(func(_, text []byte) error {
		var v T
		err := decode(text, &v)
		list = append(list, v)
		return err
	})
}
