package tenant

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Retention says what of a tenant's past is kept, and for how long. The expire process (package retention) carries it out, and
// remembers what it was: what is shortened here counts as it was for another week.
type Retention struct {
	Lock  time.Duration `json:"lock_ns"`         // nothing is freed sooner after it ended; only ever longer
	Keep  *Keep         `json:"keep,omitempty"`  // which instants stay; nil: all, for ever
	Rules []ExpireRule  `json:"rules,omitempty"` // live files that go by age
	Holds []Hold        `json:"holds,omitempty"` // snapshots that stay whatever the schedule says
	Pause *Pause        `json:"pause,omitempty"` // nothing goes at all while it is there
}

// Pause stops expire for a tenant: for as long as somebody is in doubt whether what is newest is also good.
type Pause struct {
	Reason string    `json:"reason"`
	Who    string    `json:"who"`
	Since  time.Time `json:"since"`
}

// Keep is a schedule: the newest snapshot of each of the last so many hours (days, …) that have one.
type Keep struct {
	Hourly  int `json:"hourly"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
	Yearly  int `json:"yearly"`
}

// ExpireRule lets files below a directory go once they are old: counted from when the expire process first saw them.
type ExpireRule struct {
	Prefix string        `json:"prefix"` // cleaned; "" is everything
	After  time.Duration `json:"after_ns"`
}

func (r ExpireRule) String() string {
	return fmt.Sprintf("/%s older than %s", r.Prefix, Days(r.After))
}

// Hold keeps a snapshot.
type Hold struct {
	Snapshot string    `json:"snapshot"`
	At       uint64    `json:"at"` // its instant
	Reason   string    `json:"reason"`
	Who      string    `json:"who"`
	Since    time.Time `json:"since"`
}

// DefaultRetention is what a new tenant gets: a month in which nothing goes, then a schedule.
func DefaultRetention() Retention {
	return Retention{Lock: 30 * 24 * time.Hour, Keep: &Keep{Hourly: 24, Daily: 30, Weekly: 12, Monthly: 24, Yearly: 5}}
}

// MinLock keeps what was removed by mistake for as long as it takes to notice.
const MinLock = time.Hour

// The most that a schedule may ask for, and of rules and holds.
const (
	maxKeep  = 100_000
	maxRules = 64
	maxHolds = 10_000
)

// ParseKeep reads "hourly=24,daily=30"; what is not named is 0. "all" keeps everything: nil.
func ParseKeep(s string) (*Keep, error) {
	if s == "all" {
		return nil, nil
	}
	k := &Keep{}
	fields := map[string]*int{"hourly": &k.Hourly, "daily": &k.Daily, "weekly": &k.Weekly, "monthly": &k.Monthly, "yearly": &k.Yearly}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		to := fields[name]
		n, err := strconv.Atoi(value)
		if !ok || to == nil || err != nil || n < 0 || n > maxKeep {
			return nil, fmt.Errorf("schedule %q: want all, or such as hourly=24,daily=30,weekly=12,monthly=24,yearly=5: %w", s, ErrInvalid)
		}
		*to = n
	}
	return k, nil
}

func (k *Keep) String() string {
	if k == nil {
		return "all"
	}
	var s []string
	for _, f := range []struct {
		name string
		n    int
	}{{"hourly", k.Hourly}, {"daily", k.Daily}, {"weekly", k.Weekly}, {"monthly", k.Monthly}, {"yearly", k.Yearly}} {
		if f.n > 0 {
			s = append(s, fmt.Sprintf("%s=%d", f.name, f.n))
		}
	}
	if len(s) == 0 {
		return "daily=0"
	}
	return strings.Join(s, ",")
}

// Days is a duration in days where it is a whole number of them.
func Days(d time.Duration) string {
	if day := 24 * time.Hour; d > 0 && d%day == 0 {
		return fmt.Sprintf("%dd", d/day)
	}
	return d.String()
}

// normalized returns a checked copy.
func (r Retention) normalized() (Retention, error) {
	var faults []error
	bad := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	if r.Lock < 0 {
		bad("lock %v: negative: %w", r.Lock, ErrInvalid)
	}
	if r.Keep != nil && r.Lock < MinLock {
		bad("lock %v: at least %v where a schedule lets something go: %w", r.Lock, MinLock, ErrInvalid)
	}
	if len(r.Rules) > maxRules {
		bad("rules: %d of at most %d: %w", len(r.Rules), maxRules, ErrInvalid)
	}
	if len(r.Holds) > maxHolds {
		bad("holds: %d of at most %d: %w", len(r.Holds), maxHolds, ErrInvalid)
	}
	rules := []ExpireRule{}
	for _, x := range r.Rules {
		if strings.Trim(x.Prefix, "/") == "" {
			x.Prefix = ""
		} else if clean, err := cleanPrefix(x.Prefix); err != nil {
			bad("rule %q: %w", x.Prefix, err)
		} else {
			x.Prefix = clean
		}
		if x.After < MinLock {
			bad("rule %q: %v: at least %v: %w", x.Prefix, x.After, MinLock, ErrInvalid)
		}
		rules = append(rules, x)
	}
	r.Rules = rules
	if len(rules) == 0 {
		r.Rules = nil
	}
	if r.Keep != nil {
		for _, n := range []int{r.Keep.Hourly, r.Keep.Daily, r.Keep.Weekly, r.Keep.Monthly, r.Keep.Yearly} {
			if n < 0 || n > maxKeep {
				bad("schedule %v: want 0 to %d of each: %w", r.Keep, maxKeep, ErrInvalid)
				break
			}
		}
	}
	return r, errors.Join(faults...)
}

// Hold implements Catalog.
func (d *DB) Hold(name string, h Hold) error {
	h.Who, h.Since = d.o.Actor, d.now()
	return d.changeHolds(name, "snapshot hold", h.Snapshot+": "+h.Reason, func(list []Hold) ([]Hold, error) {
		if h.Reason == "" {
			return nil, fmt.Errorf("hold %s: say why: %w", h.Snapshot, ErrInvalid)
		}
		if slices.ContainsFunc(list, func(x Hold) bool { return x.Snapshot == h.Snapshot && x.Reason == h.Reason }) {
			return nil, fmt.Errorf("hold %s: held for that reason already: %w", h.Snapshot, ErrConflict)
		}
		return append(slices.Clip(list), h), nil
	})
}

// Release implements Catalog.
func (d *DB) Release(name, snapshot, reason string) error {
	return d.changeHolds(name, "snapshot release", snapshot+": "+reason, func(list []Hold) ([]Hold, error) {
		left := slices.DeleteFunc(slices.Clone(list), func(x Hold) bool { return x.Snapshot == snapshot && (reason == "" || x.Reason == reason) })
		if len(left) == len(list) {
			return nil, fmt.Errorf("release %s: no such hold: %w", snapshot, ErrNotFound)
		}
		return left, nil
	})
}

// Pause implements Catalog.
func (d *DB) Pause(name, reason string) error {
	if reason == "" {
		return fmt.Errorf("pause %s: say why: %w", name, ErrInvalid)
	}
	return d.changeRetention(name, "expire pause", reason, func(r *Retention) error {
		if r.Pause != nil {
			return fmt.Errorf("pause %s: paused already, by %s: %s: %w", name, r.Pause.Who, r.Pause.Reason, ErrConflict)
		}
		r.Pause = &Pause{Reason: reason, Who: d.o.Actor, Since: d.now()}
		return nil
	})
}

// Resume implements Catalog.
func (d *DB) Resume(name string) error {
	return d.changeRetention(name, "expire resume", "nothing is paused any more", func(r *Retention) error {
		if r.Pause == nil {
			return fmt.Errorf("resume %s: it is not paused: %w", name, ErrConflict)
		}
		r.Pause = nil
		return nil
	})
}
