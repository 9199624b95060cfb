package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"vaultd/internal/tenant"
)

// expireOutcome is how a tenant's last expire ended, for whoever asks how things are. The expire process writes it beside its state,
// where the server neither reads nor writes: `vaultd status` reads it itself.
type expireOutcome struct {
	Ran    time.Time `json:"ran"`
	Freed  int       `json:"freed"`
	Error  string    `json:"error,omitempty"`  // why nothing more is freed
	Paused string    `json:"paused,omitempty"` // by whom, and why

	Strange string `json:"strange,omitempty"` // what is on ZFS that nobody knows
}

const outcomeName = "outcome.json"

// note leaves how a run ended. One that can not be left is no reason to free less.
func (x *expirer) note(t tenant.Tenant, r expireReply, runErr error) {
	out := expireOutcome{Ran: time.Now().UTC(), Freed: r.Contents}
	if runErr != nil {
		out.Error = runErr.Error()
	}
	if r.Refused > 0 {
		out.Error = fmt.Sprintf("%d contents stay because disk and journal disagree", r.Refused)
	}
	if n := len(r.Strange); n > 0 {
		out.Strange = fmt.Sprintf("%d snapshots on ZFS look like vaultd's and are none that the journal knows, so they stay: %s", n, r.Strange[0])
	}
	if r.Paused != nil {
		out.Paused = r.Paused.Who + ": " + r.Paused.Reason
	}
	dir := x.a.expireOf(t)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return // a tenant without a dataset
	}
	b, err := json.Marshal(out)
	if err == nil {
		path := filepath.Join(dir, outcomeName)
		if err = os.WriteFile(path+".new", b, 0o640); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		x.log.Warn("note how expire ended", "tenant", t.Name, "error", err.Error())
	}
}

// expireOutcomes adds to a status how each tenant's last expire ended.
func (a *app) expireOutcomes(s *statusReply) error {
	list, err := os.ReadDir(filepath.Join(a.dir, expireDir))
	if errors.Is(err, fs.ErrPermission) { // one who may only ask the server
		for i := range s.Tenants {
			s.Tenants[i].Expire = &expireOutcome{Error: err.Error()}
		}
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have := make(map[string]bool, len(list))
	for _, d := range list {
		have[d.Name()] = true
	}
	for i := range s.Tenants {
		t := &s.Tenants[i]
		if !have[t.ID] {
			continue
		}
		b, err := os.ReadFile(filepath.Join(a.dir, expireDir, t.ID, outcomeName))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var out expireOutcome
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			out.Error = err.Error()
		}
		t.Expire = &out
	}
	return nil
}
