package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"
	"time"
)

// gcPercent trades memory for the collector's time: SSH's packets are garbage as soon as they are
// written, and the collector was the largest cost of a transfer. memoryLimit bounds what that may take.
const (
	gcPercent   = 400
	memoryLimit = 512 << 20
)

// The collector is generous while little lives: up to freeHeap of garbage costs nobody anything. What lives beyond a quarter of
// that (the list of a push of a million files) is collected the sooner: garbage is at most a quarter of it, or freeHeap.
const (
	freeHeap  = 48 << 20
	minGCPart = 25
)

// gcPercentFor is how much garbage, in percent of what lives, is left lying.
func gcPercentFor(live uint64) int {
	return int(min(gcPercent, max(minGCPart, 100*freeHeap/max(live, 1))))
}

// governHeap applies gcPercentFor, until ctx is cancelled.
func governHeap(ctx context.Context) error {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	now := gcPercent
	for {
		select {
		case <-ctx.Done():
			debug.SetGCPercent(gcPercent)
			return nil
		case <-tick.C:
		}
		metrics.Read(sample)
		if next := gcPercentFor(sample[0].Value.Uint64()); next < now*9/10 || next > now*11/10 { // setting it stops the world
			now = next
			debug.SetGCPercent(now)
		}
	}
}

// tuneCollector applies them, unless the environment says otherwise.
func tuneCollector() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
}

// governProcs gives the server as many processors as it has work for, up to most.
//
// A request passes through half a dozen goroutines (x/crypto's reader and mux, pkg/sftp's workers), each
// waiting for the one before. With one processor that is a chain of cheap switches; with an idle
// second one the Go scheduler wakes a thread at every step to look for work that is not there: a push of
// small files then costs half as much again in CPU and takes a third longer. With real work for two
// (a large file being decrypted, hashed and written) one is too few.
//
// Measured in cores over the last interval: above 80 % of what it has it gets twice as many, below 35 %
// half. Stopping the world for that takes microseconds.
func governProcs(ctx context.Context, most int) error {
	const busy, idle = 50 * time.Millisecond, 200 * time.Millisecond
	procs := 1
	runtime.GOMAXPROCS(procs)
	defer runtime.GOMAXPROCS(most)
	wait := busy
	used, at := cpuTime(), time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		u, now := cpuTime(), time.Now()
		cores := float64(u-used) / float64(now.Sub(at))
		used, at = u, now
		switch {
		case cores > 0.8*float64(procs) && procs < most:
			procs = min(2*procs, most)
			runtime.GOMAXPROCS(procs)
		case cores < 0.35*float64(procs) && procs > 1:
			procs /= 2
			runtime.GOMAXPROCS(procs)
		}
		wait = busy
		if cores < 0.02 {
			wait = idle // nobody is there: a look costs a timer and a system call
		}
	}
}

// cpuTime is what the process has used, user and system together.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
