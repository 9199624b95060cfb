package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/confine"
	"vaultd/internal/pool"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
)

// tenantsDir is where a ZFS store's root dataset is mounted: mounts are known by their real paths.
func (a *app) tenantsDir() (string, error) {
	dir, err := filepath.Abs(a.dir)
	if real, rerr := filepath.EvalSymlinks(dir); rerr == nil {
		dir = real
	}
	return filepath.Join(dir, confine.TenantsDir), err
}

// lookTimeout is how long one command that looks at the pool may take.
const lookTimeout = 10 * time.Second

// helped has the helper ask for pool care, for a supervisor that can not run zfs. The pool is the helper's, whichever is named.
type helped struct{ zfshelper.Verbs }

var _ pool.ZFS = helped{}

// Pool implements pool.ZFS.
func (h helped) Pool(ctx context.Context, _ string) (p *zfs.Pool, err error) {
	err = h.in(ctx, func(ctx context.Context) error { p, err = h.Verbs.Pool(ctx); return err })
	return p, err
}

// LoadGUID implements pool.ZFS.
func (h helped) LoadGUID(ctx context.Context, _ string) (guid uint64, err error) {
	err = h.in(ctx, func(ctx context.Context) error { guid, err = h.Load(ctx); return err })
	return guid, err
}

// List implements pool.ZFS: care asks for the pool's own dataset alone.
func (h helped) List(ctx context.Context, _ string, _ int, _ ...string) (all []*zfs.Dataset, err error) {
	err = h.in(ctx, func(ctx context.Context) error {
		d, err := h.Top(ctx)
		all = []*zfs.Dataset{d}
		return err
	})
	return all, err
}

// Scrub implements pool.ZFS.
func (h helped) Scrub(ctx context.Context, _ string) error { return h.in(ctx, h.Verbs.Scrub) }

// Hung implements pool.ZFS: the helper's processes are its own business.
func (h helped) Hung() int { return 0 }

// in asks in the time that the helper itself has for it, and a little.
func (h helped) in(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout+5*time.Second, zfs.ErrTimeout)
	defer cancel()
	err := ask(ctx)
	if err != nil && context.Cause(ctx) == zfs.ErrTimeout {
		return fmt.Errorf("%w: %w", zfs.ErrTimeout, err)
	}
	return err
}

// poolCare looks after the store's pool; nil for a store that is not on ZFS.
func (a *app) poolCare(conf *Config, log *slog.Logger) (*pool.Care, error) {
	if conf.ZFS.Dataset == "" {
		return nil, nil
	}
	dir, err := a.tenantsDir()
	if err != nil {
		return nil, err
	}
	var z pool.ZFS
	if conf.ZFS.Helper != "" {
		z = helped{zfshelper.Remote{Caller: &zfshelper.Socket{Path: conf.ZFS.Helper}}}
	} else if z, err = zfs.New(zfs.Config{Timeout: lookTimeout}); err != nil { // its own client: what hangs for others must not take its places
		return nil, err
	}
	return pool.New(pool.Config{ZFS: z, Dataset: conf.ZFS.Dataset, Dir: dir, Every: conf.ZFS.Poll.Duration, Reserve: conf.ZFS.Reserve.Of, Scrub: conf.ZFS.Scrub, Log: log,
		Tenants: a.onPool}), nil
}

