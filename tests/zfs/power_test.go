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
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The two halves of a power cut, which run starts by their names: TestPowerCut pushes until the machine is gone,
// TestPowerBack looks in the next boot with the same disk. What survives the cut is -state, a directory of the host's.
var state = flag.String("state", "", "directory that outlives the machine, for the power cuts")

// push is one push of a client's. Those that were begun are in the file "tried", those that the client saw end with 0
// in "acked".
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

// record appends a push to what the next boot will look for.
func (a *push) record(t testing.TB, list string) {
	t.Helper()
	b, err := json.Marshal(a)
	must(t, err)
	f, err := os.OpenFile(filepath.Join(*state, list), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = f.Write(append(b, '\n'))
	must(t, errors.Join(err, f.Sync(), f.Close()))
}

// recorded returns what record put into a list, by directory.
func recorded(t testing.TB, list string) map[string]*push {
	t.Helper()
	f, err := os.Open(filepath.Join(*state, list))
	must(t, err)
	defer f.Close()
	all := map[string]*push{}
	for d := json.NewDecoder(f); ; {
		a := new(push)
		if err := d.Decode(a); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[a.Dir] = a
	}
}

// powerServer is the store of both halves; it is made by the first cut.
func powerServer(t *testing.T) *server {
	dir, home := "/"+*pool+"/power/vault", *state+"/alice"
	if _, err := os.Stat(home); err == nil {
		must(t, os.Chmod(home+"/key", 0o600))
		return &server{t: t, dir: dir, home: home}
	}
	sh(t, "zfs create %s %s/power", tenantOptions, *pool)
	return newServer(t, dir, home)
}

func TestPowerCut(t *testing.T) {
	s := powerServer(t)
	s.serve()
	work := t.TempDir()
	sum := time.Now().UnixNano()
	enough := 3 + rand.IntN(3)
	var took time.Duration // the last push, of the other client's
	for n := 0; ; n++ {
		a := &push{Dir: fmt.Sprintf("push-%d-%d", sum, n), Files: map[string]int{"big": 1<<20 + rand.IntN(4<<20)}}
		for i := range 12 {
			a.Files[fmt.Sprint("small", i)] = rand.IntN(20000)
		}
		a.make(t, work)
		a.record(t, "tried")
		cmd := s.rsync("-a", work+"/"+a.Dir, "vault:/")
		if n%2 == 1 {
			cmd = s.sftp("put -r " + work + "/" + a.Dir)
		}
		if n == enough { // somewhere in this push, or soon after
			time.AfterFunc(time.Duration(rand.Int64N(int64(took))), func() { os.WriteFile("/mnt/ctl/cut", nil, 0o644) })
		}
		start := time.Now()
		runs(t, cmd)
		took = time.Since(start)
		a.record(t, "acked")
		must(t, os.RemoveAll(work+"/"+a.Dir))
		if n > enough+1000 {
			t.Fatal("the power was not cut")
		}
	}
}

func TestPowerBack(t *testing.T) {
	tried, acked := recorded(t, "tried"), recorded(t, "acked")
	s := powerServer(t)
	t.Log(strings.TrimSpace(s.vaultd("journal", "verify")))
	s.serve()
	work := t.TempDir()
	want, got := work+"/want", work+"/got"
	runs(t, s.rsync("-a", "vault:/", got+"/"))
	files := 0
	for dir, a := range acked {
		a.make(t, want)
		sh(t, "diff -r %s/%s %s/%[2]s", want, dir, got)
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
		if err != nil || d.IsDir() || acked[filepath.Dir(name)] != nil {
			return err
		}
		size := 0
		if a := tried[filepath.Dir(name)]; a != nil {
			size = a.Files[filepath.Base(name)]
		}
		b, err := os.ReadFile(path)
		if err == nil && string(b) != string(noise(name, size)) {
			t.Errorf("%s, %d bytes of %d: not what was pushed", name, len(b), size)
		}
		whole++
		return err
	}))
	// The interrupted push, again.
	a := &push{Dir: fmt.Sprintf("again-%d", time.Now().UnixNano()), Files: map[string]int{"big": 4 << 20}}
	a.make(t, work)
	a.record(t, "tried")
	runs(t, s.rsync("-a", work+"/"+a.Dir, "vault:/"))
	a.record(t, "acked")
	s.stop()
	s.vaultd("verify")
	t.Logf("%d pushes with %d files were acknowledged and are there; of others %d files are there, whole", len(acked), files, whole)
}
