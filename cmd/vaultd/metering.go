package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"vaultd/internal/inventory"
	"vaultd/internal/quota"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// How often usage is sampled and kept, and how often growth is looked at anew.
const (
	sampleEvery = time.Minute
	keepEvery   = 10 * time.Minute
	growthEvery = time.Hour
	growthDays  = 29 // a day more than Growth looks at: the clock may pass midnight
)

// metering keeps account of what tenants use: by the day, and against their soft limits.
type metering struct {
	st    *store.Store
	state *tenant.State
	log   *slog.Logger
	meter *quota.Meter
	health
	held time.Time // when it was last found out what snapshots hold; of run's goroutine

	mu     sync.Mutex         // guards growth
	growth map[string]float64 // bytes a day
}

// newMetering goes on from what state.db has.
func newMetering(st *store.Store, state *tenant.State, log *slog.Logger) *metering {
	u := &metering{st: st, state: state, log: log, health: health{name: "usage"}, growth: map[string]float64{}}
	newest := map[string]quota.Day{}
	err := state.NewestUsage(3, func(r tenant.UsageRow) bool {
		if d, err := quota.ParseDay(r.Tenant, r.Date, r.Text); err == nil {
			newest[r.Tenant] = d
		}
		return true
	})
	if err != nil {
		log.Error("usage of earlier days can not be read", "error", err.Error())
	}
	days := make([]quota.Day, 0, len(newest))
	for _, d := range newest {
		days = append(days, d)
	}
	u.meter = quota.NewMeter(days, u.load)
	u.sample(time.Now(), 0) // before anybody comes: who was above the soft limit for too long still is
	return u
}

// load finds what is kept of a day.
func (u *metering) load(id string, day time.Time) (quota.Day, bool) {
	date := day.Format(time.DateOnly)
	text, err := u.state.UsageOn(date, id)
	if err != nil || text == nil {
		return quota.Day{}, false
	}
	d, err := quota.ParseDay(id, date, text)
	return d, err == nil
}

// usageFromFacts is a tenant's usage in the words of invoices and metrics. The journal's records are charged for the past that they tell.
func usageFromFacts(f inventory.Usage) quota.Usage {
	return quota.Usage{Live: f.Live, Versions: f.Versions + f.Journal, Staging: f.Staging, Snapshots: f.Snapshot}
}

// sample takes one, and has the store refuse what lapsed soft limits refuse.
func (u *metering) sample(now time.Time, elapsed time.Duration) {
	facts, have := u.state.Facts(), map[string]quota.Sample{}
	tenants := u.st.Tenants().Tenants()
	for _, t := range tenants {
		have[t.ID] = quota.Sample{Usage: usageFromFacts(facts[t.ID].Usage), Soft: t.Quota.SoftBytes, Grace: t.Quota.Grace}
	}
	u.meter.Observe(now, elapsed, have)
	for _, t := range tenants {
		u.st.SetLapsed(t.ID, u.meter.Soft(t.ID).Lapsed())
	}
}

// keep writes what is new. What can not be written is tried again.
func (u *metering) keep() error {
	rows := u.meter.Rows()
	kept := make([]tenant.UsageRow, 0, len(rows))
	for i := range rows {
		text, err := rows[i].Text()
		if err != nil {
			return err
		}
		kept = append(kept, tenant.UsageRow{Date: rows[i].Day.Format(time.DateOnly), Tenant: rows[i].Tenant, Text: text})
	}
	if err := u.state.PutUsage(kept); err != nil {
		return err
	}
	u.meter.Written(rows)
	return nil
}

// look finds out by how much tenants grow.
func (u *metering) look(now time.Time) error {
	past := map[string][]quota.Level{}
	today := now.UTC()
	err := u.state.Usage(today.AddDate(0, 0, -growthDays).Format(time.DateOnly), today.Format(time.DateOnly), "", func(r tenant.UsageRow) bool {
		if d, err := quota.ParseDay(r.Tenant, r.Date, r.Text); err == nil {
			past[r.Tenant] = append(past[r.Tenant], quota.Levels([]quota.Day{d})...)
		}
		return true
	})
	growth := make(map[string]float64, len(past))
	for id, levels := range past {
		if g := quota.Growth(levels, now); g != 0 {
			growth[id] = g
		}
	}
	if err != nil {
		return err
	}
	u.mu.Lock()
	u.growth = growth
	u.mu.Unlock()
	return nil
}

