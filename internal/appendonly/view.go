package appendonly

import (
	"errors"
	"io"
	"io/fs"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/journal"
)

// vaultDir is the reserved name under which the past is found; shortForms are further names for what
// is in it, as long as no client's entry has them.
const vaultDir = ".vault"

var shortForms = map[string]string{".snapshots": "snapshots", ".at": "at", ".versions": "versions"}

// virtualDirs are the directories of /.vault.
var virtualDirs = []string{"at", "snapshots", "versions"}

// snapshotName is what a snapshot may be called.
var snapshotName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)

// maxLinks is how many symbolic links one path may lead through.
const maxLinks = 40

// node is what a path leads to: an entry (live or past), a lock, an own unfinished upload, or a
// directory of /.vault.
type node struct {
	entry *journal.Entry
	loc   journal.Loc
	when  Seq
	rel   string            // where the entry is, in its view
	snap  *journal.Snapshot // the snapshot in whose body it was found; nil: the index
	inode uint64            // there
	lock  *lockFile
	up    *Upload
	list  func(after string, n int) ([]Info, error) // of a virtual directory
	name  string
}

// virtual reports whether rel lies in the past, and whether it names the reserved place itself.
func (f *FS) virtual(rel string) (virtual, reserved bool) {
	first, rest, _ := strings.Cut(rel, "/")
	if first == vaultDir {
		kind, _, _ := strings.Cut(rest, "/")
		return true, !slices.Contains(virtualDirs, kind)
	}
	if _, short := shortForms[first]; !short || rest == "" {
		return false, false // a client may make .snapshots, .at and .versions: the long form stays
	}
	taken, err := f.taken(first)
	return err == nil && !taken, false
}

// taken reports whether a client's entry stands under a name in the session's root.
func (f *FS) taken(name string) (bool, error) {
	root, err := f.rootAt(journal.Now)
	if err != nil {
		return false, err
	}
	e, err := f.v.entry(journal.Loc{Dir: root.entry.Dir, Name: name})
	return e != nil, err
}

// lookup finds what path leads to, for reading. Links on the way are followed inside the tenant, in
// the same view; the last one only with follow.
func (f *FS) lookup(op Op, p string, follow bool) (node, error) {
	rel, err := clean(op, p)
	if err != nil {
		return node{}, err
	}
	if _, err := f.inTenant(op, rel); err != nil {
		return node{}, err
	}
	first, rest, _ := strings.Cut(rel, "/")
	if first == vaultDir {
		return f.inVault(op, rel, rest, follow)
	}
	if long, short := shortForms[first]; short {
		taken, err := f.taken(first)
		if err != nil {
			return node{}, err
		}
		if !taken {
			return f.inVault(op, rel, strings.TrimSuffix(long+"/"+rest, "/"), follow)
		}
	}
	return f.walk(op, rel, journal.Now, follow)
}

// inVault finds rest below /.vault.
func (f *FS) inVault(op Op, rel, rest string, follow bool) (node, error) {
	kind, rest, _ := strings.Cut(rest, "/")
	which, below, _ := strings.Cut(rest, "/")
	missing := pathError(op, "/"+rel, fs.ErrNotExist)
	switch {
	case kind == "":
		return virtualDir(vaultDir, virtualDirs...), nil
	case kind == "versions":
		return f.inVersions(op, rel, rest)
	case kind != "snapshots" && kind != "at":
		return node{}, missing
	case which == "" && kind == "at":
		return virtualDir("at"), nil // any time is an entry: none can be listed
	case which == "":
		return f.snapshotsDir()
	}
	var h *heldBody
	var when Seq
	var err error
	if kind == "snapshots" {
		var s journal.Snapshot
		if s, err = f.snapshot(which); err == nil {
			when = s.At
			if below != "" || op != OpStat { // what is told of the root itself is no reason to mount it
				h = f.v.holdBody(s)
				defer f.v.releaseBody(h)
			}
		}
	} else {
		when, err = f.instant(which)
	}
	if err != nil {
		return node{}, pathError(op, "/"+rel, err)
	}
	n, err := f.walkIn(op, below, when, h, follow)
	if below == "" {
		n.name = which
	}
	return n, err
}

