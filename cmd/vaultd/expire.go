package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// expireDir is where the expire process keeps what it knows, in the store's directory. The server never writes there.
const expireDir = "expire"

// expirer is the expire process's side of a store.
type expirer struct {
	a        *app
	coolDown time.Duration
	machine  retention.Machine
	server   func(t tenant.Tenant) retention.Server
	log      *slog.Logger
	lock     *os.File
	step     func(string) // tests; see retention.Config
}

// openExpirer takes the lock of the store's expire; it waits a little for another one.
func (a *app) openExpirer(ctx context.Context, coolDown time.Duration, log *slog.Logger) (*expirer, error) {
	dir := filepath.Join(a.dir, expireDir)
	if _, err := os.Stat(filepath.Join(a.dir, tenant.FileName)); err != nil {
		return nil, fmt.Errorf("no store in %s: %w", a.dir, err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for wait := time.Duration(0); ; wait += 100 * time.Millisecond {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if wait > 5*time.Second || ctx.Err() != nil {
			return nil, errors.Join(retention.ErrBusy, f.Close())
		}
		time.Sleep(100 * time.Millisecond)
	}
	x := &expirer{a: a, coolDown: coolDown, machine: retention.System{}, log: log, lock: f}
	x.server = func(t tenant.Tenant) retention.Server { return journaling{a, t.Name} }
	return x, nil
}

func (x *expirer) close() error { return x.lock.Close() }

// with calls f with one tenant's expire. A tenant without a dataset has nothing to expire.
func (x *expirer) with(ctx context.Context, t tenant.Tenant, f func(*retention.Expire) error) (err error) {
	data, err := store.Directory{Dir: filepath.Join(x.a.dir, "tenants")}.Path(t.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	contents, err := volume.OpenFreer(data)
	if err != nil {
		return err
	}
	defer contents.Close()
	dir := filepath.Join(x.a.dir, expireDir, t.ID)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := volume.Create(filepath.Join(dir, "chain")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	chain, err := volume.Open(filepath.Join(dir, "chain"))
	if err != nil {
		return err
	}
	defer chain.Close()
	conf := x.config(t)
	conf.Contents, conf.Chain = contents, chain
	e, err := retention.Open(ctx, conf)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, e.Close()) }()
	return f(e)
}

// current reads a tenant again: a hold, a longer lock, a pause or a veto counts also for a run that is under way.
func (x *expirer) current(t tenant.Tenant) (tenant.Tenant, error) {
	snap, err := x.a.catalog().Snapshot()
	if err != nil {
		return t, err
	}
	now, ok := snap.TenantByID(t.ID)
	if !ok {
		return t, fmt.Errorf("tenant %q: %w", t.Name, tenant.ErrNotFound)
	}
	return now, nil
}

// journaling has the server (or the store itself, when none runs) journal what expire did.
type journaling struct {
	a      *app
	tenant string
}

type freedRequest struct {
	Tenant  string          `json:"tenant"`
	Freed   []journal.Freed `json:"freed"`
	Dropped []journal.Seq   `json:"dropped"`
}

// Freed implements retention.Server.
func (j journaling) Freed(ctx context.Context, freed []journal.Freed, dropped []journal.Seq) error {
	return j.a.call(ctx, "freed", freedRequest{j.tenant, freed, dropped}, nil)
}

// Retire implements retention.Server.
func (j journaling) Retire(ctx context.Context, names []retention.Name, why string) (int, error) {
	n := 0
	for part := range slices.Chunk(names, 64) { // a request is bounded, and a path may have 4,096 bytes of any kind
		in := retireRequest{Tenant: j.tenant, Why: why}
		for _, x := range part {
			in.Paths, in.From = append(in.Paths, []byte(x.Path)), append(in.From, x.From)
		}
		var out retireReply
		err := j.a.call(ctx, "retire", in, &out)
		n += out.Names
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func (o *operations) freed(ctx context.Context, in freedRequest) (struct{}, error) {
	return struct{}{}, o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error { return v.Freed(in.Freed, in.Dropped) })
}

type retireRequest struct {
	Tenant string        `json:"tenant"`
	Paths  [][]byte      `json:"paths,omitempty"`
	From   []journal.Seq `json:"from,omitempty"`  // since when each path stands for what is meant; none: whatever it stands for
	Below  bool          `json:"below,omitempty"` // directories with all that is in them
	Key    string        `json:"key,omitempty"`   // instead of paths: what this key made
	Since  time.Time     `json:"since,omitzero"`
	Why    string        `json:"why"`
	DryRun bool          `json:"dry_run,omitempty"`
}

type retireReply struct {
	Names int      `json:"names"`
	Bytes int64    `json:"bytes"`
	Paths [][]byte `json:"paths,omitempty"` // the first of them
}

// maxPaths is how many names an answer lists.
const maxPaths = 1000

// retire lets names go.
func (o *operations) retire(ctx context.Context, in retireRequest) (out retireReply, err error) {
	err = o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		var paths []string
		for _, p := range in.Paths {
			paths = append(paths, string(p))
		}
		if in.Key != "" {
			if paths, err = v.MadeBy(in.Key, in.Since); err != nil {
				return err
			}
		}
		note := func(r appendonly.Retired) {
			out.Names++
			out.Bytes += r.Size
			if len(out.Paths) < maxPaths {
				out.Paths = append(out.Paths, []byte(r.Path))
			}
		}
		if len(in.From) > 0 && len(in.From) == len(paths) {
			names := make([]appendonly.Standing, len(paths))
			for i, p := range paths {
				names[i] = appendonly.Standing{Path: p, From: in.From[i]}
			}
			return v.RetireStanding(ctx, names, in.Why, note)
		}
		if in.DryRun {
			return v.WouldRetire(ctx, paths, in.Below, note)
		}
		return v.Retire(ctx, paths, in.Below, in.Why, note)
	})
	return out, err
}

// expireReply is what one run did, or would do, to one tenant.
type expireReply struct {
	Tenant   string               `json:"tenant"`
	Now      time.Time            `json:"now"` // by the retention clock
	Lock     string               `json:"lock"`
	Contents int                  `json:"contents"`
	Bytes    int64                `json:"bytes"`
	Dropped  []retention.Snapshot `json:"snapshots,omitempty"`
	Retires  []retention.Retire   `json:"retires,omitempty"`
	Later    []retention.Due      `json:"later,omitempty"`
	Versions []goingReply         `json:"versions,omitempty"`
	Refused  int                  `json:"refused"`
	Paused   *tenant.Pause        `json:"paused,omitempty"`
	Retired  int                  `json:"retired"`           // live names that went
	Removed  bool                 `json:"removed,omitempty"` // the tenant was, and nothing is left of it
	Error    string               `json:"error,omitempty"`
	Hint     string               `json:"hint,omitempty"`
}

type goingReply struct {
	Path  string    `json:"path"`
	Size  int64     `json:"size"`
	Since time.Time `json:"since"`
	Until time.Time `json:"until"`
}

// one runs, or with dry plans, one tenant's expire. A run that a change of the policy stopped begins again with that.
func (x *expirer) one(ctx context.Context, t tenant.Tenant, dry, list bool) (out expireReply, err error) {
	for range 5 {
		if t, err = x.current(t); err != nil {
			return expireReply{Tenant: t.Name}, err
		}
		var again expireReply
		again, err = x.try(ctx, t, dry, list)
		again.Contents, again.Bytes, again.Refused = again.Contents+out.Contents, again.Bytes+out.Bytes, again.Refused+out.Refused
		out = again
		if !errors.Is(err, retention.ErrChanged) {
			break
		}
	}
	return out, err
}

func (x *expirer) try(ctx context.Context, t tenant.Tenant, dry, list bool) (expireReply, error) {
	out := expireReply{Tenant: t.Name}
	if over, err := x.over(ctx, t, dry); over || err != nil {
		out.Removed = over
		return out, err
	}
	err := x.with(ctx, t, func(e *retention.Expire) error {
		if !dry {
			rep, err := e.Run(ctx)
			out.show(rep.Plan)
			out.Contents, out.Bytes, out.Refused = rep.Contents, rep.Bytes, rep.Refused
			out.Retired, out.Removed = rep.Retired, rep.Removed
			if out.Paused != nil {
				out.Dropped, out.Retires = nil, nil
			}
			return err
		}
		p, err := e.Plan(ctx)
		if err != nil {
			return err
		}
		out.show(p)
		out.Contents, out.Bytes = len(p.Free), p.Bytes
		if !list {
			return nil
		}
		return e.Each(p, func(path string, v journal.Version) bool {
			out.Versions = append(out.Versions, goingReply{appendonly.QuotePath("/" + path), v.Size, v.Since.UTC(), v.Gone.UTC()})
			return true
		})
	})
	return out, err
}

// show takes over what a plan says, if there is one.
func (r *expireReply) show(p *retention.Plan) {
	if p != nil {
		r.Now, r.Lock, r.Later, r.Retires, r.Dropped, r.Paused = p.Now.UTC(), tenant.Days(p.Lock), p.Later, p.Retires, p.Drop, p.Paused
	}
}

// all does it for every tenant, or the one that is named. A tenant that fails does not stop the others.
func (x *expirer) all(ctx context.Context, names []string, dry, list bool, each func(expireReply, error)) error {
	snap, err := x.a.catalog().Snapshot()
	if err != nil {
		return err
	}
	tenants := x.unfinished(snap.All())
	if len(names) > 0 {
		t, ok := snap.Tenant(names[0])
		if !ok {
			return fmt.Errorf("tenant %q: %w", names[0], tenant.ErrNotFound)
		}
		tenants = []tenant.Tenant{t}
	}
	for _, t := range tenants {
		if err := ctx.Err(); err != nil {
			return err
		}
		out, err := x.one(ctx, t, dry, list)
		each(out, err)
	}
	return nil
}

func (a *app) expireCommand() *cobra.Command {
	var list, loop bool
	c := &cobra.Command{Use: "expire [TENANT]", Short: "Free what retention lets go of", Args: cobra.MaximumNArgs(1),
		Long: "Frees what a tenant's schedule (--keep) and lock do not keep any more. The server runs it every hour by itself. With --dry-run nothing is freed: it says what would go now, and what the lock keeps until when.",
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			log := newLogger(a.stderr, "text", "warn")
			if loop {
				log = newLogger(a.stderr, conf.Log.Format, conf.Log.Level)
				return a.expireLoop(cmd.Context(), conf, log)
			}
			x, err := a.openExpirer(cmd.Context(), conf.Expire.CoolDown.Duration, log)
			if err != nil {
				return err
			}
			return errors.Join(a.expireOnce(cmd.Context(), x, args, list), x.close())
		}}
	c.Flags().BoolVar(&list, "list", false, "with --dry-run: every version that would go")
	c.Flags().BoolVar(&loop, "loop", false, "go on until a signal comes, as often as the configuration says")
	c.Flags().MarkHidden("loop")
	c.AddCommand(a.pauseCommand(), a.resumeCommand())
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) expireOnce(ctx context.Context, x *expirer, args []string, list bool) error {
	var replies []expireReply
	failed := false
	err := x.all(ctx, args, a.dryRun, list, func(r expireReply, err error) {
		if err != nil {
			r.Error, r.Hint = err.Error(), hint(err)
		}
		failed = failed || err != nil || r.Refused > 0
		replies = append(replies, r)
	})
	if err != nil {
		return err
	}
	err = a.print("vaultd.expire/v1", replies, func(w io.Writer) {
		for _, r := range replies {
			a.showExpire(w, r)
		}
	})
	if err == nil && failed {
		err = &statusError{exitFailed}
	}
	return err
}

