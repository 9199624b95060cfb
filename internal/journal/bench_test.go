package journal_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"vaultd/internal/journal"
)

// fill writes n files into directories of a thousand, in segments of 50,000 records.
func fill(tb testing.TB, n int) *files {
	s := &files{closed: map[string][]byte{}}
	l, _, err := journal.Open(journal.Config{Segments: s, Now: time.Now, Boot: "b"}, journal.Head{}, discard)
	ok(tb, err)
	dir := ""
	for i := range n {
		if i%1000 == 0 {
			dir = fmt.Sprintf("dir%04d", i/1000)
			_, err := l.Append(&journal.Record{Op: journal.OpMkdir, Path: dir, Meta: journal.NoMeta(), Key: "k1", Session: "abcdef"})
			ok(tb, err)
		}
		_, err := l.Append(&journal.Record{Op: journal.OpCreate, Path: fmt.Sprintf("%s/file-%06d.dat", dir, i), Kind: journal.KindFile,
			ID: journal.NewID(), Size: 4096, SHA256: journal.Hash{byte(i), byte(i >> 8), 3},
			Meta: journal.Meta{Mode: 0o644, UID: 0, GID: 0, MTime: journal.Unix(1_700_000_000, 5)}, Key: "k1", Session: "abcdef"})
		ok(tb, err)
		if i%50000 == 49999 {
			ok(tb, l.Rotate())
		}
	}
	return s
}

// BenchmarkRebuild makes an index of 200,000 files from the journal alone.
func BenchmarkRebuild(b *testing.B) {
	const n = 200_000
	s := fill(b, n)
	size := len(s.open)
	for _, seg := range s.closed {
		size += len(seg)
	}
	b.ReportMetric(float64(size)/n, "B/record")
	for i := 0; b.Loop(); i++ {
		path := filepath.Join(b.TempDir(), fmt.Sprint(i))
		x, err := journal.OpenIndex(path)
		ok(b, err)
		l, _, err := journal.Open(journal.Config{Segments: s, Now: time.Now, Boot: "b"}, journal.Head{}, x.ReplayBatched)
		ok(b, err)
		x.Freeze()
		ok(b, x.Flush())
		ok(b, l.Close())
		ok(b, x.Close())
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkVerify reads and checks the chain of 200,000 records.
func BenchmarkVerify(b *testing.B) {
	const n = 200_000
	s := fill(b, n)
	for b.Loop() {
		_, _, err := journal.NewReader(s).All(func(*journal.Record, []byte) error { return nil })
		ok(b, err)
	}
	b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkRecord appends a record and applies it, without the disk.
func BenchmarkRecord(b *testing.B) {
	s := &files{closed: map[string][]byte{}}
	x, err := journal.OpenIndex(filepath.Join(b.TempDir(), "index.db"))
	ok(b, err)
	defer x.Close()
	l, _, err := journal.Open(journal.Config{Segments: s, Now: time.Now, Boot: "b"}, journal.Head{}, discard)
	ok(b, err)
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("file-%06d.dat", i)
		r := &journal.Record{Op: journal.OpCreate, Path: name, Kind: journal.KindFile, ID: journal.NewID(), Size: 4096,
			SHA256: journal.Hash{byte(i), byte(i >> 8), 3}, Meta: journal.Meta{Mode: 0o644, UID: 0, GID: 0, MTime: journal.Unix(1_700_000_000, 5)},
			Key: "k1", Session: "abcdef"}
		own, err := l.Append(r)
		ok(b, err)
		for _, o := range own {
			ok(b, x.Apply(o, journal.Loc{}, journal.Loc{}))
		}
		ok(b, x.Apply(r, journal.Loc{Name: name}, journal.Loc{}))
		if x.Pending() > 4096 && x.Freeze() {
			ok(b, x.Flush())
		}
	}
}
