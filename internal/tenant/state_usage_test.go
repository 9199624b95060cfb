package tenant_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"vaultd/internal/tenant"
)

// usageRows lists what is kept, as date/tenant=text.
func usageRows(t *testing.T, s *tenant.State, from, to, id string) []string {
	t.Helper()
	out := []string{}
	err := s.Usage(from, to, id, func(r tenant.UsageRow) bool {
		out = append(out, r.Date+"/"+r.Tenant+"="+string(r.Text))
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestStateUsage(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	if got := usageRows(t, s, "", "9", ""); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
	put := func(rows ...tenant.UsageRow) {
		t.Helper()
		if err := s.PutUsage(rows); err != nil {
			t.Fatal(err)
		}
	}
	row := func(date, id, text string) tenant.UsageRow {
		return tenant.UsageRow{Date: date, Tenant: id, Text: []byte(text)}
	}
	put(row("2026-11-24", "t-a", "1"), row("2026-11-24", "t-b", "2"), row("2026-11-25", "t-b", "3"), row("2026-11-25", "t-a", "4"), row("2026-11-25", "t-c", "5"),
		row("2026-12-01", "t-a", "6"))
	put(row("2026-11-25", "t-a", "7")) // in place of the older one
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openState(t, dir, time.Hour)
	for _, c := range []struct {
		from, to, id string
		want         []string
	}{
		{"2026-11-01", "2026-11-30", "", []string{"2026-11-24/t-a=1", "2026-11-24/t-b=2", "2026-11-25/t-a=7", "2026-11-25/t-b=3", "2026-11-25/t-c=5"}},
		{"2026-11-01", "2026-12-31", "t-a", []string{"2026-11-24/t-a=1", "2026-11-25/t-a=7", "2026-12-01/t-a=6"}},
		{"2026-11-01", "2026-12-31", "t-b", []string{"2026-11-24/t-b=2", "2026-11-25/t-b=3"}},
		{"2026-11-01", "2026-12-31", "t-c", []string{"2026-11-25/t-c=5"}},
		{"2026-11-01", "2026-12-31", "t-x", []string{}},
		{"2026-11-25", "2026-11-25", "t-b", []string{"2026-11-25/t-b=3"}},
	} {
		if got := usageRows(t, s, c.from, c.to, c.id); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v", c, got)
		}
	}
	var newest []string
	err := s.NewestUsage(2, func(r tenant.UsageRow) bool { newest = append(newest, r.Date+"/"+r.Tenant); return true })
	if err != nil || !slices.Equal(newest, []string{"2026-11-25/t-a", "2026-11-25/t-b", "2026-11-25/t-c", "2026-12-01/t-a"}) {
		t.Errorf("newest: %v, %v", newest, err)
	}
	if text, err := s.UsageOn("2026-11-24", "t-b"); string(text) != "2" || err != nil {
		t.Errorf("one: %q, %v", text, err)
	}
	for _, bad := range []tenant.UsageRow{row("yesterday", "t-a", ""), row("2026-11-25", "", ""), row("2026-11-25", "a/b", "")} {
		if err := s.PutUsage([]tenant.UsageRow{bad}); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// The newest 400 days are kept, whatever the clock says: a day far ahead ends one day and not all of them.
func TestStateUsageIsBounded(t *testing.T) {
	s := openState(t, t.TempDir(), time.Hour)
	day := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	var rows []tenant.UsageRow
	for i := range tenant.UsageDays + 30 {
		for id := range 20 {
			rows = append(rows, tenant.UsageRow{Date: day.AddDate(0, 0, i).Format(time.DateOnly), Tenant: fmt.Sprintf("t-%02d", id), Text: []byte("{}")})
		}
	}
	rows = append(rows, tenant.UsageRow{Date: "2090-01-01", Tenant: "t-00", Text: []byte("{}")})
	if err := s.PutUsage(rows); err != nil {
		t.Fatal(err)
	}
	got := usageRows(t, s, "", "9", "t-00")
	if len(got) != tenant.UsageDays || got[0] != day.AddDate(0, 0, 31).Format(time.DateOnly)+"/t-00={}" {
		t.Errorf("%d days from %s", len(got), got[0])
	}
	if n := len(usageRows(t, s, "", "9", "")); n != (tenant.UsageDays-1)*20+1 {
		t.Errorf("%d rows", n)
	}
}
