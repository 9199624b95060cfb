package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// verb is a way to change, cut, remove or replace a file.
type verb struct {
	name string
	do   func(path string) error
}

func (s Scene) verbs() []verb {
	return append(append(openings(), s.cuttings()...), s.namings()...)
}

func openings() []verb {
	by := func(name string, flags int) verb {
		return verb{"open it " + name, func(p string) error { return open(p, flags) }}
	}
	return []verb{
		by("for writing", unix.O_WRONLY), by("for reading and writing", unix.O_RDWR), by("for appending", unix.O_WRONLY|unix.O_APPEND),
		by("for writing, cutting it", unix.O_WRONLY|unix.O_TRUNC), by("for reading, cutting it", unix.O_RDONLY|unix.O_TRUNC),
		{"open it for writing with openat2", func(p string) error {
			fd, err := unix.Openat2(unix.AT_FDCWD, p, &unix.OpenHow{Flags: unix.O_WRONLY | unix.O_CLOEXEC})
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
		{"open it for writing by way of /proc/self/fd", func(p string) error {
			return reading(p, func(fd int) error { return open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDWR) })
		}},
		{"open it for writing by its handle", func(p string) error {
			h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, p, 0)
			if err != nil {
				return err
			}
			return reading(filepath.Dir(p), func(dir int) error {
				fd, err := unix.OpenByHandleAt(dir, h, unix.O_WRONLY)
				if err == nil {
					unix.Close(fd)
				}
				return err
			})
		}},
	}
}

// cuttings change a file by a descriptor that can only read, or by its path.
func (s Scene) cuttings() []verb {
	fd := func(name string, do func(fd int) error) verb {
		return verb{name, func(p string) error { return reading(p, do) }}
	}
	return []verb{
		{"truncate it by its path", func(p string) error { return unix.Truncate(p, 1) }},
		fd("truncate it by a descriptor", func(fd int) error { return unix.Ftruncate(fd, 1) }),
		fd("punch a hole into it", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096)
		}),
		fd("map it for writing", func(fd int) error {
			b, err := unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			if err == nil {
				unix.Munmap(b)
			}
			return err
		}),
		fd("clone other bytes over it", func(fd int) error {
			from, err := s.fresh("attack-clone")
			if err != nil {
				return err
			}
			defer clean(from)
			return reading(from, func(src int) error { return unix.IoctlFileClone(fd, src) })
		}),
		fd("copy other bytes over it", func(fd int) error {
			from, err := s.fresh("attack-copy")
			if err != nil {
				return err
			}
			defer clean(from)
			return reading(from, func(src int) error {
				_, err := unix.CopyFileRange(src, nil, fd, nil, 4, 0)
				return err
			})
		}),
		fd("set its flags (chattr)", func(fd int) error {
			return unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_NODUMP)
		}),
	}
}

// namings take a file's name away, or give it one by which it can be written.
func (s Scene) namings() []verb {
	return []verb{
		{unlinkIt, unix.Unlink},
		{"rename it away", func(p string) error { return unix.Rename(p, s.own("attack-away")) }},
		{renameOver, func(p string) error {
			from, err := s.fresh("attack-over")
			if err != nil {
				return err
			}
			defer clean(from)
			return unix.Rename(from, p)
		}},
		{"exchange it with another file", func(p string) error {
			from, err := s.fresh("attack-exchange")
			if err != nil {
				return err
			}
			defer clean(from)
			return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, p, unix.RENAME_EXCHANGE)
		}},
		{"link it to where it can be written", func(p string) error {
			for _, dir := range []string{"staging", "derived"} {
				to := s.data(s.Own, dir, "attack-link")
				if err := unix.Link(p, to); err != nil {
					if dir == "derived" {
						return err
					}
					continue
				}
				return errors.Join(written(to), os.Remove(to))
			}
			return nil
		}},
		{"write through a symlink to it", func(p string) error {
			link := s.own("attack-symlink")
			if err := unix.Symlink(p, link); err != nil {
				link = s.data(s.Own, "files", "attack-symlink")
				if err := unix.Symlink(p, link); err != nil {
					return err
				}
			}
			defer clean(link)
			return written(link)
		}},
		{"mount another file over it", func(p string) error {
			from, err := s.fresh("attack-mount")
			if err != nil {
				return err
			}
			defer clean(from)
			if err := unix.Mount(from, p, "", unix.MS_BIND, ""); err != nil {
				return err
			}
			return unix.Unmount(p, unix.MNT_DETACH)
		}},
	}
}

