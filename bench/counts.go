package main

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/pkg/sftp"
)

const (
	idleSessions = 200
	idleAccounts = 10 // the sessions are spread: no server is meant to give one account 200
	listCount    = 100_000
	listDir      = "list"
)

// idle measures the memory of idle sessions: fresh server, one session on each account before, then
// (tree with 200 - tree without) / 200.
func (b *bench) idle(ctx context.Context) error {
	pss, anon := map[*side][]float64{}, map[*side][]float64{}
	for i := range b.runs {
		for _, s := range b.sides() {
			m, err := b.idleOnce(ctx, s)
			if err != nil {
				return fmt.Errorf("%s: %w", s.label, err)
			}
			b.progress("idle-200 run %d %s: %d bytes Pss, %d RssAnon for each", i+1, s.label, m.pss, m.anon)
			pss[s], anon[s] = append(pss[s], kib(m.pss)), append(anon[s], kib(m.anon))
		}
	}
	b.report.fact(fact{what: "idle session, KiB Pss each of 200", a: pss[b.a], b: pss[b.b], want: 0.25})
	b.report.fact(fact{what: "idle session, KiB RssAnon each of 200", a: anon[b.a], b: anon[b.b],
		note: "pages shared after a fork count twice here"})
	return nil
}

func (b *bench) idleOnce(ctx context.Context, s *side) (memory, error) {
	if err := b.startWarm(ctx, s, idleAccounts); err != nil {
		return memory{}, err
	}
	defer s.stop()
	if _, err := s.settle(ctx); err != nil {
		return memory{}, err
	}
	before, err := treeMemory(s.proc.pid())
	if err != nil {
		return memory{}, err
	}
	for i := range idleSessions {
		if ctx.Err() != nil {
			return memory{}, context.Cause(ctx)
		}
		conn, err := s.target(i % idleAccounts).dial()
		if err != nil {
			return memory{}, fmt.Errorf("session %d: %w", i+1, err)
		}
		defer conn.Close()
		c, err := sftp.NewClient(conn)
		if err != nil {
			return memory{}, fmt.Errorf("session %d: start sftp: %w", i+1, err)
		}
		defer c.Close()
	}
	if _, err := s.settle(ctx); err != nil {
		return memory{}, err
	}
	after, err := treeMemory(s.proc.pid())
	return memory{
		anon: (after.anon - before.anon) / idleSessions,
		pss:  (after.pss - before.pss) / idleSessions,
	}, err
}

// listing is the work of listing the big directory with OpenSSH's client.
func listing(name, prefix string) work {
	return work{
		name: name, durable: readOnly, wantWall: 1.2,
		action: func(ctx context.Context, _ *bench, s *side) error {
			out, err := s.target(0).sftp(ctx, fmt.Sprintf("ls -1 %q\n", s.remote(prefix+listDir)))
			if n := bytes.Count(out, []byte(".dat\n")); err == nil && n != listCount {
				return fmt.Errorf("list: %d entries, want %d", n, listCount)
			}
			return err
		},
	}
}

// hundredK fills a directory with 100,000 files on both sides, through SFTP, and measures what is
// selected of listing, journal and rebuild.
func (b *bench) hundredK(ctx context.Context) error {
	for _, s := range b.sides() {
		if s == b.b && !b.selected("list-100k") {
			continue
		}
		if err := b.startWarm(ctx, s, 1); err != nil {
			return err
		}
		defer s.stop()
		b.progress("list-100k: pushing %d files to %s", listCount, s.label)
		if err := pushFiles(ctx, s.target(0), s.remote(listDir), listCount, 0); err != nil {
			return fmt.Errorf("fill %s: %w", s.label, err)
		}
		if _, err := s.settle(ctx); err != nil {
			return err
		}
	}
	if b.selected("list-100k") {
		if err := b.list(ctx); err != nil {
			return err
		}
	}
	if b.selected("journal") && !b.selfTest {
		if err := b.journalFact("journal and index, bytes of disk for each of 100,000 files in one folder", listCount); err != nil {
			return err
		}
	}
	if b.selected("rebuild") && !b.selfTest {
		return b.rebuild(ctx)
	}
	return nil
}

// list compares the live listings, then vaultd's listing of a past instant with its live one.
func (b *bench) list(ctx context.Context) error {
	live := listing("list-100k", "")
	got, err := b.interleave(ctx, live)
	if err != nil {
		return err
	}
	b.report.timed(live, got)
	if b.selfTest {
		return nil
	}
	at := listing("list-100k-at", ".at/0s/")
	var walls []float64
	for range b.runs {
		m, err := measure(ctx, b.a, readOnly, func() error { return at.action(ctx, b, b.a) })
		if err != nil {
			return fmt.Errorf("list under .at: %w", err)
		}
		walls = append(walls, m.wall.Seconds())
	}
	b.report.fact(fact{what: "listing 100,000 under /.at/0s, s", a: walls, b: pick(got.a, wallOf), want: 2,
		note: "compared with vaultd's own live listing"})
	return nil
}

// journalFact reports what journal and index of a store with n files hold.
func (b *bench) journalFact(what string, n int64) error {
	f, err := measureJournal(b.a.data)
	if err != nil {
		return err
	}
	b.report.fact(fact{what: what, a: []float64{float64(f.disk) / float64(n)}, most: 900,
		note: fmt.Sprintf("%d records, %d bytes by length", f.records, f.length/n)})
	return nil
}

// journal measures journal and index of a tenant that got the 5,000 files once.
func (b *bench) journal(ctx context.Context) error {
	if err := b.needMaterial(); err != nil {
		return err
	}
	if err := b.startWarm(ctx, b.a, 1); err != nil {
		return err
	}
	defer b.a.stop()
	batch := fmt.Sprintf("put -r %q %q\n", b.material.tree, b.a.remote("tree"))
	if _, err := b.a.target(0).sftp(ctx, batch); err != nil {
		return err
	}
	if _, err := b.a.settle(ctx); err != nil {
		return err
	}
	return b.journalFact("journal and index, bytes of disk for each of 5,000 files", smallCount)
}

// rebuild stops the server and times `journal rebuild`, which deletes the index first.
func (b *bench) rebuild(ctx context.Context) error {
	if err := b.a.stop(); err != nil {
		return err
	}
	before, err := measureJournal(b.a.data)
	if err != nil {
		return err
	}
	var rate, cpu []float64
	for i := range b.runs {
		old, err := indexes(b.a.data)
		if err != nil {
			return err
		}
		start := time.Now()
		used, err := b.vaultd.run(ctx, "journal", "rebuild", "--dir", b.a.data)
		if err != nil {
			return err
		}
		wall := time.Since(start)
		made, err := indexes(b.a.data)
		if err != nil {
			return err
		}
		for f := range old {
			if !made[f].After(old[f]) {
				return fmt.Errorf("rebuild: %s was not touched", f)
			}
		}
		rate = append(rate, float64(before.records)/wall.Seconds())
		cpu = append(cpu, used.Seconds()*1e6/float64(before.records))
		b.progress("rebuild run %d: %.0f records/s", i+1, rate[i])
	}
	b.report.fact(fact{what: "index rebuild, records/s", a: rate, least: 100_000,
		note: fmt.Sprintf("%d records, whole process", before.records)})
	b.report.fact(fact{what: "index rebuild, CPU µs for each record", a: cpu})
	return nil
}
