package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/spf13/cobra"

	"vaultd/internal/retention"
	"vaultd/internal/tenant"
)

func (a *app) auditCommand() *cobra.Command {
	var since string
	c := &cobra.Command{Use: "audit [TENANT]", Short: "What the operators changed: who, when, why", Args: cobra.MaximumNArgs(1),
		Long: "Lists the catalog's audit log, oldest first: every change of a tenant, a key or a policy. Each is in the tenant's own journal too (vaultd journal export), where it can not be taken out. TENANT is a name, of which there may have been several, or an id.",
		RunE: func(_ *cobra.Command, args []string) error {
			show := func(e tenant.Entry) bool { return len(args) == 0 || e.Tenant == args[0] || e.ID == args[0] }
			if since != "" {
				from, err := parseSince(since)
				if err != nil {
					return &usageError{err}
				}
				all := show
				show = func(e tenant.Entry) bool { return all(e) && !e.Time.Before(from) }
			}
			list := []tenant.Entry{}
			err := a.catalog().Audit(0, func(e tenant.Entry) bool {
				if show(e) {
					list = append(list, e)
				}
				return true
			})
			if err == nil {
				list, err = a.withEnds(list, show)
			}
			if err != nil {
				return err
			}
			if len(args) > 0 && len(list) == 0 && since == "" {
				return fmt.Errorf("tenant %q: %w", args[0], tenant.ErrNotFound)
			}
			return a.print("vaultd.audit/v1", list, func(w io.Writer) {
				var rows [][]string
				for _, e := range list {
					detail := e.Detail
					if e.Why != "" {
						detail += fmt.Sprintf(" (why: %s)", e.Why)
					}
					rows = append(rows, []string{stamp(e.Time), e.Who, e.What, e.Tenant, e.Key, detail})
				}
				table(w, []string{"TIME", "WHO", "WHAT", "TENANT", "KEY", "DETAIL"}, rows)
			})
		}}
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339), a date, or an age such as 2h or 3d")
	a.jsonFlag(c)
	return c
}

// withEnds adds what the expire process says: of which removed tenants nothing is left. It writes no catalog, so these lines are its own files'.
func (a *app) withEnds(list []tenant.Entry, show func(tenant.Entry) bool) ([]tenant.Entry, error) {
	snap, err := a.catalog().Snapshot()
	if err != nil {
		return nil, err
	}
	for _, t := range snap.All() {
		if t.Removal == nil {
			continue
		}
		r, err := retention.ReadRemoved(a.expireOf(t))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		e := tenant.Entry{Time: r.Done, Who: "expire", What: "tenant gone", Tenant: r.Name, ID: r.Tenant, Detail: r.What, Why: r.Why}
		if show(e) {
			list = append(list, e)
		}
	}
	slices.SortStableFunc(list, func(a, b tenant.Entry) int { return a.Time.Compare(b.Time) })
	return list, nil
}
