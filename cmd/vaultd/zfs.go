package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/confine"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
)

// mounts says what is mounted where: tests have a fake zfs.
type mounts interface {
	MountedAt(dir string) (dataset string, err error)
	MountOf(dir *os.File) (dataset string, err error)
}

// newZFS runs zfs(8). Between its own user and root it makes no difference: the tools say what is not allowed.
func newZFS(log *slog.Logger) (*zfs.Client, error) {
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin") // where the tools are, and not every user's shell looks
	return zfs.New(zfs.Config{Log: func(argv []string) { log.Debug("run", "argv", argv) }})
}

// helper is who runs zfs for a store: the helper's socket, or this process.
func (a *app) helper(conf *Config, log *slog.Logger) (zfshelper.Verbs, error) {
	if conf.ZFS.Dataset == "" {
		return nil, nil
	}
	if conf.ZFS.Helper != "" {
		return zfshelper.Remote{Caller: &zfshelper.Socket{Path: conf.ZFS.Helper}}, nil
	}
	return a.ownHelper(conf, log)
}

// ownHelper is the helper in this process. Datasets are given to the owner of the store.
func (a *app) ownHelper(conf *Config, log *slog.Logger) (*zfshelper.Helper, error) {
	return a.newHelper(conf, nil, log)
}

// newHelper is a helper in this process, for which place mounts what it makes, if any.
func (a *app) newHelper(conf *Config, place func(context.Context) error, log *slog.Logger) (*zfshelper.Helper, error) {
	client, err := newZFS(log)
	if err != nil {
		return nil, err
	}
	dir, err := a.tenantsDir()
	if err != nil {
		return nil, err
	}
	uid, gid, err := a.storeOwner()
	if err != nil {
		return nil, err
	}
	cfg := a.helperConfig(conf, client, dir, uid, gid, log)
	if cfg.Looks, err = zfs.New(zfs.Config{Timeout: lookTimeout}); err != nil {
		return nil, err
	}
	cfg.Removed, cfg.Empty = a.removed, volume.CheckEmpty
	cfg.Place = place
	return zfshelper.New(cfg)
}

// removed reports whether a tenant's removal is due, by the catalog as it is now.
func (a *app) removed(id string) (bool, error) {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return false, err
	}
	t, ok := snap.TenantByID(id)
	return ok && t.Removed(time.Now()), nil
}

func statOwner(path string) (st unix.Stat_t, err error) {
	err = unix.Stat(path, &st)
	return st, err
}

func (a *app) helperConfig(c *Config, client *zfs.Client, dir string, uid, gid int, log *slog.Logger) zfshelper.Config {
	h := zfshelper.Config{Client: client, Dataset: c.ZFS.Dataset, Dir: dir, UID: uid, GID: gid, Compression: c.ZFS.Compression,
		RecordSize: uint64(c.ZFS.RecordSize), KeyDir: c.ZFS.Keys, Encrypt: c.ZFS.Encryption == "on", Former: filepath.Join(filepath.Dir(dir), formerDir), Log: log,
		RootOwned: c.Store.User != ""} // see shares
	if a.mounts != nil {
		h.MountOf = a.mounts.MountOf
	}
	return h
}

// mountedAt is the dataset that is mounted at a directory.
func (a *app) mountedAt(dir string) (string, error) {
	if a.mounts != nil {
		return a.mounts.MountedAt(dir)
	}
	return zfs.MountedAt(dir)
}

// driver is the ZFS driver of a store on ZFS; nil otherwise.
func (a *app) driver(conf *Config, verbs zfshelper.Verbs) (*store.ZFS, error) {
	if conf.ZFS.Dataset == "" {
		return nil, nil
	}
	dir, err := a.tenantsDir()
	if err != nil {
		return nil, err
	}
	return &store.ZFS{Dataset: conf.ZFS.Dataset, Dir: dir, Verbs: verbs, Tenants: a.tenantsNow, Encrypt: conf.ZFS.Encryption == "on", MountedAt: a.mountedAt}, nil
}

// waits reports whether a tenant is in former/, and waits to be moved into its dataset.
func (a *app) waits(id string) bool {
	_, err := os.Lstat(filepath.Join(a.dir, confine.FormerDir, id))
	return !errors.Is(err, fs.ErrNotExist)
}

// tenantsNow is the catalog as it is; nobody, when it can not be read.
func (a *app) tenantsNow() *tenant.Snapshot {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return new(tenant.Snapshot)
	}
	return snap
}

// spareMaker makes datasets ahead.
type spareMaker interface {
	Prepare(ctx context.Context, n int) (spoiled []string, err error)
	Take(ctx context.Context, id string) error
	Left() int
}

// dirSpares are the directory driver's.
type dirSpares struct{ *store.Spares }

func (d dirSpares) Prepare(_ context.Context, n int) ([]string, error) { return d.Spares.Prepare(n) }
func (d dirSpares) Take(_ context.Context, id string) error            { return d.Spares.Take(id) }

