package attack

import (
	"errors"
	"io/fs"
)

// linkSpecs attack through hard links: another name for the same content.
func linkSpecs() []spec {
	// through makes a hard link to the victim and attacks that; a refused link is an answer too.
	through := func(do func(a *act, link string) error) func(a *act) error {
		return func(a *act) error {
			link := a.dir + "/hardlink"
			if err := a.c.Link(a.dump, link); err != nil {
				return err
			}
			return do(a, link)
		}
	}
	return []spec{
		{name: "link-then-write", promise: P1, want: harmless,
			story: "Hard-links a sealed file and overwrites it by the new name.",
			do: through(func(a *act, l string) error {
				return refusedBy(a, a.write(l, Write|Create|Truncate, 0, junk(l)))
			})},
		{name: "link-then-truncate", promise: P1, want: harmless,
			story: "Hard-links a sealed file and sets the new name's length to 0.",
			do:    through(func(a *act, l string) error { return refusedBy(a, a.c.Setstat(l, size(0))) })},
		{name: "link-then-remove", promise: P2, want: harmless,
			story: "Hard-links a sealed file and removes the new name: the content must not go with it.",
			do:    through(func(a *act, l string) error { return a.c.Remove(l) })},
		{name: "link-then-rename-back", promise: P2, want: harmless,
			story: "Hard-links a sealed file and posix-renames the link over the original: POSIX lets that succeed and do nothing.",
			do:    through(func(a *act, l string) error { return a.c.PosixRename(l, a.dump) })},
		{name: "link-chmod", promise: P1, want: harmless, meta: true, who: thief,
			story: "Hard-links a sealed file and changes mode and times by the new name.",
			do: through(func(a *act, l string) error {
				return errors.Join(a.c.Setstat(l, mode(0)), a.c.Setstat(l, times(1)))
			})},
		{name: "link-to-temp", promise: P1, want: harmless,
			story: "Hard-links a sealed file to a temporary name and rewrites that, as if it were an upload of its own.",
			do: func(a *act) error {
				temp := a.dir + "/x.filepart"
				if err := a.c.Link(a.dump, temp); err != nil {
					return err
				}
				return a.write(temp, Write, 0, junk(temp))
			}},
		{name: "link-over", promise: P2, want: refused,
			story: "Hard-links a file of its own over a sealed name.",
			do: func(a *act) error {
				from, err := a.mine("new.bin")
				if err != nil {
					return err
				}
				return a.c.Link(from, a.dump)
			}},
		{name: "link-sealed-over-sealed", promise: P2, want: refused,
			story: "Hard-links one sealed file over another.",
			do:    func(a *act) error { return a.c.Link(a.set.victims[1].path, a.dump) }},
		{name: "link-directory", promise: P2, want: refused,
			story: "Hard-links a directory, so that it has two parents.",
			do:    func(a *act) error { return a.c.Link(a.dir+"/deep", a.dir+"/twin") }},
	}
}

// refusedBy wants a refusal in strict; in versioned anything will do.
func refusedBy(a *act, err error) error {
	if err == nil && !a.env.Versioned {
		return broken("it was answered with success")
	}
	return err
}

