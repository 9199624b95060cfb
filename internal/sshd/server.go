package sshd

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gliderlabs/ssh"
	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/session"
)

// Config is what New needs. Only HostKeys, Access and Exec are required.
type Config struct {
	// HostKeys identify the server, at most one per key type; RSA from 2048 bits. There is no
	// default: a server that invents a key teaches its clients to accept any. Trusted.
	HostKeys []gossh.Signer
	// Access says which key is which tenant. Trusted: its word is the login.
	Access Access
	// Subsystems maps a subsystem's name ("sftp") to what serves it. Others are refused.
	Subsystems map[string]session.Handler
	// Exec serves exec and shell requests; for a shell the session's Command is "".
	Exec session.Handler

	Limits     Limits
	Algorithms Algorithms
	// Log gets one line per session and, bounded in rate, one per failed login. Default: discard.
	Log *slog.Logger
	// Banner is shown before login, also to strangers and in cron mail. Default: none.
	Banner string
}

// Server accepts connections for one Config.
type Server struct {
	cfg      Config
	adjusted atomic.Pointer[adjustable] // limits and banner; never nil
	log      *slog.Logger
	ssh      *ssh.Server
	start    time.Time // zero of the monotonic nanoseconds in conn
	fails    lineLimit
	stats    counters
	gate     *gate

	ids atomic.Uint64 // last session id

	// sessions' barriers run under hard, which ends at the deadline of the drain.
	hard     context.Context
	hardStop context.CancelCauseFunc

	away    context.Context // ends with Abandon
	abandon context.CancelFunc

	mu       sync.Mutex // guards what follows and the fields of conn that say so; never held across I/O
	served   bool
	draining bool
	conns    map[*conn]struct{} // until Close
	waiting  map[*conn]struct{} // those that have not logged in
	pre      [2]int             // how many of them are of strangers, and of known addresses
	preAddr  map[netip.Prefix]int
	tenants  map[string]*usage
	active   int           // goroutines that handle a connection or a channel
	quiet    chan struct{} // closed when draining and active == 0
}

// usage is what one tenant holds now.
type usage struct{ conns, sessions int }

// New checks cfg and makes a Server that does not listen yet.
func New(cfg Config) (*Server, error) {
	if cfg.Access == nil || cfg.Exec == nil {
		return nil, errors.New("configure sshd: Access and Exec are required")
	}
	var err error
	if cfg.Algorithms, err = cfg.Algorithms.withDefaults(); err != nil {
		return nil, fmt.Errorf("configure sshd: %w", err)
	}
	keys, err := hostSigners(cfg.HostKeys, cfg.Algorithms.HostKeys)
	if err != nil {
		return nil, fmt.Errorf("configure sshd: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, start: time.Now(),
		conns: map[*conn]struct{}{}, waiting: map[*conn]struct{}{}, preAddr: map[netip.Prefix]int{}, tenants: map[string]*usage{},
		quiet: make(chan struct{}),
	}
	s.gate = newGate(cfg.Limits.withDefaults(), s.now)
	s.fails.init(time.Now, 20, 3*time.Second)
	s.hard, s.hardStop = context.WithCancelCause(context.Background())
	s.away, s.abandon = context.WithCancel(context.Background())
	var b [8]byte
	rand.Read(b[:])
	s.ids.Store(binary.BigEndian.Uint64(b[:]))
	if err := s.Adjust(cfg.Limits, cfg.Banner); err != nil {
		return nil, err
	}
	s.ssh = &ssh.Server{
		Version:       serverVersion,
		BannerHandler: func(ssh.Context) string { return s.adjusted.Load().banner },
		HostSigners:   keys,
		// Never nil: without any handler gliderlabs sets NoClientAuth, and everybody gets in.
		PublicKeyHandler:         s.offered,
		ServerConfigCallback:     s.serverConfig,
		ConnCallback:             bindConn,
		ConnectionFailedCallback: s.handshakeFailed,
		ChannelHandlers:          map[string]ssh.ChannelHandler{"session": s.serveChannel},
		RequestHandlers: map[string]ssh.RequestHandler{
			"keepalive@openssh.com": globalRequest(true),
			"default":               globalRequest(false),
		},
		SubsystemHandlers: map[string]ssh.SubsystemHandler{},
	}
	return s, nil
}

// Serve accepts connections until ctx is cancelled and then drains: listeners closed, connections
// without a session closed; sessions may go on for Limits.StopGrace. Then every session's ctx is cancelled, and they get Limits.Drain to finish the
// request in hand, make their barrier and take their exit status. What remains is cut. It returns nil after a drain in
// which everything ended, and an error when a listener broke or sessions were still running.
// A Server serves once.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	s.mu.Lock()
	again := s.served
	s.served = true
	s.mu.Unlock()
	if again || len(listeners) == 0 {
		return errors.New("serve ssh: a server serves once, with at least one listener")
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	unhook := context.AfterFunc(ctx, func() {
		for _, l := range listeners {
			l.Close()
		}
	})
	defer unhook()

	var loops sync.WaitGroup
	for _, l := range listeners {
		loops.Go(func() {
			if err := s.accept(ctx, l); err != nil {
				stop(fmt.Errorf("accept on %s: %w", l.Addr(), err))
			}
		})
	}
	janitor := make(chan struct{})
	go func() { defer close(janitor); s.tend(s.hard) }()
	loops.Wait()
	err := s.drain()
	<-janitor
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, ctx.Err()) {
		err = errors.Join(cause, err)
	}
	return err
}

