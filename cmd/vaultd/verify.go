package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/appendonly"
	"vaultd/internal/store"
)

type verifyRequest struct {
	Tenant  string    `json:"tenant"`
	Path    []byte    `json:"path,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	Rate    int64     `json:"rate,omitempty"`
	Restart bool      `json:"restart,omitempty"`
}

// verifyLine is a line of the stream: how far it is, or something that is wrong.
type verifyLine struct {
	Bytes    int64        `json:"bytes"`
	Total    int64        `json:"total"`
	Contents int64        `json:"contents"`
	Unknown  int64        `json:"unknown"`
	Wrong    *damageReply `json:"wrong,omitempty"`
}

type damageReply struct {
	Path    string    `json:"path"` // quoted
	ID      string    `json:"id"`
	What    string    `json:"what"`
	Live    bool      `json:"live"`
	New     bool      `json:"new"`
	Good    time.Time `json:"last_good"`                // it was right then
	Earlier time.Time `json:"earlier_version,omitzero"` // an earlier version of the name stands from then on
}

// verifyContents streams a verification.
func (o *operations) verifyContents(ctx context.Context, in verifyRequest, w io.Writer) error {
	t, err := o.find(in.Tenant)
	if err != nil {
		return err
	}
	u, err := o.usage(ctx, tenantRef{in.Tenant})
	if err != nil {
		return err
	}
	e := json.NewEncoder(w)
	say := func(l verifyLine) {
		l.Total = u.Live + u.Versions
		if e.Encode(l) != nil {
			return // the reader is gone: ctx ends too
		}
		if f, ok := w.(interface{ Flush() }); ok {
			f.Flush()
		}
	}
	return o.st.Verify(ctx, t, store.VerifyRequest{Path: string(in.Path), Since: in.Since, Rate: in.Rate, Restart: in.Restart}, func(d store.Damage) {
		say(verifyLine{Wrong: &damageReply{Path: appendonly.QuotePath("/" + d.Path), ID: d.ID, What: d.What, Live: d.Live, New: d.New, Good: d.Good, Earlier: d.Earlier}})
	}, func(v store.Verification) { say(verifyLine{Bytes: v.Bytes, Contents: v.Contents, Unknown: v.Unknown}) })
}

type verifiedReply struct {
	Tenant   string        `json:"tenant"`
	Contents int64         `json:"contents"`
	Bytes    int64         `json:"bytes"`
	Unknown  int64         `json:"without_digest"`
	Wrong    []damageReply `json:"wrong"`
}

func (a *app) verifyCommand() *cobra.Command {
	var since, pace string
	var restart bool
	c := &cobra.Command{Use: "verify [TENANT] [PATH] [--since TIME]", Short: "Read what is stored again and compare it with the journal", Args: cobra.MaximumNArgs(2),
		Long: "Reads contents again, those first that were verified longest ago, and compares them with the digests in the journal. What is wrong is flagged and not served any more. The server does this by itself (verify in the configuration); a run that is interrupted goes on where it stopped. Exit status 1: something is wrong.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := verifyRequest{Restart: restart}
			var err error
			if since != "" {
				if in.Since, err = parseSince(since); err != nil {
					return &usageError{err}
				}
			}
			if pace != "" {
				if in.Rate, err = parseSize(pace); err != nil {
					return &usageError{err}
				}
			}
			if len(args) > 1 {
				in.Path = []byte(args[1])
				args = args[:1]
			}
			return a.verifyAll(cmd.Context(), in, args)
		}}
	c.Flags().StringVar(&since, "since", "", "only what was received since: a time (RFC 3339), a date, or an age such as 2h or 3d")
	c.Flags().StringVar(&pace, "rate", "", "at most so much a second, such as 50M (default: as fast as it goes)")
	c.Flags().BoolVar(&restart, "restart", false, "begin anew instead of going on where the last run stopped")
	a.jsonFlag(c)
	return c
}

func (a *app) verifyAll(ctx context.Context, in verifyRequest, names []string) error {
	if len(names) == 0 {
		snap, err := a.catalog().Snapshot()
		if err != nil {
			return err
		}
		for _, t := range snap.Tenants() {
			names = append(names, t.Name)
		}
	}
	var all []verifiedReply
	bad := false
	var errs error
	for _, n := range names { // one whose journal is damaged does not keep the others from being looked at
		in.Tenant = n
		r, err := a.verifyOne(ctx, in)
		if errs = errors.Join(errs, err); err != nil {
			if ctx.Err() != nil || len(names) == 1 {
				return err
			}
			continue
		}
		bad = bad || len(r.Wrong) > 0
		all = append(all, r)
		if err := a.say("%s: %d contents, %s: %d wrong\n", n, r.Contents, size(r.Bytes), len(r.Wrong)); err != nil {
			return err
		}
		for _, w := range r.Wrong {
			a.say("  %s: %s; last known to be right at %s\n", w.Path, w.What, stamp(w.Good))
			if !w.Earlier.IsZero() {
				a.say("    an earlier version: vaultd restore %s %s --at %s --to DIR\n", n, w.Path, stamp(w.Earlier))
			}
		}
	}
	if a.json {
		if err := a.print("vaultd.verify/v1", all, nil); err != nil {
			return err
		}
	}
	if errs == nil && bad {
		errs = &statusError{exitFailed}
	}
	return errs
}

// verifyOne verifies one tenant, with a progress bar.
func (a *app) verifyOne(ctx context.Context, in verifyRequest) (verifiedReply, error) {
	out := verifiedReply{Tenant: in.Tenant, Wrong: []damageReply{}}
	var set func(int64)
	done := func() {}
	defer func() { done() }()
	err := a.stream(ctx, "verify", in, func(r io.Reader) error {
		for dec := json.NewDecoder(r); ; {
			var l verifyLine
			if err := dec.Decode(&l); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("verify %s: %w", in.Tenant, err)
			}
			if l.Wrong != nil {
				out.Wrong = append(out.Wrong, *l.Wrong)
				continue
			}
			if set == nil {
				set, done = a.progress("verifying "+in.Tenant, l.Total)
			}
			out.Contents, out.Bytes, out.Unknown = l.Contents, l.Bytes, l.Unknown
			set(l.Bytes)
		}
	})
	return out, err
}
