package main

import (
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
)

// allowedAge is how old a tenant's last restorable push may be (or the tenant itself, before there was one) until vaultd status calls it late: its
// expectation's age, and what the window and the day on which it was set add to that. Alerts go by it, so that they agree with status. What is expected of
// directories is not in it, for the tenant's last push says nothing of those. 0: no limit.
func allowedAge(t *inventory.Tenant) time.Duration {
	last := t.Created
	if p := t.Pushes.Success; p != nil {
		last = p.Time
	}
	for _, v := range t.Verdicts {
		due := v.Due
		switch {
		case v.Path != "" || v.State == expect.Full || v.State == expect.FullSoon:
			continue
		case due.IsZero() && (v.State == expect.Late || v.State == expect.Never):
			due = v.Since
		}
		if !due.IsZero() {
			return max(due.Sub(last), 0)
		}
	}
	return t.MaxAge
}
