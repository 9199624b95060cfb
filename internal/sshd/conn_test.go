package sshd_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"testing/iotest"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/session"
	"vaultd/internal/sshd"
)

func tcpPair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// newBare makes a server that never serves, for connections of its own.
func newBare(t testing.TB) *sshd.Server {
	t.Helper()
	host, _ := newKey(t, "ed25519")
	s, err := sshd.New(sshd.Config{HostKeys: []gossh.Signer{host}, Access: &access{t: t}, Exec: session.HandlerFunc(echo)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Reading ahead changes no byte, whatever the sizes of reads and writes, with and without a descriptor.
func TestReadAhead(t *testing.T) {
	data := make([]byte, 3*sshd.ReadAhead+17)
	rand.Read(data)
	for _, kind := range []string{"tcp", "pipe"} {
		for _, size := range []int{1, 4, 4096, sshd.ReadAhead - 1, sshd.ReadAhead, sshd.ReadAhead + 1} {
			a, b := net.Pipe()
			if kind == "tcp" {
				a, b = tcpPair(t)
			}
			c := newBare(t).WrapConn(b)
			go func() {
				a.Write(data[:5])
				a.Write(data[5:])
				a.Close()
			}()
			var got []byte
			p := make([]byte, size)
			var err error
			for err == nil {
				var n int
				n, err = c.Read(p)
				got = append(got, p[:n]...)
			}
			if err != io.EOF || !bytes.Equal(got, data) {
				t.Errorf("%s, reads of %d: %d bytes of %d, %v", kind, size, len(got), len(data), err)
			}
			if sshd.BuffersHeld(c) {
				t.Errorf("%s: a buffer is kept after the end", kind)
			}
			if _, err := c.Read(p); err == nil {
				t.Errorf("%s: a read after the end succeeds", kind)
			}
			b.Close()
		}
	}
}

// A connection that waits for bytes owns no buffer, and Close wakes it.
func TestWaitingReaderOwnsNoBuffer(t *testing.T) {
	a, b := tcpPair(t)
	c := newBare(t).WrapConn(b)
	a.Write([]byte("x"))
	if _, err := io.ReadFull(iotest.OneByteReader(c), make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if sshd.BuffersHeld(c) {
		t.Error("a buffer is kept although all was read")
	}
	failed := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); failed <- err }()
	time.Sleep(20 * time.Millisecond)
	b.Close()
	if err := <-failed; !errors.Is(err, net.ErrClosed) {
		t.Errorf("%v, want %v", err, net.ErrClosed)
	}
}

// Idle sessions are cheap: the target is a quarter of OpenSSH's 1.9 MiB, we aim at 0.1 MiB. The client's half lives
// in this process too and is counted against us.
func TestMemoryOfIdleSessions(t *testing.T) {
	if testing.Short() {
		t.Skip("measures memory")
	}
	s := start(t, nil, func(c *sshd.Config, _ *access) { c.Limits.PreAuthPerAddress = -1 })
	use := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	const n = 50
	before := use()
	for range n {
		ses, err := s.dial().NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ses.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		if err := ses.Start("cat"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "sessions", func() bool { return s.Stats().Sessions == n })
	per := (int64(use()) - int64(before)) / n
	t.Logf("%d KiB per idle session, server and client together", per>>10)
	if per > 300<<10 {
		t.Errorf("%d KiB per idle session", per>>10)
	}
}
