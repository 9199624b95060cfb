package sshd

import "errors"

// ErrUnavailable is what Open returns when the tenant's storage is not there: the client is told so, and ends with exitTemporary.
var ErrUnavailable = errors.New("storage is not available; nothing of this session is stored; try again later")

// UnavailableError is ErrUnavailable for a reason that the client is told, and that it can do something about: ask the operator.
type UnavailableError struct {
	Text string // for the client: one line, without paths
	Why  string // for the log
}

func (e *UnavailableError) Error() string { return e.Text + ": " + e.Why }

// Is makes it an ErrUnavailable.
func (e *UnavailableError) Is(target error) bool { return target == ErrUnavailable }

// errAbandoned ends sessions whose storage went away under them.
var errAbandoned = errors.New("storage does not answer: take nothing of this upload as stored, and try again later")

// exitTemporary is sysexits' EX_TEMPFAIL.
const exitTemporary = 75

// Abandon ends all sessions at once, for their clients, and all that come, because the storage below them is gone or hangs. It
// waits for none of them: their goroutines stay where they are, counted in Stats.Abandoned, and no new ones join them. Nothing
// that was not acknowledged before is acknowledged after. There is no way back: when the storage is well again, another
// process serves.
func (s *Server) Abandon() {
	s.abandon()
	s.mu.Lock()
	conns := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		if c.login != nil {
			conns = append(conns, c)
		}
	}
	s.mu.Unlock()
	for _, c := range conns {
		s.end(c, errAbandoned, endGrace)
	}
}
