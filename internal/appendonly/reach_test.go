package appendonly_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"vaultd/internal/appendonly"
)

// place is where one cell of the matrix is tried: a directory of its own.
type place struct {
	b    *bench
	dir  string
	name string // of what is in the state, under dir
}

func (p place) path() string {
	if strings.HasPrefix(p.name, "/") {
		return p.name
	}
	return p.dir + "/" + p.name
}

const content = "content"

// reachState brings a name into a state, as alice's keys see it, and returns its place.
func reachState(t *testing.T, b *bench, dir string, s appendonly.State, op appendonly.Op) place {
	t.Helper()
	a, bob := b.as("alice"), b.as("bob")
	ok(t, bob.Mkdir(dir, appendonly.NoMeta()))
	p := place{b, dir, "x"}
	switch s {
	case appendonly.StateOpen:
		u, err := patch(a, p.path(), content, 0)
		ok(t, err)
		if !attributes(op) { // those of an interrupted one are told again by who resumes it
			u.Abort()
		}
	case appendonly.StateFresh:
		p.name = "x.partial"
		ok(t, put(a, p.path(), content))
	case appendonly.StateFreshOther:
		p.name = "x.partial"
		ok(t, put(bob, p.path(), content))
	case appendonly.StateSettling:
		ok(t, put(a, p.path(), content))
	case appendonly.StateRepeated:
		ok(t, put(bob, p.path(), content))
		ok(t, put(a, p.path(), content))
	case appendonly.StateSealed:
		ok(t, put(bob, p.path(), content))
	case appendonly.StateManaged:
		ok(t, a.Replace(p.path(), []byte(content), appendonly.NoMeta()))
	case appendonly.StateNewDir:
		ok(t, a.Mkdir(p.path(), appendonly.NoMeta()))
	case appendonly.StateDir:
		ok(t, bob.Mkdir(p.path(), appendonly.NoMeta()))
	case appendonly.StateLink:
		ok(t, put(bob, dir+"/target", content))
		ok(t, bob.Symlink("target", p.path(), appendonly.NoMeta()))
	case appendonly.StateScratch:
		for _, d := range []string{"data", "keys", "snapshots", "locks"} {
			ok(t, bob.Mkdir(dir+"/"+d, appendonly.NoMeta()))
		}
		ok(t, put(bob, dir+"/config", "c"))
		p.name = "locks/" + strings.Repeat("a", 64)
		ok(t, put(bob, p.path(), content))
	case appendonly.StateView:
		ok(t, put(bob, dir+"/x", content))
		p.name = "/.vault/at/0s/" + dir + "/x"
	case appendonly.StateReserved:
		p.name = "/.vault/" + dir
	}
	return p
}

func attributes(o appendonly.Op) bool {
	return o == appendonly.OpSetTimes || o == appendonly.OpSetMeta || o == appendonly.OpTighten
}

// doOp does what makes the core ask about op, on p as it is.
func doOp(f *appendonly.FS, p place, op appendonly.Op) error {
	meta := appendonly.NoMeta()
	free := p.dir + "/free"
	switch op {
	case appendonly.OpRead:
		r, err := f.Open(p.path())
		if err == nil {
			_, err = io.Copy(io.Discard, io.NewSectionReader(r, 0, 100))
			r.Close()
		}
		return err
	case appendonly.OpStat:
		_, err := f.Stat(p.path())
		return err
	case appendonly.OpList:
		_, err := list(f, p.path())
		return err
	case appendonly.OpHash:
		return f.Hash(p.path(), sha256.New())
	case appendonly.OpCreate:
		u, err := f.Create(p.path(), appendonly.CreateOptions{Create: true, Exclusive: true, Meta: meta})
		if err != nil {
			return err
		}
		return u.Close()
	case appendonly.OpRepeat:
		return put(f, p.path(), content)
	case appendonly.OpExtend:
		return put(f, p.path(), content+" and more")
	case appendonly.OpOverwrite:
		return put(f, p.path(), "other")
	case appendonly.OpRemove:
		return f.Remove(p.path())
	case appendonly.OpMkdir:
		return f.Mkdir(p.path(), meta)
	case appendonly.OpRmdir:
		return f.Rmdir(p.path())
	case appendonly.OpRename:
		if strings.Contains(p.name, "locks/") {
			free = p.dir + "/locks/" + strings.Repeat("b", 64)
		}
		return f.Rename(p.path(), free, false)
	case appendonly.OpLink:
		return f.Link(p.path(), free)
	case appendonly.OpSymlink:
		return f.Symlink("t", p.path(), meta)
	case appendonly.OpMknod:
		return f.Mknod(p.path(), appendonly.KindFifo, meta)
	case appendonly.OpSetTimes:
		meta.MTime = appendonly.Unix(5, 5)
		return f.SetMeta(p.path(), meta, false)
	case appendonly.OpSetMeta:
		meta.UID = 7
		return f.SetMeta(p.path(), meta, false)
	case appendonly.OpTighten:
		meta.Mode = 0o444
		if strings.HasSuffix(p.name, "x") {
			if i, err := f.Stat(p.path()); err == nil && i.Kind != appendonly.KindFile {
				meta.Mode = appendonly.DefaultMode(i.Kind) &^ 0o222
			}
		}
		return f.SetMeta(p.path(), meta, false)
	case appendonly.OpTruncate:
		return f.Truncate(p.path(), 3)
	case appendonly.OpReplace:
		return f.Replace(p.path(), []byte("replaced"), meta)
	}
	return fmt.Errorf("no way to do %s", op)
}

