package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs/zfstest"
)

func TestMain(m *testing.M) {
	zfstest.Main() // the fake zfs is this program
	os.Exit(m.Run())
}

// onFake is an operator with a store on a machine with a fake zfs, and no server.
type onFake struct {
	*testing.T
	dir  string
	fake *zfstest.Fake
}

// command runs one; status is its exit status.
func (f *onFake) command(status int, args ...string) string {
	f.Helper()
	var out bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out, mounts: f.fake}
	root := a.root()
	root.SetArgs(append(args, "--dir", f.dir))
	root.SetOut(&out)
	root.SetErr(&out)
	got := 0
	if err := root.ExecuteContext(f.Context()); err != nil {
		got = exitCode(err)
		fmt.Fprintln(&out, err)
	}
	if got != status {
		f.Fatalf("vaultd %s: status %d, want %d\n%s", strings.Join(args, " "), got, status, out.String())
	}
	return out.String()
}

// push puts a file into acme's vault, and checks what the others are.
func (f *onFake) push(name string, others ...string) {
	f.Helper()
	a := &app{stdin: strings.NewReader(""), stdout: f.Output(), stderr: f.Output(), dir: f.dir, mounts: f.fake}
	_, t, err := a.tenant("acme")
	must(f.T, err)
	must(f.T, a.local(func(o *operations) error {
		return o.st.With(context.Background(), t.ID, func(v *appendonly.Vault) error {
			s := v.Session(appendonly.Who{Key: "key", Protocol: "test"})
			u, err := s.Create("/"+name, appendonly.CreateOptions{Create: true})
			if err == nil {
				_, err = u.WriteAt([]byte(name), 0)
				err = errors.Join(err, u.Close())
			}
			for _, other := range others {
				r, rerr := s.Open("/" + other)
				if rerr == nil {
					b := make([]byte, 100)
					n, _ := r.ReadAt(b, 0)
					if string(b[:n]) != filepath.Base(other) {
						rerr = fmt.Errorf("%s has %q", other, b[:n])
					}
					r.Close()
				}
				err = errors.Join(err, rerr)
			}
			return errors.Join(err, s.Close(context.Background()))
		})
	}))
}

func (f *onFake) has(text string, parts ...string) {
	f.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			f.Errorf("%q is not in\n%s", p, text)
		}
	}
}

