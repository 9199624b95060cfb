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

// CreateOptions say how a name is opened for writing.
type CreateOptions struct {
	Create    bool // the name may be new; otherwise a missing one is fs.ErrNotExist
	Exclusive bool // the name must be new, else fs.ErrExist
	Truncate  bool // start empty; otherwise from what the name holds (or from an interrupted upload of this key)
	Resume    bool // start from this key's interrupted upload, whatever the name holds, or else empty
	Append    bool // writes below the initial length are taken relative to it
	Meta      Meta // as far as the client said
}

// Create opens path for writing. No name is claimed, nothing visible changes before Upload.Close.
func (f *FS) Create(path string, o CreateOptions) (up *Upload, err error) {
	defer func() { f.count.created(path, o, err) }()
	meta, err := mergeMeta(NoMeta(), o.Meta)
	if err != nil {
		return nil, err
	}
	for {
		u, running, err := f.create(path, o, meta)
		if running == nil {
			return u, err
		}
		if running.f == f {
			if running.join() {
				return running, nil
			}
		} else {
			running.Abort()
		}
	}
}

// create is Create, unless this key is still writing the name without having truncated it: then it
// returns that upload. A second handle of the same session shares it. One of another session is taken for
// lost, as its client must have: what arrived is gone on with, or the client, which was told
// how much is there, would leave a hole.
func (f *FS) create(path string, o CreateOptions, meta Meta) (u, running *Upload, err error) {
	u = &Upload{f: f, v: f.v, id: journal.NewID(), key: f.who.Key, handles: 1, append: -1, bound: -1, meta: meta, opened: f.v.cfg.Now()}
	f.v.lockNames()
	var s spot
	if o.Create {
		err = f.needRoot(path)
	}
	if err == nil {
		s, err = f.spot(OpCreate, path)
	}
	if err == nil {
		err = f.admitUpload(&s, o)
	}
	if err != nil {
		f.v.mu.Unlock()
		return nil, nil, err
	}
	if !o.Truncate && !o.Exclusive {
		if up := f.v.ownUpload(s.loc, f.who.Key); up != nil && !up.interrupted && (up.f == f || s.entry == nil) {
			f.v.mu.Unlock()
			return nil, up, nil
		}
	}
	u.name, u.loc, u.locks = s.path, s.loc, s.locks
	resumed := f.takeUp(u, &s, o)
	o.Truncate = o.Truncate || o.Resume && resumed == nil
	f.v.mu.Unlock()
	err = u.begin(&s, o, resumed)
	f.v.mu.Lock()
	if err != nil {
		f.v.giveBack(u, resumed)
	} else {
		f.v.addUpload(u)
	}
	f.v.mu.Unlock()
	if err != nil {
		return nil, nil, err
	}
	if err := f.started(u); err != nil {
		u.Abort()
		return nil, nil, err
	}
	return u, nil, nil
}

// admitUpload refuses at once what closing the upload could only refuse. v.mu is held.
func (f *FS) admitUpload(s *spot, o CreateOptions) error {
	if err := f.writes(OpCreate, s); err != nil {
		return err
	}
	ask := OpCreate
	if s.entry != nil {
		ask = OpRepeat // whether it is the same, only its bytes can tell
	}
	if s.state == StateView || s.state == StateReserved || s.entry == nil || s.entry.Kind == KindFile {
		if _, err := f.decide(ask, s); err != nil {
			return err
		}
	}
	if err := f.v.Err(); err != nil && !s.locks {
		return err
	}
	switch e := s.entry; {
	case e == nil && s.lock == nil && !o.Create && s.up == nil:
		return pathError(OpCreate, s.path, fs.ErrNotExist)
	case (e != nil || s.lock != nil) && o.Exclusive:
		return pathError(OpCreate, s.path, fs.ErrExist)
	case e == nil:
	case e.Kind == KindDir:
		return pathError(OpCreate, s.path, ErrIsDir)
	case e.Kind == KindSymlink:
		return denied(OpOverwrite, s.path, noThrough)
	case e.Kind != KindFile:
		return pathError(OpCreate, s.path, ErrNotRegular)
	}
	if !s.locks {
		if err := f.mayRecord(1); err != nil {
			return err
		}
	}
	if f.v.uploadCount >= maxUploads && !s.locks { // who is attacked can still lock (P7)
		return &DeniedError{OpCreate, s.path, RuleSize, "there are too many unfinished uploads", "Finish some first"}
	}
	return nil
}

// takeUp finds the interrupted upload that u goes on with, and drops it when u starts anew. Where
// the name stands for something, that is what the client was shown and means, unless it says otherwise. The note of what is
// gone on with stays: what it tells of the bytes so far is as true as before. v.mu is held.
func (f *FS) takeUp(u *Upload, s *spot, o CreateOptions) *Upload {
	old := f.v.interruptedUpload(s.loc, f.who.Key)
	if old == nil {
		return nil
	}
	if o.Truncate || o.Exclusive || s.entry != nil && !o.Resume {
		f.v.dropUpload(old)
		return nil
	}
	u.noted, old.noted = old.noted, false
	f.v.forgetUpload(old)
	f.v.handOn(old, u)
	u.id, u.under, u.stable = old.id, old.under, old.stable
	return old
}

