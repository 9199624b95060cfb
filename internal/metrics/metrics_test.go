package metrics_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	"golang.org/x/crypto/bcrypt"
	"pgregory.net/rapid"

	"vaultd/internal/metrics"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// tenant is one about which everything is known.
func tenant(name string, used int64) metrics.Tenant {
	return metrics.Tenant{Name: name, State: "active", Created: epoch, Quota: 1 << 40, SoftQuota: 1 << 39, Live: used, Versions: 2, Staging: 3, Snapshot: -1, Files: 4, LastSuccess: epoch,
		LastAttempt: epoch.Add(time.Minute), MaxAge: 26 * time.Hour, Snapshots: 7, NewestSnapshot: epoch, OldestSnapshot: epoch.AddDate(0, -1, 0), SnapshotInterval: time.Hour,
		Verified: epoch, VerifyProgress: 0.5}
}

// busy are metrics of which everything has a source and something happened.
func busy(list ...metrics.Tenant) *metrics.Metrics {
	m := metrics.New(sources(func() []metrics.Tenant { return list }), metrics.All())
	for _, t := range list {
		m.Push(t.Name, "rsync", "ok", 10, 1<<30, time.Minute)
		m.Restored(t.Name, "sftp", 5)
		m.Denied(t.Name, "sftp", "remove", 3)
		m.Verified(t.Name, 100, 1)
	}
	m.Session("sftp")
	return m
}

func sources(list func() []metrics.Tenant) metrics.Sources {
	return metrics.Sources{Version: "1.2.3", Revision: "abc", Tenants: list,
		Process: func() metrics.Process {
			return metrics.Process{Started: epoch, ReloadOK: true, Reloaded: epoch, Failures: map[string]int64{"unknown_key": 2, "grace": 1}, Sessions: map[string]int{"sftp": 2, "x": 1, "y": 2}}
		},
		Pools: func() []metrics.Pool {
			return []metrics.Pool{{Name: "tank", State: "online", Size: 100, Allocated: 60, Free: 40, Fragmentation: 0.1, Scrubbed: epoch, Errors: map[string]uint64{"read": 1}}}
		},
		Collectors: func() []metrics.Collector {
			return []metrics.Collector{{Name: "inventory", OK: true, Took: time.Millisecond, Success: epoch}}
		}}
}

func text(t testing.TB, m *metrics.Metrics) string {
	t.Helper()
	var b bytes.Buffer
	if err := m.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// want finds lines in the text format.
func want(t *testing.T, text string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains("\n"+text, "\n"+l+"\n") {
			t.Errorf("no line %q", l)
		}
	}
}

