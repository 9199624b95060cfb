package sshd_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

// What the OpenSSH client on this machine sees.
func TestOpenSSH(t *testing.T) {
	env := make(chan []string, 20)
	s := start(t, func(ctx context.Context, s *session.Session) error {
		env <- s.Env
		return echo(ctx, s)
	})
	for _, tt := range []struct {
		name           string
		stdin          string
		args           []string
		stdout, stderr string // stderr: what must be in it
		code           int
	}{
		{name: "exec", args: []string{"127.0.0.1", "hello", "there"}, stdout: "hello there\n"},
		{name: "status", args: []string{"127.0.0.1", "status", "77"}, code: 77},
		{name: "pipe", stdin: strings.Repeat("data", 100_000), args: []string{"127.0.0.1", "cat"}, stdout: strings.Repeat("data", 100_000)},
		{name: "shell", args: []string{"127.0.0.1"}, stdout: "this is the help text\r\n"},
		{name: "shell with a terminal", args: []string{"-tt", "127.0.0.1"}, stdout: "this is the help text\r\n"},
		{name: "exec with a terminal", args: []string{"-tt", "127.0.0.1", "help"}, stdout: "help\r\n"},
		{name: "filter with a terminal", stdin: "typed", args: []string{"-tt", "127.0.0.1", "cat"}},
		{name: "agent", args: []string{"-A", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "x11", args: []string{"-X", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "remote forwarding", args: []string{"-R", "0:127.0.0.1:9", "-oExitOnForwardFailure=yes", "127.0.0.1", "x"}, stderr: "remote port forwarding failed", code: 255},
		{name: "stdio forwarding", args: []string{"-W", "127.0.0.1:22", "127.0.0.1"}, stderr: "stdio forwarding failed", code: 255},
		{name: "environment", args: []string{"-oSetEnv=LC_NAME=x EVIL=y", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "keepalives", args: []string{"-oServerAliveInterval=1", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "sha1 key exchange", args: []string{"-oKexAlgorithms=diffie-hellman-group14-sha1", "127.0.0.1", "x"}, stderr: "no matching key exchange method found", code: 255},
		{name: "chacha only", args: []string{"-oCiphers=chacha20-poly1305@openssh.com", "127.0.0.1", "x"}, stderr: "no matching cipher found", code: 255},
		{name: "cbc only", args: []string{"-oCiphers=aes128-cbc", "127.0.0.1", "x"}, stderr: "no matching cipher found", code: 255},
		{name: "sha1 mac", args: []string{"-oCiphers=aes128-ctr", "-oMACs=hmac-sha1", "127.0.0.1", "x"}, stderr: "no matching MAC found", code: 255},
		{name: "ctr and etm", args: []string{"-oCiphers=aes256-ctr", "-oMACs=hmac-sha2-512-etm@openssh.com", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "compression asked for", args: []string{"-C", "127.0.0.1", "x"}, stdout: "x\n"},
		{name: "password only", args: []string{"-oPubkeyAuthentication=no", "127.0.0.1", "x"}, stderr: "Permission denied (publickey)", code: 255},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("DISPLAY", "127.0.0.1:99")
			stdout, stderr, code := s.ssh(tt.stdin, tt.args...)
			if stdout != tt.stdout || !strings.Contains(stderr, tt.stderr) || code != tt.code {
				t.Errorf("status %d, stdout %.200q, stderr %q; want %d, %.200q, %q", code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
			}
			for len(env) > 0 {
				for _, kv := range <-env {
					if !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG=") {
						t.Errorf("environment %q", kv)
					}
				}
			}
		})
	}
}

// -L opens its port at the client, so the refusal shows when somebody uses it.
func TestOpenSSHLocalForwarding(t *testing.T) {
	secret, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Close()
	reached := make(chan struct{}, 1)
	go func() {
		if nc, err := secret.Accept(); err == nil {
			reached <- struct{}{}
			nc.Close()
		}
	}()
	s := start(t, nil)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	local := free.Addr().String()
	free.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := s.openssh(ctx, "-L", local+":"+secret.Addr().String(), "-oExitOnForwardFailure=yes", "127.0.0.1", "hang")
	var stderr logBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); cmd.Wait() }()
	var nc net.Conn
	eventually(t, "the client to listen", func() bool {
		nc, err = net.Dial("tcp", local)
		return err == nil
	})
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := nc.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d, %v through the tunnel", n, err)
	}
	eventually(t, "the client to say so", func() bool { return strings.Contains(stderr.String(), "open failed: unknown channel type") })
	select {
	case <-reached:
		t.Error("the server connected to the target")
	default:
	}
}

// The banner is seen by strangers, so what matters is that it is what was configured.
func TestBanner(t *testing.T) {
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Banner = "vaultd of Example Ltd" })
	stdout, stderr, code := s.ssh("", "127.0.0.1", "x")
	if stdout != "x\n" || code != 0 || !strings.Contains(stderr, "vaultd of Example Ltd\r\n") {
		t.Errorf("status %d, %q, %q", code, stdout, stderr)
	}
}

// The first choices are taken when the client can do them.
func TestNegotiated(t *testing.T) {
	s := start(t, nil)
	c := s.dial()
	got := c.Conn.(interface {
		Algorithms() gossh.NegotiatedAlgorithms
	}).Algorithms()
	if got.KeyExchange != "mlkem768x25519-sha256" || got.Read.Cipher != "aes128-gcm@openssh.com" || got.HostKey != "ssh-ed25519" {
		t.Errorf("%+v", got)
	}
	if v := string(c.ServerVersion()); v != "SSH-2.0-vaultd" {
		t.Errorf("version %q", v)
	}
	_, stderr, _ := s.ssh("", "-v", "127.0.0.1", "x")
	for _, want := range []string{"kex: algorithm: curve25519-sha256", "server-sig-algs", "rsa-sha2-512"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("ssh -v does not show %s", want)
		}
	}
	// OpenSSH before 10.0 would choose chacha20 or CTR.
	if got := line(stderr, "server->client cipher"); !strings.Contains(got, "aes128-gcm@openssh.com") {
		t.Errorf("OpenSSH's default cipher: %q", got)
	}
	for asked, want := range map[string]string{"aes128-ctr": "aes128-ctr", "aes192-ctr,aes256-gcm@openssh.com": "aes256-gcm@openssh.com"} {
		_, stderr, code := s.ssh("", "-v", "-oCiphers="+asked, "127.0.0.1", "x")
		if got := line(stderr, "server->client cipher"); code != 0 || !strings.Contains(got, want) {
			t.Errorf("asked for %s: status %d, %q", asked, code, got)
		}
	}
	for _, bad := range []string{",ssh-rsa", "=ssh-rsa", "ssh-dss"} {
		if strings.Contains(line(stderr, "server-sig-algs"), bad) {
			t.Errorf("offered: %s", line(stderr, "server-sig-algs"))
		}
	}
}

func line(text, with string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, with) {
			return l
		}
	}
	return ""
}
