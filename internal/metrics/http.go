package metrics

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

// Gather implements prometheus.Gatherer: all there is, as of now.
func (m *Metrics) Gather() ([]*dto.MetricFamily, error) {
	families := m.tenants.gather(m.sync())
	rest, err := m.reg.Gather()
	families = append(families, rest...)
	slices.SortFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	return families, err
}

var _ prometheus.Gatherer = (*Metrics)(nil)

// WriteText writes all there is in Prometheus's text format.
func (m *Metrics) WriteText(w io.Writer) error {
	families, err := m.Gather()
	if err != nil {
		return fmt.Errorf("gather metrics: %w", err)
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// Security is how the listener is guarded. It may change while it listens; the zero value is plain HTTP without a password.
type Security struct {
	Certificate *tls.Certificate // nil: HTTP
	Users       *Users           // nil: no password
}

// Bounds of the listener: whoever reaches it may be anybody on the machine.
const (
	maxConns    = 32
	maxScrapes  = 4
	maxHeader   = 16 << 10
	headTimeout = 5 * time.Second
	idleTimeout = 2 * time.Minute
	sendTimeout = time.Minute
)

// Server serves /metrics.
type Server struct {
	m    *Metrics
	log  *slog.Logger
	sec  atomic.Pointer[Security]
	http *http.Server
}

// NewServer makes a Server that does not listen yet.
func NewServer(m *Metrics, s Security, l *slog.Logger) *Server {
	srv := &Server{m: m, log: l}
	srv.sec.Store(&s)
	srv.http = &http.Server{Handler: srv.handler(), ReadHeaderTimeout: headTimeout, ReadTimeout: headTimeout, WriteTimeout: sendTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: log.New(io.Discard, "", 0)} // what strangers send is nobody's log line
	return srv
}

// Secure changes how the listener is guarded, from the next connection on. Whether it is TLS at all is decided when Serve begins.
func (s *Server) Secure(sec Security) { s.sec.Store(&sec) }

// Serve answers until ctx is cancelled.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	l = &bounded{Listener: l, free: make(chan struct{}, maxConns), closed: make(chan struct{})}
	if s.sec.Load().Certificate != nil {
		l = tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if c := s.sec.Load().Certificate; c != nil {
				return c, nil
			}
			return nil, errors.New("no certificate")
		}})
	}
	stop := context.AfterFunc(ctx, func() { s.http.Close() })
	defer stop()
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// handler answers GET /metrics, and says so elsewhere.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	options := promhttp.HandlerOpts{ErrorLog: errorLog{s.log}, MaxRequestsInFlight: maxScrapes, EnableOpenMetrics: true} // no Timeout: it would hold the whole answer in memory
	far := promhttp.HandlerFor(s.m, options)
	options.DisableCompression = true
	near := promhttp.HandlerFor(s.m, options)
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, r *http.Request) {
		if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && a.Addr().Unmap().IsLoopback() { // compressing takes longer than sending
			near.ServeHTTP(w, r)
			return
		}
		far.ServeHTTP(w, r)
	})
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "vaultd: the metrics are at /metrics\n")
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if u := s.sec.Load().Users; u != nil {
			if name, password, ok := r.BasicAuth(); !ok || !u.Let(name, password) {
				w.Header().Set("WWW-Authenticate", `Basic realm="vaultd metrics", charset="UTF-8"`)
				http.Error(w, "vaultd: a user name and a password are needed", http.StatusUnauthorized)
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

// errorLog is promhttp's.
type errorLog struct{ log *slog.Logger }

// Println implements promhttp.Logger.
func (l errorLog) Println(v ...any) { l.log.Error("metrics", "error", fmt.Sprint(v...)) }

// bounded is a listener with at most maxConns connections at a time: descriptors are needed for backups.
type bounded struct {
	net.Listener
	free   chan struct{}
	closed chan struct{}
	once   sync.Once
}

// Accept waits until there is room.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.free <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.free
		return nil, err
	}
	return &boundedConn{Conn: c, free: b.free}, nil
}

// Close implements net.Listener.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

type boundedConn struct {
	net.Conn
	free chan struct{}
	once sync.Once
}

// Close gives the place back.
func (c *boundedConn) Close() error {
	c.once.Do(func() { <-c.free })
	return c.Conn.Close()
}
