package quota_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/quota"
)

// shelf keeps days as state.db does, through their text.
type shelf map[string][]byte

func (s shelf) load(t testing.TB) func(string, time.Time) (quota.Day, bool) {
	return func(id string, day time.Time) (quota.Day, bool) {
		date := day.Format(time.DateOnly)
		text, ok := s[date+"/"+id]
		if !ok {
			return quota.Day{}, false
		}
		d, err := quota.ParseDay(id, date, text)
		if err != nil {
			t.Fatal(err)
		}
		return d, true
	}
}

func (s shelf) keep(t testing.TB, m *quota.Meter) {
	rows := m.Rows()
	for _, d := range rows {
		text, err := d.Text()
		if err != nil {
			t.Fatal(err)
		}
		s[d.Day.Format(time.DateOnly)+"/"+d.Tenant] = text
	}
	m.Written(rows)
}

func (s shelf) day(t testing.TB, date string) quota.Day {
	day, err := time.Parse(time.DateOnly, date)
	if err != nil {
		t.Fatal(err)
	}
	d, _ := s.load(t)("t-a", day)
	return d
}

func live(n int64) map[string]quota.Sample {
	return map[string]quota.Sample{"t-a": {Usage: quota.Usage{Live: n}}}
}

// minutes observes the same once a minute, and returns the clock afterwards.
func minutes(m *quota.Meter, now time.Time, n int, have map[string]quota.Sample) time.Time {
	for range n {
		now = now.Add(time.Minute)
		m.Observe(now, time.Minute, have)
	}
	return now
}

func TestMeterSumsDays(t *testing.T) {
	s := shelf{}
	m := quota.NewMeter(nil, s.load(t))
	m.Observe(noon, 0, live(1000))
	now := minutes(m, noon, 6*60, live(1000)) // until 18:00
	minutes(m, now, 12*60, live(3000))        // until 06:00 of the next day
	s.keep(t, m)
	d := s.day(t, "2026-11-25")
	// The step from 1000 to 3000 counts as a slope of a minute.
	if want := int64(math.Round((1000*360 + 2000 + 3000*359) / 720.0)); d.Measured != 12*time.Hour || d.Mean.Live != want || d.P95 != 3000 || d.Last.Live != 3000 {
		t.Errorf("the first day: %+v, want a mean of %d", d, want)
	}
	if d := s.day(t, "2026-11-26"); d.Measured != 6*time.Hour || d.Mean.Live != 3000 {
		t.Errorf("the second day: %+v", d)
	}
}

// A restart within a day goes on where it was; what no server saw is not measured.
func TestMeterGoesOn(t *testing.T) {
	s := shelf{}
	m := quota.NewMeter(nil, s.load(t))
	m.Observe(noon, 0, live(1000))
	now := minutes(m, noon, 60, live(1000))
	s.keep(t, m)
	m = quota.NewMeter([]quota.Day{s.day(t, "2026-11-25")}, s.load(t))
	now = now.Add(2 * time.Hour)
	m.Observe(now, 0, live(5000))
	minutes(m, now, 60, live(5000))
	s.keep(t, m)
	if d := s.day(t, "2026-11-25"); d.Measured != 2*time.Hour || d.Mean.Live != 3000 {
		t.Errorf("%+v", d)
	}
}

func TestMeterAndClocks(t *testing.T) {
	s := shelf{}
	m := quota.NewMeter(nil, s.load(t))
	m.Observe(noon, 0, live(1000))
	now := minutes(m, noon, 60, live(1000))
	m.Observe(now.Add(-30*time.Minute), time.Second, live(1000)) // set back: the half hour is not counted again
	now = minutes(m, now.Add(-30*time.Minute), 60, live(1000))
	s.keep(t, m)
	if d := s.day(t, "2026-11-25"); d.Measured.Round(time.Minute) != 90*time.Minute || d.Mean.Live != 1000 {
		t.Errorf("after the clock was set back: %+v", d)
	}
	far := now.AddDate(4, 0, 0) // a month ahead, for an hour, and back
	m.Observe(far, time.Minute, live(1000))
	minutes(m, far, 60, live(1000))
	minutes(m, now, 30, live(7000))
	s.keep(t, m)
	if d := s.day(t, "2026-11-25"); d.Measured.Round(time.Minute) != 2*time.Hour || d.Mean.Live < 2400 || d.Mean.Live > 2600 {
		t.Errorf("after the clock was right again: %+v", d)
	}
	if d := s.day(t, "2030-11-25"); d.Measured > 62*time.Minute {
		t.Errorf("in the future: %+v", d)
	}
}

