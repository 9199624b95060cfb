package expect

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // the confined server can not read the machine's
	"unicode"
	"unicode/utf8"
)

// Rule is an expectation. The zero value expects nothing.
type Rule struct {
	Path     string        `json:"path,omitempty"`       // the directory that it is about, cleaned and relative; "": the tenant
	MaxAge   time.Duration `json:"max_age_ns"`           // a restorable push at least so often; 0: whenever
	MinBytes int64         `json:"min_bytes,omitempty"`  // of the last run, new and unchanged together
	MinFiles int64         `json:"min_files,omitempty"`  // the same
	Changes  time.Duration `json:"changes_ns,omitempty"` // something new at least so often; 0: whenever
	Window   Window        `json:"window,omitzero"`      // pushes come at this time of day: that none came is only said when it has closed
	Note     string        `json:"note,omitempty"`       // the operator's
	Since    time.Time     `json:"since,omitzero"`       // when it was set: what is before can not be late
	Default  bool          `json:"default,omitempty"`    // it is the configuration's, not the tenant's own
}

// MaxRules is how many expectations a tenant may have: every file that comes is compared with the directories of all.
const MaxRules = 32

// The bounds on times: less is not a backup, more is not watched.
const (
	minAge = time.Second
	maxAge = 10 * 366 * 24 * time.Hour
)

// Normalize returns r cleaned, or what is wrong with it: all of it.
func (r Rule) Normalize() (Rule, error) {
	var faults []error
	bad := func(format string, a ...any) { faults = append(faults, fmt.Errorf(format, a...)) }
	p := path.Clean("/" + r.Path)[1:]
	if !utf8.ValidString(p) || strings.ContainsFunc(p, unicode.IsControl) || len(p) > 4096 {
		bad("path %q: want at most 4096 bytes of UTF-8 without control characters", r.Path)
	}
	for el := range strings.SplitSeq(r.Path, "/") {
		if el == ".." {
			bad("path %q: has ..", r.Path)
		}
	}
	r.Path = p
	for _, d := range []struct {
		name string
		d    time.Duration
	}{{"max_age", r.MaxAge}, {"changes", r.Changes}} {
		if d.d != 0 && (d.d < minAge || d.d > maxAge) {
			bad("%s %v: want a second to ten years, or 0 for none", d.name, d.d)
		}
	}
	if r.MinBytes < 0 || r.MinFiles < 0 {
		bad("min_bytes and min_files: negative")
	}
	if r.MaxAge == 0 && r.Changes == 0 && r.MinBytes == 0 && r.MinFiles == 0 {
		bad("it expects nothing")
	}
	if err := r.Window.check(); err != nil {
		faults = append(faults, err)
	}
	if r.Window != (Window{}) && r.MaxAge == 0 {
		bad("a window says when max_age is looked at: give that, too")
	}
	return r, errors.Join(faults...)
}

// String words a rule for people and audit lines.
func (r Rule) String() string {
	var s []string
	if r.MaxAge > 0 {
		s = append(s, "a restorable push every "+Span(r.MaxAge))
	}
	if r.Window != (Window{}) {
		s = append(s, "at "+r.Window.String())
	}
	if r.MinBytes > 0 {
		s = append(s, fmt.Sprintf("of at least %d bytes", r.MinBytes))
	}
	if r.MinFiles > 0 {
		s = append(s, fmt.Sprintf("of at least %d files", r.MinFiles))
	}
	if r.Changes > 0 {
		s = append(s, "with something new every "+Span(r.Changes))
	}
	text := strings.Join(s, ", ")
	if text == "" {
		text = "nothing"
	}
	if r.Path != "" {
		text = fmt.Sprintf("%q: %s", r.Path, text)
	}
	return text
}

// Span words a duration by its largest unit that loses nothing.
func Span(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= 2*day && d%day == 0:
		return strconv.FormatInt(int64(d/day), 10) + "d"
	case d >= time.Hour && d%time.Hour == 0:
		return strconv.FormatInt(int64(d/time.Hour), 10) + "h"
	case d%time.Minute == 0:
		return strconv.FormatInt(int64(d/time.Minute), 10) + "m"
	}
	return d.Round(time.Second).String()
}

// Window is a time of day in a time zone. From after To goes over midnight; the zero value is the whole day.
type Window struct {
	From int    `json:"from"` // minutes after midnight, on the clocks there
	To   int    `json:"to"`
	Zone string `json:"zone"` // a name of the time zone database; "UTC"
}

// ParseWindow reads "22:00-06:00" or "22:00-06:00 Europe/Berlin"; without a zone it is UTC. "" is the zero Window.
func ParseWindow(text string) (w Window, err error) {
	fields := strings.Fields(text)
	if len(fields) == 0 {
		return w, nil
	}
	w.Zone = "UTC"
	if len(fields) == 2 {
		w.Zone = fields[1]
	}
	from, to, ok := strings.Cut(fields[0], "-")
	if ok && len(fields) <= 2 {
		if w.From, err = minutes(from); err == nil {
			w.To, err = minutes(to)
		}
	}
	if !ok || len(fields) > 2 || err != nil {
		return Window{}, fmt.Errorf(`window %q: want "22:00-06:00", or that and a time zone`, text)
	}
	return w, w.check()
}

func minutes(text string) (int, error) {
	t, err := time.Parse("15:04", text)
	if text == "24:00" {
		return 0, nil
	}
	return t.Hour()*60 + t.Minute(), err
}

func (w Window) check() error {
	if w == (Window{}) {
		return nil
	}
	if w.From < 0 || w.From >= 24*60 || w.To < 0 || w.To >= 24*60 || w.From == w.To {
		return errors.New("window: want two different times of day")
	}
	if _, err := w.location(); err != nil {
		return fmt.Errorf("window: %w", err)
	}
	return nil
}

// location reads the zone. Local is refused: it is another one in each process that reads the rule.
func (w Window) location() (*time.Location, error) {
	if w.Zone == "Local" || w.Zone == "" {
		return nil, fmt.Errorf("time zone %q: name it, as in Europe/Berlin", w.Zone)
	}
	return time.LoadLocation(w.Zone)
}

func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d %s", w.From/60, w.From%60, w.To/60, w.To%60, w.Zone)
}

// closing returns the first instant from t on at which the window closes; t itself for the whole day. On a day on which the clocks there
// skip that time it is what time.Date makes of it: within the hour.
func (w Window) closing(t time.Time) time.Time {
	if w == (Window{}) {
		return t
	}
	loc, err := w.location()
	if err != nil { // a database that lost a zone: no window is better than no verdict
		return t
	}
	y, m, d := t.In(loc).Date()
	for add := 0; ; add++ {
		end := time.Date(y, m, d+add, w.To/60, w.To%60, 0, 0, loc)
		if !end.Before(t) {
			return end.UTC()
		}
	}
}