// onPool are the ids of the tenants that are not in former/, where they wait to be moved.
func (a *app) onPool() ([]string, error) {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return nil, err
	}
	waiting, err := os.ReadDir(filepath.Join(a.dir, confine.FormerDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	waits := map[string]bool{}
	for _, d := range waiting {
		waits[d.Name()] = true
	}
	var ids []string
	for _, t := range snap.Tenants() {
		if !waits[t.ID] {
			ids = append(ids, t.ID)
		}
	}
	return ids, nil
}

// overZFS completes what a store on ZFS is opened with. The driver says why a tenant's dataset can not be used: what is below its mount point
// without it is the root disk, where nothing may land.
func (a *app) overZFS(c store.Config, conf *Config, verbs zfshelper.Verbs) (store.Config, error) {
	z, err := a.driver(conf, verbs)
	if z != nil {
		c.Driver, c.Bodies = z, z
	}
	return c, err
}

// poolNews is what the supervisor tells a server about the pool.
type poolNews struct {
	Seq    uint64
	Report pool.Report
	Came   bool // see presence
}

// newsEvery is how long a server waits for news: it is told as soon as there are some.
const newsEvery = 5 * time.Second

// passNews gives a server that is to start a connection of its own for news of the pool: the other verbs may wait for a pool that hangs.
func (s *supervisor) passNews(cmd *exec.Cmd) (stop func(), err error) {
	if s.care == nil {
		return func() {}, nil
	}
	here, there, err := supervise.Pair()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append(cmd.ExtraFiles, there)
	seen := &presence{look: s.care.Places, log: s.log}
	seen.came() // before the server is confined
	go supervise.ServeUntil(here, s.poolVerbs(seen), func(error) { here.Close() })
	return func() { here.Close(); there.Close() }, nil
}

func (s *supervisor) poolVerbs(seen *presence) map[string]supervise.Verb {
	return map[string]supervise.Verb{"pool": func(args json.RawMessage) (any, error) {
		var seq uint64
		if err := json.Unmarshal(args, &seq); err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), newsEvery)
		defer cancel()
		r := s.care.Wait(ctx, seq)
		return poolNews{r.Seq, r, seen.came()}, nil
	}}
}

// bootName names what a server's recovery may take for granted: the kernel that took its writes still runs, and the pool was not exported since.
func (s *supervisor) bootName() string {
	if s.care == nil {
		return s.boot
	}
	if r := s.care.Report().Reading; r != nil {
		return fmt.Sprintf("%s/%016x", s.boot, r.Load)
	}
	return s.boot + "/?"
}

// poolBefore is how the pool is when a server is to start. The table of mounts has the last word: a look may have failed, or be a few seconds old.
func (s *supervisor) poolBefore() pool.Report {
	if s.care == nil {
		return pool.Report{}
	}
	r := s.care.Report()
	if mounted, _, _, _ := s.care.Places(); !mounted {
		r.Out = true
	}
	return r
}

// watchPool ends a server whose pool was out and is back, or was imported anew: its vaults are to be opened again with their whole recovery, and its
// confinement is bound to mounts that are gone. It is killed, for it may have threads that hang and can do nothing in order; a crash is what recovery is for.
func (s *supervisor) watchPool(ctx context.Context, began pool.Report, end func()) {
	load, seq := uint64(0), began.Seq
	if began.Reading != nil {
		load = began.Reading.Load
	}
	for {
		r := s.care.Wait(ctx, seq)
		if ctx.Err() != nil {
			return
		}
		seq = r.Seq
		switch {
		case r.Out || r.Failure != "" || r.Reading == nil:
		case began.Out || r.Outages != began.Outages || r.Reading.Load != load:
			s.log.Warn("the pool is back: the server starts again and goes through what was not acknowledged", "pool", r.Pool)
			end()
			select {
			case <-ctx.Done():
			case <-time.After(30 * time.Second):
				s.log.Error("the old server does not end: it hangs in the kernel; if it stays so, restart the machine", "pool", r.Pool)
			}
			return
		}
	}
}

// hangTime is how long a server that is to end, and whose pool is out, may still take: it may hang in the kernel, where nothing ends it.
const hangTime = 15 * time.Second

// wait waits until a server has ended. When all is to end and the pool is out, it waits no longer than it makes sense: the store's lock stays with what hangs, so
// no other server comes in its place before that has gone.
func (s *supervisor) wait(ctx context.Context, server *exec.Cmd) error {
	done := make(chan error, 1)
	go func() { done <- server.Wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for begin := time.Now(); s.care == nil || !s.care.Report().Out || time.Since(begin) < hangTime; {
		select {
		case err := <-done:
			return err
		case <-time.After(time.Second):
		}
	}
	return errors.New("the server hangs in the kernel with its pool, and is left there")
}

// poolReport is the pool as commands show it.
func (o *operations) poolReport(context.Context, struct{}) (*pool.Report, error) {
	if o.pool == nil {
		return nil, errNoPool
	}
	return o.pool(), nil
}

var errNoPool = &configError{errors.New("this store is not on ZFS: [zfs] dataset is not set")}

func (a *app) poolCommand() *cobra.Command {
	c := &cobra.Command{Use: "pool", Short: "How the ZFS pool is, and what to do about it. Exit status 0: well, 1: look at it, 2: act", Args: cobra.NoArgs,
		Long: "Shows what the server's supervisor sees of the ZFS pool that the store is on: health, room, errors, scrubs and mounts, what is the matter since when, and what to do. Without a server it looks itself. The time of the last good look is shown: what is older than that may have changed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.lookAtPool(cmd.Context())
			if err != nil {
				return err
			}
			err = a.print("vaultd.pool/v1", r, func(w io.Writer) { showPool(w, r) })
			if err == nil && r.Level > 0 {
				err = &statusError{r.Level}
			}
			return err
		}}
	a.jsonFlag(c)
	return c
}

