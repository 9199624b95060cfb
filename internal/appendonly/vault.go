package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"vaultd/internal/journal"
)

// Account is the part of quota.Volume that the core speaks to beside the bytes it writes.
type Account interface {
	// Admit fails when the tenant may not have bytes and files more; with reserve, the part of the
	// limit that is kept for removals and renames counts too (P7).
	Admit(bytes, files int64, reserve bool) error
	// Adopt charges a staged content of an earlier process; Settled says that the journal's totals
	// now count a staged content.
	Adopt(id journal.ID, size int64)
	Settled(id journal.ID)
	// Staged is what is charged for staged contents; Limits are the hard limits, 0 for none.
	Staged() int64
	Limits() (bytes, files int64)
}

// Config is what a Vault is made of. Volume, Segments and IndexPath belong to one tenant's dataset.
type Config struct {
	Volume    Volume
	Segments  journal.Segments
	Account   Account // nil: nothing is limited
	Bodies    Bodies  // nil: the file system keeps no snapshots
	IndexPath string
	Clean     bool // the vault was closed in order, though a new index can not know it
	Policy    Policy
	Now       func() time.Time // the server's clock; nil: time.Now
	Boot      string           // the machine's boot id; another one means that unsynced data was lost
	Log       *slog.Logger
	// BarrierEvery is how long changes may wait for stable storage when nobody asks (0: 2 s);
	// SegmentEvery how long a journal segment stays open (0: 5 min).
	BarrierEvery, SegmentEvery time.Duration
	// PushEnded is called when a session that changed something has ended, after its barrier.
	PushEnded func()
}

// Vault is one tenant's core: its namespace, its journal and its volume. FS are its sessions.
//
// What a name stands for is in the index; what the index says was in the journal before. The live
// tree in the volume is changed before the record is written, because the kernel's refusal (a taken
// name) must come first; a crash between the two is mended by reconcile.
//
// Lock order: naming, Upload.mu, barrierMu or settleMu, mu, then the locks of FS, journal and volume. No lock is held while
// a client is waited for.
type Vault struct {
	cfg Config
	vol Volume
	idx *journal.Index
	log *journal.Log

	naming    sync.Mutex  // one Snapshot at a time; taken before barrierMu
	barrierMu sync.Mutex  // one barrier at a time; taken before mu
	stable    journal.Seq // guarded by barrierMu: covered by a barrier

	settleMu sync.Mutex    // one settle at a time; taken before mu
	wake     chan struct{} // the keeper is to settle
	inline   bool          // tests that are to be the same each time: no settling beside them

	mu            sync.Mutex // serializes every change of names; guards what follows. Who changes names takes it with lockNames
	still         bool       // names stand still: see Stand
	moving        *sync.Cond // names may change again; its lock is mu
	policy        Policy
	uploads       map[journal.Loc][]*Upload // open and interrupted ones, oldest first
	unsynced      map[journal.ID]struct{}   // contents with bytes that no Sync has covered
	unsealed      map[journal.ID]sealing    // published contents that are still in staging
	discards      []journal.ID              // staged contents that no record names any more
	due           work                      // what settle has to do: barriers cover it
	repeated      map[journal.Loc]repeat    // sealed names whose content a key has just put again
	renamed       map[journal.Loc]rename    // renames that a client may try again after a lost reply
	scratch       map[journal.Loc]*lockFile
	uploadCount   int       // of uploads
	pendingHashes int       // background hash computations
	toStable      []*Upload // interrupted since the last tick: their notes wait for a sync
	ticks         int
	untidy        bool // the live tree differs from the journal somewhere

	todayMu sync.Mutex // guards today and Upload.held; taken last
	today   today

	head     atomic.Uint64 // newest record
	covered  journal.Seq   // newest record when the last barrier record was written
	segment  time.Time     // when the open segment got its first record; zero: none
	flushed  time.Time     // when the index was last frozen; guarded by barrierMu
	failed   atomic.Pointer[error]
	sessions atomic.Int64

	bodies *bodies // never held together with another lock

	stop context.CancelFunc
	done sync.WaitGroup // the keeper and background hashing
	ctx  context.Context
}

// sealing is a published content on its way into the store.
type sealing struct {
	kind journal.Kind
	meta journal.Meta
}

type repeat struct {
	key string
	at  time.Time
}

type rename struct {
	to  journal.Loc
	key string
	at  time.Time
}

// maxRemembered bounds repeated and renamed: both only spare clients a needless error.
const maxRemembered = 4096

