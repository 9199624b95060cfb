package zfshelper_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
	"vaultd/internal/zfs/zfstest"
	"vaultd/internal/zfshelper"
)

func TestMain(m *testing.M) {
	zfstest.Main()
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wants(t testing.TB, what string, err, kind error) {
	t.Helper()
	if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
		t.Errorf("%s: %v, want %v", what, err, kind)
	}
}

const root = "tank/vaultd"

// newHelper is one on a machine with a fake zfs and the root dataset.
func newHelper(t testing.TB, change func(*zfshelper.Config)) (*zfshelper.Helper, *zfstest.Fake, string) {
	t.Helper()
	fake := zfstest.New(t, "tank")
	dir := filepath.Join(t.TempDir(), "tenants")
	must(t, os.Mkdir(dir, 0o750))
	client, err := zfs.New(zfs.Config{})
	must(t, err)
	must(t, client.Create(t.Context(), root, map[string]string{"mountpoint": dir}, nil))
	fake.Argv()
	cfg := zfshelper.Config{Client: client, Dataset: root, Dir: dir, UID: os.Getuid(), GID: os.Getgid(), Compression: "lz4", RecordSize: 128 << 10, MountOf: fake.MountOf}
	if change != nil {
		change(&cfg)
	}
	h, err := zfshelper.New(cfg)
	must(t, err)
	return h, fake, dir
}

func tenantID(n int) string {
	return fmt.Sprintf("t-%s", strings.Map(func(r rune) rune { return 'a' + (r-'0')%10 }, fmt.Sprintf("%012d", n)))
}

func instant(n int, name string) snapshot.Instant {
	return snapshot.Instant{Tenant: tenantID(n), Name: name, Seq: uint64(n + 1), Head: strings.Repeat("0123456789abcdef", 4)}
}

func TestCreate(t *testing.T) {
	h, fake, dir := newHelper(t, nil)
	id := tenantID(1)
	must(t, h.Create(t.Context(), id, 100<<20))
	argv := fake.Argv()[0]
	for _, want := range []string{"refquota=104857600", "compression=lz4", "recordsize=131072", "atime=off", "exec=off", "setuid=off", "devices=off", "xattr=sa", "acltype=posixacl", "snapdir=hidden"} {
		if !slices.Contains(argv, want) {
			t.Errorf("created by %q, without %s", argv, want)
		}
	}
	for _, a := range argv {
		if strings.HasPrefix(a, "quota=") || strings.HasPrefix(a, "mountpoint=") {
			t.Errorf("created by %q", argv)
		}
	}
	st, err := os.Stat(filepath.Join(dir, id))
	must(t, err)
	if st.Mode().Perm() != 0o750 {
		t.Errorf("mode %v", st.Mode())
	}
	wants(t, "a second time", h.Create(t.Context(), id, 0), fs.ErrExist)
	must(t, os.Chmod(filepath.Join(dir, id), 0o755)) // as when the first was cut short
	must(t, h.Create(t.Context(), id, 0))
	must(t, os.WriteFile(filepath.Join(dir, id, "x"), nil, 0o600))
	must(t, os.Chmod(filepath.Join(dir, id), 0o755))
	wants(t, "one with something in it", h.Create(t.Context(), id, 0), fs.ErrExist)

	fake.Change(func(s *zfstest.State) { s.Datasets[root].Mounted = false })
	before := len(fake.Argv())
	wants(t, "the root is not mounted", h.Create(t.Context(), tenantID(2), 0), zfshelper.ErrAbsent)
	if n := len(fake.Argv()); before == 0 || n != 0 {
		t.Errorf("%d commands were run for it", n)
	}
	if _, err := os.Stat(filepath.Join(dir, tenantID(2))); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made below the mount point: %v", err)
	}
}

