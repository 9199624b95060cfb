package tenant

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/bbolt"

	"vaultd/internal/push"
)

// StateName is the name, in the store's directory, of what the server learns.
const StateName = "state.db"

const stateVersion = 1

var bucketUsed = []byte("used") // key id, or CertUse -> Use as JSON

// Use is a login.
type Use struct {
	Tenant string    `json:"tenant"` // the tenant's ID
	Time   time.Time `json:"time"`   // UTC
	Remote string    `json:"remote"` // address and port of the client
}

// State holds when each key was last used, and what pushes.go tells. One process, the server, has it open; others ask the server.
// A login costs it a map entry: the file is written every 2 s and at Close, so a crash loses at most that.
type State struct {
	db   *bbolt.DB
	path string
	log  *slog.Logger
	runs func() map[string]Running // nil: none
	stop chan struct{}
	done chan struct{} // closed by the flusher when it has ended

	flushing sync.Mutex   // held over a whole flush, so that an older value never follows a newer one to disk
	broken   func() error // of tests: called in the middle of a write; guarded by flushing

	mu    sync.Mutex      // guards what follows; never held over a write to disk
	used  map[string]Use  // by key id or CertUse; bounded by the catalog, since only verified keys get here
	dirty map[string]bool // keys whose Use is newer than the file's
	ended bool
	knowledge
}

// StateOptions are how a State works; the zero value is usable.
type StateOptions struct {
	Every time.Duration // between writes; 0 is 2 s
	Wait  time.Duration // for the file's lock; 0 is 5 s
	Log   *slog.Logger  // told of failed writes; nil is slog.Default
	// Running returns the pushes under way, by session id, in a map of the caller's. It is called without a lock; nil: there are none.
	Running func() map[string]Running
}

// OpenState opens the state in dir, and makes it if it is missing: it carries no promise. The caller must Close it.
func OpenState(dir string, o StateOptions) (*State, error) {
	if o.Every == 0 {
		o.Every = 2 * time.Second
	}
	if o.Wait == 0 {
		o.Wait = 5 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	s := &State{path: filepath.Join(dir, StateName), log: o.Log, runs: o.Running, stop: make(chan struct{}), done: make(chan struct{}),
		used: map[string]Use{}, dirty: map[string]bool{}}
	if err := guarded(s.path, func() error { return s.load(o.Wait) }); err != nil {
		if s.db != nil {
			err = errors.Join(err, s.db.Close())
		}
		return nil, fmt.Errorf("open state (it may be removed, only last-used times and the history of pushes are lost): %w", err)
	}
	for _, r := range s.cut {
		e := r.Event
		e.Push, e.Result, e.Restorable, e.Why = true, push.Aborted, false, "the server ended before it did"
		s.Session(r.Tenant, e)
	}
	s.cut = nil
	go s.flusher(o.Every)
	return s, nil
}

func (s *State) load(wait time.Duration) (err error) {
	s.db, err = open(s.path, wait, false)
	if errors.Is(err, ErrNotFound) {
		s.db, err = bbolt.Open(s.path, 0o600, &bbolt.Options{Timeout: wait})
	}
	if err != nil {
		return err
	}
	access := s.db.Update
	s.db.View(func(tx *bbolt.Tx) error {
		if tx.Bucket(bucketRunning) != nil { // whole, and of today: reading it needs no write, and no waiting for the disk
			access = s.db.View
		}
		return nil
	})
	return access(func(tx *bbolt.Tx) (err error) {
		defer func() {
			if err == nil {
				s.cut, err = s.knowledge.load(tx)
			}
		}()
		if name, _ := tx.Cursor().First(); name == nil { // new, or a crash came before its first transaction
			meta, err := tx.CreateBucket(bucketMeta)
			if err != nil {
				return err
			}
			if err := meta.Put(keyFormat, []byte(strconv.Itoa(stateVersion))); err != nil {
				return err
			}
			_, err = tx.CreateBucket(bucketUsed)
			return err
		}
		if _, err := checkFormat(tx, s.path, stateVersion); err != nil {
			return err
		}
		return tx.Bucket(bucketUsed).ForEach(func(k, text []byte) error {
			var u Use
			if err := decode(text, &u); err != nil {
				return err
			}
			s.used[string(k)] = u
			return nil
		})
	})
}

// CertUse is what State knows the certificates of a tenant's CA by, all together: there may be a new key with each.
func CertUse(tenantID, caID string) string { return ownedKey(tenantID, caID) }

// Used notes a login with a verified key, or with CertUse. It never waits for the disk.
func (s *State) Used(tenantID, keyID string, at time.Time, remote string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if u, ok := s.used[keyID]; s.ended || ok && at.Before(u.Time) {
		return
	}
	s.used[keyID] = Use{Tenant: tenantID, Time: at.UTC().Round(0), Remote: remote}
	s.dirty[keyID] = true
}

// LastUsed returns the last login of each key, by key id, those not yet written included.
func (s *State) LastUsed() map[string]Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.used)
}

// LastLogins returns the last login of each tenant, by tenant id.
func (s *State) LastLogins() map[string]Use {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := map[string]Use{}
	for _, u := range s.used {
		if l, ok := last[u.Tenant]; !ok || u.Time.After(l.Time) {
			last[u.Tenant] = u
		}
	}
	return last
}

func (s *State) flusher(every time.Duration) {
	defer close(s.done)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			if err := s.Flush(); err != nil {
				s.log.Warn("state not written", "error", err.Error())
			}
		}
	}
}

// Flush writes what is new. What could not be written stays due.
func (s *State) Flush() error {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	var running map[string]Running
	if s.runs != nil {
		running = s.runs() // first: of what ends meanwhile the event counts
	}
	s.mu.Lock()
	batch := make(map[string]Use, len(s.dirty))
	for id := range s.dirty {
		batch[id] = s.used[id]
	}
	clear(s.dirty)
	known, lost := s.take(running), s.lost
	s.lost = 0
	s.mu.Unlock()
	if lost > 0 {
		s.log.Error("push events were dropped: the state could not be written for too long", "events", lost)
	}
	if len(batch) == 0 && known.empty() {
		return nil
	}
	err := guarded(s.path, func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			if s.broken != nil {
				if err := s.broken(); err != nil {
					return err
				}
			}
			for id, u := range batch {
				if err := put(tx.Bucket(bucketUsed), []byte(id), u); err != nil {
					return err
				}
			}
			return known.write(tx)
		})
	})
	if err != nil {
		s.mu.Lock()
		for id := range batch {
			s.dirty[id] = true
		}
		s.giveBack(known)
		s.mu.Unlock()
		return fmt.Errorf("write state: %w", err)
	}
	s.mu.Lock()
	s.taken = nil
	s.mu.Unlock()
	if known.running != nil {
		s.saved = make(map[string]bool, len(known.running))
		for id := range known.running {
			s.saved[id] = true
		}
	}
	return nil
}

// Close writes what is new and gives up the file. A second Close is no error; logins after it are not noted.
func (s *State) Close() error {
	s.mu.Lock()
	ended := s.ended
	s.ended = true
	s.mu.Unlock()
	if ended {
		<-s.done
		return nil
	}
	close(s.stop)
	<-s.done
	return errors.Join(s.Flush(), s.db.Close())
}
