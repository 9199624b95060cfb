package main

import (
	"regexp"
	"strings"
	"testing"

	"vaultd/internal/inventory"
	"vaultd/internal/tenant"
)

// What only snapshots hold is shown beside what is used, and where there is none, nothing is.
func TestShowHeld(t *testing.T) {
	for held, want := range map[int64][2]string{0: {"-", ""}, 3 << 30: {"+3.0 GiB", "held        3.0 GiB by snapshots alone, beside what is used (vaultd space)\n"}} {
		if got := heldText(held); got != want[0] {
			t.Errorf("%d: %q", held, got)
		}
		var out strings.Builder
		showTenant(&out, tenantReply{Tenant: tenant.Tenant{Name: "acme"}, Usage: &usageReply{}, Standing: &inventory.Tenant{Facts: inventory.Facts{Usage: inventory.Usage{Snapshot: held}}}})
		if got := regexp.MustCompile(`(?m)^held .*\n`).FindString(out.String()); got != want[1] {
			t.Errorf("%d: %q", held, got)
		}
	}
}
