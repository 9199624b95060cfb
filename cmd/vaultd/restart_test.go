package main

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	gossh "golang.org/x/crypto/ssh"

	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/quota"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// The store that a restart is measured with.
const (
	fleetTenants = 10_000
	fleetPushes  = 100 // of each tenant
	fleetDays    = 29  // of usage
)

// makeFleet makes a store: with came, each tenant has a dataset, a history of pushes and of usage.
func makeFleet(b *testing.B, dir string, came bool) {
	b.Helper()
	a := &app{dir: dir}
	conf := DefaultConfig()
	must(b, a.initStore(&conf))
	must(b, os.WriteFile(filepath.Join(dir, "vaultd.toml"), []byte("[metrics]\nlisten = \"\"\n"), 0o600))
	db := tenant.New(dir, tenant.Options{})
	var ids []string
	for i := range fleetTenants {
		seed := make([]byte, ed25519.SeedSize)
		copy(seed, fmt.Sprint(i))
		key, err := gossh.NewPublicKey(ed25519.NewKeyFromSeed(seed).Public())
		must(b, err)
		public, err := tenant.ParsePublicKeys(gossh.MarshalAuthorizedKey(key))
		must(b, err)
		n := conf.newTenant(fmt.Sprintf("tenant-%05d", i))
		n.Keys = []tenant.NewKey{{Public: public[0]}}
		t, _, err := db.AddTenant(n)
		must(b, err)
		ids = append(ids, t.ID)
	}
	if !came {
		return
	}
	lock, err := store.Lock(dir)
	must(b, err)
	spares := store.NewSpares(dir)
	_, err = spares.Prepare(0)
	must(b, err)
	made, err := filepath.Glob(filepath.Join(dir, "spare", "0*"))
	must(b, err)
	for i, id := range ids {
		must(b, os.Rename(made[i], filepath.Join(dir, "tenants", id)))
	}
	must(b, lock.Close())
	begin := time.Now().Add(-fleetPushes * time.Hour).UTC()
	s, err := tenant.OpenState(store.ServerDir(dir), tenant.StateOptions{Every: time.Hour})
	must(b, err)
	for n := range fleetPushes {
		for i, id := range ids {
			s.Session(id, push.Event{Time: begin.Add(time.Duration(n) * time.Hour), Session: fmt.Sprintf("s%d-%d", n, i), Protocol: "rsync", Key: "LUoiPqOgBte2ExSz", Push: true,
				Duration: time.Minute, New: push.Work{Files: 2, Bytes: 100}, Result: push.OK, Restorable: true})
		}
		if n%5 == 4 {
			must(b, s.Flush())
		}
	}
	var rows []tenant.UsageRow
	for d := range fleetDays {
		date := time.Now().UTC().AddDate(0, 0, -d).Format(time.DateOnly)
		for _, id := range ids {
			day := quota.Day{Tenant: id, Measured: 24 * time.Hour, Last: quota.Usage{Live: 1 << 30}}
			text, err := day.Text()
			must(b, err)
			rows = append(rows, tenant.UsageRow{Date: date, Tenant: id, Text: text})
		}
	}
	must(b, s.PutUsage(rows))
	for _, id := range ids {
		s.Used(id, "key-"+id, time.Now(), "192.0.2.1")
		s.Update(id, func(f *inventory.Facts) {
			f.Usage = inventory.Usage{Time: time.Now(), Live: 1 << 30, Versions: 1 << 28, Files: 1000}
		})
	}
	must(b, s.Close())
	must(b, os.WriteFile(filepath.Join(store.ServerDir(dir), "announced.json"), fmt.Appendf(nil, `{"audit":%d}`, 2*fleetTenants+1), 0o600)) // long ago: a line for each tenant and each key
}

// treeCPU is what a process and those below it have used until now (proc_pid_stat(5): fields 14 and 15, in ticks of 10 ms), in seconds.
func treeCPU(b *testing.B, pid int) (user, system float64) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0 // ended
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	for i, sum := range []*float64{&user, &system} {
		ticks, err := strconv.ParseFloat(f[11+i], 64)
		must(b, err)
		*sum = ticks / 100
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	must(b, err)
	for _, name := range children {
		list, _ := os.ReadFile(name)
		for _, child := range strings.Fields(string(list)) {
			n, err := strconv.Atoi(child)
			must(b, err)
			u, s := treeCPU(b, n)
			user, system = user+u, system+s
		}
	}
	return user, system
}

// BenchmarkRestart is a whole server on a store of 10,000 tenants, of which none has come yet, and with 1,000,000 push events of them: from its start
// until it serves; and `vaultd status` beside it. CPU time is of all its processes. The first start makes what is not there.
func BenchmarkRestart(b *testing.B) {
	bin := filepath.Join(b.TempDir(), "vaultd")
	if out, err := exec.Command("go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	for _, c := range []struct {
		name string
		came bool
	}{{"never", false}, {"came", true}} {
		b.Run(c.name, func(b *testing.B) {
			dir := filepath.Join(b.TempDir(), "store")
			makeFleet(b, dir, c.came)
			first, n := restart(b, bin, dir), 0.0
			var sum restarted
			for b.Loop() {
				r := restart(b, bin, dir)
				n, sum = n+1, restarted{sum.wall + r.wall, sum.user + r.user, sum.system + r.system, sum.status + r.status, sum.statusCPU + r.statusCPU}
			}
			b.ReportMetric(first.wall, "first-s")
			b.ReportMetric(first.user+first.system, "first-cpu-s")
			b.ReportMetric(sum.wall/n, "serving-s")
			b.ReportMetric(sum.user/n, "user-s")
			b.ReportMetric(sum.system/n, "system-s")
			b.ReportMetric(sum.status/n, "status-s")
			b.ReportMetric(sum.statusCPU/n, "status-cpu-s") // its own and the server's
		})
	}
}

// restarted is what one start took, in seconds, and a status afterwards.
type restarted struct{ wall, user, system, status, statusCPU float64 }

func restart(b *testing.B, bin, dir string) (r restarted) {
	b.Helper()
	begin := time.Now()
	server := exec.Command(bin, "serve", "--dir", dir, "--listen", "127.0.0.1:0")
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := server.StderrPipe()
	must(b, err)
	must(b, server.Start())
	var text strings.Builder
	lines := bufio.NewScanner(log)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "vaultd: listening on ") {
		text.WriteString(lines.Text() + "\n")
	}
	r.wall = time.Since(begin).Seconds()
	r.user, r.system = treeCPU(b, server.Process.Pid)
	if r.user+r.system == 0 {
		b.Fatalf("it ended: %s", text.String())
	}
	go func() {
		for lines.Scan() {
		}
	}()
	time.Sleep(3 * time.Second) // what goes on beside serving comes to its end
	user, system := treeCPU(b, server.Process.Pid)
	begin = time.Now()
	status := exec.Command(bin, "status", "--dir", dir)
	out, err := status.CombinedOutput()
	if status.ProcessState.ExitCode() > 2 {
		b.Fatalf("status: %v\n%s", err, out)
	}
	r.status = time.Since(begin).Seconds()
	u, s := treeCPU(b, server.Process.Pid)
	r.statusCPU = u + s - user - system + (status.ProcessState.UserTime() + status.ProcessState.SystemTime()).Seconds()
	must(b, server.Process.Kill()) // its server dies with it, and the next start waits for that
	server.Wait()
	return r
}
