package wire

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"math/bits"
)

// Reader reads what the other side sends.
type Reader struct {
	src   *bufio.Reader
	mux   bool
	left  int // bytes of data in the present frame
	on    func(Code, []byte) error
	index index
	total int64
	small [8]byte
	text  []byte // of the present message
}

// NewReader reads r through a buffer of size bytes.
func NewReader(r io.Reader, size int) *Reader {
	return &Reader{src: bufio.NewReaderSize(r, size), index: newIndex()}
}

// Multiplexed says that the stream is tagged from here on. Messages go to on, whose payload is valid during the call.
func (r *Reader) Multiplexed(on func(code Code, payload []byte) error) { r.mux, r.on = true, on }

// BytesRead is how many bytes of data were taken from the stream.
func (r *Reader) BytesRead() int64 { return r.total }

// frame reads heads until there is data, and passes messages on.
func (r *Reader) frame() error {
	for r.left == 0 {
		head, err := r.src.Peek(4)
		if err != nil {
			if len(head) > 0 && err == io.EOF {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		tag := binary.LittleEndian.Uint32(head)
		r.src.Discard(4)
		n := int(tag & maxFrame)
		code := Code(tag>>24 - tagBase)
		if code == CodeData {
			r.left = n
			continue
		}
		if n > maxMessage {
			return Errorf("a message of %d bytes", n)
		}
		if cap(r.text) < n {
			r.text = make([]byte, n)
		}
		r.text = r.text[:n]
		if _, err := io.ReadFull(r.src, r.text); err != nil {
			return cut(err)
		}
		if err := r.on(code, r.text); err != nil {
			return err
		}
	}
	return nil
}

// cut turns an end in the middle of something into io.ErrUnexpectedEOF.
func cut(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Read follows io.Reader on the data of the stream. io.EOF means that it ended between two frames.
func (r *Reader) Read(p []byte) (int, error) {
	if r.mux {
		if r.left == 0 {
			if err := r.frame(); err != nil {
				return 0, err
			}
		}
		p = p[:min(len(p), r.left)]
	}
	n, err := r.src.Read(p)
	r.left -= n
	if !r.mux {
		r.left = 0
	}
	r.total += int64(n)
	if err != nil && r.mux {
		err = cut(err)
	}
	return n, err
}

// Peek returns the next bytes of data without taking them: at least one, at most n and what is buffered. They are valid
// until the next call.
func (r *Reader) Peek(n int) ([]byte, error) {
	if r.mux {
		if r.left == 0 {
			if err := r.frame(); err != nil {
				return nil, err
			}
		}
		n = min(n, r.left)
	}
	if r.src.Buffered() == 0 {
		if _, err := r.src.Peek(1); err != nil {
			return nil, cut(err)
		}
	}
	return r.src.Peek(min(n, r.src.Buffered()))
}

// Full fills p.
func (r *Reader) Full(p []byte) error {
	for len(p) > 0 {
		n, err := r.Read(p)
		if p = p[n:]; len(p) > 0 && err != nil {
			return cut(err)
		}
	}
	return nil
}

// Discard drops n bytes.
func (r *Reader) Discard(n int64) error {
	for n > 0 {
		b, err := r.Peek(int(min(n, 64<<10)))
		if err != nil {
			return err
		}
		r.take(len(b))
		n -= int64(len(b))
	}
	return nil
}

// take drops n bytes that Peek returned.
func (r *Reader) take(n int) {
	r.src.Discard(n)
	if r.mux {
		r.left -= n
	}
	r.total += int64(n)
}

// fixed returns the next n ≤ 8 bytes.
func (r *Reader) fixed(n int) ([]byte, error) {
	if r.src.Buffered() >= n && (!r.mux || r.left >= n) {
		b, _ := r.src.Peek(n)
		copy(r.small[:], b)
		r.take(n)
		return r.small[:n], nil
	}
	err := r.Full(r.small[:n])
	return r.small[:n], err
}

// Byte reads one byte.
func (r *Reader) Byte() (byte, error) {
	b, err := r.fixed(1)
	return b[0], err
}

// Short reads 2 bytes (read_shortint).
func (r *Reader) Short() (uint16, error) {
	b, err := r.fixed(2)
	return binary.LittleEndian.Uint16(b), err
}

// Int reads 4 bytes (read_int).
func (r *Reader) Int() (int32, error) {
	b, err := r.fixed(4)
	return int32(binary.LittleEndian.Uint32(b)), err
}

// Long reads the 64-bit form of protocols before 30 (read_longint): 4 bytes, or 4 of ones and 8.
func (r *Reader) Long() (int64, error) {
	n, err := r.Int()
	if err != nil || n != -1 {
		return int64(n), err
	}
	b, err := r.fixed(8)
	return int64(binary.LittleEndian.Uint64(b)), err
}

// Varint reads 1 to 5 bytes (read_varint): the ones at the top of the first byte count those that follow it.
func (r *Reader) Varint() (int32, error) {
	first, err := r.Byte()
	if err != nil {
		return 0, err
	}
	extra := bits.LeadingZeros8(^first)
	if extra == 0 {
		return int32(first), nil
	}
	if extra > 4 {
		return 0, Errorf("a number of %d bytes", extra+1)
	}
	var b [8]byte
	got, err := r.fixed(extra)
	copy(b[:], got)
	b[extra] = first &^ (0xff << (7 - extra))
	if extra == 4 {
		if b[4] != 0 {
			return 0, Errorf("a number over 32 bits")
		}
	}
	return int32(binary.LittleEndian.Uint32(b[:])), err
}

// Varlong reads a number of at least least bytes (read_varlong).
func (r *Reader) Varlong(least int) (int64, error) {
	var b [9]byte
	got, err := r.fixed(least)
	if err != nil {
		return 0, err
	}
	first := got[0]
	copy(b[:], got[1:])
	extra := bits.LeadingZeros8(^first)
	if extra == 0 {
		b[least-1] = first
		return int64(binary.LittleEndian.Uint64(b[:])), nil
	}
	if least+extra > 9 {
		return 0, Errorf("a number of %d bytes", least+extra)
	}
	got, err = r.fixed(extra)
	copy(b[least-1:], got)
	rest := first & (1<<(8-extra) - 1) &^ (1 << (7 - extra))
	if least+extra <= 8 {
		b[least+extra-1] = rest
	} else if rest != 0 {
		return 0, Errorf("a number over 64 bits")
	}
	return int64(binary.LittleEndian.Uint64(b[:])), err
}

// Varint30 is Varint from protocol 30 on, Int before.
func (r *Reader) Varint30(proto int) (int32, error) {
	if proto < 30 {
		return r.Int()
	}
	return r.Varint()
}

// Varlong30 is Varlong from protocol 30 on, Long before.
func (r *Reader) Varlong30(proto, least int) (int64, error) {
	if proto < 30 {
		return r.Long()
	}
	return r.Varlong(least)
}

// VString reads a string of at most most bytes (read_vstring).
func (r *Reader) VString(most int) ([]byte, error) {
	first, err := r.Byte()
	n := int(first)
	if err == nil && n&0x80 != 0 {
		first, err = r.Byte()
		n = n&0x7f<<8 | int(first)
	}
	if err != nil {
		return nil, err
	}
	return r.Bytes(n, most)
}

// Bytes reads n bytes, if there may be so many.
func (r *Reader) Bytes(n, most int) ([]byte, error) {
	if n < 0 || n > most {
		return nil, Errorf("a string of %d bytes where %d are the most", n, most)
	}
	p := make([]byte, n)
	return p, r.Full(p)
}

// Index reads a file number, Done, ListEnd or DeleteStats (read_ndx).
func (r *Reader) Index(proto int) (int32, error) {
	if proto < 30 {
		return r.Int()
	}
	first, err := r.Byte()
	if err != nil || first == 0 {
		return Done, err
	}
	negative := first == 0xff
	if negative {
		if first, err = r.Byte(); err != nil {
			return 0, err
		}
	}
	last := &r.index.positive
	if negative {
		last = &r.index.negative
	}
	n := *last + int32(first)
	if first == 0xfe {
		b, err := r.fixed(2)
		if err != nil {
			return 0, err
		}
		if b[0]&0x80 != 0 {
			high, low := int32(b[0]&0x7f), int32(b[1])
			if b, err = r.fixed(2); err != nil {
				return 0, err
			}
			n = low | int32(b[0])<<8 | int32(b[1])<<16 | high<<24
		} else {
			n = *last + int32(b[0])<<8 + int32(b[1])
		}
	}
	if n < 0 {
		return 0, Errorf("a file number out of range")
	}
	*last = n
	if negative {
		return -n, nil
	}
	return n, nil
}
