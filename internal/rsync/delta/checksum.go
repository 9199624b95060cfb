package delta

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/cespare/xxhash/v2"
	"github.com/zeebo/xxh3"
	//lint:ignore SA1019 rsync before protocol 30 has nothing else; nothing that we keep rests on it
	"golang.org/x/crypto/md4"
)

// ChecksumNames are the checksums that are offered, best first; CodecNames the compressions.
const (
	ChecksumNames = "xxh128 xxh3 xxh64 md5 md4 sha1"
	CodecNames    = "zstd lz4 zlibx zlib"
)

// Negotiate returns the first of theirs that is among ours: the client's order counts. "" when there is none.
func Negotiate(ours, theirs string) string {
	have := strings.Fields(ours)
	for name := range strings.FieldsSeq(theirs) {
		for _, o := range have {
			if name == o {
				return name
			}
		}
	}
	return ""
}

// Checksums are the strong checksums of a session.
type Checksums struct {
	Seed           int32
	SeedFix        bool // the seed comes before the bytes in MD5
	transfer, list string
	implied        bool // MD4 as protocols before 30 have it: the seed before a file's bytes
}

// lengths of digests, in bytes.
var lengths = map[string]int{"xxh128": 16, "xxh3": 8, "xxh64": 8, "md5": 16, "md4": 16, "sha1": 20, "none": 1}

// NewChecksums makes what choice names: one checksum, or that of transfers and that of lists with a comma between;
// "" or auto is the protocol's own.
func NewChecksums(choice string, proto int) (Checksums, error) {
	c := Checksums{}
	transfer, list, two := strings.Cut(choice, ",")
	if !two {
		list = transfer
	}
	for _, p := range []struct {
		to   *string
		name string
	}{{&c.transfer, transfer}, {&c.list, list}} {
		switch p.name {
		case "", "auto":
			if *p.to = "md5"; proto < 30 {
				*p.to = "md4"
				c.implied = true
			}
		default:
			if lengths[p.name] == 0 {
				return c, fmt.Errorf("checksum %q is not known here", p.name)
			}
			*p.to = p.name
		}
	}
	return c, nil
}

// None says that transfers have no checksum: then there can be no blocks either.
func (c *Checksums) None() bool { return c.transfer == "none" }

// StrongLength is the largest length of a block's strong sum. ListLength is that of a checksum in a list.
func (c *Checksums) StrongLength() int { return min(16, lengths[c.transfer]) }
func (c *Checksums) ListLength() int   { return lengths[c.list] }

func newHash(name string) hash.Hash {
	switch name {
	case "xxh128":
		return xxh128{xxh3.New()}
	case "xxh3":
		return little64{xxh3.New()}
	case "xxh64":
		return little64{xxhash.New()}
	case "md5":
		return md5.New()
	case "md4":
		return md4.New()
	case "sha1":
		return sha1.New()
	}
	return nothing{}
}

// File returns a hash for the content of a file that is transferred.
func (c *Checksums) File() hash.Hash {
	h := newHash(c.transfer)
	if c.implied {
		h.Write(binary.LittleEndian.AppendUint32(nil, uint32(c.Seed)))
	}
	return h
}

// OfFile is the checksum of the first size bytes of r, as lists have it.
func (c *Checksums) OfFile(r io.ReaderAt, size int64) ([]byte, error) {
	h := newHash(c.list)
	_, err := io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, size), make([]byte, 256<<10))
	return h.Sum(nil), err
}

// block appends the strong sum of p to b.
func (c *Checksums) block(b, p []byte) []byte {
	seed := uint64(int64(c.Seed))
	switch c.transfer {
	case "xxh128":
		s := xxh3.Hash128Seed(p, seed)
		return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, s.Lo), s.Hi)
	case "xxh3":
		return binary.LittleEndian.AppendUint64(b, xxh3.HashSeed(p, seed))
	case "xxh64":
		d := xxhash.NewWithSeed(seed)
		d.Write(p)
		return binary.LittleEndian.AppendUint64(b, d.Sum64())
	}
	h := newHash(c.transfer)
	s := binary.LittleEndian.AppendUint32(nil, uint32(c.Seed))
	first := c.transfer == "sha1" || c.transfer == "md5" && c.SeedFix
	if c.Seed == 0 {
		s = nil
	}
	if first {
		h.Write(s)
	}
	h.Write(p)
	if !first {
		h.Write(s)
	}
	return h.Sum(b)
}

// xxh128 is XXH3 with 128 bits, the low half first, each little endian.
type xxh128 struct{ *xxh3.Hasher }

func (x xxh128) Size() int { return 16 }
func (x xxh128) Sum(b []byte) []byte {
	s := x.Sum128()
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, s.Lo), s.Hi)
}

// little64 is a 64-bit hash, little endian.
type little64 struct{ hash.Hash64 }

func (l little64) Sum(b []byte) []byte { return binary.LittleEndian.AppendUint64(b, l.Sum64()) }

// nothing is the checksum "none": one byte of zero.
type nothing struct{}

func (nothing) Write(p []byte) (int, error) { return len(p), nil }
func (nothing) Sum(b []byte) []byte         { return append(b, 0) }
func (nothing) Reset()                      {}
func (nothing) Size() int                   { return 1 }
func (nothing) BlockSize() int              { return 1 }

// rolling is the weak sum of p (get_checksum1): its bytes are signed.
func rolling(p []byte) (s1, s2 uint32) {
	// Sixteen at a time, in words of four lanes of 16 bits: a byte is taken as itself plus 128, so that none is negative, and the top lane of a product is the sum of
	// the lanes, each times its weight.
	const (
		even, ones, signs = 0x00ff00ff00ff00ff, 0x0001000100010001, 0x8080808080808080
		w8642             = 0x0008000600040002
		w7531             = 0x0007000500030001
	)
	for len(p) >= 16 {
		v := binary.LittleEndian.Uint64(p) ^ signs
		u := binary.LittleEndian.Uint64(p[8:]) ^ signs
		vlo, vhi := v&even, v>>8&even
		ulo, uhi := u&even, u>>8&even
		first := uint32((vlo + vhi) * ones >> 48)
		s2 += 16*s1 + 8*first + uint32((vlo*w8642+vhi*w7531+ulo*w8642+uhi*w7531)>>48) - 128*136
		s1 += first + uint32((ulo+uhi)*ones>>48) - 128*16
		p = p[16:]
	}
	for _, x := range p {
		s1 += uint32(int32(int8(x)))
		s2 += s1
	}
	return s1, s2
}

// weak is the weak sum as it is sent.
func weak(s1, s2 uint32) uint32 { return s1&0xffff | s2<<16 }
