package attack

import (
	"errors"
	"io/fs"
	"path"
)

// viewSpecs attack the past where clients see it.
func viewSpecs() []spec {
	// past is the victim at the instant before.
	past := func(a *act) string { return "/.vault/at/" + a.set.before + a.dump }
	return []spec{
		{name: "view-overwrite", promise: P3, want: refused,
			story: "Writes to a file in the view of an instant.",
			do:    func(a *act) error { return a.write(past(a), Write|Create|Truncate, 0, junk(a.dir)) }},
		{name: "view-write-in-place", promise: P3, want: refused,
			story: "Opens a file in a view without TRUNC and writes.",
			do:    func(a *act) error { return a.write(past(a), Write, 0, junk(a.dir)) }},
		{name: "view-truncate", promise: P3, want: refused,
			story: "Sets the length of a file in a view.",
			do:    func(a *act) error { return a.c.Setstat(past(a), size(0)) }},
		{name: "view-metadata", promise: P3, want: refused,
			story: "Sets mode and times of a file in a view.",
			do: func(a *act) error {
				return errors.Join(a.c.Setstat(past(a), mode(0)), a.c.Setstat(past(a), times(1)))
			}},
		{name: "view-remove", promise: P3, want: refused,
			story: "Removes a file, and the directories above it, in a view.",
			do: func(a *act) error {
				return all(map[string]func() error{
					"remove the file":        func() error { return a.c.Remove(past(a)) },
					"rmdir its directory":    func() error { return a.c.Rmdir(path.Dir(past(a))) },
					"rmdir the instant":      func() error { return a.c.Rmdir("/.vault/at/" + a.set.before) },
					"rmdir /.vault/at":       func() error { return a.c.Rmdir("/.vault/at") },
					"rmdir /.vault/versions": func() error { return a.c.Rmdir("/.vault/versions") },
					"rmdir /.vault":          func() error { return a.c.Rmdir("/.vault") },
				})
			}},
		{name: "view-rename", promise: P3, want: refused,
			story: "Renames a file within a view, out of it, into it, and the view itself.",
			do: func(a *act) error {
				own, err := a.mine("new.bin")
				if err != nil {
					return err
				}
				return all(map[string]func() error{
					"within":       func() error { return a.c.Rename(past(a), past(a)+"2") },
					"out":          func() error { return a.c.Rename(past(a), a.dir+"/stolen") },
					"into":         func() error { return a.c.PosixRename(own, past(a)) },
					"the view":     func() error { return a.c.Rename("/.vault/at", a.dir+"/at") },
					"all views":    func() error { return a.c.Rename("/.vault", a.dir+"/vault") },
					"over a view":  func() error { return a.c.PosixRename(a.dir+"/deep", "/.vault/at") },
					"over an at":   func() error { return a.c.PosixRename(a.dir+"/deep", "/.vault/at/"+a.set.before) },
					"over the top": func() error { return a.c.PosixRename(a.dir+"/deep", "/.vault") },
				})
			}},
		{name: "view-new-entries", promise: P3, want: refused,
			story: "Makes files, directories and links inside a view: a forged past.",
			do: func(a *act) error {
				dir := path.Dir(past(a))
				return all(map[string]func() error{
					"put":      func() error { return a.c.Put(dir+"/forged", junk(dir)) },
					"mkdir":    func() error { return a.c.Mkdir(dir + "/forged-dir") },
					"symlink":  func() error { return a.c.Symlink("dump.sql", dir+"/forged-link") },
					"hardlink": func() error { return a.c.Link(a.dump, dir+"/forged-hardlink") },
				})
			}},
		{name: "view-through-symlink", promise: P3, want: harmless,
			story: "Makes a symbolic link into a view and writes, removes and cuts through it.",
			do: func(a *act) error {
				link := a.dir + "/past"
				if err := a.c.Symlink(path.Dir(past(a)), link); err != nil {
					return setup("make symbolic link", err)
				}
				p := link + "/dump.sql"
				return errors.Join(a.c.Put(p, junk(p)), a.c.Setstat(p, size(0)), a.c.Remove(p))
			}},
		{name: "view-hardlink-out", promise: P1, want: harmless,
			story: "Hard-links a file out of a view into the live tree and overwrites it there.",
			do: func(a *act) error {
				p := a.dir + "/from-past"
				if err := a.c.Link(past(a), p); err != nil {
					return err
				}
				return a.write(p, Write|Truncate, 0, junk(p))
			}},
		{name: "snapshot-forge", promise: P3, want: refused,
			story: "Makes a snapshot's name by mkdir, symlink and put.",
			do: func(a *act) error {
				dir := "/.vault/snapshots/"
				return all(map[string]func() error{
					"mkdir":        func() error { return a.c.Mkdir(dir + "attack-forged-1") },
					"symlink":      func() error { return a.c.Symlink("/", dir+"attack-forged-2") },
					"put":          func() error { return a.c.Put(dir+"attack-forged-3", junk(dir)) },
					"mkdir latest": func() error { return a.c.Mkdir(dir + "latest") },
				})
			}},
		{name: "snapshot-remove", promise: P3, want: refused,
			story: "Removes and renames a snapshot.",
			do: func(a *act) error {
				if a.set.snap == "" {
					return ErrUnsupported
				}
				s := "/.vault/snapshots/" + a.set.snap
				return all(map[string]func() error{
					"rmdir":       func() error { return a.c.Rmdir(s) },
					"remove":      func() error { return a.c.Remove(s) },
					"rename":      func() error { return a.c.Rename(s, s+"-gone") },
					"rename over": func() error { return a.c.PosixRename(a.dir+"/deep", s) },
					"remove file": func() error { return a.c.Remove(s + a.dump) },
					"put":         func() error { return a.c.Put(s+a.dump, junk(s)) },
				})
			}},
		{name: "versions-remove", promise: P6, want: refused,
			story: "Removes and overwrites what /.vault/versions lists of a file.",
			do: func(a *act) error {
				dir := "/.vault/versions" + a.dump
				list, err := a.c.List(dir)
				if err != nil || len(list) == 0 {
					return setup("list versions", errors.Join(err, fs.ErrNotExist))
				}
				p := dir + "/" + list[0].Name
				return all(map[string]func() error{
					"remove": func() error { return a.c.Remove(p) },
					"put":    func() error { return a.c.Put(p, junk(p)) },
					"cut":    func() error { return a.c.Setstat(p, size(0)) },
					"rmdir":  func() error { return a.c.Rmdir(dir) },
					"forge":  func() error { return a.c.Put(dir+"/forged", junk(p)) },
				})
			}},
		{name: "view-odd-instants", promise: P7, want: refused,
			story: "Asks for views of absurd instants: an error and no crash.",
			do: func(a *act) error {
				asks := map[string]func() error{}
				for _, t := range []string{"", "x", "-1d", "9999999999999999999d", "2024-02-31", "1e99s", "2024-01-01T00:00:00", "..%2f", "\xff", "NaNs", "0x10s"} {
					asks["at "+t] = func() error {
						_, err := a.c.Read("/.vault/at/" + t + "/no-such-file-here")
						return err
					}
				}
				return all(asks)
			}},
	}
}

