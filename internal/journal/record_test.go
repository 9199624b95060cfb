package journal_test

import (
	"bytes"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"vaultd/internal/journal"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// anyBytes draws strings of any bytes but NUL, with those that formats stumble over among them.
func anyBytes(max int) *rapid.Generator[string] {
	odd := rapid.SampledFrom([]string{"", "a", "\xff", "\xed\xa0\x80", "\n", "\"", "\\", "<&>", "\u2028", "\ufffd", "ü", "\x7f",
		`","chain":"`, strings.Repeat("x", 255)})
	return rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "odd") {
			return odd.Draw(t, "bytes") + odd.Draw(t, "more")
		}
		return string(rapid.SliceOfN(rapid.ByteRange(1, 255), 0, max).Draw(t, "bytes"))
	})
}

func anyTime() *rapid.Generator[journal.Time] {
	return rapid.Custom(func(t *rapid.T) journal.Time {
		if rapid.Bool().Draw(t, "unset") {
			return journal.Time{}
		}
		sec := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, -1, 1, -62135596801, 9223372037, 253402300800,
			math.MinInt64, math.MaxInt64})).Draw(t, "sec")
		return journal.Unix(sec, rapid.OneOf(rapid.Just(uint32(0)), rapid.Uint32Range(0, 999_999_999)).Draw(t, "nsec"))
	})
}

func anyMeta() *rapid.Generator[journal.Meta] {
	return rapid.Custom(func(t *rapid.T) journal.Meta {
		owner := rapid.OneOf(rapid.Just(int64(journal.Unset)), rapid.Int64Range(0, math.MaxUint32))
		m := journal.Meta{
			Mode: rapid.OneOf(rapid.Just(int32(journal.Unset)), rapid.Int32Range(0, 0o7777)).Draw(t, "mode"),
			UID:  owner.Draw(t, "uid"), GID: owner.Draw(t, "gid"),
			MTime: anyTime().Draw(t, "mtime"), ATime: anyTime().Draw(t, "atime"), RDev: rapid.Uint64().Draw(t, "rdev"),
		}
		x := rapid.MapOfN(anyBytes(20), rapid.SliceOfN(rapid.Byte(), 0, 20), 0, 3).Draw(t, "xattrs")
		if len(x) > 0 {
			m.XAttrs = x
		}
		return m
	})
}

var metaOps = []journal.Op{journal.OpCreate, journal.OpMkdir, journal.OpSymlink, journal.OpNode, journal.OpMeta}

var otherOps = []journal.Op{journal.OpSession, journal.OpSeal, journal.OpMove, journal.OpLink, journal.OpRemove, journal.OpHash,
	journal.OpSnapshot, journal.OpBarrier, journal.OpEpoch, journal.OpVoid, journal.OpPolicy, journal.OpSegment}

func anyRecord() *rapid.Generator[journal.Record] {
	return rapid.Custom(func(t *rapid.T) journal.Record {
		hash := rapid.Custom(func(t *rapid.T) (h journal.Hash) {
			if rapid.Bool().Draw(t, "known") {
				copy(h[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
			}
			return h
		})
		text := rapid.StringN(0, 20, 80)
		r := journal.Record{
			Seq:  journal.Seq(rapid.Uint64().Draw(t, "seq")),
			Time: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "time"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC(),
			Op:   rapid.SampledFrom(append(metaOps, otherOps...)).Draw(t, "op"),
			Path: anyBytes(300).Draw(t, "path"), To: anyBytes(300).Draw(t, "to"), Target: anyBytes(300).Draw(t, "target"),
			Kind: journal.Kind(rapid.IntRange(0, int(journal.KindBlockDev)).Draw(t, "kind")),
			Size: rapid.Int64Range(0, math.MaxInt64).Draw(t, "size"), SHA256: hash.Draw(t, "sha"), Prev: hash.Draw(t, "prev"),
			Fresh: rapid.Bool().Draw(t, "fresh"), Keep: rapid.Bool().Draw(t, "keep"), Managed: rapid.Bool().Draw(t, "managed"), Key: text.Draw(t, "key"),
			Session: text.Draw(t, "session"), Note: text.Draw(t, "note"), What: text.Draw(t, "what"),
			Format: rapid.IntRange(0, 9).Draw(t, "format"), Covers: journal.Seq(rapid.Uint64().Draw(t, "covers")),
			Meta: journal.NoMeta(),
		}
		copy(r.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		for _, op := range metaOps {
			if r.Op == op {
				r.Meta = anyMeta().Draw(t, "meta")
			}
		}
		return r
	})
}

var exact = cmp.Options{cmp.AllowUnexported(journal.Time{}), cmpopts.EquateEmpty()}

func TestRecordRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, prev := anyRecord().Draw(t, "record"), journal.Hash{1}
		b, err := journal.AppendLine([]byte("before"), &r, prev)
		if err != nil {
			t.Fatal(err)
		}
		b, found := bytes.CutPrefix(b, []byte("before"))
		if !found || bytes.Count(b, []byte("\n")) != 1 || b[len(b)-1] != '\n' {
			t.Fatalf("not one line: %q", b)
		}
		if r.Op == journal.OpSegment {
			prev = r.Prev // its own word, which the scanner compares
			again, err := journal.AppendLine(nil, &r, prev)
			if err != nil {
				t.Fatal(err)
			}
			b = again
		}
		got, err := journal.ParseLine(bytes.TrimSuffix(b, []byte("\n")), prev)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&r, got, exact); diff != "" {
			t.Fatal(diff)
		}
	})
}

