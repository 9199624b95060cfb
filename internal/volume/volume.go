// Package volume keeps one tenant's dataset in a directory of any Linux file system, unprivileged. It
// carries out the verbs of appendonly.Volume and decides nothing; no other package has writing
// system calls on tenant data.
//
//	store/<xx>/<id>       sealed contents; a name is made here once and never touched again
//	files/                the live tree: hard links to contents, directories, symlinks
//	staging/<id>          contents being written or not yet sealed
//	staging/<name>.note   what the core remembers of an interrupted upload
//	staging/journal-open  the journal's open segment
//	scratch/<name>.note   locks of repositories
//	journal/              closed segments, NNNNNNNNNNNN.jsonl
//	derived/              the index and a copy of the policy: made again when they are missing
//	format                "vaultd-volume 1"
//	.zfs/snapshot/vaultd-<name>/   on ZFS, never listed: all this as it was (Body)
//
// It guarantees, whatever the caller got wrong: no symlink is followed, at any component of a path; no
// path leads out of files/; Link, Mkdir, Symlink, Rename, Seal and CloseSegment never replace
// what exists (the kernel decides, with link(2) or RENAME_NOREPLACE; the one exception is an empty
// directory where the file system lacks that flag); nothing in store/ or journal/ is opened for writing,
// cut or removed; a content that is open for writing is not sealed. On disk files are 0640
// and directories 0750 whatever umask and clients say.
//
// It does not know policy, quota or what a name means, and it does not make tree changes durable: the
// journal is the truth about names and files/ is made to agree with it after a crash. It relies on
// rename(2) across directories being atomic on disk, as it is on ext4, xfs, btrfs and ZFS.
//
// The name .vault in the root of the tree belongs to Relink: paths that begin with it are refused
// and Entries does not show it.
//
// Concurrency: all methods may be called by many goroutines. Two processes must not write
// to one volume; the tenant's lock sees to that and not this package.
package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

const (
	formatVersion = 1
	formatPrefix  = "vaultd-volume "
	fileMode      = 0o640
	dirMode       = 0o750
)

// ErrFormat says that a newer vaultd wrote the dataset.
var ErrFormat = errors.New("unknown format")

// subdirs are made by Create and required by Open; derivedDir is made by both.
var subdirs = [...]string{"store", "files", "staging", "scratch", "journal"}

// Volume is one tenant's directory, open.
type Volume struct {
	path string // as given to Open; only IndexPath and errors of Open use it, everything else goes by descriptor

	// life is held shared by every operation and exclusively by Close, so that no operation ever
	// uses a descriptor number after it was closed (and perhaps given to another tenant's file).
	life   sync.RWMutex
	closed bool

	// Read-only after Open. syncfs reports the write-back errors since dir was opened.
	dir, store, files, staging, scratch, journal int

	// tree is held shared by verbs that use names and exclusively by those that change what a
	// directory's path means (Rename, Rmdir), so that parents never points to another directory than it says.
	tree    sync.RWMutex
	parents dirCache

	relink   sync.Mutex // owner of files/.vault
	segments sync.Mutex // owner of the name staging/journal-open

	// noFlags is set once the file system answered that it has no RENAME_NOREPLACE (OpenZFS 2.1).
	noFlags atomic.Bool
	// noOpenat2 is set by Open where the kernel or a seccomp filter has no openat2.
	noOpenat2 bool
	noCopy    bool // tests: neither FICLONERANGE nor copy_file_range

	mu      sync.Mutex           // guards what follows; a leaf: no system call is made under it
	writers map[journal.ID]int   // open Staged handles; a content that has one can not be sealed
	dressed map[journal.ID]dress // staged contents with SetMeta behind them
	notes   map[noteKey]struct{} // put or removed since the last Sync
	tmp     uint64               // numbers temporary names
}

var _ appendonly.Volume = (*Volume)(nil)

// Create makes an empty volume in dir, which must be missing or empty, and returns once that is on
// stable storage. A Create that was cut short can be repeated. It fails with fs.ErrExist on a volume and on
// a directory with other content.
//
//	mkdir dir, dir/{derived,store,files,staging,scratch,journal}; open+write+fsync+close dir/format.new;
//	rename dir/format.new dir/format; fsync of each subdirectory, dir, and dir's parent
//
// The format file comes last: what has it is complete.
func Create(dir string) error {
	if err := create(dir, true); err != nil {
		return fmt.Errorf("create volume %q: %w", dir, err)
	}
	return nil
}

// CreateSpare is Create for a volume that nobody uses yet. It does not wait for stable storage: the caller makes many, and then
// syncs the file system once.
func CreateSpare(dir string) error {
	if err := create(dir, false); err != nil {
		return fmt.Errorf("create spare volume %q: %w", dir, err)
	}
	return nil
}

