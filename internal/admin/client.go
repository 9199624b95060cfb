package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

// Client speaks to the server of one store. It holds no connection between calls.
type Client struct {
	dir  string
	http *http.Client
}

// Dial finds out whether a server listens on the store in dir. ErrNotRunning says that none does: then, and only
// then, a command may do the work itself. Another error says that this is not known.
func Dial(dir string) (*Client, error) {
	c := &Client{dir: dir}
	c.http = &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dialSocket(ctx, dir) },
		DisableKeepAlives:  true,
		DisableCompression: true,
	}}
	probe, err := dialSocket(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	return c, probe.Close()
}

// dialError marks what failed before there was a connection.
type dialError struct{ err error }

func (e *dialError) Error() string { return "reach server: " + e.err.Error() }
func (e *dialError) Unwrap() error { return e.err }

func dialSocket(ctx context.Context, dir string) (net.Conn, error) {
	d, err := openDir(dir)
	if err != nil {
		return nil, &dialError{err}
	}
	defer d.Close()
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "unix", socketPath(d.Name(), socketName, int(d.Fd())))
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, &dialError{fmt.Errorf("%s: %w", dir, ErrNotRunning)}
	}
	return nil, &dialError{err}
}

// Close releases the client.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call makes a call: in is sent as JSON, the answer is decoded into out unless that is nil. A failure on the
// other side is an *Error.
func (c *Client) Call(ctx context.Context, name string, in, out any) error {
	resp, err := c.post(ctx, "call", name, in)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return callError(ctx, name, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("call %s: %w", name, err)
	}
	return nil
}

// Stream starts a stream. The reader's io.EOF says that all of it came; a failure on the other side is an *Error
// and a server that died io.ErrUnexpectedEOF. Closing the reader early, or cancelling ctx, cancels the handler.
func (c *Client) Stream(ctx context.Context, name string, in any) (io.ReadCloser, error) {
	resp, err := c.post(ctx, "stream", name, in)
	if err != nil {
		return nil, err
	}
	return &reader{ctx: ctx, name: name, resp: resp}, nil
}

func (c *Client) post(ctx context.Context, kind, name string, in any) (*http.Response, error) {
	body, err := json.Marshal(in)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", name, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://vaultd/v1/"+kind+"/"+name, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", name, err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, callError(ctx, name, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, callError(ctx, name, err)
	}
	e := &Error{}
	if json.Unmarshal(text, e) != nil || e.Text == "" {
		return nil, &Error{Code: ExitUnavailable, Text: fmt.Sprintf("call %s: unexpected answer %s", name, resp.Status)}
	}
	return nil, e
}

// callError tells apart: a command that was cancelled, a server that could not be reached, and one that closed on
// us. The last is all the rest, for net/http has many words for it, not all of them exported.
func callError(ctx context.Context, name string, err error) error {
	var dial *dialError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &dial):
		return fmt.Errorf("call %s: %w", name, dial)
	}
	return fmt.Errorf("call %s: the server closed the connection (stopped, or this user may not command it): %w", name, io.ErrUnexpectedEOF)
}

// reader looks at the trailer before it says io.EOF.
//
// It keeps the context of the request that it is the body of, as http.Response itself does.
type reader struct {
	ctx  context.Context
	name string
	resp *http.Response
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.resp.Body.Read(p)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		return n, callError(r.ctx, r.name, err)
	}
	switch result := r.resp.Trailer.Get(resultTrailer); result {
	case resultOK:
		return n, io.EOF
	case "":
		return n, callError(r.ctx, r.name, io.ErrUnexpectedEOF)
	default:
		e := &Error{}
		if err := json.Unmarshal([]byte(result), e); err != nil {
			return n, fmt.Errorf("call %s: %w", r.name, err)
		}
		return n, e
	}
}

func (r *reader) Close() error { return r.resp.Body.Close() }
