package zfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
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

// The bodies of a hundred tenants are one process and one transaction; three more, however many there are, hold them and read them back.
func TestTakeHundred(t *testing.T) {
	ds, dir := dataset(t, "")
	sh(t, "for i in a b c d e f g h i j; do for j in a b c d e f g h i j; do zfs create -o canmount=off %s/t-aaaaaaaaaa$i$j; done; done", ds)
	processes := map[string]int{}
	c, err := zfs.New(zfs.Config{Timeout: 5 * time.Minute, Log: func(argv []string) { processes[argv[1]]++ }})
	must(t, err)
	h, err := zfshelper.New(zfshelper.Config{Client: c, Dataset: ds, Dir: dir, Compression: "lz4", RecordSize: 128 << 10})
	must(t, err)
	var batch []snapshot.Instant
	var names []string
	for n := range 100 {
		i := snapshot.Instant{Tenant: fmt.Sprintf("t-aaaaaaaaaa%c%c", 'a'+n/10, 'a'+n%10), Name: "hundred", Seq: uint64(n + 1), Head: strings.Repeat("0123456789abcdef", 4)}
		batch, names = append(batch, i), append(names, ds+"/"+i.Tenant+"@"+snapshot.BodyName(i.Name))
	}
	bodies, err := h.Take(t.Context(), batch, 5*time.Minute)
	must(t, err)
	if len(bodies) != len(batch) {
		t.Fatalf("%d bodies", len(bodies))
	}
	for n, b := range bodies {
		if b.Instant != batch[n] || b.CreateTXG != bodies[0].CreateTXG {
			t.Errorf("%+v is not %+v of the transaction %d", b, batch[n], bodies[0].CreateTXG)
		}
	}
	if len(processes) != 4 || processes["program"] != 1 || processes["hold"] != 1 || processes["list"] != 1 || processes["get"] != 1 {
		t.Errorf("processes: %v", processes)
	}
	if got := sh(t, "zfs holds -H %s | grep -c 'vaultd'", strings.Join(names, " ")); got != "100" {
		t.Errorf("%s are held", got)
	}
	sh(t, "zfs release vaultd %s", strings.Join(names, " "))
}
