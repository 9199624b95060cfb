package retention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

// The errors that decide what an operator is told.
var (
	// ErrBusy: another process works on this tenant.
	ErrBusy = errors.New("another expire is at work")
	// ErrForeign: the journal does not go on from what was seen of it. Nothing is freed until somebody has looked.
	ErrForeign = errors.New("journal is not the one that was seen before")
)

// Contents is the disk: volume.Freer.
type Contents interface {
	// Segments and ReadSegment read the tenant's closed journal segments.
	Source
	// Free ends a sealed content of so many bytes and reports whether it was there. It refuses one with a live name.
	Free(id journal.ID, size int64) (bool, error)
	// Staged reports whether a content is still on its way into the store.
	Staged(id journal.ID) (bool, error)
	// Sync makes what Free did stable.
	Sync() error
}

// Server is who keeps the tenant's journal.
type Server interface {
	// Freed has the journal say what is gone. Saying it twice is no error.
	Freed(ctx context.Context, freed []journal.Freed, dropped []journal.Seq) error
	// Retire lets live names go that a rule says are old enough. It returns how many did.
	Retire(ctx context.Context, paths []string, why string) (int, error)
}

// Config is one tenant's expire.
type Config struct {
	Dir      string // of its state
	Tenant   string // id
	Name     string
	Policy   tenant.Retention
	Removal  *tenant.Removal // what the catalog says of its end; nil: nothing
	Dataset  Dataset         // needed with Removal
	CoolDown time.Duration   // how long a policy that was replaced still counts; 0: 7 days
	Contents Contents
	Chain    journal.Segments // the own chain
	Server   Server
	Machine  Machine // nil: System
	Log      *slog.Logger
	Step     func(what string) // tests: called before each step that changes something
}

// Expire is one tenant's expire, open.
type Expire struct {
	cfg   Config
	state *state
	index *journal.Index
	chain *journal.Log
	undo  []*journal.Record // what the last run was about to free when it ended
	fresh bool              // the state was made by this one
	back  bool              // the machine was set back since the last run
}

// Source gives the closed segments of a journal.
type Source interface {
	Segments() ([]string, error)
	ReadSegment(name string) (readCloser, error)
}

