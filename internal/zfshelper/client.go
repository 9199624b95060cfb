package zfshelper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/supervise"
	"vaultd/internal/zfs"
)

// decode reads what the wire carried, and nothing more than it should.
func decode(raw json.RawMessage, in any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(in)
}

// Caller carries a verb to who answers it: *supervise.Client.
type Caller interface {
	CallContext(ctx context.Context, verb string, args, out any) error
}

// Remote are the verbs of who answers at the other end.
type Remote struct{ Caller }

var _ Verbs = Remote{}

func ask[T any](ctx context.Context, c Caller, verb string, args any) (T, error) {
	var out outcome[T]
	if err := c.CallContext(ctx, verb, args, &out); err != nil {
		return out.Value, err
	}
	if out.Error != "" {
		return out.Value, &remoteError{out.Error, kinds[out.Kind]}
	}
	return out.Value, nil
}

// remoteError is an error of the other end's, of the same kind.
type remoteError struct {
	text string
	kind error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.kind }

// Create implements Verbs.
func (r Remote) Create(ctx context.Context, id string, refquota uint64) error {
	_, err := ask[nothing](ctx, r, "zfs.create", quotaRequest{id, refquota})
	return err
}

// Raise implements Verbs.
func (r Remote) Raise(ctx context.Context, id string, refquota uint64) error {
	_, err := ask[nothing](ctx, r, "zfs.raise", quotaRequest{id, refquota})
	return err
}

// Take implements Verbs.
func (r Remote) Take(ctx context.Context, batch []snapshot.Instant, within time.Duration) ([]snapshot.Body, error) {
	return ask[[]snapshot.Body](ctx, r, "zfs.take", takeRequest{batch, within})
}

// Bodies implements Verbs.
func (r Remote) Bodies(ctx context.Context, id string) ([]snapshot.Body, error) {
	return ask[[]snapshot.Body](ctx, r, "zfs.bodies", idRequest{id})
}

// Datasets implements Verbs.
func (r Remote) Datasets(ctx context.Context) ([]Dataset, error) {
	return ask[[]Dataset](ctx, r, "zfs.datasets", nothing{})
}

// Pool implements Verbs.
func (r Remote) Pool(ctx context.Context) (*zfs.Pool, error) {
	return ask[*zfs.Pool](ctx, r, "zfs.pool", nothing{})
}

// Load implements Verbs.
func (r Remote) Load(ctx context.Context) (uint64, error) {
	return ask[uint64](ctx, r, "zfs.load", nothing{})
}

// Top implements Verbs.
func (r Remote) Top(ctx context.Context) (*zfs.Dataset, error) {
	return ask[*zfs.Dataset](ctx, r, "zfs.top", nothing{})
}

// Scrub implements Verbs.
func (r Remote) Scrub(ctx context.Context) error {
	_, err := ask[nothing](ctx, r, "zfs.scrub", nothing{})
	return err
}

// Unmount implements Leaver.
func (r Remote) Unmount(ctx context.Context, id string) error {
	_, err := ask[nothing](ctx, r, "zfs.unmount", idRequest{id})
	return err
}

// Forget implements Leaver.
func (r Remote) Forget(ctx context.Context, id string) error {
	_, err := ask[nothing](ctx, r, "zfs.forget", idRequest{id})
	return err
}

// ErrNoHelper says that nobody answers on the helper's socket.
var ErrNoHelper = errors.New("the ZFS helper does not answer (vaultd zfs-helper)")

// Socket asks on a socket. It connects when it must, and again when the helper was started anew.
type Socket struct {
	Path string

	mu     sync.Mutex // guards what follows
	conn   net.Conn
	client *supervise.Client
}

// CallContext implements Caller. A call that a helper took with it when it ended is not made again: it may have been carried out.
func (s *Socket) CallContext(ctx context.Context, verb string, args, out any) error {
	c, err := s.connect(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoHelper, err)
	}
	err = c.CallContext(ctx, verb, args, out)
	if errors.Is(err, supervise.ErrGone) {
		s.drop(c)
		err = fmt.Errorf("%w: %w", ErrNoHelper, err)
	}
	return err
}

func (s *Socket) connect(ctx context.Context) (*supervise.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil && s.client.Err() == nil {
		return s.client, nil
	}
	if s.conn != nil {
		s.conn.Close()
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", s.Path)
	if err != nil {
		s.conn, s.client = nil, nil
		return nil, err
	}
	s.conn, s.client = conn, supervise.NewClient(conn)
	return s.client, nil
}

func (s *Socket) drop(c *supervise.Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client == c {
		s.conn.Close()
		s.conn, s.client = nil, nil
	}
}

// Close ends the connection.
func (s *Socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn, s.client = nil, nil
	return err
}
