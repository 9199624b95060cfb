package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"
)

// Call answers one call. in is the client's JSON; the answer is sent as JSON.
type Call func(ctx context.Context, in json.RawMessage) (any, error)

// Stream answers with bytes. An error before the first byte is like a Call's; one after it reaches the reader in
// place of its io.EOF. w also is an http.Flusher, for streams that are watched as they come.
type Stream func(ctx context.Context, in json.RawMessage, w io.Writer) error

// Handle makes a Call of a function with types. Unknown fields in the request are refused: they would be
// options that a newer command believes to be in force.
func Handle[In, Out any](f func(ctx context.Context, in In) (Out, error)) Call {
	return func(ctx context.Context, raw json.RawMessage) (any, error) {
		var in In
		if err := decodeStrict(raw, &in); err != nil {
			return nil, err
		}
		return f(ctx, in)
	}
}

// HandleStream makes a Stream of a function with types.
func HandleStream[In any](f func(ctx context.Context, in In, w io.Writer) error) Stream {
	return func(ctx context.Context, raw json.RawMessage, w io.Writer) error {
		var in In
		if err := decodeStrict(raw, &in); err != nil {
			return err
		}
		return f(ctx, in, w)
	}
}

func decodeStrict(raw json.RawMessage, in any) error {
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(in); err != nil {
		return &Error{Code: 2, Text: fmt.Sprintf("read request: %v (are command and server of one version?)", err)}
	}
	return nil
}

// Server answers on the socket. Its fields must not change once Serve runs.
type Server struct {
	Calls   map[string]Call
	Streams map[string]Stream
	// ExitCode chooses the code of an error that is not an *Error; nil is always 1.
	ExitCode func(error) int
	Log      *slog.Logger // nil is slog.Default
	// Drain is how long requests in hand may take once ctx is cancelled; 0 is 5 s. Their own ctx is
	// cancelled at once.
	Drain time.Duration
}

const maxRequest = 1 << 20 // bytes of JSON; a larger request is a mistake

type peerKey struct{}

// PeerOf returns who made the request whose context this is.
func PeerOf(ctx context.Context) (Peer, bool) {
	p, ok := ctx.Value(peerKey{}).(Peer)
	return p, ok
}

// Serve answers until ctx is cancelled, then drains, closes l and returns nil. No handler outlives it.
func (s *Server) Serve(ctx context.Context, l *Listener) error {
	log, drain := s.Log, s.Drain
	if log == nil {
		log = slog.Default()
	}
	if drain == 0 {
		drain = 5 * time.Second
	}
	l.deny = func(p Peer) { log.Warn("command socket: peer refused", "uid", p.UID, "pid", p.PID) }
	var running gate
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/call/{name}", func(w http.ResponseWriter, r *http.Request) { s.call(log, w, r) })
	mux.HandleFunc("POST /v1/stream/{name}", func(w http.ResponseWriter, r *http.Request) { s.stream(log, w, r) })
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !running.enter() {
				panic(http.ErrAbortHandler)
			}
			defer running.leave()
			mux.ServeHTTP(w, r)
		}),
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(*conn).peer)
		},
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	var err error
	select {
	case err = <-served: // accept failed
		err = fmt.Errorf("serve commands: %w", err)
		err = errors.Join(err, srv.Close())
	case <-ctx.Done():
		limit, stop := context.WithTimeout(context.WithoutCancel(ctx), drain)
		err = srv.Shutdown(limit)
		stop()
		if errors.Is(err, context.DeadlineExceeded) {
			log.Warn("command socket: requests did not end in time")
			err = srv.Close()
		}
		<-served
	}
	running.shut()
	return errors.Join(err, l.Close())
}

// gate counts handlers, so that Serve can outlive them: http.Server's Close does not wait for any.
type gate struct {
	mu     sync.Mutex // guards closed, and that no handler is added once it is set
	closed bool
	inside sync.WaitGroup
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.inside.Add(1)
	}
	return !g.closed
}

func (g *gate) leave() { g.inside.Done() }

func (g *gate) shut() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	g.inside.Wait()
}

func readRequest(w http.ResponseWriter, r *http.Request) (json.RawMessage, error) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return nil, &Error{Code: 2, Text: fmt.Sprintf("read request: %v", err)}
	}
	return raw, nil
}

func unknown(name string) error {
	return &Error{Code: ExitUnavailable, Text: fmt.Sprintf("call %q: the running server does not know it; restart it with this version", name)}
}

func (s *Server) call(log *slog.Logger, w http.ResponseWriter, r *http.Request) {
	raw, err := readRequest(w, r)
	var out any
	if err == nil {
		if f, ok := s.Calls[r.PathValue("name")]; ok {
			err = contain(log, func() error { out, err = f(r.Context(), raw); return err })
		} else {
			err = unknown(r.PathValue("name"))
		}
	}
	var text []byte
	if err == nil {
		text, err = json.Marshal(out)
	}
	if err != nil {
		s.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(text) // a client that is gone needs no answer
}

func (s *Server) stream(log *slog.Logger, w http.ResponseWriter, r *http.Request) {
	raw, err := readRequest(w, r)
	out := &streamWriter{w: w}
	if err == nil {
		if f, ok := s.Streams[r.PathValue("name")]; ok {
			err = contain(log, func() error { return f(r.Context(), raw, out) })
		} else {
			err = unknown(r.PathValue("name"))
		}
	}
	if err != nil && !out.started {
		s.fail(w, err)
		return
	}
	out.start()
	result := []byte(resultOK)
	if err != nil {
		if result, err = json.Marshal(s.wire(err)); err != nil {
			panic(http.ErrAbortHandler) // the body stays without its trailer, which is an error at the reader
		}
	}
	w.Header().Set(resultTrailer, string(result))
}

// streamWriter sends the header with the first byte, so that an error before it can still be an answer.
type streamWriter struct {
	w       http.ResponseWriter
	started bool
}

func (s *streamWriter) start() {
	if !s.started {
		s.started = true
		s.w.Header().Set("Trailer", resultTrailer)
		s.w.Header().Set("Content-Type", "application/octet-stream")
		s.w.WriteHeader(http.StatusOK)
	}
}

func (s *streamWriter) Write(p []byte) (int, error) {
	s.start()
	return s.w.Write(p)
}

// Flush implements http.Flusher.
func (s *streamWriter) Flush() {
	s.start()
	http.NewResponseController(s.w).Flush()
}

// contain keeps a panic from ending the server: one command fails.
func contain(log *slog.Logger, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			log.Error("command socket: panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = &Error{Code: 1, Text: "internal error in the server, see its log"}
		}
	}()
	return f()
}

func (s *Server) wire(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	if errors.Is(err, context.Canceled) { // the client's own cancelling is never read by anybody
		return &Error{Code: exitTemporary, Text: "the server is stopping, try again"}
	}
	code := 1
	if s.ExitCode != nil {
		code = s.ExitCode(err)
	}
	return &Error{Code: code, Text: err.Error()}
}

func (s *Server) fail(w http.ResponseWriter, err error) {
	text, merr := json.Marshal(s.wire(err))
	if merr != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	w.Write(text)
}
