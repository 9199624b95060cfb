package tests

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pkg/sftp"

	"vaultd/internal/confine"
)

var updateDocs = flag.Bool("update-docs", false, "write the tables that tests make into docs/")

// scene is what the attacker (tests/confined) is told.
type scene struct {
	Store, Victim, Own, Spare, HostKey string
	Supervisor, Expire                 int
	Program, Only                      string
}

type attempted struct {
	Group, Name, Detail string
	Worked              bool
}

const permitted = "what it can do"

// buildAttacker builds it without the race detector, static as a release of vaultd is.
func buildAttacker(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "attacker")
	cmd := exec.Command("go", "build", "-o", bin, "vaultd/tests/confined")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build attacker: %v\n%s", err, out)
	}
	return bin
}

// tryAttack runs the attacker and returns what became of its attempts.
func tryAttack(t *testing.T, bin, how string, s scene) []attempted {
	t.Helper()
	text, err := json.Marshal(s)
	must(t, err)
	cmd := exec.Command(bin, how, string(text))
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("attacker: %v\n%s%s", err, out.String(), errs.String())
	}
	var list []attempted
	for d := json.NewDecoder(&out); d.More(); {
		var a attempted
		must(t, d.Decode(&a))
		list = append(list, a)
	}
	return list
}

// children are the processes of the supervisor: the server, and expire.
func (v *vault) children(t testing.TB) (server, expire int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); server == 0 || expire == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("server %d, expire %d: one is missing\n%s", server, expire, v.log)
		}
		server, expire = 0, 0
		lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", v.cmd.Process.Pid))
		must(t, err)
		for _, l := range lists {
			b, _ := os.ReadFile(l)
			for _, f := range strings.Fields(string(b)) {
				line, _ := os.ReadFile("/proc/" + f + "/cmdline")
				pid, err := strconv.Atoi(f)
				must(t, err)
				switch args := strings.Split(string(line), "\x00"); {
				case slices.Contains(args, "--enter"): // not there yet
				case slices.Contains(args, "serve-confined"):
					server = pid
				case slices.Contains(args, "expire"):
					expire = pid
				}
			}
		}
	}
	return server, expire
}

// killServer kills the server and not its supervisor, and returns when it is dead.
func (v *vault) killServer(t testing.TB) {
	t.Helper()
	server, _ := v.children(t)
	must(t, syscall.Kill(server, syscall.SIGKILL))
	gone(t, server)
}

// digests are the names, kinds and contents of everything below the directories.
func digests(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for _, dir := range dirs {
		must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				all[p] = fmt.Sprint(d.Type())
				return err
			}
			b, err := os.ReadFile(p)
			all[p] = fmt.Sprintf("%x", sha256.Sum256(b))
			return err
		}))
	}
	return all
}

// tenantID is the id of a tenant, as the directory is called.
func (v *vault) tenantID(t *testing.T, name string) string {
	t.Helper()
	out, err := v.vaultd("tenant", "show", name, "--json")
	must(t, err)
	var reply struct {
		Data struct {
			ID string `json:"id"`
		}
	}
	must(t, json.Unmarshal([]byte(out), &reply))
	if reply.Data.ID == "" {
		t.Fatalf("no id in %s", out)
	}
	return reply.Data.ID
}

