package main

import (
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
	c := &cobra.Command{Use: "hold TENANT SNAPSHOT --reason TEXT", Short: "Keep a snapshot whatever the schedule says", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var have []snapshotReply
		if err := a.call(cmd.Context(), "snapshot.list", tenantRef{args[0]}, &have); err != nil {
			return err
		}
		i := slices.IndexFunc(have, func(s snapshotReply) bool { return s.Name == args[1] })
		if i < 0 {
			return fmt.Errorf("snapshot %q: %w", args[1], tenant.ErrNotFound)
		}
		if err := a.catalog().Hold(args[0], tenant.Hold{Snapshot: args[1], At: have[i].Instant, Reason: reason}); err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		// An expire that was at work before it saw the hold may have let go of it: names end, and are told, before contents do.
		if err := a.call(cmd.Context(), "snapshot.list", tenantRef{args[0]}, &have); err != nil {
			return err
		}
		if !slices.ContainsFunc(have, func(s snapshotReply) bool { return s.Name == args[1] }) {
			return errors.Join(fmt.Errorf("snapshot %q: expire let go of it in this moment: %w", args[1], tenant.ErrNotFound), a.catalog().Release(args[0], args[1], reason))
		}
		return a.say("%s: %s is held: %s\n", args[0], args[1], reason)
	}}
	c.Flags().StringVar(&reason, "reason", "", "why, for those who find it later")
	a.dryRunFlag(c)
	return c
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
