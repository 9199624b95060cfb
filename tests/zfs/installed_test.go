package zfs

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The package on a machine whose process 1 is systemd, in two boots of the same root disk: TestInstalled and TestInstalledBack, which run starts by
// their names. -packages has two versions of it, old.deb and new.deb.
var packages = flag.String("packages", "/mnt/host", "directory with old.deb and new.deb")

const (
	installedStore = "/var/lib/vaultd"
	installedHome  = "/root/alice"
)

// patience is for what a busy emulated machine does in the end.
const patience = 10 * time.Minute

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			out, _ := exec.Command("journalctl", "-b", "--no-pager", "-n", "60", "-u", "vaultd*").CombinedOutput()
			t.Fatalf("%s: not within %v\n%s", what, patience, out)
		}
	}
}

// property is what systemd says of a unit.
func property(t testing.TB, unit, name string) string {
	t.Helper()
	return sh(t, "systemctl show --value -p %s %s", name, unit)
}

func active(t testing.TB, unit string) bool { return property(t, unit, "ActiveState") == "active" }

// step tells how far it is: under emulation each takes long.
func step(t testing.TB, what string) { t.Logf("%s: %s", time.Now().Format(time.TimeOnly), what) }

// installed is the installed server's clients' side.
func installed(t testing.TB) *server {
	s := &server{t: t, dir: installedStore, home: installedHome}
	if _, err := os.Stat(installedHome + "/key"); err != nil {
		must(t, os.MkdirAll(installedHome, 0o700))
		sh(t, "ssh-keygen -q -t ed25519 -N '' -C alice -f %s/key", installedHome)
	}
	return s
}

// know writes alice's configuration, once there is a host key.
func (s *server) know() {
	key, err := os.ReadFile(installedStore + "/host_ed25519_key.pub")
	must(s.t, err)
	s.configure("127.0.0.1", "2222", key)
}

// push stores a file and reads it back.
func (s *server) push(name string, size int) {
	s.t.Helper()
	file := filepath.Join(s.home, name)
	must(s.t, os.WriteFile(file, noise(name, size), 0o600))
	runs(s.t, s.sftp("put "+file+" "+name, "get "+name+" "+file+".back"))
	sh(s.t, "cmp %s %[1]s.back && rm %[1]s.back", file)
}

func TestInstalled(t *testing.T) {
	s := installed(t)
	step(t, "install")
	sh(t, "apt-get install -y %s/old.deb 2>&1", *packages)
	for _, u := range []string{"vaultd.service", "vaultd.socket", "vaultd-expire.service"} {
		if got := property(t, u, "UnitFileState"); got != "enabled" {
			t.Errorf("%s is %s", u, got)
		}
		if active(t, u) {
			t.Errorf("%s was started without a store", u)
		}
	}
	sh(t, "systemctl start vaultd.service vaultd.socket") // as a boot would
	if active(t, "vaultd.service") || active(t, "vaultd.socket") {
		t.Error("it serves without a store")
	}
	sh(t, "systemd-analyze verify --man=no vaultd.service vaultd.socket vaultd-expire.service vaultd-zfs.service vaultd-zfs.socket vaultd-zfs-mount.service vaultd-zfs-mount.socket 2>&1")

	step(t, "make a store")
	must(t, os.WriteFile("/etc/vaultd/vaultd.toml", installedConfig(t), 0o640)) // the machine's disk is small
	t.Log(sh(t, "vaultd init"))
	for _, u := range []string{"vaultd.service", "vaultd.socket", "vaultd-expire.service"} {
		eventually(t, u, func() bool { return active(t, u) })
	}
	s.know()
	t.Log(sh(t, "vaultd tenant add alice --mode versioned --key %s/key.pub", s.home))
	began := time.Now()

	step(t, "push")
	s.push("one", 3<<20)
	must(t, os.WriteFile(s.home+"/two", noise("two", 1<<20), 0o600))
	runs(t, s.rsync("-a", s.home+"/two", "vault:two"))
	runs(t, s.rsync("-ac", "--exclude=*", s.home+"/", "vault:dir/"))
	status(t)
	confinedFar(t)
	apart(t)

	step(t, "upgrade under a session")
	upgrade(t, s)
	step(t, "watchdog, kill")
	watchdog(t, s)
	step(t, "a configuration with a mistake")
	sh(t, "cp /etc/vaultd/vaultd.toml /root/good && echo nonsense >> /etc/vaultd/vaultd.toml")
	refused(t, "nonsense", "systemctl reload vaultd || { journalctl --no-pager -n 20 -u vaultd; false; }")
	s.push("three", 1000)
	sh(t, "cp /root/good /etc/vaultd/vaultd.toml && systemctl reload vaultd")

	step(t, "expire, a minute after it began")
	eventually(t, "expire's first run", func() bool {
		found, _ := filepath.Glob(installedStore + "/expire/t-*/outcome.json")
		return len(found) == 1
	})
	t.Logf("%v after the tenant came: %s", time.Since(began).Round(time.Second), sh(t, "cat %s/expire/t-*/outcome.json; ls -lan %[1]s %[1]s/expire", installedStore))
	status(t)
}

