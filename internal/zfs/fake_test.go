package zfs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/zfs"
)

// The tests run in one of two ways:
//
//	go test                    the fake zfs and zpool answer from testdata/NAME.jsonl, in the order of the recording;
//	                           another argv than the recorded one is a failure
//	zfs.test -real POOL        the real ones, on a pool that may be filled; with -record DIR what they say is
//	                           written to DIR (tests/zfs/run --record does that)
var (
	realPool = flag.String("real", "", "run against the real zfs, on this pool")
	record   = flag.String("record", "", "with -real: write what zfs says to this directory")
)

// exchange is one run of zfs or zpool.
type exchange struct {
	Argv   []string `json:"argv"`
	Stdin  string   `json:"stdin,omitempty"` // of commands that are not streams
	Stdout string   `json:"stdout,omitempty"`
	Stderr string   `json:"stderr,omitempty"`
	Exit   int      `json:"exit,omitempty"`
}

// What the fake finds in its environment.
const (
	envRecording = "ZFS_TEST_RECORDING" // file of exchanges to answer from, or to append to
	envReal      = "ZFS_TEST_REAL"      // directory of the real tools: record
	envHang      = "ZFS_TEST_HANG"      // file: while it is there, the fake does not answer to the verbs in it, or to any
	envCount     = "ZFS_TEST_COUNT"     // file that gets a byte for each start
)

func TestMain(m *testing.M) {
	switch tool := filepath.Base(os.Args[0]); tool {
	case "zfs", "zpool":
		os.Exit(fake(append([]string{tool}, os.Args[1:]...)))
	}
	flag.Parse()
	os.Exit(m.Run())
}

func fake(argv []string) int {
	if f := os.Getenv(envCount); f != "" {
		if f, err := os.OpenFile(f, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			f.WriteString("x")
			f.Close()
		}
	}
	for hang := os.Getenv(envHang); hang != ""; time.Sleep(5 * time.Millisecond) {
		verbs, err := os.ReadFile(hang)
		if err != nil || len(verbs) > 0 && !slices.Contains(strings.Fields(string(verbs)), argv[1]) {
			break
		}
	}
	if dir := os.Getenv(envReal); dir != "" {
		return recordOne(dir, argv)
	}
	return replay(argv)
}

// recordOne runs the real tool and appends what it said.
func recordOne(dir string, argv []string) int {
	x := exchange{Argv: argv}
	cmd := exec.Command(filepath.Join(dir, argv[0]), argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Stderr = io.MultiWriter(&errs, os.Stderr)
	cmd.Stdout = io.MultiWriter(&out, os.Stdout)
	stream := argv[1] == "send" || argv[1] == "receive"
	if stream {
		cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout // megabytes that nobody wants to read
	} else if in, err := io.ReadAll(os.Stdin); err == nil {
		x.Stdin = string(in)
		cmd.Stdin = bytes.NewReader(in)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		x.Exit = exit.ExitCode()
	} else if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	x.Stdout, x.Stderr = out.String(), errs.String()
	b, err := json.Marshal(x)
	if err == nil {
		err = appendLine(os.Getenv(envRecording), b)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 99
	}
	return x.Exit
}

func appendLine(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Close())
}

// replay answers with the next exchange; a file beside the recording counts.
func replay(argv []string) int {
	x, err := next(os.Getenv(envRecording), argv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fake:", err)
		return 99
	}
	if argv[1] == "receive" {
		io.Copy(io.Discard, os.Stdin)
	} else if in, _ := io.ReadAll(os.Stdin); string(in) != x.Stdin {
		fmt.Fprintf(os.Stderr, "fake: stdin %q, recorded %q\n", in, x.Stdin)
		return 99
	}
	os.Stdout.WriteString(x.Stdout)
	os.Stderr.WriteString(x.Stderr)
	return x.Exit
}

