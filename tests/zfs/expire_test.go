package zfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// What the expire process's user is given on a store's root dataset, when it is not root.
const expirePowers = "destroy,hold,mount,release"

// Each of the rights is needed, and together they give what expire does and no more.
func TestExpirePowers(t *testing.T) {
	makeUser(t)
	ds, _ := dataset(t, "")
	other := ds + "-other"
	sh(t, "zfs create %s; zfs snapshot %[1]s@s", other)
	t.Cleanup(func() { clean(t, other) })
	sh(t, "zfs create %[1]s/a; zfs snapshot %[1]s/a@1; zfs snapshot %[1]s/a@2; zfs snapshot %[1]s/a@3; zfs hold vaultd %[1]s/a@1 %[1]s/a@3", ds)
	as := "runuser -u " + user + " -- /sbin/zfs "
	allow := func(rights string) {
		sh(t, "zfs unallow -u %[2]s %[1]s; zfs allow -u %[2]s %[3]s %[1]s", ds, user, rights)
	}
	for _, c := range []struct{ without, command string }{
		{"release,hold,mount", "destroy %s/a@2"}, // destroy
		{"release,hold,destroy", "destroy %s/a@2"},
		{"hold,destroy,mount", "release vaultd %s/a@1"},
		{"release,destroy,mount", "hold vaultd-legal %s/a@2"},
	} {
		allow(c.without)
		refused(t, "permission denied", as+c.command, ds)
	}
	allow(expirePowers)
	refused(t, "busy", as+"destroy %s/a@1", ds) // while it is held
	refused(t, "permission denied", as+"destroy %s@s", other)
	for _, c := range []string{"rollback -r %s/a@1", "rename %s/a@1 %[1]s/a@x", "rename %s/a %[1]s/b", "set readonly=on %s/a", "set refquota=1M %s/a", "set vaultd:seq=1 %s/a@1", "snapshot %s/a@x",
		"create %s/x", "clone %s/a@1 %[1]s/x", "promote %s/a", "allow " + user + " snapshot %s", "unmount %s/a", "inherit mountpoint %s/a", "bookmark %s/a@1 %[1]s/a#x"} {
		refused(t, "", as+c, ds)
	}
	// A dataset that is mounted it can not destroy: unmounting is root's.
	refused(t, "", as+"unmount %s/a; e=$?; zfs list %[1]s/a; exit $e", ds)
	out, _ := exec.Command("runuser", "-u", user, "--", "zfs", "unmount", ds+"/a").CombinedOutput()
	t.Logf("%s", out)
	refused(t, "", as+"destroy %s/a", ds)
	refused(t, "", as+"destroy -r %s", ds)
	if got := sh(t, "zfs list -Hr -o name %s", ds); got != ds+"\n"+ds+"/a" {
		t.Errorf("left: %s", got)
	}
	sh(t, as+"hold vaultd-legal %s/a@3; "+as+"release vaultd-legal %[1]s/a@3; "+as+"release vaultd %[1]s/a@3", ds)
	sh(t, "cat /%s/a/.zfs/snapshot/3/x 2>/dev/null || :", ds) // mounted by reading it: that is undone by the kernel
	sh(t, as+"destroy %s/a@3", ds)
	// It can take any hold away, whosever it is: holds have no owner.
	sh(t, "zfs hold court %s/a@1; "+as+"release court %[1]s/a@1", ds)
}

// zstore is a store whose tenants are datasets of ZFS, with alice's.
type zstore struct {
	*server
	root, id, ds string
	as           []string // before the program, when expire runs as another user
}