// plain lists where a client that may do an operation at all is told what stands there, as POSIX has it,
// and not asked for its right to do it. (Where the policy's reason is the kind of what stands there, either will do.)
var plain = map[string][]string{
	"read":     {"absent", "open", "new-dir", "dir", "reserved"},
	"stat":     {"absent", "reserved"},
	"create":   {"scratch"}, // only a free name, if it is asked for
	"list":     {"absent", "open", "fresh", "fresh-other", "settling", "repeated", "sealed", "managed", "link", "scratch", "view", "reserved"},
	"hash":     {"absent", "open", "new-dir", "dir", "reserved"},
	"mkdir":    {"fresh-other", "managed"},
	"symlink":  {"fresh-other", "managed"},
	"mknod":    {"fresh-other", "managed"},
	"rmdir":    {"open", "fresh"},
	"truncate": {"absent"},
}

// isPlain reports whether err is such an answer.
func isPlain(err error) bool {
	var p *fs.PathError
	return errors.As(err, &p) && !errors.Is(err, fs.ErrPermission)
}

// dump describes everything at a place: names, contents, attributes, versions, unfinished uploads.
func dump(t *testing.T, b *bench, p place) string {
	t.Helper()
	a := b.as("alice")
	var out []string
	var walk func(dir string)
	walk = func(dir string) {
		d, err := a.OpenDir(dir)
		ok(t, err)
		for {
			infos, err := d.Next(100)
			if err != nil {
				break
			}
			for _, i := range infos {
				path := dir + "/" + i.Name
				vs, _ := a.Versions(path)
				data, _ := get(a, path)
				out = append(out, fmt.Sprintf("%s %s %q %+v %d", path, i.Kind, data, i.Meta, len(vs)))
				if i.Kind == appendonly.KindDir {
					walk(path)
				}
			}
		}
	}
	walk(p.dir)
	if i, err := a.Stat(p.path()); err == nil && !i.Sealed {
		out = append(out, fmt.Sprintf("unsealed %+v", i))
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// TestFSAsksThePolicy brings a name into every state, does every operation, as every role, in both modes, and
// compares what happens with the matrix.
func TestFSAsksThePolicy(t *testing.T) { testFSAsksThePolicy(t, "") }

// The same inside a root.
func TestFSAsksThePolicyInRoot(t *testing.T) { testFSAsksThePolicy(t, "srv/web") }

func testFSAsksThePolicy(t *testing.T, root string) {
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			b := newBench(t, appendonly.Policy{Mode: mode})
			b.root = root
			n := 0
			for _, op := range appendonly.Ops() {
				for _, s := range appendonly.States() {
					for _, who := range []appendonly.Query{{Role: appendonly.Full}, {Role: appendonly.Push}, {Role: appendonly.Pull}, {Role: appendonly.Full, Suspended: true}} {
						n++
						q := who
						q.Mode, q.Op, q.State = mode, op, s
						if s == appendonly.StateRepeated && mode == appendonly.Versioned {
							continue // there the attributes of the same content again are recorded at once
						}
						tryCell(t, b, fmt.Sprintf("d%d", n), q)
					}
				}
			}
		})
	}
}

