package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vaultd/internal/quota"
	"vaultd/internal/tenant"
)

type billRequest struct {
	Tenant string `json:"tenant,omitempty"` // "": all
	First  string `json:"first"`            // dates
	Last   string `json:"last"`
}

// billLine is a day of a tenant's.
type billLine struct {
	Tenant    string  `json:"tenant"`
	ID        string  `json:"id"`
	Date      string  `json:"date"`
	Live      int64   `json:"live_bytes"` // means over the day
	Versions  int64   `json:"versions_bytes"`
	Staging   int64   `json:"staging_bytes"`
	Snapshots int64   `json:"snapshots_bytes"`
	Used      int64   `json:"used_bytes"`
	P95       int64   `json:"p95_bytes"`
	Hours     float64 `json:"hours"`          // of the day that count
	Measured  float64 `json:"measured_hours"` // of these a server saw
	ByteHours int64   `json:"byte_hours"`
	State     string  `json:"state"` // measured, partial, carried or unknown
}

// billTotal is a tenant's sum over the days.
type billTotal struct {
	Tenant    string `json:"tenant"`
	ID        string `json:"id"`
	ByteHours int64  `json:"byte_hours"`
	Mean      int64  `json:"mean_bytes"`
	P95       int64  `json:"p95_bytes"` // the highest of the days
	Days      int    `json:"days"`
	Unsure    int    `json:"unsure_days"` // not measured as a whole
}

type billReply struct {
	First  string      `json:"first"`
	Last   string      `json:"last"`
	Lines  []billLine  `json:"lines"`
	Totals []billTotal `json:"totals"`
}

// carryDays is how far back a day without a server finds what it is like.
const carryDays = 62

// bill makes the lines of an invoice: what state.db has, and what of today is not in it yet.
func (o *operations) bill(_ context.Context, in billRequest) (billReply, error) {
	out := billReply{First: in.First, Last: in.Last, Lines: []billLine{}, Totals: []billTotal{}}
	first, err := time.Parse(time.DateOnly, in.First)
	last, lerr := time.Parse(time.DateOnly, in.Last)
	if err = errors.Join(err, lerr); err != nil {
		return out, fmt.Errorf("%w: %w", err, tenant.ErrInvalid)
	}
	if o.state == nil {
		return out, errNoState
	}
	only := ""
	if in.Tenant != "" {
		t, err := o.find(in.Tenant)
		if err != nil {
			return out, err
		}
		only = t.ID
	}
	days := map[string]map[string]quota.Day{}
	put := func(d quota.Day) {
		if days[d.Tenant] == nil {
			days[d.Tenant] = map[string]quota.Day{}
		}
		days[d.Tenant][d.Day.Format(time.DateOnly)] = d
	}
	var damaged error
	err = o.state.Usage(first.AddDate(0, 0, -carryDays).Format(time.DateOnly), in.Last, only, func(r tenant.UsageRow) bool {
		d, err := quota.ParseDay(r.Tenant, r.Date, r.Text)
		if err != nil {
			damaged = err
			return false
		}
		put(d)
		return true
	})
	if err = errors.Join(err, damaged); err != nil {
		return out, err
	}
	if o.metering != nil {
		for _, d := range o.metering.meter.Rows() {
			if (only == "" || d.Tenant == only) && !d.Day.After(last) {
				put(d)
			}
		}
	}
	for _, t := range o.st.Tenants().All() {
		if only != "" && t.ID != only {
			continue
		}
		var list []quota.Day
		for _, d := range days[t.ID] {
			list = append(list, d)
		}
		slices.SortFunc(list, func(a, b quota.Day) int { return a.Day.Compare(b.Day) })
		out.add(t, quota.Invoice(list, first, last, t.Created, billedUntil(t, list, time.Now())))
	}
	return out, nil
}

// billedUntil is until when a tenant costs something: a removed one until nothing of it was left, which is the last day that is known.
func billedUntil(t tenant.Tenant, days []quota.Day, now time.Time) time.Time {
	if !t.Removed(now) {
		return now
	}
	end := t.Removal.Due
	if n := len(days); n > 0 {
		if d := days[n-1].Day.AddDate(0, 0, 1); d.After(end) {
			end = d
		}
	}
	if end.After(now) {
		return now
	}
	return end
}

func (b *billReply) add(t tenant.Tenant, days []quota.DayUsage) {
	if len(days) == 0 {
		return
	}
	sum := billTotal{Tenant: t.Name, ID: t.ID, Days: len(days)}
	hours := 0.0
	for _, d := range days {
		b.Lines = append(b.Lines, billLine{Tenant: t.Name, ID: t.ID, Date: d.Day.Format(time.DateOnly), Live: d.Mean.Live, Versions: d.Mean.Versions, Staging: d.Mean.Staging,
			Snapshots: d.Mean.Snapshots, Used: d.Mean.Used(), P95: d.P95, Hours: rounded(d.Hours), Measured: rounded(d.Measured), ByteHours: d.ByteHours, State: d.State})
		sum.ByteHours += d.ByteHours
		sum.P95 = max(sum.P95, d.P95)
		hours += d.Hours
		if d.State != quota.Measured {
			sum.Unsure++
		}
	}
	if hours > 0 {
		sum.Mean = int64(float64(sum.ByteHours) / hours)
	}
	b.Totals = append(b.Totals, sum)
}

