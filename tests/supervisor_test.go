package tests

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// gone waits until a process has ended.
func gone(t testing.TB, pid int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(b), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there: %s", pid, b)
		}
	}
}

// A server that is killed is started again, and whoever comes meanwhile waits. Nothing outlives a supervisor that is killed.
func TestSupervisor(t *testing.T) {
	t.Parallel()
	v, _ := sealedVault(t)
	server, expire := v.children(t)
	for range 3 {
		must(t, syscall.Kill(server, syscall.SIGKILL))
		if out, err := v.as("alice", "sftp", "ls").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("kept")) {
			t.Fatalf("while the server is started again: %v\n%s", err, out)
		}
		last := server
		if server, _ = v.children(t); server == last {
			t.Fatal("it is the same process")
		}
	}
	must(t, v.cmd.Process.Signal(syscall.SIGHUP)) // is the server's business
	must(t, syscall.Kill(expire, syscall.SIGKILL))
	gone(t, expire)
	if out, err := v.as("alice", "sftp", "ls").CombinedOutput(); err != nil {
		t.Fatalf("without expire: %v\n%s", err, out)
	}
	if now, _ := v.children(t); now != server { // waits for expire, which is started again after 10 s
		t.Error("the server went with expire")
	}
	if !strings.Contains(v.log.String(), "the server ended and is started again") {
		t.Errorf("nothing was said about it:\n%s", v.log)
	}
	// One that can not start again does once it can, and the pauses in between grow.
	toml := filepath.Join(v.dir, "vaultd.toml")
	good, err := os.ReadFile(toml)
	must(t, err)
	must(t, os.WriteFile(toml, []byte("nonsense = 1\n"), 0o600))
	must(t, syscall.Kill(server, syscall.SIGKILL))
	for deadline := time.Now().Add(60 * time.Second); strings.Count(v.log.String(), "nonsense = 1") < 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it is not tried again:\n%s", v.log)
		}
	}
	must(t, os.WriteFile(toml, good, 0o600))
	if out, err := v.as("alice", "sftp", "ls").CombinedOutput(); err != nil {
		t.Fatalf("after the mistake was mended: %v\n%s", err, out)
	}
	if !strings.Contains(v.log.String(), `"in":"200ms"`) {
		t.Errorf("it did not wait longer:\n%s", v.log)
	}
	server, _ = v.children(t)
	// A server that is asked to end, and not by its supervisor, drains and is followed by another one.
	must(t, syscall.Kill(server, syscall.SIGTERM))
	gone(t, server)
	last := server
	if server, expire = v.children(t); server == last {
		t.Fatal("it is the same process")
	}
	must(t, v.kill())
	gone(t, server)
	gone(t, expire)
	must(t, v.serve())
	v.audit(t)
}

// A service manager passes the socket, hears READY, the watchdog's signs of life and STOPPING from the supervisor, and may signal all processes at once.
func TestServiceManager(t *testing.T) {
	t.Parallel()
	v, err := newVault(t.TempDir(), "--mode", "strict")
	must(t, err)
	sock := filepath.Join(v.root, "notify")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: sock})
	must(t, err)
	defer notify.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f, err := l.(*net.TCPListener).File()
	must(t, err)
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" serve --dir "$1"`, os.Getenv(vaultdBin), v.dir)
	cmd.Stderr, cmd.ExtraFiles = v.log, []*os.File{f}
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+sock, "WATCHDOG_USEC=600000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	v.cmd, v.exited = cmd, make(chan error, 1)
	go func() { v.exited <- cmd.Wait() }()
	defer func() { must(t, v.kill()) }()
	f.Close()
	l.Close() // from here on it is the supervisor's
	hears := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		notify.SetReadDeadline(time.Now().Add(60 * time.Second))
		for {
			n, err := notify.Read(b)
			if err != nil {
				t.Fatalf("wait for %s: %v\n%s", want, err, v.log)
			}
			if string(b[:n]) == want {
				return
			}
		}
	}
	hears("READY=1")
	hears("WATCHDOG=1")
	v.addr = l.Addr().String()
	v.dial(t, "alice", "alice").Close()
	server, expire := v.children(t)
	for _, pid := range []int{server, expire, cmd.Process.Pid} { // as KillMode=control-group does
		must(t, syscall.Kill(pid, syscall.SIGTERM))
	}
	hears("STOPPING=1")
	if err := <-v.exited; err != nil {
		t.Errorf("it ended with %v\n%s", err, v.log)
	}
	v.cmd = nil
	if !strings.Contains(v.log.String(), "draining") {
		t.Errorf("it did not drain:\n%s", v.log)
	}
}
