package rsync_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/session"
	"vaultd/internal/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A client made of bytes: what it sends does not depend on what it is told, so every lie can be told.

const proto = 31

// line is what a client of protocol 31 without negotiation starts: checksums are MD5, with a known seed.
const line = "rsync --server -logDtpre.LsfxCIu --checksum-seed=7 . dest/"

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, mode appendonly.Mode) *appendonly.Vault {
	return openOn(t, volumetest.New(t), mode, false)
}

// openOn opens a vault with a file in it. broken: its disk will fail.
func openOn(t testing.TB, mem *volumetest.Memory, mode appendonly.Mode, broken bool) *appendonly.Vault {
	v, err := appendonly.Open(appendonly.Config{Volume: mem, Segments: mem, IndexPath: filepath.Join(t.TempDir(), "index.db"),
		Policy: appendonly.Policy{Mode: mode}, Log: quiet, BarrierEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil && !broken {
			t.Error(err)
		}
	})
	f := v.Session(appendonly.Who{Key: "owner", Session: "s0"})
	u, err := f.Create("victim", appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.WriteAt([]byte("sealed"), 0)
	if err := errors.Join(err, u.Close(), f.Close(t.Context())); err != nil {
		t.Fatal(err)
	}
	return v
}

// serve runs one session as another key and returns how it ended.
func serve(t testing.TB, ctx context.Context, v *appendonly.Vault, command string, stdin io.Reader, stdout io.Writer) error {
	srv, err := rsync.New(rsync.Config{MaxEntries: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	f := v.Session(appendonly.Who{Key: "mallory", Session: "s1"})
	err = srv.Serve(ctx, &session.Session{FS: f, Tenant: "alice", Command: command, Stdin: stdin, Stdout: stdout, Stderr: io.Discard, Log: quiet})
	return errors.Join(err, f.Close(context.WithoutCancel(ctx)))
}

// talk runs a session with a client that waits for its requests.
func talk(t testing.TB, ctx context.Context, v *appendonly.Vault, c *client) error {
	con := c.conversation()
	return serve(t, ctx, v, line, con, con)
}

// unharmed checks that what was there before is as it was, and nothing stands beside it.
func unharmed(t testing.TB, v *appendonly.Vault) {
	t.Helper()
	f := v.Session(appendonly.Who{Key: "owner", Session: "s2"})
	defer f.Close(t.Context())
	b, err := f.Open("victim")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := make([]byte, 10)
	if n, _ := b.ReadAt(got, 0); string(got[:n]) != "sealed" {
		t.Fatalf("victim is %q", got[:n])
	}
	d, err := f.OpenDir("/")
	if err != nil {
		t.Fatal(err)
	}
	infos, _ := d.Next(10)
	for _, i := range infos {
		if i.Name != "victim" && i.Name != "dest" {
			t.Fatalf("%q stands in the root", i.Name)
		}
	}
}

// client writes the bytes of a session.
type client struct {
	*wire.Writer
	out    *bytes.Buffer
	listed int   // how many bytes come before the end of the list
	pauses []int // how many come before further waits
}

// pause waits for what the server has to say.
func (c *client) pause() {
	c.Flush()
	c.pauses = append(c.pauses, c.out.Len())
}

// hello is what comes before the list.
func hello() *client {
	out := &bytes.Buffer{}
	c := &client{Writer: wire.NewWriter(out, 1<<16), out: out}
	c.Int(proto)
	c.Multiplexed()
	return c
}

func config() *flist.Config {
	return &flist.Config{Proto: proto, SafeEnd: true, ID0Names: true, Owner: true, Group: true, Links: true, Devices: true, Specials: true, Recursive: true, NumericIDs: false}
}

// list sends the names, and the end of the list.
func (c *client) list(items ...*flist.Item) {
	b := flist.NewBuilder(c.Writer, config())
	for _, i := range items {
		b.Add(i)
	}
	b.Finish(0)
	c.Flush()
	c.listed = c.out.Len()
}

func file(name string, size int64) *flist.Item {
	return &flist.Item{Path: name, Mode: 0o100644, Size: size, MTime: 1e9}
}

func dir(name string) *flist.Item { return &flist.Item{Path: name, Mode: 0o040755, MTime: 1e9} }

// content answers a request with a whole file.
func (c *client) content(index int32, data string) {
	c.Index(index, proto)
	c.Short(1 << 15) // ITEM_TRANSFER
	for range 4 {
		c.Int(0)
	}
	c.Int(int32(len(data)))
	c.Write([]byte(data))
	c.Int(0)
	sum := md5.Sum([]byte(data))
	c.Write(sum[:])
}

// bye ends the phases.
func (c *client) bye() {
	for range 5 {
		c.Index(wire.Done, proto)
	}
}

func (c *client) bytes() []byte {
	c.Flush()
	return c.out.Bytes()
}

// conversation is a stdin that gives what comes behind the list only when the server has been silent for a moment, waiting
// for it: a client that answers before it is asked would be another test. So it does at each pause.
type conversation struct {
	parts []*bytes.Reader
	last  atomic.Int64 // when the server read or wrote, in nanoseconds
}

const silence = 40 * time.Millisecond

func converse(parts ...[]byte) *conversation {
	c := &conversation{}
	for _, p := range parts {
		c.parts = append(c.parts, bytes.NewReader(p))
	}
	return c
}

func (c *client) conversation() *conversation {
	b := c.bytes()
	parts, from := [][]byte{b[:c.listed]}, c.listed
	for _, to := range c.pauses {
		parts, from = append(parts, b[from:to]), to
	}
	return converse(append(parts, b[from:])...)
}

func (c *conversation) Read(p []byte) (int, error) {
	for {
		n, err := c.parts[0].Read(p)
		if err == nil {
			c.last.Store(time.Now().UnixNano())
		}
		if err == nil || len(c.parts) == 1 {
			return n, err
		}
		c.parts = c.parts[1:]
		for wait := c.last.Load(); wait != 0; wait = c.last.Load() {
			quiet := time.Since(time.Unix(0, wait))
			if quiet >= silence {
				break
			}
			time.Sleep(silence - quiet)
		}
	}
}

func (c *conversation) Write(p []byte) (int, error) {
	if c.last.Load() != 0 {
		c.last.Store(time.Now().UnixNano())
	}
	return len(p), nil
}

// good is a session in order.
func good() *client {
	c := hello()
	c.list(dir("."), file("a", 5), file("b", 3), dir("d"))
	c.content(1, "hello")
	c.content(2, "abc")
	c.bye()
	return c
}

func TestGoodClient(t *testing.T) {
	v := open(t, appendonly.Strict)
	if err := talk(t, t.Context(), v, good()); err != nil {
		t.Fatal(err)
	}
	unharmed(t, v)
	f := v.Session(appendonly.Who{Key: "owner", Session: "s3"})
	defer f.Close(t.Context())
	for name, size := range map[string]int64{"dest/a": 5, "dest/b": 3, "dest/d": 0} {
		if i, err := f.Stat(name); err != nil || i.Size != size {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// Every lie ends the session with an error, at once and in order, and harms nothing.
func TestHostileClient(t *testing.T) {
	raw := func(p ...byte) func(*client) { return func(c *client) { c.Write(p) } }
	listed := func(rest func(c *client)) func(*client) {
		return func(c *client) {
			c.list(dir("."), file("a", 5), file("b", 3), dir("d"))
			rest(c)
		}
	}
	asked := func(after func(c *client)) func(*client) {
		return listed(func(c *client) {
			c.Index(1, proto)
			c.Short(1 << 15)
			after(c)
		})
	}
	ints := func(n ...int32) func(*client) {
		return func(c *client) {
			for _, i := range n {
				c.Int(i)
			}
		}
	}
	many := make([]*flist.Item, 10_001)
	for i := range many {
		many[i] = file("n"+strings.Repeat("x", i%100)+string(rune('a'+i%26)), 1)
	}
	long := strings.Repeat("p/", 2040) + "end"
	for name, lie := range map[string]func(*client){
		"nothing":                  func(*client) {},
		"an empty list":            func(c *client) { c.list() },
		"too many names":           func(c *client) { c.list(many...) },
		"a name above":             func(c *client) { c.list(file("../x", 1)) },
		"a name above, below":      func(c *client) { c.list(file("a/../../x", 1)) },
		"an absolute name":         func(c *client) { c.list(file("/victim", 1)) },
		"an empty name":            func(c *client) { c.list(file("", 1)) },
		"a name with NUL":          func(c *client) { c.list(file("a\x00b", 1)) },
		"a long name":              func(c *client) { c.list(file(long+long, 1)) },
		"a negative size":          func(c *client) { c.list(file("a", -1)) },
		"a huge size":              func(c *client) { c.list(file("a", math.MaxInt64)); c.bye() },
		"a mode that is none":      func(c *client) { c.list(&flist.Item{Path: "a", Mode: 0o170000}) },
		"flags that are none":      raw(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a list without end":       func(c *client) { flist.NewBuilder(c.Writer, config()).Add(file("a", 1)) },
		"a number out of range":    listed(func(c *client) { c.content(4, "x") }),
		"a huge number":            listed(func(c *client) { c.content(math.MaxInt32, "x") }),
		"a negative number":        listed(func(c *client) { c.content(-101, "x") }),
		"a directory's content":    listed(func(c *client) { c.content(3, "x") }),
		"a content twice":          listed(func(c *client) { c.content(1, "hello"); c.content(1, "hello"); c.bye() }),
		"a negative block count":   asked(ints(-1, 700, 16, 0)),
		"a huge block count":       asked(ints(math.MaxInt32, 700, 16, 0)),
		"a negative block length":  asked(ints(1, -1, 16, 0)),
		"a huge block length":      asked(ints(1, math.MaxInt32, 16, 0)),
		"a long strong sum":        asked(ints(1, 700, 17, 0)),
		"a remainder over a block": asked(ints(1, 700, 16, 701)),
		"a huge literal":           asked(ints(0, 0, 0, 0, math.MaxInt32)),
		"a literal cut off":        asked(ints(0, 0, 0, 0, 1000, 1)),
		"a block of nothing":       asked(ints(0, 0, 0, 0, -1, 0, 0, 0, 0, 0)),
		"a block out of range":     asked(ints(1, 700, 16, 0, math.MinInt32, 0, 0, 0, 0, 0)),
		"an end without a file":    asked(func(*client) {}),
		"a goodbye too early":      func(c *client) { c.bye() },
		"a message of a kind that is none": func(c *client) {
			c.Message(wire.Code(90), []byte("x"))
			c.list(dir("."))
			c.bye()
		},
		"messages only": func(c *client) { c.Message(wire.CodeErrorExit, nil) },
		"messages forever": func(c *client) {
			for range 10_000 {
				c.Message(wire.CodeInfo, []byte("spam"))
			}
		},
	} {
		for _, mode := range []appendonly.Mode{appendonly.Strict, appendonly.Versioned} {
			t.Run(name, func(t *testing.T) {
				v := open(t, mode)
				c := hello()
				lie(c)
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				began := time.Now()
				err := talk(t, ctx, v, c)
				if err == nil && name != "a message of a kind that is none" && name != "an empty list" {
					t.Error("the session ended well")
				}
				if ctx.Err() != nil || time.Since(began) > 10*time.Second {
					t.Errorf("it took %v: %v", time.Since(began), err)
				}
				unharmed(t, v)
			})
		}
	}
}

// Duplicates and a wrong order are what a list may have: the first of a name counts, and nothing is stored twice.
func TestUnsortedList(t *testing.T) {
	v := open(t, appendonly.Strict)
	c := hello()
	c.list(file("z", 1), file("a", 1), dir("."), file("z", 1), dir("d"), file("d/x", 1), file("d", 1), file("b", 1))
	for _, i := range []int32{1, 2, 4, 7} { // of ., a, b, d, z, z, d/, d/x
		c.content(i, "1")
	}
	c.bye()
	if err := talk(t, t.Context(), v, c); err != nil {
		t.Error(err)
	}
	unharmed(t, v)
	f := v.Session(appendonly.Who{Key: "owner", Session: "s3"})
	defer f.Close(t.Context())
	for _, name := range []string{"a", "b", "z", "d/x"} {
		if i, err := f.Stat("dest/" + name); err != nil || i.Size != 1 || i.Kind != appendonly.KindFile {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// A client that never reads stops its own session and nothing else; the end of ctx ends it.
func TestClientThatNeverReads(t *testing.T) {
	for name, command := range map[string]string{"push": line, "pull": "rsync --server --sender -logDtpre.LsfxCIu --checksum-seed=7 . dest/"} {
		t.Run(name, func(t *testing.T) {
			v := open(t, appendonly.Strict)
			f := v.Session(appendonly.Who{Key: "owner", Session: "s0"})
			items := []*flist.Item{dir(".")}
			if err := f.Mkdir("dest", appendonly.NoMeta()); err != nil {
				t.Fatal(err)
			}
			for i := range 9000 {
				n := strings.Repeat("n", 50) + string(rune('a'+i%26)) + time.Duration(i).String()
				items = append(items, file(n, 1))
				if i < 3000 && name == "pull" {
					if err := f.Mkdir("dest/"+n, appendonly.NoMeta()); err != nil {
						t.Fatal(err)
					}
				}
			}
			f.Close(t.Context())
			c := hello()
			if name == "push" {
				c.list(items...)
			} else {
				c.Int(0) // no rules
			}
			in, inW := io.Pipe()
			go func() { inW.Write(c.bytes()) }() // and says no more
			outR, out := io.Pipe()
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- serve(t, ctx, v, command, in, out) }()
			select {
			case err := <-ended:
				t.Errorf("it ended by itself: %v", err)
			case <-time.After(300 * time.Millisecond):
			}
			cancel()
			outR.Close() // as the transport does
			in.Close()
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Fatal("Serve does not end")
			}
			unharmed(t, v)
		})
	}
}

// FuzzSession sends anything, behind a list in order or instead of it.
func FuzzSession(f *testing.F) {
	for _, c := range []*client{good(), special()} {
		b := c.bytes()
		f.Add(b[c.listed:], false)
		f.Add(b[4:c.listed], true)
	}
	v := open(f, appendonly.Versioned)
	prefix := good().bytes()[:good().listed]
	f.Fuzz(func(t *testing.T, b []byte, list bool) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		con := converse(prefix, b)
		if list {
			con = converse(nil, append([]byte{proto, 0, 0, 0}, b...))
		}
		serve(t, ctx, v, line, con, con)
		if ctx.Err() != nil {
			t.Error("it does not end")
		}
		unharmed(t, v)
	})
}

// special is a session with names that attack.
func special() *client {
	c := hello()
	c.list(dir("."), file("victim", 6), &flist.Item{Path: "l", Mode: 0o120777, Target: "/etc"}, &flist.Item{Path: "dev", Mode: 0o020600, Major: 1, Minor: 3})
	c.content(2, "sealed")
	c.bye()
	return c
}