// Whatever the clock does and however often the server is started: of no day more than 24 hours are measured, no mean is
// outside what was seen, and of a clock that runs right nothing is lost but the time without a server.
func TestMeterProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		s := shelf{}
		m := quota.NewMeter(nil, s.load(t))
		now := noon
		m.Observe(now, 0, live(500))
		steady, ran := true, time.Duration(0)
		for range rapid.IntRange(1, 40).Draw(r, "steps") {
			v := rapid.Int64Range(100, 1000).Draw(r, "bytes")
			switch rapid.IntRange(0, 5).Draw(r, "what") {
			case 0:
				now, steady = now.Add(time.Duration(rapid.IntRange(-72, 72).Draw(r, "clock"))*time.Hour), false
			case 1:
				s.keep(t, m)
				var newest []quota.Day
				if d, ok := s.load(t)("t-a", now.Truncate(24*time.Hour)); ok {
					newest = append(newest, d)
				}
				m = quota.NewMeter(newest, s.load(t))
				m.Observe(now, 0, live(v))
			case 2:
				s.keep(t, m)
			default:
				n := rapid.IntRange(1, 600).Draw(r, "minutes")
				now = minutes(m, now, n, live(v))
				ran += time.Duration(n) * time.Minute
			}
		}
		s.keep(t, m)
		var sum time.Duration
		for key, text := range s {
			d, err := quota.ParseDay("t-a", key[:10], text)
			if err != nil {
				r.Fatal(err)
			}
			if d.Measured > 24*time.Hour || d.Measured > 0 && (d.Mean.Live < 99 || d.Mean.Live > 1001) || d.P95 < 0 || d.P95 > 1000 {
				r.Fatalf("%s: %+v", key, d)
			}
			sum += d.Measured
		}
		if sum > ran+time.Minute || steady && sum < ran-time.Duration(len(s))*2*time.Second-40*time.Second {
			r.Fatalf("measured %v of %v", sum, ran)
		}
	})
}

func TestSoftLimit(t *testing.T) {
	s := shelf{}
	m := quota.NewMeter(nil, s.load(t))
	have := func(n int64, grace time.Duration) map[string]quota.Sample {
		return map[string]quota.Sample{"t-a": {Usage: quota.Usage{Live: n}, Soft: 100, Grace: grace}}
	}
	check := func(what string, exceeded, lapsed bool, left time.Duration) {
		t.Helper()
		if x := m.Soft("t-a"); x.Exceeded() != exceeded || x.Lapsed() != lapsed || (x.Left-left).Abs() > time.Second {
			t.Errorf("%s: %+v", what, x)
		}
	}
	m.Observe(noon, 0, have(100, time.Hour))
	check("at the limit", false, false, 0)
	now := minutes(m, noon, 20, have(101, time.Hour))
	check("above", true, false, 40*time.Minute)
	now = minutes(m, now, 1, have(100, time.Hour))
	now = minutes(m, now, 50, have(101, time.Hour))
	check("above again: from the beginning", true, false, 10*time.Minute)
	s.keep(t, m)
	m = quota.NewMeter([]quota.Day{s.day(t, "2026-11-25")}, s.load(t))
	now = now.AddDate(0, 1, 0) // a month without a server, or a clock that jumped
	m.Observe(now, 0, have(101, time.Hour))
	check("after a restart", true, false, 10*time.Minute)
	now = minutes(m, now, 11, have(101, time.Hour))
	check("too long", true, true, 0)
	now = minutes(m, now, 1, have(101, 0))
	check("no grace: it is only told", true, false, 0)
	now = minutes(m, now, 1, have(101, 24*time.Hour))
	check("a longer grace", true, false, 24*time.Hour-63*time.Minute)
	minutes(m, now, 24*60, have(101, 30*time.Hour))
	check("over midnight", true, false, 30*time.Hour-63*time.Minute-24*time.Hour)
	if x := m.Soft("t-b"); x.Exceeded() {
		t.Errorf("an unknown tenant: %+v", x)
	}
}