// sealedVault is a served store in which alice and bob have sealed contents and closed segments, and expire a state.
func sealedVault(t *testing.T) (*vault, scene) {
	t.Helper()
	v, err := newVault(t.TempDir(), "--mode", "versioned")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config+"barrier_interval = \"300ms\"\nspare_slots = 4\n"), 0o600))
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	for _, who := range []string{"alice", "bob"} {
		for _, name := range []string{"kept", "dropped", "other"} {
			must(t, os.WriteFile(filepath.Join(v.root, name), []byte("the only copy of "+who+"'s "+name+"\n"), 0o600))
			if out, err := v.as(who, "sftp", "put "+name).CombinedOutput(); err != nil {
				t.Fatalf("put: %v\n%s", err, out)
			}
		}
		if out, err := v.vaultd("snapshot", "create", who); err != nil {
			t.Fatalf("snapshot: %v\n%s", err, out)
		}
	}
	if out, err := v.vaultd("expire"); err != nil {
		t.Fatalf("expire: %v\n%s", err, out)
	}
	s := scene{Store: v.dir, Victim: v.tenantID(t, "alice"), Own: v.tenantID(t, "bob"), HostKey: filepath.Join(v.dir, "host_ed25519_key"), Supervisor: v.cmd.Process.Pid}
	_, s.Expire = v.children(t)
	if s.Program, err = exec.LookPath("true"); err != nil {
		t.Fatal(err)
	}
	spares, err := filepath.Glob(filepath.Join(v.dir, "spare", "0*"))
	must(t, err)
	s.Spare = filepath.Base(spares[0])
	sealed := func() int {
		list, _ := filepath.Glob(filepath.Join(v.dir, "tenants", "*", "store", "*", "*"))
		return len(list)
	}
	for deadline := time.Now().Add(30 * time.Second); sealed() < 6; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d contents are sealed, want 6", sealed())
		}
	}
	for _, pattern := range []string{"tenants/*/journal/*.jsonl", "expire/" + s.Victim + "/state.db"} {
		if list, _ := filepath.Glob(filepath.Join(v.dir, pattern)); len(list) == 0 {
			t.Fatalf("there is no %s to attack", pattern)
		}
	}
	return v, s
}

