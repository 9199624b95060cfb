package tests

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vaultd/deploy/grafana"
	"vaultd/deploy/prometheus"
)

// expected are the alerts that TestAlerts brings about.
var expected = map[string]int{"BackupTooOld alice": 1, "BackupNeverReceived carol": 1, "QuotaNearlyFull dave": 1, "MassDeleteAttempt bob": 1, "SnapshotMissing erin": 1}

// everyMinute is erin's schedule.
const everyMinute = "* * * * *"

// TestAlerts has a Prometheus and an Alertmanager watch a vaultd to which real clients do what alerts are for. Each of the five is told once and cleared once, no other
// is, every panel of the dashboards gets data, and when vaultd is gone that alone is told.
//
// No clock is driven: the least that can be expected of a tenant is a push every two minutes, and a schedule's shortest line is a minute, so that all is over
// in minutes; hurry shortens what rules wait for. erin's snapshots stop because the server's clock was set back by half an hour.
func TestAlerts(t *testing.T) {
	t.Parallel()
	v, addr := newWatched(t)
	m := newMonitor(t, addr, "1s")
	began := time.Now()
	misbehave(t, v)

	firing := func() error { return sameAlerts(m.alerts("firing"), expected) }
	m.until(t, "five alerts", 8*time.Minute, firing)
	t.Logf("five alerts after %v", time.Since(began).Round(time.Second))

	// What there is to do about each: alice and carol push, dave gets room, erin a snapshot, and bob's thief gives up.
	runAs(t, v, "alice", "rsync", "-a", "more/", "vault:more/")
	runAs(t, v, "carol", "sftp", "put more/0 first")
	operator(t, v, "tenant", "set", "dave", "--quota", "100M")
	operator(t, v, "snapshot", "create", "erin")
	m.until(t, "five alerts are over", 4*time.Minute, func() error { return sameAlerts(m.alerts("resolved"), expected) })
	for _, who := range []string{"alice", "carol"} { // now, or they would be late again
		operator(t, v, "expect", "set", who, "--max-age", "26h")
	}
	must(t, firing()) // no more than once, and nothing else

	everyPanelHasData(t, m, "alice")
	drawAll(t, m, "alice", began)
	vaultdIsGone(t, v, m)
}

func sameAlerts(got, want map[string]int) error {
	if !maps.Equal(got, want) {
		return fmt.Errorf("have %v, want %v", got, want)
	}
	return nil
}

func operator(t *testing.T, v *vault, args ...string) {
	t.Helper()
	_, err := v.vaultd(args...)
	must(t, err)
}

func runAs(t *testing.T, v *vault, who string, args ...string) {
	t.Helper()
	if out, err := v.as(who, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", who, strings.Join(args, " "), err, out)
	}
}

// refused runs a client that must fail.
func refused(t *testing.T, v *vault, who string, args ...string) {
	t.Helper()
	out, err := v.as(who, args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v, want a refusal\n%s", who, strings.Join(args, " "), err, out)
	}
}

// newWatched serves a store in which alice and carol are expected soon, dave has little room, and erin gets no snapshots.
func newWatched(t *testing.T) (v *vault, metrics string) {
	t.Helper()
	v, err := newVault(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, v.stop()) })
	metrics = freeAddress(t)
	operator(t, v, "tenant", "set", "alice", "--quota", "10G")
	operator(t, v, "tenant", "add", "carol", "--key", v.key("carol"))
	operator(t, v, "tenant", "add", "dave", "--key", v.key("dave"), "--quota", "20M")
	operator(t, v, "tenant", "add", "erin", "--key", v.key("erin"), "--snapshot", everyMinute, "--push-snapshots=false")
	for _, who := range []string{"alice", "carol"} {
		operator(t, v, "expect", "set", who, "--max-age", "2m")
	}
	// The server goes by what it remembers of its schedules: as it stands after a clock that was ahead was put right.
	ahead, err := json.Marshal(map[string]time.Time{everyMinute: time.Now().Add(30 * time.Minute)})
	must(t, err)
	must(t, os.MkdirAll(filepath.Join(v.dir, "server"), 0o700))
	must(t, os.WriteFile(filepath.Join(v.dir, "server", "schedule.json"), ahead, 0o600))
	must(t, v.serve("--metrics-listen", metrics))
	return v, metrics
}

