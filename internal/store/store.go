// Package store holds a vaultd store's directory: its catalog, its tenants' datasets, and the vaults
// that are open.
//
//	vaultd.db              the catalog (package tenant)
//	host_ed25519_key       the server's host key
//	tenants/<id>/          one dataset per tenant (package volume)
//	spare/<n>/             datasets that are made ahead, for a confined server (Spares)
//	server/                what the server may write: state.db (what it learned, package tenant), schedule.json (when the
//	                       snapshot schedules were last due), verify/ (how far that has come)
//	lock                   flock(2): one process has the datasets at a time
//
// A vault is opened when a session, the schedule or an operator needs it, and closed when it has been
// idle for a while. It is the one place where catalog, volume, quota and core are put together:
// quota.Volume over volume.Volume below appendonly.Vault.
//
// It guarantees that one process at a time has a store's datasets. It does not authenticate anybody.
//
// Concurrency: all methods may be called by many goroutines. Store.mu guards the table of vaults and
// is never held across I/O; each slot's mutex serializes opening and closing one vault.
package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/quota"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// Driver makes and finds tenants' datasets. They are directories in volume's layout.
type Driver interface {
	// Create makes an empty dataset. One that is there already is fs.ErrExist.
	Create(ctx context.Context, id string) error
	// Path is where a dataset is; fs.ErrNotExist when it was never made. One that was made and can not be reached now (its pool is gone,
	// its key is not loaded) is another error: it must never be taken for a tenant that has nothing.
	Path(id string) (string, error)
}

// Bodies gives scheduled and manual snapshots a body of their own (package snapshot), where the file system can.
type Bodies interface {
	// Gives reports whether a tenant's snapshots get bodies.
	Gives(id string) bool
	// Take makes the bodies of a batch in one transaction of the file system, holds them and reads them back; the names of all its
	// tenants stand still for within. An error is about all of them; what is not in the result has no body.
	Take(ctx context.Context, batch []snapshot.Instant, within time.Duration) ([]snapshot.Body, error)
	// Held is how many bytes only bodies hold, by tenant: contents that were freed since.
	Held(ctx context.Context) (map[string]int64, error)
}

// Directory is the embedded default: a dataset is a directory. Its snapshots are journal records, without bodies.
type Directory struct{ Dir string }

var _ Driver = Directory{}

// Create makes dir/id.
func (d Directory) Create(_ context.Context, id string) error {
	if err := os.MkdirAll(d.Dir, 0o750); err != nil {
		return err
	}
	return volume.Create(filepath.Join(d.Dir, id))
}

// Path returns dir/id.
func (d Directory) Path(id string) (string, error) {
	p := filepath.Join(d.Dir, id)
	_, err := os.Lstat(p)
	return p, err
}

// Config is how a store works.
type Config struct {
	Log                        *slog.Logger
	Now                        func() time.Time // nil: time.Now
	FloorBytes, FloorInodes    uint64           // what the file system keeps free
	BarrierEvery, SegmentEvery time.Duration    // see appendonly.Config
	IdleClose                  time.Duration    // how long an idle vault stays open; 0: 5 min
	Driver                     Driver           // nil: Directory in the store
	Bodies                     Bodies           // nil: snapshots have none
	Lock                       *os.File         // what Lock returned, in another process; nil: Open takes the lock itself
	// Seen is told what an open vault looks like, when it was opened, after something changed in it, and before it is closed; Verified how far
	// a verification has come. They must not wait, nor ask for a vault. nil: nobody asks.
	Seen     func(id string, v *appendonly.Vault)
	Verified func(id string, v Verification)
	// Read is told, while a verification goes on, what was read again since the last time and what of that was wrong; Snapshotted of each snapshot that
	// was taken, or was not; Embodied of each that was to get a body, which is held, or why it got none. They must not wait. nil: nobody asks.
	Read        func(id string, bytes, wrong int64)
	Snapshotted func(id, kind string, err error)
	Embodied    func(id string, err error)
	Boot        string // of the machine, as BootID says; "": Open asks
	// Available says why the storage of a tenant can not be used: *UnavailableError. It is asked before each use, and must not touch
	// that storage, which may hang. nil: it always can.
	Available func(id string) error
}

// ErrInUse says that another process has the store's datasets.
var ErrInUse = errors.New("store is in use by another process")

