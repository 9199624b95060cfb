package pool_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"vaultd/internal/pool"
	"vaultd/internal/zfs"
)

var start = time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)

// well is a reading of a pool that is well.
func well(change ...func(*pool.Reading)) *pool.Reading {
	r := &pool.Reading{At: start, Health: "ONLINE", Size: 100 << 30, Allocated: 10 << 30, Free: 90 << 30, Usable: 100 << 30, Available: 90 << 30, Mounted: true, Load: 7}
	for _, f := range change {
		f(r)
	}
	return r
}

func judge() *pool.Judge {
	return &pool.Judge{Pool: "tank", Dataset: "tank/vaultd", Scrub: "@monthly", Reserve: func(n uint64) uint64 { return n / 20 }}
}

// One look at a pool: each state, how bad it is, and whether it turns clients away or refuses new data.
func TestStates(t *testing.T) {
	for _, x := range []struct {
		name      string
		reading   *pool.Reading
		err       error
		state     pool.State
		level     int
		out, full bool
		words     string // in the summary
	}{
		{name: "well", reading: well(), state: pool.OK, words: "pool tank is well"},
		{name: "degraded", reading: well(func(r *pool.Reading) {
			r.Health = "DEGRADED"
			r.Devices = []pool.Fault{{Name: "mirror-0", State: "DEGRADED"}, {Name: "/dev/sdb", State: "UNAVAIL"}}
		}), state: pool.Degraded, level: 1, words: "/dev/sdb UNAVAIL"},
		{name: "suspended", reading: well(func(r *pool.Reading) { r.Health = "SUSPENDED" }), state: pool.Suspended, level: 2, out: true, words: "all I/O waits"},
		{name: "suspended, and nothing is known of mounts", reading: well(func(r *pool.Reading) { r.Health, r.Mounted = "SUSPENDED", false }), state: pool.Suspended, level: 2, out: true, words: "suspended"},
		{name: "faulted", reading: well(func(r *pool.Reading) { r.Health = "FAULTED" }), state: pool.Unusable, level: 2, out: true, words: "FAULTED"},
		{name: "unavailable", reading: well(func(r *pool.Reading) { r.Health = "UNAVAIL" }), state: pool.Unusable, level: 2, out: true, words: "UNAVAIL"},
		{name: "a word that is not known is no good news", reading: well(func(r *pool.Reading) { r.Health = "HALFWAY" }), state: pool.Unusable, level: 2, out: true, words: "HALFWAY"},
		{name: "read-only", reading: well(func(r *pool.Reading) { r.ReadOnly = true }), state: pool.Unusable, level: 2, out: true, words: "read-only"},
		{name: "suspended, says zfs alone", err: fmt.Errorf("zfs list: %w", zfs.ErrSuspended), state: pool.Suspended, level: 2, out: true, words: "all I/O waits"},
		{name: "not imported", err: fmt.Errorf("zpool get: %w", zfs.ErrNotExist), state: pool.Gone, level: 2, out: true, words: "not imported"},
		{name: "no ZFS", err: zfs.ErrNotZFS, state: pool.Gone, level: 2, out: true, words: "no ZFS"},
		{name: "one look in vain is none", err: zfs.ErrTimeout, state: pool.Unknown, words: "not looked at yet"},
		{name: "not mounted", reading: well(func(r *pool.Reading) { r.Mounted = false }), state: pool.NotMounted, level: 2, out: true, words: "tank/vaultd is not mounted"},
		{name: "tenants absent", reading: well(func(r *pool.Reading) { r.Absent = []string{"t-aaaaaaaaaaaa"} }), state: pool.Absent, level: 2, words: "t-aaaaaaaaaaaa"},
		{name: "nearly full", reading: well(func(r *pool.Reading) { r.Allocated = 86 << 30 }), state: pool.NearlyFull, level: 1, words: "86 %"},
		{name: "nearly full by others' reservations", reading: well(func(r *pool.Reading) { r.Available = 14 << 30 }), state: pool.NearlyFull, level: 1, words: "14.0 GiB available"},
		{name: "just not nearly full", reading: well(func(r *pool.Reading) { r.Allocated = 84 << 30 }), state: pool.OK, words: "well"},
		{name: "full", reading: well(func(r *pool.Reading) { r.Available = 5<<30 - 1 }), state: pool.Full, level: 2, full: true, words: "new data is refused"},
		{name: "at the reserve", reading: well(func(r *pool.Reading) { r.Available = 5 << 30 }), state: pool.NearlyFull, level: 1},
		{name: "repaired errors", reading: well(func(r *pool.Reading) {
			r.Errors.Checksum = 3
			r.Devices = []pool.Fault{{Name: "sda", State: "ONLINE", Errors: pool.Counts{Checksum: 3}}}
		}), state: pool.Errors, level: 1, words: "0 read, 0 write, 3 checksum"},
		{name: "damage", reading: well(func(r *pool.Reading) { r.Data, r.Damage = 187, "187 data errors, use '-v' for a list" }), state: pool.Damaged, level: 2, words: "187 data errors"},
		{name: "a scrub that could not repair", reading: well(func(r *pool.Reading) { r.Scrub.Errors = 2 }), state: pool.Damaged, level: 2, words: "2 errors"},
		{name: "scrub due", reading: well(func(r *pool.Reading) { r.Scrub.Due = start.AddDate(0, 0, -20) }), state: pool.OK},
		{name: "scrub overdue", reading: well(func(r *pool.Reading) { r.Scrub.Due = start.AddDate(0, -1, -24) }), state: pool.ScrubOverdue, level: 1, words: "never scrubbed"},
		{name: "overdue, and it runs", reading: well(func(r *pool.Reading) { r.Scrub.Due, r.Scrub.Running = start.AddDate(0, -3, 0), true }), state: pool.OK},
		{name: "the worst first", reading: well(func(r *pool.Reading) { r.Health, r.Available, r.Errors.Read = "DEGRADED", 1, 1 }), state: pool.Full, level: 2, full: true, words: "2 more"},
	} {
		t.Run(x.name, func(t *testing.T) {
			r := judge().Judge(start, x.reading, x.err)
			if r.State != x.state || r.Level != x.level || r.Out != x.out || r.Full != x.full || !strings.Contains(r.Summary(), x.words) {
				t.Errorf("%s: %+v", r.Summary(), r)
			}
			for _, p := range r.Problems {
				if p.Words == "" || p.Do == "" || p.Since != start || p.Level != p.State.Level() {
					t.Errorf("problem: %+v", p)
				}
			}
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// step is one look and what is made of it.
type step struct {
	name    string
	reading *pool.Reading
	err     error
	want    []pool.State
}

func run(t *testing.T, steps []step) {
	t.Helper()
	j := judge()
	for i, x := range steps {
		r := j.Judge(start.Add(time.Duration(i)*10*time.Second), x.reading, x.err)
		var got []pool.State
		for _, p := range r.Problems {
			got = append(got, p.State)
		}
		if fmt.Sprint(got) != fmt.Sprint(x.want) {
			t.Errorf("%d %s: %v, want %v", i, x.name, got, x.want)
		}
	}
}

// What turns clients away begins at once, and ends after two looks without it.
func TestComesAndGoes(t *testing.T) {
	suspended := well(func(r *pool.Reading) { r.Health = "SUSPENDED" })
	out, none := []pool.State{pool.Suspended}, []pool.State(nil)
	run(t, []step{
		{"well", well(), nil, none},
		{"suspended", suspended, nil, out},
		{"better", well(), nil, out},
		{"worse again", suspended, nil, out},
		{"better", well(), nil, out},
		{"no answer is not better", nil, zfs.ErrTimeout, out},
		{"better for the second time", well(), nil, none},
	})
}

// Alarms about room neither come and go at their edge.
func TestRoomHesitates(t *testing.T) {
	at := func(percent uint64) *pool.Reading {
		return well(func(r *pool.Reading) { r.Allocated, r.Available = percent<<30, (100-percent)<<30 })
	}
	nearly, full := []pool.State{pool.NearlyFull}, []pool.State{pool.Full}
	run(t, []step{
		{"84", at(84), nil, nil}, {"85", at(85), nil, nearly}, {"84", at(84), nil, nearly}, {"82", at(82), nil, nil}, {"84", at(84), nil, nil},
		{"96", at(96), nil, full},
		{"at the reserve", at(95), nil, full}, // until there is a tenth more than that
		{"94", at(94), nil, nearly},
		{"95", at(95), nil, nearly},
		{"50", at(50), nil, nil},
	})
}

// A pool that does not answer is silent after three looks, and its last reading stays, with its time. One that is gone is gone at once.
func TestSilent(t *testing.T) {
	run(t, []step{
		{"well", well(), nil, nil},
		{"1", nil, zfs.ErrTimeout, nil}, {"2", nil, zfs.ErrOutput, nil}, {"3", nil, zfs.ErrTimeout, []pool.State{pool.Silent}},
		{"answers", well(), nil, []pool.State{pool.Silent}}, {"answers", well(), nil, nil},
		{"gone", nil, zfs.ErrNotExist, []pool.State{pool.Gone}},
		{"comes back", well(), nil, []pool.State{pool.Gone}}, {"is back", well(), nil, nil},
	})
	j := judge()
	j.Judge(start, well(), nil)
	r := j.Judge(start.Add(time.Hour), nil, errors.New("zpool get tank: does not answer\x1b[2J\nin time"))
	if r.Reading == nil || !r.Reading.At.Equal(start) || r.Tried.Sub(start) != time.Hour || r.Failures != 1 || r.State != pool.OK || strings.ContainsAny(r.Failure, "\x1b\n") {
		t.Errorf("a frozen reading can not be seen: %+v", r)
	}
}

// A pool that says ONLINE while what is written to it is lost (OpenZFS 2.1 with its only disk pulled) is found by counts that grow.
func TestFailing(t *testing.T) {
	lost := func(n uint64) *pool.Reading {
		return well(func(r *pool.Reading) { r.Lost.Write, r.Errors.Write = n, n })
	}
	errs, fails := []pool.State{pool.Errors}, []pool.State{pool.Failing, pool.Errors}
	run(t, []step{
		{"old errors", lost(4), nil, errs}, {"no more", lost(4), nil, errs}, {"once", lost(9), nil, errs}, {"it stops", lost(9), nil, errs},
		{"grows", lost(12), nil, errs}, {"and grows", lost(15), nil, fails}, {"and grows", lost(20), nil, fails},
		{"stops", lost(20), nil, fails}, {"stays so", lost(20), nil, errs}, {"cleared", lost(0), nil, nil},
	})
	other := lost(99)
	other.Load = 8
	run(t, []step{{"one import", lost(1), nil, errs}, {"another import counts anew", other, nil, errs}})
}
