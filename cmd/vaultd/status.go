package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/confine"
	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/pool"
)

type serverStatus struct {
	Started  time.Time `json:"started"`
	Listen   []string  `json:"listen"`
	Sessions int64     `json:"sessions"`
	Logins   int       `json:"connections"`
	Version  string    `json:"version"`
	Waiting  int       `json:"waiting"` // connections that have not logged in
	Bans     int       `json:"bans"`    // addresses
	// Abandoned are sessions that were ended for their clients and still wait for storage that does not answer.
	Abandoned int64 `json:"abandoned"`
	// Failures are connections that ended without a login since the start, by reason.
	Failures map[string]int64 `json:"failures"`
	Config   *configStatus    `json:"config"`

	Confinement confine.Report `json:"confinement"`
	SpareSlots  int            `json:"spare_slots"` // tenants that can still come before the server starts again
	Metrics     metricsStatus  `json:"metrics"`
}

// statusReply is everything that `vaultd status` judges. It comes of the inventory: no vault is opened for it.
type statusReply struct {
	Server  *serverStatus     `json:"server,omitempty"` // absent when none runs
	Tenants []tenantStatus    `json:"tenants"`          // the worst first
	Dir     string            `json:"dir"`
	Summary inventory.Summary `json:"summary"`
	Time    time.Time         `json:"time"`
	Pool    *pool.Report      `json:"pool,omitempty"` // absent when no server runs, and where the store is not on ZFS
	Quotas  commitment        `json:"quotas"`
	Verdict verdictReply      `json:"verdict"` // of all
}

type verdictReply struct {
	Exit int    `json:"exit"` // the exit status: 0 well, 1 a warning, 2 critical
	Text string `json:"text"`
}

type tenantStatus struct {
	usageReply
	inventory.Tenant
	Expire *expireOutcome `json:"expire,omitempty"`
}

func (o *operations) status(context.Context, struct{}) (statusReply, error) {
	inv, err := o.inventory()
	if err != nil {
		return statusReply{}, err
	}
	out := statusOf(inv)
	out.Dir, out.Quotas = o.st.Dir, o.committed()
	if o.server != nil {
		s := o.server()
		out.Server = &s
	}
	return out, nil
}

// statusOf is what an inventory tells.
func statusOf(inv inventory.Inventory) statusReply {
	out := statusReply{Time: inv.Time, Pool: inv.Pool, Summary: inv.Sum(), Tenants: make([]tenantStatus, 0, len(inv.Tenants))}
	for _, t := range inv.Tenants {
		u := t.Usage
		out.Tenants = append(out.Tenants, tenantStatus{Tenant: t, usageReply: usageReply{Tenant: t.Name, Live: u.Live, Versions: u.Versions, Staging: u.Staging,
			Journal: u.Journal, Used: u.Used(), Limit: t.Quota.Bytes, Files: u.Files, FilesLimit: t.Quota.Files, ReadOnly: t.ReadOnly}})
	}
	return out
}

func (a *app) statusCommand() *cobra.Command {
	var problems bool
	c := &cobra.Command{Use: "status", Short: "Is all well? Exit status 0: yes, 1: look at it, 2: act", Args: cobra.NoArgs,
		Long: "Says in its first line whether every tenant is backed up as it should be (vaultd expect), and what else is wrong; then the tenants, the worst first. What it shows is what the server has learned by what happened: no vault is opened for it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out statusReply
			err := a.call(cmd.Context(), "status", struct{}{}, &out)
			if err == nil {
				err = a.expireOutcomes(&out)
			}
			if err != nil {
				return err
			}
			out.judge()
			if problems {
				out.Tenants = slices.DeleteFunc(out.Tenants, func(t tenantStatus) bool { return t.level() == expect.Well })
			}
			err = a.print("vaultd.status/v1", out, func(w io.Writer) { out.show(w) })
			if err == nil && out.Verdict.Exit != 0 {
				err = &statusError{out.Verdict.Exit}
			}
			return err
		}}
	c.Flags().BoolVar(&problems, "problems", false, "only the tenants that something is wrong with")
	a.jsonFlag(c)
	return c
}

func nearlyFull(u usageReply) bool { return u.Limit > 0 && u.Used*10 >= u.Limit*9 }

