package main

import (
	"errors"
	"net"
	"testing"
	"time"
)

// Who comes while a listener is paused waits, also when Accept was under way already, and is let in afterwards.
func TestPausable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := newPausable(l.(*net.TCPListener))
	accepted := make(chan error)
	go func() {
		for {
			c, err := p.Accept()
			accepted <- err
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	dial := func() {
		t.Helper()
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
	}
	for range 3 {
		dial()
		if err := <-accepted; err != nil {
			t.Fatal(err)
		}
		p.pause()
		dial()
		select {
		case err := <-accepted:
			t.Fatalf("while it is paused: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		p.resume()
		if err := <-accepted; err != nil {
			t.Fatal(err)
		}
	}
	p.pause()
	p.Close()
	if err := <-accepted; !errors.Is(err, net.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
