package zfs

import (
	"errors"
	"io/fs"
	"testing"

	"vaultd/internal/zfs"
)

// A channel program makes the snapshots of a batch in one transaction, each with properties of its own, all or none, with what was written just now.
func TestTakeEach(t *testing.T) {
	ds, dir := dataset(t, "")
	sh(t, "for i in 1 2 3; do zfs create %[1]s/$i; echo late >%[2]s/$i/late; done", ds, dir)
	c, err := zfs.New(zfs.Config{})
	must(t, err)
	want := func(i, snap, seq string) zfs.Want {
		return zfs.Want{Name: ds + "/" + i + "@" + snap, Properties: map[string]string{"vaultd:seq": seq, "vaultd:head": "=-r 'x\" " + seq}}
	}
	must(t, c.TakeEach(t.Context(), want("1", "a", "17"), want("2", "a", "18")))
	all, err := c.TheseSnapshots(t.Context(), []string{ds + "/1@a", ds + "/2@a"}, "vaultd:seq", "vaultd:head")
	must(t, err)
	if len(all) != 2 || all[0].CreateTXG != all[1].CreateTXG || all[0].Properties["vaultd:seq"].Value != "17" || all[1].Properties["vaultd:head"].Value != "=-r 'x\" 18" {
		t.Errorf("%+v", all)
	}
	sh(t, "grep late %[1]s/1/.zfs/snapshot/a/late", dir)
	err = c.TakeEach(t.Context(), want("3", "a", "19"), want("2", "a", "20"))
	var e *zfs.Error
	if !errors.Is(err, fs.ErrExist) || !errors.As(err, &e) || e.Name != ds+"/2@a" {
		t.Errorf("one is there: %v", err)
	}
	refused(t, "does not exist", "zfs list %s/3@a", ds)
	if err := c.TakeEach(t.Context(), want("3", "b", "1"), want("9", "b", "2")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one is not there: %v", err)
	}
	refused(t, "does not exist", "zfs list %s/3@b", ds)
	_, err = c.TheseSnapshots(t.Context(), []string{ds + "/1@a", ds + "/3@a"})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("one of two: %v", err)
	}
}