// What the server's user, or code execution in the server, can say: nothing is run for it.
func TestHostile(t *testing.T) {
	h, fake, _ := newHelper(t, nil)
	ctx := t.Context()
	must(t, h.Create(ctx, tenantID(1), 100<<20))
	fake.Argv()
	for _, id := range []string{"", ".", "..", "t-1", "../t-aaaaaaaaaaaa", "t-aaaaaaaaaaaa/x", "t-aaaaaaaaaaaa@x", "t-AAAAAAAAAAAA", "-o mountpoint=/", "t-aaaaaaaaaaa\n", "t-aaaaaaaaaaa0", "t-aaaaaaaaaaaa t-b",
		strings.Repeat("a", 1<<16), "t-aaaaaaaaaaaé"} {
		wants(t, "create "+id, h.Create(ctx, id, 0), zfshelper.ErrInvalid)
		wants(t, "raise "+id, h.Raise(ctx, id, 0), zfshelper.ErrInvalid)
		_, err := h.Bodies(ctx, id)
		wants(t, "bodies "+id, err, zfshelper.ErrInvalid)
		i := instant(1, "ok")
		i.Tenant = id
		_, err = h.Take(ctx, []snapshot.Instant{i}, time.Minute)
		wants(t, "take "+id, err, zfshelper.ErrInvalid)
	}
	for _, name := range []string{"", "-r", ".", "a/b", "a@b", "a%b", "a,b", "a b", "a\nb", "\x00", strings.Repeat("a", 200), "é", "a:b"} {
		_, err := h.Take(ctx, []snapshot.Instant{instant(1, name)}, time.Minute)
		wants(t, "take "+name, err, zfshelper.ErrInvalid)
	}
	for what, change := range map[string]func(*snapshot.Instant){"no seq": func(i *snapshot.Instant) { i.Seq = 0 }, "no head": func(i *snapshot.Instant) { i.Head = "" },
		"a head with more": func(i *snapshot.Instant) { i.Head += " x=y" }, "upper case": func(i *snapshot.Instant) { i.Head = strings.ToUpper(i.Head) }} {
		i := instant(1, "ok")
		change(&i)
		_, err := h.Take(ctx, []snapshot.Instant{i}, time.Minute)
		wants(t, "take, "+what, err, zfshelper.ErrInvalid)
	}
	_, err := h.Take(ctx, []snapshot.Instant{instant(1, "a"), instant(1, "b")}, time.Minute)
	wants(t, "one tenant twice", err, zfshelper.ErrInvalid)
	_, err = h.Take(ctx, nil, time.Minute)
	wants(t, "no batch", err, zfshelper.ErrInvalid)
	_, err = h.Take(ctx, make([]snapshot.Instant, 5000), time.Minute)
	wants(t, "a long batch", err, zfshelper.ErrInvalid)
	if argv := fake.Argv(); len(argv) != 0 {
		t.Errorf("was run: %q", argv)
	}
	wants(t, "lower a quota", h.Raise(ctx, tenantID(1), 50<<20), zfshelper.ErrLower)
	wants(t, "a dataset that is not there", h.Raise(ctx, tenantID(7), 50<<20), fs.ErrNotExist)
	must(t, h.Raise(ctx, tenantID(1), 200<<20))
	must(t, h.Raise(ctx, tenantID(1), 200<<20))
	must(t, h.Raise(ctx, tenantID(1), 0))
	wants(t, "lower from none", h.Raise(ctx, tenantID(1), 1<<50), zfshelper.ErrLower)
	must(t, h.Raise(ctx, tenantID(1), 0))
	for _, argv := range fake.Argv() {
		if argv[1] == "set" && !strings.HasPrefix(argv[2], "refquota=") || slices.Contains([]string{"destroy", "release", "rollback", "rename", "umount", "promote", "inherit", "allow"}, argv[1]) {
			t.Errorf("was run: %q", argv)
		}
	}
}

