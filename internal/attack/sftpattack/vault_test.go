package sftpattack_test

import (
	"context"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/attack"
	"vaultd/internal/attack/sftpattack"
	"vaultd/internal/quota"
	"vaultd/internal/session"
	"vaultd/internal/sftpserver"
	"vaultd/internal/volume"
)

// tenant is one vault on disk with its quota, reached by SFTP without SSH around it.
type tenant struct {
	t      testing.TB
	vault  *appendonly.Vault
	server *sftpserver.Server
	log    *slog.Logger
}

func newTenant(t testing.TB, mode appendonly.Mode, limit int64) *tenant {
	dir := filepath.Join(t.TempDir(), "tenant")
	must(t, volume.Create(dir))
	vol, err := volume.Open(dir)
	must(t, err)
	log := slog.New(slog.DiscardHandler)
	var vault *appendonly.Vault
	q := quota.New(vol, quota.Config{Limits: quota.Limits{Bytes: limit, Slack: 4 << 20, Reserve: 1 << 20}, Totals: func() quota.Totals {
		if vault == nil {
			return quota.Totals{}
		}
		bytes, files := vault.Totals()
		return quota.Totals{Bytes: bytes, Files: files}
	}})
	vault, err = appendonly.Open(appendonly.Config{Volume: q, Segments: vol, Account: q.Account(), IndexPath: filepath.Join(dir, "index.db"),
		Policy: appendonly.Policy{Mode: mode}, Log: log})
	must(t, err)
	t.Cleanup(func() {
		must(t, vault.Close())
		must(t, vol.Close())
	})
	server, err := sftpserver.New(sftpserver.Config{})
	must(t, err)
	return &tenant{t, vault, server, log}
}

// channel is the client's end of one session.
type channel struct {
	io.Reader
	io.WriteCloser
}

// client has sessions of one key. A session's FS is closed when the client's end is, as sshd does.
func (n *tenant) client(key string) *sftpattack.Client {
	var sessions sync.WaitGroup
	dial := func() (io.ReadWriteCloser, error) {
		toServer, fromClient := io.Pipe()
		toClient, fromServer := io.Pipe()
		f := n.vault.Session(appendonly.Who{Key: key, Fingerprint: "SHA256:" + key, Session: key, Protocol: "sftp"})
		sessions.Go(func() {
			err := n.server.Serve(context.Background(), &session.Session{Tenant: "t", FS: f, Stdin: toServer, Stdout: fromServer,
				Stderr: io.Discard, Log: n.log})
			if err != nil {
				n.t.Logf("session of %s: %v", key, err)
			}
			fromServer.Close()
			toServer.Close()
			if err := f.Close(context.Background()); err != nil {
				n.t.Errorf("close session of %s: %v", key, err)
			}
		})
		return channel{toClient, fromClient}, nil
	}
	c := sftpattack.New(sftpattack.Config{Dial: dial})
	n.t.Cleanup(func() { c.Close(); sessions.Wait() })
	return c
}

const limit, small = 1 << 30, 8 << 20

// judge runs the whole suite against a tenant of mode. client makes clients of a tenant's key.
func judge(t *testing.T, mode appendonly.Mode, client func(n *tenant, key string) *sftpattack.Client) {
	n := newTenant(t, mode, limit)
	e := &attack.Env{
		Owner: client(n, "k1"), Twin: client(n, "k1"), Thief: client(n, "k2"),
		Neighbour: client(newTenant(t, mode, limit), "k3"), Versioned: mode == appendonly.Versioned,
		Limit: limit, Small: client(newTenant(t, mode, small), "k4"), SmallLimit: small,
		Snapshot: func(ctx context.Context, name string) error {
			_, err := n.vault.Snapshot(ctx, name, "manual")
			return err
		},
	}
	results, err := attack.Run(t.Context(), e, attack.Cases())
	must(t, err)
	for _, r := range results {
		switch r.Outcome {
		case attack.NotApplicable:
			t.Errorf("%s: not applicable: %v; SFTP can say everything", r.Name, r.Err)
		case attack.Broken:
			t.Errorf("%s (%s): %s\n%v", r.Name, r.Promise, r.Story, r.Err)
		}
	}
}

// The suite against the real thing: the core on a directory, with a quota, by SFTP.
func TestVault(t *testing.T) {
	for _, mode := range []appendonly.Mode{appendonly.Strict, appendonly.Versioned} {
		t.Run(mode.String(), func(t *testing.T) { judge(t, mode, (*tenant).client) })
	}
}
