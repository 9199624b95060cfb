package zfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var attacker = flag.String("attacker", "/mnt/host/attacker", "the program of tests/confined")

// try is how one cell is tried: whether it worked, and what was said.
type try func() (worked bool, said string)

// besieged is an installed store on ZFS: the server, expire and the helper with users of their own, alice (strict) and bob (versioned) with what
// must stay whole, and carol, whose data those may have who can.
type besieged struct {
	*server
	root     string // dataset
	socket   string // the helper's
	ids      map[string]string
	spare    string // id of a dataset that no tenant has
	stopped  int    // a server that the attacker holds still
	expire   *exec.Cmd
	helper   *exec.Cmd
	tries    map[string]try
	reports  map[string]try // of what is done and reported: whether it was, and where
	baseline string
}

const asServer = "setpriv --reuid vaultd --regid vaultd --clear-groups"
const asMember = "setpriv --reuid oper --regid oper --init-groups"
const asExpire = "setpriv --reuid vaultd-expire --regid vaultd-expire --init-groups --inh-caps +dac_override --ambient-caps +dac_override --bounding-set -all,+dac_override"

// besiege makes it all. What the units of systemd add to users, mounts that are read-only for expire, is made by inExpire.
func besiege(t testing.TB) *besieged {
	sh(t, `for u in vaultd vaultd-expire; do id $u >/dev/null 2>&1 || useradd --system --user-group --shell /usr/sbin/nologin $u; done; groupadd -f vaultd-admin
		usermod -aG vaultd,vaultd-admin vaultd-expire; id oper >/dev/null 2>&1 || useradd -m oper; usermod -aG vaultd-admin oper; rm -rf /srv/attackers; install -d -m 755 /srv/attackers`)
	b := &besieged{server: &server{t: t, dir: "/srv/attackers/vault", home: "/srv/attackers/home", as: "vaultd"}, root: *pool + "/attackers", socket: "/run/attackers.sock",
		ids: map[string]string{}, tries: map[string]try{}, reports: map[string]try{}}
	must(t, errors.Join(os.Mkdir(b.dir, 0o755), os.Mkdir(b.home, 0o700)))
	must(t, os.WriteFile(b.dir+"/vaultd.toml", []byte("[store]\nuser = \"vaultd\"\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 6\nbarrier_interval = \"300ms\"\nsegment_interval = \"1s\"\n"+
		"[expire]\nuser = \"vaultd-expire\"\n[zfs]\nhelper = \""+b.socket+"\"\n"), 0o600))
	sh(t, "install -m 755 %s /usr/local/bin/attacker; for k in key bob carol; do ssh-keygen -q -t ed25519 -N '' -f %s/$k; done", *attacker, b.home)
	b.vaultd("init", "--dataset", b.root, "--yes")
	t.Cleanup(func() { clean(t, b.root) })
	sh(t, "chown vaultd:vaultd-admin %[1]s/run; chmod 2750 %[1]s/run; zfs create %[2]s; zfs snapshot %[2]s@s; zfs hold vaultd %[2]s@s", b.dir, b.other())
	t.Cleanup(func() { clean(t, b.other()) })
	b.helper = b.start(*vaultd, "zfs-helper", "--dir", b.dir)
	waits(t, "the helper answers", time.Minute, "[ -S %s ]", b.socket)
	b.serve()
	t.Cleanup(func() {
		if b.cmd.ProcessState == nil {
			b.cmd.Process.Kill()
			b.cmd.Wait()
			time.Sleep(time.Second)
		}
		t.Logf("the server's log:\n%s", b.log)
	})
	for _, of := range [][]string{{"alice", "strict", "key", "* * * * *"}, {"bob", "versioned", "bob", ""}, {"carol", "strict", "carol", ""}} {
		name, key := of[0], of[2]
		b.vaultd("tenant", "add", name, "--mode", of[1], "--key", b.home+"/"+key+".pub", "--quota", "8M", "--lock", "2d", "--push-snapshots=false", "--snapshot", of[3])
		b.ids[name] = b.id(name)
		sh(t, "sed 's/User alice/User %[2]s/; s,%[1]s/key,%[1]s/%[3]s,' %[1]s/ssh.conf >%[1]s/%[2]s.conf", b.home, name, key)
		for _, file := range []string{"kept", "dropped", "other"} {
			must(t, os.WriteFile(b.home+"/"+file, []byte("the only copy of "+name+"'s "+file+"\n"), 0o600))
		}
		runs(t, b.client(name, "put kept", "put dropped", "put other"))
	}
	waits(t, "a scheduled snapshot", 3*time.Minute, "zfs list -Hr -t snapshot -o name %s | grep -- -scheduled", b.ds("alice"))
	for _, name := range []string{"alice", "bob", "carol"} {
		b.vaultd("snapshot", "create", name, "--name", "first")
	}
	b.vaultd("snapshot", "create", "carol", "--name", "second")
	b.vaultd("snapshot", "hold", "alice", "first", "--reason", "court")
	b.vaultd("snapshot", "hold", "carol", "second", "--reason", "court")
	sh(t, "zfs snapshot %s@loose", b.ds("carol"))
	b.vaultd("expire")
	b.expire = b.start("sh", "-c", "exec "+asExpire+" "+*vaultd+" expire --loop --dir "+b.dir)
	b.spare = filepath.Base(sh(t, "ls -d %s/tenants/t-* | grep -v -e %s -e %s -e %s | tail -1", b.dir, b.ids["alice"], b.ids["bob"], b.ids["carol"]))
	b.baseline = b.sealed()
	return b
}

