package appendonly_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
)

// rooted is a session of key below a root, and one of another key that sees the whole tenant.
func rooted(t *testing.T, p appendonly.Policy, root string) (b *bench, web, all *appendonly.FS) {
	t.Helper()
	b = newBench(t, p)
	all = b.as("alice")
	b.root = root
	return b, b.as("web"), all
}

// notExist wants that nothing is there.
func notExist(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("got %v, want that it does not exist", err)
	}
}

// The first change makes the root, as the key's; until then, and for keys that may not write, it is empty.
func TestRootIsMade(t *testing.T) {
	b, web, all := rooted(t, appendonly.Policy{}, "srv/web")
	wantList(t, web, "/", "")
	wantList(t, web, "/.vault/at/0s", "")
	wantList(t, web, "/.vault/versions", "")
	if i, err := web.Stat("/"); err != nil || i.Kind != appendonly.KindDir {
		t.Fatal(i, err)
	}
	refused(t, appendonly.RuleRole, b.role("reader", appendonly.Pull).Mkdir("d", appendonly.NoMeta()))
	notExist(t, web.Mkdir("d/e", appendonly.NoMeta()))
	notExist(t, web.Remove("f"))
	notExist(t, web.Rename("f", "g", true))
	notExist(t, web.Link("f", "g"))
	ok(t, web.Ask(appendonly.OpCreate, "f"))
	_, err := web.Create("f", appendonly.CreateOptions{Meta: appendonly.NoMeta()})
	notExist(t, err)
	wantList(t, all, "/", "")
	ok(t, put(web, "f", "one"))
	want(t, all, "srv/web/f", "one")
	vs, err := all.Versions("srv")
	ok(t, err)
	if vs[0].Key != "web" {
		t.Fatalf("made by %q", vs[0].Key)
	}
	var paths []string
	b.barrier()
	_, _, err = journal.NewReader(b.mem).All(func(r *journal.Record, _ []byte) error {
		if r.Path != "" {
			paths = append(paths, r.Key+" "+r.Path)
		}
		return nil
	})
	ok(t, err)
	if got := strings.Join(paths, ", "); got != "web srv, web srv/web, web srv/web/f" {
		t.Fatal(got)
	}
	b.kill()
	b.wantTree()
}

// What stands outside does not exist: by no path, link or view, and no message tells of it.
func TestRootHidesTheRest(t *testing.T) {
	b, web, all := rooted(t, appendonly.Policy{Mode: appendonly.Versioned}, "srv/web")
	for _, d := range []string{"srv", "srv/web", "srv/web/d", "srv/website", "srv/db", "etc"} {
		ok(t, all.Mkdir(d, appendonly.NoMeta()))
	}
	for _, f := range []string{"secret", "srv/secret", "srv/website/secret", "srv/db/secret", "etc/secret"} {
		ok(t, put(all, f, "secret"))
	}
	ok(t, put(all, "srv/web/own", "own"))
	for name, target := range map[string]string{"abs": "/srv/db", "absroot": "/", "up": "..", "up2": "../db", "deep": "../../etc", "own-abs": "/own", "past": "/.vault/at/0s/srv"} {
		ok(t, all.Symlink(target, "srv/web/"+name, appendonly.NoMeta()))
		ok(t, all.Symlink(target, "srv/web/d/"+name, appendonly.NoMeta()))
	}
	b.clock.Add(2 * time.Second)
	_, err := b.vault.Snapshot(t.Context(), "s1", "manual")
	ok(t, err)
	views := []string{"", "/.vault/at/0s", "/.vault/snapshots/s1", "/.vault/snapshots/latest", "/.at/0s"}
	for _, view := range views {
		want(t, web, view+"/own", "own")
		want(t, web, view+"/own-abs", "own")
		wantList(t, web, view+"/up", "abs absroot d deep own own-abs past up up2")
		for _, p := range []string{"secret", "../secret", "../../secret", "../db/secret", "/srv/db/secret", "abs/secret", "absroot/secret", "up/secret", "up2/secret",
			"deep/secret", "d/up2/secret", "d/deep/secret", "d/abs/secret", "srv", "past/db/secret", "absroot/srv/db/secret", "../website/secret", "site/secret"} {
			_, err := get(web, view+"/"+p)
			notExist(t, err)
			_, err = list(web, view+"/"+p)
			notExist(t, err)
		}
	}
	wantList(t, web, "/.vault/versions", "abs absroot d deep own own-abs past up up2")
	_, err = web.Versions("../db/secret")
	notExist(t, err)
	notExist(t, web.Hash("../db/secret", sha256.New()))
	notExist(t, web.Link("/srv/db/secret", "stolen"))
	notExist(t, web.Rename("../db/secret", "stolen", true))
	notExist(t, web.Remove("../../secret"))
	ok(t, put(web, "../../secret", "mine"))
	want(t, all, "srv/web/secret", "mine")
	want(t, all, "secret", "secret")
	refused(t, appendonly.P5, put(web, "abs/secret", "mine"))
	for _, err := range []error{web.Rmdir("/"), web.Rename("/", "d/root", true), web.Rename("own", "/", true), web.Remove("/"), web.Link("own", "/"), web.Symlink("x", "..", appendonly.NoMeta())} {
		if err == nil {
			t.Error("the root was changed by its own session")
		}
	}
	b.kill()
	b.wantTree()
}

