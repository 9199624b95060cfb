package main

import (
	"context"
	"encoding/csv"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/quota"
	"vaultd/internal/snapshot"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// metered is a store with one tenant, its state, and its meter.
type metered struct {
	t     *testing.T
	dir   string
	st    *store.Store
	state *tenant.State
	meter *metering
	id    string

	bodies store.Bodies
}

func newMetered(t *testing.T, q tenant.Quota) *metered {
	t.Helper()
	m := &metered{t: t, dir: t.TempDir()}
	must(t, store.Create(m.dir))
	_, _, err := tenant.New(m.dir, tenant.Options{}).AddTenant(tenant.NewTenant{Name: "acme", Policy: tenant.DefaultPolicy(), Schedule: tenant.DefaultSchedule(),
		Retention: tenant.DefaultRetention(), Quota: q})
	must(t, err)
	m.open()
	t.Cleanup(m.close)
	return m
}

func (m *metered) open() {
	known := new(facts)
	var err error
	m.st, err = store.Open(m.dir, known.hook(store.Config{Bodies: m.bodies}))
	must(m.t, err)
	m.state, err = tenant.OpenState(store.ServerDir(m.dir), tenant.StateOptions{})
	must(m.t, err)
	known.state.Store(m.state)
	a, _ := m.st.Tenants().Tenant("acme")
	m.id = a.ID
	m.meter = newMetering(m.st, m.state, slog.New(slog.DiscardHandler))
}

func (m *metered) close() {
	m.t.Helper()
	must(m.t, errors.Join(m.st.Close(), m.state.Close()))
}

// put stores a file as a client would, and tells what the vault looks like then.
func (m *metered) put(name string, size int) error {
	return m.st.With(m.t.Context(), m.id, func(v *appendonly.Vault) (err error) {
		f := v.Session(appendonly.Who{Key: "k", Role: appendonly.Full, Protocol: "test"})
		defer func() { err = errors.Join(err, f.Close(context.Background())) }()
		u, err := f.Create(name, appendonly.CreateOptions{Create: true})
		if err != nil {
			return err
		}
		if _, err := u.WriteAt(make([]byte, size), 0); err != nil {
			u.Abort()
			return err
		}
		return u.Close()
	})
}

// A soft quota is told, and refuses once it was passed for longer than its grace; a restart forgets nothing, and what is raised lets in again.
func TestSoftQuotaLapses(t *testing.T) {
	m := newMetered(t, tenant.Quota{Bytes: 1 << 20, SoftBytes: 100 << 10, Grace: 10 * time.Minute})
	must(t, m.put("a", 90<<10))
	now := time.Now()
	minutes := func(n int) {
		for range n {
			now = now.Add(time.Minute)
			m.meter.sample(now, time.Minute)
		}
	}
	minutes(30)
	if n := m.meter.notice(m.id); n != "" {
		t.Errorf("below: %q", n)
	}
	must(t, m.put("b", 50<<10))
	minutes(5)
	if n := m.meter.notice(m.id); !strings.Contains(n, "above its soft quota, 142 KiB of 100 KiB: from about") {
		t.Errorf("above: %q", n)
	}
	must(t, m.put("c", 1<<10))
	must(t, m.meter.keep())
	m.close()
	m.open()
	minutes(4)
	must(t, m.put("d", 1<<10))
	minutes(2)
	if err := m.put("e", 1<<10); !errors.Is(err, syscall.EDQUOT) || !strings.Contains(err.Error(), "the soft limit, for longer than its grace") {
		t.Errorf("after the grace: %v", err)
	}
	if n := m.meter.notice(m.id); !strings.Contains(n, "nothing more is taken until it is below") {
		t.Errorf("after the grace: %q", n)
	}
	must(t, m.meter.keep())
	m.close()
	m.open() // it refuses from the first session on
	if err := m.put("e", 1<<10); !errors.Is(err, syscall.EDQUOT) {
		t.Errorf("after a restart: %v", err)
	}
	o := &operations{st: m.st, state: m.state, metering: m.meter}
	if x := o.known(mustTenant(t, m.st), m.state.FactsOf(m.id)); !x.Quota.Lapsed {
		t.Errorf("the inventory does not know: %+v", x.Quota)
	}
	more := int64(500 << 10)
	_, err := m.st.Catalog.ChangeTenant("acme", tenant.Change{SoftBytes: &more})
	must(t, err)
	must(t, m.st.Reload())
	minutes(1)
	must(t, m.put("e", 1<<10))
}

// A server that is stopped at once keeps what it measured.
func TestUsageOfAShortLife(t *testing.T) {
	m := newMetered(t, tenant.Quota{})
	must(t, m.put("a", 100<<10))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, m.meter.run(ctx))
	today := time.Now().UTC()
	var days []quota.Day
	must(t, m.state.Usage(today.AddDate(0, 0, -1).Format(time.DateOnly), today.Format(time.DateOnly), m.id, func(r tenant.UsageRow) bool {
		d, err := quota.ParseDay(r.Tenant, r.Date, r.Text)
		must(t, err)
		days = append(days, d)
		return true
	}))
	if len(days) == 0 || days[len(days)-1].Measured == 0 || days[len(days)-1].Last.Live < 100<<10 {
		t.Errorf("kept %+v", days)
	}
}

