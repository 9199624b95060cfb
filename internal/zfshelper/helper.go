package zfshelper

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
)

// Config is what a Helper works on.
type Config struct {
	Client  *zfs.Client
	Looks   *zfs.Client // how the pool is: what hangs for others must not take its places; nil: Client
	Dataset string      // the root: tenants' datasets are directly below it
	Dir     string      // where it is mounted, and they below it: tenants/ in the store
	UID     int         // whose datasets they are: the server's user
	GID     int

	RootOwned bool // the root dataset is root's, and the server only reads it: where a Helper of root's makes what is below

	Compression string // "lz4" or "zstd"
	RecordSize  uint64
	Encrypt     bool   // new datasets have keys of their own
	KeyDir      string // where keys are: ID.key
	Former      string // where tenants wait to be moved into their datasets, by ID: their keys stay; "": nobody does

	Removed func(id string) (bool, error) // whether a tenant's removal is due, by the catalog; nil: nobody's is
	Empty   func(dir string) error        // what Unmount finds in a dataset; required with Removed

	Limits  Limits
	Log     *slog.Logger
	Place   func(context.Context) error                    // has another process mount what is made (Mounter); nil: this one mounts it
	MountOf func(dir *os.File) (dataset string, err error) // nil: zfs.MountOf
}

// Limits bound what can be asked for; 0 is the default.
type Limits struct {
	Creates   int // datasets an hour: 1000
	Snapshots int // batches a minute: 20
	OfTenant  int // bodies of one tenant a minute: 6
	Scrubs    int // scrubs a day: 4
}

// Helper carries the verbs out.
type Helper struct {
	cfg       Config
	pool      string
	bodies    *zfs.Cache
	creates   *rate.Limiter
	snapshots *rate.Limiter
	scrubs    *rate.Limiter

	changing sync.Mutex // one Create, Raise, Unmount or Ready at a time: what they looked at stays so; guards placed
	placed   map[string]bool

	mu       sync.Mutex               // guards what follows
	ofTenant map[string]*rate.Limiter // as many as there are datasets
}

var _ Verbs = (*Helper)(nil)

// New makes a helper. It runs nothing.
func New(cfg Config) (*Helper, error) {
	if err := zfs.CheckDataset(cfg.Dataset); err != nil {
		return nil, err
	}
	if len(cfg.Dataset) > 80 {
		return nil, fmt.Errorf("dataset %q: no room is left in ZFS's names for tenants and snapshots: want at most 80 bytes", cfg.Dataset)
	}
	dir, err := filepath.EvalSymlinks(cfg.Dir) // mounts are known by their real paths
	if errors.Is(err, fs.ErrNotExist) {
		dir, err = filepath.Abs(cfg.Dir)
	}
	if err != nil {
		return nil, err
	}
	cfg.Dir = dir
	if cfg.MountOf == nil {
		cfg.MountOf = func(dir *os.File) (string, error) { return zfs.MountOf(int(dir.Fd())) }
	}
	if cfg.Looks == nil {
		cfg.Looks = cfg.Client
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l := &cfg.Limits
	l.Creates, l.Snapshots, l.OfTenant, l.Scrubs = cmp.Or(l.Creates, 1000), cmp.Or(l.Snapshots, 20), cmp.Or(l.OfTenant, 6), cmp.Or(l.Scrubs, 4)
	h := &Helper{cfg: cfg, bodies: cfg.Client.NewCache(time.Minute, snapshot.PropertySeq, snapshot.PropertyHead),
		creates: perTime(l.Creates, time.Hour), snapshots: perTime(l.Snapshots, time.Minute), scrubs: perTime(l.Scrubs, 24*time.Hour), ofTenant: map[string]*rate.Limiter{}}
	h.pool, _, _ = strings.Cut(cfg.Dataset, "/")
	return h, nil
}

// perTime is n at once, and n in each d.
func perTime(n int, d time.Duration) *rate.Limiter {
	return rate.NewLimiter(rate.Every(d/time.Duration(n)), n)
}

func (h *Helper) dataset(id string) string { return h.cfg.Dataset + "/" + id }

// open opens a directory that a dataset must be mounted at; what is not so is ErrAbsent. What is looked at is what was opened: the way
// there may be in the hands of the server's user, and the helper is root.
func (h *Helper) open(dir, dataset string) (*os.File, error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (%s)", ErrAbsent, dataset)
	}
	if err != nil {
		return nil, err
	}
	at, err := h.cfg.MountOf(d)
	if err == nil && at != dataset {
		err = fmt.Errorf("%w (%s)", ErrAbsent, dataset)
	}
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// Create implements Verbs. A dataset that an earlier Create was cut short at, and that is root's and empty, is made whole.
func (h *Helper) Create(ctx context.Context, id string, refquota uint64) error {
	if err := checkID(id); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	root, err := h.open(h.cfg.Dir, h.cfg.Dataset)
	if err != nil {
		return err
	}
	defer root.Close()
	if !h.creates.Allow() {
		return fmt.Errorf("create dataset: %w", ErrRate)
	}
	properties := map[string]string{"compression": h.cfg.Compression, "recordsize": strconv.FormatUint(h.cfg.RecordSize, 10), "atime": "off", "exec": "off",
		"setuid": "off", "devices": "off", "xattr": "sa", "acltype": "posixacl", "snapdir": "hidden"}
	if refquota > 0 {
		properties["refquota"] = strconv.FormatUint(refquota, 10)
	}
	if h.cfg.Encrypt {
		key, err := h.key(ctx, id)
		if err != nil {
			return err
		}
		properties["encryption"], properties["keyformat"], properties["keylocation"] = "aes-256-gcm", "raw", "file://"+key
	}
	if h.cfg.Place == nil {
		err = h.cfg.Client.Create(ctx, h.dataset(id), properties, nil)
	} else {
		err = h.cfg.Client.CreateUnmounted(ctx, h.dataset(id), properties)
	}
	if err != nil && !errors.Is(err, zfs.ErrExist) {
		return err
	}
	if err == nil {
		h.cfg.Log.Info("dataset made", "dataset", h.dataset(id), "refquota", refquota)
	}
	var unplaced error // which may be about another dataset
	if h.cfg.Place != nil {
		unplaced = h.cfg.Place(ctx)
	}
	if err = h.handOver(id, err); err != nil {
		err = errors.Join(err, unplaced)
	}
	return errors.Join(err, root.Sync())
}

// handOver gives the root of a new dataset to the server's user. exists, if any, is the error to return when it is not new.
func (h *Helper) handOver(id string, exists error) error {
	d, err := h.open(filepath.Join(h.cfg.Dir, id), h.dataset(id))
	if err != nil {
		return errors.Join(exists, err)
	}
	defer d.Close()
	if exists != nil {
		var st unix.Stat_t
		if err := unix.Fstat(int(d.Fd()), &st); err != nil {
			return err
		}
		names, err := d.Readdirnames(1)
		if len(names) > 0 || int(st.Uid) == h.cfg.UID && st.Mode&0o7777 == dirMode {
			return exists
		}
		if err != io.EOF {
			return err
		}
	}
	return errors.Join(d.Chown(h.cfg.UID, h.cfg.GID), d.Chmod(dirMode), d.Sync())
}

// dirMode is the volume's.
const dirMode = 0o750

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// keyLength is what ZFS wants of keyformat=raw.
const keyLength = 32

// key makes a tenant's key, on stable storage before there is a dataset that needs it, and returns its path. A key that is there without a
// dataset is of a Create that was cut short.
func (h *Helper) key(ctx context.Context, id string) (string, error) {
	path := filepath.Join(h.cfg.KeyDir, id+".key")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o400)
	if errors.Is(err, fs.ErrExist) {
		if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Size() == keyLength {
			return path, nil
		}
		if _, err := h.cfg.Client.Get(ctx, h.dataset(id)); !errors.Is(err, zfs.ErrNotExist) {
			return "", errors.Join(fmt.Errorf("key of %s: %w, and is not whole", id, fs.ErrExist), err)
		}
		if err := os.Remove(path); err != nil { // nothing was ever encrypted with it
			return "", err
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o400)
	}
	if err != nil {
		return "", fmt.Errorf("make key: %w", err)
	}
	var key [keyLength]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	_, err = f.Write(key[:])
	return path, errors.Join(err, f.Sync(), f.Close(), syncDir(h.cfg.KeyDir))
}

