package pool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/adhocore/gronx"
	"golang.org/x/sys/unix"

	"vaultd/internal/zfs"
)

// ZFS is what Care asks; *zfs.Client is one. Each call is bounded in time, also while the pool is suspended.
type ZFS interface {
	Pool(ctx context.Context, name string) (*zfs.Pool, error)
	LoadGUID(ctx context.Context, pool string) (uint64, error)
	List(ctx context.Context, root string, depth int, properties ...string) ([]*zfs.Dataset, error)
	Scrub(ctx context.Context, pool string) error
	Hung() int
}

// Config is what Care looks after.
type Config struct {
	ZFS     ZFS
	Dataset string // the store's root dataset; the pool is its first part
	Dir     string // where that is to be mounted; tenants' datasets are Dir/<id> of Dataset/<id>
	// Tenants are the ids of the tenants that may have a dataset.
	Tenants func() ([]string, error)
	Every   time.Duration // how often it looks; 0: 10 s
	Reserve func(usable uint64) uint64
	Scrub   string // cron line; "": none is started
	Log     *slog.Logger

	// For tests: the clock, and what is mounted.
	Now    func() time.Time
	Mounts func() (io.ReadCloser, error)
	Space  func(dir string) (free uint64, err error)
}

// Care looks after one pool.
type Care struct {
	cfg   Config
	pool  string
	judge Judge

	looking sync.Mutex // one look at a time; guards judge and what follows
	scrubs  time.Time  // when a scrub was last asked for
	ended   time.Time  // of the last scrub that was seen
	created time.Time  // of the pool
	usable  uint64
	asking  chan struct{} // one element while the file system is asked; it stays there if that hangs

	mu   sync.Mutex // guards what follows; never held across I/O
	last Report
	news chan struct{} // closed by the next look
}

// New makes a Care that has not looked yet.
func New(cfg Config) *Care {
	if cfg.Every == 0 {
		cfg.Every = 10 * time.Second
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Mounts == nil {
		cfg.Mounts = func() (io.ReadCloser, error) { return os.Open("/proc/self/mountinfo") }
	}
	if cfg.Space == nil {
		cfg.Space = free
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Dir = MountPoint(cfg.Dir)
	pool, _, _ := strings.Cut(cfg.Dataset, "/")
	c := &Care{cfg: cfg, pool: pool, asking: make(chan struct{}, 1), news: make(chan struct{}), judge: Judge{Pool: pool, Dataset: cfg.Dataset, Reserve: cfg.Reserve, Scrub: cfg.Scrub}}
	c.last = Report{Pool: pool, Dataset: cfg.Dataset, State: Unknown, Problems: []Problem{}}
	return c
}

// free is what a directory's file system has for whoever is not root.
func free(dir string) (uint64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return st.Bavail * uint64(st.Bsize), nil
}

// Dir is where the root dataset is to be mounted, as the table of mounts has it.
func (c *Care) Dir() string { return c.cfg.Dir }

// Report is the newest one. It never waits.
func (c *Care) Report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Wait returns the newest report as soon as it is another one than seq, and what there is when ctx ends.
func (c *Care) Wait(ctx context.Context, seq uint64) Report {
	for {
		c.mu.Lock()
		last, news := c.last, c.news
		c.mu.Unlock()
		if last.Seq != seq {
			return last
		}
		select {
		case <-news:
		case <-ctx.Done():
			return last
		}
	}
}

// Run looks until ctx is cancelled, and starts scrubs.
func (c *Care) Run(ctx context.Context) {
	tick := time.NewTicker(c.cfg.Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.Look(ctx)
			c.scrubDue(ctx)
		}
	}
}

// Look looks at the pool now and returns the report. It takes as long as the processes may; the report before stays until it is done.
func (c *Care) Look(ctx context.Context) Report {
	c.looking.Lock()
	defer c.looking.Unlock()
	begin := time.Now()
	r, err := c.read(ctx)
	if ctx.Err() != nil && err != nil {
		return c.Report() // nobody waits any more: that is not the pool's fault
	}
	next := c.judge.Judge(c.cfg.Now(), r, err)
	next.Took, next.Hung = time.Since(begin), c.cfg.ZFS.Hung()
	c.mu.Lock()
	before := c.last
	next.Seq = before.Seq + 1
	c.last = next
	close(c.news)
	c.news = make(chan struct{})
	c.mu.Unlock()
	c.tell(before, next)
	return next
}

// tell logs what began and what ended.
func (c *Care) tell(before, now Report) {
	had := map[State]bool{}
	for _, p := range before.Problems {
		had[p.State] = true
	}
	for _, p := range now.Problems {
		if had[p.State] {
			delete(had, p.State)
			continue
		}
		level := slog.LevelWarn
		if p.Level > 1 {
			level = slog.LevelError
		}
		c.cfg.Log.Log(context.Background(), level, "the pool is "+phrase(p.State), "pool", now.Pool, "state", string(p.State), "what", p.Words, "do", p.Do)
	}
	for _, s := range states {
		if had[s] {
			c.cfg.Log.Info("the pool is not "+phrase(s)+" any more", "pool", now.Pool, "state", string(s))
		}
	}
}

// read asks ZFS and the kernel. looking is held.
func (c *Care) read(ctx context.Context) (*Reading, error) {
	p, err := c.cfg.ZFS.Pool(ctx, c.pool)
	if err != nil {
		return nil, err
	}
	r := read(p, c.cfg.Now())
	if r.Load, err = c.cfg.ZFS.LoadGUID(ctx, c.pool); err != nil {
		return nil, err
	}
	if err := c.readMounts(ctx, r); err != nil {
		return nil, err
	}
	if r.Health != "SUSPENDED" { // its datasets would not answer
		if err := c.readSpace(ctx, r); err != nil {
			return nil, err
		}
	}
	r.Usable = c.usable
	if !r.Scrub.Ended.IsZero() {
		c.ended = r.Scrub.Ended
	}
	r.Scrub.Ended = c.ended // what it says of a resilver replaces what it said of the scrub before
	return r, c.readDue(r)
}

// readSpace asks how much the pool can hold, and what of that the store's dataset may have.
func (c *Care) readSpace(ctx context.Context, r *Reading) error {
	top, err := c.cfg.ZFS.List(ctx, c.pool, 0)
	if err != nil {
		return err
	}
	if len(top) != 1 {
		return fmt.Errorf("zfs list %s: %d datasets", c.pool, len(top))
	}
	c.usable, c.created, r.Available = top[0].Used+top[0].Available, top[0].Created, top[0].Available
	if !r.Mounted {
		return nil
	}
	have, err := within(ctx, c, func() (uint64, error) { return c.cfg.Space(c.cfg.Dir) })
	if err == nil {
		r.Available = min(r.Available, have) // a quota of the root's
	}
	return err
}

// answer is how long the file system may take to say what it has in memory.
const answer = 10 * time.Second

// within asks the store's file system, which may hang for ever: then the question stays open, and no other is asked until it has ended.
func within[T any](ctx context.Context, c *Care, ask func() (T, error)) (T, error) {
	var none T
	select {
	case c.asking <- struct{}{}:
	default:
		return none, fmt.Errorf("look at %s: an earlier look hangs: %w", c.cfg.Dataset, zfs.ErrTimeout)
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := ask()
		done <- result{v, err}
		<-c.asking
	}()
	ctx, cancel := context.WithTimeout(ctx, answer)
	defer cancel()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("look at %s: %w", c.cfg.Dataset, zfs.ErrTimeout)
	}
}

