package attack_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/attack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func modelEnv(versioned bool, faults ...string) *attack.Env {
	now := clock()
	m := newModel(versioned, now, 1<<30, faults...)
	m.neighbour = newModel(versioned, now, 1<<30)
	small := newModel(versioned, now, 4<<20, faults...)
	return &attack.Env{
		Owner: m.client("k1"), Twin: m.client("k1"), Thief: m.client("k2"), Neighbour: m.neighbour.client("k3"),
		Versioned: versioned, Limit: 1 << 30, Small: small.client("k1"), SmallLimit: 4 << 20, Now: now, Patience: 30 * time.Millisecond,
		Snapshot: func(_ context.Context, name string) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.snaps[name] = len(m.times) - 1
			return nil
		},
	}
}

func run(t testing.TB, e *attack.Env, cases []attack.Case) map[string]attack.Result {
	t.Helper()
	results, err := attack.Run(t.Context(), e, cases)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]attack.Result{}
	for _, r := range results {
		byName[r.Name] = r
	}
	return byName
}

// A sound vault holds in every case: no case raises a false alarm, and none is not applicable where
// everything can be said.
func TestSoundVaultHolds(t *testing.T) {
	for _, mode := range []string{"strict", "versioned"} {
		t.Run(mode, func(t *testing.T) {
			for _, r := range run(t, modelEnv(mode == "versioned"), attack.Cases()) {
				if r.Outcome != attack.Held {
					t.Errorf("%s: %v: %v", r.Name, r.Outcome, r.Err)
				}
			}
		})
	}
}

func TestCasesAreDescribed(t *testing.T) {
	seen := map[string]bool{}
	promises := map[string]int{}
	for _, c := range attack.Cases() {
		if seen[c.Name] || c.Name == "" {
			t.Errorf("name %q is not unique", c.Name)
		}
		seen[c.Name] = true
		promises[c.Promise]++
		if !strings.HasSuffix(c.Story, ".") || len(c.Story) < 20 {
			t.Errorf("%s: story %q", c.Name, c.Story)
		}
	}
	if len(seen) < 60 {
		t.Errorf("%d cases, want at least 60", len(seen))
	}
	for _, p := range []string{"P1", "P2", "P3", "P4", "P5", "P6", "P7"} {
		if promises[p] == 0 {
			t.Errorf("no case for %s", p)
		}
		delete(promises, p)
	}
	if len(promises) > 0 {
		t.Errorf("cases without a promise: %v", promises)
	}
}

// A single case can be run by itself.
func TestOneCase(t *testing.T) {
	for _, c := range attack.Cases()[:3] {
		if err := c.Run(t.Context(), modelEnv(false)); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		if err := c.Run(t.Context(), modelEnv(false, "overwrite")); err == nil {
			t.Errorf("%s: not noticed", c.Name)
		}
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e := modelEnv(false)
	e.Now = func() time.Time { return time.Unix(0, 0) } // the next second never comes
	if _, err := attack.Run(ctx, e, attack.Cases()); err == nil {
		t.Error("a cancelled run reports no error")
	}
}

// A suite that is told that the thief is confined notices that it is not.
func TestJailedNotices(t *testing.T) {
	for _, prefix := range []string{"", "/.."} {
		e := modelEnv(true)
		e.Thief, e.Jailed = attack.Jail(e.Thief, prefix), true
		broken := 0
		for _, r := range run(t, e, attack.Cases()) {
			if r.Outcome == attack.Broken {
				broken++
			}
		}
		if broken < 50 {
			t.Errorf("prefix %q: only %d cases noticed that the thief reaches everything", prefix, broken)
		}
	}
}
