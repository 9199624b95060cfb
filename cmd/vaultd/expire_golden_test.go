package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
	"testing"

	"vaultd/internal/tenant"
)

// What expire --dry-run --list says when something goes, as text and as JSON, and what it says when it went.
func TestExpireOutput(t *testing.T) {
	e := newEnded(t, true)
	none := &tenant.Keep{}
	_, err := e.a.catalog().ChangeTenant("acme", tenant.Change{Keep: &none})
	must(t, err)
	must(t, e.a.local(func(o *operations) error {
		_, err := o.retire(context.Background(), retireRequest{Tenant: "acme", Paths: [][]byte{[]byte("d")}, Below: true, Why: "x"})
		if err == nil { // the newest one stays, whatever the schedule says
			_, err = o.takeSnapshot(context.Background(), snapshotRequest{Tenant: "acme", Name: "last"})
		}
		return err
	}))
	e.run()
	e.machine.up += 40 * testDay
	said := func(dry, list, asJSON bool) string {
		t.Helper()
		e.out.Reset()
		e.a.dryRun, e.a.json = dry, asJSON
		defer func() { e.a.dryRun, e.a.json = false, false }()
		x, err := e.a.openExpirer(context.Background(), 7*testDay, slog.New(slog.DiscardHandler))
		must(t, err)
		x.machine = &e.machine
		must(t, e.a.expireOnce(context.Background(), x, []string{"acme"}, list))
		must(t, x.close())
		return regexp.MustCompile(`\d{4}-\d\d-\d\dT[0-9:.-]+Z(-push)?`).ReplaceAllString(e.out.String(), "TIME$1")
	}
	want := `acme: would free 2 contents, 8 B; 2 snapshots lose their names
  snapshot TIME-push of TIME
  snapshot first of TIME
  "/d/b", 3 B, stood from TIME to TIME
  "/d/e/c", 5 B, stood from TIME to TIME
`
	if got := said(true, true, false); got != want {
		t.Errorf("dry run: got\n%s\nwant\n%s", got, want)
	}
	var reply struct {
		Schema string
		Data   []expireReply
	}
	if err := json.Unmarshal([]byte(strings.ReplaceAll(said(true, true, true), "TIME", "2026-01-01T00:00:00Z")), &reply); err != nil || reply.Schema != "vaultd.expire/v1" ||
		len(reply.Data) != 1 || reply.Data[0].Contents != 2 || len(reply.Data[0].Versions) != 2 || reply.Data[0].Versions[1].Path != `"/d/e/c"` {
		t.Errorf("%v: %+v", err, reply)
	}
	if e.contents() != 3 {
		t.Errorf("a dry run left %d contents", e.contents())
	}
	if got, want := said(false, false, false), "acme: freed 2 contents, 8 B; 2 snapshots lose their names\n  snapshot TIME-push of TIME\n  snapshot first of TIME\n"; got != want {
		t.Errorf("run: got\n%s\nwant\n%s", got, want)
	}
	if got, want := said(true, true, false), "acme: would free 0 contents, 0 B; 0 snapshots lose their names\n"; got != want || e.contents() != 1 {
		t.Errorf("afterwards: got\n%s\nwant\n%s", got, want)
	}
}