// No byte of a line can be changed, dropped or added without the chain telling.
func TestLineForgery(t *testing.T) {
	r := journal.Record{Seq: 7, Time: time.Unix(1e9, 5).UTC(), Op: journal.OpCreate, Path: "d/f\xff", Kind: journal.KindFile,
		ID: journal.ID{1, 2}, Size: 9, SHA256: journal.Hash{9}, Meta: journal.NoMeta(), Key: "k"}
	prev := journal.Hash{3}
	line, err := journal.AppendLine(nil, &r, prev)
	ok(t, err)
	line = bytes.TrimSuffix(line, []byte("\n"))
	if _, err := journal.ParseLine(line, prev); err != nil {
		t.Fatal(err)
	}
	forged := func(what string, b []byte, prev journal.Hash) {
		t.Helper()
		if got, err := journal.ParseLine(b, prev); err == nil && !reflect.DeepEqual(got, &r) {
			t.Errorf("%s is accepted: %q", what, b)
		} else if err != nil && !errors.Is(err, journal.ErrCorrupt) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range line {
		edited := bytes.Clone(line)
		edited[i] ^= 1
		forged("edit", edited, prev)
		forged("cut", line[:i], prev)
		forged("removal", append(bytes.Clone(line[:i]), line[i+1:]...), prev)
		forged("insertion", append(append(bytes.Clone(line[:i]), ' '), line[i:]...), prev)
	}
	if _, err := journal.ParseLine(line, journal.Hash{4}); !errors.Is(err, journal.ErrCorrupt) {
		t.Errorf("a line after another one: %v", err)
	}
}

func TestEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := journal.Entry{
			Kind:  journal.Kind(rapid.IntRange(1, int(journal.KindBlockDev)).Draw(t, "kind")),
			Fresh: rapid.Bool().Draw(t, "fresh"), Linked: rapid.Bool().Draw(t, "linked"), Managed: rapid.Bool().Draw(t, "managed"),
			From:  journal.Seq(rapid.Uint64().Draw(t, "from")),
			Since: time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "since"), 7), Meta: anyMeta().Draw(t, "meta"),
			Key: rapid.String().Draw(t, "key"),
		}
		e.Received = e.Since.Add(-time.Duration(rapid.Int64Range(-1e15, 1e15).Draw(t, "age")))
		switch e.Kind {
		case journal.KindDir:
			e.Dir, e.Meta.RDev = journal.DirID(rapid.Uint64().Draw(t, "dir")), 0
		case journal.KindSymlink:
			e.Target, e.Meta.RDev = anyBytes(300).Draw(t, "target"), 0
			e.Size = int64(len(e.Target))
		default:
			e.Size = rapid.Int64Range(0, math.MaxInt64).Draw(t, "size")
			copy(e.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
			copy(e.SHA256[:], rapid.SliceOfN(rapid.Byte(), 0, 32).Draw(t, "sha"))
		}
		got, err := journal.DecodeEntry(e.Encode())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(&e, got, exact); diff != "" {
			t.Fatal(diff)
		}
	})
}