// giveBack undoes takeUp: u could not be begun. mu is held.
func (v *Vault) giveBack(u, resumed *Upload) {
	if resumed == nil {
		v.discard(u.id)
		return
	}
	resumed.noted = u.noted
	v.handOn(u, resumed)
	v.addUpload(resumed)
}

// addUpload puts u into the table of uploads, as the newest under its name. mu is held.
func (v *Vault) addUpload(u *Upload) {
	v.uploads[u.loc] = append(v.uploads[u.loc], u)
	v.uploadCount++
}

// begin opens u's content: the interrupted one's, or a new one.
func (u *Upload) begin(s *spot, o CreateOptions, resumed *Upload) error {
	var err error
	switch {
	case u.locks:
		u.staged, u.trunc, u.digest = newLockContent(), true, newDigest(-1)
		if s.lock != nil && !o.Truncate {
			u.staged, u.size = newLockContent(s.lock.data...), int64(len(s.lock.data))
		}
	case resumed != nil:
		u.staged, err = u.v.vol.Resume(u.id)
		u.size, u.ranges, u.digest, u.trunc = resumed.size, extents{{0, resumed.size}}, resumed.digest, resumed.trunc
		if o.Meta.Mode == Unset {
			u.meta.Mode = resumed.meta.Mode
		}
	default:
		err = u.beginNew(s, o)
	}
	if err != nil {
		return err
	}
	if o.Append {
		u.append = u.size
	}
	return nil
}

func (u *Upload) beginNew(s *spot, o CreateOptions) error {
	var err error
	mark := int64(-1)
	u.under, u.trunc = s.entry, o.Truncate || s.entry == nil
	if e := s.entry; e != nil && !e.Fresh && s.mode == Strict {
		mark = e.Size
		if u.extends(e) != OpExtend {
			u.bound = e.Size // longer can only be refused: at the first byte too many
		}
	}
	u.digest = newDigest(mark)
	if !u.trunc {
		if u.base, err = u.v.openContent(s.entry.ID); err != nil {
			return err
		}
		u.visible, u.size = s.entry.Size, s.entry.Size
		u.digest.hasty = true // what it does not write is there: nothing to wait for
	}
	if mark >= 0 && u.f.who.Role != Push {
		if u.sealed, err = u.v.openContent(s.entry.ID); err != nil {
			u.closeSources()
			return err
		}
	}
	if u.staged, err = u.v.vol.Stage(u.id); err != nil {
		u.closeSources()
	}
	return err
}

// ownUpload returns the newest unfinished upload of key under a name. mu is held.
func (v *Vault) ownUpload(at journal.Loc, key string) *Upload {
	us := v.uploads[at]
	for i := len(us) - 1; i >= 0; i-- {
		if us[i].key == key {
			return us[i]
		}
	}
	return nil
}

// interruptedUpload returns the newest upload of key under a name whose client is gone. mu is held.
func (v *Vault) interruptedUpload(at journal.Loc, key string) *Upload {
	us := v.uploads[at]
	for i := len(us) - 1; i >= 0; i-- {
		if us[i].key == key && us[i].interrupted {
			return us[i]
		}
	}
	return nil
}

// Replace stores a new generation of a file that a protocol manages itself (a borg config). Earlier ones stay.
func (f *FS) Replace(path string, data []byte, m Meta) (err error) {
	defer func() { f.count.denied(err) }()
	meta, err := mergeMeta(NoMeta(), m)
	if err != nil {
		return err
	}
	id := journal.NewID()
	staged, err := f.v.vol.Stage(id)
	if err == nil {
		_, err = staged.WriteAt(data, 0)
		err = errors.Join(err, staged.Close())
	}
	if err == nil {
		err = f.replace(path, id, data, meta)
	}
	if err != nil {
		f.v.drop(id)
	}
	return err
}

func (f *FS) replace(path string, id journal.ID, data []byte, meta Meta) error {
	f.v.lockNames()
	defer f.v.mu.Unlock()
	if err := f.needRoot(path); err != nil {
		return err
	}
	s, err := f.spot(OpReplace, path)
	if err != nil {
		return err
	}
	if _, err := f.decide(OpReplace, &s); err != nil {
		return err
	}
	if err := f.mayRecord(journal.Charge(int64(len(data)))); err != nil {
		return err
	}
	d := newDigest(-1)
	d.write(data, 0)
	r := f.record(journal.OpCreate, s.rel)
	r.Kind, r.ID, r.Size, r.Meta, r.Managed = KindFile, id, int64(len(data)), meta, true
	r.SHA256, _ = d.result(r.Size)
	if err := f.v.place(f, r, &s); err != nil {
		return err
	}
	f.arrived(OpReplace, s.rel, r.Size, s.entry)
	f.v.settled(id)
	return nil
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
