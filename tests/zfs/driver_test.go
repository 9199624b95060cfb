package zfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// zfsServer is a store whose tenants are datasets below a root of the test's own.
func zfsServer(t testing.TB, conf string) (s *server, root string) {
	t.Helper()
	root = *pool + "/" + strings.ReplaceAll(t.Name(), "/", "-")
	s = &server{t: t, dir: t.TempDir() + "/vault", home: t.TempDir()}
	must(t, os.MkdirAll(s.home, 0o700))
	must(t, os.MkdirAll(s.dir, 0o750))
	must(t, os.WriteFile(filepath.Join(s.dir, "vaultd.toml"), []byte("[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 2\nbarrier_interval = \"300ms\"\n"+conf), 0o600))
	sh(t, "ssh-keygen -q -t ed25519 -N '' -C alice -f %s/key", s.home)
	t.Cleanup(func() {
		if s.cmd != nil && s.cmd.ProcessState == nil { // the test has failed
			s.cmd.Process.Kill()
			s.cmd.Wait()
			time.Sleep(time.Second) // its children end with it
			t.Logf("the server's log:\n%s", s.log)
		}
		if exec.Command("zfs", "list", root).Run() == nil {
			clean(t, root)
		}
	})
	return s, root
}

// id is a tenant's.
func (s *server) id(name string) string {
	s.t.Helper()
	var reply struct{ Data struct{ ID string } }
	cmd := exec.Command(*vaultd, "tenant", "show", name, "--json", "--dir", s.dir)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if said.Len() > 0 {
		s.t.Logf("%s", &said)
	}
	must(s.t, errors.Join(err, json.Unmarshal(out, &reply)))
	return reply.Data.ID
}

// fails runs a command of the operator's that must not succeed.
func (s *server) fails(why string, args ...string) {
	s.t.Helper()
	out, err := exec.Command(*vaultd, append(args, "--dir", s.dir)...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), why) {
		s.t.Errorf("vaultd %s: %v, want %q\n%s", strings.Join(args, " "), err, why, out)
	}
}

// waits until a script succeeds.
func waits(t testing.TB, what string, most time.Duration, format string, args ...any) string {
	t.Helper()
	var out []byte
	script := fmt.Sprintf(format, args...)
	for end := time.Now().Add(most); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		var err error
		if out, err = exec.Command("bash", "-ec", script).CombinedOutput(); err == nil {
			return strings.TrimSpace(string(out))
		}
	}
	t.Fatalf("%s: not after %v: %s: %s", what, most, script, out)
	return ""
}