// lookAtPool asks the running server, or looks.
func (a *app) lookAtPool(ctx context.Context) (*pool.Report, error) {
	var r pool.Report
	err := a.serverCall(ctx, "pool", struct{}{}, &r)
	if err == nil || exitCode(err) != exitUnavailable {
		return &r, err
	}
	conf, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	care, err := a.poolCare(conf, nil)
	if err != nil {
		return nil, err
	}
	if care == nil {
		return nil, errNoPool
	}
	r = care.Look(ctx)
	if r.State == pool.Unknown {
		return nil, fmt.Errorf("look at pool %s: %s", r.Pool, r.Failure)
	}
	return &r, nil
}

func showPool(w io.Writer, r *pool.Report) {
	fmt.Fprintln(w, r.Summary())
	for _, p := range r.Problems {
		fmt.Fprintf(w, "\n%s since %s\n  %s\n  -> %s\n", p.State, stamp(p.Since), p.Words, p.Do)
	}
	x := r.Reading
	if x == nil {
		fmt.Fprintf(w, "\nno look has brought anything yet: %s\n", r.Failure)
		return
	}
	fmt.Fprintln(w)
	rows := [][]string{
		{"looked at", fmt.Sprintf("%s (%s)", stamp(x.At), ago(x.At))},
		{"health", x.Health},
		{"room", fmt.Sprintf("%s of %s used (%.0f %%), %s available, reserve %s", size(int64(x.Allocated)), size(int64(x.Size)), x.Capacity(), size(int64(x.Available)), size(int64(r.Reserve)))},
		{"fragmentation", fmt.Sprintf("%d %%", x.Fragmentation)},
		{"errors", x.Errors.String()},
		{"data errors", fmt.Sprint(x.Data)},
		{"scrub", scrubWords(&x.Scrub)},
		{"dataset", fmt.Sprintf("%s, mounted: %v", r.Dataset, x.Mounted)},
	}
	if r.Failure != "" {
		rows = append(rows, []string{"last look", fmt.Sprintf("%s failed: %s", stamp(r.Tried), r.Failure)})
	}
	for _, row := range rows {
		fmt.Fprintf(w, "%-14s %s\n", row[0], row[1])
	}
}

func scrubWords(s *pool.Scrub) string {
	text := "never seen"
	switch {
	case s.Running:
		text = s.Text
	case !s.Ended.IsZero():
		text = fmt.Sprintf("ended %s (%s), %d errors not repaired", stamp(s.Ended), ago(s.Ended), s.Errors)
	}
	if !s.Due.IsZero() && !s.Running {
		text += "; next " + stamp(s.Due)
	}
	return text
}

// pool is what doctor says of it.
func (d *doctor) pool(ctx context.Context) {
	if d.conf.ZFS.Dataset == "" {
		return
	}
	r := d.status.Pool
	if r == nil {
		var err error
		if r, err = d.a.lookAtPool(ctx); err != nil {
			d.say(checkFail, "pool", "zpool status", "%v", err)
			return
		}
	}
	for _, p := range r.Problems {
		d.say(p.Level, "pool", p.Do, "%s: %s: %s", r.Pool, p.State, p.Words)
	}
	if old := time.Since(r.Tried); old > 2*d.conf.ZFS.Poll.Duration+time.Minute {
		d.say(checkWarn, "pool", "is the server well? see its log", "%s was looked at last at %s", r.Pool, stamp(r.Tried))
	}
	if len(r.Problems) == 0 && r.Reading != nil {
		d.say(checkOK, "pool", "", "%s: %s, %.0f %% used, scrub %s", r.Pool, r.Reading.Health, r.Reading.Capacity(), scrubWords(&r.Reading.Scrub))
	}
}
