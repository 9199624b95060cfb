package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"vaultd/internal/confine"
	"vaultd/internal/retention"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// catalog is the store's, as this command is to change it.
func (a *app) catalog() *tenant.DB {
	return tenant.New(a.dir, tenant.Options{DryRun: a.dryRun, Why: a.why, CoolDown: a.coolDown, Migrated: func(from, to int, backup string) {
		fmt.Fprintf(a.stderr, "vaultd: notice: vaultd.db had format %d and has %d now, which older versions of vaultd do not open; as it was: %s\n", from, to, backup)
	}})
}

func (a *app) whyFlag(c *cobra.Command) {
	c.Flags().StringVar(&a.why, "reason", "", "why, for the audit log")
}

// The states of a tenant, as lists show them.
const (
	stateActive    = "active"
	stateSuspended = "suspended"
	stateRemoving  = "removing" // asked for, or due and something is left of it
	stateRemoved   = "removed"  // nothing is left of it
)

func stateOf(t tenant.Tenant) string {
	switch {
	case t.Removal != nil:
		return stateRemoving
	case t.Suspended:
		return stateSuspended
	}
	return stateActive
}

// listedTenant is a tenant with what the expire process says of it.
type listedTenant struct {
	tenant.Tenant
	State string    `json:"state"`
	Gone  time.Time `json:"gone,omitzero"` // since when nothing is left
}

func (a *app) listed(t tenant.Tenant) listedTenant {
	l := listedTenant{Tenant: t, State: stateOf(t)}
	if t.Removal != nil {
		if r, err := retention.ReadRemoved(a.expireOf(t)); err == nil {
			l.State, l.Gone = stateRemoved, r.Done
		}
	}
	return l
}

// remark says what a list has to say beside the state.
func (l listedTenant) remark() string {
	switch r := l.Removal; {
	case l.State == stateRemoved:
		return "gone since " + stamp(l.Gone)
	case r != nil && l.Removed(time.Now()):
		return "removed on " + stamp(r.Due) + "; lock or holds keep what is left"
	case r != nil:
		return "is removed on " + stamp(r.Due) + ", unless: vaultd tenant veto " + l.Name
	case l.Pending != nil || l.Eased != nil:
		return "a change waits: vaultd tenant show " + l.Name
	}
	return ""
}

// waiting words what waits to promise less.
func waiting(n tenant.Notice, t tenant.Tenant) string {
	s := fmt.Sprintf("%s, until %s (by %s", strings.Join(n.What, "; "), stamp(n.Due), n.Who)
	if n.Why != "" {
		s += ": " + n.Why
	}
	s += ")"
	if t.Removed(time.Now()) {
		return s + "; its time has come"
	}
	return s + "; vaultd tenant veto " + t.Name
}

// expireOf is a tenant's directory of the expire process.
func (a *app) expireOf(t tenant.Tenant) string { return filepath.Join(a.dir, expireDir, t.ID) }

// nameless returns the id of the removed tenant that has a name, when nothing is left of it: the name is free. "" otherwise.
func (a *app) nameless(name string) (string, error) {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return "", err
	}
	t, found := snap.Tenant(name)
	if !found || a.listed(t).State != stateRemoved {
		return "", nil
	}
	if at, err := a.placeOf(t.ID); err != nil || at.dir != "" {
		return "", errors.Join(fmt.Errorf("tenant %q was removed, and its dataset is there again: %w", name, tenant.ErrConflict), err)
	}
	return t.ID, nil
}

