package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat. USER_HZ is 100 on every Linux that Go runs on.
const tick = 10 * time.Millisecond

// descendants lists the live and zombie processes below root, without root.
func descendants(root int) []int {
	var all []int
	for queue := []int{root}; len(queue) > 0; {
		dir := fmt.Sprintf("/proc/%d/task", queue[0])
		queue = queue[1:]
		tasks, err := os.ReadDir(dir)
		if err != nil {
			continue // ended meanwhile
		}
		for _, task := range tasks {
			b, _ := os.ReadFile(dir + "/" + task.Name() + "/children")
			for _, f := range bytes.Fields(b) {
				if pid, err := strconv.Atoi(string(f)); err == nil {
					all, queue = append(all, pid), append(queue, pid)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}

// procTimes returns user+system time of a process, and of the children it has reaped; proc(5).
func procTimes(pid int) (own, reaped time.Duration, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0, err
	}
	// The second field is a name in parentheses and may hold spaces: count from its end, field 3.
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 15 {
		return 0, 0, fmt.Errorf("read stat of process %d: %d fields", pid, len(f))
	}
	var t [4]time.Duration // utime stime cutime cstime: fields 14 to 17
	for i := range t {
		n, err := strconv.ParseInt(f[11+i], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read stat of process %d: %w", pid, err)
		}
		t[i] = time.Duration(n) * tick
	}
	return t[0] + t[1], t[2] + t[3], nil
}

// treeCPU is the CPU time of everything that ever ran below root: what root has reaped, and of the
// living what they used and reaped. It is exact while no process of the tree is ending.
func treeCPU(root int) (time.Duration, error) {
	_, sum, err := procTimes(root)
	if err != nil {
		return 0, fmt.Errorf("read cpu of server: %w", err)
	}
	for _, pid := range descendants(root) {
		if own, reaped, err := procTimes(pid); err == nil {
			sum += own + reaped
		}
	}
	return sum, nil
}

// memory is what a tree of processes holds, in bytes.
type memory struct {
	anon int64 // RssAnon summed: pages shared after a fork count for each process
	pss  int64 // Pss summed: shared pages are divided among those that share them
}

// treeAnon sums RssAnon below root. It is cheap enough to be sampled.
func treeAnon(root int) int64 {
	var sum int64
	for _, pid := range descendants(root) {
		n, _ := procField(fmt.Sprintf("/proc/%d/status", pid), "RssAnon:") // 0 if it ended meanwhile
		sum += n
	}
	return sum
}

// treeMemory sums both measures of a tree at rest. Pss walks page tables (not for sampling), and the
// kernel shows it to root or to the owner of a process that allows tracing; OpenSSH's sftp does not.
func treeMemory(root int) (memory, error) {
	m := memory{anon: treeAnon(root)}
	for _, pid := range descendants(root) {
		n, err := procField(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss:")
		if err != nil {
			return m, fmt.Errorf("read memory of server (root may): %w", err)
		}
		m.pss += n
	}
	return m, nil
}

// procField reads a line "KEY n kB" and returns bytes.
func procField(path, key string) (int64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", path, err)
			}
			return n * 1024, nil
		}
	}
	return 0, fmt.Errorf("read %s: no line %s", path, key)
}

// samplePeriod is how often peak memory is looked at.
const samplePeriod = 50 * time.Millisecond

// sampler watches the RssAnon of a tree.
type sampler struct {
	stop chan struct{}
	peak chan int64
}

func startSampler(root int) *sampler {
	s := &sampler{stop: make(chan struct{}), peak: make(chan int64, 1)}
	go func() {
		t := time.NewTicker(samplePeriod)
		defer t.Stop()
		peak := treeAnon(root)
		for {
			select {
			case <-s.stop:
				s.peak <- max(peak, treeAnon(root))
				return
			case <-t.C:
				peak = max(peak, treeAnon(root))
			}
		}
	}()
	return s
}

// end stops sampling and returns the largest sum seen, in bytes.
func (s *sampler) end() int64 {
	close(s.stop)
	return <-s.peak
}
