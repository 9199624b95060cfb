package expect_test

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/expect"
)

func at(text string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", text)
	if err != nil {
		panic(err)
	}
	return t
}

func pushed(ended string, files, bytes, fresh int64) (s expect.Seen) {
	s.Push(at(ended).Add(-5*time.Minute), at(ended), files, bytes, fresh)
	return s
}

func window(t *testing.T, text string) expect.Window {
	t.Helper()
	w, err := expect.ParseWindow(text)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestJudge(t *testing.T) {
	const created = "2026-03-01 00:00"
	day := expect.Rule{MaxAge: 24 * time.Hour}
	night := day
	night.Window = window(t, "22:00-06:00 Europe/Berlin")
	big := expect.Rule{MaxAge: 24 * time.Hour, MinBytes: 1000, MinFiles: 3}
	fresh := expect.Rule{MaxAge: 24 * time.Hour, Changes: 72 * time.Hour}
	for _, c := range []struct {
		name  string
		rule  expect.Rule
		seen  expect.Seen
		now   string
		state expect.State
		level expect.Level
	}{
		{"a new tenant has as long as any", day, expect.Seen{}, "2026-03-01 23:59", expect.Never, expect.Well},
		{"then its first push is missing", day, expect.Seen{}, "2026-03-02 00:00", expect.Never, expect.Warning},
		{"and that gets worse", day, expect.Seen{}, "2026-03-03 00:00", expect.Never, expect.Critical},
		{"nothing is expected", expect.Rule{}, expect.Seen{}, "2027-01-01 00:00", expect.Never, expect.Well},
		{"nothing is expected, and came", expect.Rule{}, pushed("2026-03-05 10:00", 1, 1, 1), "2027-01-01 00:00", expect.OK, expect.Well},
		{"young enough", day, pushed("2026-03-05 10:00", 1, 1, 1), "2026-03-06 09:59", expect.OK, expect.Well},
		{"on the minute it is late", day, pushed("2026-03-05 10:00", 1, 1, 1), "2026-03-06 10:00", expect.Late, expect.Warning},
		{"a second one missed is critical", day, pushed("2026-03-05 10:00", 1, 1, 1), "2026-03-07 10:00", expect.Late, expect.Critical},
		{"an expectation that came later judges nothing before", expect.Rule{MaxAge: 24 * time.Hour, Since: at("2026-03-20 00:00")}, expect.Seen{}, "2026-03-20 12:00", expect.Never, expect.Well},

		// The clock of the server was set back: a push from the future is young.
		{"time steps back", day, pushed("2026-03-05 10:00", 1, 1, 1), "2026-03-01 10:00", expect.OK, expect.Well},
		{"time steps back behind the beginning", day, expect.Seen{}, "2026-02-01 10:00", expect.Never, expect.Well},

		// In winter 22:00-06:00 in Berlin is 21:00-05:00 UTC.
		{"the day is over, the window is open", night, pushed("2026-03-05 22:30", 1, 1, 1), "2026-03-06 22:40", expect.OK, expect.Well},
		{"a minute before it closes", night, pushed("2026-03-05 22:30", 1, 1, 1), "2026-03-07 04:59", expect.OK, expect.Well},
		{"it has closed", night, pushed("2026-03-05 22:30", 1, 1, 1), "2026-03-07 05:00", expect.Late, expect.Warning},
		{"a push at noon counts", night, pushed("2026-03-06 12:00", 1, 1, 1), "2026-03-07 05:00", expect.OK, expect.Well},
		// On 29 March 2026 the clocks there go from 02:00 to 03:00: 06:00 is 04:00 UTC.
		{"before the clocks change it would still be open", night, pushed("2026-03-27 22:30", 1, 1, 1), "2026-03-29 03:59", expect.OK, expect.Well},
		{"it closes by the new time", night, pushed("2026-03-27 22:30", 1, 1, 1), "2026-03-29 04:00", expect.Late, expect.Warning},
		// On 25 October 2026 they go back: 06:00 is 05:00 UTC again.
		{"in autumn it is open for an hour more", night, pushed("2026-10-23 22:30", 1, 1, 1), "2026-10-25 04:59", expect.OK, expect.Well},
		{"and closes", night, pushed("2026-10-23 22:30", 1, 1, 1), "2026-10-25 05:00", expect.Late, expect.Warning},
		{"a window that closes in the hour that is skipped", expect.Rule{MaxAge: 12 * time.Hour, Window: window(t, "20:00-02:30 Europe/Berlin")}, pushed("2026-03-28 03:00", 1, 1, 1), "2026-03-29 02:00", expect.Late, expect.Warning},

		{"large enough", big, pushed("2026-03-05 10:00", 3, 1000, 0), "2026-03-05 11:00", expect.OK, expect.Well},
		{"too few bytes", big, pushed("2026-03-05 10:00", 3, 999, 1), "2026-03-05 11:00", expect.Small, expect.Warning},
		{"too few files", big, pushed("2026-03-05 10:00", 2, 5000, 1), "2026-03-05 11:00", expect.Small, expect.Warning},
		{"the run may go on", big, pushed("2026-03-05 10:00", 2, 5000, 1), "2026-03-05 10:09", expect.OK, expect.Well},
		{"late is worse than small", big, pushed("2026-03-05 10:00", 2, 5000, 1), "2026-03-06 11:00", expect.Late, expect.Warning},

		{"never anything new", fresh, pushed("2026-03-05 10:00", 3, 1000, 0), "2026-03-05 11:00", expect.Unchanged, expect.Warning},
		{"something new", fresh, pushed("2026-03-05 10:00", 3, 1000, 1), "2026-03-05 11:00", expect.OK, expect.Well},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := expect.Judge(c.rule, at(created), c.seen, at(c.now))
			if v.State != c.state || v.Level != c.level {
				t.Errorf("%s, level %d (%s), want %s, %d", v.State, v.Level, v.Why, c.state, c.level)
			}
			if v.Level > expect.Well && (v.Why == "" || v.Since.IsZero() || v.Since.After(at(c.now))) {
				t.Errorf("%+v tells too little", v)
			}
		})
	}
}