// installedConfig is the package's, for a small disk.
func installedConfig(t testing.TB) []byte {
	b, err := os.ReadFile("/etc/vaultd/vaultd.toml")
	must(t, err)
	return []byte(strings.Replace(string(b), "[store]\n", "[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 8\n", 1) + "\n[log]\nlevel = \"debug\"\n")
}

// status wants all to be well.
func status(t testing.TB) {
	t.Helper()
	out, err := exec.Command("vaultd", "status").CombinedOutput()
	if err != nil {
		t.Errorf("vaultd status: %v\n%s", err, out)
	}
	var report struct {
		Data struct {
			Checks []struct{ Name, Verdict, Found string }
		}
	}
	out, _ = exec.Command("vaultd", "doctor", "--json").Output()
	if err := json.Unmarshal(out, &report); err != nil {
		t.Fatalf("vaultd doctor: %v\n%s", err, out)
	}
	for _, c := range report.Data.Checks {
		t.Logf("doctor: %s: %s: %s", c.Verdict, c.Name, c.Found)
		if c.Verdict == "fail" || c.Verdict == "warn" && !slices.Contains([]string{"clock", "landlock", "disk", "expire"}, c.Name) { // of the machine, and of its youth
			t.Errorf("doctor: %s: %s: %s", c.Verdict, c.Name, c.Found)
		}
	}
}

// processes are the supervisor and the confined server.
func processes(t testing.TB) (supervisor, confined string) {
	t.Helper()
	supervisor = property(t, "vaultd.service", "MainPID")
	eventually(t, "the confined server", func() bool {
		out, _ := exec.Command("pgrep", "-P", supervisor).Output()
		confined = strings.TrimSpace(string(out))
		return confined != "" && !strings.Contains(confined, "\n")
	})
	return supervisor, confined
}

// confinedFar looks at what the kernel says of the processes.
func confinedFar(t testing.TB) {
	supervisor, confined := processes(t)
	for _, pid := range []string{supervisor, confined} {
		s := sh(t, "cat /proc/%s/status", pid)
		for _, want := range []string{"CapPrm:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(s, want) {
				t.Errorf("process %s has not %q:\n%s", pid, want, s)
			}
		}
	}
	expire := sh(t, "cat /proc/%s/status", property(t, "vaultd-expire.service", "MainPID"))
	for _, want := range []string{"CapEff:\t0000000000000002", "CapBnd:\t0000000000000002", "NoNewPrivs:\t1", "Seccomp:\t2"} { // CAP_DAC_OVERRIDE
		if !strings.Contains(expire, want) {
			t.Errorf("expire has not %q:\n%s", want, expire)
		}
	}
}

// denied is what the kernel says: to a user, or on a mount that is read-only or empty for it.
var denied = regexp.MustCompile(`Permission denied|Read-only file system|No such file or directory`)