// showExpire says what a run did, or would do.
func (a *app) showExpire(w io.Writer, r expireReply) {
	verb := "freed"
	if a.dryRun {
		verb = "would free"
	}
	if r.Error != "" {
		fmt.Fprintf(w, "%s: nothing more is freed: %s\n", r.Tenant, r.Error)
		if r.Hint != "" {
			fmt.Fprintf(w, "  hint: %s\n", r.Hint)
		}
		return
	}
	if r.Removed {
		fmt.Fprintf(w, "%s: removed; nothing is left of it\n", r.Tenant)
		return
	}
	if p := r.Paused; p != nil {
		fmt.Fprintf(w, "%s: paused by %s since %s: %s; nothing is freed until vaultd expire resume %s\n", r.Tenant, p.Who, stamp(p.Since), p.Reason, r.Tenant)
		if verb = "resumed, it would free"; !a.dryRun {
			return
		}
	}
	fmt.Fprintf(w, "%s: %s %d contents, %s; %d snapshots lose their names\n", r.Tenant, verb, r.Contents, size(r.Bytes), len(r.Dropped))
	for _, x := range r.Retires {
		fmt.Fprintf(w, "  rule %s: %d names go, %s\n", x.Rule, x.Names, size(x.Bytes))
	}
	for _, s := range r.Dropped {
		fmt.Fprintf(w, "  snapshot %s of %s\n", s.Name, stamp(s.Time))
	}
	for _, v := range r.Versions {
		fmt.Fprintf(w, "  %s, %s, stood from %s to %s\n", v.Path, size(v.Size), stamp(v.Since), stamp(v.Until))
	}
	for _, d := range r.Later {
		fmt.Fprintf(w, "  on %s the lock of %d contents ends: %s\n", d.Day.Format(time.DateOnly), d.Contents, size(d.Bytes))
	}
	if r.Refused > 0 {
		fmt.Fprintf(w, "  %d contents stay because disk and journal disagree: see the log, and vaultd verify %s\n", r.Refused, r.Tenant)
	}
}