// Whatever fails is told with the session's own path.
func TestRootIsInNoMessage(t *testing.T) {
	for _, mode := range []appendonly.Mode{appendonly.Strict, appendonly.Versioned} {
		_, web, all := rooted(t, appendonly.Policy{Mode: mode}, "srv/web-7")
		ok(t, put(web, "file", "one"))
		ok(t, put(all, "srv/web-7/theirs.partial", "one"))
		ok(t, web.Mkdir("d", appendonly.NoMeta()))
		ok(t, put(web, "d/f", "one"))
		ok(t, web.Symlink("d", "l", appendonly.NoMeta()))
		m := appendonly.NoMeta()
		m.UID = 3
		paths := []string{"", "file", "file/x", "d", "d/f", "l/f", "l", "none", "none/x", "theirs.partial", ".vault/x", ".vault", ".at/0s/x", "a\x00", long(256), deep(2043)}
		for _, v := range pathVerbs {
			for _, p := range paths {
				if err := v.do(web, p); err != nil && strings.Contains(err.Error(), "web-7") {
					t.Errorf("%s %q: %v", v.name, p, err)
				}
				for _, err := range []error{web.Ask(appendonly.OpOverwrite, p), web.AskMeta(p, m), web.Rename("file", p, false), web.Rename("d", p, true), web.Rename(p, "d", true), web.Link("d/f", p)} {
					if err != nil && strings.Contains(err.Error(), "web-7") {
						t.Errorf("%q: %v", p, err)
					}
				}
			}
		}
	}
}

// Another key moves the root away, removes it, puts something else in its place: the session sees an empty root,
// and never what is elsewhere; views and versions have what was below the root's path at their instants, and only that.
func TestRootMovesAway(t *testing.T) {
	b, web, all := rooted(t, appendonly.Policy{Mode: appendonly.Versioned}, "srv/web")
	ok(t, web.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(web, "f", "one"))
	ok(t, put(web, "d/g", "one"))
	dir, err := web.OpenDir("/")
	ok(t, err)
	up, err := web.Create("open", create)
	ok(t, err)
	b.clock.Add(time.Minute)
	ok(t, all.Rename("srv/web", "srv/old", false))
	ok(t, put(all, "srv/old/private", "private"))
	ok(t, put(all, "srv/old/f", "private"))
	notExist(t, up.Close())
	if infos, err := dir.Next(10); err != io.EOF {
		t.Fatal(infos, err)
	}
	wantList(t, web, "/", "")
	_, err = get(web, "private")
	notExist(t, err)
	b.clock.Add(time.Minute)
	want(t, web, "/.vault/at/90s/f", "one")
	wantList(t, web, "/.vault/at/0s", "")
	wantList(t, web, "/.vault/versions", "d f")
	wantList(t, web, "/.vault/versions/d", "g")
	vs, err := web.Versions("f")
	ok(t, err)
	if len(vs) != 1 || vs[0].Size != 3 {
		t.Fatalf("%+v", vs)
	}
	ok(t, put(web, "f", "two")) // a new one is made
	want(t, all, "srv/web/f", "two")
	want(t, all, "srv/old/f", "private")
	wantList(t, web, "/.vault/versions", "f")
	_, err = web.Versions("private")
	notExist(t, err)

	// What was private before it came here stays so.
	ok(t, all.Mkdir("priv", appendonly.NoMeta()))
	ok(t, put(all, "priv/x", "before"))
	ok(t, put(all, "priv/gone", "before"))
	ok(t, all.Remove("priv/gone"))
	b.clock.Add(time.Minute)
	ok(t, all.Rename("priv", "srv/web/priv", false))
	ok(t, put(all, "srv/web/priv/x", "after!"))
	b.clock.Add(time.Minute)
	wantList(t, web, "/.vault/versions/priv", "x")
	if vs, err = web.Versions("priv/x"); err != nil || len(vs) != 2 {
		t.Fatalf("%+v, %v", vs, err)
	}
	_, err = web.Versions("priv/gone")
	notExist(t, err)
	_, err = get(web, "/.vault/at/90s/priv/x")
	notExist(t, err)

	// Something else where the root was.
	ok(t, all.Rename("srv/web", "srv/old2", false))
	for _, thing := range []func() error{
		func() error { return put(all, "srv/web", "a file") },
		func() error { return all.Symlink("old2", "srv/web", appendonly.NoMeta()) },
		func() error { return all.Symlink("/", "srv/web", appendonly.NoMeta()) },
	} {
		ok(t, thing())
		wantList(t, web, "/", "")
		_, err = get(web, "f")
		notExist(t, err)
		if err := put(web, "f", "x"); err == nil {
			t.Fatal("something was written through what is no root")
		}
		if err := web.Mkdir("d", appendonly.NoMeta()); err == nil {
			t.Fatal("something was made in what is no root")
		}
		ok(t, all.Remove("srv/web"))
	}
	b.kill()
	b.wantTree()
}