// misbehave is what clients do; carol does nothing.
func misbehave(t *testing.T, v *vault) {
	t.Helper()
	for name, n := range map[string]int{"tree": 150, "more": 20} {
		must(t, os.Mkdir(filepath.Join(v.root, name), 0o700))
		for i := range n {
			must(t, os.WriteFile(filepath.Join(v.root, name, fmt.Sprint(i)), noise(fmt.Sprint(name, i), 2000), 0o600))
		}
	}
	must(t, os.WriteFile(filepath.Join(v.root, "big"), noise("big", 19_600_000), 0o600))
	runAs(t, v, "alice", "rsync", "-a", "tree/", "vault:tree/")
	runAs(t, v, "alice", "rsync", "-a", "vault:tree/", "back/")
	refused(t, v, "alice", "sftp", "rm tree/1")
	runAs(t, v, "bob", "rsync", "-a", "tree/", "vault:tree/")
	runAs(t, v, "dave", "scp", "big", "vault:big")
	runAs(t, v, "erin", "sftp", "put big big")
	runAs(t, v, "bob", "sftp", "-rm tree/*") // 150 removes, refused one by one; sftp goes on after each
}

// everyPanelHasData asks what a browser would ask, for each panel of each dashboard.
func everyPanelHasData(t *testing.T, m *monitor, tenant string) {
	t.Helper()
	all, err := grafana.Dashboards()
	must(t, err)
	panels := 0
	for _, d := range all {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				got, err := m.ask(q.Query(tenant, "1m"), time.Time{}, 0)
				must(t, err)
				numbers := 0
				for _, s := range got {
					if !math.IsNaN(s.Values[0]) {
						numbers++
					}
				}
				if numbers == 0 {
					t.Errorf("%s, %q, %s: no data (%d series)\n%s", d.UID, p.Title, q.Ref, len(got), q.Expr)
				}
				panels++
			}
		}
	}
	t.Logf("%d queries of panels have data", panels)
}

// vaultdIsGone kills the server while somebody is late: only that the server is gone is told.
func vaultdIsGone(t *testing.T, v *vault, m *monitor) {
	t.Helper()
	operator(t, v, "expect", "set", "carol", "--max-age", "1m")
	m.until(t, "Prometheus knows what is expected of carol", time.Minute, func() error {
		_, err := m.number(`vaultd_tenant_max_age_seconds{tenant="carol"} == 60`)
		return err
	})
	must(t, v.kill())
	m.until(t, "VaultdDown", time.Minute, func() error {
		if m.alerts("firing")["VaultdDown"] != 1 {
			return errors.New("it was not told")
		}
		return nil
	})
	m.until(t, "Alertmanager silences that carol is late", 3*time.Minute, func() error {
		resp, err := http.Get("http://" + m.am + "/api/v2/alerts")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return err
		}
		var have []struct {
			Labels map[string]string `json:"labels"`
			Status struct {
				State string `json:"state"`
			} `json:"status"`
		}
		if err := json.Unmarshal(text, &have); err != nil {
			return err
		}
		for _, a := range have {
			if a.Labels["alertname"] == "BackupTooOld" && a.Labels["tenant"] == "carol" && a.Status.State == "suppressed" {
				return nil
			}
		}
		return fmt.Errorf("it has %s", text)
	})
	want := maps.Clone(expected)
	want["VaultdDown"] = 1
	must(t, sameAlerts(m.alerts("firing"), want))
}

// What an alert says to type can be typed.
func TestAlertsNameCommands(t *testing.T) {
	t.Parallel()
	rules, err := prometheus.Rules()
	must(t, err)
	seen := 0
	for _, r := range rules {
		for _, c := range commands(r) {
			words := strings.Fields(c)[1:]
			for i, w := range words {
				if strings.HasPrefix(w, "{{") || strings.ToUpper(w) == w {
					words = words[:i]
					break
				}
			}
			flags := []string{}
			for _, w := range strings.Fields(c) {
				if strings.HasPrefix(w, "--") {
					flags = append(flags, w)
				}
			}
			out, err := exec.Command(os.Getenv(vaultdBin), append(words[:len(words):len(words)], "--help")...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Usage:\n  vaultd "+strings.Join(words, " ")) {
				t.Errorf("%s: %s: %v\n%s", r.Alert, c, err, out)
			}
			for _, f := range flags {
				if !strings.Contains(string(out), f+" ") {
					t.Errorf("%s: %s: there is no %s", r.Alert, c, f)
				}
			}
			seen++
		}
	}
	if seen < 20 {
		t.Errorf("%d commands", seen)
	}
}
