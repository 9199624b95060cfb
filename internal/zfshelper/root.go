package zfshelper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"vaultd/internal/zfs"
)

// rootProperties are those of the root dataset, which those below it get again for themselves.
var rootProperties = map[string]string{"atime": "off", "exec": "off", "setuid": "off", "devices": "off", "xattr": "sa", "acltype": "posixacl", "snapdir": "hidden"}

// Step is something that is to be done once, by the operator, for the root dataset to be as a store needs it.
type Step struct {
	What string // "zfs create …"
	Do   func(context.Context) error
}

// ErrOthers says that the dataset is in use for something else.
var ErrOthers = errors.New("dataset is another store's")

// Root looks at the root dataset and returns what is left to do; nothing, when all was done. It is the operator's, and no verb: "vaultd init".
func (h *Helper) Root(ctx context.Context) ([]Step, error) {
	pools, err := h.cfg.Client.Pools(ctx)
	if err != nil {
		return nil, err
	}
	found := false
	for _, p := range pools {
		found = found || p == h.pool
	}
	if !found {
		return nil, fmt.Errorf("pool %q is not imported: %w", h.pool, zfs.ErrNotExist)
	}
	var names []string
	for p := range rootProperties {
		names = append(names, p)
	}
	d, err := h.cfg.Client.Get(ctx, h.cfg.Dataset, append(names, "canmount")...)
	if errors.Is(err, zfs.ErrNotExist) {
		return h.create(), nil
	}
	if err != nil {
		return nil, err
	}
	if d.Type != "filesystem" {
		return nil, fmt.Errorf("dataset %s is a %s: %w", d.Name, d.Type, ErrOthers)
	}
	set := map[string]string{}
	if d.Mountpoint != h.cfg.Dir {
		if strings.HasPrefix(d.Mountpoint, "/") {
			if _, err := os.Stat(d.Mountpoint + "/../vaultd.db"); err == nil {
				return nil, fmt.Errorf("dataset %s is mounted at %s: %w", d.Name, d.Mountpoint, ErrOthers)
			}
		}
		set["mountpoint"] = h.cfg.Dir
	}
	for p, want := range rootProperties {
		if got := d.Properties[p].Value; got != want && !(p == "acltype" && got == "posix") {
			set[p] = want
		}
	}
	if d.Properties["canmount"].Value != "on" {
		set["canmount"] = "on"
	}
	var steps []Step
	if len(set) > 0 {
		steps = append(steps, Step{"zfs set " + words(set) + " " + d.Name, func(ctx context.Context) error { return h.cfg.Client.Set(ctx, d.Name, set) }})
	}
	at, err := h.open(h.cfg.Dir, h.cfg.Dataset)
	if err == nil {
		var st unix.Stat_t
		err := errors.Join(unix.Fstat(int(at.Fd()), &st), at.Close())
		if err == nil && (int(st.Uid) != h.rootUID() || int(st.Gid) != h.cfg.GID || st.Mode&0o7777 != dirMode) {
			steps = append(steps, h.mount(true)...)
		}
		return steps, err
	}
	return append(steps, h.mount(d.Mounted && set["mountpoint"] == "")...), nil
}

func (h *Helper) create() []Step {
	set := map[string]string{"mountpoint": h.cfg.Dir, "compression": h.cfg.Compression}
	for p, v := range rootProperties {
		set[p] = v
	}
	return append([]Step{{"zfs create " + words(set) + " " + h.cfg.Dataset, func(ctx context.Context) error {
		return h.cfg.Client.Create(ctx, h.cfg.Dataset, set, nil)
	}}}, h.mount(true)...)
}

// mount are the steps that bring the root to its place, and give it to its owner, as a directory of tenants is.
func (h *Helper) mount(mounted bool) []Step {
	what := fmt.Sprintf("mount %s at %s", h.cfg.Dataset, h.cfg.Dir)
	if mounted {
		what = fmt.Sprintf("give %s to user %d", h.cfg.Dir, h.rootUID())
	}
	return []Step{{what, func(ctx context.Context) error {
		at, err := h.open(h.cfg.Dir, h.cfg.Dataset)
		if errors.Is(err, ErrAbsent) {
			if err := h.cfg.Client.Mount(ctx, h.cfg.Dataset); err != nil && !errors.Is(err, zfs.ErrMounted) {
				return err
			}
			at, err = h.open(h.cfg.Dir, h.cfg.Dataset)
		}
		if err != nil {
			return err
		}
		return errors.Join(at.Chown(h.rootUID(), h.cfg.GID), at.Chmod(dirMode), at.Close())
	}}}
}

// rootUID is whose the root dataset is.
func (h *Helper) rootUID() int {
	if h.cfg.RootOwned {
		return 0
	}
	return h.cfg.UID
}

// words are properties as zfs(8) takes them.
func words(set map[string]string) string {
	var all []string
	for p, v := range set {
		all = append(all, p+"="+v)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
