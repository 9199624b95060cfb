package sftpserver_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/sftpserver"
)

func (p *peer) ext(name string, fields ...any) reply {
	p.t.Helper()
	return p.do(200, append([]any{name}, fields...)...)
}

// wantBody expects an extended reply.
func (p *peer) wantBody(r reply, want ...any) {
	p.t.Helper()
	if b := enc(want...); r.typ != 201 || !bytes.Equal(r.body, b) {
		p.t.Errorf("reply type %d %q, want %q", r.typ, r.body, b)
	}
}

func TestHello(t *testing.T) {
	p := start(t, newFake(), sftpserver.Config{})
	p.raw(enc(5, byte(1), 6)...) // a client that would like version 6
	r, err := p.read()
	if err != nil || r.typ != 2 || r.id != 3 {
		t.Fatalf("%v, %v", r, err)
	}
	got := map[string]string{}
	for b := r.body; len(b) > 0; {
		name := reply{body: b}.str(0)
		version := reply{body: b}.str(4 + len(name))
		got[name] = version
		b = b[8+len(name)+len(version):]
	}
	for name, version := range map[string]string{"posix-rename@openssh.com": "1", "statvfs@openssh.com": "2", "fstatvfs@openssh.com": "2",
		"hardlink@openssh.com": "1", "fsync@openssh.com": "1", "lsetstat@openssh.com": "1", "limits@openssh.com": "1",
		"expand-path@openssh.com": "1", "copy-data": "1", "home-directory": "1", "users-groups-by-id@openssh.com": "1",
		"check-file-name": "1", "check-file-handle": "1"} {
		if got[name] != version {
			t.Errorf("%s: version %q, want %q", name, got[name], version)
		}
	}
}

func TestExtensions(t *testing.T) {
	f := newFake()
	f.put("f", "content")
	p := start(t, f, sftpserver.Config{MaxHandles: 77}).hello()
	h := p.open("f", rdonly)

	p.wantBody(p.ext("limits@openssh.com"), uint64(256<<10), uint64(255<<10), uint64(255<<10), uint64(77))

	space := []any{uint64(4096), uint64(4096), uint64(1 << 18), uint64(1 << 17), uint64(1 << 17),
		uint64(1 << 32), uint64(1 << 32), uint64(1 << 32), uint64(0), uint64(2), uint64(255)}
	p.wantBody(p.ext("statvfs@openssh.com", "/"), space...)
	p.wantBody(p.ext("fstatvfs@openssh.com", h), space...)
	p.want(p.ext("statvfs@openssh.com", "missing"), 2)
	p.want(p.ext("fstatvfs@openssh.com", "9"), 4)

	p.want(p.ext("posix-rename@openssh.com", "f", "g"), 0)
	f.put("f", "other")
	p.want(p.do(18, "f", "g"), 4) // version 3 RENAME never replaces
	p.want(p.ext("posix-rename@openssh.com", "g", "f"), 0)
	p.want(p.ext("hardlink@openssh.com", "f", "l"), 0)
	if got, _ := f.content("l"); got != "content" {
		t.Errorf("link: %q", got)
	}

	p.want(p.do(20, "f", "sym"), 0)
	p.want(p.ext("lsetstat@openssh.com", "sym", 4|8, 0700, 1, 2), 0)
	if m := f.nodes["/sym"].Meta; m.Mode != 0o700 || m.MTime.Sec() != 2 {
		t.Errorf("lsetstat: %+v", m)
	}
	if f.nodes["/f"].Mode != appendonly.Unset {
		t.Error("lsetstat followed the link")
	}
	p.want(p.ext("lsetstat@openssh.com", "sym", 1, uint64(0)), 5)

	for in, want := range map[string]string{"~": "/", "~/": "/", "~/d/f": "/d/f", "~demo/d": "/d", "d": "/d", "/x/../y": "/y"} {
		if r := p.ext("expand-path@openssh.com", in); r.typ != 104 || r.str(4) != want {
			t.Errorf("expand-path %q: %q", in, r.body)
		}
	}
	p.want(p.ext("expand-path@openssh.com", "~root"), 4)
	if r := p.ext("home-directory", ""); r.typ != 104 || r.str(4) != "/" {
		t.Errorf("home-directory: %q", r.body)
	}
	p.want(p.ext("home-directory", "root"), 4)

	p.wantBody(p.ext("users-groups-by-id@openssh.com", string(enc(0, 1000)), string(enc(5))), string(enc("", "")), string(enc("")))
	p.want(p.ext("users-groups-by-id@openssh.com", "abc", ""), 5)
}

func TestFsyncWaitsForWrites(t *testing.T) {
	f := newFake()
	f.hook = func(op, _ string) error {
		if op == "write" {
			time.Sleep(2 * time.Millisecond)
		}
		return nil
	}
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", create)
	early := make(chan bool, 1)
	var n int
	f.hook = func(op, _ string) error {
		f.mu.Lock()
		defer f.mu.Unlock()
		switch op {
		case "write":
			time.Sleep(time.Millisecond)
			n++
		case "barrier":
			early <- n != 20
		}
		return nil
	}
	for i := range 20 {
		p.send(6, h, uint64(i*100), strings.Repeat("x", 100))
	}
	id := p.send(200, "fsync@openssh.com", h)
	for i := id - 20; i <= id; i++ {
		p.want(p.recv(i), 0)
	}
	if <-early {
		t.Error("the barrier came before the writes")
	}
	p.want(p.ext("fsync@openssh.com", "99"), 4)
	f.hook = func(string, string) error { return appendonly.ErrReadOnly }
	p.want(p.ext("fsync@openssh.com", h), 4)
}

