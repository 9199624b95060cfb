package appendonly_test

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/volume"
)

// diskVault is a vault on a directory of the real file system.
func diskVault(b *testing.B) *appendonly.Vault {
	root := filepath.Join(b.TempDir(), "v")
	ok(b, volume.Create(root))
	vol, err := volume.Open(root)
	ok(b, err)
	v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Boot: "b"})
	ok(b, err)
	b.Cleanup(func() {
		ok(b, v.Close())
		ok(b, vol.Close())
	})
	return v
}

// cpu is what this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	ok(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkSmallFile puts files of 4 KiB, with the keeper's barriers beside it, and a last one.
func BenchmarkSmallFile(b *testing.B) {
	v := diskVault(b)
	f := v.Session(appendonly.Who{Key: "alice", Session: "s"})
	data := pattern(4096)
	ok(b, f.Mkdir("d", appendonly.NoMeta()))
	before := cpu(b)
	n := 0
	for ; b.Loop(); n++ {
		u, err := f.Create(fmt.Sprintf("d/f%07d", n), create)
		ok(b, err)
		_, err = u.WriteAt(data, 0)
		ok(b, err)
		ok(b, u.Close())
	}
	ok(b, f.Close(context.Background()))
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/file")
}

// BenchmarkSymlink is nearly only journal, index and policy: there is one system call in it.
func BenchmarkSymlink(b *testing.B) {
	v := diskVault(b)
	f := v.Session(appendonly.Who{Key: "alice", Session: "s"})
	before := cpu(b)
	n := 0
	for ; b.Loop(); n++ {
		ok(b, f.Symlink("t", fmt.Sprintf("f%07d", n), appendonly.NoMeta()))
	}
	ok(b, f.Close(context.Background()))
	b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(n), "cpu-µs/name")
}

// manyNames is a directory of 100,000 entries, a tenth of which has changed since the snapshot "then".
func manyNames(b *testing.B) *appendonly.FS {
	v := diskVault(b)
	v.SetPolicy(appendonly.Policy{Mode: appendonly.Versioned})
	f := v.Session(appendonly.Who{Key: "alice", Session: "s"})
	b.Cleanup(func() { f.Close(context.Background()) })
	for i := range 100_000 {
		ok(b, f.Symlink("t", fmt.Sprintf("f%06d", i), appendonly.NoMeta()))
	}
	_, err := v.Snapshot(context.Background(), "then", "manual")
	ok(b, err)
	for i := range 10_000 {
		ok(b, f.Remove(fmt.Sprintf("f%06d", i*10)))
	}
	ok(b, v.Barrier(context.Background()))
	time.Sleep(2 * time.Second) // the index follows
	return f
}

func listAll(b *testing.B, f *appendonly.FS, path string) int {
	d, err := f.OpenDir(path)
	ok(b, err)
	n := 0
	for {
		infos, err := d.Next(1024)
		if err == io.EOF {
			return n
		}
		ok(b, err)
		n += len(infos)
	}
}

func BenchmarkList(b *testing.B) {
	f := manyNames(b)
	for _, c := range []struct {
		name, path string
		want       int
	}{{"live", "/", 90_000}, {"at", "/.vault/snapshots/then", 100_000}} {
		b.Run(c.name, func(b *testing.B) {
			for b.Loop() {
				if n := listAll(b, f, c.path); n != c.want {
					b.Fatalf("%d entries", n)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(c.want), "ns/entry")
		})
	}
}

// BenchmarkSnapshot takes snapshots of a tenant with 90,000 names, one change before each.
func BenchmarkSnapshot(b *testing.B) {
	f := manyNames(b)
	v := f.Vault()
	for i := 0; b.Loop(); i++ {
		ok(b, f.Symlink("t", fmt.Sprintf("new%06d", i), appendonly.NoMeta()))
		_, err := v.Snapshot(context.Background(), fmt.Sprintf("s%d", i), "manual")
		ok(b, err)
	}
}
