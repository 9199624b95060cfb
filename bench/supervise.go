package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// superviseArg as the first argument makes this program a supervisor of the command that follows.
const superviseArg = "supervise"

// supervised is a server that runs under a supervisor. The supervisor is the subreaper of the whole
// tree: a session process that outlives its parent is reaped by it and its CPU is not lost.
type supervised struct {
	cmd   *exec.Cmd
	stdin io.Closer // closing it is the order to stop; it also closes when this process dies
	done  chan struct{}
}

// startSupervised starts argv with its output going to log.
func startSupervised(argv []string, log *os.File) (*supervised, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(self, append([]string{superviseArg}, argv...)...)
	cmd.Stdout, cmd.Stderr = log, log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start supervisor: %w", err)
	}
	s := &supervised{cmd: cmd, stdin: stdin, done: make(chan struct{})}
	go func() { cmd.Wait(); close(s.done) }()
	return s, nil
}

// pid is the supervisor's: the root of the tree, itself not part of what is measured.
func (s *supervised) pid() int { return s.cmd.Process.Pid }

// exited reports whether the server, and so its supervisor, has ended.
func (s *supervised) exited() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// stop ends the server and waits for it. The supervisor's own limits bound the time.
func (s *supervised) stop() error {
	s.stdin.Close()
	select {
	case <-s.done:
		return nil
	case <-time.After(stopGrace + killGrace + 5*time.Second):
		s.cmd.Process.Kill()
		return fmt.Errorf("stop server: supervisor %d did not end", s.pid())
	}
}

const (
	stopGrace = 20 * time.Second // for the server, after SIGTERM
	killGrace = 2 * time.Second  // for what it left behind
)

// supervise runs argv until it ends or stdin closes, and leaves no process of its tree behind.
func supervise(argv []string) int {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "bench: error: become subreaper:", err)
		return 1
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP) // the end of stdin decides, whoever is interrupted
	null, err := os.Open(os.DevNull)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		return 1
	}
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{null.Fd(), 1, 2},
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: error: start %s: %v\n", argv[0], err)
		return 1
	}
	var gone atomic.Bool // set before ended closes: pid may be another process's from then on
	ended := make(chan struct{})
	go reap(pid, &gone, ended)
	stop := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(stop) }()
	select {
	case <-ended:
	case <-stop:
		if !gone.Load() {
			syscall.Kill(pid, syscall.SIGTERM)
		}
		select {
		case <-ended:
		case <-time.After(stopGrace):
		}
	}
	endTree(os.Getpid())
	return 0
}

// reap collects every child; ended closes once the server itself is collected.
func reap(server int, gone *atomic.Bool, ended chan<- struct{}) {
	for {
		pid, err := syscall.Wait4(-1, nil, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case errors.Is(err, syscall.ECHILD):
			time.Sleep(10 * time.Millisecond) // orphans may still come
		case pid == server:
			gone.Store(true)
			close(ended)
		}
	}
}

// endTree ends all descendants of root by their ids: SIGTERM, then SIGKILL.
func endTree(root int) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*killGrace)
	defer cancel()
	sig, since := syscall.SIGTERM, time.Now()
	for ctx.Err() == nil {
		left := descendants(root)
		if len(left) == 0 {
			return
		}
		if time.Since(since) > killGrace {
			sig = syscall.SIGKILL
		}
		for _, pid := range left {
			syscall.Kill(pid, sig)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