// An attacker with full code execution in the server, as root when the tests run as root. What is sealed stays as it is to the byte, and the
// table of what it can and can not do is the one in docs/confinement.md.
func TestConfinedAttacker(t *testing.T) {
	t.Parallel()
	must(t, fullLandlock(confine.Probe().ABI))
	v, s := sealedVault(t)
	bin := buildAttacker(t)
	dirs := []string{filepath.Join(v.dir, "vaultd.db"), filepath.Join(v.dir, "vaultd.toml"), s.HostKey, filepath.Join(v.dir, "expire")}
	for _, id := range []string{s.Victim, s.Own} {
		for _, sub := range []string{"store", "journal", "format"} {
			dirs = append(dirs, filepath.Join(v.dir, "tenants", id, sub))
		}
	}
	before := digests(t, dirs...)
	results := tryAttack(t, bin, "enter", s)
	if diff := cmp.Diff(before, digests(t, dirs...)); diff != "" {
		t.Errorf("what is sealed has changed:\n%s", diff)
	}
	for _, r := range results {
		if r.Worked != (r.Group == permitted) {
			t.Errorf("%s: %s: worked is %t (%s)", r.Group, r.Name, r.Worked, r.Detail)
		}
		if strings.Contains(r.Detail, "no such file") { // that is no refusal
			t.Errorf("%s: %s: what it is about is not there: %s", r.Group, r.Name, r.Detail)
		}
		t.Logf("%s: %s: %t, %s", r.Group, r.Name, r.Worked, r.Detail)
	}
	if len(results) < 250 {
		t.Errorf("only %d attempts were made", len(results))
	}
	for _, pid := range []int{s.Supervisor, s.Expire} {
		if err := syscall.Kill(pid, 0); err != nil {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	// What it dropped from the live tree is made again from what it could not reach.
	name := func(n string) string { return filepath.Join(v.dir, "tenants", s.Victim, "files", n) }
	if _, err := os.Lstat(name("dropped")); err == nil {
		t.Error("the name that the attacker can drop is still there")
	}
	if b, _ := os.ReadFile(name("other")); string(b) != "mine" {
		t.Errorf("the name that the attacker can replace has %q", b)
	}
	must(t, os.Remove(name("other"))) // vaultd never drops the only link of a content; whoever looks at it does
	if out, err := v.vaultd("rebuild", "--tree", "alice"); err != nil {
		t.Errorf("rebuild: %v\n%s", err, out)
	}
	for _, n := range []string{"kept", "dropped", "other"} {
		if b, err := os.ReadFile(name(n)); err != nil || string(b) != "the only copy of alice's "+n+"\n" {
			t.Errorf("%s after the rebuild: %q, %v", n, b, err)
		}
	}
	v.audit(t)
	checkTable(t, results)
}

// fullLandlock is an error on a kernel whose Landlock leaves something of the table to the filter of system calls alone (tests/zfs runs it there).
func fullLandlock(abi int) error {
	if abi < 3 {
		return fmt.Errorf("this host's Landlock has ABI %d (0: none): the table needs 3, which is Linux 6.2 with landlock in lsm=", abi)
	}
	return nil
}

// Where the table can not be tried it is no test that passes, nor one that is skipped.
func TestConfinedAttackerNeedsLandlock(t *testing.T) {
	for abi := range 9 {
		if err := fullLandlock(abi); (err == nil) != (abi >= 3) {
			t.Errorf("ABI %d: %v", abi, err)
		}
	}
}

// checkTable compares the results with docs/confinement.md, or writes them there.
func checkTable(t *testing.T, results []attempted) {
	t.Helper()
	const file, begin, end = "../docs/confinement.md", "<!-- made by TestConfinedAttacker -->\n", "<!-- end -->\n"
	var b strings.Builder
	group := ""
	for _, r := range results {
		if r.Group != group {
			group = r.Group
			fmt.Fprintf(&b, "\n**%s**\n\n| attempt | |\n|---|---|\n", group)
		}
		outcome := "refused"
		if r.Worked {
			outcome = "works"
		}
		fmt.Fprintf(&b, "| %s | %s |\n", r.Name, outcome)
	}
	b.WriteString("\n")
	text, err := os.ReadFile(file)
	must(t, err)
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the table", file)
	}
	if *updateDocs {
		must(t, os.WriteFile(file, []byte(head+begin+b.String()+end+tail), 0o644))
		return
	}
	if diff := cmp.Diff(old, b.String()); diff != "" {
		t.Errorf("%s does not say what is so (go test ./tests -run TestConfinedAttacker -update-docs):\n%s", file, diff)
	}
}

// The attempts are real: without the confinement they work. Some never do on a descriptor that can only read, and some need root or a file system that can.
func TestAttacksAreReal(t *testing.T) {
	t.Parallel()
	v, s := sealedVault(t)
	bin := buildAttacker(t)
	skip := []string{"truncate it by a descriptor", "punch a hole into it", "map it for writing", "clone other bytes over it", "copy other bytes over it",
		"set its flags (chattr)", "open it for writing by its handle", "mount another file over it"}
	list := tryAttack(t, bin, "bare", scene{Store: v.dir, Victim: s.Victim, Own: s.Own, HostKey: s.HostKey, Only: "none"})
	if len(list) != 0 {
		t.Fatal("the attacker made an attempt that nobody asked for")
	}
	tried := 0
	for _, name := range fileAttempts {
		if slices.Contains(skip, name) {
			continue
		}
		for _, class := range []string{"a sealed content", "a closed journal segment", "expire's state", "the catalog"} {
			c := s
			c.Store = filepath.Join(t.TempDir(), "copy")
			if out, err := exec.Command("cp", "-a", v.dir, c.Store).CombinedOutput(); err != nil {
				t.Fatalf("copy: %v\n%s", err, out)
			}
			c.HostKey = filepath.Join(c.Store, "host_ed25519_key")
			c.Only = class + ": " + name
			got := tryAttack(t, bin, "bare", c)
			if len(got) != 1 || !got[0].Worked {
				t.Errorf("%s: without confinement: %+v", c.Only, got)
			}
			tried++
		}
	}
	if tried < 40 {
		t.Errorf("only %d attempts were shown to be real", tried)
	}
}

// fileAttempts are the names of the attacker's verbs; that none is forgotten shows in the table.
var fileAttempts = []string{"open it for writing", "open it for reading and writing", "open it for appending", "open it for writing, cutting it",
	"open it for reading, cutting it", "open it for writing with openat2", "open it for writing by way of /proc/self/fd", "truncate it by its path",
	"unlink it", "rename it away", "rename another file over it", "exchange it with another file", "link it to where it can be written",
	"write through a symlink to it"}

// Every thread of the real server is inside.
func TestServerIsConfined(t *testing.T) {
	t.Parallel()
	v, s := sealedVault(t)
	server, _ := v.children(t)
	var stop []func()
	for range 8 { // work for more threads
		c, err := sftp.NewClient(v.dial(t, "alice", "alice"))
		must(t, err)
		stop = append(stop, func() { c.Close() })
		_, err = c.ReadDir("/")
		must(t, err)
	}
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", server))
	must(t, err)
	for _, f := range threads {
		b, err := os.ReadFile(f)
		must(t, err)
		for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n", "CapEff:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapInh:\t0000000000000000\n", "CapAmb:\t0000000000000000\n"} {
			if !strings.Contains(string(b), want) {
				t.Errorf("%s lacks %q:\n%s", f, want, b)
			}
		}
	}
	if len(threads) < 3 {
		t.Errorf("%d threads: too few to show anything", len(threads))
	}
	for _, f := range stop {
		f()
	}
	out, err := v.vaultd("status", "--json")
	must(t, err)
	for _, want := range []string{`"mode":"on"`, `"p1_physical":true`, `"spare_slots":4`} {
		if !strings.Contains(out, want) {
			t.Errorf("status lacks %s: %s", want, out)
		}
	}
	if !strings.Contains(v.log.String(), "the server is confined (Landlock ABI ") {
		t.Errorf("the log does not say so:\n%s", v.log)
	}
	// The descriptors that it has lead nowhere else: none of expire's, and the catalog's not for writing.
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", server))
	must(t, err)
	for _, fd := range fds {
		to, err := os.Readlink(fd)
		if err == nil && (strings.HasPrefix(to, filepath.Join(s.Store, "expire")) || strings.HasSuffix(to, "/vaultd.db")) {
			t.Errorf("the server has %s open", to)
		}
	}
}

