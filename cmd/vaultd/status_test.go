package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"vaultd/internal/confine"
	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
)

var goldenStatus = flag.Bool("golden-status", false, "write testdata/status anew")

// statusNow is when the statuses of the tests are asked for.
var statusNow = time.Date(2026, 11, 25, 3, 0, 0, 0, time.UTC)

// known is a tenant whose newest restorable push is age old; a negative age: it has none.
func known(name string, age time.Duration) inventory.Known {
	k := inventory.Known{Tenant: inventory.Tenant{ID: "t-" + name, Name: name, Created: statusNow.AddDate(0, -1, 0), Quota: inventory.Quota{Bytes: 100 << 30}}}
	k.Usage = inventory.Usage{Time: statusNow, Live: 10 << 30, Files: 1234}
	if age >= 0 {
		e := push.Event{Time: statusNow.Add(-age), Duration: time.Minute, Result: push.OK, Restorable: true, New: push.Work{Files: 3, Bytes: 4096}, Push: true}
		k.Pushes, _ = k.Pushes.Plus(e, 100)
	}
	return k
}

func failed(k inventory.Known, age time.Duration) inventory.Known {
	k.Pushes, _ = k.Pushes.Plus(push.Event{Time: statusNow.Add(-age), Result: push.Failed, Why: "files failed", Push: true}, 100)
	return k
}

func with(k inventory.Known, change func(*inventory.Known)) inventory.Known {
	change(&k)
	return k
}

// What status says, for stores in all states: its first line, its table, and its exit status.
func TestStatusGolden(t *testing.T) {
	serving := &serverStatus{Listen: []string{"[::]:2222"}, Sessions: 3, Failures: map[string]int64{}, Config: &configStatus{OK: true}, Confinement: confine.Report{Mode: confine.On, Physical: true}}
	full := func(k *inventory.Known) { k.Usage.Live = 100 << 30 }
	for _, c := range []struct {
		name    string
		server  *serverStatus
		tenants []inventory.Known
		expire  map[string]expireOutcome
	}{
		{"well", serving, []inventory.Known{known("acme", time.Hour), known("bob", 30*time.Hour)}, nil},
		{"empty", serving, nil, nil},
		{"new", serving, []inventory.Known{known("acme", time.Hour), with(known("bob", -1), func(k *inventory.Known) { k.Created = statusNow.Add(-time.Hour); k.Usage = inventory.Usage{} })}, nil},
		{"late", serving, []inventory.Known{known("acme", time.Hour), failed(known("bob", 60*time.Hour), time.Hour), known("carol", 50*time.Hour),
			with(known("dave", 2*time.Hour), func(k *inventory.Known) { k.Usage.Live = 95 << 30 })}, nil},
		{"worst", serving, []inventory.Known{known("acme", time.Hour), known("bob", 30*24*time.Hour), known("carol", -1), with(known("dave", time.Hour), full),
			with(known("erin", time.Hour), func(k *inventory.Known) {
				k.ReadOnly = "the vault is read-only after a storage error; ask its operator"
			}),
			with(known("frank", time.Hour), func(k *inventory.Known) { k.Verify.Wrong = 2 }),
			with(known("grace", time.Hour), func(k *inventory.Known) { k.Forecast = statusNow.AddDate(0, 0, 3) }),
			with(known("heidi", 90*24*time.Hour), func(k *inventory.Known) { k.Suspended = true }),
			with(known("ivan", time.Hour), func(k *inventory.Known) {
				k.Rules = []expect.Rule{{MaxAge: 24 * time.Hour, MinBytes: 1 << 20}, {Path: "srv/web", MaxAge: time.Hour}}
			}),
			with(known("judy", time.Hour), func(k *inventory.Known) {
				k.Rules = []expect.Rule{{MaxAge: 24 * time.Hour, Changes: 72 * time.Hour}}
				k.Pushes.Fresh = statusNow.AddDate(0, 0, -9)
			})}, nil},
		{"halted", nil, []inventory.Known{known("acme", time.Hour)}, nil},
		{"stuck", serving, []inventory.Known{known("acme", time.Hour), known("bob", time.Hour)}, map[string]expireOutcome{"acme": {Error: "the journal is not the one that was seen before"}, "bob": {Paused: "root: odd pushes"}}},
		{"server", &serverStatus{Listen: []string{"[::]:2222"}, Failures: map[string]int64{"rate_limited": 7}, Bans: 2, Config: &configStatus{Tried: statusNow}, Confinement: confine.Report{Mode: confine.Off}},
			[]inventory.Known{known("acme", time.Hour)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			inv := inventory.Make(statusNow, c.tenants, expect.Rule{MaxAge: 48 * time.Hour})
			s := statusOf(inv)
			s.Dir, s.Server = "/srv/vault", c.server
			for i := range s.Tenants {
				if e, ok := c.expire[s.Tenants[i].Name]; ok {
					s.Tenants[i].Expire = &e
				}
			}
			s.judge()
			var b bytes.Buffer
			s.show(&b)
			b.WriteString("exit status " + string(rune('0'+s.Verdict.Exit)) + "\n")
			golden := filepath.Join("testdata", "status", c.name+".txt")
			if *goldenStatus {
				if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", b.String(), want)
			}
			if _, err := json.Marshal(s); err != nil {
				t.Error(err)
			}
		})
	}
}

// With 10,000 tenants a status is made without opening a vault, and takes memory in proportion.
func BenchmarkInventory(b *testing.B) {
	var all []inventory.Known
	for range 10_000 {
		all = append(all, known("acme", time.Hour))
	}
	b.ReportAllocs()
	for b.Loop() {
		inventory.Make(statusNow, all, expect.Rule{MaxAge: 48 * time.Hour})
	}
}
