package delta

import (
	"bytes"
	"hash"
	"io"
)

// What a hostile list of sums can cost at each byte of a file: maxChain bounds how many blocks with one weak sum are looked at,
// maxSteps how many in one place of the table. Sums that no one chose are spread over it.
const (
	maxChain = 64
	maxSteps = 1024
)

// literalChunk is how much is sent at a time as rsync does.
const literalChunk = 32 << 10

// Matcher finds blocks in files.
type Matcher struct {
	c      *Checksums
	buf    []byte
	strong []byte
}

// NewMatcher uses the checksums of a session.
func NewMatcher(c *Checksums) *Matcher { return &Matcher{c: c} }

// Stats is what a transfer was made of, in bytes.
type Stats struct{ Literal, Matched int64 }

// match is the search in one file. data holds src from base on.
type match struct {
	*Matcher
	src     io.ReaderAt
	size    int64
	s       *Sums
	w       TokenWriter
	sum     hash.Hash
	base    int64
	data    []byte
	sent    int64 // up to where src was sent
	want    int32 // the block that comes next, if the file goes on like the other side's
	inplace bool
	stats   Stats
}

// Match writes src to w as literals and blocks of s, and its bytes to sum. appended: the other side has the first
// s.Length() bytes (--append; with verify they go to sum all the same). inplace: only blocks that the other side
// has not yet written over may be used.
func (m *Matcher) Match(w TokenWriter, src io.ReaderAt, size int64, s *Sums, sum hash.Hash, appended, verify, inplace bool) (Stats, error) {
	x := &match{Matcher: m, src: src, size: size, s: s, w: w, sum: sum, inplace: inplace}
	if err := x.whole(appended, verify); err != nil {
		return x.stats, err
	}
	return x.stats, w.End()
}

func (x *match) whole(appended, verify bool) error {
	if appended {
		had := min(x.s.Length(), x.size)
		if verify {
			if err := x.copy(0, had, false); err != nil {
				return err
			}
		}
		return x.copy(had, x.size, true)
	}
	if x.s.Count == 0 || x.size == 0 {
		return x.copy(0, x.size, true)
	}
	return x.search()
}

// copy sends src[from:to] as it is; without send it only goes to the checksum.
func (x *match) copy(from, to int64, send bool) error {
	buf := x.buffer(256 << 10)
	for from < to {
		p := buf[:min(int64(len(buf)), to-from)]
		if _, err := x.src.ReadAt(p, from); err != nil && err != io.EOF {
			return err
		}
		x.sum.Write(p)
		if send {
			if err := x.w.Literal(p); err != nil {
				return err
			}
			x.stats.Literal += int64(len(p))
		}
		from += int64(len(p))
	}
	return nil
}

func (m *Matcher) buffer(n int) []byte {
	if cap(m.buf) < n {
		m.buf = make([]byte, n)
	}
	return m.buf[:n]
}

// fill makes src[from:from+n] available, and drops what is before from. It returns fewer bytes at the end of src.
func (x *match) fill(from int64, n int) ([]byte, error) {
	if at := from - x.base; at >= 0 && at+int64(n) <= int64(len(x.data)) {
		return x.data[at : at+int64(n)], nil
	}
	keep := 0
	if at := from - x.base; at >= 0 && at < int64(len(x.data)) {
		keep = copy(x.buf, x.data[at:])
	}
	x.base = from
	most := min(int64(cap(x.buf)), x.size-from)
	x.data = x.buf[:most]
	if _, err := x.src.ReadAt(x.data[keep:], from+int64(keep)); err != nil && err != io.EOF {
		return nil, err
	}
	return x.data[:min(int64(n), most)], nil
}

