package rsync

import (
	"context"

	"vaultd/internal/session"
)

func (c *conn) daemon(ctx context.Context) error {
	return &session.ExitError{Code: exitUnsupported}
}
