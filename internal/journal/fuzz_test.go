package journal_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// A line that is accepted is, byte for byte, one whose chain was computed over it.
func FuzzParseLine(f *testing.F) {
	for _, r := range sampleRecords() {
		line, err := journal.AppendLine(nil, r, journal.Hash{})
		ok(f, err)
		f.Add(bytes.TrimSuffix(line, []byte("\n")))
	}
	f.Add([]byte(`{"seq":1,"chain":"`))
	f.Add(bytes.Repeat([]byte("["), 300<<10))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := journal.ParseLine(b, journal.Hash{})
		if err != nil {
			if !errors.Is(err, journal.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		body := b[:len(b)-len(`,"chain":"`)-64-len(`"}`)]
		if prev := r.Prev; r.Op != journal.OpSegment && journal.Link(journal.Hash{}, body) != r.Chain ||
			r.Op == journal.OpSegment && journal.Link(prev, body) != r.Chain {
			t.Fatalf("accepted %q", b)
		}
		again, err := journal.AppendLine(nil, r, journal.Hash{}) // what was read can be written
		if err != nil || len(again) == 0 {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add((&journal.Entry{Kind: journal.KindFile, Since: time.Unix(1, 2), Meta: journal.Meta{XAttrs: map[string][]byte{"user.a": {1}}}}).Encode())
	f.Add((&journal.Entry{Kind: journal.KindDir, Dir: 7}).Encode())
	f.Add((&journal.Entry{Kind: journal.KindSymlink, Target: "x"}).Encode())
	f.Add([]byte{0x10, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := journal.DecodeEntry(b)
		if err == nil {
			if again, err := journal.DecodeEntry(e.Encode()); err != nil || !bytes.Equal(again.Encode(), e.Encode()) {
				t.Fatalf("%+v becomes %+v, %v", e, again, err)
			}
		}
	})
}

// Whatever stands in the open segment: opening never panics, keeps a prefix of the lines that are
// true, and can be appended to.
func FuzzOpen(f *testing.F) {
	whole := journalBytes(f, sampleRecords())
	f.Add(whole, 0, byte(0))
	f.Add(whole, len(whole)/2, byte('\n'))
	f.Add([]byte("\n\n\n"), 0, byte(0))
	f.Add([]byte(`{"seq":1,"op":"segment"}`+"\n"), 3, byte(1))
	f.Fuzz(func(t *testing.T, b []byte, at int, flip byte) {
		b = bytes.Clone(b)
		if at >= 0 && at < len(b) {
			b[at] ^= flip
		}
		m := volumetest.New(t)
		writeOpen(t, m, b)
		var seen []journal.Seq
		var lines int
		l, tail, err := journal.Open(journal.Config{Segments: m, Now: time.Now, Boot: "b"}, journal.Head{}, func(r *journal.Record) error {
			seen = append(seen, r.Seq)
			line, err := journal.AppendLine(nil, r, journal.Hash{})
			lines += len(line)
			return err
		})
		if err != nil {
			if !errors.Is(err, journal.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		defer l.Close()
		for i, s := range seen {
			if s != journal.Seq(i+1) {
				t.Fatalf("records %d", seen)
			}
		}
		if tail.Torn < 0 || tail.Torn > int64(len(b)) {
			t.Fatalf("torn %d of %d", tail.Torn, len(b))
		}
		if _, err := l.Append(&journal.Record{Op: journal.OpPolicy}); err != nil {
			t.Fatal(err)
		}
		head, torn, err := journal.NewReader(m).All(func(*journal.Record, []byte) error { return nil })
		if err != nil || torn != 0 || head != l.Head() {
			t.Fatalf("read %+v, torn %d, %v; want %+v", head, torn, err, l.Head())
		}
	})
}
