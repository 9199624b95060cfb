package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