// Names beside each other count as links only as far as the session can see them.
func TestRootCountsItsOwnLinks(t *testing.T) {
	_, web, all := rooted(t, appendonly.Policy{}, "srv/web")
	ok(t, put(web, "f", "one"))
	for _, p := range []string{"a", "b", "srv/c", "srv/web/g"} {
		ok(t, all.Link("srv/web/f", p))
	}
	for f, n := range map[*appendonly.FS]int{web: 2, all: 5} {
		path := "f"
		if f == all {
			path = "srv/web/f"
		}
		if i, err := f.Stat(path); err != nil || i.Nlink != n {
			t.Errorf("%d links, %v; want %d", i.Nlink, err, n)
		}
	}
}

// Locks of a repository are locks wherever the root is; the policy goes by the whole path; short forms go by the root.
func TestRootAndTheRest(t *testing.T) {
	b, web, all := rooted(t, appendonly.Policy{Prefixes: []appendonly.Prefix{{Path: "srv/web/v", Mode: appendonly.Versioned}}}, "srv/web")
	for _, d := range []string{"data", "keys", "snapshots", "locks", "v"} {
		ok(t, web.Mkdir(d, appendonly.NoMeta()))
	}
	ok(t, put(web, "config", "c"))
	lock := "locks/" + strings.Repeat("a", 64)
	ok(t, put(web, lock, "l"))
	ok(t, put(web, lock, "m"))
	ok(t, web.Remove(lock))
	b.root = "srv/web/locks"
	in := b.as("web")
	ok(t, put(in, strings.Repeat("b", 64), "l"))
	ok(t, in.Remove(strings.Repeat("b", 64)))
	ok(t, put(web, "v/f", "one"))
	ok(t, put(web, "v/f", "two"))
	refused(t, appendonly.P1, put(web, "config", "d"))
	refused(t, appendonly.P2, web.Rmdir("v"))
	ok(t, all.Mkdir("srv/web/.at", appendonly.NoMeta()))
	_, err := get(web, ".at/0s/config")
	notExist(t, err)
	want(t, web, "/.vault/at/0s/config", "c")
	want(t, all, ".at/0s/srv/web/config", "c")
	refused(t, appendonly.P2, web.Mkdir(".vault", appendonly.NoMeta()))
	ok(t, all.Mkdir("srv/web/.vault", appendonly.NoMeta())) // outside of every root it is a name like others
	refused(t, appendonly.P2, put(web, ".vault/f", "x"))
	wantList(t, web, "/.vault", "at snapshots versions")
	// An interrupted upload is its key's, below the same root.
	u, err := web.Create("part", create)
	ok(t, err)
	_, err = u.WriteAt([]byte("123"), 0)
	ok(t, err)
	u.Abort()
	if i, err := web.Stat("part"); err != nil || i.Size != 3 {
		t.Fatal(i, err)
	}
	b.reopen()
	b.root = "srv/web"
	if i, err := b.as("web").Stat("part"); err != nil || i.Size != 3 {
		t.Fatal(i, err)
	}
}
