package zfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// poolServer is a server whose tenants are datasets below root, which must not exist; the store itself is on the root disk.
type poolServer struct {
	*server
	root, id string
}

func newPoolServer(t *testing.T, root, zfsConfig string) *poolServer {
	t.Helper()
	dir := filepath.Join("/var/tmp", strings.ReplaceAll(t.Name(), "/", "-"))
	s := &poolServer{server: newServer(t, dir, dir+"-alice"), root: root}
	t.Cleanup(func() { os.RemoveAll(dir + "-alice"); os.RemoveAll(dir) })
	t.Cleanup(func() {
		if s.cmd != nil { // else a test that failed leaves it there
			s.cmd.Process.Kill()
			s.cmd.Wait()
		}
	})
	var show struct {
		Data struct{ ID string }
	}
	must(t, json.Unmarshal([]byte(s.vaultd("tenant", "show", "alice", "--json")), &show))
	if s.id = show.Data.ID; s.id == "" {
		t.Fatal("alice has no id")
	}
	// What there was of her as a directory goes: nothing must be on the root disk.
	sh(t, "find %[1]s/tenants -mindepth 1 -delete; zfs create -o mountpoint=%[1]s/tenants -o compression=off -o xattr=sa -o acltype=posixacl -o atime=off %s; zfs create %[2]s/%s", dir, root, s.id)
	must(t, os.WriteFile(dir+"/vaultd.toml", fmt.Appendf(nil, "[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 1\n[zfs]\ndataset = %q\npoll = \"1s\"\n%s\n", root, zfsConfig), 0o600))
	return s
}

// poolState asks the running server what it sees.
func (s *poolServer) poolState() (state string, exit int) {
	cmd := exec.Command(*vaultd, "pool", "--json", "--dir", s.dir)
	out, err := cmd.Output()
	var x *exec.ExitError
	if err != nil && !errors.As(err, &x) {
		s.t.Fatal(err)
	}
	var r struct {
		Data struct {
			State string
		}
	}
	if json.Unmarshal(out, &r) != nil {
		return "?", cmd.ProcessState.ExitCode()
	}
	return r.Data.State, cmd.ProcessState.ExitCode()
}

// is waits until the server sees the pool in a state.
func (s *poolServer) is(state string, exit int) {
	s.t.Helper()
	was := ""
	for end := time.Now().Add(4 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		got, code := s.poolState()
		if got == state && code == exit {
			return
		}
		if got != was {
			s.t.Logf("the pool is %s (exit %d), waiting for %s", got, code, state)
			was = got
		}
		if time.Now().After(end) {
			s.t.Fatalf("waited 4 minutes for %s\n%s", state, s.log)
		}
	}
}

// says wants a client to end with a failure and these words.
func (s *poolServer) says(words string, cmd *exec.Cmd) {
	s.t.Helper()
	out, err := cmd.CombinedOutput()
	s.t.Logf("%.80s: %v: %s", strings.Join(cmd.Args, " "), err, out)
	if err == nil || !strings.Contains(string(out), words) {
		s.t.Errorf("%v, want %q", err, words)
	}
}

