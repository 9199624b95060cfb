package appendonly

import "slices"

// extents are the ranges of an upload that were written, sorted, apart from each other.
type extents []extent

type extent struct{ from, to int64 } // [from, to)

// maxExtents bounds what a client that writes single bytes can make the server remember.
const maxExtents = 4096

// add notes that [from, to) was written. It reports false when there are too many ranges to go on.
func (e *extents) add(from, to int64) bool {
	if from >= to {
		return true
	}
	s := *e
	if n := len(s); n > 0 && from >= s[n-1].from { // nearly every write
		if from <= s[n-1].to {
			s[n-1].to = max(s[n-1].to, to)
			return true
		}
		*e = append(s, extent{from, to})
		return len(*e) <= maxExtents
	}
	i, _ := slices.BinarySearchFunc(s, from, func(x extent, v int64) int {
		if x.to < v {
			return -1
		}
		return 1
	})
	j := i
	for j < len(s) && s[j].from <= to {
		from, to = min(from, s[j].from), max(to, s[j].to)
		j++
	}
	*e = slices.Replace(s, i, j, extent{from, to})
	return len(*e) <= maxExtents
}

// meets reports whether some of [from, to) was written before.
func (e extents) meets(from, to int64) bool {
	if n := len(e); n == 0 || from >= e[n-1].to || from >= to { // nearly every write
		return false
	}
	i, _ := slices.BinarySearchFunc(e, from, func(x extent, v int64) int {
		if x.to <= v {
			return -1
		}
		return 1
	})
	return i < len(e) && e[i].from < to
}

// clip forgets what is at or above size.
func (e *extents) clip(size int64) {
	s := *e
	for len(s) > 0 && s[len(s)-1].from >= size {
		s = s[:len(s)-1]
	}
	if n := len(s); n > 0 {
		s[n-1].to = min(s[n-1].to, size)
	}
	*e = s
}

// gaps returns the ranges of [0, size) that were not written.
func (e extents) gaps(size int64) []extent {
	var out []extent
	at := int64(0)
	for _, x := range e {
		if x.from >= size {
			break
		}
		if x.from > at {
			out = append(out, extent{at, x.from})
		}
		at = x.to
	}
	if at < size {
		out = append(out, extent{at, size})
	}
	return out
}
