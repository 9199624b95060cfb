package appendonly

import (
	"fmt"
	"syscall"
	"time"

	humanize "github.com/dustin/go-humanize"

	"vaultd/internal/journal"
)

// Ceiling bounds what one key may add between two midnights of UTC, in all its sessions together; 0 is no bound. It holds
// for what is stored: contents that were given up and dropped do not count, and interrupted uploads do as long as they are kept.
type Ceiling struct {
	Bytes   int64 // of contents, as the quota charges them
	Records int64 // of the journal
}

// Added is what a key added today.
type Added = journal.Added

// CeilingError refuses what would pass a key's daily ceiling. It is EDQUOT. Reading goes on, and so do locks and the removal
// of the key's own unfinished files.
type CeilingError struct {
	Used, Limit int64
	What        string // "bytes" or "records"
}

// Error is fit for clients.
func (e *CeilingError) Error() string {
	const rest = "It begins anew at 00:00 UTC; the vault's operator can raise it"
	if e.What == "records" {
		return fmt.Sprintf("daily ceiling reached: %s of %s changes today. %s", humanize.Comma(e.Used), humanize.Comma(e.Limit), rest)
	}
	return fmt.Sprintf("daily ceiling reached: %s of %s today. %s", humanize.IBytes(uint64(max(e.Used, 0))), humanize.IBytes(uint64(e.Limit)), rest)
}

// Is makes errors.Is(err, syscall.EDQUOT) true.
func (e *CeilingError) Is(target error) bool { return target == syscall.EDQUOT }

// today is what keys with ceilings have staged, beside what the journal counts. Its lock is the last to be taken.
// What is published is counted by both for a moment: a key is refused a moment too early and never too late.
type today struct {
	held   map[string]int64    // by key; the sum of Upload.held
	warned map[string]struct{} // keys and what they are about to reach, on day
	day    string
}

// Today returns what key added since midnight, its unfinished uploads included.
func (v *Vault) Today(key string) Added {
	v.todayMu.Lock()
	defer v.todayMu.Unlock()
	a := v.idx.Added(key, v.cfg.Now())
	a.Bytes += v.today.held[key]
	return a
}

// withinCeiling refuses bytes and records more where they would pass the session's ceiling. todayMu is held.
func (f *FS) withinCeiling(bytes, records int64) error {
	c := f.who.Daily
	now := f.v.cfg.Now()
	a := f.v.idx.Added(f.who.Key, now)
	a.Bytes += f.v.today.held[f.who.Key]
	if c.Bytes > 0 && bytes > 0 && (a.Bytes > c.Bytes || bytes > c.Bytes-a.Bytes) {
		return &CeilingError{a.Bytes, c.Bytes, "bytes"}
	}
	if c.Records > 0 && records > 0 && (a.Records > c.Records || records > c.Records-a.Records) {
		return &CeilingError{a.Records, c.Records, "records"}
	}
	f.nearCeiling(now, "bytes", a.Bytes+bytes, c.Bytes)
	f.nearCeiling(now, "records", a.Records+records, c.Records)
	return nil
}

// nearCeiling tells the operator, once a day, that a key has used four fifths of what it may. todayMu is held.
func (f *FS) nearCeiling(now time.Time, what string, used, limit int64) {
	if limit <= 0 || used < limit-limit/5 {
		return
	}
	t := &f.v.today
	if day := now.UTC().Format(time.DateOnly); t.day != day {
		t.day, t.warned = day, map[string]struct{}{}
	}
	if _, said := t.warned[f.who.Key+what]; said || len(t.warned) >= maxRemembered {
		return
	}
	t.warned[f.who.Key+what] = struct{}{}
	f.v.cfg.Log.Warn("a key is near its daily ceiling", "key", f.who.Key, "what", what, "used", used, "limit", limit)
}

// admit asks for a change without content of its own: the key's ceiling, then the account. v.mu is held.
func (f *FS) admit(files int64, reserve bool) error {
	if err := f.mayRecord(0); err != nil {
		return err
	}
	return f.v.admit(files, reserve)
}

// mayRecord asks the key's ceiling for a record, and for bytes that no upload holds. v.mu is held: records are
// written one after the other.
func (f *FS) mayRecord(bytes int64) error {
	if f.who.Daily == (Ceiling{}) {
		return nil
	}
	records := int64(1)
	if !f.introduced {
		records++
	}
	f.v.todayMu.Lock()
	defer f.v.todayMu.Unlock()
	return f.withinCeiling(bytes, records)
}

// hold reserves, of its key's ceiling, what a content of size bytes is charged. u.mu is held, or nobody else has u.
func (u *Upload) hold(size int64) error {
	if u.f.who.Daily.Bytes == 0 || u.locks {
		return nil
	}
	u.v.todayMu.Lock()
	defer u.v.todayMu.Unlock()
	need := journal.Charge(size) - u.held
	if need <= 0 {
		return nil
	}
	if err := u.f.withinCeiling(need, 0); err != nil {
		return err
	}
	u.v.today.add(u, need)
	return nil
}

// keepHeld is hold for what is there already: an earlier process's uploads.
func (v *Vault) keepHeld(u *Upload) {
	v.todayMu.Lock()
	defer v.todayMu.Unlock()
	v.today.add(u, journal.Charge(u.size)-u.held)
}

// letGo gives back what u holds: it is in the journal now, or it is gone.
func (v *Vault) letGo(u *Upload) {
	v.todayMu.Lock()
	defer v.todayMu.Unlock()
	v.today.add(u, -u.held)
}

// handOn lets next hold what u does.
func (v *Vault) handOn(u, next *Upload) {
	v.todayMu.Lock()
	defer v.todayMu.Unlock()
	u.held, next.held = 0, next.held+u.held
}

func (t *today) add(u *Upload, n int64) {
	if n == 0 {
		return
	}
	u.held += n
	if t.held == nil {
		t.held = map[string]int64{}
	}
	if t.held[u.key] += n; t.held[u.key] == 0 {
		delete(t.held, u.key)
	}
}