func (cfg Config) withDefaults() Config {
	if cfg.CoolDown == 0 {
		cfg.CoolDown = 7 * 24 * time.Hour
	}
	if cfg.Machine == nil {
		cfg.Machine = System{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Step == nil {
		cfg.Step = func(string) {}
	}
	return cfg
}

// Open reads what is new in the tenant's journal and remembers when it saw it. It frees nothing.
func Open(ctx context.Context, cfg Config) (*Expire, error) {
	cfg = cfg.withDefaults()
	s, err := openState(cfg.Dir, cfg.Tenant)
	if err != nil {
		return nil, err
	}
	x := &Expire{cfg: cfg, state: s, fresh: s.Clock.Base.IsZero()}
	opening(x)
	opened := false
	defer func() {
		if !opened { // after a panic too
			x.Close()
		}
	}()
	if err := x.observe(ctx); err != nil {
		return nil, err
	}
	opened = true
	return x, nil
}

// opening is told of an Expire before anything is done with it: tests that kill it.
var opening = func(*Expire) {}

// Close ends it. What was observed is kept.
func (x *Expire) Close() error {
	var errs error
	if x.chain != nil {
		errs = errors.Join(errs, x.chain.Close())
	}
	if x.index != nil {
		errs = errors.Join(errs, x.index.Close())
	}
	x.chain, x.index = nil, nil
	return errors.Join(errs, x.state.close())
}

// SetBack reports that the machine is younger than at the last run: it was restored from an earlier state of itself.
func (x *Expire) SetBack() bool { return x.back }

// observe advances the clock, reads the new part of the journal, and saves what was seen. The index is written after the
// state: one that knows more than the state is of a run that was killed, and is made anew.
func (x *Expire) observe(ctx context.Context) error {
	var err error
	if x.back, err = x.state.Clock.advance(x.cfg.Machine); err != nil {
		return err
	}
	if x.back {
		x.cfg.Log.Warn("the machine was set back since the last run: that time does not count")
	}
	if err := x.openChain(); err != nil {
		return err
	}
	x.state.sawRemoval(x.cfg.Removal)
	changed, err := x.state.sawPolicy(x.cfg.Policy)
	if err != nil {
		return err
	}
	if changed {
		text, err := json.Marshal(x.cfg.Policy)
		if err != nil {
			return err
		}
		if err := x.note(&journal.Record{Op: journal.OpPolicy, Note: string(text), Key: "expire"}); err != nil {
			return err
		}
	}
	if err := x.readJournal(ctx); err != nil {
		return err
	}
	x.state.Last = x.cfg.Machine.Now().UTC().Round(0)
	x.cfg.Step("save")
	if err := x.state.save(nil); err != nil {
		return fmt.Errorf("save expire state: %w", err)
	}
	x.index.Freeze()
	x.cfg.Step("index")
	return x.index.Flush()
}

// openChain opens the own chain and finds what a killed run left undone.
func (x *Expire) openChain() error {
	boot, _, err := x.cfg.Machine.Boot()
	if err != nil {
		return err
	}
	log, tail, err := journal.Open(journal.Config{Segments: x.cfg.Chain, Now: x.cfg.Machine.Now, Boot: boot}, journal.Head{},
		func(*journal.Record) error { return nil })
	if err != nil {
		return fmt.Errorf("open own chain: %w", err)
	}
	x.chain = log
	for _, r := range tail.Unproven {
		if r.Op == journal.OpFree {
			x.undo = append(x.undo, r)
		}
	}
	return nil
}

// note appends to the own chain and makes it stable.
func (x *Expire) note(r *journal.Record) error {
	x.cfg.Step("chain")
	if _, err := x.chain.Append(r); err != nil {
		return fmt.Errorf("write own chain: %w", err)
	}
	if err := x.chain.Sync(); err != nil {
		return fmt.Errorf("write own chain: %w", err)
	}
	return nil
}

// readJournal lets index and state follow the closed segments.
func (x *Expire) readJournal(ctx context.Context) error {
	path := filepath.Join(x.cfg.Dir, "index.db")
	for try := 0; ; try++ {
		idx, err := journal.OpenIndex(path)
		if journal.InUse(err) {
			return ErrBusy
		}
		if err == nil && idx.Head().Seq > x.state.Head.Seq {
			err = errors.Join(errors.New("index is ahead of the state"), idx.Close())
		}
		if err == nil {
			x.index = idx
			break
		}
		if try > 0 {
			return err
		}
		if err := journal.RemoveIndex(path); err != nil {
			return err
		}
	}
	known := x.state.Head
	var snaps []journal.Snapshot
	proven := known.Seq == 0 || x.index.Head() == known
	r := journal.NewReader(reading{x.cfg.Contents})
	head, err := r.Closed(x.index.Head(), func(rec *journal.Record) error {
		if rec.Seq == known.Seq {
			if rec.Chain != known.Chain {
				return fmt.Errorf("record %d is another: %w", rec.Seq, ErrForeign)
			}
			proven = true
		}
		if rec.Seq > known.Seq && rec.Op == journal.OpSnapshot {
			snaps = append(snaps, journal.Snapshot{Name: rec.Note, Kind: rec.What, At: rec.Seq, Time: rec.Time})
		}
		if rec.Seq%4096 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		return x.index.ReplayBatched(rec)
	})
	if errors.Is(err, journal.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if err != nil {
		return fmt.Errorf("read journal: %w", err)
	}
	if !proven {
		return fmt.Errorf("it ends at record %d, and had %d: %w", head.Seq, known.Seq, ErrForeign)
	}
	if head.Seq > known.Seq {
		x.state.Head = head
		x.state.seen = append(x.state.seen, sighting{head.Seq, x.state.Clock.Age})
	}
	x.state.sawSnapshots(snaps)
	return nil
}

// Run frees what may be freed, and reports it.
func (x *Expire) Run(ctx context.Context) (Report, error) {
	var rep Report
	for _, r := range x.undo { // written by a run that was killed before it was done
		if err := x.end(ctx, r, &rep); err != nil {
			return rep, err
		}
	}
	x.undo = nil
	p, err := x.Plan(ctx)
	if err != nil {
		return rep, err
	}
	if err := x.proveJournal(ctx, p); err != nil {
		return rep, err
	}
	for rule, paths := range p.retire {
		n, err := x.cfg.Server.Retire(ctx, paths, "rule: "+rule)
		rep.Retired += n
		if err != nil {
			return rep, fmt.Errorf("retire names: %w", err)
		}
	}
	for _, r := range p.records() {
		if err := ctx.Err(); err != nil {
			return rep, err
		}
		if err := x.note(r); err != nil {
			return rep, err
		}
		if err := x.end(ctx, r, &rep); err != nil {
			return rep, err
		}
	}
	if err := x.tell(ctx); err != nil || !p.Removing {
		return rep, err
	}
	err = x.bequeath(ctx, p, &rep)
	return rep, err
}

// proofAge is how long a reading of the whole journal is good for.
const proofAge = 24 * time.Hour

// proveJournal reads the whole journal again before anything is freed, at most once a day: what was seen of it is in the index,
// and a past that somebody rewrote since is a reason to stop all the same.
func (x *Expire) proveJournal(ctx context.Context, p *Plan) error {
	s := x.state
	if len(p.Free)+len(p.Drop) == 0 || s.Whole >= 0 && s.Clock.Age-s.Whole < proofAge {
		return nil
	}
	head, err := journal.NewReader(reading{x.cfg.Contents}).Closed(journal.Head{}, func(r *journal.Record) error {
		if r.Seq == s.Head.Seq && r.Chain != s.Head.Chain {
			return fmt.Errorf("record %d is another: %w", r.Seq, ErrForeign)
		}
		return ctx.Err()
	})
	if errors.Is(err, journal.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrForeign, err)
	}
	if err == nil && head.Seq < s.Head.Seq {
		return fmt.Errorf("it ends at record %d, and had %d: %w", head.Seq, s.Head.Seq, ErrForeign)
	}
	s.Whole = s.Clock.Age
	return err
}

// Report is what a run did.
type Report struct {
	Contents int   `json:"contents"` // ended
	Bytes    int64 `json:"bytes"`
	Dropped  int   `json:"snapshots"` // that lost their names
	Retired  int   `json:"retired"`   // live names, by rules
	Refused  int   `json:"refused"`   // contents that stay because disk and journal disagree
	Removed  bool  `json:"removed"`   // nothing is left of the tenant
}

// end carries out a record of the own chain: contents, then stable, then done, then the state.
func (x *Expire) end(ctx context.Context, r *journal.Record, rep *Report) error {
	done := make([]journal.Freed, 0, len(r.Freed))
	for i, f := range r.Freed {
		if i%256 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		x.cfg.Step("free")
		was, err := x.cfg.Contents.Free(f.ID, f.Size)
		if err != nil {
			rep.Refused++
			x.cfg.Log.Error("a content stays that retention let go of", "tenant", x.cfg.Tenant, "id", f.ID.String(), "error", err.Error())
			continue
		}
		if was {
			rep.Contents++
			rep.Bytes += f.Size
		}
		done = append(done, f)
	}
	x.cfg.Step("sync")
	if err := x.cfg.Contents.Sync(); err != nil {
		return err
	}
	for _, at := range r.Dropped {
		for i := range x.state.snaps {
			if x.state.snaps[i].At == at && !x.state.snaps[i].Dropped {
				x.state.snaps[i].Dropped = true
				rep.Dropped++
			}
		}
	}
	x.cfg.Step("state")
	if err := x.state.save(done); err != nil {
		return fmt.Errorf("save expire state: %w", err)
	}
	return x.note(&journal.Record{Op: journal.OpBarrier, Covers: r.Seq})
}

// tell has the server journal what the chain says since it was last told, and closes the chain's segment.
func (x *Expire) tell(ctx context.Context) error {
	if x.chain.Head().Seq <= x.state.Told {
		return nil
	}
	x.cfg.Step("rotate")
	if err := x.chain.Rotate(); err != nil {
		return err
	}
	told := x.state.Told
	_, _, err := journal.NewReader(x.cfg.Chain).All(func(r *journal.Record, _ []byte) error {
		if r.Seq <= told || r.Op != journal.OpFree {
			return nil
		}
		gone := make([]journal.Freed, 0, len(r.Freed))
		err := x.state.freed(func(is func(journal.ID) bool) error {
			for _, f := range r.Freed { // not those that were refused
				if is(f.ID) {
					gone = append(gone, f)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		x.cfg.Step("tell")
		return x.cfg.Server.Freed(ctx, gone, r.Dropped)
	})
	if err != nil {
		return fmt.Errorf("tell the server: %w", err)
	}
	x.state.Told = x.chain.Head().Seq
	return x.state.save(nil)
}