// apart tries what the services and the operator's group can and can not do. The server's mounts let nothing be executed but vaultd, so they are looked
// at through /proc.
func apart(t testing.TB) {
	supervisor, _ := processes(t)
	expire := property(t, "vaultd-expire.service", "MainPID")
	const as = "setpriv --reuid vaultd --regid vaultd --clear-groups sh -c "
	const asExpire = "setpriv --reuid vaultd-expire --regid vaultd-expire --clear-groups --inh-caps +dac_override --ambient-caps +dac_override --bounding-set -all,+dac_override sh -c "
	for _, c := range []struct {
		who, line string
		works     bool
	}{
		{"server", "touch server/x && rm server/x && ls tenants/t-*/store", true},
		{"server", "head -c 1 vaultd.db", true},
		{"server", "touch vaultd.db", false},
		{"server", "cp /dev/null x", false},
		{"server", "mv expire x", false},
		{"server", "ls expire/.", false},
		{"server", "cp /dev/null ../../../etc/vaultd/vaultd.toml", false},
		{"server", "cp /dev/null ../../../var/tmp/x && rm ../../../var/tmp/x", true}, // a /tmp of its own
		{"server", "cp /dev/null ../../../var/cache/x", false},
		{"server", "ls ../../../root/.", false},
		// with its capability, which passes over all modes
		{"expire", "touch expire/x tenants/x && rm expire/x tenants/x", true},
		{"expire", "touch vaultd.db", false},
		{"expire", "cp /dev/null server/x", false},
		{"expire", "cp /dev/null /etc/x", false},
		{"expire", "[ -n \"$(ls -A tenants)\" ] && [ -z \"$(ls -A /root && ls -A /home && ls -A server)\" ] && [ ! -s host_ed25519_key ]", true}, // what is none of its business is empty
	} {
		line := fmt.Sprintf("%s 'cd /proc/%s/root%s && %s'", as, supervisor, installedStore, c.line)
		if c.who == "expire" {
			line = fmt.Sprintf("nsenter -t %s -m %s 'cd %s && %s'", expire, asExpire, installedStore, c.line)
		}
		out, err := exec.Command("bash", "-c", line).CombinedOutput()
		if c.works != (err == nil) || !c.works && !denied.Match(out) {
			t.Errorf("%s: %s: %v, want it to work: %v\n%s", c.who, c.line, err, c.works, out)
		}
	}
	sh(t, "id oper >/dev/null 2>&1 || useradd -G vaultd-admin oper")
	makeUser(t)
	sh(t, "setpriv --reuid oper --regid oper --init-groups vaultd snapshot list alice")
	refused(t, "permission denied", "setpriv --reuid %s --regid %[1]s --init-groups vaultd snapshot list alice", user)
	refused(t, "denied", "setpriv --reuid oper --regid oper --init-groups vaultd tenant set alice --quota 1G")
}

// upgrade replaces the program while a session is uploading: the upload ends whole, and who comes meanwhile waits.
func upgrade(t testing.TB, s *server) {
	whole := noise("big", 4<<20)
	cmd := exec.Command("ssh", "-F", s.home+"/ssh.conf", "vault", "cat > big")
	in, err := cmd.StdinPipe()
	must(t, err)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	_, err = in.Write(whole[:1<<20])
	must(t, err)
	before := sh(t, "vaultd version")
	upgraded := exec.Command("apt-get", "install", "-y", *packages+"/new.deb")
	var log logBuffer
	upgraded.Stdout, upgraded.Stderr = &log, &log
	must(t, upgraded.Start())
	eventually(t, "the old server stops", func() bool { return property(t, "vaultd.service", "ActiveState") == "deactivating" })
	late := s.sftp("ls one")
	must(t, late.Start())
	_, err = in.Write(whole[1<<20:])
	must(t, errors.Join(err, in.Close()))
	if err := cmd.Wait(); err != nil {
		t.Errorf("the upload under the upgrade: %v", err)
	}
	if err := late.Wait(); err != nil {
		t.Errorf("who came meanwhile: %v", err)
	}
	if err := upgraded.Wait(); err != nil {
		t.Fatalf("upgrade: %v\n%s", err, log.String())
	}
	after := sh(t, "vaultd version")
	if before == after || !strings.Contains(sh(t, "vaultd status --json"), strings.TrimPrefix(after, "vaultd ")) {
		t.Errorf("%s became %s, and the server is\n%s", before, after, sh(t, "vaultd status --json"))
	}
	got := exec.Command("ssh", "-F", s.home+"/ssh.conf", "vault", "cat big")
	out, err := got.Output()
	if err != nil || string(out) != string(whole) {
		t.Errorf("%d bytes of %d came back: %v", len(out), len(whole), err)
	}
}

