package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"vaultd/internal/retention"
	"vaultd/internal/tenant"
)

// spaceCost is what a tenant's past costs, and where that leads.
type spaceCost struct {
	Versions int64           `json:"kept_versions_bytes"` // contents of the past, in the store
	Churn    retention.Churn `json:"daily"`
	Used     int64           `json:"used_bytes,omitempty"`
	Limit    int64           `json:"limit_bytes,omitempty"`
	Full     time.Time       `json:"full_on,omitzero"` // if days go on to be as these
	ZFS      *spaceZFS       `json:"zfs,omitempty"`
}

// spaceZFS is what ZFS keeps beside what the store has.
type spaceZFS struct {
	Dataset   string `json:"dataset"`
	Snapshots int64  `json:"used_by_snapshots_bytes"` // what is in snapshots and nowhere else: expire has ended it, and a snapshot shows it
	Bodies    int    `json:"bodies"`
	Others    int    `json:"others"` // snapshots of somebody else's, which expire does not touch
	Strange   int    `json:"strange"`
}

// costOf says what a plan's tenant costs.
func (x *expirer) costOf(ctx context.Context, t tenant.Tenant, e *retention.Expire, p *retention.Plan) (spaceCost, error) {
	c := spaceCost{Versions: p.Bytes}
	for _, a := range p.Held {
		c.Versions += a.Bytes
	}
	var err error
	if c.Churn, err = e.Churn(ctx, p); err != nil {
		return c, err
	}
	var u usageReply
	if x.a.call(ctx, "usage", tenantRef{t.Name}, &u) == nil { // a tenant that is removed has none
		c.Used, c.Limit = u.Used, u.Limit
	}
	if more := c.Churn.In - c.Churn.Out; c.Limit > 0 && more > 0 {
		if days := max(0, c.Limit-c.Used) / more; days < 100*365 {
			c.Full = time.Now().UTC().AddDate(0, 0, int(days)).Truncate(24 * time.Hour)
		}
	}
	c.ZFS, err = x.heldByZFS(ctx, t, p)
	return c, err
}

// heldByZFS asks ZFS what snapshots hold that is nowhere else; nil where the tenant has no dataset.
func (x *expirer) heldByZFS(ctx context.Context, t tenant.Tenant, p *retention.Plan) (*spaceZFS, error) {
	at, err := x.a.placeOf(t.ID)
	if err != nil || at.dataset == "" || p.Bodies == nil {
		return nil, err
	}
	client, err := x.client()
	if err != nil {
		return nil, err
	}
	d, err := client.Get(ctx, at.dataset)
	if err != nil {
		return nil, err
	}
	return &spaceZFS{Dataset: at.dataset, Snapshots: int64(d.UsedBySnapshots), Bodies: len(p.Bodies.Kept) + len(p.Bodies.Go), Others: len(p.Bodies.Others),
		Strange: len(p.Bodies.Strange)}, nil
}

// show is for people.
func (c spaceCost) show(w io.Writer) {
	fmt.Fprintf(w, "kept versions cost %s; %s come in a day", size(c.Versions), size(c.Churn.In))
	if c.Churn.Out > 0 {
		fmt.Fprintf(w, " and the lock lets go of %s", size(c.Churn.Out))
	}
	fmt.Fprintf(w, " (last %dd)", c.Churn.Days)
	switch {
	case !c.Full.IsZero():
		fmt.Fprintf(w, "; at this rate full on %s", c.Full.Format(time.DateOnly))
	case c.Limit > 0:
		fmt.Fprint(w, "; at this rate it is never full")
	}
	fmt.Fprintln(w)
	c.ZFS.show(w)
}

func (z *spaceZFS) show(w io.Writer) {
	if z == nil {
		return
	}
	fmt.Fprintf(w, "on ZFS, snapshots of %s hold %s that is nowhere else: %d of vaultd's", z.Dataset, size(z.Snapshots), z.Bodies)
	if z.Others > 0 {
		fmt.Fprintf(w, ", %d of somebody else's, which stay until they are destroyed by hand", z.Others)
	}
	if z.Strange > 0 {
		fmt.Fprintf(w, ", %d that the journal does not know: vaultd expire --dry-run", z.Strange)
	}
	fmt.Fprintln(w)
}

// showCosts lists what each snapshot costs.
func showCosts(w io.Writer, all []retention.Cost) {
	var rows [][]string
	for _, c := range all {
		body := "-"
		if c.Body != nil {
			body = size(c.Body.Used)
		}
		kept := c.Kept
		if kept == "" {
			kept = "nothing"
		}
		rows = append(rows, []string{c.Name, stamp(c.Time), kept, fmt.Sprint(c.Alone.Contents), size(c.Alone.Bytes), body})
	}
	table(w, []string{"SNAPSHOT", "TIME", "KEPT BY", "CONTENTS", "IT ALONE SHOWS", "ON ZFS"}, rows)
}
