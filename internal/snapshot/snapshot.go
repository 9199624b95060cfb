// Package snapshot decides when a tenant's snapshots are taken.
//
// A snapshot is a name for an instant of a tenant's journal; taking one is the vault's business. Here
// is only the clockwork: cron lines, each with the tenants that asked for it, and the rule that the
// ends of pushes make at most one snapshot a minute.
//
// It guarantees that a line that was due while the server was down is due once when it is back. It
// does not take snapshots, and nothing here, or reachable from here, can end one.
//
// Concurrency: Clock is used by one goroutine, Pushes by many.
package snapshot

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/adhocore/gronx"
)

// Clock tells which schedule lines are due.
type Clock struct {
	last map[string]time.Time // when each line was last due, as far as is known
}

// NewClock goes on from what Last returned in an earlier process; nil is a new store.
func NewClock(last map[string]time.Time) *Clock {
	c := &Clock{last: map[string]time.Time{}}
	for line, t := range last {
		c.last[line] = t
	}
	return c
}

// Due returns those of lines that have come due since they were last asked about. A line that was
// never asked about is not due, and is from now on. A clock that was set back makes nothing due twice
// within the hour it repeats.
func (c *Clock) Due(lines []string, now time.Time) ([]string, error) {
	var due []string
	for _, line := range lines {
		prev, err := gronx.PrevTickBefore(line, now, true)
		if err != nil {
			return due, fmt.Errorf("schedule %q: %w", line, err)
		}
		last, known := c.last[line]
		if known && !prev.After(last) {
			continue
		}
		c.last[line] = prev
		if known {
			due = append(due, line)
		}
	}
	return due, nil
}

// Last is what NewClock needs after a restart.
func (c *Clock) Last() map[string]time.Time { return c.last }

// Name is a snapshot's name: the server's time to the second and what it was taken for. It has no
// colons, which scp takes for a host.
func Name(t time.Time, kind string) string {
	return t.UTC().Format("2006-01-02T15-04-05Z") + "-" + kind
}

// Kind is what a schedule line is called in a snapshot's name and kind.
func Kind(line string) string {
	if name, ok := strings.CutPrefix(line, "@"); ok {
		return name
	}
	return "scheduled"
}

// PushGap is the least time between two snapshots at the ends of pushes.
const PushGap = time.Minute

// Pushes coalesces the snapshots that the ends of one tenant's pushes ask for.
type Pushes struct {
	mu   sync.Mutex
	last time.Time
	due  bool
}

// Ended reports whether the push that has just ended gets its snapshot at once. If not, Waiting says so later.
func (p *Pushes) Ended(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.last).Abs() < PushGap {
		p.due = true
		return false
	}
	p.last, p.due = now, false
	return true
}

// Waiting reports, once, that pushes have ended since the last snapshot and its minute is over.
func (p *Pushes) Waiting(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.due || now.Sub(p.last).Abs() < PushGap {
		return false
	}
	p.last, p.due = now, false
	return true
}

// Pending reports whether a push waits for its snapshot.
func (p *Pushes) Pending() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.due
}
