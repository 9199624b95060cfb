package journal

import (
	"sync"
	"time"
)

// Added is what a key added: contents, by their charge, and records.
type Added struct {
	Bytes   int64 `json:"bytes"`
	Records int64 `json:"records"`
}

// maxDaily bounds the keys that are counted one by one; all further ones of a day share a count.
const maxDaily = 1 << 14

// daily counts what each key added since the last midnight of UTC, by the records' times. It is derived from the records like
// all of the index, and stored with its state: neither a new connection nor a restart nor a new index begins at nothing.
//
// A day later than the present one begins anew. Where the clock was set back, the counts stay, and begin anew after the day
// that follows the one it was set back to: a clock that goes forward and back again gives a key a day's worth
// early, and takes the next day's for it.
type daily struct {
	mu   sync.Mutex
	day  int64 // since 1970
	keys map[string]Added
}

// storedDaily is daily's form on disk.
type storedDaily struct {
	Day  int64
	Keys map[string]Added `json:",omitempty"`
}

func dayOf(t time.Time) int64 {
	const day = 24 * 60 * 60
	s := t.Unix()
	if s < 0 {
		s -= day - 1
	}
	return s / day
}

// count adds r to its key's day.
func (d *daily) count(r *Record) {
	a := Added{Records: 1}
	switch r.Op {
	case OpCreate, OpNode:
		a.Bytes = Charge(r.Size)
	case OpSession, OpMkdir, OpSymlink, OpLink, OpMove, OpRemove, OpMeta:
	default:
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.roll(r.Time)
	if d.keys == nil {
		d.keys = map[string]Added{}
	}
	key := r.Key
	if _, ok := d.keys[key]; !ok && len(d.keys) >= maxDaily {
		key = ""
	}
	was := d.keys[key]
	d.keys[key] = Added{was.Bytes + a.Bytes, was.Records + a.Records}
}

// roll begins anew when a day has passed. mu is held.
func (d *daily) roll(now time.Time) {
	switch day := dayOf(now); {
	case day > d.day:
		d.day = day
		clear(d.keys)
	case day+1 < d.day: // the clock was set back
		d.day = day + 1
	}
}

func (d *daily) stored() storedDaily {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := storedDaily{Day: d.day, Keys: make(map[string]Added, len(d.keys))}
	for k, a := range d.keys {
		s.Keys[k] = a
	}
	return s
}

// Added returns what key added on the day of now. Anyone may ask at any time.
func (x *Index) Added(key string, now time.Time) Added {
	d := &x.daily
	d.mu.Lock()
	defer d.mu.Unlock()
	d.roll(now)
	a, ok := d.keys[key]
	if !ok && len(d.keys) >= maxDaily {
		a = d.keys[""]
	}
	return a
}
