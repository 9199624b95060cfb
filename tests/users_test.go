package tests

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"vaultd/internal/journal"
	"vaultd/internal/volume"
)

// The users of Debian's base-passwd play those of an installed store (deploy/systemd/sysusers.conf): they are on every machine, and have nothing.
const (
	playsServer   = "backup"
	playsExpire   = "list"
	playsOperator = "irc" // is in expire's group, which has the socket of the commands here
)

func credential(t *testing.T, name string, groups ...string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup(name)
	must(t, err)
	number := func(s string) uint32 {
		n, err := strconv.ParseUint(s, 10, 32)
		must(t, err)
		return uint32(n)
	}
	c := &syscall.Credential{Uid: number(u.Uid), Gid: number(u.Gid)}
	for _, name := range groups {
		g, err := user.LookupGroup(name)
		must(t, err)
		c.Groups = append(c.Groups, number(g.Gid))
	}
	return c
}

// usersVault is a store of three users below a directory that all of them reach.
func usersVault(t *testing.T) *vault {
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: this test has several users")
		}
		t.Skip("several users need root: run tests/run as root to see this one")
	}
	root := t.TempDir()
	for _, d := range []string{root, filepath.Dir(root), filepath.Dir(os.Getenv(vaultdBin))} {
		must(t, os.Chmod(d, 0o711))
	}
	v := &vault{root: root, dir: filepath.Join(root, "vault"), ids: filepath.Join(root, "ids"), addr: "127.0.0.1:0", log: &logBuffer{}}
	must(t, makeIDs(v.ids))
	must(t, os.Mkdir(v.dir, 0o755))
	toml := config + fmt.Sprintf("user = %q\n\n[expire]\nuser = %q\ncool_down = \"1h\"\n", playsServer, playsExpire)
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(toml), 0o600))
	_, err := v.vaultd("init")
	must(t, err)
	run := filepath.Join(v.dir, "run") // as tmpfiles.conf makes it
	server, expire := credential(t, playsServer), credential(t, playsExpire)
	must(t, os.Chown(run, int(server.Uid), int(expire.Gid)))
	must(t, os.Chmod(run, 0o750|fs.ModeSetgid))
	_, err = v.vaultd("tenant", "add", "alice", "--key", v.key("alice"), "--mode", "versioned")
	must(t, err)
	v.user = server
	t.Cleanup(func() { must(t, v.stop()) })
	return v
}

// owners wants everything below a directory of the store to be one user's.
func (v *vault) owners(t *testing.T, who *syscall.Credential, dir string) {
	t.Helper()
	n := 0
	must(t, filepath.WalkDir(filepath.Join(v.dir, dir), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := d.Info()
		if err != nil {
			return err
		}
		n++
		if s := i.Sys().(*syscall.Stat_t); s.Uid != who.Uid {
			t.Errorf("%s is user %d's, not %d's", path, s.Uid, who.Uid)
		}
		return nil
	}))
	if n == 0 {
		t.Errorf("%s: nothing is there", dir)
	}
}

// command is one of vaultd's, by somebody.
func (v *vault) command(who *syscall.Credential, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Getenv(vaultdBin), append(args, "--dir", v.dir)...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: who}
	return cmd
}

// Three users have one store, and root gives the commands: with a server and without one, everybody's files stay their own.
func TestUsers(t *testing.T) {
	t.Parallel()
	v := usersVault(t)
	server, expire := v.user, credential(t, playsExpire)
	must(t, v.serve())
	v.push(t, "one", "the first\n")
	v.push(t, "one", "the second\n")
	if out, err := exec.Command("pgrep", "-P", strconv.Itoa(v.cmd.Process.Pid)).Output(); err != nil || len(strings.Fields(string(out))) != 1 {
		t.Errorf("the supervisor's children: %q, %v; want the server alone", out, err)
	}
	root := func(args ...string) string {
		t.Helper()
		out, err := v.vaultd(args...)
		must(t, err)
		return out
	}
	root("snapshot", "create", "alice", "--name", "first")
	root("expire", "alice")
	root("space", "alice")
	v.owners(t, expire, "expire")

	// A member of the socket's group can ask the server; a stranger can not, and neither can read the catalog.
	operator := credential(t, playsOperator, playsExpire)
	if out, err := v.command(operator, "snapshot", "list", "alice").CombinedOutput(); err != nil || !bytes.Contains(out, []byte("first")) {
		t.Errorf("the operator's group: %v\n%s", err, out)
	}
	if out, err := v.command(operator, "tenant", "set", "alice", "--quota", "1G").CombinedOutput(); err == nil {
		t.Errorf("the operator's group can write the catalog:\n%s", out)
	}
	if out, err := v.command(credential(t, playsOperator), "snapshot", "list", "alice").CombinedOutput(); err == nil {
		t.Errorf("a stranger gives commands:\n%s", out)
	}
	v.onlyExpireFrees(t, operator)
	v.doctorFinds(t, "")

	// Without a server.
	must(t, v.stop())
	root("snapshot", "create", "alice", "--name", "second")
	root("verify", "alice")
	root("quota", "recount", "alice")
	root("key", "list", "alice")
	root("restore", "alice", "one", "--to", filepath.Join(v.root, "back"))
	if got, err := os.ReadFile(filepath.Join(v.root, "back", "one")); err != nil || string(got) != "the second\n" {
		t.Errorf("restored %q, %v", got, err)
	}
	if out, err := v.vaultd("expire", "alice"); err == nil || !strings.Contains(err.Error(), "no server can journal") {
		t.Errorf("expire without a server: %v\n%s", err, out)
	}
	root("expire", "alice", "--dry-run")
	for _, dir := range []string{"tenants", "server", "spare", "lock"} {
		v.owners(t, server, dir)
	}
	v.owners(t, expire, "expire")
	root("init") // once more is no harm
	v.owners(t, server, "tenants")
	must(t, v.serve())
	v.push(t, "two", "still served\n")
}

