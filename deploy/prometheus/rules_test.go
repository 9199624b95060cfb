package prometheus_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"vaultd/deploy/prometheus"
	"vaultd/internal/metrics"
)

// run runs a tool of the packages prometheus and prometheus-alertmanager, and wants it to be content.
func run(t *testing.T, tool string, args ...string) {
	t.Helper()
	if out, err := exec.Command(tool, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", tool, strings.Join(args, " "), err, out)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil || len(names) == 0 {
		t.Fatalf("%s: %v, %v", pattern, names, err)
	}
	return names
}

func rules(t *testing.T) []prometheus.Rule {
	t.Helper()
	all, err := prometheus.Rules()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestRulesAreValid(t *testing.T) {
	run(t, "promtool", append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, glob(t, "rules/*.yml")...)...)
}

func TestRulesDoWhatTheirTestsSay(t *testing.T) {
	run(t, "promtool", append([]string{"test", "rules"}, glob(t, "tests/*.yml")...)...)
}

// Every alert says how bad it is, what happened, and what to do about it; and there is a unit test in which it fires.
func TestAlertsTellWhatToDo(t *testing.T) {
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if s := r.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		for _, a := range []string{"summary", "description", "command"} {
			if r.Annotations[a] == "" {
				t.Errorf("%s has no %s", r.Alert, a)
			}
		}
		tests, err := os.ReadFile(strings.Replace(r.File, "rules/", "tests/", 1))
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`alertname: ` + r.Alert + `\n +exp_alerts:\n +- `).Match(tests) {
			t.Errorf("%s: no test in which it fires", r.Alert)
		}
	}
}

// Names are given once: what an expression means does not depend on the order of files.
func TestRulesHaveNamesOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range rules(t) {
		if seen[r.Name()] {
			t.Errorf("%s: there are two rules of this name", r.Name())
		}
		seen[r.Name()] = true
	}
}

// TestMetricsExist wants what rules go by to be recorded, or in the catalogue of internal/metrics (which a test there compares with the registry).
func TestMetricsExist(t *testing.T) {
	exists := map[string]bool{}
	for _, m := range metrics.Catalogue() {
		exists[m.Name] = true
	}
	for _, r := range rules(t) {
		exists[r.Record] = true
	}
	for _, r := range rules(t) {
		for _, name := range prometheus.Metrics(r.Expr) {
			if !exists[name] {
				t.Errorf("%s: there is no %s", r.Name(), name)
			}
		}
	}
}

func TestMetricsOfAnExpression(t *testing.T) {
	got := prometheus.Metrics(`sum without (kind) (rate(vaultd_push_duration_seconds_bucket{a="vaultd_no"}[5m])) / instance:vaultd_tenants_expected:count + vaultd_push_duration_seconds_sum`)
	if strings.Join(got, " ") != "vaultd_push_duration_seconds instance:vaultd_tenants_expected:count" {
		t.Errorf("%q", got)
	}
}

func TestExamples(t *testing.T) {
	for _, name := range glob(t, "prometheus*.yml") {
		run(t, "promtool", "check", "config", "--lint=all", "--lint-fatal", name)
	}
	run(t, "amtool", "check-config", "alertmanager.yml")
}