// Unchanged is about what is new, not about what comes: pushes of what is there already do not end it.
func TestUnchanged(t *testing.T) {
	r := expect.Rule{MaxAge: 24 * time.Hour, Changes: 72 * time.Hour}
	var seen expect.Seen
	begin := at("2026-03-01 10:00")
	for day := range 10 {
		now := begin.AddDate(0, 0, day)
		fresh := int64(0)
		if day == 0 || day == 7 {
			fresh = 1
		}
		seen.Push(now.Add(-time.Minute), now, 5, 500, fresh)
		want := expect.OK
		if day >= 3 && day < 7 {
			want = expect.Unchanged
		}
		if v := expect.Judge(r, begin, seen, now.Add(time.Hour)); v.State != want {
			t.Errorf("day %d: %s, want %s: %s", day, v.State, want, v.Why)
		}
	}
}

func TestJudgeSpace(t *testing.T) {
	now := at("2026-03-01 00:00")
	for _, c := range []struct {
		name  string
		space expect.Space
		state expect.State
	}{
		{"no limit", expect.Space{Used: 1 << 50, Files: 1 << 40}, expect.OK},
		{"room", expect.Space{Used: 89 << 30, Limit: 100 << 30}, expect.OK},
		{"nearly", expect.Space{Used: 90 << 30, Limit: 100 << 30}, expect.FullSoon},
		{"the next file does not fit", expect.Space{Used: 100<<30 - 64<<20, Limit: 100 << 30}, expect.Full},
		{"a small limit", expect.Space{Used: 99, Limit: 100}, expect.Full},
		{"full", expect.Space{Used: 101, Limit: 100}, expect.Full},
		{"nearly in files", expect.Space{Used: 1, Limit: 100, Files: 9, Most: 10}, expect.FullSoon},
		{"full in files", expect.Space{Files: 10, Most: 10}, expect.Full},
		{"soon", expect.Space{Used: 10, Limit: 100, Forecast: now.AddDate(0, 0, 13)}, expect.FullSoon},
		{"not so soon", expect.Space{Used: 10, Limit: 100, Forecast: now.AddDate(0, 0, 15)}, expect.OK},
		{"a forecast that has passed", expect.Space{Used: 10, Limit: 100, Forecast: now.AddDate(0, 0, -1)}, expect.FullSoon},
	} {
		if v := expect.JudgeSpace(c.space, now); v.State != c.state {
			t.Errorf("%s: %s, want %s", c.name, v.State, c.state)
		}
	}
}

