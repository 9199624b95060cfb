package tests

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// From nothing to a Prometheus that shows who is late, line by line as docs/monitoring.md has it, on other ports.
func TestMonitoringDocument(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/monitoring.md")
	must(t, err)
	ports := []string{}
	for _, old := range []string{"2222", "9391", "9090", "9093"} {
		_, port, _ := strings.Cut(freeAddress(t), ":")
		ports = append(ports, old, port)
	}
	change := strings.NewReplacer(ports...)
	all := steps(change.Replace(string(text)))
	if len(all) < 20 {
		t.Fatalf("only %d commands were found", len(all))
	}
	dir := t.TempDir()
	must(t, os.CopyFS(filepath.Join(dir, "deploy", "prometheus"), os.DirFS("../deploy/prometheus")))
	for _, name := range []string{"prometheus.yml", "alertmanager.yml"} {
		path := filepath.Join(dir, "deploy", "prometheus", name)
		text, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, []byte(change.Replace(string(text))), 0o600))
	}
	sh := newShell(t, dir)
	for _, s := range all {
		if strings.HasPrefix(s.command, "vaultd serve") { // the configuration's default is everybody's
			s.command = strings.Replace(s.command, " --listen", " --metrics-listen 127.0.0.1:"+ports[3]+" --listen", 1)
		}
		t.Logf("$ %s", s.command)
		if got := sh.run(s.command); !s.pattern().MatchString(got) {
			t.Fatalf("docs/monitoring.md:%d: %s\nprints\n%s\nand should print\n%s", s.line, s.command, got, strings.Join(s.output, "\n"))
		}
	}
}

// Metrics over TLS with a password, as prometheus-tls.yml has the one end and docs/monitoring.md the other; and not without.
func TestScrapeWithPassword(t *testing.T) {
	t.Parallel()
	v, err := newVault(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, v.stop()) })
	cert, key := certificate(t, "vault.example.org")
	hash, err := bcrypt.GenerateFromPassword([]byte("of the scraper"), 5)
	must(t, err)
	addr := freeAddress(t)
	for name, text := range map[string]string{"metrics.pem": cert, "metrics.key": key, "metrics.users": "prometheus:" + string(hash) + "\n",
		"vaultd.toml": config + "[metrics]\ntls_cert = \"metrics.pem\"\ntls_key = \"metrics.key\"\nbasic_auth = \"metrics.users\"\n"} {
		must(t, os.WriteFile(filepath.Join(v.dir, name), []byte(text), 0o600))
	}
	must(t, v.serve("--metrics-listen", addr))
	resp, err := http.Get("http://" + addr + "/metrics") // a listener with TLS answers that with 400
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %s", resp.Status)
	}
	for password, up := range map[string]float64{"of the scraper": 1, "of nobody": 0} {
		m := &monitor{dir: t.TempDir(), prom: freeAddress(t)}
		t.Cleanup(m.end)
		must(t, os.Mkdir(filepath.Join(m.dir, "rules"), 0o700))
		must(t, os.WriteFile(filepath.Join(m.dir, "vaultd.pem"), []byte(cert), 0o600))
		must(t, os.WriteFile(filepath.Join(m.dir, "vaultd.password"), []byte(password), 0o600))
		m.configure(t, "prometheus-tls.yml", []string{`_interval: \w+`, "_interval: 1s", `vault.example.org:9391`, addr})
		m.start(t, "prometheus", "--config.file="+filepath.Join(m.dir, "prometheus-tls.yml"), "--storage.tsdb.path="+filepath.Join(m.dir, "data"), "--web.listen-address="+m.prom)
		m.until(t, "a scrape", time.Minute, func() error {
			_, err := m.number(`up{job="vaultd"}`)
			return err
		})
		n, err := m.number(`up{job="vaultd"}`)
		must(t, err)
		if n != up {
			t.Errorf("with the password %q, up is %v\n%s", password, n, m.logs.String())
		}
	}
}
