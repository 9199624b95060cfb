package shell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"vaultd/internal/appendonly"
	"vaultd/internal/glob"
	account "vaultd/internal/quota" // quota is a command here
	"vaultd/internal/session"
)

// misused tells how the command is used.
func (c *call) misused(usage string) error {
	fmt.Fprintf(c.errs, "vaultd: error: use: %s\r\n", usage)
	return &session.ExitError{Code: exitMisused}
}

// failed tells why the command can not do something with path, and returns the exit status as an
// error; ctx's end and what is no answer of the FS is returned as it is, for the transport to log.
func (c *call) failed(path string, err error) error {
	var denied *appendonly.DeniedError
	if errors.As(err, &denied) {
		c.Refused(denied)
		return &session.ExitError{Code: exitRefused}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	text, code := "the server failed; its operator can see why in the log", exitFailed
	for _, known := range []error{fs.ErrNotExist, appendonly.ErrNotDir, appendonly.ErrIsDir, appendonly.ErrNameTooLong, appendonly.ErrBadName,
		appendonly.ErrLoop, appendonly.ErrNotRegular, appendonly.ErrQuarantined, appendonly.ErrReadOnly, appendonly.ErrClosed, appendonly.ErrNotEmpty, fs.ErrExist, errStdin, glob.ErrMany} {
		if errors.Is(err, known) {
			text = known.Error()
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		text, code = "no such file or directory", exitNotFound
	}
	var ceiling *appendonly.CeilingError
	var full *account.FullError
	switch {
	case errors.As(err, &ceiling):
		text = ceiling.Error()
	case errors.As(err, &full):
		text = full.Error()
	case errors.Is(err, syscall.EDQUOT):
		text = "the quota is used up"
	case errors.Is(err, syscall.ENOSPC):
		text = "the disk is full"
	}
	fmt.Fprintf(c.errs, "vaultd: error: %s %s: %s\r\n", c.name, appendonly.QuotePath(path), text)
	c.Log.Debug("command failed", "command", c.name, "error", err.Error())
	return &session.ExitError{Code: code}
}
