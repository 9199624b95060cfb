package sftpserver_test

import (
	"context"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/sftpserver"
	"vaultd/internal/volume/volumetest"
)

// vault is one strict tenant on a volume in memory that enforces P1.
func vault(t *testing.T) *appendonly.Vault {
	mem := volumetest.New(t)
	v, err := appendonly.Open(appendonly.Config{Volume: mem, Segments: mem, IndexPath: filepath.Join(t.TempDir(), "index.db"),
		Boot: "boot", Log: slog.New(slog.DiscardHandler), BarrierEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// session serves one session of key over the real FS, as a transport does. end ends it.
func realSession(t *testing.T, v *appendonly.Vault, key string) (p *peer, end func()) {
	t.Helper()
	srv, err := sftpserver.New(sftpserver.Config{})
	if err != nil {
		t.Fatal(err)
	}
	p = &peer{t: t, in: newPipe(1 << 30), out: newPipe(window), stderr: newPipe(1 << 20), log: &syncBuffer{}, done: make(chan struct{})}
	f := v.Session(appendonly.Who{Key: key, Session: "s-" + key})
	s := &session.Session{Tenant: "demo", FS: f, Stdin: p.in, Stdout: p.out, Stderr: p.stderr, Log: slog.New(slog.NewTextHandler(p.log, nil))}
	go func() {
		defer close(p.done)
		p.err = srv.Serve(context.Background(), s)
	}()
	end = func() {
		p.in.Close()
		p.wait()
		p.out.Close()
		f.Close(context.Background())
	}
	t.Cleanup(end)
	return p.hello(), end
}

// The promises, through the protocol and the real core.
func TestRealFS(t *testing.T) {
	v := vault(t)
	p, end := realSession(t, v, "k1")
	h := p.opened(p.do(3, "f", create, 4|8, 0100640, 1, 2))
	p.want(p.do(6, h, uint64(0), "first"), 0)
	p.want(p.do(200, "fsync@openssh.com", h), 0)
	p.want(p.do(4, h), 0)
	if r := p.do(17, "f"); r.typ != 105 || string(r.body) != string(enc(15, uint64(5), 0, 0, 0100640, 1, 2)) {
		t.Errorf("stat: %v", r)
	}
	p.want(p.do(3, "f", create|32, 0), 4) // EXCL
	h = p.open("f", create)
	p.do(6, h, uint64(0), "other")
	p.want(p.do(4, h), 3)
	p.want(p.do(13, "f"), 3)
	p.want(p.do(18, "f", "g"), 3)
	p.want(p.do(14, ".vault", 0), 3)
	p.want(p.do(17, "missing/f"), 2)

	// A temporary name, renamed while its upload is open: the handle stays what it is.
	h = p.open("x.filepart", rdwr)
	p.want(p.do(6, h, uint64(0), "part"), 0)
	if r := p.do(5, h, uint64(1), 100); r.typ != 103 || r.str(0) != "art" {
		t.Errorf("read what was written: %v", r)
	}
	p.want(p.do(18, "x.filepart", "x"), 0)
	if r := p.do(8, h); r.typ != 105 || !strings.HasPrefix(string(r.body[4:]), string(enc(uint64(4)))) {
		t.Errorf("fstat after rename: %v", r)
	}
	p.want(p.do(10, h, 4, 0600), 0)
	p.want(p.do(4, h), 0)
	if r := p.do(17, "x"); r.typ != 105 {
		t.Errorf("stat of what was renamed while open: %q", r.body)
	}

	src, dst := p.open("f", rdonly), p.open("copy", create)
	p.want(p.do(200, "copy-data", src, uint64(1), uint64(0), dst, uint64(0)), 0)
	p.want(p.do(4, dst), 0)
	if r := p.do(200, "check-file-name", "copy", "crc32", uint64(0), uint64(0), 0); r.typ != 201 || len(r.body) != 14+9+4 {
		t.Errorf("check-file: %q", r.body)
	}
	src = p.open("/.at/0s/copy", rdonly)
	if r := p.do(5, src, uint64(0), 100); r.typ != 103 || r.str(0) != "irst" {
		t.Errorf("read from the past: %v", r)
	}
	h = p.open("lost", create)
	p.want(p.do(6, h, uint64(0), "interrupted"), 0)
	end()

	// An interrupted upload is resumed by its key, and seen by no other.
	p, _ = realSession(t, v, "k2")
	p.want(p.do(17, "lost"), 2)
	p, _ = realSession(t, v, "k1")
	h = p.opened(p.do(3, "lost", 2|8, 0))
	if r := p.do(8, h); r.typ != 105 || !strings.HasPrefix(string(r.body[4:]), string(enc(uint64(11)))) {
		t.Errorf("fstat of a resumed upload: %v", r)
	}
	p.want(p.do(6, h, uint64(11), " and resumed"), 0)
	p.want(p.do(4, h), 0)
	if r := p.do(5, p.open("lost", rdonly), uint64(0), 100); r.typ != 103 || r.str(0) != "interrupted and resumed" {
		t.Errorf("read what was resumed: %v", r)
	}
}
