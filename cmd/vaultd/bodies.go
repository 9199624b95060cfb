package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"vaultd/internal/retention"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
)

// zfsBodies are the snapshots of one tenant's dataset, for the expire process.
type zfsBodies struct {
	zfs     *zfs.Client
	dataset string
}

var _ retention.Bodies = zfsBodies{}

// List implements retention.Bodies. Only properties that were set on the snapshot itself count: one that is inherited is the dataset's.
func (z zfsBodies) List(ctx context.Context, names ...string) ([]retention.Body, error) {
	if len(names) == 0 {
		all, err := z.zfs.Snapshots(ctx, z.dataset, snapshot.PropertySeq, snapshot.PropertyHead)
		out := make([]retention.Body, 0, len(all))
		for _, s := range all {
			out = append(out, bodyOf(s))
		}
		return out, err
	}
	var out []retention.Body
	for _, name := range names {
		s, err := z.zfs.Snapshot(ctx, z.dataset+"@"+name, snapshot.PropertySeq, snapshot.PropertyHead)
		if errors.Is(err, zfs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b := bodyOf(s)
		holds, err := z.zfs.Holds(ctx, s.Name)
		if err != nil {
			return nil, err
		}
		for _, h := range holds {
			b.Holds = append(b.Holds, h.Tag)
		}
		out = append(out, b)
	}
	return out, nil
}

func bodyOf(s *zfs.Snapshot) retention.Body {
	own := func(property string) string {
		if v := s.Properties[property]; v.Own() {
			return v.Value
		}
		return ""
	}
	return retention.Body{Name: s.Short(), GUID: s.GUID, CreateTXG: s.CreateTXG, Created: s.Created.UTC(), Used: int64(s.Used), Refs: int(s.Holds),
		Seq: own(snapshot.PropertySeq), Head: own(snapshot.PropertyHead)}
}

// Hold implements retention.Bodies.
func (z zfsBodies) Hold(ctx context.Context, b retention.Body, tag string) error {
	err := z.zfs.Hold(ctx, tag, z.dataset+"@"+b.Name)
	if errors.Is(err, zfs.ErrExist) {
		return nil
	}
	return err
}

// Release implements retention.Bodies.
func (z zfsBodies) Release(ctx context.Context, b retention.Body, tag string) error {
	err := z.zfs.Release(ctx, tag, z.dataset+"@"+b.Name)
	if errors.Is(err, zfs.ErrNotExist) {
		return nil
	}
	return err
}

// Destroy implements retention.Bodies.
func (z zfsBodies) Destroy(ctx context.Context, b retention.Body) error {
	err := z.zfs.DestroySnapshot(ctx, z.dataset+"@"+b.Name, b.GUID)
	if errors.Is(err, zfs.ErrBusy) || errors.Is(err, zfs.ErrDependent) {
		return fmt.Errorf("%w: %w", retention.ErrInUse, err)
	}
	return err
}

// onZFS returns the root dataset of a store on ZFS: the one that is mounted on its tenants/. "": each tenant is a directory.
func (a *app) onZFS() (string, error) { return zfs.MountedOn(filepath.Join(a.dir, "tenants")) }

// datasetOf returns a tenant's dataset; mounted tells whether it is mounted in its place. "": the tenant is a directory. It runs no process.
func (a *app) datasetOf(id string) (dataset string, mounted bool, err error) {
	root, err := a.onZFS()
	if err != nil || root == "" || a.waits(id) {
		return "", false, err
	}
	dir := filepath.Join(a.dir, "tenants", id)
	switch on, err := zfs.MountedOn(dir); {
	case err != nil:
		return "", false, err
	case on == root+"/"+id:
		return on, true, nil
	case on != "":
		return "", false, fmt.Errorf("%s is mounted on tenants/%s, which is the place of %s/%[2]s", on, id, root)
	}
	return root + "/" + id, false, nil
}

// zfsClient makes the client of one command.
func (a *app) zfsClient() (*zfs.Client, error) { return zfs.New(zfs.Config{}) }

// bodiesOf are the bodies of a tenant's snapshots; nil where there are none. A pool that is suspended is an error before anything is read of the dataset:
// what reads it would wait in the kernel, where nothing can end it.
func (x *expirer) bodiesOf(ctx context.Context, t tenant.Tenant) (retention.Bodies, error) {
	dataset, mounted, err := x.a.datasetOf(t.ID)
	if err != nil || !mounted {
		return nil, err
	}
	if x.zfs == nil {
		if x.zfs, err = x.a.zfsClient(); err != nil {
			return nil, err
		}
	}
	pool, _, _ := strings.Cut(dataset, "/")
	p, err := x.zfs.Pool(ctx, pool)
	if err == nil && (p.Health == "SUSPENDED" || p.Health == "UNAVAIL" || p.Health == "FAULTED") {
		err = fmt.Errorf("pool %s is %s: %w", pool, p.Health, zfs.ErrSuspended)
	}
	if err != nil {
		return nil, err
	}
	return zfsBodies{x.zfs, dataset}, nil
}

// What implements retention.Dataset.
func (e ending) What() string {
	if dataset, _, err := e.a.datasetOf(e.id); err == nil && dataset != "" {
		return "ZFS dataset " + dataset
	}
	return "directory tenants/" + e.id
}

// Remove implements retention.Dataset. A dataset of ZFS goes only if it has no snapshot, no child, and nothing that retention has to let go of.
func (e ending) Remove(ctx context.Context) error {
	dataset, mounted, err := e.a.datasetOf(e.id)
	if err != nil || dataset == "" {
		return errors.Join(err, volume.Remove(e.dir))
	}
	client, err := e.a.zfsClient()
	if err != nil {
		return err
	}
	d, err := client.Get(ctx, dataset)
	if errors.Is(err, zfs.ErrNotExist) && !mounted { // a directory below the root dataset, or gone by an earlier run
		return volume.Remove(e.dir)
	}
	if err != nil {
		return err
	}
	if err := client.DestroyEmpty(ctx, dataset, d.GUID, volume.CheckEmpty); err != nil {
		return err
	}
	return volume.Remove(e.dir) // the mountpoint, if it is still there
}

// showBodies says what a run did, or would do, to a tenant's snapshots on ZFS.
func (r *expireReply) showBodies(w io.Writer, dry bool) {
	verb := "were"
	if dry {
		verb = "would be"
	}
	if r.Bodies > 0 {
		fmt.Fprintf(w, "  %d snapshots on ZFS %s destroyed\n", r.Bodies, verb)
	}
	if r.ZFS != nil {
		fmt.Fprint(w, "  ")
		r.ZFS.show(w)
	}
	for _, b := range r.Busy {
		fmt.Fprintf(w, "  on ZFS %s stays until the next run: %s\n", b.Name, b.Why)
	}
	for _, b := range r.Strange {
		fmt.Fprintf(w, "  on ZFS %s is left alone: %s; if it is nobody's, destroy it by hand\n", b.Name, b.Why)
	}
}