// damaged is how many contents verification found wrong.
func (t *tenantStatus) damaged() int64 { return t.Verify.Wrong }

// first orders tenants of one level: those that lose data come before those that get none.
func (t *tenantStatus) first() int {
	switch {
	case t.damaged() > 0:
		return 2
	case t.usageReply.ReadOnly != "":
		return 1
	}
	return 0
}

// level is how bad it stands with a tenant.
func (t *tenantStatus) level() expect.Level {
	switch {
	case t.usageReply.ReadOnly != "", t.damaged() > 0:
		return expect.Critical
	case t.Expire != nil && (t.Expire.Error != "" || t.Expire.Strange != ""):
		return max(t.Verdict.Level, expect.Warning)
	}
	return t.Verdict.Level
}

// state words it.
func (t *tenantStatus) state() string {
	var s []string
	if t.usageReply.ReadOnly != "" {
		s = append(s, "READ-ONLY: "+t.usageReply.ReadOnly)
	}
	if n := t.damaged(); n > 0 {
		s = append(s, fmt.Sprintf("DAMAGED: %d contents are not what was stored (vaultd verify)", n))
	}
	if e := t.Expire; e != nil && e.Error != "" {
		s = append(s, "nothing more is freed: "+e.Error)
	} else if e != nil && e.Strange != "" {
		s = append(s, "look: "+e.Strange)
	}
	for _, v := range t.Verdicts {
		if v.State != expect.OK && (v.Level > expect.Well || v.State == t.Verdict.State) {
			s = append(s, verdictText(v))
		}
	}
	if e := t.Expire; e != nil && e.Error == "" && e.Paused != "" {
		s = append(s, "expire is paused by "+e.Paused)
	}
	if len(s) == 0 {
		return "ok"
	}
	return strings.Join(s, "; ")
}

// verdictText words a verdict as "late: last restorable push 3 days ago, want one every 26h".
func verdictText(v expect.Verdict) string {
	s := string(v.State)
	if v.State == expect.FullSoon {
		s = "nearly full"
	}
	if v.Path != "" {
		s += fmt.Sprintf(" %q", v.Path)
	}
	if v.Why != "" && v.State != expect.Suspended {
		s += ": " + v.Why
	}
	return s
}

// judge sorts the tenants, and says in one sentence how things are: 0 well, 1 a warning, 2 critical.
func (s *statusReply) judge() {
	slices.SortStableFunc(s.Tenants, func(a, b tenantStatus) int {
		if d := int(b.level()) - int(a.level()); d != 0 {
			return d
		}
		if d := b.first() - a.first(); d != 0 {
			return d
		}
		if d := expect.Compare(a.Verdict, b.Verdict); d != 0 && a.Verdict.State != b.Verdict.State {
			return d
		}
		return strings.Compare(a.Name, b.Name)
	})
	exit := expect.Well
	var wrong []string
	say := func(level expect.Level, format string, args ...any) {
		exit = max(exit, level)
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	damaged, stuck, strange := 0, 0, 0
	worst := map[expect.State]expect.Level{}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		worst[t.Verdict.State] = max(worst[t.Verdict.State], t.Verdict.Level)
		if t.damaged() > 0 {
			damaged++
		}
		if t.Expire != nil && t.Expire.Error != "" {
			stuck++
		}
		if t.Expire != nil && t.Expire.Strange != "" {
			strange++
		}
	}
	sum := s.Summary
	if s.Pool != nil && s.Pool.Level > 0 {
		say(expect.Level(s.Pool.Level), "%s", s.Pool.Summary())
	}
	if n := sum.ReadOnly; n > 0 {
		say(expect.Critical, "%d of %d tenants take no backups: their storage failed", n, sum.Tenants)
	}
	if damaged > 0 {
		say(expect.Critical, "%d damaged", damaged)
	}
	if s.Server == nil {
		say(expect.Critical, "no server is running")
	}
	for _, x := range []struct {
		n     int
		state expect.State
		text  string
	}{{sum.Full, expect.Full, "full"}, {sum.Late, expect.Late, "late"}, {sum.Never, expect.Never, "never backed up"}, {sum.Small, expect.Small, "too small"},
		{sum.Unchanged, expect.Unchanged, "unchanged"}, {sum.FullSoon, expect.FullSoon, "nearly full"}} {
		if x.n > 0 {
			say(worst[x.state], "%d %s", x.n, x.text)
		}
	}
	if s.Server != nil && len(s.Server.Confinement.Failed) > 0 {
		say(expect.Warning, "%s", s.Server.Confinement.Summary())
	}
	if s.Server != nil && s.Server.Config != nil && !s.Server.Config.OK {
		say(expect.Warning, "the last reload of the configuration, at %s, failed: vaultd check", stamp(s.Server.Config.Tried))
	}
	if s.Server != nil && s.Server.Metrics.Error != "" {
		say(expect.Warning, "metrics are not served: %s", s.Server.Metrics.Error)
	}
	if stuck > 0 {
		say(expect.Warning, "of %d of %d tenants nothing more is freed: see below, and vaultd expire --dry-run", stuck, sum.Tenants)
	}
	if strange > 0 {
		say(expect.Warning, "%d of %d tenants have snapshots on ZFS that nobody knows: see below, and vaultd expire --dry-run", strange, sum.Tenants)
	}
	good := fmt.Sprintf("%d of %d backed up", sum.BackedUp, sum.Tenants-sum.Suspended)
	if sum.New > 0 {
		good += fmt.Sprintf(", %d new", sum.New)
	}
	if sum.Suspended > 0 {
		good += fmt.Sprintf(", %d suspended", sum.Suspended)
	}
	if sum.Tenants == 0 {
		good = "no tenants yet: vaultd tenant add"
	}
	s.Verdict = verdictReply{int(exit), strings.Join(append(wrong, good), "; ")}
	if len(wrong) > 0 {
		s.Verdict.Text = strings.Join(wrong, ", ") + " (" + good + ")"
	}
}

