package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// fact is one measure that is not a timed comparison. Of want, most and least those that are not 0 apply.
type fact struct {
	what, note string
	a, b       []float64 // one value for each run; b may be empty
	want       float64   // a/b at most
	most       float64   // a at most
	least      float64   // a at least
}

// report collects results and prints them as Markdown.
type report struct {
	rows   []string // timed comparisons
	facts  []string
	spread []string // every value behind the medians
	failed []string
}

// timed adds the rows of one work: its wall as asked, and for works that are synced the walls
// without any sync for the baseline.
func (r *report) timed(w work, got both) {
	wallA, wallB := pick(got.a, wallOf), pick(got.b, wallOf)
	cpuA, cpuB := pick(got.a, cpuOf), pick(got.b, cpuOf)
	short := shortOf("wall", ratio(wallA, wallB), w.wantWall)
	short = append(short, shortOf("CPU", ratio(cpuA, cpuB), w.wantCPU)...)
	r.rows = append(r.rows, fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s | %s | %s | %.1f / %.1f | %s |", w.name,
		span(wallA), span(wallB), ratioText(ratio(wallA, wallB)), wanted(w.wantWall),
		span(cpuA), span(cpuB), ratioText(ratio(cpuA, cpuB)), wanted(w.wantCPU),
		peak(got.a), peak(got.b), verdict(w.wantWall+w.wantCPU > 0, short)))
	for _, v := range []struct {
		what string
		a, b []float64
	}{{"wall", wallA, wallB}, {"cpu", cpuA, cpuB}} {
		r.spread = append(r.spread, fmt.Sprintf("| %s %s | %s | %s |", w.name, v.what, list(v.a), list(v.b)))
	}
	if w.durable == readOnly {
		return
	}
	// vaultd's side of this row is what its client waited for: a barrier is in it where the client
	// waits for the end of its session.
	clientA, clientB := pick(got.a, clientOf), pick(got.b, clientOf)
	short = shortOf("wall", ratio(clientA, clientB), w.unsyncedWant)
	r.rows = append(r.rows, fmt.Sprintf("| %s, baseline not synced | %s | %s | %s | %s | | | | | | %s |", w.name,
		span(clientA), span(clientB), ratioText(ratio(clientA, clientB)), wanted(w.unsyncedWant),
		verdict(w.unsyncedWant > 0, short)))
	r.spread = append(r.spread, fmt.Sprintf("| %s wall without sync | %s | %s |", w.name, list(clientA), list(clientB)))
}

func (r *report) fact(f fact) {
	var short, required []string
	ratioCell, other := "", ""
	if len(f.b) > 0 {
		ratioCell, other = ratioText(ratio(f.a, f.b)), span(f.b)
	}
	v := median(f.a)
	if f.want > 0 {
		required = append(required, "ratio "+wanted(f.want))
		short = append(short, shortOf("ratio", ratio(f.a, f.b), f.want)...)
	}
	if f.most > 0 {
		required = append(required, fmt.Sprintf("≤ %g", f.most))
		short = append(short, shortOf("value", v, f.most)...)
	}
	if f.least > 0 {
		required = append(required, fmt.Sprintf("≥ %g", f.least))
		if !(v >= f.least) {
			short = append(short, fmt.Sprintf("value %.4g", v))
		}
	}
	r.facts = append(r.facts, fmt.Sprintf("| %s | %s | %s | %s | %s | %s | %s |", f.what, span(f.a), other, ratioCell,
		strings.Join(required, ", "), verdict(len(required) > 0, short), f.note))
}

func (r *report) fail(name string, err error) {
	// One line whatever a program printed, and no table broken by it.
	text := strings.NewReplacer("\n", "; ", "|", "/").Replace(err.Error())
	r.failed = append(r.failed, fmt.Sprintf("* %s: not measured: %s", name, text))
}

// print writes the report; a and b are the names of the sides.
func (r *report) print(w io.Writer, a, b string) {
	table := func(head string, rows []string) {
		if len(rows) == 0 {
			return
		}
		fmt.Fprintf(w, "\n%s\n|%s\n%s\n", head, strings.Repeat("---|", strings.Count(head, "|")-1), strings.Join(rows, "\n"))
	}
	table(fmt.Sprintf("| work | %[1]s wall s | %[2]s wall s | ratio | required | %[1]s CPU s | %[2]s CPU s | ratio | required | peak RssAnon MiB %[1]s / %[2]s | verdict |", a, b), r.rows)
	table(fmt.Sprintf("| measure | %s | %s | ratio | required | verdict | note |", a, b), r.facts)
	if len(r.failed) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(r.failed, "\n"))
	}
	table(fmt.Sprintf("| every run, s | %s | %s |", a, b), r.spread)
}

// median of an even number of values is the mean of the middle two.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	n := len(s)
	if n == 0 {
		return 0
	}
	return (s[(n-1)/2] + s[n/2]) / 2
}

// ratio of the medians; 0 when there is nothing to divide by.
func ratio(a, b []float64) float64 {
	if m := median(b); m != 0 {
		return median(a) / m
	}
	return 0
}

// shortOf names what falls short of an upper bound. A ratio that could not be formed falls short.
func shortOf(what string, got, want float64) []string {
	if want == 0 || got > 0 && got <= want {
		return nil
	}
	return []string{fmt.Sprintf("%s %.4g", what, got)}
}

func verdict(asked bool, short []string) string {
	switch {
	case !asked:
		return "–"
	case len(short) == 0:
		return "PASS"
	default:
		return "short: " + strings.Join(short, ", ")
	}
}

func wanted(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("≤ %g", v)
}

func ratioText(v float64) string { return fmt.Sprintf("%.3f", v) }

// span is "median (min–max)".
func span(v []float64) string {
	if len(v) < 2 {
		return fmt.Sprintf("%.4g", median(v))
	}
	return fmt.Sprintf("%.4g (%.4g–%.4g)", median(v), slices.Min(v), slices.Max(v))
}

func list(v []float64) string {
	var s []string
	for _, x := range v {
		s = append(s, fmt.Sprintf("%.2f", x))
	}
	return strings.Join(s, " ")
}

func wallOf(m sample) float64   { return m.wall.Seconds() }
func cpuOf(m sample) float64    { return m.cpu.Seconds() }
func clientOf(m sample) float64 { return m.client.Seconds() }
func peakOf(m sample) float64   { return mib(m.peak) }

// pick takes one value of each sample.
func pick(all []sample, of func(sample) float64) []float64 {
	var v []float64
	for _, m := range all {
		v = append(v, of(m))
	}
	return v
}

// peak is the largest of all runs: a limit on memory is not met by a median.
func peak(all []sample) float64 {
	if len(all) == 0 {
		return 0
	}
	return slices.Max(pick(all, peakOf))
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }
func kib(n int64) float64 { return float64(n) / (1 << 10) }
