package quota

import (
	"math"
	"slices"
	"sync"
	"time"
)

// Sample is what a tenant uses now, and what it may.
type Sample struct {
	Usage
	Soft  int64         // bytes; 0 is none
	Grace time.Duration // how long it may be above Soft; 0: for ever, it is only told
}

// Soft is where a tenant stands with its soft limit.
type Soft struct {
	Used, Limit int64
	Over        time.Duration // how long it has been above, in time that a server ran; 0: it is not
	Left        time.Duration // until nothing more is taken; 0: now, or never when Grace is 0
	Grace       time.Duration
}

// Exceeded says that the tenant is above its soft limit, Lapsed that it was so for longer than its grace.
func (s Soft) Exceeded() bool { return s.Limit > 0 && s.Used > s.Limit }

// Lapsed says that the soft limit is as good as a hard one now.
func (s Soft) Lapsed() bool { return s.Exceeded() && s.Grace > 0 && s.Left == 0 }

// Meter sums up what tenants use, day by day of UTC, and how long they have been above their soft limits.
//
// It is robust against clocks: time is what really passed (elapsed), and only the day that it is counted for goes by the clock.
// Each second of a day is counted once, whatever the clock was set to and back; what was skipped is missing in Day.Measured. A soft
// limit's grace runs while a server does, so that a clock that jumps a month ahead shuts nobody out.
//
// Concurrency: all methods may be called by many goroutines. load is called under the lock.
type Meter struct {
	load func(tenant string, day time.Time) (Day, bool) // what is kept of a day

	mu      sync.Mutex
	tenants map[string]*metered
	closed  []Day // over, and not yet Written
}

// metered is one tenant's day that goes on.
type metered struct {
	Day
	sums [4]float64 // byte-seconds
	secs float64
	last int    // quarter of the last sample; -1: none yet
	soft Sample // as last observed
}

// NewMeter goes on from what is kept: load finds a day, and newest has the newest known of each tenant, for how long it
// has been above its soft limit.
func NewMeter(newest []Day, load func(tenant string, day time.Time) (Day, bool)) *Meter {
	m := &Meter{load: load, tenants: map[string]*metered{}}
	for _, d := range newest {
		m.tenants[d.Tenant] = resumed(d)
	}
	return m
}

func resumed(d Day) *metered {
	t := &metered{Day: d, secs: d.Measured.Seconds(), last: (d.until+secondsAQuarter-1)/secondsAQuarter - 1}
	for i, mean := range d.Mean.parts() {
		t.sums[i] = float64(mean) * t.secs
	}
	if len(d.runs) == 0 && d.P95 > 0 { // of a day that was over
		t.runs = []run{{max(1, min(quarters-1, int64(d.until)/secondsAQuarter)), d.P95}}
	}
	t.soft.Usage = d.Last
	return t
}

// maxElapsed is the longest time between two samples that counts as measured.
const maxElapsed = time.Hour

// Observe takes a sample of all tenants: now is what the clock says, elapsed what really passed since the last one (0: this is the
// first). Tenants that are not in it any more are closed.
func (m *Meter) Observe(now time.Time, elapsed time.Duration, have map[string]Sample) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if elapsed < 0 || elapsed > maxElapsed {
		elapsed = 0
	}
	for id, s := range have {
		t := m.tenants[id]
		if t == nil {
			t = m.begin(id, dayOf(now), s, 0)
		}
		from := now.Add(-elapsed)
		if d := dayOf(now); d != dayOf(t.Day.Day) {
			if dayOf(from) == dayOf(t.Day.Day) { // midnight lies between
				t.count(from, dayTime(d), s)
			}
			m.close(t)
			t = m.begin(id, d, Sample{Usage: t.soft.Usage}, t.over)
		}
		if midnight := dayTime(dayOf(now)); from.Before(midnight) {
			from = midnight
		}
		t.count(from, now, s)
		if t.over += elapsed; s.Soft == 0 || s.Used() <= s.Soft {
			t.over = 0
		} else if t.over == 0 {
			t.over = 1 // above from now on
		}
		t.soft, t.Last = s, s.Usage
	}
	for id, t := range m.tenants {
		if _, ok := have[id]; !ok {
			m.close(t)
			delete(m.tenants, id)
		}
	}
}

