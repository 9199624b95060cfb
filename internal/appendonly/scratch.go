package appendonly

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"strings"
	"sync"
	"time"

	"vaultd/internal/journal"
)

// Locks of recognised repositories are scratch: mutable, outside every promise, small, in memory with
// a note on disk, in listings and in no view. A lock never shadows what is sealed: a name that stands
// for something in the journal is no lock.

// The bounds on locks, per key (so that none can keep the others from locking) and per lock.
const (
	maxLocks     = 256
	maxLockBytes = 16 << 10
)

// lockFile is one lock. Guarded by the vault's lock; data is never changed in place.
type lockFile struct {
	data []byte
	key  string
	at   time.Time
}

// lockName matches the names of restic's (and borg 2's) locks and of restic's temporary files for them.
var lockName = regexp.MustCompile(`^[0-9a-f]{64}(-restic-temp-[0-9a-f]+)?$`)

// repositories are the layouts in which a directory "locks" holds locks: what must stand beside it.
var repositories = []map[string]journal.Kind{
	{"config": journal.KindFile, "data": journal.KindDir, "keys": journal.KindDir, "snapshots": journal.KindDir}, // restic
	{"config": journal.KindDir, "packs": journal.KindDir, "keys": journal.KindDir, "archives": journal.KindDir},  // borg 2
}

// isLockName reports whether name in the directory dir is one for a lock. mu is held.
func (v *Vault) isLockName(dir, name string) bool {
	repo, last := split(dir)
	if last != "locks" || !lockName.MatchString(name) {
		return false
	}
	id, err := v.idx.LiveDir(repo)
	if err != nil {
		return false
	}
	for _, layout := range repositories {
		ok := true
		for n, kind := range layout {
			e, err := v.entry(journal.Loc{Dir: id, Name: n})
			if ok = err == nil && e != nil && !e.Fresh && e.Kind == kind; !ok {
				break
			}
		}
		if ok {
			return true
		}
	}
	return false
}

// lockNote is a lock's form on disk.
type lockNote struct {
	Dir  journal.DirID
	Name string
	Key  string
	At   time.Time
	Data []byte
}

func lockNoteName(at journal.Loc) string {
	return fmt.Sprintf("%d-%s", uint64(at.Dir), hex.EncodeToString([]byte(at.Name)))
}

// putLock stores a closed lock. u.mu is held.
func (v *Vault) putLock(u *Upload, at journal.Loc) error {
	data := make([]byte, u.size)
	if _, err := u.staged.ReadAt(data, 0); err != nil && err != io.EOF {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.forgetUpload(u)
	if u.removed {
		return nil
	}
	if e, err := v.entry(at); err != nil || e != nil { // somebody stored a file there meanwhile
		if err == nil {
			err = denied(OpOverwrite, u.name, noRemoval)
		}
		return err
	}
	rel, err := v.livePath(at)
	if err == nil && !u.f.holds(rel) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return wrapIndex(OpCreate, u.name, err)
	}
	if l := v.scratch[at]; (l == nil || l.key != u.key) && v.locksOf(u.key) >= maxLocks {
		return &DeniedError{OpCreate, u.name, RuleSize, "there are too many locks", "Remove stale ones, for example with restic unlock"}
	}
	return v.storeLock(at, &lockFile{data: data, key: u.key, at: v.cfg.Now()})
}

func (v *Vault) storeLock(at journal.Loc, l *lockFile) error {
	b, err := json.Marshal(lockNote{at.Dir, at.Name, l.key, l.at, l.data})
	if err != nil {
		return err
	}
	if err := v.vol.PutNote(AreaScratch, lockNoteName(at), b); err != nil {
		if v.scratch[at] == nil { // it may be there all the same
			err = errors.Join(err, v.vol.RemoveNote(AreaScratch, lockNoteName(at)))
		}
		return err
	}
	v.scratch[at] = l
	return nil
}

