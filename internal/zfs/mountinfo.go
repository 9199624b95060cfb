package zfs

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// Mount is a line of /proc/self/mountinfo (proc_pid_mountinfo(5)): a mount of this process's namespace. Texts are as they are, without the kernel's escapes.
type Mount struct {
	ID, Parent   uint64
	Root         string   // the part of the file system that is mounted: "/" is all of it
	Point        string   // where, as an absolute path without symlinks
	Propagation  []string // "shared:N", "master:N" and so on; none is a private mount
	Type, Source string   // of ZFS, the source is the dataset
}

// Dataset is the ZFS file system that is mounted, as a whole; "" for another file system, and for a directory of one (a bind mount).
func (m Mount) Dataset() string {
	if m.Type != "zfs" || m.Root != "/" {
		return ""
	}
	return m.Source
}

// parseMount reads a line. Its parts are separated by one blank each, and have none themselves.
func parseMount(line string) (m Mount, ok bool) {
	f := strings.Split(strings.TrimSuffix(line, "\n"), " ")
	sep := 6
	for sep < len(f) && f[sep] != "-" {
		sep++
	}
	if sep+3 > len(f) {
		return m, false
	}
	id, err := strconv.ParseUint(f[0], 10, 64)
	if err != nil {
		return m, false
	}
	parent, err := strconv.ParseUint(f[1], 10, 64)
	if err != nil {
		return m, false
	}
	return Mount{ID: id, Parent: parent, Root: unescapeMount(f[3]), Point: unescapeMount(f[4]), Propagation: f[6:sep], Type: unescapeMount(f[sep+1]), Source: unescapeMount(f[sep+2])}, true
}

// unescapeMount takes back what the kernel does to blanks, backslashes and more (mangle in fs/proc_namespace.c): \ooo.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Mounts are all mounts of a namespace at one moment.
type Mounts struct {
	all map[uint64]Mount
	on  map[spot]uint64
}

// spot is a place in a mount; of mount 0 for those whose parent is not in the table: the root, or what there is below a root that is no mount.
type spot struct {
	parent uint64
	point  string
}

// ReadMounts reads a table of mounts. Lines that are none are passed over.
func ReadMounts(r io.Reader) (Mounts, error) {
	m := Mounts{map[uint64]Mount{}, map[spot]uint64{}}
	var order []uint64
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		if one, ok := parseMount(in.Text()); ok {
			m.all[one.ID] = one
			order = append(order, one.ID)
		}
	}
	for _, id := range order {
		one := m.all[id]
		if _, listed := m.all[one.Parent]; !listed || one.Parent == id {
			one.Parent = 0
		}
		m.on[spot{one.Parent, one.Point}] = id
	}
	if err := in.Err(); err != nil {
		return Mounts{}, fmt.Errorf("read mounts: %w", err)
	}
	return m, nil
}

// CurrentMounts are those that this process sees. It asks no file system, so it never hangs.
func CurrentMounts() (Mounts, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return Mounts{}, err
	}
	defer f.Close()
	return ReadMounts(f)
}

// Holds is the mount that an absolute path without symlinks leads into. It goes down as the kernel does, so what is covered by another mount, there or further up,
// is not found. at is where its root is.
func (m Mounts) Holds(dir string) (one Mount, at string, ok bool) {
	dir = path.Clean(dir)
	now, here, end := uint64(0), "/", 0
	for {
		for range len(m.all) { // one may be on top of another
			next, ok := m.on[spot{now, here}]
			if !ok {
				break
			}
			now, at = next, here
		}
		if here == dir {
			break
		}
		rest := dir[end+1:]
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			end += 1 + i
		} else {
			end = len(dir)
		}
		here = dir[:end]
	}
	one, ok = m.all[now]
	return one, at, ok
}

// Dataset is the ZFS file system that is mounted at dir, on top of what else may be there; "" where none is.
func (m Mounts) Dataset(dir string) string {
	if one, at, ok := m.Holds(dir); ok && at == path.Clean(dir) {
		return one.Dataset()
	}
	return ""
}
