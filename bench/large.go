package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
)

const largeCount = 1_000_000

// seed fills tenant 0 of the stopped server's store with n small files, 1,000 in a folder, below SSH.
func seed(ctx context.Context, s *side, n int) error {
	st, err := store.Open(s.data, store.Config{})
	if err != nil {
		return err
	}
	t, ok := st.Tenants().Tenant(s.user(0))
	if !ok {
		return fmt.Errorf("no tenant %s", s.user(0))
	}
	err = st.With(ctx, t.ID, func(v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: "bench", Session: "bench"})
		return errors.Join(fill(ctx, f, n), f.Close(ctx))
	})
	return errors.Join(err, st.Close())
}

func fill(ctx context.Context, f *appendonly.FS, n int) error {
	data := []byte("x")
	if err := f.Mkdir("seed", appendonly.NoMeta()); err != nil {
		return err
	}
	for i := range n {
		dir := fmt.Sprintf("seed/%04d", i/1000)
		if i%1000 == 0 {
			if err := f.Mkdir(dir, appendonly.NoMeta()); err != nil {
				return err
			}
		}
		u, err := f.Create(fmt.Sprintf("%s/%03d", dir, i%1000), appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
		if err != nil {
			return err
		}
		if _, err := u.WriteAt(data, 0); err != nil {
			return err
		}
		if err := u.Close(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
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
	if err := b.a.stop(); err != nil {
		return err
	}
	if err := seed(ctx, b.a, largeCount); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if err := b.a.launch(ctx, b.vaultd.serve(b.a.data, b.a.addr())); err != nil {
		return err
	}
	b.progress("seeded in %v", time.Since(start).Round(time.Second))
	if b.selected("snapshot-1m") {
		full, err := b.snapshots(ctx)
		if err != nil {
			return err
		}
		b.report.fact(fact{what: "snapshot of 1,000,000 files, ms", a: full, most: 50,
			note: "inside the server: barrier, record, barrier, closing the segment"})
		b.report.fact(fact{what: "snapshot of an empty tenant, ms", a: empty, note: "for comparison"})
	}
	if b.selected("mem-1m") {
		return b.largeMemory(ctx)
	}
	return nil
}

// snapshots takes snapshots of tenant 0 and returns the server's own times for it, in milliseconds.
func (b *bench) snapshots(ctx context.Context) ([]float64, error) {
	var ms []float64
	for range b.runs {
		_, out, err := b.vaultd.output(ctx, "snapshot", "create", b.a.user(0), "--json", "--dir", b.a.data)
		if err != nil {
			return nil, err
		}
		var reply struct {
			Data struct {
				Took int64 `json:"took_ns"`
			} `json:"data"`
		}
		if err := json.Unmarshal(out, &reply); err != nil {
			return nil, fmt.Errorf("read snapshot's answer: %w", err)
		}
		ms = append(ms, float64(reply.Data.Took)/1e6)
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
