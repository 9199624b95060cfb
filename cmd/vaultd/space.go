package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/retention"
	"vaultd/internal/tenant"
)

// spaceReply says what holds a tenant's space.
type spaceReply struct {
	Tenant string                      `json:"tenant"`
	Lock   string                      `json:"lock"`
	Keep   string                      `json:"keep"`
	Paused *tenant.Pause               `json:"paused,omitempty"`
	Live   retention.Amount            `json:"live"`
	Free   retention.Amount            `json:"freeable"`
	Held   map[string]retention.Amount `json:"held"` // by all the reasons that keep a content
	Later  []retention.Due             `json:"later,omitempty"`
	If     []spaceIf                   `json:"if"`

	Cost      spaceCost        `json:"cost"`
	Snapshots []retention.Cost `json:"snapshots,omitempty"` // with --snapshots
}

// spaceIf is what a change of rules would do.
type spaceIf struct {
	Change string `json:"change"`
	retention.Difference
}

// maxSingle is how many holds are tried out one by one.
const maxSingle = 20

func (a *app) spaceCommand() *cobra.Command {
	var changes []string
	var snapshots bool
	c := &cobra.Command{Use: "space TENANT [--if CHANGE]...", Short: "What holds a tenant's space, and what each change of rules would free", Args: cobra.ExactArgs(1),
		Long: "Lists what holds a tenant's space, by all the reasons that hold it, and what would be freed if one rule went. With --if it says what all of these together would free: keep=SCHEDULE (as tenant set --keep), lock=DURATION, release=SNAPSHOT. Nothing is changed. What a change frees goes when the cool-down after it is over; a lock that is shorter than the longest there ever was can be tried out here and not be set. On ZFS it says, too, what snapshots hold that is nowhere else. With --snapshots it lists what each snapshot costs: what it alone shows, and what the end of its body on ZFS alone would free.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if done, err := a.asExpire(cmd.Context()); done || err != nil {
				return err
			}
			return a.space(cmd, args[0], changes, snapshots)
		}}
	c.Flags().StringArrayVar(&changes, "if", nil, "a change to try out: keep=SCHEDULE, lock=DURATION, release=SNAPSHOT")
	c.Flags().BoolVar(&snapshots, "snapshots", false, "what each snapshot costs")
	a.jsonFlag(c)
	return c
}

func (a *app) space(cmd *cobra.Command, name string, changes []string, snapshots bool) error {
	_, t, err := a.tenant(name)
	if err != nil {
		return err
	}
	conf, err := a.loadConfig()
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	x, err := a.openExpirer(ctx, conf.Expire.CoolDown.Duration, newLogger(a.stderr, "text", "warn"))
	if err != nil {
		return err
	}
	out := spaceReply{Tenant: t.Name, Lock: tenant.Days(t.Retention.Lock), Keep: t.Retention.Keep.String(), Held: map[string]retention.Amount{}}
	err = x.with(ctx, t, func(e *retention.Expire) error {
		p, err := e.Plan(ctx)
		if err != nil {
			return err
		}
		out.Lock, out.Paused = tenant.Days(e.LongestLock()), p.Paused
		out.Live, out.Free, out.Later = p.Live, retention.Amount{Contents: len(p.Free), Bytes: p.Bytes}, p.Later
		for why, n := range p.Held {
			out.Held[why.String()] = n
		}
		if out.Cost, err = x.costOf(ctx, t, e, p); err != nil {
			return err
		}
		if snapshots {
			if out.Snapshots, err = e.Costs(ctx, p); err != nil {
				return err
			}
		}
		names, rules, err := hypotheses(t.Retention, e.LongestLock(), changes)
		if err != nil {
			return err
		}
		would, err := e.Space(ctx, p, rules)
		for i := range would {
			out.If = append(out.If, spaceIf{names[i], would[i]})
		}
		return err
	})
	if err = errors.Join(err, x.close()); err != nil {
		return err
	}
	return a.print("vaultd.space/v1", out, func(w io.Writer) { showSpace(w, out, tenant.Days(conf.Expire.CoolDown.Duration)) })
}

