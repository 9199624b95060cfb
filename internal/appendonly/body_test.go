package appendonly_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/volume"
)

// bodied is a tenant in a directory, where a copy stands for what ZFS keeps of a snapshot.
type bodied struct {
	*bench
	dir string
	log *lockedLog
}

type lockedLog struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func newBodied(t testing.TB, p appendonly.Policy) *bodied {
	dir := filepath.Join(t.TempDir(), "tenant")
	ok(t, volume.Create(dir))
	vol, err := volume.Open(dir)
	ok(t, err)
	t.Cleanup(func() { vol.Close() })
	log := &lockedLog{}
	b := &bodied{dir: dir, log: log, bench: &bench{t: t, vol: vol, segs: vol, body: vol, clock: newClock(), index: vol.IndexPath(), boot: "boot1", pol: p,
		log: slog.New(slog.NewTextHandler(log, nil))}}
	b.open()
	return b
}

// snap takes a snapshot, without a body.
func (b *bodied) snap(name, kind string) {
	b.t.Helper()
	_, err := b.vault.Snapshot(context.Background(), name, kind)
	ok(b.t, err)
	ok(b.t, b.vault.Barrier(context.Background())) // what was published is in the store, with its attributes
}

func (b *bodied) bodyPath(name string) string {
	return filepath.Join(b.dir, ".zfs/snapshot/vaultd-"+name)
}

// keep makes the body of the snapshot called name, of what is there now.
func (b *bodied) keep(name string) string {
	b.t.Helper()
	body := b.bodyPath(name)
	ok(b.t, os.MkdirAll(body, 0o750))
	args := []string{"-a"}
	for _, sub := range []string{"format", "files", "store", "staging", "journal", "scratch"} {
		args = append(args, filepath.Join(b.dir, sub))
	}
	if out, err := exec.Command("cp", append(args, body)...).CombinedOutput(); err != nil {
		b.t.Fatalf("cp: %v: %s", err, out)
	}
	return body
}

func (b *bodied) logged(text string) bool { return strings.Contains(b.log.String(), text) }

// dumpView is a tree as a client sees it: a line for each name.
func dumpView(t testing.TB, f *appendonly.FS, at string) map[string]string {
	t.Helper()
	out := map[string]string{}
	var walk func(p string)
	walk = func(p string) {
		d, err := f.OpenDir(at + p)
		ok(t, err)
		var names []string
		ok(t, d.Each(func(i *appendonly.Info) error {
			st, err := f.Stat(at + p + "/" + i.Name)
			if err != nil {
				return err
			}
			line := describe(*i)
			if st.Name != i.Name || describe(st) != line {
				t.Errorf("%s/%q: listed as %s, and is %s", p, i.Name, line, describe(st))
			}
			if i.Kind == appendonly.KindFile {
				data, err := get(f, at+p+"/"+i.Name)
				line += fmt.Sprintf(" %.40q %v", data, err)
			}
			if i.Kind == appendonly.KindSymlink {
				target, err := f.Readlink(at + p + "/" + i.Name)
				to, terr := f.StatFollow(at + p + "/" + i.Name)
				line += fmt.Sprintf(" -> %q %v: %v %s", target, err, terr, describe(to))
			}
			out[p+"/"+i.Name] = strings.ReplaceAll(line, at, "")
			if i.Kind == appendonly.KindDir {
				names = append(names, i.Name)
			}
			return nil
		}))
		for _, n := range names {
			walk(p + "/" + n)
		}
	}
	walk("")
	return out
}

func describe(i appendonly.Info) string {
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(i.XAttrs)) {
		attrs = append(attrs, fmt.Sprintf("%s=%x", k, i.XAttrs[k]))
	}
	return fmt.Sprintf("%v %d %o %d:%d %d.%d %x %v linked=%v %v", i.Kind, i.Size, i.Mode, i.UID, i.GID, i.MTime.Sec(), i.MTime.Nsec(), i.RDev, attrs, i.Linked, i.Content)
}

func differ(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if got[p] != want[p] {
			t.Errorf("%s: %q is\n %s, want\n %s", what, p, got[p], want[p])
		}
	}
	for p := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q is there", what, p)
		}
	}
}

