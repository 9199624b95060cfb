package snapshot_test

import (
	"slices"
	"testing"
	"time"

	"vaultd/internal/snapshot"
)

func at(s string) time.Time {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		panic(err)
	}
	return t
}

func TestDue(t *testing.T) {
	c := snapshot.NewClock(nil)
	lines := []string{"@hourly", "@daily", "30 4 * * *"}
	for _, row := range []struct {
		now  string
		want []string
	}{
		{"2026-11-22T10:20:00Z", nil},                 // a new store owes nothing
		{"2026-11-22T10:59:59Z", nil},                 //
		{"2026-11-22T11:00:00Z", []string{"@hourly"}}, // on the hour
		{"2026-11-22T11:00:10Z", nil},                 // once
		{"2026-11-22T14:30:00Z", []string{"@hourly"}}, // three hours asleep: one
		{"2026-11-23T05:00:00Z", lines},               // over night: each once
		{"2026-11-23T04:30:00Z", nil},                 // the clock was set back
		{"2026-11-23T05:00:30Z", nil},                 // and comes by again
		{"2026-11-23T06:00:30Z", []string{"@hourly"}}, //
	} {
		got, err := c.Due(lines, at(row.now))
		if err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%s: due %q, %v; want %q", row.now, got, err, row.want)
		}
	}
	c = snapshot.NewClock(c.Last())
	if got, _ := c.Due(lines, at("2026-11-24T00:00:00Z")); !slices.Equal(got, []string{"@hourly", "@daily"}) {
		t.Errorf("after a restart: %q", got)
	}
	if _, err := c.Due([]string{"never"}, at("2026-11-24T00:00:00Z")); err == nil {
		t.Error("a bad line was taken")
	}
}

func TestPushes(t *testing.T) {
	var p snapshot.Pushes
	now := at("2026-11-22T10:00:00Z")
	if !p.Ended(now) || p.Ended(now.Add(time.Second)) || p.Ended(now.Add(59*time.Second)) {
		t.Fatal("want the first push at once and the others later")
	}
	if p.Waiting(now.Add(59 * time.Second)) {
		t.Fatal("too early")
	}
	if !p.Pending() || !p.Waiting(now.Add(time.Minute)) || p.Waiting(now.Add(3*time.Minute)) || p.Pending() {
		t.Fatal("want one for all the others")
	}
	if !p.Ended(now.Add(5 * time.Minute)) {
		t.Fatal("want the next one at once")
	}
}