func TestInvoice(t *testing.T) {
	s := shelf{}
	m := quota.NewMeter(nil, s.load(t))
	begin := time.Date(2026, 10, 30, 12, 0, 0, 0, time.UTC)
	m.Observe(begin, 0, live(1000))
	now := minutes(m, begin, 36*60, live(1000)) // until the end of October
	now = now.AddDate(0, 0, 2)                  // none on the 1st and 2nd
	m.Observe(now, 0, live(4000))
	minutes(m, now, 36*60, live(4000)) // the 3rd, and half of the 4th
	s.keep(t, m)
	var days []quota.Day
	for d := begin.Truncate(24 * time.Hour); d.Before(now.AddDate(0, 0, 9)); d = d.AddDate(0, 0, 1) {
		if x, ok := s.load(t)("t-a", d); ok {
			days = append(days, x)
		}
	}
	first, last := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	end := time.Date(2026, 11, 5, 6, 0, 0, 0, time.UTC)
	type line struct {
		day   int
		bh    int64
		hours float64
		state string
	}
	var got []line
	for _, u := range quota.Invoice(days, first, last, begin, end) {
		got = append(got, line{u.Day.Day(), u.ByteHours, u.Hours, u.State})
	}
	want := []line{{1, 24000, 24, quota.Carried}, {2, 24000, 24, quota.Carried}, {3, 96000, 24, quota.Measured}, {4, 96000, 24, quota.Partial}, {5, 24000, 6, quota.Carried}}
	if len(got) != len(want) {
		t.Fatalf("%v", got)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d: %v, want %v", i, got[i], want[i])
		}
	}
	if u := quota.Invoice(nil, first, first, begin, end); len(u) != 1 || u[0].State != quota.Unknown || u[0].ByteHours != 0 {
		t.Errorf("nothing known: %+v", u)
	}
	if u := quota.Invoice(days, first, last, end.AddDate(0, 1, 0), end); len(u) != 0 {
		t.Errorf("not there yet: %+v", u)
	}
}

func FuzzParseDay(f *testing.F) {
	f.Add([]byte(`{"u":60,"m":60,"a":[1,2,3,4],"z":[1,2,3,4],"p":9,"r":[[1,9]]}`))
	f.Add([]byte(`{"u":-1}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := quota.ParseDay("t-a", "2026-11-25", text)
		if err != nil {
			return
		}
		again, err := d.Text()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := quota.ParseDay("t-a", "2026-11-25", again); err != nil {
			t.Fatalf("what it wrote it does not read: %v", err)
		}
		m := quota.NewMeter([]quota.Day{d}, func(string, time.Time) (quota.Day, bool) { return d, true })
		m.Observe(noon, 0, live(1))
		m.Observe(noon.Add(time.Minute), time.Minute, live(1))
		m.Rows()
	})
}

// A server that lived for less than a second leaves a day that somebody saw, and many of them no more than a second each day too much.
func TestMeasuredBriefly(t *testing.T) {
	at := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	kept, ok := quota.Day{}, false
	for range 3 {
		m := quota.NewMeter(nil, func(string, time.Time) (quota.Day, bool) { return kept, ok })
		s := map[string]quota.Sample{"t": {Usage: quota.Usage{Live: 100}}}
		m.Observe(at, 0, s)
		at = at.Add(400 * time.Millisecond)
		m.Observe(at, 400*time.Millisecond, s)
		rows := m.Rows()
		text, err := rows[0].Text()
		if err != nil {
			t.Fatal(err)
		}
		if kept, err = quota.ParseDay("t", "2026-11-25", text); err != nil {
			t.Fatal(err)
		}
		ok = true
		if kept.Measured != time.Second || kept.Mean.Live != 100 {
			t.Errorf("kept %+v", kept)
		}
	}
	lines := quota.Invoice([]quota.Day{kept}, kept.Day, kept.Day, at.Add(-2*time.Second), at)
	if len(lines) != 1 || lines[0].State != quota.Measured || lines[0].Mean.Live != 100 {
		t.Errorf("%+v", lines)
	}
	nothing := quota.Day{Tenant: "t", Day: kept.Day}
	if l := quota.Invoice([]quota.Day{nothing}, kept.Day, kept.Day, kept.Day, at); l[0].State != quota.Unknown {
		t.Errorf("%+v", l)
	}
}