// Open opens a tenant's vault and repairs what a crash left: see recover.go. An index that does not
// fit the journal is made anew. A vault whose journal is damaged opens read-only.
func Open(cfg Config) (*Vault, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.BarrierEvery == 0 {
		cfg.BarrierEvery = 2 * time.Second
	}
	if cfg.SegmentEvery == 0 {
		cfg.SegmentEvery = 5 * time.Minute
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	v := &Vault{cfg: cfg, vol: cfg.Volume, policy: cfg.Policy, bodies: newBodies(),
		uploads: map[journal.Loc][]*Upload{}, unsynced: map[journal.ID]struct{}{}, unsealed: map[journal.ID]sealing{}, due: work{ready: map[journal.ID]sealing{}}, wake: make(chan struct{}, 1),
		repeated: map[journal.Loc]repeat{}, renamed: map[journal.Loc]rename{}, scratch: map[journal.Loc]*lockFile{}}
	v.moving = sync.NewCond(&v.mu)
	v.ctx, v.stop = context.WithCancel(context.Background())
	tail, err := v.openJournal()
	if err != nil {
		v.stop()
		return nil, err
	}
	v.head.Store(uint64(v.idx.Head().Seq))
	if v.Err() == nil {
		if err := v.recover(tail); err != nil {
			v.stop()
			v.done.Wait()
			return nil, errors.Join(fmt.Errorf("recover vault: %w", err), v.log.Close(), v.idx.Close())
		}
	}
	v.settle() // what recovery made stable
	select {
	case <-v.wake:
	default:
	}
	v.flushed = cfg.Now()
	v.done.Add(1)
	go v.keep()
	return v, nil
}

// openJournal opens index and journal, and makes the index anew when it does not fit. Where the journal
// is damaged, or lacks what the index saw of it, nothing is made anew: the vault is read-only, with what is known.
func (v *Vault) openJournal() (*journal.Tail, error) {
	for try := 0; ; try++ {
		idx, err := journal.OpenIndex(v.cfg.IndexPath)
		if journal.InUse(err) {
			return nil, err
		}
		if err == nil {
			var tail *journal.Tail
			seen := idx.Head()
			v.idx = idx
			v.log, tail, err = journal.Open(journal.Config{Segments: v.cfg.Segments, Now: v.cfg.Now, Boot: v.cfg.Boot},
				seen, idx.ReplayBatched)
			if err == nil {
				return tail, nil
			}
			if errors.Is(err, journal.ErrCorrupt) && v.damaged(seen) {
				v.fail(err)
				return nil, nil
			}
			idx.Close()
			if !errors.Is(err, journal.ErrCorrupt) { // the disk, not what is on it
				return nil, err
			}
		}
		if try > 0 {
			return nil, err
		}
		v.cfg.Log.Warn("index does not fit the journal and is made anew", "error", err.Error())
		if err := journal.RemoveIndex(v.cfg.IndexPath); err != nil {
			return nil, err
		}
	}
}

// damaged reports whether it is the journal's fault that it does not go on from what the index saw: its
// chain is broken, or what the index saw is missing in it.
func (v *Vault) damaged(seen journal.Head) bool {
	found := seen.Seq == 0
	_, _, err := journal.NewReader(v.cfg.Segments).All(func(r *journal.Record, _ []byte) error {
		found = found || r.Seq == seen.Seq && r.Chain == seen.Chain
		return nil
	})
	return err != nil || !found
}

// Close ends the vault: every session must have ended. What was written is stable afterwards and the
// journal's segment closed.
func (v *Vault) Close() error {
	v.stop()
	v.done.Wait()
	v.closeBodies(true)
	err := v.Err()
	if err == nil {
		err = v.closeSegment(nil, false)
		v.settle()
	}
	v.done.Wait()
	if err == nil {
		err = v.setEnding(!v.untidy)
	}
	if v.log != nil {
		err = errors.Join(err, v.log.Close())
	}
	return errors.Join(err, v.idx.Close())
}

// SetPolicy changes the policy; sessions follow it from their next request on.
func (v *Vault) SetPolicy(p Policy) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.policy = p
}

// Policy returns the present policy.
func (v *Vault) Policy() Policy {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.policy
}

// Idle reports that nobody uses the vault and nothing of it waits for stable storage.
func (v *Vault) Idle() bool {
	v.barrierMu.Lock()
	defer v.barrierMu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.sessions.Load() == 0 && v.pendingHashes == 0 && !v.dirty() && len(v.unsealed) == 0
}

