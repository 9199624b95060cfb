package main

import (
	"context"
	"sync/atomic"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// facts keeps state.db told of what open vaults look like, so that nobody has to open one to find out. The store is opened before the state,
// under whose lock that is: until then nothing is told.
type facts struct {
	state atomic.Pointer[tenant.State]
	door  atomic.Pointer[access]
	count atomic.Pointer[scraping]
}

// hook has a store tell f.
func (f *facts) hook(c store.Config) store.Config {
	c.Seen, c.Verified = f.seen, f.verified
	c.Read = func(id string, bytes, wrong int64) {
		if s := f.count.Load(); s != nil {
			s.read(id, bytes, wrong)
		}
	}
	c.Snapshotted = func(_, _ string, err error) {
		if s := f.count.Load(); s != nil {
			s.m.Snapshot("create", 1, err)
		}
	}
	c.Embodied = func(_ string, err error) {
		if s := f.count.Load(); s != nil {
			s.m.Snapshot("hold", 1, err)
		}
	}
	return c
}

func (f *facts) seen(id string, v *appendonly.Vault) {
	state := f.state.Load()
	if state == nil {
		return
	}
	u, failed := v.Usage(), ""
	if err := v.Err(); err != nil {
		failed = err.Error()
	}
	snaps, err := v.Snapshots()
	s := inventory.Snapshots{Count: int64(len(snaps)), Unnamed: v.Unnamed()}
	if len(snaps) > 0 {
		s.Oldest, s.Newest = snaps[0].Time.UTC().Round(0), snaps[len(snaps)-1].Time.UTC().Round(0)
	}
	state.Update(id, func(k *inventory.Facts) {
		k.Usage = inventory.Usage{Time: time.Now().UTC().Round(0), Live: u.Live, Versions: u.Versions, Staging: u.Staging, Journal: u.Journal, Files: u.Files,
			Snapshot: k.Usage.Snapshot}
		k.ReadOnly = failed
		if err == nil {
			k.Snapshots = s
		}
	})
}

func (f *facts) verified(id string, v store.Verification) {
	if state := f.state.Load(); state != nil {
		state.Update(id, func(k *inventory.Facts) { k.Verify = verifyFacts(v) })
	}
}

func verifyFacts(v store.Verification) inventory.Verify {
	return inventory.Verify{LastEnded: v.LastEnded, Wrong: max(v.Wrong, v.LastWrong), Contents: v.Contents, Bytes: v.Bytes, Running: len(v.After) > 0}
}

// running are the pushes under way.
func (f *facts) running() map[string]tenant.Running {
	if a := f.door.Load(); a != nil {
		return a.running()
	}
	return nil
}

// settle looks at what an older vaultd did not tell: vaults of which nothing is known, and those that took nothing any more, which may have been
// mended since; and it forgets tenants that are gone. It works beside the server.
func (f *facts) settle(ctx context.Context, st *store.Store) error {
	state := f.state.Load()
	f.forget(st)
	known := state.Facts()
	for _, t := range st.Tenants().Tenants() {
		if ctx.Err() != nil {
			return nil
		}
		if k := known[t.ID]; k.Verify == (inventory.Verify{}) {
			if v := st.VerifyState(t.ID); v.Started != (time.Time{}) || !v.LastEnded.IsZero() {
				f.verified(t.ID, v)
			}
		}
	}
	return st.Look(ctx, func(id string) bool { return !known[id].Usage.Time.IsZero() && known[id].ReadOnly == "" })
}

// expected is what was seen of the directories that still have an expectation.
func expected(under map[string]expect.Seen, rules []expect.Rule) map[string]expect.Seen {
	out := map[string]expect.Seen{}
	for _, r := range rules {
		if s, ok := under[r.Path]; ok {
			out[r.Path] = s
		}
	}
	return out
}

// forget drops what is known of tenants that are not in the catalog any more, or were removed with all that they had.
func (f *facts) forget(st *store.Store) {
	state := f.state.Load()
	for id, k := range state.Facts() {
		t, ok := st.Tenants().TenantByID(id)
		if ok && !t.Removed(time.Now()) {
			if len(k.Pushes.Under) > len(t.Expect) {
				state.Update(id, func(k *inventory.Facts) { k.Pushes.Under = expected(k.Pushes.Under, t.Expect) })
			}
			continue
		}
		if _, err := st.Dataset(id); ok && err == nil {
			continue
		}
		state.Forget(id)
	}
}

// begun is a session whose push may be under way.
type begunSession struct {
	tenant, key, protocol string
	began                 time.Time
	fs                    *appendonly.FS
}

// running are the sessions that changed something so far, as they would be if they were cut off now.
func (a *access) running() map[string]tenant.Running {
	a.mu.Lock()
	open := make(map[string]begunSession, len(a.sessions))
	for id, s := range a.sessions {
		open[id] = s
	}
	a.mu.Unlock()
	out := map[string]tenant.Running{}
	now := time.Now()
	for id, s := range open {
		e := push.Judge(push.Ending{Session: id, Protocol: s.protocol, Key: s.key, Began: s.began, Ended: now, Cut: true}, push.Report{}, s.fs.Counts())
		if e.Push {
			out[id] = tenant.Running{Tenant: s.tenant, Event: e}
		}
	}
	return out
}

// began and over note a session.
func (a *access) began(id string, s begunSession) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sessions[id] = s
}

func (a *access) over(tenantID string, e push.Event) {
	a.state.Session(tenantID, e)
	a.mu.Lock()
	delete(a.sessions, e.Session)
	a.mu.Unlock()
	for _, o := range a.observers {
		o(tenantID, e)
	}
}