// expireLoop runs expire from time to time, beside a server.
func (a *app) expireLoop(ctx context.Context, conf *Config, log *slog.Logger) error {
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, 10); err != nil { // it must not slow pushes
		log.Warn("lower own priority", "error", err.Error())
	}
	wait := time.NewTimer(time.Minute)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		if next, err := a.loadConfig(); err != nil { // changed since: what was read last still counts
			log.Error("expire: read the configuration again", "error", err.Error())
		} else {
			conf = next
		}
		x, err := a.openExpirer(ctx, conf.Expire.CoolDown.Duration, log)
		if err == nil {
			err = x.all(ctx, nil, false, false, func(r expireReply, err error) {
				if err != nil && ctx.Err() == nil {
					log.Error("expire: nothing more is freed of a tenant", "tenant", r.Tenant, "error", err.Error())
				} else if r.Contents+len(r.Dropped)+len(r.Retires)+r.Retired > 0 || r.Removed {
					log.Info("expired", "tenant", r.Tenant, "contents", r.Contents, "bytes", r.Bytes, "snapshots", len(r.Dropped), "names", r.Retired, "removed", r.Removed)
				}
			})
			err = errors.Join(err, x.close())
		}
		if err != nil && ctx.Err() == nil {
			log.Error("expire", "error", err.Error())
		}
		wait.Reset(max(conf.Expire.Interval.Duration, time.Minute))
	}
}

