package zfs_test

import (
	"strings"
	"testing"
	"time"

	"vaultd/internal/zfs"
)

// What a pool on one machine does not show: texts of zpool_main.c of OpenZFS 2.1.
const (
	faulted = `  pool: tank
 state: SUSPENDED
status: One or more devices are faulted in response to IO failures.
action: Make sure the affected devices are connected, then run 'zpool clear'.
   see: https://openzfs.github.io/openzfs-docs/msg/ZFS-8000-HC
  scan: scrub in progress since Sun Nov  1 00:24:01 2026
	1.20T scanned at 1.10G/s, 600G issued at 550M/s, 3.40T total
	0B repaired, 17.23% done, 01:31:12 to go
config:

	NAME                                        STATE     READ WRITE CKSUM
	tank                                        UNAVAIL      0     0     0  insufficient replicas
	  raidz2-0                                  DEGRADED     3     1     0
	    /dev/disk/by-id/ata-X_1-part1           ONLINE       0     0     0
	    replacing-1                             DEGRADED     0     0     0
	      12345678901234567890                  UNAVAIL      0     0     0  was /dev/disk/by-id/ata-X_2-part1
	      /dev/disk/by-id/ata-X_9-part1         ONLINE       0     0 18446744073709551615  (resilvering)
	logs	
	  /dev/nvme0n1p1                            ONLINE       0     0     0
	spares
	  /dev/sdz                                  AVAIL   

errors: 3 data errors, use '-v' for a list
`
	finished = `  pool: tank
 state: ONLINE
  scan: %s
config:

	NAME        STATE     READ WRITE CKSUM
	tank        ONLINE       0     0     0
	  /dev/vdb  ONLINE       0     0     0

errors: No known data errors
`
)

func TestStatus(t *testing.T) {
	p, err := zfs.ParseStatus("tank", faulted)
	must(t, err)
	if p.Health != "SUSPENDED" || !strings.HasPrefix(p.Status, "One or more devices are faulted") || !strings.Contains(p.Action, "zpool clear") || p.Errors != "3 data errors, use '-v' for a list" {
		t.Errorf("%+v", p)
	}
	if p.Scan.Kind != "scrub" || p.Scan.State != "running" || !p.Scan.At.Equal(time.Date(2026, 11, 1, 0, 24, 1, 0, time.UTC)) {
		t.Errorf("scan: %+v", p.Scan)
	}
	if len(p.Vdevs) != 10 {
		t.Fatalf("%d vdevs: %+v", len(p.Vdevs), p.Vdevs)
	}
	for i, want := range map[int]zfs.Vdev{
		0: {0, "tank", "UNAVAIL", 0, 0, 0, "insufficient replicas"},
		1: {1, "raidz2-0", "DEGRADED", 3, 1, 0, ""},
		4: {3, "12345678901234567890", "UNAVAIL", 0, 0, 0, "was /dev/disk/by-id/ata-X_2-part1"},
		5: {3, "/dev/disk/by-id/ata-X_9-part1", "ONLINE", 0, 0, 18446744073709551615, "(resilvering)"},
		6: {0, "logs", "", 0, 0, 0, ""},
		9: {1, "/dev/sdz", "AVAIL", 0, 0, 0, ""},
	} {
		if p.Vdevs[i] != want {
			t.Errorf("vdev %d is %+v, want %+v", i, p.Vdevs[i], want)
		}
	}
}

func TestScan(t *testing.T) {
	at := time.Date(2026, 11, 24, 23, 31, 57, 0, time.UTC)
	for text, want := range map[string]zfs.Scan{
		"scrub repaired 0B in 00:00:00 with 0 errors on Tue Nov 24 23:31:57 2026":                                           {Kind: "scrub", State: "finished", At: at},
		"scrub repaired 1.5M in 2 days 01:00:00 with 17 errors on Tue Nov 24 23:31:57 2026":                                 {Kind: "scrub", State: "finished", At: at, Errors: 17},
		"scrub canceled on Tue Nov 24 23:31:57 2026":                                                                        {Kind: "scrub", State: "canceled", At: at},
		"scrub paused since Tue Nov 24 23:31:57 2026\n\tscrub started on Tue Nov 24 23:00:00 2026\n\t1M scanned, 2M issued": {Kind: "scrub", State: "paused", At: at},
		"resilvered 56K in 00:00:01 with 0 errors on Tue Nov 24 23:31:57 2026":                                              {Kind: "resilver", State: "finished", At: at},
		"resilver in progress since Tue Nov 24 23:31:57 2026\n\t1M scanned":                                                 {Kind: "resilver", State: "running", At: at},
		"none requested":                 {},
		"scrub of a version to come":     {Kind: "scrub"},
		"scrub repaired on some day off": {Kind: "scrub"},
	} {
		p, err := zfs.ParseStatus("tank", strings.Replace(finished, "%s", text, 1))
		must(t, err)
		p.Scan.Text = ""
		if p.Scan != want {
			t.Errorf("%q is %+v, want %+v", text, p.Scan, want)
		}
	}
}

func TestStatusIsRefused(t *testing.T) {
	for _, out := range []string{"", "no pools available\n", strings.Replace(finished, "pool: tank", "pool: other", 1), "  pool: tank\n state: ONLINE\nconfig:\n\nerrors: No known data errors\n",
		strings.Replace(finished, "ONLINE       0     0     0", "ONLINE       0     0x    0", 1)} {
		_, err := zfs.ParseStatus("tank", out)
		wants(t, out, err, zfs.ErrOutput)
	}
}

func TestDelegationTexts(t *testing.T) {
	all, err := zfs.ParseDelegations("---- Permissions on tank/a -------\nPermission sets:\n\t@x create,mount\nCreate time permissions:\n\tdestroy\nLocal permissions:\n\tgroup backup send\n" +
		"Local+Descendent permissions:\n\tuser (unknown: 1234) hold\n\teveryone snapshot\n---- Permissions on tank ---------\nDescendent permissions:\n\tuser bob send\n")
	must(t, err)
	if len(all) != 2 || len(all["tank/a"]) != 5 || all["tank/a"][3].Who != "user (unknown: 1234)" || all["tank"][0].Scope != "descendent" {
		t.Errorf("%+v", all)
	}
	_, err = zfs.ParseDelegations("something else\n")
	wants(t, "another text", err, zfs.ErrOutput)
}

// Whatever is printed, nothing panics, and what is understood is well formed.
func FuzzTexts(f *testing.F) {
	f.Add(faulted)
	f.Add(finished)
	f.Add("tank/a@s\ttag\tTue Nov 24 23:31 2026\n")
	f.Add("---- Permissions on tank ---\nLocal permissions:\n\tuser x send\n")
	f.Fuzz(func(t *testing.T, out string) {
		if p, err := zfs.ParseStatus("tank", out); err == nil && len(p.Vdevs) == 0 {
			t.Error("a pool of no devices")
		}
		zfs.ParseDelegations(out)
		zfs.KindOf(out)
		holds, err := zfs.ParseHolds(out)
		for _, h := range holds {
			if err == nil && strings.ContainsAny(h.Snapshot+h.Tag, "\n") {
				t.Errorf("%q", h)
			}
		}
	})
}
