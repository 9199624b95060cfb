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

	gozfs "github.com/mistifyio/go-zfs/v3"
)

// Value is a property's value and where it is from.
type Value struct {
	Value  string
	Source string // "local", "received", "default", "temporary", "inherited from NAME"; "" if it has none
}

// Own reports whether the value was set on the dataset itself, and not on one above it.
func (v Value) Own() bool { return v.Source == "local" || v.Source == "received" }

// Dataset is a file system or volume. Sizes are bytes.
type Dataset struct {
	Name            string
	Type            string // "filesystem" or "volume"
	GUID            uint64 // stays with it through renames, and differs in a copy
	CreateTXG       uint64 // the pool's transaction that made it
	Created         time.Time
	Used            uint64 // with snapshots and children
	Available       uint64
	Referenced      uint64 // what it has now
	UsedBySnapshots uint64
	UsedByChildren  uint64
	Written         uint64 // since the last snapshot
	LogicalUsed     uint64 // before compression
	Quota           uint64 // 0: none
	RefQuota        uint64
	Mountpoint      string // "none", "legacy", or a path
	Mounted         bool
	Encryption      string // "off", or a cipher
	KeyStatus       string // "available", "unavailable"; "" without encryption
	Origin          string // the snapshot that it is a clone of
	Properties      map[string]Value
}

// facts are the columns that have no free text, in the order of parse's fields. mountpoint is free
// text of a kind; it comes with the properties.
var facts = []string{"name", "type", "guid", "createtxg", "creation", "used", "available", "referenced", "usedbysnapshots",
	"usedbychildren", "written", "logicalused", "quota", "refquota", "mounted", "encryption", "keystatus", "origin"}

func parseDataset(f []string) (*Dataset, error) {
	d := &Dataset{Name: f[0], Type: f[1], Mounted: f[14] == "yes", Encryption: f[15], KeyStatus: dash(f[16]), Origin: dash(f[17])}
	var created uint64
	fields := []*uint64{&d.GUID, &d.CreateTXG, &created, &d.Used, &d.Available, &d.Referenced, &d.UsedBySnapshots, &d.UsedByChildren,
		&d.Written, &d.LogicalUsed, &d.Quota, &d.RefQuota}
	if err := numbers(f[2:14], fields); err != nil {
		return nil, err
	}
	d.Created = time.Unix(int64(created), 0)
	return d, CheckDataset(d.Name)
}

func dash(s string) string {
	if s == "-" {
		return ""
	}
	return s
}

// numbers parses what -p prints: digits, "-" or "none" for what does not apply.
func numbers(from []string, to []*uint64) error {
	for i, s := range from {
		if s == "-" || s == "none" {
			continue
		}
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return err
		}
		*to[i] = n
	}
	return nil
}

// rows splits what -H prints into lines and columns. Its columns have no free text.
func rows(k command, out []byte, columns int) ([][]string, error) {
	var all [][]string
	for line := range bytes.Lines(out) {
		f := strings.Split(strings.TrimSuffix(string(line), "\n"), "\t")
		if len(f) != columns {
			return nil, k.odd("a line of %d columns, want %d", len(f), columns)
		}
		all = append(all, f)
	}
	return all, nil
}

// Get returns one dataset with the properties asked for beside the usual ones. Two processes.
func (c *Client) Get(ctx context.Context, name string, properties ...string) (*Dataset, error) {
	all, err := c.datasets(ctx, name, []string{"-d", "0"}, properties)
	if err != nil {
		return nil, err
	}
	if len(all) != 1 || all[0].Name != name {
		return nil, &Error{Op: "zfs list", Name: name, Kind: ErrOutput, Err: fmt.Errorf("%d datasets", len(all))}
	}
	return all[0], nil
}

// List returns root and the file systems and volumes below it, to a depth (0: root alone; -1: all),
// parents before children, with the properties asked for. Two processes.
func (c *Client) List(ctx context.Context, root string, depth int, properties ...string) ([]*Dataset, error) {
	limit := []string{"-r"}
	if depth >= 0 {
		limit = []string{"-d", strconv.Itoa(depth)}
	}
	return c.datasets(ctx, root, limit, properties)
}

func (c *Client) datasets(ctx context.Context, root string, limit, properties []string) ([]*Dataset, error) {
	if err := errors.Join(CheckDataset(root), checkProperties(properties)); err != nil {
		return nil, err
	}
	k := command{tool: "zfs", args: slices.Concat([]string{"list", "-Hp", "-t", "filesystem,volume", "-o", strings.Join(facts, ",")}, limit, []string{root}), name: root, query: true}
	var all []*Dataset
	err := settled(func() error {
		out, err := c.run(ctx, k)
		if err != nil {
			return err
		}
		lines, err := rows(k, out, len(facts))
		if err != nil {
			return err
		}
		all = nil
		names := map[string]int{}
		for i, f := range lines {
			d, err := parseDataset(f)
			if err != nil {
				return k.odd("line %d: %w", i+1, err)
			}
			names[d.Name] = i
			all = append(all, d)
		}
		values, err := c.values(ctx, []string{root}, slices.Concat([]string{"-t", "filesystem,volume"}, limit), names, append([]string{"mountpoint"}, properties...))
		if err != nil {
			return err
		}
		for i, d := range all {
			d.Properties = values[i]
			d.Mountpoint = d.Properties["mountpoint"].Value
			delete(d.Properties, "mountpoint")
		}
		return nil
	})
	return all, err
}