// meta makes attributes.
func meta(mode int32, uid, gid, mtime int64, attrs map[string][]byte) appendonly.Meta {
	m := appendonly.Meta{Mode: mode, UID: uid, GID: gid, XAttrs: attrs}
	if mtime != 0 {
		m.MTime = appendonly.Unix(mtime, 123456789)
	}
	return m
}

func putMeta(f *appendonly.FS, path, data string, m appendonly.Meta) error {
	if err := put(f, path, data); err != nil {
		return err
	}
	return f.SetMeta(path, m, true)
}

// acl is a POSIX ACL in the kernel's form: user::rw-, user:7:r--, group::r--, group:8:---, mask::r--, other::r--.
var acl = []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x07\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x08\x00\x00\x00\x08\x00\x00\x00\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")

// plant pushes some of everything.
func plant(t testing.TB, a *appendonly.FS, many int) {
	t.Helper()
	u := int32(appendonly.Unset)
	ok(t, a.Mkdir("d", meta(0o750, 5, 6, 77, nil)))
	ok(t, a.Mkdir("d/e", appendonly.NoMeta()))
	ok(t, a.Mkdir("empty", appendonly.NoMeta()))
	ok(t, put(a, "plain", "plain"))
	ok(t, put(a, "zero", ""))
	ok(t, putMeta(a, "d/f", "in d", meta(0o4755, 1000, 1001, 1234, map[string][]byte{"user.a": []byte("b"), "security.x": {1, 0, 2}, "system.posix_acl_access": acl, "user.rsync.%stat": []byte("no")})))
	ok(t, putMeta(a, "d/e/g", "in e", meta(u, appendonly.Unset, appendonly.Unset, 99, nil)))
	ok(t, putMeta(a, "d/e/early", "1970", meta(0o600, 0, 0, -5, nil)))
	ok(t, a.Link("d/f", "d/e/link"))
	ok(t, a.Mknod("fifo", appendonly.KindFifo, meta(0o622, 1, 2, 55, nil)))
	ok(t, a.Mknod("dev", appendonly.KindBlockDev, appendonly.Meta{Mode: 0o660, UID: 0, GID: 6, RDev: 8<<32 | 17}))
	for name, target := range map[string]string{"to-file": "d/f", "to-dir": "/d/e", "loop": "loop", "out": "../../../etc/passwd", "nowhere": "x", "d/up": "../plain"} {
		ok(t, a.Symlink(target, name, meta(0o777, 3, 4, 66, nil)))
	}
	ok(t, a.Mkdir("odd", appendonly.NoMeta()))
	for _, name := range []string{"a\nb", "\xff\xfe", "-", " ", "ü", "*", "\x1b[31m", ".zfs", "%stat", strings.Repeat("n", 255)} {
		ok(t, put(a, "odd/"+name, name))
	}
	ok(t, a.Mkdir("many", appendonly.NoMeta()))
	for i := range many {
		ok(t, put(a, fmt.Sprintf("many/%d", i*7919%many), fmt.Sprint(i)))
	}
	deep := "deep"
	for range 30 {
		ok(t, a.Mkdir(deep, appendonly.NoMeta()))
		deep += "/d"
	}
	ok(t, put(a, deep, "deep"))
}

// changeAll lets nothing of the live tree be as it was.
func changeAll(t testing.TB, a *appendonly.FS) {
	t.Helper()
	ok(t, put(a, "plain", "other"))
	ok(t, a.Remove("zero"))
	ok(t, a.Rename("d", "moved", false))
	ok(t, a.Remove("fifo"))
	ok(t, a.Remove("to-file"))
	ok(t, a.Symlink("plain", "to-file", appendonly.NoMeta()))
	ok(t, put(a, "many/7", "other"))
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "d/f", "new"))
	ok(t, a.SetMeta("many/8", meta(0o111, 9, 9, 9, nil), true))
}