// Each tenant has a dataset, made ahead, with a refquota that follows its quota; scheduled and manual snapshots have bodies, held, of the instant
// that the journal names.
func TestDriver(t *testing.T) {
	s, root := zfsServer(t, "")
	out := s.vaultd("init", "--dataset", root, "--dry-run")
	if !strings.Contains(out, "zfs create") {
		t.Errorf("the plan: %s", out)
	}
	refused(t, "does not exist", "zfs list %s", root)
	s.fails("--yes", "init", "--dataset", root)
	s.vaultd("init", "--dataset", root, "--yes")
	if out := s.vaultd("init", "--dataset", root, "--yes"); !strings.Contains(out, "all is there") {
		t.Errorf("a second time: %s", out)
	}
	s.serve()
	if n := sh(t, "zfs list -Hr -d 1 -o name %s | grep -c /t-", root); n != "2" {
		t.Errorf("%s spares", n)
	}
	s.vaultd("tenant", "add", "alice", "--key", s.home+"/key.pub", "--quota", "64M", "--snapshot", "* * * * *", "--push-snapshots=false")
	id := s.id("alice")
	ds := root + "/" + id
	want := func(property, value string) {
		t.Helper()
		if got := sh(t, "zfs get -Hp -o value %s %s", property, ds); got != value {
			t.Errorf("%s is %s, want %s", property, got, value)
		}
	}
	want("refquota", "135266304") // 64 MiB, 1 MiB of slack and 64 of reserve
	for p, v := range map[string]string{"quota": "0", "exec": "off", "setuid": "off", "devices": "off", "atime": "off", "snapdir": "hidden", "recordsize": "131072", "compression": "lz4", "mountpoint": s.dir + "/tenants/" + id} {
		want(p, v)
	}
	src := t.TempDir() + "/src"
	tree(t, src)
	runs(t, s.rsync("-aH", src+"/", "vault:rsync/")) // without another start of the server: it had a spare
	body := waits(t, "a scheduled snapshot", 3*time.Minute, "zfs list -Hr -t snapshot -o name %s | grep -- -scheduled", ds)
	if got := sh(t, "zfs holds -H %s | cut -f2", body); got != "vaultd" {
		t.Errorf("holds of %s: %s", body, got)
	}
	refused(t, "busy", "zfs destroy %s", body)
	seq, head := sh(t, "zfs get -Hp -o value vaultd:seq %s", body), sh(t, "zfs get -Hp -o value vaultd:head %s", body)
	_, short, _ := strings.Cut(body, "@vaultd-")
	record := sh(t, "%s journal export alice --dir %s | grep '\"op\":\"snapshot\"' | grep -F %s", *vaultd, s.dir, short)
	if !strings.Contains(record, `"seq":`+seq+",") || len(head) != 64 {
		t.Errorf("the body is of record %s, %s; the journal has %s", seq, head, record)
	}
	sh(t, "diff -r --no-dereference %s %s/tenants/%s/.zfs/snapshot/vaultd-%s/files/rsync", src, s.dir, id, short)
	if out := s.vaultd("snapshot", "create", "alice", "--name", "by-hand", "--json"); !strings.Contains(out, `"createtxg"`) || strings.Contains(out, "no_body") {
		t.Errorf("a manual one: %s", out)
	}
	sh(t, "zfs list %s@vaultd-by-hand", ds)
	s.vaultd("tenant", "set", "alice", "--quota", "128M")
	want("refquota", "202375168")
	s.vaultd("tenant", "set", "alice", "--quota", "96M") // less: the operator's own hand
	want("refquota", "168820736")
	s.stop()

	// A dataset that is not mounted is not an empty tenant, and nothing lands on the disk below it.
	s.serve() // which mounts what is not; the vault is not open yet
	sh(t, "zfs unmount %s", ds)
	put := fmt.Sprintf("echo 'put %s/zero new' | sftp -q -F %s/ssh.conf -b - vault", src, s.home)
	refused(t, "try again later", "%s", put)
	if list, err := os.ReadDir(filepath.Join(s.dir, "tenants", id)); len(list) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("below the mount point: %v, %v", list, err)
	}
	sh(t, "zfs mount %s", ds)
	// Nothing changed since: no more bodies than there are, after one more of its minutes.
	n := sh(t, "zfs list -Hr -t snapshot -o name %s | wc -l", ds)
	sh(t, "sleep $((66 - 10#$(date +%%S)))")
	if now := sh(t, "zfs list -Hr -t snapshot -o name %s | wc -l", ds); now != n {
		t.Errorf("%s bodies, and %s after a minute without a change", n, now)
	}
	waits(t, "it is back", 3*time.Minute, "%s", put) // from the next server
	s.stop()
	s.vaultd("journal", "verify")
	s.vaultd("verify")
}

