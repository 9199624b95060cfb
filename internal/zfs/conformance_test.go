package zfs_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/zfs"
)

var ctx = context.Background()

// props are what a tenant's dataset will have.
var props = map[string]string{"compression": "zstd", "atime": "off", "exec": "off", "setuid": "off", "devices": "off", "xattr": "sa",
	"acltype": "posixacl", "snapdir": "hidden", "recordsize": "1M", "refquota": "104857600", "vaultd:tenant": "0123456789abcdef"}

func TestCreate(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, props, nil))
	err := b.Create(ctx, ds, props, nil)
	wants(t, "Create twice", err, zfs.ErrExist)
	wants(t, "Create twice", err, fs.ErrExist)
	wants(t, "Create below nothing", b.Create(ctx, b.root+"/none/b", nil, nil), zfs.ErrNotExist)
	if err := b.Create(ctx, b.root+"/b", map[string]string{"compression": "none such"}, nil); err == nil {
		t.Error("a property's value that ZFS does not know was taken")
	}

	d, err := b.Get(ctx, ds, "vaultd:tenant", "compression", "recordsize", "acltype", "vaultd:none")
	must(t, err)
	if d.Name != ds || d.Type != "filesystem" || d.GUID == 0 || d.CreateTXG == 0 || d.Created.IsZero() || d.Available == 0 || d.Referenced == 0 ||
		d.RefQuota != 100<<20 || d.Quota != 0 || d.Mountpoint != "/"+ds || !d.Mounted || d.Encryption != "off" || d.KeyStatus != "" || d.Origin != "" {
		t.Errorf("Get: %+v", d)
	}
	want := map[string]zfs.Value{"vaultd:tenant": {"0123456789abcdef", "local"}, "compression": {"zstd", "local"},
		"recordsize": {"1048576", "local"}, "acltype": {"posix", "local"}}
	for p, v := range want {
		if d.Properties[p] != v {
			t.Errorf("%s is %+v, want %+v", p, d.Properties[p], v)
		}
	}
	if v, ok := d.Properties["vaultd:none"]; ok {
		t.Errorf("a property that nobody set is %+v", v)
	}
	_, err = b.Get(ctx, b.root+"/none")
	wants(t, "Get of nothing", err, zfs.ErrNotExist)
	_, err = b.Get(ctx, "nosuchpool/x")
	wants(t, "Get in no pool", err, zfs.ErrNotExist)
}

func TestList(t *testing.T) {
	b := newBench(t, zfs.Config{})
	for _, n := range []string{"/t", "/t/b", "/t/a", "/t/a/deep"} {
		must(t, b.Create(ctx, b.root+n, nil, nil))
	}
	must(t, b.Set(ctx, b.root+"/t", map[string]string{"vaultd:mode": "strict"}))
	names := func(depth int) string {
		all, err := b.List(ctx, b.root+"/t", depth, "vaultd:mode")
		must(t, err)
		var s []string
		for _, d := range all {
			s = append(s, strings.TrimPrefix(d.Name, b.root))
			if v := d.Properties["vaultd:mode"]; v.Value != "strict" || v.Own() != (d.Name == b.root+"/t") {
				t.Errorf("%s: %+v", d.Name, v)
			}
		}
		return strings.Join(s, " ")
	}
	for _, c := range []struct {
		depth int
		want  string
	}{{-1, "/t /t/a /t/a/deep /t/b"}, {0, "/t"}, {1, "/t /t/a /t/b"}} {
		if got := names(c.depth); got != c.want {
			t.Errorf("depth %d: %s, want %s", c.depth, got, c.want)
		}
	}
}