func tryCell(t *testing.T, b *bench, dir string, q appendonly.Query) {
	t.Helper()
	p := reachState(t, b, dir, q.State, q.Op)
	f := b.role("alice", q.Role)
	if got, err := f.StateAt(p.path()); err != nil || got != q.State {
		t.Fatalf("%s is %s, %v, instead of %s", p.path(), got, err, q.State)
	}
	q.Own = q.State == appendonly.StateFresh || q.State == appendonly.StateSettling || q.State == appendonly.StateManaged || q.State == appendonly.StateNewDir
	verdict := appendonly.Decide(q)
	before := dump(t, b, p)
	if q.Suspended {
		b.vault.SetPolicy(appendonly.Policy{Mode: q.Mode, Suspended: true})
		defer b.vault.SetPolicy(appendonly.Policy{Mode: q.Mode})
	}
	err := doOp(f, p, q.Op)
	at := fmt.Sprintf("%s on %s, %s %s, suspended %v", opName(q.Op), q.State, q.Mode, q.Role, q.Suspended)
	after := dump(t, b, p)
	kind := verdict.Why == "what stands there is of another kind"
	barred := verdict.Rule == appendonly.RuleRole || verdict.Rule == appendonly.RuleHold
	switch {
	case kind && isPlain(err):
	case (!barred || q.Op == appendonly.OpHash) && slices.Contains(plain[opName(q.Op)], q.State.String()):
		if !isPlain(err) {
			t.Errorf("%s: %v, want what POSIX says", at, err)
		}
	case verdict.Effect == appendonly.Deny:
		var d *appendonly.DeniedError
		if !errors.As(err, &d) || d.Rule != verdict.Rule {
			t.Errorf("%s: %v, want a refusal by %s", at, err, verdict.Rule)
		}
	case err != nil:
		t.Errorf("%s: %v, want %s", at, err, verdict.Effect)
	}
	checkEffect(t, b, p, at, q, verdict.Effect, err, before, after)
}

// checkEffect compares what was before with what is after.
func checkEffect(t *testing.T, b *bench, p place, at string, q appendonly.Query, e appendonly.Effect, err error, before, after string) {
	t.Helper()
	if err != nil || e == appendonly.Ignore || q.Op <= appendonly.OpHash {
		if before != after {
			t.Errorf("%s: %v, but it changed\n%s\ninto\n%s", at, err, before, after)
		}
		return
	}
	a := b.as("alice")
	info, serr := a.Stat(p.path())
	versions, _ := a.Versions(p.path())
	switch e {
	case appendonly.Drop:
		if !errors.Is(serr, fs.ErrNotExist) {
			t.Errorf("%s: it is still there: %+v, %v", at, info, serr)
		}
	case appendonly.Amend:
		least, most := 0, 1
		if q.Mode == appendonly.Versioned && (q.State == appendonly.StateSettling || q.State == appendonly.StateNewDir) {
			least, most = 2, 2 // it is another session that asks
		}
		if n := len(versions); n < least || n > most || before == after {
			t.Errorf("%s: %d versions, changed %v", at, len(versions), before != after)
		}
	case appendonly.Keep:
		gone := q.Op == appendonly.OpRemove || q.Op == appendonly.OpRename || q.Op == appendonly.OpRmdir
		if want := 2; gone && (!errors.Is(serr, fs.ErrNotExist) || len(versions) != 1) || !gone && len(versions) != want {
			t.Errorf("%s: %d versions, %v", at, len(versions), serr)
		}
		old := versions[len(versions)-1]
		if old.Kind == appendonly.KindFile && !attributes(q.Op) {
			want2 := content
			dir := "/.vault/versions/" + p.path()
			names, err := list(a, dir)
			ok(t, err)
			first, _, _ := strings.Cut(names, " ")
			want(t, a, dir+"/"+first, want2)
		}
	case appendonly.Allow:
		if before == after && q.State != appendonly.StateOpen {
			t.Errorf("%s: nothing happened", at)
		}
	}
}
