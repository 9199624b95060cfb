// Package archive carries a tree of a tenant's vault, live or at an instant, out into a directory: Write
// makes a tar stream of it, Extract unpacks one. Between the two lies, when a server runs, its socket.
//
// It guarantees that a file whose bytes are not those that the journal recorded is reported and that
// the archive then ends with an error; that nothing is written outside the directory, whatever a
// tenant called its files; and that nothing that is there already is overwritten.
//
// It does not keep device numbers or owners unless Extract runs as root.
package archive

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
)

// Write writes what path stands for in v, and all below it, to w as a tar stream. A directory's
// entries are named relative to it; a single file keeps its last name.
func Write(ctx context.Context, v *appendonly.FS, from string, w io.Writer) error {
	t := &writer{ctx: ctx, v: v, tar: tar.NewWriter(w)}
	info, err := v.Stat(from)
	if err != nil {
		return err
	}
	if info.Kind == appendonly.KindDir {
		err = t.dir(from, "")
	} else {
		err = t.entry(from, info.Name, info)
	}
	if err == nil {
		err = t.tar.Close()
	}
	return errors.Join(err, t.bad)
}

type writer struct {
	ctx context.Context
	v   *appendonly.FS
	tar *tar.Writer
	bad error // files that were not what was recorded; they are left out, the others go on
}

func (t *writer) dir(from, name string) error {
	d, err := t.v.OpenDir(from)
	if err != nil {
		return err
	}
	for {
		infos, err := d.Next(512)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		for _, i := range infos {
			if err := t.ctx.Err(); err != nil {
				return err
			}
			if err := t.entry(from+"/"+i.Name, path.Join(name, i.Name), i); err != nil {
				return err
			}
		}
	}
}

func (t *writer) entry(from, name string, i appendonly.Info) error {
	h := header(name, i)
	if i.Kind != appendonly.KindFile {
		if h.Typeflag == 0 {
			return nil // a socket: nothing to restore
		}
		if err := t.tar.WriteHeader(h); err != nil {
			return err
		}
		if i.Kind == appendonly.KindDir {
			return t.dir(from, name)
		}
		return nil
	}
	f, err := t.v.Open(from)
	if err != nil {
		t.bad = errors.Join(t.bad, err)
		return nil
	}
	defer f.Close()
	if err := t.tar.WriteHeader(h); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(t.tar, sum)}, io.NewSectionReader(f, 0, i.Size), make([]byte, 256<<10)); err != nil {
		return err
	}
	if want, ok := f.SHA256(); ok && want != [32]byte(sum.Sum(nil)) {
		t.bad = errors.Join(t.bad, fmt.Errorf("read %s: %w", appendonly.QuotePath(from), appendonly.ErrQuarantined))
	}
	return nil
}

var tarTypes = map[appendonly.Kind]byte{appendonly.KindFile: tar.TypeReg, appendonly.KindDir: tar.TypeDir, appendonly.KindSymlink: tar.TypeSymlink,
	appendonly.KindFifo: tar.TypeFifo, appendonly.KindCharDev: tar.TypeChar, appendonly.KindBlockDev: tar.TypeBlock}

func header(name string, i appendonly.Info) *tar.Header {
	mode := i.Mode
	if mode == appendonly.Unset {
		mode = appendonly.DefaultMode(i.Kind)
	}
	h := &tar.Header{Typeflag: tarTypes[i.Kind], Name: name, Linkname: i.Target, Mode: int64(mode), Format: tar.FormatPAX,
		ModTime: i.MTime.Time(), Uid: int(i.UID), Gid: int(i.GID), Devmajor: int64(i.RDev >> 32), Devminor: int64(uint32(i.RDev))}
	if i.Kind == appendonly.KindFile {
		h.Size = i.Size
	}
	if i.UID == appendonly.Unset {
		h.Uid = os.Getuid()
	}
	if i.GID == appendonly.Unset {
		h.Gid = os.Getgid()
	}
	if !i.ATime.IsZero() {
		h.AccessTime = i.ATime.Time()
	}
	return h
}

// Progress is called after each entry with the entries and bytes so far.
type Progress func(entries int, bytes int64)

// Extract unpacks a stream of Write into dir, which it makes if need be. What is there already is
// never replaced: that entry fails, the others go on, and the errors are returned together.
func Extract(r io.Reader, dir string, progress Progress) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	x := &extractor{root: root, asRoot: os.Geteuid() == 0}
	tr := tar.NewReader(r)
	var errs error
	var bytes int64
	for n := 1; ; n++ {
		h, err := tr.Next()
		if err == io.EOF {
			// The stream goes on behind the archive: its end says whether all of it came.
			_, err := io.Copy(io.Discard, r)
			return errors.Join(errs, err, x.finish())
		}
		if err != nil {
			return errors.Join(errs, fmt.Errorf("read archive: %w", err), x.finish())
		}
		if err := x.entry(h, tr); err != nil {
			errs = errors.Join(errs, fmt.Errorf("restore %s: %w", appendonly.QuotePath(h.Name), cause(err)))
		}
		bytes += h.Size
		if progress != nil {
			progress(n, bytes)
		}
	}
}

func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

type extractor struct {
	root   *os.Root
	asRoot bool
	dirs   []*tar.Header // their times and modes are set last
}

func (x *extractor) entry(h *tar.Header, r io.Reader) error {
	name := strings.TrimSuffix(h.Name, "/")
	switch h.Typeflag {
	case tar.TypeDir:
		if err := x.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		x.dirs = append(x.dirs, h)
		return nil
	case tar.TypeReg:
		f, err := x.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, r)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := x.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		if x.asRoot {
			return x.root.Lchown(name, h.Uid, h.Gid)
		}
		return nil
	default:
		return x.special(h, name)
	}
	return x.attributes(h, name)
}

func (x *extractor) special(h *tar.Header, name string) error {
	mode := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	dir, err := x.root.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = unix.Mknodat(int(dir.Fd()), path.Base(name), mode|0o600, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	if err != nil {
		return err
	}
	return x.attributes(h, name)
}

func (x *extractor) attributes(h *tar.Header, name string) error {
	var errs error
	if x.asRoot {
		errs = x.root.Lchown(name, h.Uid, h.Gid)
	}
	perm := fs.FileMode(h.Mode & 0o777)
	for bit, m := range map[int64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if h.Mode&bit != 0 && x.asRoot {
			perm |= m
		}
	}
	atime := h.AccessTime
	if atime.IsZero() {
		atime = time.Now()
	}
	return errors.Join(errs, x.root.Chmod(name, perm), x.root.Chtimes(name, atime, h.ModTime))
}

// finish sets the directories' attributes, the deepest first: filling one changes its time, and a
// mode may forbid filling it.
func (x *extractor) finish() error {
	var errs error
	for i := len(x.dirs) - 1; i >= 0; i-- {
		h := x.dirs[i]
		errs = errors.Join(errs, x.attributes(h, strings.TrimSuffix(h.Name, "/")))
	}
	return errs
}
