package retention_test

import (
	"fmt"
	"testing"
	"time"

	"vaultd/internal/retention"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
)

// many is a world with n snapshots with bodies, all of which but the newest may go.
func many(t testing.TB, n int) *world {
	t.Helper()
	w := newWorld(t, t.TempDir())
	t.Cleanup(func() { w.vault.Close(); w.vol.Close() })
	w.pool = newPool(w)
	w.policy.Keep = &tenant.Keep{}
	for i := range n {
		if i%100 == 0 {
			w.put("a")
		}
		w.snapshot(fmt.Sprint("s", i))
	}
	_, snaps, _ := w.history()
	for _, r := range snaps {
		w.pool.add(snapshot.BodyName(r.Note), r, fmt.Sprint(r.Seq), r.Chain.String(), snapshot.HoldTag)
	}
	w.expire()
	w.pass(60 * day)
	w.forged = true // the oracle reads the whole journal at each question
	return w
}

// While 1,000 bodies go, each of which takes its time, pushes begin and end: here in the middle of a call to ZFS that does not return before they have.
func TestPushesGoOn(t *testing.T) {
	const n = 1000
	w := many(t, n)
	pushes := 0
	w.pool.before = func(op, _ string) error {
		if op == "destroy" && len(w.pool.all)%50 == 0 {
			done := make(chan struct{})
			go func() {
				defer close(done)
				w.put(fmt.Sprint("pushed", pushes)) // with the barrier at its end
			}()
			select {
			case <-done:
				pushes++
			case <-time.After(time.Minute):
				t.Error("a push waits for expire")
			}
		}
		return nil
	}
	w.expire()
	if w.report.Bodies != n-1 || len(w.pool.all) != 1 || pushes != n/50 {
		t.Errorf("%d went, %d are left, %d pushes", w.report.Bodies, len(w.pool.all), pushes)
	}
	if got := w.listed(); got != fmt.Sprint("s", n-1) {
		t.Errorf("listed: %s", got)
	}
}

// BenchmarkBodies is what expire itself adds to the end of 1,000 bodies: its chain, stable before and after each, the journal's names.
func BenchmarkBodies(b *testing.B) {
	const n = 1000
	for b.Loop() {
		b.StopTimer()
		w := many(b, n)
		b.StartTimer()
		if !w.expire() || w.report.Bodies != n-1 {
			b.Fatal(w.report)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/n, "µs/body")
}

var _ retention.Bodies = (*pool)(nil)
