package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bench is one run of the whole.
type bench struct {
	a, b     *side // A is vaultd (in the self-test a second sshd), B is OpenSSH
	vaultd   vaultd
	tmp      string // client side: keys, configurations, material
	material material
	runs     int
	only     []string
	largeToo bool
	selfTest bool
	// confinement compares vaultd with itself, not confined.
	confinement bool
	literal     map[*side][]float64 // bytes of each rsync-delta run
	report      report
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == superviseArg {
		os.Exit(supervise(os.Args[2:]))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	go func() { <-signals; cancel(errStopped) }()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(1)
	}
}

// names are all works that --only takes, in the order in which they run.
var names = []string{"put-1g", "mem", "get-1g", "put-5000", "rclone-5000", "rclone-nohash", "restic", "connect", "idle-200",
	"rsync-push-1g", "rsync-push-20k", "rsync-again-100k", "rsync-delta", "rsync-pull-1g", "rsync-pull-20k",
	"list-100k", "journal", "rebuild", "snapshot-1m", "mem-1m", "rsync-1m"}

// largeNames need --large, or to be asked for by name.
var largeNames = []string{"snapshot-1m", "mem-1m", "rsync-1m"}

func run(ctx context.Context, args []string, out io.Writer) error {
	b := &bench{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := flags.String("only", "", "works, separated by commas")
	dir := flags.String("dir", "/var/tmp", "folder for the servers' data")
	if t := os.Getenv("TMPDIR"); t != "" {
		*dir = t
	}
	flags.BoolVar(&b.largeToo, "large", false, "also the works with 1,000,000 files")
	flags.IntVar(&b.runs, "runs", 5, "runs of each side")
	flags.StringVar(&b.vaultd.bin, "vaultd", "", "the program under test (set by bench/run)")
	confinement := flags.Bool("confinement", false, "vaultd against vaultd with confine = \"off\": every ratio should be 1")
	flags.BoolVar(&b.selfTest, "self-test", false, "sshd against sshd: every ratio should be 1")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *confinement {
		b.selfTest, b.confinement = true, true // no work knows one side as the baseline
	}
	if *only != "" {
		b.only = strings.Split(*only, ",")
	}
	for _, n := range b.only {
		if !slices.Contains(names, n) {
			return fmt.Errorf("read --only: no work %q; there are %s", n, strings.Join(names, " "))
		}
	}
	if b.runs < 1 || flags.NArg() > 0 {
		return errors.New("read arguments: --runs is at least 1 and there are no others")
	}
	cleanup, err := b.prepare(*dir)
	defer cleanup()
	if err != nil {
		return err
	}
	if err := b.printMachine(ctx, out); err != nil {
		return err
	}
	b.all(ctx)
	b.report.print(out, b.a.label, b.b.label)
	if n := len(b.report.failed); n > 0 {
		return fmt.Errorf("%d works were not measured, see the report", n)
	}
	return nil
}

// prepare makes the folders, keys and sides. Its first result undoes that.
func (b *bench) prepare(dir string) (func(), error) {
	var made []string
	cleanup := func() {
		for _, s := range b.sides() {
			if s != nil {
				if err := s.stop(); err != nil {
					fmt.Fprintln(os.Stderr, "bench: error:", err)
				}
			}
		}
		for _, d := range made {
			os.RemoveAll(d)
		}
	}
	var err error
	if b.tmp, err = os.MkdirTemp(clientDir(), "vaultd-bench-client-"); err != nil {
		return cleanup, fmt.Errorf("make client folder: %w", err)
	}
	made = append(made, b.tmp)
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return cleanup, fmt.Errorf("find data folder: %w", err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return cleanup, err
	}
	data, err := os.MkdirTemp(dir, "vaultd-bench-data-")
	if err != nil {
		return cleanup, fmt.Errorf("make data folder: %w", err)
	}
	made = append(made, data)
	var keys []key
	for i := range idleAccounts {
		k, err := newKey(filepath.Join(b.tmp, fmt.Sprintf("key%d", i)))
		if err != nil {
			return cleanup, err
		}
		keys = append(keys, k)
	}
	ssh, err := newOpenSSH()
	if err != nil {
		return cleanup, err
	}
	b.a = &side{driver: b.vaultd, label: "vaultd", keys: keys}
	b.b = &side{driver: ssh, label: "OpenSSH", keys: keys}
	if b.selfTest {
		b.a.driver, b.a.label = ssh, "OpenSSH-A"
	}
	if b.confinement {
		off := b.vaultd
		off.confine = "off"
		b.a.driver, b.a.label = b.vaultd, "confined"
		b.b.driver, b.b.label = off, "not confined"
	}
	for i, s := range b.sides() {
		s.conf = filepath.Join(b.tmp, fmt.Sprintf("conf%d", i))
		s.data = filepath.Join(data, fmt.Sprintf("side%d", i))
		s.used = filepath.Join(data, fmt.Sprintf("used%d", i))
	}
	return cleanup, enoughSpace(data)
}

func (b *bench) sides() []*side { return []*side{b.a, b.b} }

// clientDir is tmpfs where that has room, so that reading and writing client data costs no disk.
func clientDir() string {
	var st unix.Statfs_t
	const shm = "/dev/shm"
	if err := unix.Statfs(shm, &st); err == nil && st.Bavail*uint64(st.Bsize) > 4*bigSize {
		return shm
	}
	return os.TempDir()
}

// enoughSpace refuses to start what would fill the disk. At most two stores of 1 GiB exist at a time;
// --large needs 4 KiB for each of its files.
func enoughSpace(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at %s: %w", dir, err)
	}
	const need = 12 * bigSize
	if free := st.Bavail * uint64(st.Bsize); free < need {
		return fmt.Errorf("use %s: %d GiB are free, %d are needed", dir, free>>30, need>>30)
	}
	return nil
}

