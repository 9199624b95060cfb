package zfs

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// server is a store on a dataset, with one tenant "alice", her key and her clients' configuration.
type server struct {
	t    testing.TB
	dir  string // the store
	home string // alice's

	as string // whose process it is; "": root's

	cmd *exec.Cmd
	log *logBuffer
}

// newServer makes a store in dir and adds alice, with tenant add's options. home is where she keeps her key.
func newServer(t testing.TB, dir, home string, options ...string) *server {
	t.Helper()
	s := &server{t: t, dir: dir, home: home}
	must(t, os.MkdirAll(home, 0o700))
	sh(t, "ssh-keygen -q -t ed25519 -N '' -C alice -f %s/key", home)
	s.vaultd("init")
	must(t, os.WriteFile(filepath.Join(dir, "vaultd.toml"), []byte("[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\n"), 0o600))
	s.vaultd(append([]string{"tenant", "add", "alice", "--key", home + "/key.pub"}, options...)...)
	return s
}

// vaultd runs a command of the operator's, which must succeed.
func (s *server) vaultd(args ...string) string {
	s.t.Helper()
	cmd := exec.Command(*vaultd, append(args, "--dir", s.dir)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("vaultd %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

var listening = regexp.MustCompile(`(?m)^vaultd: listening on (\S+)$`)

// serve starts the server, and writes alice's configuration for where it listens.
func (s *server) serve() { s.serveBy() }

// serveBy starts it by another program, which becomes it.
func (s *server) serveBy(by ...string) {
	s.t.Helper()
	s.log = &logBuffer{}
	if s.as != "" {
		by = append(by, "setpriv", "--reuid", s.as, "--regid", s.as, "--clear-groups")
	}
	args := append(by, *vaultd, "serve", "--dir", s.dir, "--listen", "127.0.0.1:0")
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(s.t, s.cmd.Start())
	var addr string
	for end := time.Now().Add(time.Minute); addr == ""; time.Sleep(10 * time.Millisecond) {
		if m := listening.FindStringSubmatch(s.log.String()); m != nil {
			addr = m[1]
		} else if time.Now().After(end) {
			s.cmd.Process.Kill()
			s.t.Fatalf("the server does not listen after a minute:\n%s", s.log)
		}
	}
	host, port, err := net.SplitHostPort(addr)
	must(s.t, err)
	key, err := os.ReadFile(filepath.Join(s.dir, "host_ed25519_key.pub"))
	must(s.t, err)
	s.configure(host, port, key)
}

// configure writes alice's configuration for a server there.
func (s *server) configure(host, port string, key []byte) {
	must(s.t, os.WriteFile(s.home+"/known_hosts", fmt.Appendf(nil, "[%s]:%s %s", host, port, key), 0o600))
	must(s.t, os.WriteFile(s.home+"/ssh.conf", fmt.Appendf(nil, "Host *\n HostName %s\n Port %s\n User alice\n IdentityFile %s/key\n IdentitiesOnly yes\n"+
		" UserKnownHostsFile %[3]s/known_hosts\n GlobalKnownHostsFile none\n StrictHostKeyChecking yes\n BatchMode yes\n", host, port, s.home), 0o600))
}

// stop asks the server to end, and wants it to end well.
func (s *server) stop() {
	s.t.Helper()
	must(s.t, s.cmd.Process.Signal(syscall.SIGTERM))
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("serve: %v\n%s", err, s.log)
	}
	if strings.Contains(s.log.String(), "panic") {
		s.t.Errorf("the server's log has a panic:\n%s", s.log)
	}
}

// rsync is a command of alice's; the server is "vault".
func (s *server) rsync(args ...string) *exec.Cmd {
	return exec.Command("rsync", append([]string{"-e", "ssh -F " + s.home + "/ssh.conf"}, args...)...)
}

// sftp is a batch of alice's, one command per line.
func (s *server) sftp(batch ...string) *exec.Cmd {
	cmd := exec.Command("sftp", "-q", "-F", s.home+"/ssh.conf", "-b", "-", "vault")
	cmd.Stdin = strings.NewReader(strings.Join(batch, "\n") + "\n")
	return cmd
}

func (s *server) restic(args ...string) *exec.Cmd {
	cmd := exec.Command("restic", append([]string{"-o", "sftp.command=ssh -F " + s.home + "/ssh.conf vault -s sftp", "-r", "sftp:vault:/repo"}, args...)...)
	cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=x", "HOME="+s.home)
	return cmd
}

// runs wants a client to succeed.
func runs(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	t.Logf("%.160s", strings.Join(cmd.Args, " ")) // under emulation these take long
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}
