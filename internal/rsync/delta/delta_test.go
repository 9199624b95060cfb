package delta_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"pgregory.net/rapid"

	"vaultd/internal/rsync/delta"
	"vaultd/internal/rsync/wire"
)

// builder is a Sink that makes a file out of a basis.
type builder struct {
	basis []byte
	out   bytes.Buffer
}

func (b *builder) Literal(p []byte) error { b.out.Write(p); return nil }

func (b *builder) Matched(off, n int64, sum io.Writer) error {
	b.out.Write(b.basis[off : off+n])
	sum.Write(b.basis[off : off+n])
	return nil
}

// edited is data with a few changes: cut, inserted, moved.
func edited(t *rapid.T, old []byte) []byte {
	out := bytes.Clone(old)
	for range rapid.IntRange(0, 6).Draw(t, "edits") {
		at := rapid.IntRange(0, len(out)).Draw(t, "at")
		n := min(len(out)-at, rapid.IntRange(0, 5000).Draw(t, "n"))
		switch rapid.IntRange(0, 2).Draw(t, "edit") {
		case 0:
			out = append(out[:at:at], out[at+n:]...)
		case 1:
			ins := make([]byte, n)
			fill(ins, uint64(at))
			out = append(out[:at:at], append(ins, out[at:]...)...)
		case 2:
			out = append(bytes.Clone(out[at:]), out[:at]...)
		}
	}
	return out
}

func fill(p []byte, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	words := [][]byte{[]byte("lorem "), []byte("ipsum\n"), {0, 0, 0, 0}, []byte("dolor")}
	for i := 0; i < len(p); {
		if r.IntN(3) == 0 {
			p[i] = byte(r.Uint32())
			i++
		} else {
			i += copy(p[i:], words[r.IntN(len(words))])
		}
	}
}

var names = rapid.SampledFrom([]string{"xxh128", "xxh3", "xxh64", "md5", "md4", "sha1", ""})

// What Match says of a file makes the file again out of the basis, for every checksum and compression, in one
// session after the other.
func TestMatchApply(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		proto := rapid.SampledFrom([]int{29, 30, 31}).Draw(t, "proto")
		sums, err := delta.NewChecksums(names.Draw(t, "sum"), proto)
		ok(t, err)
		sums.Seed, sums.SeedFix = rapid.Int32().Draw(t, "seed"), rapid.Bool().Draw(t, "fix")
		codec, err := delta.NewCodec(rapid.SampledFrom([]string{"none", "zlib", "zlibx", "lz4", "zstd"}).Draw(t, "codec"), 0, proto)
		ok(t, err)
		tr, err := codec.Reader()
		ok(t, err)
		var pipe bytes.Buffer
		w := wire.NewWriter(&pipe, 4096)
		tw, err := codec.Writer(w)
		ok(t, err)
		r := wire.NewReader(&pipe, 300)
		m := delta.NewMatcher(&sums)
		for range rapid.IntRange(1, 3).Draw(t, "files") {
			old := make([]byte, rapid.SampledFrom([]int{0, 1, 700, 5000, 100_000, 600_000}).Draw(t, "size"))
			fill(old, 7)
			file := edited(t, old)
			block := int32(rapid.SampledFrom([]int{0, 0, 100, 70_000}).Draw(t, "block"))
			head := delta.HeadFor(int64(len(old)), block, proto, &sums)
			head.Write(w)
			ok(t, sums.WriteBlocks(w, bytes.NewReader(old), head))
			ok(t, w.Flush())
			s, err := delta.ReadSums(r, proto, &sums, false)
			ok(t, err)
			sent := sums.File()
			stats, err := m.Match(tw, bytes.NewReader(file), int64(len(file)), s, sent, false, false, false)
			ok(t, err)
			ok(t, w.Flush())
			got, b := sums.File(), builder{basis: old}
			ok(t, delta.Apply(tr, r, head, got, &b))
			if !bytes.Equal(b.out.Bytes(), file) {
				t.Fatalf("%d bytes came, %d were sent, or they differ", b.out.Len(), len(file))
			}
			if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) || stats.Literal+stats.Matched != int64(len(file)) {
				t.Fatalf("checksums differ, or %+v for %d bytes", stats, len(file))
			}
			if pipe.Len() != 0 {
				t.Fatalf("%d bytes left", pipe.Len())
			}
			if bytes.Equal(old, file) && stats.Literal != 0 {
				t.Fatalf("the same file: %+v", stats)
			}
		}
	})
}