// Raise implements Verbs.
func (h *Helper) Raise(ctx context.Context, id string, refquota uint64) error {
	if err := checkID(id); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	d, err := h.cfg.Client.Get(ctx, h.dataset(id))
	if err != nil {
		return err
	}
	switch now := d.RefQuota; {
	case now == refquota || now == 0 && refquota == 0:
		return nil
	case now == 0 || refquota != 0 && refquota < now:
		return fmt.Errorf("refquota of %s: %w", id, ErrLower)
	}
	value := "none"
	if refquota != 0 {
		value = strconv.FormatUint(refquota, 10)
	}
	if err := h.cfg.Client.Set(ctx, h.dataset(id), map[string]string{"refquota": value}); err != nil {
		return err
	}
	h.cfg.Log.Info("refquota raised", "dataset", h.dataset(id), "from", d.RefQuota, "to", value)
	return nil
}

// Datasets implements Verbs. What is below the root and has no tenant's id is nobody's here.
func (h *Helper) Datasets(ctx context.Context) ([]Dataset, error) {
	all, err := h.cfg.Client.List(ctx, h.cfg.Dataset, 1)
	if err != nil {
		return nil, err
	}
	out := []Dataset{}
	for _, d := range all {
		id, ok := strings.CutPrefix(d.Name, h.cfg.Dataset+"/")
		if !ok || checkID(id) != nil {
			continue
		}
		out = append(out, Dataset{ID: id, GUID: d.GUID, Mounted: d.Mounted, Locked: d.KeyStatus == "unavailable", Encryption: d.Encryption, RefQuota: d.RefQuota,
			Referenced: d.Referenced, UsedBySnapshots: d.UsedBySnapshots, LogicalUsed: d.LogicalUsed, Available: d.Available})
	}
	slices.SortFunc(out, func(a, b Dataset) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// Scrub implements Verbs.
func (h *Helper) Scrub(ctx context.Context) error {
	if !h.scrubs.Allow() {
		return fmt.Errorf("scrub: %w", ErrRate)
	}
	if err := h.cfg.Client.Scrub(ctx, h.pool); err != nil {
		return err
	}
	h.cfg.Log.Info("scrub started", "pool", h.pool)
	return nil
}

// Pool implements Verbs.
func (h *Helper) Pool(ctx context.Context) (*zfs.Pool, error) { return h.cfg.Looks.Pool(ctx, h.pool) }

// Load implements Verbs.
func (h *Helper) Load(ctx context.Context) (uint64, error) { return h.cfg.Looks.LoadGUID(ctx, h.pool) }

// Top implements Verbs.
func (h *Helper) Top(ctx context.Context) (*zfs.Dataset, error) {
	all, err := h.cfg.Looks.List(ctx, h.pool, 0)
	if err == nil && len(all) != 1 {
		err = fmt.Errorf("zfs list %s: %d datasets", h.pool, len(all))
	}
	if err != nil {
		return nil, err
	}
	return all[0], nil
}
