package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A child that is to end is asked, then killed, then left: whatever it ignores, who waits for it goes on.
func TestChildEnds(t *testing.T) {
	for _, x := range []struct {
		name string
		obey os.Signal // nil: none, as in the kernel with a pool that is gone
		want error
		took time.Duration
		said []os.Signal
	}{
		{"it obeys", syscall.SIGTERM, io.EOF, 0, []os.Signal{syscall.SIGTERM}},
		{"it ignores that", syscall.SIGKILL, io.EOF, askedTime, []os.Signal{syscall.SIGTERM, syscall.SIGKILL}},
		{"it ignores all", nil, errHangs, askedTime + killedTime, []os.Signal{syscall.SIGTERM, syscall.SIGKILL}},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := make(chan struct{})
				var said []os.Signal
				c := child{func() error { <-ended; return io.EOF }, func(s os.Signal) error {
					if said = append(said, s); s == x.obey {
						close(ended)
					}
					return nil
				}}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				begin := time.Now()
				err := c.run(ctx)
				if took := time.Since(begin) - time.Hour; !errors.Is(err, x.want) || took != x.took || !slices.Equal(said, x.said) {
					t.Errorf("%v after %v, %v; want %v after %v, %v", err, took, said, x.want, x.took, x.said)
				}
				if x.obey == nil {
					close(ended) // or the bubble never ends
				}
			})
		})
	}
}

// The same with a real process, that ends by itself and that does when it is asked.
func TestChildProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.Command("sh", "-c", "echo; exec sleep 1000")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	_, err = out.Read(make([]byte, 1))
	must(t, err)
	cancel()
	var exit *exec.ExitError
	if err := (child{cmd.Wait, cmd.Process.Signal}).run(ctx); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("asked to end: %v", err)
	}
	cmd = exec.Command("sh", "-c", "exit 3")
	must(t, cmd.Start())
	if err := (child{cmd.Wait, cmd.Process.Signal}).run(t.Context()); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended by itself: %v", err)
	}
}
