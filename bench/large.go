package main

import (
	"context"
	"fmt"
	"time"
)

const largeCount = 1_000_000

// seed fills the running server's tenant 0 with n small files, 1,000 in a folder. It goes through
// SFTP because the bench knows nothing of vaultd but its command line; a seed below SSH (through
// appendonly, on the stopped store in s.data) replaces this function's body and nothing else.
func seed(ctx context.Context, s *side, n int) error {
	return pushFiles(ctx, s.target(0), s.remote("seed"), n, 1000)
}

// large measures snapshots and memory with a tenant of 1,000,000 files.
func (b *bench) large(ctx context.Context) error {
	if err := b.startWarm(ctx, b.a, 1); err != nil {
		return err
	}
	defer b.a.stop()
	var empty []float64
	if b.selected("snapshot-1m") {
		var err error
		if empty, err = b.snapshots(ctx); err != nil {
			return err
		}
	}
	b.progress("seeding %d files", largeCount)
	start := time.Now()
	if err := seed(ctx, b.a, largeCount); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if _, err := b.a.settle(ctx); err != nil {
		return err
	}
	b.progress("seeded in %v", time.Since(start).Round(time.Second))
	if b.selected("snapshot-1m") {
		full, err := b.snapshots(ctx)
		if err != nil {
			return err
		}
		b.report.fact(fact{what: "snapshot of 1,000,000 files, ms", a: full, most: 50,
			note: "whole command, an upper bound of the work inside the server"})
		b.report.fact(fact{what: "snapshot of an empty tenant, ms", a: empty, note: "the same command, for comparison"})
	}
	if b.selected("mem-1m") {
		return b.largeMemory(ctx)
	}
	return nil
}

// snapshots times `snapshot create` on tenant 0, in milliseconds.
func (b *bench) snapshots(ctx context.Context) ([]float64, error) {
	var ms []float64
	for range b.runs {
		start := time.Now()
		if _, err := b.vaultd.run(ctx, "snapshot", "create", b.a.user(0), "--dir", b.a.data); err != nil {
			return nil, err
		}
		ms = append(ms, float64(time.Since(start).Microseconds())/1000)
		if err := sleep(ctx, time.Second); err != nil { // names may carry a time in seconds
			return nil, err
		}
	}
	return ms, nil
}

// largeMemory restarts the server on the seeded store, lets it work, and reports its peak.
func (b *bench) largeMemory(ctx context.Context) error {
	if err := b.needMaterial(); err != nil {
		return err
	}
	if err := b.a.stop(); err != nil {
		return err
	}
	if err := b.a.launch(ctx, b.vaultd.serve(b.a.data, b.a.addr())); err != nil {
		return err
	}
	m, err := measure(ctx, b.a, readOnly, func() error {
		batch := fmt.Sprintf("ls -1 %q\nput -r %q %q\nput %q %q\n", b.a.remote("seed"),
			b.material.tree, b.a.remote("tree"), b.material.big, b.a.remote("big"))
		if _, err := b.a.target(0).sftp(ctx, batch); err != nil {
			return err
		}
		_, err := b.vaultd.run(ctx, "snapshot", "create", b.a.user(0), "--dir", b.a.data)
		return err
	})
	if err != nil {
		return err
	}
	b.report.fact(fact{what: "peak RssAnon with a tenant of 1,000,000 files, MiB", a: []float64{mib(m.peak)}, most: 200,
		note: "restart, list, put -r 5,000, put 1 GiB, snapshot"})
	return nil
}