func TestSetRenameMount(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	must(t, b.Set(ctx, ds, map[string]string{"vaultd:a": "ä = b", "vaultd:b": "x"}))
	must(t, b.Inherit(ctx, ds, "vaultd:b"))
	d, err := b.Get(ctx, ds, "vaultd:a", "vaultd:b")
	must(t, err)
	if len(d.Properties) != 1 || d.Properties["vaultd:a"].Value != "ä = b" {
		t.Errorf("properties are %v", d.Properties)
	}
	must(t, b.SetQuota(ctx, ds, 0, 64<<20))
	must(t, b.SetQuota(ctx, ds, 128<<20, 0))
	wants(t, "a quota of one byte", b.SetQuota(ctx, ds, 1, 0), zfs.ErrQuota)

	wants(t, "Mount twice", b.Mount(ctx, ds), zfs.ErrMounted)
	hold := b.open("/" + ds)
	wants(t, "Unmount while in use", b.Unmount(ctx, ds), zfs.ErrBusy)
	hold()
	must(t, b.Unmount(ctx, ds))
	wants(t, "Unmount twice", b.Unmount(ctx, ds), zfs.ErrNotMounted)
	must(t, b.Mount(ctx, ds))

	must(t, b.Rename(ctx, ds, b.root+"/b"))
	wants(t, "Rename of nothing", b.Rename(ctx, ds, b.root+"/c"), zfs.ErrNotExist)
	must(t, b.Create(ctx, ds, nil, nil))
	wants(t, "Rename over another", b.Rename(ctx, ds, b.root+"/b"), zfs.ErrExist)
	d, err = b.Get(ctx, b.root+"/b")
	must(t, err)
	if !d.Mounted || d.Mountpoint != "/"+b.root+"/b" {
		t.Errorf("renamed: %+v", d)
	}
}

// open keeps a file below dir open until what it returns is called; with the fake it does nothing.
func (b *bench) open(dir string) func() {
	if !b.real {
		return func() {}
	}
	f, err := os.Open(dir)
	must(b, err)
	return func() { f.Close() }
}

// write makes a file on the real file system.
func (b *bench) write(name string, size int) {
	if !b.real {
		return
	}
	data := make([]byte, size)
	rand.Read(data) // zeros take no room
	must(b, os.WriteFile(name, data, 0o644))
}

func TestSnapshots(t *testing.T) {
	b := newBench(t, zfs.Config{})
	a, c := b.root+"/a", b.root+"/c"
	must(t, b.Create(ctx, a, nil, nil))
	must(t, b.Create(ctx, c, nil, nil))
	b.write("/"+a+"/one", 1<<20)
	must(t, b.Take(ctx, map[string]string{"vaultd:by": "schedule"}, a+"@one", c+"@one"))
	err := b.Take(ctx, nil, a+"@two", c+"@one")
	wants(t, "Take of one that is there", err, zfs.ErrExist)
	wants(t, "Take of nothing", b.Take(ctx, nil, b.root+"/none@x"), zfs.ErrNotExist)
	b.write("/"+a+"/two", 1<<20)
	must(t, b.TakeRecursive(ctx, nil, b.root+"@all"))

	all, err := b.Snapshots(ctx, a, "vaultd:by")
	must(t, err)
	if got := short(all); got != "one all" { // none was made by the refused one
		t.Fatalf("snapshots of a are %s", got)
	}
	one := all[0]
	if one.Dataset() != a || one.GUID == 0 || one.Created.IsZero() || one.Referenced < 1<<20 || one.Holds != 0 || one.Deferred || one.CreateTXG >= all[1].CreateTXG ||
		one.Properties["vaultd:by"] != (zfs.Value{"schedule", "local"}) || all[1].Properties["vaultd:by"] != (zfs.Value{}) || all[1].Written < 1<<20 {
		t.Errorf("snapshots: %+v\n%+v", one, all[1])
	}
	every, err := b.AllSnapshots(ctx, b.root)
	must(t, err)
	txg := map[string]uint64{}
	for _, s := range every {
		if n := txg[s.Short()]; n != 0 && n != s.CreateTXG {
			t.Errorf("%s is of transaction %d, others of its batch of %d", s.Name, s.CreateTXG, n)
		}
		txg[s.Short()] = s.CreateTXG
	}
	if got := short(every); got != "all one all one all" {
		t.Errorf("all snapshots: %s", got)
	}
	none, err := b.Snapshots(ctx, b.root+"/none")
	if wants(t, "Snapshots of nothing", err, zfs.ErrNotExist); none != nil {
		t.Errorf("snapshots of nothing: %v", none)
	}
	_, err = b.Snapshot(ctx, a+"@none")
	wants(t, "Snapshot of nothing", err, zfs.ErrNotExist)
	s, err := b.Snapshot(ctx, a+"@one", "vaultd:by")
	if must(t, err); s.GUID != one.GUID || s.Properties["vaultd:by"].Value != "schedule" {
		t.Errorf("Snapshot: %+v", s)
	}
}

