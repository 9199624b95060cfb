package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

// testdata/formats holds stores as older versions of vaultd left them, without their host keys: format1 was made by the one before
// there was retention (its catalog has format 1, its journal too), format2 by the one before tenants could be removed (catalog of
// format 2, and the expire process's state). In both, alice's clients put t/a ("one\n"), t/d/b ("two\n") and t/d/big, a snapshot
// "first" was taken, t/a was replaced ("changed\n"), t/d/b removed and t/link made.

// oldStore unpacks one and gives it a host key.
func oldStore(t *testing.T, format string) *vault {
	t.Helper()
	root := t.TempDir()
	v := &vault{root: root, dir: filepath.Join(root, "vault"), ids: filepath.Join(root, "ids"), addr: "127.0.0.1:0", log: &logBuffer{}}
	if err := errors.Join(makeIDs(v.ids), os.Mkdir(v.dir, 0o750)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("tar", "-xzf", filepath.Join("testdata", "formats", format+".tar.gz"), "-C", v.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	v.must(t, "init")
	t.Cleanup(func() {
		if v.cmd != nil {
			if err := v.stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return v
}

func (v *vault) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := v.vaultd(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// client runs alice's sftp with commands, and returns what got fetched.
func (v *vault) sftp(t *testing.T, commands ...string) {
	t.Helper()
	if out, err := v.as("alice", append([]string{"sftp"}, commands...)...).CombinedOutput(); err != nil {
		t.Fatalf("sftp %q: %v: %s", commands, err, out)
	}
}

func (v *vault) read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Stores of older formats are read as they are, migrated by the first change with a copy of what was, and go on: everything is read
// back, pushed to, verified, and expire goes by what it remembered.
func TestMigrateStore(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"format1", "format2"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			v := oldStore(t, format)
			db := filepath.Join(v.dir, "vaultd.db")
			before := v.read(t, db)
			old := func(when string) {
				t.Helper()
				if !bytes.Equal(before, v.read(t, db)) {
					t.Fatalf("the catalog was changed %s", when)
				}
			}

			// Reading changes nothing.
			v.must(t, "tenant", "list", "--json")
			v.must(t, "journal", "verify")
			if err := v.serve(); err != nil {
				t.Fatal(err)
			}
			back := filepath.Join(v.root, "back")
			v.must(t, "restore", "alice", "--at", "first", "--to", back)
			if got := string(v.read(t, filepath.Join(back, "t", "a"))) + string(v.read(t, filepath.Join(back, "t", "d", "b"))); got != "one\ntwo\n" {
				t.Errorf("the past: %q", got)
			}
			old("by reading")

			// The first change migrates, says so, and leaves what was.
			key := exec.Command(os.Getenv(vaultdBin), "key", "add", "alice", "--key", v.key("alice"), "--dir", v.dir)
			out, err := key.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "vaultd: notice: vaultd.db had format "+format[len("format"):]+" and has 3 now") {
				t.Fatalf("%v: %s", err, out)
			}
			if bytes.Equal(before, v.read(t, db)) || !sameCatalog(t, before, v.read(t, db+".format-"+format[len("format"):])) {
				t.Error("no migration, or no copy of what was")
			}
			if out := v.must(t, "audit"); strings.Count(out, "catalog migrate") != 1 || !strings.Contains(out, "tenant add") {
				t.Errorf("audit log:\n%s", out)
			}
			if out := v.must(t, "key", "list", "alice"); strings.Count(out, "active") != 3 {
				t.Errorf("keys:\n%s", out)
			}

			// Clients read the present and the past, and push.
			now, then := filepath.Join(v.root, "now"), filepath.Join(v.root, "then")
			if err := os.WriteFile(filepath.Join(v.root, "new"), []byte("new\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			check := func() {
				t.Helper()
				v.sftp(t, "get t/a "+now, "get /.vault/snapshots/first/t/a "+then, "get t/d/big "+now+".big")
				if got := string(v.read(t, now)) + string(v.read(t, then)); got != "changed\none\n" || len(v.read(t, now+".big")) != 20000 {
					t.Errorf("read back %q", got)
				}
			}
			check()
			v.sftp(t, "put "+filepath.Join(v.root, "new")+" t/new", "put "+filepath.Join(v.root, "new")+" t/a")
			v.sftp(t, "get t/new "+now)
			if got := string(v.read(t, now)); got != "new\n" {
				t.Errorf("pushed %q", got)
			}
			v.must(t, "journal", "verify")
			if out := v.must(t, "verify", "alice"); !strings.Contains(out, "0 wrong") {
				t.Errorf("verify: %s", out)
			}

			// The index is made anew from journals of both formats.
			if err := v.stop(); err != nil {
				t.Fatal(err)
			}
			indexes, _ := filepath.Glob(filepath.Join(v.dir, "tenants", "*", "derived", "index.db"))
			for _, x := range indexes {
				if err := os.Remove(x); err != nil {
					t.Fatal(err)
				}
			}
			if err := v.serve(); err != nil || len(indexes) == 0 {
				t.Fatal(err, indexes)
			}
			v.sftp(t, "get /.vault/snapshots/first/t/d/b "+then)
			if got := string(v.read(t, then)); got != "two\n" {
				t.Errorf("from a new index: %q", got)
			}

			// Expire: a tenant from before there was retention keeps everything; one with a hold still has it.
			var plan struct {
				Data []struct {
					Tenant   string
					Contents int
					Error    string
				}
			}
			if err := json.Unmarshal([]byte(v.must(t, "expire", "--dry-run", "--json")), &plan); err != nil || len(plan.Data) != 2 {
				t.Fatalf("%v, %+v", err, plan)
			}
			for _, p := range plan.Data {
				if p.Contents != 0 || p.Error != "" {
					t.Errorf("expire would: %+v", p)
				}
			}
			v.must(t, "expire")
			show := v.must(t, "tenant", "show", "alice")
			want := map[string]string{"format1": "then all", "format2": "a hold of format 2"}[format]
			if !strings.Contains(show, want) {
				t.Errorf("tenant show lacks %q:\n%s", want, show)
			}
			v.must(t, "tenant", "set", "alice", "--lock", "90d")
		})
	}
}

// sameCatalog compares what two bbolt files hold: a copy has no free pages.
func sameCatalog(t *testing.T, a, b []byte) bool {
	t.Helper()
	dump := func(file []byte) string {
		path := filepath.Join(t.TempDir(), "db")
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		var all strings.Builder
		editDB(t, path, func(tx *bbolt.Tx) error {
			return tx.ForEach(func(name []byte, bucket *bbolt.Bucket) error {
				return bucket.ForEach(func(k, v []byte) error {
					all.WriteString(string(name) + " " + string(k) + " " + string(v) + "\n")
					return nil
				})
			})
		})
		return all.String()
	}
	x := dump(a)
	return x != "" && x == dump(b)
}

func editDB(t *testing.T, path string, f func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(path, 0o600, nil)
	if err == nil {
		err = errors.Join(db.Update(f), db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// What a newer version wrote is refused with a clear text and status 3 (expire goes on with the other tenants: 1), and is not
// touched.
func TestNewerFormatsRefused(t *testing.T) {
	t.Parallel()
	newer := func(bucket, key, value string) func(*testing.T, string) {
		return func(t *testing.T, path string) {
			editDB(t, path, func(tx *bbolt.Tx) error { return tx.Bucket([]byte(bucket)).Put([]byte(key), []byte(value)) })
		}
	}
	tests := []struct {
		name, file string
		edit       func(*testing.T, string)
		command    []string
		code       int
	}{
		{"catalog", "vaultd.db", newer("meta", "format", "9"), []string{"tenant", "list"}, 3},
		{"catalog, a change", "vaultd.db", newer("meta", "format", "9"), []string{"tenant", "set", "alice", "--quota", "1G"}, 3},
		{"catalog, the server", "vaultd.db", newer("meta", "format", "9"), []string{"serve", "--listen", "127.0.0.1:0"}, 3},
		{"state", "state.db", newer("meta", "format", "9"), []string{"serve", "--listen", "127.0.0.1:0"}, 3},
		{"dataset", "tenants/*/format", func(t *testing.T, path string) {
			if err := os.WriteFile(path, []byte("vaultd-volume 9\n"), 0o640); err != nil {
				t.Fatal(err)
			}
		}, []string{"journal", "verify", "alice"}, 3},
		{"expire state", "expire/*/state.db", newer("meta", "state", `{"format":9}`), []string{"expire", "alice"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			v := oldStore(t, "format2")
			paths, err := filepath.Glob(filepath.Join(v.dir, tt.file))
			if err != nil || len(paths) != 1 {
				t.Fatal(err, paths)
			}
			tt.edit(t, paths[0])
			before := v.read(t, paths[0])
			cmd := exec.Command(os.Getenv(vaultdBin), append(tt.command, "--dir", v.dir)...)
			out, _ := cmd.CombinedOutput()
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), "format 9 is newer than") {
				t.Errorf("status %d: %s", code, out)
			}
			now := paths[0]
			if _, err := os.Stat(now); errors.Is(err, fs.ErrNotExist) { // what only the server writes has a directory of its own today
				now = filepath.Join(v.dir, "server", filepath.Base(now))
			}
			if !bytes.Equal(before, v.read(t, now)) {
				t.Error("it was changed")
			}
		})
	}
}
