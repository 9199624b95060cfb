package appendonly_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// clock is the server's clock in tests.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// bench is one tenant on a memory volume that enforces P1.
type bench struct {
	t     testing.TB
	mem   *volumetest.Memory
	segs  journal.Segments  // nil: mem
	vol   appendonly.Volume // nil: mem
	body  appendonly.Bodies // of snapshots; may be nil
	vault *appendonly.Vault
	clock *clock
	index string
	boot  string
	// opened is what boot was when the vault was opened.
	opened string
	pol    appendonly.Policy
	root   string       // of the sessions
	log    *slog.Logger // nil: the test's
}

func newBench(t testing.TB, p appendonly.Policy) *bench {
	b := &bench{t: t, mem: volumetest.New(t), clock: newClock(), index: filepath.Join(t.TempDir(), "index.db"), boot: "boot1", pol: p}
	b.open()
	return b
}

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (b *bench) open() {
	b.t.Helper()
	segs := b.segs
	if segs == nil {
		segs = b.mem
	}
	log := b.log
	if log == nil {
		log = slog.New(slog.NewTextHandler(testLog{b.t}, nil))
	}
	vol := b.vol
	if vol == nil {
		vol = b.mem
	}
	v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: segs, Bodies: b.body, IndexPath: b.index, Policy: b.pol,
		Now: b.clock.Now, Boot: b.boot, Log: log, BarrierEvery: time.Hour})
	if err != nil {
		b.t.Fatal(err)
	}
	b.vault, b.opened = appendonly.Inline(v), b.boot
	b.t.Cleanup(func() { v.Close() })
}

// reopen closes the vault in order and opens it again.
func (b *bench) reopen() {
	b.t.Helper()
	if err := b.vault.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

// session is as, for tests that end sessions themselves.
func (b *bench) session(key string) *appendonly.FS {
	return b.vault.Session(appendonly.Who{Key: key, Root: b.root, Fingerprint: "SHA256:" + key, Session: "s-" + key, Protocol: "test"})
}

func (b *bench) as(key string) *appendonly.FS {
	fs := b.vault.Session(appendonly.Who{Key: key, Root: b.root, Fingerprint: "SHA256:" + key, Session: "s-" + key, Protocol: "test"})
	b.t.Cleanup(func() { fs.Close(context.Background()) })
	return fs
}

// all is a session that sees the whole tenant.
func (b *bench) all(key string) *appendonly.FS {
	defer func(root string) { b.root = root }(b.root)
	b.root = ""
	return b.as(key)
}

func (b *bench) role(key string, r appendonly.Role) *appendonly.FS {
	fs := b.vault.Session(appendonly.Who{Key: key, Root: b.root, Role: r, Session: "s-" + key})
	b.t.Cleanup(func() { fs.Close(context.Background()) })
	return fs
}

var create = appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()}

func put(f *appendonly.FS, path, data string) error {
	u, err := f.Create(path, create)
	if err != nil {
		return err
	}
	if data != "" {
		if _, err := u.WriteAt([]byte(data), 0); err != nil {
			u.Close()
			return err
		}
	}
	return u.Close()
}

func get(f *appendonly.FS, path string) (string, error) {
	r, err := f.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	data, err := io.ReadAll(io.NewSectionReader(r, 0, 1<<40))
	return string(data), err
}

func list(f *appendonly.FS, path string) (string, error) {
	d, err := f.OpenDir(path)
	if err != nil {
		return "", err
	}
	var names []string
	for {
		infos, err := d.Next(2)
		if err == io.EOF {
			return strings.Join(names, " "), nil
		}
		if err != nil {
			return "", err
		}
		for _, i := range infos {
			names = append(names, i.Name)
		}
	}
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func refused(t testing.TB, rule appendonly.Rule, err error) {
	t.Helper()
	var d *appendonly.DeniedError
	if !errors.As(err, &d) || d.Rule != rule || !errors.Is(err, fs.ErrPermission) {
		t.Fatalf("got %v, want a refusal by %s", err, rule)
	}
}

func want(t testing.TB, f *appendonly.FS, path, data string) {
	t.Helper()
	got, err := get(f, path)
	if err != nil || got != data {
		t.Fatalf("%s holds %.80q, %v; want %.80q", path, got, err, data)
	}
}

func wantList(t testing.TB, f *appendonly.FS, path, names string) {
	t.Helper()
	got, err := list(f, path)
	if err != nil || got != names {
		t.Fatalf("%s lists %q, %v; want %q", path, got, err, names)
	}
}

// A newcomer puts a file and removes, changes or renames it a second later.
func TestStrictSealsAtClose(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "d/f", "one"))
	refused(t, appendonly.P2, a.Remove("d/f"))
	refused(t, appendonly.P1, put(a, "d/f", "two"))
	refused(t, appendonly.P1, put(a, "d/f", ""))
	refused(t, appendonly.P2, a.Rename("d/f", "d/g", true))
	refused(t, appendonly.P2, a.Rename("d", "e", true))
	ok(t, put(a, "other", "x"))
	refused(t, appendonly.P2, a.Rename("other", "d/f", true))
	want(t, a, "/d/f", "one")
	b.reopen()
	want(t, b.as("alice"), "/d/f", "one")
	wantList(t, b.as("alice"), "/", "d other")
}

