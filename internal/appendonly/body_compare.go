package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"vaultd/internal/journal"
)

// CompareOptions say how a snapshot's body is compared with the index.
type CompareOptions struct {
	Hash bool // read the bytes, too, and compare them with the digests in the journal
	// Pace is called with the bytes that are to be read next and returns when they may be. It fails to stop. May be nil.
	Pace func(ctx context.Context, n int) error
}

// Difference is something that the two views of a snapshot do not show alike.
type Difference struct {
	Path string // relative to the tenant's root; "" is the tenant
	What string // missing, extra, type, size, content, target, mode, owner, device, mtime, attribute NAME, hash, journal
	// What each of them says.
	Index, Body string
}

// Compared is how far a comparison has come.
type Compared struct {
	Names   int64 // looked at, of either
	Bytes   int64 // read
	Unknown int64 // contents that have no digest yet
	Amended int64 // names whose key set their attributes after the snapshot, as it may for a while: the index shows those
}

const (
	compareBatch = 256  // names of a directory at a time
	maxAmended   = 4096 // differences of attributes that wait for what the journal says after the snapshot
)

// ErrNoBody says that a snapshot is in the journal and the file system has none for it.
var ErrNoBody = errors.New("there is nothing to compare: the snapshot is in the journal, and the file system keeps none for it")

// CompareSnapshot walks both views of a snapshot in step: what the index has of its instant, and its body. differs is called for each difference; a
// directory that only one of them has is one, with all that is below it. each is called now and then. Memory does not grow with the tree. It fails with
// fs.ErrNotExist for a name of no snapshot, with ErrNoBody, or with why the body can not be read.
//
// Attributes of directories and symlinks, and what no client set, are in the journal alone and not compared.
func (v *Vault) CompareSnapshot(ctx context.Context, name string, o CompareOptions, differs func(Difference), each func(Compared)) error {
	snaps, err := v.idx.Snapshots()
	if err != nil {
		return err
	}
	i := slices.IndexFunc(snaps, func(s journal.Snapshot) bool { return s.Name == name })
	if i < 0 {
		return &fs.PathError{Op: "compare", Path: name, Err: fs.ErrNotExist}
	}
	h, err := v.findBody(snaps[i], true)
	if errors.Is(err, ErrNoBodies) || errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("compare snapshot %q: %w", name, ErrNoBody)
	}
	if err != nil {
		return fmt.Errorf("compare snapshot %q: read its body: %w", name, err)
	}
	defer v.releaseBody(h)
	c := &comparison{v: v, h: h, o: o, ctx: ctx, differs: differs, each: each}
	if err := c.dir("", 0); err != nil {
		return fmt.Errorf("compare snapshot %q: %w", name, err)
	}
	if err := c.history(); err != nil {
		return fmt.Errorf("compare snapshot %q: %w", name, err)
	}
	each(c.done)
	return nil
}

// comparison is one CompareSnapshot.
type comparison struct {
	v       *Vault
	h       *heldBody
	o       CompareOptions
	ctx     context.Context // of the call
	differs func(Difference)
	each    func(Compared)
	done    Compared
	waiting []amended
}

// amended is a difference of attributes that may have been made after the snapshot: the index amends an entry that its key has just made.
type amended struct {
	d      Difference
	key    string
	linked bool
}

func (c *comparison) say(path, what, index, body string) {
	c.differs(Difference{Path: path, What: what, Index: index, Body: body})
}

// dir compares a directory that both have; its directories come after it, one at a time: only the way down is kept.
func (c *comparison) dir(path string, id journal.DirID) error {
	if err := c.names(path, id); err != nil {
		return err
	}
	for after := ""; ; {
		var next string
		var sub journal.DirID
		err := c.v.idx.Each(id, c.h.snap.At, after, func(name string, e *journal.Entry) bool {
			if e.Kind == KindDir {
				next, sub = name, e.Dir
			}
			return next == ""
		})
		if err != nil || next == "" {
			return err
		}
		after = next
		raws, err := c.h.Look(path, []string{next})
		if err != nil {
			return err
		}
		if raws[0].Kind != KindDir {
			continue // it was told
		}
		if err := c.dir(join(path, next), sub); err != nil {
			return err
		}
	}
}

