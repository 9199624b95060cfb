package sshd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/push"
	"vaultd/internal/session"
)

// errPanic stands for a panic, whose value stays in the log.
var errPanic = errors.New("internal error")

// run is one running session.
type run struct {
	srv   *Server
	ch    gossh.Channel
	sess  *session.Session
	key   string
	cert  string
	proto string
	begun time.Time
	io    *stream
	close func(context.Context) error // of the FS; nil until it is open
	ended func(push.Event)            // nil: nobody asks

	left     atomic.Bool // abandon told the client, and whatever the session waits for goes on
	finished sync.Once
	told     sync.Once   // the client knows how it ended
	returned atomic.Bool // the handler is done
}

// runSession opens the tenant's FS, lets h serve, and finishes.
func (s *Server) runSession(k *channel, proto, command string, h session.Handler) {
	who := k.login.Who
	who.Protocol, who.Remote, who.Session = proto, k.conn.remote.String(), s.newID()
	log := s.log.With("tenant", k.login.Tenant, "proto", proto, "remote", who.Remote, "session", who.Session)
	st := &stream{conn: k.conn, ch: k.ch}
	r := &run{srv: s, ch: k.ch, key: who.Key, cert: who.Cert, begun: time.Now(), io: st, ended: k.login.Ended, proto: proto, sess: &session.Session{
		ID: who.Session, Tenant: k.login.Tenant, Command: command, Env: k.env,
		Stdin: st, Stdout: st, Stderr: &stderr{ch: k.ch}, Log: log,
	}}
	if k.tty {
		r.sess.Stdin, r.sess.Stdout, r.sess.Stderr = strings.NewReader(""), terminal{st}, terminal{r.sess.Stderr}
	}
	s.stats.sessions.Add(1)
	s.stats.total.Add(1)
	defer s.stats.sessions.Add(-1)
	if s.away.Err() != nil {
		r.finish(ErrUnavailable)
		return
	}
	unhook := context.AfterFunc(s.away, func() { r.abandon() })
	defer func() {
		if !unhook() && r.left.Load() {
			s.stats.abandoned.Add(-1)
		}
	}()

	ctx, cancel := context.WithCancel(k.conn.ctx)
	defer cancel()
	err := r.guard(func() (err error) {
		r.sess.FS, r.close, err = k.login.Open(ctx, who)
		return err
	})
	if err != nil {
		r.finish(err)
		return
	}
	r.sess.Own = k.login.Own
	if told := k.login.Notices; told != nil {
		r.sess.Notices = func() []string { return told(false) }
		for _, line := range told(true) {
			fmt.Fprintf(r.sess.Stderr, "vaultd: notice: %s\r\n", line)
		}
	}
	stop := context.AfterFunc(k.conn.ctx, func() { r.force(k.conn.ctx) })
	err = r.guard(func() error { return h.Serve(ctx, r.sess) })
	r.returned.Store(true)
	stop()
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(err, io.ErrUnexpectedEOF)) {
		err = cause // what a handler did after its ctx was cancelled is not a success
	}
	r.finish(err)
}

// guard turns a panic into errPanic.
func (r *run) guard(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.srv.panicked(r.sess.Log, p)
			err = errPanic
		}
	}()
	return f()
}

// quietTime is how long a session must do nothing, after its ctx was cancelled, before it is finished
// without its handler.
const quietTime = 2 * time.Second

