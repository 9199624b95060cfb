package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// The server writes what the operator did to a tenant into the tenant's own chain, so that the tenant's history tells it without the
// catalog, and nobody can take it back out: every line of the audit log that is about the tenant, and the moment at which a
// change or a removal that waited took effect. announced.json in the store's directory says how far that has come. It is not
// trusted: losing it repeats records and loses none.

// announced is how far one store has come.
type announced struct {
	Audit uint64               `json:"audit"`           // the newest line that was dealt with
	Came  map[string]time.Time `json:"came,omitempty"`  // tenant id -> due time of the last change whose taking effect was written
	Ended map[string]time.Time `json:"ended,omitempty"` // tenant id -> due time of the removal
}

func (s *Store) announcedPath() string { return filepath.Join(s.Dir, "announced.json") }

// Announce writes what is new into the chains. A tenant without a dataset has no chain yet, and the audit log alone knows. What fails
// is tried again by the next call.
func (s *Store) Announce(ctx context.Context) error {
	s.announcing.Lock()
	defer s.announcing.Unlock()
	done := announced{}
	b, err := os.ReadFile(s.announcedPath())
	if err == nil {
		err = json.Unmarshal(b, &done)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("what was announced to tenants is not known, and is announced again", "error", err.Error())
		done = announced{}
	}
	if done.Came == nil {
		done.Came = map[string]time.Time{}
	}
	if done.Ended == nil {
		done.Ended = map[string]time.Time{}
	}
	before, err := json.Marshal(done)
	if err != nil {
		return err
	}
	if err = s.announce(ctx, &done); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("write the operator's changes into the tenants' chains", "error", err.Error())
	}
	after, merr := json.Marshal(done)
	if merr == nil && string(before) != string(after) {
		merr = writeFile(s.announcedPath(), after)
	}
	return errors.Join(err, merr)
}

func (s *Store) announce(ctx context.Context, done *announced) error {
	var news []tenant.Entry
	if s.Tenants().Seq > done.Audit {
		if err := s.Catalog.Audit(done.Audit, func(e tenant.Entry) bool { news = append(news, e); return len(news) < 10_000 }); err != nil {
			return err
		}
	}
	for _, e := range news {
		if e.What == "tenant set in force" && done.Came[e.ID].Equal(e.Due) {
			done.Audit = e.Seq // was written when it took effect
			continue
		}
		if err := s.tell(ctx, e.ID, e.What, e); err != nil {
			return err
		}
		done.Audit = e.Seq
	}
	for _, t := range s.Tenants().All() {
		if c := t.Came; c != nil && !done.Came[t.ID].Equal(c.Due) {
			since := tenant.Entry{Time: s.cfg.Now().UTC().Round(0), Who: c.Who, Why: c.Why, What: "tenant set in force", Tenant: t.Name, ID: t.ID,
				Detail: strings.Join(c.What, "; ") + "; asked on " + c.Since.Format(time.RFC3339), Due: c.Due}
			if err := s.tell(ctx, t.ID, since.What, since); err != nil {
				return err
			}
			done.Came[t.ID] = c.Due
		}
		if t.Removed(s.cfg.Now()) && !done.Ended[t.ID].Equal(t.Removal.Due) {
			if err := s.tell(ctx, t.ID, "tenant remove in force", t.Removal); err != nil {
				return err
			}
			done.Ended[t.ID] = t.Removal.Due
		}
	}
	return nil
}

// tell writes one thing into one tenant's chain, if it has one.
func (s *Store) tell(ctx context.Context, id, what string, about any) error {
	if id == "" {
		return nil
	}
	if _, err := s.cfg.Driver.Path(id); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	note, err := json.Marshal(about)
	if err != nil {
		return err
	}
	err = s.With(ctx, id, func(v *appendonly.Vault) error { return v.Announce(ctx, what, string(note)) })
	if errors.Is(err, appendonly.ErrReadOnly) || errors.Is(err, tenant.ErrNotFound) {
		s.cfg.Log.Error("announce to a tenant", "id", id, "what", what, "error", err.Error())
		return nil // the audit log has it; one broken tenant must not keep it from the others
	}
	if err != nil {
		return fmt.Errorf("announce to tenant %s: %w", id, err)
	}
	return nil
}
