package store

import (
	"context"
	"encoding/json"
	"errors"
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

// takeDue takes the snapshots whose schedule lines are due: those of a line are one batch.
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
	for _, line := range due {
		var of []tenant.Tenant
		for _, t := range tenants {
			if slices.Contains(t.Schedule.Snapshots, line) {
				of = append(of, t)
			}
		}
		s.takeBatch(ctx, of, snapshot.Kind(line))
	}
	if err := s.saveSchedule(clock.Last()); err != nil {
		s.cfg.Log.Error("save snapshot schedule", "error", err.Error())
	}
}

// takeScheduled takes a snapshot without a body of a tenant in which something changed since its newest one: where nothing did, that one shows the
// present too.
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
		_, err := s.named(snapshot.Name(s.cfg.Now(), kind), func(name string) (appendonly.SnapshotInfo, error) { return v.Snapshot(ctx, name, kind) })
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
