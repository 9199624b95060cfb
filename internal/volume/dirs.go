package volume

import (
	"io/fs"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	maxPath = 4095 // PATH_MAX without its NUL
	maxName = 255  // NAME_MAX
	// swapName, in the root of the tree, is the second name that Relink gives a content for a moment. The
	// core reserves it, so no client's entry can be there. It is in files/ and not in staging/ because
	// the kernel (Landlock) refuses to link a sealed content to where it could be opened for writing.
	swapName = ".vault"
	// maxDirs bounds the cached descriptors of one tenant: with 1,000 tenants 16,000 of
	// the 65,536 that the unit allows.
	maxDirs = 16
)

// resolveBeneath makes the kernel refuse what could lead out of files/ or elsewhere inside it.
const resolveBeneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// checkPath refuses what is not a clean relative path. The core has cleaned it; this is the second
// guard, and what the attacker controls here is every byte.
func checkPath(path string) error {
	if len(path) > maxPath {
		return refused{unix.ENAMETOOLONG}
	}
	if strings.IndexByte(path, 0) >= 0 {
		return fs.ErrInvalid
	}
	first := true
	for name := range strings.SplitSeq(path, "/") {
		switch {
		case name == "" || name == "." || name == "..", first && name == swapName:
			return fs.ErrInvalid
		case len(name) > maxName:
			return refused{unix.ENAMETOOLONG}
		}
		first = false
	}
	return nil
}

// splitPath cuts a checked path into its parent ("" is the root) and its last name.
func splitPath(path string) (parent, name string) {
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		return path[:i], path[i+1:]
	}
	return "", path
}

// dir is a descriptor of a directory below files/.
type dir struct {
	fd   int
	path string // while cached

	// Guarded by dirCache.mu.
	refs   int
	cached bool
	used   uint64
}

// dirCache keeps the descriptors of the parents used last: a client that puts 5,000 files
// into one directory costs one openat2. An entry is closed when it is neither cached nor in use.
type dirCache struct {
	mu    sync.Mutex
	dirs  map[string]*dir
	clock uint64
}

// get returns a cached directory with a reference taken, or nil.
func (c *dirCache) get(path string) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.dirs[path]
	if d != nil {
		c.clock++
		d.used = c.clock
		d.refs++
	}
	return d
}

// put caches fd, whose owner it becomes, and returns it with a reference taken.
func (c *dirCache) put(path string, fd int) *dir {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.dirs[path]; old != nil {
		c.drop(old)
	}
	if len(c.dirs) >= maxDirs {
		var oldest *dir
		for _, d := range c.dirs {
			if oldest == nil || d.used < oldest.used {
				oldest = d
			}
		}
		c.drop(oldest)
	}
	c.clock++
	d := &dir{fd: fd, path: path, refs: 1, cached: true, used: c.clock}
	if c.dirs == nil {
		c.dirs = make(map[string]*dir, maxDirs)
	}
	c.dirs[path] = d
	return d
}

func (c *dirCache) release(d *dir) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d.refs--
	if d.refs == 0 && !d.cached {
		unix.Close(d.fd)
	}
}

// drop takes d out of the cache. The caller holds mu.
func (c *dirCache) drop(d *dir) {
	delete(c.dirs, d.path)
	d.cached = false
	if d.refs == 0 {
		unix.Close(d.fd)
	}
}

// forget drops path and everything below it.
func (c *dirCache) forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for p, d := range c.dirs {
		if p == path || strings.HasPrefix(p, path+"/") {
			c.drop(d)
		}
	}
}

func (c *dirCache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dirs {
		c.drop(d)
	}
}

// openDir opens the directory path of the tree without following any symlink. With openat2 the
// kernel walks; without it each component is opened by itself with O_NOFOLLOW.
func (v *Volume) openDir(path string, flags int) (int, error) {
	flags |= unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	if path == "" {
		return openat(v.files, ".", flags, 0)
	}
	if !v.noOpenat2 {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: resolveBeneath}
		for {
			fd, err := unix.Openat2(v.files, path, &how)
			// EAGAIN: a rename somewhere in the system raced with the kernel's proof that the walk stayed beneath.
			if err != unix.EAGAIN && err != unix.EINTR {
				return fd, err
			}
		}
	}
	at := v.files
	for {
		name, rest, more := strings.Cut(path, "/")
		step := unix.O_PATH | unix.O_DIRECTORY
		if !more {
			step = flags
		}
		fd, err := openat(at, name, step, 0)
		if at != v.files {
			unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

// parent returns the directory path of the tree with a reference taken, and whether it was cached.
func (v *Volume) parent(path string) (_ *dir, cached bool, err error) {
	if path == "" {
		return &dir{fd: v.files, refs: 2}, false, nil // the second reference is the volume's
	}
	if d := v.parents.get(path); d != nil {
		return d, true, nil
	}
	fd, err := v.openDir(path, unix.O_PATH)
	if err != nil {
		return nil, false, err
	}
	return v.parents.put(path, fd), false, nil
}

// inParent checks path and calls f with its parent's descriptor and last name. When f finds nothing
// through a cached descriptor, the directory may have been replaced behind our back: once more, fresh.
func (v *Volume) inParent(path string, f func(dirfd int, name string) error) error {
	if err := checkPath(path); err != nil {
		return err
	}
	parent, name := splitPath(path)
	for {
		d, cached, err := v.parent(parent)
		if err != nil {
			return err
		}
		err = retry(func() error { return f(d.fd, name) })
		v.parents.release(d)
		if err != unix.ENOENT || !cached {
			return err
		}
		v.parents.forget(parent)
	}
}
