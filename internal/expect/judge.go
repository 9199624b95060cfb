package expect

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Judge says how what was seen of a tenant that was made at created, or of a directory of it, stands to r at now.
//
// Without a push the tenant's own beginning stands for one: so a new tenant has as long as any for its first.
func Judge(r Rule, created time.Time, seen Seen, now time.Time) Verdict {
	v := Verdict{State: OK, Path: r.Path}
	begin := created
	if r.Since.After(begin) {
		begin = r.Since
	}
	last := seen.Restorable
	if last.IsZero() {
		v.State, last = Never, begin
	}
	if r.MaxAge > 0 {
		v.Due = r.Window.closing(last.Add(r.MaxAge))
		if !now.Before(v.Due) {
			return r.late(v, seen, now)
		}
	}
	if v.State == Never {
		if v.Why = "no restorable push yet"; r.MaxAge > 0 {
			v.Why += ", one is due by " + stamp(v.Due)
		}
		return v
	}
	if why := r.small(seen); why != "" && now.Sub(seen.RunEnded) > runGap {
		v.State, v.Level, v.Why, v.Since = Small, Warning, why, seen.RunEnded
		return v
	}
	fresh := seen.Fresh
	if fresh.IsZero() {
		fresh = begin
	}
	if r.Changes > 0 && now.Sub(fresh) > r.Changes {
		v.State, v.Level, v.Since = Unchanged, Warning, fresh.Add(r.Changes)
		v.Why = "nothing new for " + roughly(now.Sub(fresh))
	}
	return v
}

// late says that what was due is not there: a warning, and critical when another MaxAge has passed.
func (r Rule) late(v Verdict, seen Seen, now time.Time) Verdict {
	v.Level, v.Since, v.Due = Warning, v.Due, time.Time{}
	if now.Sub(v.Since) >= r.MaxAge {
		v.Level = Critical
	}
	if v.State == Never {
		v.Why = "no restorable push since it was made, one was due by " + stamp(v.Since)
		return v
	}
	v.State = Late
	v.Why = fmt.Sprintf("last restorable push %s ago, want one every %s", roughly(now.Sub(seen.Restorable)), Span(r.MaxAge))
	return v
}

// small says what the last run has too little of.
func (r Rule) small(seen Seen) string {
	switch {
	case seen.RunBytes < r.MinBytes:
		return fmt.Sprintf("the last run had %d bytes, want at least %d", seen.RunBytes, r.MinBytes)
	case seen.RunFiles < r.MinFiles:
		return fmt.Sprintf("the last run had %d files, want at least %d", seen.RunFiles, r.MinFiles)
	}
	return ""
}

// Space is what a tenant uses, of what. A limit of 0 is none.
type Space struct {
	Used, Limit int64 // bytes
	Files, Most int64
	Forecast    time.Time // when it will be full, as things go; zero: not known, or never
	Soft        int64     // bytes above which the operator wants to be told
	Refused     time.Time // while above Soft: when nothing more is taken; zero: that is not limited
	Lapsed      bool      // that has come
}

// Horizon is how far ahead a forecast is a warning.
const Horizon = 14 * 24 * time.Hour

// nearly is the part of a limit from which on it is a warning, whatever the forecast says.
const nearly = 0.90

// margin is how close to its limit in bytes a tenant is full: the next file does not fit.
func margin(limit int64) int64 { return min(limit/100, 64<<20) }

// JudgeSpace says whether a tenant is full, or will be soon.
func JudgeSpace(s Space, now time.Time) Verdict {
	v := Verdict{State: OK}
	switch {
	case s.Soft > 0 && s.Used > s.Soft && s.Lapsed:
		v.State, v.Level, v.Why = Full, Critical, "above the soft quota for longer than its grace: nothing more is taken"
	case s.Limit > 0 && s.Used >= s.Limit-margin(s.Limit), s.Most > 0 && s.Files >= s.Most:
		v.State, v.Level, v.Why = Full, Critical, "the quota is used up"
	case s.Soft > 0 && s.Used > s.Soft && !s.Refused.IsZero():
		v.State, v.Level, v.Due, v.Why = FullSoon, Warning, s.Refused, "above the soft quota: nothing more is taken from "+stamp(s.Refused)+" on"
	case s.Soft > 0 && s.Used > s.Soft:
		v.State, v.Level, v.Why = FullSoon, Warning, "above the soft quota"
	case !s.Forecast.IsZero() && s.Forecast.Sub(now) < Horizon:
		v.State, v.Level, v.Due, v.Why = FullSoon, Warning, s.Forecast, "full on "+s.Forecast.UTC().Format(time.DateOnly)
	case s.Limit > 0 && float64(s.Used) >= nearly*float64(s.Limit):
		v.State, v.Level, v.Why = FullSoon, Warning, fmt.Sprintf("%d %% of the quota are used", int64(float64(s.Used)/float64(s.Limit)*100))
	case s.Most > 0 && float64(s.Files) >= nearly*float64(s.Most):
		v.State, v.Level, v.Why = FullSoon, Warning, fmt.Sprintf("%d of %d files are used", s.Files, s.Most)
	}
	return v
}

// rank orders states of one level: the worse the higher.
var rank = map[State]int{OK: 0, Suspended: 1, Unchanged: 2, Small: 3, FullSoon: 4, Never: 5, Late: 6, Full: 7}

// Compare orders verdicts, the worst first.
func Compare(a, b Verdict) int {
	return cmp.Or(int(b.Level)-int(a.Level), rank[b.State]-rank[a.State], cmp.Compare(a.Since.Unix(), b.Since.Unix()), cmp.Compare(a.Path, b.Path))
}

// Worst sorts verdicts, and returns the worst.
func Worst(list []Verdict) Verdict {
	if len(list) == 0 {
		return Verdict{State: OK}
	}
	slices.SortStableFunc(list, Compare)
	return list[0]
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// roughly words a time that has passed.
func roughly(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d >= 4*day:
		return fmt.Sprintf("%d days", d/day)
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", d/time.Minute)
}
