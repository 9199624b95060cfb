package tests

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"vaultd/deploy/prometheus"
	"vaultd/internal/metrics"
)

// monitor is a Prometheus and an Alertmanager of Debian's on ports of the loopback, with the rules and the configuration of deploy/prometheus, that look at a
// vaultd. What takes a day in life takes seconds there: see hurry.
type monitor struct {
	dir       string
	prom, am  string // host:port
	vaultd    string // where it shall serve metrics
	mu        sync.Mutex
	told      []alert // what Alertmanager sent, in order
	processes []*exec.Cmd
	webhook   *httptest.Server
	pool      string // host:port of a target with a pool
	logs      bytes.Buffer
	logsMu    sync.Mutex
}

// alert is one in a message of Alertmanager's.
type alert struct {
	Status      string            `json:"status"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	StartsAt    time.Time         `json:"startsAt"`
	Fingerprint string            `json:"fingerprint"`
}

// freeAddress is one that nobody listens on now. It is below the ports that the kernel gives to connections, or one of those could have it first.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(12_000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free between 20000 and 32000")
	return ""
}

// hurry shortens times in the rules' text. Which rule says what, and its thresholds, stay as they are; the last ones are the window in which denials are counted.
var hurry = []struct{ from, to string }{
	{`(?m)^(        for:) \w+$`, "$1 1s"},
	{`(?m)^(    interval:) \w+$`, "$1 2s"},
	{`(rename"}\[)10m`, "${1}1m"},
	{`offset 10m`, "offset 1m"},
	{`(vaultd_start_time_seconds < )900`, "${1}180"},
}

// newMonitor starts both, to look at a vaultd that serves its metrics at an address already. The interval is Prometheus's for everything.
func newMonitor(t *testing.T, vaultd, interval string) *monitor {
	t.Helper()
	m := &monitor{dir: t.TempDir(), prom: freeAddress(t), am: freeAddress(t), vaultd: vaultd}
	t.Cleanup(m.end)
	m.webhook = httptest.NewServer(http.HandlerFunc(m.take))
	m.pool = poolTarget(t)
	must(t, os.Mkdir(filepath.Join(m.dir, "rules"), 0o700))
	names, err := filepath.Glob("../deploy/prometheus/rules/*.yml")
	must(t, err)
	for _, name := range names {
		text, err := os.ReadFile(name)
		must(t, err)
		for _, h := range hurry {
			text = regexp.MustCompile(h.from).ReplaceAll(text, []byte(h.to))
		}
		must(t, os.WriteFile(filepath.Join(m.dir, "rules", filepath.Base(name)), text, 0o600))
	}
	m.configure(t, "prometheus.yml", []string{`_interval: \w+`, "_interval: " + interval, `127.0.0.1:9093`, m.am,
		`(?m)^      - targets: \[127.0.0.1:9391\]\n`, "      - targets: [" + m.pool + "]\n        labels:\n          instance: zfs\n      - targets: [" + m.vaultd + "]\n"})
	m.configure(t, "alertmanager.yml", []string{`(?m)^    email_configs:\n(?:      .*\n)+`, "    webhook_configs:\n      - url: " + m.webhook.URL + "\n",
		`(group_wait|group_interval): \w+`, "$1: 1s"})
	m.start(t, "prometheus", "--config.file="+filepath.Join(m.dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(m.dir, "data"), "--web.listen-address="+m.prom)
	m.start(t, "prometheus-alertmanager", "--config.file="+filepath.Join(m.dir, "alertmanager.yml"), "--storage.path="+filepath.Join(m.dir, "am"), "--web.listen-address="+m.am,
		"--cluster.listen-address=")
	for _, addr := range []string{m.prom, m.am} {
		m.until(t, addr+" is ready", time.Minute, func() error {
			resp, err := http.Get("http://" + addr + "/-/ready")
			if err != nil {
				return err
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return errors.New(resp.Status)
			}
			return nil
		})
	}
	m.until(t, "Prometheus reads both targets", time.Minute, func() error {
		n, err := m.number(`sum(up{job="vaultd"})`)
		if err == nil && n != 2 {
			err = fmt.Errorf("%v targets are up", n)
		}
		return err
	})
	return m
}

// configure takes an example of deploy/prometheus, with changes (a pattern and what replaces it, in turn) that must all find something.
func (m *monitor) configure(t *testing.T, name string, changes []string) {
	t.Helper()
	text, err := os.ReadFile("../deploy/prometheus/" + name)
	must(t, err)
	for i := 0; i < len(changes); i += 2 {
		re := regexp.MustCompile(changes[i])
		if !re.Match(text) {
			t.Fatalf("%s has nothing like %s", name, changes[i])
		}
		text = re.ReplaceAll(text, []byte(changes[i+1]))
	}
	must(t, os.WriteFile(filepath.Join(m.dir, name), text, 0o600))
}

// Write takes what the programs say.
func (m *monitor) Write(p []byte) (int, error) {
	m.logsMu.Lock()
	defer m.logsMu.Unlock()
	return m.logs.Write(p)
}

func (m *monitor) start(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, append(args, "--log.level=warn")...)
	cmd.Stdout, cmd.Stderr = m, m
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	m.processes = append(m.processes, cmd)
}

func (m *monitor) end() {
	for _, cmd := range m.processes {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}
	if m.webhook != nil {
		m.webhook.Close()
	}
}

// take is Alertmanager's receiver. A message repeats what its group still has; what counts is an alert's beginning and its end.
func (m *monitor) take(w http.ResponseWriter, r *http.Request) {
	var in struct {
		Alerts []alert `json:"alerts"`
	}
	if err := json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range in.Alerts {
		again := false
		for _, b := range m.told {
			again = again || a.Fingerprint == b.Fingerprint && a.Status == b.Status && a.StartsAt.Equal(b.StartsAt)
		}
		if !again {
			m.told = append(m.told, a)
		}
	}
}

// alerts are those that were told with a status, such as "BackupTooOld alice", and how often.
func (m *monitor) alerts(status string) map[string]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int{}
	for _, a := range m.told {
		if a.Status == status {
			out[strings.TrimSpace(a.Labels["alertname"]+" "+a.Labels["tenant"])]++
		}
	}
	return out
}

