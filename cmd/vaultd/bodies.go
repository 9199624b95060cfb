package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"vaultd/internal/confine"
	"vaultd/internal/retention"
	"vaultd/internal/snapshot"
	"vaultd/internal/store"
	"vaultd/internal/volume"
	"vaultd/internal/zfs"
	"vaultd/internal/zfshelper"
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

// place is where a tenant's data is.
type place struct {
	dir     string // "": it has none, or none that can be reached
	dataset string // of ZFS; "": a directory
}

// placeOf finds a tenant's data without running anything. A directory that its dataset is not mounted on is never taken for it.
func (a *app) placeOf(id string) (place, error) {
	if a.waits(id) { // it counts until it is moved, whatever is in the new place; it may be a dataset of another pool
		former := filepath.Join(a.dir, confine.FormerDir, id)
		dataset, err := a.mountedAt(former)
		return place{former, dataset}, err
	}
	conf, err := a.loadConfig()
	if err != nil {
		return place{}, err
	}
	if conf.ZFS.Dataset == "" {
		dir, err := store.Directory{Dir: filepath.Join(a.dir, confine.TenantsDir)}.Path(id)
		if errors.Is(err, fs.ErrNotExist) {
			return place{}, nil
		}
		return place{dir: dir}, err
	}
	tenants, err := a.tenantsDir()
	if err != nil {
		return place{}, err
	}
	if a.waits(id) { // first: its dataset may be in the making
		return place{dir: filepath.Join(filepath.Dir(tenants), confine.FormerDir, id)}, nil
	}
	dataset, dir := conf.ZFS.Dataset+"/"+id, filepath.Join(tenants, id)
	switch at, err := a.mountedAt(dir); {
	case err != nil:
		return place{}, err
	case at == dataset:
		return place{dir, dataset}, nil
	case at != "":
		return place{}, fmt.Errorf("%s is mounted in the place of %s", at, dataset)
	}
	if at, err := a.mountedAt(tenants); err != nil || at != conf.ZFS.Dataset {
		return place{}, errors.Join(fmt.Errorf("%s is not mounted: %w", conf.ZFS.Dataset, store.ErrOffline), err)
	}
	return place{dataset: dataset}, nil
}

// client is the expire process's own: it destroys snapshots, and nobody else does.
func (x *expirer) client() (*zfs.Client, error) {
	if x.zfs == nil {
		c, err := newZFS(x.log)
		if err != nil {
			return nil, err
		}
		x.zfs = c
	}
	return x.zfs, nil
}

// bodiesOf are the bodies of a tenant's snapshots; nil where there are none. A pool that is suspended is an error before anything is read of the dataset:
// what reads it would wait in the kernel, where nothing can end it.
func (x *expirer) bodiesOf(ctx context.Context, at place) (retention.Bodies, error) {
	if at.dataset == "" {
		return nil, nil
	}
	client, err := x.client()
	if err != nil {
		return nil, err
	}
	pool, _, _ := strings.Cut(at.dataset, "/")
	if pool != x.alive { // asked once for all the tenants of a pass
		p, err := client.Pool(ctx, pool)
		if err == nil && (p.Health == "SUSPENDED" || p.Health == "UNAVAIL" || p.Health == "FAULTED") {
			err = fmt.Errorf("pool %s is %s: %w", pool, p.Health, zfs.ErrSuspended)
		}
		if err != nil {
			return nil, err
		}
		x.alive = pool
	}
	return zfsBodies{client, at.dataset}, nil
}

// absent is nil for a tenant that has no dataset, and an error for one whose dataset is there and is not mounted.
func (x *expirer) absent(ctx context.Context, at place) error {
	if at.dataset == "" {
		return nil
	}
	client, err := x.client()
	if err != nil {
		return err
	}
	d, err := client.Get(ctx, at.dataset)
	switch {
	case errors.Is(err, zfs.ErrNotExist):
		return nil
	case err == nil && d.KeyStatus == "unavailable":
		return fmt.Errorf("%s: %w", at.dataset, store.ErrLocked)
	case err == nil:
		err = fmt.Errorf("%s is not mounted: %w", at.dataset, store.ErrOffline)
	}
	return err
}

// What implements retention.Dataset.
func (e ending) What() string {
	if at, err := e.x.a.placeOf(e.id); err == nil && at.dataset != "" {
		return "ZFS dataset " + at.dataset
	}
	return "directory " + confine.TenantsDir + "/" + e.id
}

// Remove implements retention.Dataset. A dataset of ZFS goes only if it has no snapshot, no child, and nothing that retention has to let go of; with it the
// file of its key, which opens nothing any more.
func (e ending) Remove(ctx context.Context) error {
	at, err := e.x.a.placeOf(e.id)
	if err != nil {
		return err
	}
	if at.dataset == "" {
		return volume.Remove(cmp.Or(at.dir, e.dir))
	}
	client, err := e.x.client()
	if err != nil {
		return err
	}
	conf, err := e.x.a.loadConfig()
	if err != nil {
		return err
	}
	d, err := client.Get(ctx, at.dataset)
	if err == nil {
		if e.leave != nil { // or it is busy with this process
			e.leave()
		}
		err = endDataset(ctx, conf, client, d, e.id)
	}
	if err != nil && !errors.Is(err, zfs.ErrNotExist) { // an earlier run did it
		return err
	}
	if err := e.forgetKey(ctx, conf); err != nil {
		return err
	}
	return volume.Remove(cmp.Or(at.dir, e.dir)) // the mountpoint, if it is still there
}

// endDataset destroys a dataset that is empty. A process that is not root can not unmount: the helper looks into it and does that.
func endDataset(ctx context.Context, conf *Config, client *zfs.Client, d *zfs.Dataset, id string) error {
	if conf.ZFS.Helper == "" {
		return client.DestroyEmpty(ctx, d.Name, d.GUID, volume.CheckEmpty)
	}
	socket := &zfshelper.Socket{Path: conf.ZFS.Helper}
	defer socket.Close()
	if err := (zfshelper.Remote{Caller: socket}).Unmount(ctx, id); err != nil {
		return fmt.Errorf("unmount %s: %w", d.Name, err)
	}
	return client.DestroyUnmounted(ctx, d.Name, d.GUID)
}

// forgetKey removes the file of a key that opens nothing any more. Where expire is a user of its own, keys are out of its reach: the helper, which looks for
// itself, does it.
func (e ending) forgetKey(ctx context.Context, conf *Config) error {
	if conf.ZFS.Helper != "" {
		socket := &zfshelper.Socket{Path: conf.ZFS.Helper}
		defer socket.Close()
		return (zfshelper.Remote{Caller: socket}).Forget(ctx, e.id)
	}
	path := filepath.Join(conf.ZFS.Keys, e.id+".key")
	err := os.Remove(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS):
		e.x.log.Warn("the key of a dataset that is destroyed stays: only root can remove it, and it opens nothing here", "tenant", e.id, "key", path)
		return nil
	}
	return err
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
