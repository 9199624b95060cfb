package tests

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/attack"
	"vaultd/internal/attack/scpattack"
	"vaultd/internal/attack/sftpattack"
)

// must ends the test on an error.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// startVault makes a vault and serves it until the test ends.
func startVault(t testing.TB, options ...string) *vault {
	t.Helper()
	v, err := newVault(t.TempDir(), options...)
	must(t, err)
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	return v
}

// dial logs in with somebody's key.
func (v *vault) dial(t testing.TB, key, user string) *ssh.Client {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(v.ids, key, "key"))
	must(t, err)
	signer, err := ssh.ParsePrivateKey(b)
	must(t, err)
	b, err = os.ReadFile(filepath.Join(v.dir, "host_ed25519_key.pub"))
	must(t, err)
	host, _, _, _, err := ssh.ParseAuthorizedKey(b)
	must(t, err)
	c, err := ssh.Dial("tcp", v.addr, &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.FixedHostKey(host)})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// raw speaks SFTP packet by packet.
func (v *vault) raw(t testing.TB, key, user string) *sftpattack.Client {
	t.Helper()
	conn := v.dial(t, key, user)
	c := sftpattack.New(sftpattack.Config{Dial: func() (io.ReadWriteCloser, error) { return sftpattack.Subsystem(conn) }})
	t.Cleanup(func() { c.Close() })
	return c
}

// The attack suite through scp's old protocol: the thief and the owner's stolen key say what that can say. What it can not is not
// applicable; the count says that enough was.
func TestAttackSuiteSCP(t *testing.T) {
	for _, mode := range []string{"strict", "versioned"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			v := startVault(t, "--mode", mode, "--quota", "1G")
			scp := func(key, user string) attack.Client { return scpattack.New(v.dial(t, key, user), 0) }
			results, err := attack.Run(t.Context(), &attack.Env{
				Owner: v.raw(t, "alice", "alice"), Twin: scp("alice", "alice"), Thief: scp("mallory", "alice"),
				Neighbour: scp("bob", "bob"), Versioned: mode == "versioned", Limit: 1 << 30,
			}, attack.Cases())
			must(t, err)
			held := 0
			for _, r := range results {
				switch r.Outcome {
				case attack.Held:
					held++
				case attack.Broken:
					t.Errorf("%s (%s) %v: %s\n%v", r.Name, r.Promise, r.Outcome, r.Story, r.Err)
				}
			}
			if held < 15 {
				t.Errorf("only %d of %d attacks could be made", held, len(results))
			}
			t.Logf("%d of %d attacks could be made", held, len(results))
			must(t, v.stop())
			v.audit(t)
		})
	}
}

// The attack suite against the real program: its configuration, its store, its SSH port.
func TestAttackSuite(t *testing.T) {
	const limit, small = 1 << 30, 8 << 20
	for _, mode := range []string{"strict", "versioned"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			v := startVault(t, "--mode", mode, "--quota", "1G")
			_, err := v.vaultd("tenant", "add", "small", "--key", v.key("pusher"), "--mode", mode, "--quota", "8M")
			must(t, err)
			results, err := attack.Run(t.Context(), &attack.Env{
				Owner: v.raw(t, "alice", "alice"), Twin: v.raw(t, "alice", "alice"), Thief: v.raw(t, "mallory", "alice"),
				Neighbour: v.raw(t, "bob", "bob"), Versioned: mode == "versioned", Limit: limit,
				Small: v.raw(t, "pusher", "small"), SmallLimit: small,
				Snapshot: func(_ context.Context, name string) error {
					_, err := v.vaultd("snapshot", "create", "alice", "--name", name)
					return err
				},
			}, attack.Cases())
			must(t, err)
			for _, r := range results {
				if r.Outcome != attack.Held {
					t.Errorf("%s (%s) %v: %s\n%v", r.Name, r.Promise, r.Outcome, r.Story, r.Err)
				}
			}
			must(t, v.stop())
			v.audit(t)
		})
	}
}
