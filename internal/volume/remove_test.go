package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"vaultd/internal/volume"
)

// A dataset goes only when nothing of it could be missed, and a Remove that was cut short is gone on with.
func TestRemove(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "t-1")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(volume.Remove(dir)) // not there
	check(volume.Create(dir))
	for _, file := range []string{"store/aa/content", "store/content", "files/name", "files/d/name", "files/.vault", "staging/journal-open"} {
		path := filepath.Join(dir, file)
		check(os.MkdirAll(filepath.Dir(path), 0o700))
		check(os.WriteFile(path, []byte("x"), 0o600))
		if err := volume.Remove(dir); !errors.Is(err, volume.ErrNotEmpty) {
			t.Errorf("with %s: %v", file, err)
		}
		if _, err := os.Stat(path); err != nil {
			t.Errorf("with %s: %v", file, err)
		}
		check(os.Remove(path))
	}
	check(os.Symlink("/etc/passwd", filepath.Join(dir, "files", "link")))
	if err := volume.Remove(dir); !errors.Is(err, volume.ErrNotEmpty) {
		t.Errorf("with a symlink: %v", err)
	}
	check(os.Remove(filepath.Join(dir, "files", "link")))

	// What may be there: directories, unfinished uploads, closed segments, the index.
	for _, file := range []string{"staging/0123", "journal/000000000001.jsonl", "index.db", "policy.json", "scratch/x.note"} {
		check(os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o600))
	}
	check(os.Mkdir(filepath.Join(dir, "store", "bb"), 0o700))
	// A symlink in what goes is not followed.
	outside := filepath.Join(parent, "outside")
	check(os.WriteFile(outside, nil, 0o600))
	check(os.Symlink(parent, filepath.Join(dir, "scratch", "up")))
	// An earlier one was cut short after its rename.
	check(os.Rename(dir, filepath.Join(parent, ".removed-t-1")))
	check(volume.Remove(dir))
	left, err := os.ReadDir(parent)
	check(err)
	if len(left) != 1 || left[0].Name() != "outside" {
		t.Errorf("left: %v", left)
	}
	// A link in its place is no dataset.
	check(os.Symlink(parent, dir))
	if err := volume.Remove(dir); err == nil {
		t.Error("a symlink was removed")
	}
}
