package tenant

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"go.etcd.io/bbolt"

	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

// What State knows of tenants, beside logins: their push events, their facts (what the inventory shows of a vault that is closed), and which
// pushes are running.
//
// A session's end costs a few map entries; all is written with the logins, every few seconds, in one transaction. So a crash loses the
// events of those seconds, and of longer pushes that it cut off it leaves events that say so: those that were running when the file was written
// last are aborted. An event that was cut off and one that came to its end are never both of the same session.

var (
	bucketPushes  = []byte("pushes")  // tenant id, event number (8 bytes, big endian) -> push.Event as JSON
	bucketFacts   = []byte("facts")   // tenant id -> inventory.Facts as JSON
	bucketRunning = []byte("running") // session id -> Running as JSON
)

// KeptPushes is how many events are kept of each tenant: the newest.
const KeptPushes = 10_000

// maxPending bounds the events that wait for a disk that takes none.
const maxPending = 100_000

// Running is a push under way: what its event would be if it was cut off now.
type Running struct {
	Tenant string     `json:"tenant"` // the tenant's ID
	Event  push.Event `json:"event"`
}

// runningEvery is how often what runs is written again when no push began or ended.
const runningEvery = time.Minute

// pending is an event that is not yet in the file.
type pending struct {
	tenant string
	event  push.Event
}

// knowledge is what State has of tenants. Its fields are guarded by State.mu, but for what the flusher alone uses.
type knowledge struct {
	facts map[string]inventory.Facts // by tenant id; what they point to is never changed, only replaced
	fresh map[string]bool            // ids whose facts are newer than the file's
	queue []pending                  // events that are newer than the file, oldest first
	taken []pending                  // those before them, which a flush is writing: they are in the file when it has ended
	gone  map[string]bool            // ids of which nothing is kept any more
	lost  uint64                     // events that were dropped from a full queue

	cut     []Running       // pushes that the last process did not see the end of; until OpenState has made events of them
	saved   map[string]bool // sessions in bucketRunning; the flusher's
	savedAt time.Time       // the flusher's
}

// load reads what the inventory needs, and turns pushes that the last process did not see the end of into aborted events.
func (k *knowledge) load(tx *bbolt.Tx) (cut []Running, err error) {
	k.facts, k.fresh, k.gone = map[string]inventory.Facts{}, map[string]bool{}, map[string]bool{}
	if tx.Writable() {
		for _, name := range [][]byte{bucketPushes, bucketFacts, bucketRunning} {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return nil, err
			}
		}
	}
	err = tx.Bucket(bucketFacts).ForEach(func(id, text []byte) error {
		var f inventory.Facts
		if err := json.Unmarshal(text, &f); err != nil {
			return fmt.Errorf("read facts of %q: %w", id, err)
		}
		k.facts[string(id)] = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	k.saved = map[string]bool{}
	err = tx.Bucket(bucketRunning).ForEach(func(id, text []byte) error {
		var r Running
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("read running push %q: %w", id, err)
		}
		k.saved[string(id)] = true
		cut = append(cut, r)
		return nil
	})
	return cut, err
}

// Session takes in a session that has ended: a push is kept, and of others only what was refused counts. It returns the event with its number.
// It never waits for the disk.
func (s *State) Session(tenantID string, e push.Event) push.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return e
	}
	f, denied := s.facts[tenantID], e.Denials()
	if denied > 0 {
		f.Denied = f.Denied.Plus(e)
	}
	if e.Push {
		f.Pushes, e = f.Pushes.Plus(e, KeptPushes)
		s.queue = append(s.queue, pending{tenantID, e})
		if over := len(s.queue) - maxPending; over > 0 {
			s.queue, s.lost = s.queue[over:], s.lost+uint64(over)
		}
	}
	if e.Push || denied > 0 {
		s.facts[tenantID], s.fresh[tenantID] = f, true
	}
	return e
}

// Update changes what is known of a tenant. What the facts point to must be replaced, not changed.
func (s *State) Update(tenantID string, change func(*inventory.Facts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	f := s.facts[tenantID]
	change(&f)
	s.facts[tenantID], s.fresh[tenantID] = f, true
}

// Facts returns what is known of each tenant, by id. What the values point to must not be changed.
func (s *State) Facts() map[string]inventory.Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.facts)
}

// FactsOf returns what is known of one tenant.
func (s *State) FactsOf(tenantID string) inventory.Facts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.facts[tenantID]
}

// Forget drops what is known of a tenant, with its events.
func (s *State) Forget(tenantID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.facts[tenantID]; !known {
		return
	}
	delete(s.facts, tenantID)
	delete(s.fresh, tenantID)
	s.gone[tenantID] = true
	kept := s.queue[:0:0]
	for _, p := range s.queue {
		if p.tenant != tenantID {
			kept = append(kept, p)
		}
	}
	s.queue = kept
}

// PushQuery selects events.
type PushQuery struct {
	Since time.Time
	Limit int // 0: all
}