// symlinkSpecs attack through symbolic links, which are stored as they are and never followed on a
// write path.
func symlinkSpecs() []spec {
	// by links name to target and attacks the link.
	by := func(target func(a *act) string, do func(a *act, link string) error) func(a *act) error {
		return func(a *act) error {
			link := a.dir + "/way"
			if err := a.c.Symlink(target(a), link); err != nil {
				return setup("make symbolic link", err)
			}
			return do(a, link)
		}
	}
	relative := func(*act) string { return "dump.sql" }
	absolute := func(a *act) string { return a.dump }
	overwrite := func(a *act, l string) error { return a.write(l, Write|Create|Truncate, 0, junk(l)) }
	return []spec{
		{name: "symlink-over", promise: P2, want: refused,
			story: "Makes a symbolic link by the name of a sealed file.",
			do:    func(a *act) error { return a.c.Symlink("/etc/passwd", a.dump) }},
		{name: "symlink-swap", promise: P2, want: refusedInStrict,
			story: "Removes a sealed file and puts a symbolic link in its place.",
			do: func(a *act) error {
				if err := a.c.Remove(a.dump); err != nil {
					return err
				}
				return a.c.Symlink("deep/archive.tar", a.dump)
			}},
		{name: "symlink-swap-rename", promise: P2, want: refusedInStrict,
			story: "Posix-renames a symbolic link over a sealed file.",
			do:    by(relative, func(a *act, l string) error { return a.c.PosixRename(l, a.dump) })},
		{name: "symlink-swap-directory", promise: P2, want: refused,
			story: "Posix-renames a symbolic link over the directory of a sealed file.",
			do:    by(relative, func(a *act, l string) error { return a.c.PosixRename(l, a.dir+"/deep") })},
		{name: "symlink-write-relative", promise: P1, want: harmless,
			story: "Writes through a relative symbolic link to a sealed file.",
			do:    by(relative, overwrite)},
		{name: "symlink-write-absolute", promise: P1, want: harmless,
			story: "Writes through an absolute symbolic link to a sealed file.",
			do:    by(absolute, overwrite)},
		{name: "symlink-write-in-place", promise: P1, want: harmless,
			story: "Writes through a symbolic link without TRUNC.",
			do:    by(relative, func(a *act, l string) error { return a.write(l, Write, 0, junk(l)) })},
		{name: "symlink-truncate", promise: P1, want: harmlessInStrict,
			story: "Sets the length by the path of a symbolic link to a sealed file.",
			do:    by(relative, func(a *act, l string) error { return a.c.Setstat(l, size(0)) })},
		{name: "symlink-chmod", promise: P1, want: harmlessInStrict, meta: true, who: thief,
			story: "Sets mode and times by the path of a symbolic link to a sealed file.",
			do: by(absolute, func(a *act, l string) error {
				return errors.Join(a.c.Setstat(l, mode(0)), a.c.Setstat(l, times(1)))
			})},
		{name: "symlink-component", promise: P1, want: harmless,
			story: "Puts a sealed file's name below a symbolic link to its directory.",
			do: by(func(a *act) string { return a.dir }, func(a *act, l string) error {
				return errors.Join(a.c.Put(l+"/dump.sql", junk(l)), a.c.Put(l+"/deep/archive.tar", junk(l)))
			})},
		{name: "symlink-component-remove", promise: P2, want: harmless,
			story: "Removes and renames a sealed file below a symbolic link to its directory.",
			do: by(func(*act) string { return "deep" }, func(a *act, l string) error {
				return errors.Join(a.c.Remove(l+"/archive.tar"), a.c.Rename(l+"/archive.tar", l+"/gone"))
			})},
		{name: "symlink-chain", promise: P1, want: harmless,
			story: "Writes through a chain of three symbolic links.",
			do: by(relative, func(a *act, l string) error {
				two, three := a.dir+"/way2", a.dir+"/way3"
				if err := errors.Join(a.c.Symlink("way", two), a.c.Symlink(two, three)); err != nil {
					return setup("make the chain", err)
				}
				return overwrite(a, three)
			})},
		{name: "symlink-loop", promise: P7, want: refused,
			story: "Makes symbolic links that lead to each other, reads, stats and lists through them: an error, and no hang.",
			do: by(func(*act) string { return "back" }, func(a *act, l string) error {
				if err := a.c.Symlink("way", a.dir+"/back"); err != nil {
					return setup("close the loop", err)
				}
				return all(map[string]func() error{
					"read":      func() error { _, err := a.c.Read(l); return err },
					"stat":      func() error { _, err := a.c.Follow(l); return err },
					"list":      func() error { _, err := a.c.List(l); return err },
					"put below": func() error { return a.c.Put(l+"/x", junk(l)) },
				})
			})},
		{name: "symlink-self", promise: P7, want: refused,
			story: "Makes a symbolic link to itself and one below itself, and reads through them.",
			do: by(func(*act) string { return "way/way/way" }, func(a *act, l string) error {
				_, err := a.c.Read(l)
				return err
			})},
		{name: "symlink-swap-race", promise: P2, want: harmless,
			story: "Swaps a directory against a symbolic link to the victims' while another session writes below that name.",
			do:    swapRace},
	}
}

// swapRace lets the attacker flip race between a directory and a link to the victims, while a second
// session of the tenant overwrites race/dump.sql: whatever it meets, the victim is not reached.
func swapRace(a *act) error {
	race, link := a.dir+"/race", a.dir+"/race-link"
	if err := a.c.Symlink(a.dir, link); err != nil {
		return setup("make symbolic link", err)
	}
	writer := a.env.Thief
	if a.c == writer {
		writer = a.env.Twin
	}
	done := make(chan error, 1)
	go func() {
		var lost error
		for range 40 {
			if err := writer.Put(race+"/dump.sql", junk(race)); errors.Is(err, ErrLost) {
				lost = err
			}
		}
		done <- lost
	}()
	var lost error
	for range 40 {
		for _, err := range []error{a.c.Mkdir(race), a.c.Rmdir(race), a.c.Rename(link, race), a.c.Rename(race, link)} {
			if errors.Is(err, ErrLost) {
				lost = err
			}
		}
	}
	return errors.Join(<-done, lost)
}