func TestLint(t *testing.T) {
	problems, err := testutil.GatherAndLint(busy(tenant("acme", 1)))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	zfs := tenant("zeta", 20)
	zfs.Snapshot, zfs.State, zfs.Suspended = 9, "suspended", true
	out := text(t, busy(tenant("acme", 1), zfs))
	want(t, out, `vaultd_tenants{state="active"} 1`, `vaultd_tenants{state="suspended"} 1`, `vaultd_tenants{state="readonly"} 0`,
		`vaultd_tenant_quota_bytes{tenant="acme"} 1.099511627776e+12`, `vaultd_tenant_soft_quota_bytes{tenant="acme"} 5.49755813888e+11`,
		`vaultd_tenant_used_bytes{kind="live",tenant="acme"} 1`, `vaultd_tenant_used_bytes{kind="versions",tenant="acme"} 2`, `vaultd_tenant_used_bytes{kind="staging",tenant="acme"} 3`,
		`vaultd_tenant_used_bytes{kind="snapshots",tenant="zeta"} 9`, `vaultd_tenant_files{tenant="acme"} 4`,
		`vaultd_tenant_created_timestamp_seconds{tenant="acme"} 1.7956008e+09`, `vaultd_tenant_last_push_success_timestamp_seconds{tenant="acme"} 1.7956008e+09`,
		`vaultd_tenant_last_push_attempt_timestamp_seconds{tenant="acme"} 1.79560086e+09`, `vaultd_tenant_max_age_seconds{tenant="acme"} 93600`,
		`vaultd_tenant_suspended{tenant="acme"} 0`, `vaultd_tenant_suspended{tenant="zeta"} 1`, `vaultd_tenant_snapshots{tenant="acme"} 7`,
		`vaultd_tenant_last_snapshot_timestamp_seconds{tenant="acme"} 1.7956008e+09`, `vaultd_tenant_oldest_snapshot_timestamp_seconds{tenant="acme"} 1.7929224e+09`,
		`vaultd_tenant_snapshot_interval_seconds{tenant="acme"} 3600`, `vaultd_verify_last_success_timestamp_seconds{tenant="acme"} 1.7956008e+09`,
		`vaultd_verify_progress_ratio{tenant="acme"} 0.5`, `vaultd_verify_bytes_total{tenant="acme"} 100`, `vaultd_verify_errors_total{tenant="acme"} 1`,
		`vaultd_pushes_total{protocol="rsync",result="ok",tenant="acme"} 1`, `vaultd_push_bytes_total{protocol="rsync",tenant="acme"} 1.073741824e+09`,
		`vaultd_push_files_total{protocol="rsync",tenant="acme"} 10`, `vaultd_restore_bytes_total{protocol="sftp",tenant="acme"} 5`,
		`vaultd_denied_operations_total{operation="remove",protocol="sftp",tenant="acme"} 3`, `vaultd_push_duration_seconds_bucket{protocol="rsync",result="ok",le="60"} 2`,
		`vaultd_push_size_bytes_bucket{protocol="rsync",result="ok",le="1.073741824e+09"} 2`, `vaultd_auth_failures_total{reason="unknown_key"} 2`,
		`vaultd_auth_failures_total{reason="protocol"} 1`, `vaultd_auth_failures_total{reason="revoked"} 0`, `vaultd_sessions_total{protocol="sftp"} 1`, `vaultd_sessions{protocol="sftp"} 2`, `vaultd_sessions{protocol="rsync"} 0`, `vaultd_sessions{protocol="other"} 3`,
		`vaultd_start_time_seconds 1.7956008e+09`, `vaultd_config_last_reload_successful 1`, `vaultd_pool_health{pool="tank",state="online"} 1`,
		`vaultd_pool_health{pool="tank",state="degraded"} 0`, `vaultd_pool_fragmentation_ratio{pool="tank"} 0.1`, `vaultd_pool_errors{pool="tank",type="read"} 1`,
		`vaultd_collector_success{collector="inventory"} 1`, `vaultd_audit_log_errors_total 0`,
		fmt.Sprintf(`vaultd_build_info{goversion="%s",revision="abc",version="1.2.3"} 1`, runtime.Version()))
	if strings.Contains(out, `kind="snapshots",tenant="acme"`) {
		t.Error("a tenant without file system snapshots has a series of them")
	}
}

// row is a line of the table in docs/metrics.md.
var row = regexp.MustCompile("(?m)^\\| `(vaultd_[a-z_]+)` \\| (gauge|counter|histogram|–) \\| ([^|]*) \\| (.*) \\|$")

// The documentation, the catalogue and what is really served are the same.
func TestCatalogue(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]string{}
	for _, m := range row.FindAllStringSubmatch(string(doc), -1) {
		if m[2] != "–" { // without a source
			told[m[1]] = m[2] + " " + strings.Trim(strings.ReplaceAll(m[3], "`", ""), " –")
		}
	}
	listed := map[string]string{}
	for _, m := range metrics.Catalogue() {
		listed[m.Name] = strings.TrimSpace(string(m.Kind) + " " + strings.Join(slices.Sorted(slices.Values(m.Labels)), ", "))
	}
	served := map[string]string{}
	families, err := busy(tenant("acme", 1)).Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "vaultd_") {
			continue
		}
		labels := map[string]bool{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels[l.GetName()] = true
		}
		served[f.GetName()] = strings.TrimSpace(strings.ToLower(f.GetType().String()) + " " + strings.Join(slices.Sorted(maps.Keys(labels)), ", "))
	}
	for name, x := range listed {
		if served[name] != x {
			t.Errorf("%s: the catalogue says %q, it is served as %q", name, x, served[name])
		}
		want := strings.Split(strings.TrimSpace(told[name]), " ")
		if len(want) > 1 {
			slices.Sort(want[1:])
		}
		got := strings.Split(x, " ")
		for i := range want {
			want[i] = strings.Trim(want[i], ",")
		}
		for i := range got {
			got[i] = strings.Trim(got[i], ",")
		}
		slices.Sort(got[1:])
		if !slices.Equal(want, got) {
			t.Errorf("%s: docs/metrics.md says %q, the catalogue %q", name, want, got)
		}
	}
	for name := range served {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s is served, and not in the catalogue", name)
		}
	}
	for name := range told {
		if _, ok := listed[name]; !ok {
			t.Errorf("%s is in docs/metrics.md, and not in the catalogue", name)
		}
	}
}

