package tests

import (
	"encoding/json"
	"testing"
)

// usage is what recount says of a tenant.
type usage struct {
	Live     int64  `json:"live_bytes"`
	Versions int64  `json:"versions_bytes"`
	Staging  int64  `json:"staging_bytes"`
	Journal  int64  `json:"journal_bytes"`
	Files    int64  `json:"files"`
	ReadOnly string `json:"read_only"`
}

// audit holds the store against itself: the journals verify, and the accounts are what a recount finds.
func (v *vault) audit(t testing.TB) {
	t.Helper()
	if out, err := v.vaultd("journal", "verify"); err != nil {
		t.Errorf("the journal does not verify: %v\n%s", err, out)
	}
	out, err := v.vaultd("quota", "recount", "--json")
	if err != nil {
		t.Errorf("recount: %v\n%s", err, out)
		return
	}
	var reply struct {
		Data map[string]struct{ Before, After usage }
	}
	must(t, json.Unmarshal([]byte(out), &reply))
	if len(reply.Data) < 2 {
		t.Errorf("recount counted %d tenants", len(reply.Data))
	}
	for name, r := range reply.Data {
		if r.Before != r.After {
			t.Errorf("%s is charged %+v, and a recount finds %+v", name, r.Before, r.After)
		}
		if r.After.ReadOnly != "" {
			t.Errorf("%s takes nothing any more: %s", name, r.After.ReadOnly)
		}
	}
}
