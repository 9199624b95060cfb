package tenant_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

var epoch = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

// newKey makes an ed25519 key.
func newKey(t testing.TB) tenant.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := tenant.ParsePublicKeys(append(ssh.MarshalAuthorizedKey(k), '\n'))
	if err != nil {
		t.Fatal(err)
	}
	return keys[0]
}

func newDB(t testing.TB) (*tenant.DB, string) {
	t.Helper()
	dir := t.TempDir()
	db := tenant.New(dir, tenant.Options{Actor: "olga", Now: func() time.Time { return epoch }})
	if err := db.Create(); err != nil {
		t.Fatal(err)
	}
	return db, dir
}

func plain(name string, keys ...tenant.PublicKey) tenant.NewTenant {
	n := tenant.NewTenant{Name: name, Policy: tenant.DefaultPolicy(), Schedule: tenant.DefaultSchedule()}
	for _, k := range keys {
		n.Keys = append(n.Keys, tenant.NewKey{Public: k})
	}
	return n
}

func snapshot(t testing.TB, r tenant.Reader) *tenant.Snapshot {
	t.Helper()
	s, err := r.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ptr[T any](v T) *T { return &v }

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	db := tenant.New(dir, tenant.Options{})
	if _, err := db.Snapshot(); !errors.Is(err, tenant.ErrNotFound) {
		t.Fatalf("snapshot without a catalog: %v", err)
	}
	if _, _, err := db.AddTenant(plain("acme")); !errors.Is(err, tenant.ErrNotFound) {
		t.Fatalf("change without a catalog: %v", err)
	}
	if err := db.Create(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	// An existing catalog is never replaced.
	if err := db.Create(); !errors.Is(err, tenant.ErrConflict) {
		t.Fatalf("second create: %v", err)
	}
	if n := len(snapshot(t, db).Tenants()); n != 1 {
		t.Fatalf("%d tenants after the second create", n)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Fatalf("in the directory: %v, %v", left, err)
	}
	if info, err := os.Stat(filepath.Join(dir, tenant.FileName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
}

func TestAddTenant(t *testing.T) {
	db, _ := newDB(t)
	k := newKey(t)
	n := plain("acme", k)
	n.Keys[0].Role, n.Keys[0].From = appendonly.Push, []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	n.Policy.Prefixes = []tenant.Prefix{{Path: "/www//live/", Mode: appendonly.Versioned}, {Path: "db", Mode: appendonly.Strict}}
	n.Quota = tenant.Quota{Bytes: 2 << 30}
	got, keys, err := db.AddTenant(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.ID) != 14 || !strings.HasPrefix(got.ID, "t-") || strings.Trim(got.ID[2:], "abcdefghijklmnopqrstuvwxyz234567") != "" {
		t.Errorf("id %q", got.ID)
	}
	if want := []tenant.Prefix{{Path: "db", Mode: appendonly.Strict}, {Path: "www/live", Mode: appendonly.Versioned}}; !slices.Equal(got.Policy.Prefixes, want) {
		t.Errorf("prefixes %v", got.Policy.Prefixes)
	}
	s := snapshot(t, db)
	read, ok := s.Tenant("acme")
	if !ok || fmt.Sprint(read) != fmt.Sprint(got) {
		t.Errorf("read back\n%v, want\n%v", read, got)
	}
	if byID, ok := s.TenantByID(got.ID); !ok || byID.Name != "acme" {
		t.Errorf("by id: %v %v", byID, ok)
	}
	if list := s.Keys(got.ID); len(list) != 1 || fmt.Sprint(list[0]) != fmt.Sprint(keys[0]) {
		t.Errorf("keys read back\n%v, want\n%v", list, keys)
	}
	if keys[0].ID != tenant.KeyID(k.Blob) || len(keys[0].ID) != 16 {
		t.Errorf("key id %q", keys[0].ID)
	}
}

// Each row breaks one rule; nothing of it may be left behind.
func TestAddTenantRefuses(t *testing.T) {
	db, _ := newDB(t)
	taken := newKey(t)
	if _, _, err := db.AddTenant(plain("acme", taken)); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, db).Seq
	tests := []struct {
		name string
		want error
		edit func(*tenant.NewTenant)
	}{
		{"empty name", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "" }},
		{"upper case", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "Acme" }},
		{"leading digit", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "7up" }},
		{"newline at the end", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "acme2\n" }},
		{"path", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "../acme" }},
		{"33 characters", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = strings.Repeat("a", 33) }},
		{"reserved", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Name = "operator" }},
		{"name taken", tenant.ErrConflict, func(n *tenant.NewTenant) { n.Name = "acme" }},
		{"key of another tenant", tenant.ErrConflict, func(n *tenant.NewTenant) { n.Keys[0].Public = taken }},
		{"key given twice", tenant.ErrConflict, func(n *tenant.NewTenant) { n.Keys = append(n.Keys, n.Keys[0]) }},
		{"key expired already", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Keys[0].Expires = epoch }},
		{"no key in it", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Keys[0].Public.Blob = nil }},
		{"unknown role", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Keys[0].Role = 9 }},
		{"unknown mode", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Mode = 9 }},
		{"negative seal_after", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.SealAfter = -1 }},
		{"negative resume_window", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.ResumeWindow = -1 }},
		{"unknown durability", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Durability = "maybe" }},
		{"negative quota", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Quota.Bytes = -1 }},
		{"negative file quota", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Quota.Files = -1 }},
		{"negative soft quota", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Quota.SoftBytes = -1 }},
		{"negative grace", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Quota.Grace = -1 }},
		{"soft quota above the quota", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Quota.Bytes, n.Quota.SoftBytes = 10, 11 }},
		{"no cron line", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Schedule.Snapshots = []string{"sometimes"} }},
		{"prefix is root", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "/./"}} }},
		{"prefix with ..", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "a/../b"}} }},
		{"prefix is a view", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "/.vault/at"}} }},
		{"prefix with newline", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "a\nb"}} }},
		{"prefix not UTF-8", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "a\xff"}} }},
		{"prefix twice", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = []tenant.Prefix{{Path: "a/"}, {Path: "/a"}} }},
		{"65 prefixes", tenant.ErrInvalid, func(n *tenant.NewTenant) { n.Policy.Prefixes = make([]tenant.Prefix, 65) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n := plain("other", newKey(t))
			tt.edit(&n)
			if _, _, err := db.AddTenant(n); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if s := snapshot(t, db); s.Seq != before || len(s.Tenants()) != 1 {
				t.Errorf("something was written: seq %d, %d tenants", s.Seq, len(s.Tenants()))
			}
		})
	}
	// Without an edit the same tenant is taken: the rows fail for their own reason.
	if _, _, err := db.AddTenant(plain("other", newKey(t))); err != nil {
		t.Error(err)
	}
}

