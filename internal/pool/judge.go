package pool

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"vaultd/internal/zfs"
)

// How a judge hesitates.
const (
	steady    = 2    // looks in a row without it that end a state which turned servers away, or a pool that was degraded
	patience  = 3    // looks in a row without an answer that make a pool silent
	growth    = 2    // looks in a row with more lost writes that make it failing
	nearly    = 85.0 // per cent of the pool: nearly full
	notNearly = 83.0
)

// Judge makes reports of readings, one after the other: it remembers what began when.
type Judge struct {
	Pool, Dataset string
	// Reserve says how much of the usable bytes is to stay free. nil: nothing.
	Reserve func(usable uint64) uint64
	// Scrub is the schedule, a cron line; "": scrubs are somebody else's business and are never overdue.
	Scrub string

	began    map[State]time.Time
	calm     map[State]int // looks in a row without it
	last     *Reading
	grew     int // looks in a row in which lost writes grew
	failures int
	out      bool // in the last report
	outages  uint64
}

// words are what is the matter, and what to do.
type words struct{ what, do string }

// Judge takes a look's outcome: a reading, or why there is none.
func (j *Judge) Judge(now time.Time, r *Reading, err error) Report {
	if j.began == nil {
		j.began, j.calm = map[State]time.Time{}, map[State]int{}
	}
	found := map[State]words{}
	if err == nil {
		j.failures = 0
		if j.last != nil && j.last.Load == r.Load && r.Lost.Write > j.last.Lost.Write {
			j.grew++
		} else {
			j.grew = 0
		}
		j.last = r
		j.health(r, found)
		if found[Suspended].what == "" {
			j.room(r, found)
			j.scrub(now, r, found)
		}
	} else {
		j.failures++
		j.unanswered(err, found)
	}
	out := Report{Pool: j.Pool, Dataset: j.Dataset, State: OK, Problems: []Problem{}, Reading: j.last, Tried: now, Failures: j.failures, Reserve: j.reserve()}
	if err != nil {
		out.Failure = line(err.Error())
	}
	for _, s := range states {
		w, ok := found[s]
		if !j.settle(now, s, ok, err == nil) {
			continue
		}
		if !ok {
			w = j.lingering(s)
		}
		out.Problems = append(out.Problems, Problem{State: s, Level: s.Level(), Since: j.began[s], Words: w.what, Do: w.do})
		out.Out = out.Out || s.Out()
		out.Full = out.Full || s == Full
		out.Level = max(out.Level, s.Level())
	}
	if out.Out && !j.out {
		j.outages++
	}
	j.out, out.Outages = out.Out, j.outages
	if len(out.Problems) > 0 {
		out.State = out.Problems[0].State
	} else if j.last == nil {
		out.State = Unknown
	}
	return out
}

// settle keeps account of a state, and says whether it counts as there.
func (j *Judge) settle(now time.Time, s State, found, answered bool) bool {
	_, was := j.began[s]
	switch {
	case found:
		j.calm[s] = 0
		if !was {
			j.began[s] = now
		}
		return true
	case !was:
		return false
	case !answered && s != Silent && s != Gone: // nothing is known that would end it
		return true
	}
	j.calm[s]++
	if (s.Out() || s == Degraded) && j.calm[s] < steady {
		return true
	}
	delete(j.began, s)
	return false
}

// lingering are the words for what was not seen in this look, and may come back.
func (j *Judge) lingering(s State) words {
	if j.failures > 0 {
		return words{"it was when the pool answered last", "see above"}
	}
	return words{fmt.Sprintf("it was a moment ago; it is over after %d looks without it", steady), "wait; the server goes on by itself"}
}

func (j *Judge) reserve() uint64 {
	if j.Reserve == nil || j.last == nil || j.last.Usable == 0 {
		return 0
	}
	return j.Reserve(j.last.Usable)
}

// unanswered judges a look that brought nothing.
func (j *Judge) unanswered(err error, found map[State]words) {
	switch {
	case errors.Is(err, zfs.ErrNotZFS):
		found[Gone] = words{"this machine has no ZFS: neither its tools nor its kernel module answer", "modprobe zfs; is the module of this kernel installed? then zpool import " + j.Pool}
	case errors.Is(err, zfs.ErrNotExist):
		found[Gone] = words{"it is not imported", "zpool import " + j.Pool + "; if it is not listed: are its disks there (lsblk, dmesg)?"}
	case errors.Is(err, zfs.ErrSuspended): // with failmode=continue zpool may still call it ONLINE
		found[Suspended] = words{"all I/O waits: " + line(err.Error()), "bring its disks back (cable, power, controller), then zpool clear " + j.Pool}
	case j.failures >= patience:
		found[Silent] = words{fmt.Sprintf("it was asked %d times in vain: %s", j.failures, line(err.Error())), "zpool status " + j.Pool + "; dmesg: a disk or its controller may hang"}
	}
}

