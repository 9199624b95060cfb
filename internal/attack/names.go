package attack

import (
	"errors"
	"path"
)

// nameSpecs attack sealed names by removing them and by putting other things in their place.
func nameSpecs() []spec {
	return []spec{
		{name: "remove", promise: P2, want: refusedInStrict,
			story: "Removes a sealed file.",
			do:    func(a *act) error { return a.c.Remove(a.dump) }},
		{name: "remove-spelled-otherwise", promise: P2, want: refusedInStrict,
			story: "Removes a sealed file by other spellings of its path: //, /./, /x/../, a trailing slash and dot.",
			do: func(a *act) error {
				dir, base := path.Split(a.dump)
				var errs []error
				for _, p := range []string{dir + "./" + base, dir + "/" + base, dir + "deep/../" + base, "/.." + a.dump, a.dump + "/", a.dump + "/."} {
					err := a.c.Remove(p)
					if err == nil {
						return nil
					}
					errs = append(errs, err)
				}
				return errors.Join(errs...)
			}},
		{name: "remove-chmod-first", promise: P2, want: refusedInStrict, who: thief,
			story: "Makes the file writable and then removes it, as restic does after a refusal.",
			do: func(a *act) error {
				return errors.Join(a.c.Setstat(a.dump, mode(0o666)), a.c.Remove(a.dump))
			}},
		{name: "remove-a-second-later", promise: P2, want: refusedInStrict,
			story: "Puts a file of its own and removes it at once: what is closed is sealed for its creator too.",
			do: func(a *act) error {
				p, err := a.mine("own.bin")
				if err != nil {
					return err
				}
				if err := a.c.Remove(p); err != nil {
					if got, rerr := a.env.Owner.Read(p); rerr != nil || string(got) != string(junk(p)) {
						return broken("the refused removal changed %s (%v)", p, rerr)
					}
					return err
				}
				return a.env.hasVersion(p, junk(p))
			}},
		{name: "rmdir-file", promise: P2, want: refused,
			story: "Sends RMDIR for a sealed file.",
			do:    func(a *act) error { return a.c.Rmdir(a.dump) }},
		{name: "rmdir-parent", promise: P2, want: refused,
			story: "Sends RMDIR for the directory of a sealed file.",
			do:    func(a *act) error { return a.c.Rmdir(a.dir) }},
		{name: "rmdir-spelled-otherwise", promise: P2, want: refused,
			story: "Sends RMDIR for dir/., dir/deep/.. and the root.",
			do: func(a *act) error {
				return all(map[string]func() error{
					"rmdir dir/.":       func() error { return a.c.Rmdir(a.dir + "/.") },
					"rmdir dir/deep/..": func() error { return a.c.Rmdir(a.dir + "/deep/..") },
					"rmdir /":           func() error { return a.c.Rmdir("/") },
					"rmdir /..":         func() error { return a.c.Rmdir("/..") },
				})
			}},
		{name: "remove-directory", promise: P2, want: refused,
			story: "Sends REMOVE for a directory that holds sealed files.",
			do:    func(a *act) error { return a.c.Remove(a.dir) }},
		{name: "mkdir-over", promise: P2, want: refused,
			story: "Makes a directory by the name of a sealed file.",
			do:    func(a *act) error { return a.c.Mkdir(a.dump) }},
		{name: "put-over-directory", promise: P2, want: refused,
			story: "Puts a file by the name of a directory that holds sealed files.",
			do:    func(a *act) error { return a.c.Put(a.dir+"/deep", junk(a.dir)) }},
		{name: "put-below-file", promise: P2, want: refused,
			story: "Puts a file below a sealed file, as if that were a directory.",
			do:    func(a *act) error { return a.c.Put(a.dump+"/x", junk(a.dir)) }},
		{name: "close-then-drop", promise: P4, want: harmless, files: []string{},
			story: "Closes an upload and loses the connection at once: what was answered must be there.",
			do: func(a *act) error {
				p, err := a.mine("acknowledged")
				if err != nil {
					return err
				}
				if err := a.c.Drop(); err != nil {
					return setup("drop", err)
				}
				return a.env.holds(p, junk(p))
			}},
		{name: "many-versions", promise: P6, want: harmlessInStrict,
			story: "Overwrites a file many times in a row, so that the state before is forgotten.",
			do: func(a *act) error {
				var last error
				for _, n := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
					last = a.c.Put(a.dump, junk(a.dir+n))
					if last == nil {
						if err := a.env.hasVersion(a.dump, junk(a.dir+n)); err != nil {
							return err
						}
					}
				}
				return last
			}},
		{name: "remove-and-recreate", promise: P6, want: harmlessInStrict,
			story: "Removes a file and puts another of its name, so that the history begins anew.",
			do: func(a *act) error {
				return errors.Join(a.c.Remove(a.dump), a.c.Put(a.dump, junk(a.dir)))
			}},
	}
}

// holds wants p to have exactly these bytes, live.
func (e *Env) holds(p string, data []byte) error {
	got, err := e.Owner.Read(p)
	if err != nil {
		return broken("read %s: %w", p, err)
	}
	if string(got) != string(data) {
		return broken("the bytes of %s are not what was stored: %s", p, differ(data, got))
	}
	return nil
}

