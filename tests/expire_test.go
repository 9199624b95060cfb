package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/rogpeppe/go-internal/testscript"
)

// older lets expire's own clock, of every tenant that it has seen, show a later time: as if the machine had been up for so long
// since the last run.
func (v *vault) older(d time.Duration) error {
	list, err := filepath.Glob(filepath.Join(v.dir, "expire", "*", "state.db"))
	if err == nil && len(list) == 0 {
		err = errors.New("expire has seen no tenant yet")
	}
	if err != nil {
		return err
	}
	for _, path := range list {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Minute})
		if err != nil {
			return err
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			b := tx.Bucket([]byte("meta"))
			var state map[string]any
			if err := json.Unmarshal(b.Get([]byte("state")), &state); err != nil {
				return err
			}
			clock := state["clock"].(map[string]any)
			clock["Age"] = clock["Age"].(float64) + float64(d)
			text, err := json.Marshal(state)
			if err != nil {
				return err
			}
			return b.Put([]byte("state"), text)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			return err
		}
	}
	return nil
}

func cmdOlder(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	ts.Check(of(ts).older(d))
}

// contents counts what the store holds.
func (v *vault) contents() int {
	list, _ := filepath.Glob(filepath.Join(v.dir, "tenants", "*", "store", "*", "*"))
	return len(list)
}

// churn gives each of n names in a tenant's tree so many contents, one after the other.
func (v *vault) churn(t *testing.T, n, versions int) {
	t.Helper()
	dir := filepath.Join(v.root, "tree")
	must(t, os.MkdirAll(dir, 0o777))
	for version := range versions {
		for i := range n {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), fmt.Appendf(nil, "version %d of %d", version, i), 0o666))
		}
		v.works(t, "alice", "rsync", "-r", "--ignore-times", "tree/", "vault:tree")
	}
	if out, err := v.vaultd("snapshot", "create", "alice"); err != nil { // and all of it is in closed segments
		t.Fatalf("%v\n%s", err, out)
	}
}

// Kill -9 of the expire process, again and again, beside the server: what it had not ended yet the next one does, nothing live
// is touched, and the journal knows of all that is gone.
func TestExpireKill9(t *testing.T) {
	t.Parallel()
	const n, versions = 2500, 4
	v, err := newVault(t.TempDir(), "--mode", "versioned", "--keep", "daily=1", "--lock", "24h")
	must(t, err)
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	v.churn(t, n, versions)
	if out, err := v.vaultd("expire"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, v.older(48*time.Hour))
	before := v.contents()
	killed, partly := 0, 0
	for {
		cmd := exec.Command(os.Getenv(vaultdBin), "expire")
		cmd.Env = append(os.Environ(), v.env()...)
		must(t, cmd.Start())
		timer := time.AfterFunc(time.Duration(60+rand.IntN(100+50*killed))*time.Millisecond, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err == nil {
			break
		}
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("expire: %v", err)
		}
		killed++
		if c := v.contents(); c < before && c > n {
			partly++
		}
	}
	if killed < 3 {
		t.Errorf("killed %d times: too little to show anything", killed)
	}
	t.Logf("killed %d times, %d of them halfway", killed, partly)
	if have := v.contents(); have != n {
		t.Errorf("%d contents are left of %d, want %d", have, before, n)
	}
	for _, args := range [][]string{{"journal", "verify"}, {"verify", "alice"}} {
		if out, err := v.vaultd(args...); err != nil {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	out, err := v.vaultd("expire", "alice", "--dry-run")
	if err != nil || !strings.Contains(out, "would free 0 contents") {
		t.Errorf("afterwards: %v\n%s", err, out)
	}
	v.works(t, "alice", "rsync", "-r", "vault:tree/", "back")
	if out, err := exec.Command("diff", "-r", filepath.Join(v.root, "tree"), filepath.Join(v.root, "back")).CombinedOutput(); err != nil {
		t.Errorf("%v\n%.2000s", err, out)
	}
	must(t, v.stop())
	v.audit(t)
}

// A disk without a byte left: expire says so and frees nothing that it could not write down before; with a little room again it
// frees, which is how a full disk gets its room back.
func TestExpireDiskFull(t *testing.T) {
	t.Parallel()
	v, err := newVault(smallDisk(t, "64M"), "--mode", "versioned", "--keep", "daily=1", "--lock", "24h")
	must(t, err)
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	disk := v.root
	v.root = t.TempDir()
	v.churn(t, 300, 3)
	if out, err := v.vaultd("expire"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	must(t, v.older(48*time.Hour))
	before := v.contents()
	hog := filepath.Join(disk, "hog")
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+hog, "bs=4k").CombinedOutput(); err == nil {
		t.Fatalf("the disk is not full\n%s", out)
	}
	out, err := v.vaultd("expire", "alice")
	if err == nil || !strings.Contains(out, "no space left") {
		t.Errorf("on a full disk: %v\n%s", err, out)
	}
	if have := v.contents(); have != before {
		t.Errorf("%d contents went that nothing was written of", before-have)
	}
	must(t, os.Remove(hog))
	out, err = v.vaultd("expire", "alice")
	if err != nil || !strings.Contains(out, "freed 600 contents") {
		t.Errorf("with room again: %v\n%s", err, out)
	}
	if out, err := v.vaultd("verify", "alice"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	must(t, v.stop())
	v.audit(t)
}
