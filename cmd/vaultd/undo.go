package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/user"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

type undoRequest struct {
	Tenant string    `json:"tenant"`
	Key    string    `json:"key,omitempty"` // its id; "": everybody
	Since  time.Time `json:"since"`
	Path   []byte    `json:"path,omitempty"`
	Why    string    `json:"why"`
	DryRun bool      `json:"dry_run,omitempty"`
}

type undoneReply struct {
	Path string `json:"path"` // quoted
	From string `json:"from,omitempty"`
	Step string `json:"step"`
	Kind string `json:"kind"`
	Size int64  `json:"size"`
	Why  string `json:"why,omitempty"`
}

type undoReply struct {
	Tenant string           `json:"tenant"`
	Names  map[string]int64 `json:"names"` // by step
	Bytes  map[string]int64 `json:"bytes"`
	List   []undoneReply    `json:"list"` // the first of them
	Left   []undoneReply    `json:"left"` // what could not be undone: the first of them
}

// undo lets live names stand for what they stood for before a key changed them.
func (o *operations) undo(ctx context.Context, in undoRequest) (undoReply, error) {
	out := undoReply{Tenant: in.Tenant, Names: map[string]int64{}, Bytes: map[string]int64{}, List: []undoneReply{}, Left: []undoneReply{}}
	err := o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		return v.Undo(ctx, appendonly.Undo{Key: in.Key, Since: in.Since, Path: string(in.Path), Why: in.Why, Dry: in.DryRun}, func(u appendonly.Undone) {
			out.Names[string(u.Step)]++
			out.Bytes[string(u.Step)] += u.Size
			r := undoneReply{Path: appendonly.QuotePath("/" + u.Path), Step: string(u.Step), Kind: u.Kind.String(), Size: u.Size, Why: u.Why}
			if u.From != "" {
				r.From = appendonly.QuotePath("/" + u.From)
			}
			if u.Step == appendonly.StepLeft && len(out.Left) < maxPaths {
				out.Left = append(out.Left, r)
			} else if u.Step != appendonly.StepLeft && len(out.List) < maxPaths {
				out.List = append(out.List, r)
			}
		})
	})
	return out, err
}

func (a *app) undoCommand() *cobra.Command {
	var key, since, why string
	c := &cobra.Command{Use: "undo TENANT [PATH] --since TIME [--key KEY] --reason TEXT", Short: "Put live names back to what they stood for before a key changed them", Args: cobra.RangeArgs(1, 2),
		Long: "Undoes what one key (without --key: everybody) has done since a time, at and below PATH: what was added goes, what was overwritten, removed, moved or given other attributes stands for what it stood for. Nothing is lost by it: it is done by new records in the operator's name, what it undoes becomes the past, and it can be undone the same way. Names that somebody else has changed since are left as they are. Revoke the key first. Exit status 1: some names were left.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := undoRequest{Tenant: args[0], DryRun: a.dryRun}
			if since == "" {
				return &usageError{errors.New("since when? --since TIME")}
			}
			if why == "" && !a.dryRun {
				return &usageError{errors.New("say why: --reason TEXT")}
			}
			var err error
			if in.Since, err = parseSince(since); err != nil {
				return &usageError{err}
			}
			if len(args) > 1 {
				in.Path = []byte(args[1])
			}
			if key != "" {
				snap, t, err := a.tenant(args[0])
				if err != nil {
					return err
				}
				k, err := findKey(snap.Keys(t.ID), key)
				if err != nil {
					return err
				}
				in.Key = k.ID
			}
			in.Why = "undo: " + why + " (" + actor() + ")"
			var out undoReply
			if err := a.call(cmd.Context(), "undo", in, &out); err != nil {
				return err
			}
			err = a.print("vaultd.undo/v1", out, func(w io.Writer) { a.showUndo(w, out) })
			if err == nil && len(out.Left) > 0 {
				err = &statusError{exitFailed}
			}
			return err
		}}
	c.Flags().StringVar(&key, "key", "", "only what this key did (its id or fingerprint)")
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339), a date, or an age such as 2h or 3d")
	c.Flags().StringVar(&why, "reason", "", "why, for the journal")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// actor is who gave the command, for the journal.
func actor() string {
	u, err := user.Current()
	if err != nil {
		return "unknown user"
	}
	return u.Username
}

// undoSteps is the order in which steps are told.
var undoSteps = []appendonly.Step{appendonly.StepRemoved, appendonly.StepRestored, appendonly.StepMoved, appendonly.StepMeta, appendonly.StepLeft}

func (a *app) showUndo(w io.Writer, out undoReply) {
	for _, u := range append(out.List, out.Left...) {
		line := fmt.Sprintf("%-10s  %s", u.Step, u.Path)
		if u.From != "" {
			line += ", from " + u.From
		}
		if u.Why != "" {
			line += ": " + u.Why
		}
		fmt.Fprintln(w, line)
	}
	total, listed := int64(0), int64(len(out.List)+len(out.Left))
	for _, n := range out.Names {
		total += n
	}
	if total > listed {
		fmt.Fprintf(w, "and %d more\n", total-listed)
	}
	verb := "undone"
	if a.dryRun {
		verb = "would be undone"
	}
	fmt.Fprintf(w, "%s: %d names %s", out.Tenant, total-out.Names[string(appendonly.StepLeft)], verb)
	for _, s := range undoSteps {
		if n := out.Names[string(s)]; n > 0 {
			fmt.Fprintf(w, "; %d %s, %s", n, s, size(out.Bytes[string(s)]))
		}
	}
	fmt.Fprintln(w)
}