func TestKeys(t *testing.T) {
	db, _ := newDB(t)
	a, _, err := db.AddTenant(plain("acme"))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := db.AddTenant(plain("bolt")); err != nil {
		t.Fatal(err)
	}
	k := newKey(t)
	keys, err := db.AddKeys("acme", tenant.NewKey{Public: k, Comment: "web\x1b[31m1"})
	if err != nil {
		t.Fatal(err)
	}
	if keys[0].Comment != "web?[31m1" || keys[0].Tenant != a.ID {
		t.Errorf("key %+v", keys[0])
	}
	for _, name := range []string{"acme", "bolt"} {
		if _, err := db.AddKeys(name, tenant.NewKey{Public: k}); !errors.Is(err, tenant.ErrConflict) || !strings.Contains(err.Error(), "belongs to") {
			t.Errorf("same key to %s: %v", name, err)
		}
	}
	if _, err := db.AddKeys("nobody", tenant.NewKey{Public: newKey(t)}); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("key to no tenant: %v", err)
	}
	// A tenant's name and another tenant's key do not make a match.
	if _, err := db.RevokeKey("bolt", keys[0].ID); !errors.Is(err, tenant.ErrNotFound) {
		t.Errorf("revoke through another tenant: %v", err)
	}
	got, err := db.RevokeKey("acme", keys[0].Fingerprint)
	if err != nil || !got.Revoked.Equal(epoch) {
		t.Errorf("revoke by fingerprint: %v %v", got, err)
	}
	seq := snapshot(t, db).Seq
	if _, err := db.RevokeKey("acme", keys[0].ID); err != nil || snapshot(t, db).Seq != seq {
		t.Errorf("revoke again: %v", err)
	}
	if _, err := db.AddKeys("acme", tenant.NewKey{Public: k}); !errors.Is(err, tenant.ErrConflict) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("revoked key comes back: %v", err)
	}
}

