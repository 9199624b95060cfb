package zfs

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// bodied is a server whose tenant alice is a dataset of her own, mounted where the store has tenants' datasets.
type bodied struct {
	*server
	ds   string // alice's dataset
	path string // where it is mounted
	work string
}

func newBodied(t *testing.T) *bodied {
	t.Helper()
	root, dir := dataset(t, "-o xattr=sa -o acltype=posixacl")
	b := &bodied{work: dir + "/work"}
	must(t, os.Mkdir(b.work, 0o755))
	b.server = newServer(t, dir+"/vault", b.work+"/alice", "--mode", "versioned")
	var show struct {
		Data struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	must(t, json.Unmarshal([]byte(b.vaultd("tenant", "show", "alice", "--json")), &show))
	id := show.Data.ID
	if !strings.HasPrefix(id, "t-") {
		t.Fatalf("alice's id is %q", id)
	}
	b.ds, b.path = root+"/"+id, dir+"/vault/tenants/"+id
	sh(t, "rm -rf %[2]s; zfs create %[1]s -o mountpoint=%[2]s %[3]s", tenantOptions, b.path, b.ds) // asking for it made a directory
	b.serve()
	t.Cleanup(func() { // a test that failed leaves it
		if b.cmd.ProcessState == nil {
			b.cmd.Process.Kill()
			b.cmd.Wait()
		}
	})
	return b
}

// snap takes the snapshot name, and its body, as the driver does: while nobody pushes, under a hold.
func (b *bodied) snap(name string) {
	b.t.Helper()
	b.vaultd("snapshot", "create", "alice", "--name", name)
	sh(b.t, "sleep 5; zfs snapshot %[1]s@vaultd-%[2]s; zfs hold vaultd %[1]s@vaultd-%[2]s", b.ds, name)
}

// mounted reports whether a body is mounted: somebody read it.
func (b *bodied) mounted(name string) bool {
	text, err := os.ReadFile("/proc/mounts")
	must(b.t, err)
	return strings.Contains(string(text), b.ds+"@vaultd-"+name+" ")
}

// told reports whether the log says that a snapshot is shown from the index.
func (b *bodied) told(name string) bool {
	for line := range strings.Lines(b.log.String()) {
		if strings.Contains(line, "not from its body") && (strings.Contains(line, "snapshot="+name+" ") || strings.Contains(line, `"snapshot":"`+name+`"`)) {
			return true
		}
	}
	return false
}

// pull gets what is below a snapshot's name and compares it with want.
func (b *bodied) pull(name, want string) {
	b.t.Helper()
	to := b.work + "/pulled"
	sh(b.t, "rm -rf %s", to)
	runs(b.t, b.rsync("-aHX", "vault:/.vault/snapshots/"+name+"/m/", to+"/"))
	same(b.t, want, to)
}

// same compares two trees with their attributes.
func same(t testing.TB, a, b string) {
	t.Helper()
	sh(t, `diff -r -x fifo --no-dereference %[1]s %[2]s
list() { cd $1 && find . -printf '%%p %%y %%s %%m %%U:%%G %%T@ %%n %%l\n' | sort; getfattr -R -d -m '^user' . 2>/dev/null; }
diff <(list %[1]s) <(list %[2]s)`, a, b)
}

// A snapshot is read from ZFS itself: by rsync, sftp and restic, by a confined server, whatever became of the live tree and of the index.
func TestViews(t *testing.T) {
	b := newBodied(t)
	src, work := b.work+"/src", b.work
	tree(t, src)
	sh(t, "cd %s; chmod 4711 d/e/small; chown 12:34 zero; setfattr -n user.x -v y big; mkfifo -m 600 fifo; ln -s ../../../../etc/passwd out; touch -d 2019-09-09 d empty; for i in $(seq 300); do echo $i >d/$i; done", src)
	runs(t, b.rsync("-aHX", src+"/", "vault:m/"))
	runs(t, b.sftp("mkdir s", "put "+src+"/big s/big"))
	runs(t, b.restic("init"))
	runs(t, b.restic("backup", src))
	b.vaultd("snapshot", "create", "alice", "--name", "index")
	b.snap("one")
	if b.mounted("one") {
		t.Fatal("it is mounted before anybody reads it")
	}
	b.pull("index", src)

	sh(t, "cp -a %[1]s %[1]s.now; rm -r %[1]s.now/d %[1]s.now/big; echo other >%[1]s.now/zero", src)
	runs(t, b.rsync("-aHX", "--delete", src+".now/", "vault:m/"))
	runs(t, b.sftp("put "+src+"/d/e/small s/big"))
	check := func() {
		t.Helper()
		b.pull("one", src)
		if !b.mounted("one") {
			t.Error("the body is not mounted: it was not read")
		}
		b.pull("index", src) // the same instant, without a body
		sh(t, "rm -rf %[1]s/got; mkdir %[1]s/got", work)
		runs(t, b.sftp("get /.snapshots/one/s/big "+work+"/got/big", "get -r /.vault/snapshots/one/m/d "+work+"/got/d", "ls -la /.snapshots/one/m"))
		sh(t, "cmp %[1]s/big %[2]s/got/big; diff -r %[1]s/d %[2]s/got/d", src, work)
		restic := func(args ...string) {
			t.Helper()
			cmd := exec.Command("restic", append([]string{"--no-lock", "-o", "sftp.command=ssh -F " + b.home + "/ssh.conf vault -s sftp", "-r", "sftp:vault:/.vault/snapshots/one/repo"}, args...)...)
			cmd.Env = append(os.Environ(), "RESTIC_PASSWORD=x", "HOME="+b.home)
			runs(t, cmd)
		}
		restic("check", "--read-data")
		restic("restore", "latest", "--target", work+"/got/restic")
		sh(t, "diff -r -x fifo --no-dereference %[1]s %[2]s/got/restic%[1]s", src, work)
		if out, err := b.sftp("put " + src + "/zero /.snapshots/one/new").CombinedOutput(); err == nil {
			t.Errorf("the past took a file: %s", out)
		}
		t.Log(b.vaultd("snapshot", "verify", "alice", "one", "--hash"))
		if b.told("one") || !b.told("index") {
			t.Errorf("the log says:\n%s", b.log)
		}
	}
	check()
	if s := b.vaultd("status", "--json"); !strings.Contains(s, `"landlock_abi":2`) || !strings.Contains(s, `"p1_physical":true`) {
		t.Errorf("the server is not confined: %s", s)
	}
	b.stop()
	sh(t, "rm %s/derived/index.db", b.path)
	b.serve()
	check()

	// What has the name of a body and is of another instant is not believed.
	b.stop()
	sh(t, "zfs release vaultd %[1]s@vaultd-one; zfs destroy %[1]s@vaultd-one; zfs snapshot %[1]s@vaultd-one", b.ds)
	b.serve()
	b.pull("one", src)
	if !strings.Contains(b.log.String(), "of another instant") || !b.told("one") {
		t.Errorf("what has the name of a body and is none is not told of:\n%s", b.log)
	}
	if out, err := exec.Command(*vaultd, "snapshot", "verify", "alice", "one", "--dir", b.dir).CombinedOutput(); err == nil {
		t.Errorf("verify: %s", out)
	}
	// Gone: the index shows it, and the log tells.
	b.stop()
	sh(t, "zfs destroy %s@vaultd-one", b.ds)
	b.serve()
	b.pull("one", src)
	if !b.told("one") {
		t.Errorf("a body that is gone is not told of:\n%s", b.log)
	}
	b.stop()
}

// Snapshots that are taken while a client changes all the time are the same in the index and in their bodies, to the last attribute.
func TestViewsOfDriver(t *testing.T) {
	s, root := zfsServer(t, "")
	s.vaultd("init", "--dataset", root, "--yes")
	s.serve()
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			s.cmd.Process.Kill()
			s.cmd.Wait()
		}
	})
	s.vaultd("tenant", "add", "alice", "--key", s.home+"/key.pub", "--mode", "versioned", "--push-snapshots=false")
	src := s.home + "/src"
	sh(t, "mkdir -p %[1]s/d; for i in $(seq 40); do echo $i >%[1]s/d/$i; done", src)
	runs(t, s.rsync("-a", src+"/", "vault:m/"))
	var errs []string
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			n++
			sh(t, "cd %[1]s; echo %[2]d >n; echo %[2]d >d/$((%[2]d %% 40 + 1)); mv d e%[2]d; mv e%[2]d d; ln -sfn %[2]d l; chmod $((600 + %[2]d %% 2 * 40)) d/7; mkdir -p x%[2]d; [ %[2]d -lt 3 ] || rmdir x$((%[2]d - 2)); rm -f d/new$((%[2]d - 1)); : >d/new%[2]d", src, n)
			if out, err := s.rsync("-a", "--delete", src+"/", "vault:m/").CombinedOutput(); err != nil {
				errs = append(errs, fmt.Sprintf("%v: %s", err, out))
			}
			if out, err := s.sftp(fmt.Sprintf("put %s/n s%d", src, n), fmt.Sprintf("chmod 600 s%d", n), fmt.Sprintf("rename s%d t%[1]d", n)).CombinedOutput(); err != nil {
				errs = append(errs, fmt.Sprintf("%v: %s", err, out))
			}
		}
	}()
	for i := range 5 {
		out := s.vaultd("snapshot", "create", "alice", "--name", fmt.Sprint("s", i), "--json")
		if strings.Contains(out, "no_body") {
			t.Errorf("s%d: %s", i, out)
		}
		sh(t, "sleep 2")
	}
	close(stop)
	n := <-done
	t.Logf("%d rounds", n)
	for _, e := range errs {
		t.Error(e)
	}
	out := s.vaultd("snapshot", "verify", "alice", "--all", "--hash")
	t.Log(out)
	if !strings.Contains(out, "alice: 5 snapshots compared") {
		t.Errorf("verify: %s", out)
	}
	// Read by a client, each is one of the rounds, whole.
	runs(t, s.rsync("-a", "vault:/.vault/snapshots/s4/m/", s.home+"/pulled/"))
	sh(t, "grep -c s4 /proc/mounts")
	s.stop()
}

