// Package admin is the socket between the operator's commands and a running server.
//
// The server listens on admin.sock in the store's directory and serves named calls (JSON in, JSON out) and
// named streams (JSON in, bytes out: a tar of a restore), as HTTP/1.1 over AF_UNIX:
//
//	POST /v1/call/NAME     body: JSON -> 200 and JSON, or 400 and an Error as JSON
//	POST /v1/stream/NAME   body: JSON -> 200 and a chunked body whose trailer says how it ended, or 400 and an Error
//
// What the names mean is the business of who fills Server's maps. An Error carries a text and the exit code of
// the command across. Cancelling the client's context cancels the handler's.
//
// It guarantees that only the server's own user and root get an answer, and where the socket's directory has the
// set-group-id bit also the members of its group: the socket's mode is 0600, or 0660 there, from the instant at
// which it has its name, so that the kernel lets nobody else connect. Without a group each connection's peer is checked
// besides (SO_PEERCRED). Whoever passes is trusted with everything that the calls can do. It guarantees that a stream that was cut short is an error at
// the reader and not an end, and that of two servers on one store the second fails with ErrRunning.
//
// It does not keep bytes that are not UTF-8 in JSON strings: calls that speak of clients' names use []byte.
//
// Files: admin.sock (the socket) and admin.lock (flock(2) is held on it while a server listens; never removed). They are in
// run/ of the store's directory where there is one: a store whose own directory the server can not write has it, or a link to
// a directory below /run.
//
// Concurrency: Server and Client may be used by many goroutines; a stream by one.
package admin

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	socketName = "admin.sock"
	newName    = ".admin.sock.new"
	lockName   = "admin.lock"
)

// The errors that decide what a command does next.
var (
	ErrNotRunning = errors.New("no server is running on this store")
	ErrRunning    = errors.New("a server is already running on this store")
)

// Error is a failure on the other side: a text fit for the operator, and the exit code for the command.
type Error struct {
	Code int    `json:"code"`
	Text string `json:"text"`
}

func (e *Error) Error() string { return e.Text }

// ExitUnavailable is the code of a call that the running server does not know (EX_UNAVAILABLE of sysexits.h).
const ExitUnavailable = 69

// exitTemporary is the code of a request that a stopping server did not finish (EX_TEMPFAIL).
const exitTemporary = 75

// resultTrailer ends each stream: resultOK, or an Error as JSON. A body without it was cut short.
const (
	resultTrailer = "Vaultd-Result"
	resultOK      = "ok"
)

// runDir is the directory of the socket in a store's, where it is not that itself.
const runDir = "run"

// openDir opens the socket's directory, so that it can be renamed, and long, without harm.
func openDir(store string) (*os.File, error) {
	dir := filepath.Join(store, runDir)
	var st unix.Stat_t
	if unix.Lstat(dir, &st) != nil {
		dir = store
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}
