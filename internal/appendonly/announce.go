package appendonly

import (
	"context"

	"vaultd/internal/journal"
)

// Announce writes into the tenant's own chain what the operator did to the tenant: its policy, its keys, its end. what is a word or
// two, note says who, when, why and from when on. It changes nothing else, and is stable at return.
func (v *Vault) Announce(ctx context.Context, what, note string) error {
	v.lockNames()
	err := v.commit(&journal.Record{Op: journal.OpPolicy, What: what, Note: note, Key: operatorKey}, journal.Loc{}, journal.Loc{})
	v.mu.Unlock()
	if err != nil {
		return err
	}
	return v.Barrier(ctx)
}
