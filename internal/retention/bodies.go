package retention

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/snapshot"
)

// A snapshot's body is a ZFS snapshot of the tenant's dataset (package snapshot has the words). It goes by the rule of its snapshot's name, before it:
//
//  1. The plan lists what snapshots the dataset has. A body is one of ours when its name, its record's number and that record's hash in the
//     chain are those of one snapshot that was seen in the journal, and its guid is the one that was seen first. What else is there is never
//     touched, and reported.
//  2. Each is looked at again, by itself, right before its end: guid, creation transaction and properties are what they were. The own chain says
//     what goes; our hold is taken away; it is destroyed; the chain says what came of it. Nothing else is destroyed with it, and nothing is forced.
//  3. The name goes when there is no body of it any more. Contents go by their own rules.
//
// One that somebody reads, or that has a hold that is not ours, stays, gets its hold back, and is tried again by the next run. When ZFS answers anything
// else, or not at all, the run ends: nothing more is freed of that tenant until the next one has looked. Killed anywhere, the next one finds the body
// there or not there; one that has lost its hold gets it back while it is kept.
//
// A hold of the operator's on a snapshot is a ZFS hold, too, with a tag of its own. Who takes it puts that on first, where that may be done (vaultd snapshot
// hold); each run puts on what is missing, and takes off what a hold left that this process knew and that does not count any more. A tag that it
// can not explain keeps the body.

// Body is a snapshot of a tenant's dataset, as ZFS has it.
type Body struct {
	Name      string    `json:"name"` // behind the dataset's @
	GUID      uint64    `json:"guid"`
	CreateTXG uint64    `json:"createtxg"`
	Created   time.Time `json:"created"`
	Used      int64     `json:"used"`           // what its end alone would free
	Refs      int       `json:"holds"`          // how many holds it has
	Seq       string    `json:"-"`              // our properties, as far as they were set on it itself
	Head      string    `json:"-"`              //
	Holds     []string  `json:"tags,omitempty"` // their tags: known when it was asked for by its name
}

// same reports whether b is still the snapshot, with the properties, that it was.
func (b Body) same(was Body) bool {
	return b.Name == was.Name && b.GUID == was.GUID && b.CreateTXG == was.CreateTXG && b.Seq == was.Seq && b.Head == was.Head
}

// ErrInUse says that a body can not be destroyed now: somebody reads it, or it has a hold or a clone.
var ErrInUse = errors.New("snapshot is in use")

// Bodies are the snapshots of one tenant's dataset. Each call is about that dataset alone, and about one snapshot at a time.
type Bodies interface {
	// List returns those with these names, as far as they are there, and their tags; without names all, without tags.
	List(ctx context.Context, names ...string) ([]Body, error)
	// Hold puts a hold on one that is still b; one that is there already is no error.
	Hold(ctx context.Context, b Body, tag string) error
	// Release takes one away; one that is not there is no error.
	Release(ctx context.Context, b Body, tag string) error
	// Destroy ends one that is still b. ErrInUse: not now. After any other error nothing is known of it.
	Destroy(ctx context.Context, b Body) error
}

// BodyPlan is what becomes of the snapshots of a tenant's dataset.
type BodyPlan struct {
	Go      []Body    `json:"go,omitempty"`
	Kept    []Body    `json:"kept,omitempty"`    // bodies that a rule, the lock or a hold keeps
	Strange []Strange `json:"strange,omitempty"` // have a body's name, and are none that the journal knows
	Others  []Body    `json:"others,omitempty"`  // of somebody else

	of map[string]journal.Seq // the snapshots of those that go and are kept, by the bodies' names
}

// Strange is something that is left alone, and why.
type Strange struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

func (s Strange) String() string { return s.Name + ": " + s.Why }

// snapAt returns the snapshot whose record has this number.
func (s *state) snapAt(at journal.Seq) *snap {
	i := sort.Search(len(s.snaps), func(i int) bool { return s.snaps[i].At >= at })
	if i == len(s.snaps) || s.snaps[i].At != at {
		return nil
	}
	return &s.snaps[i]
}

