package journal

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Reader reads a journal that is not open, or the closed part of one that is.
type Reader struct{ segs Segments }

// NewReader reads from segs.
func NewReader(segs Segments) *Reader { return &Reader{segs} }

// All calls f for every record with its line (valid during the call), from the first one on, the
// open segment's included, and checks the whole chain. A torn end is not an error; its length is returned.
func (r *Reader) All(f func(rec *Record, line []byte) error) (Head, int64, error) {
	head, err := r.closed(Head{}, f)
	if err != nil {
		return head, 0, err
	}
	file, err := r.segs.OpenSegment()
	if err != nil {
		return head, 0, err
	}
	defer file.Close()
	size, err := file.Size()
	if err != nil {
		return head, 0, err
	}
	sc := newScanner(io.NewSectionReader(file, 0, size), head, true)
	for {
		rec, line, err := sc.next()
		if err == io.EOF {
			return head, 0, nil
		}
		if err != nil && !isTorn(err) {
			return head, 0, err
		}
		if err != nil {
			return head, size - sc.offset, nil
		}
		head = Head{rec.Seq, rec.Chain}
		if err := f(rec, line); err != nil {
			return head, 0, err
		}
	}
}

// Closed calls f for every record after from that is in a closed segment, and returns where they end. Chain and segments are
// checked on the way; ErrCorrupt also where the journal ends before from: it was cut.
func (r *Reader) Closed(from Head, f func(rec *Record) error) (Head, error) {
	head, err := r.closed(from, func(rec *Record, _ []byte) error { return f(rec) })
	if err == nil && head.Seq < from.Seq {
		err = fmt.Errorf("%w: it ends at record %d, and had %d before", ErrCorrupt, head.Seq, from.Seq)
	}
	return head, err
}

// closed reads the closed segments that hold records after from, and returns where they end.
func (r *Reader) closed(from Head, f func(*Record, []byte) error) (Head, error) {
	names, err := r.segs.Segments()
	if err != nil {
		return Head{}, fmt.Errorf("list journal: %w", err)
	}
	// The segment that holds from is the last one whose first record is not after it.
	start := 0
	for i, n := range names {
		if n <= segmentName(from.Seq) {
			start = i
		}
	}
	head, known := Head{}, start == 0
	for _, n := range names[start:] {
		if head, err = r.segment(n, head, known, from, f); err != nil {
			return head, fmt.Errorf("read journal segment %s: %w", n, err)
		}
		known = true
	}
	return head, nil
}

// segment reads one closed segment whole: a torn end is damage there.
func (r *Reader) segment(name string, head Head, known bool, from Head, f func(*Record, []byte) error) (Head, error) {
	rc, err := r.segs.ReadSegment(name)
	if err != nil {
		return head, err
	}
	defer rc.Close()
	sc := newScanner(rc, head, known)
	defer sc.release()
	next, stop := sc.ahead()
	defer stop()
	for {
		p := next()
		rec, line := p.rec, p.line
		if p.err == io.EOF {
			return head, nil
		}
		if p.err != nil {
			return head, p.err
		}
		if rec.Op == OpSegment {
			if rec.Format > Format {
				return head, fmt.Errorf("written by a newer vaultd (format %d)", rec.Format)
			}
			if segmentName(rec.Seq) != name {
				return head, fmt.Errorf("%w: it begins with record %d", ErrCorrupt, rec.Seq)
			}
		}
		if rec.Seq == from.Seq && rec.Chain != from.Chain {
			return head, fmt.Errorf("%w: record %d is not the one the index saw", ErrCorrupt, rec.Seq)
		}
		head = Head{rec.Seq, rec.Chain}
		if rec.Seq <= from.Seq {
			continue
		}
		if err := f(rec, line); err != nil {
			return head, err
		}
	}
}

// scanner reads lines and checks that each follows from the one before it. Unless known, the first
// one's predecessor is taken from the segment's own word.
type scanner struct {
	r      *bufio.Reader
	head   Head
	known  bool
	offset int64 // bytes of whole, proven lines
}

// buffers are what lines are read into: a journal has a segment for each push, most of them small.
var buffers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 1<<20) }}

func newScanner(r io.Reader, head Head, known bool) *scanner {
	b := buffers.Get().(*bufio.Reader)
	b.Reset(r)
	return &scanner{r: b, head: head, known: known}
}

// release gives the buffer back; the scanner and the lines it returned are not used again.
func (s *scanner) release() {
	s.r.Reset(nil)
	buffers.Put(s.r)
}

// errForeign is a segment that is whole by its own word: the one before it is missing, or it is of another journal.
var errForeign = errors.New("segment does not follow from record")

// isTorn reports whether err, of a scanner, may be the end of what a crashed process wrote: not when the disk
// could not be read, nor when what stands there is whole and of another chain.
func isTorn(err error) bool { return errors.Is(err, ErrCorrupt) && !errors.Is(err, errForeign) }

func (s *scanner) next() (*Record, []byte, error) {
	b, err := s.r.ReadSlice('\n')
	if err == bufio.ErrBufferFull {
		return nil, nil, fmt.Errorf("%w: line is too long", ErrCorrupt)
	}
	if err == io.EOF && len(b) == 0 {
		return nil, nil, io.EOF
	}
	if err == io.EOF {
		return nil, nil, fmt.Errorf("%w: line without end", ErrCorrupt)
	}
	if err != nil { // it can not be read now: that says nothing of what is there
		return nil, nil, fmt.Errorf("read journal: %w", err)
	}
	rec, err := parseLine(bytes.TrimSuffix(b, []byte("\n")), s.head.Chain)
	if err != nil {
		return nil, nil, err
	}
	if s.known {
		if rec.Op == OpSegment && rec.Prev != s.head.Chain {
			return nil, nil, fmt.Errorf("%w: %w %d", ErrCorrupt, errForeign, s.head.Seq)
		}
		if rec.Seq != s.head.Seq+1 {
			return nil, nil, fmt.Errorf("%w: record %d after record %d", ErrCorrupt, rec.Seq, s.head.Seq)
		}
	} else if rec.Op != OpSegment {
		return nil, nil, fmt.Errorf("%w: segment begins with %q", ErrCorrupt, rec.Op)
	}
	s.known = true
	s.head = Head{rec.Seq, rec.Chain}
	s.offset += int64(len(b))
	return rec, b, nil
}

// parsed is a record with its line, or the error that ends the lines (io.EOF: their end).
type parsed struct {
	rec  *Record
	line []byte
	err  error
}

// aheadBatch is how many records are handed over at once.
const aheadBatch = 256

// ahead reads and checks lines in a goroutine of its own, beside whoever does something with them. next
// returns one after the other; after an error it must not be called again. stop ends the goroutine.
func (s *scanner) ahead() (next func() parsed, stop func()) {
	batches, quit := make(chan []parsed, 2), make(chan struct{})
	go func() {
		defer close(batches)
		for {
			batch := make([]parsed, 0, aheadBatch)
			var err error
			for err == nil && len(batch) < aheadBatch {
				var p parsed
				p.rec, p.line, err = s.next()
				p.line, p.err = bytes.Clone(p.line), err
				batch = append(batch, p)
			}
			select {
			case batches <- batch:
			case <-quit:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	var batch []parsed
	next = func() parsed {
		if len(batch) == 0 {
			batch = <-batches
		}
		p := batch[0]
		batch = batch[1:]
		return p
	}
	return next, func() {
		close(quit)
		for range batches { // until it has ended
		}
	}
}
