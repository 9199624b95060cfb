package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/attack"
)

// mutant is a server with a guard knocked out, by exact replacement in its source; the text must be there once, or the test is out of date.
// vaultd prove must notice.
type mutant struct {
	name      string
	file      string
	from, to  string
	mode      string // of the tenant
	protocol  string // "": sftp
	always    bool   // in every run; the others with -full
	byQuota   bool   // prove has no small tenant to fill: the suite's own case about quotas must notice
	unnoticed string // why no client can notice it: another guard stands behind. Then prove must pass.
}

var mutants = []mutant{
	{name: "strict lets overwrite", always: true, mode: "strict", file: "internal/appendonly/policy.go",
		from: "case q.Mode == Versioned, q.Op == OpExtend && q.Own:", to: "case true:"},
	{name: "strict lets remove", mode: "strict", protocol: "exec", file: "internal/appendonly/policy.go",
		from: "\tcase OpRemove:\n\t\tif dir {\n\t\t\treturn noKind\n\t\t}\n", to: "\tcase OpRemove:\n\t\tif dir {\n\t\t\treturn noKind\n\t\t}\n\t\treturn yes(Keep)\n"},
	{name: "strict lets rename", mode: "strict", file: "internal/appendonly/policy.go",
		from: "\tif q.Mode == Versioned {\n\t\treturn yes(Keep)\n\t}\n\treturn noRemoval", to: "\tif q.Mode == Versioned || q.Op == OpRename {\n\t\treturn yes(Keep)\n\t}\n\treturn noRemoval"},
	{name: "strict lets attributes be set", mode: "strict", file: "internal/appendonly/policy.go",
		from: "\treturn noMeta\n", to: "\treturn yes(Keep)\n"},
	{name: "strict lets a directory be removed", mode: "strict", file: "internal/appendonly/policy.go",
		from: "\t\tif q.State == StateNewDir {\n\t\t\treturn yes(Keep)\n\t\t}\n", to: "\t\treturn yes(Keep)\n",
		unnoticed: "one that holds something is not empty, and an empty one holds nothing that is stored"},
	{name: "push keys read", always: true, mode: "strict", protocol: "scp", file: "internal/appendonly/policy.go",
		from: "\tcase OpRead:\n\t\tif q.Role == Push {", to: "\tcase OpRead:\n\t\tif false {"},
	{name: "pull keys write", mode: "strict", protocol: "scp", file: "internal/appendonly/policy.go",
		from: "\tcase q.Role == Pull:\n\t\treturn noWrite\n", to: ""},
	{name: "the past takes names", mode: "versioned", file: "internal/appendonly/policy.go",
		from: "\tcase q.State == StateView:\n\t\treturn noView\n", to: "\tcase q.State == StateView:\n\t\treturn yes(Ignore)\n"},
	{name: "the reserved name can be made", mode: "strict", file: "internal/appendonly/policy.go",
		from: "\tcase q.State == StateReserved:\n\t\treturn noReserved\n", to: "\tcase q.State == StateReserved:\n\t\treturn yes(Ignore)\n"},
	{name: "links are written through", mode: "strict", file: "internal/appendonly/policy.go",
		from: "\tcase StateLink:\n\t\treturn noThrough\n", to: "\tcase StateLink:\n\t\treturn yes(Keep)\n",
		unnoticed: "a link can not be opened for writing, whatever the policy says of publishing"},
	{name: "versions are forgotten", always: true, mode: "versioned", file: "internal/journal/index.go",
		from: "func (x *Index) putPast(r *Record, at Loc, e *Entry) {\n\tif e.Fresh {", to: "func (x *Index) putPast(r *Record, at Loc, e *Entry) {\n\tif true {"},
	{name: "every name is temporary", mode: "strict", file: "internal/appendonly/path.go",
		from: "func isTemporary(name string) bool {\n", to: "func isTemporary(name string) bool {\n\tif name != \"\" {\n\t\treturn true\n\t}\n"},
	{name: "every key settles", mode: "strict", file: "internal/journal/entry.go",
		from: "return e.Fresh || key == e.Key && age >= 0 && age < Settle", to: "return e.Fresh || age >= 0 && age < Settle"},
	{name: "fresh files are everybody's", mode: "strict", file: "internal/appendonly/fs.go",
		from: "case e.Fresh && e.Key == f.who.Key:", to: "case e.Fresh:"},
	{name: "uploads are everybody's", mode: "strict", file: "internal/appendonly/create.go",
		from: "\t\tif us[i].key == key {\n", to: "\t\tif true {\n"},
	{name: "any name is a lock", mode: "strict", file: "internal/appendonly/scratch.go",
		from: "func (v *Vault) isLockName(dir, name string) bool {\n", to: "func (v *Vault) isLockName(dir, name string) bool {\n\tif name != \"\" {\n\t\treturn true\n\t}\n"},
	{name: "a key has no root", mode: "strict", protocol: "scp", file: "internal/appendonly/root.go",
		from: "\tcase f.who.Root != \"\":\n", to: "\tcase false:\n"},
	{name: "names are not cleaned", mode: "strict", file: "internal/appendonly/path.go",
		from: `strings.TrimPrefix(path.Clean("/"+p), "/")`, to: `strings.TrimPrefix(path.Clean(p), "/")`},
	{name: "names may be of any length", mode: "strict", file: "internal/appendonly/path.go",
		from: "\t\tif len(name) > maxName {\n", to: "\t\tif false {\n", unnoticed: "the kernel refuses them, too"},
	{name: "revoked keys stay", mode: "strict", protocol: "scp", file: "internal/tenant/snapshot.go",
		from: "revoked := !k.Revoked.IsZero()", to: "revoked := false"},
	{name: "sessions outlive their key", mode: "strict", protocol: "scp", file: "cmd/vaultd/access.go",
		from: "\t\t\tclose(l.revoked)\n", to: ""},
	{name: "links lead in circles", mode: "strict", file: "internal/appendonly/view.go",
		from: "const maxLinks = 40\n", to: "const maxLinks = 1 << 40\n"},
	{name: "no quota", mode: "strict", byQuota: true, file: "internal/quota/account.go",
		from: "if bytes > 0 && limit > 0 && add(used, bytes) > add(limit, extra) {", to: "if false {"},
	{name: "a taken name is replaced", mode: "strict", file: "internal/volume/tree.go",
		from:      "\terr := unix.Linkat(v.staging, id.String(), dirfd, name, 0)\n",
		to:        "\tunix.Unlinkat(dirfd, name, 0)\n\terr := unix.Linkat(v.staging, id.String(), dirfd, name, 0)\n",
		unnoticed: "the policy refuses before it; volumetest's suite notices"},
}

