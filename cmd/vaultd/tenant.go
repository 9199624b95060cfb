package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/inventory"
	"vaultd/internal/tenant"
)

func (a *app) tenantCommand() *cobra.Command {
	c := &cobra.Command{Use: "tenant", Short: "Accounts: who stores what, and under which policy"}
	c.AddCommand(a.tenantAdd(), a.tenantList(), a.tenantShow(), a.tenantSet(), a.tenantVeto(), a.tenantRemove(), a.tenantMove(),
		a.tenantSuspend("suspend", "Make a tenant read-only", true), a.tenantSuspend("resume", "End a suspension", false))
	return c
}

// policyFlags are the fields of a tenant that flags can set; only those that were given are used.
type policyFlags struct {
	mode, quota, durability string
	files                   int64
	softQuota               string
	grace                   Duration
	prefixes, snapshots     []string
	sealAfter, resumeWindow time.Duration
	pushEnd, deleteFails    bool
	lock                    Duration
	keep                    string
	rules                   []string
}

func (p *policyFlags) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&p.mode, "mode", "", "strict (write-once names) or versioned (overwriting keeps history)")
	f.StringArrayVar(&p.prefixes, "prefix", nil, "PATH=MODE: another mode below a directory (repeat for several; the whole list; \"\" for none)")
	f.StringVar(&p.quota, "quota", "", "how much may be stored, such as 500G; 0 is unlimited")
	f.StringVar(&p.softQuota, "soft-quota", "", "how much may be stored before everybody is told, such as 400G; 0 is none")
	f.Var(&p.grace, "grace", "how long the soft quota may be passed before nothing more is taken, such as 7d; 0s: it is only told")
	f.Int64Var(&p.files, "max-files", 0, "how many names there may be; 0 is unlimited")
	f.DurationVar(&p.sealAfter, "seal-after", 0, "how long ordinary names may still be changed by their key (0: not at all)")
	f.DurationVar(&p.resumeWindow, "resume-window", 0, "how long interrupted uploads are kept")
	f.StringVar(&p.durability, "durability", "", "session, or close: every CLOSE waits for stable storage")
	f.BoolVar(&p.deleteFails, "delete-fails", false, "rsync --delete to a strict tenant ends with status 23 when something was kept, not with a warning")
	f.StringArrayVar(&p.snapshots, "snapshot", nil, "a schedule line, such as @hourly or \"30 4 * * *\" (repeat; the whole list; \"\" for none)")
	f.Var(&p.lock, "lock", "how long nothing of the past is freed after it ended, such as 30d; can only be lengthened")
	f.StringVar(&p.keep, "keep", "", "which instants stay after the lock: all, or such as hourly=24,daily=30,weekly=12,monthly=24,yearly=5")
	f.StringArrayVar(&p.rules, "expire", nil, "PATH=AGE: files below PATH go when they are older (repeat; the whole list; \"\" for none)")
	f.BoolVar(&p.pushEnd, "push-snapshots", true, "take a snapshot at the end of every push")
}

