package confine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"vaultd/internal/confine"
)

// insideEnv makes this test's own program the one that is confined: as which version of Landlock, and in which store.
const insideEnv = "CONFINE_TEST_INSIDE"

func TestMain(m *testing.M) {
	how, store, ok := strings.Cut(os.Getenv(insideEnv), ":")
	if !ok {
		os.Exit(m.Run())
	}
	if err := inside(how, store); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func inside(how, store string) error {
	l := confine.Layout{Store: store, Program: "/proc/self/exe"}
	if how == "checked" {
		at := func(name string) string { return filepath.Join(store, "tenants", "t-1", name) }
		out := map[string]string{"check": strings.Join(l.Check(), "; ")}
		for name, do := range map[string]func() error{
			"truncate by path": func() error { return unix.Truncate(at("store/00/x"), 0) },
			"open and cut":     func() error { return opened(at("store/00/x"), unix.O_RDONLY|unix.O_TRUNC) },
			"open and cut (3)": func() error { return opened(at("store/00/x"), unix.O_ACCMODE|unix.O_TRUNC) },
			"open to write":    func() error { return opened(at("store/00/x"), unix.O_WRONLY) },
			"openat2": func() error {
				_, err := unix.Openat2(unix.AT_FDCWD, at("store/00/x"), &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_TRUNC})
				return err
			},
			"read":          func() error { _, err := os.ReadFile(at("store/00/x")); return err },
			"read expire's": func() error { _, err := os.ReadFile(filepath.Join(store, "expire/x")); return err },
			"staging":       func() error { return os.WriteFile(at("staging/x"), []byte("x"), 0o600) },
		} {
			out[name] = fmt.Sprint(do())
		}
		return json.NewEncoder(os.Stdout).Encode(out)
	}
	version, err := strconv.Atoi(how)
	if err != nil {
		return err
	}
	if err := l.EnterAs(version); err != nil {
		return err
	}
	return l.Exec(os.Args[:1], []string{insideEnv + "=checked:" + store})
}

