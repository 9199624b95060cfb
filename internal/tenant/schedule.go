package tenant

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/adhocore/gronx"
)

// Schedule says when a tenant gets snapshots.
type Schedule struct {
	Snapshots []string `json:"snapshots"` // cron lines: five fields, or @hourly, @daily, ...; none is no schedule
	PushEnd   bool     `json:"push_end"`  // one at the end of every push that changed something
}

// DefaultSchedule is hourly, daily, and at the end of each push.
func DefaultSchedule() Schedule {
	return Schedule{Snapshots: []string{"@hourly", "@daily"}, PushEnd: true}
}

// MaxLines is how many cron lines a schedule may hold; measure keeps the set of lines due on a day in 16 bits.
const MaxLines = 16

func (s Schedule) normalized() (Schedule, error) {
	if len(s.Snapshots) > MaxLines {
		return Schedule{}, fmt.Errorf("snapshots: %d lines of at most %d: %w", len(s.Snapshots), MaxLines, ErrInvalid)
	}
	var faults []error
	lines := []string{}
	for _, l := range s.Snapshots {
		l = strings.Join(strings.Fields(l), " ")
		if _, err := parseCron(l); err != nil {
			faults = append(faults, fmt.Errorf("snapshots: %w", err))
		}
		if !slices.Contains(lines, l) {
			lines = append(lines, l)
		}
	}
	s.Snapshots = lines
	return s, errors.Join(faults...)
}

// CheckCron says whether a snapshot schedule may hold this line.
func CheckCron(line string) error {
	_, err := parseCron(line)
	return err
}

// The window over which lines are measured: four whole years with one leap day.
var windowStart = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	windowDays = 4*365 + 1
	dayMinutes = 24 * 60
)

// cron is a line as the minutes of a day and the days of the window at which it is due.
type cron struct {
	minutes [dayMinutes]bool
	days    [windowDays]bool
}

var cronChars = regexp.MustCompile(`^[A-Za-z0-9*/,?#@ -]{1,128}$`)

// parseCron reads a line through gronx, the parser that also finds the next tick. Finer than a minute is
// refused (snapshots are at most one a minute), and so is what never comes.
func parseCron(line string) (*cron, error) {
	bad := func(why string) error { return fmt.Errorf("cron line %q: %s: %w", line, why, ErrInvalid) }
	if !cronChars.MatchString(line) {
		return nil, bad("want five fields or a word like @hourly")
	}
	segs, err := gronx.Segments(line)
	if err != nil || len(segs) != 6 || segs[0] != "0" {
		return nil, bad("want five fields (minute hour day month weekday) or a word like @hourly")
	}
	var check gronx.SegmentChecker
	check.SetRef(windowStart)
	for pos, seg := range segs {
		// Each item by itself: in a list gronx stops at the first that is due and never reads the others.
		for item := range strings.SplitSeq(seg, ",") {
			if _, err := check.CheckDue(item, pos); err != nil {
				return nil, bad(fmt.Sprintf("field %d: can not read %q", pos, item))
			}
		}
	}
	c, g := new(cron), &gronx.Gronx{C: &check}
	some := false
	for i := range c.minutes {
		check.SetRef(windowStart.Add(time.Duration(i) * time.Minute))
		c.minutes[i], _ = g.SegmentsDue([]string{"0", segs[1], segs[2], "*", "*", "*"})
		some = some || c.minutes[i]
	}
	if !some {
		return nil, bad("never comes")
	}
	some = false
	for i := range c.days {
		check.SetRef(windowStart.AddDate(0, 0, i))
		c.days[i], _ = g.SegmentsDue([]string{"0", "*", "*", segs[3], segs[4], segs[5]})
		some = some || c.days[i]
	}
	if !some {
		return nil, bad("never comes")
	}
	return c, nil
}

// coverage is how much a schedule takes: what weakening is judged by.
type coverage struct {
	gap   time.Duration // the longest time between two snapshots
	ticks int           // snapshots in the window
}

// day is the union of the lines that are due on one day.
type day struct {
	ticks, first, last, gap int // minutes; gap is the longest inside the day
}

// measure takes lines that parseCron accepts.
func measure(lines []string) (coverage, error) {
	crons := make([]*cron, len(lines))
	for i, l := range lines {
		c, err := parseCron(l)
		if err != nil {
			return coverage{}, err
		}
		crons[i] = c
	}
	known := map[uint16]day{}
	cov, gap, last, first := coverage{}, 0, -1, -1
	for d := range windowDays {
		var due uint16
		for i, c := range crons {
			if c.days[d] {
				due |= 1 << i
			}
		}
		if due == 0 {
			continue
		}
		u, ok := known[due]
		if !ok {
			u = union(crons, due)
			known[due] = u
		}
		start := d * dayMinutes
		if last >= 0 {
			gap = max(gap, start+u.first-last)
		} else {
			first = start + u.first
		}
		gap, last = max(gap, u.gap), start+u.last
		cov.ticks += u.ticks
	}
	if cov.ticks == 0 {
		return coverage{gap: math.MaxInt64}, nil
	}
	gap = max(gap, first+windowDays*dayMinutes-last) // as if the window came again
	cov.gap = time.Duration(gap) * time.Minute
	return cov, nil
}

func union(crons []*cron, due uint16) day {
	u := day{first: -1}
	for m := range dayMinutes {
		hit := false
		for i, c := range crons {
			hit = hit || due&(1<<i) != 0 && c.minutes[m]
		}
		if !hit {
			continue
		}
		if u.first < 0 {
			u.first = m
		} else {
			u.gap = max(u.gap, m-u.last)
		}
		u.last = m
		u.ticks++
	}
	return u
}

// Interval is the longest time that the schedule leaves between two snapshots; 0: it takes none, or only at the end of pushes. It takes some
// milliseconds.
func (s Schedule) Interval() time.Duration {
	if c, err := measure(s.Snapshots); err == nil && c.ticks > 0 {
		return c.gap
	}
	return 0
}