// newStore makes a store in the dataset root, which it makes; conf goes into its configuration.
func newStore(t testing.TB, root, conf string) *zstore {
	t.Helper()
	dir := t.TempDir()
	z := &zstore{server: &server{t: t, dir: dir + "/vault", home: dir + "/alice"}, root: root}
	must(t, errors.Join(os.MkdirAll(z.home, 0o700), os.MkdirAll(z.dir, 0o750)))
	must(t, os.WriteFile(filepath.Join(z.dir, "vaultd.toml"), []byte("[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 1\nsegment_interval = \"1s\"\n"+conf), 0o600))
	sh(t, "ssh-keygen -q -t ed25519 -N '' -C alice -f %s/key", z.home)
	z.vaultd("init", "--dataset", root, "--yes")
	t.Cleanup(func() { clean(t, root) })
	z.vaultd("tenant", "add", "alice", "--key", z.home+"/key.pub", "--mode", "versioned", "--keep", "daily=1", "--lock", "24h", "--push-snapshots=false", "--snapshot", "0 0 1 1 *")
	z.vaultd("snapshot", "create", "alice", "--name", "zero") // makes the dataset
	var reply struct{ Data struct{ ID string } }
	must(t, json.Unmarshal([]byte(z.vaultd("tenant", "show", "alice", "--json")), &reply))
	z.id = reply.Data.ID
	z.ds = root + "/" + z.id
	return z
}

// run runs a command of vaultd's and returns what it said and its exit status.
func (z *zstore) run(args ...string) (string, int) {
	z.t.Helper()
	argv := append(append([]string{*vaultd}, args...), "--dir", z.dir)
	if args[0] == "expire" || args[0] == "space" {
		argv = append(slices.Clone(z.as), argv...)
	}
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		z.t.Fatal(err)
	}
	z.t.Logf("vaultd %s: %v\n%s", strings.Join(args, " "), err, out)
	if exit != nil {
		return string(out), exit.ExitCode()
	}
	return string(out), 0
}

// says wants a command to end with a status, and to say something.
func (z *zstore) says(status int, want []string, args ...string) string {
	z.t.Helper()
	out, code := z.run(args...)
	if code != status {
		z.t.Errorf("vaultd %s: status %d, want %d", strings.Join(args, " "), code, status)
	}
	for _, w := range want {
		if !regexp.MustCompile(w).MatchString(out) {
			z.t.Errorf("vaultd %s: %q is not in its words", strings.Join(args, " "), w)
		}
	}
	return out
}

// body takes a snapshot with a body. One that comes too soon for the helper is made here, as the helper does.
func (z *zstore) body(name string) {
	z.t.Helper()
	z.vaultd("snapshot", "create", "alice", "--name", name)
	if exec.Command("zfs", "list", z.ds+"@vaultd-"+name).Run() == nil {
		return
	}
	for line := range strings.Lines(z.vaultd("journal", "export", "alice")) {
		var r struct {
			Seq             uint64
			Op, Note, Chain string
		}
		if json.Unmarshal([]byte(line), &r) == nil && r.Op == "snapshot" && r.Note == name {
			sh(z.t, "zfs snapshot -o vaultd:seq=%d -o vaultd:head=%s %s@vaultd-%s; zfs hold vaultd %[3]s@vaultd-%[4]s", r.Seq, r.Chain, z.ds, name)
			return
		}
	}
	z.t.Fatalf("the journal has no snapshot %s", name)
}

// bodies are the names of the dataset's snapshots, each with its tags.
func (z *zstore) bodies() string {
	z.t.Helper()
	return sh(z.t, `zfs list -Hr -d 1 -t snapshot -o name -s createtxg %s | while read -r s; do echo "${s#*@}:$(zfs holds -H "$s" | cut -f2 | sort | xargs | tr ' ' +)"; done | xargs`, z.ds)
}

func (z *zstore) put(name, content string) {
	z.t.Helper()
	file := filepath.Join(z.home, "put")
	must(z.t, os.WriteFile(file, []byte(content), 0o644))
	runs(z.t, z.sftp("put "+file+" "+name))
}

// older has expire believe that it saw everything that much earlier.
func (z *zstore) older(d time.Duration) {
	z.t.Helper()
	db, err := bbolt.Open(filepath.Join(z.dir, "expire", z.id, "state.db"), 0o600, &bbolt.Options{Timeout: time.Minute})
	must(z.t, err)
	must(z.t, errors.Join(db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("meta"))
		var state map[string]any
		if err := json.Unmarshal(b.Get([]byte("state")), &state); err != nil {
			return err
		}
		clock := state["clock"].(map[string]any)
		clock["Age"] = clock["Age"].(float64) + float64(d)
		text, err := json.Marshal(state)
		if err != nil {
			return err
		}
		return b.Put([]byte("state"), text)
	}), db.Close()))
}

