package retention

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

// A tenant's end, step by step. Each may be done twice, so that a run that was killed is gone on with by the next.
//
//  1. The catalog says that the tenant is removed: its time has come by the wall clock, and this process has known of it for a
//     cool-down, by its own. Before, nothing happens.
//  2. Live names are let go by the server, which journals it. No schedule keeps anything any more; lock and holds do.
//  3. Contents end one by one, as always.
//  4. When there is no name, no instant that is kept and no content left, the server closes the vault; the own chain says that the
//     dataset goes, the state that this has begun, and the dataset's directory goes. It is refused while there is a content in it.
//  5. removed.json says that it is done: the name may be used again.
//
// A dataset that is not there, though it was and this process did not take it away, is an error: a disk may not be mounted.

// Dataset is how a removed tenant's dataset goes.
type Dataset interface {
	// Clear has the server let all live names go, and returns how many did.
	Clear(ctx context.Context, why string) (int, error)
	// Release has the server close the dataset and stay away from it.
	Release(ctx context.Context) error
	// Remove takes it away; it refuses one with a content in it, or with a snapshot. One that is not there is no error.
	Remove(ctx context.Context) error
	// What names it, for people.
	What() string
}

// RemovedName is the file, in a tenant's directory of the expire process, that says that nothing is left of it.
const RemovedName = "removed.json"

// ErrMissing says that the dataset of a tenant that is to be removed is not there, and was not removed.
var ErrMissing = errors.New("dataset is missing")

// removal is what the state remembers of a removal.
type removal struct {
	Asked time.Time     `json:"asked"` // the catalog's time of the request: another one begins anew
	Seen  time.Duration `json:"seen"`  // age at which this process first saw it
	Begun bool          `json:"begun"` // the dataset's directory is going
	Done  time.Time     `json:"done,omitzero"`
}

// Removed is what removed.json holds.
type Removed struct {
	Tenant string    `json:"tenant"` // id
	Name   string    `json:"name"`
	Who    string    `json:"who"`
	Why    string    `json:"why,omitempty"`
	Asked  time.Time `json:"asked"`
	Done   time.Time `json:"done"`
	What   string    `json:"what,omitempty"` // that was removed: a directory, or a dataset of ZFS
}

