package rsync

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"vaultd/internal/push"
	"vaultd/internal/rsync/option"
	"vaultd/internal/session"
	"vaultd/internal/shellwords"
)

// Config says how sessions are served. The zero value is usable; clients have no influence on it.
type Config struct {
	// MaxEntries bounds the names in one file list: about 150 bytes of memory each. 0 means 20,000,000.
	MaxEntries int
}

// Server serves rsync sessions.
type Server struct{ cfg Config }

var _ session.Handler = (*Server)(nil)

// New checks cfg.
func New(cfg Config) (*Server, error) {
	if cfg.MaxEntries < 0 {
		return nil, errors.New("configure rsync server: negative limit")
	}
	if cfg.MaxEntries == 0 {
		cfg.MaxEntries = 20_000_000
	}
	return &Server{cfg: cfg}, nil
}

// version is what `rsync --version` answers, in the form that tools look for.
const version = "rsync  version 3.4.1  protocol version 32\nvaultd's own server: pushes, pulls, daemon over ssh\n"

// Serve runs one session: s.Command is a line that begins with rsync. It returns nil or an *session.ExitError with
// rsync's exit status; other errors are those of the stream, or the server's own.
func (srv *Server) Serve(ctx context.Context, s *session.Session) error {
	words, err := shellwords.SplitPatterns(s.Command)
	if err != nil {
		s.Refused(fmt.Errorf("rsync: %w", err))
		return &session.ExitError{Code: exitSyntax}
	}
	args := words[1:]
	if len(args) == 1 && (args[0] == "--version" || args[0] == "-V") {
		_, err := io.WriteString(s.Stdout, version)
		return err
	}
	done := make(chan error, 1)
	s.Report(push.Report{Protocol: "rsync"})
	c := newConn(s, srv.cfg, nil)
	go func() { done <- protect(func() error { return c.serve(ctx, args) }) }()
	select {
	case err = <-done:
	case <-ctx.Done():
		c.src.stop()
		select {
		case err = <-done:
		case <-time.After(grace):
			return context.Cause(ctx)
		}
	}
	var broken *panicked
	if errors.As(err, &broken) {
		panic(broken.Error())
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// grace is how long a session that has to end may take for what it is doing. What still waits for the client then
// touches nothing any more, and ends when the transport closes the channel.
const grace = 3 * time.Second

// serve reads the command line and does what it asks for, in the client's own protocol if it can be answered in that.
func (c *conn) serve(ctx context.Context, args []string) error {
	opt, err := option.Parse(args)
	switch {
	case opt.Daemon:
		return c.ended(c.daemon(ctx))
	case opt.Secluded:
		if opt, err = option.ParseSecluded(opt, c.src); opt == nil {
			c.Refused(fmt.Errorf("rsync: %w", err))
			return &session.ExitError{Code: exitSyntax}
		}
	}
	c.opt = opt
	if err := c.hello(); err != nil {
		return c.ended(err)
	}
	if err != nil {
		return c.fatal(refusal(err), err)
	}
	return c.ended(c.transfer(ctx))
}

// transfer does what the options ask for, once both sides have agreed on how.
func (c *conn) transfer(ctx context.Context) (err error) {
	if c.charset, err = charset(c.opt); err != nil {
		return c.fatal(exitUnsupported, err)
	}
	if c.opt.Sender {
		c.pace.rate = c.opt.BWLimit
	}
	if c.opt.Timeout > 0 {
		defer c.keepAlive(c.opt.Timeout / 2)()
	}
	if c.opt.Sender {
		return c.pull(ctx)
	}
	r := push.Report{Protocol: "rsync", Push: !c.opt.DryRun}
	c.Report(r)
	unsent, err := c.push(ctx)
	if err == nil && !unsent && r.Push {
		r.Whole = push.Yes
	} else if r.Push {
		r.Whole = push.No
	}
	r.Left = errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
	c.Report(r)
	return err
}

// keepAlive lets the client hear something every now and then, however long what it waits for takes: it gives up
// after --timeout (io.c: maybe_send_keepalive). The function that it returns ends that.
func (c *conn) keepAlive(every time.Duration) (stop func()) {
	t := time.NewTicker(max(every, 100*time.Millisecond))
	ended := make(chan struct{})
	go func() {
		defer t.Stop()
		for {
			select {
			case <-t.C:
				c.out.KeepAlive()
			case <-ended:
				return
			}
		}
	}()
	return func() { close(ended) }
}

// refusal is the exit status for a command line that is not served.
func refusal(err error) int {
	var usage *option.Usage
	if errors.As(err, &usage) {
		return exitSyntax
	}
	return exitUnsupported
}

// protect runs f and turns a panic into an error that Serve's caller will panic with.
func protect(f func() error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &panicked{v, debug.Stack()}
		}
	}()
	return f()
}

type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("internal error: %v\n%s", p.value, p.stack) }
