package appendonly

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"vaultd/internal/journal"
)

// Snapshot gives the present instant a name, after a barrier, and closes the journal's segment. It
// fails with fs.ErrExist when the name is taken. kind says why it was taken: push, manual, a schedule.
func (v *Vault) Snapshot(ctx context.Context, name, kind string) (SnapshotInfo, error) {
	v.naming.Lock()
	defer v.naming.Unlock()
	return v.snapshot(ctx, name, kind, false)
}

// snapshot is Snapshot with naming held.
func (v *Vault) snapshot(ctx context.Context, name, kind string, stand bool) (SnapshotInfo, error) {
	if !snapshotName.MatchString(name) {
		return SnapshotInfo{}, fmt.Errorf("snapshot %q: %w", name, ErrBadName)
	}
	have, err := v.idx.Snapshots()
	if err != nil {
		return SnapshotInfo{}, err
	}
	for _, s := range have {
		if s.Name == name {
			return SnapshotInfo{}, &fs.PathError{Op: "snapshot", Path: name, Err: fs.ErrExist}
		}
	}
	if err := ctx.Err(); err != nil {
		return SnapshotInfo{}, err
	}
	r := &journal.Record{Op: journal.OpSnapshot, Note: name, What: kind, Key: "server"}
	if err := v.closeSegment(r, stand); err != nil {
		return SnapshotInfo{}, err
	}
	return SnapshotInfo{Name: name, At: r.Seq, Time: r.Time, Kind: kind, Chain: r.Chain.String()}, nil
}

// Stand is Snapshot, and then the names stand still until move is called, or for most at the longest: publishing, renaming, removing and
// everything else that would be journaled waits, while bytes of uploads and reading go on. So whoever looks at the volume meanwhile sees what
// the journal says of this instant. move reports whether they stood until now; it must be called, and may be twice.
func (v *Vault) Stand(ctx context.Context, name, kind string, most time.Duration) (info SnapshotInfo, move func() bool, err error) {
	v.settle() // most of what is done below, while names still move
	v.naming.Lock()
	info, err = v.snapshot(ctx, name, kind, true)
	if err != nil {
		v.naming.Unlock()
		return info, nil, err
	}
	over := false // guarded by mu
	free := func() bool {
		v.mu.Lock()
		defer v.mu.Unlock()
		if over {
			return false
		}
		over, v.still = true, false
		v.moving.Broadcast()
		v.naming.Unlock()
		return true
	}
	timer := time.AfterFunc(most, func() {
		if free() {
			v.cfg.Log.Error("names stood still for as long as they may and move again", "snapshot", name, "for", most.String())
		}
	})
	v.settle() // attributes that came after their file was closed are on the disk then: whoever looks at the volume has them from there
	return info, func() bool { timer.Stop(); return free() }, nil
}

// errStill is what commit says to who did not wait for lockNames.
var errStill = errors.New("internal error: names stand still")

// lockNames takes mu, when names may change.
func (v *Vault) lockNames() {
	v.mu.Lock()
	for v.still {
		v.moving.Wait()
	}
}