// names compares the names of one directory, both sides sorted.
func (c *comparison) names(path string, id journal.DirID) error {
	disk := &bodyNames{dir: path}
	var known []journal.Named
	var found []string
	knownAfter, foundAfter := "", ""
	for {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		var err error
		if len(known) == 0 {
			if known, err = c.v.idx.List(id, c.h.snap.At, knownAfter, compareBatch); err != nil {
				return err
			}
		}
		if len(found) == 0 {
			if found, err = disk.after(c.h, foundAfter, compareBatch); err != nil {
				return err
			}
		}
		n := 0
		var both []*journal.Entry
		for ; n < min(len(known), len(found)) && known[n].Name == found[n]; n++ {
			both = append(both, known[n].Entry)
		}
		switch {
		case n > 0:
			err = c.entries(path, found[:n], both)
			knownAfter, foundAfter = found[n-1], found[n-1]
			known, found = known[n:], found[n:]
		case len(known) == 0 && len(found) == 0:
			return nil
		case len(found) == 0 || len(known) > 0 && known[0].Name < found[0]:
			c.one(path, known[0].Name, "missing", known[0].Kind, journal.KindNone)
			knownAfter, known = known[0].Name, known[1:]
		default:
			var raws []RawEntry
			if raws, err = c.h.Look(path, found[:1]); err == nil {
				c.one(path, found[0], "extra", journal.KindNone, raws[0].Kind)
				foundAfter, found = found[0], found[1:]
			}
		}
		if err != nil {
			return err
		}
	}
}

// one tells of a name that one side alone has.
func (c *comparison) one(dir, name, what string, index, body Kind) {
	c.count()
	say := func(k Kind) string {
		if k == journal.KindNone {
			return "nothing"
		}
		return k.String()
	}
	c.say(join(dir, name), what, say(index), say(body))
}

func (c *comparison) count() {
	if c.done.Names++; c.done.Names%compareBatch == 0 {
		c.each(c.done)
	}
}

// entries compares names that both have.
func (c *comparison) entries(dir string, names []string, known []*journal.Entry) error {
	raws, err := c.h.Look(dir, names)
	if err != nil {
		return err
	}
	for i, e := range known {
		c.count()
		if err := c.entry(join(dir, names[i]), e, &raws[i]); err != nil {
			return err
		}
	}
	return nil
}

func (c *comparison) entry(path string, e *journal.Entry, raw *RawEntry) error {
	switch {
	case e.Kind != raw.Kind:
		c.say(path, "type", e.Kind.String(), raw.Kind.String())
		return nil
	case e.Kind == KindSymlink && e.Target != raw.Target:
		c.say(path, "target", e.Target, raw.Target)
	}
	if !e.Kind.HasContent() {
		return nil
	}
	c.meta(path, e, raw)
	inode, err := c.h.Inode(e.ID)
	switch {
	case e.Size != raw.Size:
		c.say(path, "size", fmt.Sprint(e.Size), fmt.Sprint(raw.Size))
		return nil
	case errors.Is(err, fs.ErrNotExist):
		c.say(path, "content", e.ID.String(), "another, and this one is not in the body")
		return nil
	case err != nil:
		return err
	case inode != raw.Inode:
		c.say(path, "content", e.ID.String(), "another")
		return nil
	}
	if c.o.Hash && e.Kind == KindFile {
		return c.hash(path, e)
	}
	return nil
}

// hash reads a file of the body.
func (c *comparison) hash(path string, e *journal.Entry) error {
	want, err := c.v.idx.Hash(e)
	if err != nil {
		return err
	}
	if want.IsZero() && e.Size > 0 {
		c.done.Unknown++
		return nil
	}
	content, err := c.h.Open(path)
	if err != nil {
		c.say(path, "hash", want.String(), "it can not be opened: "+err.Error())
		return nil
	}
	defer content.Close()
	got, err := hashContent(&pacedReader{c: c, r: content}, e.Size)
	switch {
	case c.ctx.Err() != nil:
		return c.ctx.Err()
	case err != nil:
		c.say(path, "hash", want.String(), "it can not be read: "+err.Error())
	case e.Size > 0 && got != want:
		c.say(path, "hash", want.String(), got.String())
	}
	return nil
}

// pacedReader reads for a comparison, no faster than it may.
type pacedReader struct {
	c *comparison
	r io.ReaderAt
}

