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
	return c.end(ctx, name, guid, empty, c.destroy)
}

// UnmountEmpty does all of DestroyEmpty but the last step: it leaves an empty file system unmounted, for DestroyUnmounted. One that is not mounted is
// looked into as well.
func (c *Client) UnmountEmpty(ctx context.Context, name string, guid uint64, empty func(dir string) error) error {
	return c.end(ctx, name, guid, empty, func(context.Context, *Dataset) error { return nil })
}

// DestroyUnmounted is the last step of DestroyEmpty, for a user who was delegated destroy and mount and can not unmount: the file system with this guid
// must not be mounted (ErrMounted), and has neither snapshots nor children. What is in it is not looked at: that is UnmountEmpty's.
func (c *Client) DestroyUnmounted(ctx context.Context, name string, guid uint64) error {
	if err := checkLone(name); err != nil {
		return err
	}
	d, err := c.lone(ctx, name, guid)
	if err != nil {
		return err
	}
	if d.Mounted {
		return &Error{Op: "zfs destroy", Name: name, Kind: ErrMounted, Err: errors.New("it is mounted")}
	}
	return c.destroy(ctx, d)
}

func checkLone(name string) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	if !strings.Contains(name, "/") {
		return badName("dataset", name, "a pool is not destroyed")
	}
	return nil
}

// destroy is zfs destroy. Without -r the kernel refuses one that got a child or a snapshot meanwhile.
func (c *Client) destroy(ctx context.Context, d *Dataset) error {
	return c.change(ctx, command{tool: "zfs", args: []string{"destroy", d.Name}, name: d.Name}, d.Name)
}

// end looks into a file system while nobody has it mounted for writing, and then calls last. When that can not be it is mounted again.
func (c *Client) end(ctx context.Context, name string, guid uint64, empty func(dir string) error, last func(context.Context, *Dataset) error) error {
	if err := checkLone(name); err != nil {
		return err
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
	if err = c.look(ctx, d, empty); err == nil {
		err = last(ctx, d)
	}
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

// look looks into d, which is not mounted, and leaves it so.
func (c *Client) look(ctx context.Context, d *Dataset, empty func(dir string) error) error {
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
	return c.Unmount(ctx, d.Name)
}

var mountedAt = MountedAt // tests