func rounded(hours float64) float64 { return float64(int64(hours*1000+0.5)) / 1000 }

// commitment is what was promised to tenants against what there is.
type commitment struct {
	Promised  int64   `json:"promised_bytes"` // sum of the quotas
	Unlimited int     `json:"unlimited"`      // tenants without one
	Used      int64   `json:"used_bytes"`
	Size      int64   `json:"size_bytes"` // of the pool or file system, for data
	Free      int64   `json:"free_bytes"`
	Ratio     float64 `json:"ratio"` // promised of what tenants could have: what they use and what is free
}

// committed sums up the tenants. What others have on the same file system is not promised to anybody.
func (o *operations) committed() commitment {
	var c commitment
	tenants := o.st.Tenants().Tenants()
	for _, t := range tenants {
		if t.Quota.Bytes == 0 {
			c.Unlimited++
		}
		c.Promised += t.Quota.Bytes
		if o.state != nil {
			c.Used += usageFromFacts(o.state.FactsOf(t.ID).Usage).Used()
		}
	}
	var st unix.Statfs_t
	if unix.Statfs(o.st.Dir, &st) == nil {
		c.Size, c.Free = int64(st.Blocks)*st.Bsize, int64(st.Bavail)*st.Bsize
	}
	if room := c.Used + c.Free; room > 0 {
		c.Ratio = float64(c.Promised) / float64(room)
	}
	return c
}

// String is one line.
func (c commitment) String() string {
	s := fmt.Sprintf("%s promised, %s used, %s free of %s", size(c.Promised), size(c.Used), size(c.Free), size(c.Size))
	if c.Unlimited > 0 {
		s += fmt.Sprintf("; %d without a quota", c.Unlimited)
	}
	if c.Ratio > 1 {
		s += fmt.Sprintf("; over-committed: %.0f %% of what there is room for", c.Ratio*100)
	}
	return s
}

// standingReply is a tenant's place between its limits.
type standingReply struct {
	Tenant string    `json:"tenant"`
	Used   int64     `json:"used_bytes"`
	Quota  int64     `json:"quota_bytes"`
	Soft   int64     `json:"soft_quota_bytes,omitempty"`
	Grace  int64     `json:"grace_left_seconds,omitempty"` // while above the soft quota; 0 with Lapsed
	Over   bool      `json:"over_soft"`
	Lapsed bool      `json:"lapsed"`           // nothing more is taken
	Full   time.Time `json:"full_on,omitzero"` // as things go
	quota.Usage
}

type standingsReply struct {
	Tenants    []standingReply `json:"tenants"`
	Commitment commitment      `json:"commitment"`
}

// standings are where tenants stand now.
func (o *operations) standings(_ context.Context, in tenantRef) (standingsReply, error) {
	out := standingsReply{Tenants: []standingReply{}, Commitment: o.committed()}
	if o.state == nil {
		return out, errNoState
	}
	if in.Tenant != "" {
		if _, err := o.find(in.Tenant); err != nil {
			return out, err
		}
	}
	for _, t := range o.st.Tenants().Tenants() {
		if in.Tenant != "" && t.Name != in.Tenant {
			continue
		}
		u := usageFromFacts(o.state.FactsOf(t.ID).Usage)
		r := standingReply{Tenant: t.Name, Used: u.Used(), Quota: t.Quota.Bytes, Soft: t.Quota.SoftBytes, Usage: u}
		r.Over = t.Quota.SoftBytes > 0 && r.Used > t.Quota.SoftBytes
		if o.metering != nil {
			s := o.metering.meter.Soft(t.ID)
			r.Lapsed, r.Grace, r.Full = s.Lapsed(), int64(s.Left/time.Second), o.metering.forecast(t.ID)
		}
		out.Tenants = append(out.Tenants, r)
	}
	return out, nil
}