func (p *pacedReader) ReadAt(b []byte, off int64) (int, error) {
	if err := p.c.ctx.Err(); err != nil {
		return 0, err
	}
	if p.c.o.Pace != nil {
		if err := p.c.o.Pace(p.c.ctx, len(b)); err != nil {
			return 0, err
		}
	}
	n, err := p.r.ReadAt(b, off)
	p.c.done.Bytes += int64(n)
	p.c.each(p.c.done)
	return n, err
}

// meta compares what the disk carries of a file's attributes.
func (c *comparison) meta(path string, e *journal.Entry, raw *RawEntry) {
	want, have := c.h.Carries(e.Kind, e.Meta), raw.Meta
	var out []Difference
	add := func(what string, differ bool, index, body string) {
		if differ {
			out = append(out, Difference{path, what, index, body})
		}
	}
	add("mode", want.Mode != have.Mode, octal(want.Mode), octal(have.Mode))
	add("owner", want.UID != have.UID || want.GID != have.GID, fmt.Sprintf("%d:%d", want.UID, want.GID), fmt.Sprintf("%d:%d", have.UID, have.GID))
	add("device", want.RDev != have.RDev, fmt.Sprintf("%d,%d", want.RDev>>32, uint32(want.RDev)), fmt.Sprintf("%d,%d", have.RDev>>32, uint32(have.RDev)))
	add("mtime", !want.MTime.IsZero() && want.MTime != have.MTime, stampOf(want.MTime), stampOf(have.MTime))
	for name, val := range want.XAttrs {
		add("attribute "+name, string(have.XAttrs[name]) != string(val), fmt.Sprintf("%d bytes", len(val)), fmt.Sprintf("%d bytes", len(have.XAttrs[name])))
	}
	for name, val := range have.XAttrs {
		_, known := want.XAttrs[name]
		add("attribute "+name, !known, "none", fmt.Sprintf("%d bytes", len(val)))
	}
	slices.SortStableFunc(out, func(a, b Difference) int { return strings.Compare(a.What, b.What) })
	young := c.h.snap.Time.Sub(e.Received).Abs() < journal.Settle || c.h.snap.Time.Sub(e.Since).Abs() < journal.Settle
	for _, d := range out {
		if young && len(c.waiting) < maxAmended {
			c.waiting = append(c.waiting, amended{d, e.Key, e.Linked})
		} else {
			c.differs(d)
		}
	}
}

func octal(mode int32) string {
	if mode == Unset {
		return "unset"
	}
	return fmt.Sprintf("%#o", mode)
}

func stampOf(t Time) string {
	if t.IsZero() {
		return "unset"
	}
	return fmt.Sprintf("%d.%09d", t.Sec(), t.Nsec())
}

// errFar ends the reading of the journal behind the snapshot.
var errFar = errors.New("far enough")

// history compares the chain at the snapshot with the journal as it is now, and finds out which differences of attributes were made by the
// names' own keys right after the snapshot.
func (c *comparison) history() error {
	if len(c.waiting) > 0 { // what was said lately is in the open segment
		if err := c.v.closeSegment(nil, false); err != nil && !errors.Is(err, ErrReadOnly) {
			return err
		}
	}
	at, err := journal.SnapshotAtEnd(c.h, c.h.snap.Name)
	if err != nil {
		return err
	}
	end := at.Time.Add(journal.Settle)
	paths, keys := map[string]bool{}, map[string]bool{}
	for _, w := range c.waiting {
		paths[w.d.Path] = false
	}
	_, err = journal.NewReader(c.v.cfg.Segments).Closed(journal.Head{Seq: at.Seq, Chain: at.Chain}, func(r *journal.Record) error {
		if r.Time.After(end) || len(c.waiting) == 0 {
			return errFar
		}
		if r.Op == journal.OpMeta {
			if _, asked := paths[r.Path]; asked {
				paths[r.Path] = true
			}
			keys[r.Key] = true
		}
		return c.ctx.Err()
	})
	if errors.Is(err, journal.ErrCorrupt) {
		c.say("", "journal", err.Error(), fmt.Sprintf("record %d has chain %s", at.Seq, at.Chain))
		err = nil
	}
	if err != nil && !errors.Is(err, errFar) {
		return err
	}
	last := ""
	for _, w := range c.waiting {
		if !paths[w.d.Path] && !(w.linked && keys[w.key]) {
			c.differs(w.d)
		} else if w.d.Path != last {
			c.done.Amended++
			last = w.d.Path
		}
	}
	return nil
}
