package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"vaultd/internal/volume"
)

// Ready makes what an older vaultd did not, and says of what is no volume the same as Open; Untouched sees one name anywhere, however many there are.
func TestReady(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "v")
	if err := volume.Ready(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing there: %v", err)
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	if err := volume.Ready(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("cut short: %v", err)
	}
	if err := volume.Create(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "derived")); err != nil {
		t.Fatal(err)
	}
	if err := volume.Ready(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "derived")); err != nil || !volume.Untouched(dir) {
		t.Errorf("derived: %v; untouched: %v", err, volume.Untouched(dir))
	}
	for _, name := range []string{"x", "store/x", "files/x", "staging/x", "scratch/x", "journal/x", "derived/x"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if volume.Untouched(dir) {
			t.Errorf("%s is not seen", name)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if !volume.Untouched(dir) {
		t.Error("it is as it was made again")
	}
	format := filepath.Join(dir, "format")
	if err := errors.Join(os.Rename(format, format+".x"), os.Symlink("format.x", format)); err != nil {
		t.Fatal(err)
	}
	if err := volume.Ready(dir); err == nil {
		t.Error("a format that is a symlink was taken")
	}
}
