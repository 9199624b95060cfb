package retention

import (
	"context"
	"slices"
	"time"

	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

// Rules are rules to try out: a policy, and a lock that may be shorter than any that counts.
type Rules struct {
	Policy tenant.Retention
	Lock   time.Duration
}

// Difference is what would be different under other rules, once every cool-down is over, from what the plan does.
type Difference struct {
	Frees Amount `json:"frees"` // of what the plan keeps
	Keeps Amount `json:"keeps"` // of what the plan frees
}

// Space says what each of some rules would change about p, Plan's answer. Everything is counted from the same versions,
// with the same code that a run decides by. Damage stays, under every rule.
func (x *Expire) Space(ctx context.Context, p *Plan, rules []Rules) ([]Difference, error) {
	freed := make(map[journal.ID]bool, len(p.Free))
	for _, f := range p.Free {
		freed[f.ID] = true
	}
	s := x.state
	out := make([]Difference, len(rules))
	for i, r := range rules {
		k := newKeeper(s, []tenant.Retention{r.Policy}, r.Lock, true)
		past, err := x.past(ctx, k, &Plan{void: map[journal.ID]bool{}})
		if err != nil {
			return nil, err
		}
		err = s.freed(func(is func(journal.ID) bool) error {
			for id, c := range past {
				switch {
				case freed[id] && c.why != 0:
					out[i].Keeps.add(c.size)
				case !freed[id] && c.why == 0 && !is(id):
					out[i].Frees.add(c.size)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LongestLock is the longest lock that was ever seen: the one that counts.
func (x *Expire) LongestLock() time.Duration { return time.Duration(x.state.Lock) }

// Single lists what rules there are without one of them, by name, in order: each part of the schedule, each hold, and the lock.
func Single(now tenant.Retention, lock time.Duration) (names []string, rules []Rules) {
	add := func(name string, change func(*tenant.Retention), lock time.Duration) {
		p := now
		p.Holds = slices.Clone(now.Holds)
		if now.Keep != nil {
			k := *now.Keep
			p.Keep = &k
		}
		change(&p)
		names, rules = append(names, name), append(rules, Rules{p, lock})
	}
	if now.Keep == nil {
		add("the default schedule", func(p *tenant.Retention) { p.Keep = tenant.DefaultRetention().Keep }, lock)
	} else {
		for _, f := range []struct {
			name string
			n    func(*tenant.Keep) *int
		}{
			{"hourly", func(k *tenant.Keep) *int { return &k.Hourly }}, {"daily", func(k *tenant.Keep) *int { return &k.Daily }},
			{"weekly", func(k *tenant.Keep) *int { return &k.Weekly }}, {"monthly", func(k *tenant.Keep) *int { return &k.Monthly }},
			{"yearly", func(k *tenant.Keep) *int { return &k.Yearly }},
		} {
			if *f.n(now.Keep) > 0 {
				add("without "+f.name, func(p *tenant.Retention) { *f.n(p.Keep) = 0 }, lock)
			}
		}
	}
	for i, h := range now.Holds {
		add("without the hold on "+h.Snapshot+" ("+h.Reason+")", func(p *tenant.Retention) { p.Holds = slices.Delete(p.Holds, i, i+1) }, lock)
	}
	add("when every lock has ended", func(*tenant.Retention) {}, 0)
	return names, rules
}
