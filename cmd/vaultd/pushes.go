package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/push"
	"vaultd/internal/tenant"
)

// pushesRequest asks for push events.
type pushesRequest struct {
	Tenant string    `json:"tenant,omitempty"` // "": all
	Since  time.Time `json:"since,omitzero"`
	Limit  int       `json:"limit"` // of each tenant; 0: all
}

// pushLine is one event of the answer, a JSON object a line.
type pushLine struct {
	Tenant string `json:"tenant"`
	push.Event
}

// pushes writes events, each tenant's newest first.
func (o *operations) pushes(ctx context.Context, in pushesRequest, w io.Writer) error {
	if o.state == nil {
		return errNoState
	}
	list := o.st.Tenants().Tenants()
	if in.Tenant != "" {
		t, err := o.find(in.Tenant)
		if err != nil {
			return err
		}
		list = []tenant.Tenant{t}
	}
	e := json.NewEncoder(w)
	for _, t := range list {
		var werr error
		err := o.state.Pushes(t.ID, tenant.PushQuery{Since: in.Since, Limit: in.Limit}, func(ev push.Event) bool {
			werr = e.Encode(pushLine{t.Name, ev})
			return werr == nil && ctx.Err() == nil
		})
		if err = errors.Join(err, werr, ctx.Err()); err != nil {
			return err
		}
	}
	return nil
}

// eachPush calls f for the events that in asks for.
func (a *app) eachPush(ctx context.Context, in pushesRequest, f func(pushLine) error) error {
	return a.stream(ctx, "pushes", in, func(r io.Reader) error {
		d := json.NewDecoder(bufio.NewReader(r))
		for {
			var l pushLine
			if err := d.Decode(&l); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			if err := f(l); err != nil {
				return err
			}
		}
	})
}

func (a *app) pushesCommand() *cobra.Command {
	var since string
	in := pushesRequest{}
	c := &cobra.Command{Use: "pushes [TENANT]", Short: "What became of each push", Args: cobra.MaximumNArgs(1),
		Long: "Lists sessions that stored something or tried to, each tenant's newest first: how they ended, what they brought, and whether they left a state that can be restored. The newest 10,000 of each tenant are kept. With --json each is an object in a line of its own.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if since != "" {
				var err error
				if in.Since, err = parseSince(since); err != nil {
					return &usageError{err}
				}
			}
			if in.Limit < 0 {
				return &usageError{fmt.Errorf("--limit %d: want 0 for all, or more", in.Limit)}
			}
			if len(args) > 0 {
				in.Tenant = args[0]
			}
			e := json.NewEncoder(a.stdout)
			e.SetEscapeHTML(false)
			var rows [][]string
			err := a.eachPush(cmd.Context(), in, func(l pushLine) error {
				if a.json {
					return e.Encode(struct {
						Schema string `json:"schema"`
						pushLine
					}{"vaultd.push/v1", l})
				}
				rows = append(rows, pushRow(l))
				return nil
			})
			if err != nil || a.json {
				return err
			}
			if len(rows) == 0 {
				return a.say("no pushes\n")
			}
			table(a.stdout, pushHead, rows)
			return nil
		}}
	c.Flags().StringVar(&since, "since", "", "only later ones: a time (RFC 3339), a date, or an age such as 24h or 7d")
	c.Flags().IntVar(&in.Limit, "limit", 20, "at most so many of each tenant; 0: all that are kept")
	a.jsonFlag(c)
	return c
}

var pushHead = []string{"ENDED", "TENANT", "PROTOCOL", "RESULT", "RESTORABLE", "NEW", "", "UNCHANGED", "REFUSED", "FAILED", "TOOK", "KEY"}

func pushRow(l pushLine) []string {
	restorable := "yes"
	if !l.Restorable {
		restorable = "no: " + l.Why
	}
	return []string{stamp(l.Time), l.Tenant, l.Protocol, string(l.Result), restorable, fmt.Sprint(l.New.Files), size(l.New.Bytes), fmt.Sprint(l.Unchanged.Files),
		fmt.Sprint(max(l.Refused.Files, l.Denials())), fmt.Sprint(l.Failed.Files), took(l.Duration), shortKey(l.Key)}
}

// took words a duration as people compare them.
func took(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return d.Round(time.Second).String()
}

func shortKey(id string) string { return id[:min(len(id), 14)] }

// shownPushes is how many of its newest pushes vaultd tenant show shows.
const shownPushes = 5

// standing adds to what is shown of a tenant how its backups stand.
func (a *app) standing(ctx context.Context, r *tenantReply) error {
	var inv inventory.Inventory
	if err := a.call(ctx, "inventory", struct{}{}, &inv); err != nil {
		return err
	}
	for i := range inv.Tenants {
		if inv.Tenants[i].ID == r.ID {
			r.Standing = &inv.Tenants[i]
		}
	}
	r.Pushes = []pushLine{}
	return a.eachPush(ctx, pushesRequest{Tenant: r.Name, Limit: shownPushes}, func(l pushLine) error {
		r.Pushes = append(r.Pushes, l)
		return nil
	})
}

// standingRows are the rows of that.
func standingRows(r tenantReply) (rows [][]string) {
	if r.Standing == nil {
		return nil
	}
	for _, v := range r.Standing.Verdicts {
		if v.State != expect.OK {
			rows = append(rows, []string{"backup", verdictText(v)})
		}
	}
	if len(rows) == 0 {
		rows = append(rows, []string{"backup", "ok"})
	}
	name := "pushes"
	for _, l := range r.Pushes {
		text := fmt.Sprintf("%s %s %s, %d new (%s), %d unchanged", stamp(l.Time), l.Protocol, l.Result, l.New.Files, size(l.New.Bytes), l.Unchanged.Files)
		if !l.Restorable {
			text += "; not restorable: " + l.Why
		}
		rows = append(rows, []string{name, text})
		name = ""
	}
	return rows
}
