package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/tenant"
)

// The verdicts of a check, which are also the command's exit status.
const (
	checkOK = iota
	checkWarn
	checkFail
)

var checkWords = [...]string{"ok", "warn", "fail"}

// checkReply is one thing that was looked at.
type checkReply struct {
	Name    string `json:"name"`
	Verdict string `json:"verdict"` // ok, warn, fail
	Found   string `json:"found"`
	Do      string `json:"do,omitempty"` // about it
}

// doctor looks at everything that a store's promises rest on. It changes nothing but a directory of its own.
type doctor struct {
	a      *app
	conf   *Config
	status statusReply
	checks []checkReply
	worst  int
}

func (d *doctor) say(verdict int, name, do, format string, args ...any) {
	if verdict == checkOK {
		do = ""
	}
	d.worst = max(d.worst, verdict)
	d.checks = append(d.checks, checkReply{name, checkWords[verdict], fmt.Sprintf(format, args...), do})
}

func (a *app) doctorCommand() *cobra.Command {
	c := &cobra.Command{Use: "doctor", Short: "Look at everything that the promises rest on: kernel, clock, disk, permissions, server, and a self-test", Args: cobra.NoArgs,
		Long: "Looks at the machine, the store and the running server, and tries in a throw-away store beside the tenants' whether what is sealed can be overwritten, cut, removed or renamed over. Exit status 0: all well, 1: look at it, 2: act.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(filepath.Join(a.dir, tenant.FileName)); err != nil {
				return fmt.Errorf("no store in %s: %w", a.dir, fs.ErrNotExist)
			}
			d := &doctor{a: a}
			d.examine(cmd.Context())
			out := map[string]any{"verdict": checkWords[d.worst], "checks": d.checks}
			err := a.print("vaultd.doctor/v1", out, func(w io.Writer) { d.show(w) })
			if err == nil && d.worst != checkOK {
				err = &statusError{d.worst}
			}
			return err
		}}
	a.jsonFlag(c)
	return c
}

func (d *doctor) show(w io.Writer) {
	n := map[string]int{}
	for _, c := range d.checks {
		n[c.Verdict]++
		fmt.Fprintf(w, "%-4s  %-12s  %s\n", c.Verdict, c.Name, c.Found)
		if c.Do != "" {
			fmt.Fprintf(w, "%20s-> %s\n", "", c.Do)
		}
	}
	fmt.Fprintf(w, "%d checks: %d ok, %d warnings, %d failures\n", len(d.checks), n["ok"], n["warn"], n["fail"])
}

func (d *doctor) examine(ctx context.Context) {
	d.config()
	d.server(ctx)
	d.kernel()
	d.clock()
	d.pool(ctx)
	d.zfs(ctx)
	if d.conf.ZFS.Dataset != "" {
		d.propagation()
	}
	d.disk()
	d.owners()
	d.tenants()
	d.selfTest(ctx)
}

func (d *doctor) config() {
	conf, err := d.a.loadConfig()
	if err != nil {
		def := DefaultConfig()
		d.conf = &def
		d.say(checkFail, "config", "vaultd check shows each mistake; the server keeps what it started with", "%v", err)
		return
	}
	d.conf = conf
	d.say(checkOK, "config", "", "can be read; defaults for what it does not say")
}

// owners looks at who may write what is trusted.
func (d *doctor) owners() {
	if d.ownersShared() {
		return
	}
	dir, err := os.Stat(d.a.dir)
	if err != nil {
		d.say(checkFail, "permissions", "", "%v", err)
		return
	}
	owner := dir.Sys().(*syscall.Stat_t).Uid
	bad := 0
	check := func(path string, forbidden fs.FileMode, why string) {
		i, err := os.Lstat(path)
		if err != nil {
			return // what is missing is told elsewhere, or is not there yet
		}
		name := filepath.Base(path)
		if i.Mode().Perm()&forbidden != 0 {
			bad++
			d.say(checkFail, "permissions", fmt.Sprintf("chmod %#o %s", i.Mode().Perm()&^forbidden, path), "%s has mode %#o: %s", name, i.Mode().Perm(), why)
		}
		if uid := i.Sys().(*syscall.Stat_t).Uid; uid != owner && uid != 0 {
			bad++
			d.say(checkFail, "permissions", "find out why, then chown it to the store's owner", "%s belongs to uid %d, the store to uid %d: whoever that is can change it", name, uid, owner)
		}
	}
	check(d.a.dir, 0o022, "others can put files into the store")
	check(filepath.Join(d.a.dir, tenant.FileName), 0o022, "others can let keys in and weaken policies")
	check(filepath.Join(d.a.dir, "admin.sock"), 0o077, "others can give the operator's commands")
	check(filepath.Join(d.a.dir, "tenants"), 0o027, "others can reach the tenants' data")
	check(filepath.Join(d.a.dir, "vaultd.toml"), 0o022, "others can choose addresses and limits")
	for _, k := range d.conf.SSH.HostKeys {
		if !filepath.IsAbs(k) {
			k = filepath.Join(d.a.dir, k)
		}
		check(k, 0o077, "others can pose as this server")
		if _, err := os.Stat(k); err != nil {
			bad++
			d.say(checkFail, "permissions", "vaultd init makes a missing key; clients know the old one", "host key: %v", err)
		}
	}
	sets, _ := filepath.Glob(filepath.Join(d.a.dir, "tenants", "*"))
	for _, s := range sets {
		check(s, 0o027, "others can reach a tenant's data")
		for _, sub := range []string{"store", "journal", "files", "staging"} {
			check(filepath.Join(s, sub), 0o027, "others can reach a tenant's data")
		}
	}
	if bad == 0 {
		d.say(checkOK, "permissions", "", "catalog, host keys, socket and %d datasets belong to uid %d and to nobody else", len(sets), owner)
	}
}

// tenants looks at what was decided of each, and at what beside the server keeps an eye on it.
func (d *doctor) tenants() {
	snap, err := d.a.catalog().Snapshot()
	if err != nil {
		d.say(checkFail, "catalog", "restore vaultd.db from a backup", "%v", err)
		return
	}
	d.say(checkOK, "catalog", "", "%d tenants", len(snap.Tenants()))
	for _, t := range snap.Tenants() {
		if t.Pending != nil {
			d.say(checkWarn, "policy", d.a.self("tenant", "veto", t.Name)+" takes it back", "%s: a weakening waits until %s, by %s: %v", t.Name, stamp(t.Pending.Due), t.Pending.Who, t.Pending.What)
		}
		if _, err := os.Stat(filepath.Join(d.a.dir, "tenants", t.ID)); err != nil {
			continue // nobody has come yet
		}
		d.expired(t)
		d.verified(t)
	}
	for _, u := range d.status.Tenants {
		if u.usageReply.ReadOnly != "" {
			d.say(checkFail, "tenant", "look at the disk and the log; restart the server; "+d.a.self("journal", "verify", u.Name), "%s takes nothing any more: %s", u.Name, u.usageReply.ReadOnly)
		} else if nearlyFull(u.usageReply) {
			d.say(checkWarn, "tenant", d.a.self("space", u.Name)+" says what holds it", "%s: %s of %s used", u.Name, size(u.Used), limit(u.Limit))
		}
	}
}

// late reports whether something that runs every so often has missed two turns, with an hour of grace.
func late(last time.Time, every time.Duration) bool { return time.Since(last) > 2*every+time.Hour }
