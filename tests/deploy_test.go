package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deploy is a file of deploy/.
func deploy(name string) string { return filepath.Join("..", "deploy", name) }

// The units as systemd judges them: what a service may reach and do. The numbers are ours to keep, and not to be met by options that do nothing.
func TestUnitExposure(t *testing.T) {
	for unit, most := range map[string]string{"vaultd.service": "15", "vaultd-expire.service": "15", "vaultd-zfs.service": "25",
		"vaultd-zfs-mount.service": mounterExposure} { // tenths
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold="+most, deploy("systemd/"+unit)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: more than %s tenths: %v\n%s", unit, most, err, out)
		}
	}
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=5", deploy("systemd/vaultd.service")).CombinedOutput()
	if err == nil {
		t.Errorf("a threshold that none meets is met:\n%s", out)
	}
}

// mounterExposure is that of the one which mounts for the whole machine, and so can have no mount namespace of its own: see its unit. It reads nothing.
const mounterExposure = "31"

// Every setting has a comment above it, in the same paragraph.
func TestUnitsCommented(t *testing.T) {
	files, err := filepath.Glob(deploy("systemd/*"))
	must(t, err)
	if len(files) < 8 {
		t.Fatalf("only %q", files)
	}
	plain := []string{"Description=", "Documentation=", "WantedBy="} // say it themselves
	for _, f := range files {
		b, err := os.ReadFile(f)
		must(t, err)
		commented := false
		for i, line := range strings.Split(string(b), "\n") {
			switch {
			case strings.HasPrefix(line, "#"):
				commented = true
			case line == "":
				commented = false
			case strings.HasPrefix(line, "["):
			case !commented && !slices.ContainsFunc(plain, func(p string) bool { return strings.HasPrefix(line, p) }):
				t.Errorf("%s:%d: %s: no comment says why", f, i+1, line)
			}
		}
	}
}

