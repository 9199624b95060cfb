package retention

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is what the clock reads: which boot this is, for how long the machine has been up (suspended time included), and
// the wall clock, which is believed once, at the beginning, and later only where it makes less time go by.
type Machine interface {
	Boot() (id string, up time.Duration, err error)
	Now() time.Time
}

// Clock is time as accumulated by this process while the machine was up: it never goes back, whatever happens to the wall
// clock, and what it can not know (the machine was off, or was set back to an earlier state) does not count.
//
// A boot that is new may be that of another machine, which was up for years before the state came to it. So no more of its
// time counts than the wall clock says went by since the last reading: two clocks have to agree before something is old.
type Clock struct {
	Age  time.Duration // since Base
	Base time.Time     // the wall clock when the state was made
	Boot string        // of the last reading
	Up   time.Duration // of the last reading
	Wall time.Time     // of the last reading
}

// advance reads the machine. back says that the same boot is younger than it was: the machine was set back.
func (c *Clock) advance(m Machine) (back bool, err error) {
	boot, up, err := m.Boot()
	if err != nil {
		return false, fmt.Errorf("read clock: %w", err)
	}
	wall := m.Now().UTC().Round(0)
	switch {
	case c.Base.IsZero():
		c.Base = wall
	case boot != c.Boot:
		if !c.Wall.IsZero() {
			c.Age += max(0, min(up, wall.Sub(c.Wall)))
		}
	case up >= c.Up:
		c.Age += up - c.Up
	default:
		back = true
	}
	c.Boot, c.Up, c.Wall = boot, up, wall
	return back, nil
}

// wall is what the clock shows at an age.
func (c *Clock) wall(age time.Duration) time.Time { return c.Base.Add(age) }

// System is the machine that this runs on: CLOCK_BOOTTIME and the kernel's boot id.
type System struct{}

// Boot implements Machine.
func (System) Boot() (string, time.Duration, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", 0, err
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return "", 0, err
	}
	return strings.TrimSpace(string(b)), time.Duration(ts.Nano()), nil
}

// Now implements Machine.
func (System) Now() time.Time { return time.Now() }
