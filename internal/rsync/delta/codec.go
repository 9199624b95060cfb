package delta

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"vaultd/internal/rsync/wire"
)

// maxWindow bounds what a zstd stream may have its reader remember: rsync's highest level takes as much.
const maxWindow = 128 << 20

// Codec is how tokens are compressed.
type Codec struct {
	name  string
	level int
	proto int
}

// NewCodec makes what name says; "" and "none" is no compression. level 0 is the codec's own.
func NewCodec(name string, level, proto int) (Codec, error) {
	switch name {
	case "", "none", "zlib", "zlibx", "lz4", "zstd":
		return Codec{name, level, proto}, nil
	}
	return Codec{}, fmt.Errorf("compression %q is not known here", name)
}

// Reader returns a reader for a session; Writer a writer.
func (c Codec) Reader() (TokenReader, error) {
	switch c.name {
	case "zlib", "zlibx":
		return &flateReader{old: c.name == "zlib", repeats: c.proto < 31, out: make([]byte, 64<<10)}, nil
	case "lz4":
		return &lz4Reader{out: make([]byte, 64<<10)}, nil
	case "zstd":
		t := &zstdReader{out: make([]byte, 256<<10)}
		var err error
		t.z, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		return t, err
	}
	return &plainReader{}, nil
}

func (c Codec) Writer(w *wire.Writer) (TokenWriter, error) {
	switch c.name {
	case "zlib", "zlibx":
		t := &flateWriter{runs: runs{w: w}, old: c.name == "zlib"}
		level := c.level
		if level <= 0 || level > 9 {
			level = flate.DefaultCompression
		}
		var err error
		t.z, err = flate.NewWriter(&t.buf, level)
		return t, err
	case "lz4":
		return &lz4Writer{runs: runs{w: w}}, nil
	case "zstd":
		t := &zstdWriter{runs: runs{w: w}}
		level := c.level
		if level == 0 {
			level = 3
		}
		var err error
		t.z, err = zstd.NewWriter(&t.buf, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(level)), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		return t, err
	}
	return plainWriter{w}, nil
}

// chunks reads the compressed pieces between the numbers of blocks.
type chunks struct {
	numbers
	left int  // bytes of the piece under way
	flag byte // that was read and is none of data
	held bool // flag is one
}

// flagged returns the next flag, or -1 when a piece of data began.
func (c *chunks) flagged(r *wire.Reader) (int, error) {
	if c.held {
		c.held = false
		return int(c.flag), nil
	}
	f, err := r.Byte()
	if err != nil {
		return 0, err
	}
	if f&0xc0 != flagData {
		return int(f), nil
	}
	low, err := r.Byte()
	if err != nil {
		return 0, err
	}
	c.left = int(f&0x3f)<<8 | int(low)
	return -1, nil
}

// number is what follows a flag that is none of data.
func (c *chunks) number(r *wire.Reader, flag byte) ([]byte, int32, bool, error) {
	if flag == flagEnd {
		c.reset()
		return nil, 0, true, nil
	}
	i, err := c.read(r, flag)
	return nil, i, false, err
}

// lz4Reader: each piece is a block of its own.
type lz4Reader struct {
	chunks
	in  [maxData]byte
	out []byte
}

func (t *lz4Reader) see() io.Writer { return nil }

func (t *lz4Reader) next(r *wire.Reader) ([]byte, int32, bool, error) {
	if i, ok := t.following(); ok {
		return nil, i, false, nil
	}
	for {
		flag, err := t.flagged(r)
		if err != nil {
			return nil, 0, false, err
		}
		if flag >= 0 {
			return t.number(r, byte(flag))
		}
		p := t.in[:t.left]
		if err := r.Full(p); err != nil {
			return nil, 0, false, err
		}
		n, err := lz4.UncompressBlock(p, t.out)
		if err != nil {
			return nil, 0, false, wire.Errorf("compressed data: %v", err)
		}
		if n > 0 {
			return t.out[:n], 0, false, nil
		}
	}
}

type lz4Writer struct {
	runs
	z   lz4.Compressor
	out []byte
}