func short(all []*zfs.Snapshot) string {
	var s []string
	for _, x := range all {
		s = append(s, x.Short())
	}
	return strings.Join(s, " ")
}

func TestHolds(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	must(t, b.Create(ctx, ds+"/b", nil, nil))
	must(t, b.TakeRecursive(ctx, nil, ds+"@s"))
	must(t, b.Take(ctx, nil, ds+"@t"))
	must(t, b.Hold(ctx, "vaultd:keep", ds+"@s", ds+"@t"))
	must(t, b.HoldRecursive(ctx, "legal case 7", ds+"@s"))
	wants(t, "Hold twice", b.Hold(ctx, "vaultd:keep", ds+"@s"), zfs.ErrExist)
	wants(t, "Hold of nothing", b.Hold(ctx, "vaultd:keep", ds+"@none"), zfs.ErrNotExist)

	holds, err := b.Holds(ctx, ds+"@s", ds+"@t")
	must(t, err)
	var tags []string
	for _, h := range holds {
		tags = append(tags, strings.TrimPrefix(h.Snapshot, ds)+" "+h.Tag)
		if time.Since(h.Created) < -time.Hour || h.Created.Year() < 2020 {
			t.Errorf("hold %+v", h)
		}
	}
	slices.Sort(tags)
	if got := strings.Join(tags, ", "); got != "@s legal case 7, @s vaultd:keep, @t vaultd:keep" {
		t.Errorf("holds: %s", got)
	}
	s, err := b.Snapshot(ctx, ds+"@s")
	if must(t, err); s.Holds != 2 {
		t.Errorf("%d holds", s.Holds)
	}
	err = b.DestroySnapshot(ctx, ds+"@s", s.GUID)
	wants(t, "Destroy of a held one", err, zfs.ErrHeld)
	wants(t, "Destroy of a held one", err, zfs.ErrBusy)
	must(t, b.Release(ctx, "vaultd:keep", ds+"@s"))
	wants(t, "Release twice", b.Release(ctx, "vaultd:keep", ds+"@s"), zfs.ErrNotExist)
	wants(t, "Destroy with a legal hold", b.DestroySnapshot(ctx, ds+"@s", s.GUID), zfs.ErrHeld)
	must(t, b.Release(ctx, "legal case 7", ds+"@s", ds+"/b@s"))
	must(t, b.DestroySnapshot(ctx, ds+"@s", s.GUID))
	must(t, b.Release(ctx, "vaultd:keep", ds+"@t"))
	if holds, err = b.Holds(ctx, ds+"@t"); err != nil || len(holds) != 0 {
		t.Errorf("holds: %v, %v", holds, err)
	}
}

func TestDestroySnapshot(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	b.write("/"+ds+"/f", 1<<10)
	must(t, b.Take(ctx, nil, ds+"@s"))
	must(t, b.Take(ctx, nil, ds+"@t"))
	if err := b.Take(ctx, nil, ds+"@u", ds+"@v"); err == nil {
		t.Error("two snapshots of one dataset were taken at once")
	}
	must(t, b.Create(ctx, b.root+"/x", nil, nil)) // another of its name elsewhere is none of our business
	must(t, b.Take(ctx, nil, b.root+"/x@s"))
	s, err := b.Snapshot(ctx, ds+"@s")
	must(t, err)

	wants(t, "Destroy with another guid", b.DestroySnapshot(ctx, ds+"@s", s.GUID+1), zfs.ErrNotExist)
	wants(t, "Destroy of nothing", b.DestroySnapshot(ctx, ds+"@none", 1), zfs.ErrNotExist)
	for _, name := range []string{ds, ds + "@", ds + "@s,t", ds + "@s%t", ds + "@%", "@s", "-r", ds + "@s\n", ds + "#s", ds + "@s@t"} {
		wants(t, "Destroy of "+name, b.DestroySnapshot(ctx, name, s.GUID), zfs.ErrName)
	}
	done := b.open("/" + ds + "/.zfs/snapshot/s/f")
	wants(t, "Destroy while it is read", b.DestroySnapshot(ctx, ds+"@s", s.GUID), zfs.ErrBusy)
	done()

	must(t, b.Clone(ctx, ds+"@s", b.root+"/view", map[string]string{"readonly": "on"}))
	wants(t, "Clone twice", b.Clone(ctx, ds+"@s", b.root+"/view", nil), zfs.ErrExist)
	wants(t, "Destroy with a clone", b.DestroySnapshot(ctx, ds+"@s", s.GUID), zfs.ErrDependent)
	wants(t, "DestroyClone of no clone", b.DestroyClone(ctx, ds), zfs.ErrName)
	must(t, b.Clone(ctx, ds+"@t", b.root+"/own", nil))
	wants(t, "DestroyClone of one that can be written", b.DestroyClone(ctx, b.root+"/own"), zfs.ErrName)
	d, err := b.Get(ctx, b.root+"/view")
	if must(t, err); d.Origin != ds+"@s" {
		t.Errorf("origin is %q", d.Origin)
	}
	must(t, b.DestroyClone(ctx, b.root+"/view"))

	must(t, b.DestroySnapshot(ctx, ds+"@s", s.GUID))
	all, err := b.AllSnapshots(ctx, b.root)
	must(t, err)
	if len(all) != 2 || all[0].Name != ds+"@t" || all[1].Name != b.root+"/x@s" {
		t.Errorf("left: %s", short(all))
	}
}