// The whole life of bodies, with the real program, a running server and real readers.
func TestExpire(t *testing.T) { expire(t, "") }

// The same as a user who has no more than expirePowers.
func TestExpireDelegated(t *testing.T) {
	makeUser(t)
	expire(t, user)
}

func expire(t *testing.T, as string) {
	z := newStore(t, *pool+"/"+t.Name(), "")
	z.serve()
	for i, name := range []string{"one", "two", "three"} {
		z.put("a", fmt.Sprint("content ", i))
		z.body(name)
	}
	sh(t, "zfs release vaultd %[1]s@vaultd-zero; zfs destroy %[1]s@vaultd-zero", z.ds) // the test's own
	if as != "" {
		z.stop()
		sh(t, "mkdir -p %s/expire %[1]s/run; chown -R %s %[1]s/expire; chgrp %[2]s %[1]s/run; chmod 2750 %[1]s/run; zfs allow -u %[2]s %s %s", z.dir, as, expirePowers, z.root)
		z.serve()                                                                                                                                   // which journals what is freed
		z.as = []string{"setpriv", "--reuid", as, "--regid", as, "--init-groups", "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"} // as its unit has it
	}
	z.says(0, []string{`alice: freed 0 contents`}, "expire")
	z.older(30 * time.Hour)

	reader, err := os.Open(fmt.Sprintf("%s/tenants/%s/.zfs/snapshot/vaultd-one/files/a", z.dir, z.id))
	must(t, err)
	z.says(0, []string{`alice: two is held: court \(on ZFS too: ` + z.ds + `@vaultd-two\)`}, "snapshot", "hold", "alice", "two", "--reason", "court")
	seq := sh(t, "zfs get -Hp -o value vaultd:seq %s@vaultd-one", z.ds)
	sh(t, "zfs snapshot %[1]s@autosnap; zfs snapshot -o vaultd:seq=%[2]s -o vaultd:head=00 %[1]s@vaultd-forged", z.ds, seq)
	if got := z.bodies(); got != "vaultd-one:vaultd vaultd-two:vaultd+vaultd-legal vaultd-three:vaultd autosnap: vaultd-forged:" {
		t.Errorf("before: %s", got)
	}
	z.says(1, []string{`1 snapshots on ZFS would be destroyed`, `vaultd-forged is left alone: record ` + seq + ` is the snapshot one`, `on ZFS, snapshots of ` + z.ds + ` hold `}, "expire", "alice", "--dry-run")
	z.says(1, []string{`vaultd-one stays until the next run: in use`, `vaultd-forged is left alone`}, "expire", "alice")
	if got := z.bodies(); got != "vaultd-one:vaultd vaultd-two:vaultd+vaultd-legal vaultd-three:vaultd autosnap: vaultd-forged:" {
		t.Errorf("with a reader: %s", got)
	}
	must(t, reader.Close())
	z.says(1, []string{`1 snapshots on ZFS were destroyed`}, "expire", "alice")
	if as == "" {
		z.says(1, []string{`(?m)^alice +look: 1 snapshots on ZFS look like vaultd's`}, "status")
	}
	z.says(0, []string{`kept versions cost .*come in a day`, `on ZFS, snapshots of .* 2 of vaultd's, 1 of somebody else's`, `(?m)^two .*hold`}, "space", "alice", "--snapshots")
	if got := sh(t, "cat %s/tenants/%s/.zfs/snapshot/vaultd-two/files/a", z.dir, z.id); got != "content 1" {
		t.Errorf("what is held shows %q", got)
	}
	sh(t, "zfs destroy %s@vaultd-forged", z.ds)

	// The operator's hold is taken off when it does not count any more, and not before.
	sh(t, "zfs release vaultd-legal %s@vaultd-two", z.ds)
	z.says(0, nil, "expire", "alice")
	if got := z.bodies(); got != "vaultd-two:vaultd+vaultd-legal vaultd-three:vaultd autosnap:" {
		t.Errorf("the operator's tag was lost, and is not put right: %s", got)
	}
	z.says(0, nil, "snapshot", "release", "alice", "two")
	z.says(0, nil, "expire", "alice")
	z.older(6 * 24 * time.Hour)
	z.says(0, nil, "expire", "alice")
	if got := z.bodies(); got != "vaultd-two:vaultd+vaultd-legal vaultd-three:vaultd autosnap:" {
		t.Errorf("in the cool-down: %s", got)
	}
	z.older(25 * time.Hour)
	z.says(0, []string{`1 snapshots on ZFS were destroyed`}, "expire", "alice")
	if got := z.bodies(); got != "vaultd-three:vaultd autosnap:" {
		t.Errorf("in the end: %s", got)
	}
	if text := sh(t, "cat %s/expire/%s/chain/journal/*.jsonl", z.dir, z.id); strings.Count(text, `"what":"body"`) < 4 || !strings.Contains(text, `"note":"destroyed"`) || !strings.Contains(text, `"note":"kept: in use"`) {
		t.Errorf("chain:\n%s", text)
	}

	// What only snapshots hold is looked at when a server starts.
	z.stop()
	z.serve()
	eventually(t, "vaultd usage tells what snapshots hold", func() bool {
		return regexp.MustCompile(`(?m)^alice .* \+[0-9.]+ [KMG]?i?B`).MatchString(z.vaultd("usage", "alice"))
	})
	z.says(0, []string{`(?m)^held +[0-9.]+ [KMG]?i?B by snapshots alone`}, "tenant", "show", "alice")
	z.says(0, []string{`(?m)^vaultd_tenant_used_bytes\{kind="snapshots",tenant="alice"\} [1-9]`}, "metrics")
	z.stop()
	z.says(0, nil, "journal", "verify")
	z.says(0, nil, "verify")
}

