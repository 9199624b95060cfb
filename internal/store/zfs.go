package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/confine"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
)

// ZFS is the driver of a store whose datasets are ZFS's: a tenant's is directly below the root dataset, and mounted in its place, which is
// where the directory driver has it. A directory that the dataset is not mounted at is never taken for it.
//
// The server that is confined has Verbs that ask its supervisor; everybody else has the helper's client, or the helper.
type ZFS struct {
	Dataset string // the root
	Dir     string // where it is mounted: tenants/ in the store
	Verbs   zfshelper.Verbs
	Tenants func() *tenant.Snapshot // for refquotas
	Encrypt bool                    // new datasets are encrypted: a spare that is not is given to nobody

	MountedAt func(dir string) (dataset string, err error) // nil: zfs.MountedAt
}

var (
	_ Driver = (*ZFS)(nil)
	_ Bodies = (*ZFS)(nil)
)

// What is said of a dataset that is there and can not be reached.
var (
	ErrLocked  error = &UnavailableError{Why: "its key is not loaded", Text: "the vault is locked: its encryption key is not loaded; its operator has to unlock it"}
	ErrOffline error = &UnavailableError{Why: "its dataset is not mounted"}
)

// RefQuota is what a dataset gets that stands behind the tenant's quota: nothing of what the tenant may use is ever refused by ZFS.
func RefQuota(t tenant.Tenant) uint64 {
	if t.Quota.Bytes == 0 {
		return 0
	}
	return uint64(t.Quota.Bytes) + slack + reserve
}

// spareRefquota is that of a dataset that is nobody's yet: it can only grow afterwards.
const spareRefquota = slack + reserve

func (z *ZFS) mounted(dir string) (string, error) {
	if z.MountedAt != nil {
		return z.MountedAt(dir)
	}
	return zfs.MountedAt(dir)
}

// Create implements Driver. It goes on with a dataset that was made and never laid out.
func (z *ZFS) Create(ctx context.Context, id string) error {
	t, ok := z.Tenants().TenantByID(id)
	if !ok {
		return fmt.Errorf("tenant %s: %w", id, tenant.ErrNotFound)
	}
	return z.make(ctx, id, RefQuota(t), volume.Create)
}

func (z *ZFS) make(ctx context.Context, id string, refquota uint64, layOut func(dir string) error) error {
	made := z.Verbs.Create(ctx, id, refquota)
	if made != nil && !errors.Is(made, fs.ErrExist) {
		return made
	}
	dir := filepath.Join(z.Dir, id)
	at, err := z.mounted(dir)
	if err != nil {
		return err
	}
	if at != z.Dataset+"/"+id { // never on the disk below the mount point
		return errors.Join(fmt.Errorf("dataset %s/%s: %w", z.Dataset, id, ErrOffline), made)
	}
	return layOut(dir) // fs.ErrExist where that was done
}

// MakeEmpty makes the dataset that a tenant is moved into, where it is missing. It is laid out by who fills it.
func (z *ZFS) MakeEmpty(ctx context.Context, t tenant.Tenant) error {
	err := z.make(ctx, t.ID, RefQuota(t), func(string) error { return nil })
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Former is where a tenant is that waits to be moved into its dataset (vaultd tenant move).
func (z *ZFS) Former(id string) string {
	return filepath.Join(filepath.Dir(z.Dir), confine.FormerDir, id)
}

// Path implements Driver.
func (z *ZFS) Path(id string) (string, error) {
	if _, err := os.Lstat(z.Former(id)); !errors.Is(err, fs.ErrNotExist) {
		return z.Former(id), err
	}
	dir := filepath.Join(z.Dir, id)
	at, err := z.mounted(dir)
	if err != nil {
		return "", err
	}
	if at == z.Dataset+"/"+id {
		return dir, nil
	}
	return "", z.why(id)
}

// Gives implements Bodies: tenants that wait to be moved have none.
func (z *ZFS) Gives(id string) bool {
	if _, err := os.Lstat(z.Former(id)); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	at, err := z.mounted(filepath.Join(z.Dir, id))
	return err == nil && at == z.Dataset+"/"+id
}

// whyPatience is how long a client waits to be told why its vault can not be reached.
const whyPatience = 10 * time.Second

// why says why a dataset is not mounted: it was never made (fs.ErrNotExist), or it can not be reached.
func (z *ZFS) why(id string) error {
	if at, err := z.mounted(z.Dir); err != nil || at != z.Dataset {
		return errors.Join(ErrOffline, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), whyPatience)
	defer cancel()
	all, err := z.Verbs.Datasets(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrOffline, err)
	}
	for _, d := range all {
		switch {
		case d.ID == id && d.Locked:
			return ErrLocked
		case d.ID == id:
			return ErrOffline
		}
	}
	return &fs.PathError{Op: "find dataset", Path: id, Err: fs.ErrNotExist}
}

// Take implements Bodies.
func (z *ZFS) Take(ctx context.Context, batch []snapshot.Instant, within time.Duration) ([]snapshot.Body, error) {
	return z.Verbs.Take(ctx, batch, within)
}

// Held implements Bodies: one look at all datasets.
func (z *ZFS) Held(ctx context.Context) (map[string]int64, error) {
	all, err := z.Verbs.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, len(all))
	for _, d := range all {
		out[d.ID] = int64(min(d.UsedBySnapshots, math.MaxInt64))
	}
	return out, nil
}

// Space is what is free in the pool for all tenants together: a tenant's own file system knows its refquota only.
func (z *ZFS) Space() (appendonly.Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(z.Dir, &st); err != nil {
		return appendonly.Space{}, &fs.PathError{Op: "statfs", Path: z.Dir, Err: err}
	}
	unit := uint64(st.Frsize)
	return appendonly.Space{Total: st.Blocks * unit, Free: st.Bavail * unit, TotalInodes: st.Files, FreeInodes: st.Ffree}, nil
}

// SyncQuotas lets the refquotas of all tenants grow to what the catalog says. lower are the tenants whose refquota is more than that: only the
// operator makes it less.
func (z *ZFS) SyncQuotas(ctx context.Context, tenants []tenant.Tenant) (lower []tenant.Tenant, err error) {
	all, err := z.Verbs.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	have := map[string]zfshelper.Dataset{}
	for _, d := range all {
		have[d.ID] = d
	}
	for _, t := range tenants {
		d, ok := have[t.ID]
		want := RefQuota(t)
		switch {
		case !ok || d.RefQuota == want:
		case d.RefQuota == 0 || want != 0 && want < d.RefQuota:
			lower = append(lower, t)
		default:
			err = errors.Join(err, z.Verbs.Raise(ctx, t.ID, want))
		}
	}
	return lower, err
}