// onlyExpireFrees has a member of the socket's group make expire's own call: the journal would say that alice's snapshot has no name any more.
func (v *vault) onlyExpireFrees(t *testing.T, member *syscall.Credential) {
	t.Helper()
	bin := buildAttacker(t)
	for _, d := range []string{filepath.Dir(bin), filepath.Dir(filepath.Dir(bin))} {
		must(t, os.Chmod(d, 0o711))
	}
	list, err := v.vaultd("snapshot", "list", "alice", "--json")
	must(t, err)
	var reply struct {
		Data []struct{ Name string }
	}
	must(t, json.Unmarshal([]byte(list), &reply))
	cmd := exec.Command(bin, "ask", v.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: member}
	var all []string
	for seq := range 40 {
		all = append(all, fmt.Sprintf(`{"Verb":"freed","Args":{"tenant":"alice","dropped":[%d]}}`, seq))
	}
	cmd.Stdin = strings.NewReader(strings.Join(all, "\n"))
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("only the expire process")) || bytes.Contains(out, []byte(`"Worked":true`)) {
		t.Errorf("freed by a member of the group: %v\n%s", err, out)
	}
	if after, err := v.vaultd("snapshot", "list", "alice", "--json"); err != nil || len(reply.Data) == 0 || after != list {
		t.Errorf("snapshots were %s, and are %s, %v", list, after, err)
	}
}

// What each user can not do to the store, by the kernel alone.
func TestUsersApart(t *testing.T) {
	t.Parallel()
	v := usersVault(t)
	must(t, v.serve())
	v.push(t, "one", "the first\n")
	_, err := v.vaultd("expire", "alice")
	must(t, err)
	contents, err := filepath.Glob(filepath.Join(v.dir, "tenants/*/store/*/*"))
	if err != nil || len(contents) == 0 {
		t.Fatalf("nothing is stored: %v", err)
	}
	server, expire, nobody := v.user, credential(t, playsExpire), credential(t, "nobody")
	at := func(name string) string { return filepath.Join(v.dir, name) }
	for _, c := range []struct {
		who  string
		as   *syscall.Credential
		line string
	}{
		// Code execution in the supervisor, which is not confined: it can not let keys in, weaken a policy, or touch what decides of freeing.
		{"server", server, "echo >> " + at("vaultd.db")},
		{"server", server, "mv " + at("vaultd.db") + " " + at("old.db")},
		{"server", server, "rm -f " + at("vaultd.db")},
		{"server", server, "cp /dev/null " + at("vaultd.db.new")},
		{"server", server, "mv " + at("expire") + " " + at("gone")},
		{"server", server, "ls " + at("expire")},
		{"server", server, "cp /dev/null " + at("expire/lock")},
		{"server", server, "echo 'confine = \"off\"' >> " + at("vaultd.toml")},
		// expire, without its capability: only that lets it into what the server has.
		{"expire", expire, "rm -f " + contents[0]},
		{"expire", expire, "cat " + at("host_ed25519_key")},
		{"expire", expire, "echo >> " + at("vaultd.db")},
		{"anybody", nobody, "ls " + v.dir},
		{"anybody", nobody, "ls " + at("tenants")},
		{"anybody", nobody, "cat " + at("vaultd.db")},
		{"anybody", nobody, "cat " + at("vaultd.toml")},
		{"anybody", nobody, "cat " + at("host_ed25519_key")},
	} {
		cmd := exec.Command("sh", "-c", c.line)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.as}
		if out, err := cmd.CombinedOutput(); err == nil || !bytes.Contains(out, []byte("denied")) {
			t.Errorf("%s: %s: %v, want it refused\n%s", c.who, c.line, err, out)
		}
	}
	v.doctorFinds(t, "")
	must(t, os.Chown(at("vaultd.db"), int(server.Uid), int(server.Gid)))
	v.doctorFinds(t, "vaultd.db belongs to")
	_, err = v.vaultd("init")
	must(t, err)
	must(t, os.Chmod(at("expire"), 0o777))
	v.doctorFinds(t, "expire has mode 0777")
	_, err = v.vaultd("init")
	must(t, err)
	v.doctorFinds(t, "")
}

