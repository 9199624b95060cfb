package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
)

// churned is a tenant of which every name was given a content twice: half of its contents are past, and go when the lock has ended.
type churned struct {
	name  string
	names int
}

// churnCount is how many names the tenants of the retention works have. BENCH_CHURN divides them, for trying the works out.
func churnTenants() (large, small churned) {
	by := 1
	if n, err := strconv.Atoi(os.Getenv("BENCH_CHURN")); err == nil && n > 0 {
		by = n
	}
	return churned{"churn-1m", largeCount / 2 / by}, churned{"churn-200k", largeCount / 10 / by}
}

// retention measures expire with a tenant of 1,000,000 records, and how it slows pushes.
func (b *bench) retention(ctx context.Context) error {
	large, small := churnTenants()
	if err := b.startWarm(ctx, b.a, 1); err != nil {
		return err
	}
	defer b.a.stop()
	if err := b.a.stop(); err != nil {
		return err
	}
	for _, c := range []churned{large, small} {
		if _, err := b.vaultd.run(ctx, "tenant", "add", c.name, "--mode", "versioned", "--dir", b.a.data); err != nil {
			return err
		}
		b.progress("seeding %s: %d names, twice", c.name, c.names)
		if err := b.churn(ctx, c); err != nil {
			return fmt.Errorf("seed: %w", err)
		}
	}
	if err := b.examine(ctx, large); err != nil {
		return err
	}
	if _, err := b.vaultd.run(ctx, "expire", small.name, "--dir", b.a.data); err != nil {
		return err
	}
	if err := b.older(60 * 24 * time.Hour); err != nil {
		return err
	}
	if err := b.a.launch(ctx, b.vaultd.serve(b.a.data, b.a.addr())); err != nil {
		return err
	}
	if err := b.free(ctx, small); err != nil {
		return err
	}
	return b.slowdown(ctx, large)
}

// churn gives each name two contents, below SSH.
func (b *bench) churn(ctx context.Context, c churned) error {
	st, err := store.Open(b.a.data, store.Config{})
	if err != nil {
		return err
	}
	t, ok := st.Tenants().Tenant(c.name)
	if !ok {
		return errors.Join(fmt.Errorf("no tenant %s", c.name), st.Close())
	}
	err = st.With(ctx, t.ID, func(v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: "bench", Session: "bench"})
		for round := range 2 {
			for i := range c.names {
				if i%1000 == 0 && round == 0 {
					if err := f.Mkdir(fmt.Sprintf("%04d", i/1000), appendonly.NoMeta()); err != nil {
						return err
					}
				}
				u, err := f.Create(fmt.Sprintf("%04d/%03d", i/1000, i%1000), appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
				if err == nil {
					_, err = u.WriteAt([]byte{byte('a' + round)}, 0)
				}
				if err == nil {
					err = u.Close()
				}
				if err = errors.Join(err, ctx.Err()); err != nil {
					return err
				}
			}
		}
		return f.Close(ctx)
	})
	return errors.Join(err, st.Close()) // closing it closes the journal's segment
}

// spent is what a process used.
type spent struct {
	wall, cpu time.Duration
	rss       int64 // the most anonymous memory, bytes
}

func (v vaultd) spend(ctx context.Context, args ...string) (spent, error) {
	cmd := exec.CommandContext(ctx, v.bin, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return spent{}, err
	}
	sampler := startSampler(os.Getpid()) // what runs below: this one
	err := cmd.Wait()
	s := spent{wall: time.Since(start), rss: sampler.end()}
	if err != nil {
		return s, fmt.Errorf("run vaultd %v: %w: %s", args, err, tail(out.Bytes()))
	}
	s.cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return s, nil
}

