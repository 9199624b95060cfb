package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"vaultd/internal/zfs"
)

var _ Leaver = (*Helper)(nil)

// leaveProperty marks the dataset of a removed tenant that is to be unmounted: how a Helper that can not unmount tells the mounter, which reads
// nothing from anybody. Root alone sets it, and the mounter checks everything again.
const leaveProperty = "vaultd:leave"

// Unmount implements Leaver. Who asks is believed in nothing: the catalog is read here, and it is root's; the dataset is looked into here, mounted
// read-only. Datasets that are not mounted are not served, so who could have this done to a tenant that is not removed could take its service away.
func (h *Helper) Unmount(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	h.changing.Lock()
	defer h.changing.Unlock()
	if err := h.due(id); err != nil {
		return err
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
	if h.cfg.Place == nil {
		return h.leave(ctx, d)
	}
	if err := h.cfg.Client.Set(ctx, d.Name, map[string]string{leaveProperty: "on"}); err != nil {
		return err
	}
	asked := h.cfg.Place(ctx)
	if d, err = h.cfg.Client.Get(ctx, d.Name); err == nil && d.Mounted {
		err = ErrKept
	}
	if err != nil {
		return errors.Join(fmt.Errorf("unmount dataset of %s: %w", id, err), asked)
	}
	return nil
}

// due refuses a tenant whose removal is not.
func (h *Helper) due(id string) error {
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
	return nil
}

// leave unmounts an empty dataset. The caller has changing.
func (h *Helper) leave(ctx context.Context, d *zfs.Dataset) error {
	empty := func(dir string) error {
		if err := h.cfg.Empty(dir); err != nil {
			return fmt.Errorf("%w: %w", ErrKept, err)
		}
		return nil
	}
	if err := h.cfg.Client.UnmountEmpty(ctx, d.Name, d.GUID, empty); err != nil {
		return err
	}
	h.cfg.Log.Info("dataset of a removed tenant unmounted", "dataset", d.Name)
	return nil
}

// leaveMarked does for a marked dataset what Unmount was asked for. One that has to stay loses its mark.
func (h *Helper) leaveMarked(ctx context.Context, d *zfs.Dataset) error {
	if !d.Mounted {
		return nil
	}
	err := h.due(filepath.Base(d.Name))
	if err == nil {
		err = h.leave(ctx, d)
	}
	if err != nil {
		err = errors.Join(err, h.cfg.Client.Inherit(ctx, d.Name, leaveProperty))
	}
	return err
}