func TestTake(t *testing.T) {
	h, fake, _ := newHelper(t, nil)
	ctx := t.Context()
	batch := []snapshot.Instant{}
	for n := range 3 {
		must(t, h.Create(ctx, tenantID(n), 0))
		batch = append(batch, instant(n, "first"))
	}
	fake.Argv()
	bodies, err := h.Take(ctx, batch, time.Minute)
	must(t, err)
	for n, b := range bodies {
		if b.Instant != batch[n] || b.GUID == 0 || b.CreateTXG == 0 || b.CreateTXG != bodies[0].CreateTXG {
			t.Errorf("%+v", b)
		}
	}
	if argv := fake.Argv(); len(argv) != 4 || argv[0][1] != "program" || argv[1][1] != "hold" || argv[1][2] != snapshot.HoldTag || argv[2][1] != "list" || argv[3][1] != "get" {
		t.Errorf("was run: %q", argv)
	}
	// A body that is there is not replaced, and a tenant that has gone does not take the others' away.
	batch[1].Name, batch[2].Name = "second", "second"
	batch = append(batch, instant(9, "second"))
	bodies, err = h.Take(ctx, batch, time.Minute)
	must(t, err)
	if len(bodies) != 2 || bodies[0].Tenant != tenantID(1) || bodies[1].Tenant != tenantID(2) {
		t.Errorf("%+v", bodies)
	}
	_, err = h.Take(ctx, batch[:1], time.Minute)
	wants(t, "a name that is taken", err, fs.ErrExist)
	list, err := h.Bodies(ctx, tenantID(2))
	must(t, err)
	if len(list) != 2 || list[0].Name != "first" || list[1].Name != "second" || list[1].Seq != 3 || list[1].Tenant != tenantID(2) {
		t.Errorf("%+v", list)
	}
	// One that came too late is not held.
	fake.Change(func(s *zfstest.State) { s.Slow = 50 * time.Millisecond })
	_, err = h.Take(ctx, []snapshot.Instant{instant(0, "late")}, time.Millisecond)
	wants(t, "too late", err, zfshelper.ErrLate)
	fake.Change(func(s *zfstest.State) {
		if x := s.Datasets[root+"/"+tenantID(0)].Snapshots["vaultd-late"]; x == nil || len(x.Holds) != 0 {
			t.Errorf("%+v", x)
		}
		s.Fail = map[string]string{"hold": "cannot hold: out of space"}
		s.Slow = 0
	})
	_, err = h.Take(ctx, []snapshot.Instant{instant(0, "unheld")}, time.Minute)
	wants(t, "without a hold", err, zfs.ErrNoSpace)
}

func TestRates(t *testing.T) {
	h, _, _ := newHelper(t, func(c *zfshelper.Config) { c.Limits = zfshelper.Limits{Creates: 3, Snapshots: 4, OfTenant: 2} })
	ctx := t.Context()
	for n := range 3 {
		must(t, h.Create(ctx, tenantID(n), 0))
	}
	wants(t, "a fourth dataset", h.Create(ctx, tenantID(3), 0), zfshelper.ErrRate)
	take := func(n int, name string) error {
		_, err := h.Take(ctx, []snapshot.Instant{instant(n, name)}, time.Minute)
		return err
	}
	must(t, take(0, "a"))
	must(t, take(0, "b"))
	wants(t, "a third of one tenant", take(0, "c"), zfshelper.ErrRate)
	must(t, take(1, "a"))
	must(t, take(2, "a"))
	wants(t, "a fifth in all", take(1, "b"), zfshelper.ErrRate)
}

// A thousand tenants are one batch, and one process makes it.
func TestThousand(t *testing.T) {
	h, fake, _ := newHelper(t, nil)
	const n = 1000
	var batch []snapshot.Instant
	fake.Change(func(s *zfstest.State) {
		for i := range n {
			s.Datasets[root+"/"+tenantID(i)] = &zfstest.Dataset{Properties: map[string]string{}, GUID: uint64(i + 10), Mounted: true, Snapshots: map[string]*zfstest.Snapshot{}}
			batch = append(batch, instant(i, "2026-11-25T02-00-00Z-hourly"))
		}
	})
	bodies, err := h.Take(t.Context(), batch, time.Minute)
	must(t, err)
	if len(bodies) != n {
		t.Errorf("%d bodies", len(bodies))
	}
	verbs := map[string]int{}
	for _, argv := range fake.Argv() {
		verbs[argv[1]]++
	}
	if len(verbs) != 4 || verbs["program"] != 1 || verbs["hold"] != 1 || verbs["list"] != 1 || verbs["get"] != 1 {
		t.Errorf("processes: %v", verbs)
	}
}