// begin makes the accumulators of a day, going on where something of it is kept.
func (m *Meter) begin(id string, day int64, last Sample, over time.Duration) *metered {
	var d Day
	ok := false
	at := dayTime(day)
	if i := slices.IndexFunc(m.closed, func(c Day) bool { return c.Tenant == id && c.Day.Equal(at) }); i >= 0 { // the clock was set back
		d, ok = m.closed[i], true
		m.closed = slices.Delete(m.closed, i, i+1)
	} else {
		d, ok = m.load(id, at)
	}
	if !ok {
		d = Day{Tenant: id, Day: at}
	}
	t := resumed(d)
	t.soft, t.over = last, over
	m.tenants[id] = t
	return t
}

// close keeps a day that is over until it is written.
func (m *Meter) close(t *metered) {
	d := t.present()
	d.runs = nil
	m.closed = append(m.closed, d)
}

// count adds the time between two instants of the day, but for what was counted before.
func (t *metered) count(from, to time.Time, s Sample) {
	second := func(x time.Time) float64 { return x.Sub(t.Day.Day).Seconds() }
	a, b := max(second(from), float64(t.until)), second(to)
	if b > a {
		was, is := t.soft.parts(), s.parts()
		for i := range t.sums {
			t.sums[i] += (float64(was[i]) + float64(is[i])) / 2 * (b - a)
		}
		t.secs += b - a
	}
	if q := min(int(b), secondsADay-1) / secondsAQuarter; q > t.last {
		t.last = q
		t.sample(s.Used())
	}
	t.until = max(t.until, int(b))
}

func (t *metered) sample(bytes int64) {
	if n := len(t.runs); n > 0 && t.runs[n-1].bytes == bytes {
		t.runs[n-1].n++
		return
	}
	t.runs = append(t.runs, run{1, bytes})
}

// present is the day as far as it has come.
func (t *metered) present() Day {
	d := t.Day
	d.runs = slices.Clone(t.runs)
	d.P95 = p95(t.runs)
	d.Measured = time.Duration(min(t.secs, secondsADay) * float64(time.Second))
	if t.secs > 0 {
		var mean [4]int64
		for i, sum := range t.sums {
			mean[i] = int64(math.Round(min(sum/t.secs, math.MaxInt64/2)))
		}
		d.Mean = usageFrom(mean)
	}
	return d
}

// Rows are the days to be kept: those that are over and were not Written, and the present ones as far as they have come.
func (m *Meter) Rows() []Day {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := slices.Clone(m.closed)
	for _, t := range m.tenants {
		out = append(out, t.present())
	}
	return out
}

// Written says that the rows are kept.
func (m *Meter) Written(rows []Day) {
	m.mu.Lock()
	defer m.mu.Unlock()
	type key struct {
		tenant string
		day    time.Time
	}
	kept := map[key]int{}
	for _, d := range rows {
		kept[key{d.Tenant, d.Day}] = d.until
	}
	m.closed = slices.DeleteFunc(m.closed, func(d Day) bool {
		until, ok := kept[key{d.Tenant, d.Day}]
		return ok && until == d.until // else it went on meanwhile
	})
}

// Soft says where a tenant stands with its soft limit; the zero Soft when nothing is known.
func (m *Meter) Soft(tenant string) Soft {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tenants[tenant]
	if t == nil {
		return Soft{}
	}
	s := Soft{Used: t.soft.Used(), Limit: t.soft.Soft, Grace: t.soft.Grace}
	if s.Exceeded() {
		s.Over, s.Left = t.over, max(0, s.Grace-t.over)
	}
	return s
}
