package tests

import (
	"bytes"
	"flag"
	"fmt"
	"html"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vaultd/deploy/grafana"
)

var (
	pictures    = flag.String("pictures", "", "a directory: TestPictures draws the dashboards there, from what real clients do in -pictures-for")
	picturesFor = flag.Duration("pictures-for", 25*time.Minute, "how long TestPictures looks")
)

// TestPictures makes the pictures of docs/monitoring.md when it is asked to: it takes as long as they show. TestAlerts draws the same of what it sees, each time.
//
//	go test ./tests -run TestPictures -pictures "$PWD/docs" -timeout 1h
func TestPictures(t *testing.T) {
	if *pictures == "" {
		t.Skip("draws pictures for docs when -pictures names a directory; TestAlerts tests how")
	}
	v, err := newVault(t.TempDir(), "--mode", "versioned", "--prefix", "archive=strict", "--quota", "400M", "--snapshot", "*/2 * * * *")
	must(t, err)
	t.Cleanup(func() { must(t, v.stop()) })
	operator(t, v, "tenant", "add", "carol", "--key", v.key("carol"), "--quota", "300M")
	operator(t, v, "tenant", "add", "dave", "--key", v.key("dave"), "--quota", "60M")
	operator(t, v, "tenant", "add", "erin", "--key", v.key("erin"))
	for _, who := range []string{"alice", "bob", "carol", "dave", "erin"} {
		operator(t, v, "expect", "set", who, "--max-age", "8m")
	}
	operator(t, v, "expect", "set", "alice", "--max-age", "4m")
	addr := freeAddress(t)
	must(t, v.serve("--metrics-listen", addr))
	m := newMonitor(t, addr, "5s")
	began := time.Now()
	for n := 0; time.Since(began) < *picturesFor; n++ {
		aDay(t, v, n)
		time.Sleep(time.Until(began.Add(time.Duration(n+1) * 20 * time.Second)))
	}
	for name, text := range drawAll(t, m, "alice", began) {
		must(t, os.WriteFile(filepath.Join(*pictures, name), text, 0o644))
	}
}

// aDay is what clients do in twenty seconds, the n-th time. Everybody has habits; erin's machine breaks in the middle.
func aDay(t *testing.T, v *vault, n int) {
	t.Helper()
	work := filepath.Join(v.root, "work")
	must(t, os.MkdirAll(filepath.Join(work, "srv"), 0o700))
	for i := range 6 { // files that change, and some that come
		must(t, os.WriteFile(filepath.Join(work, "srv", fmt.Sprint(i)), noise(fmt.Sprint(n, i), 200_000+50_000*i), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(work, "srv", fmt.Sprint("new", n)), noise(fmt.Sprint("new", n), 700_000), 0o600))
	day := fmt.Sprintf("archive/%03d", n)
	switch {
	case n%9 == 0:
		runAs(t, v, "alice", "rsync", "-a", "--mkpath", "work/srv/", "vault:"+day+"/")
	case n%3 == 0:
		runAs(t, v, "alice", "rsync", "-a", "--delete", "work/srv/", "vault:srv/")
	}
	if n%4 == 1 {
		runAs(t, v, "bob", "sftp", fmt.Sprintf("put work/srv/new%d dump-%d", n, n))
	}
	if n == 0 {
		runAs(t, v, "carol", "restic", "-r", "/repo", "init")
	}
	if n%10 == 2 {
		runAs(t, v, "carol", "restic", "-r", "/repo", "backup", "work/srv")
	}
	if n%5 == 3 && n < 70 {
		runAs(t, v, "dave", "scp", "work/srv/5", fmt.Sprint("vault:part", n))
		runAs(t, v, "dave", "scp", fmt.Sprint("work/srv/new", n), fmt.Sprint("vault:", n))
		must(t, os.WriteFile(filepath.Join(work, "block"), noise(fmt.Sprint("block", n), 3_000_000), 0o600))
		runAs(t, v, "dave", "scp", "work/block", fmt.Sprint("vault:block", n))
	}
	if n%6 == 4 && n < 35 {
		runAs(t, v, "erin", "sftp", fmt.Sprintf("put work/srv/4 db-%d", n))
	}
	if n%12 == 7 {
		runAs(t, v, "alice", "rsync", "-a", "vault:/.at/1m/srv/", fmt.Sprintf("back%d/", n))
	}
	if n%8 == 5 { // a script that prunes, and somebody without a key
		refused(t, v, "alice", "sftp", fmt.Sprintf("rm archive/%03d/1", n/9*9))
		refused(t, v, "pusher", "ssh", "status")
	}
}

// drawAll draws all dashboards, and wants the pictures to be whole and small.
func drawAll(t *testing.T, m *monitor, tenant string, from time.Time) map[string][]byte {
	t.Helper()
	all, err := grafana.Dashboards()
	must(t, err)
	out := map[string][]byte{}
	for _, d := range all {
		g, err := draw(m, d, tenant, from)
		must(t, err)
		if len(g.empty) > 0 {
			t.Errorf("%s: no data in %q", d.UID, g.empty)
		}
		for _, p := range d.Panels {
			if !bytes.Contains(g.Bytes(), []byte(html.EscapeString(p.Title))) {
				t.Errorf("%s: %q is not in the picture", d.UID, p.Title)
			}
		}
		if n := g.Len(); n > 200<<10 || strings.Count(g.String(), "<polyline")+strings.Count(g.String(), "<polygon") < 10 {
			t.Errorf("%s: a picture of %d bytes", d.UID, n)
		}
		out["dashboard-"+strings.TrimPrefix(d.UID, "vaultd-")+".svg"] = g.Bytes()
	}
	return out
}