// watchdog wants a server that hangs, and one that is killed, to be started again.
func watchdog(t testing.TB, s *server) {
	sh(t, "mkdir -p /run/systemd/system/vaultd.service.d && printf '[Service]\nWatchdogSec=20\nRestartSec=1\n' > /run/systemd/system/vaultd.service.d/test.conf")
	sh(t, "systemctl daemon-reload && systemctl restart vaultd")
	_, confined := processes(t)
	sh(t, "kill -STOP %s", confined)
	again := func(n string) {
		t.Helper()
		eventually(t, "start number "+n, func() bool { return property(t, "vaultd.service", "NRestarts") == n && active(t, "vaultd.service") })
		s.push("again-"+n, 1000)
	}
	again("1")
	if !strings.Contains(sh(t, "journalctl --no-pager -b -u vaultd"), "SIGABRT") { // which the watchdog sends, and nobody else
		t.Error("it was not the watchdog")
	}
	supervisor, _ := processes(t)
	sh(t, "kill -KILL %s", supervisor)
	again("2")
	sh(t, "rm -r /run/systemd/system/vaultd.service.d && systemctl daemon-reload")
}

// TestInstalledBack is the next boot: it serves by itself, and then the package goes, and nothing of the store goes with it.
func TestInstalledBack(t *testing.T) {
	s := installed(t)
	eventually(t, "it runs after a boot", func() bool { return active(t, "vaultd.service") && active(t, "vaultd-expire.service") })
	s.know()
	s.push("after", 1<<20)
	status(t)
	step(t, "purge")
	sh(t, "systemctl stop vaultd")
	tree := func() string {
		return sh(t, "cd %s && find . ! -name admin.lock -printf '%%p %%u %%m %%s\n' | sort | sha256sum; find tenants -type f | sort | xargs sha256sum | sha256sum; sha256sum vaultd.db host_ed25519_key", installedStore)
	}
	before := tree()
	out := sh(t, "apt-get purge -y vaultd 2>&1")
	if !strings.Contains(out, "left as it is") {
		t.Errorf("purge does not say that the store stays:\n%s", out)
	}
	if after := tree(); after != before {
		t.Errorf("purge changed the store:\n%s\n%s", before, after)
	}
	for _, gone := range []string{"/usr/bin/vaultd", "/etc/vaultd", "/usr/lib/systemd/system/vaultd.service"} {
		if _, err := os.Lstat(gone); err == nil {
			t.Errorf("purge left %s", gone)
		}
	}
	step(t, "install again")
	sh(t, "apt-get install -y %s/new.deb 2>&1", *packages)
	eventually(t, "it serves again", func() bool { return active(t, "vaultd.service") })
	must(t, os.WriteFile("/etc/vaultd/vaultd.toml", installedConfig(t), 0o640)) // a purge takes the configuration
	sh(t, "systemctl restart vaultd")
	s.push("once-more", 1000)
	runs(t, s.sftp("get one "+s.home+"/one.back"))
	sh(t, "cmp %s/one %[1]s/one.back", s.home)
}

// TestInstalledZFS is another machine, with a pool: three commands make a server whose tenants have datasets, and scheduled snapshots a body.
func TestInstalledZFS(t *testing.T) {
	s := installed(t)
	t.Cleanup(func() {
		if t.Failed() {
			out, _ := exec.Command("journalctl", "-b", "--no-pager", "-n", "100", "-u", "vaultd*").CombinedOutput()
			t.Logf("%s", out)
		}
	})
	sh(t, "apt-get install -y %s/new.deb 2>&1", *packages)
	must(t, os.WriteFile("/etc/vaultd/vaultd.toml", installedConfig(t), 0o640))
	t.Log(sh(t, "vaultd init --pool %s --yes 2>&1", *pool))
	if i, err := os.Lstat(installedStore + "/vaultd.toml"); err != nil || i.Mode()&os.ModeSymlink == 0 {
		t.Errorf("init replaced the link to the configuration: %v, %v", i, err)
	}
	eventually(t, "it runs", func() bool { return active(t, "vaultd.service") && active(t, "vaultd-expire.service") })
	s.know()
	t.Log(sh(t, "vaultd tenant add alice --quota 100M --key %s/key.pub", s.home))
	step(t, "push")
	s.push("one", 3<<20)
	must(t, os.WriteFile(s.home+"/two", noise("two", 1<<20), 0o600))
	runs(t, s.rsync("-a", s.home+"/two", "vault:two"))
	t.Log(sh(t, "vaultd snapshot create alice --name first"))
	if got := sh(t, "zfs list -H -o name,userrefs -t snapshot -r %s", *pool); !strings.Contains(got, "@vaultd-first\t1") {
		t.Errorf("the snapshot has no body with a hold: %q", got)
	}
	if got := sh(t, "zfs list -Ho refquota -d 1 %s/vaultd | sort -u", *pool); !strings.Contains(got, "M") {
		t.Errorf("no dataset has a refquota: %q", got)
	}
	status(t)
	eventually(t, "the server sees its pool", func() bool { return exec.Command("vaultd", "pool").Run() == nil }) // through the helper: it can not run zfs
	numbersOfZFS(t)
	confinedFar(t)
	rootsServices(t)
	browse(t, s)
	if got := sh(t, "zfs allow %s/vaultd", *pool); !strings.Contains(got, "user vaultd-expire destroy,hold,mount,release") {
		t.Errorf("expire has not its powers:\n%s", got)
	}
	t.Log(sh(t, "vaultd expire alice && vaultd space alice"))
	sh(t, "[ -z \"$(find %s/expire ! -user vaultd-expire)\" ] && [ -z \"$(find %[1]s/tenants/t-* ! -user vaultd)\" ]", installedStore)
	if got := sh(t, "vaultd init --pool %s --yes", *pool); !strings.Contains(got, "all is there") {
		t.Errorf("once more: %s", got)
	}
	sh(t, "systemctl restart vaultd")
	s.push("three", 1000)
	t.Log(sh(t, "ls -lan %s %[1]s/tenants; journalctl --no-pager -b -u 'vaultd-zfs*' -n 20", installedStore))
}