// snapshot finds the snapshot with this name.
func (f *FS) snapshot(which string) (journal.Snapshot, error) {
	head := Seq(f.v.head.Load())
	f.mu.Lock()
	seq, known := f.snaps[which]
	known = known && (which != "latest" || f.latestAt == head)
	f.mu.Unlock()
	if known { // a client that reads a tree asks for each of its names
		if s, ok, err := f.v.idx.SnapshotAt(seq); err != nil || ok && (s.Name == which || which == "latest") {
			return s, err
		}
	}
	snaps, err := f.v.idx.Snapshots()
	if err != nil {
		return journal.Snapshot{}, err
	}
	i := slices.IndexFunc(snaps, func(s journal.Snapshot) bool { return s.Name == which })
	if which == "latest" {
		i = len(snaps) - 1
	}
	if i < 0 {
		return journal.Snapshot{}, fs.ErrNotExist
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.snaps) >= maxRemembered {
		clear(f.snaps)
	}
	f.snaps[which] = snaps[i].At
	if which == "latest" {
		f.latestAt = head
	}
	return snaps[i], nil
}

// instant resolves the name of a time. Times that depend on the present are resolved once in a session.
func (f *FS) instant(which string) (Seq, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if seq, ok := f.instants[which]; ok {
		return seq, nil
	}
	seq, err := f.v.InstantAt(which)
	if err != nil {
		return 0, err
	}
	if len(f.instants) >= maxRemembered {
		clear(f.instants)
	}
	f.instants[which] = seq
	return seq, nil
}

// InstantAt returns the instant of a time: RFC 3339 (also with - for : in the time, as snapshots are
// named), a date (its first second, UTC), or an age such as 90s, 30m, 2h, 3d, 1w (and sums: 1d12h). 0s is now.
// It fails with fs.ErrNotExist for anything else.
func (v *Vault) InstantAt(s string) (Seq, error) {
	now := v.cfg.Now()
	head := Seq(v.head.Load())
	t, ok := parseTime(s, now)
	if !ok {
		return 0, fs.ErrNotExist
	}
	if !t.Before(now) {
		return head, nil
	}
	seq, err := v.idx.At(t)
	return min(seq, head), err
}

var (
	ages    = regexp.MustCompile(`^([0-9]{1,6}[smhdw])+$`)
	age     = regexp.MustCompile(`([0-9]+)([smhdw])`)
	ageUnit = map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour, "d": 24 * time.Hour, "w": 7 * 24 * time.Hour}
	dashed  = regexp.MustCompile(`^(\d{4}-\d\d-\d\dT\d\d)-(\d\d)-(\d\d)`)
)