// next takes the next exchange of the recording, which must be about argv.
func next(name string, argv []string) (exchange, error) {
	count, err := os.OpenFile(os.Getenv("ZFS_TEST_POSITION"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return exchange{}, err
	}
	defer count.Close()
	if err := syscall.Flock(int(count.Fd()), syscall.LOCK_EX); err != nil {
		return exchange{}, err
	}
	n := 0
	fmt.Fscan(count, &n)
	all, err := os.ReadFile(name)
	if err != nil {
		return exchange{}, err
	}
	lines := strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
	if n >= len(lines) {
		return exchange{}, fmt.Errorf("%q was not recorded: the recording is over", argv)
	}
	var x exchange
	if err := json.Unmarshal([]byte(lines[n]), &x); err != nil {
		return exchange{}, err
	}
	if !slices.Equal(canonical(x.Argv), canonical(argv)) {
		return exchange{}, fmt.Errorf("%q, recorded was %q", argv, x.Argv)
	}
	_, err = count.WriteAt([]byte(fmt.Sprintf("%d\n", n+1)), 0)
	return x, err
}

// canonical sorts the -o options: go-zfs takes them from a map.
func canonical(argv []string) []string {
	var options, rest []string
	for i := 0; i < len(argv); i++ {
		if argv[i] == "-o" && i+1 < len(argv) && argv[1] == "create" {
			i++
			options = append(options, argv[i])
		} else {
			rest = append(rest, argv[i])
		}
	}
	slices.Sort(options)
	return append(rest, options...)
}

// bench is what a test of the table has: a client, and a dataset of its own.
type bench struct {
	*testing.T
	*zfs.Client
	root string // "tank/TestName"
	real bool
}

// newBench makes the client of one test: on the real pool, in a dataset of its own, or with the fake and the test's recording.
// Nothing of it may run in parallel: the environment is the process's.
func newBench(t *testing.T, cfg zfs.Config) *bench {
	t.Helper()
	dir := t.TempDir()
	name := strings.ReplaceAll(t.Name(), "/", "-")
	b := &bench{T: t, root: "tank/" + name, real: *realPool != ""}
	recording := filepath.Join("testdata", name+".jsonl")
	if b.real {
		b.root = *realPool + "/" + name
		b.sh("zfs create " + b.root)
		t.Cleanup(func() { b.sh("zfs destroy -r " + b.root) })
	}
	if *record != "" {
		recording = filepath.Join(*record, name+".jsonl")
		os.Remove(recording)
		path, err := exec.LookPath("zfs")
		must(t, err)
		t.Setenv(envReal, filepath.Dir(path))
	}
	recording, err := filepath.Abs(recording)
	must(t, err)
	t.Setenv(envRecording, recording)
	t.Setenv("ZFS_TEST_POSITION", filepath.Join(dir, "position"))
	if !b.real || *record != "" {
		installFake(t, dir)
		if !b.real {
			t.Cleanup(func() { b.finished(recording) })
		}
	}
	b.Client, err = zfs.New(cfg)
	must(t, err)
	return b
}

// finished wants the whole recording to have been used: a test that asks less than it did must be recorded anew.
func (b *bench) finished(recording string) {
	if b.Failed() {
		return
	}
	all, err := os.ReadFile(recording)
	if err != nil {
		b.Error(err)
		return
	}
	position, _ := os.ReadFile(os.Getenv("ZFS_TEST_POSITION"))
	if got, want := strings.TrimSpace(string(position)), fmt.Sprint(bytes.Count(all, []byte("\n"))); got != want {
		b.Errorf("%s of %s recorded commands were run", got, want)
	}
}

// installFake puts this program into PATH as zfs and zpool.
func installFake(t *testing.T, dir string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	for _, tool := range []string{"zfs", "zpool"} {
		must(t, os.Symlink(self, filepath.Join(dir, tool)))
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	t.Setenv("GORACE", "atexit_sleep_ms=0") // or each fake sleeps a second when it ends
}

// sh runs a shell command around the client; with the fake it does nothing.
func (b *bench) sh(script string) {
	b.Helper()
	if !b.real {
		return
	}
	cmd := exec.Command("sh", "-ec", script)
	if dir := os.Getenv(envReal); dir != "" {
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"))
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", script, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wants fails the test unless err is kind; nil is no error.
func wants(t testing.TB, what string, err, kind error) {
	t.Helper()
	if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}
