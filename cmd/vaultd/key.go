package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

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

// findKey finds a key by its id or fingerprint, or by the start of either.
func findKey(keys []tenant.Key, ref string) (tenant.Key, error) {
	var found []tenant.Key
	for _, k := range keys {
		if k.ID == ref || k.Fingerprint == ref {
			return k, nil
		}
		if len(ref) >= 6 && (strings.HasPrefix(k.ID, ref) || strings.HasPrefix(k.Fingerprint, ref) || k.Comment == ref) {
			found = append(found, k)
		}
	}
	if len(found) != 1 {
		return tenant.Key{}, fmt.Errorf("key %q: %d match: %w", ref, len(found), tenant.ErrNotFound)
	}
	return found[0], nil
}

// keyFlags are what can be said of keys that are added.
type keyFlags struct {
	files         []string
	role, comment string
	from          []string
	expires       string
	path          string
	dailyBytes    string
	dailyRecords  int64
	noTouch       bool
	verify        bool
}

func (k *keyFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&k.files, "key", nil, "a file with public keys, - for standard input (repeat for several)")
	k.registerTerms(c)
}

// registerTerms registers what a key is good for.
func (k *keyFlags) registerTerms(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&k.role, "role", "full", "full, push (can not read content) or pull (can not write)")
	f.StringArrayVar(&k.from, "from", nil, "a network that the key may come from (repeat for several; default: any)")
	f.StringVar(&k.expires, "expires", "", "when the key stops working: a date or RFC 3339 time")
	f.StringVar(&k.path, "path", "", "a directory that is the key's root: it sees and reaches nothing else")
	f.StringVar(&k.dailyBytes, "daily-bytes", "0", "how much the key may add in a day, such as 50G; 0 is unlimited")
	f.Int64Var(&k.dailyRecords, "daily-records", 0, "how many changes the key may make in a day; 0 is unlimited")
	f.BoolVar(&k.noTouch, "no-touch-required", false, "a security key (sk-) may sign without being touched")
	f.BoolVar(&k.verify, "verify-required", false, "a security key (sk-) must have verified its user, by PIN or finger")
	f.StringVar(&k.comment, "comment", "", "what the key is (default: the comment in the file)")
}

// terms reads what a key is good for.
func (k *keyFlags) terms() (role appendonly.Role, from []netip.Prefix, expires time.Time, daily tenant.Ceiling, err error) {
	if err = role.UnmarshalText([]byte(k.role)); err != nil {
		return role, nil, expires, daily, &usageError{err}
	}
	if from, err = tenant.ParseFrom(k.from...); err != nil {
		return role, nil, expires, daily, err
	}
	if k.expires != "" {
		if expires, err = time.Parse(time.RFC3339, k.expires); err != nil {
			if expires, err = time.Parse(time.DateOnly, k.expires); err != nil {
				return role, nil, expires, daily, &usageError{fmt.Errorf("--expires %q: want a date such as 2027-01-31, or an RFC 3339 time", k.expires)}
			}
		}
	}
	daily.Records = k.dailyRecords
	if daily.Bytes, err = parseSize(k.dailyBytes); err != nil {
		err = &usageError{err}
	}
	return role, from, expires, daily, err
}

func (a *app) newKeys(k *keyFlags) ([]tenant.NewKey, error) {
	role, from, expires, daily, err := k.terms()
	if err != nil {
		return nil, err
	}
	var out []tenant.NewKey
	for _, file := range k.files {
		data, err := a.readFile(file)
		if err != nil {
			return nil, err
		}
		keys, err := tenant.ParsePublicKeys(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, p := range keys {
			out = append(out, tenant.NewKey{Public: p, Role: role, From: from, Expires: expires, Path: k.path, Daily: daily, Comment: k.comment,
				NoTouch: k.noTouch, Verify: k.verify})
		}
	}
	return out, nil
}

type keyReply struct {
	tenant.Key
	Today      *appendonly.Added `json:"today,omitempty"` // what it added since midnight; absent where that was not asked
	LastUsed   time.Time         `json:"last_used,omitzero"`
	LastRemote string            `json:"last_remote,omitempty"`
}

func (a *app) keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Keys: who may log in, and what for"}
	c.AddCommand(a.keyAdd(), a.keyList(), a.keySet(), a.keyRevoke(), a.keyImport())
	return c
}

func (a *app) keyAdd() *cobra.Command {
	var k keyFlags
	c := &cobra.Command{Use: "add TENANT", Short: "Give a tenant further keys", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		keys, err := a.newKeys(&k)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return &usageError{errors.New("no key given: --key FILE.pub")}
		}
		added, err := a.catalog().AddKeys(args[0], keys...)
		if err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		r := tenantJSON(tenant.Tenant{}, added, nil).Keys
		return a.print("vaultd.keys/v1", r, func(w io.Writer) { keyTable(w, r) })
	}}
	k.register(c)
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) keyList() *cobra.Command {
	c := &cobra.Command{Use: "list TENANT", Short: "List a tenant's keys", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		snap, t, err := a.tenant(args[0])
		if err != nil {
			return err
		}
		var used map[string]tenant.Use
		if err := a.call(cmd.Context(), "used", struct{}{}, &used); err != nil {
			return err
		}
		r := tenantJSON(t, snap.AllKeys(t.ID), used).Keys
		if err := a.today(cmd.Context(), t.Name, r); err != nil {
			return err
		}
		return a.print("vaultd.keys/v1", r, func(w io.Writer) { keyTable(w, r) })
	}}
	a.jsonFlag(c)
	return c
}

func keyTable(w io.Writer, keys []keyReply) {
	var rows [][]string
	for _, k := range keys {
		rows = append(rows, []string{k.ID, k.Role.String(), keyState(k.Key, time.Now()), keyFrom(k.Key), "/" + k.Path, daily(k), ago(k.LastUsed), k.Comment, k.Fingerprint})
	}
	table(w, []string{"ID", "ROLE", "STATE", "FROM", "PATH", "TODAY", "LAST USED", "COMMENT", "FINGERPRINT"}, rows)
}

func (a *app) keyRevoke() *cobra.Command {
	c := &cobra.Command{Use: "revoke TENANT KEY", Short: "Refuse a key from now on and for ever (KEY: its id or fingerprint)", Args: cobra.ExactArgs(2), RunE: func(cmd *cobra.Command, args []string) error {
		k, err := a.catalog().RevokeKey(args[0], args[1])
		if err != nil {
			return err
		}
		if !a.dryRun {
			if err := a.reload(cmd.Context()); err != nil {
				return err
			}
		}
		r := tenantJSON(tenant.Tenant{}, []tenant.Key{k}, nil).Keys
		return a.print("vaultd.keys/v1", r, func(w io.Writer) {
			keyTable(w, r)
			if len(k.PublicKey) == 0 {
				fmt.Fprintf(w, "tenant %s has no such key; from now on it is refused with any certificate, too\n", args[0])
			}
		})
	}}
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}