func (b *bench) selected(name string) bool {
	if len(b.only) > 0 {
		return slices.Contains(b.only, name)
	}
	return b.largeToo || !slices.Contains(largeNames, name)
}

func (b *bench) needMaterial() error {
	if b.material.big != "" {
		return nil
	}
	m, err := newMaterial(filepath.Join(b.tmp, "material"))
	if err == nil {
		b.material = m
	}
	return err
}

// got is where the client puts what it fetched.
func (b *bench) got() string { return filepath.Join(b.tmp, "got") }

// all runs what is selected. A work that fails is reported and the others go on.
func (b *bench) all(ctx context.Context) {
	for _, w := range works {
		mem := w.name == "put-1g" && b.selected("mem")
		if b.selected(w.name) || mem {
			b.try(ctx, w.name, func() error { return b.timed(ctx, w, mem) })
		}
	}
	if b.selected("idle-200") {
		b.try(ctx, "idle-200", func() error { return b.idle(ctx) })
	}
	if b.selected("journal") && !b.selfTest {
		b.try(ctx, "journal", func() error { return b.journal(ctx) })
	}
	if b.selected("list-100k") || (b.selected("journal") || b.selected("rebuild")) && !b.selfTest {
		b.try(ctx, "list-100k, journal, rebuild", func() error { return b.hundredK(ctx) })
	}
	if (b.selected("snapshot-1m") || b.selected("mem-1m")) && !b.selfTest {
		b.try(ctx, "snapshot-1m, mem-1m", func() error { return b.large(ctx) })
	}
	if b.selected("rsync-1m") && !b.selfTest {
		b.try(ctx, "rsync-1m", func() error { return b.rsyncMillion(ctx) })
	}
}

func (b *bench) try(ctx context.Context, name string, f func() error) {
	err := context.Cause(ctx)
	if err == nil {
		err = f()
	}
	if err != nil {
		b.progress("%s: %v", name, err)
		b.report.fail(name, err)
	}
}

// timed compares w and reports it; mem asks for the memory line of a 1 GiB put as well.
func (b *bench) timed(ctx context.Context, w work, mem bool) error {
	if w.material {
		if err := b.needMaterial(); err != nil {
			return err
		}
	}
	got, err := b.compare(ctx, w)
	if err != nil {
		return err
	}
	b.report.timed(w, got)
	if mem {
		b.report.fact(fact{what: "peak RssAnon while one client puts 1 GiB, MiB (largest run)",
			a: []float64{peak(got.a)}, b: []float64{peak(got.b)}, most: 64})
	}
	if w.name == "rsync-delta" {
		b.report.fact(fact{what: "rsync-delta, literal bytes sent", a: b.literal[b.a], b: b.literal[b.b], want: 1.02})
	}
	if w.name == "put-5000" && !b.selfTest {
		extra := (median(pick(got.a, cpuOf)) - median(pick(got.b, cpuOf))) * 1e6 / smallCount
		b.report.fact(fact{what: "put-5000, server CPU beyond OpenSSH's, µs a file", a: []float64{extra},
			note: "hash, journal, index and publishing together; the 20 µs asked of journal and index are a part of it"})
	}
	return nil
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %s %s\n", time.Now().Format("15:04:05"), fmt.Sprintf(format, args...))
}
