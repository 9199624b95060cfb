package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
)

// pushEnded takes the snapshot at the end of a push, or leaves it to the schedule if there was one
// less than a minute ago.
func (s *Store) pushEnded(sl *slot) {
	t, ok := s.Tenants().TenantByID(sl.id)
	if !ok || !t.Schedule.PushEnd || !sl.pushes.Ended(s.cfg.Now()) {
		return
	}
	s.takeScheduled(context.Background(), t, "push")
}

// Snapshot takes a snapshot of a tenant. Without a name it is called after the time and the kind; one
// that a name of a client's making could not be confused with is the caller's business.
func (s *Store) Snapshot(ctx context.Context, t tenant.Tenant, name, kind string) (appendonly.SnapshotInfo, error) {
	var info appendonly.SnapshotInfo
	err := s.With(ctx, t.ID, func(v *appendonly.Vault) error {
		var err error
		if name != "" {
			info, err = v.Snapshot(ctx, name, kind)
			return err
		}
		base := snapshot.Name(s.cfg.Now(), kind)
		info, err = v.Snapshot(ctx, base, kind)
		for n := 2; errors.Is(err, fs.ErrExist) && n < 100; n++ { // twice in a second, or the clock was set back
			info, err = v.Snapshot(ctx, fmt.Sprintf("%s-%d", base, n), kind)
		}
		return err
	})
	if err == nil && kind != "push" {
		err = s.cfg.Driver.Snapshot(ctx, t.ID, info.Name)
	}
	if s.cfg.Snapshotted != nil && !errors.Is(err, fs.ErrExist) { // a name that is taken is the operator's mistake
		s.cfg.Snapshotted(t.ID, kind, err)
	}
	return info, err
}

// Run takes scheduled snapshots and closes idle vaults until ctx is cancelled.
func (s *Store) Run(ctx context.Context) error {
	clock := snapshot.NewClock(s.loadSchedule())
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	for {
		s.takeDue(ctx, clock)
		s.takeWaiting(ctx)
		s.tellAll()
		s.closeIdle()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// takeDue takes the snapshots whose schedule lines are due.
func (s *Store) takeDue(ctx context.Context, clock *snapshot.Clock) {
	tenants := s.Tenants().Tenants()
	var lines []string
	seen := map[string]bool{}
	for _, t := range tenants {
		for _, l := range t.Schedule.Snapshots {
			if !seen[l] {
				seen[l] = true
				lines = append(lines, l)
			}
		}
	}
	due, err := clock.Due(lines, s.cfg.Now())
	if err != nil {
		s.cfg.Log.Error("read snapshot schedule", "error", err.Error())
	}
	for _, t := range tenants {
		for _, line := range t.Schedule.Snapshots {
			if ctx.Err() != nil {
				return
			}
			if slices.Contains(due, line) {
				s.takeScheduled(ctx, t, snapshot.Kind(line))
			}
		}
	}
	if err := s.saveSchedule(clock.Last()); err != nil {
		s.cfg.Log.Error("save snapshot schedule", "error", err.Error())
	}
}

// takeScheduled takes a snapshot of a tenant in which something changed since its newest one: where
// nothing did, that one shows the present too.
func (s *Store) takeScheduled(ctx context.Context, t tenant.Tenant, kind string) {
	if s.available(t.ID) != nil {
		return // the pool's alarm says it once for all
	}
	if _, err := s.cfg.Driver.Path(t.ID); errors.Is(err, fs.ErrNotExist) {
		return // nobody has come yet
	}
	err := s.With(ctx, t.ID, func(v *appendonly.Vault) error {
		if !v.Unnamed() {
			return nil
		}
		_, err := s.Snapshot(ctx, t, "", kind)
		return err
	})
	if away := (*UnavailableError)(nil); err != nil && !errors.As(err, &away) {
		s.cfg.Log.Error("take snapshot", "tenant", t.Name, "kind", kind, "error", err.Error())
	}
}

// takeWaiting takes the snapshots of pushes that ended within a minute of another.
func (s *Store) takeWaiting(ctx context.Context) {
	for _, sl := range s.openSlots() {
		if !sl.pushes.Waiting(s.cfg.Now()) {
			continue
		}
		if t, ok := s.Tenants().TenantByID(sl.id); ok && t.Schedule.PushEnd {
			s.takeScheduled(ctx, t, "push")
		}
	}
}

func (s *Store) closeIdle() {
	for _, sl := range s.openSlots() {
		sl.mu.Lock()
		if sl.vault != nil && sl.users == 0 && !sl.pushes.Pending() && s.cfg.Now().Sub(sl.idle).Abs() > s.cfg.IdleClose && sl.vault.Idle() {
			if err := sl.close(); err != nil {
				s.cfg.Log.Error("close idle vault", "error", err.Error())
			}
		}
		sl.mu.Unlock()
	}
}

func (s *Store) schedulePath() string { return filepath.Join(ServerDir(s.Dir), "schedule.json") }

func (s *Store) loadSchedule() map[string]time.Time {
	b, err := os.ReadFile(s.schedulePath())
	last := map[string]time.Time{}
	if err == nil {
		err = json.Unmarshal(b, &last)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("snapshot schedules begin anew", "error", err.Error())
	}
	return last
}

func (s *Store) saveSchedule(last map[string]time.Time) error {
	b, err := json.Marshal(last)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(s.schedulePath()); err == nil && string(old) == string(b) {
		return nil
	}
	return writeFile(s.schedulePath(), b)
}
