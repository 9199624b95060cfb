package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/volume"
)

// fileSystems are the names of those that people keep stores on (statfs(2)).
var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", 0x2fc12fc1: "zfs", unix.TMPFS_MAGIC: "tmpfs",
	unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", unix.MSDOS_SUPER_MAGIC: "vfat", unix.EXFAT_SUPER_MAGIC: "exfat",
	unix.F2FS_SUPER_MAGIC: "f2fs", 0xca451a4e: "bcachefs", 0xff534d42: "cifs", 0xfe534d42: "smb2",
}

// disk looks at the file system of the store, and tries in a directory of its own what the volume needs of it.
func (d *doctor) disk() {
	var st unix.Statfs_t
	if err := unix.Statfs(d.a.dir, &st); err != nil {
		d.say(checkFail, "disk", "", "statfs: %v", err)
		return
	}
	name, known := fileSystems[st.Type]
	if !known {
		name = fmt.Sprintf("of type %#x", st.Type)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		d.say(checkFail, "disk", "mount it for writing; look at dmesg: file systems go read-only after errors", "%s is mounted read-only", name)
		return
	}
	dir, err := os.MkdirTemp(d.a.dir, ".doctor-")
	if err != nil {
		d.say(checkFail, "disk", "", "%v", err)
		return
	}
	defer os.RemoveAll(dir)
	if lacks := diskLacks(dir); lacks != nil {
		d.say(checkFail, "disk", "move the store to ext4, xfs, btrfs or ZFS", "%s can not keep the promises: %v", name, lacks)
	} else if note := diskNotes(name, dir); note != "" {
		d.say(checkWarn, "disk", "", "%s: %s", name, note)
	} else {
		d.say(checkOK, "disk", "", "%s: hard links, renames, fsync and attributes work, names are told apart by their bytes", name)
	}
	d.space(&st)
}

// diskLacks tries what no store can do without.
func diskLacks(dir string) error {
	at := func(n string) string { return filepath.Join(dir, n) }
	f, err := os.Create(at("a"))
	if err != nil {
		return err
	}
	_, err = f.WriteString("a")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write and fsync: %w", err)
	}
	var errs []error
	if err := os.Link(at("a"), at("b")); err != nil {
		errs = append(errs, fmt.Errorf("hard links: %w", err))
	} else if err := os.Link(at("a"), at("b")); !errors.Is(err, fs.ErrExist) {
		errs = append(errs, fmt.Errorf("a hard link replaces a taken name (%v)", err))
	} else if err := os.Rename(at("b"), at("c")); err != nil {
		errs = append(errs, fmt.Errorf("rename: %w", err))
	}
	if _, err := os.Lstat(at("A")); err == nil {
		errs = append(errs, errors.New("it takes a and A for one name"))
	}
	if err := os.WriteFile(at("bytes\xff\n"), nil, 0o600); err != nil {
		errs = append(errs, fmt.Errorf("names of any bytes: %w", err))
	}
	if err := os.Symlink("nowhere", at("l")); err != nil {
		errs = append(errs, fmt.Errorf("symbolic links: %w", err))
	}
	if err := syncDirectory(dir); err != nil {
		errs = append(errs, fmt.Errorf("fsync of a directory: %w", err))
	}
	return errors.Join(errs...)
}

func syncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// diskNotes says what a file system lacks that is not a promise.
func diskNotes(name, dir string) string {
	switch name {
	case "tmpfs":
		return "everything is gone after a restart of the machine"
	case "overlayfs":
		return "an image's upper layer: give the store a volume of its own"
	case "nfs", "cifs", "smb2", "fuse":
		return "whoever serves it can change everything; put vaultd there instead"
	}
	if err := unix.Setxattr(filepath.Join(dir, "a"), "user.vaultd.doctor", []byte("x"), 0); err != nil {
		return fmt.Sprintf("no user attributes (%v): a raw dataset restores without owners; the journal has them", err)
	}
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return fmt.Sprintf("no O_TMPFILE (%v)", err)
	}
	unix.Close(fd)
	return ""
}

// selfTest seals a file in a throw-away store on the same file system, through the same core, and tries to destroy it.
func (d *doctor) selfTest(ctx context.Context) {
	dir, err := os.MkdirTemp(d.a.dir, ".doctor-")
	if err != nil {
		d.say(checkFail, "self-test", "", "%v", err)
		return
	}
	defer os.RemoveAll(dir)
	n, err := immutable(ctx, filepath.Join(dir, "dataset"))
	if err != nil {
		d.say(checkFail, "self-test", "stop the server and tell vaultd's authors", "a sealed file can be destroyed, or could not be tried: %v", err)
		return
	}
	d.say(checkOK, "self-test", "", "a sealed file withstood %d attempts to overwrite, cut, remove, rename or replace it", n)
}

// immutable attacks a sealed file in a new dataset, by the core's verbs and by the volume's below them.
func immutable(ctx context.Context, dir string) (tried int, err error) {
	if err := volume.Create(dir); err != nil {
		return 0, err
	}
	vol, err := volume.Open(dir)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vol.Close()) }()
	v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath()})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	f := v.Session(appendonly.Who{Key: "doctor", Protocol: "cli", Session: "doctor"})
	defer func() { err = errors.Join(err, f.Close(ctx)) }()
	const text, junk = "the only copy\n", "pay\n"
	if err := errors.Join(f.Mkdir("d", appendonly.NoMeta()), doctorPut(f, "d/file", text), doctorPut(f, "d/other", junk), f.Barrier(ctx)); err != nil {
		return 0, fmt.Errorf("store: %w", err)
	}
	info, err := f.Stat("d/file")
	if err != nil {
		return 0, err
	}
	attacks := map[string]func() error{
		"overwrite":          func() error { return doctorPut(f, "d/file", junk) },
		"truncate":           func() error { return f.Truncate("d/file", 0) },
		"remove":             func() error { return f.Remove("d/file") },
		"rename":             func() error { return f.Rename("d/file", "gone", false) },
		"rename over":        func() error { return f.Rename("d/other", "d/file", true) },
		"rename directory":   func() error { return f.Rename("d", "gone", false) },
		"remove directory":   func() error { return f.Rmdir("d") },
		"symlink over":       func() error { return f.Symlink("/etc/passwd", "d/file", appendonly.NoMeta()) },
		"link over":          func() error { return f.Link("d/other", "d/file") },
		"volume: link over":  func() error { return vol.Link(info.Content, "d/other") },
		"volume: stage anew": func() error { _, err := vol.Resume(info.Content); return err },
	}
	for what, attack := range attacks {
		if attack() == nil {
			return tried, fmt.Errorf("%s was not refused", what)
		}
		tried++
	}
	r, err := f.Open("d/file")
	if err != nil {
		return tried, fmt.Errorf("read back: %w", err)
	}
	defer r.Close()
	got := make([]byte, len(text)+1)
	n, _ := r.ReadAt(got, 0)
	if string(got[:n]) != text {
		return tried, fmt.Errorf("the file has other bytes now: %q", got[:n])
	}
	return tried, nil
}

func doctorPut(f *appendonly.FS, path, text string) error {
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
	if err != nil {
		return err
	}
	_, err = u.WriteAt([]byte(text), 0)
	return errors.Join(err, u.Close())
}
