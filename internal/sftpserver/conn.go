package sftpserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	"vaultd/internal/session"
)

const (
	// maxInFlight is how many requests RequestServer may hold. Without a bound it keeps every reply
	// behind a slow request; it has eight workers, and each request holds one or two buffers of 256 KiB.
	maxInFlight = 8
	// inBuffer holds the header of a WRITE; what follows goes past it into RequestServer's buffer.
	inBuffer = 4 << 10
)

// conn is one session: the ReadWriteCloser that RequestServer takes for its channel, and the owner of
// the open handles.
//
// Requests are numbered as they are given to RequestServer (sent) and replies as they come back (done).
// RequestServer replies once to each request and in their order; all that is known of it rests on that.
type conn struct {
	cfg  Config
	fs   filesystem
	sess *session.Session
	ctx  context.Context // of Serve: RequestServer calls Read without one

	// Owned by the reader.
	in    *bufio.Reader // over stdin
	pkt   []byte        // the packet in hand, with its length field; reused
	feed  []byte        // what is left of pkt for RequestServer
	body  int           // what is left of a WRITE in hand, still to come from in
	cur   request       // the request in hand
	init  bool          // the client has said INIT
	opens uint64        // names the next OPEN to the handlers

	// Owned by RequestServer's sending goroutine.
	part  []byte // a reply that comes in several pieces
	left  int    // bytes of that reply that are still to come
	ready []byte // whole replies that wait for the next one

	out sync.Mutex // held while a packet is written; taken before mu, never after it

	mu      sync.Mutex // guards what follows; held only for moments
	room    sync.Cond  // on mu; the reader waits for done to grow
	sent    uint64
	done    uint64
	flight  [maxInFlight]request // request n, until it is done, at n % maxInFlight
	opening map[string]*handle   // by the path that RequestServer is given in place of the true one
	handles map[string]*handle   // by handle string, from the HANDLE reply to CLOSE
	live    map[*handle]struct{} // all that holds something of the FS; nil after finish
	nopen   int                  // handles and opens in hand

	over     chan struct{} // closed once Serve may return
	isOver   bool
	ended    bool // RequestServer has returned
	draining bool // ctx was cancelled: no further request is taken
	expired  bool // ... and the grace is over
	reading  bool // the reader is inside stdin.Read
	stopped  bool // Serve returns: touch nothing any more
	timer    *time.Timer
	readErr  error // why the reader stopped
	fault    error // the channel or RequestServer failed
	broken   error // a request panicked
}

// request is what is remembered of one given to RequestServer.
type request struct {
	open     *handle // OPEN, OPENDIR: what its reply will name
	key      string  // its key in opening
	file     *handle // READ, WRITE
	off, end int64
	write    bool
}

func newConn(ctx context.Context, cfg Config, s *session.Session, fsys filesystem) *conn {
	c := &conn{
		cfg: cfg, fs: fsys, sess: s, ctx: ctx,
		opening: map[string]*handle{}, handles: map[string]*handle{}, live: map[*handle]struct{}{},
		over: make(chan struct{}),
	}
	c.room.L = &c.mu
	c.in = bufio.NewReaderSize(stdin{c}, inBuffer)
	return c
}

// stdin is the session's, knowing when it waits.
type stdin struct{ c *conn }

func (s stdin) Read(p []byte) (int, error) {
	c := s.c
	c.mu.Lock()
	if c.stopped {
		c.mu.Unlock()
		return 0, io.EOF
	}
	c.reading = true
	c.checkOver()
	c.mu.Unlock()
	n, err := c.sess.Stdin.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reading = false
	if c.stopped {
		return 0, io.EOF
	}
	return n, err
}

// Read gives RequestServer the next bytes of the next request that is for it. RequestServer asks
// for a length field, then for the rest.
func (c *conn) Read(p []byte) (int, error) {
	if len(c.feed) == 0 && c.body == 0 {
		if err := c.next(); err != nil {
			return 0, c.last(err)
		}
	}
	var n int
	var err error
	if len(c.feed) > 0 {
		n = copy(p, c.feed)
		c.feed = c.feed[n:]
	} else {
		n, err = c.in.Read(p[:min(len(p), c.body)])
		c.body -= n
	}
	if len(c.feed) == 0 && c.body == 0 {
		c.mu.Lock()
		c.sent++ // before RequestServer has the last byte, so before it can reply
		c.flight[c.sent%maxInFlight] = c.cur
		c.mu.Unlock()
		c.cur = request{}
	} else if err != nil {
		err = c.last(unexpected(err))
	}
	return n, err
}

