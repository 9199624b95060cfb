package sftpserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pkg/sftp"

	"vaultd/internal/push"
	"vaultd/internal/session"
)

// Config says how sessions are served. The zero value is usable; clients have no influence on it.
type Config struct {
	// MaxHandles bounds the open files and directories of one session: what a session can make the
	// server hold. It is told to clients (limits@openssh.com). 0 means 1024.
	MaxHandles int

	// Grace is how long a session whose context was cancelled may take to answer the requests in hand
	// before it is left as it is (a client that reads no replies). 0 means 5 s.
	Grace time.Duration

	// UID and GID are shown for entries whose owner no client has set.
	UID, GID uint32
}

// Server serves SFTP sessions.
type Server struct{ cfg Config }

var _ session.Handler = (*Server)(nil)

// New checks cfg.
func New(cfg Config) (*Server, error) {
	if cfg.MaxHandles < 0 || cfg.Grace < 0 {
		return nil, errors.New("configure sftp server: negative limit")
	}
	if cfg.MaxHandles == 0 {
		cfg.MaxHandles = 1024
	}
	if cfg.Grace == 0 {
		cfg.Grace = 5 * time.Second
	}
	return &Server{cfg: cfg}, nil
}

// Serve runs one session. It returns nil when the client ended it between two packets, the cause
// when ctx was cancelled, and otherwise what was wrong with the stream. Uploads that are still open
// then have been aborted. It panics, in the caller's goroutine, if a request did.
//
// When ctx is cancelled while the client is silent, one goroutine is left inside s.Stdin.Read; it
// touches neither FS nor Stdout any more and ends when the transport closes the channel.
func (srv *Server) Serve(ctx context.Context, s *session.Session) error {
	return srv.serve(ctx, s, live{s.FS})
}

func (srv *Server) serve(ctx context.Context, s *session.Session, fsys filesystem) error {
	c := newConn(ctx, srv.cfg, s, fsys)
	h := handlers{c}
	rs := sftp.NewRequestServer(c, sftp.Handlers{FileGet: h, FilePut: h, FileCmd: h, FileList: h},
		sftp.WithRSAllocator(), sftp.WithRSMaxTxPacket(maxData))
	go func() {
		defer c.end()
		defer c.guard(new(error))
		_ = rs.Serve() // what Read returned; conn.readErr has it unwrapped
	}()

	stop := context.AfterFunc(ctx, c.drain)
	<-c.over
	stop()
	return c.finish(ctx)
}

// finish makes the session inert and says how it ended.
func (c *conn) finish(ctx context.Context) error {
	c.mu.Lock()
	c.stopped = true
	c.room.Broadcast()
	if c.timer != nil {
		c.timer.Stop()
	}
	open := c.live
	c.live = nil
	fault, readErr, broken, draining := c.fault, c.readErr, c.broken, c.draining
	c.mu.Unlock()
	left := false
	for h := range open {
		left = left || h.writable()
		h.abort()
	}
	c.sess.Report(push.Report{Protocol: "sftp", Left: left})
	switch {
	case broken != nil:
		panic(broken)
	case fault != nil:
		return fault
	case draining:
		return context.Cause(ctx)
	case readErr == nil || readErr == io.EOF:
		return nil
	}
	return fmt.Errorf("read packet: %w", readErr)
}
