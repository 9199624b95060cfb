package sftpattack_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/attack/sftpattack"
	"vaultd/internal/session"
	"vaultd/internal/shell"
	"vaultd/internal/sshd"
)

// door is an SSH server that lets one key into one tenant.
type door struct {
	n      *tenant
	name   string // the key's, and the user's
	signer ssh.Signer
}

func newSigner(t testing.TB) ssh.Signer {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	s, err := ssh.NewSignerFromKey(private)
	must(t, err)
	return s
}

// open starts the server; it has drained before the tenant's vault is closed.
func (d *door) open() string {
	t := d.n.t
	s, err := sshd.New(sshd.Config{HostKeys: []ssh.Signer{newSigner(t)}, Access: d,
		Subsystems: map[string]session.Handler{"sftp": d.n.server}, Exec: shell.New(shell.Config{})})
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		must(t, <-stopped)
	})
	return l.Addr().String()
}

// Offered follows sshd.Access.
func (d *door) Offered(user string, key ssh.PublicKey, _ netip.Addr) (bool, error) {
	if user != d.name || string(d.signer.PublicKey().Marshal()) != string(key.Marshal()) {
		return false, errors.New("unknown key")
	}
	return false, nil
}

// Verified follows sshd.Access.
func (d *door) Verified(user string, key ssh.PublicKey, remote netip.Addr) (sshd.Login, error) {
	if _, err := d.Offered(user, key, remote); err != nil {
		return sshd.Login{}, err
	}
	return sshd.Login{Tenant: user, Who: appendonly.Who{Key: d.name},
		Open: func(_ context.Context, who appendonly.Who) (*appendonly.FS, func(context.Context) error, error) {
			f := d.n.vault.Session(who)
			return f, f.Close, nil
		}}, nil
}

// sshClient has one SSH connection, and its channels on that.
func (n *tenant) sshClient(key string) *sftpattack.Client {
	d := &door{n: n, name: key, signer: newSigner(n.t)}
	conn, err := ssh.Dial("tcp", d.open(), &ssh.ClientConfig{User: key, Auth: []ssh.AuthMethod{ssh.PublicKeys(d.signer)},
		HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	must(n.t, err)
	n.t.Cleanup(func() { conn.Close() })
	return sftpattack.New(sftpattack.Config{Dial: func() (io.ReadWriteCloser, error) { return sftpattack.Subsystem(conn) }})
}

// The suite as an attacker runs it: through the SSH port.
func TestVaultBySSH(t *testing.T) {
	if testing.Short() {
		t.Skip("TestVault runs the same suite without SSH")
	}
	judge(t, appendonly.Strict, (*tenant).sshClient)
}