// series are all lines with a value, without it.
func series(out string) []string {
	var all []string
	for l := range strings.Lines(out) {
		if !strings.HasPrefix(l, "#") && strings.HasPrefix(l, "vaultd_") {
			name, _, _ := strings.Cut(l, "} ")
			all = append(all, name)
		}
	}
	return all
}

// Whatever clients, their protocols and their commands are called: the number of series has a bound that the operator's
// tenants set, and so has what a tenant costs.
func TestCardinality(t *testing.T) {
	list := []metrics.Tenant{tenant("acme", 1), tenant("bolt", 2)}
	m := metrics.New(sources(func() []metrics.Tenant { return list }), metrics.Scope{})
	churn := func() {
		for i := range 3000 {
			name := fmt.Sprintf("t\xff\"%d", i) // a source that is wrong about who is a tenant
			for _, tenant := range []string{name, "acme"} {
				m.Push(tenant, name, name, int64(i), -int64(i), -time.Second)
				m.Restored(tenant, name, 1)
				m.Denied(tenant, name, name, 1)
				m.Verified(tenant, 1, 1)
			}
			m.Session(name)
			m.Snapshot(name, 1, fmt.Errorf("%s", name))
		}
	}
	churn()
	first := len(series(text(t, m)))
	churn()
	if n := len(series(text(t, m))); n != first || n > 200 {
		t.Errorf("%d series after more of the same, %d before", n, first)
	}
	// All that one tenant can come to have, by every word of every list.
	m = metrics.New(sources(func() []metrics.Tenant { return list[:1] }), metrics.All())
	before := len(series(text(t, m)))
	for _, p := range []string{"sftp", "rsync", "scp", "shell", "borg", "restic", "x"} {
		for _, r := range []string{"ok", "failed", "denied", "aborted", "x"} {
			m.Push("acme", p, r, 1, 1, time.Second)
		}
		for _, op := range []string{"read", "stat", "list", "hash", "create", "repeat", "extend", "overwrite", "remove", "mkdir", "rmdir", "rename", "link", "symlink", "mknod",
			"settimes", "setstat", "truncate", "replace", "exec", "quota", "path", "chmod", "x"} {
			m.Denied("acme", p, op, 1)
		}
		m.Restored("acme", p, 1)
	}
	m.Verified("acme", 1, 1)
	tenants := 0
	for _, s := range series(text(t, m)) {
		if strings.Contains(s, `tenant="acme"`) {
			tenants++
		}
	}
	if tenants > 160 || before > 150 {
		t.Errorf("a tenant can have %d series; without events there are %d in all", tenants, before)
	}
}

// Series of a tenant end with it, also when something of it is still counted, and its name begins anew.
func TestTenantsGo(t *testing.T) {
	list := []metrics.Tenant{tenant("acme", 1), tenant("bolt", 2)}
	m := metrics.New(sources(func() []metrics.Tenant { return list }), metrics.All())
	push := func(name string) {
		m.Push(name, "rsync", "ok", 1, 1, time.Second)
		m.Denied(name, "sftp", "remove", 1)
		m.Restored(name, "sftp", 1)
		m.Verified(name, 1, 1)
	}
	push("acme")
	push("bolt")
	if out := text(t, m); strings.Count(out, `tenant="acme"`) != strings.Count(out, `tenant="bolt"`) {
		t.Error("two tenants of the same differ in series")
	}
	list = list[1:]
	if out := text(t, m); strings.Contains(out, "acme") || !strings.Contains(out, "bolt") {
		t.Error("a removed tenant has series")
	}
	push("acme") // a session that ends after its tenant
	for range 3 {
		if out := text(t, m); strings.Contains(out, "acme") {
			t.Error("a removed tenant has series again")
		}
	}
	list = append([]metrics.Tenant{tenant("acme", 1)}, list...)
	push("acme")
	want(t, text(t, m), `vaultd_pushes_total{protocol="rsync",result="ok",tenant="acme"} 1`)
}

