package inventory

import (
	"slices"
	"strings"
	"time"

	"vaultd/internal/expect"
)

// Known is what an inventory is made of, for one tenant: what is in the catalog, what is expected, and the facts.
type Known struct {
	Tenant // without Verdict and Verdicts
	Rules  []expect.Rule
}

// Make judges tenants at now. Whoever has no expectation of the whole gets common, which may expect nothing.
func Make(now time.Time, known []Known, common expect.Rule) Inventory {
	inv := Inventory{Time: now.UTC(), Tenants: make([]Tenant, len(known))}
	for i := range known {
		inv.Tenants[i] = known[i].Judged(now, common)
	}
	slices.SortFunc(inv.Tenants, func(a, b Tenant) int { return strings.Compare(a.Name, b.Name) })
	return inv
}

// Judged is one tenant of what Make makes, for those who look at one after the other.
func (k *Known) Judged(now time.Time, common expect.Rule) Tenant {
	common.Path, common.Default = "", true
	t := k.Tenant
	if t.Suspended {
		t.Verdict = expect.Verdict{State: expect.Suspended, Why: "suspended by the operator"}
		t.Verdicts = []expect.Verdict{t.Verdict}
		return t
	}
	own := false
	t.Verdicts = make([]expect.Verdict, 0, len(k.Rules)+2)
	for _, r := range k.Rules {
		own = own || r.Path == ""
		v := expect.Judge(r, t.Created, t.seen(r.Path), now)
		if v.State == expect.Never && v.Level == expect.Well && r.Path != "" { // the tenant as a whole is not new for that
			v.State = expect.OK
		}
		t.Verdicts = append(t.Verdicts, v)
		if r.Path == "" {
			t.MaxAge = r.MaxAge
		}
	}
	if !own {
		t.Verdicts = append(t.Verdicts, expect.Judge(common, t.Created, t.Pushes.Seen, now))
		t.MaxAge = common.MaxAge
	}
	t.Verdicts = append(t.Verdicts, expect.JudgeSpace(expect.Space{Used: t.Usage.Used(), Limit: t.Quota.Bytes, Files: t.Usage.Files, Most: t.Quota.Files,
		Forecast: t.Forecast, Soft: t.Quota.SoftBytes, Refused: t.Quota.Refused, Lapsed: t.Quota.Lapsed}, now))
	t.Verdict = expect.Worst(t.Verdicts)
	return t
}

// seen is what was seen of a directory with an expectation.
func (t *Tenant) seen(path string) expect.Seen {
	if path == "" {
		return t.Pushes.Seen
	}
	return t.Pushes.Under[path]
}

// Summary counts an inventory for a sentence.
type Summary struct {
	Tenants   int `json:"tenants"`
	BackedUp  int `json:"backed_up"` // have a restorable push, and what is expected of them
	Late      int `json:"late"`
	Never     int `json:"never"` // and should have by now
	New       int `json:"new"`   // have no push, and need none yet
	Small     int `json:"small"`
	Unchanged int `json:"unchanged"`
	FullSoon  int `json:"full_soon"`
	Full      int `json:"full"`
	Suspended int `json:"suspended"`
	ReadOnly  int `json:"read_only"`
}

// Sum counts.
func (inv *Inventory) Sum() (s Summary) {
	s.Tenants = len(inv.Tenants)
	for i := range inv.Tenants {
		t := &inv.Tenants[i]
		if t.ReadOnly != "" {
			s.ReadOnly++
		}
		late := false
		for _, v := range t.Verdicts {
			late = late || v.State == expect.Late || v.State == expect.Never
		}
		if !late && !t.Suspended {
			s.BackedUp++
		}
		switch v := t.Verdict; v.State {
		case expect.Late:
			s.Late++
		case expect.Never:
			if v.Level == expect.Well {
				s.New++
			} else {
				s.Never++
			}
		case expect.Small:
			s.Small++
		case expect.Unchanged:
			s.Unchanged++
		case expect.FullSoon:
			s.FullSoon++
		case expect.Full:
			s.Full++
		case expect.Suspended:
			s.Suspended++
		}
	}
	return s
}
