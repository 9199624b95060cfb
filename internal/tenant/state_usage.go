package tenant

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

var bucketUsage = []byte("usage") // date/tenant id -> what package quota made of it

// UsageDays is how many days of usage are kept: the newest of which anything is known, whatever the clock says, so that one that was set
// to a far future for an hour ends nothing.
const UsageDays = 400

// UsageRow is what is known of one tenant's usage on one day.
type UsageRow struct {
	Date   string // UTC, as time.DateOnly
	Tenant string // its id
	Text   []byte // its meaning is package quota's
}

func (r UsageRow) key() []byte { return []byte(r.Date + "/" + r.Tenant) }

// usageBatch bounds a transaction.
const usageBatch = 5000

// PutUsage keeps rows, each in place of an older one, and lets go of days beyond UsageDays. What is written when it fails in between may be
// written again.
func (s *State) PutUsage(rows []UsageRow) error {
	for len(rows) > 0 {
		n := min(len(rows), usageBatch)
		err := s.update(func(b *bbolt.Bucket) error {
			for _, r := range rows[:n] {
				if _, err := time.Parse(time.DateOnly, r.Date); err != nil || r.Tenant == "" || strings.Contains(r.Tenant, "/") {
					return fmt.Errorf("usage of %q on %q: %w", r.Tenant, r.Date, ErrInvalid)
				}
				if err := b.Put(r.key(), r.Text); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("write usage: %w", err)
		}
		rows = rows[n:]
	}
	for more := true; more; {
		err := s.update(func(b *bbolt.Bucket) (err error) {
			more, err = dropOldUsage(b)
			return err
		})
		if err != nil {
			return fmt.Errorf("drop old usage: %w", err)
		}
	}
	return nil
}

func (s *State) update(f func(*bbolt.Bucket) error) error {
	return guarded(s.path, func() error {
		return s.db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists(bucketUsage)
			if err != nil {
				return err
			}
			return f(b)
		})
	})
}

// dropOldUsage lets go of a batch of what is older than the newest UsageDays days; more says that there may be further.
func dropOldUsage(b *bbolt.Bucket) (more bool, err error) {
	dates := usageDates(b, UsageDays)
	if len(dates) < UsageDays {
		return false, nil
	}
	oldest := []byte(dates[len(dates)-1])
	n := 0
	for c, k := b.Cursor(), []byte(nil); n < usageBatch; n++ {
		if k, _ = c.First(); k == nil || bytes.Compare(k, oldest) >= 0 {
			return false, nil
		}
		if err := c.Delete(); err != nil {
			return false, err
		}
	}
	return true, nil
}

// usageDates are the newest dates of which there are rows, the newest first: one seek for each.
func usageDates(b *bbolt.Bucket, most int) []string {
	var dates []string
	c := b.Cursor()
	for k, _ := c.Last(); k != nil && len(dates) < most; k, _ = c.Prev() {
		date, _, _ := strings.Cut(string(k), "/")
		dates = append(dates, date)
		c.Seek([]byte(date))
	}
	return dates
}

// Usage yields the rows from one date to another, both included, oldest first, of one tenant or (id "") of all, until yield returns false.
// yield must not keep Text, nor write to the state.
func (s *State) Usage(from, to, id string, yield func(UsageRow) bool) error {
	return s.readUsage(func(b *bbolt.Bucket) {
		c := b.Cursor()
		for k, v := c.Seek([]byte(from)); k != nil; {
			date, whose, _ := strings.Cut(string(k), "/")
			if date > to {
				return
			}
			if id == "" || whose == id {
				if !yield(UsageRow{Date: date, Tenant: whose, Text: v}) {
					return
				}
			}
			switch {
			case id == "":
				k, v = c.Next()
			case whose < id: // further on in this day
				k, v = c.Seek([]byte(date + "/" + id))
			default:
				k, v = c.Seek([]byte(date + "0")) // '0' follows '/': the next day
				if k != nil && string(k[:min(len(k), len(date))]) == date {
					return // not of this bucket's making
				}
			}
		}
	})
}

// NewestUsage yields the rows of the newest days of which anything is known, the newest day last.
func (s *State) NewestUsage(days int, yield func(UsageRow) bool) error {
	var dates []string
	if err := s.readUsage(func(b *bbolt.Bucket) { dates = usageDates(b, days) }); err != nil || len(dates) == 0 {
		return err
	}
	return s.Usage(dates[len(dates)-1], dates[0], "", yield)
}

// UsageOn finds one row's text; nil when there is none.
func (s *State) UsageOn(date, id string) (text []byte, err error) {
	err = s.readUsage(func(b *bbolt.Bucket) { text = bytes.Clone(b.Get(UsageRow{Date: date, Tenant: id}.key())) })
	return text, err
}

func (s *State) readUsage(f func(*bbolt.Bucket)) error {
	err := guarded(s.path, func() error {
		return s.db.View(func(tx *bbolt.Tx) error {
			if b := tx.Bucket(bucketUsage); b != nil {
				f(b)
			}
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("read usage: %w", err)
	}
	return nil
}
