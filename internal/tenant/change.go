package tenant

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"vaultd/internal/appendonly"
)

// Change says what is to be different; nil leaves a field as it is.
type Change struct {
	Suspended    *bool            `json:"suspended,omitempty"`
	Mode         *appendonly.Mode `json:"mode,omitempty"`
	Prefixes     *[]Prefix        `json:"prefixes,omitempty"` // the whole new list
	SealAfter    *time.Duration   `json:"seal_after_ns,omitempty"`
	ResumeWindow *time.Duration   `json:"resume_window_ns,omitempty"`
	Durability   *Durability      `json:"durability,omitempty"`
	DeleteFails  *bool            `json:"delete_fails,omitempty"`
	QuotaBytes   *int64           `json:"quota_bytes,omitempty"`
	QuotaFiles   *int64           `json:"quota_files,omitempty"`
	SoftBytes    *int64           `json:"soft_bytes,omitempty"`
	Grace        *time.Duration   `json:"grace_ns,omitempty"`
	Snapshots    *[]string        `json:"snapshots,omitempty"` // the whole new list
	PushEnd      *bool            `json:"push_end,omitempty"`
	Lock         *time.Duration   `json:"lock_ns,omitempty"`
	Keep         **Keep           `json:"-"` // never stored for later: expire itself waits (see Retention)
	Rules        *[]ExpireRule    `json:"-"` // the whole new list
}

// Pending is a change that promises less, and waits.
type Pending struct {
	Change Change    `json:"change"`
	What   []string  `json:"what"` // as WeakeningError words it
	Who    string    `json:"who"`
	Why    string    `json:"why,omitempty"`
	Since  time.Time `json:"since"`
	Due    time.Time `json:"due"`
}

// storable returns c in a form that comes back from the catalog as it is, or refuses what has none.
func (c Change) storable() (Change, error) {
	if c.Keep != nil || c.Rules != nil {
		return c, fmt.Errorf("what is kept is changed at once and counts after a cool-down; change it by itself: %w", ErrInvalid)
	}
	if c.Snapshots != nil { // JSON's null would be "leave it"
		c.Snapshots = ptrTo(append([]string{}, *c.Snapshots...))
	}
	if c.Prefixes != nil {
		c.Prefixes = ptrTo(append([]Prefix{}, *c.Prefixes...))
	}
	return c, nil
}

// waits refuses a change of a field that a pending change has, too: when that came, it would undo this one without a word.
func (t Tenant) waits(c Change) error {
	if t.Pending == nil {
		return nil
	}
	a, b := reflect.ValueOf(c), reflect.ValueOf(t.Pending.Change)
	for i := range a.NumField() {
		if !a.Field(i).IsNil() && !b.Field(i).IsNil() {
			return fmt.Errorf("set %s: a change of the same waits until %s; veto that first: %w", t.Name, t.Pending.Due.Format(time.RFC3339), ErrConflict)
		}
	}
	return nil
}

func ptrTo[T any](v T) *T { return &v }

// WeakeningError refuses a change after which less would be promised than before. Nothing was changed.
type WeakeningError struct {
	Tenant string
	What   []string // "mode: strict -> versioned"; all of them
	Never  bool     // not after a cool-down either
}

func (e *WeakeningError) Error() string {
	if e.Never {
		return fmt.Sprintf("set %s: %s: a lock is never shortened (P3)", e.Tenant, strings.Join(e.What, "; "))
	}
	return fmt.Sprintf("set %s: %s: this would weaken the policy", e.Tenant, strings.Join(e.What, "; "))
}

func set[T any](field *T, to *T) {
	if to != nil {
		*field = *to
	}
}

// apply returns t with the change made and checked. It does not judge weakening.
func (c Change) apply(t Tenant) (Tenant, error) {
	set(&t.Suspended, c.Suspended)
	set(&t.Policy.Mode, c.Mode)
	set(&t.Policy.Prefixes, c.Prefixes)
	set(&t.Policy.SealAfter, c.SealAfter)
	set(&t.Policy.ResumeWindow, c.ResumeWindow)
	set(&t.Policy.Durability, c.Durability)
	set(&t.Policy.DeleteFails, c.DeleteFails)
	set(&t.Quota.Bytes, c.QuotaBytes)
	set(&t.Quota.Files, c.QuotaFiles)
	set(&t.Quota.SoftBytes, c.SoftBytes)
	set(&t.Quota.Grace, c.Grace)
	set(&t.Schedule.Snapshots, c.Snapshots)
	set(&t.Schedule.PushEnd, c.PushEnd)
	set(&t.Retention.Lock, c.Lock)
	set(&t.Retention.Keep, c.Keep)
	set(&t.Retention.Rules, c.Rules)
	return t, t.normalize()
}

// judge returns t with the change made and checked, and what that would promise less. A shorter lock is an error.
func (c Change) judge(old Tenant) (Tenant, []string, error) {
	t, err := c.apply(old)
	if err != nil {
		return t, nil, fmt.Errorf("set %s: %w", old.Name, err)
	}
	if t.Retention.Lock < old.Retention.Lock {
		return t, nil, &WeakeningError{Tenant: old.Name, Never: true,
			What: []string{fmt.Sprintf("lock: %s -> %s", Days(old.Retention.Lock), Days(t.Retention.Lock))}}
	}
	what, err := weakening(old, t)
	if err != nil {
		return t, nil, fmt.Errorf("set %s: %w", old.Name, err)
	}
	return t, what, nil
}

