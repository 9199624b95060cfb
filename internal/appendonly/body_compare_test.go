package appendonly_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
)

// compare returns the differences, one "path: what" each.
func (b *bodied) compare(name string, o appendonly.CompareOptions) ([]string, appendonly.Compared) {
	b.t.Helper()
	var out []string
	var done appendonly.Compared
	ok(b.t, b.vault.CompareSnapshot(b.t.Context(), name, o, func(d appendonly.Difference) {
		out = append(out, d.Path+": "+d.What)
		b.t.Logf("%.80q: %s: %.90q, body %.90q", d.Path, d.What, d.Index, d.Body)
	}, func(c appendonly.Compared) { done = c }))
	return out, done
}

// Each thing that can be otherwise in a body is told, and nothing else is.
func TestCompareMutants(t *testing.T) {
	sh := func(script string) func(t *testing.T, body string) {
		return func(t *testing.T, body string) {
			if out, err := exec.Command("sh", "-ec", "cd "+body+"/files; "+script).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	all := appendonly.CompareOptions{Hash: true}
	for _, c := range []struct {
		name   string
		mutate func(*testing.T, string)
		o      appendonly.CompareOptions
		want   []string
	}{
		{name: "nothing", mutate: sh(":"), o: all},
		{name: "nothing, without hashes", mutate: sh(":")},
		{name: "a name removed", mutate: sh("rm plain"), want: []string{"plain: missing"}},
		{name: "the last name removed", mutate: sh("rm zero many/9"), want: []string{"many/9: missing", "zero: missing"}},
		{name: "a directory removed", mutate: sh("rm -r d"), want: []string{"d: missing"}},
		{name: "a name added", mutate: sh("echo x >many/10a; ln plain 0; mkdir -p zz/x"), want: []string{"0: extra", "many/10a: extra", "zz: extra"}},
		{name: "a name added far down", mutate: sh("echo x >$(find deep -name d -type f | sed s,/d$,/new,)"), want: []string{"deep" + strings.Repeat("/d", 29) + "/new: extra"}},
		{name: "all names removed", mutate: sh("rm -r many/*"), want: nil},
		{name: "content changed in place", mutate: sh("touch -r plain t; printf PLAIN >plain; touch -r t plain; rm t"), o: all, want: []string{"plain: hash"}},
		{name: "content changed in place, not read", mutate: sh("touch -r plain t; printf PLAIN >plain; touch -r t plain; rm t")},
		{name: "cut", mutate: sh(": >plain"), o: all, want: []string{"plain: size"}},
		{name: "another file with the same bytes", mutate: sh("cp -a plain t; rm plain; mv t plain"), want: []string{"plain: content"}},
		{name: "two names swapped", mutate: sh("mv many/38 t; mv many/37 many/38; mv t many/37"), want: []string{"many/37: content", "many/38: content"}},
		{name: "its content is not in the body", mutate: sh("i=$(stat -c %i plain); find ../store -inum $i -delete"), want: []string{"plain: content"}},
		{name: "a link's target", mutate: sh("ln -sfn other to-dir"), want: []string{"to-dir: target"}},
		{name: "a file for a link", mutate: sh("rm to-dir; : >to-dir"), want: []string{"to-dir: type"}},
		{name: "a directory for a file, a file for a directory", mutate: sh("rm plain; mkdir plain; rmdir empty; : >empty"), want: []string{"empty: type", "plain: type"}},
		{name: "a time", mutate: sh("touch -d 2001-01-01 d/e/g"), want: []string{"d/e/g: mtime"}},
		{name: "nobody set the time", mutate: sh("touch -d 2001-01-01 plain")},
		{name: "a mode, an owner", mutate: func(t *testing.T, body string) {
			ok(t, unix.Setxattr(body+"/files/d/f", "user.rsync.%stat", []byte("100700 0,0 0:0"), 0))
		}, want: []string{"d/e/link: mode", "d/e/link: owner", "d/f: mode", "d/f: owner"}},
		{name: "an owner where there was none", mutate: func(t *testing.T, body string) {
			ok(t, unix.Setxattr(body+"/files/plain", "user.rsync.%stat", []byte("100644 0,0 5:0"), 0))
		}, want: []string{"plain: mode", "plain: owner"}},
		{name: "a device", mutate: func(t *testing.T, body string) {
			ok(t, unix.Setxattr(body+"/files/dev", "user.rsync.%stat", []byte("60660 8,18 0:6"), 0))
		}, want: []string{"dev: device"}},
		{name: "a device becomes a file", mutate: func(t *testing.T, body string) { ok(t, unix.Removexattr(body+"/files/dev", "user.rsync.%stat")) }, want: []string{"dev: type"}},
		{name: "attributes", mutate: func(t *testing.T, body string) {
			ok(t, unix.Setxattr(body+"/files/many/5", "user.x", []byte("y"), 0))
			ok(t, unix.Setxattr(body+"/files/d/f", "user.a", []byte("c"), 0))
			ok(t, unix.Removexattr(body+"/files/d/f", "user.rsync.security.x"))
		}, want: []string{"d/e/link: attribute security.x", "d/e/link: attribute user.a", "d/f: attribute security.x", "d/f: attribute user.a", "many/5: attribute user.x"}},
		{name: "an ACL", mutate: func(t *testing.T, body string) {
			ok(t, unix.Removexattr(body+"/files/d/f", "user.rsync.%aacl"))
		}, want: []string{"d/e/link: attribute system.posix_acl_access", "d/f: attribute system.posix_acl_access"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
			a := b.as("alice")
			plant(t, a, 40)
			b.clock.Add(time.Hour)
			ok(t, put(a, "fresh.partial", "x"))
			b.snap("one", "manual")
			body := b.keep("one")
			ok(t, a.Remove("zero"))
			c.mutate(t, body)
			got, done := b.compare("one", c.o)
			slices.Sort(got)
			if c.name == "all names removed" {
				for i := range 40 {
					c.want = append(c.want, fmt.Sprintf("many/%d: missing", i))
				}
			}
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if done.Names < 80 || c.o.Hash && done.Bytes < 100 {
				t.Errorf("%+v", done)
			}
		})
	}
}

// What a key says of its file after the snapshot amends what the index shows of it: no difference, but for what nobody said.
func TestCompareAmended(t *testing.T) {
	b := newBodied(t, appendonly.Policy{Mode: appendonly.Versioned})
	a := b.as("alice")
	for _, name := range []string{"f", "g", "h"} {
		ok(t, putMeta(a, name, name, meta(0o600, 1, 1, 1000, nil)))
	}
	b.snap("one", "manual")
	body := b.keep("one")
	ok(t, a.SetMeta("f", meta(0o640, 1, 1, 2000, nil), true))
	ok(t, exec.Command("touch", "-d", "2001-01-01", body+"/files/g").Run())
	got, done := b.compare("one", appendonly.CompareOptions{})
	if !slices.Equal(got, []string{"g: mtime"}) || done.Amended != 1 {
		t.Errorf("%q, %+v", got, done)
	}
}

// A journal that is not the one of the snapshot any more is told.
func TestCompareJournal(t *testing.T) {
	b := newBodied(t, appendonly.Policy{})
	a := b.as("alice")
	ok(t, put(a, "f", "f"))
	b.snap("one", "manual")
	body := b.keep("one")
	segs, err := os.ReadDir(body + "/journal")
	ok(t, err)
	last := segs[len(segs)-1].Name()
	text, err := os.ReadFile(body + "/journal/" + last)
	ok(t, err)
	i := strings.LastIndex(string(text), `"note":"one"`) + len(`"note":"one","what":"manual","chain":"`)
	text[i] = "0123456789abcdef"[(strings.IndexByte("0123456789abcdef", text[i])+1)%16]
	ok(t, os.WriteFile(body+"/journal/"+last, text, 0o640))
	if got, _ := b.compare("one", appendonly.CompareOptions{}); !slices.Equal(got, []string{": journal"}) {
		t.Errorf("%q", got)
	}
}

func TestCompareNothing(t *testing.T) {
	b := newBodied(t, appendonly.Policy{})
	ok(t, put(b.as("alice"), "f", "f"))
	b.snap("one", "manual")
	run := func(ctx context.Context, name string) error {
		return b.vault.CompareSnapshot(ctx, name, appendonly.CompareOptions{Hash: true}, func(appendonly.Difference) {}, func(appendonly.Compared) {})
	}
	if err := run(t.Context(), "one"); !errors.Is(err, appendonly.ErrNoBody) {
		t.Error(err)
	}
	if err := run(t.Context(), "two"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	body := b.keep("one")
	ok(t, run(t.Context(), "one"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := run(ctx, "one"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.clock.Add(time.Hour)
	b.vault.Tick()
	ok(t, os.Remove(body+"/format"))
	if err := run(t.Context(), "one"); err == nil || errors.Is(err, appendonly.ErrNoBody) {
		t.Errorf("a body that can not be read: %v", err)
	}
}