// dirty reports whether something waits for a barrier. mu is held.
func (v *Vault) dirty() bool {
	return len(v.unsynced) > 0 || journal.Seq(v.head.Load()) > v.covered
}

// Head returns the newest record's number: the present instant.
func (v *Vault) Head() Seq { return journal.Seq(v.head.Load()) }

// Err returns why the vault is read-only; nil when it is not.
func (v *Vault) Err() error {
	if p := v.failed.Load(); p != nil {
		return *p
	}
	return nil
}

// fail makes the vault read-only for the rest of this process: storage did not do what it promised,
// and what it holds now is not known. Nothing is tried again.
func (v *Vault) fail(err error) error {
	err = fmt.Errorf("%w: %w", ErrReadOnly, err)
	if v.failed.CompareAndSwap(nil, &err) {
		v.cfg.Log.Error("vault is read-only from now on", "error", err.Error())
	}
	return err
}

// tree passes on the error of a change of the live tree. After a storage failure it is not known whether
// the change took place, and the vault fails: recovery finds out. mu is held.
func (v *Vault) tree(err error) error {
	if storageFailed(err) {
		return v.fail(fmt.Errorf("change live tree: %w", err))
	}
	return err
}

// dropped passes on the error of dropping a name that the journal knows to be gone. If only the tree was
// not what it should have been, the client's request is done all the same, and the next Open tidies up. mu is held.
func (v *Vault) dropped(rel string, err error) error {
	if err == nil || storageFailed(err) {
		return v.tree(err)
	}
	v.untidy = true
	v.cfg.Log.Error("the live tree differs from the journal", "path", rel, "error", err.Error())
	return nil
}

// undo takes a change of the live tree back because its record could not be written. mu is held.
func (v *Vault) undo(err error, back func() error) error {
	if back == nil {
		return err
	}
	return errors.Join(err, v.tree(back()))
}

// commit writes a record and lets the index follow it. mu is held. On an error the change must be
// undone by the caller, unless the vault failed.
func (v *Vault) commit(r *journal.Record, at, to journal.Loc) error {
	if err := v.Err(); err != nil {
		return err
	}
	if v.still {
		return errStill
	}
	if at.Dir == nowhere || to.Dir == nowhere {
		return pathError(OpCreate, r.Path, fs.ErrNotExist)
	}
	if err := v.idx.Check(r, at, to); err != nil {
		return err
	}
	own, err := v.log.Append(r)
	if err != nil {
		return err
	}
	for _, o := range own { // a segment's first line, an epoch
		if err := v.idx.Apply(o, journal.Loc{}, journal.Loc{}); err != nil {
			return v.fail(err)
		}
	}
	if err := v.idx.Apply(r, at, to); err != nil {
		return v.fail(err)
	}
	v.head.Store(uint64(r.Seq))
	if v.segment.IsZero() {
		v.segment = r.Time
	}
	return nil
}

// Barrier returns once everything that was written before the call is on stable storage (P4): the
// bytes first, then the records and the barrier record, then the journal. Calls that wait together
// share one barrier.
func (v *Vault) Barrier(ctx context.Context) error {
	err := v.stabilize(ctx)
	v.settle()
	return err
}

