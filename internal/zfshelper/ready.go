package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"vaultd/internal/zfs"
)

// Ready brings datasets to their places: the root is mounted, keys are loaded where there is a file of them, and what is not mounted is.
// Each dataset once, as long as the pool stays: what the operator locks or unmounts afterwards stays so. It is no verb: the helper calls it, at its start
// and from time to time, for pools that come later. Datasets without their key are passed over: others are served.
func (h *Helper) Ready(ctx context.Context) error {
	h.changing.Lock()
	defer h.changing.Unlock()
	all, err := h.cfg.Client.List(ctx, h.cfg.Dataset, 1)
	if err != nil {
		h.placed = nil // the pool is gone: all of it is new when it is back
		return err
	}
	if h.placed == nil {
		h.placed = map[string]bool{}
	}
	var errs error
	for _, d := range all {
		if d.Name != h.cfg.Dataset && checkID(filepath.Base(d.Name)) != nil || h.placed[d.Name] {
			continue
		}
		h.placed[d.Name] = true
		if err := h.place(ctx, d); err != nil {
			errs = errors.Join(errs, err)
		}
		if d.Name == h.cfg.Dataset {
			root, err := h.open(h.cfg.Dir, h.cfg.Dataset)
			if err != nil { // nothing is mounted below what is not there
				h.placed = nil
				return errors.Join(errs, err)
			}
			errs = errors.Join(errs, root.Close())
		}
	}
	return errs
}

func (h *Helper) place(ctx context.Context, d *zfs.Dataset) error {
	if d.KeyStatus == "unavailable" {
		key := filepath.Join(h.cfg.KeyDir, filepath.Base(d.Name)+".key")
		if _, err := os.Stat(key); err != nil {
			return fmt.Errorf("dataset %s stays locked: %w", d.Name, err)
		}
		if err := h.cfg.Client.LoadKey(ctx, d.Name, nil); err != nil {
			return err
		}
		h.cfg.Log.Info("key loaded", "dataset", d.Name)
	}
	if d.Mounted {
		return nil
	}
	if err := h.cfg.Client.Mount(ctx, d.Name); err != nil && !errors.Is(err, zfs.ErrMounted) {
		return err
	}
	h.cfg.Log.Info("mounted", "dataset", d.Name)
	return nil
}