// Sessions that follow each other are one run; what never pauses is not.
func TestRuns(t *testing.T) {
	var s expect.Seen
	push := func(began, ended string, files int64) { s.Push(at(began), at(ended), files, files*10, files) }
	push("2026-03-01 10:00", "2026-03-01 10:05", 3)
	push("2026-03-01 10:01", "2026-03-01 10:06", 4) // beside it
	push("2026-03-01 10:15", "2026-03-01 10:20", 5)
	if s.RunFiles != 12 || s.RunBytes != 120 {
		t.Errorf("one run has %d files, %d bytes", s.RunFiles, s.RunBytes)
	}
	push("2026-03-01 10:31", "2026-03-01 10:32", 1)
	if s.RunFiles != 1 {
		t.Errorf("another run has %d files", s.RunFiles)
	}
	for i := range 400 { // every five minutes, for more than a day
		began := at("2026-03-02 00:00").Add(time.Duration(i) * 5 * time.Minute)
		s.Push(began, began.Add(time.Minute), 1, 1, 1)
	}
	if s.RunFiles > 300 {
		t.Errorf("a run of %d files", s.RunFiles)
	}
	push("2026-02-01 00:00", "2026-02-01 00:01", 7) // the clock was set back
	if s.RunFiles != 7 || !s.Restorable.Equal(at("2026-02-01 00:01")) {
		t.Errorf("after the clock was set back: %+v", s)
	}
}

func TestNormalize(t *testing.T) {
	day := 24 * time.Hour
	for _, c := range []struct {
		rule expect.Rule
		want string // part of the error
	}{
		{expect.Rule{MaxAge: day}, ""},
		{expect.Rule{MaxAge: day, Path: "/a//b/"}, ""},
		{expect.Rule{}, "expects nothing"},
		{expect.Rule{MaxAge: time.Millisecond}, "max_age 1ms"},
		{expect.Rule{MaxAge: -day}, "max_age"},
		{expect.Rule{MaxAge: day, MinBytes: -1}, "negative"},
		{expect.Rule{MaxAge: day, Path: "a/../b"}, "has .."},
		{expect.Rule{MaxAge: day, Path: "a\nb"}, "control characters"},
		{expect.Rule{MaxAge: day, Path: "\xff"}, "UTF-8"},
		{expect.Rule{Changes: day, Window: expect.Window{From: 60, To: 120, Zone: "UTC"}}, "max_age"},
		{expect.Rule{MaxAge: day, Window: expect.Window{From: 60, To: 60, Zone: "UTC"}}, "two different times"},
		{expect.Rule{MaxAge: day, Window: expect.Window{From: 60, To: 99999, Zone: "UTC"}}, "two different times"},
		{expect.Rule{MaxAge: day, Window: expect.Window{From: 60, To: 120, Zone: "Local"}}, "name it"},
		{expect.Rule{MaxAge: day, Window: expect.Window{From: 60, To: 120, Zone: "Mars/Olympus"}}, "unknown time zone"},
	} {
		got, err := c.rule.Normalize()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: %v, want %q", c.rule, err, c.want)
		}
		if strings.HasPrefix(got.Path, "/") || strings.HasSuffix(got.Path, "/") {
			t.Errorf("path %q", got.Path)
		}
	}
	for _, bad := range []string{"22:00", "22:00-25:00", "x-y", "22:00-06:00 Europe/Berlin more", "1-2", "22:00-06:00 ../../etc/passwd"} {
		if w, err := expect.ParseWindow(bad); err == nil {
			t.Errorf("%q is %v", bad, w)
		}
	}
	if w := window(t, "22:00-06:00"); w.String() != "22:00-06:00 UTC" {
		t.Error(w)
	}
}

