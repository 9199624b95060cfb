package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"vaultd/internal/zfs"
)

// process is one of the store's, by the table of processes: who it is, and what it sees mounted.
type process struct {
	pid    int
	verb   string // the command of vaultd's
	mounts bool   // what it mounts must be seen by all
	table  zfs.Mounts
}

// verbsOfStore are the commands that run beside each other on a store on ZFS.
var verbsOfStore = []string{"serve", "serve-confined", "expire", "zfs-helper", "zfs-mount"}

// processes are those of the store in dir that proc (/proc) shows. Any user can make a process look like one: all that comes of it is a warning.
func processes(proc, dir string, helper bool) (out []process) {
	list, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	for _, p := range list {
		pid, err := strconv.Atoi(filepath.Base(p))
		text, rerr := os.ReadFile(filepath.Join(p, "cmdline"))
		args := strings.Split(string(bytes.TrimRight(text, "\x00")), "\x00")
		if err != nil || rerr != nil || len(args) < 2 || filepath.Base(args[0]) != "vaultd" || !slices.Contains(verbsOfStore, args[1]) || !isFor(args, dir) {
			continue
		}
		f, err := os.Open(filepath.Join(p, "mountinfo"))
		if err != nil {
			continue // it has ended, or is none of ours to look at
		}
		one := process{pid: pid, verb: args[1]}
		one.table, err = zfs.ReadMounts(f)
		f.Close()
		if err != nil {
			continue
		}
		switch one.verb {
		case "zfs-mount":
			one.mounts = true
		case "zfs-helper":
			one.mounts = !slices.Contains(args, "--mounter") && !slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--mounter=") })
		case "serve":
			one.mounts = !helper
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b process) int { return a.pid - b.pid })
	return out
}

// isFor reports whether the arguments name this store.
func isFor(args []string, dir string) bool {
	for i, a := range args {
		value, ok := strings.CutPrefix(a, "--dir=")
		if a == "--dir" && i+1 < len(args) {
			value, ok = args[i+1], true
		}
		if ok && (value == dir || realPath(value) == dir) {
			return true
		}
	}
	return false
}

// realPath is an absolute path without symlinks, or the same as it was.
func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil && filepath.IsAbs(real) {
		return real
	}
	return path
}

// What is wrong with the way that mounts come to a process, and the setting that is meant.
const (
	slaveUnit  = "in its unit: MountFlags=slave (or no MountFlags), not private; in a container: bind the store with propagation rslave (docs/zfs.md)"
	sharedHost = "mount --make-shared on the mount that holds the store, before the services start (systemd has all mounts so)"
	ownUnit    = "in its unit: nothing that makes a mount namespace (PrivateMounts=, PrivateTmp=, ProtectSystem= and others); vaultd-zfs-mount.service is without"
)

// judgeMounts says what of the datasets below dir a process can not see, when they are mounted where here is the table of mounts: "" for nothing. New datasets and the snapshots that
// are read (.zfs/snapshot, which ZFS mounts then on the dataset) come to another namespace only where each mount that they are mounted on has a peer or a slave there.
func judgeMounts(here zfs.Mounts, dir string, ids []string, p process) (verdict int, found, do string) {
	ours, _, _ := here.Holds("/")
	theirs, _, _ := p.table.Holds("/")
	if ours.ID == theirs.ID { // numbers of mounts are the whole machine's: it is one namespace
		return checkOK, "", ""
	}
	if p.mounts {
		return checkFail, "it is in a mount namespace of its own, and what it mounts is seen by nobody else", ownUnit
	}
	cut := func(path string) (bool, string) {
		from, _, _ := here.Holds(path)
		to, _, _ := p.table.Holds(path)
		var group string
		for _, f := range from.Propagation {
			if g, ok := strings.CutPrefix(f, "shared:"); ok {
				group = g
			}
		}
		if group == "" {
			return true, sharedHost
		}
		for _, f := range to.Propagation {
			if slices.Contains([]string{"shared:" + group, "master:" + group, "propagate_from:" + group}, f) {
				return false, ""
			}
		}
		return true, slaveUnit
	}
	if bad, do := cut(dir); bad {
		return checkFail, "datasets that are mounted from now on are not seen by it: new tenants, and those that are unlocked or come back with their pool", do
	}
	missing, blind := 0, 0
	for _, id := range ids {
		path := filepath.Join(dir, id)
		if at := here.Dataset(path); at != "" && p.table.Dataset(path) != at {
			missing++
		} else if bad, what := cut(path); at != "" && bad {
			blind, do = blind+1, what
		}
	}
	switch {
	case missing > 0:
		return checkFail, fmt.Sprintf("%d datasets that are mounted are not seen by it", missing), "restart it; if it stays: " + slaveUnit
	case blind > 0 && strings.HasPrefix(p.verb, "serve"):
		return checkWarn, fmt.Sprintf("snapshots of %d tenants that nobody has read yet can not be read from ZFS: the index is shown instead", blind), do
	}
	return checkOK, "", ""
}

// propagation looks whether what is mounted for the store comes to all processes that work on it.
func (d *doctor) propagation() {
	dir, err := d.a.tenantsDir()
	if err != nil {
		return
	}
	here, err := zfs.CurrentMounts()
	if err != nil {
		d.say(checkWarn, "mounts", "", "%v", err)
		return
	}
	ids, err := d.a.onPool()
	if err != nil {
		return // told with the catalog
	}
	all := processes("/proc", filepath.Dir(dir), d.conf.ZFS.Helper != "")
	bad := 0
	for _, p := range all {
		if verdict, found, do := judgeMounts(here, dir, ids, p); verdict != checkOK {
			bad++
			d.say(verdict, "mounts", do, "vaultd %s (pid %d): %s", p.verb, p.pid, found)
		}
	}
	if bad == 0 && len(all) > 0 {
		d.say(checkOK, "mounts", "", "%d processes of the store see what is mounted for it, and what will be", len(all))
	}
}