// A dataset is destroyed for good when its tenant was removed and nothing is left: with a server that runs, with a key, and not while anything is in it.
func TestExpireRemoval(t *testing.T) {
	keys := t.TempDir()
	z := newStore(t, *pool+"/"+t.Name(), fmt.Sprintf("[zfs]\nencryption = \"on\"\nkeys = %q\n[expire]\ncool_down = \"1h\"\n", keys))
	later := func() { sh(t, "date -s '+90 minutes'") } // the catalog's cool-down is by the wall clock
	z.serve()
	z.put("a", "content")
	sh(t, "zfs release vaultd %[1]s@vaultd-zero; zfs destroy %[1]s@vaultd-zero", z.ds)
	z.body("one")
	z.says(0, nil, "expire", "alice")

	// While it waits, a veto takes it back.
	z.says(0, []string{`take it back with: vaultd tenant veto alice`}, "tenant", "remove", "alice", "--confirm", "alice", "--reason", "left us")
	z.says(0, nil, "tenant", "veto", "alice")
	later()
	for range 3 {
		z.older(time.Hour)
		z.says(0, nil, "expire", "alice")
	}
	if got := z.bodies(); got != "vaultd-one:vaultd" {
		t.Errorf("after a veto: %s", got)
	}
	z.put("b", "it is there")

	z.says(0, nil, "tenant", "remove", "alice", "--confirm", "alice", "--reason", "left us")
	later()
	sh(t, "zfs snapshot %s@autosnap", z.ds)
	for range 6 {
		z.says(0, nil, "expire", "alice")
		z.older(100 * 24 * time.Hour)
		time.Sleep(3 * time.Second) // the journal's segment is closed
	}
	z.says(0, []string{`autosnap stays until the next run: the dataset is not removed while it is there`}, "expire", "alice")
	if got := z.bodies(); got != "autosnap:" {
		t.Errorf("with somebody else's snapshot: %s", got)
	}
	sh(t, "zfs destroy %s@autosnap", z.ds)
	z.says(0, []string{`alice: removed; nothing is left of it`}, "expire", "alice")
	refused(t, "does not exist", "zfs list %s", z.ds)
	refused(t, "No such file", "ls -d %s/tenants/%s", z.dir, z.id)
	refused(t, "No such file", "ls %s/%s.key", keys, z.id)
	z.says(0, []string{`expire +tenant gone +alice .*ZFS dataset ` + z.ds}, "audit")
	if text := sh(t, "cat %s/expire/%s/chain/journal/*.jsonl %[1]s/expire/%[2]s/chain/staging/* 2>/dev/null", z.dir, z.id); !strings.Contains(text, "ZFS dataset "+z.ds+" is removed") {
		t.Errorf("chain:\n%s", text)
	}
	sh(t, "rm %[1]s/key*; ssh-keygen -q -t ed25519 -N '' -C alice -f %[1]s/key", z.home)
	z.vaultd("tenant", "add", "alice", "--key", z.home+"/key.pub") // the name is free; the key is the other's for ever
	z.put("a", "of another alice")
	z.stop()
}

