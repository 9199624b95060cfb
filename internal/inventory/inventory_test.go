package inventory_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

var epoch = time.Date(2026, 3, 1, 12, 30, 0, 0, time.UTC)

// Events are numbered, and what is kept of them is bounded.
func TestPushes(t *testing.T) {
	var p inventory.Pushes
	for n := range 7 {
		e := push.Event{Time: epoch.Add(time.Duration(n) * time.Hour), Result: push.OK, Restorable: n != 6, New: push.Work{Files: 1, Bytes: 10}, Unchanged: push.Work{Files: 2, Bytes: 20}}
		if n == 6 {
			e.Result = push.Aborted
		}
		if p, e = p.Plus(e, 5); e.Seq != uint64(n+1) {
			t.Errorf("number %d", e.Seq)
		}
	}
	if p.First != 3 || p.Last != 7 || p.Count[push.OK] != 6 || p.Count[push.Aborted] != 1 || p.Files != 7 || p.Bytes != 70 {
		t.Errorf("%+v", p)
	}
	if p.Attempt.Seq != 7 || p.Success.Seq != 6 || p.RunFiles != 3 || p.RunBytes != 30 || !p.Fresh.Equal(epoch.Add(5*time.Hour)) {
		t.Errorf("%+v", p)
	}
}

// The last 24 hours' refusals are those of the last 24 hours, to the hour, whatever came in between.
func TestDenied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var d inventory.Denied
		type refusal struct {
			hour, n int64
		}
		var all []refusal
		now := epoch
		for range rapid.IntRange(1, 60).Draw(t, "sessions") {
			now = now.Add(time.Duration(rapid.IntRange(0, 600).Draw(t, "minutes")) * time.Minute)
			n := rapid.Int64Range(1, 1000).Draw(t, "refusals")
			d = d.Plus(push.Event{Time: now, Denied: []push.Denial{{Op: "remove", Rule: "P2", Count: n}}})
			all = append(all, refusal{now.Unix() / 3600, n})
		}
		at := now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "later")) * time.Minute)
		var day, ever int64
		for _, r := range all {
			ever += r.n
			if h := at.Unix() / 3600; r.hour > h-24 && r.hour <= h {
				day += r.n
			}
		}
		if d.Day(at) != day || d.Total["remove"] != ever {
			t.Fatalf("%d in the day before, want %d; %d ever, want %d", d.Day(at), day, d.Total["remove"], ever)
		}
	})
}

// A clock that was set back loses no refusals and makes none up.
func TestDeniedAndTheClockBack(t *testing.T) {
	var d inventory.Denied
	one := []push.Denial{{Op: "remove", Rule: "P2", Count: 1}}
	d = d.Plus(push.Event{Time: epoch, Denied: one})
	d = d.Plus(push.Event{Time: epoch.Add(-2 * time.Hour), Denied: one})
	if n := d.Day(epoch); n != 2 {
		t.Error(n)
	}
	d = d.Plus(push.Event{Time: epoch.AddDate(0, 0, -40), Denied: one})
	if n := d.Day(epoch); n != 2 || d.Total["remove"] != 3 {
		t.Error(n, d.Total)
	}
}

func tenant(name string, success time.Time) inventory.Known {
	k := inventory.Known{Tenant: inventory.Tenant{ID: "t-" + name, Name: name, Created: epoch.AddDate(0, -1, 0)}}
	if !success.IsZero() {
		k.Pushes, _ = k.Pushes.Plus(push.Event{Time: success, Result: push.OK, Restorable: true, New: push.Work{Files: 1}}, 10)
	}
	return k
}

func TestMake(t *testing.T) {
	late := tenant("late", epoch.AddDate(0, 0, -3))
	own := tenant("own", epoch.AddDate(0, 0, -3)) // late by the common rule, not by its own
	own.Rules = []expect.Rule{{MaxAge: 7 * 24 * time.Hour}}
	dirs := tenant("dirs", epoch.Add(-time.Hour)) // well as a whole, and a directory of it is not
	dirs.Rules = []expect.Rule{{Path: "a", MaxAge: time.Hour}, {Path: "b", MaxAge: time.Hour, Since: epoch.Add(-time.Minute)}}
	held := tenant("held", time.Time{})
	held.Suspended = true
	full := tenant("full", epoch)
	full.Quota.Bytes, full.Usage.Live = 100, 100
	fresh := tenant("fresh", time.Time{})
	fresh.Created = epoch.Add(-time.Hour)
	inv := inventory.Make(epoch, []inventory.Known{late, own, dirs, held, full, fresh, tenant("ok", epoch)}, expect.Rule{MaxAge: 48 * time.Hour})
	want := map[string]expect.State{"late": expect.Late, "own": expect.OK, "dirs": expect.Never, "held": expect.Suspended, "full": expect.Full, "fresh": expect.Never, "ok": expect.OK}
	last := ""
	for _, x := range inv.Tenants {
		if x.Verdict.State != want[x.Name] {
			t.Errorf("%s: %s, want %s (%s)", x.Name, x.Verdict.State, want[x.Name], x.Verdict.Why)
		}
		if x.Name < last {
			t.Errorf("%s is behind %s", x.Name, last)
		}
		last = x.Name
	}
	if s := inv.Sum(); s.Tenants != 7 || s.Late != 1 || s.Never != 1 || s.New != 1 || s.Full != 1 || s.Suspended != 1 || s.BackedUp != 3 {
		t.Errorf("%+v", s)
	}
	for _, x := range inv.Tenants { // what metrics show as the limit
		if x.Name == "own" && x.MaxAge != 7*24*time.Hour || x.Name == "ok" && x.MaxAge != 48*time.Hour {
			t.Errorf("%s: %v", x.Name, x.MaxAge)
		}
	}
}

// Whoever is rooted in a directory learns nothing of what is beside it.
func TestBelow(t *testing.T) {
	k := tenant("acme", epoch.AddDate(0, 0, -3))
	k.Rules = []expect.Rule{{Path: "srv/secret", MaxAge: time.Hour}, {Path: "srv/web", MaxAge: time.Hour}, {Path: "srv/web/deep", MaxAge: time.Hour}, {Path: "srv/website", MaxAge: time.Hour}}
	inv := inventory.Make(epoch, []inventory.Known{k}, expect.Rule{MaxAge: 48 * time.Hour})
	o := inventory.Own{Tenant: inv.Tenants[0], Pushes: []push.Event{{Under: map[string]push.Work{"srv/secret": {Files: 1}}}}}
	o.Below("srv/web")
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(b), "secret") || strings.Contains(string(b), "website") || !strings.Contains(string(b), "srv/web/deep") {
		t.Errorf("%s", b)
	}
	if len(inv.Tenants[0].Verdicts) != 6 {
		t.Errorf("the inventory itself has %d verdicts left", len(inv.Tenants[0].Verdicts))
	}
}