func (t *lz4Writer) Literal(p []byte) error {
	t.flush()
	for len(p) > 0 {
		n := min(len(p), maxData)
		for {
			if need := lz4.CompressBlockBound(n); len(t.out) < need {
				t.out = make([]byte, need)
			}
			k, err := t.z.CompressBlock(p[:n], t.out)
			if err != nil || k == 0 {
				return errors.Join(err, errors.New("compress with lz4: no result"))
			}
			if k <= maxData {
				if err := t.data(t.out[:k]); err != nil {
					return err
				}
				break
			}
			n /= 2
		}
		p = p[n:]
	}
	return nil
}

func (t *lz4Writer) Block(i int32, _ []byte) error {
	t.add(i)
	return nil
}

func (t *lz4Writer) End() error {
	t.end()
	return nil
}

// zstdReader: one stream over all files of a session; the sender flushes it before each number of a block.
type zstdReader struct {
	chunks
	r   *wire.Reader
	z   *zstd.Decoder
	on  bool
	out []byte
}

func (t *zstdReader) see() io.Writer { return nil }

// Read gives the decoder the pieces. It only asks in the middle of a block, where the sender can not have stopped.
func (t *zstdReader) Read(p []byte) (int, error) {
	for t.left == 0 {
		flag, err := t.flagged(t.r)
		if err != nil {
			return 0, err
		}
		if flag >= 0 {
			t.flag, t.held = byte(flag), true
			return 0, wire.Errorf("compressed data ends early")
		}
	}
	n, err := t.r.Read(p[:min(len(p), t.left)])
	t.left -= n
	return n, err
}

func (t *zstdReader) next(r *wire.Reader) ([]byte, int32, bool, error) {
	if i, ok := t.following(); ok {
		return nil, i, false, nil
	}
	t.r = r
	for {
		if t.left == 0 {
			flag, err := t.flagged(r)
			if err != nil {
				return nil, 0, false, err
			}
			if flag >= 0 {
				return t.number(r, byte(flag))
			}
		}
		if !t.on {
			if err := t.z.Reset(t); err != nil {
				return nil, 0, false, err
			}
			t.on = true
		}
		n, err := t.z.Read(t.out)
		if n > 0 {
			return t.out[:n], 0, false, nil
		}
		if err != nil {
			var bad *wire.Error
			if errors.As(err, &bad) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, 0, false, err
			}
			return nil, 0, false, wire.Errorf("compressed data: %v", err)
		}
	}
}

type zstdWriter struct {
	runs
	z       *zstd.Encoder
	buf     bytes.Buffer
	pending bool
}

func (t *zstdWriter) Literal(p []byte) error {
	t.runs.flush()
	if _, err := t.z.Write(p); err != nil {
		return err
	}
	t.pending = true
	return t.drain()
}

func (t *zstdWriter) drain() error {
	err := t.data(t.buf.Bytes())
	t.buf.Reset()
	return err
}

// settle ends a piece of literal data.
func (t *zstdWriter) settle() error {
	if !t.pending {
		return nil
	}
	t.pending = false
	if err := t.z.Flush(); err != nil {
		return err
	}
	return t.drain()
}

func (t *zstdWriter) Block(i int32, _ []byte) error {
	err := t.settle()
	t.add(i)
	return err
}

func (t *zstdWriter) End() error {
	err := t.settle()
	t.end()
	return err
}

// window is how far back deflate refers.
const window = 32 << 10

// history keeps the last bytes of a stream.
type history struct{ b []byte }

func (h *history) Write(p []byte) (int, error) {
	if len(p) >= window {
		h.b = append(h.b[:0], p[len(p)-window:]...)
		return len(p), nil
	}
	if len(h.b)+len(p) > 4*window {
		h.b = append(h.b[:0], h.b[len(h.b)-window:]...)
	}
	h.b = append(h.b, p...)
	return len(p), nil
}

func (h *history) last() []byte { return h.b[max(0, len(h.b)-window):] }

// flateReader: one deflate stream for each file, whose flushes lack their last 4 bytes. In the old form the bytes of
// blocks are part of what it may refer to. Each part between two flushes is read with what came before as its dictionary.
type flateReader struct {
	chunks
	r       *wire.Reader
	old     bool // zlib, and not zlibx
	repeats bool // before protocol 31, blocks over 64 KiB are remembered wrongly
	z       io.ReadCloser
	part    bool // a part is being read
	tail    int  // bytes of the flush's end that were given to z
	hist    history
	out     []byte
	seen    []byte // with repeats: the beginning of the block
	length  int64  // and its length
}

func (t *flateReader) see() io.Writer {
	if !t.old {
		return nil
	}
	return (*seeing)(t)
}

