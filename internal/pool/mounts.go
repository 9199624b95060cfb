package pool

import "path/filepath"

// MountPoint is dir as the table of mounts has it: without symlinks above it. Dir itself may be on a pool that hangs, and is not looked at.
func MountPoint(dir string) string {
	if real, err := filepath.EvalSymlinks(filepath.Dir(dir)); err == nil {
		return filepath.Join(real, filepath.Base(dir))
	}
	return dir
}
