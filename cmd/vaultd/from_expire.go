package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vaultd/internal/admin"
)

// errNotExpire refuses a call that expire makes to somebody who may only give commands.
var errNotExpire = errors.New("only the expire process and root say what was freed: use vaultd expire")

// fromExpire lets through the user that frees (expire.user, or who has expire's state), root, and the server's own user. Others whom the socket's group lets give commands could have the
// journal say that a snapshot's name ended, which would hide it from the tenant (P2).
func fromExpire[In, Out any](o *operations, f func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		p, ok := admin.PeerOf(ctx)
		if !ok || p.UID == 0 || int(p.UID) == os.Geteuid() { // no peer: there is no server, and this process is the operator's
			return f(ctx, in)
		}
		uid := o.expire
		if uid < 0 {
			st, err := statOwner(filepath.Join(o.dir, expireDir))
			if err != nil {
				return out, fmt.Errorf("find out who frees: %w", err)
			}
			uid = int(st.Uid)
		}
		if uid != int(p.UID) {
			return out, errNotExpire
		}
		return f(ctx, in)
	}
}
