package tenant

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Eased says that the retention keeps less than it did. Unlike a Pending it is stored at once: the expire process remembers what was
// in force, and goes by that for a cool-down, on its own clock. So this is no protection but an announcement, with what a veto
// needs to take it back.
type Eased struct {
	What   []string  `json:"what"`
	Who    string    `json:"who"`
	Why    string    `json:"why,omitempty"`
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`  // what was before counts until then, at least
	Before Retention `json:"before"` // as it was when it was first eased
}

// ease compares t with what it was before a change, and announces what is kept no longer.
func (d *DB) ease(old, t Tenant) Tenant {
	before := old.Retention
	if old.Eased != nil {
		before = old.Eased.Before
	}
	what := easing(before, t.Retention)
	switch {
	case len(what) == 0:
		t.Eased = nil
	case len(easing(old.Retention, t.Retention)) == 0: // no more than was announced
		e := *old.Eased
		e.What = what
		t.Eased = &e
	default:
		t.Eased = &Eased{What: what, Who: d.o.Actor, Why: d.o.Why, Since: d.now(), Until: d.now().Add(d.o.CoolDown), Before: before}
	}
	return t
}

// easing lists what new keeps less than old. The lock is not in it: it is never shortened.
func easing(old, new Retention) []string {
	var what []string
	switch {
	case new.Keep == nil:
	case old.Keep == nil, old.Keep.more(*new.Keep):
		what = append(what, fmt.Sprintf("keep: %s -> %s", old.Keep, new.Keep))
	}
	for _, r := range new.Rules {
		if !slices.ContainsFunc(old.Rules, r.within) {
			what = append(what, "expire: "+r.String())
		}
	}
	for _, h := range old.Holds {
		if !slices.ContainsFunc(new.Holds, h.same) {
			what = append(what, fmt.Sprintf("hold of %s: released", h.Snapshot))
		}
	}
	return what
}

// more reports whether k keeps more than other in any period.
func (k Keep) more(other Keep) bool {
	return k.Hourly > other.Hourly || k.Daily > other.Daily || k.Weekly > other.Weekly || k.Monthly > other.Monthly || k.Yearly > other.Yearly
}

// within reports whether everything that r lets go of, old lets go of too.
func (r ExpireRule) within(old ExpireRule) bool {
	return old.After <= r.After && (old.Prefix == "" || r.Prefix == old.Prefix || strings.HasPrefix(r.Prefix, old.Prefix+"/"))
}

func (h Hold) same(x Hold) bool { return h.Snapshot == x.Snapshot && h.Reason == x.Reason }
