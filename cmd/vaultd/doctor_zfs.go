package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"vaultd/internal/store"
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
	if z.Encryption == "on" {
		if st, err := os.Stat(z.Keys); err != nil {
			d.say(checkWarn, "zfs keys", "", "%v", err)
		} else if st.Mode().Perm()&0o077 != 0 {
			d.say(checkFail, "zfs keys", "chmod 700 "+z.Keys, "others can reach the keys in %s", z.Keys)
		} else {
			d.say(checkOK, "zfs keys", "", "in %s; keep a copy off this machine", z.Keys)
		}
	}
}