// A dataset goes when it is empty, and nobody can have changed that in between.
func TestDestroyEmpty(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	b.write("/"+ds+"/f", 1<<10)
	d, err := b.Get(ctx, ds)
	must(t, err)
	if !b.real {
		zfs.UseMountedAt(t, func(dir string) (string, error) { return strings.TrimPrefix(dir, "/"), nil })
	}
	notEmpty := errors.New("not empty")
	looked := 0
	empty := func(dir string) error {
		if looked++; dir != "/"+ds {
			t.Errorf("looked into %s", dir)
		}
		if b.real {
			if err := os.WriteFile(dir+"/late", nil, 0o600); !errors.Is(err, syscall.EROFS) {
				t.Errorf("written while it was looked at: %v", err)
			}
			if list, err := os.ReadDir(dir); err != nil || len(list) > 0 {
				return errors.Join(notEmpty, err)
			}
		} else if looked == 1 {
			return notEmpty
		}
		return nil
	}
	wants(t, "one with a file", b.DestroyEmpty(ctx, ds, d.GUID, empty), notEmpty)
	b.write("/"+ds+"/g", 1) // it is mounted as before
	b.sh("rm /" + ds + "/f /" + ds + "/g")
	wants(t, "another guid", b.DestroyEmpty(ctx, ds, d.GUID+1, empty), zfs.ErrNotExist)
	wants(t, "nothing", b.DestroyEmpty(ctx, b.root+"/none", 1, empty), zfs.ErrNotExist)
	must(t, b.Take(ctx, nil, ds+"@s"))
	wants(t, "one with a snapshot", b.DestroyEmpty(ctx, ds, d.GUID, empty), zfs.ErrDependent)
	s, err := b.Snapshot(ctx, ds+"@s")
	must(t, err)
	must(t, b.DestroySnapshot(ctx, ds+"@s", s.GUID))
	must(t, b.Create(ctx, ds+"/child", nil, nil))
	wants(t, "one with a child", b.DestroyEmpty(ctx, ds, d.GUID, empty), zfs.ErrDependent)
	b.sh("zfs destroy " + ds + "/child")
	done := b.open("/" + ds)
	wants(t, "one in use", b.DestroyEmpty(ctx, ds, d.GUID, empty), zfs.ErrBusy)
	done()
	if looked != 1 {
		t.Errorf("looked %d times", looked)
	}
	must(t, b.Unmount(ctx, ds)) // as one that was killed may leave it
	must(t, b.DestroyEmpty(ctx, ds, d.GUID, empty))
	_, err = b.Get(ctx, ds)
	wants(t, "afterwards", err, zfs.ErrNotExist)

	// An encrypted one: not while it is locked, for good when it is not.
	ds = b.root + "/secret"
	key := []byte("a long enough passphrase")
	must(t, b.Create(ctx, ds, map[string]string{"encryption": "on", "keyformat": "passphrase", "pbkdf2iters": "100000"}, key))
	d, err = b.Get(ctx, ds)
	must(t, err)
	must(t, b.Unmount(ctx, ds))
	must(t, b.UnloadKey(ctx, ds))
	wants(t, "a locked one", b.DestroyEmpty(ctx, ds, d.GUID, empty), zfs.ErrKey)
	must(t, b.LoadKey(ctx, ds, key))
	must(t, b.Mount(ctx, ds))
	must(t, b.DestroyEmpty(ctx, ds, d.GUID, empty))
	_, err = b.Get(ctx, ds)
	wants(t, "the encrypted one afterwards", err, zfs.ErrNotExist)
}

