package main

import (
	"context"
	"errors"
	"fmt"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
)

// heldBody is the body of a snapshot that an operator holds: a hold of ZFS with a tag of its own. The zero value is of a snapshot without one.
type heldBody struct {
	zfs  *zfs.Client
	name string // whole
	dry  bool
	err  error // why it is not held
}

// putting is what became of a hold on ZFS.
type putting int

const (
	noBody  putting = iota // the snapshot has none
	heldNow                // it was put on
	heldYet                // it was there already
	notHeld                // this command may not, or could not
)

// bodyToHold returns what is to be held on ZFS beside a snapshot of the journal.
func (a *app) bodyToHold(ctx context.Context, id, name string) (*heldBody, error) {
	at, err := a.placeOf(id)
	if err != nil || at.dataset == "" {
		return &heldBody{}, err
	}
	b := &heldBody{name: at.dataset + "@" + snapshot.BodyName(name), dry: a.dryRun}
	b.zfs, err = newZFS(newLogger(a.stderr, "text", "warn"))
	return b, err
}

// hold puts the operator's tag on.
func (b *heldBody) hold(ctx context.Context) putting {
	if b.zfs == nil {
		return noBody
	}
	if b.dry {
		if _, err := b.zfs.Snapshot(ctx, b.name); errors.Is(err, zfs.ErrNotExist) {
			return noBody
		}
		return heldYet
	}
	b.err = b.zfs.Hold(ctx, snapshot.LegalTag, b.name)
	switch {
	case b.err == nil:
		return heldNow
	case errors.Is(b.err, zfs.ErrExist):
		return heldYet
	case errors.Is(b.err, zfs.ErrNotExist):
		return noBody
	}
	return notHeld
}

// release takes back what hold put on, when the policy was not changed after all.
func (b *heldBody) release(ctx context.Context) error {
	return b.zfs.Release(ctx, snapshot.LegalTag, b.name)
}

// words say it to who asked for the hold.
func (p putting) words(b *heldBody) string {
	switch {
	case p == noBody && b.zfs != nil:
		return " (in the journal; it has no body on ZFS)"
	case p == heldNow, p == heldYet:
		return fmt.Sprintf(" (on ZFS too: %s)", b.name)
	case p == notHeld && errors.Is(b.err, zfs.ErrPermission):
		return " (on ZFS its hold is put on by the next run of expire, which goes by this one from now on)"
	case p == notHeld:
		return fmt.Sprintf(" (on ZFS it is not held yet: %v; the next run of expire tries again)", b.err)
	}
	return ""
}
