package appendonly_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/volume/volumetest"
)

// Two guards stand behind each other: the policy, and the volume under it. Each is taken away here, and what
// was sealed has to survive behind the other.

// permissive is a volume that refuses nothing that a name could be refused for.
type permissive struct{ *volumetest.Memory }

func (p permissive) Link(id journal.ID, path string) error {
	err := p.Memory.Link(id, path)
	if errors.Is(err, fs.ErrExist) {
		return p.Memory.Relink(id, path)
	}
	return err
}

func (p permissive) Mkdir(path string) error { return forgive(p.Memory.Mkdir(path)) }

func (p permissive) Symlink(target, path string) error {
	err := p.Memory.Symlink(target, path)
	if errors.Is(err, fs.ErrExist) {
		return errors.Join(p.Memory.Unlink(path), p.Memory.Symlink(target, path))
	}
	return err
}

func forgive(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// victims are what alice stored; attackAll does to each whatever a client can.
var victims = []string{"f", "d/g", "h", "ln", "m", "d", "x.partial"}

func store(t *testing.T, b *bench) {
	t.Helper()
	a := b.as("alice")
	ok(t, a.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(a, "f", "sealed f"))
	ok(t, put(a, "d/g", "sealed g"))
	ok(t, put(a, "l", "sealed l"))
	ok(t, a.Link("l", "h"))
	ok(t, a.Symlink("f", "ln", appendonly.NoMeta()))
	ok(t, a.Replace("m", []byte("managed"), appendonly.NoMeta()))
	ok(t, put(a, "x.partial", "fresh"))
	_, err := b.vault.Snapshot(context.Background(), "before", "manual")
	ok(t, err)
}

// attackAll tries every operation on every victim, in as many ways as the core knows, as several keys.
func attackAll(b *bench) {
	n := 0
	for _, key := range []string{"mallory", "alice"} {
		f := b.as(key)
		for _, victim := range victims {
			for _, op := range appendonly.Ops() {
				b.attack(func() { doOp(f, place{b: b, name: "/" + victim}, op) })
			}
			for _, from := range victims {
				b.attack(func() { f.Rename(from, victim, true) })
				b.attack(func() { f.Rename(from, victim, false) })
			}
			n++
			own := fmt.Sprintf("own%d", n)
			past := "/.vault/snapshots/before/" + victim
			for _, attack := range []func(){
				func() { put(f, own, "own") },
				func() { f.Rename(own, victim, true) },
				func() { f.Rename(victim, own, true) },
				func() { put(f, own+".partial", "own") },
				func() { f.Rename(own+".partial", victim, true) },
				func() { f.Link(own, victim) },
				func() { f.Symlink("/etc/passwd", victim, appendonly.NoMeta()) },
				func() { f.Mkdir(victim, appendonly.NoMeta()) },
				func() { f.Truncate(victim, 0) },
				func() {
					if u, err := patch(f, victim, "!!", 2); err == nil {
						u.SetMeta(appendonly.Meta{Mode: 0, UID: 0, GID: 0})
						u.Close()
					}
				},
				func() { f.Remove(victim) },
				func() { f.Rmdir(victim) },
				func() { f.Remove(past) },
				func() { f.Rmdir(past) },
				func() { put(f, past, "forged") },
				func() { f.Rename(past, own, true) },
				func() { f.Rename(own, past, true) },
				func() { put(f, victim, "own") },
				b.vault.Tick,
			} {
				b.attack(attack)
			}
		}
		b.attack(func() { f.Rmdir("/.vault/snapshots/before") })
		b.attack(func() { f.Mkdir("/.vault", appendonly.NoMeta()) })
		b.attack(func() { f.Symlink("d", "/.vault", appendonly.NoMeta()) })
	}
}

// attack runs f. With a forced policy the core meets what it never meets, and may end the session over it.
func (b *bench) attack(f func()) {
	defer func() {
		if p := recover(); p != nil && !forced() {
			b.t.Errorf("panic: %v", p)
		}
	}()
	f()
}

// forced reports whether the policy says yes to everything: see TestWithoutPolicy.
func forced() bool { return os.Getenv("VAULTD_TEST_FORCED_EFFECT") != "" }

// wantBefore checks that the snapshot shows what was stored.
func wantBefore(t *testing.T, b *bench) {
	t.Helper()
	f := b.as("auditor")
	const at = "/.vault/snapshots/before/"
	wantList(t, f, at, "d f h l ln m")
	for path, data := range map[string]string{"f": "sealed f", "d/g": "sealed g", "l": "sealed l", "h": "sealed l", "ln": "sealed f", "m": "managed"} {
		want(t, f, at+path, data)
	}
}

// TestSealedSurvives attacks everything that was sealed. TestWithoutPolicy runs it again with a policy that says
// yes to everything.
func TestSealedSurvives(t *testing.T) {
	if d := appendonly.Decide(appendonly.Query{Op: appendonly.OpRemove, State: appendonly.StateSealed}); (d.Effect != appendonly.Deny) != forced() {
		t.Fatalf("the policy says %+v, forced %v", d, forced())
	}
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t, appendonly.Policy{Mode: mode})
			store(t, b)
			attackAll(b)
			wantBefore(t, b)
			b.barrier()
			b.kill()
			wantBefore(t, b)
			b.crash(none)
			wantBefore(t, b)
			b.mem.Verify()
		})
	}
}

