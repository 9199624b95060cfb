// Package wire has rsync's numbers, strings and multiplexing: pure, without files or policy.
//
// Numbers are little endian; the variable-length forms came with protocol 30, the 4-byte forms are for what came
// before. From the handshake on each direction may be tagged: frames of a 4-byte head (the code plus 7, and 24 bits of
// length) carry data or a message. Formats are those of rsync 3.5.0's io.c.
//
// Everything read is bounded beside the read: what a client sends is an *Error or within its bound.
//
// Concurrency: a Reader belongs to one goroutine. A Writer's data methods belong to one goroutine; Message, Flush and the
// counters may be called by any.
package wire

import "fmt"

// Error says that what the other side sent is not rsync's protocol. Its text may be shown to it.
type Error struct{ what string }

// Errorf makes an Error.
func Errorf(format string, a ...any) error { return &Error{fmt.Sprintf(format, a...)} }

func (e *Error) Error() string { return "rsync protocol: " + e.what }

// Code says what a frame carries (rsync.h: enum msgcode).
type Code byte

// The codes that cross the wire.
const (
	CodeData      Code = 0
	CodeErrorXfer Code = 1 // a file was not transferred: the client shows the text and ends with 23
	CodeInfo      Code = 2
	CodeError     Code = 3
	CodeWarning   Code = 4
	CodeRedo      Code = 9
	CodeStats     Code = 10
	CodeIOError   Code = 22
	CodeIOTimeout Code = 33
	CodeNoop      Code = 42
	CodeErrorExit Code = 86
	CodeSuccess   Code = 100
	CodeDeleted   Code = 101
	CodeNoSend    Code = 102
)

const (
	tagBase    = 7
	maxFrame   = 1<<24 - 1
	maxMessage = 64 << 10 // bytes of a message that is not data
)

// Done is the file number that ends a phase (NDX_DONE); DeleteStats announces statistics (NDX_DEL_STATS).
const (
	Done        int32 = -1
	ListEnd     int32 = -2
	DeleteStats int32 = -3
)

// index is the state of one direction's file numbers, which are sent as differences (io.c: write_ndx).
type index struct{ positive, negative int32 }

func newIndex() index { return index{-1, 1} }
