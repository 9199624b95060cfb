package rsync

import (
	"context"
	"errors"

	"vaultd/internal/session"
)

func (c *conn) pull(ctx context.Context) error {
	return c.fatal(exitUnsupported, errors.New("pulls come next"))
}

func (c *conn) daemon(ctx context.Context) error {
	return &session.ExitError{Code: exitUnsupported}
}
