package appendonly

import (
	"crypto/sha256"
	"hash"
	"io"
	"sync"
	"time"

	"vaultd/internal/journal"
)

// patience is how long a write waits for the one before it. pkg/sftp's workers reorder requests that
// clients send in order by microseconds; real gaps never close.
const patience = 20 * time.Millisecond

// digest computes the SHA-256 of an upload while its bytes arrive.
//
// It guarantees that sum returns the hash of the staged bytes, or says that it does not know it. It
// does not read anything back: who needs the hash of an upload with gaps uses hashContent.
type digest struct {
	mu      sync.Mutex // guards all; held while hashing, so that the order is the offsets' order
	arrived *sync.Cond // next moved, or the patience of somebody ended
	sum     hash.Hash
	next    int64 // everything below is hashed
	broken  bool  // bytes below next changed, or some above were never hashed
	hasty   bool  // a wait ended in vain: the client really leaves gaps

	mark   int64 // an offset of interest, -1 if none
	atMark journal.Hash
	marked bool
}

// newDigest begins a digest that also remembers the hash of the first mark bytes (-1: of none).
func newDigest(mark int64) *digest {
	d := &digest{sum: sha256.New(), mark: mark}
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
	if off != d.next || d.broken {
		d.broken = true
		return
	}
	if d.mark > d.next && d.mark < d.next+int64(len(p)) {
		cut := d.mark - d.next
		d.sum.Write(p[:cut])
		d.reach(d.mark)
		p = p[cut:]
	}
	d.sum.Write(p)
	d.reach(d.next + int64(len(p)))
	d.arrived.Broadcast()
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
