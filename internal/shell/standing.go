package shell

import (
	"context"
	"fmt"
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/push"
)

// ownStatus is what status tells of the pushes, and of what the operator expects of them.
type ownStatus struct {
	State    expect.State     `json:"state"`
	Verdicts []expect.Verdict `json:"verdicts"`
	MaxAge   time.Duration    `json:"max_age_ns"`
	FullOn   time.Time        `json:"full_on,omitzero"`
	Newest   time.Time        `json:"newest_snapshot,omitzero"`
	Denied   int64            `json:"denied_24h"`
	Pushes   []push.Event     `json:"pushes"` // the newest first
}

// own is how the vault stands, as far as its owner may know; nil: it is not known.
func (c *call) own() *ownStatus {
	if c.Own == nil {
		return nil
	}
	o, known := c.Own()
	if !known {
		return nil
	}
	t := &o.Tenant
	s := &ownStatus{State: t.Verdict.State, Verdicts: []expect.Verdict{}, MaxAge: t.MaxAge, FullOn: t.Forecast, Newest: t.Snapshots.Newest, Denied: t.Denied.Day(time.Now()),
		Pushes: append([]push.Event{}, o.Pushes...)}
	for _, v := range t.Verdicts {
		if v.State != expect.OK {
			s.Verdicts = append(s.Verdicts, v)
		}
	}
	return s
}

// worst is the first of the verdicts that is more than a remark; nil: there is none.
func (s *ownStatus) worst() *expect.Verdict {
	if s == nil || len(s.Verdicts) == 0 || s.Verdicts[0].Level == expect.Well {
		return nil
	}
	return &s.Verdicts[0]
}

// status answers in its first line whether the owner has to do something.
func status(_ context.Context, c *call) error {
	if len(c.args) > 0 {
		return c.misused("status [--json]")
	}
	u, list, own := c.FS.Usage(), c.notices(), c.own()
	if c.json {
		return c.writeJSON(struct {
			Schema  string     `json:"schema"`
			Used    int64      `json:"used_bytes"`
			Limit   int64      `json:"limit_bytes"` // 0: none
			Files   int64      `json:"files"`
			Notices []string   `json:"notices"`
			Own     *ownStatus `json:"backup,omitempty"`
		}{"vaultd.vault-status/v1", u.Used(), u.Limit, u.Files, list, own})
	}
	verdict := "all is well"
	switch v := own.worst(); {
	case len(list) > 0:
		verdict = "look at what is about to change"
	case v != nil && v.State == expect.Full:
		verdict = "the vault is full"
	case v != nil && v.State == expect.FullSoon, u.Limit > 0 && u.Used()*10 >= u.Limit*9:
		verdict = "the vault is nearly full"
	case v != nil:
		verdict = "look at your backup"
	}
	bound := " " + limit(u.Limit, size)
	if u.Limit == 0 {
		bound = "," + bound
	}
	fmt.Fprintf(c.out, "%s: %s used%s%s\n", verdict, size(u.Used()), bound, percent(u.Used(), u.Limit))
	for _, n := range list {
		fmt.Fprintf(c.out, "NOTICE: %s\n", n)
	}
	if own != nil {
		own.show(c, time.Now())
	}
	return nil
}

// show tells what is not well, and the newest pushes.
func (s *ownStatus) show(c *call, now time.Time) {
	for _, v := range s.Verdicts {
		where := ""
		if v.Path != "" {
			where = fmt.Sprintf(" in %q", v.Path)
		}
		fmt.Fprintf(c.out, "%s%s: %s\n", v.State, where, v.Why)
	}
	if s.Denied > 0 {
		fmt.Fprintf(c.out, "%d requests were refused in the last 24 hours\n", s.Denied)
	}
	for _, e := range s.Pushes {
		fmt.Fprintf(c.out, "%s  %-7s %-8s %d new (%s), %d unchanged%s\n", e.Time.UTC().Format(time.RFC3339), e.Protocol, e.Result, e.New.Files, size(e.New.Bytes), e.Unchanged.Files, remark(e))
	}
}

// remark says what is not as it should be in a push.
func remark(e push.Event) (s string) {
	if n := e.Refused.Files; n > 0 {
		s += fmt.Sprintf(", %d refused", n)
	}
	if n := e.Failed.Files; n > 0 {
		s += fmt.Sprintf(", %d failed", n)
	}
	if !e.Restorable {
		s += "; not restorable: " + e.Why
	}
	return s
}