// directories are attempts on the directories above what is sealed.
func (s Scene) directories() []attempt {
	store, journal := s.data(s.Victim, "store"), s.data(s.Victim, "journal")
	shards, _ := filepath.Glob(filepath.Join(store, "*"))
	shard := append(shards, store)[0]
	const group = "a directory of the store"
	to := s.data(s.Own, "files", "attack-dir")
	away := func(from string) func() error { return func() error { return unix.Rename(from, to) } }
	list := []attempt{
		{group, "rename a shard of store/ away", away(shard)},
		{group, "rename store/ away", away(store)},
		{group, "rename journal/ away", away(journal)},
		{group, "rename another tenant's dataset away", away(s.data(s.Victim))},
		{group, "rename all tenants away", func() error {
			return unix.Rename(filepath.Join(s.Store, "tenants"), filepath.Join(s.Store, "server", "attack-dir"))
		}},
		{group, "make a tenant's dataset", func() error { return unix.Mkdir(filepath.Join(s.Store, "tenants", "t-aaaaaaaaaaaa"), 0o700) }},
		{group, "put a file into a dataset's directory", func() error { return os.WriteFile(s.data(s.Victim, "format.new"), []byte("x"), 0o600) }},
		{group, "put a file into the store's directory", func() error { return os.WriteFile(filepath.Join(s.Store, "vaultd.toml.new"), []byte("x"), 0o600) }},
		{group, "write a new content in place", func() error { // an empty one it may make: see below
			p := filepath.Join(s.Store, "spare", s.Spare, "store", "attack")
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
		{group, "make a device, a fifo or a socket in the tree", func() error {
			for _, mode := range []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFBLK} {
				p := s.data(s.Own, "files", "attack-node")
				if err := unix.Mknod(p, mode|0o600, int(unix.Mkdev(8, 0))); err != nil {
					return err
				}
				unix.Unlink(p)
			}
			return nil
		}},
		{group, "list expire's directory", func() error { return open(filepath.Join(s.Store, "expire"), unix.O_RDONLY|unix.O_DIRECTORY) }},
		{group, "follow /proc/self/root to it", func() error {
			return open(filepath.Join("/proc/self/root", s.Store, "expire"), unix.O_RDONLY|unix.O_DIRECTORY)
		}},
	}
	return list
}

// permitted is what the server needs, or what no kernel has a rule for: docs/confinement.md says what follows.
func (s Scene) permitted() []attempt {
	const group = permittedGroup
	contents, _ := filepath.Glob(s.data(s.Victim, "store", "*", "*"))
	content := append(contents, "")[0]
	spare := func(parts ...string) string {
		return filepath.Join(append([]string{s.Store, "spare", s.Spare}, parts...)...)
	}
	read := func(p string) func() error { return func() error { _, err := os.ReadFile(p); return err } }
	return []attempt{
		{group, "read what every tenant stores", read(content)},
		{group, "read the catalog: names, public keys, policies", read(filepath.Join(s.Store, "vaultd.db"))},
		{group, "read the host key, which it has in its memory", read(s.HostKey)},
		{group, "hold the catalog's lock, so that commands wait", func() error {
			return reading(filepath.Join(s.Store, "vaultd.db"), func(fd int) error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) })
		}},
		{group, "remove a name from files/: content and journal stay", func() error { return unix.Unlink(s.data(s.Victim, "files", "dropped")) }},
		{group, "put another file under a name in files/: the same", func() error {
			from := s.data(s.Victim, "staging", "attack-replace") // on ZFS each tenant is a file system of its own
			if err := os.WriteFile(from, []byte("mine"), 0o640); err != nil {
				return err
			}
			return unix.Rename(from, s.data(s.Victim, "files", "other"))
		}},
		{group, "write what is not sealed yet, in staging/", func() error {
			p := s.data(s.Victim, "staging", "attack-staging")
			defer clean(p)
			return os.WriteFile(p, []byte("x"), 0o640)
		}},
		{group, "add to store/ and journal/ what it made in staging/", func() error {
			if err := os.WriteFile(spare("staging", "new"), []byte("forged"), 0o640); err != nil {
				return err
			}
			return errors.Join(unix.Link(spare("staging", "new"), spare("journal", "000000000001.jsonl")), unix.Rename(spare("staging", "new"), spare("store", "new")))
		}},
		{group, "change the mode of a sealed content, by a descriptor", func() error {
			return reading(content, func(fd int) error { return errors.Join(unix.Fchmod(fd, 0o600), unix.Fchmod(fd, 0o640)) })
		}},
		{group, "change the times of a sealed content", func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, content, []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		}},
		{group, "change the times of any file of that user's", func() error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(s.Store, "vaultd.toml"), []unix.Timespec{{Sec: 1}, {Sec: 1}}, 0)
		}},
		{group, "change the attributes of a sealed content, by a descriptor", func() error {
			return reading(content, func(fd int) error { return unix.Fsetxattr(fd, "user.attack", []byte("x"), 0) })
		}},
		{group, "fill the disk", func() error {
			p := s.own("attack-fill")
			defer clean(p)
			return os.WriteFile(p, make([]byte, 1<<20), 0o640)
		}},
	}
}
