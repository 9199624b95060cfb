package wire_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"vaultd/internal/rsync/wire"
)

// item is one thing that is written and must be read as it was.
type item struct {
	kind  string
	n     int64
	least int
	s     []byte
}

var items = rapid.Custom(func(t *rapid.T) item {
	i := item{kind: rapid.SampledFrom([]string{"byte", "short", "int", "long", "varint", "varlong", "vstring", "index", "bytes", "message"}).Draw(t, "kind")}
	i.least = rapid.IntRange(3, 4).Draw(t, "least")
	switch i.kind {
	case "byte":
		i.n = int64(rapid.Byte().Draw(t, "n"))
	case "short":
		i.n = int64(rapid.Uint16().Draw(t, "n"))
	case "int", "varint":
		i.n = int64(rapid.Int32().Draw(t, "n"))
	case "long":
		i.n = rapid.Int64Min(0).Draw(t, "n")
	case "varlong":
		i.n = rapid.Int64().Draw(t, "n")
	case "index":
		i.n = rapid.OneOf(rapid.Int64Range(0, 1<<31-1), rapid.Int64Range(-3, 600)).Draw(t, "n")
	default:
		i.s = rapid.SliceOfN(rapid.Byte(), 0, 40_000>>rapid.IntRange(0, 15).Draw(t, "shift")).Draw(t, "s")
		if len(i.s) > 32767 && i.kind == "vstring" {
			i.s = i.s[:32767]
		}
	}
	return i
})

func write(w *wire.Writer, i item, proto int) {
	switch i.kind {
	case "byte":
		w.Byte(byte(i.n))
	case "short":
		w.Short(uint16(i.n))
	case "int":
		w.Int(int32(i.n))
	case "long":
		w.Long(i.n)
	case "varint":
		w.Varint30(proto, int32(i.n))
	case "varlong":
		if proto < 30 && i.n < 0 {
			i.n = -i.n
		}
		w.Varlong30(proto, i.n, i.least)
	case "vstring":
		w.VString(i.s)
	case "index":
		w.Index(int32(i.n), proto)
	case "bytes":
		w.Write(i.s)
	case "message":
		w.Message(wire.CodeInfo, i.s)
	}
}

// What a Writer writes, a Reader reads, in any frames, through any pieces.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(items, 0, 30).Draw(t, "items")
		proto := rapid.IntRange(29, 31).Draw(t, "proto")
		mux := rapid.Bool().Draw(t, "mux")
		var pipe bytes.Buffer
		w := wire.NewWriter(&pipe, rapid.IntRange(0, 4096).Draw(t, "out"))
		if mux {
			w.Multiplexed()
		}
		var sent, got [][]byte
		for _, i := range all {
			if i.kind == "message" && !mux {
				continue
			}
			if i.kind == "message" {
				sent = append(sent, i.s)
			}
			write(w, i, proto)
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		var src io.Reader = &pipe
		if rapid.Bool().Draw(t, "slow") {
			src = iotest.OneByteReader(src)
		}
		r := wire.NewReader(src, 4096)
		if mux {
			r.Multiplexed(func(c wire.Code, p []byte) error {
				if c != wire.CodeInfo {
					t.Fatalf("message %d", c)
				}
				got = append(got, bytes.Clone(p))
				return nil
			})
		}
		for _, i := range all {
			check(t, r, i, proto)
		}
		if r.BytesRead() != w.BytesWritten() {
			t.Fatalf("read %d bytes, written %d", r.BytesRead(), w.BytesWritten())
		}
		if _, err := r.Byte(); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("at the end: %v", err)
		}
		if len(got) != len(sent) {
			t.Fatalf("%d messages of %d", len(got), len(sent))
		}
		for i := range got {
			if !bytes.Equal(got[i], sent[i]) {
				t.Fatalf("message %d differs", i)
			}
		}
	})
}