// Pushes calls yield for a tenant's events, newest first, until it returns false. Those that are not yet written are among them.
func (s *State) Pushes(tenantID string, q PushQuery, yield func(push.Event) bool) error {
	s.mu.Lock()
	var waiting []push.Event
	for _, list := range [][]pending{s.queue, s.taken} {
		for i := len(list) - 1; i >= 0; i-- {
			if list[i].tenant == tenantID {
				waiting = append(waiting, list[i].event)
			}
		}
	}
	first := s.facts[tenantID].Pushes.First
	s.mu.Unlock()
	n, last := 0, ^uint64(0)
	wanted := func(e push.Event) (more bool) {
		if e.Seq >= last || e.Seq < first || e.Time.Before(q.Since) { // the clock may have been set back: later ones are looked at, too
			return true
		}
		last = e.Seq
		n++
		return yield(e) && (q.Limit <= 0 || n < q.Limit)
	}
	for _, e := range waiting {
		if !wanted(e) {
			return nil
		}
	}
	return guarded(s.path, func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucketPushes)
			if b == nil {
				return nil
			}
			c := b.Cursor()
			c.Seek(pushKey(tenantID, ^uint64(0)))
			for k, text := c.Prev(); k != nil && len(k) == len(tenantID)+8 && string(k[:len(tenantID)]) == tenantID; k, text = c.Prev() {
				var e push.Event
				if err := json.Unmarshal(text, &e); err != nil {
					return fmt.Errorf("read push event: %w", err)
				}
				if !wanted(e) {
					return nil
				}
			}
			return nil
		})
	})
}

func pushKey(tenantID string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(tenantID), seq)
}

// batch is what one flush writes.
type batch struct {
	facts   map[string]inventory.Facts
	events  []pending
	gone    []string
	running map[string]Running // nil: as it is in the file
}

func (b *batch) empty() bool {
	return len(b.facts) == 0 && len(b.events) == 0 && len(b.gone) == 0 && b.running == nil
}

// take takes over what is to be written. running is what ran a moment before; mu is held.
func (s *State) take(running map[string]Running) batch {
	b := batch{facts: make(map[string]inventory.Facts, len(s.fresh)), events: s.queue}
	for id := range s.fresh {
		b.facts[id] = s.facts[id]
	}
	for id := range s.gone {
		b.gone = append(b.gone, id)
	}
	clear(s.fresh)
	clear(s.gone)
	s.queue, s.taken = nil, s.queue
	if running == nil {
		running = map[string]Running{}
	}
	for _, p := range b.events { // it ended meanwhile
		delete(running, p.event.Session)
	}
	same := len(running) == len(s.saved)
	for id := range running {
		same = same && s.saved[id]
	}
	if now := time.Now(); !same || len(running) > 0 && now.Sub(s.savedAt).Abs() > runningEvery {
		b.running, s.savedAt = running, now
	}
	return b
}

// giveBack makes what could not be written due again. mu is held.
func (s *State) giveBack(b batch) {
	for id := range b.facts {
		if _, known := s.facts[id]; known {
			s.fresh[id] = true
		}
	}
	for _, id := range b.gone {
		s.gone[id] = true
	}
	s.queue, s.taken = append(b.events, s.queue...), nil
	if over := len(s.queue) - maxPending; over > 0 {
		s.queue, s.lost = s.queue[over:], s.lost+uint64(over)
	}
	if b.running != nil {
		s.savedAt = time.Time{}
	}
}

// write puts a batch into the file.
func (b *batch) write(tx *bbolt.Tx) error {
	pushes, facts := tx.Bucket(bucketPushes), tx.Bucket(bucketFacts)
	for _, p := range b.events {
		if err := put(pushes, pushKey(p.tenant, p.event.Seq), p.event); err != nil {
			return err
		}
	}
	for id, f := range b.facts {
		if err := trim(pushes, id, f.Pushes.First); err != nil {
			return err
		}
		if err := put(facts, []byte(id), f); err != nil {
			return err
		}
	}
	for _, id := range b.gone {
		if err := trim(pushes, id, ^uint64(0)); err != nil {
			return err
		}
		if err := facts.Delete([]byte(id)); err != nil {
			return err
		}
	}
	if b.running == nil {
		return nil
	}
	if err := tx.DeleteBucket(bucketRunning); err != nil {
		return err
	}
	running, err := tx.CreateBucket(bucketRunning)
	for id, r := range b.running {
		if err == nil {
			err = put(running, []byte(id), r)
		}
	}
	return err
}

// trim drops a tenant's events before first.
func trim(b *bbolt.Bucket, id string, first uint64) error {
	c := b.Cursor()
	for k, _ := c.Seek(pushKey(id, 0)); k != nil && len(k) == len(id)+8 && string(k[:len(id)]) == id; k, _ = c.Next() {
		if binary.BigEndian.Uint64(k[len(id):]) >= first {
			return nil
		}
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}
