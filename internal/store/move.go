package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// Withdraw closes a tenant's vault, which its operator moves: nobody opens it again (volume.Leave). ErrTenantInUse while somebody uses it.
func (s *Store) Withdraw(id string) error {
	sl := s.slot(id)
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.users > 0 {
		return ErrTenantInUse
	}
	return sl.close()
}

// ErrCopy says that a copy is not what it was made of.
var ErrCopy = errors.New("the copy is not what it was made of")

// CheckCopy makes the live tree and the index of a copy of a tenant's dataset again, and looks whether all is there: the chain goes on from
// head, and each content has the digest that the journal has of it. What was known to be damaged before may be so.
func CheckCopy(ctx context.Context, dir string, t tenant.Tenant, head journal.Head, log *slog.Logger, each func(appendonly.Verified)) (err error) {
	vol, err := volume.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vol.Close()) }()
	found := head.Seq == 0
	if _, _, err := journal.NewReader(vol).All(func(r *journal.Record, _ []byte) error {
		found = found || r.Seq == head.Seq && r.Chain == head.Chain
		return ctx.Err()
	}); err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("%w: its journal has no record %d of that chain", ErrCopy, head.Seq)
	}
	boot, err := BootID()
	if err != nil {
		return err
	}
	// Another boot: what no barrier covered is read and compared, too.
	vault, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: vol.IndexPath(), Policy: t.Core(), Now: time.Now, Boot: boot + "/moved", Log: log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, vault.Close()) }()
	if err := vault.Err(); err != nil {
		return err
	}
	if _, err := vault.RebuildTree(); err != nil {
		return err
	}
	var wrong []error
	err = vault.Verify(ctx, appendonly.VerifyOptions{}, func(w appendonly.Wrong) {
		if w.New && len(wrong) < 10 {
			wrong = append(wrong, fmt.Errorf("%w: %s (%s): %s", ErrCopy, appendonly.QuotePath(w.Path), w.ID, w.What))
		}
	}, each)
	return errors.Join(append(wrong, err)...)
}

// GiveTree gives a dataset to the owner of another: who copied it may be root.
func GiveTree(dir, like string) error {
	var st unix.Stat_t
	if err := unix.Stat(like, &st); err != nil {
		return &os.PathError{Op: "stat", Path: like, Err: err}
	}
	return filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(st.Uid), int(st.Gid))
	})
}