// What must not be believed of a body's neighbourhood: nothing but reading is done there, and a server in a mount namespace of its own shows the
// body where the host's mounts come to it, and else the index.
func TestViewsPropagation(t *testing.T) {
	b := newBodied(t)
	tree(t, b.work+"/src")
	runs(t, b.rsync("-aHX", b.work+"/src/", "vault:m/"))
	b.stop()
	for _, how := range []string{"slave", "private"} {
		b.serveBy("unshare", "-m", "--propagation", how)
		b.snap(how)
		b.snap(how + "2")
		runs(t, b.rsync("-aHX", "--delete", b.work+"/alice/", "vault:m/"))
		b.pull(how, b.work+"/src")
		b.pull(how+"2", b.work+"/src")
		told := strings.Contains(b.log.String(), "do not come into this process's mount namespace")
		if told != (how == "private") {
			t.Errorf("%s: the log says:\n%s", how, b.log)
		}
		if how == "slave" && !b.mounted(how) {
			t.Error("in a slave namespace the body is not mounted")
		}
		if how == "private" {
			// It is on the host, and ZFS does not know: one such is enough.
			if !b.mounted(how) || b.mounted(how+"2") {
				t.Errorf("mounted: %v and %v", b.mounted(how), b.mounted(how+"2"))
			}
			refused(t, "dataset is busy", "zfs release vaultd %[1]s@vaultd-private; zfs destroy %[1]s@vaultd-private", b.ds)
		}
		runs(t, b.rsync("-aHX", "--delete", b.work+"/src/", "vault:m/"))
		b.stop()
		// Without the namespace the body is there, whatever happened in it.
		b.vaultd("snapshot", "verify", "alice", how, "--hash")
	}
	sh(t, "umount %[2]s/.zfs/snapshot/vaultd-private; zfs destroy %[1]s@vaultd-private", b.ds, b.path)
	// A clone that somebody outside mounts comes no further than the automount does.
	sh(t, `d=$(mktemp -d); echo x >%[2]s/f; zfs snapshot %[1]s@c
unshare -m --propagation private bash -ec 'touch '$d'/in; for i in $(seq 300); do [ -e '$d'/out ] && break; sleep 0.1; done; if [ -e /%[1]s-c/f ]; then echo private sees it; exit 1; fi' & p=$!
unshare -m --propagation slave bash -ec 'touch '$d'/in2; for i in $(seq 300); do [ -e '$d'/out ] && break; sleep 0.1; done; [ -e /%[1]s-c/f ]' & q=$!
while ! [ -e $d/in -a -e $d/in2 ]; do sleep 0.1; done
zfs clone -o readonly=on -o mountpoint=/%[1]s-c %[1]s@c %[1]s-c; touch $d/out; wait $p; wait $q; zfs destroy %[1]s-c`, b.ds, b.path)
}