// change collects the flags that were given.
func (p *policyFlags) change(c *cobra.Command) (tenant.Change, error) {
	var ch tenant.Change
	var errs error
	given := c.Flags().Changed
	if given("mode") {
		var m appendonly.Mode
		errs = errors.Join(errs, m.UnmarshalText([]byte(p.mode)))
		ch.Mode = &m
	}
	if given("prefix") {
		list := []tenant.Prefix{}
		for _, x := range p.prefixes {
			if x == "" {
				continue
			}
			path, mode, ok := strings.Cut(x, "=")
			var m appendonly.Mode
			if err := m.UnmarshalText([]byte(mode)); !ok || err != nil {
				errs = errors.Join(errs, fmt.Errorf("prefix %q: want PATH=strict or PATH=versioned", x))
			}
			list = append(list, tenant.Prefix{Path: strings.Trim(path, "/"), Mode: m})
		}
		ch.Prefixes = &list
	}
	if given("quota") {
		n, err := parseSize(p.quota)
		errs = errors.Join(errs, err)
		ch.QuotaBytes = &n
	}
	if given("soft-quota") {
		n, err := parseSize(p.softQuota)
		errs = errors.Join(errs, err)
		ch.SoftBytes = &n
	}
	if given("grace") {
		ch.Grace = &p.grace.Duration
	}
	if given("max-files") {
		ch.QuotaFiles = &p.files
	}
	if given("seal-after") {
		ch.SealAfter = &p.sealAfter
	}
	if given("resume-window") {
		ch.ResumeWindow = &p.resumeWindow
	}
	if given("durability") {
		d := tenant.Durability(p.durability)
		ch.Durability = &d
	}
	if given("delete-fails") {
		ch.DeleteFails = &p.deleteFails
	}
	if given("snapshot") {
		list := slices.DeleteFunc(append([]string{}, p.snapshots...), func(l string) bool { return l == "" })
		ch.Snapshots = &list
	}
	if given("lock") {
		ch.Lock = &p.lock.Duration
	}
	if given("keep") {
		k, err := tenant.ParseKeep(p.keep)
		errs = errors.Join(errs, err)
		ch.Keep = &k
	}
	if given("expire") {
		list := []tenant.ExpireRule{}
		for _, x := range p.rules {
			if x == "" {
				continue
			}
			path, age, ok := strings.Cut(x, "=")
			var d Duration
			if err := d.Set(age); !ok || err != nil {
				errs = errors.Join(errs, fmt.Errorf("expire %q: want PATH=AGE, such as dumps=90d", x))
			}
			list = append(list, tenant.ExpireRule{Prefix: path, After: d.Duration})
		}
		ch.Rules = &list
	}
	if given("push-snapshots") {
		ch.PushEnd = &p.pushEnd
	}
	if errs != nil {
		return ch, &usageError{errs}
	}
	return ch, nil
}

// apply gives a new tenant what was said of it.
func applyChange(n *tenant.NewTenant, ch tenant.Change) {
	set(&n.Policy.Mode, ch.Mode)
	set(&n.Policy.Prefixes, ch.Prefixes)
	set(&n.Policy.SealAfter, ch.SealAfter)
	set(&n.Policy.ResumeWindow, ch.ResumeWindow)
	set(&n.Policy.Durability, ch.Durability)
	set(&n.Policy.DeleteFails, ch.DeleteFails)
	set(&n.Quota.Bytes, ch.QuotaBytes)
	set(&n.Quota.Files, ch.QuotaFiles)
	set(&n.Quota.SoftBytes, ch.SoftBytes)
	set(&n.Quota.Grace, ch.Grace)
	set(&n.Schedule.Snapshots, ch.Snapshots)
	set(&n.Schedule.PushEnd, ch.PushEnd)
	set(&n.Retention.Lock, ch.Lock)
	set(&n.Retention.Keep, ch.Keep)
	set(&n.Retention.Rules, ch.Rules)
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(a.stdin, 1<<20))
	}
	return os.ReadFile(name)
}

func (a *app) tenantAdd() *cobra.Command {
	var p policyFlags
	var k keyFlags
	c := &cobra.Command{Use: "add NAME", Short: "Add a tenant", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		ch, err := p.change(cmd)
		if err != nil {
			return err
		}
		keys, err := a.newKeys(&k)
		if err != nil {
			return err
		}
		conf, err := a.loadConfig()
		if err != nil {
			return err
		}
		n := conf.newTenant(args[0])
		n.Keys = keys
		applyChange(&n, ch)
		if n.Over, err = a.nameless(args[0]); err != nil {
			return err
		}
		t, added, err := a.addTenant(conf, n)
		if err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		return a.print("vaultd.tenant/v1", tenantJSON(t, added, nil), func(w io.Writer) {
			fmt.Fprintf(w, "tenant %s: %s, quota %s, %d key(s)\n", t.Name, t.Policy.Mode, limit(t.Quota.Bytes), len(added))
			if len(added) == 0 {
				fmt.Fprintf(w, "nobody can log in yet: vaultd key add %s --key FILE.pub\n", t.Name)
			}
			a.snippet(w, conf, t.Name, "")
		})
	}}
	p.register(c)
	k.register(c)
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

