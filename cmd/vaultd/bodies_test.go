package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"

	"vaultd/internal/inventory"
	"vaultd/internal/journal"
	"vaultd/internal/retention"
	"vaultd/internal/snapshot"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// fakeZFS is the snapshots of one dataset.
type fakeZFS struct {
	all     map[string]*retention.Body
	readers map[string]bool
	next    uint64
}

func (z *fakeZFS) add(name, seq, head string, tags ...string) {
	z.next++
	z.all[name] = &retention.Body{Name: name, GUID: 1000 + z.next, CreateTXG: z.next, Used: 4096, Seq: seq, Head: head, Holds: tags}
}

func (z *fakeZFS) names() string { return strings.Join(slices.Sorted(maps.Keys(z.all)), " ") }

func (z *fakeZFS) List(_ context.Context, names ...string) (out []retention.Body, _ error) {
	for _, name := range slices.Sorted(maps.Keys(z.all)) {
		if len(names) == 0 || slices.Contains(names, name) {
			b := *z.all[name]
			b.Refs = len(b.Holds)
			out = append(out, b)
		}
	}
	return out, nil
}

func (z *fakeZFS) Hold(_ context.Context, b retention.Body, tag string) error {
	z.all[b.Name].Holds = append(slices.Clip(z.all[b.Name].Holds), tag)
	return nil
}

func (z *fakeZFS) Release(_ context.Context, b retention.Body, tag string) error {
	z.all[b.Name].Holds = slices.DeleteFunc(slices.Clone(z.all[b.Name].Holds), func(t string) bool { return t == tag })
	return nil
}

func (z *fakeZFS) Destroy(_ context.Context, b retention.Body) error {
	if len(z.all[b.Name].Holds) > 0 || z.readers[b.Name] {
		return retention.ErrInUse
	}
	delete(z.all, b.Name)
	return nil
}

// newBodied is a store with one tenant whose snapshots have bodies.
func newBodied(t *testing.T) (*ended, *fakeZFS) {
	e := newEnded(t, true)
	z := &fakeZFS{all: map[string]*retention.Body{}, readers: map[string]bool{}}
	e.bodies = z
	e.embody(z)
	return e, z
}

// embody gives each of the tenant's snapshots its body.
func (e *ended) embody(z *fakeZFS) {
	e.t.Helper()
	must(e.t, e.a.local(func(*operations) error { return nil })) // closes the segment
	vol, err := volume.Open(e.dataset())
	must(e.t, err)
	defer vol.Close()
	_, err = journal.NewReader(vol).Closed(journal.Head{}, func(r *journal.Record) error {
		if name := snapshot.BodyName(r.Note); r.Op == journal.OpSnapshot && z.all[name] == nil {
			z.add(name, fmt.Sprint(r.Seq), r.Chain.String(), snapshot.HoldTag)
		}
		return nil
	})
	must(e.t, err)
}