func TestScope(t *testing.T) {
	list := []metrics.Tenant{tenant("small", 1), tenant("big", 1000), tenant("huge", 2000)}
	m := metrics.New(sources(func() []metrics.Tenant { return list }), metrics.All())
	scope := func(s string) string {
		t.Helper()
		sc, err := metrics.ParseScope(s)
		if err != nil || sc.String() != s {
			t.Fatalf("%q: %v, %v", s, sc, err)
		}
		m.SetScope(sc)
		return text(t, m)
	}
	scope("top:2")
	for _, name := range []string{"small", "big", "huge"} {
		m.Push(name, "rsync", "ok", 1, 1, time.Second)
	}
	out := text(t, m)
	want(t, out, `vaultd_pushes_total{protocol="rsync",result="ok",tenant="big"} 1`, `vaultd_pushes_total{protocol="rsync",result="ok",tenant=""} 1`,
		`vaultd_tenants{state="active"} 3`, `vaultd_tenant_files{tenant="huge"} 4`)
	if strings.Contains(out, "small") {
		t.Error("top:2 has the third")
	}
	list[0].Live = 3000 // it comes up, and begins at zero: nothing is counted twice, and the sum of the others never falls
	text(t, m)
	m.Push("small", "rsync", "ok", 1, 1, time.Second)
	m.Push("big", "rsync", "ok", 1, 1, time.Second)
	out = text(t, m)
	want(t, out, `vaultd_pushes_total{protocol="rsync",result="ok",tenant="small"} 1`, `vaultd_pushes_total{protocol="rsync",result="ok",tenant=""} 2`)
	if strings.Contains(out, "big") {
		t.Error("top:2 has the third")
	}
	if out := scope("false"); strings.Contains(out, "huge") || strings.Contains(out, "vaultd_tenant_") {
		t.Error("per_tenant = false has series of tenants")
	}
	want(t, text(t, m), `vaultd_pushes_total{protocol="rsync",result="ok",tenant=""} 2`, `vaultd_tenants{state="active"} 3`)
	if out := scope("true"); strings.Count(out, "vaultd_tenant_files{") != 3 {
		t.Error("per_tenant = true has not all of them")
	}
	for _, bad := range []string{"", "yes", "top", "top:", "top:0", "top:-1", "top:1e3", "top:1000000"} {
		if _, err := metrics.ParseScope(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

// In any order of events and scrapes, of tenants that come and go, a gather has no error, and tenants that are not there have no series.
func TestGatherProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		there := map[string]bool{}
		m := metrics.New(sources(func() (list []metrics.Tenant) {
			for _, name := range slices.Sorted(maps.Keys(there)) {
				list = append(list, tenant(name, int64(len(name))))
			}
			return list
		}), metrics.All())
		names := rapid.SampledFrom([]string{"a", "b", "c", "d\n", "e\"", "\xff"})
		for range rapid.IntRange(1, 60).Draw(r, "steps") {
			name := names.Draw(r, "tenant")
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				there[name] = name != "\xff"
				if !there[name] {
					delete(there, name)
				}
			case 1:
				delete(there, name)
			case 2:
				if there[name] {
					m.Push(name, "sftp", "ok", 1, 1, time.Second)
				}
			case 3:
				m.SetScope(rapid.SampledFrom([]metrics.Scope{{}, metrics.All()}).Draw(r, "scope"))
			default:
				families, err := m.Gather()
				if err != nil {
					r.Fatal(err)
				}
				for _, f := range families {
					for _, x := range f.GetMetric() {
						for _, l := range x.GetLabel() {
							if l.GetName() == "tenant" && l.GetValue() != "" && !there[l.GetValue()] {
								r.Fatalf("%s of %q, who is not there", f.GetName(), l.GetValue())
							}
						}
					}
				}
			}
		}
	})
}

// many are tenants that pushed with one protocol and read with another, and a tenth were attacked.
func many(n int) *metrics.Metrics {
	list := make([]metrics.Tenant, n)
	for i := range list {
		list[i] = tenant(fmt.Sprintf("tenant-%05d", i), int64(i))
	}
	m := metrics.New(sources(func() []metrics.Tenant { return slices.Clone(list) }), metrics.All())
	for i, t := range list {
		m.Push(t.Name, "rsync", "ok", 1, 1, time.Second)
		m.Verified(t.Name, 1, 0)
		if i%10 == 0 {
			m.Restored(t.Name, "sftp", 1)
			m.Denied(t.Name, "sftp", "remove", 1)
		}
	}
	return m
}

