package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"vaultd/internal/archive"
)

func (a *app) snapshotCommand() *cobra.Command {
	c := &cobra.Command{Use: "snapshot", Short: "Names for instants of a tenant's past"}
	list := &cobra.Command{Use: "list TENANT", Short: "List a tenant's snapshots", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var out []snapshotReply
		if err := a.call(cmd.Context(), "snapshot.list", tenantRef{args[0]}, &out); err != nil {
			return err
		}
		return a.print("vaultd.snapshots/v1", out, func(w io.Writer) {
			var rows [][]string
			for _, s := range out {
				rows = append(rows, []string{s.Name, s.Kind, stamp(s.Time), fmt.Sprint(s.Instant)})
			}
			table(w, []string{"NAME", "KIND", "TIME", "INSTANT"}, rows)
		})
	}}
	var name string
	create := &cobra.Command{Use: "create TENANT", Short: "Take a snapshot now", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var out takenReply
		if err := a.call(cmd.Context(), "snapshot.create", snapshotRequest{args[0], name, a.dryRun}, &out); err != nil {
			return err
		}
		return a.print("vaultd.snapshot/v1", out, func(w io.Writer) { fmt.Fprintln(w, out.Name) })
	}}
	create.Flags().StringVar(&name, "name", "", "what to call it (default: the time)")
	a.jsonFlag(list)
	a.jsonFlag(create)
	a.dryRunFlag(create)
	c.AddCommand(list, create, a.snapshotHold(), a.snapshotRelease(), a.snapshotVerify())
	return c
}

func (a *app) versionsCommand() *cobra.Command {
	c := &cobra.Command{Use: "versions TENANT PATH", Short: "List everything that a name stood for", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		var out []versionReply
		if err := a.call(cmd.Context(), "versions", pathRequest{Tenant: args[0], Path: []byte(args[1])}, &out); err != nil {
			return err
		}
		return a.print("vaultd.versions/v1", out, func(w io.Writer) {
			var rows [][]string
			for _, v := range out {
				until := "live"
				if !v.Until.IsZero() {
					until = stamp(v.Until)
				}
				sum := v.SHA256
				if len(sum) > 16 {
					sum = sum[:16]
				}
				rows = append(rows, []string{stamp(v.Since), until, v.Kind, fmt.Sprint(v.Size), sum, v.Key})
			}
			table(w, []string{"SINCE", "UNTIL", "KIND", "BYTES", "SHA-256", "KEY"}, rows)
		})
	}}
	a.jsonFlag(c)
	return c
}

func (a *app) restoreCommand() *cobra.Command {
	var at, to string
	c := &cobra.Command{Use: "restore TENANT [PATH] --to DIR [--at TIME]", Short: "Copy a tree out of a vault, as it is or as it was", Args: cobra.RangeArgs(1, 2),
		Long: "Copies PATH (default: everything) of a tenant into DIR, checking every file against the hash that the journal has of it. TIME is a time (RFC 3339), a date, an age such as 2h or 3d, or a snapshot's name. What is in DIR already is never replaced.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return &usageError{errors.New("where to? --to DIR")}
			}
			in := pathRequest{Tenant: args[0], At: at}
			if len(args) > 1 {
				in.Path = []byte(args[1])
			}
			set, done := a.progress("restoring", -1)
			var entries int
			var bytes int64
			err := a.stream(cmd.Context(), "restore", in, func(r io.Reader) error {
				return archive.Extract(r, to, func(n int, b int64) {
					entries, bytes = n, b
					set(b)
				})
			})
			done()
			if err != nil {
				return err
			}
			return a.print("vaultd.restore/v1", map[string]any{"entries": entries, "bytes": bytes, "to": to}, func(w io.Writer) {
				fmt.Fprintf(w, "restored %d entries, %s, to %s\n", entries, size(bytes), to)
			})
		}}
	c.Flags().StringVar(&at, "at", "", "the instant (default: now)")
	c.Flags().StringVar(&to, "to", "", "the directory to copy to")
	a.jsonFlag(c)
	return c
}

