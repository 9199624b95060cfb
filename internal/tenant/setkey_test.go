package tenant_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// A key is changed as far as is said, cleaned and checked as a new one; a revoked one stays what it was.
func TestSetKey(t *testing.T) {
	db, _ := newDB(t)
	_, keys, err := db.AddTenant(plain("acme", newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	id := keys[0].ID
	k, err := db.SetKey("acme", keys[0].Fingerprint, tenant.KeyChange{Path: ptr("/srv/web/"), DailyBytes: ptr(int64(5)), Role: ptr(appendonly.Push)})
	if err != nil || k.Path != "srv/web" || k.Daily != (tenant.Ceiling{Bytes: 5}) || k.Role != appendonly.Push || k.Comment != keys[0].Comment {
		t.Fatalf("%+v, %v", k, err)
	}
	k, err = db.SetKey("acme", id, tenant.KeyChange{DailyRecords: ptr(int64(7)), Expires: ptr(epoch.Add(time.Hour)), Comment: ptr("c")})
	if err != nil || k.Path != "srv/web" || k.Daily != (tenant.Ceiling{Bytes: 5, Records: 7}) || k.Comment != "c" {
		t.Fatalf("%+v, %v", k, err)
	}
	if got, _ := snapshot(t, db).Key(id); got.Daily != k.Daily || got.Path != k.Path {
		t.Errorf("the catalog has %+v", got)
	}
	for name, c := range map[string]tenant.KeyChange{
		"up": {Path: ptr("../x")}, "the past": {Path: ptr(".vault/at")}, "NUL": {Path: ptr("a\x00b")},
		"bytes": {DailyBytes: ptr(int64(-1))}, "records": {DailyRecords: ptr(int64(-1))}, "role": {Role: ptr(appendonly.Role(9))},
	} {
		if _, err := db.SetKey("acme", id, c); !errors.Is(err, tenant.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := db.SetKey("acme", "nobody", tenant.KeyChange{}); !errors.Is(err, tenant.ErrNotFound) {
		t.Error(err)
	}
	if _, err := db.RevokeKey("acme", id); err != nil {
		t.Fatal(err)
	}
	if _, err := db.SetKey("acme", id, tenant.KeyChange{Path: ptr("")}); !errors.Is(err, tenant.ErrConflict) {
		t.Error(err)
	}
	var said []string
	if err := db.Audit(0, func(e tenant.Entry) bool { said = append(said, e.What+" "+e.Detail); return true }); err != nil {
		t.Fatal(err)
	}
	if all := strings.Join(said, "\n"); strings.Count(all, "key set ") != 2 || !strings.Contains(all, `path: "/srv/web"; daily: 5 bytes, 7 records`) {
		t.Error(all)
	}
}