// serve starts a listener and returns its address; it ends with the test.
func serve(t testing.TB, m *metrics.Metrics, sec metrics.Security) (addr string, srv *metrics.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	srv = metrics.NewServer(m, sec, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), srv
}

func client(t testing.TB) *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

// A scrape of 1,000 tenants allocates less than 8 MiB, of 10,000 less than 80. Time is for the benchmark.
func TestScrapeAllocates(t *testing.T) {
	for n, most := range map[int]uint64{1000: 8 << 20, 10_000: 80 << 20} {
		addr, _ := serve(t, many(n), metrics.Security{})
		c := client(t)
		scrape := func() (size int64) {
			resp, err := c.Get("http://" + addr + "/metrics")
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if size, err = io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != 200 {
				t.Fatal(resp.Status, err)
			}
			return size
		}
		scrape()
		least := uint64(1 << 62)
		for range 5 { // of which the collector of garbage may disturb some
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			scrape()
			runtime.ReadMemStats(&after)
			least = min(least, after.TotalAlloc-before.TotalAlloc)
		}
		t.Logf("%d tenants: %.2f MiB", n, float64(least)/(1<<20))
		if least > most {
			t.Errorf("a scrape of %d tenants allocates %d bytes", n, least)
		}
	}
}

func BenchmarkScrape(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			addr, _ := serve(b, many(n), metrics.Security{})
			c := client(b)
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.Get("http://" + addr + "/metrics")
				if err != nil {
					b.Fatal(err)
				}
				size, err := io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(size), "bytes/scrape")
			}
		})
	}
}

func TestServer(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users, err := metrics.ParseUsers([]byte("# who scrapes\n\nprom:" + string(hash) + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	addr, srv := serve(t, busy(tenant("acme", 1)), metrics.Security{Users: users})
	c := client(t)
	get := func(method, path, auth string) (int, string) {
		t.Helper()
		req, err := http.NewRequest(method, "http://"+addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if auth != "" {
			req.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(auth)))
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, bad := range []string{"", "prom:", "prom:wrong", "other:secret", "prom:secret" + strings.Repeat("x", 100), ":", "prom"} {
		for range 2 {
			if code, body := get("GET", "/metrics", bad); code != 401 || strings.Contains(body, "acme") {
				t.Errorf("%q: %d", bad, code)
			}
		}
	}
	for range 2 { // the second time it is known
		if code, body := get("GET", "/metrics", "prom:secret"); code != 200 || !strings.Contains(body, `tenant="acme"`) {
			t.Errorf("with the password: %d", code)
		}
	}
	for _, x := range []struct {
		method, path string
		code         int
	}{{"GET", "/", 200}, {"GET", "/debug/pprof/", 404}, {"POST", "/metrics", 405}, {"DELETE", "/metrics", 405}, {"GET", "/metrics/x", 404}} {
		if code, body := get(x.method, x.path, "prom:secret"); code != x.code || strings.Contains(body, "acme") {
			t.Errorf("%s %s: %d", x.method, x.path, code)
		}
	}
	srv.Secure(metrics.Security{})
	if code, _ := get("GET", "/metrics", ""); code != 200 {
		t.Errorf("after the password was taken away: %d", code)
	}
}

func TestParseUsers(t *testing.T) {
	for _, bad := range []string{"", "# nobody\n", "prom:secret\n", "prom\n", ":$2y$05$abcdefghijklmnopqrstuuVp7Q1Q4jNYw7n2YQ4h0aP3O7T0kqS7a\n",
		"a:$2a$31$abcdefghijklmnopqrstuuVp7Q1Q4jNYw7n2YQ4h0aP3O7T0kqS7a\n", "a:{SHA}xyz\n"} {
		if _, err := metrics.ParseUsers([]byte(bad)); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// Who opens connections and says nothing holds a bounded number of them, and not for long; others are served when they are gone.
func TestIdleConnections(t *testing.T) {
	addr, _ := serve(t, busy(tenant("acme", 1)), metrics.Security{})
	var idle []net.Conn
	for range 100 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		idle = append(idle, c)
	}
	for _, c := range idle {
		c.Close()
	}
	resp, err := client(t).Get("http://" + addr + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