// hold finds out what only snapshots hold, on ZFS, when that is due; elsewhere it is nothing, also for a tenant that was there once. A look that failed is made again the next time, so that what is shown is
// never older than renewed says.
func (u *metering) hold(ctx context.Context, now time.Time) error {
	if !u.held.IsZero() && now.Sub(u.held) < keepEvery {
		return nil
	}
	held, err := u.st.Held(ctx)
	if ctx.Err() != nil { // the server ends
		return nil
	}
	if err != nil {
		return fmt.Errorf("find what snapshots hold: %w", err)
	}
	u.held = now
	facts := u.state.Facts()
	for _, t := range u.st.Tenants().Tenants() {
		if n := held[t.ID]; n != facts[t.ID].Usage.Snapshot {
			u.state.Update(t.ID, func(k *inventory.Facts) { k.Usage.Snapshot = n })
		}
	}
	return nil
}

// forecast is the day on which a tenant is full, as things go; zero: it is not known, or never.
func (u *metering) forecast(id string) time.Time {
	t, ok := u.st.Tenants().TenantByID(id)
	if !ok {
		return time.Time{}
	}
	u.mu.Lock()
	growth := u.growth[id]
	u.mu.Unlock()
	limit := t.Quota.Bytes
	if limit == 0 && t.Quota.Grace > 0 {
		limit = t.Quota.SoftBytes
	}
	full, _ := quota.FullOn(growth, usageFromFacts(u.state.FactsOf(id).Usage).Used(), limit, time.Now())
	return full
}

// run samples until ctx is cancelled, and keeps what it knows at the end.
func (u *metering) run(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	last := time.Now()
	kept, looked := last, time.Time{}
	for {
		begin := time.Now()
		var err error
		if looked.IsZero() || begin.Sub(looked) >= growthEvery {
			err, looked = u.look(begin), begin
		}
		err = errors.Join(err, u.hold(ctx, begin))
		if begin.Sub(kept) >= keepEvery {
			err, kept = errors.Join(err, u.keep()), begin
		}
		u.renewed(begin, err)
		if err != nil {
			u.log.Error("usage", "error", err.Error())
		}
		select {
		case <-ctx.Done():
			now := time.Now()
			u.sample(now, now.Sub(last))
			if err := u.keep(); err != nil {
				u.log.Error("usage of today is not kept", "error", err.Error())
			}
			return nil
		case <-tick.C:
		}
		now := time.Now()
		u.sample(now, now.Sub(last)) // Sub goes by the monotonic clock
		last = now
	}
}

// health is how something that keeps values current is doing.
type health struct {
	name string

	hmu     sync.Mutex // guards what follows
	ok      bool
	took    time.Duration
	success time.Time
}

// renewed notes how an attempt went that began at begin.
func (h *health) renewed(begin time.Time, err error) {
	h.hmu.Lock()
	defer h.hmu.Unlock()
	h.ok, h.took = err == nil, time.Since(begin)
	if err == nil {
		h.success = time.Now()
	}
}

// notice words for a tenant that it is above its soft quota; "": it is not.
func (u *metering) notice(id string) string {
	s := u.meter.Soft(id)
	switch {
	case !s.Exceeded():
		return ""
	case s.Lapsed():
		return fmt.Sprintf("this vault is above its soft quota, %s of %s, for longer than was granted: nothing more is taken until it is below, or your provider raises it. Restoring goes on.",
			size(s.Used), size(s.Limit))
	case s.Grace > 0:
		return fmt.Sprintf("this vault is above its soft quota, %s of %s: from about %s on nothing more is taken. Ask your provider for more room before then.",
			size(s.Used), size(s.Limit), time.Now().Add(s.Left).UTC().Format("2006-01-02 15:04 UTC"))
	}
	return fmt.Sprintf("this vault is above its soft quota, %s of %s", size(s.Used), size(s.Limit))
}
