package appendonly_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/appendonly"
)

// session is one key's.
func (b *bench) keyed(key string) *appendonly.FS {
	return b.vault.Session(appendonly.Who{Key: key, Role: appendonly.Full, Protocol: "test", Session: key})
}

func storeAs(t testing.TB, f *appendonly.FS, path, data string) {
	t.Helper()
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()})
	if err == nil {
		if _, err = u.WriteAt([]byte(data), 0); err == nil {
			err = u.Close()
		}
	}
	if err != nil {
		t.Fatalf("store %s: %v", path, err)
	}
}

// tree is what is live: paths with what they stand for.
func tree(t testing.TB, f *appendonly.FS, dir string, out map[string]string) map[string]string {
	t.Helper()
	d, err := f.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Each(func(i *appendonly.Info) error {
		p := strings.TrimSuffix(dir, "/") + "/" + i.Name
		switch i.Kind {
		case appendonly.KindDir:
			out[p+"/"] = fmt.Sprint(i.Meta.Mode)
			tree(t, f, p, out)
		case appendonly.KindSymlink:
			to, err := f.Readlink(p)
			if err != nil {
				return err
			}
			out[p] = "-> " + to
		default:
			r, err := f.Open(p)
			if err != nil {
				return fmt.Errorf("open %s: %w", p, err)
			}
			data, err := io.ReadAll(io.NewSectionReader(r, 0, i.Size))
			if err = errors.Join(err, r.Close()); err != nil {
				return err
			}
			out[p] = fmt.Sprintf("%s %d %s", i.Kind, i.Meta.Mode, data)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func sameTree(t testing.TB, what string, want, got map[string]string) {
	t.Helper()
	for p, w := range want {
		if g, ok := got[p]; !ok || g != w {
			t.Errorf("%s: %q is %q (there: %v), want %q", what, p, g, ok, w)
		}
	}
	for p, g := range got {
		if _, ok := want[p]; !ok {
			t.Errorf("%s: %q is there (%q)", what, p, g)
		}
	}
}

func undo(t testing.TB, b *bench, o appendonly.Undo) []string {
	t.Helper()
	var dry, did []string
	name := func(list *[]string) func(appendonly.Undone) {
		return func(u appendonly.Undone) {
			s := string(u.Step) + " " + u.Path
			if u.From != "" {
				s += " from " + u.From
			}
			if u.Why != "" {
				s += ": " + u.Why
			}
			*list = append(*list, s)
		}
	}
	o.Why = "test"
	o.Dry = true
	head := b.vault.Head()
	if err := b.vault.Undo(context.Background(), o, name(&dry)); err != nil {
		t.Fatal(err)
	}
	if now := b.vault.Head(); now > head+1 { // a barrier
		t.Errorf("a dry run wrote records: %d, %d before", now, head)
	}
	o.Dry = false
	if err := b.vault.Undo(context.Background(), o, name(&did)); err != nil {
		t.Fatal(err)
	}
	slices.Sort(did)
	return did
}

// An attacker with a key of its own goes through a versioned tenant; the other key works on meanwhile. What the attacker did is undone,
// what the other did stays, and the past still shows both.
func TestUndo(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	alice, mallory := b.keyed("alice"), b.keyed("mallory")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	m := appendonly.NoMeta()
	for _, d := range []string{"docs", "docs/sub", "keep", "gone", "gone/deep"} {
		check(alice.Mkdir(d, m))
	}
	for _, f := range []string{"docs/a", "docs/b", "docs/c", "docs/sub/x", "keep/k", "gone/deep/g", "both", "swap1", "swap2"} {
		storeAs(t, alice, f, "alice's "+f)
	}
	check(alice.Symlink("docs/a", "link", m))
	check(alice.Link("docs/a", "hard"))
	storeAs(t, mallory, "old", "mallory's, from before")
	b.clock.Add(time.Hour)
	before := tree(t, alice, "/", map[string]string{})
	since := b.clock.Now()

	storeAs(t, mallory, "docs/a", "ransom")              // overwritten
	storeAs(t, mallory, "docs/a", "ransom, again")       // twice
	check(mallory.Remove("docs/b"))                      // removed
	check(mallory.Rename("docs/c", "docs/c.enc", false)) // moved on
	check(mallory.Rename("docs/sub", "sub.enc", false))  // a directory, too
	storeAs(t, mallory, "sub.enc/x", "ransom")           // and overwritten there
	check(mallory.Remove("gone/deep/g"))                 // a tree removed
	check(mallory.Rmdir("gone/deep"))
	check(mallory.Rmdir("gone"))
	storeAs(t, mallory, "gone", "a file in a directory's place")
	check(mallory.Remove("link"))
	check(mallory.Mkdir("link", m))
	storeAs(t, mallory, "link/README", "pay")
	storeAs(t, mallory, "keep/README", "pay")
	storeAs(t, mallory, "up.partial", "unfinished")
	check(mallory.Rename("swap1", "t", false))
	check(mallory.Rename("swap2", "swap1", false))
	check(mallory.Rename("t", "swap2", false))
	check(mallory.SetMeta("keep/k", appendonly.Meta{Mode: 0, UID: -1, GID: -1}, false))
	storeAs(t, mallory, "both", "ransom")
	storeAs(t, alice, "both", "alice's, newer")   // changed since by somebody else
	storeAs(t, alice, "keep/new", "alice's, new") // and added
	check(b.vault.SealKey("mallory"))             // revoked: what was fresh is sealed
	evil := tree(t, alice, "/", map[string]string{})
	instant := b.vault.Head()
	b.clock.Add(time.Hour)

	did := undo(t, b, appendonly.Undo{Key: "mallory", Since: since})
	t.Logf("%s", strings.Join(did, "\n"))
	want := map[string]string{"/both": "file -1 alice's, newer", "/keep/new": "file -1 alice's, new"}
	for p, w := range before {
		if _, ok := want[p]; !ok {
			want[p] = w
		}
	}
	sameTree(t, "after undoing", want, tree(t, alice, "/", map[string]string{}))
	if again := undo(t, b, appendonly.Undo{Key: "mallory", Since: since}); len(again) != 0 {
		t.Errorf("a second undo does %q", again)
	}
	b.reopen()
	alice = b.keyed("alice")
	sameTree(t, "after a restart", want, tree(t, alice, "/", map[string]string{}))
	alice.NameInstant("evil", instant)
	sameTree(t, "in the past", evil, stripped(tree(t, alice, "/.vault/at/evil", map[string]string{}), "/.vault/at/evil"))

	// The undoing is undone: everybody's records since then.
	undo(t, b, appendonly.Undo{Since: b.clock.Now().Add(-30 * time.Minute)})
	sameTree(t, "after undoing that", evil, tree(t, alice, "/", map[string]string{}))
}

func stripped(m map[string]string, prefix string) map[string]string {
	out := map[string]string{}
	for p, w := range m {
		out[strings.TrimPrefix(p, prefix)] = w
	}
	return out
}

// The operator has let go of what the key had made before asking for the rest.
func TestUndoAfterRetire(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	alice, mallory := b.keyed("alice"), b.keyed("mallory")
	storeAs(t, alice, "a", "alice's")
	b.clock.Add(time.Hour)
	since := b.clock.Now()
	storeAs(t, mallory, "a", "ransom")
	storeAs(t, mallory, "README", "pay")
	made, err := b.vault.MadeBy("mallory", since)
	if err == nil {
		err = b.vault.Retire(context.Background(), made, false, "test", func(appendonly.Retired) {})
	}
	if err != nil {
		t.Fatal(err)
	}
	if did := undo(t, b, appendonly.Undo{Key: "mallory", Since: since}); !slices.Equal(did, []string{"restored a"}) {
		t.Errorf("undo does %q", did)
	}
	if _, err := alice.Stat("README"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("README: %v", err)
	}
}

// What can not be undone is said, and the rest is done.
func TestUndoLeaves(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	alice, mallory := b.keyed("alice"), b.keyed("mallory")
	since := b.clock.Now()
	if err := mallory.Mkdir("made", appendonly.NoMeta()); err != nil {
		t.Fatal(err)
	}
	storeAs(t, mallory, "made/evil", "x")
	storeAs(t, alice, "made/good", "alice's, in mallory's directory")
	did := undo(t, b, appendonly.Undo{Key: "mallory", Since: since})
	if want := []string{"left made: it holds what others have put there", "removed made/evil"}; !slices.Equal(did, want) {
		t.Errorf("undo does %q, want %q", did, want)
	}
}

// Whatever a key does to a tree, undoing it brings back the tree, and only below the path that was named.
func TestUndoProperty(t *testing.T) {
	names := []string{"a", "b", "d/a", "d/b", "d/e/a", "d", "d/e", "f"}
	rapid.Check(t, func(rt *rapid.T) {
		b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
		alice, mallory := b.keyed("alice"), b.keyed("mallory")
		step := func(f *appendonly.FS, who string) {
			p, q := rapid.SampledFrom(names).Draw(rt, "path"), rapid.SampledFrom(names).Draw(rt, "to")
			switch rapid.IntRange(0, 7).Draw(rt, "op") {
			case 0:
				f.Mkdir(p, appendonly.NoMeta())
			case 1:
				f.Remove(p)
			case 2:
				f.Rmdir(p)
			case 3:
				f.Rename(p, q, true)
			case 4:
				f.Link(p, q)
			case 5:
				f.Symlink(q, p, appendonly.NoMeta())
			case 6:
				f.SetMeta(p, appendonly.Meta{Mode: rapid.Int32Range(0, 0o777).Draw(rt, "mode"), UID: -1, GID: -1}, false)
			default:
				if u, err := f.Create(p, appendonly.CreateOptions{Create: true, Truncate: true, Meta: appendonly.NoMeta()}); err == nil {
					u.WriteAt([]byte(who+rapid.StringMatching(`[a-z]{4}`).Draw(rt, "data")), 0)
					u.Close()
				}
			}
		}
		for range rapid.IntRange(0, 12).Draw(rt, "before") {
			step(alice, "alice")
		}
		b.clock.Add(time.Hour)
		before := tree(t, alice, "/", map[string]string{})
		since := b.clock.Now()
		for range rapid.IntRange(1, 15).Draw(rt, "attack") {
			step(mallory, "mallory")
		}
		b.clock.Add(time.Hour)
		usage := b.vault.Usage()
		if n := rapid.IntRange(0, 6).Draw(rt, "interrupted after"); n > 0 { // it goes on where it stopped
			ctx, cancel := context.WithCancel(context.Background())
			err := b.vault.Undo(ctx, appendonly.Undo{Key: "mallory", Since: since, Why: "test"}, func(appendonly.Undone) {
				if n--; n == 0 {
					cancel()
				}
			})
			cancel()
			if err != nil && !errors.Is(err, context.Canceled) {
				rt.Fatal(err)
			}
			if rapid.Bool().Draw(rt, "reopened") {
				b.reopen()
				alice = b.keyed("alice")
			}
		}
		did := undo(t, b, appendonly.Undo{Key: "mallory", Since: since})
		after := tree(t, alice, "/", map[string]string{})
		for p, w := range before {
			if after[p] != w {
				rt.Fatalf("%q is %q, was %q\n%q\n%q", p, after[p], w, after, did)
			}
		}
		if len(after) != len(before) {
			rt.Fatalf("%q, was %q\n%q", after, before, did)
		}
		now := b.vault.Usage()
		if now.Live+now.Versions != usage.Live+usage.Versions {
			rt.Fatalf("contents are charged %d and %d, were %d and %d", now.Live, now.Versions, usage.Live, usage.Versions)
		}
		b.reopen()
		if later := b.vault.Usage(); later.Live != now.Live || later.Versions != now.Versions {
			rt.Fatalf("charged %+v after a restart, %+v before", later, now)
		}
		b.vault.Close()
	})
}
