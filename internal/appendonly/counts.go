package appendonly

import (
	"errors"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"sync"
	"syscall"

	"vaultd/internal/journal"
)

// Work is how many files, and how many bytes of content.
type Work struct {
	Files int64 `json:"files"`
	Bytes int64 `json:"bytes"`
}

// Plus is both.
func (w Work) Plus(x Work) Work { return Work{w.Files + x.Files, w.Bytes + x.Bytes} }

// Denial is what kind of request was refused, and for which promise.
type Denial struct {
	Op   Op
	Rule Rule
}

// Counts is what a session did, as the core saw it: a name counts when it begins or ceases to stand for something, not when its bytes come.
type Counts struct {
	New       Work // ordinary names that stand for content which this session brought; links and special files have no bytes
	Unchanged Work // what the client sent, or offered, was there already
	Refused   Work // uploads that a promise forbade
	Failed    Work // uploads that came to nothing for another reason: quota, disk, a connection that was lost, a client that gave up
	Retired   Work // live names that stand for something else or for nothing since (versioned mode)
	Dirs      int64
	Read      Work // files opened for their content, and what was read of it

	Wrote      bool             // the journal knows of it
	Repository bool             // objects of a restic repository were stored
	Snapshots  int64            // those of them that are snapshots
	Denied     map[Denial]int64 // requests that were refused; nil: none
	OverQuota  int64            // requests that the tenant's quota did not allow
	Under      map[string]Work  // New and Unchanged below each directory of Policy.Watch; nil: none
}

// Changing is how many requests to change something were refused.
func (c *Counts) Changing() (n int64) {
	for d, k := range c.Denied {
		if d.Op.Changes() {
			n += k
		}
	}
	return n
}

// Changes reports whether the operation would change something.
func (o Op) Changes() bool { return o > OpHash }

// counting is a session's Counts while it runs. Its lock is a leaf: nothing is locked under it.
type counting struct {
	watch []string // of the policy when the session began

	mu      sync.Mutex // guards what follows
	n       Counts
	missing map[string]bool // paths that were to be created in a directory that is not there; clients make it and try again
}

// maxAbsent bounds counting.missing; what is beyond is not counted.
const maxAbsent = 1024

// Counts returns what the session did so far.
func (f *FS) Counts() Counts {
	f.count.mu.Lock()
	defer f.count.mu.Unlock()
	n := f.count.n
	n.Failed.Files += int64(len(f.count.missing))
	n.Denied, n.Under = maps.Clone(n.Denied), maps.Clone(n.Under)
	return n
}

// Unchanged notes that the protocol itself found, without an upload, that path holds what the client has (rsync's quick check).
func (f *FS) Unchanged(path string, size int64) {
	own, err := clean(OpRepeat, path)
	if err != nil {
		return
	}
	rel, err := f.inTenant(OpRepeat, own)
	if err != nil {
		return
	}
	f.count.unchanged(rel, size)
}

// Refused notes an upload that the protocol did not begin, since Ask said that it would be refused.
func (f *FS) Refused(err error, size int64) {
	f.count.denied(err)
	f.count.lost(err, size)
}

// Denied notes another request that the protocol did not make, for the same reason.
func (f *FS) Denied(err error) { f.count.denied(err) }

func (c *counting) unchanged(rel string, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.Unchanged = c.n.Unchanged.Plus(Work{1, size})
	c.under(rel, Work{1, size})
}

// came notes that rel stands for something that this session brought.
func (c *counting) came(rel string, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.New = c.n.New.Plus(Work{1, size})
	c.under(rel, Work{1, size})
}

// under adds to the watched directories that rel is in. mu is held.
func (c *counting) under(rel string, w Work) {
	for _, dir := range c.watch {
		if !within(rel, dir) {
			continue
		}
		if c.n.Under == nil {
			c.n.Under = map[string]Work{}
		}
		c.n.Under[dir] = c.n.Under[dir].Plus(w)
	}
}

func (c *counting) retired(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.Retired = c.n.Retired.Plus(Work{1, size})
}

func (c *counting) wrote() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.Wrote = true
}

func (c *counting) madeDir() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.Dirs++
}

func (c *counting) read(files, bytes int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n.Read = c.n.Read.Plus(Work{files, bytes})
}

// lost notes an upload that came to nothing because of err.
func (c *counting) lost(err error, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.As(err, new(*DeniedError)) {
		c.n.Refused = c.n.Refused.Plus(Work{1, size})
	} else {
		c.n.Failed = c.n.Failed.Plus(Work{1, size})
	}
}

// created notes how Create ended. What only says how things are is no failure: clients ask that way.
func (c *counting) created(path string, o CreateOptions, err error) {
	c.mu.Lock()
	switch {
	case err == nil:
		delete(c.missing, path)
	case o.Create && errors.Is(err, fs.ErrNotExist) && len(c.missing) < maxAbsent:
		if c.missing == nil {
			c.missing = map[string]bool{}
		}
		c.missing[path] = true
	}
	c.mu.Unlock()
	if err == nil {
		return
	}
	for _, harmless := range []error{fs.ErrNotExist, fs.ErrExist, ErrIsDir, ErrNotDir, ErrClosed} {
		if errors.Is(err, harmless) {
			return
		}
	}
	c.denied(err)
	c.lost(err, 0)
}

// denied notes that a request ended with err, if it is a refusal.
func (c *counting) denied(err error) {
	if err == nil {
		return
	}
	if errors.Is(err, syscall.EDQUOT) {
		c.mu.Lock()
		c.n.OverQuota++
		c.mu.Unlock()
		return
	}
	var d *DeniedError
	if !errors.As(err, &d) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n.Denied == nil {
		c.n.Denied = map[Denial]int64{}
	}
	c.n.Denied[Denial{d.Op, d.Rule}]++ // bounded: operations and rules are few
}

// objectName is what restic calls everything in its repositories but the configuration.
var objectName = regexp.MustCompile(`^[0-9a-f]{64}$`)

// resticDirs stand in every restic repository, from before its configuration on (layout default of sftp).
var resticDirs = []string{"data", "index", "keys", "snapshots"}

// arrived notes what letting rel stand for size bytes was to there, what it stood for before. v.mu is held.
func (f *FS) arrived(op Op, rel string, size int64, there *journal.Entry) {
	if op == OpExtend && there != nil {
		f.count.came(rel, size-there.Size)
		return
	}
	if there != nil && !there.Fresh {
		f.count.retired(there.Size)
	}
	f.stored(rel, size)
}

// stored notes that rel came to stand for an ordinary file of size bytes, and what that is in a restic repository. v.mu is held.
func (f *FS) stored(rel string, size int64) {
	f.count.came(rel, size)
	dir, name := split(rel)
	if len(name) != 64 || !objectName.MatchString(name) {
		return
	}
	repo, kind := split(dir)
	if up, data := split(repo); data == "data" && len(kind) == 2 {
		repo, kind = up, data
	}
	if !slices.Contains(resticDirs, kind) || !f.v.isRestic(repo) {
		return
	}
	f.count.mu.Lock()
	defer f.count.mu.Unlock()
	f.count.n.Repository = true
	if kind == "snapshots" {
		f.count.n.Snapshots++
	}
}

// isRestic reports whether a directory looks like a restic repository. mu is held.
func (v *Vault) isRestic(repo string) bool {
	id, err := v.idx.LiveDir(repo)
	if err != nil {
		return false
	}
	for _, name := range resticDirs {
		if e, err := v.entry(journal.Loc{Dir: id, Name: name}); err != nil || e == nil || e.Kind != journal.KindDir {
			return false
		}
	}
	return true
}
