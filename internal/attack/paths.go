package attack

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
)

// pathSpecs attack with odd names: a name is bytes, and no spelling leads elsewhere.
func pathSpecs() []spec {
	return []spec{
		{name: "name-nul", promise: P1, want: refused,
			story: "Writes and removes dump.sql followed by a NUL and more, hoping that the name is cut there.",
			do: func(a *act) error {
				return all(map[string]func() error{
					"put":    func() error { return a.c.Put(a.dump+"\x00.txt", junk(a.dir)) },
					"remove": func() error { return a.c.Remove(a.dump + "\x00") },
					"rename": func() error { return a.c.PosixRename(a.dump+"\x00x", a.dir+"/gone") },
					"mkdir":  func() error { return a.c.Mkdir(a.dir + "/new\x00dir") },
					"read":   func() error { _, err := a.c.Read(a.dump + "\x00"); return err },
				})
			}},
		{name: "name-control", promise: P5, want: harmless,
			story: "Stores names with a newline, an escape sequence and a carriage return, to forge lines in listings and logs.",
			do:    storeExactly("a\nb", "esc\x1b[2J", "cr\rdump.sql", "tab\tname", "del\x7f")},
		{name: "name-not-utf8", promise: P5, want: harmless,
			story: "Stores names that are not UTF-8: bytes 0xff, a cut sequence, an overlong slash.",
			do:    storeExactly("\xff\xfe", "cut\xe2\x82", "over\xc0\xaflong")},
		{name: "name-lookalike", promise: P2, want: harmless,
			story: "Stores names that look like the victim's: other case, a trailing blank, a combining mark, a bidi override.",
			do:    storeExactly("DUMP.SQL", "dump.sql ", " dump.sql", "dump.sql\u200b", "\u202elqs.pmud", "dump.sql.", "du\u0301mp.sql")},
		{name: "name-shell", promise: P5, want: harmless,
			story: "Stores names that a shell, a glob or a printf would take for more.",
			do:    storeExactly("$(id)", "`id`", "; rm -rf dump.sql", "-rf", "*", "%s%n", "'\"\\", "C:\\x", "...")},
		{name: "name-255", promise: P5, want: harmless,
			story: "Stores a name of 255 bytes.",
			do:    storeExactly(strings.Repeat("n", 255))},
		{name: "name-256", promise: P1, want: refused,
			story: "Stores a name of 256 bytes, hoping that it is cut to another one.",
			do: func(a *act) error {
				long := strings.Repeat("m", 255)
				if err := a.c.Put(a.dir+"/"+long, content(long)); err != nil {
					return setup("put a name of 255 bytes", err)
				}
				err := a.c.Put(a.dir+"/"+long+"m", junk(long))
				return errors.Join(err, a.env.holds(a.dir+"/"+long, content(long)))
			}},
		{name: "path-4096", promise: P7, want: refused,
			story: "Uses paths of 4,096 and 30,000 bytes in every request: errors, and the session goes on.",
			do:    longPaths},
		{name: "path-deep", promise: P7, want: harmless,
			story: "Makes directories 60 levels deep: the listing and the views must go on.",
			do: func(a *act) error {
				p := a.dir
				for range 60 {
					p += "/d"
					if err := a.c.Mkdir(p); err != nil {
						return err
					}
				}
				if err := a.c.Put(p+"/leaf", junk(p)); err != nil {
					return err
				}
				return a.env.holds(p+"/leaf", junk(p))
			}},
		{name: "path-slashes", promise: P1, want: refusedInStrict,
			story: "Overwrites a sealed file by a path with doubled slashes and dots.",
			do: func(a *act) error {
				return a.c.Put(strings.ReplaceAll(a.dump, "/", "//./"), junk(a.dir))
			}},
		{name: "path-relative", promise: P1, want: refusedInStrict,
			story: "Overwrites a sealed file by its relative path.",
			do:    func(a *act) error { return a.c.Put(strings.TrimPrefix(a.dump, "/"), junk(a.dir)) }},
		{name: "path-dotdot", promise: P1, want: refusedInStrict,
			story: "Overwrites a sealed file by a path that climbs above the root and comes back.",
			do:    func(a *act) error { return a.c.Put("../../../.."+a.dump, junk(a.dir)) }},
		{name: "path-trailing", promise: P1, want: refusedInStrict,
			story: "Overwrites a sealed file by its path with a trailing slash and a trailing dot.",
			do: func(a *act) error {
				err := a.c.Put(a.dump+"/", junk(a.dir))
				if err == nil {
					return nil
				}
				return errors.Join(err, a.c.Put(a.dump+"/.", junk(a.dir)))
			}},
		{name: "path-empty", promise: P1, want: refused,
			story: "Puts, removes and renames the empty path, the dot and the root.",
			do: func(a *act) error {
				asks := map[string]func() error{}
				for _, p := range []string{"", ".", "/", "//", "/.", ".."} {
					asks[fmt.Sprintf("put %q", p)] = func() error { return a.c.Put(p, junk(a.dir)) }
					asks[fmt.Sprintf("remove %q", p)] = func() error { return a.c.Remove(p) }
					asks[fmt.Sprintf("rmdir %q", p)] = func() error { return a.c.Rmdir(p) }
					asks[fmt.Sprintf("rename %q", p)] = func() error { return a.c.Rename(p, a.dir+"/x") }
					asks[fmt.Sprintf("symlink %q", p)] = func() error { return a.c.Symlink(a.dir, p) }
				}
				return all(asks)
			}},
		{name: "path-dataset", promise: P6, want: refused, files: []string{},
			story: "Reads and lists the server's own files of this tenant: journal, index, store, staging, policy.",
			do:    readDataset},
	}
}