type tenantReply struct {
	tenant.Tenant
	State string      `json:"state"`
	Keys  []keyReply  `json:"keys"`
	CAs   []caReply   `json:"cas,omitempty"`
	Usage *usageReply `json:"usage,omitempty"`

	Standing *inventory.Tenant `json:"standing,omitempty"` // absent when it is not known
	Pushes   []pushLine        `json:"pushes,omitempty"`   // the newest, newest first
}

func tenantJSON(t tenant.Tenant, keys []tenant.Key, used map[string]tenant.Use) tenantReply {
	r := tenantReply{Tenant: t, State: stateOf(t), Keys: []keyReply{}}
	for _, k := range keys {
		r.Keys = append(r.Keys, keyReply{Key: k, LastUsed: used[k.ID].Time, LastRemote: used[k.ID].Remote})
	}
	return r
}

func (a *app) tenantList() *cobra.Command {
	var all bool
	c := &cobra.Command{Use: "list", Short: "List the tenants", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		snap, err := a.catalog().Snapshot()
		if err != nil {
			return err
		}
		list := []listedTenant{}
		for _, t := range snap.All() {
			l := a.listed(t)
			if all || l.State != stateRemoved {
				list = append(list, l)
			}
		}
		return a.print("vaultd.tenants/v1", list, func(w io.Writer) {
			var rows [][]string
			for _, t := range list {
				rows = append(rows, []string{t.Name, t.State, t.Policy.Mode.String(), limit(t.Quota.Bytes), fmt.Sprint(len(snap.Keys(t.ID))), t.ID, t.remark()})
			}
			table(w, []string{"NAME", "STATE", "MODE", "QUOTA", "KEYS", "ID", ""}, rows)
		})
	}}
	c.Flags().BoolVar(&all, "all", false, "those too that were removed and of which nothing is left")
	a.jsonFlag(c)
	return c
}

func (a *app) tenantShow() *cobra.Command {
	c := &cobra.Command{Use: "show NAME", Short: "Show a tenant", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		snap, t, err := a.tenant(args[0])
		if err != nil {
			return err
		}
		var used map[string]tenant.Use
		if err := a.call(cmd.Context(), "used", struct{}{}, &used); err != nil {
			return err
		}
		r := tenantJSON(t, snap.Keys(t.ID), used)
		r.State, r.Usage, r.CAs = a.listed(t).State, &usageReply{Tenant: t.Name}, casJSON(snap.CAs(t.ID), used)
		if r.State != stateRemoved {
			err := a.call(cmd.Context(), "usage", tenantRef{t.Name}, r.Usage)
			if err == nil {
				err = a.today(cmd.Context(), t.Name, r.Keys)
			}
			if err != nil && (t.Removal == nil || exitCode(err) != exitNotFound) {
				return err
			}
		}
		if r.State != stateRemoved {
			if err := a.standing(cmd.Context(), &r); err != nil {
				return err
			}
		}
		return a.print("vaultd.tenant/v1", r, func(w io.Writer) { showTenant(w, r) })
	}}
	a.jsonFlag(c)
	return c
}

func showTenant(w io.Writer, r tenantReply) {
	t, u := r.Tenant, r.Usage
	state := r.State
	if t.Suspended && state == stateSuspended {
		state = "suspended (read-only)"
	}
	if u.ReadOnly != "" {
		state = "read-only: " + u.ReadOnly
	}
	rows := [][]string{
		{"tenant", t.Name + " (" + t.ID + ")"},
		{"state", state},
		{"mode", t.Policy.Mode.String()},
	}
	for _, p := range t.Policy.Prefixes {
		rows = append(rows, []string{"", fmt.Sprintf("%s below %s", p.Mode, appendonly.QuotePath("/"+p.Path))})
	}
	rows = append(rows, [][]string{
		{"used", fmt.Sprintf("%s of %s in %d names", size(u.Used), limit(u.Limit), u.Files)},
		{"", fmt.Sprintf("live %s, versions %s, unfinished %s, journal %s", size(u.Live), size(u.Versions), size(u.Staging), size(u.Journal))},
		{"snapshots", strings.Join(t.Schedule.Snapshots, ", ")},
		{"keeps", fmt.Sprintf("everything for %s after it ended, then %s", tenant.Days(t.Retention.Lock), t.Retention.Keep)},
		{"durability", string(t.Policy.Durability)},
		{"created", stamp(t.Created)},
	}...)
	if r.Standing != nil && r.Standing.Usage.Snapshot > 0 {
		rows = append(rows, []string{"held", size(r.Standing.Usage.Snapshot) + " by snapshots alone, beside what is used (vaultd space)"})
	}
	rows = append(rows, standingRows(r)...)
	for _, x := range t.Retention.Rules {
		rows = append(rows, []string{"", "files of " + appendonly.QuotePath("/"+x.Prefix) + " go after " + tenant.Days(x.After)})
	}
	for _, h := range t.Retention.Holds {
		rows = append(rows, []string{"hold", fmt.Sprintf("%s: %s (%s, %s)", h.Snapshot, h.Reason, h.Who, stamp(h.Since))})
	}
	for _, n := range t.Notices(time.Now()) {
		rows = append(rows, []string{"WAITS", waiting(n, t)})
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-12s%s\n", row[0], row[1])
	}
	fmt.Fprintln(w)
	keyTable(w, r.Keys)
	if len(r.CAs) > 0 {
		fmt.Fprintln(w, "\nand whoever has a certificate of:")
		caTable(w, r.CAs)
	}
}

