package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The names by which a move knows how far it is, in the datasets' directories.
const (
	awayName   = "away"   // in the one that is left: nobody opens it any more
	movingName = "moving" // in the one that is made: it is not whole
	copySuffix = ".copy"  // a file that is not whole
)

// ErrAway refuses a dataset that is being moved, or was.
var ErrAway = errors.New("the vault is being moved to another place by its operator")

// Leave makes nobody open the dataset in dir any more, in this process or another, and is durable when it returns. Whoever has it open goes on.
func Leave(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, awayName), os.O_WRONLY|os.O_CREATE|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), syncDir(dir))
}

// Return takes Leave back.
func Return(dir string) error {
	if err := os.Remove(filepath.Join(dir, awayName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(dir)
}

// OpenAway is Open for a dataset that Leave closed, for reading.
func OpenAway(dir string) (*Volume, error) {
	v, err := openAt(dir, true)
	if err != nil {
		return nil, fmt.Errorf("open volume %q: %w", dir, err)
	}
	return v, nil
}

// away reports whether Leave was called.
func (v *Volume) away() bool {
	var st unix.Stat_t
	return unix.Fstatat(v.dir, awayName, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
}

// Copying is a dataset that is being made of another one. Nobody may write to the one that is made meanwhile; the names in it may be a
// former attempt's.
type Copying struct {
	from, to string
	progress func(bytes int64)
}

// Copy begins to copy the dataset in from into to, an empty dataset or one that an earlier Copy was cut short at: another one is refused with
// fs.ErrExist. progress is told of bytes that are there.
func Copy(from, to string, progress func(int64)) (*Copying, error) {
	c := &Copying{from, to, progress}
	if _, err := os.Lstat(filepath.Join(to, movingName)); err == nil {
		return c, nil
	}
	if err := makeEmptyDir(to); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(to)
	if err != nil {
		return nil, err
	}
	if len(list) > 0 && !Untouched(to) {
		return nil, fmt.Errorf("copy to %q: there is something else: %w", to, fs.ErrExist)
	}
	f, err := os.OpenFile(filepath.Join(to, movingName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	return c, errors.Join(f.Close(), syncDir(to))
}

// Ahead copies what does not change: contents in the store. The other one may be open and written to.
func (c *Copying) Ahead(ctx context.Context) error {
	return c.tree(ctx, "store")
}

// Rest copies what is left, when nobody has the other one open: it has everything then but files/ and derived/, which are made again from what
// is there (Vault.RebuildTree). What is there of an earlier attempt, and not in the other one, goes.
func (c *Copying) Rest(ctx context.Context) error {
	for _, sub := range append([]string{derivedDir}, subdirs[:]...) {
		if sub == "store" {
			continue
		}
		if err := os.RemoveAll(filepath.Join(c.to, sub)); err != nil {
			return err
		}
		if err := c.dir(sub); err != nil {
			return err
		}
	}
	for _, sub := range []string{"store", "journal", "staging", "scratch"} {
		if err := c.tree(ctx, sub); err != nil {
			return err
		}
	}
	if err := c.prune(); err != nil {
		return err
	}
	return c.file("format")
}

// Done makes the copy a dataset that may be opened, on stable storage.
func (c *Copying) Done() error {
	if err := syncAll(c.to); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(c.to, movingName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(c.to)
}

func syncAll(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// tree copies the regular files below sub; there are no others.
func (c *Copying) tree(ctx context.Context, sub string) error {
	return filepath.WalkDir(filepath.Join(c.from, sub), func(path string, d fs.DirEntry, err error) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it went meanwhile
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(c.from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return c.dir(rel)
		case !d.Type().IsRegular():
			return fmt.Errorf("copy %s: %w", rel, errNotRegular)
		}
		if err := c.file(rel); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func (c *Copying) dir(rel string) error {
	to := filepath.Join(c.to, rel)
	if err := makeEmptyDir(to); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(c.from, rel), &st); err != nil {
		return err
	}
	return os.Lchown(to, int(st.Uid), int(st.Gid))
}

// file copies one file, with its owner, mode, times and attributes. One that is there with this size and time is as it should be: it was given its
// name when it was whole. What is in it is compared with the journal before the copy counts.
func (c *Copying) file(rel string) error {
	in, err := os.OpenFile(filepath.Join(c.from, rel), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	st, err := statRegular(int(in.Fd()))
	if err != nil {
		return err
	}
	to := filepath.Join(c.to, rel)
	if have, err := os.Lstat(to); err == nil && have.Mode().IsRegular() && have.Size() == st.Size && have.ModTime().Equal(time.Unix(st.Mtim.Unix())) {
		c.progress(st.Size)
		return nil
	}
	out, err := os.OpenFile(to+copySuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, fileMode)
	if err != nil {
		return err
	}
	defer out.Close()
	n, err := io.Copy(out, in)
	if err != nil {
		return err
	}
	c.progress(n)
	if err := copyAttributes(int(in.Fd()), int(out.Fd())); err != nil {
		return fmt.Errorf("copy attributes of %s: %w", rel, err)
	}
	if err := errors.Join(out.Chown(int(st.Uid), int(st.Gid)), out.Chmod(fs.FileMode(st.Mode&0o777))); err != nil {
		return err
	}
	at := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to+copySuffix, at, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return errors.Join(out.Close(), os.Rename(to+copySuffix, to))
}

// copyAttributes copies the extended attributes that users may have.
func copyAttributes(from, to int) error {
	size, err := unix.Flistxattr(from, nil)
	if err != nil || size == 0 {
		if err == unix.ENOTSUP {
			err = nil
		}
		return err
	}
	names := make([]byte, size)
	if size, err = unix.Flistxattr(from, names); err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:size]), "\x00"), "\x00") {
		if !strings.HasPrefix(name, "user.") {
			continue
		}
		n, err := unix.Fgetxattr(from, name, value)
		if err == nil {
			err = unix.Fsetxattr(to, name, value[:n], 0)
		}
		if err == unix.ENOTSUP {
			return nil // the journal has them, too; on disk they are best effort, as in dress
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// prune drops contents that the other one does not have any more: retention ended them since an earlier attempt.
func (c *Copying) prune() error {
	return filepath.WalkDir(filepath.Join(c.to, "store"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(c.to, path)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(filepath.Join(c.from, rel)); errors.Is(err, fs.ErrNotExist) {
			return os.Remove(path)
		} else if err != nil {
			return err
		}
		return nil
	})
}
