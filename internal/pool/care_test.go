package pool_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vaultd/internal/pool"
	"vaultd/internal/zfs"
)

// fake is a ZFS that says what it is told to.
type fake struct {
	mu     sync.Mutex
	pool   zfs.Pool
	load   uint64
	err    error
	used   uint64
	avail  uint64
	made   time.Time
	scrubs int
	refuse error // of Scrub
}

func (f *fake) Pool(_ context.Context, name string) (*zfs.Pool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.pool
	p.Name = name
	return &p, f.err
}
func (f *fake) LoadGUID(context.Context, string) (uint64, error) { return f.load, nil }
func (f *fake) List(_ context.Context, root string, _ int, _ ...string) ([]*zfs.Dataset, error) {
	return []*zfs.Dataset{{Name: root, Used: f.used, Available: f.avail, Created: f.made}}, nil
}
func (f *fake) Scrub(context.Context, string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scrubs++
	return f.refuse
}
func (f *fake) Hung() int { return 0 }

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

const table = `22 1 0:20 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:50 / /srv/tenants rw,noatime shared:20 - zfs tank/vaultd rw,xattr
41 40 0:51 / /srv/tenants/t-aaaaaaaaaaaa rw,noatime - zfs tank/vaultd/t-aaaaaaaaaaaa rw,xattr
42 22 0:52 / /srv/with\040blank rw - zfs tank/with\040blank rw
43 22 0:50 /files /srv/part rw - zfs tank/vaultd rw
`

func testCare(t *testing.T, f *fake, log io.Writer, change func(*pool.Config)) *pool.Care {
	cfg := pool.Config{ZFS: f, Dataset: "tank/vaultd", Dir: "/srv/tenants", Scrub: "@monthly", Reserve: func(n uint64) uint64 { return n / 20 },
		Log:    slog.New(slog.NewTextHandler(log, nil)),
		Mounts: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(table)), nil },
		Space:  func(string) (uint64, error) { return 60 << 30, nil }}
	if change != nil {
		change(&cfg)
	}
	return pool.New(cfg)
}

func online() *fake {
	return &fake{pool: zfs.Pool{Health: "ONLINE", Size: 100 << 30, Allocated: 10 << 30, Free: 90 << 30, Vdevs: []zfs.Vdev{{Name: "tank", State: "ONLINE"}, {Depth: 1, Name: "sda", State: "ONLINE"}}},
		load: 1, used: 10 << 30, avail: 80 << 30, made: start}
}

// A look collects what there is; an alarm is logged when it begins and when it ends, and not in between.
func TestLook(t *testing.T) {
	f, log := online(), &bytes.Buffer{}
	c := testCare(t, f, log, nil)
	if r := c.Report(); r.State != pool.Unknown || r.Out || r.Level != 0 {
		t.Errorf("before the first look: %+v", r)
	}
	r := c.Look(t.Context())
	x := r.Reading
	if r.State != pool.OK || !x.Mounted || x.Usable != 90<<30 || x.Available != 60<<30 || r.Reserve != 90<<30/20 || x.Load != 1 || r.Pool != "tank" || r.Seq != 1 {
		t.Errorf("%+v %+v", r, x)
	}
	f.pool.Health = "DEGRADED"
	f.pool.Vdevs[1] = zfs.Vdev{Depth: 1, Name: "sda", State: "FAULTED", Write: 3, Note: "too many errors\x1b[1m"}
	for range 3 {
		r = c.Look(t.Context())
	}
	if r.State != pool.Degraded || len(r.Reading.Devices) != 1 || r.Reading.Errors.Write != 3 {
		t.Errorf("%+v %+v", r, r.Reading)
	}
	f.pool = online().pool
	for range 3 {
		c.Look(t.Context())
	}
	if text := log.String(); strings.Count(text, "the pool is degraded") != 1 || strings.Count(text, "the pool is not degraded any more") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("log:\n%s", text)
	}
	f.err = zfs.ErrNotExist
	if r = c.Look(t.Context()); !r.Out || r.Reading == nil || r.Reading.Health != "ONLINE" {
		t.Errorf("%+v", r)
	}
	text := log.String()
	if i := strings.Index(text, "the pool is gone"); i < 0 || !strings.Contains(text, "level=ERROR") {
		t.Errorf("a pool that is gone is no error:\n%s", text)
	}
}

