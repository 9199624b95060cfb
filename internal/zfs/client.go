package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config is how a Client works; the zero value is usable.
type Config struct {
	Timeout   time.Duration // how long one process is waited for; 0: a minute
	Processes int           // how many run at once; 0: 4
	Streams   int           // how many Send and Receive run at once, beside the others; 0: 2
	// Log, if any, is told each command before it runs. A property's value is part of it.
	Log func(argv []string)
}

// Client runs zfs and zpool, which it finds in PATH.
type Client struct {
	cfg     Config
	slots   chan struct{} // one element for each process that runs, also for one that was given up
	streams chan struct{}
	hung    atomic.Int32 // processes that were given up and have not ended

	mu    sync.Mutex // guards what follows; held for no I/O
	gens  map[string]uint64
	every uint64 // counts changes to unknown many datasets
}

// New makes a client. It sets LC_ALL=C for this process's children: errors are told apart by their
// text, and go-zfs gives its children the environment of the process.
func New(cfg Config) (*Client, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	if cfg.Processes == 0 {
		cfg.Processes = 4
	}
	if cfg.Streams == 0 {
		cfg.Streams = 2
	}
	if err := os.Setenv("LC_ALL", "C"); err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, slots: make(chan struct{}, cfg.Processes), streams: make(chan struct{}, cfg.Streams), gens: map[string]uint64{}}, nil
}

// Hung is how many processes were given up and have not ended: more than none is a pool that hangs.
func (c *Client) Hung() int { return int(c.hung.Load()) }

const (
	maxOutput = 256 << 20 // 100,000 snapshots with ten properties are 100 MB
	maxErrors = 64 << 10
	maxArgs   = 1 << 20 // half of what Linux takes by default
)

// limited is a buffer that takes no more than its limit, and says so.
type limited struct {
	bytes.Buffer
	limit int
	full  bool
}

func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if room := l.limit - l.Len(); room < n {
		l.full = true
		p = p[:max(room, 0)]
	}
	l.Buffer.Write(p)
	return n, nil
}

// acquire takes a place, within ctx; with all of them held by processes that hang it does not wait.
func (c *Client) acquire(ctx context.Context, op, name string) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	if n := c.Hung(); n >= c.cfg.Processes {
		return &Error{Op: op, Name: name, Kind: ErrTimeout, Err: fmt.Errorf("%d processes hang", n)}
	}
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return failure(op, name, "", ctx.Err())
	}
}

// guard runs do in a place of its own and waits for it within its time, which is do's context. do may go on when it is
// given up, and keeps the place; it must touch nothing of the caller's then.
func guard[T any](ctx context.Context, c *Client, op, name string, do func(context.Context) (T, error)) (T, error) {
	var none T
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	if err := c.acquire(ctx, op, name); err != nil {
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	var given atomic.Int32 // 1: given up, 2: done; whoever comes second knows
	go func() {
		v, err := do(ctx)
		done <- result{v, err}
		if !given.CompareAndSwap(0, 2) {
			c.hung.Add(-1)
		}
		<-c.slots
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		c.hung.Add(1)
		if !given.CompareAndSwap(0, 1) { // it ended just now
			c.hung.Add(-1)
			r := <-done
			return r.value, r.err
		}
		return none, failure(op, name, "", ctx.Err())
	}
}

// command is one process to run.
type command struct {
	tool  string // zfs or zpool
	args  []string
	name  string // what it is about, for errors
	query bool   // it changes nothing, so it is killed when nobody waits for it any more
	stdin []byte
}

func (k command) op() string { return k.tool + " " + k.args[0] }

// run runs a command and returns what it wrote. A change is given up after its time and not killed: it may be
// between two of its steps (rename: unmount, rename, mount).
func (c *Client) run(ctx context.Context, k command) ([]byte, error) {
	if n := len(strings.Join(k.args, " ")); n > maxArgs {
		return nil, &Error{Op: k.op(), Name: k.name, Kind: ErrName, Err: fmt.Errorf("%d bytes of arguments, %d are possible", n, maxArgs)}
	}
	c.log(k)
	return guard(ctx, c, k.op(), k.name, func(ctx context.Context) ([]byte, error) {
		if !k.query {
			ctx = context.WithoutCancel(ctx)
		}
		cmd := c.exec(ctx, k)
		if k.stdin != nil {
			cmd.Stdin = bytes.NewReader(k.stdin)
		}
		stdout, stderr := &limited{limit: maxOutput}, &limited{limit: maxErrors}
		cmd.Stdout, cmd.Stderr = stdout, stderr
		err := cmd.Run()
		switch {
		case err != nil:
			return nil, failure(k.op(), k.name, stderr.String(), err)
		case stdout.full:
			return nil, k.odd("more than %d MiB", maxOutput>>20)
		}
		return stdout.Bytes(), nil
	})
}

func (c *Client) exec(ctx context.Context, k command) *exec.Cmd {
	cmd := exec.CommandContext(ctx, k.tool, k.args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.WaitDelay = 10 * time.Second // for pipes that outlive the process
	return cmd
}

func (c *Client) log(k command) {
	if c.cfg.Log != nil {
		c.cfg.Log(append([]string{k.tool}, k.args...))
	}
}

// odd is an ErrOutput.
func (k command) odd(format string, args ...any) error {
	return &Error{Op: k.op(), Name: k.name, Kind: ErrOutput, Err: fmt.Errorf(format, args...)}
}

// change runs a command that changes something about datasets, and makes caches forget them, before and after: a
// list that was begun in between is not kept.
func (c *Client) change(ctx context.Context, k command, datasets ...string) error {
	c.touch(datasets...)
	defer c.touch(datasets...)
	_, err := c.run(ctx, k)
	return err
}

// lib runs a call of go-zfs.
func lib[T any](ctx context.Context, c *Client, op, name string, args []string, do func() (T, error)) (T, error) {
	c.log(command{tool: "zfs", args: args})
	return guard(ctx, c, op, name, func(context.Context) (T, error) {
		v, err := do()
		if err != nil {
			return v, failure(op, name, "", err)
		}
		return v, nil
	})
}

// touch says that datasets changed; without names, that any may have.
func (c *Client) touch(datasets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(datasets) == 0 {
		c.every++
	}
	for _, d := range datasets {
		c.gens[d]++
	}
}

// generation changes with each change of ours to a dataset.
func (c *Client) generation(dataset string) [2]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return [2]uint64{c.every, c.gens[dataset]}
}

// stream runs a command whose input or output is a stream, for as long as it takes. It is ended
// with ctx: a receive that is cut leaves nothing, or what can be resumed.
func (c *Client) stream(ctx context.Context, k command, stdin io.Reader, stdout io.Writer) error {
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	case <-ctx.Done():
		return failure(k.op(), k.name, "", ctx.Err())
	}
	c.log(k)
	cmd := c.exec(ctx, k)
	stderr := &limited{limit: maxErrors}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	err := cmd.Run()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return errors.Join(failure(k.op(), k.name, stderr.String(), err), ctx.Err())
	}
	return failure(k.op(), k.name, stderr.String(), err)
}
