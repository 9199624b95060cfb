package attack

import (
	"errors"
	"strings"
)

// lockName is a name as restic gives its locks.
var lockName = strings.Repeat("0123456789abcdef", 4)

// scratchSpecs attack through the only mutable corner: locks inside what looks like a repository.
func scratchSpecs() []spec {
	// The victim looks like a lock but was stored before anything around it looked like a repository.
	lock := []string{"locks/" + lockName}
	repo := func(do func(a *act) error) func(a *act) error {
		return func(a *act) error {
			if err := a.makeRepo(a.dir); err != nil {
				return err
			}
			return do(a)
		}
	}
	return []spec{
		{name: "lock-remove-sealed", promise: P2, want: refusedInStrict, files: lock,
			story: "Makes a repository's layout around a sealed file that is named like a lock, and removes that.",
			do:    repo(func(a *act) error { return a.c.Remove(a.dump) })},
		{name: "lock-overwrite-sealed", promise: P1, want: refusedInStrict, files: lock,
			story: "Makes a repository's layout around a sealed file that is named like a lock, and overwrites that.",
			do:    repo(func(a *act) error { return a.c.Put(a.dump, junk(a.dir)) })},
		{name: "lock-truncate-sealed", promise: P1, want: refusedInStrict, files: lock,
			story: "Makes a repository's layout around a sealed file that is named like a lock, and cuts that.",
			do:    repo(func(a *act) error { return a.c.Setstat(a.dump, size(0)) })},
		{name: "lock-rename-sealed", promise: P2, want: refusedInStrict, files: lock,
			story: "Renames a sealed lock-like file to another lock's name, where it would be mutable, and removes it.",
			do: repo(func(a *act) error {
				other := a.dir + "/locks/" + strings.Repeat("f", 64)
				return errors.Join(a.c.Rename(a.dump, other), a.c.Remove(other))
			})},
		{name: "lock-rename-over", promise: P2, want: refusedInStrict,
			story: "Writes a lock and posix-renames it over a sealed file.",
			do: repo(func(a *act) error {
				from := a.dir + "/locks/" + lockName
				if err := a.c.Put(from, junk(from)); err != nil {
					return setup("write a lock", err)
				}
				return a.c.PosixRename(from, a.dump)
			})},
		{name: "lock-rename-into", promise: P2, want: refusedInStrict,
			story: "Renames a sealed file into locks/ of a repository it made, and removes it there.",
			do: repo(func(a *act) error {
				to := a.dir + "/locks/" + lockName
				return errors.Join(a.c.Rename(a.dump, to), a.c.Remove(to))
			})},
		{name: "lock-link-into", promise: P1, want: harmless,
			story: "Hard-links a sealed file into locks/ of a repository it made, and writes and removes there.",
			do: repo(func(a *act) error {
				to := a.dir + "/locks/" + lockName
				if err := a.c.Link(a.dump, to); err != nil {
					return err
				}
				return errors.Join(a.write(to, Write, 0, junk(to)), a.c.Remove(to))
			})},
		{name: "lock-directory-symlink", promise: P2, want: harmless, files: []string{"locks/" + lockName},
			story: "Makes a repository whose locks directory is a symbolic link to the victims, and removes a lock through it.",
			do: func(a *act) error {
				if err := a.makeDirs("fake", "fake/data", "fake/keys", "fake/snapshots", "fake/index"); err != nil {
					return err
				}
				if err := a.c.Put(a.dir+"/fake/config", junk(a.dir)); err != nil {
					return setup("put config", err)
				}
				if err := a.c.Symlink("../locks", a.dir+"/fake/locks"); err != nil {
					return setup("make symbolic link", err)
				}
				p := a.dir + "/fake/locks/" + lockName
				return errors.Join(a.c.Put(p, junk(p)), a.c.Remove(p))
			}},
		{name: "lock-bulk", promise: P7, want: harmless, files: []string{},
			story: "Keeps 16 MiB in locks/ of a repository it made: what is mutable must be small.",
			do: repo(func(a *act) error {
				p := a.dir + "/locks/" + lockName
				if err := a.c.Put(p, make([]byte, 16<<20)); err != nil {
					return err
				}
				if err := a.c.Remove(p); err == nil && !a.env.Versioned {
					return broken("16 MiB were taken as a lock and removed again")
				}
				return nil
			})},
		{name: "lock-other-key", promise: P7, want: harmless, who: thief, files: []string{},
			story: "Turns a lock's name into a directory, so that the owner can not lock any more.",
			do: repo(func(a *act) error {
				if err := a.c.Mkdir(a.dir + "/locks/" + strings.Repeat("e", 64)); errors.Is(err, ErrLost) {
					return err
				}
				p := a.dir + "/locks/" + lockName
				if err := a.env.Owner.Put(p, content(p)); err != nil {
					return broken("the owner can not lock: %w", err)
				}
				return nil
			})},
	}
}

// makeRepo makes what restic's init leaves, as far as a recogniser could look at it; what the victims
// brought along already exists.
func (a *act) makeRepo(dir string) error {
	for _, n := range []string{"data", "index", "keys", "locks", "snapshots"} {
		if _, err := a.c.Stat(dir + "/" + n); err == nil {
			continue
		}
		if err := a.c.Mkdir(dir + "/" + n); err != nil {
			return setup("make directory "+n, err)
		}
	}
	if err := a.c.Put(dir+"/keys/"+lockName, junk(dir)); err != nil {
		return setup("put a key", err)
	}
	return setup("put config", a.c.Put(dir+"/config", junk(dir)))
}
