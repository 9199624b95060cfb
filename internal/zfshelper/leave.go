package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"vaultd/internal/zfs"
)

var _ Leaver = (*Helper)(nil)

// Unmount implements Leaver. Who asks is believed in nothing: the catalog is read here, and it is root's; the dataset is looked into here, mounted
// read-only. Datasets that are not mounted are not served, so who could have this done to a tenant that is not removed could take its service away.
func (h *Helper) Unmount(ctx context.Context, id string) error {
	return h.whenDue(id, func() error { return h.unmount(ctx, id) })
}

// unmount is Unmount of a tenant whose removal is due. h.changing is held.
func (h *Helper) unmount(ctx context.Context, id string) error {
	d, err := h.cfg.Client.Get(ctx, h.dataset(id))
	if err != nil {
		return err
	}
	if h.cfg.Place != nil {
		return h.leaveByMounter(ctx, d.Name)
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

// whenDue calls do where the removal of a tenant is due, by the catalog, and the root dataset is mounted: else what is looked for is not where it
// belongs. h.changing is held meanwhile.
func (h *Helper) whenDue(id string, do func() error) error {
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
		return fmt.Errorf("end dataset of %s: %w", id, ErrKept)
	}
	root, err := h.open(h.cfg.Dir, h.cfg.Dataset)
	if err != nil {
		return err
	}
	defer root.Close()
	return do()
}

// Forget implements Leaver. The dataset was destroyed by expire, which can not reach keys; with the key, what the disks and raw copies still have of it
// can be read no more.
func (h *Helper) Forget(ctx context.Context, id string) error {
	return h.whenDue(id, func() error { return h.forget(ctx, id) })
}

// forget is Forget of a tenant whose removal is due. h.changing is held.
func (h *Helper) forget(ctx context.Context, id string) error {
	switch _, err := h.cfg.Client.Get(ctx, h.dataset(id)); {
	case err == nil:
		return fmt.Errorf("forget key of %s: its dataset is there: %w", id, ErrKept)
	case !errors.Is(err, zfs.ErrNotExist):
		return err
	}
	if h.cfg.Former != "" {
		if _, err := os.Lstat(filepath.Join(h.cfg.Former, id)); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("forget key of %s: it waits to be moved: %w", id, ErrKept), err)
		}
	}
	if h.cfg.KeyDir == "" {
		return nil
	}
	path := filepath.Join(h.cfg.KeyDir, id+".key")
	switch err := os.Remove(path); {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("forget key: %w", err)
	}
	h.cfg.Log.Warn("key of a removed tenant's dataset, which is destroyed, removed", "dataset", h.dataset(id), "key", path)
	return syncDir(h.cfg.KeyDir)
}

// leaveProperty is how a helper that can not unmount says to the mounter which dataset it is that expire has done with, and how that one says
// that it agreed. It is no order: the mounter asks the catalog and looks into the dataset itself.
const (
	leaveProperty = "vaultd:leave"
	leaveAsked    = "asked"
	leaveDone     = "done" // looked into, found empty, and left unmounted
	leaveRefused  = "no"
)

// leaveByMounter has the mounter unmount a dataset.
func (h *Helper) leaveByMounter(ctx context.Context, name string) error {
	if err := h.cfg.Client.Set(ctx, name, map[string]string{leaveProperty: leaveAsked}); err != nil {
		return err
	}
	unplaced := h.cfg.Place(ctx)
	d, err := h.cfg.Client.Get(ctx, name, leaveProperty)
	if err == nil && d.Properties[leaveProperty] == (zfs.Value{Value: leaveDone, Source: "local"}) && !d.Mounted {
		return nil
	}
	return errors.Join(fmt.Errorf("unmount %s: %w", name, ErrKept), unplaced, err,
		h.cfg.Client.Set(context.WithoutCancel(ctx), name, map[string]string{leaveProperty: leaveRefused}))
}

// Places is what the mounter does when it is asked: Ready, and unmounting what expire has done with.
func (h *Helper) Places(ctx context.Context) error {
	errs := h.Ready(ctx)
	all, err := h.cfg.Client.List(ctx, h.cfg.Dataset, 1, leaveProperty)
	if err != nil {
		return errors.Join(errs, err)
	}
	for _, d := range all {
		id, ok := strings.CutPrefix(d.Name, h.cfg.Dataset+"/")
		if !ok || d.Properties[leaveProperty] != (zfs.Value{Value: leaveAsked, Source: "local"}) {
			continue
		}
		if err := h.Unmount(ctx, id); err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		errs = errors.Join(errs, h.cfg.Client.Set(ctx, d.Name, map[string]string{leaveProperty: leaveDone}))
	}
	return errs
}
