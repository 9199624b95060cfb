package tenant_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"vaultd/internal/tenant"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func openState(t *testing.T, dir string, every time.Duration) *tenant.State {
	t.Helper()
	s, err := tenant.OpenState(dir, tenant.StateOptions{Every: every})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	s.Used("t-a", "k1", epoch, "192.0.2.1:5")
	s.Used("t-a", "k2", epoch.Add(time.Minute), "192.0.2.2:5")
	s.Used("t-b", "k3", epoch, "192.0.2.3:5")
	s.Used("t-a", "k1", epoch.Add(-time.Hour), "192.0.2.9:9") // an older login that was slower here
	check := func(s *tenant.State) {
		t.Helper()
		used := s.LastUsed()
		if len(used) != 3 || used["k1"].Remote != "192.0.2.1:5" || !used["k2"].Time.Equal(epoch.Add(time.Minute)) {
			t.Errorf("last used %v", used)
		}
		if last := s.LastLogins(); len(last) != 2 || last["t-a"].Remote != "192.0.2.2:5" {
			t.Errorf("last logins %v", last)
		}
	}
	check(s)
	// One owner: a second server does not open it.
	if _, err := tenant.OpenState(dir, tenant.StateOptions{Wait: 100 * time.Millisecond}); !errors.Is(err, tenant.ErrBusy) {
		t.Errorf("second open: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	s.Used("t-b", "late", epoch, "")
	if info, err := os.Stat(filepath.Join(dir, tenant.StateName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	check(openState(t, dir, time.Hour))
}

// What is due is written without Close: a crash (here: a copy of the file) keeps it.
func TestStateFlushes(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, 10*time.Millisecond)
	s.Used("t-a", "k1", epoch, "")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(filepath.Join(dir, tenant.StateName))
		if err != nil {
			t.Fatal(err)
		}
		crashed := t.TempDir()
		if err := os.WriteFile(filepath.Join(crashed, tenant.StateName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if len(openState(t, crashed, time.Hour).LastUsed()) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("never written")
		}
	}
}

// A write that fails is due again.
func TestStateRetries(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	s.Used("t-a", "k1", epoch, "")
	s.Used("t-a", "", epoch, "") // bbolt refuses an empty key, and with it the batch
	for range 2 {
		if err := s.Flush(); err == nil {
			t.Error("flush with a bad key: no error")
		}
	}
	if n := len(s.LastUsed()); n != 2 {
		t.Errorf("%d uses", n)
	}
}

func TestStateRefuses(t *testing.T) {
	for _, version := range []string{"2", "x"} {
		dir := t.TempDir()
		if err := openState(t, dir, time.Hour).Close(); err != nil {
			t.Fatal(err)
		}
		raw(t, dir, tenant.StateName, func(tx *bbolt.Tx) error {
			return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte(version))
		})
		for range 2 { // twice: the first refusal let go of the lock
			if _, err := tenant.OpenState(dir, tenant.StateOptions{Wait: 100 * time.Millisecond}); !errors.Is(err, tenant.ErrFormat) {
				t.Errorf("format %s: %v", version, err)
			}
		}
	}
}

func TestStateConcurrent(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Millisecond)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 200 {
				s.Used("t-a", fmt.Sprint("k", g), epoch.Add(time.Duration(i)), "")
				s.LastUsed()
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for k, u := range openState(t, dir, time.Hour).LastUsed() {
		if !u.Time.Equal(epoch.Add(199)) {
			t.Errorf("%s: %v", k, u)
		}
	}
}
