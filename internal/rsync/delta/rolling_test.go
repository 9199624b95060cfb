package delta

import (
	"testing"

	"pgregory.net/rapid"
)

// TestRolling compares eight at a time with the definition (checksum.c: get_checksum1), byte by byte.
func TestRolling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.SliceOfN(rapid.OneOf(rapid.Byte(), rapid.SampledFrom([]byte{0, 0x7f, 0x80, 0xff})), 0, 4096).Draw(t, "p")
		var w1, w2 uint32
		for _, b := range p {
			w1 += uint32(int32(int8(b)))
			w2 += w1
		}
		if s1, s2 := rolling(p); s1 != w1 || s2 != w2 {
			t.Fatalf("%d, %d instead of %d, %d", s1, s2, w1, w2)
		}
	})
}

func BenchmarkRolling(b *testing.B) {
	p := make([]byte, 32<<10)
	b.SetBytes(int64(len(p)))
	for b.Loop() {
		rolling(p)
	}
}