// within runs a client that must end by itself.
func (s *poolServer) within(cmd *exec.Cmd) (string, error) {
	s.t.Helper()
	timer := time.AfterFunc(5*time.Minute, func() { cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !timer.Stop() {
		s.t.Errorf("%.80s hung for 5 minutes\n%s\n%s", strings.Join(cmd.Args, " "), out, s.log)
	}
	return string(out), err
}

// ssh runs a command line of alice's.
func (s *poolServer) ssh(line string) *exec.Cmd {
	return exec.Command("ssh", "-F", s.home+"/ssh.conf", "vault", line)
}

// again waits until the server takes uploads.
func (s *poolServer) again(local, remote string) {
	s.t.Helper()
	for end := time.Now().Add(4 * time.Minute); ; time.Sleep(time.Second) {
		out, err := s.within(s.sftp("put " + local + " " + remote))
		if err == nil {
			return
		}
		if time.Now().After(end) {
			s.t.Fatalf("does not take uploads after 4 minutes: %s\n%s", out, s.log)
		}
	}
}

// whole checks that all is in order: the journal, every content, and that a file is what was put, or is not there.
func (s *poolServer) whole(work string, files ...string) {
	s.t.Helper()
	for _, f := range files {
		out, err := s.sftp("get " + f + " " + work + "/back").CombinedOutput()
		if err != nil {
			s.t.Errorf("%s is gone: %s", f, out)
			continue
		}
		sh(s.t, "cmp %s/%s %[1]s/back; rm %[1]s/back", work, f)
	}
	s.vaultd("journal", "verify")
	s.vaultd("verify")
}

// A pool whose device stops taking writes, under a push by sftp and one by rsync: both end, with words; who comes is told; commands do not
// hang; and when the device is well again so is the server, by itself, with all that was acknowledged.
func TestServerPoolSuspended(t *testing.T) {
	for _, mode := range []string{"wait", "continue"} { // continue: ZFS answers new writes with EIO
		t.Run(mode, func(t *testing.T) { poolSuspended(t, mode) })
	}
}

func poolSuspended(t *testing.T, failmode string) {
	sh(t, "mkdir -p /run/full; mount -t tmpfs -o size=30M full /run/full; truncate -s 256M /run/full/disk; zpool create -o failmode=%s one /run/full/disk", failmode)
	s := newPoolServer(t, "one/v", `scrub = ""`)
	mended := false
	mend := func() {
		mended = true
		sh(t, "mount -o remount,size=400M /run/full; timeout 120 zpool clear one")
	}
	t.Cleanup(func() {
		if !mended {
			mend()
		}
	})
	work := t.TempDir()
	must(t, os.WriteFile(work+"/one", noise("one", 3<<20), 0o644))
	must(t, os.WriteFile(work+"/two", noise("two", 20<<20), 0o644))
	must(t, os.WriteFile(work+"/three", noise("three", 20<<20), 0o644))
	s.serve()
	runs(t, s.sftp("put "+work+"/one one"))
	s.is("ok", 0)

	type end struct {
		out string
		err error
	}
	ends := make(chan end, 2)
	go func() { out, err := s.within(s.sftp("put " + work + "/two two")); ends <- end{out, err} }()
	go func() { out, err := s.within(s.rsync(work+"/three", "vault:three")); ends <- end{out, err} }()
	s.is("suspended", 2)
	t.Logf("zpool status:\n%s", sh(t, "zpool status -Pp one"))
	for range 2 {
		e := <-ends
		t.Logf("a push ended: %v\n%s", e.err, e.out)
		// With EIO it may be the vault that says so first.
		if e.err == nil || !strings.Contains(e.out, "storage does not answer") && !(failmode == "continue" && strings.Contains(e.out, "read-only after a storage error")) {
			t.Errorf("a push into a suspended pool ended with %v: %s", e.err, e.out)
		}
	}
	out, err := s.within(s.ssh("ls"))
	if x := (*exec.ExitError)(nil); !errors.As(err, &x) || x.ExitCode() != 75 || !strings.Contains(out, "storage is not available") {
		t.Errorf("who comes meanwhile: %v: %s", err, out)
	}
	status := exec.Command(*vaultd, "status", "--dir", s.dir)
	out, _ = s.within(status)
	if t.Log(out); status.ProcessState.ExitCode() != 2 || !strings.Contains(out, "suspended") {
		t.Errorf("status ends with %d", status.ProcessState.ExitCode())
	}
	mend()
	s.again(work+"/one", "again")
	s.is("ok", 0)
	runs(t, s.sftp("put "+work+"/two two", "put "+work+"/three three"))
	s.whole(work, "one", "two", "three")
	if n := strings.Count(s.log.String(), "the pool is suspended"); n != 1 {
		t.Errorf("the alarm was logged %d times\n%s", n, s.log)
	}
	s.stop()
	sh(t, "zpool destroy one; umount /run/full")
}

// The reserve is reached before the pool is full: uploads are refused with words, reading goes on, and with room again so do uploads.
func TestServerPoolFull(t *testing.T) {
	sh(t, "truncate -s 1G /var/tmp/small; zpool create small /var/tmp/small")
	t.Cleanup(func() { sh(t, "zpool destroy small; rm /var/tmp/small") })
	s := newPoolServer(t, "small/v", "scrub = \"\"\nreserve = \"10%\"")
	work := t.TempDir()
	must(t, os.WriteFile(work+"/one", noise("one", 3<<20), 0o644))
	must(t, os.WriteFile(work+"/big", noise("big", 28<<20), 0o644))
	s.serve()
	runs(t, s.sftp("put "+work+"/one one"))
	sh(t, "zfs create -o reservation=$(( $(zfs get -Hpo value available small) * 88 / 100 )) small/hog")
	s.is("nearly full", 1)
	s.says("no space left on the server: it takes nothing more until its operator makes room", s.sftp("put "+work+"/big big"))
	s.says("no space left on the server", s.rsync(work+"/big", "vault:big"))
	sh(t, "zfs set reservation=$(( $(zfs get -Hpo value reservation small/hog) + $(zfs get -Hpo value available small) - 60*1024*1024 )) small/hog")
	s.is("full", 2)
	s.says("no space left on the server", s.sftp("put "+work+"/one another"))
	pipe := s.ssh("cat > pipe")
	pipe.Stdin = strings.NewReader(string(noise("one", 3<<20)))
	s.says("no space left on the server", pipe)
	runs(t, s.sftp("get one "+work+"/back", "ls -l"))
	sh(t, "cmp %s/one %[1]s/back", work)
	sh(t, "zfs destroy small/hog")
	s.is("ok", 0)
	s.again(work+"/big", "big")
	s.whole(work, "one", "big")
	s.stop()
}

// A refquota that ZFS reaches first is a quota in clients' words.
func TestServerRefquota(t *testing.T) {
	root := *pool + "/refquota"
	t.Cleanup(func() { clean(t, root) })
	s := newPoolServer(t, root, `scrub = ""`)
	sh(t, "zfs set refquota=8M %s/%s", s.root, s.id)
	work := t.TempDir()
	must(t, os.WriteFile(work+"/big", noise("big", 12<<20), 0o644))
	s.serve()
	s.says("quota exceeded", s.sftp("put "+work+"/big big"))
	s.says("quota exceeded", s.rsync(work+"/big", "vault:big2"))
	s.stop()
}

// One of two disks goes during a push: the push goes on, the alarm is raised once, and ends when the disk is back.
func TestServerPoolDegraded(t *testing.T) {
	sh(t, "zpool create -f two mirror /dev/vdc /dev/vdd")
	s := newPoolServer(t, "two/v", `scrub = ""`)
	work := t.TempDir()
	must(t, os.WriteFile(work+"/one", noise("one", 16<<20), 0o644))
	must(t, os.WriteFile(work+"/two", noise("two", 6<<20), 0o644))
	s.serve()
	s.is("ok", 0)
	pushed := make(chan error, 1)
	go func() { _, err := s.within(s.sftp("put "+work+"/one one", "put "+work+"/two two")); pushed <- err }()
	waitFor(t, "the push to write", func() bool { return sh(t, "zfs get -Hpo value referenced two/v/%s", s.id) > "2000000" })
	pull(t, "vdd")
	must(t, <-pushed)
	s.is("degraded", 1)
	t.Logf("zpool status:\n%s", sh(t, "zpool status -Pp two"))
	out, err := exec.Command(*vaultd, "status", "--dir", s.dir).CombinedOutput()
	if t.Logf("%s", out); err == nil || !strings.Contains(string(out), "degraded") {
		t.Errorf("status: %v", err)
	}
	plug(t, "vdd")
	sh(t, "zpool online two vdd; zpool clear two; zpool wait -t resilver two")
	s.is("ok", 0)
	s.whole(work, "one", "two")
	for _, m := range []string{`the pool is degraded`, `the pool is not degraded any more`} {
		if n := len(regexp.MustCompile(m+`"`).FindAllString(s.log.String(), -1)); n != 1 {
			t.Errorf("%q was logged %d times\n%s", m, n, s.log)
		}
	}
	s.stop()
	sh(t, "zpool destroy two")
}

// A pool is exported and imported while the server runs; and one tenant's dataset is unmounted and mounted: nothing lands on the root disk, clients are told, and
// the server is well by itself.
func TestServerPoolExported(t *testing.T) {
	sh(t, "truncate -s 256M /var/tmp/small; zpool create small /var/tmp/small")
	t.Cleanup(func() { sh(t, "zpool destroy small; rm /var/tmp/small") })
	s := newPoolServer(t, "small/v", `scrub = ""`)
	work := t.TempDir()
	must(t, os.WriteFile(work+"/one", noise("one", 3<<20), 0o644))
	s.serve()
	runs(t, s.sftp("put "+work+"/one one"))
	refused(t, "busy", "zpool export small") // a vault is open
	s.stop()
	s.serve()
	s.is("ok", 0)
	sh(t, "zpool export small")
	s.says("storage is not available", s.sftp("put "+work+"/one two"))
	s.is("gone", 2)
	s.says("storage is not available", s.sftp("put "+work+"/one two"))
	if out := sh(t, "find %s/tenants -mindepth 1", s.dir); out != "" {
		t.Errorf("something is on the root disk:\n%s", out)
	}
	sh(t, "zpool import -d /var/tmp small")
	s.again(work+"/one", "two")
	s.is("ok", 0)
	s.whole(work, "one")

	// A server that starts without its pool says so, and serves when it comes.
	s.stop()
	sh(t, "zpool export small")
	s.serve()
	s.is("gone", 2)
	s.says("storage is not available", s.sftp("get one "+work+"/x"))
	sh(t, "zpool import -d /var/tmp small")
	s.again(work+"/one", "three")

	// One tenant's dataset alone.
	s.stop()
	s.serve()
	sh(t, "zfs unmount small/v/%s", s.id)
	s.says("storage is not available", s.sftp("put "+work+"/one four"))
	s.is("tenants absent", 2)
	if _, err := os.Stat(filepath.Join(s.dir, "tenants", s.id, "store")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dataset was made below the mount point: %v", err)
	}
	sh(t, "zfs mount small/v/%s || mountpoint %s/tenants/%[1]s", s.id, s.dir) // the helper may have been faster
	s.again(work+"/one", "four")
	s.whole(work, "one")
	s.stop()
}
