package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"vaultd/internal/confine"
)

// shared looks at who has what of a store with several users.
func (d *doctor) shared(list []owned) {
	bad := 0
	wrong := func(do, format string, args ...any) {
		bad++
		d.say(checkFail, "permissions", do, format, args...)
	}
	again := "find out why, then: sudo " + d.a.self("init")
	for _, o := range list {
		st, err := os.Stat(o.path) // the configuration may be a link
		if errors.Is(err, fs.ErrNotExist) {
			if !o.make { // told elsewhere, or not needed
				continue
			}
			wrong(again, "%s is missing", o.path)
			continue
		}
		if err != nil {
			wrong("run it as root", "%v", err)
			continue
		}
		s := st.Sys().(*syscall.Stat_t)
		if int(s.Uid) != o.user.uid || int(s.Gid) != o.group.gid {
			wrong(again, "%s belongs to %d:%d, not to %s:%s", o.path, s.Uid, s.Gid, o.user.name, o.group.name)
		}
		if more := st.Mode().Perm() &^ o.mode.Perm(); more != 0 {
			wrong(again, "%s has mode %#o, which is %#o more than it should have", o.path, st.Mode().Perm(), more)
		}
	}
	uid, _, err := d.a.storeOwner()
	if err != nil {
		wrong(again, "%v", err)
		return
	}
	sets, _ := filepath.Glob(filepath.Join(d.a.dir, confine.TenantsDir, "*"))
	for _, set := range sets {
		for _, sub := range []string{"", "store", "journal", "files", "staging", "derived"} {
			st, err := os.Lstat(filepath.Join(set, sub))
			if err != nil {
				continue
			}
			s := st.Sys().(*syscall.Stat_t)
			if int(s.Uid) != uid || st.Mode().Perm()&0o027 != 0 {
				wrong(again, "%s belongs to user %d and has mode %#o: want user %d and at most 0750", filepath.Join(set, sub), s.Uid, st.Mode().Perm(), uid)
			}
		}
	}
	if bad == 0 {
		d.say(checkOK, "permissions", "", "each user has its part of the store, and %d datasets are the server's", len(sets))
	}
}

// ownersShared is owners for a store with several users. It reports false for one that has one user.
func (d *doctor) ownersShared() bool {
	list, err := d.a.shares(d.conf)
	if err != nil {
		d.say(checkFail, "permissions", "apt install --reinstall vaultd makes the users again", "%v", fmt.Errorf("the configuration's users: %w", err))
		return true
	}
	if list != nil {
		d.shared(list)
	}
	return list != nil
}
