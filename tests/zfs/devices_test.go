package zfs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	zfscli "vaultd/internal/zfs"
)

// pull takes a disk out of the machine, as a broken cable would; plug puts all back.
func pull(t *testing.T, disk string) {
	t.Helper()
	link, err := filepath.EvalSymlinks("/sys/block/" + disk + "/device/..") // the PCI function of a virtio disk
	must(t, err)
	must(t, os.WriteFile(link+"/remove", []byte("1"), 0))
	waitFor(t, "the disk to be gone", func() bool { _, err := os.Stat("/dev/" + disk); return err != nil })
}

func plug(t *testing.T, disk string) {
	t.Helper()
	must(t, os.WriteFile("/sys/bus/pci/rescan", []byte("1"), 0))
	waitFor(t, "the disk to come back", func() bool { _, err := os.Stat("/dev/" + disk); return err == nil })
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// One of two disks goes: degraded, and everything works on.
func TestMirrorDegraded(t *testing.T) {
	sh(t, "zpool create -f two mirror /dev/vdc /dev/vdd")
	defer sh(t, "zpool destroy two")
	c, err := zfscli.New(zfscli.Config{})
	must(t, err)
	p, err := c.Pool(context.Background(), "two")
	if must(t, err); p.Health != "ONLINE" {
		t.Errorf("%+v", p)
	}
	pull(t, "vdd")
	must(t, os.WriteFile("/two/f", noise("f", 8<<20), 0o600))
	sh(t, "zpool sync two")
	waitFor(t, "the pool to notice", func() bool {
		p, err = c.Pool(context.Background(), "two")
		must(t, err)
		return p.Health == "DEGRADED"
	})
	t.Logf("%s: %s; %+v", p.Health, p.Status, p.Vdevs)
	plug(t, "vdd")
	sh(t, "zpool online two vdd; zpool clear two; zpool wait -t resilver two")
	if p, err = c.Pool(context.Background(), "two"); err != nil || p.Health != "ONLINE" {
		t.Errorf("after it came back: %+v, %v", p, err)
	}
}

// A pool's only device fails writes: what asks is answered, what changes hangs in the kernel and is given up, and others
// do not wait behind it. The device is well again, and with it everything.
//
// The device is a file on a memory disk that is full. (A sole disk that is pulled out is worse, with OpenZFS 2.1.11: the
// pool stays "ONLINE" with write errors that grow for ever, and never gets its disk back.)
func TestPoolSuspended(t *testing.T) {
	ctx := context.Background()
	sh(t, "mkdir -p /run/full; mount -t tmpfs -o size=40M full /run/full; truncate -s 128M /run/full/disk; zpool create one /run/full/disk; zfs create -o compression=off one/a; zfs snapshot one/a@before")
	c, err := zfscli.New(zfscli.Config{Timeout: 5 * time.Second, Processes: 2})
	must(t, err)
	cache := c.NewCache(time.Millisecond)
	_, err = cache.Snapshots(ctx, "one/a")
	must(t, err)
	mended := false
	mend := func() {
		mended = true
		sh(t, "mount -o remount,size=200M /run/full; timeout 60 zpool clear one")
	}
	t.Cleanup(func() {
		if !mended { // a pool left so would hold up everything after it
			mend()
		}
	})
	written := make(chan error, 1)
	go func() { written <- syncedFile("/one/a/f", 48<<20) }()
	last := ""
	waitFor(t, "the pool to be suspended", func() bool {
		p, err := c.Pool(ctx, "one")
		if err != nil || p.Health != last {
			t.Logf("%+v, %v", p, err)
		}
		if err == nil {
			last = p.Health
		}
		return last == "SUSPENDED"
	})
	took := map[string]error{}
	for _, x := range []struct {
		name string
		call func() error
	}{
		{"Snapshots", func() error { _, err := c.Snapshots(ctx, "one/a"); return err }},
		{"Get", func() error { _, err := c.Get(ctx, "one/a"); return err }},
		{"Take", func() error { return c.Take(ctx, nil, "one/a@during") }},
		{"Hold", func() error { return c.Hold(ctx, "keep", "one/a@before") }},
		{"Set", func() error { return c.Set(ctx, "one/a", map[string]string{"vaultd:x": "y"}) }},
	} {
		start := time.Now()
		took[x.name] = x.call()
		t.Logf("%s on a suspended pool, after %v: %v", x.name, time.Since(start).Round(10*time.Millisecond), took[x.name])
	}
	for _, name := range []string{"Take", "Hold", "Set"} {
		if err := took[name]; !errors.Is(err, zfscli.ErrSuspended) && !errors.Is(err, zfscli.ErrTimeout) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all, at := cache.Last("one/a"); len(all) != 1 || at.IsZero() {
		t.Errorf("what was read before is gone: %v, %v", all, at)
	}
	mend()
	must(t, <-written)
	waitFor(t, "what hung to end", func() bool { return c.Hung() == 0 })
	p, err := c.Pool(ctx, "one")
	if must(t, err); p.Health != "ONLINE" {
		t.Errorf("mended: %+v", p)
	}
	must(t, c.Take(ctx, nil, "one/a@after"))
	all, err := c.Snapshots(ctx, "one/a")
	must(t, err)
	if len(all) < 2 || all[len(all)-1].Name != "one/a@after" {
		t.Errorf("%d snapshots", len(all))
	}
	sh(t, "zfs release keep one/a@before 2>/dev/null || :; zpool destroy one; umount /run/full")
}

func syncedFile(name string, size int) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(noise(name, size))
	return errors.Join(err, f.Sync(), f.Close())
}