// The table of mounts decides, not what is in the directory.
func TestMounts(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "t-aaaaaaaaaaaa"), 0o755))
	ids := []string{"t-aaaaaaaaaaaa", "t-bbbbbbbbbbbb"} // the second one has never come
	root := "40 22 0:50 / " + dir + " rw - zfs tank/vaultd rw\n"
	for _, x := range []struct {
		name, table string
		mounted     bool
		absent      []string
	}{
		{"nothing", "", false, nil},
		{"root alone", root, true, ids[:1]},
		{"all", root + "41 40 0:51 / " + dir + "/t-aaaaaaaaaaaa rw - zfs tank/vaultd/t-aaaaaaaaaaaa rw\n", true, nil},
		{"another dataset in its place", root + "41 40 0:51 / " + dir + "/t-aaaaaaaaaaaa rw - zfs tank/other rw\n", true, ids[:1]},
		{"something over it", root + "41 40 0:51 / " + dir + "/t-aaaaaaaaaaaa rw - zfs tank/vaultd/t-aaaaaaaaaaaa rw\n42 41 0:9 / " + dir + "/t-aaaaaaaaaaaa rw - tmpfs tmpfs rw\n", true, ids[:1]},
		{"something over the root", root + "42 41 0:9 / " + dir + " rw - tmpfs tmpfs rw\n", false, nil},
		{"a part of the root", "40 22 0:50 /x " + dir + " rw - zfs tank/vaultd rw\n", false, nil},
		{"lines that are none", "x\n\n - \n1 2 3 4 5 -\n" + root, true, ids[:1]},
	} {
		c := testCare(t, online(), io.Discard, func(c *pool.Config) {
			c.Dir, c.Tenants = dir, func() ([]string, error) { return ids, nil }
			c.Mounts = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(x.table)), nil }
		})
		if r := c.Look(t.Context()); r.Reading.Mounted != x.mounted || !slices.Equal(r.Reading.Absent, x.absent) {
			t.Errorf("%s: mounted %v, absent %v; want %v, %v", x.name, r.Reading.Mounted, r.Reading.Absent, x.mounted, x.absent)
		}
	}
}

// A file system that hangs is given up, once, and the look with it.
func TestHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		c := testCare(t, online(), io.Discard, func(c *pool.Config) {
			c.Space = func(string) (uint64, error) { <-release; return 1 << 40, nil }
		})
		for i := range 3 {
			if r := c.Look(t.Context()); r.Failures != i+1 || !strings.Contains(r.Failure, "does not answer") && !strings.Contains(r.Failure, "hangs") {
				t.Errorf("look %d: %+v", i, r)
			}
		}
		if r := c.Report(); r.State != pool.Silent || !r.Out {
			t.Errorf("%+v", r)
		}
		close(release)
		synctest.Wait()
		c.Look(t.Context())
		if r := c.Look(t.Context()); r.State != pool.OK {
			t.Errorf("after it went on: %+v", r)
		}
	})
}

