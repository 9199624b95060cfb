package sftpserver_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"vaultd/internal/session"
	"vaultd/internal/sftpserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is one direction of a channel: a window of limit bytes, as SSH has one.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	buf    []byte
	limit  int
	closed bool
	writes int
}

func newPipe(limit int) *pipe {
	p := &pipe{limit: limit}
	p.change.L = &p.mu
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.buf) == 0 && !p.closed {
		p.change.Wait()
	}
	if len(p.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.buf)
	p.buf = p.buf[n:]
	p.change.Broadcast()
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.writes++
	for len(p.buf) >= p.limit && !p.closed {
		p.change.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	p.buf = append(p.buf, b...)
	p.change.Broadcast()
	return len(b), nil
}

func (p *pipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.change.Broadcast()
	return nil
}

// peer is a client of a session that is being served.
type peer struct {
	t       testing.TB
	in, out *pipe
	stderr  *pipe
	log     *syncBuffer
	cancel  context.CancelCauseFunc
	done    chan struct{}
	err     error // of Serve, after done
	panic   any   // of Serve, after done
	id      uint32
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const window = 2 << 20

func start(t testing.TB, fsys sftpserver.Filesystem, cfg sftpserver.Config) *peer {
	return startWindow(t, fsys, cfg, window)
}

func startWindow(t testing.TB, fsys sftpserver.Filesystem, cfg sftpserver.Config, limit int) *peer {
	t.Helper()
	srv, err := sftpserver.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, in: newPipe(1 << 30), out: newPipe(limit), stderr: newPipe(1 << 20), log: &syncBuffer{}, done: make(chan struct{})}
	ctx, cancel := context.WithCancelCause(context.Background())
	p.cancel = cancel
	s := &session.Session{ID: "000000000000", Tenant: "demo", Stdin: p.in, Stdout: p.out, Stderr: p.stderr,
		Log: slog.New(slog.NewTextHandler(p.log, nil))}
	go func() {
		defer close(p.done)
		defer func() { p.panic = recover() }()
		p.err = srv.ServeFS(ctx, s, fsys)
	}()
	t.Cleanup(func() {
		p.in.Close() // as a transport closes the channel after Serve
		p.out.Close()
		cancel(nil)
		p.wait()
	})
	return p
}

// wait waits for Serve.
func (p *peer) wait() error {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(20 * time.Second):
		p.t.Fatal("Serve does not return")
	}
	return p.err
}

func (p *peer) client() *sftp.Client {
	p.t.Helper()
	c, err := sftp.NewClientPipe(p.out, p.in, sftp.UseConcurrentWrites(true))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		p.in.Close()
		p.wait()
		p.out.Close()
		c.Close()
	})
	return c
}

// enc builds the fields of a packet: uint32, uint64, string, []byte (raw), byte.
func enc(fields ...any) []byte {
	var b []byte
	for _, f := range fields {
		switch f := f.(type) {
		case int:
			b = binary.BigEndian.AppendUint32(b, uint32(f))
		case uint32:
			b = binary.BigEndian.AppendUint32(b, f)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, f)
		case string:
			b = append(binary.BigEndian.AppendUint32(b, uint32(len(f))), f...)
		case byte:
			b = append(b, f)
		case []byte:
			b = append(b, f...)
		default:
			panic("enc: unknown field")
		}
	}
	return b
}

// send sends a request and returns its id.
func (p *peer) send(typ byte, fields ...any) uint32 {
	p.id++
	body := append([]byte{typ}, append(enc(p.id), enc(fields...)...)...)
	p.in.Write(append(enc(len(body)), body...))
	return p.id
}

func (p *peer) raw(b ...byte) { p.in.Write(b) }

type reply struct {
	typ  byte
	id   uint32
	body []byte // after the id
}

func (r reply) code() uint32 {
	if r.typ != 101 {
		return 999
	}
	return binary.BigEndian.Uint32(r.body)
}

func (r reply) text() string { return r.str(4) }

// str is the string at an offset of the body.
func (r reply) str(off int) string {
	n := int(binary.BigEndian.Uint32(r.body[off:]))
	return string(r.body[off+4 : off+4+n])
}

func (p *peer) read() (reply, error) {
	var h [4]byte
	if _, err := io.ReadFull(p.out, h[:]); err != nil {
		return reply{}, err
	}
	n := binary.BigEndian.Uint32(h[:])
	if n < 5 || n > 256<<10 {
		return reply{}, errors.New("reply of absurd length")
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(p.out, b); err != nil {
		return reply{}, err
	}
	return reply{b[0], binary.BigEndian.Uint32(b[1:]), b[5:]}, nil
}

// recv expects the reply to the request with id.
func (p *peer) recv(id uint32) reply {
	p.t.Helper()
	r, err := p.read()
	if err != nil {
		p.t.Fatalf("read reply: %v", err)
	}
	if r.id != id {
		p.t.Fatalf("reply to %d, want %d: replies in another order than requests", r.id, id)
	}
	return r
}

func (p *peer) do(typ byte, fields ...any) reply {
	p.t.Helper()
	return p.recv(p.send(typ, fields...))
}

func (p *peer) hello() *peer {
	p.t.Helper()
	p.raw(enc(5, byte(1), 3)...)
	if r, err := p.read(); err != nil || r.typ != 2 || r.id != 3 {
		p.t.Fatalf("hello: %v %v", r, err)
	}
	return p
}

// want expects a status.
func (p *peer) want(r reply, code uint32) reply {
	p.t.Helper()
	if r.code() != code {
		p.t.Errorf("reply type %d code %d %q, want code %d", r.typ, r.code(), r.body, code)
	}
	return r
}

// opened expects a handle.
func (p *peer) opened(r reply) string {
	p.t.Helper()
	if r.typ != 102 {
		p.t.Fatalf("open: reply type %d %q", r.typ, r.body)
	}
	return r.str(0)
}

const (
	rdonly = 1
	create = 2 | 8 | 16
	rdwr   = 1 | 2 | 8
)

func (p *peer) open(path string, flags int) string {
	p.t.Helper()
	return p.opened(p.do(3, path, flags, 0))
}