// TestInstalledMounts comes after it. What is mounted later is seen by the services: a dataset, and a snapshot that ZFS mounts when it is read.
func TestInstalledMounts(t *testing.T) {
	name, dir := dataset(t, "")
	sh(t, "chmod 755 %s && echo kept > %[1]s/f && zfs snapshot %s@s && echo new > %[1]s/f", dir, name)
	snap := dir + "/.zfs/snapshot/s/f"
	for u, line := range map[string]string{ // the server's mounts let nothing be executed, and expire's process has a power that its user has not
		"vaultd":        "setpriv --reuid vaultd --regid vaultd --clear-groups cat /proc/%s/root" + snap,
		"vaultd-expire": "nsenter -t %s -m setpriv --reuid vaultd-expire --regid vaultd-expire --clear-groups cat " + snap,
	} {
		if got := sh(t, line, property(t, u+".service", "MainPID")); got != "kept" {
			t.Errorf("%s reads %q in a snapshot", u, got)
		}
	}
	sh(t, "umount %s/.zfs/snapshot/s", dir)
}

// rootsServices looks at what the kernel lets the services do that run as root: who speaks can mount nothing for others, and who mounts hears nothing.
func rootsServices(t testing.TB) {
	machine := sh(t, "readlink /proc/1/ns/mnt")
	for _, c := range []struct {
		unit, bound string
		own         bool // a mount namespace
	}{
		{"vaultd-zfs.service", "000000000020000b", true},        // CHOWN, DAC_OVERRIDE, FOWNER, SYS_ADMIN
		{"vaultd-zfs-mount.service", "0000000000200002", false}, // DAC_OVERRIDE, SYS_ADMIN
	} {
		pid := property(t, c.unit, "MainPID")
		status := sh(t, "cat /proc/%s/status", pid)
		for _, want := range []string{"CapBnd:\t" + c.bound, "NoNewPrivs:\t1", "Seccomp:\t2"} {
			if !strings.Contains(status, want) {
				t.Errorf("%s has not %q:\n%s", c.unit, want, status)
			}
		}
		if own := sh(t, "readlink /proc/%s/ns/mnt", pid) != machine; own != c.own {
			t.Errorf("%s: a mount namespace of its own: %v, want %v", c.unit, own, c.own)
		}
	}
	const refusals = `for f in /etc/x /var/lib/vaultd/x /var/lib/vaultd/server/x /usr/bin/x; do if touch $f 2>/dev/null; then exit 1; fi; done; [ -z "$(ls -A /var/lib/vaultd/expire; ls -A /root; ls -A /home)" ]`
	sh(t, "nsenter -t %s -m bash -ec '%s'", property(t, "vaultd-zfs.service", "MainPID"), refusals)
	refused(t, "Permission denied", "setpriv --reuid vaultd --regid vaultd --clear-groups bash -c 'head -c 1 </run/vaultd/zfs-mount.sock'")
	if got := sh(t, "stat -c '%%U %%a' /run/vaultd/zfs-mount.sock"); got != "root 600" {
		t.Errorf("the mounter's socket: %s", got)
	}
}

