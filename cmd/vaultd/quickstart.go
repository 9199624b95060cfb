package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// demo is the tenant that quickstart makes.
const demo = "demo"

func (a *app) quickstartCommand() *cobra.Command {
	var tour, exit bool
	listen := "127.0.0.1:2222"
	c := &cobra.Command{Use: "quickstart", Short: "Make a store and a tenant, serve it, and show how to use it", Args: cobra.NoArgs,
		Long: "Makes a store in ./vault (or --dir) with a tenant \"demo\" for your SSH key, serves it on 127.0.0.1:2222, and prints lines to copy. A second run carries on where the first one ended. It needs no root and no ZFS.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if exit && !tour {
				return &usageError{errors.New("--exit ends after the tour: give --tour too")}
			}
			if installed != "" && a.dir == installed {
				a.dir = "vault" // not the one that is served already
			}
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			conf.Listen = []string{listen}
			if err := a.initStore(conf); err != nil {
				return err
			}
			identity, err := a.demoTenant(conf)
			if err != nil {
				return err
			}
			ctx, stop := context.WithCancel(cmd.Context())
			defer stop()
			return a.supervise(ctx, conf, func(addrs []string) error {
				conf.Listen = addrs
				if tour {
					if err := a.tour(ctx, conf, addrs[0]); err != nil {
						return fmt.Errorf("tour: %w", err)
					}
				}
				if exit {
					stop()
					return nil
				}
				a.snippet(a.stdout, conf, demo, identity)
				fmt.Fprintf(a.stdout, "\nserving until you press Ctrl-C\n")
				return nil
			})
		}}
	c.Flags().StringVar(&listen, "listen", listen, "ADDRESS:PORT")
	c.Flags().BoolVar(&tour, "tour", false, "first push a sample, try to destroy it, and read it back from the past")
	c.Flags().BoolVar(&exit, "exit", false, "end after the tour")
	return c
}

// demoTenant makes the tenant with the caller's key, or with one that it makes. It returns the file
// of the private key.
func (a *app) demoTenant(conf *Config) (identity string, err error) {
	identity, public, err := a.callersKey()
	if err != nil {
		return "", err
	}
	keys, err := tenant.ParsePublicKeys(public)
	if err != nil {
		return "", fmt.Errorf("%s.pub: %w", identity, err)
	}
	n := conf.newTenant(demo)
	n.Keys = []tenant.NewKey{{Public: keys[0], Role: appendonly.Full}}
	_, _, err = a.catalog().AddTenant(n)
	if errors.Is(err, tenant.ErrConflict) { // a second run; perhaps the caller has another key now
		if _, err = a.catalog().AddKeys(demo, n.Keys...); errors.Is(err, tenant.ErrConflict) {
			err = nil
		}
	}
	return identity, err
}

// callersKey finds the caller's own key pair, or the one that an earlier run made, or makes one.
func (a *app) callersKey() (identity string, public []byte, err error) {
	var tries []string
	if home, err := os.UserHomeDir(); err == nil {
		for _, kind := range []string{"ed25519", "ecdsa", "rsa"} {
			tries = append(tries, filepath.Join(home, ".ssh", "id_"+kind))
		}
	}
	made := filepath.Join(a.dir, "demo_key")
	for _, f := range append(tries, made) {
		public, err := os.ReadFile(f + ".pub")
		if err != nil {
			continue
		}
		if _, err := os.Stat(f); err != nil {
			continue // its private half is elsewhere: the lines below would not work
		}
		if _, err := tenant.ParsePublicKeys(public); err == nil {
			return f, public, nil
		}
	}
	if err := makeHostKey(made); err != nil {
		return "", nil, fmt.Errorf("make a key: %w", err)
	}
	public, err = os.ReadFile(made + ".pub")
	return made, public, err
}

// snippet prints lines to copy for a tenant's client.
func (a *app) snippet(w io.Writer, conf *Config, name, identity string) {
	addr := conf.Listen[0]
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return
	}
	if host == "" || host == "::" || host == "0.0.0.0" {
		if host, err = os.Hostname(); err != nil {
			host = "HOST"
		}
	}
	known := a.knownHosts(conf, net.JoinHostPort(host, port))
	if known == "" {
		return
	}
	dir, err := filepath.Abs(a.dir)
	if err != nil {
		dir = a.dir
	}
	knownFile := "~/.ssh/known_hosts"
	ssh, rclone := "", ""
	if identity != "" { // on this machine: a file that is there, so that nothing is asked
		knownFile = filepath.Join(dir, "known_hosts")
		if err := os.WriteFile(knownFile, []byte(known+"\n"), 0o644); err != nil {
			knownFile = "~/.ssh/known_hosts"
		}
		if abs, err := filepath.Abs(identity); err == nil {
			identity = abs
		}
		ssh = fmt.Sprintf(" -i %s -o UserKnownHostsFile=%s", shellWord(identity), shellWord(knownFile))
		rclone = fmt.Sprintf(",key_file=%s,known_hosts_file=%s", identity, knownFile)
	}
	at := name + "@" + host
	fmt.Fprintf(w, "\nthis server's key, for %s:\n  %s\n", knownFile, known)
	fmt.Fprintf(w, "\nrsync:   rsync -a -e \"ssh -p %s%s\" DIR/ %s:DIR/\n", port, ssh, at)
	fmt.Fprintf(w, "sftp:    sftp -P %s%s %s\n", port, ssh, at)
	fmt.Fprintf(w, "scp:     scp -P %s%s FILE %s:\n", port, ssh, at)
	fmt.Fprintf(w, "rclone:  rclone copy DIR \":sftp,host=%s,port=%s,user=%s%s:DIR\"\n", host, port, name, rclone)
	fmt.Fprintf(w, "restic:  restic -o sftp.command=\"ssh -p %s%s %s -s sftp\" -r sftp:%s:/restic init\n", port, ssh, at, at)
	fmt.Fprintf(w, "sshfs:   sshfs -p %s%s %s:/ MOUNTPOINT\n", port, strings.ReplaceAll(ssh, " -i ", " -o IdentityFile="), at)
	fmt.Fprintf(w, "\nthe past: /.vault/at/2h/... (2 hours ago), /.vault/snapshots/, /.vault/versions/PATH/\nquestions: ssh -p %s%s %s help\n", port, ssh, at)
}

