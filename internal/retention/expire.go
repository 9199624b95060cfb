package retention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
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
	// ErrChain: the own chain is shorter than it was, or damaged. Nothing is freed until somebody has looked.
	ErrChain = errors.New("expire's own chain is missing or damaged")
	// ErrChanged: the policy is not what the plan was made with. The next run makes another one.
	ErrChanged = errors.New("policy was changed meanwhile")
)

// Contents is the disk: volume.Freer.
type Contents interface {
	// Segments and ReadSegment read the tenant's closed journal segments.
	Source
	// Free ends a sealed content of so many bytes and reports whether it was there. It refuses one with a live name.
	Free(id journal.ID, size int64) (bool, error)
	// Has reports whether a content is in the store.
	Has(id journal.ID) (bool, error)
	// Staged reports whether a content is still on its way into the store.
	Staged(id journal.ID) (bool, error)
	// Sync makes what Free did stable.
	Sync() error
}

// Server is who keeps the tenant's journal.
type Server interface {
	// Freed has the journal say what is gone. Saying it twice is no error.
	Freed(ctx context.Context, freed []journal.Freed, dropped []journal.Seq) error
	// Retire lets live names go that a rule says are old enough, as far as they still stand for what they did. It returns
	// how many went.
	Retire(ctx context.Context, names []Name, why string) (int, error)
}

// Name is a live name and the record since which it stands for what it does.
type Name struct {
	Path string
	From journal.Seq
}

// Config is one tenant's expire.
type Config struct {
	Dir     string // of its state
	Tenant  string // id
	Name    string
	Policy  tenant.Retention
	Removal *tenant.Removal // what the catalog says of its end; nil: nothing
	Dataset Dataset         // needed with Removal
	// Current returns the policy as it is now: asked before each thousand contents, so that a hold that comes while they are
	// freed counts. nil: Policy.
	Current  func() (tenant.Retention, error)
	CoolDown time.Duration // how long a policy that was replaced still counts; 0: 7 days
	Contents Contents
	Bodies   Bodies           // nil: snapshots have no bodies here
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
	undo  []*journal.Record // what the last run was about to free when it ended; with a new state, all that the chain has
	lost  bool              // the state is new: what the chain says may be long ago
	since time.Time         // what the clock showed at the last run
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
	x := &Expire{cfg: cfg, state: s, since: s.Clock.wall(s.Clock.Age)}
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
	if x.state.sawPolicy(x.cfg.Policy) {
		if err := x.note(&journal.Record{Op: journal.OpPolicy, Note: policyText(x.cfg.Policy), Key: "expire"}); err != nil {
			return err
		}
	}
	if err := x.readJournal(ctx); err != nil {
		return err
	}
	x.state.Last = x.cfg.Machine.Now().UTC().Round(0)
	x.cfg.Step("save")
	if err := x.save(nil); err != nil {
		return err
	}
	x.index.Freeze()
	x.cfg.Step("index")
	return x.index.Flush()
}

