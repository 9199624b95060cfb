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
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
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

	zfs    *zfs.Client                                                   // made when the first tenant on ZFS comes
	alive  string                                                        // the pool that answered
	bodies func(ctx context.Context, at place) (retention.Bodies, error) // bodiesOf; tests
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
	x.bodies = x.bodiesOf
	return x, nil
}

func (x *expirer) close() error { return x.lock.Close() }

// with calls f with one tenant's expire. A tenant without a dataset has nothing to expire.
func (x *expirer) with(ctx context.Context, t tenant.Tenant, f func(*retention.Expire) error) (err error) {
	at, err := x.a.placeOf(t.ID)
	if err != nil {
		return err
	}
	if at.dir == "" {
		return x.absent(ctx, at)
	}
	bodies, err := x.bodies(ctx, at)
	if err != nil {
		return err
	}
	contents, err := volume.OpenFreer(at.dir)
	if err != nil {
		return err
	}
	left := sync.OnceFunc(func() { contents.Close() })
	defer left()
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
	conf.Contents, conf.Bodies, conf.Chain = contents, bodies, chain
	conf.Dataset = ending{x: x, leave: left, id: t.ID, dir: at.dir}
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
	err := o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error { return v.Freed(in.Freed, in.Dropped) })
	if o.scraping != nil {
		o.scraping.m.Snapshot("expire", int64(len(in.Dropped)), err)
	}
	return struct{}{}, err
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
	Bodies   int                  `json:"bodies,omitempty"`  // snapshots of ZFS that were destroyed, or would be
	ZFS      *spaceZFS            `json:"zfs,omitempty"`     // with --dry-run
	Busy     []retention.Strange  `json:"busy,omitempty"`    // those that stay until the next run
	Strange  []retention.Strange  `json:"strange,omitempty"` // those that look like a body, and are left alone
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
		again.Bodies += out.Bodies
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
			out.Retired, out.Removed, out.Bodies, out.Busy = rep.Retired, rep.Removed, rep.Bodies, rep.Busy
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
		if p.Bodies != nil {
			out.Bodies = len(p.Bodies.Go)
		}
		if out.ZFS, err = x.heldByZFS(ctx, t, p); err != nil {
			return err
		}
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
		if p.Bodies != nil {
			r.Strange = p.Bodies.Strange
		}
	}
}

// all does it for every tenant, or the one that is named. A tenant that fails does not stop the others.
func (x *expirer) all(ctx context.Context, names []string, dry, list bool, each func(expireReply, error)) error {
	if !dry {
		if err := x.a.journals(); err != nil {
			return err
		}
	}
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
		if !dry && ctx.Err() == nil {
			x.note(t, out, err)
		}
		each(out, err)
	}
	return nil
}

func (a *app) expireCommand() *cobra.Command {
	var list, loop bool
	c := &cobra.Command{Use: "expire [TENANT]", Short: "Free what retention lets go of", Args: cobra.MaximumNArgs(1),
		Long: "Frees what a tenant's schedule (--keep) and lock do not keep any more. The server runs it every hour by itself. With --dry-run nothing is freed: it says what would go now, and what the lock keeps until when.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if done, err := a.asExpire(cmd.Context()); done || err != nil {
				return err
			}
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
		failed = failed || err != nil || r.Refused > 0 || len(r.Strange) > 0
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
	r.showBodies(w, a.dryRun)
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
				} else if r.Contents+len(r.Dropped)+len(r.Retires)+r.Retired+r.Bodies > 0 || r.Removed {
					log.Info("expired", "tenant", r.Tenant, "contents", r.Contents, "bytes", r.Bytes, "snapshots", len(r.Dropped), "names", r.Retired, "bodies", r.Bodies, "removed", r.Removed)
				}
				for _, b := range r.Busy {
					log.Warn("a snapshot stays on ZFS until the next run", "tenant", r.Tenant, "snapshot", b.Name, "why", b.Why)
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
	if conf.Expire.Interval.Duration == 0 || conf.Expire.User != "" {
		return nil // or it is a service of its own
	}
	args := []string{"expire", "--loop", "--dir", a.dir}
	if a.config != "" {
		args = append(args, "--config", a.config)
	}
	runtime.LockOSThread() // the kernel's promise is about the thread that forks
	defer runtime.UnlockOSThread()
	for ctx.Err() == nil {
		cmd := exec.Command(program, args...)
		cmd.Args[0] = "vaultd"
		cmd.Stdout, cmd.Stderr = a.stderr, a.stderr
		cmd.Env = append(childEnviron(), "GOMAXPROCS=1")
		cmd.WaitDelay = 10 * time.Second
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
		err := cmd.Start()
		if err == nil {
			err = child{cmd.Wait, cmd.Process.Signal}.run(ctx)
		}
		if errors.Is(err, errHangs) {
			log.Error("expire does not end: it hangs in the kernel with its pool, and is left there", "pid", cmd.Process.Pid)
		}
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
