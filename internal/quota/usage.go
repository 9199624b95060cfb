package quota

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"time"
)

// Usage is what a tenant has stored, in bytes; the parts are disjoint.
type Usage struct {
	Live      int64 `json:"live"`
	Versions  int64 `json:"versions"` // kept versions, and the journal's records of them
	Staging   int64 `json:"staging"`
	Snapshots int64 `json:"snapshots"` // what only file system snapshots hold: told, and not charged
}

// Used is what is charged in all. What the operator's snapshots hold beyond it no tenant can do anything about.
func (u Usage) Used() int64 { return add(add(u.Live, u.Versions), u.Staging) }

func (u Usage) parts() [4]int64 { return [4]int64{u.Live, u.Versions, u.Staging, u.Snapshots} }

func usageFrom(p [4]int64) Usage { return Usage{p[0], p[1], p[2], p[3]} }

// Day is what is known of one tenant's usage on one day of UTC.
type Day struct {
	Tenant   string // its id
	Day      time.Time
	Mean     Usage         // over what was measured
	Last     Usage         // at the end of it
	P95      int64         // of one sample each quarter of an hour: 5 % of them were higher
	Measured time.Duration // of the day: less than 24 h when the server did not run or the clock was set

	until int           // the second of the day up to which time was counted
	over  time.Duration // above the soft limit, at the end of it
	runs  []run         // the samples of P95, in order, while the day goes on
}

// run is the same sample several times.
type run struct{ n, bytes int64 }

// Text is the day as it is kept, in whole seconds; the tenant and the date are its key. One of which a server saw less than a second is kept
// as one of which it saw one: at most a second too much in a day, and what was seen is not unknown.
func (d *Day) Text() ([]byte, error) {
	measured := int64(d.Measured / time.Second)
	if measured == 0 && d.Measured > 0 {
		measured = 1 // 0 is a day that no server saw
	}
	t := dayText{Until: d.until, Measured: measured, Mean: d.Mean.parts(), Last: d.Last.parts(), P95: d.P95, Over: int64(d.over / time.Second)}
	for _, r := range d.runs {
		t.Runs = append(t.Runs, [2]int64{r.n, r.bytes})
	}
	return json.Marshal(t)
}

// ParseDay reads what Text wrote.
func ParseDay(tenant, date string, text []byte) (Day, error) {
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		return Day{}, fmt.Errorf("read usage: %w", err)
	}
	var t dayText
	if err := json.Unmarshal(text, &t); err != nil {
		return Day{}, fmt.Errorf("read usage of %s on %s: %w", tenant, date, err)
	}
	if t.Until < 0 || t.Until > secondsADay || t.Measured < 0 || t.Measured > secondsADay || len(t.Runs) > quarters {
		return Day{}, fmt.Errorf("read usage of %s on %s: out of bounds", tenant, date)
	}
	d := Day{Tenant: tenant, Day: at.UTC(), Mean: usageFrom(t.Mean), Last: usageFrom(t.Last), P95: t.P95, Measured: time.Duration(t.Measured) * time.Second,
		until: t.Until, over: time.Duration(t.Over) * time.Second}
	for _, r := range t.Runs {
		d.runs = append(d.runs, run{r[0], r[1]})
	}
	return d, nil
}

// dayText is small: there are 400 days of each tenant.
type dayText struct {
	Until    int        `json:"u"`
	Measured int64      `json:"m"`
	Mean     [4]int64   `json:"a"`
	Last     [4]int64   `json:"z"`
	P95      int64      `json:"p"`
	Over     int64      `json:"o,omitempty"`
	Runs     [][2]int64 `json:"r,omitempty"`
}

// quarters are the samples of a day that P95 is taken from.
const (
	quarters        = 24 * 4
	secondsAQuarter = secondsADay / quarters
)

// p95 is the smallest sample that at least 95 % of them do not pass (nearest rank).
func p95(runs []run) int64 {
	sorted := slices.Clone(runs)
	slices.SortFunc(sorted, func(a, b run) int { return int(max(-1, min(1, a.bytes-b.bytes))) })
	var n int64
	for _, r := range sorted {
		n += r.n
	}
	rank := int64(math.Ceil(float64(n) * 0.95))
	for _, r := range sorted {
		if rank -= r.n; rank <= 0 {
			return r.bytes
		}
	}
	return 0
}

// What is known of a day, in reports and invoices.
const (
	Measured = "measured" // all of it, but for the minutes of a restart
	Partial  = "partial"  // some of it; the rest is taken to be like it
	Carried  = "carried"  // no server ran; it is taken to be like the last day that is known
	Unknown  = "unknown"  // no server ran, and nothing is known of the days before
)

// slackTime is what of a day may be missing and it counts as measured: a restart, an update.
const slackTime = 15 * time.Minute

// DayUsage is a line of an invoice.
type DayUsage struct {
	Day       time.Time
	Mean      Usage
	P95       int64
	Hours     float64 // of the day that count: less than 24 on the first and the last one
	Measured  float64 // hours of these that a server saw
	ByteHours int64   // Mean.Used() times Hours
	State     string
}

// Invoice is one line for each day from first to last of which something counts, for a tenant that was there from begin to end.
// days are those of the tenant that are known, oldest first; those before first serve to carry.
//
// Byte-hours are the mean of the day times its hours. While a server runs, usage is sampled once a minute and taken to change evenly
// between two samples: the error is at most half of what was added and removed within a minute, times that minute. What no server
// saw is taken to be like the rest of the day, or like the last day before, and the line says so: without a server nobody can add, but
// the expire process may have freed something. A crash loses what was measured in the last ten minutes.
func Invoice(days []Day, first, last, begin, end time.Time) []DayUsage {
	known := map[int64]Day{}
	var before *Usage // what was in use when the day began
	for _, d := range days {
		if dayOf(d.Day) < dayOf(first) {
			before = &d.Last
		}
		known[dayOf(d.Day)] = d
	}
	var out []DayUsage
	for day := dayOf(first); day <= dayOf(last); day++ {
		from, to := dayTime(day), dayTime(day+1)
		if begin.After(from) {
			from = begin
		}
		if end.Before(to) {
			to = end
		}
		if !from.Before(to) {
			continue
		}
		d, ok := known[day]
		u := DayUsage{Day: dayTime(day), Hours: to.Sub(from).Hours(), State: Unknown}
		switch {
		case ok && d.Measured > 0:
			u.Mean, u.P95, u.Measured, u.State = d.Mean, d.P95, min(d.Measured.Hours(), u.Hours), Measured
			if to.Sub(from)-d.Measured > slackTime {
				u.State = Partial
			}
			before = &d.Last
		case before != nil:
			u.Mean, u.P95, u.State = *before, before.Used(), Carried
		}
		u.ByteHours = byteHours(u.Mean.Used(), u.Hours)
		out = append(out, u)
	}
	return out
}

// byteHours does not overflow.
func byteHours(bytes int64, hours float64) int64 {
	if v := float64(bytes) * hours; v < math.MaxInt64 {
		return int64(math.Round(v))
	}
	return math.MaxInt64
}

// Levels are what Forecast goes by.
func Levels(days []Day) []Level {
	var out []Level
	for _, d := range days {
		if d.Measured > 0 {
			out = append(out, Level{d.Day, d.Mean.Used()})
		}
	}
	return out
}
