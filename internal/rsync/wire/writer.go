package wire

import (
	"encoding/binary"
	"io"
	"math/bits"
	"sync"
)

// Writer writes to the other side. Data is gathered into frames; nothing is sent before Flush or a full buffer.
type Writer struct {
	mu    sync.Mutex // guards all of it
	dst   io.Writer
	buf   []byte
	head  int // where the head of the frame under way is in buf; -1: no frame
	mux   bool
	err   error // the first; Flush returns it
	total int64
	alive bool // something was sent since KeepAlive was called last
	index index
}

// NewWriter writes to w in pieces of about size bytes.
func NewWriter(w io.Writer, size int) *Writer {
	return &Writer{dst: w, buf: make([]byte, 0, max(size, 1024)), head: -1, index: newIndex()}
}

// Multiplexed says that the stream is tagged from here on.
func (w *Writer) Multiplexed() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send()
	w.mux = true
}

// Plain says that the stream is not tagged from here on.
func (w *Writer) Plain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send()
	w.mux = false
}

// BytesWritten is how many bytes of data were written.
func (w *Writer) BytesWritten() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.total
}

// close ends the frame under way. mu is held.
func (w *Writer) close() {
	if w.head < 0 {
		return
	}
	n := len(w.buf) - w.head - 4
	binary.LittleEndian.PutUint32(w.buf[w.head:], uint32(n)|tagBase<<24)
	w.head = -1
}

// send hands the buffer to the stream. mu is held.
func (w *Writer) send() {
	w.close()
	if w.err == nil && len(w.buf) > 0 {
		_, w.err = w.dst.Write(w.buf)
		w.alive = true
	}
	w.buf = w.buf[:0]
}

// Write follows io.Writer on the data of the stream.
func (w *Writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.total += int64(len(p))
	for rest := p; len(rest) > 0; {
		if w.mux && w.head < 0 {
			if cap(w.buf)-len(w.buf) < 64 {
				w.send()
			}
			w.head = len(w.buf)
			w.buf = append(w.buf, 0, 0, 0, 0)
		}
		n := min(cap(w.buf)-len(w.buf), len(rest))
		if n == 0 {
			w.send()
			continue
		}
		w.buf = append(w.buf, rest[:n]...)
		rest = rest[n:]
	}
	if w.err != nil {
		return 0, w.err
	}
	return len(p), nil
}

// Message sends a message in order with the data around it.
func (w *Writer) Message(code Code, payload []byte) {
	if len(payload) > maxMessage {
		payload = payload[:maxMessage]
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
	if cap(w.buf)-len(w.buf) < 4+len(payload) {
		w.send()
	}
	w.buf = binary.LittleEndian.AppendUint32(w.buf, uint32(len(payload))|(uint32(code)+tagBase)<<24)
	w.buf = append(w.buf, payload...)
}

// Flush sends what was written, and returns the first error of any write.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.send()
	return w.err
}

// KeepAlive sends what was written, or else an empty frame, if nothing was sent since it was called last. Where the stream is
// not multiplexed it does nothing: every byte there is data.
func (w *Writer) KeepAlive() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.alive && w.mux {
		if len(w.buf) == 0 {
			w.buf = binary.LittleEndian.AppendUint32(w.buf, tagBase<<24)
		}
		w.send()
	}
	w.alive = false
}

// Byte writes one byte.
func (w *Writer) Byte(b byte) { w.Write([]byte{b}) }

// Short writes 2 bytes.
func (w *Writer) Short(n uint16) { w.Write([]byte{byte(n), byte(n >> 8)}) }

// Int writes 4 bytes.
func (w *Writer) Int(n int32) {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], uint32(n))
	w.Write(b[:])
}

// Long writes the 64-bit form of protocols before 30.
func (w *Writer) Long(n int64) {
	if n >= 0 && n <= 0x7fffffff {
		w.Int(int32(n))
		return
	}
	b := [12]byte{0xff, 0xff, 0xff, 0xff}
	binary.LittleEndian.PutUint64(b[4:], uint64(n))
	w.Write(b[:])
}

// Varint writes 1 to 5 bytes.
func (w *Writer) Varint(n int32) {
	var b [5]byte
	binary.LittleEndian.PutUint32(b[1:], uint32(n))
	count := max(1, (bits.Len32(uint32(n))+7)/8)
	w.Write(b[:variable(b[:], count, 1)])
}

// Varlong writes a number of at least least bytes.
func (w *Writer) Varlong(n int64, least int) {
	var b [9]byte
	binary.LittleEndian.PutUint64(b[1:], uint64(n))
	count := max(least, (bits.Len64(uint64(n))+7)/8)
	w.Write(b[:variable(b[:], count, least)])
}

// variable puts the first byte before the count low bytes at b[1:], and returns how many bytes there are then. The
// highest of them goes into the first one, if it has room beside the bits that count the extra bytes.
func variable(b []byte, count, least int) int {
	bit := byte(1) << (7 - count + least)
	switch {
	case b[count] >= bit:
		b[0] = ^(bit - 1)
		return count + 1
	case count > least:
		b[0] = b[count] | ^(bit*2 - 1)
	default:
		b[0] = b[count]
	}
	return count
}

// Varint30 is Varint from protocol 30 on, Int before.
func (w *Writer) Varint30(proto int, n int32) {
	if proto < 30 {
		w.Int(n)
	} else {
		w.Varint(n)
	}
}

// Varlong30 is Varlong from protocol 30 on, Long before.
func (w *Writer) Varlong30(proto int, n int64, least int) {
	if proto < 30 {
		w.Long(n)
	} else {
		w.Varlong(n, least)
	}
}

// VString writes a string of at most 32,767 bytes.
func (w *Writer) VString(s []byte) {
	if len(s) > 0x7f {
		w.Write([]byte{byte(len(s)>>8) | 0x80, byte(len(s))})
	} else {
		w.Byte(byte(len(s)))
	}
	w.Write(s)
}

// Index writes a file number, Done, ListEnd or DeleteStats.
func (w *Writer) Index(n int32, proto int) {
	if proto < 30 {
		w.Int(n)
		return
	}
	if n == Done {
		w.Byte(0)
		return
	}
	b := make([]byte, 0, 6)
	last := &w.index.positive
	if n < 0 {
		b, n, last = append(b, 0xff), -n, &w.index.negative
	}
	diff := int64(n) - int64(*last)
	*last = n
	switch {
	case diff > 0 && diff < 0xfe:
		b = append(b, byte(diff))
	case diff < 0 || diff > 0x7fff:
		b = append(b, 0xfe, byte(n>>24)|0x80, byte(n), byte(n>>8), byte(n>>16))
	default:
		b = append(b, 0xfe, byte(diff>>8), byte(diff))
	}
	w.Write(b)
}
