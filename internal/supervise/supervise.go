// Package supervise is the wire between the supervisor and the confined server, which are one program in two processes.
//
// The server asks, and the supervisor, which is not confined, answers: each call is a line of JSON in either direction, over a
// socket pair that the server inherits; several may be under way. There are few verbs and they are fixed (cmd/vaultd has them); what a verb may do is
// decided by who fills the supervisor's table. The supervisor asks the ZFS helper (package zfshelper) in the same way.
//
// Trust: the server may be in an attacker's hands. A request is bounded, and nothing in it is a path. The supervisor is trusted by the
// server with everything. When either side is gone, the other one sees the end of the stream.
//
// Concurrency: Client may be used by many goroutines; Serve by one for each connection.
package supervise

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// The descriptors that a server inherits. Its listening sockets follow, as many as Begin says.
const (
	FDControl = 3
	FDLock    = 4
	FDAdmin   = 5
	FDListen  = 6
)

const (
	maxRequest = 512 << 10 // bytes of a line from the one that asks; a batch of snapshots is the longest
	maxReply   = 16 << 20  // of a line back; the snapshots of a dataset are the longest
	maxAtOnce  = 8         // requests that are being answered; more wait in the socket
)

type request struct {
	ID   uint64          `json:"id"`
	Verb string          `json:"verb"`
	Args json.RawMessage `json:"args,omitempty"`
}

type reply struct {
	ID     uint64          `json:"id"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// Verb answers one kind of request.
type Verb func(args json.RawMessage) (any, error)

// Pair makes the two ends. The second one is for the server's FDControl.
func Pair() (here net.Conn, there *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	f := os.NewFile(uintptr(fds[0]), "control")
	defer f.Close()
	there = os.NewFile(uintptr(fds[1]), "control")
	if here, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(err, there.Close())
	}
	return here, there, nil
}

// Serve answers until the other side is gone, which is nil, or breaks the protocol, also by a verb that there is not: that is not answered, and nothing after
// it, so the caller closes c. Several requests are answered at once; Serve returns when all have ended.
func Serve(c io.ReadWriter, verbs map[string]Verb) error {
	return ServeUntil(c, verbs, func(error) {})
}

// ServeUntil is Serve, and calls gone, with what it will return, before it waits for those that have not ended: they may hang, and who broke the
// protocol is not to wait for them.
func ServeUntil(c io.ReadWriter, verbs map[string]Verb, gone func(error)) error {
	var all sync.WaitGroup
	places := make(chan struct{}, maxAtOnce)
	var mu sync.Mutex // one line at a time
	err := eachLine(c, func(line []byte) error {
		var r request
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		verb, ok := verbs[r.Verb]
		if !ok {
			return fmt.Errorf("read request: %.20q is no verb", r.Verb)
		}
		places <- struct{}{}
		all.Go(func() {
			defer func() { <-places }()
			text := answer(verb, r)
			mu.Lock()
			defer mu.Unlock()
			c.Write(text) // one that is gone is seen by who reads
		})
		return nil
	})
	gone(err)
	all.Wait()
	return err
}

// answer is the line that answers r.
func answer(verb Verb, r request) []byte {
	out := reply{ID: r.ID}
	res, err := verb(r.Args)
	if err == nil {
		out.Result, err = json.Marshal(res)
	}
	if err == nil && len(out.Result) > maxReply-1024 {
		err = fmt.Errorf("the answer has %d bytes", len(out.Result))
	}
	if err != nil {
		out = reply{ID: r.ID, Error: err.Error()}
	}
	text, err := json.Marshal(out)
	if err != nil { // of strings and numbers: never
		panic("internal error: " + err.Error())
	}
	return append(text, '\n')
}

// eachLine calls f with each line from the one that asks; it returns nil when that one is gone.
func eachLine(c io.Reader, f func([]byte) error) error {
	in := bufio.NewReaderSize(c, maxRequest)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
