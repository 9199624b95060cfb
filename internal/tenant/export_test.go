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

// BreakForTest has each write of the state call f in its middle, and fail with what that returns; nil ends that.
func (s *State) BreakForTest(f func() error) {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	s.broken = f
}