// keepExpiring runs the expire process beside a server until ctx is cancelled, and starts it again when it dies. It dies with the
// supervisor, even with one that is killed.
func (a *app) keepExpiring(ctx context.Context, conf *Config, log *slog.Logger) error {
	if conf.Expire.Interval.Duration == 0 {
		return nil
	}
	args := []string{"expire", "--loop", "--dir", a.dir}
	if a.config != "" {
		args = append(args, "--config", a.config)
	}
	runtime.LockOSThread() // the kernel's promise is about the thread that forks
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, program, args...)
		cmd.Args[0] = "vaultd"
		cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
		cmd.Env = append(childEnviron(), "GOMAXPROCS=1")
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		err := cmd.Run()
		if ctx.Err() != nil {
			return nil
		}
		log.Error("the expire process ended and is started again", "error", fmt.Sprint(err))
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Second):
		}
	}
	return nil
}

// Set implements pflag.Value.
func (d *Duration) Set(s string) error { return d.UnmarshalText([]byte(s)) }

// Type implements pflag.Value.
func (d *Duration) Type() string { return "duration" }

func (a *app) lockCommand() *cobra.Command {
	c := &cobra.Command{Use: "lock", Short: "The time in which nothing of a tenant's past is freed"}
	extend := &cobra.Command{Use: "extend TENANT DURATION", Short: "Lengthen a tenant's lock; it can never be shortened again", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var d Duration
		if err := d.Set(args[1]); err != nil {
			return &usageError{err}
		}
		return a.changeTenant(cmd, args[0], tenant.Change{Lock: &d.Duration})
	}}
	a.whyFlag(extend)
	a.jsonFlag(extend)
	a.dryRunFlag(extend)
	c.AddCommand(extend)
	return c
}