// A snapshot's body shows what the index shows, whatever became of the live tree, and of the index.
func TestBodyIsTheView(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	plant(t, a, 300)
	ok(t, put(a, "fresh.partial", "not sealed"))
	ok(t, os.MkdirAll(b.dir+"/.zfs/snapshot", 0o750))
	b.clock.Add(time.Hour)
	b.snap("one", "@daily")
	want := dumpView(t, a, "/.vault/snapshots/one")
	if len(want) < 350 || want["/fresh.partial"] != "" {
		t.Fatalf("%d names", len(want))
	}
	if !b.logged("from the index and not from its body") {
		t.Errorf("a scheduled snapshot without its body is not told of:\n%s", b.log)
	}
	b.keep("one")
	ok(t, os.WriteFile(b.bodyPath("one")+"/files/witness", nil, 0o640)) // the index has none
	changeAll(t, a)
	check := func(when string) {
		t.Helper()
		b.clock.Add(time.Hour)
		a := b.as("alice")
		for _, at := range []string{"/.vault/snapshots/one", ".snapshots/one", "/.vault/snapshots/latest"} {
			got := dumpView(t, a, at)
			if got["/witness"] == "" {
				t.Errorf("%s, %s: it is not the body that is read:\n%s", when, at, b.log)
			}
			delete(got, "/witness")
			differ(t, when+", "+at, got, want)
		}
	}
	check("after changes")
	if got, done := b.compare("one", appendonly.CompareOptions{Hash: true}); !slices.Equal(got, []string{"witness: extra"}) || done.Names < 350 {
		t.Errorf("compared: %q, %+v", got, done)
	}
	ok(t, b.vault.Close())
	ok(t, os.Remove(b.index))
	b.open()
	check("without its index")
	// The next start has it closed when nobody has looked for a while: an open one can not be destroyed.
	b.clock.Add(time.Minute)
	b.vault.Tick()
	if fds := openBelow(t, b.bodyPath("one")); len(fds) > 0 {
		t.Errorf("open a minute later: %q", fds)
	}
}

// While names stand still the disk has all that the journal says, attributes that were set a moment ago included.
func TestBodyWhileNamesStand(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	plant(t, a, 20)
	ok(t, b.vault.Barrier(t.Context()))
	ok(t, a.SetMeta("d/f", meta(0o700, 5, 5, 4321, nil), true))
	ok(t, putMeta(a, "last", "last", meta(0o711, 6, 6, 765, map[string][]byte{"user.x": []byte("y")})))
	_, move, err := b.vault.Stand(t.Context(), "one", "@hourly", time.Minute)
	ok(t, err)
	b.keep("one")
	if !move() {
		t.Error("names did not stand still")
	}
	changeAll(t, a)
	if got, done := b.compare("one", appendonly.CompareOptions{Hash: true}); len(got) > 0 || done.Amended > 1 {
		t.Errorf("%q, %+v", got, done)
	}
}

// openBelow lists this process's descriptors below a directory.
func openBelow(t testing.TB, dir string) (out []string) {
	list, err := os.ReadDir("/proc/self/fd")
	ok(t, err)
	for _, e := range list {
		if p, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(p, dir) {
			out = append(out, p)
		}
	}
	return out
}

