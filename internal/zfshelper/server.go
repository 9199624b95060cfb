package zfshelper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/snapshot"
	"vaultd/internal/supervise"
)

// maxConns is how many may be connected at once: a supervisor, and commands.
const maxConns = 16

// Server answers on a socket.
type Server struct {
	Verbs Verbs
	UID   uint32 // who may ask, besides root

	Leaver Leaver // nil: nobody can ask for it
	Expire uint32 // who may ask for it, and for nothing else, besides root

	Log *slog.Logger
}

// Listen makes the socket at path, for uid alone. One that nobody answers on any more is replaced.
func Listen(path string, uid, gid int) (*net.UnixListener, error) {
	if c, err := net.Dial("unix", path); err == nil {
		c.Close()
		return nil, fmt.Errorf("listen on %s: another helper answers there", path)
	}
	if st, err := os.Lstat(path); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("listen on %s: it is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fresh, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it has another name then
	// Nobody can connect before the mode is right: the name that is known comes last.
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Lchown(fresh, uid, gid)); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, errors.Join(err, l.Close(), os.Remove(fresh))
	}
	return l, nil
}

// Serve answers until ctx is cancelled; then it waits for what is under way, closes l and returns nil.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	places := make(chan struct{}, maxConns)
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return errors.Join(fmt.Errorf("accept: %w", err), l.Close())
		}
		select {
		case places <- struct{}{}:
		default: // the others go on
			s.Log.Warn("zfs helper: too many connections")
			c.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-places }()
			s.serve(ctx, c)
		})
	}
}

func (s *Server) serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	uid, err := peer(c)
	table := map[string]supervise.Verb{}
	if err == nil {
		table = s.table(ctx, uid)
	}
	if len(table) == 0 {
		s.Log.Warn("zfs helper: peer refused", "uid", uid, "error", err)
		return
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := supervise.ServeUntil(c, table, func(error) { cancel() }); err != nil { // which closes c
		s.Log.Warn("zfs helper: a client broke the protocol", "uid", uid, "error", err.Error())
	}
}

// table is what a user may ask for: the server's user is not expire's, and neither can do the other's part.
func (s *Server) table(ctx context.Context, uid uint32) map[string]supervise.Verb {
	table := map[string]supervise.Verb{}
	if uid == 0 || uid == s.UID {
		table = Table(ctx, s.Verbs)
	}
	if s.Leaver != nil && (uid == 0 || uid == s.Expire) {
		table["zfs.unmount"] = handle(func(r idRequest) (nothing, error) { return nothing{}, s.Leaver.Unmount(ctx, r.ID) })
		table["zfs.forget"] = handle(func(r idRequest) (nothing, error) { return nothing{}, s.Leaver.Forget(ctx, r.ID) })
	}
	return table
}

// peer is the user at the other end, by the kernel's word.
func peer(c net.Conn) (uint32, error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return 1<<32 - 1, fmt.Errorf("not an AF_UNIX socket: %T", c)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return 1<<32 - 1, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, cerr); err != nil {
		return 1<<32 - 1, err
	}
	return cred.Uid, nil
}

// The requests on the wire.
type (
	quotaRequest struct {
		ID       string `json:"id"`
		RefQuota uint64 `json:"refquota"`
	}
	takeRequest struct {
		Batch  []snapshot.Instant `json:"batch"`
		Within time.Duration      `json:"within"`
	}
	idRequest struct {
		ID string `json:"id"`
	}
	nothing struct{}
)

// outcome is what a verb answers: an error keeps its kind.
type outcome[T any] struct {
	Value T      `json:"value"`
	Kind  string `json:"kind,omitempty"`
	Error string `json:"error,omitempty"`
}

// handle makes a verb of a function. Fields that are not known are refused: they would be options that the other side believes in.
func handle[In, Out any](f func(In) (Out, error)) supervise.Verb {
	return func(raw json.RawMessage) (any, error) {
		var in In
		if err := decode(raw, &in); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		v, err := f(in)
		if err != nil {
			return outcome[Out]{Kind: kindOf(err), Error: err.Error()}, nil
		}
		return outcome[Out]{Value: v}, nil
	}
}

// Table are the verbs on the wire, carried out while ctx lasts. The supervisor passes on some of them.
func Table(ctx context.Context, v Verbs) map[string]supervise.Verb {
	return map[string]supervise.Verb{
		"zfs.create":   handle(func(r quotaRequest) (nothing, error) { return nothing{}, v.Create(ctx, r.ID, r.RefQuota) }),
		"zfs.raise":    handle(func(r quotaRequest) (nothing, error) { return nothing{}, v.Raise(ctx, r.ID, r.RefQuota) }),
		"zfs.take":     handle(func(r takeRequest) (any, error) { return v.Take(ctx, r.Batch, r.Within) }),
		"zfs.bodies":   handle(func(r idRequest) (any, error) { return v.Bodies(ctx, r.ID) }),
		"zfs.datasets": handle(func(nothing) (any, error) { return v.Datasets(ctx) }),
		"zfs.pool":     handle(func(nothing) (any, error) { return v.Pool(ctx) }),
		"zfs.load":     handle(func(nothing) (any, error) { return v.Load(ctx) }),
		"zfs.top":      handle(func(nothing) (any, error) { return v.Top(ctx) }),
		"zfs.scrub":    handle(func(nothing) (nothing, error) { return nothing{}, v.Scrub(ctx) }),
	}
}