func TestKeys(t *testing.T) {
	keys := t.TempDir()
	h, fake, _ := newHelper(t, func(c *zfshelper.Config) { c.Encrypt, c.KeyDir = true, keys })
	ctx := t.Context()
	id := tenantID(1)
	must(t, h.Create(ctx, id, 0))
	path := filepath.Join(keys, id+".key")
	st, err := os.Stat(path)
	must(t, err)
	if st.Size() != 32 || st.Mode().Perm() != 0o400 {
		t.Errorf("key: %d bytes, %v", st.Size(), st.Mode())
	}
	if argv := fake.Argv()[0]; !slices.Contains(argv, "encryption=aes-256-gcm") || !slices.Contains(argv, "keyformat=raw") || !slices.Contains(argv, "keylocation=file://"+path) {
		t.Errorf("was run: %q", argv)
	}
	key, err := os.ReadFile(path)
	must(t, err)
	wants(t, "again", h.Create(ctx, id, 0), fs.ErrExist)
	if now, _ := os.ReadFile(path); string(now) != string(key) {
		t.Error("the key is another one")
	}
	// What a crash leaves of a key is made anew, as long as nothing was encrypted with it.
	other := tenantID(2)
	must(t, os.WriteFile(filepath.Join(keys, other+".key"), []byte("short"), 0o400))
	must(t, h.Create(ctx, other, 0))

	// At the start keys are loaded, each once; without a key the tenant stays locked, and the others are served.
	must(t, os.Rename(filepath.Join(keys, other+".key"), filepath.Join(keys, "away")))
	fake.Change(func(s *zfstest.State) {
		for _, i := range []string{id, other} {
			s.Datasets[root+"/"+i].Locked, s.Datasets[root+"/"+i].Mounted = true, false
		}
	})
	locked := func() string {
		all, err := h.Datasets(ctx)
		must(t, err)
		var s []string
		for _, d := range all {
			s = append(s, fmt.Sprintf("%s locked %v mounted %v", d.ID, d.Locked, d.Mounted))
		}
		return strings.Join(s, ", ")
	}
	if err := h.Ready(ctx); err == nil {
		t.Error("nothing is said of the key that is missing")
	}
	if got, want := locked(), id+" locked false mounted true, "+other+" locked true mounted false"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	fake.Change(func(s *zfstest.State) { s.Datasets[root+"/"+id].Locked, s.Datasets[root+"/"+id].Mounted = true, false }) // by the operator
	must(t, h.Ready(ctx))
	if got, want := locked(), id+" locked true mounted false, "+other+" locked true mounted false"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// Ten thousand snapshots are listed without a process, once they were read.
func BenchmarkBodies(b *testing.B) {
	h, fake, _ := newHelper(b, nil)
	fill(b, fake, 10_000)
	_, err := h.Bodies(context.Background(), tenantID(1))
	must(b, err)
	fake.Argv()
	for b.Loop() {
		list, err := h.Bodies(context.Background(), tenantID(1))
		must(b, err)
		if len(list) != 10_000 {
			b.Fatalf("%d bodies", len(list))
		}
	}
	if argv := fake.Argv(); len(argv) != 0 {
		b.Errorf("was run: %q", argv)
	}
}

func fill(t testing.TB, fake *zfstest.Fake, n int) {
	fake.Change(func(s *zfstest.State) {
		d := &zfstest.Dataset{Properties: map[string]string{}, GUID: 10, Mounted: true, Snapshots: map[string]*zfstest.Snapshot{}}
		for i := range n {
			d.Snapshots[fmt.Sprintf("vaultd-%06d-hourly", i)] = &zfstest.Snapshot{GUID: uint64(i + 1), TXG: uint64(i + 1), Properties: map[string]string{snapshot.PropertySeq: fmt.Sprint(i + 1), snapshot.PropertyHead: strings.Repeat("0", 64)}}
		}
		s.Datasets[root+"/"+tenantID(1)] = d
	})
}