// shellWord quotes s for a POSIX shell where it must be.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@:") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// tour pushes a sample through the server's own port, attacks it, and reads it back from the past.
func (a *app) tour(ctx context.Context, conf *Config, addr string) error {
	client, revoke, err := a.tourClient(ctx, conf, addr)
	if err != nil {
		return err
	}
	defer revoke()
	defer client.Close()
	dir := "tour-" + time.Now().UTC().Format("20060102T150405.000Z")
	file := dir + "/letters.txt"
	say := func(format string, args ...any) { fmt.Fprintf(a.stdout, "tour: "+format+"\n", args...) }
	if err := client.Mkdir(dir); err != nil {
		return err
	}
	if err := tourPut(client, file, "the only copy\n"); err != nil {
		return err
	}
	say("pushed %s", file)

	survived := true
	for _, attack := range []struct {
		what string
		do   func() error
	}{
		{"overwrite it", func() error { return tourPut(client, file, "ransom note\n") }},
		{"delete it", func() error { return client.Remove(file) }},
		{"rename it", func() error { return client.Rename(file, dir+"/gone") }},
		{"cut it to nothing", func() error { return client.Truncate(file, 0) }},
		{"delete its directory", func() error { return client.RemoveDirectory(dir) }},
	} {
		err := attack.do()
		if err == nil {
			survived = false
			say("tried to %s: NOT REFUSED", attack.what)
			continue
		}
		say("tried to %s: refused: %v", attack.what, err)
	}
	c, err := admin.Dial(a.dir)
	if err != nil {
		return err
	}
	defer c.Close()
	var snap takenReply
	if err := c.Call(ctx, "snapshot.create", snapshotRequest{Tenant: demo}, &snap); err != nil {
		return err
	}
	say("took snapshot %s", snap.Name)
	for _, where := range []string{"/", "/.at/0s/", "/.vault/snapshots/" + snap.Name + "/"} {
		got, err := tourGet(client, where+file)
		if err != nil {
			return err
		}
		if got != "the only copy\n" {
			survived = false
		}
		say("read %s: %q", where+file, got)
	}
	if !survived {
		return errors.New("something was not refused")
	}
	say("all of it survived")
	return nil
}

// tourClient logs in with a key made for the occasion.
func (a *app) tourClient(ctx context.Context, conf *Config, addr string) (*sftp.Client, func(), error) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	signer, err := gossh.NewSignerFromKey(priv)
	if err != nil {
		return nil, nil, err
	}
	sshPub, err := gossh.NewPublicKey(pub)
	if err != nil {
		return nil, nil, err
	}
	keys, err := tenant.ParsePublicKeys(gossh.MarshalAuthorizedKey(sshPub))
	if err != nil {
		return nil, nil, err
	}
	added, err := a.catalog().AddKeys(demo, tenant.NewKey{Public: keys[0], Role: appendonly.Full, Expires: time.Now().Add(10 * time.Minute), Comment: "quickstart tour"})
	if err != nil {
		return nil, nil, err
	}
	if err := a.reload(ctx); err != nil {
		return nil, nil, err
	}
	revoke := func() {
		if _, err := a.catalog().RevokeKey(demo, added[0].ID); err == nil {
			a.reload(ctx)
		}
	}
	hosts, err := a.hostKeys(conf)
	if err != nil {
		return nil, nil, err
	}
	conn, err := gossh.Dial("tcp", addr, &gossh.ClientConfig{User: demo, Auth: []gossh.AuthMethod{gossh.PublicKeys(signer)},
		HostKeyCallback: gossh.FixedHostKey(hosts[0].PublicKey()), Timeout: 10 * time.Second})
	if err != nil {
		revoke()
		return nil, nil, err
	}
	client, err := sftp.NewClient(conn)
	if err != nil {
		conn.Close()
		revoke()
		return nil, nil, err
	}
	return client, func() { conn.Close(); revoke() }, nil
}

func tourPut(c *sftp.Client, path, text string) error {
	f, err := c.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte(text))
	return errors.Join(err, f.Close())
}

func tourGet(c *sftp.Client, path string) (string, error) {
	f, err := c.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var b bytes.Buffer
	_, err = f.WriteTo(&b)
	return b.String(), err
}
