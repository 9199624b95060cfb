package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/inventory"
	"vaultd/internal/metrics"
	"vaultd/internal/push"
	"vaultd/internal/session"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// scraped is a server's metrics, all of them, on a store of n tenants that all have pushed; the function scrapes its listener as a Prometheus does, and
// returns the text, until the next call.
func scraped(t testing.TB, n int) func() []byte {
	t.Helper()
	a, conf, log := &app{dir: t.TempDir()}, DefaultConfig(), slog.New(slog.DiscardHandler)
	must(t, a.initStore(&conf))
	db := tenant.New(a.dir, tenant.Options{})
	for i := range n {
		_, _, err := db.AddTenant(conf.newTenant(fmt.Sprintf("tenant-%05d", i)))
		must(t, err)
	}
	known := new(facts)
	st, err := store.Open(a.dir, known.hook(conf.storeConfig(log)))
	must(t, err)
	t.Cleanup(func() { st.Close() })
	state, err := tenant.OpenState(store.ServerDir(a.dir), tenant.StateOptions{Log: log, Every: time.Hour})
	must(t, err)
	t.Cleanup(func() { state.Close() })
	keys, err := a.hostKeys(&conf)
	must(t, err)
	acc := newAccess(st, state)
	sc := conf.sshdConfig(keys)
	sc.Access, sc.Log, sc.Exec = acc, log, session.HandlerFunc(func(context.Context, *session.Session) error { return nil })
	door, err := sshd.New(sc)
	must(t, err)
	live := &liveConfig{a: a, conf: conf, log: log, store: st, loaded: time.Now()}
	count, meter := newScraping(st, state, metrics.All(), log), newMetering(st, state, log)
	count.live, count.health = live, []*health{&meter.health}
	count.ops = &operations{st: st, state: state, common: conf.Expect.rule, metering: meter, forecast: meter.forecast, door: door}
	for i, x := range st.Tenants().Tenants() {
		e := push.Event{Time: time.Now(), Session: fmt.Sprint("s", i), Protocol: []string{"rsync", "sftp", "restic"}[i%3], Key: "LUoiPqOgBte2ExSz", Push: true, Duration: time.Minute,
			New: push.Work{Files: 2, Bytes: 100}, Result: push.OK, Restorable: true}
		state.Session(x.ID, e)
		count.ended(x.ID, e)
		count.read(x.ID, 1, 0)
		state.Update(x.ID, func(f *inventory.Facts) {
			f.Usage = inventory.Usage{Time: time.Now(), Live: 1 << 30, Versions: 1 << 28, Files: 1000}
			f.Snapshots = inventory.Snapshots{Count: 7, Newest: time.Now(), Oldest: time.Now().AddDate(0, -1, 0)}
		})
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- metrics.NewServer(count.m, metrics.Security{}, log).Serve(ctx, l) }()
	tr := new(http.Transport)
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		<-ended
	})
	c, buf := &http.Client{Transport: tr}, make([]byte, 0, n*8192+1<<16)
	return func() []byte {
		resp, err := c.Get("http://" + l.Addr().String() + "/metrics")
		must(t, err)
		defer resp.Body.Close()
		for buf = buf[:0]; len(buf) < cap(buf); {
			k, err := resp.Body.Read(buf[len(buf):cap(buf)])
			if buf = buf[:len(buf)+k]; err == io.EOF {
				return buf
			}
			must(t, err)
		}
		t.Fatalf("more than %d bytes", cap(buf))
		return nil
	}
}

// A whole scrape, from the inventory with pushes of all tenants to the text, allocates less than 7 MiB for 1,000 of them (the promise is 8), with
// what its client allocates. Its time is for the benchmark.
func TestScrapeAllocatesWhole(t *testing.T) {
	scrape := scraped(t, 1000)
	text := string(scrape())
	for _, want := range []string{`vaultd_tenant_used_bytes{kind="live",tenant="tenant-00999"} 1.073741824e+09`, `vaultd_tenant_last_push_success_timestamp_seconds{tenant="tenant-00000"}`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s", want)
		}
	}
	var list []uint64
	for range 5 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		scrape()
		runtime.ReadMemStats(&after)
		list = append(list, after.TotalAlloc-before.TotalAlloc)
	}
	least := slices.Min(list)
	t.Logf("%.2f MiB, text of %.2f MiB", float64(least)/(1<<20), float64(len(text))/(1<<20))
	if least > 7<<20 {
		t.Errorf("%d bytes", least)
	}
}

func BenchmarkScrapeWhole(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			scrape := scraped(b, n)
			scrape()
			b.ReportAllocs()
			for b.Loop() {
				b.ReportMetric(float64(len(scrape()))/(1<<20), "MiB-text")
			}
		})
	}
}