// The package is the same bytes for the same commit, wherever and whenever it is built, and Debian's checks have nothing to say.
func TestPackage(t *testing.T) {
	t.Parallel()
	var debs [2]string
	for i := range debs {
		cmd := exec.Command(deploy("debian/build"), t.TempDir())
		cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir(), "VERSION=1.2.3", "SOURCE_DATE_EPOCH=1790000000", "TZ=Asia/Tokyo", "LANG=C.UTF-8")
		if i > 0 {
			cmd.Env = append(cmd.Env, "TZ=UTC", "HOME="+os.Getenv("HOME"))
		}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("build: %v\n%s", err, errs.String())
		}
		debs[i] = strings.TrimSpace(string(out))
	}
	one, err := os.ReadFile(debs[0])
	must(t, err)
	two, err := os.ReadFile(debs[1])
	must(t, err)
	if !bytes.Equal(one, two) {
		t.Error("two builds of one commit differ")
	}
	if out, err := exec.Command("lintian", "--allow-root", "--no-cfg", "--fail-on", "error,warning", debs[0]).CombinedOutput(); err != nil {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-R", debs[0], root).CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v\n%s", err, out)
	}
	for _, name := range []string{"usr/bin/vaultd", "etc/vaultd/vaultd.toml", "usr/lib/systemd/system/vaultd.service", "usr/share/man/man8/vaultd.8.gz",
		"usr/share/bash-completion/completions/vaultd", "usr/share/doc/vaultd/install.md", "usr/share/vaultd/grafana/vaultd-fleet.json", "usr/share/vaultd/prometheus/prometheus.yml", "DEBIAN/conffiles"} {
		if st, err := os.Stat(filepath.Join(root, name)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	vaultd := filepath.Join(root, "usr/bin/vaultd")
	out, err := exec.Command(vaultd, "version").CombinedOutput()
	if err != nil || string(out) != "vaultd 1.2.3\n" {
		t.Errorf("version: %q, %v", out, err)
	}
	// The configuration that is shipped is one, apart from users that only the package makes.
	dir := t.TempDir()
	toml, err := os.ReadFile(filepath.Join(root, "etc/vaultd/vaultd.toml"))
	must(t, err)
	text := strings.NewReplacer(`user = "vaultd"`, `user = "backup"`, `user = "vaultd-expire"`, `user = "list"`).Replace(string(toml))
	must(t, os.WriteFile(filepath.Join(dir, "vaultd.toml"), []byte(text), 0o600))
	if out, err := exec.Command(vaultd, "init", "--dry-run", "--dir", dir).CombinedOutput(); err != nil || !strings.Contains(string(out), "would belong to list:list") {
		t.Errorf("the configuration: %v\n%s", err, out)
	}
}

// What is in the image runs as the container would run it: its own root, read-only but for the volume, a user without a name elsewhere, and process 1.
func TestImage(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("CI must run as root: this test changes its root")
		}
		t.Skip("a root of its own needs root: run tests/run as root to see this one")
	}
	root := t.TempDir()
	must(t, os.Chmod(filepath.Dir(root), 0o755))
	v := &vault{root: root, dir: filepath.Join(root, "volume"), ids: filepath.Join(root, "ids"), addr: "127.0.0.1:0", log: &logBuffer{}}
	must(t, makeIDs(v.ids))
	image := filepath.Join(root, "image")
	if out, err := exec.Command(deploy("docker/rootfs"), image, "1.2.3").CombinedOutput(); err != nil {
		t.Fatalf("rootfs: %v\n%s", err, out)
	}
	st, err := os.Stat(filepath.Join(image, "var/lib/vaultd"))
	must(t, err)
	must(t, os.Mkdir(v.dir, st.Mode().Perm())) // as a new volume is made
	must(t, os.Chown(v.dir, int(st.Sys().(*syscall.Stat_t).Uid), int(st.Sys().(*syscall.Stat_t).Gid)))
	// There is no container engine here: these are its steps (namespaces, bind mounts, a user without capabilities, no new privileges).
	const steps = `set -e
mount --bind "$1" "$1"; mount -o remount,bind,ro "$1"
mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev"; mount --bind "$2" "$1/var/lib/vaultd"
root=$1; shift 2
exec setpriv --nnp chroot --userspec=65532:65532 --groups=65532 "$root" /usr/bin/vaultd "$@"`
	contained := func(args ...string) *exec.Cmd {
		cmd := exec.Command("unshare", append([]string{"--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts", "sh", "-c", steps, "sh", image, v.dir}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := contained(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("vaultd %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	run("init")
	must(t, os.WriteFile(filepath.Join(v.dir, "vaultd.toml"), []byte(config), 0o644))
	add := contained("tenant", "add", "alice", "--key", "-")
	add.Stdin, err = os.Open(v.key("alice"))
	must(t, err)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("tenant add: %v\n%s", err, out)
	}
	serve := contained("serve", "--listen", "127.0.0.1:0")
	serve.Stderr = v.log
	must(t, serve.Start())
	defer serve.Process.Kill() // and with it what it forked
	var addr []string
	for end := time.Now().Add(time.Minute); len(addr) == 0; time.Sleep(10 * time.Millisecond) {
		if addr = listening.FindStringSubmatch(v.log.String()); time.Now().After(end) {
			t.Fatalf("it does not listen:\n%s", v.log)
		}
	}
	key, err := os.ReadFile(filepath.Join(v.dir, "host_ed25519_key.pub"))
	must(t, err)
	must(t, configure(v.ids, addr[1], key))
	v.push(t, "one", "from outside\n")
	if out := run("status", "--json"); !strings.Contains(out, `"p1_physical":true`) {
		t.Errorf("it is not confined:\n%s", out)
	}
	run("reload", "--dry-run") // the image's health check
	children, err := os.ReadFile("/proc/" + strconv.Itoa(serve.Process.Pid) + "/task/" + strconv.Itoa(serve.Process.Pid) + "/children")
	must(t, err)
	first, err := strconv.Atoi(strings.Fields(string(children))[0])
	must(t, err)
	status, err := os.ReadFile("/proc/" + strconv.Itoa(first) + "/status")
	must(t, err)
	for _, want := range []string{"Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("the server has not %q:\n%s", want, status)
		}
	}
	must(t, syscall.Kill(first, syscall.SIGTERM)) // as "docker stop" does, to process 1
	if err := serve.Wait(); err != nil {
		t.Errorf("it did not end well: %v\n%s", err, v.log)
	}
	must(t, v.log.check())
}