// More tenants come than datasets were made ahead: the server is replaced between two of them, and nobody is refused.
func TestMoreTenantsThanSpares(t *testing.T) {
	t.Parallel()
	v, _ := sealedVault(t)
	first, _ := v.children(t)
	put := func(name string) (string, error) {
		c := v.dial(t, name, name)
		defer c.Close()
		s, err := sftp.NewClient(c)
		if err != nil {
			return "", err
		}
		defer s.Close()
		f, err := s.Create("/hello")
		if err != nil {
			return "", err
		}
		_, err = f.Write([]byte(name))
		return name, errors.Join(err, f.Close())
	}
	var names []string
	for i := range 9 {
		name := fmt.Sprintf("late%d", i)
		names = append(names, name)
		must(t, os.Mkdir(filepath.Join(v.ids, name), 0o700))
		key := filepath.Join(v.ids, name, "key")
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("make a key: %v\n%s", err, out)
		}
		out, err := v.vaultd("tenant", "add", name, "--key", key+".pub")
		if err != nil {
			t.Fatalf("add: %v\n%s", err, out)
		}
		if _, err := put(name); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, v.log)
		}
		if i%3 == 2 { // three of four are taken: it goes as soon as nobody is there
			for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
				if now, _ := v.children(t); now != first {
					first = now
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("the server was not replaced:\n%s", v.log)
				}
			}
		}
	}
	for _, name := range names {
		if b, err := os.ReadFile(filepath.Join(v.dir, "tenants", v.tenantID(t, name), "files", "hello")); err != nil || string(b) != name {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	v.audit(t)
}
