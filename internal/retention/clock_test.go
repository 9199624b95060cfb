package retention_test

import (
	"fmt"
	"testing"
	"time"

	"vaultd/internal/retention"
)

// machine is one that reads what a test says.
type machine struct {
	boot string
	up   time.Duration
	wall time.Time
}

func (m *machine) Boot() (string, time.Duration, error) { return m.boot, m.up, nil }
func (m *machine) Now() time.Time                       { return m.wall }

// What becomes of the age between two readings, whatever happens to the machine and its clocks: never more than what went by,
// and never less than nothing.
func TestClock(t *testing.T) {
	start := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	year := 365 * day
	tests := []struct {
		name string
		next machine
		age  time.Duration
		back bool
	}{
		{"an hour", machine{"b1", 11 * time.Hour, start.Add(time.Hour)}, time.Hour, false},
		{"an hour in which the wall clock was set ahead", machine{"b1", 11 * time.Hour, start.Add(year)}, time.Hour, false},
		{"an hour in which the wall clock was set back", machine{"b1", 11 * time.Hour, start.Add(-year)}, time.Hour, false},
		{"the machine was set back to before the reading", machine{"b1", 9 * time.Hour, start.Add(-time.Hour)}, 0, true},
		{"set back, wall clock right", machine{"b1", 9 * time.Hour, start.Add(day)}, 0, true},
		{"restarted an hour ago, a day after", machine{"b2", time.Hour, start.Add(day)}, time.Hour, false},
		{"restarted, and the clock's battery is empty", machine{"b2", time.Hour, time.Date(1970, 1, 1, 1, 0, 0, 0, time.UTC)}, 0, false},
		{"restarted, and the clock runs years ahead", machine{"b2", time.Hour, start.Add(10 * year)}, time.Hour, false},
		// The state was copied to a machine that has been up for three years: those years are not this state's.
		{"another machine", machine{"b9", 3 * year, start.Add(2 * time.Hour)}, 2 * time.Hour, false},
		{"another machine, whose clock is behind", machine{"b9", 3 * year, start.Add(-time.Minute)}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c retention.Clock
			if _, err := c.Advance(&machine{"b1", 10 * time.Hour, start}); err != nil {
				t.Fatal(err)
			}
			back, err := c.Advance(&tt.next)
			if err != nil || c.Age != tt.age || back != tt.back {
				t.Errorf("age %v, back %v, %v; want %v, %v", c.Age, back, err, tt.age, tt.back)
			}
			was := c.Age // and it goes on from there
			tt.next.up += time.Hour
			if _, err := c.Advance(&tt.next); err != nil || c.Age != was+time.Hour {
				t.Errorf("an hour later: %v, %v", c.Age, err)
			}
		})
	}
	// Two machines that take turns with one state (a shared disk) make no time of their own.
	var c retention.Clock
	for i := range 100 {
		m := &machine{fmt.Sprint("b", i%2), year, start.Add(time.Duration(i) * time.Minute)}
		if _, err := c.Advance(m); err != nil {
			t.Fatal(err)
		}
	}
	if c.Age > 99*time.Minute {
		t.Errorf("taking turns made %v of 99m", c.Age)
	}
}