// stabilize is Barrier without what can be done after the answer: the keeper settles.
func (v *Vault) stabilize(ctx context.Context) error {
	if v.inline {
		defer v.settle()
	}
	v.mu.Lock()
	want, dirty := journal.Seq(v.head.Load()), len(v.unsynced) > 0
	v.mu.Unlock()
	v.barrierMu.Lock()
	defer v.barrierMu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if v.stable >= want && !dirty {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return v.barrier()
}

// work is what a barrier covers.
type work struct {
	covers   journal.Seq
	records  bool
	ids      []journal.ID
	ready    map[journal.ID]sealing
	discards []journal.ID
}

// collect takes over what waits for a barrier. mu is held.
func (v *Vault) collect() work {
	w := work{covers: journal.Seq(v.head.Load()), ready: make(map[journal.ID]sealing, len(v.unsealed)), discards: v.discards}
	w.records = w.covers > v.covered
	for id := range v.unsynced {
		w.ids = append(w.ids, id)
	}
	clear(v.unsynced)
	for id, s := range v.unsealed {
		w.ready[id] = s
	}
	v.discards = nil
	return w
}

// barrier makes one barrier. barrierMu is held, mu is not: clients go on meanwhile.
func (v *Vault) barrier() error {
	v.mu.Lock()
	w := v.collect()
	v.mu.Unlock()
	if err := v.syncContents(w.ids); err != nil {
		return err
	}
	if w.records {
		v.mu.Lock()
		frozen, err := v.barrierRecord(w.covers)
		v.mu.Unlock()
		if err != nil {
			return err
		}
		if err := v.log.Sync(); err != nil {
			return v.fail(err)
		}
		v.flush(frozen)
	}
	v.covers(w)
	return nil
}

// covers notes that w is stable. barrierMu is held.
func (v *Vault) covers(w work) {
	v.stable = w.covers
	v.mu.Lock()
	defer v.mu.Unlock()
	maps.Copy(v.due.ready, w.ready)
	v.due.discards = append(v.due.discards, w.discards...)
	if v.inline {
		return
	}
	select {
	case v.wake <- struct{}{}:
	default: // the keeper is on its way
	}
}

func (v *Vault) syncContents(ids []journal.ID) error {
	if len(ids) == 0 {
		return nil
	}
	if err := v.vol.Sync(ids); err != nil {
		return v.fail(fmt.Errorf("sync contents: %w", err))
	}
	return nil
}

// barrierRecord writes the barrier's record; mu is held. When it reports true, the index was frozen
// and may be flushed once the journal is synced.
func (v *Vault) barrierRecord(covers journal.Seq) (bool, error) {
	r := &journal.Record{Op: journal.OpBarrier, Covers: covers}
	if err := v.commit(r, journal.Loc{}, journal.Loc{}); err != nil {
		return false, v.fail(fmt.Errorf("write barrier: %w", err))
	}
	v.covered = r.Seq
	return v.freezeDue() && v.idx.Freeze(), nil
}

// flush lets the index's database follow, beside everything else.
func (v *Vault) flush(frozen bool) {
	if !frozen {
		return
	}
	v.flushed = v.cfg.Now()
	v.done.Add(1)
	go func() {
		defer v.done.Done()
		if err := v.idx.Flush(); err != nil {
			v.cfg.Log.Error("index is behind the journal", "error", err.Error())
		}
	}()
}

// closeSegment closes the journal's open segment, with r (may be nil) as its last record but one. A
// closed segment ends with a barrier that covers all of it: nothing in it is ever unproven. The
// barrier before did nearly all of the work; the names stand still for what is left of it, and with stand for longer.
func (v *Vault) closeSegment(r *journal.Record, stand bool) error {
	v.barrierMu.Lock()
	defer v.barrierMu.Unlock()
	if err := v.Err(); err != nil {
		return err
	}
	if err := v.barrier(); err != nil {
		return err
	}
	v.mu.Lock()
	if r != nil {
		if err := v.commit(r, journal.Loc{}, journal.Loc{}); err != nil {
			v.mu.Unlock()
			return err
		}
	}
	w := v.collect()
	frozen, err := false, v.syncContents(w.ids)
	if err == nil && w.records {
		frozen, err = v.barrierRecord(w.covers)
	}
	if err == nil {
		if err = v.log.Rotate(); err != nil {
			err = v.fail(err)
		}
	}
	v.segment = time.Time{}
	v.still = stand && err == nil
	v.mu.Unlock()
	if err != nil {
		return err
	}
	v.flush(frozen)
	v.covers(w)
	return nil
}

const (
	flushEvery   = 5 * time.Second
	flushPending = 4096
)

func (v *Vault) freezeDue() bool {
	return v.idx.Pending() >= flushPending || v.cfg.Now().Sub(v.flushed).Abs() >= flushEvery
}

// settle moves published contents into the store and drops staged ones that nothing names any more, as far as barriers
// cover them. No answer to a client waits for it.
func (v *Vault) settle() {
	v.settleMu.Lock()
	defer v.settleMu.Unlock()
	v.mu.Lock()
	ready, discards := v.due.ready, v.due.discards
	v.due = work{ready: map[journal.ID]sealing{}}
	maps.DeleteFunc(ready, func(id journal.ID, _ sealing) bool { // sealed since the barrier saw it
		_, waits := v.unsealed[id]
		return !waits
	})
	v.mu.Unlock()
	const batch = 256 // how often mu is taken: those who publish wait for it
	moved := make([]journal.ID, 0, batch)
	note := func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		for _, id := range moved {
			if now, ok := v.unsealed[id]; ok && now.meta.Equal(ready[id].meta) {
				delete(v.unsealed, id) // else its attributes changed meanwhile: once more
			}
		}
		moved = moved[:0]
	}
	for id, s := range ready {
		if err := v.vol.Seal(id, s.kind, s.meta); err != nil {
			v.cfg.Log.Error("seal content", "id", id.String(), "error", err.Error())
			continue // it stays readable in staging, and is tried again at the next barrier
		}
		if moved = append(moved, id); len(moved) == batch {
			note()
		}
	}
	note()
	for _, id := range discards {
		if err := v.vol.Discard(id); err != nil {
			v.cfg.Log.Error("drop staged content", "id", id.String(), "error", err.Error())
		}
	}
}

