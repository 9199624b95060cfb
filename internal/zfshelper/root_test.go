package zfshelper_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/zfs"
	"vaultd/internal/zfs/zfstest"
	"vaultd/internal/zfshelper"
)

// What init does for the root dataset: shown first, done once, and nothing again.
func TestRoot(t *testing.T) {
	fake := zfstest.New(t, "tank")
	store := t.TempDir()
	dir := filepath.Join(store, "tenants")
	must(t, os.Mkdir(dir, 0o755))
	client, err := zfs.New(zfs.Config{})
	must(t, err)
	helper := func(dataset string) *zfshelper.Helper {
		h, err := zfshelper.New(zfshelper.Config{Client: client, Dataset: dataset, Dir: dir, UID: os.Getuid(), GID: os.Getgid(), Compression: "zstd", RecordSize: 128 << 10, MountOf: fake.MountOf})
		must(t, err)
		return h
	}
	plan := func() (words []string, steps []zfshelper.Step) {
		steps, err := helper(root).Root(t.Context())
		must(t, err)
		for _, s := range steps {
			words = append(words, s.What)
		}
		return words, steps
	}
	_, err = helper("nosuch/vaultd").Root(t.Context())
	wants(t, "a pool that is not there", err, zfs.ErrNotExist)
	words, steps := plan()
	if len(words) != 2 || !strings.Contains(words[0], "mountpoint="+dir) || !strings.Contains(words[0], "exec=off") || strings.Contains(words[0], " quota=") {
		t.Errorf("the plan: %q", words)
	}
	must(t, steps[0].Do(t.Context()))
	if words, _ = plan(); len(words) != 1 || !strings.HasPrefix(words[0], "give ") {
		t.Errorf("after the first step: %q", words)
	}
	must(t, steps[1].Do(t.Context()))
	if words, _ = plan(); len(words) != 0 {
		t.Errorf("when all is done: %q", words)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
	// Somebody changed it.
	fake.Change(func(s *zfstest.State) {
		s.Datasets[root].Properties["exec"], s.Datasets[root].Properties["canmount"] = "on", "noauto"
	})
	if words, steps = plan(); len(words) != 1 || words[0] != "zfs set canmount=on exec=off "+root {
		t.Errorf("the plan: %q", words)
	}
	must(t, steps[0].Do(t.Context()))
	if words, _ = plan(); len(words) != 0 {
		t.Errorf("when all is done: %q", words)
	}
	// Another store's is not taken.
	other := t.TempDir()
	must(t, os.WriteFile(filepath.Join(other, "vaultd.db"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(other, "tenants"), 0o700))
	fake.Change(func(s *zfstest.State) { s.Datasets[root].Properties["mountpoint"] = filepath.Join(other, "tenants") })
	_, err = helper(root).Root(t.Context())
	wants(t, "another store's", err, zfshelper.ErrOthers)
}
