package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// ErrRemoved refuses a client of a tenant whose end has come.
var ErrRemoved = errors.New("this vault was removed")

// removed finds a tenant whose end has come; others are ErrConflict.
func (s *Store) removed(id string) (tenant.Tenant, error) {
	t, ok := s.Tenants().TenantByID(id)
	if !ok {
		return t, fmt.Errorf("tenant %s: %w", id, tenant.ErrNotFound)
	}
	if !t.Removed(s.cfg.Now()) {
		return t, fmt.Errorf("tenant %s: was not removed: %w", t.Name, tenant.ErrConflict)
	}
	return t, nil
}

// clearBatch is how many names of the root go at a time.
const clearBatch = 1000

// Clear lets all live names of a removed tenant go, and journals why; it returns how many went. What its keys left unsealed is
// sealed first: it was closed, so it obeys the lock as the rest does.
func (s *Store) Clear(ctx context.Context, id, why string) (names int, err error) {
	t, err := s.removed(id)
	if err != nil {
		return 0, err
	}
	err = s.With(ctx, id, func(v *appendonly.Vault) error {
		for _, k := range s.Tenants().Keys(t.ID) {
			if err := v.SealKey(k.ID); err != nil {
				return err
			}
		}
		f := v.Session(appendonly.Who{Key: "operator", Role: appendonly.Pull, Protocol: "expire"})
		err := clearRoot(ctx, v, f, why, func(appendonly.Retired) { names++ })
		return errors.Join(err, f.Close(ctx))
	})
	return names, err
}

// clearRoot lets go of what is in the root until nothing is.
func clearRoot(ctx context.Context, v *appendonly.Vault, f *appendonly.FS, why string, each func(appendonly.Retired)) error {
	for {
		d, err := f.OpenDir("/")
		if err != nil {
			return err
		}
		list, err := d.Next(clearBatch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		var paths []string
		for _, e := range list {
			paths = append(paths, "/"+e.Name)
		}
		went := 0
		if err := v.Retire(ctx, paths, true, why, func(r appendonly.Retired) { went++; each(r) }); err != nil {
			return err
		}
		if went == 0 {
			return fmt.Errorf("let names go: %d stay: %w", len(list), fs.ErrExist)
		}
	}
}

// Release closes a removed tenant's dataset, for good: the expire process takes it away. ErrTenantInUse while somebody uses it.
func (s *Store) Release(id string) error {
	if _, err := s.removed(id); err != nil {
		return err
	}
	sl := s.slot(id)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.users > 0 {
		return ErrTenantInUse
	}
	return sl.close()
}
