package quota_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/quota"
)

var noon = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// levels are the days before noon's, the last one yesterday.
func levels(bytes ...int64) []quota.Level {
	var out []quota.Level
	for i, b := range bytes {
		if b >= 0 {
			out = append(out, quota.Level{Day: noon.Truncate(24*time.Hour).AddDate(0, 0, i-len(bytes)), Bytes: b})
		}
	}
	return out
}

func TestForecast(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name        string
		past        []quota.Level
		used, limit int64
		in          time.Duration // from noon; negative: it does not fill up
	}{
		{"steady growth", levels(10, 20, 30, 40, 50, 60), 70, 100, 3 * day},
		{"no limit", levels(10, 20, 30, 40, 50, 60), 70, 0, -1},
		{"full already", nil, 100, 100, 0},
		{"over already", nil, 120, 100, 0},
		{"too young", levels(10, 20, 30, 40), 50, 100, -1},
		{"nothing known", nil, 50, 100, -1},
		{"stands still", levels(50, 50, 50, 50, 50, 50), 50, 100, -1},
		{"shrinks", levels(90, 80, 70, 60, 50, 40), 40, 100, -1},
		{"the first full backup is no growth", levels(0, 900, 901, 902, 903, 904, 905, 906, 907), 908, 1000, 92 * day},
		{"a clean-up is no shrinking", levels(100, 110, 120, 130, 140, 150, 160, 170, 180, 10, 20, 30), 40, 140, 10 * day},
		{"days without a server", levels(10, -1, -1, 40, 50, -1, 70, 80), 90, 100, day},
		{"in the far future is never", levels(100, 101, 102, 103, 104, 105), 106, 1 << 50, -1},
		{"only the last four weeks count",
			func() (out []quota.Level) {
				for i := range 60 {
					b := int64(1000) // stood still for a month, and grows for four weeks
					if i >= 32 {
						b += int64(i-32) * 10
					}
					out = append(out, quota.Level{Day: noon.AddDate(0, 0, i-60), Bytes: b})
				}
				return out
			}(), 1280, 1380, 10 * day},
	} {
		t.Run(c.name, func(t *testing.T) {
			full, ok := quota.Forecast(c.past, c.used, c.limit, noon)
			if ok != (c.in >= 0) || ok && full.Sub(noon.Add(c.in)).Abs() > time.Second {
				t.Errorf("full at %v, %v; want in %v", full, ok, c.in)
			}
		})
	}
}

// Whatever the history: a forecast is never in the past nor beyond the horizon, more used is never later, a higher limit never
// earlier, and the order of the days does not matter.
func TestForecastProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		past := levels(rapid.SliceOfN(rapid.Int64Range(-1, 1<<50), 0, 40).Draw(r, "past")...)
		used, limit := rapid.Int64Range(0, 1<<50).Draw(r, "used"), rapid.Int64Range(0, 1<<50).Draw(r, "limit")
		more := rapid.Int64Range(0, 1<<40).Draw(r, "more")
		full, ok := quota.Forecast(past, used, limit, noon)
		if ok && (full.Before(noon) || full.After(noon.Add(quota.Horizon))) {
			r.Fatalf("full at %v", full)
		}
		if later, ok2 := quota.Forecast(past, used+more, limit, noon); ok && (!ok2 || later.After(full)) {
			r.Fatalf("with %d more used: %v %v after %v", more, later, ok2, full)
		}
		if limit > 0 {
			if higher, ok2 := quota.Forecast(past, used, limit+more, noon); ok2 && (!ok || higher.Before(full)) {
				r.Fatalf("with %d more allowed: %v before %v %v", more, higher, full, ok)
			}
		}
		if again, ok2 := quota.Forecast(rapid.Permutation(past).Draw(r, "order"), used, limit, noon); ok2 != ok || !again.Equal(full) {
			r.Fatalf("in another order: %v %v, was %v %v", again, ok2, full, ok)
		}
	})
}

// A steady growth with four of 28 days anything at all is still found, within a quarter.
func TestForecastIsRobust(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		growth := rapid.Int64Range(1000, 1<<40).Draw(r, "growth")
		var days []int64
		for i := range 28 {
			days = append(days, int64(i)*growth)
		}
		for range rapid.IntRange(0, 4).Draw(r, "odd days") {
			days[rapid.IntRange(0, 27).Draw(r, "which")] = rapid.Int64Range(0, 1<<50).Draw(r, "anything")
		}
		used := 28 * growth
		full, ok := quota.Forecast(levels(days...), used, used+20*growth, noon)
		if in := full.Sub(noon).Hours() / 24; !ok || in < 15 || in > 25 {
			r.Fatalf("full in %.1f days (%v), want about 20", in, ok)
		}
	})
}