// Free text of others can not pass for facts: neither a property's value nor a tag with line breaks.
func TestForgery(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	must(t, b.Take(ctx, map[string]string{"vaultd:by": "us"}, ds+"@s"))
	must(t, b.Take(ctx, nil, ds+"@t"))
	get := func() error {
		_, err := b.Snapshots(ctx, ds, "vaultd:by")
		return err
	}
	must(t, get())
	b.sh(fmt.Sprintf(`zfs set "vaultd:by=$(printf 'x\n%s\tvaultd:by\tlocal\tus')" %s`, ds+"@t", ds+"@s"))
	wants(t, "a value with a line of a snapshot", get(), zfs.ErrOutput)
	b.sh(fmt.Sprintf(`zfs set "vaultd:by=$(printf 'x\n%s\tvaultd:by\tlocal\tus')" %s`, ds+"@none", ds+"@s"))
	wants(t, "a value with a line of nothing", get(), zfs.ErrOutput)
	b.sh(fmt.Sprintf(`zfs set "vaultd:by=$(printf 'a\tb\tc')" %s`, ds+"@s"))
	s, err := b.Snapshot(ctx, ds+"@s", "vaultd:by")
	if must(t, err); s.Properties["vaultd:by"].Value != "a\tb\tc" {
		t.Errorf("a value with tabs: %+v", s.Properties)
	}

	must(t, b.Hold(ctx, "x", ds+"@s"))
	b.sh(fmt.Sprintf(`zfs hold "$(printf 'a\tb')" %s`, ds+"@s"))
	holds, err := b.Holds(ctx, ds+"@s")
	if must(t, err); len(holds) != 2 || holds[0].Tag != "a\tb" && holds[1].Tag != "a\tb" {
		t.Errorf("holds: %q", holds)
	}
	b.sh(fmt.Sprintf(`zfs hold "$(printf 'z\tTue Nov 24 23:31 2026\n%s\tvaultd:keep')" %s`, ds+"@t", ds+"@s"))
	_, err = b.Holds(ctx, ds+"@s", ds+"@t")
	wants(t, "a tag with a line of its own", err, zfs.ErrOutput)
	b.sh(fmt.Sprintf("zfs holds -H %s@s | cut -f2", ds)) // it is there
	b.sh(fmt.Sprintf(`zfs release x %[1]s; zfs release "$(printf 'a\tb')" %[1]s; zfs release "$(printf 'z\tTue Nov 24 23:31 2026\n%[2]s\tvaultd:keep')" %[1]s`, ds+"@s", ds+"@t"))
}

func TestDelegation(t *testing.T) {
	b := newBench(t, zfs.Config{})
	b.sh("id vaultd >/dev/null 2>&1 || useradd vaultd")
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, nil, nil))
	must(t, b.Allow(ctx, ds, "vaultd", "snapshot", "hold", "userprop"))
	must(t, b.Allow(ctx, b.root, "vaultd", "create", "mount"))
	all, err := b.Delegations(ctx, ds)
	must(t, err)
	if got := fmt.Sprint(all[ds]); got != "[{local+descendent user vaultd [hold snapshot userprop]}]" {
		t.Errorf("delegated: %s", got)
	}
	if got := fmt.Sprint(all[b.root]); got != "[{local+descendent user vaultd [create mount]}]" {
		t.Errorf("delegated above: %s", got)
	}
	must(t, b.Unallow(ctx, ds, "vaultd", "userprop"))
	if all, err = b.Delegations(ctx, ds); err != nil || fmt.Sprint(all[ds]) != "[{local+descendent user vaultd [hold snapshot]}]" {
		t.Errorf("delegated: %v, %v", all, err)
	}
	wants(t, "a user that is not there", b.Allow(ctx, ds, "nobody-of-that-name", "snapshot"), zfs.ErrName)
	if err := b.Allow(ctx, ds, "vaultd", "nonsense"); err == nil {
		t.Error("a permission that is not there was taken")
	}
}

