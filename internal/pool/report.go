package pool

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"vaultd/internal/zfs"
)

// State is one thing that can be the matter with a pool.
type State string

// The states, worst first. Out says which of them mean that nothing can be stored or read.
const (
	Gone         State = "gone"            // not imported
	Suspended    State = "suspended"       // I/O waits for devices that went away
	Unusable     State = "unusable"        // faulted or unavailable
	Silent       State = "does not answer" // zpool(8) does not come back, or says what is not understood
	Failing      State = "fails writes"    // it calls itself online and loses what is written
	NotMounted   State = "not mounted"     // the store's root dataset is not where it should be
	Full         State = "full"            // the reserve is reached: new data is refused
	Damaged      State = "data errors"     // contents that no copy has whole
	Absent       State = "tenants absent"  // datasets of some tenants are not mounted
	Degraded     State = "degraded"        // one more device and data may be lost
	Errors       State = "errors"          // devices made errors that were repaired
	NearlyFull   State = "nearly full"
	ScrubOverdue State = "scrub overdue"
	OK           State = "ok"
	Unknown      State = "unknown" // not looked at yet
)

var states = []State{Gone, Suspended, Unusable, Silent, Failing, NotMounted, Full, Damaged, Absent, Degraded, Errors, NearlyFull, ScrubOverdue}

// Out reports whether nothing can be stored or read in this state.
func (s State) Out() bool {
	return slices.Contains([]State{Gone, Suspended, Unusable, Silent, Failing, NotMounted}, s)
}

// Level is how bad a state is: 0 well, 1 look at it, 2 act.
func (s State) Level() int {
	switch {
	case s == OK:
		return 0
	case s.Out() || s == Full || s == Damaged || s == Absent:
		return 2
	}
	return 1
}

// Reading is what one look at a pool brought. Sizes are bytes.
type Reading struct {
	At            time.Time `json:"at"`
	Health        string    `json:"health"` // zpool's word: ONLINE, DEGRADED, SUSPENDED, FAULTED, OFFLINE, REMOVED, UNAVAIL
	ReadOnly      bool      `json:"read_only,omitempty"`
	Size          uint64    `json:"size_bytes"` // with redundancy, as zpool list has it
	Allocated     uint64    `json:"allocated_bytes"`
	Free          uint64    `json:"free_bytes"`
	Freeing       uint64    `json:"freeing_bytes"`         // of destroyed datasets, in the background
	Fragmentation uint64    `json:"fragmentation_percent"` // of the free space
	Usable        uint64    `json:"usable_bytes"`          // for data: what is used and available, without redundancy and ZFS's own slop
	Available     uint64    `json:"available_bytes"`       // of Usable, to the store's root dataset

	Errors  Counts  `json:"errors"`            // of all devices
	Lost    Counts  `json:"lost"`              // of the pool itself: what no device could do
	Data    uint64  `json:"data_errors"`       // contents that are damaged for good
	Damage  string  `json:"damage,omitempty"`  // zpool's words about them
	Devices []Fault `json:"devices,omitempty"` // those that are not well
	Status  string  `json:"status,omitempty"`  // zpool's words about what is wrong, and what to do
	Action  string  `json:"action,omitempty"`

	Scrub   Scrub    `json:"scrub"`
	Mounted bool     `json:"mounted"`          // the store's root dataset, at the store
	Absent  []string `json:"absent,omitempty"` // ids of tenants whose dataset is there and not mounted
	Load    uint64   `json:"-"`                // names this import of the pool: zfs.Client.LoadGUID
}

// Counts are errors of devices.
type Counts struct {
	Read     uint64 `json:"read"`
	Write    uint64 `json:"write"`
	Checksum uint64 `json:"checksum"`
}

func (c Counts) any() bool { return c != Counts{} }

func (c Counts) String() string {
	return fmt.Sprintf("%d read, %d write, %d checksum", c.Read, c.Write, c.Checksum)
}

// Fault is a device that is not well.
type Fault struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Errors Counts `json:"errors"`
	Note   string `json:"note,omitempty"`
}

// Scrub is what is known of the reading again of everything on the pool.
type Scrub struct {
	Running bool      `json:"running"` // a scrub or a resilver
	Ended   time.Time `json:"ended,omitzero"`
	Errors  uint64    `json:"unrepaired"` // of the one that ended
	Due     time.Time `json:"due,omitzero"`
	Text    string    `json:"text,omitempty"` // zpool's words
}

// Capacity is how full the pool is, per cent.
func (r *Reading) Capacity() float64 {
	if r.Size == 0 {
		return 0
	}
	return 100 * float64(r.Allocated) / float64(r.Size)
}