func parseTime(s string, now time.Time) (time.Time, bool) {
	if len(s) <= 32 && ages.MatchString(s) {
		for _, m := range age.FindAllStringSubmatch(s, -1) {
			n, _ := strconv.Atoi(m[1])
			if unit := ageUnit[m[2]]; time.Duration(n) < math.MaxInt64/unit {
				now = now.Add(-time.Duration(n) * unit)
			} else {
				return time.Time{}, true // before everything
			}
		}
		return now, true
	}
	s = dashed.ReplaceAllString(s, "$1:$2:$3")
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// walk finds rel in the session's tree as it is (Now) or was.
func (f *FS) walk(op Op, rel string, when Seq, follow bool) (node, error) {
	return f.walkIn(op, rel, when, nil, follow)
}

// walkIn is walk in the body h of a snapshot, of that instant, if there is one.
func (f *FS) walkIn(op Op, rel string, when Seq, h *heldBody, follow bool) (node, error) {
	asked := rel
	fail := func(err error) (node, error) { return node{}, pathError(op, "/"+asked, err) }
	root, err := f.rootAt(when)
	if h != nil {
		root, err = f.rootIn(h)
	}
	if err != nil {
		return node{}, err
	}
	at, rest := root, rel
	for links := 0; rest != ""; {
		name := rest
		name, rest, _ = strings.Cut(rest, "/")
		if at.entry.Kind != KindDir {
			return fail(ErrNotDir)
		}
		loc := journal.Loc{Dir: at.entry.Dir, Name: name}
		here := path.Join(at.rel, name)
		e, inode, err := f.lookIn(h, at, loc, when)
		if errors.Is(err, fs.ErrNotExist) {
			if when == journal.Now && rest == "" {
				if n, ok := f.unsealed(loc, here); ok {
					return n, nil
				}
			}
			return fail(fs.ErrNotExist)
		}
		if err != nil {
			return node{}, err
		}
		if e.Kind == KindSymlink && (rest != "" || follow) {
			if links++; links > maxLinks {
				return fail(ErrLoop)
			}
			target := e.Target
			if !strings.HasPrefix(target, "/") {
				target = at.rel + "/" + target
			}
			next, err := clean(op, target+"/"+rest)
			if err != nil {
				return node{}, err
			}
			at, rest = root, next
			continue
		}
		at = node{entry: e, loc: loc, when: when, rel: here, name: name, snap: root.snap, inode: inode}
	}
	return at, nil
}

// unsealed finds what only this moment knows under a name: a lock, or an unfinished upload of this key.
func (f *FS) unsealed(loc journal.Loc, rel string) (node, bool) {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	n := node{loc: loc, when: journal.Now, rel: rel, name: loc.Name, lock: f.v.scratch[loc]}
	if n.lock == nil {
		n.up = f.v.ownUpload(loc, f.who.Key)
	}
	return n, n.lock != nil || n.up != nil
}

func infoOf(name string, e *journal.Entry) Info {
	return Info{Name: name, Kind: e.Kind, Size: e.Size, Meta: metaAt(e.Meta, e.Received), Nlink: 1, Target: e.Target,
		From: e.From, Received: e.Received, Sealed: !e.Fresh, Content: e.ID, Linked: e.Linked}
}

func (f *FS) infoOfNode(n node) (Info, error) {
	switch {
	case n.list != nil:
		return Info{Name: n.name, Kind: KindDir, Meta: Meta{Mode: 0o555, UID: Unset, GID: Unset, MTime: journal.Unix(0, 0)}, Nlink: 1, Sealed: true}, nil
	case n.lock != nil:
		return n.lock.info(n.name), nil
	case n.up != nil:
		info := n.up.info(n.name)
		if n.up.f != f {
			info.Size = n.up.resumable() // what a client that was cut off can go on from
		}
		return info, nil
	}
	info := infoOf(n.name, n.entry)
	if n.entry.Linked && n.when == journal.Now {
		var err error
		if info.Nlink, err = f.links(n.entry.ID); err != nil {
			return info, err
		}
	}
	if n.loc == (journal.Loc{}) {
		info.Meta.MTime = journal.Unix(0, 0)
	}
	return info, nil
}

// Stat describes path without following a symlink at its end.
func (f *FS) Stat(path string) (Info, error) { return f.stat(path, false) }

// StatFollow describes what path leads to. Links are followed inside the tenant only.
func (f *FS) StatFollow(path string) (Info, error) { return f.stat(path, true) }

func (f *FS) stat(path string, follow bool) (Info, error) {
	n, err := f.lookup(OpStat, path, follow)
	if err != nil {
		return Info{}, err
	}
	return f.infoOfNode(n)
}

// Readlink returns the target of a symlink, as it was stored.
func (f *FS) Readlink(path string) (string, error) {
	n, err := f.lookup(OpStat, path, false)
	if err != nil {
		return "", err
	}
	if n.entry == nil || n.entry.Kind != KindSymlink {
		return "", pathError(OpStat, path, ErrNotSymlink)
	}
	return n.entry.Target, nil
}

// Resolve cleans path; the answer is absolute. Links are left as they are: a client that lists one
// and asks for it again means the link.
func (f *FS) Resolve(path string) (string, error) {
	rel, err := clean(OpStat, path)
	return "/" + rel, err
}

// Open opens a file for reading, following links inside the tenant.
func (f *FS) Open(path string) (r *File, err error) {
	defer func() { f.count.denied(err) }()
	if err := f.may(Query{Op: OpRead}, path); err != nil {
		return nil, err
	}
	if r, err = f.open(OpRead, path); err == nil {
		r.count = &f.count
		f.count.read(1, 0)
	}
	return r, err
}

func (f *FS) open(op Op, path string) (*File, error) {
	n, err := f.lookup(op, path, true)
	if err != nil {
		return nil, err
	}
	info, err := f.infoOfNode(n)
	if err == nil && op == OpHash && (n.lock != nil || n.entry != nil && n.entry.Kind == KindFile) {
		err = f.mayHash(path, n)
	}
	switch {
	case err != nil:
		return nil, err
	case n.lock != nil:
		return &File{content: lockReader{newLockContent(n.lock.data...)}, info: info}, nil
	case n.up != nil:
		return nil, pathError(op, path, fs.ErrNotExist)
	case info.Kind == KindDir:
		return nil, pathError(op, path, ErrIsDir)
	case info.Kind != KindFile:
		return nil, pathError(op, path, ErrNotRegular)
	}
	if n.snap != nil {
		return f.openInBody(path, n, info)
	}
	return f.openEntry(path, n.entry, info)
}

// mayHash asks the policy whether this key may have a digest of what n is.
func (f *FS) mayHash(path string, n node) error {
	q := Query{Op: OpHash}
	if n.lock != nil {
		q.Own = n.lock.key == f.who.Key
	} else {
		q.Own = n.entry.Key == f.who.Key
	}
	return f.may(q, path)
}

func (f *FS) openEntry(path string, e *journal.Entry, info Info) (*File, error) {
	void, err := f.v.idx.Void(e.ID)
	if err != nil {
		return nil, err
	}
	if void {
		return nil, pathError(OpRead, path, ErrQuarantined)
	}
	c, err := f.v.openContent(e.ID)
	if err != nil {
		return nil, err
	}
	if c.Size() != e.Size { // never serve as good what is not what was recorded
		c.Close()
		return nil, pathError(OpRead, path, ErrQuarantined)
	}
	hash, err := f.v.idx.Hash(e)
	if err != nil {
		c.Close()
		return nil, err
	}
	return &File{content: c, info: info, hash: hash}, nil
}

// Hash computes a digest of a file's content with h. A push key may ask for what it made itself.
func (f *FS) Hash(path string, h io.Writer) error {
	r, err := f.open(OpHash, path)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.CopyBuffer(struct{ io.Writer }{h}, io.NewSectionReader(r, 0, r.info.Size), make([]byte, 256<<10))
	return err
}

// Snapshots lists the tenant's snapshots, oldest first.
func (f *FS) Snapshots() ([]SnapshotInfo, error) { return f.v.Snapshots() }

// SnapshotInfo is a name for an instant.
type SnapshotInfo struct {
	Name string
	At   Seq
	Time time.Time
	Kind string // push, manual, or the schedule that made it
	// Chain is the record's hash in the journal's chain, in hex; only of a snapshot that was just taken.
	Chain string
}

// Usage is the tenant's account, in bytes and counts.
type Usage struct {
	Live, Versions, Staging, Journal int64 // bytes charged
	Files                            int64 // live names, directories included
	Limit                            int64 // hard limit in bytes; 0 is none
	FilesLimit                       int64 // 0 is none
}

// Used is what is charged against Limit.
func (u Usage) Used() int64 { return u.Live + u.Versions + u.Staging + u.Journal }

// Usage returns the tenant's account.
func (f *FS) Usage() Usage { return f.v.Usage() }

// Statfs returns the tenant's own numbers: its limit, or what the disk has where that is less.
func (f *FS) Statfs() (Space, error) { return f.v.vol.Space() }
