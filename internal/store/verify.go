package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/time/rate"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// Verification is how far the reading again of a tenant's contents has come: it goes round, from the first to the last, and then
// begins anew. It is kept in server/verify/ in the store's directory, and lost without harm.
type Verification struct {
	After    []byte    `json:"after,omitempty"` // where it goes on; empty: at the beginning
	Started  time.Time `json:"started"`         // of the present round
	Contents int64     `json:"contents"`        // in the present round
	Bytes    int64     `json:"bytes"`
	Unknown  int64     `json:"unknown"` // without a digest
	Wrong    int64     `json:"wrong"`
	// The last round that came to its end.
	LastStarted time.Time `json:"last_started,omitzero"`
	LastEnded   time.Time `json:"last_ended,omitzero"`
	LastWrong   int64     `json:"last_wrong"`
}

// VerifyRequest says what is to be read again.
type VerifyRequest struct {
	Path    string
	Since   time.Time
	Rate    int64 // bytes a second; 0: as fast as it goes
	Restart bool  // begin the round anew
}

// Damage is a content that is wrong, with the last instant at which it is known to have been right.
type Damage struct {
	appendonly.Wrong
	Good time.Time
}

// VerifyState returns how far the verification of a tenant has come.
func (s *Store) VerifyState(id string) Verification {
	var v Verification
	b, err := os.ReadFile(s.verifyPath(id))
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("verification begins anew", "error", err.Error())
	}
	return v
}

func (s *Store) verifyPath(id string) string {
	return filepath.Join(ServerDir(s.Dir), "verify", id+".json")
}

func (s *Store) saveVerify(id string, v Verification) error {
	b, err := json.Marshal(v)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(s.verifyPath(id)), 0o750)
	}
	if err != nil {
		return err
	}
	if s.cfg.Verified != nil {
		s.cfg.Verified(id, v)
	}
	return writeFile(s.verifyPath(id), b)
}

// saveEvery is how much of a verification a crash makes to be done again.
const saveEvery = 5 * time.Second

// VerifyJournal reads a tenant's whole journal again: that its chain is right, and that it is no shorter than the vault knows.
func (s *Store) VerifyJournal(ctx context.Context, t tenant.Tenant) error {
	return s.With(ctx, t.ID, func(v *appendonly.Vault) error {
		least := v.Head()
		return s.ReadVolume(ctx, t.ID, func(vol *volume.Volume) error {
			head, _, err := journal.NewReader(vol).All(func(*journal.Record, []byte) error { return ctx.Err() })
			if err == nil && head.Seq < least {
				err = fmt.Errorf("%w: it ends at record %d, and had %d", journal.ErrCorrupt, head.Seq, least)
			}
			if err != nil && ctx.Err() == nil {
				err = fmt.Errorf("verify journal of %s: %w", t.Name, err)
			}
			return err
		})
	})
}

// Verify reads a tenant's contents again. Without a path and a time it goes on with the round where the last one stopped, and
// begins a round with the journal, by which contents are judged: where that is damaged, nothing is.
// progress is called now and then, and at the end; wrong for each content that is not what was stored.
func (s *Store) Verify(ctx context.Context, t tenant.Tenant, r VerifyRequest, wrong func(Damage), progress func(Verification)) error {
	state := s.VerifyState(t.ID)
	round := (r.Path == "" || r.Path == "/") && r.Since.IsZero()
	now := state
	if !round || r.Restart || len(state.After) == 0 {
		now = Verification{Started: s.cfg.Now().UTC(), LastStarted: state.LastStarted, LastEnded: state.LastEnded, LastWrong: state.LastWrong}
	}
	if round && len(now.After) == 0 {
		if err := s.VerifyJournal(ctx, t); err != nil {
			return err
		}
	}
	before := now
	o := appendonly.VerifyOptions{Path: r.Path, Since: r.Since, After: string(now.After)}
	if r.Rate > 0 {
		limit := rate.NewLimiter(rate.Limit(r.Rate), max(1<<20, int(r.Rate/4)))
		o.Pace = limit.WaitN
	}
	last := time.Now()
	var serr error
	var bytes, found int64 // that Read was told of
	read := func() {
		if s.cfg.Read != nil {
			s.cfg.Read(t.ID, now.Bytes-before.Bytes-bytes, now.Wrong-before.Wrong-found)
			bytes, found = now.Bytes-before.Bytes, now.Wrong-before.Wrong
		}
	}
	err := s.With(ctx, t.ID, func(v *appendonly.Vault) error {
		return v.Verify(ctx, o, func(w appendonly.Wrong) {
			now.Wrong++
			d := Damage{Wrong: w, Good: w.Received.UTC()}
			if w.New && d.Good.Before(now.LastStarted) {
				d.Good = now.LastStarted
			}
			wrong(d)
		}, func(d appendonly.Verified) {
			now.After, now.Contents, now.Bytes, now.Unknown = []byte(d.Next), before.Contents+d.Contents, before.Bytes+d.Bytes, before.Unknown+d.Unknown
			if time.Since(last) < saveEvery {
				return
			}
			last = time.Now()
			progress(now)
			read()
			if round {
				serr = s.saveVerify(t.ID, now)
			}
		})
	})
	read()
	if err == nil && round {
		now.After, now.LastStarted, now.LastEnded, now.LastWrong = nil, now.Started, s.cfg.Now().UTC(), now.Wrong
	}
	progress(now)
	if round {
		serr = s.saveVerify(t.ID, now)
	}
	if serr != nil {
		serr = fmt.Errorf("save how far verification has come: %w", serr)
	}
	return errors.Join(err, serr)
}

// VerifyAll verifies every tenant once in every, at most rate bytes a second, until ctx is cancelled. One that was interrupted goes on.
func (s *Store) VerifyAll(ctx context.Context, every time.Duration, rate int64) error {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, t := range s.Tenants().Tenants() {
			state := s.VerifyState(t.ID)
			if _, err := s.cfg.Driver.Path(t.ID); err != nil || len(state.After) == 0 && s.cfg.Now().Sub(state.LastEnded).Abs() < every {
				continue
			}
			err := s.Verify(ctx, t, VerifyRequest{Rate: rate}, func(Damage) {}, func(Verification) {})
			if ctx.Err() != nil {
				return nil
			}
			state = s.VerifyState(t.ID)
			if err != nil {
				s.cfg.Log.Error("verify", "tenant", t.Name, "error", err.Error())
			} else {
				s.cfg.Log.Info("verified", "tenant", t.Name, "contents", state.Contents, "bytes", state.Bytes, "wrong", state.LastWrong)
			}
		}
	}
}
