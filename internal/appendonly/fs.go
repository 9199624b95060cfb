package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"time"

	"vaultd/internal/journal"
)

// The journal's types that the verbs of FS speak of, so that protocol packages import only this one.
type (
	Kind = journal.Kind
	Meta = journal.Meta
	Time = journal.Time
	Seq  = journal.Seq
	ID   = journal.ID
)

// The kinds, by the names that protocol packages use.
const (
	KindFile     = journal.KindFile
	KindDir      = journal.KindDir
	KindSymlink  = journal.KindSymlink
	KindFifo     = journal.KindFifo
	KindSocket   = journal.KindSocket
	KindCharDev  = journal.KindCharDev
	KindBlockDev = journal.KindBlockDev
	Unset        = journal.Unset
)

// NoMeta is a Meta with nothing set.
func NoMeta() Meta { return journal.NoMeta() }

// Unix is the time stamp of these seconds and nanoseconds since 1970.
func Unix(sec int64, nsec uint32) Time { return journal.Unix(sec, nsec) }

// TimeAt converts t.
func TimeAt(t time.Time) Time { return journal.At(t) }

// Who is behind a session: taken from the verified key, written to the journal with the first change.
type Who struct {
	Key         string // the key's id in the catalog; "operator" for the operator's own acts
	Fingerprint string // SHA256:...
	Cert        string // the certificate that the key came with, in printable words; "" is none
	Role        Role
	Daily       Ceiling // what the key may add in a day
	Root        string  // the directory that is the session's "/", cleaned and relative; "": the tenant's root
	Protocol    string  // sftp, exec, ...
	Remote      string  // address:port
	Session     string  // the session's id in the logs
}

// FS is one session's view of one tenant, or of one directory of it (root.go): the only way for a protocol to
// reach tenant data. Paths are what clients send: absolute or relative to the session's root, any bytes but NUL; "..",
// "." and doubled slashes are resolved lexically and can not leave the root. /.vault/snapshots/NAME,
// /.vault/at/TIME, /.vault/versions/PATH (short: /.snapshots, /.at, /.versions) are read-only views.
//
// Errors: *DeniedError (a refusal), *fs.PathError with the client's path and fs.ErrNotExist,
// fs.ErrExist or one of this package's causes, *quota.ExceededError, ErrReadOnly, ErrClosed.
// An FS may be used by many goroutines.
type FS struct {
	v     *Vault
	who   Who
	since Seq // the newest record when the session began

	introduced bool // the journal knows who; guarded by v.mu
	changes    int  // of what is sealed; guarded by v.mu

	count counting

	mu       sync.Mutex // guards what follows
	uploads  map[*Upload]struct{}
	instants map[string]Seq // relative times, resolved once
	snaps    map[string]Seq // snapshots by name, where they were last
	latestAt Seq            // the newest record when snaps["latest"] was
	closed   bool
}

// Session begins a session. Its FS must be closed.
func (v *Vault) Session(who Who) *FS {
	v.sessions.Add(1)
	return &FS{v: v, who: who, since: journal.Seq(v.head.Load()), uploads: map[*Upload]struct{}{}, instants: map[string]Seq{}, snaps: map[string]Seq{},
		count: counting{watch: v.Policy().Watch}}
}

// DeleteFails is the policy's.
func (f *FS) DeleteFails() bool { return f.v.Policy().DeleteFails }

// Who returns the session's identity.
func (f *FS) Who() Who { return f.who }

// Close ends the session: open uploads are aborted, a barrier is made, and a push that changed
// something gets its snapshot. The exit status must be sent after it.
func (f *FS) Close(ctx context.Context) error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return ErrClosed
	}
	f.closed = true
	open := make([]*Upload, 0, len(f.uploads))
	for u := range f.uploads {
		open = append(open, u)
	}
	f.mu.Unlock()
	defer f.v.sessions.Add(-1)
	for _, u := range open {
		u.Abort()
	}
	f.v.mu.Lock()
	wrote, changed := f.introduced, f.changes > 0
	f.v.mu.Unlock()
	if !wrote {
		return nil
	}
	err := f.v.stabilize(ctx)
	if err == nil && changed && f.v.cfg.PushEnded != nil {
		f.v.cfg.PushEnded()
	}
	return err
}

// Barrier returns once everything that this tenant wrote before the call is on stable storage (P4),
// the bytes of open uploads included.
func (f *FS) Barrier(ctx context.Context) error {
	f.v.mu.Lock()
	for _, us := range f.v.uploads {
		for _, u := range us {
			if !u.locks {
				f.v.unsynced[u.id] = struct{}{}
			}
		}
	}
	f.v.mu.Unlock()
	return f.v.stabilize(ctx)
}

// started notes an upload of this session; ended forgets it.
func (f *FS) started(u *Upload) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return ErrClosed
	}
	f.uploads[u] = struct{}{}
	return nil
}

func (f *FS) ended(u *Upload) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.uploads, u)
}

// introduce writes the session to the journal before its first change. v.mu is held.
func (f *FS) introduce() error {
	if err := f.v.Err(); err != nil {
		return err
	}
	if f.introduced {
		return nil
	}
	r := f.record(journal.OpSession, "")
	r.Note = fmt.Sprintf("%s %s %s", f.who.Fingerprint, f.who.Remote, f.who.Protocol)
	if f.who.Cert != "" {
		r.Note += " " + f.who.Cert
	}
	if err := f.v.commit(r, journal.Loc{}, journal.Loc{}); err != nil {
		return err
	}
	f.introduced = true
	f.count.wrote()
	return nil
}