func TestSameOrLonger(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a, m := b.as("alice"), b.as("mallory")
	ok(t, put(a, "f", "one"))
	ok(t, put(a, "f", "one"))
	ok(t, put(m, "f", "one"))
	refused(t, appendonly.P1, put(m, "f", "one and more"))
	b.clock.Add(2 * time.Second)
	ok(t, put(a, "f", "one and more"))
	want(t, a, "f", "one and more")
	want(t, a, ".at/1s/f", "one")
	refused(t, appendonly.P1, put(a, "f", "other and more"))
	b.clock.Add(25 * time.Hour)
	refused(t, appendonly.P1, put(a, "f", "one and more and more"))
	ok(t, put(a, "f", "one and more"))
	// reput: only the rest is sent
	ok(t, put(a, "g", "12345"))
	u, err := a.Create("g", appendonly.CreateOptions{Create: true, Append: true, Meta: appendonly.NoMeta()})
	ok(t, err)
	_, err = u.WriteAt([]byte("678"), 5)
	ok(t, err)
	ok(t, u.Close())
	want(t, a, "g", "12345678")
	// writing in the middle is a change, whoever guesses the byte
	u, err = m.Create("g", appendonly.CreateOptions{Meta: appendonly.NoMeta()})
	ok(t, err)
	_, err = u.WriteAt([]byte("3"), 2)
	ok(t, err)
	refused(t, appendonly.P1, u.Close())
	vs, err := a.Versions("g")
	ok(t, err)
	if len(vs) != 2 || vs[1].Size != 5 {
		t.Fatalf("versions: %+v", vs)
	}
	names, err := list(a, ".versions/g")
	ok(t, err)
	first, _, _ := strings.Cut(names, " ")
	want(t, a, "/.vault/versions/g/"+first, "12345")
}

func TestVersioned(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "d/f", "one"))
	b.clock.Add(5 * time.Second)
	ok(t, put(a, "d/f", "two"))
	want(t, a, "d/f", "two")
	want(t, a, ".at/3s/d/f", "one")
	ok(t, a.Rename("d", "e", false))
	want(t, a, "e/f", "two")
	ok(t, a.Remove("e/f"))
	ok(t, a.Rmdir("e"))
	wantList(t, a, "", "")
	b.clock.Add(5 * time.Second)
	want(t, a, ".at/8s/d/f", "one")
	b.reopen()
	want(t, b.as("alice"), ".at/8s/d/f", "one")
	_, err := get(b.as("alice"), ".at/0s/d/f")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestTemporaryNames(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a, m := b.as("alice"), b.as("mallory")
	ok(t, put(a, "x.partial", "one"))
	refused(t, appendonly.P2, m.Remove("x.partial"))
	refused(t, appendonly.P2, put(m, "x.partial", "two"))
	wantList(t, a, "/", "x.partial")
	wantList(t, a, ".at/0s", "")
	ok(t, put(a, "x.partial", "two"))
	ok(t, a.Rename("x.partial", "x", true))
	ok(t, a.Rename("x.partial", "x", true)) // the reply was lost
	want(t, a, "x", "two")
	refused(t, appendonly.P2, a.Remove("x"))
	ok(t, put(a, "y.partial", "two"))
	ok(t, a.Rename("y.partial", "x", true)) // the same again
	ok(t, put(a, "y.partial", "three"))
	refused(t, appendonly.P1, a.Rename("y.partial", "x", true))
	ok(t, a.Remove("y.partial"))
	b.reopen()
	want(t, b.as("alice"), "x", "two")
}

func TestResume(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	a := b.as("alice")
	u, err := a.Create("f", create)
	ok(t, err)
	_, err = u.WriteAt([]byte("12345"), 0)
	ok(t, err)
	ok(t, a.Close(context.Background()))
	wantList(t, b.as("alice"), "", "")
	if _, err := b.as("mallory").Stat("f"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	b.reopen()
	a = b.as("alice")
	info, err := a.Stat("f")
	ok(t, err)
	if info.Size != 5 || info.Sealed {
		t.Fatalf("%+v", info)
	}
	u, err = a.Create("f", appendonly.CreateOptions{Create: true, Append: true, Meta: appendonly.NoMeta()})
	ok(t, err)
	_, err = u.WriteAt([]byte("678"), 5)
	ok(t, err)
	ok(t, u.Close())
	want(t, a, "f", "12345678")
}
