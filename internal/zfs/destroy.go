package zfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// DestroyEmpty destroys a file system for good that is still the one with this guid, has no snapshot and no child (ErrDependent), and in which empty, called
// with the directory that it is mounted on, finds nothing; empty's error is returned as it is. With an encrypted one that is its own encryption root,
// the wrapped key goes: nothing that was ever in it can be read again.
//
//	zfs unmount; zfs mount -o ro; empty(dir); zfs unmount; zfs destroy
//
// Nothing is forced, so one that is in use is ErrBusy; while it is looked at, nobody can write to it. When it is not destroyed it is mounted again as it was.
// Called off between two steps it is not mounted, or mounted read-only: DestroyEmpty goes on from there, and Mount takes it back. Only root can mount.
func (c *Client) DestroyEmpty(ctx context.Context, name string, guid uint64, empty func(dir string) error) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	if !strings.Contains(name, "/") {
		return badName("dataset", name, "a pool is not destroyed")
	}
	d, err := c.lone(ctx, name, guid)
	if err != nil {
		return err
	}
	if d.Mounted {
		if err := c.Unmount(ctx, name); err != nil && !errors.Is(err, ErrNotMounted) {
			return err
		}
	}
	err = c.destroyUnmounted(ctx, d, empty)
	if err == nil || errors.Is(err, ErrTimeout) { // then nothing is known
		return err
	}
	ctx = context.WithoutCancel(ctx)
	if back := c.Unmount(ctx, name); back != nil && !errors.Is(back, ErrNotMounted) {
		return errors.Join(err, back)
	}
	if back := c.Mount(ctx, name); back != nil && !errors.Is(back, ErrMounted) {
		return errors.Join(err, back)
	}
	return err
}

// lone returns the file system with this guid if it has neither children nor snapshots.
func (c *Client) lone(ctx context.Context, name string, guid uint64) (*Dataset, error) {
	refuse := func(kind error, format string, args ...any) error {
		return &Error{Op: "zfs destroy", Name: name, Kind: kind, Err: fmt.Errorf(format, args...)}
	}
	all, err := c.List(ctx, name, 1)
	if err != nil {
		return nil, err
	}
	d := all[0]
	switch {
	case d.Name != name || d.Type != "filesystem":
		return nil, refuse(ErrName, "it is no file system")
	case d.GUID != guid:
		return nil, refuse(ErrNotExist, "guid is %d and not %d", d.GUID, guid)
	case len(all) > 1:
		return nil, refuse(ErrDependent, "%d datasets are below it", len(all)-1)
	case d.KeyStatus == "unavailable":
		return nil, refuse(ErrKey, "its key is not loaded, so nobody can see whether it is empty")
	case !filepath.IsAbs(d.Mountpoint):
		return nil, refuse(ErrNotMounted, "its mountpoint is %s", d.Mountpoint)
	}
	snaps, err := c.Snapshots(ctx, name)
	if err == nil && len(snaps) > 0 {
		err = refuse(ErrDependent, "it has %d snapshots", len(snaps))
	}
	return d, err
}

// destroyUnmounted looks into d, which is not mounted, and destroys it.
func (c *Client) destroyUnmounted(ctx context.Context, d *Dataset, empty func(dir string) error) error {
	if err := c.Mount(ctx, d.Name, "ro"); err != nil {
		return err
	}
	switch on, err := mountedAt(d.Mountpoint); {
	case err != nil:
		return err
	case on != d.Name:
		return &Error{Op: "zfs destroy", Name: d.Name, Kind: ErrNotMounted, Err: fmt.Errorf("something else is mounted at %s", d.Mountpoint)}
	}
	if err := empty(d.Mountpoint); err != nil {
		return err
	}
	if err := c.Unmount(ctx, d.Name); err != nil {
		return err
	}
	// Without -r the kernel refuses one that got a child or a snapshot meanwhile.
	return c.change(ctx, command{tool: "zfs", args: []string{"destroy", d.Name}, name: d.Name}, d.Name)
}

var mountedAt = MountedAt // tests