// tenant finds a tenant in the catalog.
func (a *app) tenant(name string) (*tenant.Snapshot, tenant.Tenant, error) {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return nil, tenant.Tenant{}, err
	}
	t, ok := snap.Tenant(name)
	if !ok {
		return nil, t, fmt.Errorf("tenant %q: %w", name, tenant.ErrNotFound)
	}
	return snap, t, nil
}

func (a *app) tenantSet() *cobra.Command {
	var p policyFlags
	var weaken bool
	c := &cobra.Command{Use: "set NAME", Short: "Change a tenant's policy, quota or schedule", Args: cobra.ExactArgs(1),
		Long: "Changes what the flags say. What promises less than before is refused; with --weaken it takes effect after a cool-down, in which everybody can see it and `vaultd tenant veto` takes it back. A lock is never shortened. A schedule that keeps less (--keep), an --expire rule and a released hold are stored at once: the expire process itself goes by the old ones for as long.",
		RunE: func(cmd *cobra.Command, args []string) error {
			ch, err := p.change(cmd)
			if err != nil {
				return err
			}
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			a.coolDown = conf.Expire.CoolDown.Duration
			if !weaken {
				err = a.changeTenant(cmd, args[0], ch)
			} else {
				var t tenant.Tenant
				t, err = a.catalog().Weaken(args[0], ch, a.coolDown)
				err = a.changed(cmd, t, err)
			}
			if err == nil && ch.QuotaBytes != nil && !a.dryRun {
				a.lowerRefquota(cmd.Context(), conf, args[0])
			}
			return err
		}}
	p.register(c)
	c.Flags().BoolVar(&weaken, "weaken", false, "let a change that promises less take effect after the cool-down")
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) tenantSuspend(use, short string, suspended bool) *cobra.Command {
	c := &cobra.Command{Use: use + " NAME", Short: short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.changeTenant(cmd, args[0], tenant.Change{Suspended: &suspended})
	}}
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) changeTenant(cmd *cobra.Command, name string, ch tenant.Change) error {
	t, err := a.catalog().ChangeTenant(name, ch)
	return a.changed(cmd, t, err)
}

// changed tells the server of a change that was made, and the operator.
func (a *app) changed(cmd *cobra.Command, t tenant.Tenant, err error) error {
	if err != nil {
		return err
	}
	if !a.dryRun {
		if err := a.reload(cmd.Context()); err != nil {
			return err
		}
	}
	return a.print("vaultd.tenant/v1", t, func(w io.Writer) {
		fmt.Fprintf(w, "tenant %s: %s, %s, quota %s\n", t.Name, stateOf(t), t.Policy.Mode, limit(t.Quota.Bytes))
		notices := t.Notices(time.Now())
		for _, n := range notices {
			fmt.Fprintf(w, "waits until %s: %s\n", stamp(n.Due), strings.Join(n.What, "; "))
		}
		if len(notices) > 0 {
			fmt.Fprintf(w, "take it back with: vaultd tenant veto %s\n", t.Name)
		}
	})
}