func ok(t interface{ Fatal(...any) }, err error) {
	if err != nil {
		t.Fatal(err)
	}
}

// The sizes that rsync 3.5.0 chooses.
func TestHeadFor(t *testing.T) {
	md5, err := delta.NewChecksums("md5", 31)
	ok(t, err)
	for _, c := range []struct {
		size int64
		want delta.Head
	}{
		{0, delta.Head{0, 700, 2, 0}},
		{1, delta.Head{1, 700, 2, 1}},
		{1 << 20, delta.Head{1024, 1024, 2, 0}},
		{1 << 30, delta.Head{32768, 32768, 3, 0}},
		{100 << 30, delta.Head{819200, 131072, 5, 0}},
	} {
		if got := delta.HeadFor(c.size, 0, 31, &md5); got != c.want {
			t.Errorf("%d bytes: %+v, want %+v", c.size, got, c.want)
		}
	}
}

func FuzzTokens(f *testing.F) {
	f.Add(uint8(0), []byte{4, 0, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0})
	f.Add(uint8(1), []byte{0x45, 5, 1, 2, 3, 4, 5, 0x80, 0})
	f.Fuzz(func(t *testing.T, codec uint8, data []byte) {
		c, _ := delta.NewCodec([]string{"none", "zlib", "zlibx", "lz4", "zstd"}[codec%5], 0, 29+int(codec/5%3))
		tr, err := c.Reader()
		ok(t, err)
		b := builder{basis: make([]byte, 1<<20)}
		delta.Apply(tr, wire.NewReader(bytes.NewReader(data), 64), delta.Head{Count: 4, BlockLength: 1 << 17}, io.Discard, limited{&b})
	})
}

// FuzzSums reads any sums, and looks for their blocks in a file.
func FuzzSums(f *testing.F) {
	sums, _ := delta.NewChecksums("md5", 31)
	old := make([]byte, 5000)
	fill(old, 9)
	var pipe bytes.Buffer
	w := wire.NewWriter(&pipe, 1000)
	head := delta.HeadFor(int64(len(old)), 0, 31, &sums)
	head.Write(w)
	sums.WriteBlocks(w, bytes.NewReader(old), head)
	w.Flush()
	f.Add(pipe.Bytes(), uint8(31), uint8(0))
	f.Add([]byte{1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 'x', 0, 'x', 0, 1, 2}, uint8(29), uint8(1))
	codec, _ := delta.NewCodec("none", 0, 31)
	f.Fuzz(func(t *testing.T, data []byte, proto, how uint8) {
		proto = 29 + proto%4
		c, err := delta.NewChecksums([]string{"md5", "xxh128", "md4", "sha1"}[how>>4%4], int(proto))
		if err != nil {
			return
		}
		s, err := delta.ReadSums(wire.NewReader(bytes.NewReader(data), 64), int(proto), &c, how&1 != 0)
		if err != nil {
			return
		}
		var out bytes.Buffer
		wr := wire.NewWriter(&out, 64<<10)
		tw, err := codec.Writer(wr)
		ok(t, err)
		stats, err := delta.NewMatcher(&c).Match(tw, bytes.NewReader(old), int64(len(old)), s, c.File(), how&1 != 0, how&2 != 0, how&4 != 0)
		ok(t, err)
		if had := min(s.Length(), int64(len(old))); how&1 == 0 && stats.Literal+stats.Matched != int64(len(old)) || how&1 != 0 && stats.Literal != int64(len(old))-had {
			t.Errorf("%+v of %d bytes with %+v", stats, len(old), s.Head)
		}
	})
}