// storeExactly puts files of these names; each must be refused or be there under exactly its bytes.
func storeExactly(names ...string) func(a *act) error {
	return func(a *act) error {
		var last error
		for _, n := range names {
			p := a.dir + "/" + n
			if err := a.c.Put(p, content(p)); err != nil {
				if errors.Is(err, ErrLost) {
					return err
				}
				last = err
				continue
			}
			if err := a.env.holds(p, content(p)); err != nil {
				return err
			}
			list, err := a.env.Owner.List(a.dir)
			if err != nil {
				return broken("list: %w", err)
			}
			found := 0
			for _, i := range list {
				if i.Name == n {
					found++
				}
			}
			if found != 1 {
				return broken("%q is listed %d times", n, found)
			}
		}
		return last
	}
}

func longPaths(a *act) error {
	asks := map[string]func() error{}
	for _, n := range []int{4096, 30000} {
		p := a.dir + strings.Repeat("/"+strings.Repeat("p", 200), n/201)
		asks[fmt.Sprintf("put %d", n)] = func() error { return a.c.Put(p, junk(p)) }
		asks[fmt.Sprintf("mkdir %d", n)] = func() error { return a.c.Mkdir(p) }
		asks[fmt.Sprintf("stat %d", n)] = func() error { _, err := a.c.Stat(p); return err }
		asks[fmt.Sprintf("remove %d", n)] = func() error { return a.c.Remove(p) }
		asks[fmt.Sprintf("rename %d", n)] = func() error { return a.c.Rename(a.dump, p) }
		asks[fmt.Sprintf("link %d", n)] = func() error { return a.c.Link(a.dump, p) }
		asks[fmt.Sprintf("view %d", n)] = func() error { _, err := a.c.Read("/.vault/at/0s" + p); return err }
	}
	return all(asks)
}

func readDataset(a *act) error {
	asks := map[string]func() error{}
	for _, up := range []string{"/", "../", "../../", "/../", a.dir + "/../../../"} {
		for _, n := range []string{"journal", "index.db", "policy.json", "format", "store", "staging", "scratch", "files", "vaultd.db", "state.db"} {
			p := up + n
			asks["read "+p] = func() error { _, err := a.c.Read(p); return err }
			asks["list "+p] = func() error { _, err := a.c.List(p); return err }
			asks["put into "+p] = func() error { return a.c.Put(p+"/forged", junk(p)) }
		}
	}
	return all(asks)
}

