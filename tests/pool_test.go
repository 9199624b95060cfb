package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeTools are a zpool and a zfs that know one pool, which is well. (The real ones are for tests/zfs.)
var fakeTools = map[string]string{
	"zpool": `case "$*" in
*load_guid*) echo 7 ;;
get*) for p in name=tank health=ONLINE allocated=10000 size=1000000000 free=999990000 readonly=off dedupratio=1.00 fragmentation=0 freeing=0 leaked=0; do
	printf 'tank\t%s\t%s\t-\n' "${p%%=*}" "${p#*=}"; done ;;
status*) printf '  pool: tank\n state: ONLINE\nconfig:\n\n\tNAME  STATE  READ WRITE CKSUM\n\ttank  ONLINE  0 0 0\n\t  sda  ONLINE  0 0 0\n\nerrors: No known data errors\n' ;;
*) exit 2 ;;
esac`,
	"zfs": `case "$1" in
list) printf 'tank\tfilesystem\t1\t1\t1764000000\t10000\t900000000\t1\t0\t0\t0\t0\t0\t0\tyes\toff\t-\t-\n' ;;
get) printf 'tank\tmountpoint\tdefault\t/tank\n' ;;
*) exit 2 ;;
esac`,
}

// A store on ZFS whose dataset is not mounted: the server runs, everybody is told, nothing lands below the mount point, and the operator sees it in each command.
func TestPoolNotMounted(t *testing.T) {
	bin := t.TempDir()
	for name, script := range fakeTools {
		must(t, os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	v, err := newVault(t.TempDir())
	must(t, err)
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config+"[zfs]\ndataset = \"tank/vaultd\"\npoll = \"1s\"\n"), 0o600))
	must(t, v.serve())
	t.Cleanup(func() { must(t, v.stop()) })
	files(t, v.root, map[string]int{"small": 1000})
	const words = "storage is not available; nothing of this session is stored; try again later"
	v.fails(t, words, "alice", "sftp", "put small")
	v.fails(t, words, "alice", "rsync", "small", "vault:")
	v.fails(t, words, "alice", "ssh", "ls")
	left, err := os.ReadDir(filepath.Join(v.dir, "tenants"))
	if must(t, err); len(left) > 0 {
		t.Errorf("something is below the mount point: %v", left)
	}
	for _, x := range []struct {
		want string
		args []string
	}{
		{"pool tank is not mounted: tank/vaultd is not mounted where the store is", []string{"status"}},
		{"not mounted since 20", []string{"pool"}},
		{`"schema":"vaultd.pool/v1"`, []string{"pool", "--json"}},
		{"zfs mount tank/vaultd", []string{"doctor"}},
		{"", []string{"snapshot", "create", "alice"}},
	} {
		out, err := v.vaultd(x.args...)
		if err == nil || !strings.Contains(out, x.want) {
			t.Errorf("vaultd %v: %v\n%s, want %q", x.args, err, out, x.want)
		}
	}
	if n := strings.Count(v.log.String(), "the pool is not mounted"); n != 1 {
		t.Errorf("the alarm was logged %d times:\n%s", n, v.log)
	}
	must(t, v.stop())
	for _, args := range [][]string{{"pool"}, {"snapshot", "create", "alice"}} { // the commands look themselves
		if out, err := v.vaultd(args...); err == nil {
			t.Errorf("vaultd %v: %s", args, out)
		}
	}
	left, err = os.ReadDir(filepath.Join(v.dir, "tenants"))
	if must(t, err); len(left) > 0 {
		t.Errorf("a command made something below the mount point: %v", left)
	}
}

// A store that is not on ZFS has no pool, and says so.
func TestNoPool(t *testing.T) {
	t.Parallel()
	v, err := newVault(t.TempDir())
	must(t, err)
	if _, err := v.vaultd("pool"); err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "[zfs] dataset is not set") {
		t.Error(err)
	}
}
