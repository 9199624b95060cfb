package store

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"vaultd/internal/appendonly"
)

// What an open vault shows is told to Config.Seen, so that it is known when the vault is closed, and nobody has to open it to find out.

// teller returns what tells Seen about a vault: at once, and then whenever something is different since. It is called with the slot's lock held.
func (s *Store) teller(id string, v *appendonly.Vault) func() {
	if s.cfg.Seen == nil {
		return func() {}
	}
	first, head, usage, failed := true, appendonly.Seq(0), appendonly.Usage{}, false
	return func() {
		h, u, f := v.Head(), v.Usage(), v.Err() != nil
		if !first && h == head && u == usage && f == failed {
			return
		}
		first, head, usage, failed = false, h, u, f
		s.cfg.Seen(id, v)
	}
}

// Told is when what open vaults look like was last told of, all of it; zero: not yet.
func (s *Store) Told() time.Time {
	if t := s.told.Load(); t != nil {
		return *t
	}
	return time.Time{}
}

// tellAll tells of all open vaults.
func (s *Store) tellAll() {
	defer func() {
		now := time.Now()
		s.told.Store(&now)
	}()
	for _, sl := range s.openSlots() {
		sl.mu.Lock()
		if sl.told != nil {
			sl.told()
		}
		sl.mu.Unlock()
	}
}

// Look opens vaults that known says nothing is known of, one by one, and closes them again: after an update from a vaultd that kept no facts.
func (s *Store) Look(ctx context.Context, known func(id string) bool) error {
	for _, t := range s.Tenants().Tenants() {
		if ctx.Err() != nil {
			return nil
		}
		if known(t.ID) {
			continue
		}
		if _, err := s.cfg.Driver.Path(t.ID); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		sl := s.slot(t.ID)
		sl.mu.Lock()
		open := sl.vault != nil
		sl.mu.Unlock()
		err := s.With(ctx, t.ID, func(*appendonly.Vault) error { return nil })
		if !open {
			err = errors.Join(err, s.closeUnused(sl))
		}
		if err != nil {
			s.cfg.Log.Error("look at a vault that nothing is known of", "tenant", t.Name, "error", err.Error())
		}
	}
	return nil
}
