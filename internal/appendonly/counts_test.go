package appendonly_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
)

// counted compares what a session did, but for what it read, with text.
func counted(t *testing.T, f *appendonly.FS, text string) {
	t.Helper()
	n := f.Counts()
	got := fmt.Sprintf("new %d/%d unchanged %d/%d refused %d/%d failed %d/%d retired %d/%d dirs %d", n.New.Files, n.New.Bytes, n.Unchanged.Files, n.Unchanged.Bytes,
		n.Refused.Files, n.Refused.Bytes, n.Failed.Files, n.Failed.Bytes, n.Retired.Files, n.Retired.Bytes, n.Dirs)
	if got != text {
		t.Errorf("got  %s\nwant %s", got, text)
	}
}

// What comes, comes again, and is refused, in a strict vault.
func TestCountsStrict(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	f := b.as("alice")
	if f.Counts().Wrote {
		t.Error("a session that did nothing wrote")
	}
	ok(t, f.Mkdir("d", appendonly.NoMeta()))
	ok(t, put(f, "d/a", "12345"))
	ok(t, put(f, "d/b", "123"))
	ok(t, f.Symlink("a", "d/l", appendonly.NoMeta()))
	counted(t, f, "new 3/8 unchanged 0/0 refused 0/0 failed 0/0 retired 0/0 dirs 1")
	ok(t, put(f, "d/a", "12345"))
	ok(t, f.Link("d/a", "d/hard"))
	f.Unchanged("d/b", 3)
	counted(t, f, "new 3/8 unchanged 3/13 refused 0/0 failed 0/0 retired 0/0 dirs 1")
	refused(t, appendonly.P1, put(b.as("mallory"), "d/a", "other"))
	g := b.as("mallory")
	refused(t, appendonly.P1, put(g, "d/a", "other"))
	refused(t, appendonly.P2, g.Remove("d/a"))
	refused(t, appendonly.P2, g.Remove("d/b"))
	refused(t, appendonly.P2, g.Rename("d/b", "d/c", true))
	n := g.Counts()
	if n.Refused.Files != 1 || n.Denied[appendonly.Denial{Op: appendonly.OpRemove, Rule: appendonly.P2}] != 2 || n.Changing() != 4 || n.Wrote {
		t.Errorf("%+v", n)
	}
	if n := f.Counts(); !n.Wrote || n.Repository || n.Changing() != 0 {
		t.Errorf("%+v", n)
	}
}

// Where names may move on, those that did are counted, with what they stood for.
func TestCountsVersioned(t *testing.T) {
	b := newBench(t, appendonly.Policy{Mode: appendonly.Versioned})
	ok(t, put(b.as("alice"), "a", "12345"))
	ok(t, put(b.as("alice"), "b", "123"))
	ok(t, put(b.as("alice"), "c", "1"))
	f := b.as("alice")
	ok(t, put(f, "a", "7654321"))
	counted(t, f, "new 1/7 unchanged 0/0 refused 0/0 failed 0/0 retired 1/5 dirs 0")
	ok(t, f.Remove("b"))
	counted(t, f, "new 1/7 unchanged 0/0 refused 0/0 failed 0/0 retired 2/8 dirs 0")
	ok(t, f.Rename("c", "a", true))
	counted(t, f, "new 1/7 unchanged 0/0 refused 0/0 failed 0/0 retired 4/16 dirs 0")
}

// A file under a temporary name counts when it has its own, once.
func TestCountsTemporary(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	f := b.as("alice")
	ok(t, put(f, "a.partial", "12345"))
	counted(t, f, "new 0/0 unchanged 0/0 refused 0/0 failed 0/0 retired 0/0 dirs 0")
	ok(t, f.Rename("a.partial", "a", false))
	counted(t, f, "new 1/5 unchanged 0/0 refused 0/0 failed 0/0 retired 0/0 dirs 0")
	ok(t, put(f, "a.partial", "12345"))
	ok(t, f.Rename("a.partial", "a", true))
	counted(t, f, "new 1/5 unchanged 1/5 refused 0/0 failed 0/0 retired 0/0 dirs 0")
}