// seeing remembers the bytes of a block.
type seeing flateReader

// storedMost is the longest stored block of deflate.
const storedMost = 0xffff

func (s *seeing) Write(p []byte) (int, error) {
	if !s.repeats {
		return s.hist.Write(p)
	}
	if n := storedMost - len(s.seen); n > 0 {
		s.seen = append(s.seen, p[:min(n, len(p))]...)
	}
	s.length += int64(len(p))
	return len(p), nil
}

// saw ends a block. Before protocol 31 every piece of 65,535 bytes of it is remembered as the first one.
func (t *flateReader) saw() {
	for t.length > storedMost {
		t.hist.Write(t.seen)
		t.length -= storedMost
		if t.length > 2*storedMost { // only the end is remembered
			t.length -= (t.length/storedMost - 1) * storedMost
		}
	}
	t.hist.Write(t.seen[:t.length])
	t.seen, t.length = t.seen[:0], 0
}

// ReadByte gives the decoder the pieces, and the end of the flush behind the last one.
func (t *flateReader) ReadByte() (byte, error) {
	for t.left == 0 && t.tail == 0 {
		flag, err := t.flagged(t.r)
		if err != nil {
			return 0, err
		}
		if flag >= 0 {
			t.flag, t.held, t.tail = byte(flag), true, 1
		}
	}
	if t.left > 0 {
		t.left--
		return t.r.Byte()
	}
	if t.tail > 4 {
		return 0, io.EOF
	}
	t.tail++
	return [4]byte{0, 0, 0xff, 0xff}[t.tail-2], nil
}

func (t *flateReader) Read(p []byte) (int, error) {
	b, err := t.ReadByte()
	if err != nil || len(p) == 0 {
		return 0, err
	}
	p[0] = b
	return 1, nil
}

func (t *flateReader) next(r *wire.Reader) ([]byte, int32, bool, error) {
	t.saw()
	if i, ok := t.following(); ok {
		return nil, i, false, nil
	}
	t.r = r
	for {
		if !t.part {
			flag, err := t.flagged(r)
			if err != nil {
				return nil, 0, false, err
			}
			if flag >= 0 {
				if flag == flagEnd {
					t.hist.b = t.hist.b[:0]
				}
				return t.number(r, byte(flag))
			}
			t.begin()
		}
		n, err := t.z.Read(t.out)
		if n > 0 {
			t.hist.Write(t.out[:n])
			if err != nil && t.tail > 4 {
				t.part = false
			}
			return t.out[:n], 0, false, nil
		}
		if err == nil {
			continue
		}
		if t.tail <= 4 { // not behind a flush
			var bad *wire.Error
			if errors.As(err, &bad) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, 0, false, err
			}
			return nil, 0, false, wire.Errorf("compressed data: %v", err)
		}
		t.part = false
	}
}

// begin starts a part.
func (t *flateReader) begin() {
	t.part, t.tail = true, 0
	if t.z == nil {
		t.z = flate.NewReaderDict(t, t.hist.last())
		return
	}
	t.z.(flate.Resetter).Reset(t, t.hist.last())
}

// flateWriter writes such streams. In the old form it never refers to what is before a block: then it need not
// know what the other side remembers of it.
type flateWriter struct {
	runs
	old     bool
	z       *flate.Writer
	buf     bytes.Buffer
	pending bool
	stale   bool
}

func (t *flateWriter) Literal(p []byte) error {
	t.runs.flush()
	if t.stale {
		t.z.Reset(&t.buf)
		t.stale = false
	}
	if _, err := t.z.Write(p); err != nil {
		return err
	}
	t.pending = true
	if t.buf.Len() <= maxData { // the last 4 bytes may be the end of a flush
		return nil
	}
	return t.drain(0)
}

func (t *flateWriter) drain(but int) error {
	err := t.data(t.buf.Bytes()[:t.buf.Len()-but])
	t.buf.Reset()
	return err
}

func (t *flateWriter) settle() error {
	if !t.pending {
		return nil
	}
	t.pending = false
	if err := t.z.Flush(); err != nil {
		return err
	}
	return t.drain(4)
}

func (t *flateWriter) Block(i int32, _ []byte) error {
	err := t.settle()
	t.add(i)
	t.stale = t.stale || t.old
	return err
}

func (t *flateWriter) End() error {
	err := t.settle()
	t.end()
	t.stale = true
	return err
}
