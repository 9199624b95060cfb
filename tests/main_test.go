package tests

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// full asks for the long runs: tests/run --full.
var full = flag.Bool("full", false, "run everything as often as before a release: 200 crashes instead of 20")

// vaultdBin is the program under test. The scripts' own processes find it in the environment.
const vaultdBin = "E2E_VAULTD"

// tools are the programs that the tests need, with what tells their version.
var tools = [][]string{
	{"ssh", "-V"}, {"sftp"}, {"scp"}, {"ssh-keygen"}, {"rclone", "version"}, {"restic", "version"}, {"sshfs", "--version"}, {"fusermount3", "--version"},
	{"lftp", "--version"}, {"duplicity", "--version"}, {"/usr/bin/python3", "-c", "import paramiko; print('paramiko', paramiko.__version__)"},
	{"curl", "--version"}, {"gcc", "--version"}, {"prometheus", "--version"}, {"prometheus-alertmanager", "--version"}, {"go", "version"},
}

func TestMain(m *testing.M) {
	if dir := os.Getenv(freeIn); dir != "" {
		os.Exit(free(dir, os.Args[1]))
	}
	commands := map[string]func(){"vaultd": func() { become(os.Getenv(vaultdBin), os.Args[1:]...) }, "slow": slow, "breakoff": breakOff}
	for _, id := range identities {
		commands[id.name] = func() { asIdentity(id, os.Args[1:]) }
	}
	testscript.Main(suite{m}, commands)
}

// suite builds the program once, before the tests.
type suite struct{ *testing.M }

func (s suite) Run() int {
	flag.Parse()
	dir, err := prepare()
	if dir != "" {
		defer os.RemoveAll(dir)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "tests: %v\n", err)
		return 1
	}
	return s.M.Run()
}

// prepare tells the versions of the clients, which must all be there, and builds vaultd.
func prepare() (dir string, err error) {
	var errs error
	for _, t := range tools {
		path, err := exec.LookPath(t[0])
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s is missing: tests/run says what to install", t[0]))
			continue
		}
		if len(t) == 1 {
			continue
		}
		out, err := exec.Command(path, t[1:]...).CombinedOutput()
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w: %s", strings.Join(t, " "), err, out))
		}
		line, _, _ := strings.Cut(string(out), "\n")
		fmt.Printf("%-12s %s\n", filepath.Base(t[0]), line)
	}
	if errs != nil {
		return "", errs
	}
	if dir, err = os.MkdirTemp("", "vaultd-e2e-"); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "vaultd")
	build := []string{"build", "-race", "-o", bin, "vaultd/cmd/vaultd"}
	if os.Getenv("E2E_PLAIN") != "" { // for numbers: see TestLoginFlood
		build = slices.Delete(build, 1, 2)
	}
	out, err := exec.Command("go", build...).CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("build vaultd: %w\n%s", err, out)
	}
	// A program with the race detector sleeps a second when it ends.
	return dir, errors.Join(os.Setenv(vaultdBin, bin), os.Setenv("GORACE", "halt_on_error=1 atexit_sleep_ms=10"))
}
