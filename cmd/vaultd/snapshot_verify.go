package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"vaultd/internal/appendonly"
	"vaultd/internal/tenant"
)

type compareRequest struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name,omitempty"` // "": the newest that has a body
	All    bool   `json:"all,omitempty"`
	Hash   bool   `json:"hash,omitempty"`
	Rate   int64  `json:"rate,omitempty"`
}

// compareLine is a line of the stream: how far one snapshot is, a difference, that it is done, or that it has no body.
type compareLine struct {
	Snapshot   string           `json:"snapshot"`
	Names      int64            `json:"names"`
	Total      int64            `json:"total"` // names, about
	Bytes      int64            `json:"bytes"`
	Unknown    int64            `json:"unknown"`
	Amended    int64            `json:"amended"`
	Difference *differenceReply `json:"difference,omitempty"`
	NoBody     bool             `json:"no_body,omitempty"`
	Error      string           `json:"error,omitempty"`
	Done       bool             `json:"done,omitempty"`
}

type differenceReply struct {
	Path  string `json:"path"` // quoted
	What  string `json:"what"`
	Index string `json:"index"`
	Body  string `json:"body"`
}

// sayEvery is how many names or bytes pass between two lines about how far it is.
const (
	sayNames = 1000
	sayBytes = 8 << 20
)

// compareSnapshots streams the comparison of one snapshot, or of all, newest first.
func (o *operations) compareSnapshots(ctx context.Context, in compareRequest, w io.Writer) error {
	return o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		snaps, err := v.Snapshots()
		if err != nil {
			return err
		}
		if in.Name != "" && !slices.ContainsFunc(snaps, func(s appendonly.SnapshotInfo) bool { return s.Name == in.Name }) {
			return fmt.Errorf("snapshot %q: %w", in.Name, tenant.ErrNotFound)
		}
		slices.Reverse(snaps)
		e := json.NewEncoder(w)
		for _, s := range snaps {
			if in.Name != "" && s.Name != in.Name {
				continue
			}
			line := compareLine{Snapshot: s.Name, Total: v.Usage().Files}
			err := compareOne(ctx, v, in, &line, func() {
				if e.Encode(line) == nil {
					if f, ok := w.(interface{ Flush() }); ok {
						f.Flush()
					}
				}
			})
			if ctx.Err() != nil {
				return ctx.Err()
			}
			line.Difference = nil
			switch {
			case errors.Is(err, appendonly.ErrNoBody):
				line.NoBody = true
			case err != nil:
				line.Error = err.Error()
			default:
				line.Done = true
			}
			if err := e.Encode(line); err != nil {
				return err
			}
			if !in.All && !line.NoBody {
				break
			}
		}
		return nil
	})
}

func compareOne(ctx context.Context, v *appendonly.Vault, in compareRequest, line *compareLine, say func()) error {
	o := appendonly.CompareOptions{Hash: in.Hash}
	if in.Rate > 0 {
		limit := rate.NewLimiter(rate.Limit(in.Rate), max(1<<20, int(in.Rate/4)))
		o.Pace = limit.WaitN
	}
	var names, bytes int64
	return v.CompareSnapshot(ctx, line.Snapshot, o, func(d appendonly.Difference) {
		where := "the journal"
		if d.Path != "" {
			where = appendonly.QuotePath("/" + d.Path)
		}
		quote := func(s string) string {
			if d.What == "target" {
				return appendonly.QuotePath(s)
			}
			return s
		}
		line.Difference = &differenceReply{Path: where, What: d.What, Index: quote(d.Index), Body: quote(d.Body)}
		say()
		line.Difference = nil
	}, func(c appendonly.Compared) {
		line.Names, line.Bytes, line.Unknown, line.Amended = c.Names, c.Bytes, c.Unknown, c.Amended
		if c.Names-names >= sayNames || c.Bytes-bytes >= sayBytes {
			names, bytes = c.Names, c.Bytes
			say()
		}
	})
}

// comparedReply is what is printed about one snapshot.
type comparedReply struct {
	Snapshot    string            `json:"snapshot"`
	Body        bool              `json:"body"` // false: the file system keeps none for it
	Names       int64             `json:"names"`
	Bytes       int64             `json:"bytes"`
	Unknown     int64             `json:"without_digest"`
	Amended     int64             `json:"amended"`
	Count       int64             `json:"difference_count"`
	Differences []differenceReply `json:"differences"` // the first 10,000
	Error       string            `json:"error,omitempty"`
}

// maxDifferences is how many --json prints of one snapshot.
const maxDifferences = 10_000