func TestAudit(t *testing.T) {
	db, _ := newDB(t)
	if _, _, err := db.AddTenant(plain("acme", newKey(t))); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{Suspended: ptr(true), QuotaBytes: ptr(int64(5))}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeTenant("acme", tenant.Change{Suspended: ptr(true)}); err != nil { // changes nothing
		t.Fatal(err)
	}
	read := func(after uint64) (lines []string) {
		err := db.Audit(after, func(e tenant.Entry) bool {
			if e.Who != "olga" || !e.Time.Equal(epoch) {
				t.Errorf("entry %+v", e)
			}
			lines = append(lines, fmt.Sprintf("%d %s %s", e.Seq, e.What, e.Tenant))
			if e.What == "tenant set" && e.Detail != "suspended: false -> true; quota bytes: 0 -> 5" {
				t.Errorf("detail %q", e.Detail)
			}
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		return lines
	}
	if got, want := read(0), []string{"1 catalog create ", "2 tenant add acme", "3 key add acme", "4 tenant set acme"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := read(3); len(got) != 1 {
		t.Errorf("after 3: %q", got)
	}
}

func TestDryRun(t *testing.T) {
	db, dir := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, db).Seq
	dry := tenant.New(dir, tenant.Options{DryRun: true})
	if got, _, err := dry.AddTenant(plain("bolt", newKey(t))); err != nil || got.Name != "bolt" {
		t.Errorf("add: %v %v", got, err)
	}
	if _, _, err := dry.AddTenant(plain("acme")); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("conflict: %v", err)
	}
	if got, err := dry.ChangeTenant("acme", tenant.Change{Suspended: ptr(true)}); err != nil || !got.Suspended {
		t.Errorf("change: %v %v", got, err)
	}
	if err := dry.Create(); !errors.Is(err, tenant.ErrConflict) {
		t.Errorf("create: %v", err)
	}
	s := snapshot(t, db)
	if got, _ := s.Tenant("acme"); s.Seq != before || len(s.Tenants()) != 1 || got.Suspended {
		t.Errorf("a dry run wrote: seq %d -> %d", before, s.Seq)
	}
}

// A lock that is held is a clear error after the wait, and is waited for.
func TestBusy(t *testing.T) {
	_, dir := newDB(t)
	db := tenant.New(dir, tenant.Options{Wait: 200 * time.Millisecond})
	held, err := bbolt.Open(filepath.Join(dir, tenant.FileName), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Snapshot(); !errors.Is(err, tenant.ErrBusy) {
		t.Errorf("read: %v", err)
	}
	if _, _, err := db.AddTenant(plain("acme")); !errors.Is(err, tenant.ErrBusy) {
		t.Errorf("write: %v", err)
	}
	time.AfterFunc(300*time.Millisecond, func() { held.Close() })
	if _, _, err := tenant.New(dir, tenant.Options{}).AddTenant(plain("acme")); err != nil {
		t.Errorf("after the wait: %v", err)
	}
}

func raw(t *testing.T, dir, file string, f func(*bbolt.Tx) error) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(dir, file), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.Update(f), db.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestFormat(t *testing.T) {
	tests := []struct {
		name string
		edit func(*bbolt.Tx) error
	}{
		{"newer", func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("4")) }},
		{"nonsense", func(tx *bbolt.Tx) error { return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("x")) }},
		{"not ours", func(tx *bbolt.Tx) error { return tx.DeleteBucket([]byte("meta")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			db, dir := newDB(t)
			raw(t, dir, tenant.FileName, tt.edit)
			if _, err := db.Snapshot(); !errors.Is(err, tenant.ErrFormat) {
				t.Errorf("read: %v", err)
			}
			if _, _, err := db.AddTenant(plain("acme")); !errors.Is(err, tenant.ErrFormat) {
				t.Errorf("write: %v", err)
			}
		})
	}
}