// settled tries again when two listings do not belong together: something was made or removed between them. What goes
// on not to fit is an error.
func settled(do func() error) error {
	var err error
	for range 3 {
		if err = do(); !errors.Is(err, ErrOutput) {
			return err
		}
	}
	return err
}

// values runs `zfs get` for datasets or snapshots that a listing has named: names are theirs, with their places in
// the result. Values are free text. Since names and properties are known, the lines that must come are known, each
// once; a value with a line break makes one too many, so nobody can pass a text for another's line.
func (c *Client) values(ctx context.Context, roots, limit []string, names map[string]int, properties []string) ([]map[string]Value, error) {
	properties = slices.Compact(slices.Sorted(slices.Values(properties)))
	k := command{tool: "zfs", args: slices.Concat([]string{"get", "-Hp", "-o", "name,property,source,value"}, limit, []string{strings.Join(properties, ",")}, roots), name: summary(roots), query: true}
	out, err := c.run(ctx, k)
	if err != nil {
		return nil, err
	}
	all := make([]map[string]Value, len(names))
	count := 0
	for line := range bytes.Lines(out) {
		f := strings.SplitN(strings.TrimSuffix(string(line), "\n"), "\t", 4)
		if len(f) != 4 {
			return nil, k.odd("a line of %d columns: a property's value has a line break, or something else is printed", len(f))
		}
		i, ok := names[f[0]]
		if !ok || !slices.Contains(properties, f[1]) {
			return nil, k.odd("property %q of %q, which were not asked for", f[1], f[0])
		}
		if all[i] == nil {
			all[i] = make(map[string]Value, len(properties))
		}
		if _, ok := all[i][f[1]]; ok {
			return nil, k.odd("property %s of %s twice", f[1], f[0])
		}
		all[i][f[1]] = Value{Value: f[3], Source: dash(f[2])}
		count++
	}
	if want := len(names) * len(properties); count != want {
		return nil, k.odd("%d values, want %d", count, want)
	}
	// A user property that nobody set is "-" without a source; absent is clearer.
	for _, m := range all {
		for p, v := range m {
			if v.Value == "-" && v.Source == "" {
				delete(m, p)
			}
		}
	}
	return all, nil
}

// settings turns properties into sorted "k=v".
func settings(properties map[string]string) ([]string, error) {
	all := make([]string, 0, len(properties))
	for p, v := range properties {
		if err := checkSetting(p, v); err != nil {
			return nil, err
		}
		all = append(all, p+"="+v)
	}
	slices.Sort(all)
	return all, nil
}

// Create makes a file system with properties and mounts it where it inherits. Its parent must exist. An unprivileged
// user may be allowed to make it and never to mount it: then it is made, and the error is ErrPermission. key, if any,
// is what `keylocation=prompt` reads.
func (c *Client) Create(ctx context.Context, name string, properties map[string]string, key []byte) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	set, err := settings(properties)
	if err != nil {
		return err
	}
	if key == nil {
		c.touch(name)
		defer c.touch(name)
		_, err := lib(ctx, c, "zfs create", name, append([]string{"create", name}, set...), func() (*gozfs.Dataset, error) {
			return gozfs.CreateFilesystem(name, properties)
		})
		return err
	}
	args := []string{"create"}
	for _, s := range set {
		args = append(args, "-o", s)
	}
	return c.change(ctx, command{tool: "zfs", args: append(args, name), name: name, stdin: key}, name)
}

// CreateUnmounted makes a file system with properties, which somebody else mounts. Its parent must exist.
func (c *Client) CreateUnmounted(ctx context.Context, name string, properties map[string]string) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	set, err := settings(properties)
	if err != nil {
		return err
	}
	args := []string{"create", "-u"}
	for _, s := range set {
		args = append(args, "-o", s)
	}
	return c.change(ctx, command{tool: "zfs", args: append(args, name), name: name}, name)
}

// Set sets properties in one step: all or none.
func (c *Client) Set(ctx context.Context, name string, properties map[string]string) error {
	if err := checkAny(name); err != nil {
		return err
	}
	set, err := settings(properties)
	if err != nil {
		return err
	}
	if len(set) == 0 {
		return nil
	}
	return c.change(ctx, command{tool: "zfs", args: slices.Concat([]string{"set"}, set, []string{name}), name: name}, datasetOf(name))
}