// settled returns t as it is now: with the change made that waited, if its time has come.
func (t Tenant) settled(now time.Time) Tenant {
	t.gone = t.Removed(now)
	if t.Eased != nil && !now.Before(t.Eased.Until) {
		t.Eased = nil
	}
	if t.Pending == nil || now.Before(t.Pending.Due) {
		return t
	}
	next, err := t.Pending.Change.apply(t)
	if err != nil {
		return t // checked when it was stored; what does not fit any more waits for a veto
	}
	next.Pending, next.Came = nil, t.Pending
	return next
}

// normalize checks everything that an operator can set, and cleans it.
func (t *Tenant) normalize() error {
	var perr, serr, rerr error
	t.Policy, perr = t.Policy.normalized()
	t.Schedule, serr = t.Schedule.normalized()
	t.Retention, rerr = t.Retention.normalized()
	return errors.Join(perr, t.Quota.check(), serr, rerr)
}

// weakening lists what new promises less than old. Both are normalized.
//
// Quotas, suspending and resuming are never in it. A longer resume window is: for as long as it lasts, a
// key may let a name stand for a longer file. So is durability close -> session: less is stable when a
// client has its reply; and delete_fails on -> off: who relied on the status is not told any more. What is kept for how long is
// easing's business.
func weakening(old, new Tenant) ([]string, error) {
	var what []string
	if old.Policy.Mode == appendonly.Strict && new.Policy.Mode == appendonly.Versioned {
		what = append(what, "mode: strict -> versioned")
	}
	// The mode is constant between the prefixes of both lists, so that asking at each of them is asking everywhere.
	was, is := old.Core(), new.Core()
	for _, p := range prefixPaths(old, new) {
		if was.ModeAt(p) == appendonly.Strict && is.ModeAt(p) == appendonly.Versioned {
			what = append(what, fmt.Sprintf("mode of %q: strict -> versioned", p))
		}
	}
	if new.Policy.SealAfter > old.Policy.SealAfter {
		what = append(what, fmt.Sprintf("seal_after: %v -> %v", old.Policy.SealAfter, new.Policy.SealAfter))
	}
	if new.Policy.ResumeWindow > old.Policy.ResumeWindow {
		what = append(what, fmt.Sprintf("resume_window: %v -> %v", old.Policy.ResumeWindow, new.Policy.ResumeWindow))
	}
	if old.Policy.Durability == AtClose && new.Policy.Durability == AtSession {
		what = append(what, "durability: close -> session")
	}
	if old.Policy.DeleteFails && !new.Policy.DeleteFails {
		what = append(what, "delete_fails: on -> off")
	}
	if old.Schedule.PushEnd && !new.Schedule.PushEnd {
		what = append(what, "push-end snapshots: on -> off")
	}
	if slices.Equal(old.Schedule.Snapshots, new.Schedule.Snapshots) {
		return what, nil
	}
	a, aerr := measure(old.Schedule.Snapshots)
	b, berr := measure(new.Schedule.Snapshots)
	if err := errors.Join(aerr, berr); err != nil {
		return nil, fmt.Errorf("compare schedules: %w", err)
	}
	switch {
	case b.ticks == 0 && a.ticks > 0:
		what = append(what, "scheduled snapshots: on -> off")
	case b.gap > a.gap:
		what = append(what, fmt.Sprintf("longest time between snapshots: %v -> %v", a.gap, b.gap))
	case b.ticks < a.ticks:
		what = append(what, fmt.Sprintf("snapshots a day: %s -> %s", perDay(a), perDay(b)))
	}
	return what, nil
}

func perDay(c coverage) string {
	return fmt.Sprint(math.Round(float64(c.ticks)/windowDays*100) / 100)
}

func prefixPaths(old, new Tenant) []string {
	var paths []string
	for _, x := range append(slices.Clip(old.Policy.Prefixes), new.Policy.Prefixes...) {
		paths = append(paths, x.Path)
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// diff words a change for the audit log.
func diff(old, new Tenant) string {
	var d []string
	row := func(name string, a, b any) {
		if x, y := fmt.Sprint(a), fmt.Sprint(b); x != y {
			d = append(d, fmt.Sprintf("%s: %s -> %s", name, x, y))
		}
	}
	row("suspended", old.Suspended, new.Suspended)
	row("mode", old.Policy.Mode, new.Policy.Mode)
	row("prefixes", prefixText(old.Policy.Prefixes), prefixText(new.Policy.Prefixes))
	row("seal_after", old.Policy.SealAfter, new.Policy.SealAfter)
	row("resume_window", old.Policy.ResumeWindow, new.Policy.ResumeWindow)
	row("durability", old.Policy.Durability, new.Policy.Durability)
	row("delete_fails", old.Policy.DeleteFails, new.Policy.DeleteFails)
	row("quota bytes", old.Quota.Bytes, new.Quota.Bytes)
	row("quota files", old.Quota.Files, new.Quota.Files)
	row("soft quota bytes", old.Quota.SoftBytes, new.Quota.SoftBytes)
	row("grace", Days(old.Quota.Grace), Days(new.Quota.Grace))
	row("snapshots", fmt.Sprintf("%q", old.Schedule.Snapshots), fmt.Sprintf("%q", new.Schedule.Snapshots))
	row("push_end", old.Schedule.PushEnd, new.Schedule.PushEnd)
	row("lock", Days(old.Retention.Lock), Days(new.Retention.Lock))
	row("keep", old.Retention.Keep, new.Retention.Keep)
	row("rules", old.Retention.Rules, new.Retention.Rules)
	return strings.Join(d, "; ")
}

func prefixText(list []Prefix) string {
	var s []string
	for _, x := range list {
		s = append(s, fmt.Sprintf("%q=%s", x.Path, x.Mode))
	}
	return "[" + strings.Join(s, " ") + "]"
}
