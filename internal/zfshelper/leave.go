package zfshelper

import (
	"context"
	"fmt"
)

var _ Leaver = (*Helper)(nil)

// Unmount implements Leaver. Who asks is believed in nothing: the catalog is read here, and it is root's; the dataset is looked into here, mounted
// read-only. Datasets that are not mounted are not served, so who could have this done to a tenant that is not removed could take its service away.
func (h *Helper) Unmount(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	due := false
	if h.cfg.Removed != nil {
		var err error
		if due, err = h.cfg.Removed(id); err != nil {
			return err
		}
	}
	if !due {
		return fmt.Errorf("unmount dataset of %s: %w", id, ErrKept)
	}
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