// full is how full it is for the store, per cent: reservations of other datasets and a quota of the root's count, too.
func (r *Reading) full() float64 {
	if r.Usable == 0 {
		return r.Capacity()
	}
	return max(r.Capacity(), 100-100*float64(r.Available)/float64(r.Usable))
}

// Problem is one thing that is the matter, in words.
type Problem struct {
	State State     `json:"state"`
	Level int       `json:"level"` // 1: look at it, 2: act
	Since time.Time `json:"since"`
	Words string    `json:"words"`
	Do    string    `json:"do"`
}

// Report is how the pool is: the one value that status, metrics and pages show.
type Report struct {
	Pool     string        `json:"pool"`
	Dataset  string        `json:"dataset"` // the store's root
	State    State         `json:"state"`   // the worst
	Level    int           `json:"level"`   // 0: well, 1: look at it, 2: act
	Out      bool          `json:"out"`     // nothing can be stored or read
	Full     bool          `json:"full"`    // new data is refused
	Outages  uint64        `json:"outages"` // how often it was out since somebody looks: who misses a report does not miss that
	Reserve  uint64        `json:"reserve_bytes"`
	Problems []Problem     `json:"problems"` // worst first
	Reading  *Reading      `json:"reading"`  // the last good one; null: there was none
	Tried    time.Time     `json:"tried"`    // the last look, good or not
	Took     time.Duration `json:"took_ns"`
	Failure  string        `json:"failure,omitempty"` // why the last look brought no reading
	Failures int           `json:"failures"`          // looks in a row that brought none
	Hung     int           `json:"hung_processes"`    // zfs and zpool processes that were given up and have not ended
	Seq      uint64        `json:"-"`                 // grows with each look
}

// Summary is one line: the worst problem, or that all is well.
func (r *Report) Summary() string {
	switch {
	case r.State == Unknown:
		return fmt.Sprintf("pool %s: not looked at yet", r.Pool)
	case len(r.Problems) > 0:
		s := fmt.Sprintf("pool %s is %s: %s", r.Pool, phrase(r.Problems[0].State), r.Problems[0].Words)
		if n := len(r.Problems) - 1; n > 0 {
			s += fmt.Sprintf(" (and %d more: vaultd pool)", n)
		}
		return s
	}
	return fmt.Sprintf("pool %s is well", r.Pool)
}

// phrase is a state after "is".
func phrase(s State) string {
	switch s {
	case Silent:
		return "not answering"
	case Failing:
		return "failing writes"
	case Damaged:
		return "damaged"
	case Absent:
		return "lacking tenants' datasets"
	case Errors:
		return "making errors"
	case ScrubOverdue:
		return "not scrubbed in time"
	}
	return string(s)
}

// Line is what the log and the operator's terminal show of free text from zpool: one line, bounded, nothing that a terminal obeys.
func line(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 400 {
		s = strings.ToValidUTF8(s[:400], "") + "…"
	}
	return s
}

// read makes a reading of what zpool says.
func read(p *zfs.Pool, now time.Time) *Reading {
	r := &Reading{At: now, Health: line(p.Health), ReadOnly: p.ReadOnly, Size: p.Size, Allocated: p.Allocated, Free: p.Free, Freeing: p.Freeing, Fragmentation: p.Fragmentation,
		Damage: line(p.Errors), Status: line(p.Status), Action: line(p.Action)}
	r.Scrub.Text = line(p.Scan.Text)
	r.Scrub.Running = p.Scan.State == "running" || p.Scan.State == "paused"
	if p.Scan.State == "finished" {
		r.Scrub.Errors = p.Scan.Errors
		if p.Scan.Kind == "scrub" {
			r.Scrub.Ended = p.Scan.At
		}
	}
	if r.Damage != "" {
		if n, err := fmt.Sscanf(r.Damage, "%d data errors", &r.Data); n != 1 || err != nil {
			r.Data = 1 // how many is not told, but some
		}
	}
	for i, v := range p.Vdevs {
		c := Counts{v.Read, v.Write, v.Checksum}
		if i == 0 {
			r.Lost = c
			continue
		}
		leaf := i+1 == len(p.Vdevs) || p.Vdevs[i+1].Depth <= v.Depth
		if leaf && v.Depth > 0 {
			r.Errors.Read, r.Errors.Write, r.Errors.Checksum = r.Errors.Read+c.Read, r.Errors.Write+c.Write, r.Errors.Checksum+c.Checksum
		}
		if c.any() || !slices.Contains([]string{"ONLINE", "AVAIL", "INUSE", ""}, v.State) {
			r.Devices = append(r.Devices, Fault{Name: line(v.Name), State: line(v.State), Errors: c, Note: line(v.Note)})
		}
	}
	return r
}
