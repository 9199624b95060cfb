package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

func (a *app) caCommand() *cobra.Command {
	c := &cobra.Command{Use: "ca", Short: "Certificate authorities: whose SSH certificates let in as a tenant"}
	c.AddCommand(a.caAdd(), a.caList(), a.caRevoke())
	return c
}

func (a *app) caAdd() *cobra.Command {
	var k keyFlags
	var principals []string
	c := &cobra.Command{Use: "add TENANT", Short: "Let in whoever has a certificate of a CA", Args: cobra.ExactArgs(1),
		Long: "Names a CA by its public key. A user certificate (ssh-keygen -s CA -I ID -n PRINCIPAL -V +1d key.pub) then lets its key in as the tenant, with the role, networks, path and ceilings given here, narrowed by the certificate's critical options. The certificate must name a principal: the tenant's name, or one of --principal.",
		RunE: func(cmd *cobra.Command, args []string) error {
			keys, err := a.newKeys(&k)
			if err != nil {
				return err
			}
			if len(keys) == 0 {
				return &usageError{fmt.Errorf("no CA given: --key CA.pub")}
			}
			var list []tenant.NewCA
			for _, n := range keys {
				list = append(list, tenant.NewCA{NewKey: n, Principals: principals})
			}
			cas, err := a.catalog().AddCAs(args[0], list...)
			return a.changedCAs(cmd, cas, err)
		}}
	k.register(c)
	c.Flags().StringArrayVar(&principals, "principal", nil, "a name that a certificate must have (repeat for several, of which one is enough; default: the tenant's)")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func (a *app) caList() *cobra.Command {
	c := &cobra.Command{Use: "list TENANT", Short: "List a tenant's CAs", Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
		snap, t, err := a.tenant(args[0])
		if err != nil {
			return err
		}
		var used map[string]tenant.Use
		if err := a.call(cmd.Context(), "used", struct{}{}, &used); err != nil {
			return err
		}
		return a.printCAs(snap.CAs(t.ID), used)
	}}
	a.jsonFlag(c)
	return c
}

func (a *app) caRevoke() *cobra.Command {
	var only tenant.Certs
	var serials []uint
	c := &cobra.Command{Use: "revoke TENANT CA", Short: "Refuse a CA's certificates from now on and for ever (CA: its id or fingerprint)", Args: cobra.ExactArgs(2),
		Long: "Refuses all certificates of a CA, or those that --serial and --key-id name, from now on and for ever; their sessions end at once. A single key, whatever certificates it has or gets, is refused with `vaultd key revoke TENANT FINGERPRINT`.",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, n := range serials {
				only.Serials = append(only.Serials, uint64(n))
			}
			ca, err := a.catalog().RevokeCA(args[0], args[1], only)
			return a.changedCAs(cmd, []tenant.CA{ca}, err)
		}}
	c.Flags().UintSliceVar(&serials, "serial", nil, "refuse the certificate with this serial, and not the CA (repeat for several)")
	c.Flags().StringArrayVar(&only.KeyIDs, "key-id", nil, "refuse certificates with this key id, and not the CA (repeat for several)")
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// changedCAs tells the server of a change that was made, and the operator.
func (a *app) changedCAs(cmd *cobra.Command, cas []tenant.CA, err error) error {
	if err != nil {
		return err
	}
	if !a.dryRun {
		if err := a.reload(cmd.Context()); err != nil {
			return err
		}
	}
	return a.printCAs(cas, nil)
}

type caReply struct {
	tenant.CA
	LastUsed   time.Time `json:"last_used,omitzero"` // any certificate of it
	LastRemote string    `json:"last_remote,omitempty"`
}

func casJSON(cas []tenant.CA, used map[string]tenant.Use) []caReply {
	out := []caReply{}
	for _, c := range cas {
		u := used[tenant.CertUse(c.Tenant, c.ID)]
		out = append(out, caReply{c, u.Time, u.Remote})
	}
	return out
}

func (a *app) printCAs(cas []tenant.CA, used map[string]tenant.Use) error {
	r := casJSON(cas, used)
	return a.print("vaultd.cas/v1", r, func(w io.Writer) { caTable(w, r) })
}

func caTable(w io.Writer, cas []caReply) {
	var rows [][]string
	for _, c := range cas {
		state := keyState(c.Key, time.Now())
		if n := len(c.Serials) + len(c.KeyIDs); n > 0 && c.Revoked.IsZero() {
			state += fmt.Sprintf(", %d revoked", n)
		}
		rows = append(rows, []string{c.ID, c.Role.String(), state, keyFrom(c.Key), rootText("/" + c.Path), strings.Join(c.Principals, ","), ago(c.LastUsed), c.Comment, c.Fingerprint})
	}
	table(w, []string{"ID", "ROLE", "STATE", "FROM", "PATH", "PRINCIPALS", "LAST USED", "COMMENT", "FINGERPRINT"}, rows)
}

// keyState says in a word or two whether a key is of use.
func keyState(k tenant.Key, now time.Time) string {
	switch {
	case !k.Revoked.IsZero():
		return "revoked"
	case !k.Expires.IsZero() && now.After(k.Expires):
		return "expired"
	case !k.Expires.IsZero():
		return "until " + stamp(k.Expires)
	}
	return "active"
}

func keyFrom(k tenant.Key) string {
	if len(k.From) == 0 {
		return "any"
	}
	return strings.Trim(fmt.Sprint(k.From), "[]")
}

// rootText is a directory for a table: quoted when it is more than one word.
func rootText(dir string) string {
	if q := appendonly.QuotePath(dir); strings.Contains(dir, " ") || q != `"`+dir+`"` {
		return q
	}
	return dir
}
