package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// policyRecords lists what a tenant's chain says the operator did.
func policyRecords(t *testing.T, s *store.Store, id string) (whats []string) {
	t.Helper()
	ok(t, s.ReadVolume(t.Context(), id, func(v *volume.Volume) error {
		_, _, err := journal.NewReader(v).All(func(r *journal.Record, _ []byte) error {
			if r.Op == journal.OpPolicy {
				if r.Key != "operator" || !strings.Contains(r.Note, `"who":`) {
					t.Errorf("record %+v", r)
				}
				whats = append(whats, r.What)
			}
			return nil
		})
		return err
	}))
	return whats
}

// Everything that the operator does to a tenant comes into its chain once, also what takes effect by itself.
func TestAnnounce(t *testing.T) {
	c := &clock{now: time.Now()}
	s := testStore(t, store.Config{Now: c.Now}, "acme", "bolt")
	acme, bolt := find(t, s, "acme"), find(t, s, "bolt")
	ok(t, push(t, s, acme.ID, s.Tenants().Keys(acme.ID)[0].ID, "a", "a"))
	ok(t, s.Announce(t.Context()))
	begin := policyRecords(t, s, acme.ID)
	again := func(want ...string) {
		t.Helper()
		for range 2 {
			ok(t, s.Reload())
			ok(t, s.Announce(t.Context()))
		}
		if got := policyRecords(t, s, acme.ID); !slices.Equal(got, append(slices.Clone(begin), want...)) {
			t.Fatalf("the chain has %q, want %q", got, want)
		}
	}
	again()
	if _, err := s.Dataset(bolt.ID); !os.IsNotExist(err) {
		t.Errorf("a dataset was made to announce something: %v", err)
	}
	db := tenant.New(s.Dir, tenant.Options{Actor: "olga"})
	small := int64(1 << 20)
	_, err := db.ChangeTenant("acme", tenant.Change{QuotaBytes: &small})
	ok(t, err)
	again("tenant set")
	versioned := appendonly.Versioned
	_, err = db.Weaken("acme", tenant.Change{Mode: &versioned}, time.Nanosecond)
	ok(t, err)
	// The catalog goes by the system's clock: it has come by the time it is read.
	again("tenant set", "tenant set", "tenant set in force")
	// The next change stores it and has a line about it, which is not announced s.
	small++
	_, err = db.ChangeTenant("acme", tenant.Change{QuotaBytes: &small})
	ok(t, err)
	again("tenant set", "tenant set", "tenant set in force", "tenant set")
	_, err = db.Remove("acme", time.Nanosecond)
	ok(t, err)
	c.add(max(0, time.Since(c.Now()))) // the server's goes by this one, which a busy machine leaves behind
	again("tenant set", "tenant set", "tenant set in force", "tenant set", "tenant remove", "tenant remove in force")

	// A file that is damaged, or lost, repeats records and loses none.
	before := len(policyRecords(t, s, acme.ID))
	ok(t, os.WriteFile(filepath.Join(store.ServerDir(s.Dir), "announced.json"), []byte("{"), 0o600))
	ok(t, s.Announce(context.Background()))
	if got := len(policyRecords(t, s, acme.ID)); got <= before {
		t.Errorf("%d records after %d", got, before)
	}
}

// A removed tenant is cleared through the core: names, directories and what its keys left unsealed.
func TestClear(t *testing.T) {
	s := testStore(t, store.Config{}, "acme")
	x := find(t, s, "acme")
	key := s.Tenants().Keys(x.ID)[0].ID
	ok(t, push(t, s, x.ID, key, "a", "a"))
	ok(t, push(t, s, x.ID, key, "b.partial", "fresh"))
	ok(t, s.With(t.Context(), x.ID, func(v *appendonly.Vault) error {
		f := v.Session(appendonly.Who{Key: key})
		return errors.Join(f.Mkdir("d", appendonly.Meta{}), f.Mkdir("d/e", appendonly.Meta{}), f.Close(context.Background()))
	}))
	_, err := tenant.New(s.Dir, tenant.Options{}).Remove("acme", time.Nanosecond)
	ok(t, err)
	ok(t, s.Reload())
	n, err := s.Clear(t.Context(), x.ID, "gone")
	if err != nil || n != 4 {
		t.Errorf("%d names, %v", n, err)
	}
	if n, err := s.Clear(t.Context(), x.ID, "gone"); err != nil || n != 0 {
		t.Errorf("again: %d names, %v", n, err)
	}
	ok(t, s.Release(x.ID))
	dir, err := s.Dataset(x.ID)
	ok(t, err)
	contents, _ := filepath.Glob(filepath.Join(dir, "store", "*", "*"))
	live, _ := os.ReadDir(filepath.Join(dir, "files"))
	if len(contents) != 2 || len(live) != 0 {
		t.Errorf("%d contents and %d names; what was closed must have stayed", len(contents), len(live))
	}
}

// A tenant whose chain can not be written is tried again, and keeps no other waiting.
func TestAnnounceLater(t *testing.T) {
	s := testStore(t, store.Config{}, "acme", "bolt")
	acme, bolt := find(t, s, "acme"), find(t, s, "bolt")
	for _, x := range []tenant.Tenant{acme, bolt} {
		ok(t, push(t, s, x.ID, s.Tenants().Keys(x.ID)[0].ID, "a", "a"))
	}
	ok(t, s.Announce(t.Context()))
	before, other := len(policyRecords(t, s, acme.ID)), len(policyRecords(t, s, bolt.ID))
	dir, err := s.Dataset(acme.ID)
	ok(t, err)
	ok(t, s.CloseUnused(acme.ID))
	ok(t, os.Rename(dir, dir+".away"))
	ok(t, os.WriteFile(dir, nil, 0o600)) // something is there, and no dataset
	small := int64(1 << 20)
	for _, name := range []string{"acme", "bolt", "acme"} {
		small++
		_, err := s.Catalog.ChangeTenant(name, tenant.Change{QuotaBytes: &small})
		ok(t, err)
	}
	for range 3 {
		ok(t, s.Reload())
		ok(t, s.Announce(t.Context()))
	}
	if got := len(policyRecords(t, s, bolt.ID)); got != other+1 {
		t.Errorf("the other tenant: %d records after %d", got, other)
	}
	ok(t, os.Remove(dir))
	ok(t, os.Rename(dir+".away", dir))
	for range 3 {
		ok(t, s.Announce(t.Context()))
	}
	if got := len(policyRecords(t, s, acme.ID)); got != before+2 {
		t.Errorf("%d records after %d", got, before)
	}
}
