package tests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
)

// Files of the crash test hold what their name says, so that whoever finds one knows what must be in it.
const (
	bigSize   = 16 << 20
	smallSize = 3000
	perDir    = 60
)

func contentOf(name string) []byte { return noise(name, sizeOf(name)) }

func sizeOf(name string) int {
	if strings.HasPrefix(name, "big") {
		return bigSize
	}
	return smallSize + len(name)*100
}

// crash is one vault that is killed again and again.
type crash struct {
	*testing.T
	v     *vault
	cycle int

	mu    sync.Mutex        // guards what follows
	acked map[string]string // file on the server -> "alice" or "carol": a session that put it ended with 0
	moved map[string]string // acknowledged renames of carol's: new name -> old name
	round int               // newest acknowledged content of carol's /rounds
	tried int               // newest that was tried
}

// Kill -9 in the middle of uploads of every kind, again and again. After each restart: what a session
// acknowledged with its exit status is there, whatever can be seen is whole, interrupted uploads go
// on, the same pushes succeed, journals verify and accounts are right.
func TestKill9(t *testing.T) {
	t.Parallel()
	cycles := 20
	if *full {
		cycles = 200
	}
	v, err := newVault(t.TempDir(), "--mode", "strict")
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config+"barrier_interval = \"300ms\"\nsegment_interval = \"5s\"\n"), 0o600))
	_, err = v.vaultd("tenant", "add", "carol", "--key", v.key("carol"), "--mode", "versioned")
	must(t, err)
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	c := &crash{T: t, v: v, acked: map[string]string{}, moved: map[string]string{}}
	resumed := 0
	for c.cycle = range cycles {
		if c.run() {
			resumed++
		}
		if t.Failed() {
			t.Fatalf("cycle %d\n%s", c.cycle, v.log)
		}
	}
	t.Logf("%d cycles, %d files acknowledged, %d uploads resumed", cycles, len(c.acked), resumed)
	if resumed == 0 || len(c.acked) == 0 || c.round == 0 || len(c.moved) == 0 {
		t.Errorf("%d resumed, %d acknowledged, %d overwritten, %d renamed: too little to show anything", resumed, len(c.acked), c.round, len(c.moved))
	}
	must(t, v.stop())
	v.audit(t)
}

// run lets clients work, kills the server, and looks. It reports whether the big upload was resumed.
func (c *crash) run() bool {
	var clients sync.WaitGroup
	stop := make(chan struct{})
	for _, work := range []func(stop chan struct{}){c.putBig, c.putTrees, c.rclone, c.rename, c.overwrite} {
		clients.Go(func() { work(stop) })
	}
	time.Sleep(time.Duration(300+rand.IntN(1500)) * time.Millisecond)
	if c.cycle%3 == 1 { // the server alone: its supervisor starts another
		c.v.killServer(c)
		close(stop)
		clients.Wait()
		if c.cycle%2 == 1 { // once more, while it recovers
			c.v.killServer(c)
		}
	} else {
		must(c, c.v.kill())
		close(stop)
		clients.Wait()
		if c.cycle%4 == 3 { // once more, while it recovers
			must(c, c.v.serve())
			must(c, c.v.kill())
		}
		must(c, c.v.serve())
	}

	c.look()
	resumed := c.pushAgain()
	if out, err := c.v.vaultd("journal", "verify"); err != nil {
		c.Errorf("verify: %v\n%s", err, out)
	}
	if c.cycle%5 == 4 {
		must(c, c.v.stop())
		c.v.audit(c)
		must(c, c.v.serve())
	}
	return resumed
}

// local makes files with what their names say below the directory dir.
func (c *crash) local(dir string, names ...string) {
	dir = filepath.Join(c.v.root, dir)
	err := os.MkdirAll(dir, 0o777)
	for _, n := range names {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, n), contentOf(n), 0o666))
	}
	if err != nil {
		c.Error(err) // not Fatal: clients run in goroutines of their own
	}
}

