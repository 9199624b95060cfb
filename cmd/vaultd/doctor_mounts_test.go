package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/zfs"
)

func mountTable(t *testing.T, text string) zfs.Mounts {
	t.Helper()
	m, err := zfs.ReadMounts(strings.NewReader(text))
	must(t, err)
	return m
}

// A service that can not see what is mounted later is found out, and told by the setting that is wrong.
func TestJudgeMounts(t *testing.T) {
	const host = "22 1 254:1 / / rw shared:1 - ext4 a rw\n40 22 0:34 / /v/tenants rw shared:20 - zfs tank/v rw\n41 40 0:35 / /v/tenants/t-a rw shared:21 - zfs tank/v/t-a rw\n"
	other := func(root, tenants, one string) string {
		s := "122 121 254:1 / / rw " + root + "- ext4 a rw\n140 122 0:34 / /v/tenants rw " + tenants + "- zfs tank/v rw\n"
		if one != "none" {
			s += "141 140 0:35 / /v/tenants/t-a rw " + one + "- zfs tank/v/t-a rw\n"
		}
		return s
	}
	private := strings.ReplaceAll(strings.ReplaceAll(host, " shared:20", ""), " shared:21", "")
	for _, x := range []struct {
		name, here, there, verb string
		mounts                  bool
		verdict                 int
		found, do               string
	}{
		{"the same namespace", host, host, "serve", false, checkOK, "", ""},
		{"the same namespace, where nothing is shared", private, private, "serve", true, checkOK, "", ""},
		{"slave, as installed", host, other("master:1 ", "master:20 ", "master:21 "), "serve", false, checkOK, "", ""},
		{"shared", host, other("shared:1 ", "shared:20 ", "shared:21 "), "serve", false, checkOK, "", ""},
		{"slave of a slave, and shared again", host, other("master:1 ", "shared:90 master:80 propagate_from:20 ", "master:21 "), "serve", false, checkOK, "", ""},
		{"MountFlags=private", host, other("", "", ""), "serve", false, checkFail, "are not seen", "MountFlags=slave"},
		{"private, expire", host, other("", "", ""), "expire", false, checkFail, "are not seen", "MountFlags=slave"},
		{"another group", host, other("master:1 ", "master:30 ", "master:21 "), "serve", false, checkFail, "are not seen", "MountFlags=slave"},
		{"a group that begins alike", host, other("master:1 ", "master:2 ", "master:21 "), "serve", false, checkFail, "are not seen", "MountFlags=slave"},
		{"the host's are private", private, other("master:1 ", "", ""), "serve", false, checkFail, "are not seen", "make-shared"},
		{"it has not come", host, other("master:1 ", "master:20 ", "none"), "serve", false, checkFail, "1 datasets", "restart it"},
		{"snapshots do not come", host, other("master:1 ", "master:20 ", ""), "serve-confined", false, checkWarn, "snapshots of 1 tenants", "MountFlags=slave"},
		{"snapshots do not come, who does not read them", host, other("master:1 ", "master:20 ", ""), "zfs-helper", false, checkOK, "", ""},
		{"covered", host, other("master:1 ", "master:20 ", "master:21 ") + "150 140 0:9 / /v/tenants rw - tmpfs x rw\n", "serve", false, checkFail, "are not seen", "MountFlags=slave"},
		{"a bind mount over it, as ReadWritePaths= makes", host, other("master:1 ", "master:20 ", "none") +
			"150 140 0:34 / /v/tenants rw master:20 - zfs tank/v rw\n151 150 0:35 / /v/tenants/t-a rw master:21 - zfs tank/v/t-a rw\n", "serve", false, checkOK, "", ""},
		{"who mounts, in a namespace", host, other("master:1 ", "master:20 ", "master:21 "), "zfs-mount", true, checkFail, "seen by nobody else", "PrivateMounts="},
	} {
		verdict, found, do := judgeMounts(mountTable(t, x.here), "/v/tenants", []string{"t-a", "t-b"}, process{verb: x.verb, mounts: x.mounts, table: mountTable(t, x.there)})
		if verdict != x.verdict || !strings.Contains(found, x.found) || !strings.Contains(do, x.do) || verdict != checkOK && do == "" {
			t.Errorf("%s: %d %q -> %q", x.name, verdict, found, do)
		}
	}
}

// Processes of the store are known by their arguments; others, and those that are gone, are passed over.
func TestProcesses(t *testing.T) {
	proc, dir := t.TempDir(), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	for pid, args := range map[string][]string{
		"10": {"/usr/bin/vaultd", "serve", "--dir", dir}, "11": {"vaultd", "serve-confined", "--dir", link, "--enter"}, "12": {"vaultd", "expire", "--loop", "--dir=" + dir},
		"13": {"vaultd", "zfs-helper", "--dir", dir}, "14": {"vaultd", "zfs-helper", "--dir", dir, "--mounter", "/run/m.sock"}, "15": {"vaultd", "zfs-mount", "--dir", dir},
		"20": {"vaultd", "serve", "--dir", dir + "2"}, "21": {"vaultd", "serve", "--dir"}, "22": {"vaultd"}, "23": {"vim", "serve", "--dir", dir}, "24": {"vaultd", "doctor", "--dir", dir}, "self": {"vaultd", "serve", "--dir", dir},
	} {
		must(t, os.Mkdir(filepath.Join(proc, pid), 0o755))
		must(t, os.WriteFile(filepath.Join(proc, pid, "cmdline"), []byte(strings.Join(args, "\x00")+"\x00"), 0o644))
		must(t, os.WriteFile(filepath.Join(proc, pid, "mountinfo"), []byte("22 1 254:1 / / rw shared:1 - ext4 a rw\n"), 0o644))
	}
	must(t, os.Mkdir(filepath.Join(proc, "30"), 0o755))
	var got []string
	for _, p := range processes(proc, realPath(dir), true) {
		s := p.verb
		if p.mounts {
			s += " mounts"
		}
		got = append(got, s)
	}
	if want := "serve|serve-confined|expire|zfs-helper mounts|zfs-helper|zfs-mount mounts"; strings.Join(got, "|") != want {
		t.Errorf("%v, want %s", got, want)
	}
	if all := processes(proc, realPath(dir), false); !all[0].mounts || all[1].mounts {
		t.Errorf("without a helper: %+v", all)
	}
}