// A catalog of format 1 knows no retention: its tenants keep everything, until somebody says otherwise.
func TestMigrate(t *testing.T) {
	db, dir := newDB(t)
	n := plain("acme")
	n.Retention = tenant.DefaultRetention()
	if _, _, err := db.AddTenant(n); err != nil {
		t.Fatal(err)
	}
	raw(t, dir, tenant.FileName, func(tx *bbolt.Tx) error {
		old := []byte(`{"id":"t-aaaaaaaaaaaa","name":"old","created":"2026-01-01T00:00:00Z","suspended":false,"policy":{"mode":"strict","seal_after_ns":0,"resume_window_ns":0,"durability":"session"},"quota":{"bytes":0,"files":0},"schedule":{"snapshots":["@daily"],"push_end":true}}`)
		if err := tx.Bucket([]byte("tenants")).Put([]byte("old"), old); err != nil {
			return err
		}
		return tx.Bucket([]byte("meta")).Put([]byte("format"), []byte("1"))
	})
	old, ok := snapshot(t, db).Tenant("old")
	if !ok || old.Retention.Keep != nil || old.Retention.Lock != 0 || old.Pending != nil {
		t.Fatalf("read as %+v, %v", old, ok)
	}
	format := func(file, want string) {
		t.Helper()
		raw(t, dir, file, func(tx *bbolt.Tx) error {
			if f := string(tx.Bucket([]byte("meta")).Get([]byte("format"))); f != want {
				t.Errorf("%s has format %s, want %s", file, f, want)
			}
			return nil
		})
	}
	// A dry run migrates nothing and leaves nothing.
	day := 24 * time.Hour
	if _, err := tenant.New(dir, tenant.Options{DryRun: true}).ChangeTenant("old", tenant.Change{Lock: &day}); err != nil {
		t.Fatal(err)
	}
	format(tenant.FileName, "1")
	// A copy that can not be made stops the change, and the migration with it.
	backup := tenant.FileName + ".format-1"
	if err := os.MkdirAll(filepath.Join(dir, backup, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ChangeTenant("old", tenant.Change{Lock: &day}); err == nil {
		t.Error("migrated without a backup")
	}
	format(tenant.FileName, "1")
	if err := os.RemoveAll(filepath.Join(dir, backup)); err != nil {
		t.Fatal(err)
	}
	var told []string
	loud := tenant.New(dir, tenant.Options{Migrated: func(from, to int, backup string) {
		told = append(told, fmt.Sprintf("%d %d %s", from, to, filepath.Base(backup)))
	}})
	for range 2 {
		if _, err := loud.ChangeTenant("old", tenant.Change{Lock: &day}); err != nil {
			t.Fatal(err)
		}
		day += time.Hour
	}
	format(tenant.FileName, "3")
	format(backup, "1")
	if want := []string{"1 3 " + backup}; !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
	var lines []string
	if err := db.Audit(0, func(e tenant.Entry) bool { lines = append(lines, e.What); return true }); err != nil {
		t.Fatal(err)
	}
	if want := []string{"catalog create", "tenant add", "catalog migrate", "tenant set", "tenant set"}; !slices.Equal(lines, want) {
		t.Errorf("audit log %q, want %q", lines, want)
	}
}

// A record with a field that this version does not know may restrict what we would then allow.
func TestUnknownField(t *testing.T) {
	db, dir := newDB(t)
	if _, _, err := db.AddTenant(plain("acme")); err != nil {
		t.Fatal(err)
	}
	raw(t, dir, tenant.FileName, func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("tenants"))
		return b.Put([]byte("acme"), []byte(`{"locked":true,`+string(b.Get([]byte("acme"))[1:])))
	})
	if _, err := db.Snapshot(); err == nil || !strings.Contains(err.Error(), "locked") {
		t.Errorf("got %v", err)
	}
}

