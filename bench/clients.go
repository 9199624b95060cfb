package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Both servers get the same algorithms, whatever they would prefer. The key exchange is one that
// both have: OpenSSH 9.2's own default is dearer for it, so fixing it is not in vaultd's favour.
const (
	cipher = "aes128-gcm@openssh.com"
	kex    = "curve25519-sha256"
)

// clientMax bounds every client command.
const clientMax = 15 * time.Minute

// key is an SSH key pair; file is the private half, file.pub the public one.
type key struct {
	file   string
	public string // a line of authorized_keys
	signer ssh.Signer
}

// newKey makes an ed25519 key pair in file and file.pub.
func newKey(file string) (key, error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, err
	}
	block, err := ssh.MarshalPrivateKey(priv, "bench")
	if err != nil {
		return key{}, err
	}
	sshPub, err := ssh.NewPublicKey(pub)
	if err != nil {
		return key{}, err
	}
	signer, err := ssh.NewSignerFromKey(priv)
	if err != nil {
		return key{}, err
	}
	k := key{file: file, public: string(ssh.MarshalAuthorizedKey(sshPub)), signer: signer}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		return key{}, fmt.Errorf("write key: %w", err)
	}
	if err := os.WriteFile(file+".pub", []byte(k.public), 0o644); err != nil {
		return key{}, fmt.Errorf("write key: %w", err)
	}
	return k, nil
}

// sshOptions are the options of ssh and sftp: no user configuration, throw-away known_hosts.
func (t target) sshOptions() []string {
	o := []string{"-F", "/dev/null"}
	for _, s := range []string{
		"StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "GlobalKnownHostsFile=/dev/null",
		"LogLevel=ERROR", "BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "ControlPath=none",
		"Compression=no", "Ciphers=" + cipher, "KexAlgorithms=" + kex,
		"IdentityFile=" + t.key.file, fmt.Sprintf("Port=%d", t.port),
	} {
		o = append(o, "-o", s)
	}
	return o
}

// sftp runs a batch with OpenSSH's client and returns its standard output. The client waits for
// ssh, and ssh for the end of the session.
func (t target) sftp(ctx context.Context, batch string) ([]byte, error) {
	args := append(t.sshOptions(), "-b", "-", t.user+"@127.0.0.1")
	return runClient(ctx, nil, strings.NewReader(batch), "sftp", args...)
}

// rclone copies src to the remote folder dst with 8 transfers. conf is a file it may write, more are
// lines of configuration.
func (t target) rclone(ctx context.Context, conf, more, src, dst string) error {
	text := fmt.Sprintf("[bench]\ntype = sftp\nhost = 127.0.0.1\nport = %d\nuser = %s\nkey_file = %s\n%s",
		t.port, t.user, t.key.file, more)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return err
	}
	_, err := runClient(ctx, nil, nil, "rclone", "--config", conf, "--ask-password=false", "--retries", "1",
		"--transfers", "8", "copy", src, "bench:"+dst)
	return err
}

// restic makes a repository at path and backs up src; cache is a folder of its own for this run.
func (t target) restic(ctx context.Context, cache, path string, src ...string) error {
	command := "ssh " + strings.Join(t.sshOptions(), " ") + " " + t.user + "@127.0.0.1 -s sftp"
	env := []string{"RESTIC_PASSWORD=bench", "HOME=" + cache}
	args := []string{"--cache-dir", filepath.Join(cache, "cache"), "-o", "sftp.command=" + command,
		"-r", "sftp:" + t.user + "@127.0.0.1:" + path}
	if _, err := runClient(ctx, env, nil, "restic", append(args, "init")...); err != nil {
		return err
	}
	_, err := runClient(ctx, env, nil, "restic", append(append(args, "backup"), src...)...)
	return err
}

// rsync runs rsync with -a and args over ssh; an argument that begins with a colon is a path on the server.
func (t target) rsync(ctx context.Context, args ...string) ([]byte, error) {
	all := []string{"-a", "-e", "ssh " + strings.Join(t.sshOptions(), " ")}
	for _, a := range args {
		if strings.HasPrefix(a, ":") {
			a = t.user + "@127.0.0.1" + a
		}
		all = append(all, a)
	}
	return runClient(ctx, nil, nil, "rsync", all...)
}

// runClient runs a client within clientMax and returns what it printed.
func runClient(ctx context.Context, env []string, stdin *strings.Reader, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, clientMax, fmt.Errorf("longer than %v", clientMax))
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	// Settings of the caller (RCLONE_*, RESTIC_*, an agent) must not reach the clients.
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TMPDIR=" + os.TempDir()}, env...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = 10 * time.Second
	if stdin != nil {
		cmd.Stdin = stdin
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("run %s: %w: %s", name, err, tail(errs.Bytes()))
	}
	return out.Bytes(), nil
}

// dial makes a connection with the library's client.
func (t target) dial() (*ssh.Client, error) {
	c, err := ssh.Dial("tcp", t.addr, &ssh.ClientConfig{
		Config:            ssh.Config{Ciphers: []string{cipher}, KeyExchanges: []string{kex}},
		User:              t.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(t.key.signer)},
		HostKeyCallback:   ssh.InsecureIgnoreHostKey(), // a server of our own, made a moment ago, on 127.0.0.1
		HostKeyAlgorithms: []string{ssh.KeyAlgoED25519},
		Timeout:           30 * time.Second,
	})
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", net.JoinHostPort(t.user, t.addr), err)
	}
	return c, nil
}
