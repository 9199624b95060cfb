package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/pool"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
)

// poolWatch is a server's side of pool care: it hears from the supervisor how the pool is. Once the pool is out, this server is done: it abandons its
// sessions, whatever they wait for, tells everybody who comes, and is killed by the supervisor when the pool is back.
type poolWatch struct {
	parent *supervise.Client
	log    *slog.Logger
	began  *pool.Report
	last   atomic.Pointer[pool.Report]
	out    chan struct{} // closed when the pool is out, for good
	once   sync.Once
	seq    uint64      // of run's goroutine
	came   atomic.Bool // a dataset came, which has no rules in this server's confinement: see presence
}

// newPoolWatch takes the connection over, and hears how the pool is.
func newPoolWatch(fd uintptr) (*poolWatch, error) {
	unix.CloseOnExec(int(fd))
	f := os.NewFile(fd, "pool")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("find the supervisor's news of the pool: %w", err)
	}
	w := &poolWatch{parent: supervise.NewClient(c), out: make(chan struct{})}
	if err := w.hear(); err != nil {
		return nil, err
	}
	w.began = w.last.Load()
	return w, nil
}

// hear waits for news; those that say that the pool is out count for good.
func (w *poolWatch) hear() error {
	var news poolNews
	if err := w.parent.Call("pool", w.seq, &news); err != nil {
		return err
	}
	w.seq = news.Seq
	w.last.Store(&news.Report)
	if news.Came {
		w.came.Store(true)
	}
	if news.Report.Out || w.began != nil && news.Report.Outages != w.began.Outages {
		w.once.Do(func() { close(w.out) })
	}
	return nil
}

// report is the newest one; nil without a pool.
func (w *poolWatch) report() *pool.Report {
	if w == nil {
		return nil
	}
	return w.last.Load()
}

// isOut reports whether this server has lost its pool.
func (w *poolWatch) isOut() bool {
	if w == nil {
		return false
	}
	select {
	case <-w.out:
		return true
	default:
		return false
	}
}

// guard completes what a store is opened with: nothing touches a pool that is out.
func (w *poolWatch) guard(c store.Config) store.Config {
	if w == nil {
		return c
	}
	c.Available = func(id string) error {
		if w.isOut() {
			return &store.UnavailableError{Why: w.last.Load().Summary()}
		}
		return nil
	}
	return c
}

// run passes news on until ctx ends. It is not waited for: it may be in the middle of a call. A server whose pool is out ends with it.
func (w *poolWatch) run(ctx context.Context, st *store.Store, abandon func()) {
	gone := w.isOut()
	if gone {
		abandon()
	}
	for ctx.Err() == nil {
		if r := w.last.Load(); r.Reserve > 0 {
			st.SetReserve(r.Reserve)
		}
		if err := w.hear(); err != nil {
			if ctx.Err() == nil {
				w.log.Error("no news of the pool", "error", err.Error())
			}
			break
		}
		if w.isOut() && !gone {
			gone = true
			w.log.Error("storage is out of service: all sessions end, and new ones are told so, until the pool is back", "pool", w.last.Load().Pool)
			abandon()
		}
	}
	if gone { // and this process is to end: what would be waited for may hang, and there is nothing to be done in order
		<-ctx.Done()
		time.Sleep(lateAnswer)
		os.Exit(exitTemporary)
	}
}

// renew reports whether another server would serve what this one can not: a vault that failed on a pool that is well, or a dataset that
// was not mounted at its start or later, and is: that is another mount, which the rules of its confinement do not know. How often, restarts bounds.
func (w *poolWatch) renew(st *store.Store) bool {
	if w == nil || w.isOut() {
		return false
	}
	return st.Failed() || w.came.Load()
}

// lateAnswer is how long a command that may be waiting for the pool goes on when that is out.
const lateAnswer = 2 * time.Second

// bound makes commands end when the pool is out: what they wait for may never come.
func (w *poolWatch) bound(console *admin.Server) {
	if w == nil {
		return
	}
	wait := func(ctx context.Context, do func() (any, error)) (any, error) {
		type result struct {
			value any
			err   error
		}
		done := make(chan result, 1)
		go func() {
			v, err := do()
			done <- result{v, err}
		}()
		select {
		case r := <-done:
			return r.value, r.err
		case <-w.out:
		}
		select {
		case r := <-done:
			return r.value, r.err
		case <-time.After(lateAnswer):
			return nil, &store.UnavailableError{Why: "the pool is out"}
		}
	}
	for name, f := range console.Calls {
		console.Calls[name] = func(ctx context.Context, in json.RawMessage) (any, error) {
			return wait(ctx, func() (any, error) { return f(ctx, in) })
		}
	}
	for name, f := range console.Streams {
		console.Streams[name] = func(ctx context.Context, in json.RawMessage, out io.Writer) error {
			one := &cutoff{w: out}
			_, err := wait(ctx, func() (any, error) { return nil, f(ctx, in, one) })
			one.cut()
			return err
		}
	}
}

// cutoff is a writer whose owner may go while somebody still writes.
type cutoff struct {
	mu sync.Mutex
	w  io.Writer
}

func (c *cutoff) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.w == nil {
		return 0, io.ErrClosedPipe
	}
	return c.w.Write(p)
}

func (c *cutoff) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w = nil
}