func check(t *rapid.T, r *wire.Reader, i item, proto int) {
	var n int64
	var s []byte
	var err error
	switch i.kind {
	case "byte":
		var b byte
		b, err = r.Byte()
		n = int64(b)
	case "short":
		var v uint16
		v, err = r.Short()
		n = int64(v)
	case "int":
		var v int32
		v, err = r.Int()
		n = int64(v)
	case "long":
		n, err = r.Long()
	case "varint":
		var v int32
		v, err = r.Varint30(proto)
		n = int64(v)
	case "varlong":
		if n, err = r.Varlong30(proto, i.least); proto < 30 && i.n < 0 {
			i.n = -i.n
		}
	case "vstring":
		s, err = r.VString(32767)
	case "index":
		var v int32
		v, err = r.Index(proto)
		n = int64(v)
	case "bytes":
		s, err = r.Bytes(len(i.s), len(i.s))
	case "message":
		return
	}
	if err != nil || n != i.n || !bytes.Equal(s, i.s) {
		t.Fatalf("%s: got %d %x, %v; want %d %x", i.kind, n, s, err, i.n, i.s)
	}
}

// The bytes are those of rsync's io.c.
func TestKnownBytes(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(w *wire.Writer)
		want string
	}{
		{"varint 0", func(w *wire.Writer) { w.Varint(0) }, "\x00"},
		{"varint 127", func(w *wire.Writer) { w.Varint(127) }, "\x7f"},
		{"varint 128", func(w *wire.Writer) { w.Varint(128) }, "\x80\x80"},
		{"varint 16384", func(w *wire.Writer) { w.Varint(16384) }, "\xc0\x00\x40"},
		{"varint -1", func(w *wire.Writer) { w.Varint(-1) }, "\xf0\xff\xff\xff\xff"},
		{"varlong 3 of 1", func(w *wire.Writer) { w.Varlong(1, 3) }, "\x00\x01\x00"},
		{"varlong 3 of 1<<24", func(w *wire.Writer) { w.Varlong(1<<24, 3) }, "\x81\x00\x00\x00"},
		{"index 0, 1, 300, done, -2", func(w *wire.Writer) {
			for _, n := range []int32{0, 1, 300, wire.Done, wire.ListEnd} {
				w.Index(n, 31)
			}
		}, "\x01\x01\xfe\x01\x2b\x00\xff\x01"},
	} {
		var b bytes.Buffer
		w := wire.NewWriter(&b, 64)
		c.do(w)
		if err := w.Flush(); err != nil || b.String() != c.want {
			t.Errorf("%s: % x, want % x (%v)", c.name, b.String(), c.want, err)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{0, 1, 2}, []byte{7, 0, 0, 4, 1, 2, 3, 4})
	f.Fuzz(func(t *testing.T, ops, data []byte) {
		r := wire.NewReader(bytes.NewReader(data), 64)
		r.Multiplexed(func(wire.Code, []byte) error { return nil })
		for _, op := range ops {
			var err error
			switch op % 9 {
			case 0:
				_, err = r.Byte()
			case 1:
				_, err = r.Int()
			case 2:
				_, err = r.Varint()
			case 3:
				_, err = r.Varlong(3)
			case 4:
				_, err = r.VString(100)
			case 5:
				var n int32
				if n, err = r.Index(31); n < wire.DeleteStats && n > -1<<31 && err == nil {
					continue
				}
			case 6:
				err = r.Discard(int64(op))
			case 7:
				_, err = r.Peek(int(op) + 1)
			case 8:
				_, err = r.Long()
			}
			if err != nil {
				return
			}
		}
	})
}

// A client that waits hears something, and no more than that where it hears anything else.
func TestKeepAlive(t *testing.T) {
	var out bytes.Buffer
	w := wire.NewWriter(&out, 1024)
	w.Multiplexed()
	empty := []byte{0, 0, 0, 7}
	w.KeepAlive()
	if !bytes.Equal(out.Bytes(), empty) {
		t.Fatalf("nothing said: % x", out.Bytes())
	}
	out.Reset()
	w.Byte('x')
	w.KeepAlive() // what was written is as good, and does not wait for its Flush
	if want := []byte{1, 0, 0, 7, 'x'}; !bytes.Equal(out.Bytes(), want) {
		t.Fatalf("one byte: % x, want % x", out.Bytes(), want)
	}
	out.Reset()
	w.Byte('y')
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	n := out.Len()
	if w.KeepAlive(); out.Len() != n {
		t.Fatalf("just flushed, and % x follows", out.Bytes()[n:])
	}
	if w.KeepAlive(); out.Len() != n+len(empty) {
		t.Fatalf("silent since: % x", out.Bytes())
	}
	w.Plain()
	out.Reset()
	w.KeepAlive()
	w.Byte('z')
	w.KeepAlive()
	if w.Flush(); out.String() != "z" {
		t.Fatalf("untagged: % x", out.Bytes())
	}
}