// changed notes that something sealed came or moved on. v.mu is held.
func (f *FS) changed() { f.changes++ }

// record begins a record of what this session does. Only the first one names the session's key twice.
func (f *FS) record(op journal.Op, rel string) *journal.Record {
	return &journal.Record{Op: op, Path: rel, Key: f.who.Key, Session: f.who.Session, Meta: NoMeta()}
}

// spot is a place that an operation asks about: what stands there and how this key stands to it.
type spot struct {
	loc   journal.Loc
	path  string         // as the session calls it: the only name of it that it is told
	rel   string         // in the tenant
	root  bool           // the session's root
	entry *journal.Entry // nil: nothing
	mode  Mode
	state State
	up    *Upload   // this key's unfinished upload under the name, if nothing else is there
	lock  *lockFile // a lock of a repository
	locks bool      // the name is one for locks, whether there is one or not
}

// spot finds the place of path for a change. Symlinks are not followed, neither on the way nor at the
// end. v.mu is held.
func (f *FS) spot(op Op, path string) (spot, error) {
	own, err := clean(op, path)
	if err != nil {
		return spot{}, err
	}
	rel, err := f.inTenant(op, own)
	if err != nil {
		return spot{}, err
	}
	s := spot{path: "/" + own, rel: rel, mode: f.v.policy.ModeAt(rel)}
	if virtual, reserved := f.virtual(own); virtual {
		s.state = StateView
		if reserved {
			s.state = StateReserved
		}
		return s, nil
	}
	if own == "" {
		return s, f.rootSpot(&s)
	}
	dir, name := split(rel)
	id, err := f.parent(op, &s)
	if err != nil {
		return s, err
	}
	s.loc = journal.Loc{Dir: id, Name: name}
	if s.entry, err = f.v.entry(s.loc); err != nil {
		return s, err
	}
	if s.entry == nil {
		s.lock = f.v.scratch[s.loc]
		if s.lock == nil {
			s.up = f.v.ownUpload(s.loc, f.who.Key)
		}
		s.locks = s.lock != nil || f.v.isLockName(dir, name)
	}
	s.state = f.stateOf(&s)
	return s, nil
}

// noParent explains why dir, the directory of path, can not be written to.
func (f *FS) noParent(op Op, path, dir string, err error) error {
	if !errors.Is(err, journal.ErrNotDir) {
		return wrapIndex(op, path, err)
	}
	for dir != "" {
		at, lerr := f.v.idx.Locate(dir)
		if lerr == nil {
			if e, _ := f.v.entry(at); e != nil && e.Kind == KindSymlink {
				return denied(op, path, noThrough)
			}
		}
		dir, _ = split(dir)
	}
	return pathError(op, path, ErrNotDir)
}

// stateOf says what this key finds at s. v.mu is held.
func (f *FS) stateOf(s *spot) State {
	e := s.entry
	now := f.v.cfg.Now()
	switch {
	case e == nil && s.lock != nil:
		return StateScratch
	case e == nil && s.up != nil:
		return StateOpen
	case e == nil:
		return StateAbsent
	case e.Fresh && e.Key == f.who.Key:
		return StateFresh
	case e.Fresh:
		return StateFreshOther
	case e.Managed:
		return StateManaged
	case e.Kind == KindDir && e.Settling(f.who.Key, now):
		return StateNewDir
	case e.Kind == KindDir:
		return StateDir
	case e.Settling(f.who.Key, now):
		return StateSettling
	}
	if r, ok := f.v.repeated[s.loc]; ok && r.key == f.who.Key && now.Sub(r.at).Abs() < journal.Settle {
		return StateRepeated
	}
	if e.Kind == KindSymlink {
		return StateLink
	}
	return StateSealed
}

func (f *FS) query(op Op, s *spot) Query {
	return Query{Mode: s.mode, Role: f.who.Role, Suspended: f.v.policy.Suspended, Op: op, State: s.state,
		Own: s.entry != nil && s.entry.Key == f.who.Key}
}

// decide asks the policy about op at s. v.mu is held.
func (f *FS) decide(op Op, s *spot) (Effect, error) {
	verdict := Decide(f.query(op, s))
	if verdict.Effect == Deny {
		return Deny, denied(op, s.path, verdict)
	}
	return verdict.Effect, nil
}

// may asks the policy about an operation that depends on the key alone.
func (f *FS) may(q Query, path string) error {
	q.Role = f.who.Role
	if verdict := Decide(q); verdict.Effect == Deny {
		return denied(q.Op, path, verdict)
	}
	return nil
}

func denied(op Op, path string, v Verdict) error {
	return &DeniedError{Op: op, Path: path, Rule: v.Rule, Why: v.Why, Hint: v.Hint}
}

// File is a content open for reading, at one instant for ever.
type File struct {
	content Content
	info    Info
	hash    journal.Hash
	count   *counting // where what is read counts; nil: nowhere
}

// ReadAt follows io.ReaderAt.
func (r *File) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fs.ErrInvalid
	}
	if off >= r.info.Size {
		return 0, io.EOF
	}
	n, err := r.content.ReadAt(p, off)
	if r.count != nil {
		r.count.read(0, int64(n))
	}
	return n, err
}

// Stat describes the file as it was opened.
func (r *File) Stat() Info { return r.info }

// SHA256 returns the digest that was recorded for the content; false while there is none.
func (r *File) SHA256() ([32]byte, bool) { return r.hash, !r.hash.IsZero() }

// Close releases the file.
func (r *File) Close() error { return r.content.Close() }
