package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// sample is one run of one work on one side.
type sample struct {
	client time.Duration // until the client had ended
	wall   time.Duration // until the data was on stable storage, where the work asks for that
	cpu    time.Duration // of the server's whole tree, until it rested
	peak   int64         // RssAnon of the tree, bytes
}

// durability says how a work's wall reaches stable storage.
type durability int

const (
	readOnly    durability = iota // nothing to sync
	sessionEnd                    // the client waits for the end of its session, which is vaultd's barrier
	syncForBoth                   // the client does not wait: both sides are synced by us
)

// measure runs action against s. What other work left dirty on the file system is written before.
func measure(ctx context.Context, s *side, d durability, action func() error) (sample, error) {
	var m sample
	if err := s.sync(); err != nil {
		return m, err
	}
	before, err := treeCPU(s.proc.pid())
	if err != nil {
		return m, err
	}
	sampler := startSampler(s.proc.pid())
	start := time.Now()
	err = action()
	m.client = time.Since(start)
	if err == nil && (d == syncForBoth || d == sessionEnd && !s.syncs()) {
		err = s.sync()
	}
	m.wall = time.Since(start)
	m.peak = sampler.end()
	if err != nil {
		return m, err
	}
	after, err := s.settle(ctx)
	m.cpu = after - before
	return m, err
}

// noise is how much the machine varies when nothing of ours does.
type noise struct{ cpu, disk []float64 } // seconds

const noiseRuns = 7

// measureNoise hashes a fixed amount and writes a fixed amount to dir, several times each.
func measureNoise(ctx context.Context, dir string) (noise, error) {
	var n noise
	buf := make([]byte, 1<<20)
	for i := range noiseRuns + 1 {
		if err := ctx.Err(); err != nil {
			return n, context.Cause(ctx)
		}
		start := time.Now()
		h := sha256.New()
		for range 512 {
			h.Write(buf)
		}
		cpu := time.Since(start).Seconds()
		start = time.Now()
		if err := writeAndSync(filepath.Join(dir, "noise"), buf, 256); err != nil {
			return n, fmt.Errorf("measure noise: %w", err)
		}
		if i > 0 { // the first warms up
			n.cpu, n.disk = append(n.cpu, cpu), append(n.disk, time.Since(start).Seconds())
		}
	}
	return n, os.Remove(filepath.Join(dir, "noise"))
}

func writeAndSync(name string, buf []byte, times int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	for range times {
		if _, err := f.Write(buf); err != nil {
			return err
		}
	}
	return f.Sync()
}
