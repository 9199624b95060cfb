package store

import "vaultd/internal/appendonly"

// CloseUnused closes a tenant's vault, as if it had been idle for long.
func (s *Store) CloseUnused(id string) error { return s.closeUnused(s.slot(id)) }

// Wrap puts something between a vault and its volume, from the next opening on.
func (s *Store) Wrap(f func(appendonly.Volume) appendonly.Volume) { s.wrap = f }
