package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"vaultd/internal/tenant"
)

func (a *app) lockCommand() *cobra.Command {
	c := &cobra.Command{Use: "lock", Short: "The time in which nothing of a tenant's past is freed"}
	extend := &cobra.Command{Use: "extend TENANT DURATION", Short: "Lengthen a tenant's lock; it can never be shortened again", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var d Duration
		if err := d.Set(args[1]); err != nil {
			return &usageError{err}
		}
		return a.changeTenant(cmd, args[0], tenant.Change{Lock: &d.Duration})
	}}
	a.whyFlag(extend)
	a.jsonFlag(extend)
	a.dryRunFlag(extend)
	c.AddCommand(extend)
	return c
}

func (a *app) snapshotHold() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "hold TENANT SNAPSHOT --reason TEXT", Short: "Keep a snapshot whatever the schedule says", Args: cobra.ExactArgs(2),
		Long: "Keeps a snapshot, and everything that it shows, until it is released and the cool-down after that is over. On ZFS, its body gets a hold, too: at once when this command may do that (as root), else by the next run of expire, which goes by the hold from this moment on in any case.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.holdSnapshot(cmd.Context(), args[0], args[1], reason)
		}}
	c.Flags().StringVar(&reason, "reason", "", "why, for those who find it later")
	a.dryRunFlag(c)
	return c
}

func (a *app) holdSnapshot(ctx context.Context, name, snapshot, reason string) error {
	_, t, err := a.tenant(name)
	if err != nil {
		return err
	}
	var have []snapshotReply
	if err := a.call(ctx, "snapshot.list", tenantRef{name}, &have); err != nil {
		return err
	}
	i := slices.IndexFunc(have, func(s snapshotReply) bool { return s.Name == snapshot })
	if i < 0 {
		return fmt.Errorf("snapshot %q: %w", snapshot, tenant.ErrNotFound)
	}
	// The hold on ZFS comes first: an expire that is about to destroy the body does not know of this yet, and the kernel does.
	body, err := a.bodyToHold(ctx, t.ID, snapshot)
	if err != nil {
		return err
	}
	put := body.hold(ctx)
	if err := a.catalog().Hold(name, tenant.Hold{Snapshot: snapshot, At: have[i].Instant, Reason: reason}); err != nil {
		if put == heldNow {
			err = errors.Join(err, body.release(ctx))
		}
		return err
	}
	if !a.dryRun {
		if err := a.reload(ctx); err != nil {
			return err
		}
	}
	// An expire that was at work before it saw the hold may have let go of it: names end, and are told, before contents do.
	if err := a.call(ctx, "snapshot.list", tenantRef{name}, &have); err != nil {
		return err
	}
	if !slices.ContainsFunc(have, func(s snapshotReply) bool { return s.Name == snapshot }) {
		return errors.Join(fmt.Errorf("snapshot %q: expire let go of it in this moment: %w", snapshot, tenant.ErrNotFound), a.catalog().Release(name, snapshot, reason))
	}
	// And once more: an expire that took the tag of an older hold away meanwhile puts it back only if it sees this one.
	return a.say("%s: %s is held: %s%s\n", name, snapshot, reason, body.hold(ctx).words(body))
}

func (a *app) snapshotRelease() *cobra.Command {
	var reason string
	c := &cobra.Command{Use: "release TENANT SNAPSHOT [--reason TEXT]", Short: "End a hold (all of a snapshot's, or the one with this reason)", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		conf, err := a.loadConfig()
		if err != nil {
			return err
		}
		a.coolDown = conf.Expire.CoolDown.Duration
		if err := a.catalog().Release(args[0], args[1], reason); err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		return a.say("%s: %s is released; it still counts for %s\n", args[0], args[1], tenant.Days(conf.Expire.CoolDown.Duration))
	}}
	c.Flags().StringVar(&reason, "reason", "", "the hold's reason")
	a.dryRunFlag(c)
	return c
}