func (a *app) snapshotVerify() *cobra.Command {
	var in compareRequest
	var pace string
	c := &cobra.Command{Use: "verify TENANT [NAME | --all]", Short: "Compare what ZFS keeps of snapshots with what the index shows", Args: cobra.RangeArgs(1, 2),
		Long: "Walks both views of a snapshot in step: the index at its instant, and the ZFS snapshot that was taken for it (its body). Tells each name that is missing, extra, or of another type, size, content, target, mode, owner, time or attribute; of a directory that only one of them has, itself alone. With --hash the bytes are read, too, and compared with the digests in the journal. Without NAME it is the newest snapshot that has a body. Attributes of directories and symlinks are in the journal alone. Attributes that a key set after the snapshot, as it may for ten minutes, are what the index shows: they are counted (amended) and no difference. Exit status 1: something differs, or a body can not be read.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Tenant = args[0]
			if len(args) > 1 {
				in.Name = args[1]
			}
			if in.All && in.Name != "" {
				return &usageError{errors.New("either NAME or --all")}
			}
			if pace != "" {
				var err error
				if in.Rate, err = parseSize(pace); err != nil {
					return &usageError{err}
				}
			}
			return a.verifySnapshots(cmd.Context(), in)
		}}
	c.Flags().BoolVar(&in.All, "all", false, "every snapshot that has a body")
	c.Flags().BoolVar(&in.Hash, "hash", false, "read the bytes, too")
	c.Flags().StringVar(&pace, "rate", "", "at most so much a second, such as 50M (default: as fast as it goes)")
	a.jsonFlag(c)
	return c
}

func (a *app) verifySnapshots(ctx context.Context, in compareRequest) error {
	all := []comparedReply{}
	var now *comparedReply
	set, done := func(int64) {}, func() {}
	defer func() { done() }()
	without := 0
	err := a.stream(ctx, "snapshot.verify", in, func(r io.Reader) error {
		for dec := json.NewDecoder(r); ; {
			var l compareLine
			if err := dec.Decode(&l); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return fmt.Errorf("verify snapshots of %s: %w", in.Tenant, err)
			}
			if now == nil || now.Snapshot != l.Snapshot {
				done()
				all = append(all, comparedReply{Snapshot: l.Snapshot, Body: !l.NoBody, Differences: []differenceReply{}})
				now = &all[len(all)-1]
				if !l.NoBody {
					set, done = a.progress("verifying "+l.Snapshot, max(l.Total, 1))
				}
			}
			now.Names, now.Bytes, now.Unknown, now.Amended, now.Error = l.Names, l.Bytes, l.Unknown, l.Amended, l.Error
			set(min(l.Names, l.Total))
			if d := l.Difference; d != nil {
				if now.Count++; now.Count <= maxDifferences && a.json {
					now.Differences = append(now.Differences, *d)
				}
				if err := a.say("%s: %s: %s: the index says %s, the body %s\n", l.Snapshot, d.Path, d.What, d.Index, d.Body); err != nil {
					return err
				}
			}
			if l.NoBody {
				without++
			} else if l.Done || l.Error != "" {
				done()
				set, done = func(int64) {}, func() {}
				if err := a.sayCompared(now); err != nil {
					return err
				}
			}
		}
	})
	if err != nil {
		return err
	}
	return a.judgeCompared(in, all, without)
}

func (a *app) sayCompared(c *comparedReply) error {
	if c.Error != "" {
		return a.say("%s: %s\n", c.Snapshot, c.Error)
	}
	read := ""
	if c.Bytes > 0 {
		read = ", " + size(c.Bytes) + " read"
	}
	if c.Unknown > 0 {
		read += fmt.Sprintf(", %d without a digest", c.Unknown)
	}
	if c.Amended > 0 {
		read += fmt.Sprintf(", %d amended since", c.Amended)
	}
	return a.say("%s: %d names%s: %d differences\n", c.Snapshot, c.Names, read, c.Count)
}

// judgeCompared ends snapshot verify.
func (a *app) judgeCompared(in compareRequest, all []comparedReply, without int) error {
	switch {
	case without < len(all) || in.All:
	case in.Name != "":
		return fmt.Errorf("verify snapshot %q: it has no body (on ZFS, the scheduled and the manual ones have): %w", in.Name, tenant.ErrNotFound)
	default:
		return fmt.Errorf("verify snapshots of %s: none of %d has a body (on ZFS, the scheduled and the manual ones have): %w", in.Tenant, len(all), tenant.ErrNotFound)
	}
	if in.All {
		if err := a.say("%s: %d snapshots compared, %d without a body\n", in.Tenant, len(all)-without, without); err != nil {
			return err
		}
	} else if without > 0 {
		all = slices.DeleteFunc(all, func(c comparedReply) bool { return !c.Body })
	}
	if a.json {
		if err := a.print("vaultd.snapshot-verify/v1", all, nil); err != nil {
			return err
		}
	}
	for _, c := range all {
		if c.Count > 0 || c.Error != "" {
			return &statusError{exitFailed}
		}
	}
	return nil
}
