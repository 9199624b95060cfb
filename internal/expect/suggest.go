package expect

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Run is one backup as a history shows it: restorable pushes that follow each other.
type Run struct {
	Began, Ended time.Time
	Files, Bytes int64 // new and unchanged
	New          int64 // files
}

// Runs puts restorable pushes, oldest first, together to runs, as Seen.Push does.
func Runs(pushes []Run) []Run {
	var out []Run
	var seen Seen
	for _, p := range pushes {
		before := seen.RunBegan
		seen.Push(p.Began, p.Ended, p.Files, p.Bytes, p.New)
		if len(out) == 0 || !seen.RunBegan.Equal(before) {
			out = append(out, Run{Began: seen.RunBegan})
		}
		last := &out[len(out)-1]
		last.Ended, last.Files, last.Bytes, last.New = seen.RunEnded, seen.RunFiles, seen.RunBytes, last.New+p.New
	}
	return out
}

// ErrHistory says that there is too little to go by.
var ErrHistory = errors.New("too few restorable pushes to go by")

// leastRuns is how many runs a suggestion needs: two gaps are the least that can be like each other.
const leastRuns = 3

// Suggest makes an expectation of a tenant's runs, oldest first, that all of them would have met, and says what it saw.
func Suggest(runs []Run) (r Rule, seen string, err error) {
	if len(runs) < leastRuns {
		return r, "", fmt.Errorf("%w: %d, want %d", ErrHistory, len(runs), leastRuns)
	}
	var gaps []time.Duration
	quiet, since := time.Duration(0), runs[0].Ended
	r.MinBytes, r.MinFiles = runs[0].Bytes, runs[0].Files
	for i, run := range runs {
		r.MinBytes, r.MinFiles = min(r.MinBytes, run.Bytes), min(r.MinFiles, run.Files)
		if i > 0 {
			gaps = append(gaps, max(run.Ended.Sub(runs[i-1].Ended), 0))
		}
		if run.New > 0 {
			quiet, since = max(quiet, run.Ended.Sub(since)), run.Ended
		}
	}
	slices.Sort(gaps)
	longest, usual := gaps[len(gaps)-1], gaps[len(gaps)/2]
	r.MaxAge = roundUp(longest + max(usual/4, 30*time.Minute))
	r.MinBytes, r.MinFiles = r.MinBytes/2, r.MinFiles/2
	if quiet > 0 {
		r.Changes = max(roundUp(2*quiet), 2*r.MaxAge)
	}
	seen = fmt.Sprintf("%d runs, usually %s apart, at most %s", len(runs), roughly(usual), roughly(longest))
	return r, seen, nil
}

// roundUp rounds to whole hours, and from two days on to half days.
func roundUp(d time.Duration) time.Duration {
	unit := time.Hour
	if d > 48*time.Hour {
		unit = 12 * time.Hour
	}
	return (d + unit - 1) / unit * unit
}
