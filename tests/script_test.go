package tests

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScript runs testdata/*.txtar. Beside testscript's own commands there are
//
//	alice|mallory|bob|pusher|puller CLIENT ARGS   a client as somebody (asIdentity)
//	vaultd ARGS                                   the operator, on this script's store
//	vault OPTIONS                                 makes the store, with tenant add's options, and serves it
//	serve, halt, kill9                            the server; ADDR, PORT and SERVER are its address and process
//	exits N COMMAND ARGS                          runs a command that must end with N
//	instant NAME                                  sets NAME to a time between what was and what comes
//	random FILE BYTES SEED                        makes a file
//	same A B                                      compares two files or trees: names, bytes, kinds
//	golden FILE                                   compares the last standard output, without what is different each time
//	log TEXT                                      waits until the server has logged TEXT
//	unmount DIR                                   ends an sshfs
func TestScript(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		Setup:              setupScript,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"vault": cmdVault, "serve": cmdServe, "halt": cmdHalt, "kill9": cmdKill, "exits": cmdExits, "instant": cmdInstant,
			"random": cmdRandom, "same": cmdSame, "log": cmdLog, "golden": cmdGolden, "unmount": cmdUnmount,
		},
	})
}

type vaultKey struct{}

func setupScript(e *testscript.Env) error {
	e.Vars = append(e.Vars, vaultdBin+"="+os.Getenv(vaultdBin), idsDir+"="+filepath.Join(e.WorkDir, "ids"),
		"VAULTD_DIR="+filepath.Join(e.WorkDir, "vault"), "KEYS="+filepath.Join(e.WorkDir, "ids"), "TZ=UTC", "LC_ALL=C.UTF-8", "NO_COLOR=1")
	e.Defer(func() { unmountBelow(e.WorkDir) })
	holder := new(*vault)
	e.Values[vaultKey{}] = holder
	return nil
}

// of returns the script's vault.
func of(ts *testscript.TestScript) *vault {
	v := *ts.Value(vaultKey{}).(**vault)
	if v == nil {
		ts.Fatalf("there is no vault yet")
	}
	return v
}

func cmdVault(ts *testscript.TestScript, neg bool, args []string) {
	v, err := newVault(ts.Getenv("WORK"), args...)
	ts.Check(err)
	*ts.Value(vaultKey{}).(**vault) = v
	ts.Defer(func() {
		if err := v.stop(); err != nil {
			ts.Logf("%v", err)
			ts.Fatalf("the server did not end well")
		}
	})
	cmdServe(ts, neg, nil)
}

func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	v := of(ts)
	ts.Check(v.serve(args...))
	_, port, _ := strings.Cut(v.addr, ":")
	ts.Setenv("ADDR", v.addr)
	ts.Setenv("PORT", port)
	ts.Setenv("SERVER", strconv.Itoa(v.cmd.Process.Pid))
}

func cmdHalt(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(of(ts).stop()) }

func cmdKill(ts *testscript.TestScript, _ bool, _ []string) { ts.Check(of(ts).kill()) }

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND ARGS")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit status %d, want %d", code, want)
	}
}

// cmdInstant waits until a whole second lies between what was done and what will be done: views have
// that resolution.
func cmdInstant(ts *testscript.TestScript, _ bool, args []string) {
	at := time.Now().Truncate(time.Second).Add(time.Second)
	time.Sleep(time.Until(at.Add(20 * time.Millisecond)))
	ts.Setenv(args[0], at.UTC().Format(time.RFC3339))
}

func cmdRandom(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	name := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(name), 0o777))
	ts.Check(os.WriteFile(name, noise(args[2], n), 0o644))
}

func cmdSame(ts *testscript.TestScript, neg bool, args []string) {
	out, err := exec.Command("diff", "-r", "--no-dereference", ts.MkAbs(args[0]), ts.MkAbs(args[1])).CombinedOutput()
	if (err != nil) != neg {
		ts.Fatalf("compare %s and %s: %v\n%.4000s", args[0], args[1], err, out)
	}
}

func cmdLog(ts *testscript.TestScript, _ bool, args []string) {
	v := of(ts)
	for deadline := time.Now().Add(15 * time.Second); !strings.Contains(v.log.String(), args[0]); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("the server did not log %q:\n%s", args[0], v.log)
		}
	}
}

func cmdUnmount(ts *testscript.TestScript, _ bool, args []string) {
	out, err := exec.Command("fusermount3", "-u", ts.MkAbs(args[0])).CombinedOutput()
	if err != nil {
		ts.Fatalf("unmount: %v: %s", err, out)
	}
	// sshfs ends on its own once the mount is gone; its session does too.
	if err := waitUnmounted(ts.MkAbs(args[0])); err != nil {
		ts.Fatalf("%v", err)
	}
}

// unmountBelow ends what a script that failed left mounted.
func unmountBelow(dir string) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			exec.Command("fusermount3", "-u", "-z", f[1]).Run()
		}
	}
}

func waitUnmounted(dir string) error {
	for range 200 {
		b, err := os.ReadFile("/proc/self/mounts")
		if err != nil || !strings.Contains(string(b), " "+dir+" ") {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s is still mounted", dir)
}