// health judges whether it works.
func (j *Judge) health(r *Reading, found map[State]words) {
	bad := make([]string, 0, len(r.Devices))
	for _, d := range r.Devices {
		s := d.Name + " " + d.State
		if d.Errors.any() {
			s += " (" + d.Errors.String() + ")"
		}
		bad = append(bad, s)
	}
	devices := line(strings.Join(bad, "; "))
	if devices == "" {
		devices = "zpool names no device"
	}
	switch r.Health {
	case "ONLINE":
	case "SUSPENDED":
		found[Suspended] = words{"all I/O waits: " + devices, "bring its disks back (cable, power, controller), then zpool clear " + j.Pool}
	case "DEGRADED":
		found[Degraded] = words{"it works without all of its redundancy: " + devices, "replace the disk: zpool replace " + j.Pool + " OLD NEW; zpool status " + j.Pool + " says which"}
	default:
		found[Unusable] = words{fmt.Sprintf("it is %s: %s", r.Health, devices), "zpool status " + j.Pool + " says what is missing; bring the disks back, then zpool clear " + j.Pool}
	}
	if r.ReadOnly {
		found[Unusable] = words{"it is imported read-only", "zpool export " + j.Pool + "; zpool import " + j.Pool}
	}
	if j.grew >= growth {
		found[Failing] = words{fmt.Sprintf("it says %s, and %d writes are lost, more with each look", r.Health, r.Lost.Write),
			"its disk is gone or dead: bring it back, zpool clear " + j.Pool + "; if writes go on failing, restart the machine (OpenZFS 2.1 does not take a sole disk back)"}
	}
	if found[Suspended].what != "" { // what was not written yet is counted as damage, and comes right when it goes on
		return
	}
	if r.Data > 0 {
		found[Damaged] = words{r.Damage, "zpool status -v " + j.Pool + " names the files; vaultd verify finds their last good instants; then find the bad disk"}
	}
	if r.Errors.any() {
		found[Errors] = words{r.Errors.String() + " errors: " + devices, "look at the disk (smartctl -a); zpool clear " + j.Pool + " once it is known why"}
	}
	switch {
	case found[Unusable].what != "": // what is mounted says nothing then
	case !r.Mounted:
		found[NotMounted] = words{j.Dataset + " is not mounted where the store is", "zfs mount " + j.Dataset + " (zfs mount -a; for an encrypted one zfs load-key first)"}
	case len(r.Absent) > 0:
		found[Absent] = words{fmt.Sprintf("%d datasets are not mounted: %s", len(r.Absent), line(strings.Join(r.Absent, ", "))), "zfs load-key -r " + j.Dataset + " if they are encrypted; zfs mount -a"}
	}
}

// room judges how full it is.
func (j *Judge) room(r *Reading, found map[State]words) {
	_, was := j.began[Full]
	limit := j.reserve()
	if was {
		limit += limit / 10
	}
	const do = "make room: vaultd space TENANT says what holds it, zpool add puts disks in; expire frees what retention lets go of"
	if limit > 0 && r.Available < limit {
		found[Full] = words{fmt.Sprintf("%s are available, of which %s are the reserve: new data is refused; reads, locks and restores go on", bytes(r.Available), bytes(j.reserve())), do}
		return
	}
	_, was = j.began[NearlyFull]
	if c := r.full(); c >= nearly || was && c >= notNearly {
		found[NearlyFull] = words{fmt.Sprintf("%.0f %% are used, %s available; new data is refused at %s", c, bytes(r.Available), bytes(j.reserve())), do}
	}
}

// scrub judges when it was last read through.
func (j *Judge) scrub(now time.Time, r *Reading, found map[State]words) {
	if r.Scrub.Errors > 0 && found[Damaged].what == "" {
		found[Damaged] = words{fmt.Sprintf("the last scrub could not repair %d errors", r.Scrub.Errors), "zpool status -v " + j.Pool + " names the files; vaultd verify finds their last good instants"}
	}
	if j.Scrub == "" || r.Scrub.Due.IsZero() || r.Scrub.Running {
		return
	}
	late, err := gronx.NextTickAfter(j.Scrub, r.Scrub.Due, false)
	if err == nil && now.After(late) {
		last := "it was never scrubbed"
		if !r.Scrub.Ended.IsZero() {
			last = "it was scrubbed last at " + r.Scrub.Ended.UTC().Format(time.RFC3339)
		}
		found[ScrubOverdue] = words{fmt.Sprintf("%s; one was due at %s", last, r.Scrub.Due.UTC().Format(time.RFC3339)), "zpool scrub " + j.Pool + " as root; the log says why vaultd could not start it"}
	}
}

// bytes is a size for people.
func bytes(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
