package store

import (
	"errors"

	"vaultd/internal/journal"
)

// UnavailableError says that the storage of a tenant is not there, or does not answer. Its text is fit for clients. What was acknowledged is on it.
type UnavailableError struct {
	Why  string // for the log
	Text string // for clients; "": that it is not available, and to try again later
}

func (e *UnavailableError) Error() string {
	if e.Text != "" {
		return e.Text
	}
	return "storage is not available; try again later"
}

// SetFloor changes what the file system keeps free.
func (s *Store) SetFloor(bytes, inodes uint64) {
	s.keep.Lock()
	defer s.keep.Unlock()
	s.keep.bytes, s.keep.inodes = bytes, inodes
	s.floor.Set(max(bytes, s.keep.reserve), inodes)
}

// SetReserve changes what the pool keeps free: the floor is the larger of the two.
func (s *Store) SetReserve(bytes uint64) {
	s.keep.Lock()
	defer s.keep.Unlock()
	if s.keep.reserve != bytes {
		s.keep.reserve = bytes
		s.floor.Set(max(s.keep.bytes, bytes), s.keep.inodes)
	}
}

// available says why a tenant's storage can not be used.
func (s *Store) available(id string) error {
	if s.cfg.Available == nil {
		return nil
	}
	return s.cfg.Available(id)
}

// Failed reports whether a vault that is open takes nothing more because its storage failed: opened again, with its whole recovery, it may be
// well. One whose journal is damaged is not meant: that is for somebody to look at.
func (s *Store) Failed() bool {
	for _, sl := range s.openSlots() {
		if !sl.mu.TryLock() {
			continue // it is being opened or closed
		}
		v := sl.vault
		sl.mu.Unlock()
		if v == nil {
			continue
		}
		if err := v.Err(); err != nil && !errors.Is(err, journal.ErrCorrupt) {
			return true
		}
	}
	return false
}