// heldBodies are of tenants whose snapshots get none any more.
type heldBodies map[string]int64

func (heldBodies) Gives(string) bool { return false }

func (heldBodies) Take(context.Context, []snapshot.Instant, time.Duration) ([]snapshot.Body, error) {
	return nil, errors.New("not asked for")
}

func (h heldBodies) Held(context.Context) (map[string]int64, error) { return h, nil }

// What only snapshots hold is told, kept, and not charged.
func TestHeldBySnapshots(t *testing.T) {
	m := newMetered(t, tenant.Quota{})
	m.close()
	m.bodies = heldBodies{m.id: 7 << 30, "t-gone": 1}
	m.open()
	must(t, m.put("a", 1000))
	must(t, m.meter.hold(t.Context(), time.Now()))
	m.close()
	m.bodies = nil
	m.open()
	must(t, m.put("b", 1000)) // what else is told of its usage leaves it
	u := m.state.FactsOf(m.id).Usage
	if u.Snapshot != 7<<30 || usageFromFacts(u).Snapshots != 7<<30 || usageFromFacts(u).Used() > 1<<20 || u.Used() > 1<<20 {
		t.Errorf("%+v", u)
	}
	if _, there := m.state.Facts()["t-gone"]; there {
		t.Error("nobody is called t-gone")
	}
	must(t, m.meter.hold(t.Context(), time.Now())) // it is a directory now
	if n := m.state.FactsOf(m.id).Usage.Snapshot; n != 0 {
		t.Errorf("a directory, of whose contents snapshots hold %d", n)
	}
}

// brokenBodies can not be looked at.
type brokenBodies struct {
	heldBodies
	looks int
	err   error
}

func (b *brokenBodies) Held(context.Context) (map[string]int64, error) {
	b.looks++
	return b.heldBodies, b.err
}