// What a client asks of a body leads nowhere else, whatever it is called and whatever lies there.
func TestBodyHostile(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	plant(t, a, 20)
	b.clock.Add(time.Hour)
	b.snap("one", "manual")
	body := b.keep("one")
	// What no vaultd makes: links that lead out by the kernel's eyes, a fifo, what hides in the root.
	ok(t, os.WriteFile(b.dir+"/secret", []byte("secret"), 0o600))
	ok(t, os.Symlink(b.dir, body+"/files/kernel"))
	ok(t, os.Symlink("../../../../secret", body+"/files/rel"))
	ok(t, os.WriteFile(body+"/files/.vault", []byte("swap"), 0o600))
	ok(t, exec.Command("mkfifo", body+"/files/pipe").Run())
	for _, p := range []string{"kernel/secret", "rel", "../format", "d/../../format", "..", "../../two/files/plain", "out", "loop", "loop/x", ".vault", ".vault/x", "pipe", "plain/x", "nothing",
		"kernel", "d", "dev", "fifo", strings.Repeat("x", 256), strings.Repeat("d/", 2000) + "x", "odd/a\x00b", "scratch", "staging", "store", "d/f/../../../format"} {
		if got, err := get(a, "/.vault/snapshots/one/"+p); err == nil {
			t.Errorf("%q: %q", p, got)
		}
	}
	for _, p := range []string{"../one", "one/../../x", ".", "", "vaultd-one", "one\x00", "two", "..", strings.Repeat("x", 250)} {
		if got, err := get(a, "/.vault/snapshots/"+p+"/plain"); err == nil {
			t.Errorf("snapshot %q: %q", p, got)
		}
	}
	want := map[string]string{"d/up": "plain", "to-file": "in d", "to-dir/g": "in e", "to-dir/../to-dir/link": "in d"}
	for p, data := range want {
		if got, err := get(a, "/.vault/snapshots/one/"+p); err != nil || got != data {
			t.Errorf("%q: %q, %v", p, got, err)
		}
	}
	names, err := list(a, ".snapshots/one")
	ok(t, err)
	if strings.Contains(names, ".vault") || !strings.Contains(names, "kernel") {
		t.Errorf("listed: %s", names)
	}
	// It is the past: nothing can be changed there.
	refused(t, appendonly.P2, put(a, "/.vault/snapshots/one/new", "x"))
	refused(t, appendonly.P2, a.Remove("/.vault/snapshots/one/plain"))
}

// A session with a root sees that path's past, also in a body; a root that was no directory then is empty.
func TestBodyRoot(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	plant(t, a, 20)
	b.clock.Add(time.Hour)
	b.snap("one", "manual")
	b.keep("one")
	changeAll(t, a) // d is another directory now
	for root, names := range map[string]string{"d": "e f up", "d/e": "early g link", "moved": "", "to-dir": "", "plain": "", "nothing/at/all": "", "to-dir/e": ""} {
		b.root = root
		r := b.as("bob")
		wantList(t, r, "/.vault/snapshots/one", names)
	}
	b.root = "d"
	r := b.as("bob")
	want(t, r, ".snapshots/one/f", "in d")
	for _, p := range []string{"../plain", "up", "/up", "e/../../plain"} { // up leads to ../plain, which ends at the root
		if got, err := get(r, ".snapshots/one/"+p); err == nil {
			t.Errorf("%s: %q", p, got)
		}
	}
}

// What was found damaged is not served from a body either, also where the index does not know the name.
func TestBodyDamaged(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, put(a, "f", "good"))
	ok(t, put(a, "g", "good too"))
	ok(t, put(a, "h", "short"))
	b.clock.Add(time.Hour)
	b.snap("one", "manual")
	ok(t, os.WriteFile(b.dir+"/files/f", []byte("evil"), 0o640))
	body := b.keep("one")
	ok(t, os.Link(body+"/files/f", body+"/files/unknown"))
	ok(t, os.WriteFile(body+"/files/h", []byte("longer than it was"), 0o640))
	want(t, a, ".snapshots/one/f", "evil") // nobody knows yet
	var wrong []string
	ok(t, b.vault.Verify(t.Context(), appendonly.VerifyOptions{}, func(w appendonly.Wrong) { wrong = append(wrong, w.Path) }, func(appendonly.Verified) {}))
	if !slices.Equal(wrong, []string{"f"}) {
		t.Fatalf("wrong: %q", wrong)
	}
	for _, p := range []string{"f", "unknown", "h"} {
		if got, err := get(a, ".snapshots/one/"+p); !errors.Is(err, appendonly.ErrQuarantined) {
			t.Errorf("%s: %q, %v", p, got, err)
		}
	}
	want(t, a, ".snapshots/one/g", "good too")
}

