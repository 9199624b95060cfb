package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/tenant"
)

func (a *app) expectCommand() *cobra.Command {
	c := &cobra.Command{Use: "expect", Short: "What is expected of tenants' backups, and what status calls late",
		Long: "An expectation says how often a restorable push has to come to a tenant, or below a directory of it, and what it has to bring. vaultd status and the tenant's own status judge by it. Tenants without one are judged by expect.max_age of the configuration."}
	c.AddCommand(a.expectSet(), a.expectShow(), a.expectSuggest(), a.expectClear())
	return c
}

// ruleFlags are an expectation on the command line.
type ruleFlags struct {
	path, window, note, bytes string
	maxAge, changes           Duration
	files                     int64
}

func (f *ruleFlags) register(c *cobra.Command) {
	s := c.Flags()
	s.StringVar(&f.path, "path", "", "the directory that it is about (default: the whole tenant)")
	s.Var(&f.maxAge, "max-age", "a restorable push at least so often (26h, 7d)")
	s.StringVar(&f.bytes, "min-bytes", "0", "at least so many bytes a run, new and unchanged together")
	s.Int64Var(&f.files, "min-files", 0, "at least so many files a run, new and unchanged together")
	s.Var(&f.changes, "changes", "something new at least so often (7d)")
	s.StringVar(&f.window, "window", "", `when pushes come, as in "22:00-06:00 Europe/Berlin" (default zone: UTC): that one is missing is only said when it has closed`)
	s.StringVar(&f.note, "note", "", "for whoever reads it")
}

func (f *ruleFlags) rule() (expect.Rule, error) {
	w, err := expect.ParseWindow(f.window)
	if err != nil {
		return expect.Rule{}, &usageError{err}
	}
	bytes, err := parseSize(f.bytes)
	if err != nil {
		return expect.Rule{}, &usageError{err}
	}
	return expect.Rule{Path: f.path, MaxAge: f.maxAge.Duration, MinBytes: bytes, MinFiles: f.files, Changes: f.changes.Duration, Window: w, Note: f.note}, nil
}

func (a *app) expectSet() *cobra.Command {
	var f ruleFlags
	c := &cobra.Command{Use: "set TENANT", Short: "Say what is expected of a tenant's backups, or of a directory's", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		r, err := f.rule()
		if err != nil {
			return err
		}
		return a.setRule(cmd.Context(), args[0], r, false)
	}}
	f.register(c)
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) expectClear() *cobra.Command {
	var path string
	c := &cobra.Command{Use: "clear TENANT", Short: "Expect no more of a tenant than of any", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.setRule(cmd.Context(), args[0], expect.Rule{Path: path}, true)
	}}
	c.Flags().StringVar(&path, "path", "", "the directory whose expectation ends (default: the tenant's)")
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// setRule changes an expectation, and has the server take it over.
func (a *app) setRule(ctx context.Context, name string, r expect.Rule, clear bool) error {
	list, err := a.catalog().Expect(name, r, clear)
	if err == nil && !a.dryRun {
		err = a.reload(ctx)
	}
	if err != nil {
		return err
	}
	return a.print("vaultd.expect/v1", expectReply{name, list}, func(w io.Writer) { showRules(w, name, list) })
}

type expectReply struct {
	Tenant string        `json:"tenant"`
	Rules  []expect.Rule `json:"rules"`
}

func showRules(w io.Writer, name string, list []expect.Rule) {
	if len(list) == 0 {
		fmt.Fprintf(w, "%s: what is expected of all (expect.max_age in vaultd.toml)\n", name)
	}
	for _, r := range list {
		note := ""
		if r.Note != "" {
			note = " (" + r.Note + ")"
		}
		fmt.Fprintf(w, "%s: %s%s\n", name, r, note)
	}
}

