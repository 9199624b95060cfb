package zfs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Snapshot is one snapshot of one dataset. Sizes are bytes.
type Snapshot struct {
	Name       string // whole: dataset@snapshot
	GUID       uint64 // the same in every copy that was sent
	CreateTXG  uint64 // of the transaction that made it: the same for all of one atomic batch, and growing with time
	Created    time.Time
	Used       uint64 // what its destruction would free at once
	Referenced uint64 // what it shows
	Written    uint64 // since the snapshot before it
	Holds      uint64
	Deferred   bool // to be destroyed when its last hold or clone goes
	Properties map[string]Value
}

// Dataset is the dataset that it is of.
func (s *Snapshot) Dataset() string { return datasetOf(s.Name) }

// Short is the part behind @.
func (s *Snapshot) Short() string {
	_, short := SplitSnapshot(s.Name)
	return short
}

var snapshotFacts = []string{"name", "guid", "createtxg", "creation", "used", "referenced", "written", "userrefs", "defer_destroy"}

func parseSnapshot(f []string) (*Snapshot, error) {
	s := &Snapshot{Name: f[0], Deferred: f[8] == "on"}
	var created uint64
	if err := numbers(f[1:8], []*uint64{&s.GUID, &s.CreateTXG, &created, &s.Used, &s.Referenced, &s.Written, &s.Holds}); err != nil {
		return nil, err
	}
	s.Created = time.Unix(int64(created), 0)
	return s, CheckSnapshot(s.Name)
}

// Snapshots returns the snapshots of a dataset, oldest transaction first, with the properties asked
// for. One process; two with properties.
func (c *Client) Snapshots(ctx context.Context, dataset string, properties ...string) ([]*Snapshot, error) {
	if err := CheckDataset(dataset); err != nil {
		return nil, err
	}
	return c.snapshots(ctx, dataset, []string{"-d", "1"}, properties)
}

// AllSnapshots returns the snapshots of root and of everything below it, those of one dataset together.
func (c *Client) AllSnapshots(ctx context.Context, root string, properties ...string) ([]*Snapshot, error) {
	if err := CheckDataset(root); err != nil {
		return nil, err
	}
	return c.snapshots(ctx, root, []string{"-r"}, properties)
}

// Snapshot returns one snapshot by its whole name.
func (c *Client) Snapshot(ctx context.Context, name string, properties ...string) (*Snapshot, error) {
	if err := CheckSnapshot(name); err != nil {
		return nil, err
	}
	all, err := c.snapshots(ctx, name, nil, properties)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || all[0].Name != name {
		return nil, &Error{Op: "zfs list", Name: name, Kind: ErrOutput, Err: fmt.Errorf("%d snapshots", len(all))}
	}
	return all[0], nil
}

// TheseSnapshots returns snapshots by their whole names, in the order of Snapshots; one that is not there is ErrNotExist.
func (c *Client) TheseSnapshots(ctx context.Context, names []string, properties ...string) ([]*Snapshot, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if _, err := datasetsOf(names); err != nil {
		return nil, err
	}
	return c.listed(ctx, names, nil, properties)
}

func (c *Client) snapshots(ctx context.Context, root string, limit, properties []string) ([]*Snapshot, error) {
	return c.listed(ctx, []string{root}, limit, properties)
}