// keep does what has to be done from time to time, until the vault is closed.
func (v *Vault) keep() {
	defer v.done.Done()
	tick := time.NewTicker(v.cfg.BarrierEvery)
	defer tick.Stop()
	for {
		select {
		case <-v.ctx.Done():
			return
		case <-v.wake:
			v.settle()
		case <-tick.C:
			v.tick()
		}
	}
}

// tick seals what is old enough, keeps notes of uploads in progress, makes a barrier when something
// is dirty, and closes an old journal segment. Failures are logged where they happen, and make the
// vault read-only.
func (v *Vault) tick() {
	v.closeBodies(false)
	if err := v.noteUploads(); err != nil && v.Err() == nil && v.ctx.Err() == nil {
		v.cfg.Log.Error("note uploads", "error", err.Error())
	}
	v.mu.Lock()
	if !v.still {
		v.sealOld()
	}
	v.forget()
	old := !v.segment.IsZero() && v.cfg.Now().Sub(v.segment).Abs() >= v.cfg.SegmentEvery
	v.mu.Unlock()
	err := v.Barrier(v.ctx)
	if err == nil && old {
		err = v.closeSegment(nil, false)
		v.settle()
	}
	if err != nil && v.ctx.Err() == nil && !errors.Is(err, ErrReadOnly) {
		v.cfg.Log.Error("barrier", "error", err.Error())
	}
}

// forget drops what is remembered of repeated uploads and renames after its time, and interrupted
// uploads after theirs. mu is held.
func (v *Vault) forget() {
	now := v.cfg.Now()
	for l, r := range v.repeated {
		if now.Sub(r.at).Abs() > journal.Settle {
			delete(v.repeated, l)
		}
	}
	for l, r := range v.renamed {
		if now.Sub(r.at).Abs() > journal.Settle {
			delete(v.renamed, l)
		}
	}
	for _, us := range v.uploads {
		for _, u := range slices.Clone(us) {
			if u.interrupted && now.Sub(u.since) > v.policy.resumeWindow() {
				v.dropUpload(u)
			}
		}
	}
}

// Unnamed reports whether something changed since the newest snapshot.
func (v *Vault) Unnamed() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.idx.Unnamed()
}

// Snapshots lists the tenant's snapshots, oldest first.
func (v *Vault) Snapshots() ([]SnapshotInfo, error) {
	have, err := v.idx.Snapshots()
	out := make([]SnapshotInfo, len(have))
	for i, s := range have {
		out[i] = SnapshotInfo{Name: s.Name, At: s.At, Time: s.Time, Kind: s.Kind}
	}
	return out, err
}

// Usage returns the tenant's account.
func (v *Vault) Usage() Usage {
	t := v.idx.Totals()
	u := Usage{Live: t.Live, Versions: t.Past, Journal: t.Records * journal.RecordCharge, Files: t.Files}
	if v.cfg.Account != nil {
		u.Staging = v.cfg.Account.Staged()
		u.Limit, u.FilesLimit = v.cfg.Account.Limits()
	}
	return u
}

// Totals is what the journal says is charged, in bytes and live names: quota's callback.
func (v *Vault) Totals() (bytes, files int64) {
	t := v.idx.Totals()
	return t.Live + t.Past + t.Records*journal.RecordCharge, t.Files
}

// admit asks the account for a change without content of its own.
func (v *Vault) admit(files int64, reserve bool) error {
	if v.cfg.Account == nil {
		return nil
	}
	return v.cfg.Account.Admit(journal.RecordCharge, files, reserve)
}

// settled tells the account that the journal counts id now.
func (v *Vault) settled(id journal.ID) {
	if v.cfg.Account != nil {
		v.cfg.Account.Settled(id)
	}
}
