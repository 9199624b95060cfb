package tests

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// vault is a store with alice and bob in it, everybody's keys and clients' configurations, and the
// process that serves it.
type vault struct {
	root string // holds everything
	dir  string // the store
	ids  string
	// server is the program that serves; "": the one under test.
	server string
	user   *syscall.Credential // that serves; nil: whoever runs the tests
	addr   string              // of the last start; the next one takes it again

	cmd    *exec.Cmd // nil: not running
	exited chan error
	log    *logBuffer // of all starts
}

// config suits small disks, and makes crashes lose as little as a test wants to wait for.
const config = "[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\n"

// newVault makes everything below root and starts nothing. options are tenant add's, for both tenants.
func newVault(root string, options ...string) (*vault, error) {
	v := &vault{root: root, dir: filepath.Join(root, "vault"), ids: filepath.Join(root, "ids"), addr: "127.0.0.1:0", log: &logBuffer{}}
	if err := makeIDs(v.ids); err != nil {
		return nil, err
	}
	if _, err := v.vaultd("init"); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	for _, who := range []string{"alice", "bob"} {
		args := append([]string{"tenant", "add", who, "--key", v.key(who)}, options...)
		if _, err := v.vaultd(args...); err != nil {
			return nil, err
		}
	}
	_, err := v.vaultd("key", "add", "alice", "--key", v.key("mallory"))
	return v, err
}

func (v *vault) key(who string) string { return filepath.Join(v.ids, who, "key.pub") }

// vaultd runs a command of the operator's.
func (v *vault) vaultd(args ...string) (string, error) {
	cmd := exec.Command(os.Getenv(vaultdBin), append(args, "--dir", v.dir)...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("vaultd %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.String(), nil
}

// as prepares a client for somebody; see asIdentity.
func (v *vault) as(who string, args ...string) *exec.Cmd {
	cmd := exec.Command(who, args...)
	cmd.Env = append(append(os.Environ(), v.env()...), "TMPDIR="+v.root)
	cmd.Dir = v.root
	return cmd
}

// env is what processes need to find this vault.
func (v *vault) env() []string { return []string{idsDir + "=" + v.ids, "VAULTD_DIR=" + v.dir} }

// logBuffer takes a server's stderr and knows when it listens.
type logBuffer struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	from int // where the present start's part begins
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) begin() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.from = b.buf.Len()
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()[b.from:]
}

var listening = regexp.MustCompile(`(?m)^vaultd: listening on (\S+)$`)

// serve starts the server and returns when it listens.
func (v *vault) serve(args ...string) error {
	if v.cmd != nil {
		return errors.New("the server is running already")
	}
	v.log.begin()
	cmd := exec.Command(cmp.Or(v.server, os.Getenv(vaultdBin)), append([]string{"serve", "--dir", v.dir, "--listen", v.addr, "--metrics-listen", ""}, args...)...)
	cmd.Stderr = v.log
	// A test that is killed takes its server with it; the server is no part of the terminal's group.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, Credential: v.user}
	if err := cmd.Start(); err != nil {
		return err
	}
	v.cmd, v.exited = cmd, make(chan error, 1)
	go func() { v.exited <- cmd.Wait() }()
	deadline := time.After(60 * time.Second)
	for {
		if m := listening.FindStringSubmatch(v.log.String()); m != nil {
			v.addr = m[1]
			break
		}
		select {
		case err := <-v.exited:
			v.cmd = nil
			return fmt.Errorf("serve ended: %v\n%s", err, v.log)
		case <-deadline:
			return errors.Join(fmt.Errorf("serve does not listen after a minute\n%s", v.log), v.kill())
		case <-time.After(5 * time.Millisecond):
		}
	}
	hostKey, err := os.ReadFile(filepath.Join(v.dir, "host_ed25519_key.pub"))
	if err != nil {
		return err
	}
	return configure(v.ids, v.addr, hostKey)
}

// stop asks the server to end, and wants it to end well.
func (v *vault) stop() error {
	if v.cmd == nil {
		return nil
	}
	v.cmd.Process.Signal(syscall.SIGTERM)
	var err error
	select {
	case err = <-v.exited:
	case <-time.After(60 * time.Second):
		v.cmd.Process.Signal(syscall.SIGQUIT) // shows where it hangs
		err = errors.Join(errors.New("it did not end within a minute"), <-v.exited)
	}
	v.cmd = nil
	if err != nil {
		return fmt.Errorf("stop server: %w\n%s", err, v.log)
	}
	return errors.Join(v.log.check(), os.WriteFile(filepath.Join(v.root, "server.log"), []byte(v.log.String()), 0o600))
}

// check finds what a server must never say.
func (b *logBuffer) check() error {
	text := b.String()
	for _, bad := range []string{"DATA RACE", "panic:", `"msg":"panic`} {
		if strings.Contains(text, bad) {
			return fmt.Errorf("the server's log has %q:\n%s", bad, text)
		}
	}
	return nil
}

// kill ends the server as a power cut for the process would.
func (v *vault) kill() error {
	if v.cmd == nil {
		return nil
	}
	v.cmd.Process.Kill()
	<-v.exited
	v.cmd = nil
	return v.log.check()
}