func (c *Client) listed(ctx context.Context, roots []string, limit, properties []string) ([]*Snapshot, error) {
	if err := checkProperties(properties); err != nil {
		return nil, err
	}
	k := command{tool: "zfs", args: slices.Concat([]string{"list", "-Hp", "-t", "snapshot", "-o", strings.Join(snapshotFacts, ",")}, limit, roots), name: summary(roots), query: true}
	var all []*Snapshot
	err := settled(func() error {
		out, err := c.run(ctx, k)
		if err != nil {
			return err
		}
		lines, err := rows(k, out, len(snapshotFacts))
		if err != nil {
			return err
		}
		all = make([]*Snapshot, 0, len(lines))
		names := make(map[string]int, len(lines))
		for i, f := range lines {
			s, err := parseSnapshot(f)
			if err != nil {
				return k.odd("line %d: %w", i+1, err)
			}
			names[s.Name] = i
			all = append(all, s)
		}
		if len(properties) > 0 && len(all) > 0 {
			values, err := c.values(ctx, roots, slices.Concat([]string{"-t", "snapshot"}, limit), names, properties)
			if err != nil {
				return err
			}
			for i, s := range all {
				s.Properties = values[i]
			}
		}
		return nil
	})
	slices.SortStableFunc(all, func(a, b *Snapshot) int {
		if c := strings.Compare(a.Dataset(), b.Dataset()); c != 0 {
			return c
		}
		if a.CreateTXG != b.CreateTXG {
			return 1 - 2*btoi(a.CreateTXG < b.CreateTXG)
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all, err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Take makes snapshots by their whole names, one of each dataset, all or none, in one transaction (datasets of one pool; of
// several, one transaction each). properties may be nil. One that is there already is ErrExist, and none is made.
func (c *Client) Take(ctx context.Context, properties map[string]string, names ...string) error {
	return c.take(ctx, nil, properties, names)
}

// TakeRecursive makes a snapshot of a dataset and of all below it, in one transaction.
func (c *Client) TakeRecursive(ctx context.Context, properties map[string]string, name string) error {
	return c.take(ctx, []string{"-r"}, properties, []string{name})
}

func (c *Client) take(ctx context.Context, options []string, properties map[string]string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	set, err := settings(properties)
	if err != nil {
		return err
	}
	args := slices.Concat([]string{"snapshot"}, options)
	for _, s := range set {
		if !isUser(s[:strings.Index(s, "=")]) {
			return badName("property", s, "a snapshot takes user properties only")
		}
		args = append(args, "-o", s)
	}
	datasets, err := datasetsOf(names)
	if err != nil {
		return err
	}
	if options != nil {
		datasets = nil // unknown many
	}
	return c.change(ctx, command{tool: "zfs", args: append(args, names...), name: summary(names)}, datasets...)
}

// datasetsOf checks whole names of snapshots.
func datasetsOf(names []string) ([]string, error) {
	var all []string
	for _, n := range names {
		if err := CheckSnapshot(n); err != nil {
			return nil, err
		}
		all = append(all, datasetOf(n))
	}
	return slices.Compact(slices.Sorted(slices.Values(all))), nil
}

// summary names many for an error.
func summary(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s and %d more", names[0], len(names)-1)
}

// Hold puts a hold on snapshots, all in one transaction: while one is there, destroying the snapshot or its dataset
// is refused by the kernel. A tag that is there already is ErrExist.
func (c *Client) Hold(ctx context.Context, tag string, names ...string) error {
	return c.tag(ctx, "hold", nil, tag, names)
}

// HoldRecursive holds the snapshots of that name of a dataset and of all below it.
func (c *Client) HoldRecursive(ctx context.Context, tag, name string) error {
	return c.tag(ctx, "hold", []string{"-r"}, tag, []string{name})
}

// Release takes a hold away. A tag that is not there is ErrNotExist. A snapshot that waited for it (Deferred) goes.
func (c *Client) Release(ctx context.Context, tag string, names ...string) error {
	return c.tag(ctx, "release", nil, tag, names)
}

func (c *Client) tag(ctx context.Context, verb string, options []string, tag string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	if err := checkTag(tag); err != nil {
		return err
	}
	datasets, err := datasetsOf(names)
	if err != nil {
		return err
	}
	if options != nil {
		datasets = nil
	}
	args := slices.Concat([]string{verb}, options, []string{tag}, names)
	return c.change(ctx, command{tool: "zfs", args: args, name: summary(names)}, datasets...)
}

// Hold is one hold on one snapshot.
type Hold struct {
	Snapshot string
	Tag      string
	Created  time.Time // to the minute
}

// Holds returns the holds on snapshots. Tags are free text: their number is compared with what the kernel
// counts, so that a line break in one can not pass for another. Two processes.
func (c *Client) Holds(ctx context.Context, names ...string) ([]Hold, error) {
	if len(names) == 0 {
		return nil, nil
	}
	if _, err := datasetsOf(names); err != nil {
		return nil, err
	}
	k := command{tool: "zfs", args: append([]string{"holds", "-H"}, names...), name: summary(names), query: true}
	var all []Hold
	err := settled(func() error {
		counts, err := c.counts(ctx, names)
		if err != nil {
			return err
		}
		out, err := c.run(ctx, k)
		if err != nil {
			return err
		}
		if all, err = parseHolds(k, out); err != nil {
			return err
		}
		for _, h := range all {
			counts[h.Snapshot]--
		}
		for name, n := range counts {
			if n != 0 {
				return k.odd("%d holds of %s are missing, or too many", n, name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// counts is how many holds the kernel counts on each.
func (c *Client) counts(ctx context.Context, names []string) (map[string]int, error) {
	k := command{tool: "zfs", args: append([]string{"list", "-Hp", "-t", "snapshot", "-o", "name,userrefs"}, names...), name: summary(names), query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return nil, err
	}
	lines, err := rows(k, out, 2)
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	for _, f := range lines {
		if all[f[0]], err = strconv.Atoi(f[1]); err != nil {
			return nil, k.odd("%w", err)
		}
	}
	return all, nil
}

// holdTime is what zfs holds prints (print_holds in zfs_main.c), in the time zone that run sets.
const holdTime = "Mon Jan _2 15:04 2006"

func parseHolds(k command, out []byte) ([]Hold, error) {
	var all []Hold
	for line := range bytes.Lines(out) {
		s := strings.TrimSuffix(string(line), "\n")
		first, last := strings.IndexByte(s, '\t'), strings.LastIndexByte(s, '\t')
		if first < 0 || first == last {
			return nil, k.odd("a line of less than three columns")
		}
		at, err := time.Parse(holdTime, s[last+1:])
		if err != nil {
			return nil, k.odd("%w", err)
		}
		all = append(all, Hold{Snapshot: s[:first], Tag: s[first+1 : last], Created: at})
	}
	return all, nil
}

// DestroySnapshot destroys one snapshot that is still the one with this guid; another one under its name is ErrNotExist.
// With a hold it is ErrHeld, while somebody reads it ErrBusy, with a clone ErrDependent. Nothing is deferred or forced.
func (c *Client) DestroySnapshot(ctx context.Context, name string, guid uint64) error {
	s, err := c.Snapshot(ctx, name)
	if err != nil {
		return err
	}
	if s.GUID != guid {
		return &Error{Op: "zfs destroy", Name: name, Kind: ErrNotExist, Err: fmt.Errorf("guid is %d and not %d", s.GUID, guid)}
	}
	if s.Holds > 0 { // the kernel would say "busy" and not why
		return &Error{Op: "zfs destroy", Name: name, Kind: ErrHeld, Err: fmt.Errorf("%d holds", s.Holds)}
	}
	err = c.change(ctx, command{tool: "zfs", args: []string{"destroy", name}, name: name}, s.Dataset())
	var e *Error
	if errors.As(err, &e) && e.Kind == ErrBusy {
		if now, err := c.Snapshot(ctx, name); err == nil && now.Holds > 0 {
			e.Kind = ErrHeld
		}
	}
	return err
}

// Bookmark remembers a snapshot as dataset#mark, so that what comes after it can be sent when it is gone.
func (c *Client) Bookmark(ctx context.Context, snapshot, mark string) error {
	if err := errors.Join(CheckSnapshot(snapshot), checkPart("bookmark", mark)); err != nil {
		return err
	}
	k := command{tool: "zfs", args: []string{"bookmark", snapshot, datasetOf(snapshot) + "#" + mark}, name: snapshot}
	_, err := c.run(ctx, k)
	return err
}
