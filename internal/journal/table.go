package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/btree"
	bolt "go.etcd.io/bbolt"
)

// table is an ordered map of bytes on disk with the newest changes in memory, so that nobody who
// changes it waits for the disk: changes go into mem; freeze moves mem aside whole; flush writes what
// was frozen in one bbolt transaction. Readers see mem over frozen over bbolt.
//
// It guarantees that the database holds, at any moment and after any crash, exactly the changes up to
// some freeze. It does not guarantee that changes since the last flush survive: the journal does.
//
// A new database gets its name with the first synced flush: until then it is written without waiting for
// the disk, and after a crash it might be anything.
type table struct {
	db   *bolt.DB
	path string // guarded by flushMu; the name that a new database is still to get

	mu     sync.RWMutex // guards the pointers and mem's content; frozen's never changes
	mem    *btree.BTreeG[pair]
	frozen *btree.BTreeG[pair] // nil unless a flush is due or under way

	flushMu sync.Mutex // one flush at a time
}

type pair struct {
	key, value []byte // value nil: deleted
}

var bucket = []byte("index")

func newMem() *btree.BTreeG[pair] {
	return btree.NewG(32, func(a, b pair) bool { return bytes.Compare(a.key, b.key) < 0 })
}

// newSuffix is what a new database is called until it has its name.
const newSuffix = ".new"

// openTable opens or makes the database at path.
func openTable(path string) (*table, error) {
	t := &table{mem: newMem()}
	at := path
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		t.path, at = path, path+newSuffix
		if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open index: %w", err)
		}
	}
	var err error
	t.db, err = openBolt(at)
	return t, err
}

// openBolt opens a database. bbolt panics where its pages make no sense: that is a damaged index like others.
func openBolt(path string) (_ *bolt.DB, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open index: %v", p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		Timeout: 5 * time.Second, FreelistType: bolt.FreelistMapType,
		InitialMmapSize: 64 << 20, // growing it makes readers wait
	})
	if err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	err = db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucketIfNotExists(bucket); return err })
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open index: %w", err), db.Close())
	}
	return db, nil
}

func (t *table) close() error { return t.db.Close() }

// put sets key; a nil value deletes it. The slices are kept.
func (t *table) put(key, value []byte) {
	t.mu.Lock()
	t.mem.ReplaceOrInsert(pair{key, value})
	t.mu.Unlock()
}

// putAll makes several changes at once: no reader sees some of them without the others.
func (t *table) putAll(pairs []pair) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range pairs {
		t.mem.ReplaceOrInsert(p)
	}
}

// pending returns the number of changes that are only in memory.
func (t *table) pending() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.mem.Len()
}

// freeze sets the changes so far aside for flush. It reports false when the previous ones are still there.
func (t *table) freeze() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.frozen != nil {
		return false
	}
	t.frozen, t.mem = t.mem, newMem()
	return true
}

// flush writes what freeze set aside. After an error it is still set aside, and may be tried again.
// Without sync, a database that has no name yet does not wait for the disk.
func (t *table) flush(sync bool) error {
	t.flushMu.Lock()
	defer t.flushMu.Unlock()
	t.mu.RLock()
	frozen := t.frozen
	t.mu.RUnlock()
	if frozen == nil {
		return nil
	}
	sync = sync || t.path == ""
	t.db.NoSync = !sync
	err := t.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucket)
		b.FillPercent = 0.8
		var err error
		frozen.Ascend(func(p pair) bool {
			if p.value == nil {
				err = b.Delete(p.key)
			} else {
				err = b.Put(p.key, p.value)
			}
			return err == nil
		})
		return err
	})
	if err != nil {
		return fmt.Errorf("write index: %w", err)
	}
	if sync && t.path != "" {
		if err := os.Rename(t.path+newSuffix, t.path); err != nil {
			return fmt.Errorf("write index: %w", err)
		}
		t.path = ""
	}
	t.mu.Lock()
	t.frozen = nil
	t.mu.Unlock()
	return nil
}