// reservedSpecs try to hide the past behind entries of its own names. They come last: where a short
// form may be taken by a client, it is taken afterwards, and the long form must still do.
func reservedSpecs() []spec {
	names := []string{"/.vault", "/.at", "/.snapshots", "/.versions"}
	// each tries do on every reserved name. /.vault must be refused; the checks after it read the long forms.
	each := func(do func(a *act, name string) error) func(a *act) error {
		return func(a *act) error {
			var last error
			for _, n := range names {
				err := do(a, n)
				switch {
				case errors.Is(err, ErrLost) || errors.Is(err, errBroken) || errors.Is(err, ErrUnsupported):
					return err
				case err == nil && n == "/.vault":
					return broken("%s was answered with success", n)
				case err != nil:
					last = err
				}
			}
			return last
		}
	}
	return []spec{
		{name: "reserved-spelled-otherwise", promise: P3, want: refused,
			story: "Makes /.vault by other spellings: a trailing slash, //, /./, /x/../ and from a relative path.",
			do: func(a *act) error {
				asks := map[string]func() error{}
				for _, p := range []string{"/.vault/", "//.vault", "/./.vault", "/x/../.vault", ".vault", "./.vault", a.dir + "/../../../.vault", "/.vault/.", "/.vault/x", "/.vault/at", "/.vault/at/now"} {
					asks["mkdir "+p] = func() error { return a.c.Mkdir(p) }
					asks["put "+p] = func() error { return a.c.Put(p, junk(p)) }
					asks["symlink "+p] = func() error { return a.c.Symlink(a.dir, p) }
				}
				return all(asks)
			}},
		{name: "reserved-remove", promise: P3, want: refused,
			story: "Removes /.vault and what is below it.",
			do: func(a *act) error {
				asks := map[string]func() error{}
				for _, p := range []string{"/.vault", "/.vault/at", "/.vault/snapshots", "/.vault/versions", "/.vault/snapshots/latest"} {
					asks["remove "+p] = func() error { return a.c.Remove(p) }
					asks["rmdir "+p] = func() error { return a.c.Rmdir(p) }
					asks["setstat "+p] = func() error { return a.c.Setstat(p, times(1)) }
					asks["rename "+p] = func() error { return a.c.PosixRename(p, a.dir+"/taken") }
				}
				return all(asks)
			}},
		{name: "reserved-rename", promise: P3, want: harmless,
			story: "Renames a directory of its own to /.vault, /.at, /.snapshots and /.versions.",
			do: each(func(a *act, name string) error {
				d := "renamed" + path.Base(name)
				if err := a.makeDirs(d); err != nil {
					return err
				}
				return a.c.Rename(a.dir+"/"+d, name)
			})},
		{name: "reserved-hardlink", promise: P3, want: harmless,
			story: "Hard-links a file of its own to the reserved names.",
			do: each(func(a *act, name string) error {
				own, err := a.mine("linked" + path.Base(name))
				if err != nil {
					return err
				}
				return a.c.Link(own, name)
			})},
		{name: "reserved-symlink", promise: P3, want: harmless,
			story: "Makes symbolic links by the reserved names, to a past of its own making.",
			do:    each(func(a *act, name string) error { return a.c.Symlink(a.dir, name) })},
		{name: "reserved-put", promise: P3, want: harmless,
			story: "Puts files by the reserved names.",
			do:    each(func(a *act, name string) error { return a.c.Put(name, junk(name)) })},
		{name: "reserved-mkdir", promise: P3, want: harmless,
			story: "Makes directories by the reserved names.",
			do:    each(func(a *act, name string) error { return a.c.Mkdir(name) })},
	}
}