func (b *besieged) ds(tenant string) string { return b.root + "/" + b.ids[tenant] }
func (b *besieged) other() string           { return *pool + "/attackers-other" }

// client is an sftp of a tenant's own, in the directory with its files.
func (b *besieged) client(tenant string, batch ...string) *exec.Cmd {
	cmd := exec.Command("sftp", "-q", "-F", b.home+"/"+tenant+".conf", "-b", "-", "vault")
	cmd.Dir, cmd.Stdin = b.home, strings.NewReader(strings.Join(batch, "\n")+"\n")
	return cmd
}

// start starts a process of the store's that ends with the test.
func (b *besieged) start(args ...string) *exec.Cmd {
	cmd, log := exec.Command(args[0], args[1:]...), &logBuffer{}
	cmd.Stderr = log
	must(b.t, cmd.Start())
	b.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		b.t.Logf("the log of %s:\n%s", strings.Join(args, " "), log)
	})
	return cmd
}

// sealed is what must not change of alice and bob: contents, closed segments, and bodies with their holds.
func (b *besieged) sealed() string {
	var out strings.Builder
	for _, name := range []string{"alice", "bob"} {
		out.WriteString(sh(b.t, "cd %s/tenants/%s; find format store journal/*.jsonl -type f | sort | xargs sha256sum | sed 's,^,%s ,'", b.dir, b.ids[name], name) + "\n")
		out.WriteString(sh(b.t, `zfs list -Hpr -d 1 -t snapshot -o name,guid,createtxg -s createtxg %s | grep @vaultd- | while read -r s rest; do echo "$s $rest $(zfs holds -H "$s" | cut -f2 | sort | xargs)"; done`, b.ds(name)) + "\n")
	}
	return out.String()
}

// whole returns what of the baseline is not there any more; more may have come.
func (b *besieged) whole() (missing []string) {
	now := b.sealed()
	for line := range strings.Lines(b.baseline) {
		if !strings.Contains(now, line) {
			missing = append(missing, strings.TrimSpace(line))
		}
	}
	return missing
}

// line is a try by a shell, in the store's directory, below a program that becomes somebody.
func (b *besieged) line(as, format string, args ...any) try {
	script := fmt.Sprintf(format, args...)
	return func() (bool, string) {
		cmd := exec.Command("timeout", append(append([]string{"60"}, strings.Fields(as)...), "sh", "-c", "PATH=$PATH:/usr/sbin; "+script)...)
		cmd.Dir = b.dir
		out, err := cmd.CombinedOutput()
		return err == nil, strings.TrimSpace(string(out))
	}
}

// by is a try by a command.
func by(cmd func() *exec.Cmd) try {
	return func() (bool, string) {
		out, err := cmd().CombinedOutput()
		return err == nil, strings.TrimSpace(string(out))
	}
}

// inExpire becomes expire as its unit has it: nothing can be written but the tenants' data and its own state; of the server's it sees nothing.
func (b *besieged) inExpire(format string, args ...any) try {
	script := fmt.Sprintf(format, args...)
	mounts := fmt.Sprintf("cd /; mount --bind %[1]s/expire %[1]s/expire; mount -t tmpfs -o ro none %[1]s/server; mount --bind /dev/null %[1]s/host_ed25519_key; mount -o remount,bind,ro /; cd %[1]s; exec %s sh -c \"$1\"", b.dir, asExpire)
	return func() (bool, string) {
		cmd := exec.Command("timeout", "60", "unshare", "-m", "--propagation", "slave", "sh", "-ec", mounts, "x", "PATH=$PATH:/usr/sbin; "+script)
		cmd.Dir = b.dir
		out, err := cmd.CombinedOutput()
		return err == nil, strings.TrimSpace(string(out))
	}
}