// last keeps the error that ends the stream, and gives it to RequestServer when that has answered
// everything: at the end of its input it loses replies that are ready and not yet sent
// (packetManager.close and its controller).
func (c *conn) last(err error) error {
	c.mu.Lock()
	c.readErr = err
	c.mu.Unlock()
	_ = c.settle() // fails when nothing can be answered any more
	return err
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads packets, answering those that are not for RequestServer, until one is.
func (c *conn) next() error {
	for {
		c.mu.Lock()
		err := c.fault
		if c.draining || c.stopped {
			err = io.EOF
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		head, err := c.in.Peek(5)
		if len(head) == 0 && err != nil {
			return err // the end of a session, if it is io.EOF
		}
		if len(head) >= 4 { // looked at before what follows, which may never come
			if n := binary.BigEndian.Uint32(head); n < minPacket || n > maxPacket {
				return fmt.Errorf("length of %d bytes, want %d to %d", n, minPacket, maxPacket)
			}
		}
		if err != nil {
			return unexpected(err)
		}
		forward, err := false, error(nil)
		if n := 4 + int(binary.BigEndian.Uint32(head)); head[4] == fxpWrite {
			forward, err = c.takeWrite(n)
		} else {
			forward, err = c.takePacket(n)
		}
		if err != nil || forward {
			return err
		}
	}
}

// takeWrite looks at the header of a WRITE and leaves the packet, of n bytes in all, to be passed on unseen.
func (c *conn) takeWrite(n int) (forward bool, err error) {
	head, err := c.in.Peek(min(n, minPacket+4+4+maxHandle+8+4))
	if err != nil {
		return false, unexpected(err)
	}
	d := decoder{b: head[5:]}
	id := d.uint32()
	h := c.handle(d.bytes())
	off, length := d.uint64(), d.uint32()
	switch {
	case d.err == nil && uint64(length) > uint64(n-(len(head)-len(d.b))):
		d.err = errMalformed
	case d.err == nil && h == nil:
		d.err = errBadHandle
	case d.err == nil && !h.writable():
		d.err = errNotWritable
	case d.err == nil && (off > 1<<63-1 || off+uint64(length) > 1<<63-1):
		d.err = errTooFar
	}
	if d.err != nil {
		if _, err := c.in.Discard(n); err != nil {
			return false, unexpected(err)
		}
		return false, c.answer(id, nil, d.err)
	}
	c.cur = request{file: h, off: int64(off), end: int64(off) + int64(length), write: true}
	c.body = n
	return true, c.admit(c.cur)
}

// takePacket reads a packet of n bytes in all and dispatches it.
func (c *conn) takePacket(n int) (forward bool, err error) {
	if cap(c.pkt) < n || cap(c.pkt) > 8<<10 && n <= 8<<10 { // no session keeps what one packet needed
		c.pkt = make([]byte, n, max(n, 512))
	}
	c.pkt = c.pkt[:n]
	if _, err := io.ReadFull(c.in, c.pkt); err != nil {
		return false, unexpected(err)
	}
	typ, d := c.pkt[4], &decoder{b: c.pkt[5:]}
	if typ == fxpInit {
		return false, c.hello()
	}
	if !c.init {
		return false, fmt.Errorf("type %d before INIT", typ)
	}
	id := d.uint32()
	if d.err != nil {
		return false, fmt.Errorf("type %d of %d bytes: %w", typ, n, d.err)
	}
	if check := forwarded[typ]; check != nil {
		instead, err := check(c, id, d)
		if err != nil {
			c.cur = request{}
			return false, c.answer(id, nil, err)
		}
		c.feed = c.pkt
		if instead != nil {
			c.feed = instead
		}
		return true, c.admit(c.cur)
	}
	serve := answered[typ]
	if serve == nil {
		serve = func(*conn, uint32, *decoder) ([]byte, error) { return nil, errUnsupported }
	}
	if err := c.settle(); err != nil {
		return false, err
	}
	reply, err := serve(c, id, d)
	return false, c.answer(id, reply, err)
}

// admit waits until r may be given to RequestServer: there is room, and no request in flight touches
// the same bytes (section 3: "requests relating to the same file in the order in which they are
// received"; RequestServer's workers do not keep it).
func (c *conn) admit(r request) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := uint64(0) // until this one is done
	if c.sent >= maxInFlight {
		wait = c.sent - maxInFlight + 1
	}
	for n := c.done + 1; r.file != nil && n <= c.sent; n++ {
		f := &c.flight[n%maxInFlight]
		if f.file == r.file && (f.write || r.write) && f.off < r.end && r.off < f.end {
			wait = max(wait, n)
		}
	}
	return c.waitDone(wait)
}

// settle waits until RequestServer has answered all that it was given.
func (c *conn) settle() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.waitDone(c.sent)
}