// Sums that were chosen to be equal, or to meet in one place of the table, cost no more than a bound at each byte of a file that
// was chosen to look there: without it this test takes minutes.
func TestHostileSumsAreBounded(t *testing.T) {
	c, err := delta.NewChecksums("md5", 31)
	ok(t, err)
	file := make([]byte, 200_000) // the weak sum of zeros is zero, everywhere
	for name, weak := range map[string]func(i uint32) uint32{
		"equal": func(uint32) uint32 { return 0 },
		"met":   func(i uint32) uint32 { return (i%63 + 1) << 26 * 0xe8b2f51 }, // the place takes the product's bits below these
	} {
		t.Run(name, func(t *testing.T) {
			var pipe bytes.Buffer
			w := wire.NewWriter(&pipe, 64<<10)
			head := delta.Head{Count: 200_000, BlockLength: 700, StrongLength: 2}
			head.Write(w)
			for i := range uint32(head.Count) {
				w.Int(int32(weak(i)))
				w.Write([]byte{byte(i), byte(i >> 8)})
			}
			w.Flush()
			s, err := delta.ReadSums(wire.NewReader(&pipe, 4096), 31, &c, false)
			ok(t, err)
			codec, _ := delta.NewCodec("none", 0, 31)
			tw, _ := codec.Writer(wire.NewWriter(io.Discard, 64<<10))
			stats, err := delta.NewMatcher(&c).Match(tw, bytes.NewReader(file), int64(len(file)), s, c.File(), false, false, false)
			ok(t, err)
			if stats.Literal+stats.Matched != int64(len(file)) {
				t.Errorf("%+v", stats)
			}
		})
	}
}

// limited keeps a fuzzer from making gigabytes.
type limited struct{ *builder }

func (l limited) Literal(p []byte) error {
	if l.out.Len() > 8<<20 {
		return io.ErrShortWrite
	}
	return l.builder.Literal(p)
}

func (l limited) Matched(off, n int64, sum io.Writer) error {
	if l.out.Len() > 8<<20 {
		return io.ErrShortWrite
	}
	return l.builder.Matched(off, n, sum)
}

func BenchmarkMatch(b *testing.B) {
	sums, _ := delta.NewChecksums("xxh128", 31)
	old := make([]byte, 64<<20)
	fill(old, 3)
	file := bytes.Clone(old)
	for i := 0; i < len(file); i += 100 * 8192 {
		fill(file[i:i+8192], uint64(i))
	}
	var pipe bytes.Buffer
	w := wire.NewWriter(&pipe, 64<<10)
	head := delta.HeadFor(int64(len(old)), 0, 31, &sums)
	head.Write(w)
	sums.WriteBlocks(w, bytes.NewReader(old), head)
	w.Flush()
	s, err := delta.ReadSums(wire.NewReader(&pipe, 4096), 31, &sums, false)
	ok(b, err)
	codec, _ := delta.NewCodec("none", 0, 31)
	tw, _ := codec.Writer(wire.NewWriter(io.Discard, 64<<10))
	m := delta.NewMatcher(&sums)
	b.SetBytes(int64(len(file)))
	var stats delta.Stats
	for b.Loop() {
		stats, err = m.Match(tw, bytes.NewReader(file), int64(len(file)), s, sums.File(), false, false, false)
		ok(b, err)
	}
	b.ReportMetric(float64(stats.Literal)/float64(len(file))*100, "%literal")
}

func BenchmarkWriteBlocks(b *testing.B) {
	sums, _ := delta.NewChecksums("xxh128", 31)
	old := make([]byte, 64<<20)
	w := wire.NewWriter(io.Discard, 64<<10)
	head := delta.HeadFor(int64(len(old)), 0, 31, &sums)
	b.SetBytes(int64(len(old)))
	for b.Loop() {
		sums.WriteBlocks(w, bytes.NewReader(old), head)
	}
}
