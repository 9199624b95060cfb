package sshd_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newKey makes a key of a kind: "ed25519", "ecdsa", "rsa1024", "rsa2048".
func newKey(t testing.TB, kind string) (gossh.Signer, crypto.PrivateKey) {
	t.Helper()
	var priv crypto.PrivateKey
	var err error
	switch kind {
	case "ed25519":
		_, priv, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		priv, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa1024":
		t.Setenv("GODEBUG", "rsa1024min=0")
		priv, err = rsa.GenerateKey(rand.Reader, 1024)
	case "rsa2048":
		priv, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return s, priv
}

// access lets in the keys that it lists. It fails the test when Verified is asked about a pair that it never said yes to.
type access struct {
	t    testing.TB
	keys map[string]map[string]appendonly.Role // user -> fingerprint -> role

	revoked chan struct{}
	login   sshd.Login // NoTouch and Verify of all
	waive   bool       // Offered takes signatures without a touch
	notices func(daily bool) []string
	refuse  error                                                     // of Verified
	open    func(ctx context.Context, who appendonly.Who) error       // first step of Open
	close   func(ctx context.Context) error                           // of the FS
	offered func(user string, key gossh.PublicKey, remote netip.Addr) // sees what Offered sees

	mu     sync.Mutex
	logins []string
	whos   []appendonly.Who
	closed int
}

func (a *access) Offered(user string, key gossh.PublicKey, remote netip.Addr) (bool, error) {
	if a.offered != nil {
		a.offered(user, key, remote)
	}
	if _, ok := a.keys[user][gossh.FingerprintSHA256(key)]; !ok {
		return false, errors.New("unknown")
	}
	return a.waive || a.login.NoTouch, nil
}

func (a *access) Verified(user string, key gossh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	if !remote.IsLoopback() {
		a.t.Errorf("remote address %v, want a loopback address", remote)
	}
	fp := gossh.FingerprintSHA256(key)
	role, ok := a.keys[user][fp]
	if !ok {
		a.t.Errorf("Verified asked about %s %s, which Offered refused", user, fp)
		return sshd.Login{}, errors.New("unknown")
	}
	if a.refuse != nil {
		return sshd.Login{}, a.refuse
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.logins = append(a.logins, user+" "+fp)
	return sshd.Login{
		Tenant:  user,
		Who:     appendonly.Who{Key: "key-of-" + user, Role: role},
		Revoked: a.revoked,
		NoTouch: a.login.NoTouch,
		Verify:  a.login.Verify,
		Notices: a.notices,
		Open: func(ctx context.Context, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
			a.mu.Lock()
			a.whos = append(a.whos, who)
			a.mu.Unlock()
			if a.open != nil {
				if err := a.open(ctx, who); err != nil {
					return nil, nil, err
				}
			}
			return new(appendonly.FS), func(ctx context.Context) error {
				a.mu.Lock()
				a.closed++
				a.mu.Unlock()
				if a.close != nil {
					return a.close(ctx)
				}
				return ctx.Err()
			}, nil
		},
	}, nil
}

// logBuffer keeps JSON lines and shows them with the test.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// lines returns the lines with that message.
func (l *logBuffer) lines(t testing.TB, msg string) []map[string]any {
	t.Helper()
	var out []map[string]any
	for line := range strings.Lines(l.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("log line is not JSON: %q", line)
		}
		if m["msg"] == msg {
			out = append(out, m)
		}
	}
	return out
}

// server is a running server with one tenant "acme", whose key is key.
type server struct {
	*sshd.Server
	t       testing.TB
	addr    string
	host    gossh.Signer
	key     gossh.Signer
	priv    crypto.PrivateKey
	access  *access
	log     *logBuffer
	stop    context.CancelFunc
	stopped chan error
	dir     string
	cfg     sshd.Config
	before  []string // first arguments of ssh
}

// start runs a server until the test ends. change may alter the configuration.
func start(t testing.TB, exec session.HandlerFunc, change ...func(*sshd.Config, *access)) *server {
	t.Helper()
	s := &server{t: t, log: &logBuffer{}, stopped: make(chan error, 1), dir: t.TempDir()}
	s.host, _ = newKey(t, "ed25519")
	s.key, s.priv = newKey(t, "ed25519")
	s.access = &access{t: t, keys: map[string]map[string]appendonly.Role{
		"acme": {gossh.FingerprintSHA256(s.key.PublicKey()): appendonly.Push}}}
	if exec == nil {
		exec = echo
	}
	cfg := sshd.Config{HostKeys: []gossh.Signer{s.host}, Access: s.access, Exec: exec,
		Subsystems: map[string]session.Handler{"sftp": exec},
		Log:        slog.New(slog.NewJSONHandler(s.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	for _, f := range change {
		f(&cfg, s.access)
	}
	s.cfg = cfg
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.serve(l)
	return s
}

// again is a second server with the same configuration, on another listener.
func (s *server) again(l net.Listener) *server {
	s.t.Helper()
	o := &server{t: s.t, log: s.log, stopped: make(chan error, 1), dir: s.dir,
		host: s.host, key: s.key, priv: s.priv, access: s.access, cfg: s.cfg}
	o.serve(l)
	return o
}

func (s *server) serve(l net.Listener) {
	t := s.t
	t.Helper()
	var err error
	if s.Server, err = sshd.New(s.cfg); err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	go func() { s.stopped <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-s.stopped:
		case <-time.After(30 * time.Second):
			t.Error("the server did not stop")
		}
		if t.Failed() {
			t.Logf("server log:\n%s", s.log)
		}
	})
}

// wait returns what Serve returned; it can be called once before the end of the test.
func (s *server) wait() error {
	err := <-s.stopped
	s.stopped <- err
	return err
}

// echo is a handler: "status N" ends with N, "cat" copies, "" helps, others print the command.
func echo(ctx context.Context, s *session.Session) error {
	var n int
	switch {
	case s.Command == "":
		io.WriteString(s.Stdout, "this is the help text\r\n")
		return nil
	case s.Command == "cat":
		_, err := io.Copy(s.Stdout, s.Stdin)
		return err
	case s.Command == "hang":
		<-ctx.Done()
		return nil
	}
	if _, err := fmt.Sscanf(s.Command, "status %d", &n); err == nil {
		return &session.ExitError{Code: n}
	}
	fmt.Fprintln(s.Stdout, s.Command)
	return nil
}

// clientConfig logs in as user with signers.
func (s *server) clientConfig(user string, signers ...gossh.Signer) *gossh.ClientConfig {
	return &gossh.ClientConfig{User: user, HostKeyCallback: gossh.FixedHostKey(s.host.PublicKey()),
		Auth: []gossh.AuthMethod{gossh.PublicKeys(signers...)}, Timeout: 10 * time.Second}
}

// dial logs in as acme.
func (s *server) dial() *gossh.Client {
	s.t.Helper()
	c, err := gossh.Dial("tcp", s.addr, s.clientConfig("acme", s.key))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// run runs a command as acme and returns stdout, stderr and the exit status.
func run(t testing.TB, c *gossh.Client, command, stdin string) (string, string, int) {
	t.Helper()
	ses, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer ses.Close()
	var out, errOut bytes.Buffer
	ses.Stdout, ses.Stderr, ses.Stdin = &out, &errOut, strings.NewReader(stdin)
	err = ses.Run(command)
	var exit *gossh.ExitError
	switch {
	case err == nil:
		return out.String(), errOut.String(), 0
	case errors.As(err, &exit):
		return out.String(), errOut.String(), exit.ExitStatus()
	}
	t.Fatalf("run %q: %v (stderr %q)", command, err, errOut.String())
	return "", "", 0
}

// openssh returns the command line of the real client, logging in as acme.
func (s *server) openssh(ctx context.Context, args ...string) *exec.Cmd {
	s.t.Helper()
	bin, err := exec.LookPath("ssh")
	if err != nil {
		s.t.Fatal("the OpenSSH client is needed: ", err)
	}
	block, err := gossh.MarshalPrivateKey(s.priv, "")
	if err != nil {
		s.t.Fatal(err)
	}
	key, known := filepath.Join(s.dir, "id"), filepath.Join(s.dir, "known_hosts")
	host, port, _ := net.SplitHostPort(s.addr)
	line := fmt.Sprintf("[%s]:%s %s", host, port, gossh.MarshalAuthorizedKey(s.host.PublicKey()))
	if err := errors.Join(os.WriteFile(key, pem.EncodeToMemory(block), 0o600), os.WriteFile(known, []byte(line), 0o600)); err != nil {
		s.t.Fatal(err)
	}
	base := []string{"-F", "none", "-i", key, "-p", port, "-l", "acme", "-oIdentitiesOnly=yes", "-oBatchMode=yes",
		"-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=" + known, "-oGlobalKnownHostsFile=/dev/null"}
	return exec.CommandContext(ctx, bin, slices.Concat(s.before, base, args)...)
}

// ssh runs the real client to its end.
func (s *server) ssh(stdin string, args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := s.openssh(ctx, args...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if ctx.Err() != nil {
		s.t.Fatalf("ssh %v did not end: %s", args, errOut.String())
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not seen within 10 s: %s", what)
}
