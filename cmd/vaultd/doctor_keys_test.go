package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/tenant"
	"vaultd/internal/zfshelper"
)

// Keys that others can read, or that are not what they should be, are told; and an encrypted dataset without its file.
func TestDoctorKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	must(t, os.Mkdir(dir, 0o700))
	me := uint32(os.Getuid())
	one := filepath.Join(dir, "t-aaaaaaaaaaaa.key")
	must(t, os.WriteFile(one, nil, 0o400))
	if got := exposedKeys(dir, me); len(got) > 0 {
		t.Errorf("all well: %+v", got)
	}
	says := func(what string, root uint32, want string) {
		t.Helper()
		got := exposedKeys(dir, root)
		if len(got) == 0 || got[0].verdict != checkFail || !strings.Contains(got[0].found, want) {
			t.Errorf("%s: %+v, want %q", what, got, want)
		}
	}
	says("another user's", me+1, "only root is to have keys")
	must(t, os.Chmod(one, 0o440))
	says("a group's", me, "mode 0440")
	must(t, os.Chmod(one, 0o400))
	must(t, os.Chmod(dir, 0o750))
	says("a directory that others can list", me, "mode 0750")
	must(t, os.Chmod(dir, 0o700))
	must(t, os.Symlink("/elsewhere", filepath.Join(dir, "t-bbbbbbbbbbbb.key")))
	says("a link", me, "not what it should be")
	if got := exposedKeys(dir+"2", me); len(got) != 1 || got[0].verdict != checkWarn {
		t.Errorf("no directory: %+v", got)
	}

	list, err := os.ReadDir(dir)
	must(t, err)
	sets := []zfshelper.Dataset{{ID: "t-aaaaaaaaaaaa"}, {ID: "t-cccccccccccc"}}
	got := keyFiles(dir, list, sets, sets, new(tenant.Snapshot))
	if len(got) != 1 || !strings.HasSuffix(got[0].found, ": t-cccccccccccc") {
		t.Errorf("missing: %+v", got)
	}
}