// A look at snapshots that fails is told and made again soon, and one that was made is not made again for a while.
func TestHeldFails(t *testing.T) {
	m := newMetered(t, tenant.Quota{})
	m.close()
	b := &brokenBodies{heldBodies: heldBodies{m.id: 5}, err: errors.New("no pool")}
	m.bodies = b
	m.open()
	must(t, m.put("a", 1000))
	now := time.Now()
	for step, x := range []struct {
		after time.Duration
		err   error
		fails bool
		held  int64
		looks int
	}{{0, b.err, true, 0, 1}, {sampleEvery, b.err, true, 0, 2}, {2 * sampleEvery, nil, false, 5, 3}, {3 * sampleEvery, b.err, false, 5, 3}, {2*sampleEvery + keepEvery, b.err, true, 5, 4}} {
		b.err = x.err
		if err := m.meter.hold(t.Context(), now.Add(x.after)); (err != nil) != x.fails || b.looks != x.looks || m.state.FactsOf(m.id).Usage.Snapshot != x.held {
			t.Errorf("step %d: %v, %d looks, %d bytes", step, err, b.looks, m.state.FactsOf(m.id).Usage.Snapshot)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if err := m.meter.hold(ended, now.Add(time.Hour)); err != nil {
		t.Errorf("of a server that ends: %v", err)
	}
}

func mustTenant(t *testing.T, st *store.Store) tenant.Tenant {
	t.Helper()
	a, ok := st.Tenants().Tenant("acme")
	if !ok {
		t.Fatal("no tenant")
	}
	return a
}

// What a month cost: of today what is measured, of days without a server that it was carried, and in the shape that spreadsheets read.
func TestBill(t *testing.T) {
	m := newMetered(t, tenant.Quota{})
	must(t, m.put("a", 1_000_000))
	now := time.Now().UTC()
	o := &operations{st: m.st, state: m.state, metering: m.meter}
	in := billRequest{First: now.Format(time.DateOnly), Last: now.AddDate(0, 0, 3).Format(time.DateOnly)}
	out, err := o.bill(t.Context(), in)
	must(t, err)
	if len(out.Lines) != 1 || out.Lines[0].State != "unknown" {
		t.Errorf("before a sample: %+v", out)
	}
	m.meter.sample(now.Add(time.Second), time.Second)
	m.meter.sample(now.Add(61*time.Second), time.Minute)
	out, err = o.bill(t.Context(), in)
	must(t, err)
	if l := out.Lines[0]; len(out.Lines) != 1 || l.Tenant != "acme" || l.Live < 990_000 || l.Live > 1_000_000 || l.State != "measured" || len(out.Totals) != 1 {
		t.Errorf("today: %+v", out)
	}
	var b strings.Builder
	must(t, out.writeCSV(&b))
	rows, err := csv.NewReader(strings.NewReader(b.String())).ReadAll()
	if err != nil || len(rows) != 2 || len(rows[0]) != len(rows[1]) || rows[1][0] != "acme" || rows[1][2] != in.First {
		t.Errorf("%v, %v", rows, err)
	}
	// Without a server, what was kept.
	must(t, m.meter.keep())
	o.metering = nil
	again, err := o.bill(t.Context(), in)
	must(t, err)
	if again.Lines[0].Live != out.Lines[0].Live || again.Lines[0].Measured != out.Lines[0].Measured {
		t.Errorf("kept %+v, was %+v", again.Lines[0], out.Lines[0])
	}
	for _, bad := range []billRequest{{First: "x", Last: in.Last}, {Tenant: "nobody", First: in.First, Last: in.Last}} {
		if _, err := o.bill(t.Context(), bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// The forecast goes by what was used on the days before.
func TestForecastOfTenant(t *testing.T) {
	m := newMetered(t, tenant.Quota{Bytes: 10_000_000})
	var rows []tenant.UsageRow
	now := time.Now().UTC()
	for i := 10; i >= 1; i-- {
		text := `{"u":86400,"m":86400,"a":[` + strconv.Itoa(1_000_000-i*100_000) + `,0,0,0],"z":[0,0,0,0],"p":0}`
		rows = append(rows, tenant.UsageRow{Date: now.AddDate(0, 0, -i).Format(time.DateOnly), Tenant: m.id, Text: []byte(text)})
	}
	must(t, m.state.PutUsage(rows))
	if f := m.meter.forecast(m.id); !f.IsZero() {
		t.Errorf("before it was looked at: %v", f)
	}
	must(t, m.meter.look(now))
	must(t, m.put("a", 1_000_000))
	if days := time.Until(m.meter.forecast(m.id)).Hours() / 24; days < 89 || days > 91 {
		t.Errorf("full in %.1f days, want 90", days)
	}
}
