package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// printMachine writes the head of the report: what was compared on what, and how quiet it was.
func (b *bench) printMachine(ctx context.Context, w io.Writer) error {
	dir := filepath.Dir(b.a.data)
	fsType, err := fileSystem(dir)
	if err != nil {
		return err
	}
	clientFS, err := fileSystem(b.tmp)
	if err != nil {
		return err
	}
	n, err := measureNoise(ctx, dir)
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "## %s against %s: medians of %d interleaved runs (min–max)\n\n", b.a.label, b.b.label, b.runs)
	fmt.Fprintf(w, "* machine: %s, %d CPUs, %d MiB, Linux %s; load %s\n", cpuModel(), runtime.NumCPU(),
		memTotal()>>20, firstLine("/proc/sys/kernel/osrelease"), firstLine("/proc/loadavg"))
	fmt.Fprintf(w, "* servers' data on %s, client data on %s; cipher %s, key exchange %s, no compression\n", fsType, clientFS, cipher, kex)
	fmt.Fprintf(w, "* noise of the machine, %d times the same: hash 512 MiB %s, write and sync 256 MiB %s\n", noiseRuns, spreadText(n.cpu), spreadText(n.disk))
	fmt.Fprintf(w, "* %s\n* %s\n", version(ctx, "rclone", "version"), version(ctx, "restic", "version"))
	// sshd before 9.6 has no -V, but names its version in the complaint. Its package is the client's.
	fmt.Fprintf(w, "* sshd: %s; client: %s\n", version(ctx, "sshd", "-V"), version(ctx, "ssh", "-V"))
	if !b.selfTest || b.confinement {
		fmt.Fprintf(w, "* vaultd: %s\n", version(ctx, b.vaultd.bin, "version"))
	}
	fmt.Fprintf(w, "* vaultd and this program: %s, CGO_ENABLED=0\n", runtime.Version())
	fmt.Fprintln(w, "* server CPU: user+system of the server's whole process tree from /proc, ended processes included, until it rests; memory: sum of RssAnon over the tree every 50 ms, largest of all runs")
	return nil
}

// spreadText is the median, and the distance from least to most as a share of it.
func spreadText(v []float64) string {
	return fmt.Sprintf("%.2f s, spread %.0f %%", median(v), 100*(slices.Max(v)-slices.Min(v))/median(v))
}

// version is what a program says of itself: the line that names OpenSSH, or else the first.
func version(ctx context.Context, name, arg string) string {
	out, err := exec.CommandContext(ctx, name, arg).CombinedOutput()
	for line := range bytes.Lines(out) {
		if bytes.HasPrefix(line, []byte("OpenSSH_")) {
			return string(bytes.TrimSpace(line))
		}
	}
	if err != nil {
		return fmt.Sprintf("%s: %v", filepath.Base(name), err)
	}
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return string(line)
}

// fileSystem is the type and options of the mount that holds dir: proc_pid_mountinfo(5).
func fileSystem(dir string) (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", fmt.Errorf("find file system: %w", err)
	}
	best, found := -1, ""
	for line := range strings.Lines(string(b)) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		l, r := strings.Fields(left), strings.Fields(right)
		if !ok || len(l) < 6 || len(r) < 1 {
			continue
		}
		// Of mounts on the same place the last one listed is on top.
		if at := l[4]; len(at) >= best && (at == "/" || dir == at || strings.HasPrefix(dir, at+"/")) {
			best, found = len(at), fmt.Sprintf("%s (%s)", r[0], l[5])
		}
	}
	if best < 0 {
		return "", fmt.Errorf("find file system: no mount holds %s", dir)
	}
	return found, nil
}

func firstLine(file string) string {
	b, _ := os.ReadFile(file)
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return runtime.GOARCH
}

// memTotal is the machine's memory in bytes; 0 if /proc does not say.
func memTotal() int64 {
	for _, f := range strings.Split(firstLine("/proc/meminfo"), " ") {
		if n, err := strconv.ParseInt(f, 10, 64); err == nil {
			return n << 10
		}
	}
	return 0
}