// literal sends src from where was sent to off.
func (x *match) literal(off int64) error {
	for x.sent < off {
		p, err := x.fill(x.sent, int(min(off-x.sent, literalChunk)))
		if err != nil {
			return err
		}
		x.sum.Write(p)
		if err := x.w.Literal(p); err != nil {
			return err
		}
		x.stats.Literal += int64(len(p))
		x.sent += int64(len(p))
	}
	return nil
}

// search goes through src with a rolling sum over one block's length (match.c: hash_search).
func (x *match) search() error {
	block := int(x.s.BlockLength)
	x.buffer(4*block + 512<<10)
	_, last := x.s.Block(x.s.Count - 1)
	end := x.size - last // the last place where a block can begin
	for off := int64(0); off <= end; {
		if _, err := x.fill(x.sent, int(off-x.sent)+block+1); err != nil {
			return err
		}
		found, step, err := x.roll(off, end)
		if err != nil {
			return err
		}
		off += int64(step)
		if found >= 0 {
			n, err := x.matched(off, found)
			if err != nil {
				return err
			}
			off += n
		} else if off-x.sent >= int64(block+literalChunk) {
			if err := x.literal(off - int64(block)); err != nil {
				return err
			}
		}
	}
	return x.literal(x.size)
}

// roll looks for a block in src from off on. It returns the block and how far it is away;
// without one, how far was searched.
func (x *match) roll(off, end int64) (found int32, step int, err error) {
	block := int(x.s.BlockLength)
	at := off - x.base
	p := x.data[at:] // everything that is there: the longer the better
	k := min(block, len(p))
	s1, s2 := rolling(p[:k])
	most := int(min(end-off, int64(len(p)-1), 4*literalChunk))
	first, mask := x.s.first, x.s.mask
	for i := 0; ; i++ {
		w := weak(s1, s2)
		if j := first[spread(w)&mask]; j >= 0 {
			if f := x.check(j, w, p[i:i+k], off+int64(i)); f >= 0 {
				return f, i, nil
			}
		}
		if i >= most {
			return -1, i + 1, nil
		}
		out := uint32(int32(int8(p[i])))
		s1 -= out
		s2 -= uint32(k) * out
		if i+k < len(p) {
			s1 += uint32(int32(int8(p[i+k])))
			s2 += s1
			continue
		}
		if x.base+int64(len(x.data)) < x.size { // the window ends, the file does not
			return -1, i + 1, nil
		}
		k--
	}
}

// check compares p with block j and those that have the same weak sum. It returns the block that p is, or -1.
func (x *match) check(j int32, w uint32, p []byte, off int64) int32 {
	n := int(x.s.StrongLength)
	hashed := false
	for chain, step := 0, 0; j >= 0 && chain < maxChain && step < maxSteps; j, step = x.s.next[j], step+1 {
		if x.s.weak[j] != w {
			continue
		}
		chain++
		at, length := x.s.Block(j)
		if int(length) != len(p) || x.inplace && at < off {
			continue
		}
		if !hashed {
			x.strong, hashed = x.c.block(x.strong[:0], p), true
		}
		if !bytes.Equal(x.strong[:n], x.s.strong[int(j)*n:int(j+1)*n]) {
			continue
		}
		if k := x.want; k < x.s.Count && k != j && x.s.weak[k] == w && bytes.Equal(x.strong[:n], x.s.strong[int(k)*n:int(k+1)*n]) {
			if at, length := x.s.Block(k); int(length) == len(p) && !(x.inplace && at < off) {
				return k
			}
		}
		return j
	}
	return -1
}

// matched sends that src[off:] is block j.
func (x *match) matched(off int64, j int32) (int64, error) {
	if err := x.literal(off); err != nil {
		return 0, err
	}
	_, n := x.s.Block(j)
	p, err := x.fill(off, int(n))
	if err != nil {
		return 0, err
	}
	x.sum.Write(p)
	if err := x.w.Block(j, p); err != nil {
		return 0, err
	}
	x.sent = off + n
	x.want = j + 1
	x.stats.Matched += n
	return n, nil
}