// examine times a run that finds nothing old enough: with a journal that it has not seen yet, and with one that it knows.
func (b *bench) examine(ctx context.Context, c churned) error {
	var first, again, cpu, rss []float64
	for range b.runs {
		if err := os.RemoveAll(filepath.Join(b.a.data, "expire")); err != nil {
			return err
		}
		for _, to := range []*[]float64{&first, &again} {
			s, err := b.vaultd.spend(ctx, "expire", c.name, "--dir", b.a.data)
			if err != nil {
				return err
			}
			*to, cpu, rss = append(*to, s.wall.Seconds()), append(cpu, s.cpu.Seconds()), append(rss, mib(s.rss))
			b.progress("expire of %s: %v, CPU %v, %.0f MiB", c.name, s.wall.Round(time.Millisecond), s.cpu.Round(time.Millisecond), mib(s.rss))
		}
	}
	records := fmt.Sprintf("%d records", 2*c.names)
	b.report.fact(fact{what: "expire examines 1,000,000 records that it has not seen, s", a: first, most: 10, note: records})
	b.report.fact(fact{what: "expire examines 1,000,000 records that it knows, s", a: again, most: 10, note: records})
	b.report.fact(fact{what: "expire of 1,000,000 records, CPU s", a: cpu})
	b.report.fact(fact{what: "expire of 1,000,000 records, most RssAnon, MiB", a: rss, most: 200})
	return nil
}

// older makes expire's clocks of all tenants show a later time.
func (b *bench) older(d time.Duration) error {
	list, err := filepath.Glob(filepath.Join(b.a.data, "expire", "*", "state.db"))
	if err != nil {
		return err
	}
	for _, path := range list {
		db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Minute})
		if err != nil {
			return err
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			meta := tx.Bucket([]byte("meta"))
			var state map[string]any
			if err := json.Unmarshal(meta.Get([]byte("state")), &state); err != nil {
				return err
			}
			clock := state["clock"].(map[string]any)
			clock["Age"] = clock["Age"].(float64) + float64(d)
			text, err := json.Marshal(state)
			if err != nil {
				return err
			}
			return meta.Put([]byte("state"), text)
		})
		if err := errors.Join(err, db.Close()); err != nil {
			return err
		}
	}
	return nil
}

// free times the freeing of half of a tenant's contents beside a server that does nothing else.
func (b *bench) free(ctx context.Context, c churned) error {
	if err := b.a.sync(); err != nil {
		return err
	}
	s, err := b.vaultd.spend(ctx, "expire", c.name, "--dir", b.a.data)
	if err != nil {
		return err
	}
	b.report.fact(fact{what: "expire frees contents, a second", a: []float64{float64(c.names) / s.wall.Seconds()}, least: 20_000,
		note: fmt.Sprintf("%d contents, the whole process: reading, planning, own chain, state, telling the server", c.names)})
	b.report.fact(fact{what: "expire frees a content, CPU µs", a: []float64{s.cpu.Seconds() * 1e6 / float64(c.names)}})
	bare, err := b.unlinkAlone(c.names)
	if err != nil {
		return err
	}
	each := func(s spent) []float64 { return []float64{s.cpu.Seconds() * 1e6 / float64(c.names)} }
	b.report.fact(fact{what: "expire frees a content beside lstat and unlink alone, CPU µs", a: each(s), b: each(bare), note: fmt.Sprintf("alone: %.0f a second", float64(c.names)/bare.wall.Seconds())})
	return nil
}

// unlinkAlone is what the file system takes for as many files, in folders like store/'s, and a sync.
func (b *bench) unlinkAlone(n int) (s spent, err error) {
	dir, err := os.MkdirTemp(b.a.data, "unlink-")
	if err != nil {
		return s, err
	}
	defer os.RemoveAll(dir)
	names := make([]string, n)
	for i := range names {
		sub := filepath.Join(dir, fmt.Sprintf("%02x", i%256))
		if i < 256 {
			if err := os.Mkdir(sub, 0o700); err != nil {
				return s, err
			}
		}
		names[i] = filepath.Join(sub, rand.Text())
		if err := os.WriteFile(names[i], []byte{'a'}, 0o600); err != nil {
			return s, err
		}
	}
	if err := b.a.sync(); err != nil {
		return s, err
	}
	slices.Sort(names)
	var before, after unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &before); err != nil {
		return s, err
	}
	start := time.Now()
	for _, name := range names {
		if _, err := os.Lstat(name); err != nil {
			return s, err
		}
		if err := unix.Unlink(name); err != nil {
			return s, err
		}
	}
	err = b.a.sync()
	s.wall = time.Since(start)
	err = errors.Join(err, unix.Getrusage(unix.RUSAGE_SELF, &after))
	s.cpu = time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	return s, err
}

