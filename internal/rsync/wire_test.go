package rsync_test

import (
	"bytes"
	"crypto/md5"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
	"vaultd/internal/volume/volumetest"
)

// What no client on Linux sends, and what only the wire shows.

// answers decodes what a server wrote behind its handshake of protocol 31.
type answers struct {
	*wire.Reader
	messages []wire.Code
}

func readAnswers(t *testing.T, out []byte) *answers {
	t.Helper()
	a := &answers{Reader: wire.NewReader(bytes.NewReader(out), 1000)}
	_, err := a.Int()
	_, verr := a.Varint()
	_, serr := a.Int()
	if err := errors.Join(err, verr, serr); err != nil {
		t.Fatal(err)
	}
	a.Multiplexed(func(code wire.Code, _ []byte) error { a.messages = append(a.messages, code); return nil })
	return a
}

// Times of creation (-N): Linux builds of rsync have none. They are stored, come back, are compared and changed.
func TestCreationTimes(t *testing.T) {
	const push = "rsync --server -logDtpNre.LsfxCIvu --checksum-seed=7 --checksum-choice=md5 . dest/"
	pull := strings.Replace(push, "--server", "--server --sender", 1)
	cfg := config()
	cfg.VarintFlags, cfg.CRTimes = true, true
	v := open(t, appendonly.Versioned)
	for round, created := range []int64{-86400, -86400, 1 << 33} {
		c := hello()
		b := flist.NewBuilder(c.Writer, cfg)
		made := file("a", 5)
		made.CRTime = created
		born := file("b", 5) // created when it was changed last: the wire has a flag for that
		born.CRTime = born.MTime
		of := dir("d")
		of.CRTime = created + 1
		for _, it := range []*flist.Item{dir("."), made, born, of} {
			b.Add(it)
		}
		b.Finish(0)
		c.Flush()
		c.listed = c.out.Len()
		if round == 0 {
			c.content(1, "hello")
			c.content(2, "hello")
		}
		c.bye()
		con := c.conversation()
		var out bytes.Buffer
		if err := serve(t, t.Context(), v, push, con, both{con, &out}); err != nil {
			t.Fatal(err)
		}
		if round > 0 {
			a := readAnswers(t, out.Bytes())
			var changed []int32
			for {
				n, err := a.Index(proto)
				if err != nil || n == wire.Done {
					break
				}
				flags, _ := a.Short()
				if flags&(1<<10) != 0 { // ITEM_REPORT_CRTIME
					changed = append(changed, n)
				}
			}
			if want := [][]int32{nil, {1, 3}}[round-1]; !slices.Equal(changed, want) {
				t.Errorf("round %d: changed %v, want %v", round, changed, want)
			}
		}
		c = hello()
		c.rules()
		c.bye()
		con = c.conversation()
		out.Reset()
		if err := serve(t, t.Context(), v, pull, con, both{con, &out}); err != nil {
			t.Fatal(err)
		}
		l, err := flist.Decode(readAnswers(t, out.Bytes()).Reader, cfg)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []int64{1: created, 2: 1e9, 3: created + 1} {
			if got := l.At(i).CRTime(); i > 0 && got != want {
				t.Errorf("round %d: %s was created at %d, want %d", round, l.At(i).Path(), got, want)
			}
		}
	}
}

// both writes to two.
type both struct {
	a, b interface{ Write([]byte) (int, error) }
}

func (w both) Write(p []byte) (int, error) {
	w.b.Write(p)
	return w.a.Write(p)
}

// locked is a buffer that the vault's own goroutines look into.
type locked struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *locked) bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.buf.Bytes())
}

// A source is removed once its copy is on stable storage: MSG_SUCCESS comes behind the barrier, and never when that fails.
func TestSourcesGoBehindTheBarrier(t *testing.T) {
	command := strings.Replace(line, " . ", " --remove-source-files . ", 1)
	for _, fails := range []string{"", "Sync", "SegmentSync"} {
		t.Run(fails, func(t *testing.T) {
			var out locked
			successes := func() (n int) {
				a := readAnswers(t, out.bytes())
				for a.Discard(1) == nil {
				}
				for _, c := range a.messages {
					if c == wire.CodeSuccess {
						n++
					}
				}
				return n
			}
			mem := volumetest.New(t)
			var armed atomic.Bool
			var synced atomic.Int32
			mem.Fault = func(op, _ string) (bool, error) {
				if !armed.Load() || op != "Sync" && op != "SegmentSync" {
					return false, nil
				}
				if synced.Add(1); successes() > 0 {
					t.Errorf("%s: the client was told before", op)
				}
				if op == fails {
					return false, errors.New("the disk is broken")
				}
				return false, nil
			}
			v := openOn(t, mem, appendonly.Strict, fails != "")
			c := hello()
			c.list(dir("."), file("a", 5), file("b", 3), &flist.Item{Path: "l", Mode: 0o120777, Target: "a"})
			c.content(1, "hello")
			c.content(2, "abc")
			c.bye()
			con := c.conversation()
			armed.Store(true)
			err := serve(t, t.Context(), v, command, con, both{con, &out})
			armed.Store(false)
			switch n := successes(); {
			case synced.Load() == 0:
				t.Error("nothing was synced")
			case fails == "" && (n != 3 || err != nil):
				t.Errorf("%d sources of 3 may go: %v", n, err)
			case fails != "" && (n != 0 || err == nil):
				t.Errorf("%d sources may go though nothing is stable: %v", n, err)
			}
		})
	}
}

// A file of which the client sends other bytes than its checksum says is asked for once more, and then given up: nothing of it is stored,
// and its source stays.
func TestWrongChecksums(t *testing.T) {
	command := strings.Replace(line, " . ", " --remove-source-files . ", 1)
	v := open(t, appendonly.Versioned)
	wrong := func(c *client, index int32) {
		c.Index(index, proto)
		c.Short(1 << 15)
		for range 4 {
			c.Int(0)
		}
		c.Int(5)
		c.Write([]byte("wrong"))
		c.Int(0)
		sum := md5.Sum([]byte("right"))
		c.Write(sum[:])
	}
	c := hello()
	c.list(dir("."), file("a", 5), file("b", 3))
	wrong(c, 1)
	c.content(2, "abc")
	c.Index(wire.Done, proto)
	c.pause()
	wrong(c, 1)
	for range 4 {
		c.Index(wire.Done, proto)
	}
	con := c.conversation()
	var out bytes.Buffer
	if err := serve(t, t.Context(), v, command, con, both{con, &out}); err == nil || !strings.Contains(err.Error(), "23") {
		t.Errorf("it ended with %v, want status 23", err)
	}
	f := v.Session(appendonly.Who{Key: "owner", Session: "s3"})
	defer f.Close(t.Context())
	if _, err := f.Stat("dest/a"); err == nil {
		t.Error("dest/a is there")
	}
	if i, err := f.Stat("dest/b"); err != nil || i.Size != 3 {
		t.Errorf("dest/b: %+v, %v", i, err)
	}
	if !bytes.Contains(out.Bytes(), []byte("its checksum was wrong twice")) {
		t.Error("the client was not told")
	}
}
