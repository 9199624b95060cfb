package tenant

import (
	"net/netip"
	"time"

	"vaultd/internal/appendonly"
)

// Reader is what the server needs of the catalog.
type Reader interface {
	// Snapshot copies everything as of the last completed change. It holds no lock after it returned.
	Snapshot() (*Snapshot, error)
}

// Catalog is what the operator's commands need. Every change is one transaction together with its audit
// line: at return it is on stable storage and in the next Snapshot, and after an error nothing was
// changed. Errors: ErrInvalid, ErrNotFound, ErrConflict, ErrBusy, ErrFormat, *WeakeningError, or a
// fault of the storage. No verb takes a tenant, a key or an audit line out of the catalog: of a removed tenant its entry stays.
type Catalog interface {
	Reader
	// AddTenant makes a tenant with its first keys: all of it or nothing.
	AddTenant(NewTenant) (Tenant, []Key, error)
	// ChangeTenant makes a change, or refuses it whole with *WeakeningError. A change that changes nothing
	// is no error and leaves no audit line.
	ChangeTenant(name string, c Change) (Tenant, error)
	// Weaken stores a change that promises less for later: it takes effect once d has passed, unless it is vetoed before. One
	// that promises no less is made at once. A second one is ErrConflict.
	Weaken(name string, c Change, d time.Duration) (Tenant, error)
	// Veto takes back everything that waits: a stored change, a retention that keeps less, a removal; ErrNotFound when nothing does.
	Veto(name string) (Tenant, error)
	// Remove asks for a tenant's end: once d has passed, unless it is vetoed before, its keys are refused and retention lets go of
	// what it has. ErrConflict when that was asked already.
	Remove(name string, d time.Duration) (Tenant, error)
	// Hold keeps a snapshot, for a reason, whatever the schedule says. Release ends that; reason "" ends all of the snapshot's.
	Hold(name string, h Hold) error
	Release(name, snapshot, reason string) error
	// Pause stops expire for a tenant, for a reason, until Resume. ErrConflict when it is, or is not, paused already.
	Pause(name, reason string) error
	Resume(name string) error
	// AddKeys gives a tenant further keys, all or none. A key that any tenant has, or ever had, is ErrConflict.
	AddKeys(tenant string, keys ...NewKey) ([]Key, error)
	// AddCAs gives a tenant further CAs, all or none. One that it has, or ever had, is ErrConflict.
	AddCAs(tenant string, cas ...NewCA) ([]CA, error)
	// Import is AddKeys and AddCAs in one change.
	Import(tenant string, keys []NewKey, cas []NewCA) ([]Key, []CA, error)
	// RevokeCA refuses certificates of a CA from now on and for ever: those named, or all of them.
	RevokeCA(tenant, ref string, only Certs) (CA, error)
	// RevokeKey refuses a key from now on and for ever. ref is its ID or fingerprint. Revoking twice is no error. Of a tenant
	// that has a CA the key may be one that only ever came with a certificate.
	RevokeKey(tenant, ref string) (Key, error)
}

// NewTenant is what an operator says of a new tenant. Start from DefaultPolicy and DefaultSchedule.
type NewTenant struct {
	Name      string
	Policy    Policy
	Quota     Quota
	Schedule  Schedule
	Retention Retention
	Keys      []NewKey
	// ID is that of a dataset that was made ahead, or that is adopted; one that any tenant has, or ever had, is ErrConflict. "" draws one.
	ID string
	// Over is the id of a removed tenant of this name of which nothing is left: the name goes to the new one, the entry stays.
	Over string
}

// NewKey is what an operator says of a new key.
type NewKey struct {
	Public  PublicKey // from ParsePublicKeys
	Role    appendonly.Role
	From    []netip.Prefix // from ParseFrom
	Expires time.Time      // zero is never
	Path    string         // the key's root; "" is the tenant's
	Daily   Ceiling        // what it may add in a day
	Comment string         // "" takes Public's
	NoTouch bool           // a security key's signature does without a touch
	Verify  bool           // a security key's signature needs a PIN or the like
}

// Entry is a line of the audit log: who changed what, when.
type Entry struct {
	Seq    uint64    `json:"seq"` // from 1, without gaps
	Time   time.Time `json:"time"`
	Who    string    `json:"who"`           // OS user
	Why    string    `json:"why,omitempty"` // as the operator worded it
	What   string    `json:"what"`          // such as tenant add, tenant set, key revoke, snapshot hold
	Tenant string    `json:"tenant,omitempty"`
	ID     string    `json:"id,omitempty"`  // the tenant's: a name can have a second life
	Key    string    `json:"key,omitempty"` // the key's ID
	Detail string    `json:"detail,omitempty"`
	Due    time.Time `json:"due,omitzero"` // when it takes effect, where that is later
}