// prepareZFS makes what a supervisor of a ZFS store has, and brings the datasets to their places.
func (s *supervisor) prepareZFS(ctx context.Context, dir string) error {
	if s.conf.ZFS.Dataset == "" {
		s.spares = dirSpares{store.NewSpares(dir)}
		return nil
	}
	if s.conf.ZFS.Helper == "" {
		h, err := s.a.ownHelper(s.conf, s.log)
		if err != nil {
			return err
		}
		s.helper = h
		keepReady(ctx, h.Ready, s.log)
	} else {
		s.helper = zfshelper.Remote{Caller: &zfshelper.Socket{Path: s.conf.ZFS.Helper}}
	}
	z, err := s.a.driver(s.conf, s.helper)
	if err != nil {
		return err
	}
	s.zfs, s.spares = z, store.NewZFSSpares(dir, z)
	return nil
}

// catalogChanged lets refquotas follow the catalog, and says how many tenants can still come.
func (s *supervisor) catalogChanged(ctx context.Context) (int, error) {
	if s.zfs == nil {
		return s.spares.Left(), nil
	}
	snap, err := s.a.catalog().Snapshot()
	if err != nil {
		return 0, err
	}
	lower, err := s.zfs.SyncQuotas(ctx, snap.Tenants())
	for _, t := range lower {
		s.log.Info("the refquota is more than the tenant's quota and stays: vaultd's own quota counts; the operator lowers it with zfs set", "tenant", t.Name)
	}
	return s.spares.Left(), err
}

// lowerRefquota makes a tenant's refquota less, where its quota now is: the operator alone can, and who is not root is told how. vaultd's own quota
// counts already.
func (a *app) lowerRefquota(ctx context.Context, conf *Config, name string) {
	_, t, err := a.tenant(name)
	if conf.ZFS.Dataset == "" || err != nil || a.waits(t.ID) {
		return
	}
	dataset, want := conf.ZFS.Dataset+"/"+t.ID, store.RefQuota(t)
	client, err := newZFS(newLogger(a.stderr, "text", "warn"))
	if err != nil {
		return
	}
	d, err := client.Get(ctx, dataset)
	if errors.Is(err, zfs.ErrNotExist) {
		return // it is made with the right one
	}
	if err == nil && want != 0 && (d.RefQuota == 0 || d.RefQuota > want) {
		err = client.Set(ctx, dataset, map[string]string{"refquota": fmt.Sprint(want)})
	}
	if err != nil {
		fmt.Fprintf(a.stderr, "vaultd: hint: the refquota of %s stays what it was (%v); as root: zfs set refquota=%d %[1]s\n", dataset, err, want)
	}
}

// absent says whether an error is about storage that is not there now: the server is started all the same, and says so to who comes.
func absent(err error) bool {
	return errors.Is(err, zfshelper.ErrAbsent) || errors.Is(err, zfshelper.ErrNoHelper) || errors.Is(err, store.ErrOffline) ||
		errors.Is(err, zfs.ErrTimeout) || errors.Is(err, zfs.ErrPool) || errors.Is(err, zfs.ErrNotExist)
}

// unlessStorage passes an error on, but that of a full disk, and that of storage that is not there: who is there can still read (P7).
func (s *supervisor) unlessStorage(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		s.log.Error("the disk is full: no datasets are made ahead for new tenants", "error", err.Error())
		return nil
	case s.zfs != nil && absent(err):
		s.log.Error("the tenants' datasets can not be reached: the server starts without them", "error", err.Error())
		return nil
	}
	return err
}

// freshID is the id of a dataset that was made ahead for a tenant that comes, on ZFS; "" where there is none.
func (a *app) freshID(conf *Config, taken map[string]bool) (string, error) {
	if conf.ZFS.Dataset == "" {
		return "", nil
	}
	z, err := a.driver(conf, nowhere{})
	if err != nil {
		return "", err
	}
	id, err := z.FreshID(a.tenantsNow(), taken)
	if errors.Is(err, os.ErrPermission) { // the datasets are another user's: the tenant gets a new one, when the server has started again
		err = nil
	}
	return id, err
}

// addTenant adds a tenant, with the dataset of a spare where that is the way.
func (a *app) addTenant(conf *Config, n tenant.NewTenant) (t tenant.Tenant, keys []tenant.Key, err error) {
	taken := map[string]bool{}
	for {
		if n.ID, err = a.freshID(conf, taken); err != nil {
			return t, nil, err
		}
		t, keys, err = a.catalog().AddTenant(n)
		if n.ID == "" || !errors.Is(err, tenant.ErrConflict) {
			return t, keys, err
		}
		snap := a.tenantsNow()
		if _, ours := snap.TenantByID(n.ID); !ours { // the conflict was about something else
			return t, keys, err
		}
		taken[n.ID] = true // another command was faster
	}
}

// nowhere are verbs of nobody: for who only looks at what is mounted.
type nowhere struct{ zfshelper.Verbs }

func (nowhere) Datasets(context.Context) ([]zfshelper.Dataset, error) { return nil, nil }

// readyEvery is how often the helper looks whether datasets are in their places: a pool may come later.
const readyEvery = 30 * time.Second

var errNoDataset = &configError{fmt.Errorf(`[zfs] dataset is empty: tenants of this store are directories`)}
