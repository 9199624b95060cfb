package retention

import (
	"context"
	"slices"
	"time"

	"vaultd/internal/journal"
)

// Cost is what one snapshot costs.
type Cost struct {
	Snapshot
	Kept  string `json:"kept"`           // why; "": nothing keeps it
	Alone Amount `json:"alone"`          // kept contents without a live name that no other snapshot shows
	Body  *Body  `json:"body,omitempty"` // on ZFS
}

// Costs lists the snapshots, oldest first, with what each costs.
func (x *Expire) Costs(ctx context.Context, p *Plan) ([]Cost, error) {
	k := x.keeper()
	var all []Cost
	for _, s := range x.state.snaps {
		if !s.Dropped {
			all = append(all, Cost{Snapshot: Snapshot{Name: s.Name, At: s.At, Time: s.Time}, Kept: k.snapshot(s.At).String()})
		}
	}
	bodies := map[journal.Seq]*Body{}
	if p.Bodies != nil {
		for _, b := range slices.Concat(p.Bodies.Kept, p.Bodies.Go) {
			bodies[p.Bodies.of[b.Name]] = &b
		}
	}
	for i := range all {
		all[i].Body = bodies[all[i].At]
	}
	shown, err := x.shown(ctx, all)
	if err != nil {
		return nil, err
	}
	err = x.state.freed(func(is func(journal.ID) bool) error {
		for id, s := range shown {
			if s.by >= 0 && !is(id) {
				all[s.by].Alone.add(s.size)
			}
		}
		return ctx.Err()
	})
	return all, err
}

// shown is which one snapshot shows a content: its place in the list; -1: several do, or it is live.
type shown struct {
	by   int
	size int64
}

func (x *Expire) shown(ctx context.Context, all []Cost) (map[journal.ID]shown, error) {
	out := map[journal.ID]shown{}
	rows := 0
	err := x.index.EachPast(func(_ journal.Loc, v journal.Version) bool {
		if rows++; rows%4096 == 0 && ctx.Err() != nil {
			return false
		}
		if !v.Kind.HasContent() {
			return true
		}
		first, _ := slices.BinarySearchFunc(all, v.From, func(c Cost, at journal.Seq) int { return int(c.At) - int(at) })
		after, _ := slices.BinarySearchFunc(all, v.To, func(c Cost, at journal.Seq) int { return int(c.At) - int(at) })
		if first == after {
			return true
		}
		now := shown{first, v.Size}
		if was, ok := out[v.ID]; after-first > 1 || ok && was.by != first {
			now.by = -1
		}
		out[v.ID] = now
		return true
	})
	if err == nil {
		err = x.index.EachLive(func(_ journal.Loc, e *journal.Entry) bool {
			delete(out, e.ID)
			return true
		})
	}
	if err == nil {
		err = ctx.Err()
	}
	return out, err
}

// Churn is what comes and goes in a day, on the average of some days.
type Churn struct {
	Days int   `json:"days"`     // that it is the average of
	In   int64 `json:"in_bytes"` // contents that were received
	Out  int64 `json:"out_bytes"`
}

// churnDays is how far back, and ahead, Churn looks.
const churnDays = 30

// Churn says how many bytes came in a day of late, and how many the lock alone keeps, and lets go of, in a day of the time that comes.
func (x *Expire) Churn(ctx context.Context, p *Plan) (Churn, error) {
	now := x.cfg.Machine.Now()
	since, first := now.AddDate(0, 0, -churnDays), now
	var sum int64
	seen := map[journal.ID]bool{}
	count := func(e *journal.Entry) bool {
		if !e.Kind.HasContent() {
			return ctx.Err() == nil
		}
		if e.Received.Before(first) {
			first = e.Received
		}
		if !e.Received.Before(since) && !seen[e.ID] {
			seen[e.ID] = true
			sum += e.Size
		}
		return true
	}
	err := x.index.EachPast(func(_ journal.Loc, v journal.Version) bool { return count(v.Entry) })
	if err == nil {
		err = x.index.EachLive(func(_ journal.Loc, e *journal.Entry) bool { return count(e) })
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return Churn{}, err
	}
	days := min(churnDays, max(1, int(now.Sub(first)/(24*time.Hour))))
	c := Churn{Days: days, In: sum / int64(days)}
	for _, d := range p.Later {
		if d.Day.Before(p.Now.AddDate(0, 0, days)) {
			c.Out += d.Bytes / int64(days)
		}
	}
	return c, nil
}
