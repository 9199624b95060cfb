package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ErrNotEmpty refuses to remove a dataset in which something is left that only retention may end.
var ErrNotEmpty = errors.New("dataset is not empty")

// removedPrefix hides a dataset that is going.
const removedPrefix = ".removed-"

// Remove takes a tenant's dataset away once retention has let go of everything in it: the expire process calls it, last of all.
// It is refused with ErrNotEmpty while store/ holds a content, files/ a name, or the vault was not closed: contents end one by one,
// by Free, and never with their directory. A Remove that was cut short can be repeated; a dataset that is not there is no error.
//
//	rename dir -> .removed-<name>; fsync(parent); unlink everything below; rmdir; fsync(parent)
//
// After the rename nobody finds it, and what is left of a crash is found by its name.
func Remove(dir string) error {
	parent, name := filepath.Split(filepath.Clean(dir))
	going := filepath.Join(parent, removedPrefix+name)
	if err := remove(dir, going, filepath.Clean(parent)); err != nil {
		return fmt.Errorf("remove volume %q: %w", dir, err)
	}
	return nil
}

func remove(dir, going, parent string) error {
	if err := os.RemoveAll(going); err != nil { // of an earlier one; it was empty then
		return err
	}
	switch st, err := os.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return syncDir(parent)
	case err != nil:
		return err
	case !st.IsDir():
		return fmt.Errorf("not a directory: %w", ErrNotEmpty)
	}
	if err := CheckEmpty(dir); err != nil {
		return err
	}
	if err := os.Rename(dir, going); err != nil {
		return err
	}
	if err := syncDir(parent); err != nil {
		return err
	}
	if err := os.RemoveAll(going); err != nil {
		return err
	}
	return syncDir(parent)
}

// CheckEmpty returns ErrNotEmpty for a dataset that Remove would not take away. It looks at the disk: no journal and no index is believed.
func CheckEmpty(dir string) error {
	for _, sub := range []string{"store", "files"} {
		err := filepath.WalkDir(filepath.Join(dir, sub), func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				err = fmt.Errorf("there is a file in %s: %w", sub, ErrNotEmpty)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err := os.Lstat(filepath.Join(dir, "staging", "journal-open"))
	if err == nil {
		return fmt.Errorf("its vault was not closed: %w", ErrNotEmpty)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
