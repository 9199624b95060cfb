package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"

	"vaultd/internal/tenant"
)

// PolicyCopy is what travels in a dataset of what the catalog says of its tenant, for whoever adopts it when the catalog is lost. The server
// writes it, and it is never read back by this store: what is in it is the word of whoever wrote there last.
type PolicyCopy struct {
	tenant.Tenant
	Keys []tenant.Key `json:"keys,omitempty"` // revoked ones, too
	CAs  []tenant.CA  `json:"cas,omitempty"`
}

// writePolicyCopy writes it, where it is not as it should be.
func (s *Store) writePolicyCopy(path string, t tenant.Tenant) {
	now := s.Tenants()
	b, err := json.MarshalIndent(PolicyCopy{t, now.Keys(t.ID), now.CAs(t.ID)}, "", "  ")
	if err == nil {
		b = append(b, '\n')
		if old, rerr := os.ReadFile(path); rerr == nil && bytes.Equal(old, b) {
			return
		}
		err = writeFile(path, b)
	}
	if err != nil {
		s.cfg.Log.Warn("copy policy into the dataset", "tenant", t.Name, "error", err.Error())
	}
}

// maxPolicyCopy bounds what is read of one: 10,000 keys are 5 MB.
const maxPolicyCopy = 16 << 20

// ReadPolicyCopy reads one; without a file it is fs.ErrNotExist.
func ReadPolicyCopy(path string) (PolicyCopy, error) {
	var c PolicyCopy
	f, err := os.Open(path)
	if err != nil {
		return c, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return c, &fs.PathError{Op: "read", Path: path, Err: fs.ErrInvalid}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxPolicyCopy))
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}