func TestEncryption(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds, key := b.root+"/a", []byte("correct horse battery staple\n")
	enc := map[string]string{"encryption": "aes-256-gcm", "keyformat": "passphrase", "keylocation": "prompt", "pbkdf2iters": "100000"}
	must(t, b.Create(ctx, ds, enc, key))
	d, err := b.Get(ctx, ds)
	if must(t, err); d.Encryption != "aes-256-gcm" || d.KeyStatus != "available" || !d.Mounted {
		t.Errorf("created: %+v", d)
	}
	wants(t, "UnloadKey while mounted", b.UnloadKey(ctx, ds), zfs.ErrBusy)
	wants(t, "LoadKey twice", b.LoadKey(ctx, ds, key), zfs.ErrKey)
	must(t, b.Take(ctx, nil, ds+"@s"))
	must(t, b.Unmount(ctx, ds))
	must(t, b.UnloadKey(ctx, ds))
	if d, err = b.Get(ctx, ds); err != nil || d.KeyStatus != "unavailable" || d.Mounted {
		t.Errorf("locked: %+v, %v", d, err)
	}
	wants(t, "UnloadKey twice", b.UnloadKey(ctx, ds), zfs.ErrKey)
	wants(t, "Mount without a key", b.Mount(ctx, ds), zfs.ErrKey)
	wants(t, "Send without a key", b.Send(ctx, io.Discard, ds+"@s", zfs.SendOptions{}), zfs.ErrKey)
	var raw bytes.Buffer
	must(t, b.Send(ctx, &raw, ds+"@s", zfs.SendOptions{Raw: true}))
	wants(t, "LoadKey with a wrong one", b.LoadKey(ctx, ds, []byte("wrong wrong wrong\n")), zfs.ErrKey)
	if err := b.LoadKey(ctx, ds, nil); err == nil {
		t.Error("no key was taken")
	}
	must(t, b.LoadKey(ctx, ds, key))
	must(t, b.Mount(ctx, ds))
}

func TestStreams(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds, to := b.root+"/a", b.root+"/copy"
	must(t, b.Create(ctx, ds, map[string]string{"vaultd:tenant": "x"}, nil))
	b.write("/"+ds+"/one", 1<<20)
	must(t, b.Take(ctx, nil, ds+"@one"))
	b.write("/"+ds+"/two", 2<<20)
	must(t, b.Take(ctx, nil, ds+"@two"))
	must(t, b.Bookmark(ctx, ds+"@one", "one"))
	wants(t, "Bookmark twice", b.Bookmark(ctx, ds+"@one", "one"), zfs.ErrExist)

	var whole, part bytes.Buffer
	must(t, b.Send(ctx, &whole, ds+"@one", zfs.SendOptions{Props: true}))
	must(t, b.Send(ctx, &part, ds+"@two", zfs.SendOptions{From: ds + "#one"}))
	if b.real && (whole.Len() < 1<<20 || part.Len() < 2<<20 || part.Len() > 3<<20) {
		t.Errorf("streams of %d and %d bytes", whole.Len(), part.Len())
	}
	wants(t, "Send of nothing", b.Send(ctx, io.Discard, ds+"@none", zfs.SendOptions{}), zfs.ErrNotExist)
	cut := bytes.NewReader(whole.Bytes()[:whole.Len()/2])
	wants(t, "Receive of half a stream", b.Receive(ctx, cut, to, zfs.ReceiveOptions{}), zfs.ErrStream)
	must(t, b.Receive(ctx, &whole, to, zfs.ReceiveOptions{Properties: map[string]string{"readonly": "on"}}))
	must(t, b.Receive(ctx, &part, to, zfs.ReceiveOptions{}))
	d, err := b.Get(ctx, to, "vaultd:tenant", "readonly")
	if must(t, err); d.Mounted || d.Properties["vaultd:tenant"] != (zfs.Value{"x", "received"}) || d.Properties["readonly"].Value != "on" {
		t.Errorf("received: %+v", d)
	}
	from, err := b.Snapshots(ctx, ds)
	must(t, err)
	got, err := b.Snapshots(ctx, to)
	must(t, err)
	for i := range got {
		if len(got) != 2 || got[i].GUID != from[i].GUID {
			t.Errorf("received snapshots %s", short(got))
		}
	}
}

