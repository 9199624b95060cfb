package retention

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

const stateFormat = 1

var (
	bucketMeta     = []byte("meta")
	bucketSeen     = []byte("seen")
	bucketSnaps    = []byte("snaps")
	bucketPolicies = []byte("policies")
	bucketFreed    = []byte("freed")
	keyMeta        = []byte("state")
)

// meta is the part of a tenant's state that is one value.
type meta struct {
	Format int          `json:"format"`
	Tenant string       `json:"tenant"`
	Clock  Clock        `json:"clock"`
	Head   journal.Head `json:"head"`       // of the tenant's journal, as far as it was seen
	Chain  journal.Head `json:"chain_head"` // of the own chain, which is never shorter than that
	Told   journal.Head `json:"told_head"`  // how much of the own chain the server has journaled
	Lock   int64        `json:"lock"`       // the longest ever seen, in ns
	Last   time.Time    `json:"last"`       // wall clock of the last run: for people
	// Whole is the age at which the journal was last read from its beginning: -1 for never.
	Whole   time.Duration `json:"whole"`
	Removal *removal      `json:"removal,omitempty"`
}

// policy is a policy that was seen.
type policy struct {
	Policy tenant.Retention `json:"policy"`
	From   time.Duration    `json:"from"`
	Until  time.Duration    `json:"until,omitempty"` // the age at which another one was seen; 0: in force
}

// state is what a tenant's expire remembers. Changes gather in memory; save makes them one transaction.
type state struct {
	db *bbolt.DB
	meta
	seen     []sighting
	snaps    []snap
	policies []policy
	stored   map[journal.Seq]snap // snapshots, as stored
}

// ErrState: it is a state that can not be used: of another tenant, or of a newer vaultd.
var ErrState = errors.New("expire state can not be used")

// openState opens or makes the state of a tenant in dir. bbolt panics where its pages make no sense.
func openState(dir, id string) (_ *state, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open expire state: %w: %v", ErrState, p)
		}
	}()
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	db, err := bbolt.Open(filepath.Join(dir, "state.db"), 0o640, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, berrors.ErrTimeout) {
		return nil, fmt.Errorf("open expire state: %w", ErrBusy)
	}
	if errors.Is(err, berrors.ErrInvalid) || errors.Is(err, berrors.ErrChecksum) || errors.Is(err, berrors.ErrVersionMismatch) {
		err = fmt.Errorf("%w: %w", ErrState, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open expire state: %w", err)
	}
	s := &state{db: db, stored: map[journal.Seq]snap{}, meta: meta{Format: stateFormat, Tenant: id, Whole: -1}}
	if err := s.load(id); err != nil {
		return nil, errors.Join(fmt.Errorf("open expire state: %w", err), db.Close())
	}
	return s, nil
}