// metadataSpecs attack by mode, owner and times.
func metadataSpecs() []spec {
	set := func(attrs ...Attrs) func(a *act) error {
		return func(a *act) error {
			var errs []error
			for _, at := range attrs {
				errs = append(errs, a.c.Setstat(a.dump, at))
			}
			return errors.Join(errs...)
		}
	}
	return []spec{
		{name: "chmod-zero", promise: P7, want: refusedInStrict, who: thief, meta: true,
			story: "Sets the mode of a sealed file to 0, so that its owner can not read it.",
			do:    set(mode(0))},
		{name: "chmod-setuid", promise: P1, want: refusedInStrict, who: thief, meta: true,
			story: "Makes a sealed file setuid and executable, for the day it is restored.",
			do:    set(mode(0o6777))},
		{name: "chown", promise: P1, want: refusedInStrict, who: thief, meta: true,
			story: "Gives a sealed file to another user.",
			do:    set(owner(0, 0))},
		{name: "chown-max", promise: P1, want: refusedInStrict, who: thief, meta: true,
			story: "Sets the owner of a sealed file to 2^32-1, which some servers take for no change.",
			do:    set(owner(1<<32-1, 1<<32-2))},
		{name: "utimes-past", promise: P3, want: refusedInStrict, who: thief, meta: true,
			story: "Sets the times of a sealed file to 1970, so that it looks long expired.",
			do:    set(times(1))},
		{name: "utimes-future", promise: P3, want: refusedInStrict, who: thief, meta: true,
			story: "Sets the times of a sealed file to 2106.",
			do:    set(times(1<<32 - 1))},
		{name: "own-metadata-window", promise: P7, want: harmless, who: twin,
			story: "With the owner's key, inside the minutes in which tools set modes, makes the file unreadable: it must stay readable.",
			do:    set(mode(0), times(1))},
		{name: "fsetstat-metadata", promise: P1, want: harmlessInStrict, who: thief, meta: true,
			story: "Opens a sealed file for writing, changes mode and times through the handle and closes.",
			do: func(a *act) error {
				return a.handle(a.dump, Write, func(h Handle) error { return errors.Join(h.Setstat(mode(0)), h.Setstat(times(1))) })
			}},
		{name: "fsetstat-read-handle", promise: P1, want: harmlessInStrict, who: thief, meta: true,
			story: "Changes mode and times through a handle that was opened for reading.",
			do: func(a *act) error {
				return a.handle(a.dump, Read, func(h Handle) error { return errors.Join(h.Setstat(mode(0)), h.Setstat(times(1))) })
			}},
		{name: "chmod-directory-zero", promise: P7, want: harmless,
			story: "Sets the mode of the victims' directories to 0, so that they can not be listed.",
			do: func(a *act) error {
				return errors.Join(a.c.Setstat(a.dir+"/deep", mode(0)), a.c.Setstat(a.dir, mode(0)))
			}},
		{name: "chmod-root-zero", promise: P7, want: harmless,
			story: "Sets the mode of the tenant's root to 0.",
			do:    func(a *act) error { return a.c.Setstat("/", mode(0)) }},
		{name: "utimes-views", promise: P3, want: harmless, files: []string{},
			story: "Puts files with times of 1970 and 2106: views follow the server's clock and not theirs.",
			do:    timesMoveViews},
	}
}

// timesMoveViews puts new files with odd times. The instant before must not show them, the live tree must.
func timesMoveViews(a *act) error {
	paths := map[string]uint32{a.dir + "/ancient": 1, a.dir + "/future": 1<<32 - 1}
	for p, sec := range paths {
		if err := a.c.Put(p, junk(p)); err != nil {
			return setup("put", err)
		}
		if err := a.c.Setstat(p, times(sec)); err != nil {
			return setup("set times on an own new file", err)
		}
	}
	for p := range paths {
		if _, err := a.env.Owner.Stat("/.vault/at/" + a.set.before + p); !errors.Is(err, fs.ErrNotExist) {
			return broken("%s is seen at %s, before it was stored (%v)", p, a.set.before, err)
		}
		if err := a.env.holds(p, junk(p)); err != nil {
			return err
		}
	}
	return nil
}
