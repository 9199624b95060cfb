// Package inventory is the one value that everything which shows a store reads: vaultd status, metrics, and whatever comes later.
//
// It is kept current by events (a session ended, a vault was opened or closed, a snapshot was taken, a verification came on, the catalog changed),
// never by walking trees or opening vaults. What a closed vault knows, the Facts, is persisted in state.db, so that a server that starts again
// knows it without opening anything.
//
// A reader gets a value of its own by Cache.Read, and may keep it.
package inventory

import (
	"time"

	"vaultd/internal/expect"
	"vaultd/internal/pool"
	"vaultd/internal/push"
)

// Inventory is the store at one instant.
type Inventory struct {
	Time    time.Time    `json:"time"`
	Tenants []Tenant     `json:"tenants"`        // those that are not removed, sorted by name
	Pool    *pool.Report `json:"pool,omitempty"` // nil: the store is not on ZFS, or no server runs
}

// Tenant is one of them.
type Tenant struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Created   time.Time `json:"created"`
	Suspended bool      `json:"suspended"`
	Removing  time.Time `json:"removing,omitzero"` // when it will be removed
	Quota     Quota     `json:"quota"`

	MaxAge   time.Duration    `json:"max_age_ns"`         // a restorable push is expected so often; 0: whenever
	Verdict  expect.Verdict   `json:"verdict"`            // the worst of what follows
	Verdicts []expect.Verdict `json:"verdicts,omitempty"` // one for each expectation
	Forecast time.Time        `json:"full_on,omitzero"`   // the day on which it is full, as things go; zero: not known, or never

	// Interval is the longest time between two snapshots that the schedule allows; 0: there is no schedule.
	Interval time.Duration `json:"snapshot_interval_ns"`

	Facts
}

// Quota is what a tenant may use; 0: unlimited.
type Quota struct {
	Bytes int64 `json:"bytes"`
	Files int64 `json:"files"`
	// SoftBytes is where its operator wants to be told; 0: none.
	SoftBytes int64 `json:"soft_bytes,omitempty"`
	// Refused is from when on nothing more is taken above SoftBytes, while the tenant is; Lapsed that it has come.
	Refused time.Time `json:"soft_refused,omitzero"`
	Lapsed  bool      `json:"soft_lapsed,omitempty"`
}

// Facts are what is known of a tenant beside the catalog. They are persisted.
type Facts struct {
	Pushes    Pushes    `json:"pushes"`
	Usage     Usage     `json:"usage"`
	Snapshots Snapshots `json:"snapshots"`
	Denied    Denied    `json:"denied"`
	Verify    Verify    `json:"verify"`
	ReadOnly  string    `json:"read_only,omitempty"` // why nothing more is taken; a storage failure
}

// Pushes sums up a tenant's push events.
type Pushes struct {
	First   uint64                 `json:"first"` // numbers of the events that are kept: First to Last
	Last    uint64                 `json:"last"`
	Count   map[push.Result]uint64 `json:"count,omitempty"` // all that ever were
	Bytes   int64                  `json:"bytes"`           // that came new, ever
	Files   int64                  `json:"files"`
	Attempt *push.Event            `json:"attempt,omitempty"` // the newest
	Success *push.Event            `json:"success,omitempty"` // the newest that left a restorable state

	expect.Seen                        // of the tenant as a whole
	Under       map[string]expect.Seen `json:"under,omitempty"` // of directories with an expectation of their own
}

// Usage is what the tenant is charged.
type Usage struct {
	Time     time.Time `json:"time,omitzero"` // as of; zero: nobody has come yet
	Live     int64     `json:"live_bytes"`
	Versions int64     `json:"versions_bytes"`
	Staging  int64     `json:"staging_bytes"`
	Journal  int64     `json:"journal_bytes"`
	Snapshot int64     `json:"snapshots_bytes"` // on ZFS
	Files    int64     `json:"files"`
}

// Used is what counts against the quota.
func (u Usage) Used() int64 { return u.Live + u.Versions + u.Staging + u.Journal }

// Snapshots are a tenant's.
type Snapshots struct {
	Count  int64     `json:"count"`
	Newest time.Time `json:"newest,omitzero"`
	Oldest time.Time `json:"oldest,omitzero"`
	// Unnamed says that something changed since the newest. Where it did not, that shows the present, however old it is.
	Unnamed bool `json:"unnamed"`
}

// Denied are requests that were refused, of all sessions.
type Denied struct {
	Total map[string]int64 `json:"total,omitempty"` // by operation, ever
	Last  time.Time        `json:"last,omitzero"`
	Hours [24]int64        `json:"hours"` // by hour of the day; those older than a day are not cleared before they are used again
	Hour  int64            `json:"hour"`  // hours since 1970, of the newest in Hours
}

// Verify is how far the reading again of contents has come.
type Verify struct {
	LastEnded time.Time `json:"last_ended,omitzero"`
	Wrong     int64     `json:"wrong"`    // of the last whole round and the present one
	Contents  int64     `json:"contents"` // of the present round
	Bytes     int64     `json:"bytes"`
	Running   bool      `json:"running"` // a round is under way
}
