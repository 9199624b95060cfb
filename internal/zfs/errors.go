package zfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"strings"
	"syscall"

	gozfs "github.com/mistifyio/go-zfs/v3"
)

// What went wrong, for errors.Is. Those with a counterpart in io/fs or syscall are that, too.
var (
	ErrNotExist   = fmt.Errorf("zfs: %w", fs.ErrNotExist)        // dataset, snapshot, pool, tag, bookmark
	ErrExist      = fmt.Errorf("zfs: %w", fs.ErrExist)           // likewise
	ErrPermission = fmt.Errorf("zfs: %w", fs.ErrPermission)      // neither root nor delegated
	ErrNoSpace    = fmt.Errorf("zfs: %w", syscall.ENOSPC)        // the pool is full
	ErrQuota      = fmt.Errorf("zfs: %w", syscall.EDQUOT)        // a quota is reached, or would be below what is used
	ErrReadOnly   = fmt.Errorf("zfs: %w", syscall.EROFS)         // pool or dataset
	ErrBusy       = errors.New("zfs: dataset is busy")           // in use, being received, read through .zfs
	ErrHeld       = fmt.Errorf("%w: snapshot is held", ErrBusy)  // a hold refused it
	ErrDependent  = errors.New("zfs: others depend on it")       // children, clones, or newer snapshots
	ErrKey        = errors.New("zfs: encryption key")            // not loaded, loaded already, or wrong
	ErrMounted    = errors.New("zfs: mounted already")           //
	ErrNotMounted = errors.New("zfs: not mounted")               //
	ErrPool       = errors.New("zfs: pool is not available")     // faulted, missing devices
	ErrSuspended  = fmt.Errorf("%w: I/O is suspended", ErrPool)  // waits for its devices, and for `zpool clear`
	ErrNotZFS     = errors.New("zfs: no ZFS on this machine")    // no tools, or no kernel module
	ErrName       = errors.New("zfs: name is not valid")         // refused before anything ran
	ErrOutput     = errors.New("zfs: output is not understood")  // and nothing was taken from it
	ErrTimeout    = errors.New("zfs: does not answer in time")   // what it was doing may still happen
	ErrStream     = errors.New("zfs: stream is not what it was") // a damaged or unsuited stream was refused
)

// Error is a command that did not succeed.
type Error struct {
	Op   string // tool and verb: "zfs snapshot"
	Name string // what it was about
	Kind error  // one of the Err… above, or nil
	Text string // what the tool wrote to stderr, trimmed
	Err  error  // how the process ended
}

// Error names the verb, the noun and the tool's own words; an Error is one line.
func (e *Error) Error() string {
	s := e.Op
	if e.Name != "" {
		s += " " + e.Name
	}
	switch {
	case e.Text != "":
		text, _, _ := strings.Cut(e.Text, "\nusage:") // which follows some errors
		return s + ": " + printable(strings.Join(strings.Fields(text), " "))
	case e.Err != nil && e.Kind != nil:
		return s + ": " + e.Kind.Error() + ": " + e.Err.Error()
	case e.Kind != nil:
		return s + ": " + e.Kind.Error()
	}
	return fmt.Sprintf("%s: %v", s, e.Err)
}

// Unwrap gives errors.Is the kind and the process's end.
func (e *Error) Unwrap() []error {
	var all []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}

// printable keeps a tool's words from harming a terminal: they can hold the value of a property.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}

// texts are the C locale's words, most of them from libzfs_error_description in libzfs_util.c. The first
// that is found rules, so what is more special comes first.
var texts = []struct {
	text string
	kind error
}{
	{"zfs modules are not loaded", ErrNotZFS},
	{"/dev/zfs and /proc/self/mounts are required", ErrNotZFS},
	{"unable to open /dev/zfs", ErrNotZFS},
	{"pool i/o is currently suspended", ErrSuspended},
	{"no such tag on this dataset", ErrNotExist},
	{"tag already exists", ErrExist},
	{"bookmark exists", ErrExist},
	{"already exists", ErrExist},
	{"does not exist", ErrNotExist},
	{"no such pool", ErrNotExist},
	{"no such device in pool", ErrNotExist},
	{"could not find any snapshots to destroy", ErrNotExist},
	{"is busy", ErrBusy}, // also of keys: "Key unload error: 'a' is busy."
	{"key load error", ErrKey},
	{"key already loaded", ErrKey},
	{"key already unloaded", ErrKey},
	{"key unload error", ErrKey},
	{"encryption key not loaded", ErrKey},
	{"encryption failure", ErrKey},
	{"key must be loaded", ErrKey},
	{"has dependent clones", ErrDependent},
	{"has children", ErrDependent},
	{"is cloned", ErrDependent},
	{"filesystem already mounted", ErrMounted},
	{"not currently mounted", ErrNotMounted},
	{"size is less than current used", ErrQuota},
	{"quota exceeded", ErrQuota},
	{"out of space", ErrNoSpace},
	{"no space left on device", ErrNoSpace},
	{"permission denied", ErrPermission},
	{"must be superuser", ErrPermission},
	{"only be mounted by root", ErrPermission},
	{"insufficient privileges", ErrPermission},
	{"operation not permitted", ErrPermission},
	{"invalid stream", ErrStream},
	{"checksum mismatch", ErrStream},
	{"incomplete stream", ErrStream},
	{"does not match incremental source", ErrStream},
	{"has been modified since most recent snapshot", ErrStream},
	{"read only", ErrReadOnly},
	{"read-only", ErrReadOnly},
	{"pool is unavailable", ErrPool},
	{"one or more devices", ErrPool},
	{"i/o error", ErrPool},
	{"input/output error", ErrPool},
}

func kindOf(text string) error {
	text = strings.ToLower(text)
	for _, t := range texts {
		if strings.Contains(text, t.text) {
			return t.kind
		}
	}
	return nil
}

// failure makes an *Error of what a process or go-zfs returned.
func failure(op, name, stderr string, err error) error {
	var lib *gozfs.Error
	if errors.As(err, &lib) {
		stderr, err = lib.Stderr, lib.Err
	}
	e := &Error{Op: op, Name: name, Text: strings.TrimSpace(stderr), Err: err}
	switch {
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist) && e.Text == "":
		e.Kind = ErrNotZFS
	case errors.Is(err, context.DeadlineExceeded):
		e.Kind = ErrTimeout
	case e.Text != "":
		e.Kind = kindOf(e.Text)
	}
	return e
}
