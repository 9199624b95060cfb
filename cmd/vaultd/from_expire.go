package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"vaultd/internal/admin"
)

// errNotExpire refuses a call that expire makes to somebody who may only give commands.
var errNotExpire = errors.New("only the expire process and root say what was freed: use vaultd expire")

// fromExpire lets through who has expire's state, root, and the server's own user. Others whom the socket's group lets give commands could have the
// journal say that a snapshot's name ended, which would hide it from the tenant (P2).
func fromExpire[In, Out any](o *operations, f func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		p, ok := admin.PeerOf(ctx)
		if !ok || p.UID == 0 || int(p.UID) == os.Geteuid() { // no peer: there is no server, and this process is the operator's
			return f(ctx, in)
		}
		i, err := os.Lstat(filepath.Join(o.dir, expireDir)) // the confined server can not look names of users up
		if err != nil {
			return out, fmt.Errorf("find out who frees: %w", err)
		}
		if st, ok := i.Sys().(*syscall.Stat_t); !ok || st.Uid != p.UID {
			return out, errNotExpire
		}
		return f(ctx, in)
	}
}
