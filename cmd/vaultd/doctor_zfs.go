package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/zfshelper"
)

// zfs looks at the tenants' datasets: whether who runs zfs answers, and whether each is there, in its place and bounded. What is the matter
// with the pool, pool says.
func (d *doctor) zfs(ctx context.Context) {
	z := d.conf.ZFS
	if z.Dataset == "" {
		return
	}
	verbs, err := d.a.helper(d.conf, newLogger(d.a.stderr, "text", "warn"))
	if err != nil {
		d.say(checkFail, "zfs", "", "%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	all, err := verbs.Datasets(ctx)
	if err != nil {
		d.say(checkFail, "zfs", "is vaultd zfs-helper running, or are you root? docs/zfs.md", "%v", err)
		return
	}
	have := map[string]zfshelper.Dataset{}
	for _, x := range all {
		have[x.ID] = x
	}
	var locked, absent, waits, loose []string
	tenants := d.a.tenantsNow().Tenants()
	for _, t := range tenants {
		x, ok := have[t.ID]
		switch {
		case d.a.waits(t.ID):
			waits = append(waits, t.Name)
		case ok && x.Locked:
			locked = append(locked, t.Name)
		case ok && !x.Mounted:
			absent = append(absent, t.Name)
		case ok && x.RefQuota != store.RefQuota(t):
			loose = append(loose, fmt.Sprintf("%s (%s, want %s)", t.Name, limit(int64(x.RefQuota)), limit(int64(store.RefQuota(t)))))
		}
	}
	for _, p := range []struct {
		verdict  int
		who      []string
		what, do string
	}{{checkFail, absent, "the dataset is not mounted", "zfs mount -a"}, {checkWarn, locked, "the dataset is locked", "zfs load-key, zfs mount; then the server starts again by itself"},
		{checkWarn, waits, "waits in former/", "vaultd tenant move NAME --to-dataset"}, {checkWarn, loose, "refquota is not that of the quota", "zfs set refquota: vaultd lets it only grow"}} {
		if len(p.who) > 0 {
			d.say(p.verdict, "zfs", p.do, "%s: %s", p.what, strings.Join(p.who, ", "))
		}
	}
	if len(absent)+len(locked)+len(waits)+len(loose) == 0 {
		d.say(checkOK, "zfs", "", "%d datasets below %s, of %d tenants and for those that come", len(all), z.Dataset, len(tenants))
	}
	d.keys(all)
}

// keys looks at the files of the datasets' keys: who can read them, which is missing, and which is of no dataset any more.
func (d *doctor) keys(all []zfshelper.Dataset) {
	z := d.conf.ZFS
	encrypted := slices.DeleteFunc(slices.Clone(all), func(x zfshelper.Dataset) bool { return x.Encryption == "" || x.Encryption == "off" })
	if z.Encryption != "on" && len(encrypted) == 0 {
		return
	}
	bad := 0
	say := func(p keyProblem) {
		bad++
		d.say(p.verdict, "zfs keys", p.do, "%s", p.found)
	}
	for _, p := range exposedKeys(z.Keys, 0) {
		say(p)
	}
	list, err := os.ReadDir(z.Keys)
	switch {
	case errors.Is(err, os.ErrPermission):
		if bad == 0 {
			d.say(checkOK, "zfs keys", "", "in %s, where only root can look; keep a copy off this machine", z.Keys)
		}
		return
	case err != nil:
		return // told above
	}
	for _, p := range keyFiles(z.Keys, list, all, encrypted, d.a.tenantsNow()) {
		say(p)
	}
	if bad == 0 {
		d.say(checkOK, "zfs keys", "", "%d in %s, which root alone can read; keep a copy off this machine", len(list), z.Keys)
	}
}

// keyProblem is something about the keys that doctor says.
type keyProblem struct {
	verdict   int
	found, do string
}

// exposedKeys looks whether the directory of keys and each file in it are root's alone: whoever else can read them needs nothing more to read a disk that was stolen, or a
// raw backup; and who can change them can lose a dataset.
func exposedKeys(dir string, root uint32) (out []keyProblem) {
	check := func(path string, kind fs.FileMode) {
		i, err := os.Lstat(path)
		if err != nil {
			out = append(out, keyProblem{checkWarn, err.Error(), "vaultd init makes the directory of keys"})
			return
		}
		if i.Mode().Type() != kind {
			out = append(out, keyProblem{checkFail, fmt.Sprintf("%s is not what it should be (%s): whoever it belongs to has the key", path, i.Mode()), "find out why"})
			return
		}
		if mode := i.Mode().Perm(); mode&0o077 != 0 {
			out = append(out, keyProblem{checkFail, fmt.Sprintf("%s has mode %#o: others can read keys of datasets", path, mode), fmt.Sprintf("chmod go= %s; whoever read it can read a copy of the disk", path)})
		}
		if uid := i.Sys().(*syscall.Stat_t).Uid; uid != root {
			out = append(out, keyProblem{checkFail, fmt.Sprintf("%s belongs to uid %d: only root is to have keys", path, uid), "chown root:root " + path})
		}
	}
	check(dir, fs.ModeDir)
	list, err := os.ReadDir(dir)
	if err != nil {
		return out
	}
	for _, f := range list {
		if strings.HasSuffix(f.Name(), ".key") {
			check(filepath.Join(dir, f.Name()), 0)
		}
	}
	return out
}

// keyFiles compares the files with the datasets.
func keyFiles(dir string, list []fs.DirEntry, all, encrypted []zfshelper.Dataset, catalog *tenant.Snapshot) (out []keyProblem) {
	file, dataset := map[string]bool{}, map[string]bool{}
	for _, f := range list {
		if id, ok := strings.CutSuffix(f.Name(), ".key"); ok {
			file[id] = true
		}
	}
	var missing, left []string
	for _, x := range encrypted {
		if !file[x.ID] {
			missing = append(missing, x.ID)
		}
	}
	for _, x := range all {
		dataset[x.ID] = true
	}
	for id := range file {
		if t, ok := catalog.TenantByID(id); ok && t.Removed(time.Now()) && !dataset[id] {
			left = append(left, id)
		}
	}
	slices.Sort(left)
	if len(missing) > 0 {
		out = append(out, keyProblem{checkWarn, "encrypted, and no key for it in " + dir + ": it stays locked when the machine starts again: " + strings.Join(missing, ", "), "bring the file back, or load its key yourself at each start: zfs load-key"})
	}
	if len(left) > 0 {
		out = append(out, keyProblem{checkWarn, "keys of removed tenants, whose datasets are gone: " + strings.Join(left, ", "),
			"with them their raw backups and old disks can still be read: when nobody needs those, remove the files, and every copy (docs/zfs.md)"})
	}
	return out
}
