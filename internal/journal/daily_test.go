package journal_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/journal"
)

// What keys added today is the same from the index that was there, from one that was opened again, and from one made anew.
func TestDaily(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		now := time.Date(2026, 11, 24, 23, 0, 0, 0, time.UTC)
		open := func(name string) *journal.Index {
			x, err := journal.OpenIndex(filepath.Join(dir, name))
			if err != nil {
				rt.Fatal(err)
			}
			return x
		}
		name := fmt.Sprint(rapid.Uint64().Draw(rt, "name")) + ".db"
		x := open(name)
		defer func() { x.Close() }()
		var records []*journal.Record
		want := map[string]journal.Added{}
		day := now.Unix() / 86400
		for i := range rapid.IntRange(1, 60).Draw(rt, "steps") {
			now = now.Add(rapid.SampledFrom([]time.Duration{time.Second, time.Hour, 20 * time.Hour}).Draw(rt, "pass"))
			if d := now.Unix() / 86400; d > day {
				day = d
				clear(want)
			}
			key := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "key")
			size := rapid.SampledFrom([]int64{0, 1, 4096, 10_000}).Draw(rt, "size")
			r := &journal.Record{Op: journal.OpCreate, Kind: journal.KindFile, Path: fmt.Sprint(i), Key: key, Size: size, ID: journal.NewID(), Meta: journal.NoMeta(),
				Seq: journal.Seq(i + 1), Time: now, Chain: journal.Hash{byte(i), 1}}
			if err := x.Replay(r); err != nil {
				rt.Fatal(err)
			}
			records = append(records, r)
			want[key] = journal.Added{Bytes: want[key].Bytes + max(size, 4096), Records: want[key].Records + 1}
		}
		check := func(what string, x *journal.Index) {
			for _, key := range []string{"a", "b", "nobody"} {
				if got := x.Added(key, now); got != want[key] {
					rt.Fatalf("%s: %s added %+v, want %+v", what, key, got, want[key])
				}
			}
		}
		check("as it is", x)
		x.Freeze()
		if err := x.Flush(); err != nil {
			rt.Fatal(err)
		}
		if err := x.Close(); err != nil {
			rt.Fatal(err)
		}
		x = open(name)
		check("opened again", x)
		anew := open("anew" + fmt.Sprint(rapid.Uint64().Draw(rt, "anew")) + ".db")
		defer anew.Close()
		for _, r := range records {
			if err := anew.Replay(r); err != nil {
				rt.Fatal(err)
			}
		}
		check("made anew", anew)
		if got := x.Added("a", now.Add(24*time.Hour)); got != (journal.Added{}) {
			rt.Fatalf("on the next day: %+v", got)
		}
	})
}
