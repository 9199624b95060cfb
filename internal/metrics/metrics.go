package metrics

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Sources are where gauges come from. Each is called once for a scrape and must not wait for anything; nil: there are none such.
type Sources struct {
	Version, Revision string
	Tenants           func() []Tenant
	Process           func() Process
	Pools             func() []Pool
	Collectors        func() []Collector
}

// Process is how the server is.
type Process struct {
	Started  time.Time
	ReloadOK bool
	Reloaded time.Time        // when the configuration in force was read
	Failures map[string]int64 // connections that ended without a login, by reason; other reasons than those of the catalogue count as "protocol"
	Sessions map[string]int   // open now, by protocol
}

// Tenant is what is shown of a tenant.
type Tenant struct {
	Name                           string
	State                          string // active, suspended or readonly
	Suspended                      bool
	Created                        time.Time
	Quota, SoftQuota               int64
	Live, Versions, Staging        int64 // bytes
	Snapshot                       int64 // bytes that only file system snapshots hold; less than 0: there are no such snapshots
	Files                          int64
	LastSuccess, LastAttempt       time.Time
	MaxAge                         time.Duration
	Snapshots                      int64
	NewestSnapshot, OldestSnapshot time.Time
	SnapshotInterval               time.Duration
	Verified                       time.Time
	VerifyProgress                 float64
}

func (t *Tenant) used() int64 { return t.Live + t.Versions + t.Staging + max(t.Snapshot, 0) }

// Collector is something that keeps values current.
type Collector struct {
	Name    string
	OK      bool // the last time
	Took    time.Duration
	Success time.Time // the last one
}

// Pool is a ZFS pool.
type Pool struct {
	Name                  string
	State                 string // as zpool words it, in lower case
	Size, Allocated, Free uint64
	Fragmentation         float64 // 0 to 1
	Scrubbed              time.Time
	Errors                map[string]uint64 // by type: read, write, checksum, data
}

// Metrics are the numbers of one server.
type Metrics struct {
	src   Sources
	reg   *prometheus.Registry
	scope atomic.Pointer[Scope]
	shown atomic.Pointer[shown]

	tenants tenantCollector
	syncing sync.Mutex // one sync at a time
	counted sync.Map   // names of tenants with counters of their own -> how many scrapes they were not shown in

	pushes, pushBytes, pushFiles, restored, denied, verifyBytes, verifyErrors *prometheus.CounterVec // with the label tenant
	sessionsTotal, snapshotOps                                                *prometheus.CounterVec
	duration, size                                                            *prometheus.HistogramVec
	auditErrors                                                               prometheus.Counter
}

// New makes the metrics of a server.
func New(src Sources, scope Scope) *Metrics {
	counter := func(m Metric) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: m.Name, Help: m.Help}, m.Labels)
	}
	histogram := func(m Metric, buckets []float64) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: m.Name, Help: m.Help, Buckets: buckets, NativeHistogramBucketFactor: 1.5,
			NativeHistogramMaxBucketNumber: 64, NativeHistogramMinResetDuration: time.Hour}, m.Labels)
	}
	m := &Metrics{src: src, reg: prometheus.NewRegistry(), pushes: counter(pushes), pushBytes: counter(pushBytes), pushFiles: counter(pushFiles), restored: counter(restoreBytes),
		denied: counter(denied), verifyBytes: counter(verifyBytes), verifyErrors: counter(verifyErrors), sessionsTotal: counter(sessionsTotal), snapshotOps: counter(snapshotOps),
		duration:    histogram(pushDuration, durationBuckets),
		size:        histogram(pushSize, sizeBuckets()),
		auditErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: auditErrors.Name, Help: auditErrors.Help})}
	m.scope.Store(&scope)
	m.shown.Store(&shown{})
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: buildInfo.Name, Help: buildInfo.Help,
		ConstLabels: prometheus.Labels{"version": src.Version, "revision": src.Revision, "goversion": runtime.Version()}})
	info.Set(1)
	m.reg.MustRegister(info, m.pushes, m.pushBytes, m.pushFiles, m.restored, m.denied, m.verifyBytes, m.verifyErrors, m.sessionsTotal, m.snapshotOps,
		m.duration, m.size, m.auditErrors, newServerCollector(m), newPoolCollector(m),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, p := range usual { // so that the first one is an increase
		m.sessionsTotal.WithLabelValues(p)
	}
	for _, r := range []string{"ok", "failed"} {
		for _, operation := range []string{"create", "expire", "hold"} {
			m.snapshotOps.WithLabelValues(operation, r)
		}
	}
	return m
}

// durationBuckets are from a second to half a day, in seconds.
var durationBuckets = []float64{1, 5, 15, 60, 300, 900, 1800, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 12 * 3600}

// sizeBuckets are from 1 MiB to 1 TiB.
func sizeBuckets() []float64 { return prometheus.ExponentialBuckets(1<<20, 4, 11) }

// Push counts a push that has ended: what it brought that was new, and how it ended.
func (m *Metrics) Push(tenant, protocol, result string, files, bytes int64, took time.Duration) {
	tenant, protocol, result = m.label(tenant), protocols.or(protocol, other), results.or(result, other)
	m.pushes.WithLabelValues(tenant, protocol, result).Inc()
	m.pushBytes.WithLabelValues(tenant, protocol).Add(float64(max(bytes, 0)))
	m.pushFiles.WithLabelValues(tenant, protocol).Add(float64(max(files, 0)))
	m.duration.WithLabelValues(protocol, result).Observe(took.Seconds())
	m.size.WithLabelValues(protocol, result).Observe(float64(max(bytes, 0)))
}

// Restored counts bytes of contents that a client read.
func (m *Metrics) Restored(tenant, protocol string, bytes int64) {
	if bytes > 0 {
		m.restored.WithLabelValues(m.label(tenant), protocols.or(protocol, other)).Add(float64(bytes))
	}
}

// Denied counts requests that were refused. operation is a word of appendonly's, or "exec" or "quota".
func (m *Metrics) Denied(tenant, protocol, operation string, n int64) {
	if n > 0 {
		m.denied.WithLabelValues(m.label(tenant), protocols.or(protocol, other), operationOf(operation)).Add(float64(n))
	}
}

// operationOf is the label for an operation in the words of refusals.
func operationOf(op string) string {
	switch op {
	case "extend", "repeat", "replace":
		op = "overwrite"
	case "settimes":
		op = "setstat"
	}
	return operations.or(op, other)
}

// Session counts a session that has ended.
func (m *Metrics) Session(protocol string) {
	m.sessionsTotal.WithLabelValues(protocols.or(protocol, other)).Inc()
}

// Snapshot counts an operation on snapshots: create, expire or hold.
func (m *Metrics) Snapshot(operation string, n int64, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	m.snapshotOps.WithLabelValues(words("create", "expire", "hold").or(operation, other), result).Add(float64(max(n, 0)))
}

// Verified counts what was read again of a tenant, and what of it was wrong.
func (m *Metrics) Verified(tenant string, bytes, wrong int64) {
	t := m.label(tenant)
	m.verifyBytes.WithLabelValues(t).Add(float64(max(bytes, 0)))
	if wrong > 0 {
		m.verifyErrors.WithLabelValues(t).Add(float64(wrong))
	}
}

// AuditError counts that audit lines could not be written into a journal.
func (m *Metrics) AuditError() { m.auditErrors.Inc() }