// openChain opens the own chain and finds what a killed run left undone. The state remembers the chain's head: a chain that is
// shorter, or another, is refused. What a lost state knew of locks and of what is gone is in the chain.
func (x *Expire) openChain() error {
	boot, _, err := x.cfg.Machine.Boot()
	if err != nil {
		return err
	}
	known := x.state.Chain
	x.lost = known.Seq == 0
	log, tail, err := journal.Open(journal.Config{Segments: x.cfg.Chain, Now: x.cfg.Machine.Now, Boot: boot}, known, func(r *journal.Record) error {
		var p tenant.Retention
		switch {
		case r.Op == journal.OpPolicy && json.Unmarshal([]byte(r.Note), &p) == nil:
			x.state.Lock = max(x.state.Lock, int64(p.Lock))
		case r.Op == journal.OpFree && x.lost:
			x.undo = append(x.undo, r)
		}
		return nil
	})
	if errors.Is(err, journal.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	if err != nil {
		return fmt.Errorf("open own chain: %w", err)
	}
	x.chain = log
	if log.Head().Seq < known.Seq {
		return fmt.Errorf("%w: it ends at record %d, and had %d", ErrChain, log.Head().Seq, known.Seq)
	}
	if !x.lost {
		for _, r := range tail.Unproven {
			if r.Op == journal.OpFree {
				x.undo = append(x.undo, r)
			}
		}
	}
	return nil
}

// note appends to the own chain and makes it stable.
func (x *Expire) note(records ...*journal.Record) error {
	x.cfg.Step("chain")
	for _, r := range records {
		if _, err := x.chain.Append(r); err != nil {
			return fmt.Errorf("write own chain: %w", err)
		}
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
	var snaps []snap
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
			snaps = append(snaps, snap{Name: rec.Note, At: rec.Seq, Time: rec.Time, Head: rec.Chain.String()})
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
	x.state.sawSnapshots(snaps, x.since)
	return nil
}

// save stores the state, with the head of the chain that is stable by then.
func (x *Expire) save(freed []journal.Freed) error {
	x.state.Chain = x.chain.Head()
	if err := x.state.save(freed); err != nil {
		return fmt.Errorf("save expire state: %w", err)
	}
	return nil
}

// Run frees what may be freed, and reports it.
func (x *Expire) Run(ctx context.Context) (Report, error) {
	var rep Report
	if err := x.resume(ctx, &rep); err != nil {
		return rep, err
	}
	if err := x.tell(ctx); err != nil { // what the last run could not
		return rep, err
	}
	p, err := x.Plan(ctx)
	if err != nil {
		return rep, err
	}
	rep.Plan = p
	if p.Bodies != nil {
		if err := x.mend(ctx, p); err != nil {
			return rep, err
		}
	}
	if p.Paused == nil {
		if err := x.proveJournal(ctx, p); err != nil {
			return rep, err
		}
		if err := x.carryOut(ctx, p, &rep); err != nil {
			return rep, err
		}
	}
	if err := x.tell(ctx); err != nil || !p.Removing || p.Paused != nil {
		return rep, err
	}
	err = x.bequeath(ctx, p, &rep)
	return rep, err
}

// carryOut does what a plan says: snapshots first, their bodies before their names, so that nobody holds or reads one of which contents go. The server is told
// of each group: what is gone and not told yet looks like a loss to who verifies (appendonly waits a minute before it says so).
func (x *Expire) carryOut(ctx context.Context, p *Plan, rep *Report) error {
	for rule, names := range p.retire {
		if err := x.still(ctx); err != nil {
			return err
		}
		n, err := x.cfg.Server.Retire(ctx, names, "rule: "+rule)
		rep.Retired += n
		if err != nil {
			return fmt.Errorf("retire names: %w", err)
		}
	}
	if err := x.endBodies(ctx, p, rep); err != nil {
		return err
	}
	for _, records := range p.groups() {
		if err := x.still(ctx); err != nil {
			return err
		}
		if err := x.note(records...); err != nil {
			return err
		}
		if err := x.end(ctx, records, p, rep); err != nil {
			return err
		}
		if err := x.tell(ctx); err != nil {
			return err
		}
	}
	return nil
}

// still reports that the policy is not the plan's any more, or that ctx is done.
func (x *Expire) still(ctx context.Context) error {
	if err := ctx.Err(); err != nil || x.cfg.Current == nil {
		return err
	}
	now, err := x.cfg.Current()
	if err != nil {
		return fmt.Errorf("read policy: %w", err)
	}
	if a, b := policyText(now), policyText(x.cfg.Policy); a != b {
		return ErrChanged
	}
	return nil
}

// resume finds out how far a run came that was killed. What it had not ended yet stays for this run's plan: a hold or a
// longer lock may have come meanwhile. It ends nothing itself.
func (x *Expire) resume(ctx context.Context, rep *Report) error {
	for _, r := range x.undo {
		if r.What == "body" { // the plan sees whether it is there
			continue
		}
		var gone []journal.Freed
		err := x.state.freed(func(is func(journal.ID) bool) error {
			for _, f := range r.Freed {
				if is(f.ID) {
					continue
				}
				there, err := x.cfg.Contents.Has(f.ID)
				if err != nil {
					return err
				}
				if !there {
					gone = append(gone, f)
					if !x.lost {
						rep.Contents++
						rep.Bytes += f.Size
					}
				}
			}
			return ctx.Err()
		})
		if err != nil {
			return fmt.Errorf("resume: %w", err)
		}
		if err := x.cfg.Contents.Sync(); err != nil {
			return err
		}
		if err := x.save(gone); err != nil {
			return err
		}
	}
	if len(x.undo) > 0 {
		last := x.undo[len(x.undo)-1].Seq
		x.undo = nil
		return x.note(&journal.Record{Op: journal.OpBarrier, Covers: last})
	}
	return nil
}

// proofAge is how long a reading of the whole journal is good for.
const proofAge = 24 * time.Hour

// proveJournal reads the whole journal again before anything is freed, at most once a day: what was seen of it is in the index,
// and a past that somebody rewrote since is a reason to stop all the same.
func (x *Expire) proveJournal(ctx context.Context, p *Plan) error {
	s := x.state
	if len(p.Free)+len(p.Drop)+len(p.retire) == 0 && (p.Bodies == nil || len(p.Bodies.Go) == 0) || s.Whole >= 0 && s.Clock.Age-s.Whole < proofAge {
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
	if err == nil {
		s.Whole = s.Clock.Age
	}
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

	Bodies int       `json:"bodies"`         // destroyed
	Busy   []Strange `json:"busy,omitempty"` // bodies that stay until the next run
	Plan   *Plan     `json:"-"`              // what was to be done
}

// end carries out records of the own chain: contents, then stable, then the state, then done. Where the policy changes on the
// way it stops before the next record; that one is the next run's to look at.
func (x *Expire) end(ctx context.Context, records []*journal.Record, p *Plan, rep *Report) error {
	var done []journal.Freed
	var covers journal.Seq
	var stop error
	for i, r := range records {
		if i > 0 {
			if stop = x.still(ctx); stop != nil {
				break
			}
		}
		done = append(done, x.free(r.Freed, p, rep)...)
		for _, at := range r.Dropped {
			x.drop(at, rep)
		}
		covers = r.Seq
	}
	x.cfg.Step("sync")
	if err := x.cfg.Contents.Sync(); err != nil {
		return errors.Join(stop, err)
	}
	x.cfg.Step("state")
	if err := x.save(done); err != nil {
		return errors.Join(stop, err)
	}
	return errors.Join(stop, x.note(&journal.Record{Op: journal.OpBarrier, Covers: covers}))
}

// free ends contents and returns those that are gone now.
func (x *Expire) free(list []journal.Freed, p *Plan, rep *Report) []journal.Freed {
	done := make([]journal.Freed, 0, len(list))
	for _, f := range list {
		x.cfg.Step("free")
		size := f.Size
		if p.void[f.ID] { // a crash cut it before it was acknowledged: what there is of it may be any size
			size = -1
		}
		was, err := x.cfg.Contents.Free(f.ID, size)
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
	return done
}

// drop ends a snapshot's name.
func (x *Expire) drop(at journal.Seq, rep *Report) {
	for i := range x.state.snaps {
		if x.state.snaps[i].At == at && !x.state.snaps[i].Dropped {
			x.state.snaps[i].Dropped = true
			rep.Dropped++
		}
	}
}

// tell has the server journal what the chain says since it was last told, and closes the chain's segment. Of what the chain
// says, only what was done counts: contents may have been refused, and a killed run's snapshots kept after all.
func (x *Expire) tell(ctx context.Context) error {
	if x.chain.Head().Seq <= x.state.Told.Seq {
		return nil
	}
	x.cfg.Step("rotate")
	if err := x.chain.Rotate(); err != nil {
		return err
	}
	dropped := map[journal.Seq]bool{}
	for _, s := range x.state.snaps {
		dropped[s.At] = s.Dropped
	}
	head, err := journal.NewReader(x.cfg.Chain).Closed(x.state.Told, func(r *journal.Record) error {
		if r.Op != journal.OpFree || r.What == "body" { // the server's journal knows of names and contents
			return nil
		}
		gone := make([]journal.Freed, 0, len(r.Freed))
		err := x.state.freed(func(is func(journal.ID) bool) error {
			for _, f := range r.Freed {
				if is(f.ID) {
					gone = append(gone, f)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		drop := slices.DeleteFunc(slices.Clone(r.Dropped), func(at journal.Seq) bool { return !dropped[at] })
		x.cfg.Step("tell")
		return x.cfg.Server.Freed(ctx, gone, drop)
	})
	if errors.Is(err, journal.ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrChain, err)
	}
	if err != nil {
		return fmt.Errorf("tell the server: %w", err)
	}
	x.state.Told = head
	if err := x.state.prune(); err != nil {
		return fmt.Errorf("save expire state: %w", err)
	}
	return x.save(nil)
}