// locksOf counts the locks of a key. mu is held.
func (v *Vault) locksOf(key string) int {
	n := 0
	for _, l := range v.scratch {
		if l.key == key {
			n++
		}
	}
	return n
}

// removeLock drops a lock. mu is held.
func (v *Vault) removeLock(at journal.Loc) error {
	if err := v.vol.RemoveNote(AreaScratch, lockNoteName(at)); err != nil {
		return err
	}
	delete(v.scratch, at)
	return nil
}

// moveLock renames a lock to another lock's name. mu is held.
func (v *Vault) moveLock(src, dst *spot, replace bool) error {
	switch {
	case dst.lock != nil && !replace, dst.entry != nil:
		return pathError(OpRename, dst.path, fs.ErrExist)
	case !dst.locks:
		return denied(OpRename, src.path, no(P2, "a lock can only be renamed among locks", ""))
	}
	if err := v.storeLock(dst.loc, src.lock); err != nil {
		return err
	}
	return v.removeLock(src.loc)
}

// holdsLocks reports whether a directory has locks in it. mu is held.
func (v *Vault) holdsLocks(dir journal.DirID) bool {
	for at := range v.scratch {
		if at.Dir == dir {
			return true
		}
	}
	return false
}

// loadLocks reads the locks of an earlier process.
func (v *Vault) loadLocks() error {
	notes, err := v.vol.Notes(AreaScratch)
	if err != nil {
		return err
	}
	for name, b := range notes {
		var n lockNote
		if err := json.Unmarshal(b, &n); err != nil || len(n.Data) > maxLockBytes || v.locksOf(n.Key) >= maxLocks {
			if err := v.vol.RemoveNote(AreaScratch, name); err != nil {
				return err
			}
			continue
		}
		v.scratch[journal.Loc{Dir: n.Dir, Name: n.Name}] = &lockFile{data: n.Data, key: n.Key, at: n.At}
	}
	return nil
}

func (l *lockFile) info(name string) Info {
	return Info{Name: name, Kind: KindFile, Size: int64(len(l.data)), Nlink: 1, Received: l.at,
		Meta: Meta{Mode: Unset, UID: Unset, GID: Unset, MTime: journal.At(l.at)}}
}

// lockContent is the content of a lock being written, or read.
type lockContent struct {
	mu   sync.Mutex
	data []byte
}

func newLockContent(data ...byte) *lockContent {
	return &lockContent{data: append([]byte(nil), data...)}
}

var errLockSize = &DeniedError{OpCreate, "lock", RuleSize, fmt.Sprintf("a lock may have %d bytes", maxLockBytes), ""}

func (c *lockContent) WriteAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off < 0 || off > maxLockBytes || int64(len(p)) > maxLockBytes-off {
		return 0, errLockSize
	}
	c.grow(off + int64(len(p)))
	return copy(c.data[off:], p), nil
}

func (c *lockContent) grow(size int64) {
	if n := size - int64(len(c.data)); n > 0 {
		c.data = append(c.data, make([]byte, n)...)
	}
}

func (c *lockContent) ReadAt(p []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.NewReader(string(c.data)).ReadAt(p, off)
}

func (c *lockContent) Truncate(size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if size < 0 || size > maxLockBytes {
		return errLockSize
	}
	c.grow(size)
	c.data = c.data[:size]
	return nil
}

func (c *lockContent) CopyFrom(src Content, srcOff, dstOff, n int64) error {
	if n > maxLockBytes {
		return errLockSize
	}
	buf := make([]byte, n)
	if _, err := src.ReadAt(buf, srcOff); err != nil && err != io.EOF {
		return err
	}
	_, err := c.WriteAt(buf, dstOff)
	return err
}

func (c *lockContent) Size() (int64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return int64(len(c.data)), nil
}

func (c *lockContent) SetMeta(journal.Kind, Meta) {}

func (c *lockContent) Close() error { return nil }

// lockReader is a lock opened for reading.
type lockReader struct{ *lockContent }

func (r lockReader) Size() int64 {
	n, _ := r.lockContent.Size()
	return n
}