// renameSpecs attack sealed names by moving.
func renameSpecs() []spec {
	over := func(temp string, replace bool) func(a *act) error {
		return func(a *act) error {
			from, err := a.mine(temp)
			if err != nil {
				return err
			}
			if replace {
				return a.c.PosixRename(from, a.dump)
			}
			return a.c.Rename(from, a.dump)
		}
	}
	return []spec{
		{name: "rename-over", promise: P2, want: refused,
			story: "Puts a file of its own and renames it over a sealed one.",
			do:    over("new.bin", false)},
		{name: "posix-rename-over", promise: P2, want: refusedInStrict,
			story: "Puts a file of its own and posix-renames it over a sealed one.",
			do:    over("new.bin", true)},
		{name: "rename-over-filepart", promise: P2, want: refusedInStrict,
			story: "Uploads dump.sql.filepart, as WinSCP does, and posix-renames it over the sealed dump.sql.",
			do:    over("dump.sql.filepart", true)},
		{name: "rename-over-partial", promise: P2, want: refusedInStrict,
			story: "Uploads dump.sql.1a2b3c4d.partial, as rclone does, and posix-renames it over the sealed dump.sql.",
			do:    over("dump.sql.1a2b3c4d.partial", true)},
		{name: "rename-over-restic-temp", promise: P2, want: refusedInStrict,
			story: "Uploads a restic temporary file and posix-renames it over a sealed file.",
			do:    over("dump.sql-restic-temp-00112233445566778899aabbccddeeff", true)},
		{name: "rename-over-dot-in", promise: P2, want: refused,
			story: "Uploads .in.dump.sql, as lftp does, and renames it over the sealed dump.sql.",
			do:    over(".in.dump.sql", false)},
		{name: "rename-sealed-over-sealed", promise: P2, want: refusedInStrict,
			story: "Posix-renames one sealed file over another: two names would be one.",
			do:    func(a *act) error { return a.c.PosixRename(a.set.victims[1].path, a.dump) }},
		{name: "rename-away", promise: P2, want: refusedInStrict,
			story: "Renames a sealed file to another name.",
			do:    func(a *act) error { return a.c.Rename(a.dump, a.dir+"/gone") }},
		{name: "rename-away-to-temp", promise: P2, want: refusedInStrict,
			story: "Renames a sealed file to a temporary name, which its creator could then remove, and removes it.",
			do: func(a *act) error {
				temp := a.dump + ".filepart"
				return errors.Join(a.c.Rename(a.dump, temp), a.c.Remove(temp))
			}},
		{name: "rename-to-itself", promise: P2, want: harmless,
			story: "Renames a sealed file to its own name, by rename and by posix-rename.",
			do: func(a *act) error {
				return errors.Join(a.c.Rename(a.dump, a.dump), a.c.PosixRename(a.dump, a.dir+"/./dump.sql"))
			}},
		{name: "rename-parent", promise: P2, want: refusedInStrict,
			story: "Renames the directory that holds a sealed file.",
			do:    func(a *act) error { return a.c.Rename(a.dir+"/deep", a.dir+"/deeper") }},
		{name: "rename-grandparent", promise: P2, want: refusedInStrict,
			story: "Renames the directory above, so that everything below moves.",
			do:    func(a *act) error { return a.c.Rename(a.dir, a.dir+"-gone") }},
		{name: "posix-rename-parent", promise: P2, want: refusedInStrict,
			story: "Posix-renames the directory that holds a sealed file.",
			do:    func(a *act) error { return a.c.PosixRename(a.dir+"/deep", a.dir+"/deeper") }},
		{name: "rename-into-itself", promise: P2, want: refused,
			story: "Renames a directory into itself, so that the tree loses a branch.",
			do:    func(a *act) error { return a.c.Rename(a.dir, a.dir+"/deep/x") }},
		{name: "rename-directory-over", promise: P2, want: refused,
			story: "Makes an empty directory and posix-renames it over the one that holds a sealed file.",
			do: func(a *act) error {
				if err := a.makeDirs("empty"); err != nil {
					return err
				}
				return a.c.PosixRename(a.dir+"/empty", a.dir+"/deep")
			}},
		{name: "rename-directory-over-file", promise: P2, want: refused,
			story: "Makes an empty directory and posix-renames it over a sealed file.",
			do: func(a *act) error {
				if err := a.makeDirs("empty"); err != nil {
					return err
				}
				return a.c.PosixRename(a.dir+"/empty", a.dump)
			}},
		{name: "rename-file-over-directory", promise: P2, want: refused,
			story: "Posix-renames a file over a directory that holds a sealed one.",
			do: func(a *act) error {
				from, err := a.mine("new.bin")
				if err != nil {
					return err
				}
				return a.c.PosixRename(from, a.dir+"/deep")
			}},
		{name: "rename-root", promise: P2, want: refused,
			story: "Renames the root, and something over the root.",
			do: func(a *act) error {
				return all(map[string]func() error{
					"rename /":      func() error { return a.c.Rename("/", a.dir+"/root") },
					"rename over /": func() error { return a.c.PosixRename(a.dir+"/deep", "/") },
				})
			}},
	}
}
