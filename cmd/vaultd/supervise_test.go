package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"

	"vaultd/internal/supervise"
)

// A server that asks for a verb that there is not is cut off and killed at once, also while something else that it asked for hangs; one that ends is not.
func TestServerBreaksProtocol(t *testing.T) {
	for _, x := range []struct {
		name, line string
		killed     bool
	}{
		{"a verb that there is not", `{"id":2,"verb":"zfs.destroy"}` + "\n", true},
		{"no request", "hello\n", true},
		{"it ends", "", false},
	} {
		t.Run(x.name, func(t *testing.T) {
			var log bytes.Buffer
			s := &supervisor{log: slog.New(slog.NewTextHandler(&log, nil))}
			here, there, err := supervise.Pair()
			must(t, err)
			c, err := net.FileConn(there)
			must(t, errors.Join(err, there.Close()))
			defer c.Close()
			asked, hang := make(chan struct{}), make(chan struct{})
			killed, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				s.answer(here, map[string]supervise.Verb{"hangs": func(json.RawMessage) (any, error) { close(asked); <-hang; return nil, nil }},
					func() error { close(killed); return nil })
			}()
			io.WriteString(c, `{"id":1,"verb":"hangs"}`+"\n")
			<-asked
			if io.WriteString(c, x.line); !x.killed {
				c.Close()
			} else {
				<-killed
				if _, err := c.Read(make([]byte, 1)); err == nil {
					t.Error("it was answered")
				}
				client := supervise.NewClient(c)
				if err := client.CallContext(context.Background(), "hangs", nil, nil); !errors.Is(err, supervise.ErrGone) {
					t.Errorf("who goes on asking: %v", err)
				}
			}
			close(hang)
			<-done
			select {
			case <-killed:
				if !x.killed || !strings.Contains(log.String(), "broke the protocol") {
					t.Errorf("killed; %s", &log)
				}
			default:
				if x.killed {
					t.Error("it was left alive")
				}
			}
		})
	}
}