// The server is a user without privileges, and the helper is root: pushes, new tenants, snapshots and quotas work; a locked tenant is told so
// while others are served.
func TestDriverHelper(t *testing.T) {
	makeUser(t)
	keys := t.TempDir()
	s, root := zfsServer(t, "[zfs]\nhelper = \"/run/zfs-test.sock\"\nencryption = \"on\"\nkeys = \""+keys+"\"\n")
	must(t, os.Chmod(filepath.Dir(s.dir), 0o755))
	sh(t, "chmod 755 %s", filepath.Dir(filepath.Dir(s.dir)))
	sh(t, "chown -R %s: %s", user, s.dir)
	as := func(args ...string) string { // the operator is the store's user here
		t.Helper()
		cmd := exec.Command("runuser", append([]string{"-u", user, "--", *vaultd}, append(args, "--dir", s.dir)...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("vaultd %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	as("init")
	s.vaultd("init", "--dataset", root, "--yes")
	helper := exec.Command(*vaultd, "zfs-helper", "--dir", s.dir)
	log := &logBuffer{}
	helper.Stderr = log
	helper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, helper.Start())
	defer func() {
		must(t, helper.Process.Signal(syscall.SIGTERM))
		if err := helper.Wait(); err != nil {
			t.Errorf("the helper: %v\n%s", err, log)
		}
		t.Logf("the helper's log:\n%s", log)
	}()
	waits(t, "the helper answers", time.Minute, "[ -S /run/zfs-test.sock ]")
	s.as = user
	s.serve()
	sh(t, "cp %[1]s/key.pub /tmp/alice.pub; chmod 644 /tmp/alice.pub", s.home)
	as("tenant", "add", "alice", "--key", "/tmp/alice.pub", "--quota", "64M")
	as("tenant", "add", "bob", "--quota", "64M")
	ids := map[string]string{}
	for _, name := range []string{"alice", "bob"} {
		var reply struct{ Data struct{ ID string } }
		must(t, json.Unmarshal([]byte(as("tenant", "show", name, "--json")), &reply))
		ids[name] = reply.Data.ID
		if got := sh(t, "zfs get -Hp -o value encryption,keystatus,refquota %s/%s | xargs", root, ids[name]); got != "aes-256-gcm available 135266304" {
			t.Errorf("%s: %s", name, got)
		}
	}
	src := t.TempDir() + "/src"
	tree(t, src)
	runs(t, s.rsync("-a", src+"/", "vault:one/"))
	if out := as("snapshot", "create", "alice", "--name", "held", "--json"); !strings.Contains(out, `"createtxg"`) {
		t.Errorf("a manual snapshot: %s", out)
	}
	sh(t, "zfs holds -H %s/%s@vaultd-held | grep -q vaultd", root, ids["alice"])
	refused(t, "", "runuser -u %s -- zfs destroy %s/%s@vaultd-held", user, root, ids["alice"])
	refused(t, "", "runuser -u %s -- cat %s/%s.key", user, keys, ids["alice"])
	as("tenant", "set", "alice", "--quota", "128M")
	if got := sh(t, "zfs get -Hp -o value refquota %s/%s", root, ids["alice"]); got != "202375168" {
		t.Errorf("refquota %s", got)
	}
	s.stop()

	// Locked: one clear line. The other tenant, whose key is the same user's, is served.
	ds := root + "/" + ids["alice"]
	sh(t, "zfs unmount %[1]s; zfs unload-key %[1]s", ds)
	s.serve()
	o, err := s.sftp("ls").CombinedOutput()
	if err == nil || !strings.Contains(string(o), "the vault is locked") || !strings.Contains(s.log.String(), "the vault is locked") {
		t.Errorf("a locked tenant: %v, %s", err, o)
	}
	as("key", "revoke", "alice", strings.Fields(sh(t, "ssh-keygen -lf /tmp/alice.pub"))[1])
	sh(t, "ssh-keygen -q -t ed25519 -N '' -f %[1]s/bob; cp %[1]s/bob.pub /tmp/bob.pub; chmod 644 /tmp/bob.pub; sed 's/User alice/User bob/; s,%[1]s/key,%[1]s/bob,' %[1]s/ssh.conf >%[1]s/bob.conf", s.home)
	as("key", "add", "bob", "--key", "/tmp/bob.pub")
	sh(t, "echo 'put %s/big big' | sftp -q -F %s/bob.conf -b - vault", src, s.home)
	sh(t, "cp %[1]s/bob.pub /tmp/new.pub; ssh-keygen -q -t ed25519 -N '' -f %[1]s/second; cp %[1]s/second.pub /tmp/second.pub; chmod 644 /tmp/second.pub; sed -i 's,%[1]s/key,%[1]s/second,' %[1]s/ssh.conf", s.home)
	as("key", "add", "alice", "--key", "/tmp/second.pub")
	sh(t, "zfs load-key %[1]s; zfs mount %[1]s", ds)
	waits(t, "it was unlocked", 2*time.Minute, "rsync -a -e 'ssh -F %[1]s/ssh.conf' vault:one/ %[1]s/back/", s.home)
	sh(t, "diff -r --no-dereference %s %s/back", src, s.home)
	s.stop()
}

// moved wants all of a tenant that was pushed before, during and after a move, what the snapshot before shows, and new snapshots to have bodies.
func (s *server) moved(src string) {
	t := s.t
	t.Helper()
	for _, name := range []string{"one", "two", "three"} {
		runs(t, s.rsync("-aH", "vault:"+name+"/", s.home+"/"+name+"/"))
		sh(t, "diff -r --no-dereference %s %s/%s", src, s.home, name)
	}
	runs(t, s.sftp("get /.vault/snapshots/before/one/big "+s.home+"/old"))
	if b, err := os.ReadFile(s.home + "/old"); err != nil || string(b) != string(noise("big", 6<<20)) {
		t.Errorf("the past: %d bytes, %v", len(b), err)
	}
	if out := s.vaultd("snapshot", "create", "alice", "--name", "after", "--json"); !strings.Contains(out, `"createtxg"`) {
		t.Errorf("a snapshot after the move: %s", out)
	}
}

// A store of directories goes to ZFS: its tenants are served from where they were until each is moved, and nothing is lost on the way. A dataset
// whose catalog is lost is adopted, with the policy and the keys that travel in it.
func TestDriverMove(t *testing.T) {
	s, root := zfsServer(t, "")
	s.vaultd("init")
	s.vaultd("tenant", "add", "alice", "--key", s.home+"/key.pub", "--quota", "64M", "--mode", "versioned")
	src := t.TempDir() + "/src"
	tree(t, src)
	s.serve()
	runs(t, s.rsync("-aH", src+"/", "vault:one/"))
	s.vaultd("snapshot", "create", "alice", "--name", "before")
	must(t, os.WriteFile(src+"/big", []byte("another"), 0o644))
	runs(t, s.rsync("-aH", src+"/", "vault:one/"))
	s.stop()
	id := s.id("alice")

	if out := s.vaultd("init", "--dataset", root, "--dry-run"); !strings.Contains(out, "former") {
		t.Errorf("the plan: %s", out)
	}
	s.vaultd("init", "--dataset", root, "--yes")
	s.serve()
	runs(t, s.rsync("-aH", src+"/", "vault:two/")) // from where it was
	s.vaultd("tenant", "move", "alice", "--to-dataset", "--dry-run")
	out := s.vaultd("tenant", "move", "alice", "--to-dataset")
	t.Log(out)
	waits(t, "the next server has the dataset", 2*time.Minute, "rsync -aH -e 'ssh -F %s/ssh.conf' %s/ vault:three/", s.home, src)
	if got := sh(t, "zfs get -Hp -o value refquota %s/%s; ls -d %s/tenants/%[2]s/files/three", root, id, s.dir); !strings.HasPrefix(got, "135266304") {
		t.Errorf("the dataset: %s", got)
	}
	s.moved(src)
	s.vaultd("journal", "verify")
	s.vaultd("verify")
	if out := s.vaultd("audit"); !strings.Contains(out, "tenant move") {
		t.Errorf("the audit log: %s", out)
	}
	s.stop()

	// The catalog is lost.
	must(t, os.Rename(s.dir+"/vaultd.db", s.home+"/lost.db"))
	s.vaultd("init", "--dataset", root, "--yes")
	plan := s.vaultd("adopt", root+"/"+id, "--dry-run")
	t.Log(plan)
	if !strings.Contains(plan, "versioned, quota 64 MiB") || !strings.Contains(plan, "alice") || !strings.Contains(plan, "not known") {
		t.Errorf("what adopt shows: %s", plan)
	}
	s.vaultd("adopt", root+"/"+id, "--yes", "--with-keys")
	s.fails("conflict", "adopt", root+"/"+id, "--yes")
	s.serve()
	runs(t, s.rsync("-aH", "vault:three/", s.home+"/adopted/"))
	sh(t, "diff -r --no-dereference %s %s/adopted", src, s.home)
	runs(t, s.rsync("-aH", src+"/", "vault:four/"))

	// And back into a directory; the dataset stays for the operator.
	s.vaultd("tenant", "move", "alice", "--to-dir")
	waits(t, "the next server has the directory", 2*time.Minute, "rsync -aH -e 'ssh -F %s/ssh.conf' %s/ vault:five/", s.home, src)
	sh(t, "ls -d %s/former/%s/files/five; zfs list %s/%[2]s", s.dir, id, root)
	s.vaultd("verify")
	s.stop()
}

// Another pool: the tenants are served from the old one until each is moved, and nothing of their past is lost.
func TestDriverPools(t *testing.T) {
	s, root := zfsServer(t, "")
	s.vaultd("init", "--dataset", root, "--yes")
	s.vaultd("tenant", "add", "alice", "--key", s.home+"/key.pub", "--quota", "64M", "--mode", "versioned")
	src := t.TempDir() + "/src"
	tree(t, src)
	s.serve()
	runs(t, s.rsync("-aH", src+"/", "vault:one/"))
	if out := s.vaultd("snapshot", "create", "alice", "--name", "before", "--json"); !strings.Contains(out, `"createtxg"`) {
		t.Errorf("a snapshot: %s", out)
	}
	must(t, os.WriteFile(src+"/big", []byte("another"), 0o644))
	runs(t, s.rsync("-aH", src+"/", "vault:one/"))
	id := s.id("alice")
	s.stop()
	t.Log(s.vaultd("tenant", "show", "alice"))

	const second = "second"
	disk := t.TempDir() + "/disk"
	sh(t, "truncate -s 512M %[1]s && zpool create -O mountpoint=none %[2]s %[1]s", disk, second)
	t.Cleanup(func() { sh(t, "zpool destroy -f %s", second) })
	s.vaultd("init", "--dataset", second+"/vaultd", "--yes")
	s.serve()
	runs(t, s.rsync("-aH", src+"/", "vault:two/")) // from where it was
	sh(t, "ls -d %s/former/%s/files/two", s.dir, id)
	t.Log(s.vaultd("tenant", "move", "alice", "--to-dataset"))
	waits(t, "the next server has the dataset", 3*time.Minute, "rsync -aH -e 'ssh -F %s/ssh.conf' %s/ vault:three/", s.home, src)
	if got := sh(t, "zfs list -Ho mounted,mountpoint %s/vaultd/%s %s/%[2]s | xargs", second, id, root); got != fmt.Sprintf("yes %s/tenants/%s yes %[1]s/former/.moved-%[2]s", s.dir, id) {
		t.Errorf("where they are: %s", got)
	}
	sh(t, "ls -d %s/tenants/%s/files/three; test ! -e %[1]s/former/%[2]s", s.dir, id)
	s.moved(src)
	s.vaultd("journal", "verify")
	s.vaultd("verify")
	s.stop()
}