func (a *app) journalCommand() *cobra.Command {
	c := &cobra.Command{Use: "journal", Short: "The record of every change"}
	verify := &cobra.Command{Use: "verify [TENANT]", Short: "Read the journal again and check its chain", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.eachTenant(args, func(name string) (any, error) {
			var out verifyReply
			if err := a.call(cmd.Context(), "journal.verify", tenantRef{name}, &out); err != nil {
				return nil, err
			}
			return out, a.say("%s: %d records, chain %s\n", name, out.Records, out.Chain)
		}, "vaultd.journal-verify/v1")
	}}
	rebuild := &cobra.Command{Use: "rebuild [TENANT]", Short: "Make the index anew from the journal", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.eachTenant(args, func(name string) (any, error) {
			if a.dryRun {
				return a.wouldMake(cmd.Context(), name, "the index")
			}
			var out rebuildReply
			if err := a.call(cmd.Context(), "journal.rebuild", tenantRef{name}, &out); err != nil {
				return nil, err
			}
			return out, a.say("%s: %d records in %.3f s\n", name, out.Records, out.Took.Seconds())
		}, "vaultd.journal-rebuild/v1")
	}}
	export := &cobra.Command{Use: "export TENANT", Short: "Write the journal, one JSON object a line, to standard output", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.stream(cmd.Context(), "journal.export", tenantRef{args[0]}, func(r io.Reader) error {
			_, err := io.Copy(a.stdout, r)
			return err
		})
	}}
	a.jsonFlag(verify)
	a.jsonFlag(rebuild)
	a.dryRunFlag(rebuild)
	c.AddCommand(verify, rebuild, export)
	return c
}

// say prints a line of text output; with --json nothing.
func (a *app) say(format string, args ...any) error {
	if a.json {
		return nil
	}
	_, err := fmt.Fprintf(a.stdout, format, args...)
	return err
}

// wouldMake reads the journal from which something derived would be made, and makes nothing.
func (a *app) wouldMake(ctx context.Context, name, what string) (any, error) {
	var out verifyReply
	if err := a.call(ctx, "journal.verify", tenantRef{name}, &out); err != nil {
		return nil, err
	}
	return out, a.say("%s: %s would be made from %d records\n", name, what, out.Records)
}

// eachTenant does f for the tenant named in args, or for all; it goes on after errors.
func (a *app) eachTenant(args []string, f func(name string) (any, error), schema string) error {
	names := args
	if len(names) == 0 {
		snap, err := a.catalog().Snapshot()
		if err != nil {
			return err
		}
		for _, t := range snap.Tenants() {
			names = append(names, t.Name)
		}
	}
	set, done := a.progress("tenants", int64(len(names)))
	results := map[string]any{}
	var errs error
	for i, n := range names {
		out, err := f(n)
		if err != nil {
			errs = errors.Join(errs, fmt.Errorf("%s: %w", n, err))
		} else {
			results[n] = out
		}
		set(int64(i + 1))
	}
	done()
	if a.json {
		errs = errors.Join(errs, a.print(schema, results, nil))
	}
	return errs
}

func (a *app) rebuildCommand() *cobra.Command {
	var tree bool
	c := &cobra.Command{Use: "rebuild --tree [TENANT]", Short: "Make the live tree anew from journal and store", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		if !tree {
			return &usageError{errors.New("rebuild what? --tree (for the index: vaultd journal rebuild)")}
		}
		return a.eachTenant(args, func(name string) (any, error) {
			if a.dryRun {
				return a.wouldMake(cmd.Context(), name, "the live tree")
			}
			var out mendedReply
			if err := a.call(cmd.Context(), "rebuild.tree", tenantRef{name}, &out); err != nil {
				return nil, err
			}
			return out, a.say("%s: %d names mended\n", name, out.Mended)
		}, "vaultd.rebuild-tree/v1")
	}}
	c.Flags().BoolVar(&tree, "tree", false, "the files/ of the dataset")
	a.dryRunFlag(c)
	a.jsonFlag(c)
	return c
}

func (a *app) quotaCommand() *cobra.Command {
	c := &cobra.Command{Use: "quota", Short: "What tenants are charged"}
	recount := &cobra.Command{Use: "recount [TENANT]", Short: "Derive the account from the journal again", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		return a.eachTenant(args, func(name string) (any, error) {
			if a.dryRun {
				return a.wouldMake(cmd.Context(), name, "the account")
			}
			var out recountReply
			if err := a.call(cmd.Context(), "quota.recount", tenantRef{name}, &out); err != nil {
				return nil, err
			}
			verdict := "as it was"
			if out.Before != out.After {
				verdict = "was " + size(out.Before.Used)
			}
			return out, a.say("%s: %s of %s in %d names (%s)\n", name, size(out.After.Used), limit(out.After.Limit), out.After.Files, verdict)
		}, "vaultd.quota-recount/v1")
	}}
	a.jsonFlag(recount)
	a.dryRunFlag(recount)
	c.AddCommand(recount)
	return c
}
