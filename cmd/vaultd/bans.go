package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/admin"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// orNone is a limit for the door, where 0 is its default and negative none.
func orNone(d Duration) time.Duration {
	if d.Duration == 0 {
		return -1
	}
	return d.Duration
}

// rememberAddresses tells the door from where keys that still may log in last did so: a restart in the middle of a flood locks
// out nobody who comes from where they came from before it.
func rememberAddresses(door *sshd.Server, st *store.Store, state *tenant.State) {
	snap := st.Tenants()
	for id, use := range state.LastUsed() {
		k, ok := snap.Key(id)
		t, owned := snap.TenantByID(k.Tenant)
		addr, err := netip.ParseAddr(use.Remote)
		if ok && owned && err == nil && snap.Recheck(t.ID, id, addr, time.Now()) == nil {
			door.Known(addr, t.Name, max(0, time.Since(use.Time)))
		}
	}
}

func (o *operations) bans(context.Context, struct{}) ([]sshd.Ban, error) {
	if o.door == nil {
		return nil, admin.ErrNotRunning
	}
	return o.door.Bans(), nil
}

type clearRequest struct {
	Address string `json:"address"` // "": all
}

type clearedReply struct {
	Ended int `json:"ended"`
}

func (o *operations) clearBans(_ context.Context, in clearRequest) (clearedReply, error) {
	if o.door == nil {
		return clearedReply{}, admin.ErrNotRunning
	}
	var a netip.Addr
	if in.Address != "" {
		var err error
		if a, err = parseSource(in.Address); err != nil {
			return clearedReply{}, err
		}
	}
	return clearedReply{o.door.ClearBans(a)}, nil
}

// parseSource reads an address, or what "vaultd bans" calls it: an IPv4 address as /32, an IPv6 /64.
func parseSource(s string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Addr(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, &usageError{fmt.Errorf("%q is no address", s)}
	}
	return a, nil
}

func (a *app) bansCommand() *cobra.Command {
	c := &cobra.Command{Use: "bans", Short: "Addresses that are refused for a while after failed logins", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		list := []sshd.Ban{}
		if err := a.call(cmd.Context(), "bans", struct{}{}, &list); err != nil {
			return err
		}
		return a.print("vaultd.bans/v1", list, func(w io.Writer) {
			rows := [][]string{}
			for _, b := range list {
				rows = append(rows, []string{b.Source.String(), b.Left.Round(time.Second).String(), fmt.Sprint(b.Times)})
			}
			table(w, []string{"SOURCE", "LEFT", "TIMES"}, rows)
		})
	}}
	a.jsonFlag(c)
	c.AddCommand(a.bansClear())
	return c
}

func (a *app) bansClear() *cobra.Command {
	c := &cobra.Command{Use: "clear [ADDRESS]", Short: "End the ban of an address, or all bans", Args: cobra.MaximumNArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		var in clearRequest
		if len(args) > 0 {
			if _, err := parseSource(args[0]); err != nil {
				return err
			}
			in.Address = args[0]
		}
		if a.dryRun {
			_, err := fmt.Fprintln(a.stdout, "would end bans: vaultd bans shows them")
			return err
		}
		var out clearedReply
		if err := a.call(cmd.Context(), "bans.clear", in, &out); err != nil {
			return err
		}
		return a.print("vaultd.bans.clear/v1", out, func(w io.Writer) { fmt.Fprintf(w, "%d bans ended\n", out.Ended) })
	}}
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}
