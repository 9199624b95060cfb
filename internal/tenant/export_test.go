package tenant

import "time"

// Coverage is measure's answer, for tests.
func Coverage(lines []string) (gap time.Duration, ticks int, err error) {
	c, err := measure(lines)
	return c.gap, c.ticks, err
}

// NewSnapshot builds a Snapshot without a file.
func NewSnapshot(tenants []Tenant, keys []Key) (*Snapshot, error) {
	return newSnapshot(1, tenants, keys)
}

// BreakForTest makes every write of the state fail with err, until it is called with nil.
func (s *State) BreakForTest(err error) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.broken = err
}
