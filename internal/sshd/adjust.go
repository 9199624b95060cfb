package sshd

import (
	"errors"
	"strings"
)

// adjustable is what can change while a Server serves.
type adjustable struct {
	limits Limits
	banner string
}

// Adjust replaces limits and banner. No connection ends by it: what is over a new limit stays, and no more is added. A login grace
// that runs keeps its length.
func (s *Server) Adjust(l Limits, banner string) error {
	if strings.ContainsAny(banner, "\x00\x1b") {
		return errors.New("configure sshd: the banner has control characters")
	}
	if banner != "" && !strings.HasSuffix(banner, "\n") {
		banner += "\r\n"
	}
	l = l.withDefaults()
	s.adjusted.Store(&adjustable{l, banner})
	s.gate.adjust(l)
	return nil
}

func (s *Server) limits() Limits { return s.adjusted.Load().limits }
