package grafana_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/deploy/grafana"
	"vaultd/deploy/prometheus"
	"vaultd/internal/metrics"
)

func dashboards(t *testing.T) []grafana.Dashboard {
	t.Helper()
	all, err := grafana.Dashboards()
	if err != nil || len(all) != 2 {
		t.Fatalf("%d dashboards: %v", len(all), err)
	}
	return all
}

// TestDashboardsAreSound is what can be said of a dashboard without Grafana.
func TestDashboardsAreSound(t *testing.T) {
	for _, d := range dashboards(t) {
		bad := func(format string, a ...any) { t.Helper(); t.Errorf(d.UID+": "+format, a...) }
		if !strings.HasPrefix(d.UID, "vaultd-") || d.Title == "" || d.Description == "" || d.SchemaVersion != 42 {
			bad("uid %q, title %q, description %q, schemaVersion %d", d.UID, d.Title, d.Description, d.SchemaVersion)
		}
		variables := map[string]string{}
		for _, v := range d.Templating.List {
			variables[v.Name] = v.Type
		}
		if variables["datasource"] != "datasource" {
			bad("there is no variable datasource")
		}
		ids := map[int]bool{}
		for _, p := range d.Panels {
			if ids[p.ID] || p.ID == 0 {
				bad("panel %q: id %d is none of its own", p.Title, p.ID)
			}
			ids[p.ID] = true
			if p.Type == "row" {
				continue
			}
			if p.Title == "" || p.Description == "" || p.Field.Defaults.Unit == "" {
				bad("panel %d: title %q, description %q, unit %q", p.ID, p.Title, p.Description, p.Field.Defaults.Unit)
			}
			if len(p.Targets) == 0 {
				bad("panel %q asks nothing", p.Title)
			}
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if q.Datasource.UID != "${datasource}" || p.Datasource.UID != "${datasource}" {
					bad("panel %q: the datasource is %q and %q, want the reader's", p.Title, p.Datasource.UID, q.Datasource.UID)
				}
				if refs[q.Ref] {
					bad("panel %q: two queries are called %s", p.Title, q.Ref)
				}
				refs[q.Ref] = true
				for _, word := range strings.FieldsFunc(q.Expr, func(r rune) bool { return strings.ContainsRune(`{}()[]," =~`, r) }) {
					if name, ok := strings.CutPrefix(word, "$"); ok && name != "__rate_interval" && variables[name] == "" {
						bad("panel %q: nobody can choose $%s", p.Title, name)
					}
				}
			}
		}
		for i, p := range d.Panels {
			if g := p.Grid; g.W <= 0 || g.H <= 0 || g.X < 0 || g.X+g.W > 24 {
				bad("panel %q stands at %+v", p.Title, g)
			}
			for _, q := range d.Panels[:i] {
				if a, b := p.Grid, q.Grid; a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
					bad("panels %q and %q stand in each other's place", p.Title, q.Title)
				}
			}
		}
	}
}

// A datasource of the author's own anywhere in the text would make every panel of a reader's empty.
func TestNoDatasourceIsFixed(t *testing.T) {
	for _, name := range []string{"vaultd-fleet.json", "vaultd-tenant.json"} {
		text, err := grafana.Files.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(text, []byte("__inputs")) || bytes.Count(text, []byte(`"uid": "`)) != bytes.Count(text, []byte(`"uid": "${datasource}"`))+1 {
			t.Errorf("%s: there is a datasource that is not ${datasource}", name)
		}
		var indented bytes.Buffer
		if err := json.Indent(&indented, bytes.TrimSpace(text), "", "  "); err != nil || indented.String()+"\n" != string(text) {
			t.Errorf("%s is not indented by two blanks, as Grafana exports it: %v", name, err)
		}
	}
}

// TestQueriesAreValid has promtool read every query as a recording rule.
func TestQueriesAreValid(t *testing.T) {
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: panels\n    rules:\n")
	n := 0
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				n++
				fmt.Fprintf(&rules, "      - record: panel:%s_%d_%s:query\n        expr: %q\n", strings.ReplaceAll(d.UID, "-", "_"), p.ID, q.Ref, q.Query(".*", "5m"))
			}
		}
	}
	file := filepath.Join(t.TempDir(), "panels.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", "--lint=all", "--lint-fatal", file).CombinedOutput(); err != nil || n < 40 {
		t.Errorf("%d queries: %v\n%s", n, err, out)
	}
}

// TestMetricsExist wants what panels show to be recorded by a rule, or in the catalogue of internal/metrics (which a test there compares with the registry).
func TestMetricsExist(t *testing.T) {
	rules, err := prometheus.Rules()
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for _, r := range rules {
		exists[r.Record] = true
	}
	for _, m := range metrics.Catalogue() {
		exists[m.Name] = true
	}
	used := map[string]bool{}
	for _, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				for _, name := range prometheus.Metrics(q.Expr) {
					if used[name] = true; !exists[name] {
						t.Errorf("%s, %q: there is no %s", d.UID, p.Title, name)
					}
				}
			}
		}
	}
	if len(used) < 20 {
		t.Errorf("only %d metrics are used", len(used))
	}
}
