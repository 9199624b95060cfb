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
// change or a removal that waited took effect. announced.json in server/ of the store says how far that has come. It is not
// trusted: losing it repeats records and loses none.

// announced is how far one store has come.
type announced struct {
	Audit uint64               `json:"audit"`           // the newest line that was dealt with
	Later map[string]uint64    `json:"later,omitempty"` // tenant id -> the first line that could not be written into its chain
	Came  map[string]time.Time `json:"came,omitempty"`  // tenant id -> due time of the last change whose taking effect was written
	Ended map[string]time.Time `json:"ended,omitempty"` // tenant id -> due time of the removal
}

func (s *Store) announcedPath() string { return filepath.Join(ServerDir(s.Dir), "announced.json") }

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
	for _, m := range []*map[string]time.Time{&done.Came, &done.Ended} {
		if *m == nil {
			*m = map[string]time.Time{}
		}
	}
	if done.Later == nil {
		done.Later = map[string]uint64{}
	}
	before, err := json.Marshal(done)
	if err != nil {
		return err
	}
	if err = s.announce(ctx, &done); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("read the operator's changes for the tenants' chains", "error", err.Error())
	}
	after, merr := json.Marshal(done)
	if merr == nil && string(before) != string(after) {
		merr = writeFile(s.announcedPath(), after)
	}
	return errors.Join(err, merr)
}

// news is what is to be written into one tenant's chain, in order.
type news struct {
	what  string
	about any
	audit uint64 // the line that it is of; 0: none
	done  func() // notes that it was written
}

func (s *Store) announce(ctx context.Context, done *announced) error {
	byTenant := map[string][]news{}
	from, newest := done.Audit, done.Audit
	for _, seq := range done.Later {
		from = min(from, seq-1)
	}
	if s.Tenants().Seq > done.Audit || len(done.Later) > 0 {
		err := s.Catalog.Audit(from, func(e tenant.Entry) bool {
			newest = max(newest, e.Seq)
			late, failed := done.Later[e.ID]
			again := e.What == "tenant set in force" && done.Came[e.ID].Equal(e.Due) // was written when it took effect
			if e.ID != "" && !again && (e.Seq > done.Audit || failed && e.Seq >= late) {
				byTenant[e.ID] = append(byTenant[e.ID], news{e.What, e, e.Seq, func() {}})
			}
			return true
		})
		if err != nil {
			return err
		}
	}
	for _, t := range s.Tenants().All() {
		if c := t.Came; c != nil && !done.Came[t.ID].Equal(c.Due) {
			e := tenant.Entry{Time: s.cfg.Now().UTC().Round(0), Who: c.Who, Why: c.Why, What: "tenant set in force", Tenant: t.Name, ID: t.ID,
				Detail: strings.Join(c.What, "; ") + "; asked on " + c.Since.Format(time.RFC3339), Due: c.Due}
			byTenant[t.ID] = append(byTenant[t.ID], news{e.What, e, 0, func() { done.Came[t.ID] = c.Due }})
		}
		if t.Removed(s.cfg.Now()) && !done.Ended[t.ID].Equal(t.Removal.Due) {
			byTenant[t.ID] = append(byTenant[t.ID], news{"tenant remove in force", t.Removal, 0, func() { done.Ended[t.ID] = t.Removal.Due }})
		}
	}
	for id, list := range byTenant {
		if err := ctx.Err(); err != nil {
			return err // what was written is written again
		}
		s.tell(ctx, id, list, done)
	}
	done.Audit = newest
	return nil
}

// tell writes what is new into one tenant's chain, if it has one. What fails waits for the next time, and keeps nobody else waiting. A
// vault that was opened for this is closed again.
func (s *Store) tell(ctx context.Context, id string, list []news, done *announced) {
	_, err := s.cfg.Driver.Path(id)
	if errors.Is(err, fs.ErrNotExist) {
		delete(done.Later, id)
		return
	}
	sl := s.slot(id)
	sl.mu.Lock()
	open := sl.vault != nil
	sl.mu.Unlock()
	written := 0
	if err == nil {
		err = s.With(ctx, id, func(v *appendonly.Vault) error {
			for _, n := range list {
				note, err := json.Marshal(n.about)
				if err == nil {
					err = v.Announce(ctx, n.what, string(note))
				}
				if err != nil {
					return err
				}
				n.done()
				written++
			}
			return nil
		})
	}
	if !open {
		err = errors.Join(err, s.closeUnused(sl))
	}
	if written == len(list) {
		delete(done.Later, id)
		return
	}
	if _, known := done.Later[id]; !known {
		s.cfg.Log.Error("write the operator's changes into a tenant's chain: tried again later", "id", id, "error", fmt.Sprint(err))
	}
	if n := list[written]; n.audit > 0 {
		done.Later[id] = n.audit
	}
}

// closeUnused closes a vault that nobody uses.
func (s *Store) closeUnused(sl *slot) error {
	sl.mu.Lock()
	defer sl.mu.Unlock()
	if sl.users > 0 || sl.pushes.Pending() {
		return nil
	}
	return sl.close()
}
