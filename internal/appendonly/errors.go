package appendonly

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
)

// Rule names the promise (DESIGN.md §1) that a refusal keeps; logs, metrics and tests use the same word.
type Rule string

// The promises that can be the reason of a refusal, and two reasons that are not promises.
const (
	P1       Rule = "P1"        // sealed bytes never change
	P2       Rule = "P2"        // a sealed name never disappears
	P3       Rule = "P3"        // retention is decided here
	P4       Rule = "P4"        // what was acknowledged is stable: storage failed, nothing more is taken
	P5       Rule = "P5"        // a tenant reaches its own tree only
	P6       Rule = "P6"        // every change is in the journal
	RuleRole Rule = "role"      // the key may not do this at all
	RuleHold Rule = "suspended" // the tenant is read-only
	RuleSize Rule = "limit"     // a bound on sizes or counts, other than the quota
)

// DeniedError is a refusal: nothing was done. Its text is one line that a client may be shown: it
// holds the client's own path (quoted where it has odd bytes) and no server path.
type DeniedError struct {
	Op   Op
	Path string // as the client named it, cleaned
	Rule Rule
	Why  string // "the file is sealed"
	Hint string // what to do instead; may be empty
}

// Error is "<op> <path>: <why> (<rule>). <hint>".
func (e *DeniedError) Error() string {
	s := fmt.Sprintf("%s %s: %s (%s)", e.Op, QuotePath(e.Path), e.Why, e.Rule)
	if e.Hint != "" {
		s += ". " + e.Hint
	}
	return s
}

// Is makes errors.Is(err, fs.ErrPermission) true.
func (e *DeniedError) Is(target error) bool { return target == fs.ErrPermission }

// The causes, inside an *fs.PathError, of errors that are neither refusals nor faults of the server.
// fs.ErrNotExist and fs.ErrExist are used as they are.
var (
	ErrNotDir      = errors.New("not a directory")
	ErrIsDir       = errors.New("is a directory")
	ErrNotEmpty    = errors.New("directory not empty")
	ErrNameTooLong = errors.New("name too long")
	ErrBadName     = errors.New("name can not be stored")
	ErrLoop        = errors.New("too many symbolic links")
	ErrNotSymlink  = errors.New("not a symbolic link")
	ErrNotRegular  = errors.New("not a regular file")
	// ErrQuarantined: the content did not match its hash after a crash, or verification found it wrong.
	ErrQuarantined = errors.New("content is damaged and is not served")
	// ErrExpired: the version is known, and its content was let go by the vault's retention. It is fs.ErrNotExist, too.
	ErrExpired = fmt.Errorf("this version was let go by the vault's retention: %w", fs.ErrNotExist)
	// ErrReadOnly: storage failed (or its journal is damaged) and the tenant takes no more changes until restarted.
	ErrReadOnly = errors.New("the vault is read-only after a storage error; ask its operator")
	// ErrClosed: the upload or session has ended.
	ErrClosed = errors.New("already closed")
)

// QuotePath renders a client's path for a message: as it is when it is printable UTF-8 without
// quotes or blanks at its ends, otherwise as %q does, so that no name can forge a line or reach a terminal.
func QuotePath(p string) string {
	q := fmt.Sprintf("%q", p)
	return q
}

// storageFailed reports whether err, of a Volume, means that storage did not do what it should: see Volume.
func storageFailed(err error) bool {
	for _, harmless := range []error{nil, fs.ErrExist, fs.ErrNotExist, fs.ErrPermission, fs.ErrInvalid, syscall.ENOSPC, syscall.EDQUOT} {
		if errors.Is(err, harmless) {
			return false
		}
	}
	return true
}

func pathError(op Op, path string, err error) error {
	return &fs.PathError{Op: op.String(), Path: path, Err: err}
}