// A store of one user's becomes one of several by init, but never under a running server.
func TestUsersLater(t *testing.T) {
	t.Parallel()
	v := usersVault(t)
	must(t, exec.Command("chown", "-R", "root:root", filepath.Join(v.dir, "tenants"), filepath.Join(v.dir, "server"), filepath.Join(v.dir, "spare"),
		filepath.Join(v.dir, "expire"), filepath.Join(v.dir, "run"), filepath.Join(v.dir, "lock"), filepath.Join(v.dir, "host_ed25519_key")).Run())
	server := v.user
	v.user = nil
	toml := filepath.Join(v.dir, "vaultd.toml")
	several, err := os.ReadFile(toml)
	must(t, err)
	must(t, os.WriteFile(toml, []byte(config), 0o600))
	must(t, v.serve())
	v.push(t, "one", "of one user\n")
	must(t, os.WriteFile(toml, several, 0o600))
	if _, err := v.vaultd("init"); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("under a running server: %v", err)
	}
	must(t, v.stop())
	_, err = v.vaultd("init")
	must(t, err)
	for _, dir := range []string{"tenants", "server", "spare"} {
		v.owners(t, server, dir)
	}
	v.user = server
	must(t, v.serve())
	v.push(t, "two", "of several\n")
}

// freeIn names, in the environment of this binary, a dataset: it then does there what the expire process does to one content.
const freeIn = "E2E_FREE_IN"

func free(dataset, content string) int {
	id, err := journal.ParseID(filepath.Base(content))
	var f *volume.Freer
	if err == nil {
		f, err = volume.OpenFreer(dataset)
	}
	if err == nil {
		var st os.FileInfo
		if st, err = os.Stat(content); err == nil {
			_, err = f.Free(id, st.Size())
		}
		err = errors.Join(err, f.Sync(), f.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// The expire process needs one power to end a content in datasets that are the server's, and what has a live name it can not end with that either.
func TestUsersFree(t *testing.T) {
	t.Parallel()
	v := usersVault(t)
	must(t, v.serve())
	v.push(t, "one", "the first\n")
	v.push(t, "one", "the second, longer\n")
	must(t, v.stop())
	contents, err := filepath.Glob(filepath.Join(v.dir, "tenants/*/store/*/*"))
	if err != nil || len(contents) != 2 {
		t.Fatalf("stored: %q, %v", contents, err)
	}
	dataset := filepath.Dir(filepath.Dir(filepath.Dir(contents[0])))
	expire := credential(t, playsExpire, playsServer)
	try := func(content string, caps ...uintptr) (string, error) {
		cmd := exec.Command("/proc/self/exe", content)
		cmd.Env = append(os.Environ(), freeIn+"="+dataset)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: expire, AmbientCaps: caps}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	for _, c := range contents {
		st, err := os.Stat(c)
		must(t, err)
		live := st.Sys().(*syscall.Stat_t).Nlink > 1
		if out, err := try(c); !live && (err == nil || !strings.Contains(out, "permission denied")) {
			t.Errorf("without its capability: %v\n%s", err, out)
		}
		out, err := try(c, unix.CAP_DAC_OVERRIDE)
		if live == (err == nil) {
			t.Errorf("live %v: %v\n%s", live, err, out)
		}
		if _, err := os.Stat(c); live == (err != nil) {
			t.Errorf("live %v: afterwards: %v", live, err)
		}
	}
}

// push stores a file under a name, and reads it back.
func (v *vault) push(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(v.root, name)
	must(t, os.WriteFile(file, []byte(text), 0o600))
	v.works(t, "alice", "sftp", "put "+file+" "+name)
	v.works(t, "alice", "sftp", "get "+name+" "+file+".back")
	if got, err := os.ReadFile(file + ".back"); err != nil || string(got) != text {
		t.Fatalf("read back %q, %v", got, err)
	}
}

// doctorFinds wants vaultd doctor to complain about owners and modes with words, or not at all.
func (v *vault) doctorFinds(t *testing.T, words string) {
	t.Helper()
	out, _ := exec.Command(os.Getenv(vaultdBin), "doctor", "--json", "--dir", v.dir).Output() // its status is about the whole machine
	var report struct {
		Data struct {
			Checks []struct{ Name, Verdict, Found string }
		}
	}
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("doctor: %v\n%s", err, out)
	}
	seen := false
	for _, c := range report.Data.Checks {
		if c.Name != "permissions" {
			continue
		}
		seen = true
		switch {
		case words == "" && c.Verdict != "ok":
			t.Errorf("doctor: %s", c.Found)
		case words != "" && (c.Verdict != "fail" || !strings.Contains(c.Found, words)):
			t.Errorf("doctor says %s: %s; want %q", c.Verdict, c.Found, words)
		}
	}
	if !seen {
		t.Errorf("doctor says nothing of permissions:\n%s", out)
	}
}
