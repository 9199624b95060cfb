package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"vaultd/internal/snapshot"
	"vaultd/internal/zfs"
)

// Verbs are what can be asked for. id is a tenant's.
type Verbs interface {
	// Create makes a tenant's dataset, empty, mounted, the server's own, with a refquota (0: none). One that is there is fs.ErrExist.
	Create(ctx context.Context, id string, refquota uint64) error
	// Raise lets a refquota grow (0: without a bound). What is as much or more already is no error; less is ErrLower.
	Raise(ctx context.Context, id string, refquota uint64) error
	// Take makes the bodies of a batch in one transaction, holds them and reads them back. Where the transaction took longer than
	// within, ErrLate: the bodies are there, but names may have moved on; they are not held, and nothing must rest on them. A tenant whose
	// dataset is not there, or that has a body of this name, is left out of the others'; it is an error when nothing is left.
	Take(ctx context.Context, batch []snapshot.Instant, within time.Duration) ([]snapshot.Body, error)
	// Bodies are those of a tenant, oldest first, from a cache that is a minute old at most.
	Bodies(ctx context.Context, id string) ([]snapshot.Body, error)
	// Datasets are the tenants' datasets, mounted or not.
	Datasets(ctx context.Context) ([]Dataset, error)
	// Pool is the pool as it is now.
	Pool(ctx context.Context) (*zfs.Pool, error)
	// Load names this import of the pool (zfs.Client.LoadGUID).
	Load(ctx context.Context) (uint64, error)
	// Top is the pool's own dataset: what the pool can hold.
	Top(ctx context.Context) (*zfs.Dataset, error)
	// Scrub starts a scrub of the pool; while one runs, zfs.ErrBusy.
	Scrub(ctx context.Context) error
}

// Leaver is what the expire process can ask for, besides root.
type Leaver interface {
	// Unmount unmounts the dataset of a tenant whose removal is due by the catalog, that is found empty while nobody can write to it, and that has no
	// snapshot (ErrKept, zfs.ErrDependent, zfs.ErrBusy). It destroys nothing. One that is not there is fs.ErrNotExist.
	Unmount(ctx context.Context, id string) error
	// Forget removes the file of the key of a dataset that is destroyed: of a tenant whose removal is due by the catalog, that has no dataset and waits for
	// none (ErrKept). One that is not there is no error.
	Forget(ctx context.Context, id string) error
}

// Dataset is a tenant's dataset. Sizes are bytes.
type Dataset struct {
	ID              string `json:"id"`
	GUID            uint64 `json:"guid"`
	Mounted         bool   `json:"mounted"`
	Locked          bool   `json:"locked,omitempty"` // encrypted, and its key is not loaded
	Encryption      string `json:"encryption"`
	RefQuota        uint64 `json:"refquota"` // 0: none
	Referenced      uint64 `json:"referenced"`
	UsedBySnapshots uint64 `json:"usedbysnapshots"`
	LogicalUsed     uint64 `json:"logicalused"`
	Available       uint64 `json:"available"`
}

// What is refused.
var (
	ErrInvalid  = errors.New("zfs helper: refused: not valid")                                                 // a name, an id, a number
	ErrRate     = errors.New("zfs helper: refused: too many in too short a time")                              // try later
	ErrLower    = errors.New("zfs helper: refused: a quota is lowered by the operator, with zfs set")          //
	ErrLate     = errors.New("zfs helper: the snapshot took too long")                                         // see Verbs.Take
	ErrAbsent   = errors.New("zfs helper: the root dataset is not mounted where the tenants' datasets belong") // its pool is gone, or not imported
	ErrKept     = errors.New("zfs helper: refused: the tenant is not removed, or something is left of it")     // see Leaver
	ErrReadBack = errors.New("zfs helper: a snapshot is not what was taken")
)

var (
	idShape   = regexp.MustCompile(`^t-[a-z2-7]{12}$`)
	nameShape = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
	headShape = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func checkID(id string) error {
	if !idShape.MatchString(id) {
		return fmt.Errorf("%w: %.32q is no tenant's id", ErrInvalid, id)
	}
	return nil
}

// maxBatch is how many bodies one call can ask for; the wire and argv(7) end a little later.
const maxBatch = 2048

func checkBatch(batch []snapshot.Instant) error {
	if len(batch) == 0 || len(batch) > maxBatch {
		return fmt.Errorf("%w: a batch of %d, from 1 to %d are possible", ErrInvalid, len(batch), maxBatch)
	}
	seen := map[string]bool{}
	for _, i := range batch {
		if err := checkID(i.Tenant); err != nil {
			return err
		}
		switch {
		case seen[i.Tenant]:
			return fmt.Errorf("%w: %s twice in a batch", ErrInvalid, i.Tenant)
		case !nameShape.MatchString(i.Name):
			return fmt.Errorf("%w: %.32q is no snapshot's name", ErrInvalid, i.Name)
		case i.Seq == 0 || !headShape.MatchString(i.Head):
			return fmt.Errorf("%w: record %d, %.64q of %s is none", ErrInvalid, i.Seq, i.Head, i.Tenant)
		}
		seen[i.Tenant] = true
	}
	return nil
}

// kinds are the errors that a caller tells apart, by their names on the wire.
var kinds = map[string]error{"invalid": ErrInvalid, "rate": ErrRate, "lower": ErrLower, "late": ErrLate, "absent": ErrAbsent, "readback": ErrReadBack, "kept": ErrKept, "dependent": zfs.ErrDependent, "pool": zfs.ErrPool,
	"exist": fs.ErrExist, "notexist": fs.ErrNotExist, "permission": fs.ErrPermission, "timeout": zfs.ErrTimeout, "suspended": zfs.ErrSuspended, "key": zfs.ErrKey,
	"nospace": zfs.ErrNoSpace, "quota": zfs.ErrQuota, "busy": zfs.ErrBusy, "notzfs": zfs.ErrNotZFS}

// kindOf is an error's name on the wire, or "". The order does not matter: only one can be right, but for suspended pools.
func kindOf(err error) string {
	if errors.Is(err, zfs.ErrSuspended) {
		return "suspended"
	}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			return name
		}
	}
	return ""
}
