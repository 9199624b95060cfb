package tests

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// edges are imports that must not be: from a package of this module (or all below "x/...") to packages
// (or all below them), and why.
var edges = []struct {
	from, why string
	to        []string
	direct    bool // only what the package itself imports; otherwise what it brings along, too
}{
	{"internal/sftpserver", "every byte that reaches a tenant's dataset goes through appendonly: a protocol gets a Session and nothing else",
		[]string{"os", "os/exec", "vaultd/internal/volume", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/store", "vaultd/internal/shell", "vaultd/internal/admin"}, true},
	{"internal/sftpserver", "the journal is written by the core alone", []string{"vaultd/internal/journal"}, true},
	{"internal/shell", "every byte that reaches a tenant's dataset goes through appendonly: a protocol gets a Session and nothing else",
		[]string{"os", "os/exec", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/store", "vaultd/internal/sftpserver", "vaultd/internal/admin"}, true},
	{"internal/rsync", "every byte that reaches a tenant's dataset goes through appendonly: a protocol gets a Session and nothing else",
		[]string{"os", "os/exec", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/store", "vaultd/internal/admin"}, true},
	{"internal/scp", "every byte that reaches a tenant's dataset goes through appendonly: a protocol gets a Session and nothing else",
		[]string{"os", "os/exec", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/store", "vaultd/internal/admin"}, true},
	{"internal/session", "it is the value between transport and protocol, and depends on neither",
		[]string{"os", "vaultd/internal/sshd", "vaultd/internal/sftpserver", "vaultd/internal/shell", "vaultd/internal/journal", "vaultd/internal/volume", "vaultd/internal/tenant", "vaultd/internal/quota", "vaultd/internal/store"}, true},
	{"internal/appendonly", "the core reaches the disk through its Volume only, and knows neither who tenants are nor how clients come",
		[]string{"os", "os/exec", "net", "net/http", "golang.org/x/sys/unix", "vaultd/internal/volume", "vaultd/internal/quota", "vaultd/internal/tenant", "vaultd/internal/sshd",
			"vaultd/internal/session", "vaultd/internal/store", "vaultd/internal/sftpserver", "vaultd/internal/shell", "vaultd/internal/admin", "vaultd/internal/snapshot"}, true},
	{"internal/appendonly", "the core must be readable without these, even through others",
		[]string{"vaultd/internal/volume", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/session", "vaultd/internal/store", "golang.org/x/crypto/ssh", "github.com/pkg/sftp"}, false},
	{"internal/journal", "records and index know nothing of policy, tenants or protocols",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/session", "vaultd/internal/store"}, false},
	{"internal/volume", "it carries out the core's verbs and decides nothing",
		[]string{"vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/session", "vaultd/internal/store", "vaultd/internal/quota", "vaultd/internal/sftpserver", "vaultd/internal/shell", "net"}, true},
	{"internal/quota", "it wraps the core's Volume and reaches no disk itself",
		[]string{"os", "vaultd/internal/volume", "vaultd/internal/tenant", "vaultd/internal/sshd", "vaultd/internal/session", "vaultd/internal/store"}, true},
	{"internal/metrics", "a scrape opens nothing and runs nothing: it is given values, and knows neither store nor catalog",
		[]string{"os", "os/exec", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/appendonly", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/inventory",
			"vaultd/internal/zfs", "vaultd/internal/pool", "vaultd/internal/sshd", "vaultd/internal/session", "go.etcd.io/bbolt"}, true},
	{"internal/snapshot", "it says when, and does nothing",
		[]string{"os", "vaultd/internal/volume", "vaultd/internal/appendonly", "vaultd/internal/journal", "vaultd/internal/store"}, true},
	{"internal/push", "it judges from counts and reports, and touches nothing",
		[]string{"os", "net", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/session", "vaultd/internal/sshd"}, true},
	{"internal/expect", "it is pure: what was seen, what is expected, and an instant",
		[]string{"os", "net", "vaultd/internal/appendonly", "vaultd/internal/push", "vaultd/internal/tenant", "vaultd/internal/store"}, true},
	{"internal/inventory", "it is a value, and how it is judged: who keeps it current is not its business",
		[]string{"os", "net", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/session", "vaultd/internal/sshd"}, true},
	{"internal/sshd", "the door opens sessions and knows no protocol, no catalog and no dataset",
		[]string{"vaultd/internal/sftpserver", "vaultd/internal/shell", "vaultd/internal/tenant", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/store", "vaultd/internal/quota", "os/exec"}, true},
	{"internal/tenant", "the catalog is the operator's: it knows no dataset and no session",
		[]string{"vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/sshd", "vaultd/internal/session", "vaultd/internal/store"}, true},
	{"internal/forced", "it reads text and knows roles",
		[]string{"os", "os/exec", "vaultd/internal/tenant", "vaultd/internal/session", "vaultd/internal/volume", "vaultd/internal/store", "vaultd/internal/sshd"}, true},
	{"internal/authkeys", "it reads text and makes no change: the catalog is asked by the operator's command",
		[]string{"os", "os/exec", "vaultd/internal/session", "vaultd/internal/volume", "vaultd/internal/store", "vaultd/internal/sshd"}, true},
	{"internal/attack", "the suite proves through a protocol what it can not see inside: nothing of the server's",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/store", "vaultd/internal/tenant"}, false},
	{"internal/confine", "it must be readable without what it confines",
		[]string{"vaultd/internal/volume", "vaultd/internal/store", "vaultd/internal/tenant", "vaultd/internal/appendonly", "vaultd/internal/sshd", "os/exec", "net"}, true},
	{"internal/supervise", "it is the wire between two processes; what a verb does is the business of who fills the table",
		[]string{"vaultd/internal/volume", "vaultd/internal/store", "vaultd/internal/tenant", "vaultd/internal/appendonly", "vaultd/internal/sshd", "os/exec"}, true},
	{"internal/retention", "it plans from the journal and reaches contents through its Contents only",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/store", "vaultd/internal/sshd", "vaultd/internal/session", "os/exec"}, true},
	{"internal/zfs", "it runs zfs(8) and decides nothing: whose dataset, and which snapshot may go, others know",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/retention", "vaultd/internal/session"}, true},
	{"internal/pool", "it looks at the pool and judges: what becomes of a server, and whose dataset it is, others know",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/sshd", "os/exec"}, true},
	{"internal/zfshelper", "it is root's, and must be readable without what asks it: names, ids and numbers come in, and nothing of a tenant's data",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/tenant", "vaultd/internal/store", "vaultd/internal/retention", "vaultd/internal/session", "os/exec"}, true},
	{"internal/archive", "restores write through os.Root, and read through appendonly",
		[]string{"vaultd/internal/volume", "vaultd/internal/journal", "vaultd/internal/store", "os/exec"}, true},
}

// onlyFrom are imports that one package alone may have.
var onlyFrom = []struct {
	to, why string
	from    []string
}{
	{"vaultd/internal/volume", "nobody else can write to a tenant's dataset",
		[]string{"vaultd/internal/store", "vaultd/cmd/vaultd", "vaultd/bench", "vaultd/bench/seed"}},
	{"vaultd/internal/journal", "the core writes it; store and cmd read and rebuild it; volume and quota hold its bytes",
		[]string{"vaultd/internal/appendonly", "vaultd/internal/store", "vaultd/cmd/vaultd", "vaultd/internal/volume", "vaultd/internal/volume/volumetest", "vaultd/internal/quota", "vaultd/internal/retention", "vaultd/bench", "vaultd/bench/seed"}},
	{"os/exec", "the supervisor forks nothing but itself, as the server and as the expire process; one package runs zfs(8)", []string{"vaultd/bench", "vaultd/cmd/vaultd", "vaultd/internal/zfs"}},
	{"github.com/mistifyio/go-zfs/v3", "one package runs zfs(8), with checked names and within its time", []string{"vaultd/internal/zfs"}},
	{"github.com/prometheus/client_golang/prometheus", "one package decides which labels there are", []string{"vaultd/internal/metrics"}},
	{"vaultd/internal/retention", "the expire process alone knows how a content ends", []string{"vaultd/cmd/vaultd"}},
	{"github.com/gliderlabs/ssh", "one package faces the network", []string{"vaultd/internal/sshd"}},
	{"unsafe", "nothing but the filter of system calls, the attacker that tries it, and SO_PEERGROUPS, which x/sys does not have, needs it", []string{"vaultd/internal/confine", "vaultd/tests/confined", "vaultd/internal/admin"}},
}

type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	Standard   bool
}

// imports are the packages of this module, without tests.
func imports(t *testing.T) []pkg {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", "vaultd/...").Output()
	must(t, err)
	var all []pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

func TestImports(t *testing.T) {
	all := imports(t)
	have := map[string]pkg{}
	for _, p := range all {
		have[p.ImportPath] = p
	}
	for _, e := range edges {
		p, ok := have["vaultd/"+e.from]
		if !ok {
			t.Errorf("%s is not there: the rule guards nothing", e.from)
			continue
		}
		list := p.Deps
		if e.direct {
			list = p.Imports
		}
		for _, bad := range e.to {
			if slices.Contains(list, bad) {
				t.Errorf("%s imports %s: %s", e.from, bad, e.why)
			}
		}
	}
	for _, rule := range onlyFrom {
		for _, p := range all {
			if slices.Contains(p.Imports, rule.to) && !slices.Contains(rule.from, p.ImportPath) {
				t.Errorf("%s imports %s: %s", p.ImportPath, rule.to, rule.why)
			}
		}
	}
	// Protocols stand side by side.
	protocols := []string{"vaultd/internal/sftpserver", "vaultd/internal/shell", "vaultd/internal/rsync", "vaultd/internal/scp"}
	for _, p := range protocols {
		for _, q := range protocols {
			if p != q && slices.Contains(have[p].Deps, q) {
				t.Errorf("%s needs %s: no protocol package needs another", p, q)
			}
		}
	}
}

// The rules would notice: what is allowed is really imported somewhere.
func TestImportRulesBite(t *testing.T) {
	used := map[string]bool{}
	for _, p := range imports(t) {
		for _, i := range p.Imports {
			used[i] = true
		}
	}
	for _, rule := range onlyFrom {
		if len(rule.from) > 0 && !used[rule.to] {
			t.Errorf("nobody imports %s: the rule about it guards nothing", rule.to)
		}
	}
}