// TestWithoutPolicy builds the package with a policy that allows everything, in each way there is to allow
// something. (The product has no such switch: the compiler is given another file.)
func TestWithoutPolicy(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds the package anew")
	}
	src, err := os.ReadFile("policy.go")
	ok(t, err)
	const decide = "func Decide(q Query) Verdict {"
	if strings.Count(string(src), decide) != 1 {
		t.Fatal("policy.go has another shape")
	}
	mutant := strings.Replace(string(src), decide, `func Decide(q Query) Verdict {
	v := decideTruly(q)
	if n, err := strconv.Atoi(os.Getenv("VAULTD_TEST_FORCED_EFFECT")); err == nil && v.Effect == Deny {
		return yes(Effect(n))
	}
	return v
}

func decideTruly(q Query) Verdict {`, 1)
	mutant = strings.Replace(mutant, `import "fmt"`, "import (\n\t\"fmt\"\n\t\"os\"\n\t\"strconv\"\n)", 1)
	dir := t.TempDir()
	ok(t, os.WriteFile(filepath.Join(dir, "policy.go"), []byte(mutant), 0o600))
	here, err := os.Getwd()
	ok(t, err)
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(here, "policy.go"): filepath.Join(dir, "policy.go")}})
	ok(t, err)
	ok(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	binary := filepath.Join(dir, "mutant.test")
	if out, err := exec.Command("go", "test", "-c", "-overlay", filepath.Join(dir, "overlay.json"), "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, e := range []appendonly.Effect{appendonly.Allow, appendonly.Amend, appendonly.Ignore, appendonly.Keep, appendonly.Drop} {
		cmd := exec.Command(binary, "-test.run", "^TestSealedSurvives$", "-test.timeout", "60s")
		cmd.Env = append(os.Environ(), fmt.Sprintf("VAULTD_TEST_FORCED_EFFECT=%d", e))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("with %q for every refusal: %v\n%s", e, err, out)
		}
	}
}

// TestWithoutVolume: the volume refuses nothing; the policy alone keeps every sealed name where it was.
func TestWithoutVolume(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	b.vol = permissive{b.mem}
	ok(t, b.vault.Close())
	b.open()
	store(t, b)
	// It really refuses nothing: a name that only the volume knows is taken over.
	ok(t, b.mem.Symlink("x", "stray"))
	ok(t, put(b.as("mallory"), "stray", "own"))
	attackAll(b)
	wantBefore(t, b)
	f := b.as("auditor")
	for path, data := range map[string]string{"f": "sealed f", "d/g": "sealed g", "l": "sealed l", "h": "sealed l", "ln": "sealed f", "m": "managed"} {
		if path == "m" {
			continue // alice's protocol may store new generations
		}
		want(t, f, path, data)
	}
	info, err := f.Stat("ln")
	ok(t, err)
	if info.Target != "f" {
		t.Fatalf("%+v", info)
	}
}
