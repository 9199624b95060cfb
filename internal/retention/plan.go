package retention

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

type readCloser = io.ReadCloser

// reading is a journal of which only the closed segments can be read.
type reading struct{ Source }

func (reading) OpenSegment() (journal.SegmentFile, error) { return nil, errOpenSegment }
func (reading) CloseSegment(string) error                 { return errOpenSegment }

var errOpenSegment = journalError("the open segment is the server's")

type journalError string

func (e journalError) Error() string { return string(e) }

// content is what is known of a content that has no live name any more.
type content struct {
	size int64
	why  Why
	end  time.Duration // the age at which the lock of its last version ends
}

// Plan is what may be freed now, and what holds the rest.
type Plan struct {
	Now     time.Time         // as the retention clock shows it
	Lock    time.Duration     // the lock that counts
	Free    []journal.Freed   // contents that go now
	Bytes   int64             // of them
	Drop    []Snapshot        // snapshots that lose their names now
	Held    map[Why]Amount    // what is kept beside what is live, by the reasons that keep it
	Live    Amount            // what has a live name
	Later   []Due             // what only the lock keeps: when it goes
	retire  map[string][]Name // live names that rules let go of, by rule
	Retires []Retire
	Paused  *tenant.Pause // nothing of this happens while it is there
	// Removing says that the tenant's end has come.
	Removing bool
	Bodies   *BodyPlan // of the dataset's snapshots; nil: it has none of its own

	void map[journal.ID]bool // contents that a crash cut before they were acknowledged
}

// Amount is a number of contents and their bytes.
type Amount struct {
	Contents int   `json:"contents"`
	Bytes    int64 `json:"bytes"`
}

func (a *Amount) add(size int64) { a.Contents++; a.Bytes += size }

// Snapshot is one that loses its name.
type Snapshot struct {
	Name string      `json:"name"`
	At   journal.Seq `json:"instant"`
	Time time.Time   `json:"time"`
}

// Due is what goes on a day, if nothing changes.
type Due struct {
	Day time.Time `json:"day"`
	Amount
}

// Retire is what a rule lets go of.
type Retire struct {
	Rule  string `json:"rule"`
	Names int    `json:"names"`
	Bytes int64  `json:"bytes"`
}

// batch is how many contents one record of the chain lets go of: a record is a line, and a line is bounded. group is how many
// records are made stable, carried out and made stable together: syncs are what pushes on the same disk wait for.
const (
	batch = 3000
	group = 5
)

// groups words a plan for the chain: the names of snapshots, then contents.
func (p *Plan) groups() (out [][]*journal.Record) {
	var drop []journal.Seq
	for _, s := range p.Drop {
		drop = append(drop, s.At)
	}
	var records []*journal.Record
	for part := range slices.Chunk(drop, batch) {
		records = append(records, &journal.Record{Op: journal.OpFree, Dropped: part, Key: "expire"})
	}
	out = slices.AppendSeq(out, slices.Chunk(records, group))
	records = nil
	for part := range slices.Chunk(p.Free, batch) {
		records = append(records, &journal.Record{Op: journal.OpFree, Freed: part, Key: "expire"})
	}
	return slices.AppendSeq(out, slices.Chunk(records, group))
}

func (x *Expire) keeper() *keeper {
	s := x.state
	policies, ending := s.inForce(x.cfg.CoolDown), s.removing(&x.cfg)
	if ending {
		policies = lastWill(policies)
	}
	return newKeeper(s, policies, time.Duration(s.Lock), !ending)
}