// Waiting ends with the next look.
func TestWait(t *testing.T) {
	c := testCare(t, online(), io.Discard, nil)
	got := make(chan pool.Report)
	go func() { got <- c.Wait(context.Background(), 0) }()
	c.Look(t.Context())
	if r := <-got; r.Seq != 1 {
		t.Errorf("%+v", r)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r := c.Wait(ctx, 1); r.Seq != 1 {
		t.Errorf("%+v", r)
	}
}

// Scrubs are started when they are due, not again within a day, and not on a pool that has other troubles.
func TestScrubs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := online()
		f.made = time.Now()
		log := &bytes.Buffer{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := testCare(t, f, log, func(c *pool.Config) { c.Every = 10 * time.Minute })
		go c.Run(ctx)
		count := func() int { synctest.Wait(); f.mu.Lock(); defer f.mu.Unlock(); return f.scrubs }
		time.Sleep(27 * 24 * time.Hour)
		if n := count(); n != 0 {
			t.Errorf("%d scrubs within a month of the pool's making", n)
		}
		f.set(func(f *fake) { f.pool.Health = "SUSPENDED" })
		time.Sleep(5 * 24 * time.Hour)
		if n := count(); n != 0 {
			t.Errorf("%d scrubs of a suspended pool", n)
		}
		f.set(func(f *fake) { f.pool.Health, f.refuse = "ONLINE", errors.New("permission denied") })
		time.Sleep(time.Hour)
		if n := count(); n != 1 || !strings.Contains(log.String(), "could not be started") {
			t.Errorf("%d scrubs when one was due\n%s", n, log)
		}
		f.set(func(f *fake) { f.refuse = nil })
		time.Sleep(25 * time.Hour)
		if n := count(); n != 2 {
			t.Errorf("%d scrubs a day later", n)
		}
		f.set(func(f *fake) { f.pool.Scan = zfs.Scan{Kind: "scrub", State: "running", Text: "scrub in progress"} })
		time.Sleep(48 * time.Hour)
		f.set(func(f *fake) { f.pool.Scan = zfs.Scan{Kind: "scrub", State: "finished", At: time.Now()} })
		time.Sleep(time.Hour)
		f.set(func(f *fake) { f.pool.Scan = zfs.Scan{Kind: "resilver", State: "finished", At: time.Now()} })
		time.Sleep(24 * time.Hour)
		if n := count(); n != 2 {
			t.Errorf("%d scrubs after one has run", n)
		}
		if r := c.Report(); r.Reading.Scrub.Ended.IsZero() || len(r.Problems) != 0 {
			t.Errorf("what a resilver hides is forgotten: %+v %+v", r, r.Reading.Scrub)
		}
		time.Sleep(32 * 24 * time.Hour)
		if n := count(); n < 3 { // each day one is asked for, until one runs
			t.Errorf("%d scrubs in the next month", n)
		}
		cancel()
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What the real zpool said (recorded by tests/zfs), through the real parser.
func TestRecordings(t *testing.T) {
	for _, x := range []struct {
		file, pool string
		skip       int // exchanges of the recording before the one that is meant
		state      pool.State
		words      string
	}{
		{"../zfs/testdata/TestPool.jsonl", "tank", 1, pool.OK, "well"},
		{"../zfs/testdata/TestPoolDegraded.jsonl", "small", 0, pool.Degraded, "/var/tmp/pool/b OFFLINE"},
		{"../zfs/testdata/TestPoolDegraded.jsonl", "small", 2, pool.Damaged, "187 data errors"},
		{"testdata/suspended.jsonl", "one", 0, pool.Suspended, "/run/full/disk ONLINE (0 read, 46 write, 0 checksum)"}, // status as TestServerPoolSuspended saw it
	} {
		c := testCare(t, nil, io.Discard, func(c *pool.Config) {
			c.Dataset, c.ZFS, c.Scrub = x.pool, replayed(t, x.file, x.skip), ""
			c.Mounts = func() (io.ReadCloser, error) {
				return io.NopCloser(strings.NewReader("1 1 0:1 / /srv/tenants rw - zfs " + x.pool + " rw\n")), nil
			}
		})
		if r := c.Look(t.Context()); r.State != x.state || !strings.Contains(r.Summary(), x.words) || r.Failures > 0 {
			t.Errorf("%s: %s %+v", x.file, r.Summary(), r)
		}
	}
}

// replay is the real client over tools that say what a recording has; what it does not have of a look is made up.
type replay struct{ *zfs.Client }

func (replay) LoadGUID(context.Context, string) (uint64, error) { return 1, nil }
func (replay) List(_ context.Context, root string, _ int, _ ...string) ([]*zfs.Dataset, error) {
	return []*zfs.Dataset{{Name: root, Used: 1 << 30, Available: 80 << 30}}, nil
}

func replayed(t *testing.T, file string, skip int) pool.ZFS {
	text, err := os.ReadFile(file)
	must(t, err)
	dir := t.TempDir()
	script := "#!/bin/sh\ncase $1 in\n"
	seen := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSpace(string(text)), "\n")[skip:] {
		var e struct {
			Argv   []string
			Stdout string
		}
		must(t, json.Unmarshal([]byte(l), &e))
		if verb := e.Argv[1]; !seen[verb] && e.Stdout != "" {
			seen[verb] = true
			must(t, os.WriteFile(filepath.Join(dir, verb), []byte(e.Stdout), 0o644))
			script += verb + ") cat " + filepath.Join(dir, verb) + ";;\n"
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, "zpool"), []byte(script+"*) exit 2;;\nesac\n"), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	z, err := zfs.New(zfs.Config{})
	must(t, err)
	return replay{z}
}