// answer is what the attacker's program prints.
type answer struct {
	Group, Name, Detail string
	Worked              bool
}

func answers(t testing.TB, cmd *exec.Cmd) (all []answer) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Errorf("%s: %v\n%s%s", strings.Join(cmd.Args, " "), err, out.String(), errs.String())
	}
	for d := json.NewDecoder(&out); d.More(); {
		var a answer
		must(t, d.Decode(&a))
		all = append(all, a)
	}
	return all
}

// ask is a try by calls on a socket: it worked when one of them did.
func (b *besieged) ask(as, at string, questions ...string) try {
	return func() (bool, string) {
		cmd := exec.Command("timeout", append(append([]string{"100"}, strings.Fields(as)...), "/usr/local/bin/attacker", "ask", at)...)
		cmd.Stdin = strings.NewReader(strings.Join(questions, "\n"))
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		return err == nil && strings.Contains(out.String(), `"Worked":true`), strings.TrimSpace(out.String() + errs.String())
	}
}

// question is one call, for ask.
func question(verb, args string) string { return fmt.Sprintf(`{"Verb":%q,"Args":%s}`, verb, args) }

// noRefusal is what says that an attempt was not refused, but never made.
var noRefusal = regexp.MustCompile(`command not found|[Uu]sage|unknown option|unrecognized option|Syntax error|cannot exec|failed to execute`)

// The table of docs/zfs-attackers.md, cell by cell, and in the end all that is sealed is whole.
func TestAttackers(t *testing.T) {
	began := time.Now()
	b := besiege(t)
	t.Logf("besieged after %v", time.Since(began).Round(time.Second))
	b.thief()
	b.confined()
	b.unconfined()
	b.expirer()
	b.member()
	b.operator()
	for _, a := range Attempts() {
		key := a.Who + ": " + a.What
		do := b.tries[key]
		if do == nil {
			t.Errorf("%s: nobody tries it", key)
			continue
		}
		delete(b.tries, key)
		worked, said := do()
		t.Logf("%s %s: %t\n%s", time.Since(began).Round(time.Second), key, worked, said)
		switch {
		case worked != (a.Verdict != CanNot):
			t.Errorf("%s: worked is %t, the table says: %s\n%s", key, worked, a.Verdict, said)
		case !worked && (said == "" || noRefusal.MatchString(said)):
			t.Errorf("%s: that is no refusal: %q", key, said)
		}
		if report := b.reports[key]; (report != nil) != (a.Verdict == Told || a.Verdict == Waits) {
			t.Errorf("%s: %s, and a report is looked for: %t", key, a.Verdict, report != nil)
		} else if report != nil {
			delete(b.reports, key)
			if told, where := report(); !told {
				t.Errorf("%s: it is not reported:\n%s", key, where)
			}
		}
	}
	for key := range b.tries {
		t.Errorf("%s: not in the table", key)
	}
	b.after()
	t.Logf("all after %v", time.Since(began).Round(time.Second))
}

// after is what must be so when all attacks were made.
func (b *besieged) after() {
	t := b.t
	for _, m := range b.whole() {
		t.Errorf("not as it was: %s", m)
	}
	os.Remove(fmt.Sprintf("%s/tenants/%s/files/other", b.dir, b.ids["bob"])) // which the attacker in the server replaced
	b.vaultd("rebuild", "--tree", "bob")
	for _, name := range []string{"alice", "bob"} {
		b.vaultd("journal", "verify", name)
		b.vaultd("verify", name)
		b.vaultd("snapshot", "verify", name, "first", "--hash")
		for _, file := range []string{"kept", "dropped", "other"} {
			want := "the only copy of " + name + "'s " + file + "\n"
			for _, at := range []string{"files", ".zfs/snapshot/vaultd-first/files"} {
				if got, err := os.ReadFile(filepath.Join(b.dir, "tenants", b.ids[name], at, file)); err != nil || string(got) != want {
					t.Errorf("%s of %s in %s: %q, %v", file, name, at, got, err)
				}
			}
		}
	}
	b.vaultd("snapshot", "verify", "alice", "--all", "--hash")
	// One of the time when a name in the live tree was the attacker's is not what the index says, and is told apart.
	if differs, said := b.complains("snapshot", "verify", "bob", "mine", "--hash")(); !differs || !strings.Contains(said, `"/other": size`) {
		t.Errorf("the replaced name in a later snapshot: %s", said)
	}
	b.stop()
	for _, cmd := range []*exec.Cmd{b.helper, b.expire} {
		if err := cmd.Process.Signal(syscall.Signal(0)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s has ended: %v", cmd.Args[0], err)
		}
	}
}
