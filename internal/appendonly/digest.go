package appendonly

import (
	"crypto/sha256"
	"hash"
	"io"
	"math"
	"sync"
	"time"

	"vaultd/internal/journal"
)

// patience is how long a write waits for the one before it, once in an upload: pkg/sftp's workers
// reorder by microseconds (on a busy machine by what the scheduler takes) requests that clients send
// in order; real gaps never close.
const patience = 250 * time.Millisecond

// digest computes the SHA-256 of an upload while its bytes arrive.
//
// It guarantees that result returns the hash of the staged bytes, or says that it does not know it;
// complete reads back what it is missing.
type digest struct {
	mu      sync.Mutex // guards all; held while hashing, so that the order is the offsets' order
	arrived *sync.Cond // next moved, or the patience of somebody ended
	sum     hash.Hash
	next    int64 // everything below is hashed
	broken  bool  // bytes below next changed: all has to be read again
	hasty   bool  // a wait ended in vain: the client really leaves gaps
	passed  int64 // the lowest offset of a write that was not hashed

	mark   int64 // an offset of interest, -1 if none
	atMark journal.Hash
	marked bool
}

// newDigest begins a digest that also remembers the hash of the first mark bytes (-1: of none).
func newDigest(mark int64) *digest {
	d := &digest{sum: sha256.New(), mark: mark, passed: math.MaxInt64}
	d.arrived = sync.NewCond(&d.mu)
	d.reach(0)
	return d
}

// write takes in p, which goes to off. It may wait for the writes below off.
func (d *digest) write(p []byte, off int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken || len(p) == 0 {
		return
	}
	d.await(off)
	switch {
	case d.broken:
	case off > d.next: // complete will read it
		d.passed = min(d.passed, off)
	case off < d.next, off+int64(len(p)) > d.passed:
		// Of two writes of the same bytes, under way together, the other may be the later one on the disk.
		d.broken = true
		d.arrived.Broadcast()
	default:
		d.take(p)
		d.arrived.Broadcast()
	}
}

// cut says that what was written above n bytes is forgotten.
func (d *digest) cut(n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = d.broken || d.next > n
	d.passed = math.MaxInt64
}

// take hashes the bytes from next on.
func (d *digest) take(p []byte) {
	if d.mark > d.next && d.mark < d.next+int64(len(p)) {
		cut := d.mark - d.next
		d.sum.Write(p[:cut])
		d.reach(d.mark)
		p = p[cut:]
	}
	d.sum.Write(p)
	d.reach(d.next + int64(len(p)))
}

// Write is take, for complete.
func (d *digest) Write(p []byte) (int, error) {
	d.take(p)
	return len(p), nil
}

// complete returns the hash of the first size bytes of r, reading what was not hashed on the way. No
// write is under way any more.
func (d *digest) complete(r io.ReaderAt, size int64) (journal.Hash, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken || d.next > size {
		return hashContent(r, size)
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{d}, io.NewSectionReader(r, d.next, size-d.next), make([]byte, 256<<10)); err != nil {
		d.broken = true
		return journal.Hash{}, err
	}
	return current(d.sum), nil
}

// await returns when next has come to off, or after patience.
func (d *digest) await(off int64) {
	if off <= d.next || d.hasty {
		return
	}
	deadline := time.Now().Add(patience)
	timer := time.AfterFunc(patience, d.arrived.Broadcast)
	defer timer.Stop()
	for off > d.next && !d.broken && !d.hasty {
		if !time.Now().Before(deadline) {
			d.hasty = true
			return
		}
		d.arrived.Wait()
	}
}

func (d *digest) reach(next int64) {
	d.next = next
	if next == d.mark {
		d.atMark, d.marked = current(d.sum), true
	}
}

// spoil says that hashed bytes changed, or that bytes were written without the digest.
func (d *digest) spoil() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.broken = true
	d.arrived.Broadcast()
}

// result returns the hash of the whole, if exactly size bytes were hashed.
func (d *digest) result(size int64) (journal.Hash, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.broken || d.next != size {
		return journal.Hash{}, false
	}
	return current(d.sum), true
}

// prefix returns the hash of the first mark bytes.
func (d *digest) prefix() (journal.Hash, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.atMark, d.marked && !d.broken
}

// current returns the hash so far and leaves sum as it is.
func current(sum hash.Hash) journal.Hash {
	return journal.Hash(sum.Sum(nil))
}

// hashContent reads n bytes of r from the start.
func hashContent(r io.ReaderAt, n int64) (journal.Hash, error) {
	h := sha256.New()
	buf := make([]byte, 256<<10)
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, n), buf); err != nil {
		return journal.Hash{}, err
	}
	return current(h), nil
}
