package volume

import (
	"fmt"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// maxFsync is up to how many files Sync makes stable one by one; beyond, one syncfs is cheaper and
// takes along what others of the same file system have dirty.
const maxFsync = 64

// Sync makes these contents, and every note put before, stable:
//
//	≤ 64: each content: openat(staging, id) or openat(store, xx/id), fsync, close
//	      each note put since the last Sync: openat, fsync, close
//	      fsync(staging), and fsync(scratch), fsync(store/xx), fsync(store) where something of it took part
//	more: syncfs(dir), which reports write errors since Open (Linux 5.8; before, it can miss them)
//
// Files come before the directories that name them. A content that was discarded meanwhile is passed
// over. After an error nothing is retried here and must not be by the caller: the kernel reports a lost
// page once (see sunlight internal/durable, and "Can Applications Recover from fsync Failures?").
func (v *Volume) Sync(ids []journal.ID) error {
	if err := v.enter(); err != nil {
		return fmt.Errorf("sync contents: %w", err)
	}
	defer v.leave()
	v.mu.Lock()
	notes := v.notes
	v.notes = make(map[noteKey]struct{})
	v.mu.Unlock()
	var err error
	switch n := len(ids) + len(notes); {
	case n == 0:
	case n > maxFsync:
		err = retry(func() error { return unix.Syncfs(v.dir) })
	default:
		err = v.syncEach(ids, notes)
	}
	if err != nil {
		return fmt.Errorf("sync contents: %w", err)
	}
	return nil
}

func (v *Volume) syncEach(ids []journal.ID, notes map[noteKey]struct{}) error {
	dirs := map[string]int{"staging": v.staging}
	for _, id := range ids {
		err := v.fsync(v.staging, id.String())
		if err == unix.ENOENT {
			if err = v.fsync(v.store, storeName(id)); err == nil {
				dirs["store"] = v.store
				err = v.fsync(v.store, id.Shard())
			}
		}
		if err != nil && err != unix.ENOENT {
			return err
		}
	}
	for k := range notes {
		if k.area == appendonly.AreaScratch {
			dirs["scratch"] = v.scratch
		}
		if err := v.fsync(v.area(k.area), k.file); err != nil && err != unix.ENOENT { // removed since
			return err
		}
	}
	for _, fd := range dirs {
		if err := retry(func() error { return unix.Fsync(fd) }); err != nil {
			return err
		}
	}
	return nil
}

// fsync makes the file or directory name stable. A descriptor opened now still learns of a write-back
// error that nobody was told of (Linux 4.16).
func (v *Volume) fsync(dirfd int, name string) error {
	fd, err := openat(dirfd, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return retry(func() error { return unix.Fsync(fd) })
}
