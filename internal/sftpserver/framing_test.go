package sftpserver_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
	"time"

	"vaultd/internal/sftpserver"
)

// frame is a packet without an id of its own making.
func frame(typ byte, body ...byte) []byte {
	return append(append(enc(len(body)+1), typ), body...)
}

func TestMalformed(t *testing.T) {
	init := enc(5, byte(1), 3)
	for _, tt := range []struct {
		name string
		in   []byte
		code uint32 // of the reply; 0: the session ends
		want string // in Serve's error; empty: none
	}{
		{"nothing at all", nil, 0, ""},
		{"a torn length", []byte{0, 0}, 0, "unexpected EOF"},
		{"length 0", enc(0), 0, "length of 0 bytes"},
		{"length 4: no room for a request id", append(enc(4), 17, 0, 0, 0), 0, "length of 4 bytes"},
		{"length 256 KiB + 1", enc(256<<10 + 1), 0, "length of 262145 bytes"},
		{"length 4 GiB - 1", bytes.Repeat([]byte{0xff}, 4), 0, "length of 4294967295 bytes"},
		{"the packet ends early", append(enc(100), 17, 0, 0), 0, "unexpected EOF"},
		{"a WRITE ends early", append(enc(1000), append([]byte{6}, enc(1, "1", uint64(0))...)...), 0, "unexpected EOF"},
		{"a second INIT", init, 0, "second INIT"},
		{"a STAT with no path", frame(17, enc(7)...), 5, ""},
		{"a STAT with a torn path", frame(17, enc(7, 5, []byte("abc"))...), 5, ""},
		{"a path of 4 GiB", frame(17, enc(7, []byte{0xff, 0xff, 0xff, 0xff}, []byte("abc"))...), 5, ""},
		{"an OPEN without attributes", frame(3, enc(7, "f", 1)...), 5, ""},
		{"an OPEN whose attributes are torn", frame(3, enc(7, "f", 1, 1)...), 5, ""},
		{"a WRITE without a handle", frame(6, enc(7)...), 5, ""},
		{"a WRITE that says more than it has", frame(6, enc(7, "1", uint64(0), 9, []byte("data"))...), 5, ""},
		{"a WRITE with a handle of 4 GiB", frame(6, enc(7, []byte{0xff, 0xff, 0xff, 0xff}, uint64(0))...), 5, ""},
		{"a READ without a length", frame(5, enc(7, "1", uint64(0))...), 5, ""},
		{"a RENAME to nothing", frame(18, enc(7, "a")...), 5, ""},
		{"an extension without a name", frame(200, enc(7)...), 5, ""},
		{"a known extension without arguments", frame(200, enc(7, "posix-rename@openssh.com")...), 5, ""},
		{"an unknown extension", frame(200, enc(7, "flock@openssh.com", "1", 1)...), 8, ""},
		{"LINK of version 6", frame(21, enc(7, "a", "b", byte(1))...), 8, ""},
		{"a reply", frame(101, enc(7, 0, "", "")...), 8, ""},
		{"type 0", frame(0, enc(7)...), 8, ""},
		{"type 255", frame(255, enc(7)...), 8, ""},
		{"an OPEN with no flags", frame(3, enc(7, "f", 0, 0)...), 4, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, newFake(), sftpserver.Config{}).hello()
			p.raw(tt.in...)
			if tt.code != 0 {
				p.want(p.recv(7), tt.code)
				if r := p.do(17, "/"); r.typ != 105 { // and the session goes on
					t.Errorf("the next request: %v", r)
				}
			}
			p.in.Close()
			err := p.wait()
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Serve: %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("a request before INIT", func(t *testing.T) {
		p := start(t, newFake(), sftpserver.Config{})
		p.send(17, "/")
		if err := p.wait(); err == nil || !strings.Contains(err.Error(), "before INIT") {
			t.Errorf("Serve: %v", err)
		}
	})
}

// A packet may come byte by byte, or many of them at once.
func TestTornStream(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", create)
	data := strings.Repeat("0123456789", 1000)
	var all []byte
	for i := range 20 {
		all = append(all, frame(6, enc(i, h, uint64(i*len(data)), data)...)...)
	}
	all = append(all, frame(4, enc(20, h)...)...)
	for _, b := range all[:30000] {
		p.raw(b)
	}
	p.raw(all[30000:]...)
	for i := range 21 {
		p.want(p.recv(uint32(i)), 0)
	}
	if got, _ := f.content("f"); got != strings.Repeat(data, 20) {
		t.Error("content differs")
	}
}

// A client that ends its stream right after its last request gets every reply.
func TestRepliesBeforeTheEnd(t *testing.T) {
	for range 200 {
		p := start(t, newFake(), sftpserver.Config{}).hello()
		h := p.open("f", create)
		var ids []uint32
		for i := range 5 {
			ids = append(ids, p.send(6, h, uint64(i), "x"))
		}
		ids = append(ids, p.send(4, h))
		p.in.Close()
		p.wait()
		p.out.Close()
		for _, id := range ids {
			p.want(p.recv(id), 0)
		}
	}
}

// A reply is one Write: two would cost two SSH packets each.
func TestWritesPerReply(t *testing.T) {
	f := newFake()
	f.put("f", strings.Repeat("x", 1<<20))
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", rdonly)
	for _, size := range []int{1, 4096, 32 << 10, 255 << 10} {
		p.out.mu.Lock()
		before := p.out.writes
		p.out.mu.Unlock()
		if r := p.do(5, h, uint64(0), size); r.typ != 103 || len(r.body) != 4+size {
			t.Fatalf("READ of %d: type %d, %d bytes", size, r.typ, len(r.body))
		}
		p.out.mu.Lock()
		if n := p.out.writes - before; n != 1 {
			t.Errorf("READ of %d: %d writes", size, n)
		}
		p.out.mu.Unlock()
	}
	if r := p.do(5, h, uint64(0), 1<<20); len(r.body) != 4+255<<10 {
		t.Errorf("READ of 1 MiB: %d bytes", len(r.body))
	}
}

// FuzzFraming: whatever comes, Serve returns when the stream ends, does not panic, replies at most
// once to each request and only in whole packets, and publishes nothing that was not closed.
func FuzzFraming(f *testing.F) {
	init := enc(5, byte(1), 3)
	seed := func(packets ...[]byte) { f.Add(bytes.Join(append([][]byte{init}, packets...), nil)) }
	seed()
	open := frame(3, enc(1, "f", create|1, 0)...)
	seed(open, frame(6, enc(2, "1", uint64(0), "data")...), frame(8, enc(3, "1")...), frame(5, enc(4, "1", uint64(1), 9)...), frame(4, enc(5, "1")...))
	seed(open, open, frame(200, enc(6, "copy-data", "1", uint64(0), uint64(0), "2", uint64(0))...))
	seed(open, frame(200, enc(7, "check-file", "1", "md5,sha1", uint64(0), uint64(0), 256)...))
	seed(frame(11, enc(1, "/")...), frame(12, enc(2, "1")...), frame(12, enc(3, "1")...), frame(4, enc(4, "1")...))
	seed(frame(9, enc(1, "/", 15, uint64(1), 1, 2, 3, 4, 5)...), frame(18, enc(2, "a", "b")...), frame(20, enc(3, "a", "b")...))
	seed(frame(200, enc(1, "limits@openssh.com")...), frame(200, enc(2, "users-groups-by-id@openssh.com", "aaaa", "bbbb")...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<16 {
			return
		}
		fsys := newFake()
		p := startWindow(t, fsys, sftpserver.Config{MaxHandles: 4}, 1<<30)
		p.raw(in...)
		p.in.Close()
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			t.Fatal("Serve does not return")
		}
		if p.panic != nil {
			t.Fatal(p.panic)
		}
		p.out.Close()
		for replies := 0; len(p.out.buf) > 0; replies++ {
			n := binary.BigEndian.Uint32(p.out.buf)
			if n < 5 || n > 256<<10 || int(n)+4 > len(p.out.buf) || replies > len(in)/9 {
				t.Fatalf("reply %d of %d bytes in %d", replies, n, len(p.out.buf))
			}
			p.out.buf = p.out.buf[4+n:]
		}
		if fsys.open != 0 {
			t.Errorf("%d files left open", fsys.open)
		}
	})
}