// A body that is gone, of another instant, or can not be opened is not taken for the snapshot: the index shows that, and the log tells.
func TestBodyFallsBack(t *testing.T) {
	for name, spoil := range map[string]func(*bodied, string){
		"gone":            func(b *bodied, body string) { ok(b.t, os.RemoveAll(body)) },
		"no volume":       func(b *bodied, body string) { ok(b.t, os.Remove(body+"/format")) },
		"a symlink":       func(b *bodied, body string) { ok(b.t, os.Rename(body, body+"x")); ok(b.t, os.Symlink(body+"x", body)) },
		"without journal": func(b *bodied, body string) { ok(b.t, exec.Command("sh", "-c", "rm "+body+"/journal/*").Run()) },
		"later":           func(b *bodied, body string) { b.later(body, "two") },
		"used twice": func(b *bodied, body string) {
			ok(b.t, os.RemoveAll(body))
			ok(b.t, os.Rename(b.bodyPath("zero"), body))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
			a := b.as("alice")
			ok(t, put(a, "f", "zero"))
			b.snap("zero", "manual")
			b.keep("zero")
			ok(t, put(a, "f", "then"))
			b.clock.Add(time.Hour)
			b.snap("one", "manual")
			spoil(b, b.keep("one"))
			want(t, a, ".snapshots/one/f", "then")
			wantList(t, a, ".snapshots/one", "f")
			if n := strings.Count(b.log.String(), "from the index and not from its body"); n != 1 {
				t.Errorf("told %d times:\n%s", n, b.log)
			}
			want(t, a, ".snapshots/zero/f", "zero")
		})
	}
}

// later makes the body one that was taken after something changed.
func (b *bodied) later(body, data string) {
	ok(b.t, put(b.as("alice"), "f", data))
	b.snap("later", "push")
	ok(b.t, os.RemoveAll(body))
	b.keep("one")
	ok(b.t, put(b.as("alice"), "f", "now"))
}

// A client that goes through all snapshots makes no more than some of them be mounted; it sees them all.
func TestBodiesAreBounded(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	const n = 50
	for i := range n {
		ok(t, put(a, "f", fmt.Sprint(i)))
		b.snap(fmt.Sprint("s", i), "push")
		b.keep(fmt.Sprint("s", i))
		ok(t, os.WriteFile(b.bodyPath(fmt.Sprint("s", i))+"/files/body", nil, 0o640))
	}
	bodies := 0
	for i := range n {
		want(t, a, fmt.Sprintf(".snapshots/s%d/f", i), fmt.Sprint(i))
		if _, err := a.Stat(fmt.Sprintf(".snapshots/s%d/body", i)); err == nil {
			bodies++
		}
		if fds := openBelow(t, b.dir+"/.zfs"); len(fds) > 4*8 {
			t.Fatalf("%d descriptors are open", len(fds))
		}
	}
	if bodies < 30 || bodies > 36 {
		t.Errorf("%d of %d bodies were opened", bodies, n)
	}
	if strings.Count(b.log.String(), "too many") < 10 {
		t.Errorf("it is not told:\n%s", b.log)
	}
	// The snapshots themselves are listed and looked at without any.
	b.reopen()
	a = b.as("alice")
	names, err := list(a, "/.snapshots")
	ok(t, err)
	for name := range strings.SplitSeq(names, " ") {
		_, err := a.Stat(".snapshots/" + name)
		ok(t, err)
	}
	if fds := openBelow(t, b.dir+"/.zfs"); len(fds) > 0 {
		t.Errorf("ls mounts: %q", fds)
	}
	if _, err := get(a, ".snapshots/s3/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Large directories come in pages, in order, each name once.
func TestBodyPages(t *testing.T) {
	b := newBodied(t, appendonly.Policy{})
	a := b.as("alice")
	ok(t, put(a, "f", "f"))
	b.snap("one", "manual")
	body := b.keep("one")
	const n = 20000
	ok(t, os.Mkdir(body+"/files/large", 0o750))
	for i := range n {
		f, err := os.OpenFile(fmt.Sprintf("%s/files/large/%05d", body, i*7919%n), os.O_CREATE|os.O_WRONLY, 0o640)
		ok(t, err)
		f.Close()
	}
	d, err := a.OpenDir(".snapshots/one/large")
	ok(t, err)
	i := 0
	ok(t, d.Each(func(e *appendonly.Info) error {
		if e.Name != fmt.Sprintf("%05d", i) {
			t.Fatalf("%d is %s", i, e.Name)
		}
		i++
		return nil
	}))
	if i != n {
		t.Errorf("%d names", i)
	}
}
