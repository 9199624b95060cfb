package inventory

import (
	"maps"
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/push"
)

// Plus takes in the next event, numbers it, and lets go of the numbers of those beyond the newest keep.
func (p Pushes) Plus(e push.Event, keep uint64) (Pushes, push.Event) {
	p.Last++
	e.Seq = p.Last
	if p.First == 0 {
		p.First = 1
	}
	if p.Last-p.First >= keep {
		p.First = p.Last - keep + 1
	}
	p.Count = plus(p.Count, e.Result, 1)
	p.Bytes, p.Files = p.Bytes+e.New.Bytes, p.Files+e.New.Files
	p.Attempt = &e
	if !e.Restorable {
		return p, e
	}
	p.Success = &e
	began, came := e.Time.Add(-e.Duration), e.Came()
	p.Seen.Push(began, e.Time, came.Files, came.Bytes, e.New.Files)
	p.Under = maps.Clone(p.Under)
	for dir, w := range e.Under {
		if p.Under == nil {
			p.Under = map[string]expect.Seen{}
		}
		seen := p.Under[dir]
		seen.Push(began, e.Time, w.Files, w.Bytes, e.New.Files)
		p.Under[dir] = seen
	}
	return p, e
}

func plus[K comparable, V int64 | uint64](m map[K]V, k K, n V) map[K]V {
	m = maps.Clone(m)
	if m == nil {
		m = map[K]V{}
	}
	m[k] += n
	return m
}

// Plus takes in what a session was refused.
func (d Denied) Plus(e push.Event) Denied {
	for _, x := range e.Denied {
		d.Total = plus(d.Total, x.Op, x.Count)
	}
	d.Last = e.Time
	hour := e.Time.Unix() / 3600
	for h := max(d.Hour+1, hour-23); h <= hour; h++ { // those between, and those that are too old
		d.Hours[h%24] = 0
	}
	if hour >= d.Hour || d.Hour-hour < 24 { // else the clock was set back by days
		d.Hours[hour%24] += e.Denials()
	}
	d.Hour = max(d.Hour, hour)
	return d
}

// Day is how many requests were refused in the 24 hours before now, to the hour.
func (d Denied) Day(now time.Time) (n int64) {
	hour := now.Unix() / 3600
	for h := hour - 23; h <= hour; h++ {
		if h <= d.Hour && h > d.Hour-24 {
			n += d.Hours[((h%24)+24)%24]
		}
	}
	return n
}
