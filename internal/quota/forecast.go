package quota

import (
	"math"
	"slices"
	"time"
)

// The window that Forecast looks at, and the least in it from which anything is said.
const (
	forecastDays  = 28
	forecastLeast = 5
)

// Horizon is how far Forecast looks: what is full later than that does not fill up.
const Horizon = 5 * 365 * 24 * time.Hour

// Level is what was used on a day.
type Level struct {
	Day   time.Time // its midnight, UTC
	Bytes int64
}

// Forecast says when a tenant that uses used now will have used limit, going by its last 28 days: it is FullOn by their Growth.
func Forecast(past []Level, used, limit int64, now time.Time) (full time.Time, ok bool) {
	return FullOn(Growth(past, now), used, limit, now)
}

// FullOn says when what is used, and grows by so many bytes a day, reaches limit. ok is false when that is not within Horizon, or when there is no limit
// (0). What is full already is full now.
func FullOn(growth float64, used, limit int64, now time.Time) (full time.Time, ok bool) {
	switch {
	case limit <= 0:
		return time.Time{}, false
	case used >= limit:
		return now, true
	case growth <= 0:
		return time.Time{}, false
	}
	left := float64(limit-used) / growth * 24 * float64(time.Hour)
	if left > float64(Horizon) {
		return time.Time{}, false
	}
	return now.Add(time.Duration(left)), true
}

// Growth is by how many bytes a tenant grows a day: past has what was used on each of the last 28 days, in any order, days of
// which nothing is known left out. It is 0 when fewer than five days are known.
//
// The growth of a day is the median of the growths between all pairs of days (the estimator of Theil and Sen): the first full
// backup, a day's flood, or a clean-up do not move it, as long as most days are ordinary. A tenant that is filled in steps, such as a full
// backup every week, is right on the whole and early or late by up to a step.
func Growth(past []Level, now time.Time) float64 {
	today := dayOf(now)
	byDay := map[int64]int64{}
	for _, l := range past {
		if d := dayOf(l.Day); d < today && d >= today-forecastDays {
			byDay[d] = l.Bytes
		}
	}
	if len(byDay) < forecastLeast {
		return 0
	}
	days := make([]int64, 0, len(byDay))
	for d := range byDay {
		days = append(days, d)
	}
	slices.Sort(days)
	slopes := make([]float64, 0, len(days)*(len(days)-1)/2)
	for i, a := range days {
		for _, b := range days[i+1:] {
			slopes = append(slopes, float64(byDay[b]-byDay[a])/float64(b-a))
		}
	}
	slices.Sort(slopes)
	n := len(slopes)
	return (slopes[(n-1)/2] + slopes[n/2]) / 2
}

const secondsADay = 24 * 60 * 60

// dayOf numbers the days of UTC from 1970-01-01 on.
func dayOf(t time.Time) int64 {
	return int64(math.Floor(float64(t.Unix()) / secondsADay))
}

// dayTime is the midnight that begins a day.
func dayTime(day int64) time.Time { return time.Unix(day*secondsADay, 0).UTC() }