// until waits for f to be content.
func (m *monitor) until(t *testing.T, what string, atMost time.Duration, f func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(atMost); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	m.logsMu.Lock()
	defer m.logsMu.Unlock()
	t.Fatalf("%s: not within %v: %v\n%.4000s", what, atMost, err, m.logs.String())
}

// series is a line of an answer. Values are those of an instant, or of a range in order.
type series struct {
	Labels map[string]string
	Times  []float64
	Values []float64
}

// ask sends Prometheus a query: of now, or of the time since from in steps.
func (m *monitor) ask(expr string, from time.Time, step time.Duration) ([]series, error) {
	path, v := "query", url.Values{"query": {expr}}
	if !from.IsZero() {
		path = "query_range"
		v.Set("start", stampOf(from))
		v.Set("end", stampOf(time.Now()))
		v.Set("step", strconv.FormatFloat(step.Seconds(), 'f', -1, 64))
	}
	resp, err := http.Get("http://" + m.prom + "/api/v1/" + path + "?" + v.Encode())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var in struct {
		Error string `json:"error"`
		Data  struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  *[2]any           `json:"value"`
				Values [][2]any          `json:"values"`
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&in); err != nil {
		return nil, err
	}
	if in.Error != "" {
		return nil, fmt.Errorf("%s: %s", expr, in.Error)
	}
	var out []series
	for _, r := range in.Data.Result {
		s := series{Labels: r.Metric}
		if r.Value != nil {
			r.Values = append(r.Values, *r.Value)
		}
		for _, v := range r.Values {
			at, _ := v[0].(float64)
			text, _ := v[1].(string)
			n, err := strconv.ParseFloat(text, 64)
			if err != nil {
				return nil, err
			}
			s.Times, s.Values = append(s.Times, at), append(s.Values, n)
		}
		out = append(out, s)
	}
	return out, nil
}

func stampOf(t time.Time) string { return strconv.FormatFloat(float64(t.UnixMilli())/1000, 'f', 3, 64) }

// number is a query's only value.
func (m *monitor) number(expr string) (float64, error) {
	s, err := m.ask(expr, time.Time{}, 0)
	if err == nil && len(s) != 1 {
		err = fmt.Errorf("%s: %d series", expr, len(s))
	}
	if err != nil {
		return math.NaN(), err
	}
	return s[0].Values[0], nil
}

// poolTarget serves a pool's metrics, and those of a server that has no tenants: the pool is made up, for these tests have no ZFS (tests/zfs has), and
// how it is told is internal/metrics' own.
func poolTarget(t *testing.T) string {
	t.Helper()
	began := time.Now()
	m := metrics.New(metrics.Sources{Version: "test", Pools: func() []metrics.Pool {
		grows := uint64(time.Since(began).Seconds()) << 20
		return []metrics.Pool{{Name: "tank", State: "online", Size: 8 << 40, Allocated: 5<<40 + grows, Free: 3<<40 - grows, Fragmentation: 0.11, Scrubbed: began.Add(-100 * time.Hour)}}
	}}, metrics.All())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	done := make(chan error, 1)
	go func() {
		done <- metrics.NewServer(m, metrics.Security{}, slog.New(slog.DiscardHandler)).Serve(t.Context(), l)
	}()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Errorf("serve the pool's metrics: %v", err)
		}
	})
	return l.Addr().String()
}

// commands are the vaultd commands of an alert's annotation.
func commands(r prometheus.Rule) []string {
	var out []string
	for part := range strings.SplitSeq(r.Annotations["command"], ";") {
		if part = strings.TrimSpace(part); strings.HasPrefix(part, "vaultd ") {
			out = append(out, part)
		}
	}
	return out
}

// certificate makes one that signs itself, and its key, in PEM.
func certificate(t *testing.T, host string) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	must(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	must(t, err)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}