// Which settings of a unit let a service read snapshots that were not mounted when it started. deploy/systemd must keep to them.
func TestSystemdViews(t *testing.T) {
	if out, err := os.ReadFile("/proc/1/comm"); err != nil || string(out) != "systemd\n" {
		t.Fatalf("process 1 is %s, %v", out, err)
	}
	makeUser(t)
	ds, dir := dataset(t, tenantOptions)
	sh(t, "chmod 755 %[2]s; echo f >%[2]s/f", ds, dir)
	const hardened = "-p PrivateTmp=yes -p ProtectSystem=strict -p ProtectHome=yes -p PrivateDevices=yes -p ProtectKernelTunables=yes -p ProtectKernelModules=yes -p ProtectKernelLogs=yes" +
		" -p ProtectControlGroups=yes -p ProtectClock=yes -p ProtectHostname=yes -p ProtectProc=invisible -p ProcSubset=pid -p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictNamespaces=yes" +
		" -p RestrictSUIDSGID=yes -p LockPersonality=yes -p MemoryDenyWriteExecute=yes -p RestrictRealtime=yes -p SystemCallArchitectures=native -p SystemCallFilter=@system-service -p SystemCallFilter=~@privileged"
	rw := " -p ReadWritePaths=" + dir
	for i, c := range []struct {
		name, options string
		reads         bool
	}{
		{"nothing", "", true},
		{"PrivateTmp", "-p PrivateTmp=yes", true},
		{"PrivateMounts", "-p PrivateMounts=yes", true},
		{"MountFlags=slave", "-p PrivateTmp=yes -p MountFlags=slave", true},
		{"MountFlags=shared", "-p PrivateTmp=yes -p MountFlags=shared", true},
		{"MountFlags=private", "-p PrivateTmp=yes -p MountFlags=private", false},
		{"ProtectSystem=strict", "-p ProtectSystem=strict", true},
		{"ProtectSystem=strict, ReadWritePaths", "-p ProtectSystem=strict" + rw, true},
		{"ReadOnlyPaths", "-p ReadOnlyPaths=" + dir, true},
		{"BindPaths", "-p BindPaths=" + dir, true},
		{"BindPaths without rbind", "-p BindPaths=" + dir + ":" + dir + ":norbind", true},
		{"TemporaryFileSystem over the pool, BindPaths", "-p TemporaryFileSystem=/tank -p BindPaths=" + dir, true},
		{"PrivateUsers", "-p PrivateUsers=yes", true},
		{"a user", "-p User=" + user, true},
		{"DynamicUser", "-p DynamicUser=yes" + rw, true},
		{"RestrictNamespaces, no capabilities", "-p NoNewPrivileges=yes -p CapabilityBoundingSet= -p RestrictNamespaces=yes", true},
		{"hardened", hardened + rw, true},
		{"hardened, a user, PrivateUsers", hardened + rw + " -p User=" + user + " -p PrivateUsers=yes", true},
	} {
		// The service runs before its snapshot is made, and nobody else has read that.
		snap := fmt.Sprintf("s%d", i)
		cmd := exec.Command("bash", "-c", fmt.Sprintf(`rm -f %[2]s/go; systemd-run --quiet --wait --pipe %[3]s bash -c 'while ! [ -e %[2]s/go ]; do sleep 0.1; done; cat %[2]s/.zfs/snapshot/%[4]s/f' & p=$!
sleep 2; zfs snapshot %[1]s@%[4]s; touch %[2]s/go; wait $p`, ds, dir, c.options, snap))
		out, err := cmd.CombinedOutput()
		t.Logf("%-50s %v: %.100q", c.name, err, out)
		if !c.reads { // it is mounted on the host, and ZFS does not know
			sh(t, "umount %s/.zfs/snapshot/%s", dir, snap)
		}
		if (err == nil && string(out) == "f\n") != c.reads {
			t.Errorf("%s: %v: %s, want reading to be %v", c.name, err, out, c.reads)
		}
	}
}