// tenantSpecs attack other tenants and the host.
func tenantSpecs() []spec {
	return []spec{
		{name: "host-read", promise: P5, want: refused, files: []string{},
			story: "Reads the host's files by absolute paths and by climbing out of the root.",
			do: func(a *act) error {
				asks := map[string]func() error{}
				for _, p := range []string{"/etc/passwd", "../../../../../../../../etc/passwd", a.dir + "/../../../../../../etc/passwd", "/proc/self/environ", "//etc//passwd", "/dev/zero", "/../etc/passwd", "..\\..\\etc\\passwd", "%2e%2e/etc/passwd", "~root/.profile"} {
					asks["read "+p] = func() error { _, err := a.c.Read(p); return err }
					asks["list "+p] = func() error { _, err := a.c.List(path.Dir(p) + "/passwd"); return err }
				}
				return all(asks)
			}},
		{name: "host-symlink-read", promise: P5, want: refused, files: []string{},
			story: "Makes symbolic links to the host's files, absolute and climbing, and reads, lists and stats through them.",
			do:    symlinkOut(func(a *act, l string) error { _, err := a.c.Read(l); return err }, "/etc/passwd", "../../../../../../../../etc/passwd", "/proc/self/environ", "/proc/self/root/etc/passwd", "/dev/zero")},
		{name: "host-symlink-list", promise: P5, want: refused, files: []string{},
			story: "Lists the host's directories through symbolic links.",
			do:    symlinkOut(func(a *act, l string) error { _, err := a.c.List(l); return err }, "/etc", "../../../../../../../../etc", "/proc/self/root/etc", "/proc/self/fd", "../..//../../../usr")},
		{name: "host-symlink-write", promise: P5, want: refused, files: []string{},
			story: "Puts files through symbolic links to the host's directories.",
			do:    symlinkOut(func(a *act, l string) error { return a.c.Put(l+"/vaultd-attack", junk(l)) }, "/tmp", "../../../../../../../../tmp", "/proc/self/cwd", "/dev/shm")},
		{name: "host-symlink-setstat", promise: P5, want: refused, files: []string{},
			story: "Sets mode and times through symbolic links to the host's files.",
			do: symlinkOut(func(a *act, l string) error {
				err := a.c.Setstat(l, mode(0o777))
				if err == nil {
					return nil
				}
				return errors.Join(err, a.c.Setstat(l, times(1)))
			}, "/tmp", "/proc/self/oom_score_adj", "../../../../../../../../etc/passwd")},
		{name: "neighbour-read", promise: P5, want: refused, files: []string{},
			story: "Reads another tenant's file by its path, by climbing and through symbolic links.",
			do:    neighbourRead},
		{name: "neighbour-link", promise: P5, want: harmless, files: []string{},
			story: "Hard-links and renames another tenant's file into its own tree.",
			do: neighbour(func(a *act, p string, secret []byte) error {
				for i, from := range neighbourPaths(p) {
					to := fmt.Sprintf("%s/stolen-%d", a.dir, i)
					for _, err := range []error{a.c.Link(from, to), a.c.Rename(from, to)} {
						if errors.Is(err, ErrLost) {
							return err
						}
					}
					if got, err := a.c.Read(to); err == nil && bytes.Contains(got, secret) {
						return broken("%s gives away another tenant's bytes", to)
					}
				}
				return nil
			})},
		{name: "neighbour-overwrite", promise: P5, want: harmless, files: []string{},
			story: "Overwrites and removes another tenant's file by its path and by climbing.",
			do: neighbour(func(a *act, p string, _ []byte) error {
				for _, to := range neighbourPaths(p) {
					for _, err := range []error{a.c.Put(to, junk(to)), a.c.Remove(to), a.c.Setstat(to, size(0))} {
						if errors.Is(err, ErrLost) {
							return err
						}
					}
				}
				return nil
			})},
	}
}

// symlinkOut makes one link to each target and wants an error from do through each of them.
func symlinkOut(do func(a *act, link string) error, targets ...string) func(a *act) error {
	return func(a *act) error {
		asks := map[string]func() error{}
		for i, t := range targets {
			l := fmt.Sprintf("%s/out-%d", a.dir, i)
			if err := a.c.Symlink(t, l); err != nil {
				return setup("make symbolic link", err)
			}
			asks["through "+t] = func() error { return do(a, l) }
		}
		return all(asks)
	}
}

// neighbour stores a secret with the other tenant, attacks and wants the secret untouched.
func neighbour(do func(a *act, p string, secret []byte) error) func(a *act) error {
	return func(a *act) error {
		n := a.env.Neighbour
		if n == nil {
			return ErrUnsupported
		}
		// Stored at the neighbour's root: nothing of this name is in the thief's tree.
		p := "/secret-" + path.Base(a.dir) + "-" + a.env.id
		secret := content("neighbour" + a.env.id + a.dir)
		if err := n.Put(p, secret); err != nil {
			return setup("the neighbour's put", err)
		}
		err := do(a, p, secret)
		got, rerr := n.Read(p)
		if rerr != nil || !bytes.Equal(got, secret) {
			return broken("the neighbour's file changed (%v): %s", rerr, differ(secret, got))
		}
		return err
	}
}

func neighbourPaths(p string) []string {
	return []string{p, ".." + p, "../.." + p, "../files" + p, "../../files" + p, "/.vault/at/0s" + p, "/.vault/at/0s/.." + p, "/.vault/versions" + p}
}

func neighbourRead(a *act) error {
	return neighbour(func(a *act, p string, secret []byte) error {
		asks := map[string]func() error{}
		for i, from := range neighbourPaths(p) {
			l := fmt.Sprintf("%s/peek-%d", a.dir, i)
			if err := a.c.Symlink(from, l); err != nil {
				return setup("make symbolic link", err)
			}
			for _, f := range []string{from, l} {
				asks["read "+f] = func() error {
					_, err := a.c.Read(f)
					return err
				}
				asks["stat "+f] = func() error { _, err := a.c.Follow(f); return err }
			}
		}
		return all(asks)
	})(a)
}
