package sftpserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"vaultd/internal/sftpserver"
)

func TestPanicEndsTheSession(t *testing.T) {
	for _, op := range []string{"write", "close", "create", "stat", "resolve"} {
		f := newFake()
		f.hook = func(o, _ string) error {
			if o == op {
				panic("broken " + op)
			}
			return nil
		}
		p := start(t, f, sftpserver.Config{}).hello()
		go func() { <-p.done; p.out.Close() }() // as a transport does
		p.send(16, ".")
		if op != "resolve" {
			p.send(3, "f", create, 0)
			p.read()
			p.read()
			p.send(6, "1", uint64(0), "x")
			p.send(4, "1")
			p.send(17, "/")
		}
		<-p.done
		if p.panic == nil || !strings.Contains(fmt.Sprint(p.panic), "broken "+op) {
			t.Errorf("%s: Serve did not panic: %v, %v", op, p.panic, p.err)
		}
	}
}

// Cancelling while the client is silent: Serve returns at once, although stdin can not be interrupted.
func TestDrainIdle(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{Grace: time.Hour}).hello()
	h := p.open("f", create)
	p.want(p.do(6, h, uint64(0), "acknowledged"), 0)
	stop := errors.New("shutting down")
	p.cancel(stop)
	if err := p.wait(); err != stop {
		t.Errorf("Serve: %v", err)
	}
	if len(f.aborted) != 1 || f.open != 0 {
		t.Errorf("aborted %q, %d left open", f.aborted, f.open)
	}
	p.send(4, h) // comes too late
	p.in.Close()
	if _, err := p.out.Write(nil); err != nil {
		t.Error("Serve closed what is the transport's")
	}
	if _, ok := f.content("f"); ok {
		t.Error("published after the end")
	}
}

// Cancelling while a request is in hand: it is answered, and none after it is begun.
func TestDrainBusy(t *testing.T) {
	f := newFake()
	begun, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	var after atomic.Int32
	f.hook = func(op, p string) error {
		switch {
		case op == "close":
			once.Do(func() { close(begun) })
			<-release
		case op == "stat":
			after.Add(1)
		}
		return nil
	}
	p := start(t, f, sftpserver.Config{Grace: time.Hour}).hello()
	h := p.open("f", create)
	id := p.send(4, h)
	<-begun
	p.send(17, "/") // read, and waiting for CLOSE
	p.cancel(nil)
	p.send(17, "/")
	p.send(17, "/")
	select {
	case <-p.done:
		t.Fatal("Serve left a request in hand")
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	p.want(p.recv(id), 0)
	if err := p.wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, ok := f.content("f"); !ok || after.Load() > 1 {
		t.Errorf("published %v, %d later requests served", ok, after.Load())
	}
}

// A client that reads no replies can hold neither the server's memory nor its shutdown.
func TestSilentReader(t *testing.T) {
	f := newFake()
	f.put("f", strings.Repeat("x", 1<<20))
	var reads atomic.Int32
	f.hook = func(op, _ string) error {
		if op == "read" {
			reads.Add(1)
		}
		return nil
	}
	p := startWindow(t, f, sftpserver.Config{Grace: 50 * time.Millisecond}, 64<<10).hello()
	h := p.open("f", rdonly)
	p.open("w", create)
	for range 5000 {
		p.send(5, h, uint64(0), 255<<10)
	}
	for last := int32(-1); last != reads.Load(); time.Sleep(20 * time.Millisecond) {
		last = reads.Load()
	}
	if n := reads.Load(); n > 2*sftpserver.MaxInFlight {
		t.Errorf("%d reads served for a client that takes none", n)
	}
	p.cancel(nil)
	if err := p.wait(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if f.open != 0 || len(f.aborted) != 1 {
		t.Errorf("%d left open, aborted %q", f.open, f.aborted)
	}
}

// One slow request does not let replies behind it pile up.
func TestSlowHead(t *testing.T) {
	f := newFake()
	f.put("f", strings.Repeat("x", 1<<20))
	release := make(chan struct{})
	var reads atomic.Int32
	f.hook = func(op, _ string) error {
		switch op {
		case "readlink":
			<-release
		case "read":
			reads.Add(1)
		}
		return nil
	}
	p := start(t, f, sftpserver.Config{}).hello()
	h := p.open("f", rdonly)
	p.send(19, "l")
	for range 500 {
		p.send(5, h, uint64(0), 1000)
	}
	for last := int32(-1); last != reads.Load(); time.Sleep(20 * time.Millisecond) {
		last = reads.Load()
	}
	if n := reads.Load(); n >= sftpserver.MaxInFlight {
		t.Errorf("%d reads behind a request that is not answered", n)
	}
	close(release)
	for range 501 {
		if _, err := p.read(); err != nil {
			t.Fatal(err)
		}
	}
}

// A channel that takes no more replies ends the session, and its uploads.
func TestBrokenOutput(t *testing.T) {
	f := newFake()
	p := start(t, f, sftpserver.Config{}).hello()
	p.open("f", create)
	p.out.Close()
	p.send(17, "/")
	if err := p.wait(); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	if len(f.aborted) != 1 {
		t.Errorf("aborted %q", f.aborted)
	}
}