// A damaged file is an error and never a panic, a fault or a lock that stays behind.
func TestDamaged(t *testing.T) {
	db, dir := newDB(t)
	for i := range 40 {
		if _, _, err := db.AddTenant(plain(fmt.Sprintf("t%d", i), newKey(t))); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, tenant.FileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for cut := 0; cut < len(whole); cut += 4096 {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := db.Snapshot(); err != nil {
			failed++
		} else if len(s.Tenants()) != 40 {
			t.Errorf("cut at %d: %d tenants", cut, len(s.Tenants()))
		}
		smashed := slices.Clone(whole)
		for i := cut; i < cut+4096; i++ {
			smashed[i] = 0xa5
		}
		if err := os.WriteFile(path, smashed, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := db.Snapshot(); err != nil {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no damage was noticed")
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if n := len(snapshot(t, db).Tenants()); n != 40 {
		t.Errorf("%d tenants after the repair", n)
	}
}

func TestSymlinkRefused(t *testing.T) {
	_, dir := newDB(t)
	other := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, tenant.FileName), filepath.Join(other, tenant.FileName)); err != nil {
		t.Fatal(err)
	}
	if _, err := tenant.New(other, tenant.Options{}).Snapshot(); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

const writerEnv = "VAULTD_TEST_WRITER_DIR"

// TestWriterProcess is the other process of TestConcurrent.
func TestWriterProcess(t *testing.T) {
	dir := os.Getenv(writerEnv)
	if dir == "" {
		return
	}
	db := tenant.New(dir, tenant.Options{Wait: 60 * time.Second})
	for i := range 10 {
		if _, _, err := db.AddTenant(plain(fmt.Sprintf("proc-%d", i), newKey(t))); err != nil {
			t.Fatal(err)
		}
	}
}

// Writers in this process and another, readers between them: every snapshot is whole (each tenant has its
// key), none goes back, and no change is lost.
func TestConcurrent(t *testing.T) {
	_, dir := newDB(t)
	db := tenant.New(dir, tenant.Options{Wait: 60 * time.Second})
	var writers, readers sync.WaitGroup
	for w := range 3 {
		writers.Go(func() {
			for i := range 10 {
				if _, _, err := db.AddTenant(plain(fmt.Sprintf("w%d-%d", w, i), newKey(t))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Go(func() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestWriterProcess$")
		cmd.Env = append(os.Environ(), writerEnv+"="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			var last uint64
			for {
				s, err := db.Snapshot()
				if err != nil {
					t.Error(err)
					return
				}
				for _, x := range s.Tenants() {
					if len(s.Keys(x.ID)) != 1 {
						t.Errorf("tenant %s without its key", x.Name)
					}
				}
				if s.Seq < last || s.Seq != uint64(1+2*len(s.Tenants())) {
					t.Errorf("seq %d after %d with %d tenants", s.Seq, last, len(s.Tenants()))
				}
				last = s.Seq
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if n := len(snapshot(t, db).Tenants()); n != 40 {
		t.Errorf("%d tenants, want 40", n)
	}
}