func (s *state) load(id string) error {
	if err := s.db.View(func(tx *bbolt.Tx) error { return s.readMeta(tx, id) }); err != nil {
		return err // before anything is written
	}
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for _, b := range [][]byte{bucketMeta, bucketSeen, bucketSnaps, bucketPolicies, bucketFreed} {
			if _, err := tx.CreateBucketIfNotExists(b); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.db.View(func(tx *bbolt.Tx) error {
		err := tx.Bucket(bucketSeen).ForEach(func(k, v []byte) error {
			s.seen = append(s.seen, sighting{journal.Seq(binary.BigEndian.Uint64(k)), time.Duration(binary.BigEndian.Uint64(v))})
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(bucketSnaps).ForEach(func(_, v []byte) error {
			var x snap
			err := json.Unmarshal(v, &x)
			s.snaps = append(s.snaps, x)
			s.stored[x.At] = x
			return err
		})
		if err != nil {
			return err
		}
		return tx.Bucket(bucketPolicies).ForEach(func(_, v []byte) error {
			var p policy
			err := json.Unmarshal(v, &p)
			s.policies = append(s.policies, p)
			return err
		})
	})
}

// readMeta reads the state's one value, if there is one yet, and refuses a state that is not this tenant's or a newer vaultd's.
func (s *state) readMeta(tx *bbolt.Tx, id string) error {
	b := tx.Bucket(bucketMeta)
	if b == nil {
		return nil
	}
	if text := b.Get(keyMeta); text != nil {
		if err := json.Unmarshal(text, &s.meta); err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
	}
	if s.Format > stateFormat {
		return fmt.Errorf("%w: format %d is newer than %d, the newest that this vaultd knows", ErrState, s.Format, stateFormat)
	}
	if s.Tenant != id {
		return fmt.Errorf("%w: it is of %s, not of %s", ErrState, s.Tenant, id)
	}
	return nil
}

func (s *state) close() error { return s.db.Close() }

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// save makes the state stable, with the contents that are freed now. Snapshots before the index from, and sightings
// before seenFrom, are stored already.
func (s *state) save(freed []journal.Freed) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		b, err := json.Marshal(s.meta)
		if err != nil {
			return err
		}
		if err := tx.Bucket(bucketMeta).Put(keyMeta, b); err != nil {
			return err
		}
		seen := tx.Bucket(bucketSeen)
		for i := len(s.seen) - 1; i >= 0; i-- {
			k := number(uint64(s.seen[i].seq))
			if seen.Get(k) != nil {
				break // a sighting never changes
			}
			if err := seen.Put(k, number(uint64(s.seen[i].age))); err != nil {
				return err
			}
		}
		if err := s.saveSnapshots(tx.Bucket(bucketSnaps)); err != nil {
			return err
		}
		if err := putAll(tx.Bucket(bucketPolicies), s.policies, func(i int, _ policy) []byte { return number(uint64(i)) }); err != nil {
			return err
		}
		gone := tx.Bucket(bucketFreed)
		for _, f := range freed {
			if err := gone.Put(f.ID[:], nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// saveSnapshots stores those that are new or changed.
func (s *state) saveSnapshots(b *bbolt.Bucket) error {
	for _, x := range s.snaps {
		if was, ok := s.stored[x.At]; ok && was == x {
			continue
		}
		text, err := json.Marshal(x)
		if err == nil {
			err = b.Put(number(uint64(x.At)), text)
		}
		if err != nil {
			return err
		}
		s.stored[x.At] = x
	}
	return nil
}

// prune forgets the snapshots whose names ended and which the server was told of; not the newest, by which the next ones are dated.
func (s *state) prune() error {
	left := make([]snap, 0, len(s.snaps))
	err := s.db.Update(func(tx *bbolt.Tx) error {
		for i, x := range s.snaps {
			if !x.Dropped || i == len(s.snaps)-1 {
				left = append(left, x)
			} else if err := tx.Bucket(bucketSnaps).Delete(number(uint64(x.At))); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		s.snaps = left
	}
	return err
}

// putAll stores what is different from what is there.
func putAll[T any](b *bbolt.Bucket, list []T, key func(int, T) []byte) error {
	for i, x := range list {
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		k := key(i, x)
		if string(b.Get(k)) == string(text) {
			continue
		}
		if err := b.Put(k, text); err != nil {
			return err
		}
	}
	return nil
}

// freed calls f with a question that is answered from one view of the state: whether a content was freed.
func (s *state) freed(f func(is func(journal.ID) bool) error) error {
	return s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketFreed)
		return f(func(id journal.ID) bool {
			k, _ := b.Cursor().Seek(id[:])
			return string(k) == string(id[:])
		})
	})
}

// policyText is what tells policies apart.
func policyText(p tenant.Retention) string {
	b, err := json.Marshal(p)
	if err != nil {
		panic("internal error: encode policy: " + err.Error())
	}
	return string(b)
}

// sawPolicy notes the policy that is in force, and the longest lock.
func (s *state) sawPolicy(p tenant.Retention) (changed bool) {
	s.Lock = max(s.Lock, int64(p.Lock))
	if n := len(s.policies); n > 0 {
		if policyText(s.policies[n-1].Policy) == policyText(p) {
			return false
		}
		s.policies[n-1].Until = max(s.Clock.Age, 1)
	}
	s.policies = append(s.policies, policy{Policy: p, From: s.Clock.Age})
	return true
}

// inForce lists the policies that count: the present one, and those that were replaced less than coolDown ago.
func (s *state) inForce(coolDown time.Duration) []tenant.Retention {
	var out []tenant.Retention
	for _, p := range s.policies {
		if p.Until == 0 || s.Clock.Age-p.Until < coolDown {
			out = append(out, p.Policy)
		}
	}
	return out
}

// sawSnapshots adds the snapshots that are new. A time is believed between that of the snapshot before, and since, the
// reading of the clock at which it was not there yet (a snapshot's record is the last of its segment), and now. So who
// writes the journal can not spread snapshots over a past that it was silent in, to have those that stand there thinned.
func (s *state) sawSnapshots(list []snap, since time.Time) {
	var last snap
	if n := len(s.snaps); n > 0 {
		last = s.snaps[n-1]
	}
	now := s.Clock.wall(s.Clock.Age)
	for _, x := range list {
		if x.At <= last.At {
			continue
		}
		at := x.Time
		for _, least := range []time.Time{since, last.Time} {
			if at.Before(least) {
				at = least
			}
		}
		if at.After(now) {
			at = now
		}
		x.Time = at.UTC()
		last = x
		s.snaps = append(s.snaps, last)
	}
}
