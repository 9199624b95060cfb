package store

// CloseUnused closes a tenant's vault, as if it had been idle for long.
func (s *Store) CloseUnused(id string) error { return s.closeUnused(s.slot(id)) }
