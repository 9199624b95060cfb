package metrics

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Scope is how many tenants have series of their own: the zero value is none.
type Scope struct {
	all bool
	top int
}

// All gives every tenant its own.
func All() Scope { return Scope{all: true} }

// ParseScope reads "true" (all tenants), "false" (none) or "top:N" (those that use the most).
func ParseScope(s string) (Scope, error) {
	switch s {
	case "true":
		return Scope{all: true}, nil
	case "false":
		return Scope{}, nil
	}
	if n, ok := strings.CutPrefix(s, "top:"); ok {
		if top, err := strconv.Atoi(n); err == nil && top > 0 && top <= 100_000 {
			return Scope{top: top}, nil
		}
	}
	return Scope{}, fmt.Errorf(`per_tenant %q: want true, false or "top:N" with N from 1`, s)
}

// Equal reports whether two scopes are the same.
func (s Scope) Equal(o Scope) bool { return s == o }

// String is what ParseScope reads.
func (s Scope) String() string {
	if s.top > 0 {
		return "top:" + strconv.Itoa(s.top)
	}
	return strconv.FormatBool(s.all)
}

// SetScope changes it, from the next scrape on. A tenant that comes to have counters of its own begins at zero.
func (m *Metrics) SetScope(s Scope) { m.scope.Store(&s) }

// shown is what one scrape shows of tenants.
type shown struct {
	scope Scope
	all   []Tenant        // for sums
	own   []Tenant        // with series of their own
	names map[string]bool // of those
}

// label is the tenant's name where it has series of its own. Of a tenant that came since the last scrape that is not known yet: with
// scope all it has.
func (m *Metrics) label(tenant string) string {
	s := m.shown.Load()
	if s.scope.all || m.scope.Load().all || s.names[tenant] {
		m.counted.Store(tenant, 0)
		return tenant
	}
	return ""
}

// sync takes the tenants from their source for a scrape, and ends the counters of those that are not shown any more.
func (m *Metrics) sync() *shown {
	m.syncing.Lock()
	defer m.syncing.Unlock()
	next := &shown{scope: *m.scope.Load(), names: map[string]bool{}}
	if m.src.Tenants != nil {
		next.all = m.src.Tenants()
	}
	switch {
	case next.scope.all:
		next.own = next.all
	case next.scope.top > 0:
		next.own = slices.Clone(next.all)
		slices.SortFunc(next.own, func(a, b Tenant) int {
			return cmp.Or(cmp.Compare(b.used(), a.used()), strings.Compare(a.Name, b.Name))
		})
		next.own = next.own[:min(len(next.own), next.scope.top)]
	}
	for i := range next.own {
		next.names[next.own[i].Name] = true
	}
	m.shown.Store(next)
	m.counted.Range(func(name, gone any) bool {
		if next.names[name.(string)] {
			return true
		}
		for _, v := range []*prometheus.CounterVec{m.pushes, m.pushBytes, m.pushFiles, m.restored, m.denied, m.verifyBytes, m.verifyErrors} {
			v.DeletePartialMatch(prometheus.Labels{"tenant": name.(string)})
		}
		if gone.(int) == 0 {
			m.counted.Store(name, 1) // who had the label already may still count: once more
		} else {
			m.counted.Delete(name)
		}
		return true
	})
	return next
}
