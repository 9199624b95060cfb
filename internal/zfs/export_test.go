package zfs

import (
	"testing"
	"time"
)

// ParseStatus and the others are the parsers, for what only texts can show.
func ParseStatus(pool, out string) (*Pool, error) {
	p := &Pool{Name: pool}
	return p, p.parseStatus(command{tool: "zpool", args: []string{"status"}}, out)
}

func ParseDelegations(out string) (map[string][]Delegation, error) {
	return parseDelegations(command{tool: "zfs", args: []string{"allow"}}, out)
}

func ParseHolds(out string) ([]Hold, error) {
	return parseHolds(command{tool: "zfs", args: []string{"holds"}}, []byte(out))
}

// KindOf is what a text of the tool's is taken for.
func KindOf(text string) error { return kindOf(text) }

// SetNow gives a cache another clock.
func (k *Cache) SetNow(now func() time.Time) { k.now = now }

// MountSource finds a mount in a table that is given.
func MountSource(table string, id uint64) string { return mountSource([]byte(table), id) }

// UseMountedAt has somebody else say what is mounted.
func UseMountedAt(t testing.TB, f func(dir string) (string, error)) {
	was := mountedAt
	mountedAt = f
	t.Cleanup(func() { mountedAt = was })
}

// Taken reads what the program of TakeEach returned about snapshots of these names.
func Taken(out string, names ...string) error {
	return taken(command{tool: "zfs", args: []string{"program"}}, []byte(out), names)
}