// show writes the verdict, the server's line, and the tenants.
func (s *statusReply) show(w io.Writer) {
	fmt.Fprintln(w, s.Verdict.Text)
	if v := s.Server; v != nil {
		fmt.Fprintf(w, "serving %d tenants on %v, %d sessions", s.Summary.Tenants, v.Listen, v.Sessions)
		if n := v.Failures["rate_limited"]; n > 0 || v.Bans > 0 {
			fmt.Fprintf(w, "; %d addresses banned, %d connections refused (vaultd bans)", v.Bans, n)
		}
		fmt.Fprintln(w)
		if !v.Confinement.Physical && len(v.Confinement.Failed) == 0 {
			fmt.Fprintf(w, "warning: %s\n", v.Confinement.Summary())
		}
	}
	if s.Pool != nil && s.Pool.Level > 0 {
		for _, p := range s.Pool.Problems {
			fmt.Fprintf(w, "pool %s: %s since %s: %s\n  -> %s\n", s.Pool.Pool, p.State, stamp(p.Since), p.Words, p.Do)
		}
	}
	if s.Quotas.Ratio > 1 {
		fmt.Fprintf(w, "quotas: %s\n", s.Quotas)
	}
	var rows [][]string
	for i := range s.Tenants {
		t := &s.Tenants[i]
		rows = append(rows, []string{t.Name, t.state(), lastPush(t.Pushes, s.Time), size(t.Used), limit(t.Limit), fmt.Sprint(t.usageReply.Files)})
	}
	if len(rows) > 0 {
		table(w, []string{"TENANT", "STATE", "LAST PUSH", "USED", "QUOTA", "NAMES"}, rows)
	}
}

// lastPush words a tenant's newest restorable push, and the newest of all where that is another.
func lastPush(p inventory.Pushes, now time.Time) string {
	if p.Attempt == nil {
		return "never"
	}
	if p.Success != nil && p.Success.Seq == p.Attempt.Seq {
		return since(p.Success.Time, now)
	}
	good := "never"
	if p.Success != nil {
		good = since(p.Success.Time, now)
	}
	return fmt.Sprintf("%s (%s %s)", good, p.Attempt.Result, since(p.Attempt.Time, now))
}

// since words how long ago t was at now.
func since(t, now time.Time) string {
	d := max(now.Sub(t), 0)
	switch {
	case d < 2*time.Minute:
		return "just now"
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", d/time.Hour)
	}
	return fmt.Sprintf("%d d ago", d/(24*time.Hour))
}
