package retention

import (
	"slices"
	"sort"
	"strings"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

// Why is a set of reasons for which something is kept.
type Why uint16

// The reasons.
const (
	Locked Why = 1 << iota
	Hourly
	Daily
	Weekly
	Monthly
	Yearly
	Held
	Everything // the tenant has no schedule
	Newest     // it stands in the newest snapshot
	Damaged    // it is damaged: evidence; or it is the last good version of what is
)

var whyNames = []string{"lock", "hourly", "daily", "weekly", "monthly", "yearly", "hold", "no schedule", "newest", "damage"}

// Reasons are the single reasons, in order.
func Reasons() []Why {
	out := make([]Why, len(whyNames))
	for i := range out {
		out[i] = 1 << i
	}
	return out
}

func (w Why) String() string {
	var s []string
	for i, name := range whyNames {
		if w&(1<<i) != 0 {
			s = append(s, name)
		}
	}
	return strings.Join(s, "+")
}

// snap is a snapshot with the time that the schedule believes.
type snap struct {
	At      journal.Seq
	Name    string
	Time    time.Time // never before the one before, nor after it was first seen
	Dropped bool      // its name ended

	Head  string `json:"Head,omitempty"` // its record's hash in the chain, which its body names
	GUID  uint64 `json:"GUID,omitempty"` // of its body, when that was seen first
	TXG   uint64 `json:"TXG,omitempty"`
	Legal bool   `json:"Legal,omitempty"` // its body may have the operator's tag: a hold counted
}

// kept is an instant that a schedule or a hold keeps.
type kept struct {
	at  journal.Seq
	why Why
}

// period names the hour, day, week, month or year that a time lies in (UTC; weeks as ISO 8601 counts them).
type period struct {
	why   Why
	count func(tenant.Keep) int
	of    func(time.Time) [2]int
}

var periods = []period{
	{Hourly, func(k tenant.Keep) int { return k.Hourly }, func(t time.Time) [2]int { return [2]int{int(t.Unix() / 3600)} }},
	{Daily, func(k tenant.Keep) int { return k.Daily }, func(t time.Time) [2]int { return [2]int{int(t.Unix() / 86400)} }},
	{Weekly, func(k tenant.Keep) int { return k.Weekly }, func(t time.Time) [2]int { y, w := t.ISOWeek(); return [2]int{y, w} }},
	{Monthly, func(k tenant.Keep) int { return k.Monthly }, func(t time.Time) [2]int { return [2]int{t.Year(), int(t.Month())} }},
	{Yearly, func(k tenant.Keep) int { return k.Yearly }, func(t time.Time) [2]int { return [2]int{t.Year()} }},
}

// pick says which snapshots (oldest first) one policy keeps, beside its lock.
func pick(snaps []snap, p tenant.Retention, out map[journal.Seq]Why) {
	for _, h := range p.Holds {
		out[journal.Seq(h.At)] |= Held
	}
	if p.Keep == nil {
		return
	}
	for _, per := range periods {
		left := per.count(*p.Keep)
		last, some := [2]int{}, false
		for i := len(snaps) - 1; i >= 0 && left > 0; i-- {
			if snaps[i].Dropped {
				continue
			}
			if in := per.of(snaps[i].Time.UTC()); !some || in != last {
				out[snaps[i].At] |= per.why
				last, some = in, true
				left--
			}
		}
	}
}

// keeper answers why a version is kept.
type keeper struct {
	all      Why           // Everything, where a policy without a schedule is in force
	instants []kept        // sorted
	lock     time.Duration // the longest ever seen
	seen     []sighting    // sorted by seq
	now      time.Duration // age of the clock
}

// sighting says that the records after the sighting before, up to seq, were first seen at this age of the clock.
type sighting struct {
	seq journal.Seq
	age time.Duration
}

// newKeeper combines the policies that are, or were less than a cool-down ago, in force. newest keeps the newest snapshot,
// whatever they say.
func newKeeper(s *state, policies []tenant.Retention, lock time.Duration, newest bool) *keeper {
	k := &keeper{lock: lock, seen: s.seen, now: s.Clock.Age}
	all := map[journal.Seq]Why{}
	for _, p := range policies {
		if p.Keep == nil {
			k.all = Everything
		}
		pick(s.snaps, p, all)
	}
	for i := len(s.snaps) - 1; newest && i >= 0; i-- {
		if !s.snaps[i].Dropped {
			all[s.snaps[i].At] |= Newest
			break
		}
	}
	for at, why := range all {
		k.instants = append(k.instants, kept{at, why})
	}
	slices.SortFunc(k.instants, func(a, b kept) int { return int(a.at) - int(b.at) })
	return k
}

// at is when a record was first seen; what was not seen is seen now.
func (k *keeper) at(seq journal.Seq) time.Duration {
	i := sort.Search(len(k.seen), func(i int) bool { return k.seen[i].seq >= seq })
	if i == len(k.seen) {
		return k.now
	}
	return k.seen[i].age
}

// until is the age at which the lock of what ended with record to ends.
func (k *keeper) until(to journal.Seq) time.Duration { return k.at(to) + k.lock }

// version says why what stood from from until before to is kept; 0: it is not.
func (k *keeper) version(from, to journal.Seq) Why {
	why := k.all
	if k.now < k.until(to) {
		why |= Locked
	}
	i := sort.Search(len(k.instants), func(i int) bool { return k.instants[i].at >= from })
	for ; i < len(k.instants) && k.instants[i].at < to; i++ {
		why |= k.instants[i].why
	}
	return why
}

// snapshot says why a snapshot keeps its name.
func (k *keeper) snapshot(at journal.Seq) Why {
	why := k.all
	if k.now < k.until(at) {
		why |= Locked
	}
	i := sort.Search(len(k.instants), func(i int) bool { return k.instants[i].at >= at })
	if i < len(k.instants) && k.instants[i].at == at {
		why |= k.instants[i].why
	}
	return why
}
