package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// describe makes m's description.
func describe(m Metric) *prometheus.Desc { return prometheus.NewDesc(m.Name, m.Help, m.Labels, nil) }

// describing is the half of a Collector that tells what there is.
type describing []*prometheus.Desc

// Describe implements prometheus.Collector.
func (d describing) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range d {
		ch <- x
	}
}

func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// seconds is a time as Prometheus has it; 0 for none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// serverCollector is about the server itself.
type serverCollector struct {
	describing
	m *Metrics

	start, reloadOK, reloaded, failures, sessions, ok, took, at *prometheus.Desc
}

func newServerCollector(m *Metrics) *serverCollector {
	c := &serverCollector{m: m, start: describe(startTime), reloadOK: describe(reloadOK), reloaded: describe(reloadTime), failures: describe(authFailures), sessions: describe(sessions),
		ok: describe(collectorOK), took: describe(collectorTook), at: describe(collectorAt)}
	c.describing = describing{c.start, c.reloadOK, c.reloaded, c.failures, c.sessions, c.ok, c.took, c.at}
	return c
}

// Collect implements prometheus.Collector.
func (c *serverCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if c.m.src.Process != nil {
		s := c.m.src.Process()
		gauge(c.start, seconds(s.Started))
		gauge(c.reloadOK, number(s.ReloadOK))
		gauge(c.reloaded, seconds(s.Reloaded))
		count := map[string]int64{}
		for reason, n := range s.Failures {
			count[reasons.or(reason, "protocol")] += n
		}
		for _, reason := range reasons.words {
			ch <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, float64(count[reason]), reason)
		}
		open := map[string]int{}
		for _, p := range usual {
			open[p] = 0
		}
		for p, n := range s.Sessions {
			open[protocols.or(p, other)] += n
		}
		for p, n := range open {
			gauge(c.sessions, float64(n), p)
		}
	}
	if c.m.src.Collectors != nil {
		for _, x := range c.m.src.Collectors() {
			gauge(c.ok, number(x.OK), x.Name)
			gauge(c.took, x.Took.Seconds(), x.Name)
			gauge(c.at, seconds(x.Success), x.Name)
		}
	}
}

// poolCollector is about the pools below the store.
type poolCollector struct {
	describing
	m *Metrics

	health, size, allocated, free, fragmented, scrub, errors *prometheus.Desc
}

func newPoolCollector(m *Metrics) *poolCollector {
	c := &poolCollector{m: m, health: describe(poolHealth), size: describe(poolSize), allocated: describe(poolAllocated), free: describe(poolFree),
		fragmented: describe(poolFragmented), scrub: describe(poolScrub), errors: describe(poolErrors)}
	c.describing = describing{c.health, c.size, c.allocated, c.free, c.fragmented, c.scrub, c.errors}
	return c
}

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(ch chan<- prometheus.Metric) {
	if c.m.src.Pools == nil {
		return
	}
	for _, p := range c.m.src.Pools() {
		gauge := func(d *prometheus.Desc, v float64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, append([]string{p.Name}, labels...)...)
		}
		for _, state := range poolStates.words {
			gauge(c.health, number(state == p.State), state)
		}
		gauge(c.size, float64(p.Size))
		gauge(c.allocated, float64(p.Allocated))
		gauge(c.free, float64(p.Free))
		gauge(c.fragmented, p.Fragmentation)
		gauge(c.scrub, seconds(p.Scrubbed))
		for _, kind := range []string{"read", "write", "checksum", "data"} {
			gauge(c.errors, float64(p.Errors[kind]), kind)
		}
	}
}
