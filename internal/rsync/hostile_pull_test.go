package rsync_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/wire"
)

// pullLine is line for a pull of src, which stock fills.
const pullLine = "rsync --server --sender -logDtpre.LsfxCIu --checksum-seed=7 . src/"

// stock puts files into src: on the wire they are 0 ".", 1 "f", 2 "g", 3 "d".
func stock(t testing.TB, v *appendonly.Vault) {
	f := v.Session(appendonly.Who{Key: "owner", Session: "s4"})
	defer f.Close(t.Context())
	for _, d := range []string{"src", "src/d"} {
		if err := f.Mkdir(d, appendonly.NoMeta()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []string{"src/f", "src/g"} {
		u, err := f.Create(n, appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.WriteAt(bytes.Repeat([]byte("content "), 10_000), 0); err != nil {
			t.Fatal(err)
		}
		if err := u.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// untouched checks that a pull changed nothing.
func untouched(t testing.TB, v *appendonly.Vault) {
	t.Helper()
	f := v.Session(appendonly.Who{Key: "owner", Session: "s5"})
	defer f.Close(t.Context())
	for name, size := range map[string]int64{"victim": 6, "src/f": 80_000, "src/g": 80_000, "src/d": 0} {
		if i, err := f.Stat(name); err != nil || i.Size != size {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

// rules sends filter rules, and that nothing more comes before the server's list.
func (c *client) rules(all ...string) {
	for _, r := range all {
		c.Int(int32(len(r)))
		c.Write([]byte(r))
	}
	c.Int(0)
	c.Flush()
	c.listed = c.out.Len()
}

// wants asks for a file that the client has nothing of, or with a head of its own.
func (c *client) wants(index int32, head ...int32) {
	c.Index(index, proto)
	c.Short(1 << 15) // ITEM_TRANSFER
	if head == nil {
		head = []int32{0, 0, 0, 0}
	}
	for _, n := range head {
		c.Int(n)
	}
}

// goodPull is a session in order, in which the client has f and lacks g.
func goodPull() *client {
	c := hello()
	c.rules("- nothing*")
	c.wants(2)
	c.bye()
	return c
}

func TestGoodPull(t *testing.T) {
	v := open(t, appendonly.Strict)
	stock(t, v)
	con := goodPull().conversation()
	var out bytes.Buffer
	if err := serve(t, t.Context(), v, pullLine, con, io.MultiWriter(con, &out)); err != nil {
		t.Fatal(err)
	}
	if n := out.Len(); n < 80_000 || n > 90_000 {
		t.Errorf("%d bytes for one of two files of 80,000", n)
	}
	untouched(t, v)
}

// Every lie of a client that pulls ends the session with an error, at once and in order, and changes nothing.
func TestHostilePull(t *testing.T) {
	asked := func(rest func(c *client)) func(*client) {
		return func(c *client) { c.rules(); rest(c) }
	}
	wants := func(index int32, head ...int32) func(*client) {
		return asked(func(c *client) { c.wants(index, head...); c.bye() })
	}
	for name, lie := range map[string]func(*client){
		"nothing":                  func(*client) {},
		"a negative rule":          func(c *client) { c.Int(-5) },
		"a huge rule":              func(c *client) { c.Int(math.MaxInt32) },
		"a rule cut off":           func(c *client) { c.Int(100); c.Write([]byte("- x")) },
		"a rule that is none":      func(c *client) { c.rules("what?") },
		"rules without end":        func(c *client) { c.rules(many(200_000, "- x")...) },
		"long rules without end":   func(c *client) { c.rules(many(3000, "- "+strings.Repeat("a*", 1500))...) },
		"a goodbye too early":      func(c *client) { c.bye() },
		"a number out of range":    wants(4),
		"a huge number":            wants(math.MaxInt32),
		"a negative number":        wants(-101),
		"a directory":              wants(3),
		"a negative block count":   wants(1, -1, 700, 16, 0),
		"a huge block count":       wants(1, math.MaxInt32, 700, 16, 0),
		"many blocks, no sums":     wants(1, 1<<24, 700, 16, 0),
		"blocks of no length":      wants(1, 1, 0, 16, 0),
		"a huge block length":      wants(1, 1, math.MaxInt32, 16, 0),
		"a negative block length":  wants(1, 1, -700, 16, 0),
		"a long strong sum":        wants(1, 1, 700, 17, 0),
		"a negative strong sum":    wants(1, 1, 700, -1, 0),
		"a remainder over a block": wants(1, 1, 700, 16, 701),
		"sums cut off":             asked(func(c *client) { c.wants(1, 3, 700, 16, 0); c.Int(5) }),
		"a name that is long":      asked(func(c *client) { c.Index(1, proto); c.Short(1<<15 | 1<<12); c.VString(bytes.Repeat([]byte("n"), 5000)) }),
		"a request in the last phase": asked(func(c *client) {
			c.Index(wire.Done, proto)
			c.Index(wire.Done, proto)
			c.wants(1)
			c.bye()
		}),
		"no goodbye": asked(func(c *client) { c.wants(2) }),
		"a goodbye that goes on": asked(func(c *client) {
			for range 3 {
				c.Index(wire.Done, proto)
			}
			c.wants(1)
		}),
		"it gives up": asked(func(c *client) { c.Message(wire.CodeErrorExit, nil) }),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := open(t, appendonly.Versioned)
			stock(t, v)
			c := hello()
			lie(c)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			con := c.conversation()
			if err := serve(t, ctx, v, pullLine, con, con); err == nil {
				t.Error("the session ended well")
			}
			if ctx.Err() != nil {
				t.Error("it does not end")
			}
			untouched(t, v)
		})
	}
}

func many(n int, s string) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}

// What a client says beside its data may come at any time, and be about anything.
func TestMessagesAtAnyTime(t *testing.T) {
	for _, command := range []string{line, pullLine, strings.Replace(pullLine, " . ", " --remove-source-files . ", 1)} {
		for _, code := range []wire.Code{wire.CodeSuccess, wire.CodeNoSend, wire.CodeIOError, wire.CodeDeleted, wire.CodeRedo, wire.CodeStats, wire.CodeNoop, wire.CodeIOTimeout, 5, 6, 7, 8, 90} {
			t.Run(fmt.Sprint(command, code), func(t *testing.T) {
				t.Parallel()
				for _, payload := range []string{"", "x", "\x00\x00\x00\x00", "\xff\xff\xff\x7f", "\xff\xff\xff\xff", "\x03\x00\x00\x00"} {
					v := open(t, appendonly.Strict)
					stock(t, v)
					con := chatty(command == line, code, []byte(payload)).conversation()
					serve(t, t.Context(), v, command, con, con)
					untouched(t, v)
				}
			})
		}
	}
}

// chatty is a session in order, with a message between its parts.
func chatty(push bool, code wire.Code, payload []byte) *client {
	c := hello()
	say := func() { c.Message(code, payload) }
	say()
	if push {
		c.list(dir("."), file("a", 5))
		say()
		c.content(1, "hello")
	} else {
		c.rules()
		say()
		c.wants(2)
	}
	say()
	c.bye()
	return c
}

// FuzzPull sends anything as rules and requests.
func FuzzPull(f *testing.F) {
	c := goodPull()
	f.Add(c.bytes()[4:])
	c = hello()
	c.rules("P x", ": .rules")
	c.wants(1, 2, 700, 2, 10)
	for range 2 {
		c.Int(1)
		c.Write([]byte("ab"))
	}
	c.bye()
	f.Add(c.bytes()[4:])
	v := open(f, appendonly.Versioned)
	stock(f, v)
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		serve(t, ctx, v, pullLine, bytes.NewReader(append([]byte{proto, 0, 0, 0}, b...)), io.Discard)
		if ctx.Err() != nil {
			t.Error("it does not end")
		}
		untouched(t, v)
	})
}

// FuzzDaemon says anything in a daemon's dialogue, and goes on with what may be a transfer.
func FuzzDaemon(f *testing.F) {
	const options = "--server\x00--sender\x00-logDtpre.LsfxCIu\x00--checksum-seed=7\x00.\x00src/\x00\x00"
	f.Add([]byte("@RSYNCD: 31.0 md5\n#list\n"))
	f.Add([]byte("@RSYNCD: 29\nsrc\n--server\n-r\n.\nsrc/\n\n"))
	f.Add(append([]byte("@RSYNCD: 31.0\nsrc\n"+options), goodPull().bytes()[4:]...))
	f.Add([]byte("@RSYNCD: 31.0\nalice\n--server\x00-s\x00\x00-logDtpre.iLsfxCIvu\x00.\x00alice/dest\x00\x00"))
	v := open(f, appendonly.Versioned)
	stock(f, v)
	f.Fuzz(func(t *testing.T, b []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var out bytes.Buffer
		serve(t, ctx, v, "rsync --server --daemon .", bytes.NewReader(b), &out)
		if ctx.Err() != nil {
			t.Error("it does not end")
		}
		if !bytes.HasPrefix(out.Bytes(), []byte("@RSYNCD: ")) {
			t.Errorf("it answers %q", out.Bytes())
		}
	})
}
