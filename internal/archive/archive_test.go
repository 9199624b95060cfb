package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/archive"
	"vaultd/internal/volume"
)

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// vault opens a tenant on a directory; dir is the dataset.
func vault(t *testing.T) (v *appendonly.Vault, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "t")
	ok(t, volume.Create(dir))
	vol, err := volume.Open(dir)
	ok(t, err)
	v, err = appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Boot: "b"})
	ok(t, err)
	t.Cleanup(func() { ok(t, errors.Join(v.Close(), vol.Close())) })
	return v, dir
}

func session(t *testing.T, v *appendonly.Vault) *appendonly.FS {
	f := v.Session(appendonly.Who{Key: "k", Session: "s"})
	t.Cleanup(func() { ok(t, f.Close(context.Background())) })
	return f
}

func put(t *testing.T, f *appendonly.FS, path, data string, m appendonly.Meta) {
	t.Helper()
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Truncate: true, Meta: m})
	ok(t, err)
	_, err = u.WriteAt([]byte(data), 0)
	ok(t, err)
	ok(t, u.Close())
}

func TestRoundTrip(t *testing.T) {
	v, _ := vault(t)
	f := session(t, v)
	meta := appendonly.NoMeta()
	meta.Mode, meta.MTime = 0o751, appendonly.Unix(1_600_000_000, 123456789)
	ok(t, f.Mkdir("d", meta))
	ok(t, f.Mkdir("d/sub", appendonly.NoMeta()))
	meta.Mode = 0o640
	put(t, f, "d/a", "alpha", meta)
	put(t, f, "d/sub/new\nline\xff", strings.Repeat("x", 700_000), appendonly.NoMeta())
	ok(t, f.Symlink("../outside", "d/link", appendonly.NoMeta()))
	ok(t, f.Mknod("d/fifo", appendonly.KindFifo, appendonly.NoMeta()))

	var b bytes.Buffer
	ok(t, archive.Write(context.Background(), f, "/d", &b))
	to := filepath.Join(t.TempDir(), "out")
	entries := 0
	ok(t, archive.Extract(&b, to, func(n int, _ int64) { entries = n }))
	if entries != 5 {
		t.Errorf("%d entries, want 5", entries)
	}
	got, err := os.ReadFile(filepath.Join(to, "a"))
	if err != nil || string(got) != "alpha" {
		t.Errorf("a: %q, %v", got, err)
	}
	st, err := os.Stat(filepath.Join(to, "a"))
	ok(t, err)
	if st.Mode().Perm() != 0o640 || !st.ModTime().Equal(time.Unix(1_600_000_000, 123456789)) {
		t.Errorf("a: %v, %v", st.Mode(), st.ModTime())
	}
	if got, err := os.ReadFile(filepath.Join(to, "sub/new\nline\xff")); err != nil || len(got) != 700_000 {
		t.Errorf("odd name: %d bytes, %v", len(got), err)
	}
	if target, err := os.Readlink(filepath.Join(to, "link")); err != nil || target != "../outside" {
		t.Errorf("link: %q, %v", target, err)
	}
	if st, err := os.Lstat(filepath.Join(to, "fifo")); err != nil || st.Mode().Type() != os.ModeNamedPipe {
		t.Errorf("fifo: %v, %v", st, err)
	}

	// What is there already is not replaced, and the rest comes all the same.
	ok(t, os.WriteFile(filepath.Join(to, "a"), []byte("mine"), 0o600))
	ok(t, os.Remove(filepath.Join(to, "link")))
	b.Reset()
	ok(t, archive.Write(context.Background(), f, "/d", &b))
	if err := archive.Extract(&b, to, nil); !errors.Is(err, os.ErrExist) {
		t.Errorf("over what is there: %v", err)
	}
	if got, _ := os.ReadFile(filepath.Join(to, "a")); string(got) != "mine" {
		t.Errorf("a was replaced by %q", got)
	}
	if _, err := os.Readlink(filepath.Join(to, "link")); err != nil {
		t.Error(err)
	}
}

// A disk that returned other bytes than were stored is found out on the way.
func TestDamageIsReported(t *testing.T) {
	v, dir := vault(t)
	f := session(t, v)
	put(t, f, "good", "good", appendonly.NoMeta())
	put(t, f, "bad", "precious", appendonly.NoMeta())
	ok(t, os.WriteFile(filepath.Join(dir, "files", "bad"), []byte("PRECIOUS"), 0o600)) // the same inode as the content's
	var b bytes.Buffer
	if err := archive.Write(context.Background(), f, "/", &b); !errors.Is(err, appendonly.ErrQuarantined) || !strings.Contains(err.Error(), "bad") {
		t.Fatalf("got %v", err)
	}
}

// An archive by an attacker does not lead out of the directory.
func TestExtractStaysInside(t *testing.T) {
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeReg, Name: "../evil", Size: 1},
		{Typeflag: tar.TypeReg, Name: "/evil", Size: 1},
		{Typeflag: tar.TypeReg, Name: "out/evil", Size: 1}, // out -> ..
		{Typeflag: tar.TypeDir, Name: "out/evil"},
		{Typeflag: tar.TypeFifo, Name: "out/evil"},
	} {
		dir := t.TempDir()
		to := filepath.Join(dir, "to")
		ok(t, os.Mkdir(to, 0o755))
		ok(t, os.Symlink("..", filepath.Join(to, "out")))
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		h.Mode = 0o644
		ok(t, w.WriteHeader(&h))
		if h.Size > 0 {
			_, err := io.WriteString(w, "x")
			ok(t, err)
		}
		ok(t, w.Close())
		if err := archive.Extract(&b, to, nil); err == nil {
			t.Errorf("%s: extracted", h.Name)
		}
		if _, err := os.Lstat(filepath.Join(dir, "evil")); err == nil {
			t.Errorf("%s: got out", h.Name)
		}
	}
}
