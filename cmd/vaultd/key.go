package main

import (
	"context"
	"fmt"
	"io"

	humanize "github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

// today answers what a tenant's keys added since midnight, by id. It opens no vault for a tenant in which nobody was yet.
func (o *operations) today(ctx context.Context, in tenantRef) (map[string]appendonly.Added, error) {
	out := map[string]appendonly.Added{}
	t, err := o.find(in.Tenant)
	if err != nil {
		return nil, err
	}
	if _, err := o.st.Dataset(t.ID); err != nil {
		return out, nil
	}
	err = o.st.With(ctx, t.ID, func(v *appendonly.Vault) error {
		for _, k := range o.st.Tenants().Keys(t.ID) {
			out[k.ID] = v.Today(k.ID)
		}
		return nil
	})
	return out, err
}

// today fills in what keys added since midnight.
func (a *app) today(ctx context.Context, name string, keys []keyReply) error {
	var added map[string]appendonly.Added
	if err := a.call(ctx, "today", tenantRef{name}, &added); err != nil {
		return err
	}
	for i := range keys {
		t := added[keys[i].ID]
		keys[i].Today = &t
	}
	return nil
}

// daily says what a key may add in a day, and how much of it is used.
func daily(k keyReply) string {
	var used appendonly.Added
	if k.Today != nil {
		used = *k.Today
	}
	s := humanize.IBytes(uint64(max(used.Bytes, 0)))
	if k.Daily.Bytes > 0 {
		s += " of " + humanize.IBytes(uint64(k.Daily.Bytes))
	}
	s += ", " + humanize.Comma(used.Records)
	if k.Daily.Records > 0 {
		s += " of " + humanize.Comma(k.Daily.Records)
	}
	return s
}

// keySet changes what a key is good for.
func (a *app) keySet() *cobra.Command {
	var k keyFlags
	c := &cobra.Command{Use: "set TENANT KEY", Short: "Change a key (KEY: its id or fingerprint); its sessions end", Args: cobra.ExactArgs(2)}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		ch, err := k.change(cmd)
		if err != nil {
			return err
		}
		key, err := a.catalog().SetKey(args[0], args[1], ch)
		if err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		r := tenantJSON(tenant.Tenant{}, []tenant.Key{key}, nil).Keys
		return a.print("vaultd.keys/v1", r, func(w io.Writer) { keyTable(w, r) })
	}
	k.registerTerms(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// change is what the flags that were given say.
func (k *keyFlags) change(cmd *cobra.Command) (tenant.KeyChange, error) {
	var c tenant.KeyChange
	role, from, expires, daily, err := k.terms()
	if err != nil {
		return c, err
	}
	given := cmd.Flags().Changed
	some := false
	for name, set := range map[string]func(){
		"role": func() { c.Role = &role }, "from": func() { c.From = &from }, "expires": func() { c.Expires = &expires },
		"path": func() { c.Path = &k.path }, "comment": func() { c.Comment = &k.comment },
		"daily-bytes": func() { c.DailyBytes = &daily.Bytes }, "daily-records": func() { c.DailyRecords = &daily.Records },
	} {
		if given(name) {
			set()
			some = true
		}
	}
	if !some {
		return c, &usageError{fmt.Errorf("nothing to change: see vaultd key set --help")}
	}
	return c, nil
}