// A removed tenant on ZFS: until its time nothing goes, a veto takes it back, and the dataset stays while it has a snapshot, whosever that is.
func TestRemovalWithBodies(t *testing.T) {
	e, z := newBodied(t)
	maps.DeleteFunc(z.all, func(name string, _ *retention.Body) bool { return name != "vaultd-first" }) // a push's has none
	_, err := tenant.New(e.a.dir, tenant.Options{Actor: "olga"}).Remove("acme", 7*testDay)
	must(t, err)
	all := z.names()
	step := func(when string, want string, gone bool) expireReply {
		t.Helper()
		var out expireReply
		for range 3 {
			if out, err, _ = e.run(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
		if z.names() != want || e.gone() != gone {
			t.Fatalf("%s: left %q, gone %v", when, z.names(), e.gone())
		}
		return out
	}
	step("while it waits", all, false)
	e.machine.up += 6 * testDay
	step("while it waits", all, false)
	_, err = e.a.catalog().Veto("acme")
	must(t, err)
	e.machine.up += 100 * testDay
	step("after a veto", all, false) // no schedule lets it go: the default keeps the newest

	e.remove()
	step("removed, before expire's own cool-down", all, false)
	z.add("autosnap", "", "")
	z.readers["vaultd-first"] = true
	e.machine.up += 7 * testDay
	step("before the lock of what it let go is over", "autosnap vaultd-first", false)
	z.readers = nil
	e.machine.up += 31 * testDay
	out := step("with a snapshot of somebody else's", "autosnap", false)
	if !slices.ContainsFunc(out.Busy, func(s retention.Strange) bool { return s.Name == "autosnap" }) {
		t.Errorf("busy: %v", out.Busy)
	}
	delete(z.all, "autosnap")
	if out = step("without", "", true); !out.Removed {
		t.Errorf("%+v", out)
	}
	e.out.Reset()
	if code := run([]string{"audit", "acme", "--dir", e.a.dir}, strings.NewReader(""), &e.out, &e.out); code != 0 ||
		!strings.Contains(e.out.String(), "expire  tenant gone    acme") || !strings.Contains(e.out.String(), "directory tenants/"+e.id) {
		t.Errorf("audit: %d\n%s", code, &e.out)
	}
}

// A schedule that keeps less, and a released hold, wait for their cool-down; a veto in it saves the bodies.
func TestWeakenWithBodies(t *testing.T) {
	e, z := newBodied(t)
	must(t, e.a.local(func(o *operations) error {
		_, err := o.takeSnapshot(context.Background(), snapshotRequest{Tenant: "acme", Name: "last"})
		return err
	}))
	e.embody(z)
	e.run()
	e.machine.up += 40 * testDay
	e.run()
	all := z.names()
	none := &tenant.Keep{}
	weaken := func() {
		t.Helper()
		_, err := tenant.New(e.a.dir, tenant.Options{CoolDown: 7 * testDay}).ChangeTenant("acme", tenant.Change{Keep: &none})
		must(t, err)
		e.run()
		e.machine.up += 6 * testDay
		e.run()
		if z.names() != all {
			t.Fatalf("in the cool-down: left %q of %q", z.names(), all)
		}
	}
	weaken()
	_, err := e.a.catalog().Veto("acme")
	must(t, err)
	e.run()
	e.machine.up += 40 * testDay
	e.run()
	if z.names() != all {
		t.Errorf("after a veto: left %q of %q", z.names(), all)
	}
	weaken()
	e.machine.up += 2 * testDay
	e.run()
	if z.names() != "vaultd-last" {
		t.Errorf("in the end: left %q", z.names())
	}
}

// What expire says of bodies, for people and for programs, and what the status says afterwards.
func TestBodiesOutput(t *testing.T) {
	e, z := newBodied(t)
	none := &tenant.Keep{}
	_, err := e.a.catalog().ChangeTenant("acme", tenant.Change{Keep: &none})
	must(t, err)
	must(t, e.a.local(func(o *operations) error {
		_, err := o.takeSnapshot(context.Background(), snapshotRequest{Tenant: "acme", Name: "last"})
		return err
	}))
	e.embody(z)
	e.run()
	e.machine.up += 40 * testDay
	z.add("vaultd-forged", "1", strings.Repeat("0", 64))
	z.readers["vaultd-first"] = true
	said := func(dry, asJSON bool) (string, error) {
		t.Helper()
		e.out.Reset()
		e.a.dryRun, e.a.json = dry, asJSON
		defer func() { e.a.dryRun, e.a.json = false, false }()
		x, err := e.a.openExpirer(context.Background(), 7*testDay, slog.New(slog.DiscardHandler))
		must(t, err)
		x.machine = &e.machine
		x.bodies = func(context.Context, place) (retention.Bodies, error) { return z, nil }
		err = e.a.expireOnce(context.Background(), x, []string{"acme"}, false)
		must(t, x.close())
		return e.out.String(), err
	}
	wants := func(text string, parts ...string) {
		t.Helper()
		for _, p := range parts {
			if !strings.Contains(text, p) {
				t.Errorf("%q is not in\n%s", p, text)
			}
		}
	}
	text, err := said(true, false)
	var status *statusError
	if !errors.As(err, &status) || status.code != exitFailed {
		t.Errorf("status: %v", err)
	}
	wants(text, "2 snapshots lose their names", "  2 snapshots on ZFS would be destroyed\n", "  on ZFS vaultd-forged is left alone: record 1 is no snapshot that is known; if it is nobody's, destroy it by hand\n")
	text, _ = said(false, true)
	var reply struct{ Data []expireReply }
	if err := json.Unmarshal([]byte(text), &reply); err != nil || len(reply.Data) != 1 || reply.Data[0].Bodies != 1 || len(reply.Data[0].Busy) != 1 || reply.Data[0].Busy[0].Name != "vaultd-first" ||
		reply.Data[0].Busy[0].Why != "in use" || len(reply.Data[0].Strange) != 1 || len(reply.Data[0].Dropped) != 1 {
		t.Errorf("%v: %s", err, text)
	}
	z.readers = nil
	text, _ = said(false, false)
	wants(text, "1 snapshots lose their names", "  1 snapshots on ZFS were destroyed\n")
	if z.names() != "vaultd-forged vaultd-last" {
		t.Errorf("left: %s", z.names())
	}
	snap, err := e.a.catalog().Snapshot()
	must(t, err)
	acme, _ := snap.Tenant("acme")
	st := statusReply{Tenants: []tenantStatus{{Tenant: inventory.Tenant{ID: acme.ID, Name: "acme"}, usageReply: usageReply{Tenant: "acme"}}}, Server: &serverStatus{}}
	must(t, e.a.expireOutcomes(&st))
	st.judge()
	if v := st.Verdict; v.Exit != 1 || !strings.Contains(v.Text, "snapshots on ZFS that nobody knows") || !strings.Contains(st.Tenants[0].Expire.Strange, "vaultd-forged: record 1") {
		t.Errorf("%+v %+v", v, st.Tenants[0].Expire)
	}
}
