package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"
)

// What a process mounts in a mount namespace of its own is seen by nobody else. So a Helper that is kept in one makes datasets without mounting
// them (Config.Place), and has a second process, which stays in the machine's, bring them to their places: "vaultd zfs-mount". That one is
// told nothing: to connect is to ask. It looks for itself what is to be mounted (Helper.Ready), and what a removed
// tenant has left empty (Helper.Leave).
//
// The wire: the mounter writes "ok\n", or what went wrong and a line break, and closes. It reads nothing.

// maxAnswer bounds what is read from the mounter.
const maxAnswer = 4096

// answerWait is how long the mounter waits for who does not read.
const answerWait = 10 * time.Second

// ServeMounter answers who connects to l, one after the other, with what ready says. It returns when ctx is cancelled.
func ServeMounter(ctx context.Context, l net.Listener, ready func(context.Context) error, log *slog.Logger) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
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
		uid, err := peer(c)
		if err != nil || uid != 0 {
			log.Warn("zfs mounter: peer refused", "uid", uid, "error", err)
			c.Close()
			continue
		}
		answer := "ok"
		if err := ready(ctx); err != nil {
			answer = err.Error()
		}
		c.SetWriteDeadline(time.Now().Add(answerWait))
		fmt.Fprintf(c, "%.*s\n", maxAnswer-1, answer) // who has gone does not want it
		c.Close()
	}
}

// ErrMounter says that datasets are not all in their places, or that nobody could be asked to bring them there.
var ErrMounter = errors.New("zfs mounter")

// Mounter asks the mounter whose socket is at path.
func Mounter(path string) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrMounter, err)
		}
		defer c.Close()
		stop := context.AfterFunc(ctx, func() { c.Close() })
		defer stop()
		answer, err := io.ReadAll(io.LimitReader(c, maxAnswer))
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %w", ErrMounter, ctx.Err())
		case err != nil:
			return fmt.Errorf("%w: %w", ErrMounter, err)
		case string(answer) == "ok\n":
			return nil
		case len(answer) == 0:
			return fmt.Errorf("%w: it ended without an answer", ErrMounter)
		}
		return fmt.Errorf("%w: %s", ErrMounter, answer[:len(answer)-1])
	}
}