// A store of directories goes to ZFS, from pool to pool, and back, and loses its catalog on the way: nothing of the tenant's is lost. What is
// shown, refused and done twice is as it should be.
func TestZFSStore(t *testing.T) {
	f := &onFake{t, t.TempDir(), zfstest.New(t, "tank")}
	const small = "[store]\nfree_bytes = \"0\"\nfree_inodes = 0\n"
	must(t, os.WriteFile(filepath.Join(f.dir, ConfigName), []byte(small), 0o600))
	f.command(0, "init", "--no-start")
	f.command(0, "tenant", "add", "acme", "--quota", "64M", "--mode", "versioned")
	f.push("one")
	f.command(0, "snapshot", "create", "acme", "--name", "before")
	var id string
	list, err := os.ReadDir(filepath.Join(f.dir, "tenants"))
	must(t, err)
	id = list[0].Name()

	// init shows, asks, does, and does nothing twice.
	f.command(exitUsage, "init", "--pool", "tank", "--dataset", "tank/x")
	f.command(exitUsage, "init", "--dataset", "tank")
	f.command(exitUsage, "init", "--dataset", "tank/../x")
	f.command(exitNotFound, "init", "--pool", "nosuch", "--dry-run")
	f.has(f.command(0, "init", "--pool", "tank", "--dry-run"), "former", "zfs create", "tank/vaultd", `dataset = "tank/vaultd"`)
	f.has(f.command(exitUsage, "init", "--pool", "tank"), "--yes")
	if _, err := os.Stat(filepath.Join(f.dir, "former")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was done: %v", err)
	}
	f.command(0, "init", "--pool", "tank", "--yes", "--no-start")
	f.has(f.command(0, "init", "--pool", "tank", "--yes", "--no-start"), "all is there")
	text, err := os.ReadFile(filepath.Join(f.dir, ConfigName))
	must(t, err)
	if string(text) != small+"\n[zfs]\ndataset = \"tank/vaultd\"\n" {
		t.Errorf("the configuration:\n%s", text)
	}

	f.push("two", "one", ".vault/snapshots/before/one") // from former/
	if out := f.command(0, "snapshot", "create", "acme", "--name", "waiting", "--json"); strings.Contains(out, "body") {
		t.Errorf("a tenant that is a directory: %s", out)
	}
	f.has(f.command(0, "tenant", "move", "acme", "--to-dataset", "--dry-run"), "would move")
	f.command(exitUsage, "tenant", "move", "acme")
	f.command(exitConflict, "tenant", "move", "acme", "--to-dir")
	must(t, volume.Leave(filepath.Join(f.dir, "former", id))) // as a move that was cut short leaves it
	f.command(exitTemporary, "verify", "acme")
	f.has(f.command(0, "tenant", "move", "acme", "--to-dataset", "--abort"), "where it was")
	f.push("three", "one", "two")
	f.has(f.command(0, "tenant", "move", "acme", "--to-dataset"), "contents compared", ".moved-"+id)
	f.command(exitNotFound, "tenant", "move", "acme", "--to-dataset")
	f.push("four", "one", "two", "three", ".vault/snapshots/before/one")
	if _, err := os.Stat(filepath.Join(f.dir, "tenants", id, "files", "four")); err != nil {
		t.Error(err)
	}
	f.fake.Change(func(s *zfstest.State) {
		if got := s.Datasets["tank/vaultd/"+id].Properties["refquota"]; got != "135266304" {
			t.Errorf("refquota %s", got)
		}
	})
	f.has(f.command(0, "snapshot", "create", "acme", "--name", "embodied", "--json"), `"createtxg"`)
	f.command(0, "journal", "verify")
	f.command(0, "verify", "acme")
	f.has(f.command(0, "audit"), "tenant move")
	f.command(0, "tenant", "set", "acme", "--quota", "32M") // less, by the operator's hand
	f.fake.Change(func(s *zfstest.State) {
		if got := s.Datasets["tank/vaultd/"+id].Properties["refquota"]; got != "101711872" {
			t.Errorf("refquota %s", got)
		}
	})

	f.push("four-and-a-half") // the copy of the policy follows when the vault is opened

	// Another pool.
	f.fake.Change(func(s *zfstest.State) {
		s.Datasets["other"] = &zfstest.Dataset{Properties: map[string]string{"mountpoint": t.TempDir()}, Mounted: true, Snapshots: map[string]*zfstest.Snapshot{}}
	})
	f.has(f.command(exitConflict, "init", "--dataset", "other/vaultd", "--dry-run"), "remove what is left")
	must(t, os.RemoveAll(filepath.Join(f.dir, "former", ".moved-"+id)))
	f.has(f.command(0, "init", "--dataset", "other/vaultd", "--dry-run"), "zfs set mountpoint="+filepath.Join(f.dir, "former")+" tank/vaultd")

	// The catalog is lost.
	must(t, os.Rename(filepath.Join(f.dir, tenant.FileName), filepath.Join(t.TempDir(), "lost")))
	f.command(0, "init", "--pool", "tank", "--yes", "--no-start")
	f.command(exitConflict, "adopt", "tank/elsewhere/"+id, "--dry-run")
	f.command(exitNotFound, "adopt", "tank/vaultd/t-aaaaaaaaaaaa", "--yes")
	f.has(f.command(0, "adopt", "tank/vaultd/"+id, "--dry-run"), "acme", "versioned, quota 32 MiB", "not known", "nothing was changed")
	f.command(exitUsage, "adopt", "tank/vaultd/"+id)
	f.command(0, "adopt", "tank/vaultd/"+id, "--yes")
	f.command(exitConflict, "adopt", "tank/vaultd/"+id, "--yes")
	f.push("five", "one", "four", ".vault/snapshots/before/one")
	var show struct{ Data tenant.Tenant }
	must(t, json.Unmarshal([]byte(f.command(0, "tenant", "show", "acme", "--json")), &show))
	if x := show.Data; x.ID != id || x.Policy.Mode != appendonly.Versioned || x.Quota.Bytes != 32<<20 {
		t.Errorf("adopted: %+v", x)
	}

	// And back.
	f.command(0, "tenant", "move", "acme", "--to-dir")
	f.push("six", "one", "five", ".vault/snapshots/before/one")
	if _, err := os.Stat(filepath.Join(f.dir, "former", id, "files", "six")); err != nil {
		t.Error(err)
	}
	f.command(0, "verify", "acme")
	for _, argv := range f.fake.Argv() {
		for _, bad := range []string{"destroy", "rollback", "release", "rename"} {
			if argv[1] == bad {
				t.Errorf("was run: %q", argv)
			}
		}
	}
}