// Store is an open store.
type Store struct {
	Dir     string
	Catalog *tenant.DB
	cfg     Config
	lock    *os.File
	boot    string
	floor   *quota.Floor

	keep struct { // what stays free
		sync.Mutex
		bytes, inodes, reserve uint64
	}

	snap atomic.Pointer[tenant.Snapshot] // the catalog as of the last Reload

	announcing sync.Mutex                // one Announce at a time
	told       atomic.Pointer[time.Time] // when tellAll came to its end
	lapsed     sync.Map                  // ids of tenants that were above their soft limit for too long

	wrap func(appendonly.Volume) appendonly.Volume // tests: storage that fails

	mu    sync.Mutex // guards slots
	slots map[string]*slot
}

// slot is one tenant's place in the table of vaults.
type slot struct {
	id     string
	pushes snapshot.Pushes

	mu    sync.Mutex // serializes opening and closing; guards what follows
	vault *appendonly.Vault
	quota *quota.Volume
	vol   *volume.Volume
	users int
	idle  time.Time // since when nobody uses it
	told  func()    // tells Config.Seen, unless it knows
}

// Create makes an empty store in dir; what is there already stays and is no error.
func Create(dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "tenants"), 0o750); err != nil {
		return err
	}
	if err := tenant.New(dir, tenant.Options{}).Create(); err != nil && !errors.Is(err, tenant.ErrConflict) {
		return err
	}
	return nil
}