// hypotheses are the rules to try out: those that were asked for, together, or each without one that there is.
func hypotheses(now tenant.Retention, lock time.Duration, changes []string) ([]string, []retention.Rules, error) {
	if len(changes) == 0 {
		if len(now.Holds) > maxSingle {
			now.Holds = slices.Clone(now.Holds)
			slices.SortFunc(now.Holds, func(a, b tenant.Hold) int { return a.Since.Compare(b.Since) })
		}
		names, rules := retention.Single(now, lock)
		if over := len(now.Holds) - maxSingle; over > 0 { // the oldest are shown; --if release= tries any
			at := len(names) - 1 - over
			names, rules = slices.Delete(names, at, at+over), slices.Delete(rules, at, at+over)
		}
		return names, rules, nil
	}
	r := retention.Rules{Policy: now, Lock: lock}
	for _, change := range changes {
		what, value, _ := strings.Cut(change, "=")
		var err error
		switch what {
		case "keep":
			r.Policy.Keep, err = tenant.ParseKeep(value)
		case "lock":
			var d Duration
			err = d.Set(value)
			r.Lock = d.Duration
		case "release":
			left := slices.DeleteFunc(slices.Clone(r.Policy.Holds), func(h tenant.Hold) bool { return h.Snapshot == value })
			if len(left) == len(r.Policy.Holds) {
				err = fmt.Errorf("release %s: no such hold: %w", value, tenant.ErrNotFound)
			}
			r.Policy.Holds = left
		default:
			err = fmt.Errorf("--if %q: want keep=SCHEDULE, lock=DURATION or release=SNAPSHOT", change)
		}
		if errors.Is(err, tenant.ErrNotFound) {
			return nil, nil, err
		}
		if err != nil {
			return nil, nil, &usageError{err}
		}
	}
	return []string{strings.Join(changes, ", ")}, []retention.Rules{r}, nil
}

func showSpace(w io.Writer, s spaceReply, coolDown string) {
	fmt.Fprintf(w, "%s: lock %s, keeps %s\n", s.Tenant, s.Lock, s.Keep)
	if s.Paused != nil {
		fmt.Fprintf(w, "paused by %s since %s: %s\n", s.Paused.Who, stamp(s.Paused.Since), s.Paused.Reason)
	}
	fmt.Fprintln(w)
	rows := [][]string{{"its live name", fmt.Sprint(s.Live.Contents), size(s.Live.Bytes)}}
	var held []string
	for why := range s.Held {
		held = append(held, why)
	}
	slices.Sort(held)
	for _, why := range held {
		rows = append(rows, []string{why, fmt.Sprint(s.Held[why].Contents), size(s.Held[why].Bytes)})
	}
	rows = append(rows, []string{"nothing: the next expire frees it", fmt.Sprint(s.Free.Contents), size(s.Free.Bytes)})
	table(w, []string{"HELD BY", "CONTENTS", "BYTES"}, rows)
	for _, d := range s.Later {
		fmt.Fprintf(w, "%s: the lock alone keeps %d contents until then, %s\n", d.Day.Format(time.DateOnly), d.Contents, size(d.Bytes))
	}
	s.Cost.show(w)
	fmt.Fprintln(w)
	if len(s.Snapshots) > 0 {
		showCosts(w, s.Snapshots)
		fmt.Fprintln(w)
	}
	rows = nil
	for _, x := range s.If {
		keeps := ""
		if x.Keeps.Contents > 0 {
			keeps = fmt.Sprintf("keeps %d contents, %s, that would go", x.Keeps.Contents, size(x.Keeps.Bytes))
		}
		rows = append(rows, []string{x.Change, fmt.Sprint(x.Frees.Contents), size(x.Frees.Bytes), keeps})
	}
	table(w, []string{"IF", "FREES", "BYTES", ""}, rows)
	fmt.Fprintf(w, "(beside what goes anyway; a change of rules counts %s after expire first saw it)\n", coolDown)
}

// pauseCommand and resumeCommand are expire's brake.
func (a *app) pauseCommand() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "pause TENANT --reason TEXT", Short: "Free nothing of a tenant until it is resumed", Args: cobra.ExactArgs(1),
		Long: "Stops expire for a tenant at once: no content and no snapshot's name goes, whatever schedule, lock and rules say. For when it is in doubt whether what was pushed last is good: after an attack, or while pushes are missing.",
		RunE: func(_ *cobra.Command, args []string) error {
			if reason == "" {
				return &usageError{errors.New("say why: --reason TEXT")}
			}
			if err := a.catalog().Pause(args[0], reason); err != nil {
				return err
			}
			return a.say("%s: paused, nothing is freed until vaultd expire resume %s\n", args[0], args[0])
		}}
	c.Flags().StringVar(&reason, "reason", "", "why, for those who find it later")
	a.dryRunFlag(c)
	return c
}

func (a *app) resumeCommand() *cobra.Command {
	c := &cobra.Command{Use: "resume TENANT", Short: "Let expire go on", Args: cobra.ExactArgs(1), RunE: func(_ *cobra.Command, args []string) error {
		if err := a.catalog().Resume(args[0]); err != nil {
			return err
		}
		return a.say("%s: resumed; vaultd expire %s --dry-run shows what goes\n", args[0], args[0])
	}}
	a.dryRunFlag(c)
	return c
}
