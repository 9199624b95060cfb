package confine

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Layout says where the server's files are.
type Layout struct {
	Store   string   // the store's directory
	Read    []string // files that it reads besides: host keys
	Program string   // its own program, the only one that it may execute
	Bare    bool     // the tenants' storage is not there, or hangs: the server only says so, and no rule is made that would look at it
}

// The names, in a store, of the directories that rules are about.
const (
	TenantsDir = "tenants"
	SpareDir   = "spare"
	FormerDir  = "former" // tenants that wait to be moved into the ZFS dataset at TenantsDir
	ServerDir  = "server"
	catalog    = "vaultd.db"
)

// What a rule allows below its path (landlock(7)).
const (
	read landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// grow is new entries and no more. REFER lets names be given across directories, to where not more is allowed than here.
	grow = read | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REFER
	// name is what makes a tree of names: not one that could be opened for writing.
	name = grow | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR
	work = read | unix.LANDLOCK_ACCESS_FS_MAKE_REG | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE |
		unix.LANDLOCK_ACCESS_FS_TRUNCATE
	readFile landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_READ_FILE
	execute                       = readFile | unix.LANDLOCK_ACCESS_FS_EXECUTE
)

// rule allows something at a path and below it. What is missing needs no rule.
type rule struct {
	path   string
	access landlock.AccessFSSet
}

// dataset is what may be done in the directories of one tenant (package volume).
var dataset = map[string]landlock.AccessFSSet{
	"":        read,
	"store":   grow | unix.LANDLOCK_ACCESS_FS_MAKE_DIR,
	"journal": grow,
	"files":   name,
	"staging": work | unix.LANDLOCK_ACCESS_FS_REFER,
	"scratch": work,
	"derived": work,
}

// rules are all of a layout but those of datasets, for what is there now.
func (l Layout) rules() ([]rule, error) {
	var out []rule
	out = append(out,
		rule{filepath.Join(l.Store, ServerDir), work | unix.LANDLOCK_ACCESS_FS_MAKE_DIR},
		rule{filepath.Join(l.Store, catalog), readFile},
		rule{"/etc/localtime", readFile}, rule{"/usr/share/zoneinfo", read}, rule{"/proc/self", read})
	for _, f := range l.Read {
		out = append(out, rule{f, readFile})
	}
	loader, err := loaderRules(l.Program)
	return append(append(out, rule{l.Program, execute}), loader...), err
}

// loaderRules are what a program that is not static needs to start: its loader, and libraries. A release is static; one with the
// race detector is not.
func loaderRules(program string) ([]rule, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b, err := io.ReadAll(p.Open())
		if err != nil {
			return nil, err
		}
		return []rule{{strings.TrimRight(string(b), "\x00"), execute}, {"/etc/ld.so.cache", readFile},
			{"/lib", read}, {"/lib64", read}, {"/usr/lib", read}, {"/usr/lib64", read}}, nil
	}
	return nil, nil
}

// fileAccess are the rights that a rule for a file, and not for a directory, can have.
const fileAccess landlock.AccessFSSet = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
	unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

// ruleset is one of Landlock that is being made. Its rules come from a descriptor each: there are seven for every tenant, of which there may be 10,000, so
// nothing is looked up twice, or from the root.
type ruleset struct {
	fd      int
	handled landlock.AccessFSSet
}

// add allows something at what name stands for in the directory dir, and below it. What is missing needs no rule; with O_NOFOLLOW and
// O_DIRECTORY in flags, neither does what is a symlink or no directory.
func (r ruleset) add(dir int, name string, flags int, access landlock.AccessFSSet) error {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC|flags, 0)
	if errors.Is(err, fs.ErrNotExist) || flags != 0 && (errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR)) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("allow %q: %w", name, err)
	}
	defer unix.Close(fd)
	return r.addFD(fd, name, access)
}

func (r ruleset) addFD(fd int, name string, access landlock.AccessFSSet) error {
	if access &= r.handled; access == 0 {
		return nil
	}
	if err := ll.LandlockAddPathBeneathRule(r.fd, &ll.PathBeneathAttr{ParentFd: fd, AllowedAccess: uint64(access)}, 0); err != nil {
		return fmt.Errorf("allow %q: %w", name, err)
	}
	return nil
}

// addAll adds the rules of a layout.
func (r ruleset) addAll(l Layout) error {
	rules, err := l.rules()
	if err != nil {
		return err
	}
	for _, x := range rules {
		st, err := os.Stat(x.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !st.IsDir() {
			x.access &= fileAccess
		}
		if err := r.add(unix.AT_FDCWD, x.path, 0, x.access); err != nil {
			return err
		}
	}
	for _, parent := range []string{TenantsDir, SpareDir, FormerDir} {
		if l.Bare {
			break
		}
		if err := r.addDatasets(filepath.Join(l.Store, parent)); err != nil {
			return err
		}
	}
	return nil
}

// addDatasets adds the rules of all datasets in a directory. A symlink in it would lead elsewhere.
func (r ruleset) addDatasets(parent string) error {
	d, err := os.Open(parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.addDataset(int(d.Fd()), name); err != nil {
			return err
		}
	}
	return nil
}

func (r ruleset) addDataset(parent int, name string) error {
	const real = unix.O_DIRECTORY | unix.O_NOFOLLOW
	dir, err := unix.Openat(parent, name, unix.O_PATH|unix.O_CLOEXEC|real, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("allow %q: %w", name, err)
	}
	defer unix.Close(dir)
	for sub, access := range dataset {
		if sub == "" {
			err = r.addFD(dir, name, access)
		} else {
			err = r.add(dir, sub, real, access)
		}
		if err != nil {
			return fmt.Errorf("dataset %q: %w", name, err)
		}
	}
	return nil
}