// Plan says what may be freed. It changes nothing.
func (x *Expire) Plan(ctx context.Context) (*Plan, error) {
	k := x.keeper()
	p := &Plan{Now: x.state.Clock.wall(x.state.Clock.Age), Lock: k.lock, Held: map[Why]Amount{}, retire: map[string][]Name{},
		Paused: x.cfg.Policy.Pause, Removing: x.state.removing(&x.cfg), void: map[journal.ID]bool{}}
	past, err := x.past(ctx, k, p)
	if err != nil {
		return nil, err
	}
	days := map[int64]*Due{}
	err = x.state.freed(func(is func(journal.ID) bool) error {
		for id, c := range past {
			switch {
			case is(id):
			case c.why != 0:
				a := p.Held[c.why]
				a.add(c.size)
				p.Held[c.why] = a
				if c.why == Locked {
					day := x.state.Clock.wall(c.end).Truncate(24 * time.Hour)
					if days[day.Unix()] == nil {
						days[day.Unix()] = &Due{Day: day}
					}
					days[day.Unix()].add(c.size)
				}
			default:
				p.Free = append(p.Free, journal.Freed{ID: id, Size: c.size})
				p.Bytes += c.size
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, d := range days {
		p.Later = append(p.Later, *d)
	}
	slices.SortFunc(p.Later, func(a, b Due) int { return a.Day.Compare(b.Day) })
	slices.SortFunc(p.Free, func(a, b journal.Freed) int { return strings.Compare(string(a.ID[:]), string(b.ID[:])) })
	if err := x.settled(p); err != nil {
		return nil, err
	}
	for _, s := range x.state.snaps {
		if !s.Dropped && k.snapshot(s.At) == 0 {
			p.Drop = append(p.Drop, Snapshot{Name: s.Name, At: s.At, Time: s.Time})
		}
	}
	if x.cfg.Bodies != nil {
		if p.Bodies, err = x.planBodies(ctx, k); err != nil {
			return nil, err
		}
	}
	if p.Removing {
		return p, nil // every name goes
	}
	return p, x.rules(ctx, k, p)
}

// past finds the contents that have no live name, and why each is kept.
func (x *Expire) past(ctx context.Context, k *keeper, p *Plan) (map[journal.ID]content, error) {
	wrong, err := x.damage(p)
	if err != nil {
		return nil, err
	}
	past := map[journal.ID]content{}
	rows := 0
	err = x.index.EachPast(func(at journal.Loc, v journal.Version) bool {
		if rows++; rows%4096 == 0 && ctx.Err() != nil {
			return false
		}
		if v.Kind.HasContent() {
			c := past[v.ID]
			c.size = v.Size
			c.why |= k.version(v.From, v.To)
			c.end = max(c.end, k.until(v.To))
			past[v.ID] = c
			wrong.saw(at, v.ID)
		}
		return true
	})
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	linked := map[journal.ID]bool{}
	err = x.index.EachLive(func(at journal.Loc, e *journal.Entry) bool {
		if rows++; rows%4096 == 0 && ctx.Err() != nil {
			return false
		}
		if e.Kind.HasContent() {
			delete(past, e.ID)
			wrong.saw(at, e.ID)
			if !linked[e.ID] { // the names of a content that has several count once
				p.Live.add(e.Size)
			}
			if e.Linked {
				linked[e.ID] = true
			}
		}
		return true
	})
	if err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = x.lastGood(wrong, p, past)
	}
	return past, err
}

// damage is where contents stand, or stood, that verification found wrong.
type damage map[journal.ID][]journal.Loc

func (d damage) saw(at journal.Loc, id journal.ID) {
	if have, ok := d[id]; ok {
		d[id] = append(have, at)
	}
}

// damage lists the contents that are not what was recorded: p gets those that nobody was ever told were safe.
func (x *Expire) damage(p *Plan) (damage, error) {
	out := damage{}
	return out, x.index.EachVoid(func(id journal.ID, damaged bool) bool {
		if damaged {
			out[id] = nil
		} else {
			p.void[id] = true
		}
		return true
	})
}

// lastGood keeps what is damaged, until it is put right, and of every name that stands or stood for it the newest version
// before it that is good: what the name is restored from.
func (x *Expire) lastGood(wrong damage, p *Plan, past map[journal.ID]content) error {
	keep := func(id journal.ID) {
		if c, ok := past[id]; ok {
			c.why |= Damaged
			past[id] = c
		}
	}
	for id, places := range wrong {
		keep(id)
		for _, at := range places {
			versions, err := x.index.Versions(at)
			if err != nil {
				return err
			}
			after := false // newest first
			for _, v := range versions {
				_, bad := wrong[v.ID]
				switch {
				case !v.Kind.HasContent() || v.Fresh || p.void[v.ID]:
				case v.ID == id:
					after = true
				case after && !bad:
					keep(v.ID)
					after = false
				}
			}
		}
	}
	return nil
}

// settled leaves out what is still on its way into the store: the next run has it.
func (x *Expire) settled(p *Plan) error {
	if len(p.Free) == 0 {
		return nil
	}
	out := p.Free[:0]
	for _, f := range p.Free {
		staged, err := x.cfg.Contents.Staged(f.ID)
		if err != nil {
			return err
		}
		if staged {
			p.Bytes -= f.Size
			continue
		}
		out = append(out, f)
	}
	p.Free = out
	return nil
}

// rules finds the live names that the tenant's own rules let go of: files that were received, as far as this process saw it,
// longer ago than a rule says.
func (x *Expire) rules(ctx context.Context, k *keeper, p *Plan) error {
	for _, r := range x.cfg.Policy.Rules {
		if !x.standing(r) {
			continue
		}
		dir, err := x.index.LiveDir(r.Prefix)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, journal.ErrNotDir) {
			continue
		}
		if err != nil {
			return err
		}
		one := Retire{Rule: r.String()}
		var names []Name
		for dirs := []journal.DirID{dir}; len(dirs) > 0; {
			d := dirs[len(dirs)-1]
			dirs = dirs[:len(dirs)-1]
			for after := ""; ; {
				list, err := x.index.List(d, journal.Now, after, 1024)
				if err != nil {
					return err
				}
				if err := ctx.Err(); err != nil {
					return err
				}
				if len(list) == 0 {
					break
				}
				after = list[len(list)-1].Name
				for _, n := range list {
					if n.Kind == journal.KindDir {
						dirs = append(dirs, n.Dir)
					}
					if !n.Kind.HasContent() || n.Fresh || k.now-k.at(n.From) < r.After {
						continue
					}
					path, err := x.index.Path(journal.Loc{Dir: d, Name: n.Name})
					if err != nil {
						return err
					}
					names = append(names, Name{path, n.From})
					one.Names++
					one.Bytes += n.Size
				}
			}
		}
		if one.Names > 0 {
			p.retire[one.Rule] = names
			p.Retires = append(p.Retires, one)
		}
	}
	return nil
}

// standing reports whether a rule is in every policy that counts: a new one waits for the cool-down.
func (x *Expire) standing(r tenant.ExpireRule) bool {
	for _, p := range x.state.inForce(x.cfg.CoolDown) {
		if !slices.Contains(p.Rules, r) {
			return false
		}
	}
	return true
}

// Each calls f with the versions that a plan frees, by directory and name, until f returns false. A content that had several
// names comes several times.
func (x *Expire) Each(p *Plan, f func(path string, v journal.Version) bool) error {
	going := make(map[journal.ID]bool, len(p.Free))
	for _, c := range p.Free {
		going[c.ID] = true
	}
	type row struct {
		at journal.Loc
		v  journal.Version
	}
	var rows []row
	err := x.index.EachPast(func(at journal.Loc, v journal.Version) bool {
		if v.Kind.HasContent() && going[v.ID] {
			rows = append(rows, row{at, v})
		}
		return true
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		path, err := x.index.Path(r.at)
		if err != nil {
			return err
		}
		if !f(path, r.v) {
			return nil
		}
	}
	return nil
}
