package retention_test

import (
	"context"
	"fmt"
	"testing"

	"vaultd/internal/retention"
	"vaultd/internal/tenant"
)

// What each snapshot alone shows, what its body would free, and what comes and goes in a day.
func TestCosts(t *testing.T) {
	w := newTestWorld(t)
	w.pool = newPool(w)
	w.policy = tenant.Retention{Lock: 2 * day, Keep: &tenant.Keep{Daily: 9}}
	w.put("once") // stands in s0 alone
	w.put("twice")
	w.snapshot("s0")
	w.pool.make(w).Used = 111
	w.put("once")
	w.snapshot("s1")
	w.put("twice")
	w.put("never") // stands in none
	w.put("never")
	w.pass(10 * day)
	w.snapshot("s2")
	w.pool.make(w).Used = 222
	w.put("once") // live, and what it was stood in s1 and s2
	w.snapshot("s3")
	w.settle()
	size := func(n int, name string) int64 { return int64(len(fmt.Sprintf("content %d of %s", n, name))) }
	x, err := w.openExpire(t, func(c *retention.Config) { c.Bodies = w.pool })
	w.must(err)
	defer x.Close()
	p, err := x.Plan(context.Background())
	w.must(err)
	all, err := x.Costs(context.Background(), p)
	w.must(err)
	want := []retention.Amount{{Contents: 1, Bytes: size(1, "once")}, {}, {}, {}}
	if len(all) != len(want) {
		t.Fatalf("%d snapshots", len(all))
	}
	for i, c := range all {
		if c.Name != fmt.Sprint("s", i) || c.Alone != want[i] || c.Kept == "" {
			t.Errorf("%+v, want alone %+v", c, want[i])
		}
	}
	if all[0].Body == nil || all[0].Body.Used != 111 || all[1].Body != nil || all[2].Body == nil || all[2].Body.Used != 222 {
		t.Errorf("bodies: %+v", all)
	}
	churn, err := x.Churn(context.Background(), p)
	w.must(err)
	var in int64
	for i, name := range []string{"once", "twice", "once", "twice", "never", "never", "once"} {
		in += size(i+1, name)
	}
	if churn.Days != 10 || churn.In != in/10 || churn.Out == 0 || churn.Out > churn.In {
		t.Errorf("churn: %+v, %d bytes in 10 days", churn, in)
	}
}
