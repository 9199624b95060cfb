package retention_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// said is a server that believes everything.
type said struct{}

func (said) Freed(context.Context, []journal.Freed, []journal.Seq) error { return nil }
func (said) Retire(context.Context, []retention.Name, string) (int, error) {
	return 0, nil
}

// history writes a journal in which each of n names got a content twice, and with files also the contents.
func history(b *testing.B, dir string, n int, files bool) {
	b.Helper()
	for _, d := range []string{"data", "chain"} {
		if err := volume.Create(filepath.Join(dir, d)); err != nil {
			b.Fatal(err)
		}
	}
	vol, err := volume.Open(filepath.Join(dir, "data"))
	if err != nil {
		b.Fatal(err)
	}
	defer vol.Close()
	log, _, err := journal.Open(journal.Config{Segments: vol, Now: time.Now, Boot: "b"}, journal.Head{}, func(*journal.Record) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	add := func(r *journal.Record) {
		r.Meta = journal.NoMeta()
		if _, err := log.Append(r); err != nil {
			b.Fatal(err)
		}
	}
	for round := range 2 {
		for i := range n {
			if i%1000 == 0 && round == 0 {
				add(&journal.Record{Op: journal.OpMkdir, Path: fmt.Sprintf("%04d", i/1000), Key: "k"})
			}
			r := &journal.Record{Op: journal.OpCreate, Kind: journal.KindFile, ID: journal.NewID(), Size: 1, Key: "k", Path: fmt.Sprintf("%04d/%03d", i/1000, i%1000)}
			if files && round == 0 {
				p := filepath.Join(dir, "data", "store", r.ID.Shard())
				if err := os.MkdirAll(p, 0o700); err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(p, r.ID.String()), []byte("x"), 0o600); err != nil {
					b.Fatal(err)
				}
			}
			add(r)
		}
	}
	if err := log.Rotate(); err != nil {
		b.Fatal(err)
	}
}

func expireOnce(b *testing.B, dir string, m *machine, f func(*retention.Expire)) {
	b.Helper()
	contents, err := volume.OpenFreer(filepath.Join(dir, "data"))
	if err != nil {
		b.Fatal(err)
	}
	defer contents.Close()
	chain, err := volume.Open(filepath.Join(dir, "chain"))
	if err != nil {
		b.Fatal(err)
	}
	defer chain.Close()
	x, err := retention.Open(context.Background(), retention.Config{Dir: filepath.Join(dir, "state"), Tenant: "t", Server: said{}, Machine: m,
		Policy: tenant.Retention{Lock: day, Keep: &tenant.Keep{Daily: 1}}, Contents: contents, Chain: chain})
	if err != nil {
		b.Fatal(err)
	}
	f(x)
	if err := x.Close(); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkExamine is a run that finds nothing to free among 1,000,000 records that it has not seen.
func BenchmarkExamine(b *testing.B) {
	dir := b.TempDir()
	history(b, dir, 500_000, false)
	for b.Loop() {
		os.RemoveAll(filepath.Join(dir, "state"))
		expireOnce(b, dir, &machine{"b", day, time.Now()}, func(x *retention.Expire) {
			if p, err := x.Plan(context.Background()); err != nil || p.Held[retention.Locked].Contents != 500_000 {
				b.Fatal(err)
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			b.ReportMetric(float64(m.Sys)/(1<<20), "MiB-from-OS")
		})
	}
}

// BenchmarkFree frees 30,000 contents.
func BenchmarkFree(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		dir := b.TempDir()
		history(b, dir, 30_000, true)
		m := &machine{"b", day, time.Now()}
		expireOnce(b, dir, m, func(*retention.Expire) {})
		m.up += 10 * day
		b.StartTimer()
		expireOnce(b, dir, m, func(x *retention.Expire) {
			if rep, err := x.Run(context.Background()); err != nil || rep.Contents != 30_000 {
				b.Fatal(rep, err)
			}
		})
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/30_000, "µs/content")
}
