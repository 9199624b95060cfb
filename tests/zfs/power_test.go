package zfs

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// state is what survives a power cut, beside the pool: a directory of the host's.
var state = flag.String("state", "", "directory that outlives the machine, for the power cuts")

// ordeal is a tenant on ZFS whose pushes and snapshots end at any moment, with the power or by kill -9. What was begun, and what somebody saw done, is on record
// in a directory that outlives it.
type ordeal struct {
	*server
	record string
	ds     string // the tenant's
}

// push is one push of a client's. Those that were begun are in the list "tried", those that the client saw end with 0 in "acked".
type push struct {
	Dir   string
	Files map[string]int // name -> size; a file's content is noise(dir/name)
}

func (a *push) make(t testing.TB, below string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Join(below, a.Dir), 0o755))
	for name, size := range a.Files {
		must(t, os.WriteFile(filepath.Join(below, a.Dir, name), noise(a.Dir+"/"+name, size), 0o644))
	}
}

// taken is a snapshot that the operator saw taken, with a body; they are in the list "taken".
type taken struct {
	Name string
	Has  []string // the directories of some pushes that had ended before
}

// note appends to a list of what the next look is for.
func (o *ordeal) note(list string, what any) {
	o.t.Helper()
	b, err := json.Marshal(what)
	must(o.t, err)
	f, err := os.OpenFile(filepath.Join(o.record, list), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(o.t, err)
	_, err = f.Write(append(b, '\n'))
	must(o.t, errors.Join(err, f.Sync(), f.Close()))
}

// noted returns a list, oldest first. One that was never begun is empty.
func noted[T any](o *ordeal, list string) (all []T) {
	o.t.Helper()
	f, err := os.Open(filepath.Join(o.record, list))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	must(o.t, err)
	defer f.Close()
	for d := json.NewDecoder(f); ; {
		var x T
		if err := d.Decode(&x); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			o.t.Fatal(err)
		}
		all = append(all, x)
	}
}

// newOrdeal finds the store in the dataset pool/NAME, or makes it, with the tenants' datasets below pool/NAME-tenants.
func newOrdeal(t *testing.T, name, record string) *ordeal {
	t.Helper()
	own := *pool + "/" + name
	root := own + "-tenants"
	o := &ordeal{server: &server{t: t, dir: "/" + own + "/vault", home: record + "/alice"}, record: record}
	if _, err := os.Stat(o.home); err == nil {
		must(t, os.Chmod(o.home+"/key", 0o600))
	} else {
		sh(t, "zfs create %s", own)
		must(t, errors.Join(os.MkdirAll(o.home, 0o700), os.Mkdir(o.dir, 0o750)))
		must(t, os.WriteFile(filepath.Join(o.dir, "vaultd.toml"), []byte("[store]\nfree_bytes = \"1MiB\"\nfree_inodes = 100\nspare_slots = 1\n"), 0o600))
		sh(t, "ssh-keygen -q -t ed25519 -N '' -C alice -f %s/key", o.home)
		o.vaultd("init", "--dataset", root, "--yes")
		o.vaultd("tenant", "add", "alice", "--key", o.home+"/key.pub")
	}
	o.ds = root + "/" + o.id("alice")
	return o
}

// push pushes, by rsync and sftp in turns, until a push fails or done is closed; each one that ended is told on ended.
func (o *ordeal) push(done <-chan struct{}, ended func(n int, took time.Duration)) {
	o.t.Helper()
	work := o.t.TempDir()
	begin := time.Now().UnixNano()
	for n := 0; ; n++ {
		a := &push{Dir: fmt.Sprintf("push-%d-%d", begin, n), Files: map[string]int{"big": 1<<20 + rand.IntN(4<<20)}}
		for i := range 12 {
			a.Files[fmt.Sprint("small", i)] = rand.IntN(20000)
		}
		a.make(o.t, work)
		o.note("tried", a)
		cmd := o.rsync("-a", work+"/"+a.Dir, "vault:/")
		if n%2 == 1 {
			cmd = o.sftp("put -r " + work + "/" + a.Dir)
		}
		start := time.Now()
		out, err := cmd.CombinedOutput()
		select {
		case <-done:
			if err == nil {
				o.note("acked", a)
			}
			return
		default:
		}
		if err != nil {
			o.t.Fatalf("%s: %v\n%s", a.Dir, err, out)
		}
		o.note("acked", a)
		must(o.t, os.RemoveAll(filepath.Join(work, a.Dir)))
		ended(n, time.Since(start))
		if n > 1000 {
			o.t.Fatal("it does not end")
		}
	}
}

// snapshots takes one after the other until one fails or done is closed. The helper gives six bodies a minute.
func (o *ordeal) snapshots(done <-chan struct{}) {
	for n := 0; ; n++ {
		s := taken{Name: fmt.Sprintf("s-%d-%d", time.Now().UnixNano(), n)}
		acked := noted[push](o, "acked")
		for _, a := range acked[max(0, len(acked)-3):] {
			s.Has = append(s.Has, a.Dir)
		}
		out, err := exec.Command(*vaultd, "snapshot", "create", "alice", "--name", s.Name, "--json", "--dir", o.dir).Output()
		if err != nil {
			return
		}
		if strings.Contains(string(out), `"createtxg"`) {
			o.note("taken", s)
		}
		select {
		case <-done:
			return
		case <-time.After(2 * time.Second):
		}
	}
}

