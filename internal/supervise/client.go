package supervise

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Client asks. Many calls may be under way at once.
type Client struct {
	c io.ReadWriter

	writing sync.Mutex // one line at a time

	mu      sync.Mutex // guards what follows
	next    uint64
	waiting map[uint64]chan reply // closed when the other side is gone
	gone    error
}

// NewClient asks over c. It reads from c until that ends.
func NewClient(c io.ReadWriter) *Client {
	k := &Client{c: c, waiting: map[uint64]chan reply{}}
	go k.read()
	return k
}

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

// ErrGone says that the other side does not answer any more.
var ErrGone = errors.New("the supervisor is gone")

// Error is a refusal of the other side's.
type Error struct{ Text string }

func (e *Error) Error() string { return e.Text }

// read hands out answers until there are none any more.
func (c *Client) read() {
	in := bufio.NewReader(c.c)
	err := c.answers(in)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = fmt.Errorf("%w: %w", ErrGone, err)
	for id, w := range c.waiting {
		close(w)
		delete(c.waiting, id)
	}
}

func (c *Client) answers(in *bufio.Reader) error {
	for {
		var text []byte
		for more := true; more; {
			part, err := in.ReadSlice('\n')
			if text = append(text, part...); len(text) > maxReply {
				return errors.New("its answer is too long")
			}
			if more = errors.Is(err, bufio.ErrBufferFull); err != nil && !more {
				return err
			}
		}
		var r reply
		if err := json.Unmarshal(text, &r); err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		c.mu.Lock()
		w := c.waiting[r.ID]
		delete(c.waiting, r.ID)
		c.mu.Unlock()
		if w != nil { // else nobody waits any more
			w <- r
		}
	}
}

// Call asks verb with args and decodes the answer into out, if that is not nil.
func (c *Client) Call(verb string, args, out any) error {
	return c.CallContext(context.Background(), verb, args, out)
}

// CallContext is Call for as long as ctx lasts. What was asked may be done all the same.
func (c *Client) CallContext(ctx context.Context, verb string, args, out any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	id, w, err := c.wait()
	if err != nil {
		return err
	}
	line, err := json.Marshal(request{ID: id, Verb: verb, Args: raw})
	if err == nil && len(line) >= maxRequest {
		err = fmt.Errorf("%s: the request has %d bytes", verb, len(line))
	}
	if err != nil {
		c.forget(id)
		return err
	}
	c.writing.Lock()
	_, err = c.c.Write(append(line, '\n'))
	c.writing.Unlock()
	if err != nil {
		c.forget(id)
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	select {
	case r, ok := <-w:
		switch {
		case !ok:
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.gone
		case r.Error != "":
			return &Error{r.Error}
		case out == nil:
			return nil
		}
		return json.Unmarshal(r.Result, out)
	case <-ctx.Done():
		c.forget(id)
		return fmt.Errorf("%s: %w", verb, ctx.Err())
	}
}

// wait takes a number for a call.
func (c *Client) wait() (uint64, <-chan reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return 0, nil, c.gone
	}
	c.next++
	w := make(chan reply, 1)
	c.waiting[c.next] = w
	return c.next, w, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

// Err says that the other side is gone; nil while it is there.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}
