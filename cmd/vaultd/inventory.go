package main

import (
	"errors"
	"strings"
	"sync"
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/tenant"
)

// errNoState says that what the server learned can not be read, and with it nothing that is judged by it.
var errNoState = errors.New("server/state.db can not be read: move it away, and last-used times and the history of pushes begin anew")

// intervals remembers how often schedules take snapshots: finding out takes milliseconds, and there are few schedules.
var intervals struct {
	mu   sync.Mutex
	have map[string]time.Duration
}

func interval(s tenant.Schedule) time.Duration {
	key := strings.Join(s.Snapshots, "\n")
	intervals.mu.Lock()
	defer intervals.mu.Unlock()
	d, ok := intervals.have[key]
	if !ok {
		if len(intervals.have) > 1000 || intervals.have == nil {
			intervals.have = map[string]time.Duration{}
		}
		d = s.Interval()
		intervals.have[key] = d
	}
	return d
}

// known is what an inventory is made of, for one tenant.
func (o *operations) known(t tenant.Tenant, f inventory.Facts) inventory.Known {
	k := inventory.Known{Rules: t.Expect, Tenant: inventory.Tenant{ID: t.ID, Name: t.Name, Created: t.Created, Suspended: t.Suspended, Facts: f,
		Quota: inventory.Quota{Bytes: t.Quota.Bytes, Files: t.Quota.Files}, Interval: interval(t.Schedule)}}
	if t.Removal != nil {
		k.Removing = t.Removal.Due
	}
	k.Quota.SoftBytes = t.Quota.SoftBytes
	if o.forecast != nil {
		k.Forecast = o.forecast(t.ID)
	}
	if o.metering != nil {
		s := o.metering.meter.Soft(t.ID)
		if k.Quota.Lapsed = s.Lapsed(); s.Exceeded() && s.Grace > 0 {
			k.Quota.Refused = time.Now().Add(s.Left).UTC().Truncate(time.Minute)
		}
	}
	return k
}

// inventory is everything that is known of the store. It opens no vault and walks no tree.
func (o *operations) inventory() (inventory.Inventory, error) {
	if o.state == nil {
		return inventory.Inventory{}, errNoState
	}
	tenants := o.st.Tenants().Tenants()
	known := make([]inventory.Known, len(tenants))
	for i, t := range tenants {
		known[i] = o.known(t, o.state.FactsOf(t.ID)) // not Facts: that copies all of them once more, for each scrape
	}
	inv := inventory.Make(time.Now(), known, o.common())
	if o.pool != nil {
		inv.Pool = o.pool()
	}
	return inv, nil
}

// each calls f with the tenants of the inventory, one after the other and ordered by name, in the same place, which f must not keep: all
// of them at once would be a large part of what a scrape allocates.
func (o *operations) each(f func(*inventory.Tenant)) error {
	if o.state == nil {
		return errNoState
	}
	now, common := time.Now(), o.common()
	var k inventory.Known
	var judged inventory.Tenant
	for _, t := range o.st.Tenants().Tenants() {
		k = o.known(t, o.state.FactsOf(t.ID))
		judged = k.Judged(now, common)
		f(&judged)
	}
	return nil
}

// standing is one tenant of it.
func (o *operations) standing(tenantID string) (inventory.Tenant, bool) {
	t, ok := o.st.Tenants().TenantByID(tenantID)
	if !ok || o.state == nil {
		return inventory.Tenant{}, false
	}
	k := o.known(t, o.state.FactsOf(tenantID))
	return k.Judged(time.Now(), o.common()), true
}

// rule is what is expected of tenants that have no expectation of their own.
func (e ExpectConfig) rule() expect.Rule { return expect.Rule{MaxAge: e.MaxAge.Duration} }
