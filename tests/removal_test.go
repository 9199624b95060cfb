package tests

import (
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"

	"vaultd/internal/tenant"
)

// When a removal is due, the tenant's sessions end, its keys are refused, and its chain says so, while the operator still reads
// everything; others do not notice.
func TestRemovalDue(t *testing.T) {
	t.Parallel()
	v, err := newVault(t.TempDir())
	if err == nil {
		err = v.serve()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.stop(); err != nil {
			t.Error(err)
		}
	})
	v.sftp(t, "mkdir d")
	running := v.as("alice", "ssh", "cat > dump")
	stdin, err := running.StdinPipe()
	if err == nil {
		err = running.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(stdin, "half of it")
	for range 600 { // until the session is there
		if strings.Contains(v.must(t, "status"), " 1 sessions") {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := tenant.New(v.dir, tenant.Options{Actor: "olga", Why: "contract ended"}).Remove("alice", time.Nanosecond); err != nil {
		t.Fatal(err)
	}
	v.must(t, "tenant", "set", "bob", "--quota", "5G") // any change has the server read the catalog
	var exit *exec.ExitError
	if err := running.Wait(); !errors.As(err, &exit) {
		t.Errorf("the session ended with %v", err)
	}
	out, err := v.as("alice", "ssh", "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "Permission denied") {
		t.Errorf("a removed tenant's key: %v: %s", err, out)
	}
	if out, err := v.as("bob", "ssh", "true").CombinedOutput(); err != nil || strings.Contains(string(out), "notice") {
		t.Errorf("another tenant: %v: %s", err, out)
	}
	if log := v.must(t, "journal", "export", "alice"); !strings.Contains(log, `"what":"tenant remove in force"`) || !strings.Contains(log, "contract ended") {
		t.Errorf("its chain does not tell of its end:\n%s", log)
	}
	if status := v.must(t, "status"); strings.Contains(status, "alice") || !strings.Contains(status, "serving 1 tenants") {
		t.Errorf("status: %s", status)
	}
	if list := v.must(t, "tenant", "list"); !strings.Contains(list, "lock or holds keep what is left") {
		t.Errorf("list: %s", list)
	}
	v.must(t, "restore", "alice", "d", "--to", t.TempDir()+"/back")
	v.must(t, "journal", "verify", "alice")
}