func ended(stop chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// done runs a client and reports whether it ended with 0. Some (rclone) go on looking for a server that
// is gone; they are ended.
func (c *crash) done(stop chan struct{}, who string, args ...string) bool {
	cmd := c.v.as(who, args...)
	if err := cmd.Start(); err != nil {
		c.Error(err)
		return false
	}
	result := make(chan error, 1)
	go func() { result <- cmd.Wait() }()
	select {
	case err := <-result:
		return err == nil
	case <-stop:
	}
	timer := time.AfterFunc(time.Second, func() { cmd.Process.Kill() })
	defer timer.Stop()
	return <-result == nil
}

func (c *crash) ack(who string, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range names {
		c.acked[n] = who
	}
}

// putBig puts one big file at 8 MB/s.
func (c *crash) putBig(stop chan struct{}) {
	name := fmt.Sprintf("big-%d", c.cycle)
	c.local("bigs", name)
	if c.done(stop, "alice", "sftp", "-l", "64000", "put bigs/"+name) {
		c.ack("alice", "/"+name)
	}
}

// tree makes a directory of small files.
func (c *crash) tree(kind string, n int) (dir string, names []string) {
	dir = fmt.Sprintf("%s-%d-%d", kind, c.cycle, n)
	for i := range perDir {
		names = append(names, fmt.Sprintf("%s-%d", dir, i))
	}
	c.local(dir, names...)
	return dir, names
}

func (c *crash) ackTree(who, dir string, names []string) {
	for _, n := range names {
		c.ack(who, "/"+dir+"/"+n)
	}
}

func (c *crash) putTrees(stop chan struct{}) {
	for n := 0; !ended(stop) && n < 8; n++ {
		dir, names := c.tree("tree", n)
		if c.done(stop, "alice", "sftp", "put -r "+dir) {
			c.ackTree("alice", dir, names)
		}
	}
}

func (c *crash) rclone(stop chan struct{}) {
	for n := 0; !ended(stop) && n < 8; n++ {
		dir, names := c.tree("rclone", n)
		if c.done(stop, "alice", "rclone", "copy", dir, "vault:"+dir) {
			c.ackTree("alice", dir, names)
		}
	}
}

// rename puts a file and renames it, through temporary and ordinary names.
func (c *crash) rename(stop chan struct{}) {
	for n := 0; !ended(stop) && n < 100; n++ {
		name := fmt.Sprintf("moved-%d-%d", c.cycle, n)
		c.local("moves", name)
		if c.done(stop, "carol", "sftp", fmt.Sprintf("put moves/%s %[1]s.part", name), fmt.Sprintf("rename %s.part old.%[1]s", name),
			fmt.Sprintf("rename old.%s %[1]s", name)) {
			c.mu.Lock()
			c.acked["/"+name] = "carol"
			c.moved["/"+name] = "/old." + name
			c.mu.Unlock()
		}
	}
}

// overwrite puts one content after the other under the same name.
func (c *crash) overwrite(stop chan struct{}) {
	for n := 0; !ended(stop) && n < 100; n++ {
		c.mu.Lock()
		c.tried++
		round := c.tried
		c.mu.Unlock()
		name := fmt.Sprintf("round-%d", round)
		c.local("rounds", name)
		if c.done(stop, "carol", "sftp", fmt.Sprintf("put rounds/%s rounds", name)) {
			c.mu.Lock()
			c.round = round
			c.mu.Unlock()
		}
	}
}

// look reads everything that can be seen.
func (c *crash) look() {
	seen := map[string]bool{}
	for _, who := range []string{"alice", "carol"} {
		conn := c.v.dial(c, who, who)
		client, err := sftp.NewClient(conn)
		must(c, err)
		for w := client.Walk("/"); w.Step(); {
			must(c, w.Err())
			if !w.Stat().Mode().IsRegular() {
				continue
			}
			seen[w.Path()] = true
			old := !strings.Contains(w.Path(), fmt.Sprintf("-%d", c.cycle)) && w.Path() != "/rounds"
			if old && c.cycle%10 != 9 { // of earlier cycles only the length, most of the time
				if got := w.Stat().Size(); got != int64(sizeOf(plain(w.Path()))) {
					c.Errorf("%s: %s has %d bytes", who, w.Path(), got)
				}
				continue
			}
			c.whole(who, client, w.Path())
		}
		client.Close()
		conn.Close()
	}
	for name, who := range c.acked {
		if !seen[name] {
			c.Errorf("%s: %s was acknowledged and is gone", who, name)
		}
	}
	for name, old := range c.moved {
		if seen[old] {
			c.Errorf("%s was renamed to %s and is there again", old, name)
		}
	}
}

// plain is the name that says what a file holds.
func plain(name string) string {
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(name), "old."), ".part")
}

// whole wants a file that can be seen to hold what it should.
func (c *crash) whole(who string, client *sftp.Client, name string) {
	got, err := fetch(client, name)
	if err != nil {
		c.Errorf("%s: read %s: %v", who, name, err)
		return
	}
	if name != "/rounds" {
		if !bytes.Equal(got, contentOf(plain(name))) {
			c.Errorf("%s: %s has %d wrong bytes", who, name, len(got))
		}
		return
	}
	for n := c.round; n <= c.tried; n++ {
		if bytes.Equal(got, contentOf(fmt.Sprintf("round-%d", n))) {
			return
		}
	}
	c.Errorf("/rounds is none of the contents %d (acknowledged) to %d (tried)", c.round, c.tried)
}

func fetch(client *sftp.Client, name string) ([]byte, error) {
	f, err := client.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var b bytes.Buffer
	_, err = io.Copy(&b, f)
	return b.Bytes(), err
}

// pushAgain repeats what was interrupted: no name may be poisoned by it. It reports whether the big
// upload went on where it was.
func (c *crash) pushAgain() (resumed bool) {
	name := fmt.Sprintf("big-%d", c.cycle)
	conn := c.v.dial(c, "alice", "alice")
	client, err := sftp.NewClient(conn)
	must(c, err)
	defer conn.Close()
	info, err := client.Stat("/" + name)
	verb := "put"
	switch {
	case err == nil && info.Size() < bigSize:
		verb, resumed = "reput", true
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		c.Errorf("stat %s: %v", name, err)
	}
	c.again("alice", "sftp", fmt.Sprintf("%s bigs/%s %[2]s", verb, name))
	c.whole("alice", client, "/"+name)
	c.ack("alice", "/"+name)
	for _, kind := range []string{"tree", "rclone"} {
		dirs, err := filepath.Glob(filepath.Join(c.v.root, fmt.Sprintf("%s-%d-*", kind, c.cycle)))
		must(c, err)
		for _, d := range dirs {
			dir := filepath.Base(d)
			if kind == "tree" {
				c.again("alice", "sftp", "put -r "+dir)
			} else {
				c.again("alice", "rclone", "copy", dir, "vault:"+dir)
			}
			for i := range perDir {
				c.ack("alice", fmt.Sprintf("/%s/%[1]s-%d", dir, i))
			}
			must(c, os.RemoveAll(d))
		}
	}
	must(c, os.RemoveAll(filepath.Join(c.v.root, "bigs")))
	return resumed
}

func (c *crash) again(who string, args ...string) {
	out, err := c.v.as(who, args...).CombinedOutput()
	if err != nil {
		c.Errorf("%s %s after the restart: %v\n%s", who, strings.Join(args, " "), err, out)
	}
}