// Inherit takes a dataset's own value of a property away.
func (c *Client) Inherit(ctx context.Context, name, property string) error {
	if err := errors.Join(checkAny(name), checkProperty(property)); err != nil {
		return err
	}
	return c.change(ctx, command{tool: "zfs", args: []string{"inherit", property, name}, name: name}, datasetOf(name))
}

// SetQuota sets quota (with snapshots and children) and refquota (without); 0 is none. One that is less than
// what is used is ErrQuota for quota; refquota may be less.
func (c *Client) SetQuota(ctx context.Context, name string, quota, refquota uint64) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	return c.Set(ctx, name, map[string]string{"quota": size(quota), "refquota": size(refquota)})
}

func size(n uint64) string {
	if n == 0 {
		return "none"
	}
	return strconv.FormatUint(n, 10)
}

// Rename gives a dataset another name in the same pool, with all below it, and mounts it there. For a moment it is not
// mounted; while somebody has a file of it open it is ErrBusy.
func (c *Client) Rename(ctx context.Context, from, to string) error {
	if err := errors.Join(CheckDataset(from), CheckDataset(to)); err != nil {
		return err
	}
	c.touch() // what is below it is renamed, too
	defer c.touch()
	_, err := lib(ctx, c, "zfs rename", from, []string{"rename", from, to}, func() (*gozfs.Dataset, error) {
		return (&gozfs.Dataset{Name: from}).Rename(to, false, false)
	})
	return err
}

// Mount mounts a file system with options, or without. One that is mounted is ErrMounted. Only root can.
func (c *Client) Mount(ctx context.Context, name string, options ...string) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	for _, o := range options {
		if err := checkProperty(o); err != nil {
			return err
		}
	}
	_, err := lib(ctx, c, "zfs mount", name, append([]string{"mount", name}, options...), func() (*gozfs.Dataset, error) {
		return (&gozfs.Dataset{Name: name}).Mount(false, options)
	})
	return err
}

// Unmount unmounts a file system. While it is in use that is ErrBusy; it is never forced.
func (c *Client) Unmount(ctx context.Context, name string) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	_, err := lib(ctx, c, "zfs unmount", name, []string{"umount", name}, func() (*gozfs.Dataset, error) {
		return (&gozfs.Dataset{Name: name}).Unmount(false)
	})
	return err
}

// LoadKey loads the key of an encrypted dataset; key may be nil if its keylocation is a file. It mounts nothing.
// A wrong one is ErrKey.
func (c *Client) LoadKey(ctx context.Context, name string, key []byte) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	args := []string{"load-key"}
	if key != nil {
		args = append(args, "-L", "prompt")
	} else {
		key = []byte{} // never our own terminal
	}
	return c.change(ctx, command{tool: "zfs", args: append(args, name), name: name, stdin: key}, name)
}

// UnloadKey makes an encrypted dataset unreadable until LoadKey. While it is mounted that is ErrBusy.
func (c *Client) UnloadKey(ctx context.Context, name string) error {
	if err := CheckDataset(name); err != nil {
		return err
	}
	return c.change(ctx, command{tool: "zfs", args: []string{"unload-key", name}, name: name}, name)
}

// Clone makes a file system of a snapshot, with properties; "readonly": "on" makes a view of it that
// does not rest on automounting. The snapshot can not be destroyed while it is there.
func (c *Client) Clone(ctx context.Context, snapshot, name string, properties map[string]string) error {
	if err := errors.Join(CheckSnapshot(snapshot), CheckDataset(name)); err != nil {
		return err
	}
	set, err := settings(properties)
	if err != nil {
		return err
	}
	// Not go-zfs's Clone: that has -p, with which a dataset that is there already, whatever it is, is success.
	args := []string{"clone"}
	for _, s := range set {
		args = append(args, "-o", s)
	}
	return c.change(ctx, command{tool: "zfs", args: append(args, snapshot, name), name: name}, name)
}

// DestroyClone destroys a read-only clone of a snapshot, as Clone makes one to look into it: there is nothing in it that is not in
// the snapshot. Any other dataset is refused with ErrName; one with children or snapshots is ErrDependent, one in use ErrBusy.
func (c *Client) DestroyClone(ctx context.Context, name string) error {
	d, err := c.Get(ctx, name, "readonly")
	if err != nil {
		return err
	}
	if d.Origin == "" || d.Properties["readonly"].Value != "on" {
		return badName("dataset", name, "not a read-only clone")
	}
	return c.change(ctx, command{tool: "zfs", args: []string{"destroy", name}, name: name}, name)
}

func datasetOf(name string) string {
	ds, _ := SplitSnapshot(name)
	return ds
}