func TestCopyData(t *testing.T) {
	f := newFake()
	content := strings.Repeat("0123456789", 100_000)
	f.put("src", content)
	p := start(t, f, sftpserver.Config{}).hello()
	src, dst := p.open("src", rdonly), p.open("dst", rdwr)
	p.want(p.ext("copy-data", src, uint64(0), uint64(0), dst, uint64(0)), 0)
	p.want(p.ext("copy-data", src, uint64(5), uint64(10), dst, uint64(len(content))), 0)
	p.want(p.ext("copy-data", src, uint64(len(content)-1), uint64(10), dst, uint64(len(content)+10)), 1) // the source is too short
	p.want(p.ext("copy-data", src, uint64(1<<40), uint64(0), dst, uint64(0)), 0)
	other := p.open("other", create)
	p.want(p.ext("copy-data", dst, uint64(1), uint64(3), other, uint64(0)), 0) // from an open upload
	p.want(p.ext("copy-data", dst, uint64(0), uint64(0), dst, uint64(0)), 4)
	p.want(p.ext("copy-data", other, uint64(0), uint64(0), dst, uint64(0)), 4) // not readable
	p.want(p.ext("copy-data", src, uint64(0), uint64(0), src, uint64(0)), 4)
	p.want(p.ext("copy-data", src, uint64(0), uint64(0), dst, uint64(1<<63-1)), 4)
	p.want(p.ext("copy-data", src, uint64(1<<63), uint64(0), dst, uint64(0)), 4)
	p.want(p.ext("copy-data", src, uint64(0), uint64(0), dst, uint64(fakeSpace)), 4) // no space
	p.want(p.ext("copy-data", src, uint64(0), uint64(0), "9", uint64(0)), 4)
	p.want(p.do(4, dst), 0)
	p.want(p.do(4, other), 0)
	if got, _ := f.content("dst"); got != content+"5678901234"+"9" {
		t.Errorf("copied %d bytes", len(got))
	}
	if got, _ := f.content("other"); got != "123" {
		t.Errorf("copied %q", got)
	}
}

func TestCheckFile(t *testing.T) {
	f := newFake()
	content := strings.Repeat("0123456789", 100)
	f.put("f", content)
	p := start(t, f, sftpserver.Config{}).hello()
	h, d, w := p.open("f", rdonly), p.opened(p.do(11, "/")), p.open("w", create)
	sum := func(from, to int) []byte { s := sha256.Sum256([]byte(content[from:to])); return s[:] }
	blocks := bytes.Join([][]byte{sum(100, 400), sum(400, 700), sum(700, 850)}, nil)
	m := md5.Sum([]byte(content))
	for _, by := range []struct{ ext, what string }{{"check-file", h}, {"check-file-handle", h}, {"check-file-name", "f"}} {
		p.wantBody(p.ext(by.ext, by.what, "whirlpool,md5,sha1", uint64(0), uint64(0), 0), "check-file", "md5", m[:])
		p.wantBody(p.ext(by.ext, by.what, "sha256", uint64(100), uint64(750), 300), "check-file", "sha256", blocks)
		p.wantBody(p.ext(by.ext, by.what, "sha256", uint64(700), uint64(1<<40), 300), "check-file", "sha256", sum(700, 1000))
		p.wantBody(p.ext(by.ext, by.what, "sha256", uint64(1<<40), uint64(0), 0), "check-file", "sha256", sum(0, 0))
		p.want(p.ext(by.ext, by.what, "whirlpool", uint64(0), uint64(0), 0), 4)
		p.want(p.ext(by.ext, by.what, "md5", uint64(0), uint64(0), 255), 4)
		p.want(p.ext(by.ext, by.what, "md5", uint64(1<<63), uint64(0), 0), 4)
		p.want(p.ext(by.ext, by.what, "md5", uint64(0), uint64(0)), 5)
	}
	for _, alg := range []string{"crc32", "sha1", "sha224", "sha384", "sha512"} {
		if r := p.ext("check-file-name", "f", alg, uint64(0), uint64(0), 0); r.typ != 201 || r.str(14) != alg {
			t.Errorf("%s: %q", alg, r.body)
		}
	}
	p.want(p.ext("check-file-name", "missing", "md5", uint64(0), uint64(0), 0), 2)
	p.want(p.ext("check-file-handle", d, "md5", uint64(0), uint64(0), 0), 4)
	p.want(p.ext("check-file-handle", w, "md5", uint64(0), uint64(0), 0), 4)
	f.put("big", strings.Repeat("x", 4<<20))
	p.want(p.ext("check-file-name", "big", "sha512", uint64(0), uint64(0), 256), 4) // the reply would be 1 MiB
}

// A digest of a large file, or a barrier, does not hold up the end of a session for ever.
func TestCancelledExtension(t *testing.T) {
	f := newFake()
	f.put("f", "x")
	begun := make(chan struct{})
	var p *peer
	f.hook = func(op, _ string) error {
		if op == "hash" {
			close(begun)
			p.cancel(nil)
			time.Sleep(50 * time.Millisecond)
		}
		return nil
	}
	p = start(t, f, sftpserver.Config{Grace: time.Hour}).hello()
	id := p.send(200, "check-file-name", "f", "md5", uint64(0), uint64(0), 0)
	<-begun
	if r := p.want(p.recv(id), 4); !strings.Contains(r.text(), "shutting down") {
		t.Errorf("text %q", r.text())
	}
	if err := p.wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
