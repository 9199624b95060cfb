package metrics

import (
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// What is known of tenants is the bulk of a scrape: 10,000 tenants are 170,000 samples. So it does not go through a registry, which sends each sample
// through a channel, hashes and sorts it: the families are made as a registry would return them (sorted, no sample twice), with labels that
// are made once for each tenant.

// tenantGauges are those of one tenant, in the order of values.
var tenantGauges = []Metric{quotaBytes, softQuotaBytes, files, created, lastSuccess, lastAttempt, maxAge, suspended, snapshots, lastSnapshot, oldestSnapshot, snapshotEvery,
	verifySuccess, verifyProgress}

func (t *Tenant) values() [14]float64 {
	return [...]float64{float64(t.Quota), float64(t.SoftQuota), float64(t.Files), seconds(t.Created), seconds(t.LastSuccess), seconds(t.LastAttempt), t.MaxAge.Seconds(),
		number(t.Suspended), float64(t.Snapshots), seconds(t.NewestSnapshot), seconds(t.OldestSnapshot), t.SnapshotInterval.Seconds(), seconds(t.Verified),
		min(max(t.VerifyProgress, 0), 1)}
}

// usedKinds are the kinds of what is used; the last one is there on ZFS only.
var usedKinds = []string{"live", "versions", "staging", "snapshots"}

// tenantStates are the states of vaultd_tenants.
var tenantStates = []string{"active", "suspended", "readonly"}

// tenantCollector is the one collector of everything about tenants that is not counted.
type tenantCollector struct {
	mu     sync.Mutex // guards labels
	labels map[string]*tenantLabels
}

// tenantLabels are made once; they are shared by scrapes and never changed.
type tenantLabels struct {
	tenant []*dto.LabelPair
	used   [4][]*dto.LabelPair // sorted by name, as everywhere
}

func pair(name, value string) *dto.LabelPair {
	return &dto.LabelPair{Name: proto.String(name), Value: proto.String(value)}
}

// labelsOf finds the labels of tenants, and forgets those of others.
func (c *tenantCollector) labelsOf(list []Tenant) []*tenantLabels {
	c.mu.Lock()
	defer c.mu.Unlock()
	next, out := make(map[string]*tenantLabels, len(list)), make([]*tenantLabels, len(list))
	for i := range list {
		name := list[i].Name
		l := c.labels[name]
		if l == nil {
			t := pair("tenant", strings.ToValidUTF8(name, "?"))
			l = &tenantLabels{tenant: []*dto.LabelPair{t}}
			for k, kind := range usedKinds {
				l.used[k] = []*dto.LabelPair{pair("kind", kind), t}
			}
		}
		next[name], out[i] = l, l
	}
	c.labels = next
	return out
}

// family collects samples of one gauge; the memory of all of them is one piece each.
type family struct {
	*dto.MetricFamily
	metrics []dto.Metric
	gauges  []dto.Gauge
	values  []float64
}

func newFamily(m Metric, most int) *family {
	return &family{MetricFamily: &dto.MetricFamily{Name: proto.String(m.Name), Help: proto.String(m.Help), Type: dto.MetricType_GAUGE.Enum(), Metric: make([]*dto.Metric, 0, most)},
		metrics: make([]dto.Metric, most), gauges: make([]dto.Gauge, most), values: make([]float64, most)}
}

func (f *family) add(labels []*dto.LabelPair, value float64) {
	n := len(f.Metric)
	x, g := &f.metrics[n], &f.gauges[n]
	f.values[n] = value
	g.Value = &f.values[n]
	x.Label, x.Gauge = labels, g
	f.Metric = append(f.Metric, x)
}

// gather makes the families of what a scrape shows, none of them empty.
func (c *tenantCollector) gather(s *shown) []*dto.MetricFamily {
	count := map[string]int{}
	for i := range s.all {
		count[s.all[i].State]++
	}
	states := newFamily(tenants, len(tenantStates))
	for _, state := range tenantStates {
		states.add([]*dto.LabelPair{pair("state", state)}, float64(count[state]))
	}
	out := []*dto.MetricFamily{states.MetricFamily}
	if len(s.own) == 0 {
		return out
	}
	gauges := make([]*family, len(tenantGauges))
	for k, m := range tenantGauges {
		gauges[k] = newFamily(m, len(s.own))
		out = append(out, gauges[k].MetricFamily)
	}
	used := newFamily(usedBytes, len(s.own)*len(usedKinds))
	labels := c.labelsOf(s.own)
	for i := range s.own {
		t := &s.own[i]
		for k, v := range t.values() {
			gauges[k].add(labels[i].tenant, v)
		}
		for k, v := range [...]int64{t.Live, t.Versions, t.Staging, t.Snapshot} {
			if k < 3 || v >= 0 {
				used.add(labels[i].used[k], float64(v))
			}
		}
	}
	return append(out, used.MetricFamily)
}
