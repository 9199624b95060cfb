package tenant_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/tenant"
)

// event is the n-th push of a history: every third failed.
func event(n int) push.Event {
	e := push.Event{Time: epoch.Add(time.Duration(n) * time.Hour), Session: fmt.Sprintf("s%09d", n), Protocol: "rsync", Key: "LUoiPqOgBte2ExSz", Push: true,
		Duration: time.Minute, New: push.Work{Files: 2, Bytes: 100}, Result: push.OK, Restorable: true}
	if n%3 == 2 {
		e.Result, e.Restorable, e.Why, e.Exit = push.Failed, false, "files failed", 1
	}
	return e
}

func seqs(t testing.TB, s *tenant.State, id string, q tenant.PushQuery) (out []uint64) {
	t.Helper()
	if err := s.Pushes(id, q, func(e push.Event) bool {
		out = append(out, e.Seq)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

// Events are there before they are written, after that, and after a restart: newest first, of one tenant.
func TestPushes(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	for n := range 10 {
		if e := s.Session("t-a", event(n)); e.Seq != uint64(n+1) {
			t.Errorf("number %d", e.Seq)
		}
		if n == 4 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Session("t-b", event(0))
	quiet := event(0)
	quiet.Push = false
	s.Session("t-a", quiet) // only read
	check := func(s *tenant.State) {
		t.Helper()
		for _, c := range []struct {
			q    tenant.PushQuery
			want string
		}{{tenant.PushQuery{}, "[10 9 8 7 6 5 4 3 2 1]"}, {tenant.PushQuery{Limit: 3}, "[10 9 8]"}, {tenant.PushQuery{Limit: 7}, "[10 9 8 7 6 5 4]"},
			{tenant.PushQuery{Since: epoch.Add(6 * time.Hour)}, "[10 9 8 7]"}} {
			if got := fmt.Sprint(seqs(t, s, "t-a", c.q)); got != c.want {
				t.Errorf("%+v: %s, want %s", c.q, got, c.want)
			}
		}
		if got := fmt.Sprint(seqs(t, s, "t-b", tenant.PushQuery{}), seqs(t, s, "t-", tenant.PushQuery{}), seqs(t, s, "t-c", tenant.PushQuery{})); got != "[1] [] []" {
			t.Error(got)
		}
		p := s.FactsOf("t-a").Pushes
		if p.First != 1 || p.Last != 10 || p.Count[push.OK] != 7 || p.Count[push.Failed] != 3 || p.Attempt.Seq != 10 || p.Success.Seq != 10 || p.Bytes != 1000 || p.Files != 20 {
			t.Errorf("%+v", p)
		}
		if !p.Restorable.Equal(epoch.Add(9*time.Hour)) || p.RunFiles != 2 {
			t.Errorf("%+v", p.Seen)
		}
	}
	check(s)
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(openState(t, dir, time.Hour))
}

// The newest are kept, and the others are gone from the file, too.
func TestPushesAreBounded(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	const more = 37
	for n := range tenant.KeptPushes + more {
		s.Session("t-a", event(n))
		if n%5000 == 0 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.Session("t-b", event(0))
	check := func() {
		t.Helper()
		got := seqs(t, s, "t-a", tenant.PushQuery{})
		if len(got) != tenant.KeptPushes || got[0] != tenant.KeptPushes+more || got[len(got)-1] != more+1 {
			t.Errorf("%d events from %d", len(got), got[0])
		}
	}
	check()
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	check()
	s.Forget("t-b")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(dir, tenant.StateName), 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.View(func(tx *bbolt.Tx) error {
		if n := tx.Bucket([]byte("pushes")).Stats().KeyN; n != tenant.KeptPushes {
			t.Errorf("%d events in the file", n)
		}
		if n := tx.Bucket([]byte("facts")).Stats().KeyN; n != 1 {
			t.Errorf("facts of %d tenants in the file", n)
		}
		return nil
	})
}

// crash is what a kill leaves of a state: the file as it is.
func crash(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, tenant.StateName))
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir()
	if err := os.WriteFile(filepath.Join(to, tenant.StateName), text, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

// A push that was running when the server was killed is an aborted event after the restart, once; one that had ended is not.
func TestKilledWhileRunning(t *testing.T) {
	dir := t.TempDir()
	running := map[string]tenant.Running{}
	var mu sync.Mutex
	s, err := tenant.OpenState(dir, tenant.StateOptions{Every: time.Hour, Running: func() map[string]tenant.Running {
		mu.Lock()
		defer mu.Unlock()
		out := map[string]tenant.Running{}
		for id, r := range running {
			out[id] = r
		}
		return out
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	flush := func() {
		t.Helper()
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	running["s000000001"], running["s000000002"] = tenant.Running{Tenant: "t-a", Event: event(1)}, tenant.Running{Tenant: "t-b", Event: event(2)}
	flush()
	s.Session("t-b", event(2)) // it ended, but who is asked does not know yet
	flush()
	dir = crash(t, dir)
	for range 2 { // and the abort is written, too
		after := openState(t, dir, time.Hour)
		var got []push.Event
		if err := after.Pushes("t-a", tenant.PushQuery{}, func(e push.Event) bool { got = append(got, e); return true }); err != nil {
			t.Fatal(err)
		}
		if len(got) != 1 || got[0].Result != push.Aborted || got[0].Restorable || got[0].Why == "" || got[0].Session != "s000000001" {
			t.Errorf("%+v", got)
		}
		if n := len(seqs(t, after, "t-b", tenant.PushQuery{})); n != 1 {
			t.Errorf("%d events of the push that had ended", n)
		}
		if err := after.Flush(); err != nil {
			t.Fatal(err)
		}
		dir = crash(t, dir)
	}
}

// Facts survive, and do not share what they point to with those that were handed out before.
func TestFacts(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	e := event(0)
	e.Under = map[string]push.Work{"srv": {Files: 1, Bytes: 2}}
	e.Denied = []push.Denial{{Op: "remove", Rule: "P2", Count: 3}}
	s.Session("t-a", e)
	before := s.Facts()["t-a"]
	e.Denied[0].Count = 4
	s.Session("t-a", e)
	s.Update("t-a", func(f *inventory.Facts) { f.Usage.Live, f.ReadOnly = 77, "broken" })
	if before.Denied.Total["remove"] != 3 || before.Pushes.Count[push.OK] != 1 || before.Usage.Live != 0 {
		t.Errorf("what was handed out changed: %+v", before)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	f := openState(t, dir, time.Hour).FactsOf("t-a")
	if f.Usage.Live != 77 || f.ReadOnly != "broken" || f.Denied.Total["remove"] != 7 || f.Denied.Day(e.Time) != 7 || f.Pushes.Under["srv"].RunFiles != 2 {
		t.Errorf("%+v", f)
	}
}

// A disk that takes nothing costs memory up to a bound, and what was not written is written later.
func TestStateThatCanNotBeWritten(t *testing.T) {
	dir := t.TempDir()
	s := openState(t, dir, time.Hour)
	s.BreakForTest(func() error { return errors.New("disk full") })
	for n := range 50 {
		s.Session("t-a", event(n))
	}
	if err := s.Flush(); err == nil {
		t.Fatal("written")
	}
	s.BreakForTest(nil)
	if n := len(seqs(t, s, "t-a", tenant.PushQuery{})); n != 50 {
		t.Errorf("%d events while they wait", n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(seqs(t, openState(t, dir, time.Hour), "t-a", tenant.PushQuery{})); n != 50 {
		t.Errorf("%d events after all", n)
	}
}

// An event is there while it is being written, too.
func TestPushesWhileTheyAreWritten(t *testing.T) {
	s := openState(t, t.TempDir(), time.Hour)
	s.Session("t-a", event(0))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	s.Session("t-a", event(1))
	seen := ""
	s.BreakForTest(func() error {
		s.Session("t-a", event(2))
		seen = fmt.Sprint(seqs(t, s, "t-a", tenant.PushQuery{}))
		return nil
	})
	if err := s.Flush(); err != nil || seen != "[3 2 1]" {
		t.Errorf("%s, %v", seen, err)
	}
	s.BreakForTest(nil)
	if got := fmt.Sprint(seqs(t, s, "t-a", tenant.PushQuery{})); got != "[3 2 1]" {
		t.Error(got)
	}
}

func TestExpectations(t *testing.T) {
	dir := t.TempDir()
	db := tenant.New(dir, tenant.Options{Now: func() time.Time { return epoch }})
	if err := db.Create(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.AddTenant(tenant.NewTenant{Name: "acme", Policy: tenant.DefaultPolicy(), Schedule: tenant.DefaultSchedule(), Retention: tenant.DefaultRetention()}); err != nil {
		t.Fatal(err)
	}
	day := expect.Rule{MaxAge: 24 * time.Hour}
	web := expect.Rule{Path: "/srv/web/", MaxAge: time.Hour}
	set := func(r expect.Rule, clear bool) []expect.Rule {
		t.Helper()
		list, err := db.Expect("acme", r, clear)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	set(day, false)
	set(web, false)
	before, _ := db.Snapshot()
	set(web, false) // as it is
	after, err := db.Snapshot()
	if err != nil || before.Seq != after.Seq {
		t.Errorf("an audit line for nothing; %v", err)
	}
	acme, _ := after.Tenant("acme")
	if len(acme.Expect) != 2 || acme.Expect[1].Path != "srv/web" || !acme.Expect[1].Since.Equal(epoch) {
		t.Errorf("%+v", acme.Expect)
	}
	if watch := acme.Core().Watch; len(watch) != 1 || watch[0] != "srv/web" {
		t.Errorf("watched %q", watch)
	}
	if list := set(day, true); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	for _, c := range []struct {
		name  string
		rule  expect.Rule
		clear bool
		want  error
	}{{"acme", day, true, tenant.ErrNotFound}, {"nobody", day, false, tenant.ErrNotFound}, {"acme", expect.Rule{}, false, tenant.ErrInvalid}, {"acme", expect.Rule{MaxAge: 1, Path: "a/.."}, false, tenant.ErrInvalid}} {
		if _, err := db.Expect(c.name, c.rule, c.clear); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v", c.rule, err)
		}
	}
	for n := range expect.MaxRules {
		_, err = db.Expect("acme", expect.Rule{Path: fmt.Sprint("p", n), MaxAge: time.Hour}, false)
	}
	if !errors.Is(err, tenant.ErrInvalid) {
		t.Errorf("one too many: %v", err)
	}
}

// BenchmarkOpenState is what a restart with 10,000 tenants and 1,000,000 events costs before the server can serve.
func BenchmarkOpenState(b *testing.B) {
	const tenants, each = 10_000, 100
	dir := b.TempDir()
	s, err := tenant.OpenState(dir, tenant.StateOptions{Every: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	for n := range each {
		for i := range tenants {
			s.Session(fmt.Sprintf("t-%012d", i), event(n))
		}
		if n%5 == 4 {
			if err := s.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s, err := tenant.OpenState(dir, tenant.StateOptions{Every: time.Hour})
		if err != nil {
			b.Fatal(err)
		}
		if n := len(s.Facts()); n != tenants {
			b.Fatal(n)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
	info, err := os.Stat(filepath.Join(dir, tenant.StateName))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size())/(1<<20), "MiB")
}
