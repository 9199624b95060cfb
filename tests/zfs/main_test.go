package zfs

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	pool   = flag.String("pool", "tank", "pool to make datasets in")
	vaultd = flag.String("vaultd", "/mnt/host/vaultd", "the program under test")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if os.Getenv("ZFSVM") == "" || os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "tests/zfs: these run as root in a virtual machine: tests/zfs/run")
		os.Exit(1)
	}
	for _, program := range []*string{vaultd, attacker} {
		if err := toMemory(program); err != nil {
			fmt.Fprintln(os.Stderr, "tests/zfs:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// toMemory has a program start from the machine's own disk, which it keeps in memory: each start from the folder that it shares with the host takes a
// second. One that is not there is its tests' to miss.
func toMemory(program *string) error {
	text, err := os.ReadFile(*program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	*program = "/usr/local/bin/" + filepath.Base(*program) + ".test"
	return os.WriteFile(*program, text, 0o755)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// sh runs a script, which must succeed, and returns what it wrote to stdout.
func sh(t testing.TB, format string, args ...any) string {
	t.Helper()
	script := fmt.Sprintf(format, args...)
	cmd := exec.Command("bash", "-ec", script)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v\n%s%s", script, err, out.String(), errs.String())
	}
	return strings.TrimSpace(out.String())
}

// refused runs a script, which must fail and say why.
func refused(t testing.TB, why, format string, args ...any) {
	t.Helper()
	script := fmt.Sprintf(format, args...)
	out, err := exec.Command("bash", "-c", script).CombinedOutput()
	switch {
	case err == nil:
		t.Errorf("%s: was carried out\n%s", script, out)
	case !strings.Contains(string(out), why):
		t.Errorf("%s: %s, want %q", script, out, why)
	}
}

// dataset makes one for a test, with options of zfs create, and takes it away afterwards.
func dataset(t testing.TB, options string) (name, dir string) {
	t.Helper()
	name = *pool + "/" + strings.ReplaceAll(t.Name(), "/", "-")
	sh(t, "zfs create %s %s", options, name)
	t.Cleanup(func() { clean(t, name) })
	return name, "/" + name
}

// clean takes a dataset away, whatever holds it.
func clean(t testing.TB, name string) {
	sh(t, `zfs list -Hr -t snapshot -o name,userrefs %[1]s | while IFS=$'\t' read -r s n; do
		[ "$n" = 0 ] || zfs holds -H "$s" | cut -f2 | while read -r tag; do zfs release "$tag" "$s"; done; done
		for i in $(seq 30); do zfs destroy -R %[1]s && exit; sleep 1; done; exit 1`, name) // a process that read a snapshot may just be ending
}

// user is somebody without privileges.
const user = "somebody"

func makeUser(t testing.TB) { sh(t, "id %[1]s >/dev/null 2>&1 || useradd -m %[1]s", user) }

// noise is size bytes that the seed tells and that do not compress.
func noise(seed string, size int) []byte {
	var s [32]byte
	copy(s[:], seed)
	b := make([]byte, size)
	rand.NewChaCha8(s).Read(b)
	return b
}
