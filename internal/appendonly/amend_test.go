package appendonly_test

import (
	"testing"

	"vaultd/internal/appendonly"
)

// What a session made it may amend, as tools do. A later session's change of attributes is a version of its own in a
// versioned vault, so that what an instant between the two shows does not change afterwards.
func TestAmending(t *testing.T) {
	for _, mode := range modes {
		b := newBench(t, appendonly.Policy{Mode: mode})
		first := b.as("alice")
		ok(t, first.Mkdir("d", appendonly.NoMeta()))
		ok(t, put(first, "d/f", "data"))
		set := func(f *appendonly.FS, at int64) {
			t.Helper()
			m := appendonly.NoMeta()
			m.MTime = appendonly.Unix(at, 0)
			for _, p := range []string{"d", "d/f"} {
				ok(t, f.SetMeta(p, m, false))
			}
		}
		count := func(want int) {
			t.Helper()
			for _, p := range []string{"d", "d/f"} {
				if vs, err := first.Versions(p); err != nil || len(vs) != want {
					t.Errorf("%s: %s has %d versions, %v; want %d", mode, p, len(vs), err, want)
				}
			}
		}
		set(first, 1)
		set(first, 2)
		count(1)
		more := 1
		if mode == appendonly.Versioned {
			more = 2
		}
		second := b.as("alice")
		set(second, 3)
		count(more)
		set(second, 4)
		count(more)
		if mode == appendonly.Versioned {
			vs, err := first.Versions("d/f")
			ok(t, err)
			if vs[1].MTime != appendonly.Unix(2, 0) || vs[0].MTime != appendonly.Unix(4, 0) {
				t.Errorf("the versions' times are %v and %v", vs[1].MTime, vs[0].MTime)
			}
		}
	}
}