func TestSuggest(t *testing.T) {
	var pushes []expect.Run
	for day := range 14 { // at two, in two sessions, of growing size; the third is missing, and from the tenth on nothing is new
		if day == 3 {
			continue
		}
		ended := at("2026-03-01 02:00").AddDate(0, 0, day)
		fresh := int64(2)
		if day >= 10 {
			fresh = 0
		}
		for range 2 {
			pushes = append(pushes, expect.Run{Began: ended.Add(-time.Minute), Ended: ended, Files: int64(50 + day), Bytes: int64(1000 * (day + 1)), New: fresh})
		}
	}
	runs := expect.Runs(pushes)
	if len(runs) != 13 || runs[0].Files != 100 || runs[0].Bytes != 2000 || runs[0].New != 4 {
		t.Fatalf("%d runs: %+v", len(runs), runs)
	}
	r, seen, err := expect.Suggest(runs)
	if err != nil || r.MaxAge != 60*time.Hour || r.MinFiles != 50 || r.MinBytes != 1000 || r.Changes < r.MaxAge {
		t.Errorf("%v, %q, %v", r, seen, err)
	}
	if _, err := r.Normalize(); err != nil {
		t.Error(err)
	}
	if _, _, err := expect.Suggest(runs[:2]); err == nil {
		t.Error("two runs were enough")
	}
}

// Whatever the history, what is suggested would have held for it.
func TestSuggestHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := at("2026-01-01 00:00")
		created := now
		var pushes []expect.Run
		for range rapid.IntRange(3, 40).Draw(t, "pushes") {
			now = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(t, "minutes")) * time.Minute)
			pushes = append(pushes, expect.Run{Began: now, Ended: now, Files: rapid.Int64Range(0, 1000).Draw(t, "files"), Bytes: rapid.Int64Range(0, 1<<40).Draw(t, "bytes"),
				New: rapid.Int64Range(0, 1).Draw(t, "new")})
		}
		r, _, err := expect.Suggest(expect.Runs(pushes))
		if err != nil {
			return // too few runs
		}
		var seen expect.Seen
		for i, p := range pushes {
			seen.Push(p.Began, p.Ended, p.Files, p.Bytes, p.New)
			until := p.Ended
			if i+1 < len(pushes) {
				until = pushes[i+1].Ended.Add(-time.Second)
			}
			v := expect.Judge(r, created, seen, until)
			// A run that was cut in two at its day's end may look small; it is never late.
			if v.State == expect.Late {
				t.Fatalf("%v: %s: %s", r, v.State, v.Why)
			}
		}
	})
}

// The worst comes first, and among equals the longest.
func TestWorst(t *testing.T) {
	list := []expect.Verdict{{State: expect.OK}, {State: expect.FullSoon, Level: expect.Warning}, {State: expect.Late, Level: expect.Warning, Since: at("2026-03-02 00:00")},
		{State: expect.Late, Level: expect.Warning, Since: at("2026-03-01 00:00"), Path: "a"}, {State: expect.Full, Level: expect.Critical}}
	if v := expect.Worst(list); v.State != expect.Full || list[1].Path != "a" || list[4].State != expect.OK {
		t.Errorf("%+v", list)
	}
	if v := expect.Worst(nil); v.State != expect.OK {
		t.Error(v)
	}
}
