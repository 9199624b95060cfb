package quota

import (
	"fmt"
	"sync"
	"syscall"
	"time"

	"vaultd/internal/appendonly"
)

// Floor keeps some of a disk free, for the journals, for removals and for the operator. One Floor is
// shared by all tenants of the disk.
//
// BUG(vaultd): what was written before the last look and is not yet in statfs(2)'s numbers (on ZFS up to
// a transaction group, about 5 s) can pass below the floor: choose MinBytes of more than 10 s of writes.
type Floor struct {
	// MinBytes and MinInodes stay free; Set changes them while the Floor is used. Inodes are not looked at where the file system has no count.
	MinBytes, MinInodes uint64
	// Space says what is free. nil: what the volume says that wants to write, which is right unless
	// volumes have quotas of their own below them (a ZFS dataset's refquota).
	Space func() (appendonly.Space, error)
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	mu            sync.Mutex // guards what follows; held through a statfs
	seen          time.Time
	last          appendonly.Space
	bytes, inodes uint64 // allowed since
}

// floorEvery is how old what Floor knows of the disk may be.
const floorEvery = time.Second

// FullError refuses because the disk itself is nearly full. It is ENOSPC.
type FullError struct{ Free, Min uint64 }

// Error is fit for clients and tells no numbers of the machine.
func (*FullError) Error() string {
	return "no space left on the server: it takes nothing more until its operator makes room"
}

// Is makes errors.Is(err, syscall.ENOSPC) true.
func (*FullError) Is(target error) bool { return target == syscall.ENOSPC }

// minimum is what is kept free; nil keeps nothing.
func (f *Floor) minimum() (bytes, inodes uint64) {
	if f == nil {
		return 0, 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.MinBytes, f.MinInodes
}

// take allows bytes and inodes more, or fails with *FullError. It counts bytes of data and not lengths:
// a sparse file takes nothing.
func (f *Floor) take(space func() (appendonly.Space, error), bytes, inodes uint64) error {
	if f == nil || bytes == 0 && inodes == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now
	if f.Now != nil {
		now = f.Now
	}
	// A clock that was set back is as good a reason to look again as one second.
	if age := now().Sub(f.seen); f.seen.IsZero() || age >= floorEvery || age < 0 {
		if f.Space != nil {
			space = f.Space
		}
		s, err := space()
		if err != nil {
			return fmt.Errorf("look at the disk: %w", err)
		}
		f.seen, f.last, f.bytes, f.inodes = now(), s, 0, 0
	}
	if free := minus(f.last.Free, f.bytes); bytes > 0 && minus(free, bytes) < f.MinBytes {
		return &FullError{Free: free, Min: f.MinBytes}
	}
	if free := minus(f.last.FreeInodes, f.inodes); inodes > 0 && f.last.TotalInodes > 0 && minus(free, inodes) < f.MinInodes {
		return &FullError{Free: free, Min: f.MinInodes}
	}
	f.bytes += bytes
	f.inodes += inodes
	return nil
}

func minus(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

// Set changes what stays free, from the next write on.
func (f *Floor) Set(bytes, inodes uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.MinBytes, f.MinInodes = bytes, inodes
	f.seen = time.Time{} // what was allowed went by the old ones
}