func TestMutants(t *testing.T) {
	for _, m := range mutants {
		if !m.always && !*full {
			continue
		}
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			v, err := newVault(t.TempDir(), "--mode", m.mode, "--quota", "1G")
			must(t, err)
			v.server = m.build(t)
			must(t, v.serve())
			t.Cleanup(func() {
				if err := v.stop(); err != nil {
					t.Logf("the mutant did not end well: %v", err)
				}
			})
			noticed := v.proved
			if m.byQuota {
				noticed = v.quotaHolds
			}
			by := noticed(t, m)
			switch {
			case m.unnoticed == "" && len(by) == 0:
				t.Errorf("vaultd prove does not notice it")
			case m.unnoticed != "" && len(by) > 0:
				t.Errorf("noticed by %v, though %s", by, m.unnoticed)
			}
			t.Logf("noticed by %d: %.300s", len(by), strings.Join(by, " "))
		})
	}
}

// build makes the mutant beside the sources, which stay as they are.
func (m *mutant) build(t *testing.T) string {
	root, err := filepath.Abs("..")
	must(t, err)
	source, err := os.ReadFile(filepath.Join(root, m.file))
	must(t, err)
	if n := strings.Count(string(source), m.from); n != 1 {
		t.Fatalf("%s has the text of this mutant %d times, want once: the guard was rewritten, so rewrite the mutant\n%s", m.file, n, m.from)
	}
	dir := t.TempDir()
	changed, overlay, bin := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "vaultd")
	must(t, os.WriteFile(changed, []byte(strings.Replace(string(source), m.from, m.to, 1)), 0o600))
	b, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): changed}})
	must(t, err)
	must(t, os.WriteFile(overlay, b, 0o600))
	cmd := exec.Command("go", "build", "-overlay", overlay, "-o", bin, "vaultd/cmd/vaultd")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// proved runs vaultd prove and returns the attacks that showed a broken promise.
func (v *vault) proved(t *testing.T, m mutant) (by []string) {
	protocol := m.protocol
	if protocol == "" {
		protocol = "sftp"
	}
	cmd := exec.Command(os.Getenv(vaultdBin), "prove", "alice", "--yes", "--json", "--neighbour", "bob", "--protocol", protocol, "--dir", v.dir)
	out, err := cmd.Output()
	var exit *exec.ExitError
	if err != nil && !(errors.As(err, &exit) && exit.ExitCode() == 1) {
		t.Fatalf("prove: %v\n%s\n%s", err, out, exit.Stderr)
	}
	var reply struct {
		Data struct {
			Passed bool
			Suites []struct {
				Error   string
				Results []struct{ Name, Outcome, Error string }
			}
		}
	}
	if jerr := json.Unmarshal(out, &reply); jerr != nil {
		if err == nil {
			t.Fatal(jerr)
		}
		return []string{"it could not even be run: " + string(exit.Stderr)}
	}
	for _, s := range reply.Data.Suites {
		if s.Error != "" {
			by = append(by, "(suite: "+s.Error+")")
		}
		for _, r := range s.Results {
			if r.Outcome == attack.Broken.String() {
				by = append(by, r.Name)
			}
		}
	}
	if reply.Data.Passed != (err == nil) || reply.Data.Passed != (len(by) == 0) {
		t.Errorf("passed %v, exit %v, broken %v", reply.Data.Passed, err, by)
	}
	return by
}

// quotaHolds fills a small tenant.
func (v *vault) quotaHolds(t *testing.T, m mutant) []string {
	_, err := v.vaultd("tenant", "add", "small", "--key", v.key("pusher"), "--quota", "8M")
	must(t, err)
	for _, c := range attack.Cases() {
		if c.Name != "quota-blocks-nothing-else" {
			continue
		}
		e := &attack.Env{Owner: v.raw(t, "alice", "alice"), Twin: v.raw(t, "alice", "alice"), Thief: v.raw(t, "mallory", "alice"), Small: v.raw(t, "pusher", "small"), SmallLimit: 8 << 20}
		if err := c.Run(t.Context(), e); err != nil {
			return []string{fmt.Sprintf("%s (%v)", c.Name, err)}
		}
	}
	return nil
}
