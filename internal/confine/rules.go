package confine

import (
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
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

// rules are all of a layout, for what is there now.
func (l Layout) rules() ([]rule, error) {
	var out []rule
	for _, parent := range []string{TenantsDir, SpareDir, FormerDir} {
		if l.Bare {
			break
		}
		list, err := os.ReadDir(filepath.Join(l.Store, parent))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, d := range list {
			if !d.IsDir() { // a symlink would lead elsewhere
				continue
			}
			for sub, access := range dataset {
				out = append(out, rule{filepath.Join(l.Store, parent, d.Name(), sub), access})
			}
		}
	}
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

// landlockRules translates rules for a kernel that handles those rights.
func landlockRules(rules []rule, handled landlock.AccessFSSet) ([]landlock.Rule, error) {
	var out []landlock.Rule
	for _, r := range rules {
		st, err := os.Stat(r.path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		access := r.access & handled
		if !st.IsDir() {
			access &= fileAccess
		}
		out = append(out, landlock.PathAccess(access, r.path).IgnoreIfMissing())
	}
	return out, nil
}