func (c *conn) waitDone(n uint64) error {
	for c.done < n && c.fault == nil && !c.stopped {
		c.room.Wait()
	}
	if c.stopped {
		return io.EOF
	}
	return c.fault
}

// answer sends reply, or the STATUS that err stands for, after the replies to all earlier requests.
func (c *conn) answer(id uint32, reply []byte, err error) error {
	if err := c.settle(); err != nil {
		return err
	}
	if reply == nil {
		code, text := c.status(err)
		reply = appendStatus(nil, id, code, text)
	}
	return c.send(reply)
}

// Write takes a reply from RequestServer: in one piece, as pkg/sftp 1.13.12 writes it, or in several.
func (c *conn) Write(p []byte) (int, error) {
	whole := p
	if c.left == 0 {
		c.left = 4 + int(binary.BigEndian.Uint32(p)) // the length field is never torn: sftp.sendPacket
		c.part = c.part[:0]
	}
	if c.left -= len(p); c.left > 0 || len(c.part) > 0 {
		c.part = append(c.part, p...)
		whole = c.part
	}
	if c.left > 0 {
		return len(p), nil
	}
	c.reply(whole)
	err := c.gather(whole)
	c.mu.Lock()
	c.done++
	c.flight[c.done%maxInFlight] = request{}
	c.room.Signal()
	c.checkOver()
	c.mu.Unlock()
	return len(p), err
}

// gatherUpTo is how many bytes of replies wait for the next one.
const gatherUpTo = 4 << 10

// gather sends a reply, or keeps it to be sent with the next one when RequestServer has further requests
// in hand: each of them is answered, and acknowledging a run of WRITEs one by one costs both sides a
// packet and a system call each.
func (c *conn) gather(packet []byte) error {
	c.mu.Lock()
	more := c.sent > c.done+1 && !c.stopped
	c.mu.Unlock()
	if more && len(c.ready)+len(packet) <= gatherUpTo {
		c.ready = append(c.ready, packet...)
		return nil
	}
	if len(c.ready) == 0 {
		return c.send(packet)
	}
	c.ready = append(c.ready, packet...)
	err := c.send(c.ready)
	c.ready = c.ready[:0]
	return err
}

// reply notes what a reply means for handles, before the client can have seen it.
func (c *conn) reply(packet []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := &c.flight[(c.done+1)%maxInFlight]
	if r.open == nil {
		return
	}
	delete(c.opening, r.key)
	if packet[4] != fxpHandle {
		c.nopen--
		return
	}
	d := decoder{b: packet[9:]}
	c.handles[d.string()] = r.open
}

// send writes whole packets, by one Write.
func (c *conn) send(packet []byte) error {
	c.out.Lock()
	defer c.out.Unlock()
	c.mu.Lock()
	err := c.fault
	if c.stopped {
		err = io.ErrClosedPipe
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err = c.sess.Stdout.Write(packet); err != nil {
		err = fmt.Errorf("write reply: %w", err)
		c.fail(err)
	}
	return err
}

// Close is called by RequestServer when a packet is beyond it: the framing layer should have seen that.
func (c *conn) Close() error {
	c.fail(errors.New("internal error: pkg/sftp gave up the session"))
	return nil
}

// fail ends the session at once.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault == nil && !c.ended {
		c.fault = err
	}
	c.room.Broadcast()
	c.checkOver()
}

// guard is deferred around every request: a panic ends the session, in Serve's goroutine, and not the program.
func (c *conn) guard(err *error) {
	v := recover()
	if v == nil {
		return
	}
	*err = errInternal
	broken := fmt.Errorf("serve sftp request: %v\n%s", v, debug.Stack())
	c.mu.Lock()
	if c.broken == nil {
		c.broken = broken
	}
	late := c.stopped
	c.mu.Unlock()
	if late { // Serve has returned: nobody else will say it
		c.sess.Log.Error("internal error", "error", broken)
	}
	c.fail(errInternal)
}

// drain begins the end that ctx asks for: requests in hand are answered, no further one is read.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if !c.stopped {
		c.timer = time.AfterFunc(c.cfg.Grace, c.expire)
	}
	c.checkOver()
}

func (c *conn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = true
	c.checkOver()
}

func (c *conn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.checkOver()
}

// checkOver lets Serve return when RequestServer has ended, when nothing more can be sent, or when
// the session drains and nothing is in hand. The caller holds mu.
func (c *conn) checkOver() {
	if c.isOver {
		return
	}
	if c.ended || c.fault != nil || c.draining && (c.expired || c.reading && c.sent == c.done) {
		c.isOver = true
		close(c.over)
	}
}
