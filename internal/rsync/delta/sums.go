package delta

import (
	"encoding/binary"
	"io"
	"math/bits"

	"vaultd/internal/rsync/wire"
)

// Head says how a file was cut into blocks. The zero Head is that of a file that is not there.
type Head struct {
	Count        int32 // of blocks
	BlockLength  int32 // bytes
	StrongLength int32 // bytes of each block's strong sum
	Remainder    int32 // bytes of the last block, if it is shorter; else 0
}

const (
	leastBlock    = 700
	mostBlock     = 1 << 17
	mostBlockPre  = 1 << 29 // before protocol 30
	bias          = 10
	leastStrong   = 2
	maxSendBlocks = 1 << 24 // of a file that is sent: sums of more are refused, at 20 bytes each
)

// ReadHead reads a head.
func ReadHead(r *wire.Reader, proto int, c *Checksums) (Head, error) {
	var h Head
	for _, to := range []*int32{&h.Count, &h.BlockLength, &h.StrongLength, &h.Remainder} {
		n, err := r.Int()
		if err != nil {
			return h, err
		}
		*to = n
	}
	most := int32(mostBlock)
	if proto < 30 {
		most = mostBlockPre
	}
	if h.Count < 0 || h.BlockLength < 0 || h.BlockLength > most || h.Count > 0 && h.BlockLength == 0 ||
		h.StrongLength < 0 || int(h.StrongLength) > lengths[c.transfer] || h.Remainder < 0 || h.Remainder > h.BlockLength {
		return h, wire.Errorf("block sums of %d blocks of %d bytes, rest %d, sums of %d bytes", h.Count, h.BlockLength, h.Remainder, h.StrongLength)
	}
	return h, nil
}

// Write writes the head.
func (h Head) Write(w *wire.Writer) {
	for _, n := range []int32{h.Count, h.BlockLength, h.StrongLength, h.Remainder} {
		w.Int(n)
	}
}

// Length is how many bytes the blocks are.
func (h Head) Length() int64 {
	n := int64(h.Count) * int64(h.BlockLength)
	if h.Count > 0 && h.Remainder > 0 { // no blocks have no last one, whatever the other side says
		n -= int64(h.BlockLength - h.Remainder)
	}
	return n
}

// Block is where block i begins and how long it is.
func (h Head) Block(i int32) (off, n int64) {
	n = int64(h.BlockLength)
	if i == h.Count-1 && h.Remainder > 0 {
		n = int64(h.Remainder)
	}
	return int64(i) * int64(h.BlockLength), n
}

// HeadFor cuts a file of size bytes as rsync does (sum_sizes_sqroot): into blocks of about its square root, with sums as
// long as it takes to tell them apart. block is what the user asked for, or 0.
func HeadFor(size int64, block int32, proto int, c *Checksums) Head {
	most := int32(mostBlock)
	if proto < 30 {
		most = mostBlockPre
	}
	h := Head{BlockLength: block}
	if block == 0 {
		h.BlockLength = leastBlock
		if size > leastBlock*leastBlock {
			h.BlockLength = rootOf(size, most)
		}
	}
	b := bias + 2*(bits.Len64(uint64(size))-1)
	if size == 0 {
		b = bias
	}
	for n := h.BlockLength >> 1; n > 0 && b > 0; n >>= 1 {
		b--
	}
	h.StrongLength = min(max(int32(b+1-32+7)/8, leastStrong), int32(c.StrongLength()))
	count := size / int64(h.BlockLength)
	h.Remainder = int32(size % int64(h.BlockLength))
	if h.Remainder > 0 {
		count++
	}
	if count > 1<<31-1 {
		return Head{}
	}
	h.Count = int32(count)
	return h
}

// rootOf is about the square root of size, a multiple of 8.
func rootOf(size int64, most int32) int32 {
	c := int32(1)
	for l := size >> 2; l > 0; l >>= 2 {
		if c <<= 1; c >= most {
			return most
		}
	}
	n := int32(0)
	for ; c >= 8; c >>= 1 {
		if n |= c; size < int64(n)*int64(n) {
			n &^= c
		}
	}
	return max(n, leastBlock)
}

// WriteBlocks writes the sums of r's blocks while reading it once.
func (c *Checksums) WriteBlocks(w *wire.Writer, r io.ReaderAt, h Head) error {
	per := max(1, (256<<10)/int(h.BlockLength))
	buf := make([]byte, per*int(h.BlockLength))
	var strong, out []byte
	off := int64(0)
	for left := h.Length(); left > 0; {
		p := buf[:min(int64(len(buf)), left)]
		if _, err := r.ReadAt(p, off); err != nil {
			return err
		}
		off, left = off+int64(len(p)), left-int64(len(p))
		out = out[:0]
		for len(p) > 0 {
			b := p[:min(len(p), int(h.BlockLength))]
			p = p[len(b):]
			strong = c.block(strong[:0], b)
			out = binary.LittleEndian.AppendUint32(out, weak(rolling(b)))
			out = append(out, strong[:h.StrongLength]...)
		}
		w.Write(out)
	}
	return nil
}

// Sums are the sums of a file that the other side has.
type Sums struct {
	Head
	weak   []uint32
	strong []byte
	first  []int32 // by the weak sum's hash: the number of a block, or -1
	next   []int32 // the next one with the same hash
	mask   uint32
}

// ReadSums reads a head and the sums behind it. heads only: --append, where no sums follow.
func ReadSums(r *wire.Reader, proto int, c *Checksums, heads bool) (*Sums, error) {
	h, err := ReadHead(r, proto, c)
	if err != nil {
		return nil, err
	}
	s := &Sums{Head: h}
	if heads || h.Count == 0 {
		return s, nil
	}
	if h.Count > maxSendBlocks {
		return nil, wire.Errorf("sums of %d blocks, %d are the most", h.Count, maxSendBlocks)
	}
	n := int(h.StrongLength)
	for range h.Count {
		v, err := r.Int()
		if err != nil {
			return nil, err
		}
		s.weak = append(s.weak, uint32(v))
		at := len(s.strong)
		s.strong = append(s.strong, make([]byte, n)...)
		if err := r.Full(s.strong[at:]); err != nil {
			return nil, err
		}
	}
	s.index()
	return s, nil
}

// index makes the table. Of equal sums the first block comes first.
func (s *Sums) index() {
	size := uint32(1) << max(10, bits.Len32(uint32(s.Count))+1)
	s.mask = size - 1
	s.first, s.next = make([]int32, size), make([]int32, s.Count)
	for i := range s.first {
		s.first[i] = -1
	}
	for i := s.Count - 1; i >= 0; i-- {
		at := spread(s.weak[i]) & s.mask
		s.next[i] = s.first[at]
		s.first[at] = i
	}
}

// spread mixes a weak sum's bits: its low half is a plain sum and has few values.
func spread(w uint32) uint32 { return (w * 0x9e3779b1) >> 7 }
