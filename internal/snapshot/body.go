package snapshot

import (
	"strings"
	"time"
)

// A scheduled or manual snapshot on ZFS has two records of one instant: the tenant's journal's, and a ZFS snapshot of its dataset, its body. These are
// the words by which who makes bodies (the helper), who frees them (expire) and who reads them (views) know them.
const (
	BodyPrefix = "vaultd-" // before the snapshot's name, so that an operator's own snapshots are never taken for ours

	HoldTag  = "vaultd"       // the hold that each body has from its first instant
	LegalTag = "vaultd-legal" // beside it, while the operator holds the snapshot

	PropertySeq  = "vaultd:seq"  // the record's number, which is the instant
	PropertyHead = "vaultd:head" // that record's hash in the chain, in hex
)

// BodyName is what the body of the snapshot of this name is called, behind the dataset's @.
func BodyName(name string) string { return BodyPrefix + name }

// OfBody is the snapshot's name, of its body's; ok is false for what is none of ours.
func OfBody(body string) (name string, ok bool) {
	name, ok = strings.CutPrefix(body, BodyPrefix)
	return name, ok && name != ""
}

// Instant is a snapshot's record in a tenant's journal, while the tenant's names stand still for the body.
type Instant struct {
	Tenant string `json:"tenant"` // its id
	Name   string `json:"name"`   // the snapshot's
	Seq    uint64 `json:"seq"`    // the record's number
	Head   string `json:"head"`   // its hash in the chain, in hex
}

// Body is what was read back of a body after it was taken and held.
type Body struct {
	Instant
	GUID      uint64    `json:"guid"`      // the same in every copy that was sent
	CreateTXG uint64    `json:"createtxg"` // the pool's transaction: the same for all of a batch
	Created   time.Time `json:"created"`
}
