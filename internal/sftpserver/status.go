package sftpserver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/pkg/sftp"

	"vaultd/internal/appendonly"
	"vaultd/internal/quota"
)

// Status codes, draft-ietf-secsh-filexfer-02 section 7.
const (
	codeOK          = 0
	codeEOF         = 1
	codeMissing     = 2
	codeDenied      = 3
	codeFailure     = 4
	codeBadMessage  = 5
	codeUnsupported = 8
)

// What this package itself refuses.
var (
	errBadHandle   = errors.New("invalid handle")
	errNotReadable = errors.New("handle is not open for reading")
	errNotWritable = errors.New("handle is not open for writing")
	errTooFar      = errors.New("offset or size is too large")
	errTooMany     = errors.New("too many open files in this session")
	errUnsupported = errors.New("operation not supported")
	errNoHash      = errors.New("none of these hash algorithms is supported")
	errBlocks      = errors.New("hash block size is too small")
	errSameFile    = errors.New("source and target of the copy are the same handle")
	errNoUser      = errors.New("there is no such user")
	errInternal    = errors.New("internal error")
)

// rules maps causes to what a client is told. The first that errors.Is wins. A row with notify is
// also said on stderr: OpenSSH's sftp shows of a status no more than its code.
var rules = []struct {
	cause  error
	code   uint32
	text   string // the cause's own, if empty
	notify bool
}{
	{cause: fs.ErrNotExist, code: codeMissing, text: "no such file or directory"},
	{cause: fs.ErrExist, code: codeFailure, text: "already exists"},
	{cause: errMalformed, code: codeBadMessage},
	{cause: errUnsupported, code: codeUnsupported},
	{cause: syscall.EDQUOT, code: codeFailure, text: "quota exceeded", notify: true},
	{cause: syscall.ENOSPC, code: codeFailure, text: "no space left on the server", notify: true},
	{cause: appendonly.ErrReadOnly, code: codeFailure, notify: true},
	{cause: appendonly.ErrQuarantined, code: codeFailure, notify: true},
	{cause: appendonly.ErrNotDir, code: codeFailure},
	{cause: appendonly.ErrIsDir, code: codeFailure},
	{cause: appendonly.ErrNotEmpty, code: codeFailure},
	{cause: appendonly.ErrNameTooLong, code: codeFailure},
	{cause: appendonly.ErrBadName, code: codeFailure},
	{cause: appendonly.ErrLoop, code: codeFailure},
	{cause: appendonly.ErrNotSymlink, code: codeFailure},
	{cause: appendonly.ErrNotRegular, code: codeFailure},
	{cause: appendonly.ErrClosed, code: codeFailure},
	{cause: errBadHandle, code: codeFailure},
	{cause: errNotReadable, code: codeFailure},
	{cause: errNotWritable, code: codeFailure},
	{cause: errTooFar, code: codeFailure},
	{cause: errTooMany, code: codeFailure},
	{cause: errNoHash, code: codeFailure},
	{cause: errBlocks, code: codeFailure},
	{cause: errSameFile, code: codeFailure},
	{cause: errNoUser, code: codeFailure},
	{cause: context.Canceled, code: codeFailure, text: "the server is shutting down"},
}

// status says in SFTP's words what err is. No text holds a path but one that the client itself sent.
func (c *conn) status(err error) (code uint32, text string) {
	var denied *appendonly.DeniedError
	var exceeded *quota.ExceededError
	var ceiling *appendonly.CeilingError
	var full *quota.FullError
	switch {
	case err == nil:
		return codeOK, ""
	case err == io.EOF:
		return codeEOF, "end of file"
	case errors.As(err, &denied):
		c.sess.Refused(denied)
		return codeDenied, denied.Error()
	case errors.As(err, &exceeded): // not 3: that is permanent for restic and rclone, and a quota can be raised
		c.sess.Refused(exceeded)
		return codeFailure, exceeded.Error()
	case errors.As(err, &ceiling):
		c.sess.Refused(ceiling)
		return codeFailure, ceiling.Error()
	case errors.As(err, &full):
		c.sess.Refused(full)
		return codeFailure, full.Error()
	}
	for _, r := range rules {
		if !errors.Is(err, r.cause) {
			continue
		}
		text := r.text
		if text == "" {
			text = r.cause.Error()
		}
		// A PathError of the FS holds exactly a cause and the client's path; one of the system holds an
		// errno, and a path of the server.
		_, system := r.cause.(syscall.Errno)
		if p := (*fs.PathError)(nil); !system && errors.As(err, &p) && p.Err == r.cause {
			text = fmt.Sprintf("%s %s: %s", p.Op, appendonly.QuotePath(p.Path), text)
		}
		if r.notify {
			c.sess.Refused(errors.New(text))
		}
		return r.code, text
	}
	if err != errInternal { // that one has been told to Serve's caller
		c.sess.Log.Error("request failed", "error", err)
	}
	return codeFailure, "internal server error"
}

// fxError is a status on its way through RequestServer, which takes the code from what it unwraps to
// and the text from Error.
type fxError struct {
	fx   error // sftp.ErrSSHFx...
	text string
}

func (e *fxError) Error() string { return e.text }
func (e *fxError) Unwrap() error { return e.fx }

// fx is status for the handlers.
func (c *conn) fx(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	code, text := c.status(err)
	switch code {
	case codeMissing:
		return &fxError{sftp.ErrSSHFxNoSuchFile, text}
	case codeDenied:
		return &fxError{sftp.ErrSSHFxPermissionDenied, text}
	case codeBadMessage:
		return &fxError{sftp.ErrSSHFxBadMessage, text}
	case codeUnsupported:
		return &fxError{sftp.ErrSSHFxOpUnsupported, text}
	}
	return &fxError{sftp.ErrSSHFxFailure, text}
}
