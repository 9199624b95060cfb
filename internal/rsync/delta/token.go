package delta

import (
	"io"

	"vaultd/internal/rsync/wire"
)

// Sink takes what a file is made of. sum is to be shown the bytes of blocks.
type Sink interface {
	Literal(p []byte) error
	Matched(off, n int64, sum io.Writer) error
}

// TokenReader reads the tokens of files, one after the other.
type TokenReader interface {
	// next returns literal bytes, valid until the next call, or the number of a block; end at the file's end.
	next(r *wire.Reader) (literal []byte, block int32, end bool, err error)
	// see is told the bytes of a block (the old zlib form has them in its history).
	see() io.Writer
}

// Apply reads one file's tokens and passes them to out; sum is shown all bytes.
func Apply(t TokenReader, r *wire.Reader, h Head, sum io.Writer, out Sink) error {
	blocks := sum
	if s := t.see(); s != nil {
		blocks = io.MultiWriter(sum, s)
	}
	for {
		literal, block, end, err := t.next(r)
		if err != nil || end {
			return err
		}
		if literal != nil {
			sum.Write(literal)
			if err := out.Literal(literal); err != nil {
				return err
			}
			continue
		}
		if block < 0 || block >= h.Count {
			return wire.Errorf("block %d of %d", block, h.Count)
		}
		off, n := h.Block(block)
		if err := out.Matched(off, n, blocks); err != nil {
			return err
		}
	}
}

// TokenWriter writes the tokens of files, one after the other.
type TokenWriter interface {
	Literal(p []byte) error
	Block(i int32, p []byte) error // p is what the block holds
	End() error
}

// plainReader reads tokens without compression: a length and bytes, or the number of a block, negative.
type plainReader struct{ left int }

func (t *plainReader) see() io.Writer { return nil }

func (t *plainReader) next(r *wire.Reader) ([]byte, int32, bool, error) {
	if t.left == 0 {
		n, err := r.Int()
		switch {
		case err != nil:
			return nil, 0, false, err
		case n == 0:
			return nil, 0, true, nil
		case n < 0:
			return nil, -(n + 1), false, nil
		}
		t.left = int(n)
	}
	p, err := r.Peek(t.left)
	if err != nil {
		return nil, 0, false, err
	}
	t.left -= len(p)
	return p, 0, false, r.Discard(int64(len(p)))
}

type plainWriter struct{ w *wire.Writer }

func (t plainWriter) Literal(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), literalChunk)
		t.w.Int(int32(n))
		if _, err := t.w.Write(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

func (t plainWriter) Block(i int32, _ []byte) error {
	t.w.Int(-(i + 1))
	return nil
}

func (t plainWriter) End() error {
	t.w.Int(0)
	return nil
}

// Flags of the compressed forms (token.c).
const (
	flagEnd      = 0
	flagLong     = 0x20
	flagRunLong  = 0x21
	flagData     = 0x40
	flagRelative = 0x80
	flagRun      = 0x40 // with flagRelative
	maxData      = 16383
)

// numbers reads the numbers of blocks in the compressed forms: runs, relative to the last one.
type numbers struct {
	last int32
	run  int32 // that still follow last
}

func (n *numbers) reset() { *n = numbers{} }

// following returns the next block of a run.
func (n *numbers) following() (int32, bool) {
	if n.run == 0 {
		return 0, false
	}
	n.run--
	n.last++
	return n.last, true
}

func (n *numbers) read(r *wire.Reader, flag byte) (int32, error) {
	run := flag&1 != 0
	if flag&flagRelative != 0 {
		n.last += int32(flag & 0x3f)
		run = flag&flagRun != 0
	} else {
		if flag != flagLong && flag != flagRunLong {
			return 0, wire.Errorf("token flag %#x", flag)
		}
		v, err := r.Int()
		if err != nil {
			return 0, err
		}
		n.last = v
	}
	if run {
		v, err := r.Short()
		if err != nil {
			return 0, err
		}
		if v == 0 {
			return 0, wire.Errorf("an empty run of blocks")
		}
		n.run = int32(v)
	}
	if n.last < 0 || n.last > 1<<31-2-n.run {
		return 0, wire.Errorf("a block's number is out of range")
	}
	return n.last, nil
}

// runs writes the numbers of blocks in the compressed forms.
type runs struct {
	w                  *wire.Writer
	start, last, ended int32 // of the run under way; where the one before ended
	open               bool
}

func (n *runs) add(i int32) {
	if n.open && i == n.last+1 && i < n.start+65536 {
		n.last = i
		return
	}
	n.flush()
	n.open, n.start, n.last = true, i, i
}

func (n *runs) flush() {
	if !n.open {
		return
	}
	count := n.last - n.start
	if r := n.start - n.ended; r >= 0 && r <= 63 {
		flag := byte(flagRelative)
		if count > 0 {
			flag |= flagRun
		}
		n.w.Byte(flag | byte(r))
	} else {
		flag := byte(flagLong)
		if count > 0 {
			flag = flagRunLong
		}
		n.w.Byte(flag)
		n.w.Int(n.start)
	}
	if count > 0 {
		n.w.Short(uint16(count))
	}
	n.ended, n.open = n.last, false
}

func (n *runs) end() {
	n.flush()
	n.w.Byte(flagEnd)
	n.ended = 0
}

// data writes compressed bytes.
func (n *runs) data(p []byte) error {
	for len(p) > 0 {
		k := min(len(p), maxData)
		n.w.Write([]byte{flagData | byte(k>>8), byte(k)})
		if _, err := n.w.Write(p[:k]); err != nil {
			return err
		}
		p = p[k:]
	}
	return nil
}