func (a *app) tenantRemove() *cobra.Command {
	var confirm string
	c := &cobra.Command{Use: "remove NAME", Short: "Remove a tenant: after a cool-down, and never before its lock and holds let it go", Args: cobra.ExactArgs(1),
		Long: "Removes a tenant. Until the cool-down is over nothing is different, the tenant is told of it, and `vaultd tenant veto` takes it back; to stop pushes at once, suspend it. Then its keys are refused and its names go; what they stood for can still be read by the operator (vaultd restore --at) until the lock ends, as everything of the past. When nothing is left, the dataset goes too, and the name may be used again. A held snapshot keeps what it shows, and so the tenant, until it is released.",
		RunE: func(cmd *cobra.Command, args []string) error {
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			a.coolDown = conf.Expire.CoolDown.Duration
			if err := a.confirm(confirm, args[0]); err != nil {
				return err
			}
			t, err := a.catalog().Remove(args[0], a.coolDown)
			return a.changed(cmd, t, err)
		}}
	c.Flags().StringVar(&confirm, "confirm", "", "the tenant's name once more (asked for on a terminal)")
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// confirm has the operator type a name: as said, or at a terminal.
func (a *app) confirm(said, name string) error {
	if said == "" {
		if f, ok := a.stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
			fmt.Fprintf(a.stderr, "This removes tenant %s and, when its lock is over, everything it stored. Its name, to go on: ", name)
			line, err := bufio.NewReader(io.LimitReader(f, 1024)).ReadString('\n')
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			said = strings.TrimSpace(line)
		}
	}
	if said == "" {
		return &usageError{fmt.Errorf("to remove %s, type its name: --confirm %s", name, name)}
	}
	if said != name {
		return &usageError{fmt.Errorf("confirmed %q, and was to remove %q: nothing is changed", said, name)}
	}
	return nil
}

func (a *app) tenantVeto() *cobra.Command {
	c := &cobra.Command{Use: "veto NAME", Short: "Take back everything that waits for its cool-down: a weaker policy, a removal", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		t, err := a.catalog().Veto(args[0])
		return a.changed(cmd, t, err)
	}}
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// config is what one tenant's expire is told, whether its dataset is there or not.
func (x *expirer) config(t tenant.Tenant) retention.Config {
	dir := filepath.Join(x.a.dir, confine.TenantsDir, t.ID)
	current := func() (tenant.Retention, error) {
		now, err := x.current(t)
		if err == nil && (now.Removal == nil) != (t.Removal == nil) {
			err = retention.ErrChanged
		}
		return now.Retention, err
	}
	return retention.Config{Dir: x.a.expireOf(t), Tenant: t.ID, Name: t.Name, Policy: t.Retention, Current: current, Removal: t.Removal, Dataset: ending{x, t.ID, dir},
		CoolDown: x.coolDown, Server: x.server(t), Machine: x.machine, Log: x.log.With("tenant", t.Name), Step: x.step}
}

// unfinished leaves out the tenants of which nothing is left.
func (x *expirer) unfinished(all []tenant.Tenant) []tenant.Tenant {
	return slices.DeleteFunc(slices.Clone(all), func(t tenant.Tenant) bool { return x.a.listed(t).State == stateRemoved })
}

// over reports whether nothing is left of a tenant. Of one that is removed and has no dataset it says so once its time has come.
func (x *expirer) over(ctx context.Context, t tenant.Tenant, dry bool) (bool, error) {
	if t.Removal == nil {
		return false, nil
	}
	if x.a.listed(t).State == stateRemoved {
		return true, nil
	}
	at, err := x.a.placeOf(t.ID)
	if dry || err != nil || at.dir != "" {
		return false, err
	}
	chain := filepath.Join(x.a.expireOf(t), "chain")
	if err := os.MkdirAll(x.a.expireOf(t), 0o750); err != nil {
		return false, err
	}
	if err := volume.Create(chain); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	v, err := volume.Open(chain)
	if err != nil {
		return false, err
	}
	conf := x.config(t)
	conf.Chain = v
	done, err := retention.Bury(ctx, conf)
	return done, errors.Join(err, v.Close())
}

// ending is how a removed tenant's dataset goes.
type ending struct {
	x       *expirer
	id, dir string
}

type endRequest struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

type endReply struct {
	Names int `json:"names"`
}

// Clear implements retention.Dataset.
func (e ending) Clear(ctx context.Context, why string) (int, error) {
	var out endReply
	err := e.x.a.call(ctx, "tenant.clear", endRequest{e.id, why}, &out)
	return out.Names, err
}

// Release implements retention.Dataset.
func (e ending) Release(ctx context.Context) error {
	return e.x.a.call(ctx, "tenant.release", endRequest{ID: e.id}, nil)
}

func (o *operations) clear(ctx context.Context, in endRequest) (out endReply, err error) {
	out.Names, err = o.st.Clear(ctx, in.ID, in.Why)
	return out, err
}

func (o *operations) release(_ context.Context, in endRequest) (struct{}, error) {
	return struct{}{}, o.st.Release(in.ID)
}
