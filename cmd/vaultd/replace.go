package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"vaultd/internal/store"
	"vaultd/internal/supervise"
)

// spares counts the datasets that a confined server can still give to tenants that come. When few are left, the server wants to be
// followed by another one, for which the supervisor makes new ones.
type spares struct {
	parent *supervise.Client
	log    *slog.Logger
	all    int
	left   atomic.Int64

	mu  sync.Mutex
	out time.Time // when somebody was first turned away whom the next server can serve
}

func newSpares(parent *supervise.Client, n int, log *slog.Logger) *spares {
	s := &spares{parent: parent, log: log, all: n}
	s.left.Store(int64(n))
	return s
}

// take has the supervisor make a spare the dataset of a tenant.
func (s *spares) take(id string) error {
	var left int64
	err := s.parent.Call("dataset", id, &left)
	var refused *supervise.Error
	if errors.As(err, &refused) && refused.Text == store.ErrNoSpare.Error() {
		s.turnAway("no spare dataset is left: new tenants wait until the server has started again, when no session is open (store.spare_slots)")
		return store.ErrNoSpare
	}
	if err != nil {
		return err
	}
	s.left.Store(left)
	if s.few() {
		s.log.Info("few spare datasets are left; the server starts again when no session is open", "left", left)
	}
	return nil
}

// follow asks how many are left; with "catalog" it also says that the catalog changed.
func (s *spares) follow(verb string) error {
	var left int64
	err := s.parent.Call(verb, nil, &left)
	if err == nil {
		s.left.Store(left)
	}
	return err
}

// turnAway notes that somebody is turned away until the next server comes; why is logged once.
func (s *spares) turnAway(why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out.IsZero() {
		s.out = time.Now()
		s.log.Error(why)
	}
}

// turned reports whether somebody was.
func (s *spares) turned() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.out.IsZero()
}

// count is how many are left.
func (s *spares) count() int {
	if s.turned() {
		return 0
	}
	return int(s.left.Load())
}

// few is a quarter of what there was.
func (s *spares) few() bool { return s.left.Load()*4 <= int64(s.all) && s.all > 0 }

// patience is how long tenants are turned away before sessions are drained for them.
const patience = 10 * time.Minute

func (s *spares) urgent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.out.IsZero() && time.Since(s.out) > patience
}

// replacement ends a server that has few spares, as soon as nobody would notice: clients that come meanwhile wait in the sockets, which
// the supervisor keeps.
type replacement struct {
	*spares
	needed    bool        // a server that is not confined makes datasets itself
	renew     func() bool // another server would serve what this one can not
	wanted    time.Time   // since when renew says so; of watch's goroutine
	start     time.Time
	wait      time.Duration // how old this one is to become before it ends to be followed by one that may do better: see restarts
	listeners []*pausable
	busy      func() bool // a client or a command is there
	end       func()      // drains
}

// lookEvery is how often it looks for a moment without sessions, and settle how long one that just came may take to show.
const (
	lookEvery = 500 * time.Millisecond
	settle    = 200 * time.Millisecond
)

// watch returns when ctx is cancelled, which end does.
func (r *replacement) watch(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		renew := r.renew()
		if !renew {
			r.wanted = time.Time{}
		} else if r.wanted.IsZero() {
			r.wanted = time.Now()
		}
		urgent := r.urgent() || renew && time.Since(r.wanted) > patience
		few := r.needed && r.few()
		again := (renew || r.needed && r.turned()) && time.Since(r.start) >= r.wait
		if !few && !again || r.busy() && !urgent {
			continue
		}
		for _, l := range r.listeners {
			l.pause()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settle): // who was let in at the last moment is counted now
		}
		if r.busy() && !urgent {
			for _, l := range r.listeners {
				l.resume()
			}
			continue
		}
		why := "for new spare datasets"
		if again {
			why = "to open again what failed or was not mounted"
		}
		r.log.Info("the server starts again, " + why)
		if err := r.parent.Call("leave", again && !few, nil); err != nil {
			return err
		}
		r.end()
		return nil
	}
}

// pausable is a listener that can be told to accept nobody for a while. What comes waits in the kernel.
type pausable struct {
	*net.TCPListener
	closed chan struct{}
	once   sync.Once

	mu      sync.Mutex
	resumed chan struct{} // nil: not paused; closed by resume
}

func newPausable(l *net.TCPListener) *pausable {
	return &pausable{TCPListener: l, closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (p *pausable) Accept() (net.Conn, error) {
	for {
		p.mu.Lock()
		resumed := p.resumed
		p.mu.Unlock()
		if resumed != nil {
			select {
			case <-resumed:
			case <-p.closed:
				return nil, net.ErrClosed
			}
			continue
		}
		c, err := p.TCPListener.Accept()
		if errors.Is(err, os.ErrDeadlineExceeded) { // pause woke us
			continue
		}
		if err != nil {
			return nil, err
		}
		return p.late(c)
	}
}

// late keeps a connection that was being accepted while pause was called until resume.
func (p *pausable) late(c net.Conn) (net.Conn, error) {
	p.mu.Lock()
	resumed := p.resumed
	p.mu.Unlock()
	if resumed == nil {
		return c, nil
	}
	select {
	case <-resumed:
		return c, nil
	case <-p.closed:
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
}

// Close implements net.Listener.
func (p *pausable) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.TCPListener.Close()
}

func (p *pausable) pause() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resumed = make(chan struct{})
	p.TCPListener.SetDeadline(time.Unix(1, 0))
}

func (p *pausable) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.TCPListener.SetDeadline(time.Time{})
	close(p.resumed)
	p.resumed = nil
}