func (a *app) usageCommand() *cobra.Command {
	var month string
	var asCSV bool
	c := &cobra.Command{Use: "usage [TENANT]", Short: "Who uses how much, and used how much in a month", Args: cobra.MaximumNArgs(1),
		Long: "Without --month: where tenants stand between their limits now, and what is promised against what there is. SNAPSHOTS is what only snapshots on ZFS hold of what was freed: it comes on top of what is used, takes room of the pool, and is not charged. With --month: what each tenant used on each day of it (UTC), for invoices; 400 days are kept.\n\n" +
			"Usage is sampled once a minute and taken to change evenly in between, so the byte-hours of a day are wrong by at most half of what came or went within a minute, times that minute. Days of which a server saw only a part (measured_hours) are \"partial\": the rest is taken to be like it. Days without a server are \"carried\": they are taken to be like the day before, or \"unknown\", and count nothing.",
		RunE: func(cmd *cobra.Command, args []string) error {
			name := ""
			if len(args) > 0 {
				name = args[0]
			}
			if asCSV && (a.json || month == "") {
				return &usageError{errors.New("--csv goes with --month, and without --json")}
			}
			if month == "" {
				return a.showStandings(cmd.Context(), name)
			}
			first, err := time.Parse("2006-01", month)
			if err != nil {
				return &usageError{fmt.Errorf("month %q: want YYYY-MM, such as 2026-11", month)}
			}
			var out billReply
			in := billRequest{Tenant: name, First: first.Format(time.DateOnly), Last: first.AddDate(0, 1, -1).Format(time.DateOnly)}
			if err := a.call(cmd.Context(), "usage.bill", in, &out); err != nil {
				return err
			}
			if asCSV {
				return out.writeCSV(a.stdout)
			}
			return a.print("vaultd.usage/v1", out, func(w io.Writer) { out.show(w) })
		}}
	c.Flags().StringVar(&month, "month", "", "YYYY-MM: what was used on each day of a month")
	c.Flags().BoolVar(&asCSV, "csv", false, "print the days as comma-separated values")
	a.jsonFlag(c)
	return c
}

func (a *app) showStandings(ctx context.Context, name string) error {
	var out standingsReply
	if err := a.call(ctx, "usage.standings", tenantRef{name}, &out); err != nil {
		return err
	}
	return a.print("vaultd.standings/v1", out, func(w io.Writer) {
		var rows [][]string
		for _, t := range out.Tenants {
			rows = append(rows, []string{t.Tenant, size(t.Used), limit(t.Quota), size(t.Live), size(t.Versions), size(t.Staging), heldText(t.Snapshots), t.remark()})
		}
		table(w, []string{"TENANT", "USED", "QUOTA", "LIVE", "VERSIONS", "UNFINISHED", "SNAPSHOTS", ""}, rows)
		if name == "" {
			fmt.Fprintf(w, "\n%s\n", out.Commitment)
		}
	})
}

// heldText is what only snapshots hold: it is beside what is used, and there is none of it without ZFS.
func heldText(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return "+" + size(bytes)
}

// remark is what is to be said of a tenant's place.
func (r *standingReply) remark() string {
	var s []string
	switch {
	case r.Lapsed:
		s = append(s, fmt.Sprintf("above its soft quota of %s for too long: nothing more is taken", size(r.Soft)))
	case r.Over && r.Grace > 0:
		s = append(s, fmt.Sprintf("above its soft quota of %s: in %s nothing more is taken", size(r.Soft), roughly(time.Duration(r.Grace)*time.Second)))
	case r.Over:
		s = append(s, fmt.Sprintf("above its soft quota of %s", size(r.Soft)))
	}
	if !r.Full.IsZero() {
		s = append(s, "full on "+r.Full.UTC().Format(time.DateOnly)+", as things go")
	}
	return strings.Join(s, "; ")
}

// roughly is a duration in its largest unit.
func roughly(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	}
	return fmt.Sprintf("%d minutes", max(1, d/time.Minute))
}

func (b *billReply) show(w io.Writer) {
	var rows [][]string
	for _, l := range b.Lines {
		state := l.State
		if state == quota.Partial {
			state += fmt.Sprintf(" (%.1f of %.1f h)", l.Measured, l.Hours)
		}
		rows = append(rows, []string{l.Tenant, l.Date, size(l.Used), size(l.P95), strconv.FormatInt(l.ByteHours, 10), state})
	}
	table(w, []string{"TENANT", "DATE", "MEAN", "P95", "BYTE-HOURS", ""}, rows)
	fmt.Fprintln(w)
	rows = nil
	for _, t := range b.Totals {
		unsure := ""
		if t.Unsure > 0 {
			unsure = fmt.Sprintf("%d of %d days not measured as a whole", t.Unsure, t.Days)
		}
		rows = append(rows, []string{t.Tenant, size(t.Mean), size(t.P95), strconv.FormatInt(t.ByteHours, 10), unsure})
	}
	table(w, []string{"TOTAL", "MEAN", "HIGHEST P95", "BYTE-HOURS", ""}, rows)
}

// writeCSV writes the lines (RFC 4180). Names of tenants can not be taken for formulas: they begin with a letter or digit.
func (b *billReply) writeCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	c.Write([]string{"tenant", "id", "date", "live_bytes", "versions_bytes", "staging_bytes", "snapshots_bytes", "used_bytes", "p95_bytes", "hours", "measured_hours", "byte_hours", "state"})
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	h := func(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
	for _, l := range b.Lines {
		c.Write([]string{l.Tenant, l.ID, l.Date, n(l.Live), n(l.Versions), n(l.Staging), n(l.Snapshots), n(l.Used), n(l.P95), h(l.Hours), h(l.Measured), n(l.ByteHours), l.State})
	}
	c.Flush()
	return c.Error()
}
