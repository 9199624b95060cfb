package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"vaultd/internal/confine"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// ZFSSpares are datasets that are made ahead on ZFS. A dataset can not be renamed under a confined server: it would be mounted anew, and the
// rules are bound to what was mounted. So a spare has an id that no tenant has, in its place below tenants/, and a tenant that comes is given the id of one
// (FreshID). The supervisor has it; what asks it may be in an attacker's hands.
type ZFSSpares struct {
	zfs     *ZFS
	catalog *tenant.DB
	dir     string // the store's

	mu   sync.Mutex        // guards what follows
	made map[string]string // where the datasets are that the present server has rules for, by id
}

// NewZFSSpares returns those of the store in dir.
func NewZFSSpares(dir string, z *ZFS) *ZFSSpares {
	return &ZFSSpares{zfs: z, dir: dir, catalog: tenant.New(dir, tenant.Options{})}
}

// ids are all that the catalog knows, of tenants that are gone too.
func ids(snap *tenant.Snapshot) map[string]bool {
	out := map[string]bool{}
	for _, t := range snap.All() {
		out[t.ID] = true
	}
	return out
}

// Prepare makes n spares, and the datasets of tenants that have none yet; it is called while no server runs. spoiled are datasets that are
// neither a tenant's nor as they were made: a server wrote to them, or their tenant's entry was lost (vaultd adopt); or they are not encrypted, and new
// ones are. They are given to nobody.
func (s *ZFSSpares) Prepare(ctx context.Context, n int) (spoiled []string, err error) {
	snap, err := s.catalog.Snapshot()
	if err != nil {
		return nil, err
	}
	if err := s.probe(); err != nil {
		return nil, err
	}
	all, err := s.zfs.Verbs.Datasets(ctx)
	if err != nil {
		return nil, err
	}
	known, have, made := ids(snap), map[string]bool{}, map[string]string{}
	free := 0
	for _, d := range all {
		have[d.ID] = true
		path, err := s.zfs.Path(d.ID)
		switch {
		case err != nil: // locked, or not mounted: it is said to who opens it
		case known[d.ID]:
			if s.layOut(path) == nil {
				made[d.ID] = path
			}
		case s.zfs.Encrypt && d.Encryption == "off": // made before encryption was switched on
			spoiled = append(spoiled, path)
			if volume.Untouched(path) { // a tenant that comes takes it for one that somebody wrote to
				if err := os.WriteFile(filepath.Join(path, "staging", "made-before-encryption"), nil, 0o600); err != nil {
					return nil, err
				}
			}
		case volume.Untouched(path) || s.layOut(path) == nil && volume.Untouched(path):
			made[d.ID] = path
			free++
		default:
			spoiled = append(spoiled, path)
		}
	}
	for _, t := range snap.Tenants() {
		if path, err := s.zfs.Path(t.ID); err == nil {
			made[t.ID] = path // also of one that waits to be moved
		} else if !have[t.ID] {
			if err := s.zfs.make(ctx, t.ID, RefQuota(t), volume.Create); err != nil {
				return spoiled, err
			}
			made[t.ID] = filepath.Join(s.zfs.Dir, t.ID)
		}
	}
	for ; free < n; free++ {
		id := tenant.NewID()
		if err := s.zfs.make(ctx, id, spareRefquota, volume.CreateSpare); err != nil {
			return spoiled, err
		}
		made[id] = filepath.Join(s.zfs.Dir, id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.made = made
	return spoiled, nil
}

// layOut makes the directories of a dataset that was cut short while it was made, and only of one that is empty otherwise.
func (s *ZFSSpares) layOut(path string) error {
	if v, err := volume.Open(path); err == nil {
		return v.Close()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return volume.Create(path)
}

// probe makes what the confined server tries its confinement on. It is a directory of the store.
func (s *ZFSSpares) probe() error {
	err := volume.CreateSpare(filepath.Join(s.dir, confine.SpareDir, confine.ProbeDir))
	if errors.Is(err, fs.ErrNotExist) {
		if err = os.MkdirAll(filepath.Join(s.dir, confine.SpareDir), 0o750); err == nil {
			err = volume.CreateSpare(filepath.Join(s.dir, confine.SpareDir, confine.ProbeDir))
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// Left is how many tenants can still come. It is none as soon as a tenant has a dataset that the present server has no rules for: one that was made, or
// unlocked, or came back with its pool, since.
func (s *ZFSSpares) Left() int {
	snap, err := s.catalog.Snapshot()
	if err != nil {
		return 0
	}
	known := ids(snap)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range snap.Tenants() {
		if path, err := s.zfs.Path(t.ID); err == nil && s.made[t.ID] != path || errors.Is(err, fs.ErrNotExist) {
			return 0
		}
	}
	left := 0
	for id := range s.made {
		if !known[id] {
			left++
		}
	}
	return left
}

// Take is asked for by a server that finds no dataset for the tenant with this id: it is made now, and used by the next server, which is
// ErrNoSpare. One that was there when the server started is fs.ErrExist.
func (s *ZFSSpares) Take(ctx context.Context, id string) error {
	if !idShape.MatchString(id) {
		return fmt.Errorf("make dataset: %q is no tenant's id", id)
	}
	snap, err := s.catalog.Snapshot()
	if err != nil {
		return err
	}
	t, ok := snap.TenantByID(id)
	if !ok {
		return fmt.Errorf("make dataset for %s: %w", id, tenant.ErrNotFound)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch path, err := s.zfs.Path(id); {
	case err == nil && s.made[id] == path:
		return fmt.Errorf("make dataset for %s: %w", id, fs.ErrExist)
	case errors.Is(err, fs.ErrNotExist):
		if err := s.zfs.make(ctx, id, RefQuota(t), volume.Create); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	return ErrNoSpare
}

// FreshID returns the id of a spare for a tenant that comes, which no id in taken is; "" when there is none.
func (z *ZFS) FreshID(snap *tenant.Snapshot, taken map[string]bool) (string, error) {
	known := ids(snap)
	list, err := os.ReadDir(z.Dir)
	if err != nil {
		return "", err
	}
	for _, d := range list {
		id := d.Name()
		if known[id] || taken[id] || !idShape.MatchString(id) {
			continue
		}
		if path, err := z.Path(id); err == nil && volume.Untouched(path) {
			return id, nil
		}
	}
	return "", nil
}