// browse reads what was pushed as it was when the snapshot was taken, through the confined server, in ZFS' own view of it.
func browse(t testing.TB, s *server) {
	runs(t, s.sftp("get /.snapshots/first/one "+s.home+"/one.then"))
	sh(t, "cmp %s/one %[1]s/one.then", s.home)
	t.Log(sh(t, "vaultd snapshot verify alice first"))
}

// numbersOfZFS are those that only a store on ZFS has.
func numbersOfZFS(t testing.TB) {
	text := sh(t, "cd /tmp; vaultd metrics --textfile vaultd.prom; cat vaultd.prom")
	for _, want := range []string{`vaultd_pool_health\{pool="` + *pool + `",state="online"\} 1`, `vaultd_pool_free_bytes\{pool="` + *pool + `"\} [1-9]`,
		`vaultd_pool_errors\{pool="` + *pool + `",type="data"\} 0`, `vaultd_snapshot_operations_total\{operation="hold",result="ok"\} [1-9]`,
		`vaultd_snapshot_operations_total\{operation="hold",result="failed"\} 0`} {
		if !regexp.MustCompile(`(?mi)^` + want).MatchString(text) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
}

// TestInstalledRemoval is the end of a tenant on that machine: no root's hand, and the dataset goes, beside a server and an expire service that run.
func TestInstalledRemoval(t *testing.T) {
	s := installed(t)
	sh(t, `sed -i 's/^\[expire\]$/[expire]\ncool_down = "1h"/; s/^\[store\]$/[store]\nsegment_interval = "1s"/; s/^\[zfs\]$/[zfs]\nencryption = "on"/' /etc/vaultd/vaultd.toml; vaultd init --pool %s --yes; systemctl restart vaultd-zfs vaultd`, *pool)
	eventually(t, "it runs", func() bool { return active(t, "vaultd.service") && active(t, "vaultd-expire.service") })
	s.know()
	sh(t, "ssh-keygen -q -t ed25519 -N '' -f %[1]s/gone; sed 's/User alice/User gone/; s,%[1]s/key,%[1]s/gone,' %[1]s/ssh.conf >%[1]s/gone.conf", s.home)
	t.Log(sh(t, "vaultd tenant add gone --mode versioned --keep daily=1 --lock 24h --push-snapshots=false --snapshot '0 0 1 1 *' --key %s/gone.pub", s.home))
	sh(t, "echo 'put /etc/passwd f' | sftp -q -F %s/gone.conf -b - vault", s.home)
	z := &zstore{server: s, id: s.id("gone")}
	ds := *pool + "/vaultd/" + z.id
	sh(t, "vaultd snapshot create gone --name last; zfs list %s@vaultd-last", ds)
	key := "/etc/vaultd/keys/" + z.id + ".key"
	if got := sh(t, "zfs get -Ho value encryption %s; stat -c '%%U %%a' %s", ds, key); got != "aes-256-gcm\nroot 400" {
		t.Errorf("its key: %s", got)
	}
	sh(t, "vaultd expire gone; vaultd tenant remove gone --confirm gone --reason 'left us'; date -s '+90 minutes'")
	for began := time.Now(); ; time.Sleep(2 * time.Second) {
		out, err := exec.Command("vaultd", "expire", "gone").CombinedOutput()
		t.Logf("%v: %s", err, out)
		if strings.Contains(string(out), "nothing is left of it") {
			break
		}
		if time.Since(began) > patience/2 {
			t.Fatalf("it does not go:\n%s", sh(t, "zfs list -t all; journalctl --no-pager -b -n 60 -u 'vaultd*'"))
		}
		z.older(100 * 24 * time.Hour)
	}
	refused(t, "does not exist", "zfs list %s", ds)
	refused(t, "No such file", "ls -d %s/tenants/%s", installedStore, z.id)
	refused(t, "No such file", "ls %s", key) // nor the disks can be read any more
	if got := sh(t, "journalctl --no-pager -b -u vaultd-zfs-mount"); !strings.Contains(got, "dataset of a removed tenant unmounted") {
		t.Errorf("not by the mounter:\n%s", got)
	}
	sh(t, "[ -z \"$(find %s/expire ! -user vaultd-expire)\" ]", installedStore)
	s.push("four", 1000)
}
