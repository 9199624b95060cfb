package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

var _ Leaver = (*Helper)(nil)

// Unmount implements Leaver. Who asks is believed in nothing: the catalog is read here, and it is root's; the dataset is looked into here, mounted
// read-only. Datasets that are not mounted are not served, so who could have this done to a tenant that is not removed could take its service away.
// A Helper that can not unmount has the mounter do it, which is told no names: it leaves all that are to be left.
func (h *Helper) Unmount(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	switch due, err := h.removed(id); {
	case err != nil:
		return err
	case !due:
		return fmt.Errorf("unmount dataset of %s: %w", id, ErrKept)
	}
	if h.cfg.Place == nil {
		return h.leave(ctx, id)
	}
	why := h.cfg.Place(ctx) // which may be about another dataset
	d, err := h.cfg.Client.Get(ctx, h.dataset(id))
	if err == nil && d.Mounted {
		err = errors.Join(fmt.Errorf("dataset of %s is still mounted: %w", id, ErrKept), why)
	}
	return err
}

// Leave unmounts the datasets of all tenants whose removal is due and that are empty. It is no verb: the mounter calls it.
func (h *Helper) Leave(ctx context.Context) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	if h.cfg.Removed == nil {
		return nil
	}
	all, err := h.cfg.Client.List(ctx, h.cfg.Dataset, 1)
	if err != nil {
		return err
	}
	var errs error
	for _, d := range all {
		id, below := strings.CutPrefix(d.Name, h.cfg.Dataset+"/")
		if !below || checkID(id) != nil || !d.Mounted {
			continue
		}
		due, err := h.removed(id)
		if err == nil && due && h.cfg.Empty(filepath.Join(h.cfg.Dir, id)) == nil { // else it is not disturbed; it is looked at once more below
			err = h.leave(ctx, id)
		}
		errs = errors.Join(errs, err)
	}
	return errs
}

// removed reports whether a tenant's removal is due.
func (h *Helper) removed(id string) (bool, error) {
	if h.cfg.Removed == nil {
		return false, nil
	}
	return h.cfg.Removed(id)
}

// leave unmounts a dataset that is empty. changing is held.
func (h *Helper) leave(ctx context.Context, id string) error {
	root, err := h.open(h.cfg.Dir, h.cfg.Dataset) // else what is looked into is not where it belongs
	if err != nil {
		return err
	}
	defer root.Close()
	d, err := h.cfg.Client.Get(ctx, h.dataset(id))
	if err != nil {
		return err
	}
	empty := func(dir string) error {
		if err := h.cfg.Empty(dir); err != nil {
			return fmt.Errorf("%w: %w", ErrKept, err)
		}
		return nil
	}
	if err := h.cfg.Client.UnmountEmpty(ctx, h.dataset(id), d.GUID, empty); err != nil {
		return err
	}
	h.cfg.Log.Info("dataset of a removed tenant unmounted", "dataset", h.dataset(id))
	return nil
}