func opened(path string, flags int) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// enter runs the program inside, on what a kernel with that version of Landlock can do.
func enter(t *testing.T, version int) map[string]string {
	t.Helper()
	store := t.TempDir()
	for _, dir := range []string{"server", "expire", "tenants/t-1/store/00", "tenants/t-1/staging", "tenants/t-1/files", "tenants/t-1/journal", "spare/probe/store",
		"spare/probe/journal", "spare/probe/files", "spare/probe/staging"} {
		if err := os.MkdirAll(filepath.Join(store, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"tenants/link": "../expire", "tenants/t-1/derived": "../../expire", "spare/x": "../expire"} { // lead to what is not the server's
		if err := os.Symlink(to, filepath.Join(store, from)); err != nil {
			t.Fatal(err)
		}
	}
	l := confine.Layout{Store: store}
	if err := l.MakeProbe(); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"vaultd.db", "tenants/t-1/store/00/x", "tenants/t-1/scratch", "tenants/file", "expire/x"} { // scratch is no directory
		if err := os.WriteFile(filepath.Join(store, f), []byte("sealed"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d:%s", insideEnv, version, store))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("inside: %v", err)
	}
	got := map[string]string{}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b, err := os.ReadFile(filepath.Join(store, "tenants/t-1/store/00/x")); version >= 2 && (err != nil || string(b) != "sealed") {
		t.Errorf("what is sealed is %q now, %v", b, err)
	}
	return got
}

const ok = "<nil>"

// Each kernel from Landlock's second version on keeps what is sealed; the filter stands in for what the second does not know.
func TestEnter(t *testing.T) {
	have := confine.Probe().ABI
	if have < 3 {
		t.Fatalf("this kernel has Landlock %d: nothing is shown on it", have)
	}
	for version := 2; version <= min(have, 7); version++ {
		t.Run(fmt.Sprint(version), func(t *testing.T) {
			t.Parallel()
			got := enter(t, version)
			for name, res := range got {
				switch good := res == ok; name {
				case "check":
					if res != "" {
						t.Errorf("check: %s", res)
					}
				case "read", "staging":
					if !good {
						t.Errorf("%s: %s", name, res)
					}
				default:
					if good {
						t.Errorf("%s works", name)
					}
				}
			}
			if len(got) != 9 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Without Landlock the files are the program's own to keep, and the rest is refused all the same.
func TestEnterWithoutLandlock(t *testing.T) {
	t.Parallel()
	got := enter(t, 0)
	if got["open to write"] != ok {
		t.Errorf("opening to write: %s", got["open to write"])
	}
	if got["truncate by path"] == ok {
		t.Error("the filter is not there")
	}
	if !strings.Contains(got["check"], "opening a sealed content for writing was not refused") || strings.Contains(got["check"], "socket") {
		t.Errorf("check finds %q", got["check"])
	}
}

// What an earlier server left in the probe is not followed by who makes it again.
func TestProbeFollowsNothing(t *testing.T) {
	store := t.TempDir()
	probe := filepath.Join(store, "spare", "probe")
	for _, dir := range []string{"journal", "files"} {
		if err := os.MkdirAll(filepath.Join(probe, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	catalog := filepath.Join(store, "vaultd.db")
	if err := os.WriteFile(catalog, []byte("tenants"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := confine.Layout{Store: store}
	for _, plant := range []func(name string) error{
		func(name string) error { return os.Symlink(catalog, name) },
		func(name string) error { return os.Link(catalog, name) },
		func(name string) error { return os.WriteFile(name, []byte("other"), 0o600) },
		func(name string) error { return os.MkdirAll(filepath.Join(name, "x"), 0o700) },
		func(name string) error { return unix.Mkfifo(name, 0o600) },
	} {
		name := filepath.Join(probe, "files", "name")
		if err := errors.Join(os.RemoveAll(name), plant(name), l.MakeProbe()); err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(catalog); err != nil || string(b) != "tenants" {
			t.Fatalf("the catalog is %q, %v", b, err)
		}
		if b, err := os.ReadFile(name); err != nil || string(b) != "probe\n" {
			t.Errorf("the probe is %q, %v", b, err)
		}
	}
}

func TestReport(t *testing.T) {
	for _, c := range []struct {
		abi      int
		physical bool
		says     string
	}{
		{0, false, "has no Landlock"}, {1, false, "too old"}, {2, true, "confined"}, {3, true, "confined"}, {7, true, "(Landlock ABI 7)"},
	} {
		r := confine.ProbeAs(c.abi)
		if r.Physical != c.physical || !strings.Contains(r.Summary(), c.says) {
			t.Errorf("ABI %d: physical %t, %q", c.abi, r.Physical, r.Summary())
		}
		if len(r.Enforced) == 0 || len(r.NotEnforced) == 0 {
			t.Errorf("ABI %d: %+v", c.abi, r)
		}
	}
	if r := confine.Unconfined(); r.Physical || len(r.Enforced) != 0 || !strings.Contains(r.Summary(), "not confined") {
		t.Errorf("off: %+v", r)
	}
}

func TestFilter(t *testing.T) {
	const pid, other = 4711, 4712
	threads := uint64(unix.CLONE_VM | unix.CLONE_FS | unix.CLONE_FILES | unix.CLONE_SIGHAND | unix.CLONE_THREAD)
	for _, c := range []struct {
		what string
		arch uint32
		nr   uint32
		args []uint64
		want uint32
	}{
		{"read", confine.AuditArch, unix.SYS_READ, nil, confine.Allow},
		{"read by another convention", unix.AUDIT_ARCH_I386, unix.SYS_READ, nil, confine.Refuse},
		{"what a new kernel has", confine.AuditArch, unix.SYS_MSEAL + 1, nil, confine.Absent},
		{"x32", confine.AuditArch, 0x40000000 | unix.SYS_READ, nil, confine.Absent},
		{"negative", confine.AuditArch, ^uint32(0), nil, confine.Absent},
		{"socket", confine.AuditArch, unix.SYS_SOCKET, nil, confine.Refuse},
		{"accept4", confine.AuditArch, unix.SYS_ACCEPT4, nil, confine.Allow},
		{"seccomp", confine.AuditArch, unix.SYS_SECCOMP, nil, confine.Refuse},
		{"a thread", confine.AuditArch, unix.SYS_CLONE, []uint64{threads}, confine.Allow},
		{"a process", confine.AuditArch, unix.SYS_CLONE, []uint64{unix.CLONE_VM}, confine.Refuse},
		{"a thread in a namespace", confine.AuditArch, unix.SYS_CLONE, []uint64{threads | unix.CLONE_NEWUSER}, confine.Refuse},
		{"clone3", confine.AuditArch, unix.SYS_CLONE3, nil, confine.Absent},
		{"a signal to itself", confine.AuditArch, unix.SYS_TGKILL, []uint64{pid, 1, 23}, confine.Allow},
		{"a signal to another", confine.AuditArch, unix.SYS_TGKILL, []uint64{other, 1, 23}, confine.Refuse},
		{"a signal to all", confine.AuditArch, unix.SYS_KILL, []uint64{^uint64(0), 9}, confine.Refuse},
		{"a signal to another, with a high half", confine.AuditArch, unix.SYS_KILL, []uint64{1<<32 | other, 9}, confine.Refuse},
		{"its own limits", confine.AuditArch, unix.SYS_PRLIMIT64, []uint64{0}, confine.Allow},
		{"another's limits", confine.AuditArch, unix.SYS_PRLIMIT64, []uint64{other}, confine.Refuse},
		{"a clone of bytes", confine.AuditArch, unix.SYS_IOCTL, []uint64{3, unix.FICLONERANGE}, confine.Allow},
		{"typing", confine.AuditArch, unix.SYS_IOCTL, []uint64{0, unix.TIOCSTI}, confine.Refuse},
		{"typing, with a high half", confine.AuditArch, unix.SYS_IOCTL, []uint64{0, 1<<32 | unix.TIOCSTI}, confine.Refuse},
		{"descriptor flags", confine.AuditArch, unix.SYS_FCNTL, []uint64{3, unix.F_SETFD, 1}, confine.Allow},
		{"signals by a descriptor", confine.AuditArch, unix.SYS_FCNTL, []uint64{3, unix.F_SETOWN, other}, confine.Refuse},
		{"a mode", confine.AuditArch, unix.SYS_FCHMOD, []uint64{3, 0o640}, confine.Allow},
		{"set-id", confine.AuditArch, unix.SYS_FCHMOD, []uint64{3, 0o4755}, confine.Refuse},
		{"a new set-id file", confine.AuditArch, unix.SYS_OPENAT, []uint64{0, 0, unix.O_CREAT, 0o2755}, confine.Refuse},
		{"a mode by path", confine.AuditArch, unix.SYS_FCHMODAT, []uint64{0, 0, 0o640}, confine.Refuse},
		{"openat2", confine.AuditArch, unix.SYS_OPENAT2, nil, confine.Absent},
		{"open and cut, where Landlock sees it", confine.AuditArch, unix.SYS_OPENAT, []uint64{0, 0, unix.O_TRUNC}, confine.Allow},
	} {
		if got := confine.Verdict(pid, 7, c.arch, c.nr, c.args...); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.what, got, c.want)
		}
	}
	for flags, want := range map[uint64]uint32{
		unix.O_RDONLY: confine.Allow, unix.O_RDONLY | unix.O_TRUNC: confine.Refuse, unix.O_WRONLY | unix.O_TRUNC | unix.O_CREAT: confine.Allow,
		unix.O_RDWR | unix.O_TRUNC: confine.Allow, unix.O_ACCMODE | unix.O_TRUNC: confine.Refuse, unix.O_RDONLY | unix.O_TRUNC | unix.O_CREAT: confine.Refuse,
	} {
		if got := confine.Verdict(pid, 2, confine.AuditArch, unix.SYS_OPENAT, 0, 0, flags); got != want {
			t.Errorf("open with %#x on an old kernel: %#x, want %#x", flags, got, want)
		}
	}
}
