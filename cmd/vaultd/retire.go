package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/tenant"
)

type retireRequest struct {
	Tenant string        `json:"tenant"`
	Paths  [][]byte      `json:"paths,omitempty"`
	From   []journal.Seq `json:"from,omitempty"`  // since when each path stands for what is meant; none: whatever it stands for
	Below  bool          `json:"below,omitempty"` // directories with all that is in them
	Key    string        `json:"key,omitempty"`   // instead of paths: what this key made
	Since  time.Time     `json:"since,omitzero"`
	Why    string        `json:"why"`
	DryRun bool          `json:"dry_run,omitempty"`
}

type retireReply struct {
	Names int      `json:"names"`
	Bytes int64    `json:"bytes"`
	Paths [][]byte `json:"paths,omitempty"` // the first of them
}

// maxPaths is how many names an answer lists.
const maxPaths = 1000

// retire lets names go.
func (o *operations) retire(ctx context.Context, in retireRequest) (out retireReply, err error) {
	err = o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		var paths []string
		for _, p := range in.Paths {
			paths = append(paths, string(p))
		}
		if in.Key != "" {
			if paths, err = v.MadeBy(in.Key, in.Since); err != nil {
				return err
			}
		}
		note := func(r appendonly.Retired) {
			out.Names++
			out.Bytes += r.Size
			if len(out.Paths) < maxPaths {
				out.Paths = append(out.Paths, []byte(r.Path))
			}
		}
		if len(in.From) > 0 && len(in.From) == len(paths) {
			names := make([]appendonly.Standing, len(paths))
			for i, p := range paths {
				names[i] = appendonly.Standing{Path: p, From: in.From[i]}
			}
			return v.RetireStanding(ctx, names, in.Why, note)
		}
		if in.DryRun {
			return v.WouldRetire(ctx, paths, in.Below, note)
		}
		return v.Retire(ctx, paths, in.Below, in.Why, note)
	})
	return out, err
}

func (a *app) retireCommand() *cobra.Command {
	var key, since, why string
	c := &cobra.Command{Use: "retire TENANT PATH... | TENANT --key KEY --since TIME", Short: "Let live names go (what they stood for obeys the lock)", Args: cobra.MinimumNArgs(1),
		Long: "Lets live names go that nobody wants, such as what an attacker put there: directories with all below them, or with --key everything that one key has made since a time. What the names stood for stays readable at its instants until the lock ends. The journal says who, when and why.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := retireRequest{Tenant: args[0], Why: why, DryRun: a.dryRun, Below: true}
			if why == "" {
				return &usageError{errors.New("say why: --reason TEXT")}
			}
			switch {
			case key != "" && len(args) == 1:
				snap, t, err := a.tenant(args[0])
				if err != nil {
					return err
				}
				k, err := findKey(snap.AllKeys(t.ID), key)
				if err != nil {
					return err
				}
				if in.Since, err = parseSince(since); err != nil {
					return &usageError{err}
				}
				in.Key, in.Below = k.ID, false
			case key == "" && len(args) > 1:
				for _, p := range args[1:] {
					in.Paths = append(in.Paths, []byte(p))
				}
			default:
				return &usageError{errors.New("retire what? PATH..., or --key KEY --since TIME")}
			}
			var out retireReply
			if err := a.call(cmd.Context(), "retire", in, &out); err != nil {
				return err
			}
			return a.print("vaultd.retire/v1", out, func(w io.Writer) {
				verb := "retired"
				if a.dryRun {
					verb = "would retire"
				}
				for _, p := range out.Paths {
					fmt.Fprintln(w, appendonly.QuotePath("/"+string(p)))
				}
				if out.Names > len(out.Paths) {
					fmt.Fprintf(w, "and %d more\n", out.Names-len(out.Paths))
				}
				fmt.Fprintf(w, "%s %d names, %s\n", verb, out.Names, size(out.Bytes))
			})
		}}
	c.Flags().StringVar(&key, "key", "", "what this key made (its id or fingerprint)")
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339), a date, or an age such as 2h or 3d")
	c.Flags().StringVar(&why, "reason", "", "why, for the journal")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}
