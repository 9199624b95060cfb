package pool

import (
	"bufio"
	"io"
	"path/filepath"
	"strconv"
	"strings"
)

// mounts reads mountinfo (proc(5)) and returns, for each mount point of a ZFS file system, the dataset that is on top there.
// Reading it asks no file system, so it never hangs.
func mounts(r io.Reader) (map[string]string, error) {
	out := map[string]string{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		before, after, ok := strings.Cut(in.Text(), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 2 {
			continue
		}
		dir := unescape(f[4])
		if g[0] != "zfs" || unescape(f[3]) != "/" {
			delete(out, dir) // something else was mounted over it, or a part of one
			continue
		}
		out[dir] = unescape(g[1])
	}
	return out, in.Err()
}

// unescape takes back what the kernel does to blanks and backslashes: \ooo.
func unescape(s string) string {
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

// MountPoint is dir as the table of mounts has it: without symlinks above it. Dir itself may be on a pool that hangs, and is not looked at.
func MountPoint(dir string) string {
	if real, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		return filepath.Join(real, filepath.Base(dir))
	}
	return dir
}