// Open opens the store in dir and takes its lock; ErrInUse when another process has it.
func Open(dir string, cfg Config) (*Store, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.IdleClose == 0 {
		cfg.IdleClose = 5 * time.Minute
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if cfg.Driver == nil {
		cfg.Driver = Directory{filepath.Join(dir, "tenants")}
	}
	s := &Store{Dir: dir, Catalog: tenant.New(dir, tenant.Options{}), cfg: cfg, slots: map[string]*slot{},
		floor: &quota.Floor{MinBytes: cfg.FloorBytes, MinInodes: cfg.FloorInodes}}
	s.keep.bytes, s.keep.inodes = cfg.FloorBytes, cfg.FloorInodes
	if z, ok := cfg.Driver.(interface {
		Space() (appendonly.Space, error)
	}); ok {
		s.floor.Space = z.Space
	}
	if s.boot = cfg.Boot; s.boot == "" {
		if s.boot, err = BootID(); err != nil {
			return nil, err
		}
	}
	if s.lock = cfg.Lock; s.lock == nil {
		if s.lock, err = Lock(dir); err != nil {
			return nil, err
		}
	}
	if err := s.Reload(); err != nil {
		s.lock.Close()
		return nil, err
	}
	return s, nil
}

// BootID names this boot of the machine.
func BootID() (string, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return string(boot[:len(boot)-1]), nil
}

// Lock takes the lock of the store in dir, and makes what Open wants to find in it; ErrInUse when another process has it. The lock is held until all copies of
// the descriptor are closed, in other processes too.
func Lock(dir string) (*os.File, error) {
	if _, err := os.Stat(filepath.Join(dir, tenant.FileName)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no store in %s: %w", dir, tenant.ErrNotFound)
		}
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, ErrInUse
	}
	if err := makeServerDir(dir); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// ServerDir is the directory, in the store in dir, of what the server may write.
func ServerDir(dir string) string { return filepath.Join(dir, "server") }

// makeServerDir makes it, and moves into it what an older vaultd had in the store's directory.
func makeServerDir(dir string) error {
	err := os.Mkdir(ServerDir(dir), 0o750)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, name := range []string{tenant.StateName, "schedule.json", "announced.json", "verify"} {
		if err := os.Rename(filepath.Join(dir, name), filepath.Join(ServerDir(dir), name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Tenants returns the catalog as of the last Reload.
func (s *Store) Tenants() *tenant.Snapshot { return s.snap.Load() }

// Reload reads the catalog again, gives open vaults their policy and quota, and seals what revoked
// keys left.
func (s *Store) Reload() error {
	next, err := s.Catalog.Snapshot()
	if err != nil {
		return err
	}
	last := s.snap.Swap(next)
	for _, sl := range s.openSlots() {
		t, ok := next.TenantByID(sl.id)
		if !ok {
			continue
		}
		sl.mu.Lock()
		if sl.vault != nil {
			sl.vault.SetPolicy(t.Core())
			sl.quota.SetLimits(s.limitsOf(t))
			s.writePolicyCopy(sl.vol.PolicyPath(), t)
		}
		sl.mu.Unlock()
	}
	return s.sealRevoked(last, next)
}

// sealRevoked seals the unfinished files of keys that were revoked between two snapshots of the catalog.
func (s *Store) sealRevoked(last, next *tenant.Snapshot) error {
	if last == nil {
		return nil
	}
	var errs error
	for _, t := range next.Tenants() {
		for _, k := range next.Keys(t.ID) {
			before, ok := last.Key(k.ID)
			if k.Revoked.IsZero() || !ok || !before.Revoked.IsZero() {
				continue
			}
			err := s.With(context.Background(), t.ID, func(v *appendonly.Vault) error { return v.SealKey(k.ID) })
			if away := (*UnavailableError)(nil); errors.As(err, &away) { // it is sealed by its age when it is back
				s.cfg.Log.Warn("what a revoked key left unsealed stays so for a while", "tenant", t.Name, "key", k.ID, "error", away.Why)
				err = nil
			}
			errs = errors.Join(errs, err)
		}
	}
	return errs
}

func (s *Store) openSlots() []*slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*slot, 0, len(s.slots))
	for _, sl := range s.slots {
		out = append(out, sl)
	}
	return out
}

// What a tenant may use beyond its limit: for locks, and for the records of removals and renames (P7).
const (
	slack   = 1 << 20
	reserve = 64 << 20
)

func (s *Store) limitsOf(t tenant.Tenant) quota.Limits {
	_, lapsed := s.lapsed.Load(t.ID)
	return quota.Limits{Bytes: t.Quota.Bytes, Files: t.Quota.Files, Slack: slack, Reserve: reserve, Soft: t.Quota.SoftBytes, Lapsed: lapsed}
}

// SetLapsed says whether a tenant has been above its soft limit for longer than its grace: from now on, until the opposite is said, that
// counts as a hard one.
func (s *Store) SetLapsed(id string, lapsed bool) {
	if _, was := s.lapsed.Load(id); was == lapsed {
		return
	}
	if lapsed {
		s.lapsed.Store(id, struct{}{})
	} else {
		s.lapsed.Delete(id)
	}
	t, ok := s.Tenants().TenantByID(id)
	if !ok {
		return
	}
	sl := s.slot(id)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.quota != nil {
		sl.quota.SetLimits(s.limitsOf(t))
	}
}

// With calls f with a tenant's vault, opening it if need be and making its dataset on first use.
func (s *Store) With(ctx context.Context, id string, f func(*appendonly.Vault) error) error {
	v, done, err := s.use(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	return f(v)
}

// Vault returns a tenant's vault for a client's session, opened if need be; that of a removed tenant is ErrRemoved, whatever let the
// client in. done must be called when it is not used any more.
func (s *Store) Vault(ctx context.Context, id string) (v *appendonly.Vault, done func(), err error) {
	if t, ok := s.Tenants().TenantByID(id); ok && t.Removed(s.cfg.Now()) {
		return nil, nil, ErrRemoved
	}
	return s.use(ctx, id)
}

// use returns a tenant's vault, opened if need be.
func (s *Store) use(ctx context.Context, id string) (v *appendonly.Vault, done func(), err error) {
	if err := s.available(id); err != nil { // first: who opens it now may hang with the slot's lock
		return nil, nil, err
	}
	sl := s.slot(id)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.vault == nil {
		if err := s.open(ctx, sl, false); err != nil {
			return nil, nil, err
		}
	}
	sl.users++
	var once sync.Once
	return sl.vault, func() { once.Do(func() { s.release(sl) }) }, nil
}

// slot finds a tenant's place in the table.
func (s *Store) slot(id string) *slot {
	s.mu.Lock()
	defer s.mu.Unlock()
	sl := s.slots[id]
	if sl == nil {
		sl = &slot{id: id}
		s.slots[id] = sl
	}
	return sl
}

func (s *Store) release(sl *slot) {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	sl.users--
	sl.idle = s.cfg.Now()
	if sl.told != nil {
		sl.told()
	}
}

// open opens a tenant's vault; clean says that it was closed in order, whatever its index knows. The
// slot's lock is held.
func (s *Store) open(ctx context.Context, sl *slot, clean bool) error {
	t, ok := s.Tenants().TenantByID(sl.id)
	if !ok {
		return fmt.Errorf("tenant %s: %w", sl.id, tenant.ErrNotFound)
	}
	path, err := s.cfg.Driver.Path(sl.id)
	if errors.Is(err, fs.ErrNotExist) && t.Removed(s.cfg.Now()) {
		return fmt.Errorf("tenant %s: was removed, and has no dataset: %w", t.Name, tenant.ErrNotFound)
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err = s.cfg.Driver.Create(ctx, sl.id); err == nil {
			path, err = s.cfg.Driver.Path(sl.id)
		}
	}
	if err != nil {
		return fmt.Errorf("find dataset of %s: %w", t.Name, err)
	}
	vol, err := volume.Open(path)
	if errors.Is(err, volume.ErrAway) {
		return &UnavailableError{Why: volume.ErrAway.Error()}
	}
	if err != nil {
		return fmt.Errorf("open dataset of %s: %w", t.Name, err)
	}
	var vault *appendonly.Vault
	totals := func() quota.Totals {
		if vault == nil {
			return quota.Totals{}
		}
		bytes, files := vault.Totals()
		return quota.Totals{Bytes: bytes, Files: files}
	}
	var wrapped appendonly.Volume = vol
	if s.wrap != nil {
		wrapped = s.wrap(vol)
	}
	q := quota.New(wrapped, quota.Config{Limits: s.limitsOf(t), Totals: totals, Floor: s.floor})
	vault, err = appendonly.Open(appendonly.Config{Volume: q, Segments: vol, Account: q.Account(), Bodies: vol, IndexPath: vol.IndexPath(),
		Clean: clean, Policy: t.Core(), Now: s.cfg.Now, Boot: s.boot, Log: s.cfg.Log.With("tenant", t.Name),
		BarrierEvery: s.cfg.BarrierEvery, SegmentEvery: s.cfg.SegmentEvery, PushEnded: func() { s.pushEnded(sl) }})
	if err != nil {
		return errors.Join(fmt.Errorf("open vault of %s: %w", t.Name, err), vol.Close())
	}
	sl.vault, sl.quota, sl.vol, sl.told = vault, q, vol, s.teller(sl.id, vault)
	sl.told()
	s.writePolicyCopy(vol.PolicyPath(), t)
	return nil
}

// writeFile replaces a small file at once.
func writeFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o640); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// Close closes every vault and gives up the lock. Sessions must have ended.
func (s *Store) Close() error {
	var errs error
	for _, sl := range s.openSlots() {
		sl.mu.Lock()
		errs = errors.Join(errs, sl.close())
		sl.mu.Unlock()
	}
	return errors.Join(errs, s.lock.Close())
}

// close closes the slot's vault; its lock is held.
func (sl *slot) close() error {
	if sl.vault == nil {
		return nil
	}
	sl.told()
	err := errors.Join(sl.vault.Close(), sl.vol.Close())
	sl.vault, sl.quota, sl.vol, sl.told = nil, nil, nil, nil
	return err
}

// ErrTenantInUse says that a tenant has sessions, and what was asked needs it for itself.
var ErrTenantInUse = errors.New("tenant is in use")

// RebuildIndex makes a tenant's index anew from its journal and returns the number of records. The
// tenant must have no sessions.
func (s *Store) RebuildIndex(ctx context.Context, id string) (records uint64, err error) {
	if err := s.available(id); err != nil {
		return 0, err
	}
	sl := s.slot(id)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.users > 0 {
		return 0, ErrTenantInUse
	}
	if err := sl.close(); err != nil {
		return 0, err
	}
	clean := false
	err = s.ReadVolume(ctx, id, func(v *volume.Volume) error {
		if x, err := journal.OpenIndex(v.IndexPath()); err == nil { // else it is what has to be made anew
			_, clean = x.Ending()
			if err := x.Close(); err != nil {
				return err
			}
		}
		return journal.RemoveIndex(v.IndexPath())
	})
	if err != nil {
		return 0, err
	}
	if err := s.open(ctx, sl, clean); err != nil {
		return 0, err
	}
	sl.idle = s.cfg.Now()
	return uint64(sl.vault.Head()), nil
}

// Dataset returns where a tenant's dataset is; fs.ErrNotExist before its first use.
func (s *Store) Dataset(id string) (string, error) { return s.cfg.Driver.Path(id) }

// ReadVolume calls f with a tenant's dataset, for reading beside a vault that may be open.
func (s *Store) ReadVolume(_ context.Context, id string, f func(*volume.Volume) error) error {
	if err := s.available(id); err != nil {
		return err
	}
	path, err := s.cfg.Driver.Path(id)
	if err != nil {
		return fmt.Errorf("find dataset: %w", err)
	}
	v, err := volume.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f(v), v.Close())
}