// slowdown times pushes of 5,000 files in pairs: beside an expire that is stopped (SIGSTOP), and beside one that frees.
func (b *bench) slowdown(ctx context.Context, c churned) error {
	if err := b.needMaterial(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.vaultd.bin, "expire", c.name, "--dir", b.a.data)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1") // as the server starts it
	if err := cmd.Start(); err != nil {
		return err
	}
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, cmd.Process.Pid, 10); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var alone, beside []float64
	for pair := 0; pair < 2*b.runs; pair++ {
		for _, s := range []struct {
			signal syscall.Signal
			to     *[]float64
		}{{syscall.SIGSTOP, &alone}, {syscall.SIGCONT, &beside}} {
			if err := cmd.Process.Signal(s.signal); err != nil {
				break // it ended
			}
			start := time.Now()
			_, err := b.a.target(0).sftp(ctx, fmt.Sprintf("put -r %q %q\n", b.material.tree, b.a.remote(fmt.Sprintf("run-%d-%d", pair, s.signal))))
			if err != nil {
				return err
			}
			*s.to = append(*s.to, time.Since(start).Seconds())
		}
		select {
		case err := <-ended: // the last push was not beside it all the time
			n := max(0, min(len(alone), len(beside))-1)
			b.report.fact(fact{what: "put-5000 beside an expire that frees, s", a: beside[:n], b: alone[:n], want: 1.1, note: "in pairs with one that is stopped; it ended during them"})
			return err
		default:
		}
	}
	cmd.Process.Signal(syscall.SIGCONT)
	if err := <-ended; err != nil {
		return fmt.Errorf("expire: %w", err)
	}
	b.report.fact(fact{what: "put-5000 beside an expire that frees, s", a: beside, b: alone, want: 1.1, note: "in pairs with one that is stopped"})
	return nil
}

// verify compares reading everything again with what sha256sum takes for the same contents.
func (b *bench) verify(ctx context.Context) error {
	if err := b.needMaterial(); err != nil {
		return err
	}
	if err := b.startWarm(ctx, b.a, 1); err != nil {
		return err
	}
	defer b.a.stop()
	if _, err := b.a.target(0).sftp(ctx, fmt.Sprintf("put %q %q\nput -r %q %q\n", b.material.big, b.a.remote("big"), b.material.tree, b.a.remote("tree"))); err != nil {
		return err
	}
	if _, err := b.a.settle(ctx); err != nil {
		return err
	}
	if err := b.a.stop(); err != nil {
		return err
	}
	var ours, theirs, ourWall, theirWall []float64
	for i := range b.runs {
		s, err := b.vaultd.spend(ctx, "verify", b.a.user(0), "--restart", "--dir", b.a.data)
		if err != nil {
			return err
		}
		sum := exec.CommandContext(ctx, "find", filepath.Join(b.a.data, "tenants"), "-path", "*/store/*", "-type", "f", "-exec", "sha256sum", "{}", "+")
		start := time.Now()
		if out, err := sum.Output(); err != nil || len(out) < smallCount*64 {
			return fmt.Errorf("sha256sum: %d bytes of output: %w", len(out), err)
		}
		wall := time.Since(start)
		cpu := sum.ProcessState.UserTime() + sum.ProcessState.SystemTime()
		ours, theirs = append(ours, s.cpu.Seconds()), append(theirs, cpu.Seconds())
		ourWall, theirWall = append(ourWall, s.wall.Seconds()), append(theirWall, wall.Seconds())
		b.progress("verify run %d: %v, CPU %v; sha256sum %v, CPU %v", i+1, s.wall, s.cpu, wall, cpu)
	}
	b.report.fact(fact{what: "verify 1 GiB and 5,000 files, CPU s; sha256sum of the same contents", a: ours, b: theirs, want: 1.25})
	b.report.fact(fact{what: "verify 1 GiB and 5,000 files, s; sha256sum of the same contents", a: ourWall, b: theirWall, want: 1.25})
	return nil
}