func (a *app) expectShow() *cobra.Command {
	c := &cobra.Command{Use: "show [TENANT]", Short: "What is expected, and how things stand", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		snap, err := a.catalog().Snapshot()
		if err != nil {
			return err
		}
		list := snap.Tenants()
		if len(args) > 0 {
			_, t, err := a.tenant(args[0])
			if err != nil {
				return err
			}
			list = []tenant.Tenant{t}
		}
		var inv inventory.Inventory
		if err := a.call(cmd.Context(), "inventory", struct{}{}, &inv); err != nil {
			return err
		}
		type shown struct {
			expectReply
			Verdicts []expect.Verdict `json:"verdicts"`
		}
		out := []shown{}
		for _, t := range list {
			s := shown{expectReply: expectReply{t.Name, append([]expect.Rule{}, t.Expect...)}}
			if i := slices.IndexFunc(inv.Tenants, func(x inventory.Tenant) bool { return x.ID == t.ID }); i >= 0 {
				s.Verdicts = inv.Tenants[i].Verdicts
			}
			out = append(out, s)
		}
		return a.print("vaultd.expects/v1", out, func(w io.Writer) {
			for _, s := range out {
				showRules(w, s.Tenant, s.Rules)
				for _, v := range s.Verdicts {
					if v.State != expect.OK || v.Path != "" {
						fmt.Fprintf(w, "  %s\n", verdictText(v))
					}
				}
			}
		})
	}}
	a.jsonFlag(c)
	return c
}

type suggestReply struct {
	Tenant  string      `json:"tenant"`
	Rule    expect.Rule `json:"rule"`
	Seen    string      `json:"seen"`
	Command string      `json:"command"` // that sets it
}

// suggestFrom is how many of the newest events a suggestion is made of.
const suggestFrom = 1000

// suggest makes an expectation of a tenant's history.
func (o *operations) suggest(_ context.Context, in tenantRef) (out suggestReply, err error) {
	if o.state == nil {
		return out, errNoState
	}
	t, err := o.find(in.Tenant)
	if err != nil {
		return out, err
	}
	var pushes []expect.Run
	err = o.state.Pushes(t.ID, tenant.PushQuery{Limit: suggestFrom}, func(e push.Event) bool {
		if e.Restorable {
			came := e.Came()
			pushes = append(pushes, expect.Run{Began: e.Time.Add(-e.Duration), Ended: e.Time, Files: came.Files, Bytes: came.Bytes, New: e.New.Files})
		}
		return true
	})
	if err != nil {
		return out, err
	}
	slices.Reverse(pushes)
	out.Tenant = t.Name
	if out.Rule, out.Seen, err = expect.Suggest(expect.Runs(pushes)); err != nil {
		return out, fmt.Errorf("suggest for %s: %w", t.Name, err)
	}
	out.Command = "vaultd expect set " + t.Name + setFlags(out.Rule)
	return out, nil
}

// setFlags are the flags of expect set for a rule without a path.
func setFlags(r expect.Rule) (s string) {
	for _, f := range []struct {
		flag string
		d    time.Duration
	}{{"max-age", r.MaxAge}, {"changes", r.Changes}} {
		if f.d > 0 {
			s += fmt.Sprintf(" --%s %s", f.flag, expect.Span(f.d))
		}
	}
	if r.MinBytes > 0 {
		s += fmt.Sprintf(" --min-bytes %d", r.MinBytes)
	}
	if r.MinFiles > 0 {
		s += fmt.Sprintf(" --min-files %d", r.MinFiles)
	}
	return s
}

func (a *app) expectSuggest() *cobra.Command {
	c := &cobra.Command{Use: "suggest TENANT", Short: "Make an expectation of what a tenant's pushes have been like", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var out suggestReply
		if err := a.call(cmd.Context(), "expect.suggest", tenantRef{args[0]}, &out); err != nil {
			return err
		}
		return a.print("vaultd.expect-suggest/v1", out, func(w io.Writer) {
			fmt.Fprintf(w, "seen: %s\n%s\n%s\n", out.Seen, out.Rule, out.Command)
		})
	}}
	a.jsonFlag(c)
	return c
}
