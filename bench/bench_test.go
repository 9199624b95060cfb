package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The supervisor is this program again: in a test, the test's.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == superviseArg {
		os.Exit(supervise(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func startTree(t *testing.T, script string) *supervised {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	s, err := startSupervised([]string{"/bin/sh", "-c", script}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// A process whose parent has ended before it is the case that getrusage of the server would miss.
func TestCPUOfOrphansCounts(t *testing.T) {
	const burn = `i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done`
	s := startTree(t, fmt.Sprintf(`sh -c '(sh -c "%s"; : ) & exit 0'; exec sleep 60`, strings.ReplaceAll(burn, "$", `\$`)))
	end := time.Now().Add(30 * time.Second)
	for {
		cpu, err := treeCPU(s.pid())
		if err != nil {
			t.Fatal(err)
		}
		own, reaped, err := procTimes(s.pid())
		if err != nil {
			t.Fatal(err)
		}
		// Only sleep is left, which used nothing: all of it is what the supervisor reaped.
		if len(descendants(s.pid())) == 1 && cpu >= 5*tick && reaped >= 5*tick {
			if cpu < reaped {
				t.Fatalf("tree %v is less than reaped %v (own %v)", cpu, reaped, own)
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("orphan's CPU not seen: tree %v, reaped %v, processes %v", cpu, reaped, descendants(s.pid()))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Sessions outlive a daemon that is told to end; stop must leave none of them.
func TestStopEndsWholeTree(t *testing.T) {
	s := startTree(t, `trap '' TERM; sleep 600 & setsid sleep 600 & trap - TERM; wait`)
	for end := time.Now().Add(10 * time.Second); len(descendants(s.pid())) < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("tree did not start")
		}
	}
	pids := descendants(s.pid())
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if _, _, err := procTimes(pid); err == nil {
			t.Errorf("process %d of %v still runs", pid, pids)
		}
	}
}

func TestSamplerSeesPeak(t *testing.T) {
	s := startTree(t, `v=$(head -c 20000000 /dev/zero | tr '\0' a); sleep 0.5; unset v; exec sleep 60`)
	m := startSampler(s.pid())
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", first(descendants(s.pid())))); bytes.HasPrefix(b, []byte("sleep")) {
			break
		}
	}
	// The kernel's counters lag by some pages a CPU.
	if peak := m.end(); peak < 19_000_000 {
		t.Errorf("peak %d, want about the variable's 20000000", peak)
	}
	if now := treeAnon(s.pid()); now > 10_000_000 {
		t.Errorf("now %d: the peak was not one", now)
	}
}

func first(v []int) int {
	if len(v) == 0 {
		return 0
	}
	return v[0]
}

func TestMedian(t *testing.T) {
	for _, c := range []struct {
		v    []float64
		want float64
	}{{nil, 0}, {[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1, 2, 9}, 3}} {
		if got := median(c.v); got != c.want {
			t.Errorf("median(%v) = %v, want %v", c.v, got, c.want)
		}
	}
}

func samples(wall, cpu time.Duration) []sample {
	return []sample{{client: wall / 2, wall: wall, cpu: cpu, peak: 1 << 20}}
}

func TestVerdicts(t *testing.T) {
	w := work{name: "w", durable: sessionEnd, wantWall: 0.8, wantCPU: 1.15, unsyncedWant: 0.8}
	for _, c := range []struct {
		name string
		got  both
		want []string // the last cell of each row
	}{
		{"both met", both{samples(8*time.Second, time.Second), samples(10*time.Second, time.Second)}, []string{"PASS", "PASS"}},
		{"wall missed", both{samples(9*time.Second, time.Second), samples(10*time.Second, time.Second)}, []string{"short: wall 0.9", "short: wall 0.9"}},
		{"cpu missed", both{samples(8*time.Second, 2*time.Second), samples(10*time.Second, time.Second)}, []string{"short: CPU 2", "PASS"}},
		// A baseline that seems to have used nothing was not measured: that is no pass.
		{"no baseline", both{samples(8*time.Second, time.Second), samples(10*time.Second, 0)}, []string{"short: CPU 0", "PASS"}},
	} {
		var r report
		r.timed(w, c.got)
		for i, row := range r.rows {
			if cells := strings.Split(row, "|"); strings.TrimSpace(cells[len(cells)-2]) != c.want[i] {
				t.Errorf("%s: row %d is %q, want verdict %q", c.name, i, row, c.want[i])
			}
		}
	}
}

func TestFactsAreJudged(t *testing.T) {
	for _, c := range []struct {
		f    fact
		want string
	}{
		{fact{a: []float64{50}, most: 64}, "PASS"},
		{fact{a: []float64{65}, most: 64}, "short: value 65"},
		{fact{a: []float64{99_999}, least: 100_000}, "short: value 1e+05"},
		{fact{a: []float64{100_000}, least: 100_000}, "PASS"},
		{fact{a: []float64{3}, b: []float64{10}, want: 0.25}, "short: ratio 0.3"},
		{fact{a: []float64{0}, most: 64}, "short: value 0"}, // nothing was read
		{fact{a: []float64{3}}, "–"},
	} {
		var r report
		r.fact(c.f)
		if !strings.Contains(r.facts[0], "| "+c.want+" |") {
			t.Errorf("fact %+v gives %q, want %q", c.f, r.facts[0], c.want)
		}
	}
}

// A table is only a table if every row has as many cells as its head.
func TestReportTables(t *testing.T) {
	var r report
	r.timed(works[0], both{samples(time.Second, time.Second), samples(time.Second, time.Second)})
	r.fact(fact{what: "x", a: []float64{1, 2}, b: []float64{2}, want: 1, most: 3, least: 1, note: "n"})
	r.fail("y", errors.New("two\nlines | and a bar"))
	var out bytes.Buffer
	r.print(&out, "A", "B")
	cells := 0
	for line := range strings.Lines(out.String()) {
		n := strings.Count(line, "|")
		if n == 0 {
			cells = 0
			continue
		}
		if cells == 0 {
			cells = n
		}
		if n != cells {
			t.Errorf("%d bars, the head has %d: %s", n, cells, line)
		}
	}
	if !strings.Contains(out.String(), "* y: not measured: two; lines / and a bar") {
		t.Errorf("no line for the failure in:\n%s", out.String())
	}
}

func TestMeasureJournal(t *testing.T) {
	data := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(data, "tenants", "t1", name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := measureJournal(data); err == nil {
		t.Error("a store without a journal was measured")
	}
	write("journal/1", "a\nb\n")
	write("staging/journal-open", "c\n")
	write("staging/other", "not counted\n")
	write("derived/index.db", "\n\n12345678")
	f, err := measureJournal(data)
	if err != nil || f.records != 3 || f.length != 16 {
		t.Errorf("got %+v, %v; want 3 records, 16 bytes", f, err)
	}
	if files, err := indexes(data); err != nil || len(files) != 1 {
		t.Errorf("indexes: %v, %v", files, err)
	}
	if _, err := indexes(t.TempDir()); err == nil {
		t.Error("a store without an index was taken for one")
	}
}

// Retired stores keep every inode and none of the large contents.
func TestRetireKeepsInodes(t *testing.T) {
	dir := t.TempDir()
	s := &side{data: filepath.Join(dir, "data"), used: filepath.Join(dir, "used")}
	if err := s.retire(); err != nil {
		t.Fatalf("nothing to retire: %v", err)
	}
	if err := os.MkdirAll(s.data, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"small": 4096, "big": 1 << 20} {
		if err := os.WriteFile(filepath.Join(s.data, name), make([]byte, size), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.retire(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"small": 4096, "big": 0} {
		info, err := os.Stat(filepath.Join(s.used, "1", name))
		if err != nil || info.Size() != want {
			t.Errorf("%s: %v, %v; want %d bytes", name, info, err, want)
		}
	}
	if _, err := os.Stat(s.data); err == nil {
		t.Error("the store is still in its place")
	}
}

func TestUnknownWork(t *testing.T) {
	if err := run(context.Background(), []string{"--only", "put-2g"}, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "put-2g") {
		t.Errorf("got %v, want an error that names put-2g", err)
	}
}