// bodyOf finds the snapshot that b is the body of. Without one it says why; with neither, the snapshot's record may be newer than what
// was read of the journal.
func (s *state) bodyOf(b Body, now time.Time) (of *snap, why string) {
	at, err := strconv.ParseUint(b.Seq, 10, 64)
	if err != nil || strconv.FormatUint(at, 10) != b.Seq {
		return nil, "it does not say the number of a record"
	}
	if journal.Seq(at) > s.Head.Seq {
		if now.Sub(b.Created) > time.Hour {
			why = fmt.Sprintf("there is no record %d", at)
		}
		return nil, why
	}
	of = s.snapAt(journal.Seq(at))
	switch {
	case of == nil:
		return nil, fmt.Sprintf("record %d is no snapshot that is known", at)
	case snapshot.BodyName(of.Name) != b.Name:
		return nil, fmt.Sprintf("record %d is the snapshot %s", at, of.Name)
	case of.Head == "" || of.Head != b.Head:
		return nil, fmt.Sprintf("the hash of record %d is another", at)
	case of.GUID != 0 && of.GUID != b.GUID: // a copy in another pool has the same, and another transaction
		return nil, "it was another when it was seen first"
	}
	return of, ""
}

// planBodies says what becomes of the dataset's snapshots.
func (x *Expire) planBodies(ctx context.Context, k *keeper) (*BodyPlan, error) {
	all, err := x.cfg.Bodies.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the dataset's snapshots: %w", err)
	}
	p := &BodyPlan{of: map[string]journal.Seq{}}
	for _, b := range all {
		if _, ours := snapshot.OfBody(b.Name); !ours {
			p.Others = append(p.Others, b)
			continue
		}
		of, why := x.state.bodyOf(b, x.cfg.Machine.Now())
		switch {
		case why != "":
			p.Strange = append(p.Strange, Strange{b.Name, why})
		case of == nil: // the next run knows its record
		case k.snapshot(of.At) == 0:
			p.Go = append(p.Go, b)
			p.of[b.Name] = of.At
		default:
			p.Kept = append(p.Kept, b)
			p.of[b.Name] = of.At
		}
	}
	return p, nil
}

// mend remembers which bodies there are and puts the holds right: ours on each that is kept, the operator's where a hold counts.
func (x *Expire) mend(ctx context.Context, plan *Plan) error {
	p := plan.Bodies
	held := map[journal.Seq]bool{}
	for _, r := range x.state.inForce(x.cfg.CoolDown) {
		for _, h := range r.Holds {
			held[journal.Seq(h.At)] = true
		}
	}
	changed := false
	for _, b := range slices.Concat(p.Kept, p.Go) {
		of := x.state.snapAt(p.of[b.Name])
		if of.GUID == 0 || of.TXG != b.CreateTXG {
			of.GUID, of.TXG, changed = b.GUID, b.CreateTXG, true
		}
		if held[of.At] && !of.Legal {
			of.Legal, changed = true, true
		}
	}
	if changed { // before a tag is put on that only this explains
		x.cfg.Step("saw bodies")
		if err := x.save(nil); err != nil {
			return err
		}
	}
	k := x.keeper()
	for _, b := range p.Kept {
		if b.Refs == 0 && k.at(x.state.snapAt(p.of[b.Name]).At) < k.now { // who makes one holds it a moment later
			if err := x.hold(ctx, b, snapshot.HoldTag); err != nil {
				return err
			}
		}
	}
	for _, b := range slices.Concat(p.Kept, p.Go) {
		of := x.state.snapAt(p.of[b.Name])
		if err := x.legal(ctx, b, of, held[of.At], plan.Paused != nil); err != nil {
			return err
		}
	}
	return nil
}

func (x *Expire) hold(ctx context.Context, b Body, tag string) error {
	x.cfg.Step("hold body")
	if err := x.cfg.Bodies.Hold(ctx, b, tag); err != nil {
		return fmt.Errorf("hold %s: %w", b.Name, err)
	}
	return nil
}

// legal puts the operator's hold on a body, or takes off what is left of one that this process knew. Whoever takes a new hold meanwhile puts the tag on,
// changes the policy, and puts it on again: so either that is after the release here, or the changed policy is seen here and the tag put back.
func (x *Expire) legal(ctx context.Context, b Body, of *snap, held, paused bool) error {
	if !of.Legal || paused && !held {
		return nil
	}
	now, err := x.look(ctx, b)
	if err != nil || now == nil {
		return err
	}
	there := slices.Contains(now.Holds, snapshot.LegalTag)
	if there && !slices.Contains(now.Holds, snapshot.HoldTag) { // or the last one is taken off
		if err := x.hold(ctx, b, snapshot.HoldTag); err != nil {
			return err
		}
	}
	switch {
	case held && !there:
		return x.hold(ctx, b, snapshot.LegalTag)
	case !held && there:
		x.cfg.Step("release body")
		if err := x.cfg.Bodies.Release(ctx, b, snapshot.LegalTag); err != nil {
			return fmt.Errorf("release %s: %w", b.Name, err)
		}
		if err := x.still(ctx); err != nil {
			return errors.Join(err, x.hold(ctx, b, snapshot.LegalTag))
		}
	case !held:
		of.Legal = false // stored by the next save; until then it is looked for once more
	}
	return nil
}