func TestPool(t *testing.T) {
	b := newBench(t, zfs.Config{})
	pool, _, _ := strings.Cut(b.root, "/")
	names, err := b.Pools(ctx)
	if must(t, err); !slices.Contains(names, pool) {
		t.Errorf("pools: %v", names)
	}
	p, err := b.Pool(ctx, pool)
	must(t, err)
	if p.Health != "ONLINE" || p.Size < 1<<30 || p.Allocated == 0 || p.Allocated+p.Free != p.Size || p.Capacity() <= 0 || p.Capacity() > 50 || p.ReadOnly ||
		p.Status != "" || p.Errors != "" || len(p.Vdevs) != 2 || p.Vdevs[0].Name != pool || p.Vdevs[1].Depth != 1 || p.Vdevs[1].State != "ONLINE" {
		t.Errorf("pool: %+v", p)
	}
	_, err = b.Pool(ctx, "nosuchpool")
	wants(t, "Pool that is not there", err, zfs.ErrNotExist)
	must(t, b.Scrub(ctx, pool))
	b.sh("zpool wait -t scrub " + pool)
	p, err = b.Pool(ctx, pool)
	if must(t, err); p.Scan.Kind != "scrub" || p.Scan.State != "finished" || p.Scan.At.Year() < 2020 || p.Scan.Errors != 0 {
		t.Errorf("scan: %+v", p.Scan)
	}
}

// A pool of two files: one is taken away, then the other way round it comes back.
func TestPoolDegraded(t *testing.T) {
	b := newBench(t, zfs.Config{})
	b.sh(`mkdir -p /var/tmp/pool; cd /var/tmp/pool; truncate -s 128M a b; zpool create small mirror $PWD/a $PWD/b`)
	if b.real {
		t.Cleanup(func() { b.sh("zpool destroy small; rm -r /var/tmp/pool") })
	}
	b.sh(`zpool offline small /var/tmp/pool/b`)
	p, err := b.Pool(ctx, "small")
	must(t, err)
	if p.Health != "DEGRADED" || p.Status == "" || p.Action == "" || len(p.Vdevs) != 4 || p.Vdevs[1].State != "DEGRADED" || p.Vdevs[2].Depth != 2 || p.Vdevs[3].State != "OFFLINE" {
		t.Errorf("degraded: %+v", p)
	}
	b.write("/small/x", 48<<20)
	b.sh(`zpool sync small; dd if=/dev/urandom of=/var/tmp/pool/a bs=1M seek=8 count=60 conv=notrunc 2>/dev/null; zpool scrub -w small`)
	p, err = b.Pool(ctx, "small")
	must(t, err)
	if p.Errors == "" || p.Vdevs[2].Checksum == 0 || p.Scan.Errors == 0 {
		t.Errorf("damaged: %+v", p)
	}
}

// What quota means to who writes.
func TestQuota(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.Create(ctx, ds, map[string]string{"refquota": "8388608"}, nil))
	if b.real {
		err := os.WriteFile("/"+ds+"/f", bytes.Repeat([]byte("vault"), 1<<20), 0o644) // compresses: fits
		must(t, err)
		data := make([]byte, 12<<20)
		rand.Read(data)
		err = os.WriteFile("/"+ds+"/g", data, 0o644)
		if err == nil {
			f, _ := os.OpenFile("/"+ds+"/h", os.O_CREATE|os.O_WRONLY, 0o644)
			for range 100 {
				if _, err = f.Write(data); err != nil {
					break
				}
				err = f.Sync()
			}
			f.Close()
		}
		wants(t, "write beyond refquota", err, syscall.EDQUOT)
	}
	d, err := b.Get(ctx, ds)
	if must(t, err); d.RefQuota != 8<<20 || b.real && d.Referenced > 9<<20 {
		t.Errorf("at quota: %+v", d)
	}
}

func TestCreateUnmounted(t *testing.T) {
	b := newBench(t, zfs.Config{})
	ds := b.root + "/a"
	must(t, b.CreateUnmounted(ctx, ds, map[string]string{"compression": "lz4", "refquota": "104857600"}))
	wants(t, "twice", b.CreateUnmounted(ctx, ds, nil), zfs.ErrExist)
	wants(t, "below nothing", b.CreateUnmounted(ctx, b.root+"/none/b", nil), zfs.ErrNotExist)
	d, err := b.Get(ctx, ds)
	must(t, err)
	if d.Mounted || d.RefQuota != 100<<20 {
		t.Errorf("%+v", d)
	}
	must(t, b.Mount(ctx, ds))
}