func (a *app) snapshotHold() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "hold TENANT SNAPSHOT --reason TEXT", Short: "Keep a snapshot whatever the schedule says", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var have []snapshotReply
		if err := a.call(cmd.Context(), "snapshot.list", tenantRef{args[0]}, &have); err != nil {
			return err
		}
		i := slices.IndexFunc(have, func(s snapshotReply) bool { return s.Name == args[1] })
		if i < 0 {
			return fmt.Errorf("snapshot %q: %w", args[1], tenant.ErrNotFound)
		}
		if err := a.catalog().Hold(args[0], tenant.Hold{Snapshot: args[1], At: have[i].Instant, Reason: reason}); err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		// An expire that was at work before it saw the hold may have let go of it: names end, and are told, before contents do.
		if err := a.call(cmd.Context(), "snapshot.list", tenantRef{args[0]}, &have); err != nil {
			return err
		}
		if !slices.ContainsFunc(have, func(s snapshotReply) bool { return s.Name == args[1] }) {
			return errors.Join(fmt.Errorf("snapshot %q: expire let go of it in this moment: %w", args[1], tenant.ErrNotFound), a.catalog().Release(args[0], args[1], reason))
		}
		return a.say("%s: %s is held: %s\n", args[0], args[1], reason)
	}}
	c.Flags().StringVar(&reason, "reason", "", "why, for those who find it later")
	a.dryRunFlag(c)
	return c
}

func (a *app) snapshotRelease() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "release TENANT SNAPSHOT [--reason TEXT]", Short: "End a hold (all of a snapshot's, or the one with this reason)", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		conf, err := a.loadConfig()
		if err != nil {
			return err
		}
		a.coolDown = conf.Expire.CoolDown.Duration
		if err := a.catalog().Release(args[0], args[1], reason); err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		return a.say("%s: %s is released; it still counts for %s\n", args[0], args[1], tenant.Days(conf.Expire.CoolDown.Duration))
	}}
	c.Flags().StringVar(&reason, "reason", "", "the hold's reason")
	a.dryRunFlag(c)
	return c
}

func (a *app) retireCommand() *cobra.Command {
	var key, since, why string
	c := &cobra.Command{Use: "retire TENANT PATH... | TENANT --key KEY --since TIME", Short: "Let live names go (what they stood for obeys the lock)", Args: cobra.MinimumNArgs(1),
		Long: "Lets live names go that nobody wants, such as what an attacker put there: directories with all below them, or with --key everything that one key has made since a time. What the names stood for stays readable at its instants until the lock ends. The journal says who, when and why.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := retireRequest{Tenant: args[0], Why: why, DryRun: a.dryRun, Below: true}
			if why == "" {
				return &usageError{errors.New("say why: --reason TEXT")}
			}
			switch {
			case key != "" && len(args) == 1:
				snap, t, err := a.tenant(args[0])
				if err != nil {
					return err
				}
				k, err := findKey(snap.AllKeys(t.ID), key)
				if err != nil {
					return err
				}
				if in.Since, err = parseSince(since); err != nil {
					return &usageError{err}
				}
				in.Key, in.Below = k.ID, false
			case key == "" && len(args) > 1:
				for _, p := range args[1:] {
					in.Paths = append(in.Paths, []byte(p))
				}
			default:
				return &usageError{errors.New("retire what? PATH..., or --key KEY --since TIME")}
			}
			var out retireReply
			if err := a.call(cmd.Context(), "retire", in, &out); err != nil {
				return err
			}
			return a.print("vaultd.retire/v1", out, func(w io.Writer) {
				verb := "retired"
				if a.dryRun {
					verb = "would retire"
				}
				for _, p := range out.Paths {
					fmt.Fprintln(w, appendonly.QuotePath("/"+string(p)))
				}
				if out.Names > len(out.Paths) {
					fmt.Fprintf(w, "and %d more\n", out.Names-len(out.Paths))
				}
				fmt.Fprintf(w, "%s %d names, %s\n", verb, out.Names, size(out.Bytes))
			})
		}}
	c.Flags().StringVar(&key, "key", "", "what this key made (its id or fingerprint)")
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339), a date, or an age such as 2h or 3d")
	c.Flags().StringVar(&why, "reason", "", "why, for the journal")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// findKey finds a key by its id or fingerprint, or by the start of either.
func findKey(keys []tenant.Key, ref string) (tenant.Key, error) {
	var found []tenant.Key
	for _, k := range keys {
		if k.ID == ref || k.Fingerprint == ref {
			return k, nil
		}
		if len(ref) >= 6 && (strings.HasPrefix(k.ID, ref) || strings.HasPrefix(k.Fingerprint, ref) || k.Comment == ref) {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return tenant.Key{}, fmt.Errorf("key %q: %d match: %w", ref, len(found), tenant.ErrNotFound)
	}
	return found[0], nil
}

// parseSince reads a time, a date, or an age.
func parseSince(s string) (time.Time, error) {
	var d Duration
	if err := d.Set(s); err == nil {
		return time.Now().Add(-d.Duration), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q: want RFC 3339, a date, or an age such as 2h or 3d", s)
}
