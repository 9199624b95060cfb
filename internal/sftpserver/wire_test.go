package sftpserver

import (
	"bytes"
	"testing"
	"time"

	"vaultd/internal/appendonly"
)

func TestDecoder(t *testing.T) {
	for _, tt := range []struct {
		name string // what the row shows
		in   []byte
		read func(d *decoder)
		bad  bool
	}{
		{"a string fits exactly", []byte{0, 0, 0, 2, 'a', 'b'}, func(d *decoder) { d.bytes() }, false},
		{"an empty string is a string", []byte{0, 0, 0, 0}, func(d *decoder) { d.path() }, false},
		{"a string is longer than its packet", []byte{0, 0, 0, 3, 'a', 'b'}, func(d *decoder) { d.bytes() }, true},
		{"a length that is negative as an int32", []byte{0xff, 0xff, 0xff, 0xff, 'a'}, func(d *decoder) { d.bytes() }, true},
		{"a torn number", []byte{0, 0, 0}, func(d *decoder) { d.uint32() }, true},
		{"a torn long number", []byte{0, 0, 0, 0, 0}, func(d *decoder) { d.uint64() }, true},
		{"NUL in a path", []byte{0, 0, 0, 2, 'a', 0}, func(d *decoder) { d.path() }, true},
		{"NUL in a handle is the client's business", []byte{0, 0, 0, 2, 'a', 0}, func(d *decoder) { d.bytes() }, false},
		{"attributes end too soon", []byte{0, 0, 0, 1, 0, 0, 0, 0}, func(d *decoder) { d.attrs() }, true},
		{"4 billion extended attributes", []byte{0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0, 0, 0}, func(d *decoder) { d.attrs() }, true},
		{"one extended attribute", []byte{0x80, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, func(d *decoder) { d.attrs() }, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := &decoder{b: tt.in}
			tt.read(d)
			if (d.err != nil) != tt.bad {
				t.Errorf("err = %v, want one: %v", d.err, tt.bad)
			}
			if !tt.bad && len(d.b) != 0 {
				t.Errorf("%d bytes left", len(d.b))
			}
			if d.uint32() != 0 || d.uint64() != 0 || d.string() != "" || d.attrs() != (attrs{}) {
				t.Error("after the end of a packet there is something to read")
			}
		})
	}
}

func TestLongName(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	at := func(y int, m time.Month, d int) uint32 {
		return uint32(time.Date(y, m, d, 3, 4, 5, 0, time.UTC).Unix())
	}
	for _, tt := range []struct {
		a    attrs
		n    string
		want string
	}{
		{attrs{size: 1234, uid: 1000, gid: 100, mode: 0100644, mtime: at(2026, 11, 2)}, "f",
			"-rw-r--r--    1 1000     100          1234 Nov  2 03:04 f"},
		{attrs{uid: 4294967295, mode: 041777, mtime: at(2020, 1, 31)}, "a\nb",
			"drwxrwxrwt    1 4294967295 0               0 Jan 31  2020 a\nb"},
		{attrs{mode: 0106711, mtime: at(2026, 11, 22)}, "s", "-rws--s--x    1 0        0               0 Nov 22 03:04 s"},
		{attrs{mode: 0127000, mtime: at(2027, 11, 22)}, "l", "l--S--S--T    1 0        0               0 Nov 22  2027 l"},
	} {
		if got := string(appendLongName(nil, tt.n, 0, tt.a, now)); got != tt.want {
			t.Errorf("got  %q\nwant %q", got, tt.want)
		}
	}
}

func TestAttrsOf(t *testing.T) {
	c := &conn{cfg: Config{UID: 7, GID: 8}}
	info := func(k appendonly.Kind, m appendonly.Meta) appendonly.Info {
		return appendonly.Info{Kind: k, Size: 5, Meta: m}
	}
	none := appendonly.NoMeta()
	full := appendonly.Meta{Mode: 06755, UID: 1 << 31, GID: 0, MTime: appendonly.Unix(1<<40, 0), ATime: appendonly.Unix(-1, 0)}
	for _, tt := range []struct {
		in   appendonly.Info
		want attrs
	}{
		{info(appendonly.KindFile, none), attrs{size: 5, uid: 7, gid: 8, mode: 0100644}},
		{info(appendonly.KindDir, none), attrs{size: 5, uid: 7, gid: 8, mode: 040755}},
		{info(appendonly.KindSymlink, none), attrs{size: 5, uid: 7, gid: 8, mode: 0120777}},
		{info(appendonly.KindCharDev, full), attrs{size: 5, uid: 1 << 31, mode: 026755, mtime: 1<<32 - 1}},
	} {
		if got := c.attrsOf(tt.in); got != tt.want {
			t.Errorf("attrsOf(%v) = %+v, want %+v", tt.in.Kind, got, tt.want)
		}
	}
	d := &decoder{b: appendAttrs(nil, c.attrsOf(info(appendonly.KindFile, full)))}
	a := d.attrs()
	if m := a.meta(); d.err != nil || m.Mode != 06755 || m.UID != 1<<31 || m.GID != 0 || m.MTime.Sec() != 1<<32-1 || m.ATime.Sec() != 0 || m.ATime.IsZero() {
		t.Errorf("read back as %+v, %v", m, d.err)
	}
}

func TestStatusPacket(t *testing.T) {
	got := appendStatus(nil, 9, 4, "no")
	want := []byte{0, 0, 0, 19, 101, 0, 0, 0, 9, 0, 0, 0, 4, 0, 0, 0, 2, 'n', 'o', 0, 0, 0, 0}
	if !bytes.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