// look reads one body again; nil: it is not there, or is another now.
func (x *Expire) look(ctx context.Context, b Body) (*Body, error) {
	now, err := x.cfg.Bodies.List(ctx, b.Name)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", b.Name, err)
	}
	if len(now) != 1 || !now[0].same(b) {
		return nil, nil
	}
	return &now[0], nil
}

// endBodies destroys the bodies that go, one by one, and leaves out of the plan the names of those that are there afterwards.
func (x *Expire) endBodies(ctx context.Context, p *Plan, rep *Report) error {
	if p.Bodies == nil {
		return nil
	}
	stays := map[journal.Seq]bool{}
	for _, b := range p.Bodies.Go {
		at := p.Bodies.of[b.Name]
		gone, err := x.endBody(ctx, b, at, rep)
		if err != nil {
			return err
		}
		stays[at] = !gone
	}
	p.Drop = slices.DeleteFunc(p.Drop, func(s Snapshot) bool { return stays[s.At] })
	return nil
}

// endBody destroys one body and reports whether it is gone.
func (x *Expire) endBody(ctx context.Context, b Body, at journal.Seq, rep *Report) (gone bool, err error) {
	if err := x.still(ctx); err != nil {
		return false, err
	}
	now, err := x.look(ctx, b)
	if err != nil {
		return false, err
	}
	if now == nil { // the next run sees what is there instead
		return false, nil
	}
	for _, tag := range now.Holds {
		if tag != snapshot.HoldTag { // also the operator's, which may have come just now
			rep.Busy = append(rep.Busy, Strange{b.Name, "held with the tag " + strconv.Quote(tag)})
			return false, nil
		}
	}
	what := fmt.Sprintf("body %s of the snapshot with record %d, guid %d, transaction %d", b.Name, at, b.GUID, b.CreateTXG)
	if err := x.note(&journal.Record{Op: journal.OpFree, What: "body", Note: what, Key: "expire"}); err != nil {
		return false, err
	}
	covers := x.chain.Head().Seq
	done := func(came string) error {
		return x.note(&journal.Record{Op: journal.OpBarrier, Covers: covers, What: "body", Note: came})
	}
	if err := x.still(ctx); err != nil { // the last moment for a hold
		return false, errors.Join(err, done("kept: the policy was changed"))
	}
	if len(now.Holds) > 0 {
		x.cfg.Step("release body")
		if err := x.cfg.Bodies.Release(ctx, *now, snapshot.HoldTag); err != nil {
			return false, fmt.Errorf("release %s: %w", b.Name, err)
		}
	}
	x.cfg.Step("destroy body")
	err = x.cfg.Bodies.Destroy(ctx, *now)
	switch {
	case errors.Is(err, ErrInUse):
		rep.Busy = append(rep.Busy, Strange{b.Name, "in use"})
		return false, errors.Join(x.hold(ctx, *now, snapshot.HoldTag), done("kept: in use"))
	case err != nil: // what came of it the next run sees
		return false, fmt.Errorf("destroy %s: %w", b.Name, err)
	}
	rep.Bodies++
	return true, done("destroyed")
}

// bare reports whether the dataset has no snapshot at all: with one it is not removed, whosever that is.
func (x *Expire) bare(ctx context.Context, rep *Report) (bool, error) {
	if x.cfg.Bodies == nil {
		return true, nil
	}
	all, err := x.cfg.Bodies.List(ctx)
	if err != nil {
		return false, fmt.Errorf("list the dataset's snapshots: %w", err)
	}
	for _, b := range all {
		if !slices.ContainsFunc(rep.Busy, func(s Strange) bool { return s.Name == b.Name }) {
			rep.Busy = append(rep.Busy, Strange{b.Name, "the dataset is not removed while it is there"})
		}
	}
	return len(all) == 0, nil
}