// accept hands out connections until the listener is closed. Running out of descriptors is waited out.
func (s *Server) accept(ctx context.Context, l net.Listener) error {
	var delay time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.log.Error("accept", "error", err)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
			}
			continue
		}
		delay = 0
		c, err := s.admit(nc)
		if err != nil {
			refuse(nc)
			s.stats.fails[failLimited].Add(1)
			s.logFailure("login refused", func() []slog.Attr {
				return []slog.Attr{slog.String("remote", nc.RemoteAddr().String()), slog.String("reason", err.Error())}
			})
			continue
		}
		go s.handle(c)
	}
}

// handle runs one connection from its first byte to its last.
func (s *Server) handle(c *conn) {
	defer s.done()
	defer func() {
		if p := recover(); p != nil {
			s.panicked(s.log, p, "remote", c.remote.String())
		}
		c.Close()
		s.report(c)
	}()
	c.ciphers = c.greet(s.cfg.Algorithms.Ciphers)
	s.ssh.HandleConn(c)
}

// done ends what admit or openSession counted in active.
func (s *Server) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	if s.draining && s.active == 0 {
		close(s.quiet)
	}
}

// afterCut is how long handlers get to return once their connections are gone.
const afterCut = 5 * time.Second

// drain ends everything: by itself, then politely, then at the deadline by force.
func (s *Server) drain() error {
	s.mu.Lock()
	s.draining = true
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		conns = append(conns, c)
	}
	if s.active == 0 {
		close(s.quiet)
	}
	s.mu.Unlock()
	s.log.Info("draining", "connections", len(conns))
	defer s.hardStop(errDraining)
	if grace := s.limits().StopGrace; grace > 0 {
		for _, c := range conns {
			s.endAfter(c, errDraining)
		}
		select {
		case <-s.quiet:
			return nil
		case <-time.After(grace):
		}
	}
	for _, c := range conns {
		s.end(c, errDraining, s.limits().Drain)
	}
	select {
	case <-s.quiet:
		return nil
	case <-time.After(s.limits().Drain):
	}
	s.hardStop(errDraining)
	for _, c := range conns {
		c.Close()
	}
	select {
	case <-s.quiet:
	case <-time.After(afterCut):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active > 0 {
		return fmt.Errorf("drain ssh: %d sessions or connections did not end", s.active)
	}
	return fmt.Errorf("drain ssh: sessions were cut after %v", s.limits().Drain)
}

// newID returns a session id: 12 hex digits, counted up from a random start.
func (s *Server) newID() string { return fmt.Sprintf("%012x", s.ids.Add(1)&(1<<48-1)) }

// now is nanoseconds since New, on the monotonic clock.
func (s *Server) now() int64 { return int64(time.Since(s.start)) }
