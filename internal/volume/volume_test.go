package volume_test

import (
	"path/filepath"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume"
	"vaultd/internal/volume/volumetest"
)

// newVolume makes and opens a volume; its directory is the second result.
func newVolume(t testing.TB) (*volume.Volume, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tenant")
	if err := volume.Create(dir); err != nil {
		t.Fatal(err)
	}
	return openVolume(t, dir), dir
}

func openVolume(t testing.TB, dir string) *volume.Volume {
	t.Helper()
	v, err := volume.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// TestSuite runs the contract in each of the ways that kernels and file systems force on us.
func TestSuite(t *testing.T) {
	for _, c := range []struct {
		name string
		set  func(*volume.Volume)
	}{
		{"kernel", func(*volume.Volume) {}},
		{"without openat2", volume.DisableOpenat2},            // seccomp filters, Linux < 5.6
		{"without rename flags", volume.DisableRenameFlags},   // OpenZFS 2.1
		{"without copying in the kernel", volume.DisableCopy}, // across file systems
	} {
		t.Run(c.name, func(t *testing.T) {
			open := func(t testing.TB) *volume.Volume {
				v, _ := newVolume(t)
				c.set(v)
				return v
			}
			volumetest.Suite(t, func(t testing.TB) appendonly.Volume { return open(t) })
			volumetest.SegmentSuite(t, func(t testing.TB) journal.Segments { return open(t) })
		})
	}
}