// force finishes a session whose handler does not come back after its ctx was cancelled: it is
// blocked reading from a client that has nothing to say, and x/crypto has no way to wake it but to
// close the channel. Closing the FS first makes sure that nothing happens afterwards.
func (r *run) force(ctx context.Context) {
	cause := context.Cause(ctx)
	if errors.Is(cause, errLost) || errors.Is(cause, errDead) || errors.Is(cause, errAbandoned) {
		return // reads and writes fail by themselves; and what can hang is not begun once more
	}
	for !r.returned.Load() {
		if r.srv.now()-r.io.conn.lastUse.Load() >= int64(quietTime) {
			r.finish(cause)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// finish ends the session once, in the order that the promises need: FS closed (barrier), the count of
// refusals, one line of error, exit status, close of the channel.
func (r *run) finish(err error) {
	r.finished.Do(func() {
		code, line := exitStatus(err, r.sess.ID)
		if r.close != nil {
			if berr := r.guard(func() error { return r.close(r.srv.hard) }); berr != nil {
				code = max(code, 1)
				line = fmt.Sprintf("error: what was sent may not be stored; ask the operator about session %s", r.sess.ID)
				err = errors.Join(err, fmt.Errorf("close session: %w", berr))
			}
		}
		if r.left.Load() { // what its client was told counts
			code, err = exitTemporary, errors.Join(err, errAbandoned)
		}
		r.report(code, err) // first: who has the exit status finds the event
		r.tell(code, line)
	})
}

// report makes the session's event, its line in the log, and hands the event on.
func (r *run) report(code int, err error) {
	e := push.Ending{Session: r.sess.ID, Protocol: r.proto, Key: r.key, Began: r.begun, Ended: time.Now(),
		Received: r.io.received.Load(), Sent: r.io.sent.Load(), Exit: code, Cut: cutOff(err)}
	var counts appendonly.Counts
	if r.sess.FS != nil {
		counts = r.sess.FS.Counts()
	}
	ev := push.Judge(e, r.sess.Reported(), counts)
	attrs := ev.Attrs()
	attrs = append(attrs, slog.Int("refusals", r.sess.Refusals()))
	if r.cert != "" {
		attrs = append(attrs, slog.String("cert", r.cert))
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", oneLine(err.Error())))
	}
	r.sess.Log.LogAttrs(context.Background(), slog.LevelInfo, "session", attrs...)
	if r.ended != nil {
		r.ended(ev)
	}
}

// cutOff reports whether a session did not come to its own end.
func cutOff(err error) bool {
	for _, end := range []error{errDraining, errRevoked, errIdle, errLost, errDead, errAbandoned, io.ErrUnexpectedEOF, context.Canceled, errPanic} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// tell ends the channel, once.
func (r *run) tell(code int, line string) {
	r.told.Do(func() {
		r.sess.Finish()
		if line != "" {
			fmt.Fprintf(r.sess.Stderr, "vaultd: %s\r\n", line)
		}
		r.ch.CloseWrite()
		r.ch.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{uint32(code)}))
		r.ch.Close()
	})
}

// abandon ends the session for its client and waits for nothing: what it does may hang in the kernel. It may end in order at the same moment; then it
// has told so itself, after its barrier.
func (r *run) abandon() {
	r.told.Do(func() {
		r.left.Store(true)
		r.srv.stats.abandoned.Add(1)
		r.sess.Log.Error("session abandoned: storage does not answer", "key", r.key, "duration", time.Since(r.begun))
		go func() { // which waits for a client that does not read, until its connection is cut
			fmt.Fprintf(r.sess.Stderr, "vaultd: error: %v\r\n", errAbandoned)
			r.ch.CloseWrite()
			r.ch.SendRequest("exit-status", false, gossh.Marshal(struct{ Status uint32 }{exitTemporary}))
			r.ch.Close()
		}()
	})
}

// exitStatus says what a session ends with, and what its owner is told about it. Only texts that
// are made for clients are passed on: others may name paths of the server.
func exitStatus(err error, id string) (code int, line string) {
	var exit *session.ExitError
	var denied *appendonly.DeniedError
	var away *UnavailableError
	switch {
	case err == nil:
		return 0, ""
	case errors.As(err, &exit):
		if exit.Code < 0 || exit.Code > 255 {
			return 1, ""
		}
		return exit.Code, ""
	case errors.As(err, &denied):
		return 77, "refused: " + oneLine(denied.Error())
	case errors.As(err, &away):
		return exitTemporary, "error: " + oneLine(away.Text)
	case errors.Is(err, ErrUnavailable):
		return exitTemporary, "error: " + ErrUnavailable.Error()
	case errors.Is(err, appendonly.ErrReadOnly):
		return 1, "error: " + appendonly.ErrReadOnly.Error()
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return 1, "error: the connection or the stream ended too early"
	}
	for _, end := range []error{errDraining, errRevoked, errIdle, errLost, errDead} {
		if errors.Is(err, end) {
			return 1, "session ended: " + end.Error()
		}
	}
	return 1, fmt.Sprintf("error: internal error; ask the operator about session %s", id)
}

// panicked counts and logs a panic. The stack goes to the log only.
func (s *Server) panicked(log *slog.Logger, p any, args ...any) {
	s.stats.panics.Add(1)
	log.Error("panic", append(args, "panic", oneLine(fmt.Sprint(p)), "stack", string(debug.Stack()))...)
}

// oneLine makes a text fit for one line of a log or a terminal, and not too long.
func oneLine(text string) string {
	const most = 400
	clean := strings.ToValidUTF8(text, "?")
	if len(clean) > most {
		clean = strings.ToValidUTF8(clean[:most], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r == '\u2028' || r == '\u2029' || r >= '\u202a' && r <= '\u202e' || r >= '\u2066' && r <= '\u2069' {
			return '?'
		}
		return r
	}, clean)
}