func create(dir string, stable bool) error {
	syncDir := func(p string) error {
		if !stable {
			return nil
		}
		return syncDir(p)
	}
	if err := makeEmptyDir(dir); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(dir, "format")); !errors.Is(err, fs.ErrNotExist) {
		if err == nil {
			err = fmt.Errorf("it is a volume already: %w", fs.ErrExist)
		}
		return err
	}
	if err := makeEmptyDir(filepath.Join(dir, derivedDir)); err != nil {
		return err
	}
	for _, sub := range subdirs {
		p := filepath.Join(dir, sub)
		if err := makeEmptyDir(p); err != nil {
			return err
		}
		list, err := os.ReadDir(p)
		if err != nil {
			return err
		}
		if len(list) > 0 {
			return &fs.PathError{Op: "create", Path: p, Err: fs.ErrExist}
		}
		if err := syncDir(p); err != nil {
			return err
		}
	}
	tmp := filepath.Join(dir, "format.new")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Chmod(fileMode); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(f, "%s%d\n", formatPrefix, formatVersion); err != nil {
		return err
	}
	if stable {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, filepath.Join(dir, "format")); err != nil {
		return err
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(filepath.Clean(dir)))
}

// makeEmptyDir makes p with the fixed mode; a directory that is there already keeps its own.
func makeEmptyDir(p string) error {
	err := os.Mkdir(p, dirMode)
	if errors.Is(err, fs.ErrExist) {
		if st, e := os.Stat(p); e == nil && st.IsDir() {
			return nil
		}
		return err
	}
	if err != nil {
		return err
	}
	return os.Chmod(p, dirMode)
}

func syncDir(p string) error {
	d, err := os.Open(p)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Open opens the volume in dir. It creates nothing but derived/: what is not a complete volume is an error, and so is
// a format newer than this program knows.
func Open(dir string) (*Volume, error) {
	v, err := openAt(dir, false)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", dir, err)
	}
	return v, nil
}

func openAt(dir string, away bool) (_ *Volume, err error) {
	v := &Volume{path: dir, dir: -1, store: -1, files: -1, staging: -1, scratch: -1, journal: -1,
		writers: make(map[journal.ID]int), dressed: make(map[journal.ID]dress), notes: make(map[noteKey]struct{})}
	defer func() {
		if err != nil {
			v.Close()
		}
	}()
	// The way to dir is the operator's and may hold symlinks; below it nothing may be one.
	if v.dir, err = unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, err
	}
	if err := v.checkFormat(); err != nil {
		return nil, err
	}
	if !away && v.away() {
		return nil, ErrAway
	}
	if err := v.makeDerived(); err != nil {
		return nil, fmt.Errorf("%s: %w", derivedDir, err)
	}
	fds := [...]*int{&v.store, &v.files, &v.staging, &v.scratch, &v.journal}
	for i, sub := range subdirs {
		if *fds[i], err = openat(v.dir, sub, unix.O_RDONLY|unix.O_DIRECTORY, 0); err != nil {
			return nil, fmt.Errorf("%s: %w", sub, err)
		}
	}
	fd, err := unix.Openat2(v.files, ".", &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: resolveBeneath})
	switch err {
	case nil:
		unix.Close(fd)
	case unix.ENOSYS, unix.EPERM:
		v.noOpenat2 = true
	default:
		return nil, fmt.Errorf("files: %w", err)
	}
	return v, nil
}

func (v *Volume) checkFormat() error {
	fd, err := openat(v.dir, "format", unix.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("there is no format file, so it is not a volume: %w", err)
	}
	if err != nil {
		return fmt.Errorf("format: %w", err)
	}
	f := os.NewFile(uintptr(fd), "format")
	defer f.Close()
	b := make([]byte, 64)
	n, err := f.ReadAt(b, 0)
	if n == 0 && err != nil {
		return fmt.Errorf("read format: %w", err)
	}
	line, _, ok := bytes.Cut(b[:n], []byte("\n"))
	num, found := strings.CutPrefix(string(line), formatPrefix)
	have, err := strconv.ParseUint(num, 10, 31)
	switch {
	case !ok || !found || err != nil || have == 0:
		return fmt.Errorf("parse format: %q is not one of vaultd's", b[:n])
	case have > formatVersion:
		return fmt.Errorf("format %d is newer than %d, the newest that this vaultd knows: %w", have, formatVersion, ErrFormat)
	}
	return nil
}

// Close closes the volume's descriptors. Handles that it gave out stay usable and are closed by their owners.
func (v *Volume) Close() error {
	v.life.Lock()
	defer v.life.Unlock()
	if v.closed {
		return nil
	}
	v.closed = true
	v.parents.forgetAll()
	for _, fd := range []int{v.store, v.files, v.staging, v.scratch, v.journal, v.dir} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
	return nil
}

// enter begins an operation; when it returns nil, leave must follow.
func (v *Volume) enter() error {
	v.life.RLock()
	if v.closed {
		v.life.RUnlock()
		return fs.ErrClosed
	}
	return nil
}

func (v *Volume) leave() { v.life.RUnlock() }

// Space returns what statfs(2) says. File systems without a count of inodes (btrfs) answer 0 of 0.
func (v *Volume) Space() (appendonly.Space, error) {
	if err := v.enter(); err != nil {
		return appendonly.Space{}, fail("statfs", "", err)
	}
	defer v.leave()
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Fstatfs(v.dir, &st) }); err != nil {
		return appendonly.Space{}, fail("statfs", "", err)
	}
	unit := uint64(st.Frsize)
	if unit == 0 {
		unit = uint64(st.Bsize)
	}
	return appendonly.Space{Total: st.Blocks * unit, Free: st.Bavail * unit, TotalInodes: st.Files, FreeInodes: st.Ffree}, nil
}