// Places is what the kernel says now, and no pool is asked for: whether the store's root dataset is mounted, and if it is, which tenants' datasets are, and
// which are not, be it that there is none.
func (c *Care) Places() (mounted bool, here, missing []string, err error) {
	f, err := c.cfg.Mounts()
	if err != nil {
		return false, nil, nil, err
	}
	have, err := zfs.ReadMounts(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return false, nil, nil, err
	}
	if mounted = have.Dataset(c.cfg.Dir) == c.cfg.Dataset; !mounted || c.cfg.Tenants == nil {
		return mounted, nil, nil, nil
	}
	ids, err := c.cfg.Tenants()
	if err != nil {
		return mounted, nil, nil, err
	}
	for _, id := range ids {
		if have.Dataset(filepath.Join(c.cfg.Dir, id)) == c.cfg.Dataset+"/"+id {
			here = append(here, id)
		} else {
			missing = append(missing, id)
		}
	}
	return true, here, missing, nil
}

// readMounts looks whether what should be mounted is.
func (c *Care) readMounts(ctx context.Context, r *Reading) error {
	mounted, _, missing, err := c.Places()
	if err != nil {
		return err
	}
	r.Mounted = mounted
	if len(missing) == 0 || r.Health == "SUSPENDED" {
		return nil
	}
	// Where there is a mount point, there is a dataset; without one nobody has come yet.
	r.Absent, err = within(ctx, c, func() ([]string, error) {
		return slices.DeleteFunc(missing, func(id string) bool { _, err := os.Lstat(filepath.Join(c.cfg.Dir, id)); return err != nil }), nil
	})
	return err
}

// readDue says when the next scrub is due, or since when.
func (c *Care) readDue(r *Reading) error {
	since := c.ended
	if since.IsZero() {
		since = c.created
	}
	if c.cfg.Scrub == "" || since.IsZero() {
		return nil
	}
	var err error
	r.Scrub.Due, err = gronx.NextTickAfter(c.cfg.Scrub, since, false)
	return err
}

// again is how long after a scrub was asked for another one may be: who cancels one has a reason.
const again = 24 * time.Hour

// scrubDue starts a scrub if one is due and the pool can bear it.
func (c *Care) scrubDue(ctx context.Context) {
	c.looking.Lock()
	defer c.looking.Unlock()
	p, now := c.Report(), c.cfg.Now()
	r := p.Reading
	if c.cfg.Scrub == "" || r == nil || p.Failure != "" || p.Out || r.Scrub.Running || r.Scrub.Due.IsZero() || now.Before(r.Scrub.Due) || now.Sub(c.scrubs).Abs() < again {
		return
	}
	c.scrubs = now
	if err := c.cfg.ZFS.Scrub(ctx, c.pool); err != nil && !errors.Is(err, zfs.ErrBusy) {
		c.cfg.Log.Warn("a scrub is due and could not be started", "pool", c.pool, "due", r.Scrub.Due.UTC().Format(time.RFC3339), "error", err.Error())
		return
	}
	c.cfg.Log.Info("a scrub was started", "pool", c.pool, "due", r.Scrub.Due.UTC().Format(time.RFC3339))
}