// Uploads that come to nothing: given up, cut off, and into a directory that is missing, unless that is made and it comes after all.
func TestCountsFailed(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	f := b.as("alice")
	begin := func(path string) *appendonly.Upload {
		t.Helper()
		u, err := f.Create(path, create)
		ok(t, err)
		_, err = u.WriteAt([]byte("123"), 0)
		ok(t, err)
		return u
	}
	begin("a").Discard()
	begin("b").Abort()
	begin("c").Supersede()
	counted(t, f, "new 0/0 unchanged 0/0 refused 0/0 failed 2/6 retired 0/0 dirs 0")
	for range 3 { // clients try again
		notExist(t, put(f, "x/y", "1"))
	}
	counted(t, f, "new 0/0 unchanged 0/0 refused 0/0 failed 3/6 retired 0/0 dirs 0")
	ok(t, f.Mkdir("x", appendonly.NoMeta()))
	ok(t, put(f, "x/y", "1"))
	counted(t, f, "new 1/1 unchanged 0/0 refused 0/0 failed 2/6 retired 0/0 dirs 1")
	begin("open")
	ok(t, f.Close(t.Context()))
	counted(t, f, "new 1/1 unchanged 0/0 refused 0/0 failed 3/9 retired 0/0 dirs 1")

	f.Refused(&appendonly.DeniedError{Op: appendonly.OpOverwrite, Rule: appendonly.P1}, 7)
	f.Refused(errors.New("quota"), 8)
	f.Denied(&appendonly.DeniedError{Op: appendonly.OpSetMeta, Rule: appendonly.P1})
	counted(t, f, "new 1/1 unchanged 0/0 refused 1/7 failed 4/17 retired 0/0 dirs 1")
}

// What restic stores in a repository is known, from its first key on; a backup is a snapshot's object.
func TestCountsRestic(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	f := b.as("alice")
	object := strings.Repeat("0123456789abcdef", 4)
	ok(t, put(f, object, "no repository"))
	ok(t, f.Mkdir("snapshots", appendonly.NoMeta()))
	ok(t, put(f, "snapshots/"+object, "none either"))
	if n := f.Counts(); n.Repository || n.Snapshots != 0 {
		t.Errorf("%+v", n)
	}
	for _, d := range []string{"r", "r/data", "r/data/01", "r/index", "r/keys", "r/snapshots", "r/locks"} {
		ok(t, f.Mkdir(d, appendonly.NoMeta()))
	}
	ok(t, put(f, "r/keys/"+object, "k"))
	if n := f.Counts(); !n.Repository || n.Snapshots != 0 {
		t.Errorf("init: %+v", n)
	}
	g := b.as("alice")
	ok(t, put(g, "r/data/01/"+object, "pack"))
	if n := g.Counts(); !n.Repository || n.Snapshots != 0 {
		t.Errorf("a pack: %+v", n)
	}
	ok(t, put(g, "r/snapshots/"+object+"-restic-temp-1", "snapshot"))
	if n := g.Counts(); n.Snapshots != 0 {
		t.Errorf("an unfinished snapshot: %+v", n)
	}
	ok(t, g.Rename("r/snapshots/"+object+"-restic-temp-1", "r/snapshots/"+object, false))
	ok(t, put(g, "r/snapshots/notes", "a file of the user's"))
	if n := g.Counts(); n.Snapshots != 1 {
		t.Errorf("a snapshot: %+v", n)
	}
}

// Directories that are watched have counts of their own, as the tenant calls them, whatever the session's root is.
func TestCountsWatched(t *testing.T) {
	b := newBench(t, appendonly.Policy{Watch: []string{"srv", "srv/web", "else"}})
	b.root = "srv/web"
	f := b.as("web")
	ok(t, put(f, "a", "12345"))
	f.Unchanged("a", 5)
	f.Unchanged("../../else/x", 5) // leads nowhere else
	under := f.Counts().Under
	if fmt.Sprint(under) != "map[srv:{3 15} srv/web:{3 15}]" {
		t.Error(under)
	}
	under["srv"] = appendonly.Work{}
	if f.Counts().Under["srv"].Files != 3 {
		t.Error("what was handed out is the session's own")
	}
}

// Reading counts what was read, and only that.
func TestCountsRead(t *testing.T) {
	b := newBench(t, appendonly.Policy{})
	ok(t, put(b.as("alice"), "a", "12345"))
	f := b.as("alice")
	want(t, f, "a", "12345")
	r, err := f.Basis("a") // is compared with here, and not sent
	ok(t, err)
	_, err = r.ReadAt(make([]byte, 3), 0)
	ok(t, err)
	ok(t, r.Close())
	if n := f.Counts(); n.Read != (appendonly.Work{Files: 1, Bytes: 5}) || n.Wrote {
		t.Errorf("%+v", n)
	}
	refused(t, appendonly.RuleRole, func() error { _, err := b.role("bob", appendonly.Push).Open("a"); return err }())
}