// check looks whether all is there that somebody saw done, and whether the rest is whole.
func (o *ordeal) check() {
	t := o.t
	t.Helper()
	t.Log(strings.TrimSpace(o.vaultd("journal", "verify")))
	o.serve()
	work := t.TempDir()
	want, got := work+"/want", work+"/got"
	runs(t, o.rsync("-a", "vault:/", got+"/"))
	tried, acked := map[string]push{}, map[string]push{}
	for _, a := range noted[push](o, "tried") {
		tried[a.Dir] = a
	}
	files := 0
	for _, a := range noted[push](o, "acked") {
		acked[a.Dir] = a
		a.make(t, want)
		sh(t, "diff -r %s/%s %s/%[2]s", want, a.Dir, got)
		must(t, os.RemoveAll(want))
		files += len(a.Files)
	}
	if len(acked) < 3 {
		t.Errorf("%d pushes were acknowledged: too few to show anything", len(acked))
	}
	whole := 0
	// What was not acknowledged may be there or not; what is there is whole.
	must(t, filepath.WalkDir(got, func(path string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(got, path)
		if _, ok := acked[filepath.Dir(name)]; err != nil || d.IsDir() || ok {
			return err
		}
		size := 0
		if a, ok := tried[filepath.Dir(name)]; ok {
			size = a.Files[filepath.Base(name)]
		}
		b, err := os.ReadFile(path)
		if err == nil && string(b) != string(noise(name, size)) {
			t.Errorf("%s, %d bytes of %d: not what was pushed", name, len(b), size)
		}
		whole++
		return err
	}))
	bodies := noted[taken](o, "taken")
	if len(bodies) == 0 {
		t.Error("no snapshot was taken: nothing is shown of them")
	}
	for _, s := range bodies[max(0, len(bodies)-5):] {
		if got := sh(t, "zfs holds -H %s@vaultd-%s | cut -f2", o.ds, s.Name); got != "vaultd" {
			t.Errorf("snapshot %s is held by %q", s.Name, got)
		}
		for _, dir := range s.Has {
			a := acked[dir]
			a.make(t, want)
			sh(t, "diff -r %s/%s %s/tenants/%s/.zfs/snapshot/vaultd-%s/files/%[2]s", want, dir, o.dir, filepath.Base(o.ds), s.Name)
			must(t, os.RemoveAll(want))
		}
		o.vaultd("snapshot", "verify", "alice", s.Name, "--hash")
	}
	// Another push, and another snapshot.
	a := &push{Dir: fmt.Sprintf("again-%d", time.Now().UnixNano()), Files: map[string]int{"big": 4 << 20}}
	a.make(t, work)
	o.note("tried", a)
	runs(t, o.rsync("-a", work+"/"+a.Dir, "vault:/"))
	o.note("acked", a)
	if out := o.vaultd("snapshot", "create", "alice", "--name", a.Dir, "--json"); !strings.Contains(out, `"createtxg"`) {
		t.Errorf("a snapshot: %s", out)
	}
	o.stop()
	o.vaultd("verify")
	t.Logf("%d pushes with %d files and %d snapshots were acknowledged and are there; of others %d files are there, whole", len(acked), files, len(bodies), whole)
}

// The two halves of a power cut, which run starts by their names: TestPowerCut pushes and takes snapshots until the machine is gone, TestPowerBack looks in
// the next boot with the same disk.
func TestPowerCut(t *testing.T) {
	o := newOrdeal(t, "power", *state)
	o.serve()
	enough := 2 + rand.IntN(3)
	go o.snapshots(nil)
	o.push(nil, func(n int, took time.Duration) {
		if n == enough { // somewhere in the next push, or soon after
			time.AfterFunc(time.Duration(rand.Int64N(int64(took))), func() { os.WriteFile("/mnt/ctl/cut", nil, 0o644) })
		}
	})
}

func TestPowerBack(t *testing.T) { newOrdeal(t, "power", *state).check() }

// The server, and with it all of its processes, is killed in the middle of pushes and snapshots, three times.
func TestServerKilled(t *testing.T) {
	record := t.TempDir()
	o := newOrdeal(t, "killed", record)
	t.Cleanup(func() {
		clean(t, *pool+"/killed-tenants")
		clean(t, *pool+"/killed")
	})
	for range 3 {
		o.serve()
		done, snapshots := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(snapshots)
			o.snapshots(done)
		}()
		enough := 1 + rand.IntN(2)
		o.push(done, func(n int, took time.Duration) {
			if n == enough {
				time.AfterFunc(time.Duration(rand.Int64N(int64(took))), func() {
					close(done)
					o.cmd.Process.Kill()
				})
			}
		})
		<-snapshots
		o.cmd.Wait()
	}
	o.check()
}
