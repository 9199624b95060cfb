package main

import (
	"context"
	"errors"
	"os"
	"syscall"
	"time"
)

// child is a process that was started.
type child struct {
	wait   func() error
	signal func(os.Signal) error
}

// How long a child that is to end may take: after it was asked, and after it was killed. One that waits for a pool that is gone ends when the kernel lets it.
const (
	askedTime  = 10 * time.Second
	killedTime = 5 * time.Second
)

// errHangs says that a child has not ended although it was killed.
var errHangs = errors.New("it was killed and does not end")

// run waits until a child has ended. Once ctx is cancelled that takes no longer than askedTime and killedTime: then it is errHangs, and somebody goes on waiting.
func (c child) run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- c.wait() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	for _, step := range []struct {
		signal syscall.Signal
		time   time.Duration
	}{{syscall.SIGTERM, askedTime}, {syscall.SIGKILL, killedTime}} {
		c.signal(step.signal) // one that has ended is seen below
		select {
		case err := <-done:
			return err
		case <-time.After(step.time):
		}
	}
	return errHangs
}