// ReadRemoved returns what dir, a tenant's directory of the expire process, says of its end; fs.ErrNotExist: it is not over.
func ReadRemoved(dir string) (r Removed, err error) {
	b, err := os.ReadFile(filepath.Join(dir, RemovedName))
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// sawRemoval notes what the catalog says of the tenant's end. What has begun is not taken back.
func (s *state) sawRemoval(r *tenant.Removal) {
	switch {
	case s.Removal != nil && s.Removal.Begun:
	case r == nil:
		s.Removal = nil
	case s.Removal == nil || !s.Removal.Asked.Equal(r.Since):
		s.Removal = &removal{Asked: r.Since, Seen: s.Clock.Age}
	}
}

// removing reports whether the tenant's end has come, by both clocks.
func (s *state) removing(cfg *Config) bool {
	r := s.Removal
	if r == nil || cfg.Removal == nil {
		return false
	}
	return r.Begun || !cfg.Machine.Now().Before(cfg.Removal.Due) && s.Clock.Age-r.Seen >= cfg.CoolDown
}

// lastWill is what keeps something of a removed tenant: the holds that count, and no schedule.
func lastWill(policies []tenant.Retention) []tenant.Retention {
	out := make([]tenant.Retention, 0, len(policies))
	for _, p := range policies {
		out = append(out, tenant.Retention{Lock: p.Lock, Keep: &tenant.Keep{}, Holds: p.Holds})
	}
	return out
}

// words are the request as chain and journal quote it.
func (x *Expire) words() string {
	r := x.cfg.Removal
	s := fmt.Sprintf("tenant removed: asked by %s on %s", r.Who, r.Since.Format(time.RFC3339))
	if r.Why != "" {
		s += ": " + r.Why
	}
	return s
}

// will is the own chain's record that the dataset goes.
func (x *Expire) will() *journal.Record {
	return &journal.Record{Op: journal.OpPolicy, What: "remove", Note: x.words() + "; " + x.cfg.Dataset.What() + " is removed", Key: "expire"}
}

// left reports whether a name, a kept instant or a content is left of the tenant.
func (x *Expire) left(p *Plan) (live, past bool, err error) {
	err = x.index.EachLive(func(at journal.Loc, e *journal.Entry) bool {
		live = true
		return false
	})
	if err != nil || live {
		return live, true, err
	}
	if len(p.Held)+len(p.Free)+len(p.Drop) > 0 {
		return false, true, nil
	}
	for _, r := range x.state.inForce(x.cfg.CoolDown) {
		past = past || len(r.Holds) > 0
	}
	k := x.keeper()
	for _, s := range x.state.snaps {
		past = past || k.snapshot(s.At) != 0
	}
	err = x.index.EachPast(func(_ journal.Loc, v journal.Version) bool {
		past = past || k.version(v.From, v.To) != 0
		return !past
	})
	return false, past, err
}

// bequeath goes on with a tenant's end after what may be freed was freed.
func (x *Expire) bequeath(ctx context.Context, p *Plan, rep *Report) error {
	live, past, err := x.left(p)
	if err != nil {
		return err
	}
	if live {
		x.cfg.Step("clear")
		n, err := x.cfg.Dataset.Clear(ctx, x.words())
		rep.Retired += n
		if err != nil {
			return fmt.Errorf("let the names go: %w", err)
		}
		return nil
	}
	if past || rep.Refused > 0 {
		return nil
	}
	if bare, err := x.bare(ctx, rep); err != nil || !bare {
		return err
	}
	x.cfg.Step("release")
	if err := x.cfg.Dataset.Release(ctx); err != nil {
		return fmt.Errorf("have the server let go of the dataset: %w", err)
	}
	if err := x.still(ctx); err != nil { // the last moment for a veto
		return err
	}
	more := false // what the server journaled since: the next run looks at it
	if _, err := journal.NewReader(reading{x.cfg.Contents}).Closed(x.state.Head, func(r *journal.Record) error {
		more = more || r.Op != journal.OpSegment && r.Op != journal.OpBarrier && r.Op != journal.OpFree
		return nil
	}); err != nil || more {
		return err
	}
	if err := x.note(x.will()); err != nil {
		return err
	}
	x.state.Removal.Begun = true
	x.cfg.Step("begin")
	if err := x.save(nil); err != nil {
		return err
	}
	if err := x.finish(ctx); err != nil {
		return err
	}
	rep.Removed = true
	return nil
}

// finish takes the directory away and says so.
func (x *Expire) finish(ctx context.Context) error {
	x.cfg.Step("remove")
	what := x.cfg.Dataset.What()
	if err := x.cfg.Dataset.Remove(ctx); err != nil {
		return fmt.Errorf("remove the dataset: %w", err)
	}
	r := x.cfg.Removal
	done := Removed{Tenant: x.cfg.Tenant, Name: x.cfg.Name, Who: r.Who, Why: r.Why, Asked: r.Since, Done: x.cfg.Machine.Now().UTC().Round(0), What: what}
	x.state.Removal.Begun, x.state.Removal.Done = true, done.Done
	x.cfg.Step("done")
	if err := x.save(nil); err != nil {
		return err
	}
	b, err := json.MarshalIndent(done, "", "  ")
	if err != nil {
		return err
	}
	x.cfg.Step("tell it")
	return writeStable(filepath.Join(x.cfg.Dir, RemovedName), append(b, '\n'))
}

// writeStable makes a small file, whole or not at all.
func writeStable(path string, data []byte) error {
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+".new", path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Bury goes on with the end of a tenant whose dataset is not there: it never had one, or it went in a run that was killed. It
// reports whether nothing is left now. cfg has no Contents.
func Bury(ctx context.Context, cfg Config) (done bool, err error) {
	cfg = cfg.withDefaults()
	if _, err := ReadRemoved(cfg.Dir); err == nil {
		return true, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	s, err := openState(cfg.Dir, cfg.Tenant)
	if err != nil {
		return false, err
	}
	x := &Expire{cfg: cfg, state: s}
	opening(x)
	defer func() { err = errors.Join(err, x.Close()) }()
	return x.bury(ctx)
}

func (x *Expire) bury(ctx context.Context) (bool, error) {
	var err error
	if x.back, err = x.state.Clock.advance(x.cfg.Machine); err != nil {
		return false, err
	}
	x.state.sawRemoval(x.cfg.Removal)
	if err := x.state.save(nil); err != nil { // the chain is not open yet
		return false, fmt.Errorf("save expire state: %w", err)
	}
	if !x.state.removing(&x.cfg) {
		return false, nil
	}
	if x.state.Head.Seq > 0 && !x.state.Removal.Begun {
		return false, fmt.Errorf("%w, and had %d records: is its disk mounted? Without it the removal does not end", ErrMissing, x.state.Head.Seq)
	}
	if err := x.openChain(); err != nil {
		return false, err
	}
	if !x.state.Removal.Begun {
		if err := x.note(x.will()); err != nil {
			return false, err
		}
	}
	if err := x.finish(ctx); err != nil {
		return false, err
	}
	return true, nil
}