// While expire destroys one snapshot after the other, pushes go on.
func TestExpireBesidePush(t *testing.T) {
	const bodies = 24
	z := newStore(t, *pool+"/"+t.Name(), "")
	z.serve()
	for i := range bodies {
		if i%8 == 0 {
			z.put("a", fmt.Sprint("content ", i))
		}
		z.body(fmt.Sprint("s", i))
	}
	z.says(0, nil, "expire", "alice")
	z.older(30 * time.Hour)
	ended := make(chan error, 1)
	cmd := exec.Command(*vaultd, "expire", "alice", "--dir", z.dir)
	must(t, cmd.Start())
	go func() { ended <- cmd.Wait() }()
	for n := 0; ; n++ {
		z.put(fmt.Sprint("new", n), "content")
		select {
		case err := <-ended:
			must(t, err)
			t.Logf("%d pushes while %d snapshots went", n, bodies)
			if n == 0 {
				t.Error("no push ended while expire was at work")
			}
			if got := z.bodies(); got != fmt.Sprintf("vaultd-s%d:vaultd", bodies-1) {
				t.Errorf("left: %s", got)
			}
			z.stop()
			return
		default:
		}
	}
}

// Nothing is freed of a tenant whose pool is suspended; the next run goes on.
func TestExpireSuspended(t *testing.T) {
	sh(t, "mkdir -p /run/exp; mount -t tmpfs -o size=56M exp /run/exp; truncate -s 256M /run/exp/disk; zpool create exp /run/exp/disk; zfs create -o compression=off exp/fill")
	mended := false
	mend := func() {
		mended = true
		sh(t, "mount -o remount,size=400M /run/exp; timeout 60 zpool clear exp")
	}
	t.Cleanup(func() { sh(t, "zpool destroy -f exp; umount /run/exp") })
	z := newStore(t, "exp/vault", "")
	t.Cleanup(func() {
		if !mended {
			mend()
		}
	})
	z.serve()
	for _, name := range []string{"one", "two"} {
		z.put("a", "content "+name)
		z.body(name)
	}
	z.stop()
	z.says(0, nil, "expire", "alice")
	z.older(30 * time.Hour)
	written := make(chan error, 1)
	go func() { written <- syncedFile("/exp/fill/f", 80<<20) }()
	waitFor(t, "the pool to be suspended", func() bool { return strings.Contains(sh(t, "zpool list -H -o health exp"), "SUSPENDED") })
	z.says(1, []string{`alice: nothing more is freed: pool exp is SUSPENDED`}, "expire", "alice")
	mend()
	must(t, <-written)
	z.says(0, []string{`2 snapshots on ZFS were destroyed`}, "expire", "alice") // and that which made the dataset
	if got := z.bodies(); got != "vaultd-two:vaultd" {
		t.Errorf("left: %s", got)
	}
}