// get returns the value of key, nil when there is none. The slice is the caller's to read, for ever.
func (t *table) get(key []byte) ([]byte, error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if v, ok := t.inMemory(key); ok {
		return v, nil
	}
	var out []byte
	err := t.db.View(func(tx *bolt.Tx) error {
		out = bytes.Clone(tx.Bucket(bucket).Get(key))
		return nil
	})
	return out, err
}

func (t *table) inMemory(key []byte) ([]byte, bool) {
	for _, m := range []*btree.BTreeG[pair]{t.mem, t.frozen} {
		if m == nil {
			continue
		}
		if p, ok := m.Get(pair{key: key}); ok {
			return p.value, true
		}
	}
	return nil, false
}

// view calls f with the table as it is at this moment.
func (t *table) view(f func(*view) error) error {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.db.View(func(tx *bolt.Tx) error {
		return f(&view{t: t, bucket: tx.Bucket(bucket)})
	})
}

// view is valid during table.view only.
type view struct {
	t      *table
	bucket *bolt.Bucket
}

func (v *view) get(key []byte) []byte {
	if p, ok := v.t.inMemory(key); ok {
		return p
	}
	return bytes.Clone(v.bucket.Get(key))
}

// ascend calls f for each pair from key on, in order, until f returns false. Pairs are valid during
// the call only.
func (v *view) ascend(from []byte, f func(key, value []byte) bool) {
	its := []iterator{newMemIterator(v.t.mem, from), newMemIterator(v.t.frozen, from), newBoltIterator(v.bucket, from)}
	ended := func(it iterator) bool { return it.key() == nil }
	for its = slices.DeleteFunc(its, ended); len(its) > 1; its = slices.DeleteFunc(its, ended) {
		var best []byte
		for _, it := range its { // newest first: on equal keys the first one wins
			if k := it.key(); best == nil || bytes.Compare(k, best) < 0 {
				best = k
			}
		}
		var value []byte
		won := false
		for _, it := range its {
			if bytes.Equal(it.key(), best) {
				if !won {
					value, won = it.value(), true
				}
				it.next()
			}
		}
		if value != nil && !f(best, value) {
			return
		}
	}
	for len(its) == 1 && !ended(its[0]) {
		if value := its[0].value(); value != nil && !f(its[0].key(), value) {
			return
		}
		its[0].next()
	}
}

type iterator interface {
	key() []byte // nil at the end
	value() []byte
	next()
}

// memIterator walks a btree in batches.
type memIterator struct {
	tree  *btree.BTreeG[pair]
	batch []pair
	i     int
}

const memBatch = 64

func newMemIterator(tree *btree.BTreeG[pair], from []byte) *memIterator {
	it := &memIterator{tree: tree}
	it.fill(from, false)
	return it
}

func (it *memIterator) fill(from []byte, after bool) {
	it.batch, it.i = it.batch[:0], 0
	if it.tree == nil {
		return
	}
	it.tree.AscendGreaterOrEqual(pair{key: from}, func(p pair) bool {
		if after && bytes.Equal(p.key, from) {
			return true
		}
		it.batch = append(it.batch, p)
		return len(it.batch) < memBatch
	})
}

func (it *memIterator) key() []byte {
	if it.i >= len(it.batch) {
		return nil
	}
	return it.batch[it.i].key
}

func (it *memIterator) value() []byte { return it.batch[it.i].value }

func (it *memIterator) next() {
	if it.i++; it.i == memBatch {
		it.fill(it.batch[memBatch-1].key, true)
	}
}

type boltIterator struct {
	c    *bolt.Cursor
	k, v []byte
}

func newBoltIterator(b *bolt.Bucket, from []byte) *boltIterator {
	it := &boltIterator{c: b.Cursor()}
	it.k, it.v = it.c.Seek(from)
	return it
}

func (it *boltIterator) key() []byte   { return it.k }
func (it *boltIterator) value() []byte { return it.v }
func (it *boltIterator) next()         { it.k, it.v = it.c.Next() }
