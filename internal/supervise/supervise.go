// Package supervise is the wire between the supervisor and the confined server, which are one program in two processes.
//
// The server asks, and the supervisor, which is not confined, answers: one call at a time, each a line of JSON in either direction, over a
// socket pair that the server inherits. There are few verbs and they are fixed (cmd/vaultd has them); what a verb may do is decided
// by who fills the supervisor's table.
//
// Trust: the server may be in an attacker's hands. A request is bounded, and nothing in it is a path. The supervisor is trusted by the
// server with everything. When either side is gone, the other one sees the end of the stream.
//
// Concurrency: Client may be used by many goroutines; Serve by one for each connection.
package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The descriptors that a server inherits. Its listening sockets follow, as many as Begin says.
const (
	FDControl = 3
	FDLock    = 4
	FDAdmin   = 5
	FDListen  = 6
)

const (
	maxRequest = 4 << 10 // bytes of a line from the server
	maxReply   = 2 << 20 // of a line from the supervisor; a configuration is the longest
)

type request struct {
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args,omitempty"`
}

type reply struct {
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Verb answers one kind of request.
type Verb func(args json.RawMessage) (any, error)

// Pair makes the two ends. The second one is for the server's FDControl.
func Pair() (here net.Conn, there *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	there = os.NewFile(uintptr(fds[1]), "control")
	if here, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(err, there.Close())
	}
	return here, there, nil
}

// Serve answers until the other side is gone, which is nil, or breaks the protocol.
func Serve(c io.ReadWriter, verbs map[string]Verb) error {
	in := bufio.NewReaderSize(c, maxRequest)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request of the server: %w", err)
		}
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("read request of the server: %w", err)
		}
		var out reply
		verb, ok := verbs[r.Verb]
		if !ok {
			return fmt.Errorf("read request of the server: %.20q is no verb", r.Verb)
		}
		res, err := verb(r.Args)
		if err == nil {
			out.Result, err = json.Marshal(res)
		}
		if err != nil {
			out = reply{Error: err.Error()}
		}
		text, err := json.Marshal(out)
		if err != nil {
			return err
		}
		if _, err := c.Write(append(text, '\n')); err != nil {
			return nil // it is gone
		}
	}
}

// Client asks.
type Client struct {
	mu sync.Mutex // held over one call
	c  io.ReadWriter
	in *bufio.Reader
}

// NewClient asks over c.
func NewClient(c io.ReadWriter) *Client { return &Client{c: c, in: bufio.NewReader(c)} }

// Inherited is the client of a server's FDControl.
func Inherited() (*Client, error) {
	unix.CloseOnExec(FDControl)
	f := os.NewFile(FDControl, "control")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("find the supervisor (vaultd serve starts this): %w", err)
	}
	return NewClient(c), nil
}

// ErrGone says that the supervisor does not answer any more.
var ErrGone = errors.New("the supervisor is gone")

// Error is a refusal of the supervisor's.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// Call asks verb with args and decodes the answer into out, if that is not nil.
func (c *Client) Call(verb string, args, out any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	line, err := json.Marshal(request{Verb: verb, Args: raw})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.c.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	var text []byte
	for more := true; more; {
		part, err := c.in.ReadSlice('\n')
		if text = append(text, part...); len(text) > maxReply {
			return fmt.Errorf("%s: the answer is too long", verb)
		}
		if more = errors.Is(err, bufio.ErrBufferFull); err != nil && !more {
			return fmt.Errorf("%w: %w", ErrGone, err)
		}
	}
	var r reply
	if err := json.Unmarshal(text, &r); err != nil {
		return fmt.Errorf("%s: read the answer: %w", verb, err)
	}
	if r.Error != "" {
		return &Error{r.Error}
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(r.Result, out)
}
