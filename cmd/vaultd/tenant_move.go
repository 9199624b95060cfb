package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/journal"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// move is a tenant's dataset on its way to another place. Until the last step, one rename or one zfs set mountpoint, the tenant is where it was, and
// after it nothing of it is anywhere else; each step can be done again.
type move struct {
	a        *app
	t        tenant.Tenant
	From     string `json:"from"`
	To       string `json:"to"`
	Left     string `json:"left"` // where the old one stays, for the operator to remove
	Records  uint64 `json:"records"`
	Contents int64  `json:"contents"`
	Bytes    int64  `json:"bytes"`

	build      string // where it is made
	make       func(context.Context) error
	switchOver func(context.Context) error
	copied     bool // switchOver was cut short, and is all that is left to do
}

func (a *app) tenantMove() *cobra.Command {
	var toDataset, toDir, back bool
	var wait time.Duration
	c := &cobra.Command{Use: "move NAME", Short: "Move a tenant from a directory into its ZFS dataset, or back", Args: cobra.ExactArgs(1),
		Long: "Moves a tenant that waits in former/ (vaultd init --pool put it there) into a dataset of its own below [zfs] dataset, or with --to-dir from its dataset into former/. Contents are copied while the tenant is in use; then new sessions are refused, the move waits for those that are open, copies the rest, makes the live tree again, compares the chain and the digest of every content with the journal, and only then switches. A move that was cut short goes on where it was when it is asked for again; --abort takes it back. Nothing is removed: where the old one stays is said. Bodies of snapshots stay there, too; the snapshots themselves are in the journal. Between pools: vaultd init --dataset OTHER puts all tenants aside with the dataset they are in, and each is moved.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if toDataset == toDir {
				return &usageError{errors.New("want one of --to-dataset and --to-dir")}
			}
			m, err := a.planMove(args[0], toDataset)
			if err != nil {
				return err
			}
			switch {
			case a.dryRun:
			case back:
				err = m.abort()
			default:
				err = m.run(cmd.Context(), wait)
			}
			if err != nil {
				return err
			}
			return a.print("vaultd.tenant-move/v1", m, func(w io.Writer) { m.show(w, back) })
		}}
	f := c.Flags()
	f.BoolVar(&toDataset, "to-dataset", false, "into its ZFS dataset")
	f.BoolVar(&toDir, "to-dir", false, "into a directory of the store")
	f.BoolVar(&back, "abort", false, "take back a move that was cut short")
	f.DurationVar(&wait, "wait", 10*time.Minute, "how long open sessions get to end")
	a.whyFlag(c)
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

// planMove finds out from where to where.
func (a *app) planMove(name string, toDataset bool) (*move, error) {
	conf, err := a.loadConfig()
	if err != nil {
		return nil, err
	}
	if conf.ZFS.Dataset == "" {
		return nil, errNoDataset
	}
	_, t, err := a.tenant(name)
	if err != nil {
		return nil, err
	}
	log := newLogger(a.stderr, "text", "warn")
	h, err := a.ownHelper(conf, log)
	if err != nil {
		return nil, err
	}
	z, err := a.driver(conf, h)
	if err != nil {
		return nil, err
	}
	dataset, former := filepath.Join(z.Dir, t.ID), z.Former(t.ID)
	hidden := func(word string) string { return filepath.Join(filepath.Dir(former), "."+word+"-"+t.ID) }
	m := &move{a: a, t: t}
	_, there := os.Lstat(former)
	switch {
	case toDataset && errors.Is(there, fs.ErrNotExist):
		return nil, fmt.Errorf("tenant %s is not in %s: %w", name, filepath.Dir(former), fs.ErrNotExist)
	case !toDataset && there == nil:
		return nil, fmt.Errorf("tenant %s is in %s already: %w", name, filepath.Dir(former), fs.ErrExist)
	case there != nil && !errors.Is(there, fs.ErrNotExist):
		return nil, there
	case toDataset:
		m.From, m.To, m.build, m.Left = former, dataset, dataset, hidden("moved")
		m.make = func(ctx context.Context) error { return z.MakeEmpty(ctx, t) }
		m.switchOver = func(context.Context) error { return renameDurably(former, m.Left) }
		if err := m.fromDataset(former); err != nil {
			return nil, err
		}
		if _, err := os.Lstat(m.Left); !m.copied && !errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(fmt.Errorf("%s is there from an earlier move: remove it first: %w", m.Left, fs.ErrExist), err)
		}
	default:
		if m.From, err = z.Path(t.ID); err != nil {
			return nil, err
		}
		m.To, m.build, m.Left = former, hidden("moving"), dataset
		m.make = func(context.Context) error { return os.MkdirAll(m.build, 0o750) }
		m.switchOver = func(context.Context) error { return renameDurably(m.build, former) }
	}
	return m, nil
}

// fromDataset completes the plan for a tenant whose place in former/ is a dataset, of another pool. That can not be renamed while it is mounted: its
// mount point is what moves, to Left. Where that was cut short, the mount point has moved and an empty directory may be left.
func (m *move) fromDataset(former string) error {
	root, err := m.a.mountedAt(filepath.Dir(former))
	if err != nil || root == "" {
		return err
	}
	dataset := root + "/" + m.t.ID
	client, err := newZFS(newLogger(m.a.stderr, "text", "warn"))
	if err != nil {
		return err
	}
	d, err := client.Get(context.Background(), dataset)
	if err != nil {
		return err
	}
	at, err := m.a.mountedAt(former)
	if err != nil {
		return err
	}
	m.copied = d.Mountpoint == m.Left
	if at != dataset && !m.copied {
		return fmt.Errorf("tenant %s: dataset %s is not mounted in its place (zfs mount): %w", m.t.Name, dataset, store.ErrOffline)
	}
	m.switchOver = func(ctx context.Context) error {
		if err := client.Set(ctx, dataset, map[string]string{"mountpoint": m.Left}); err != nil {
			return err
		}
		if err := os.Remove(former); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return syncDir(filepath.Dir(former))
	}
	return nil
}

// run does all that is left to do.
func (m *move) run(ctx context.Context, wait time.Duration) error {
	if !m.copied {
		if err := m.copy(ctx, wait); err != nil {
			return err
		}
	}
	if err := m.switchOver(ctx); err != nil {
		return err
	}
	if err := m.a.catalog().Moved(m.t.Name, m.From, m.To); err != nil {
		return err
	}
	return m.a.reload(ctx)
}

// copy makes all of the tenant a second time, compared; from its middle on, nobody is let in.
func (m *move) copy(ctx context.Context, wait time.Duration) error {
	if err := m.make(ctx); err != nil {
		return err
	}
	set, done := m.a.progress("bytes", -1)
	c, err := volume.Copy(m.From, m.build, func(n int64) { m.Bytes += n; set(m.Bytes) })
	if err != nil {
		return err
	}
	if err := c.Ahead(ctx); err != nil {
		return err
	}
	if err := volume.Leave(m.From); err != nil {
		return err
	}
	if err := m.withdraw(ctx, wait); err != nil {
		return err
	}
	head, err := m.head()
	if err != nil {
		return err
	}
	m.Bytes = 0
	if err := c.Rest(ctx); err != nil {
		return err
	}
	done()
	if err := store.CheckCopy(ctx, m.build, m.t, head, newLogger(m.a.stderr, "text", "warn"), func(v appendonly.Verified) { m.Contents = v.Contents }); err != nil {
		return fmt.Errorf("check the copy: %w (the tenant is where it was, and closed: try again, or --abort)", err)
	}
	if err := store.GiveTree(m.build, m.From); err != nil {
		return err
	}
	return c.Done()
}

// withdraw has the server close the vault, once nobody uses it.
func (m *move) withdraw(ctx context.Context, wait time.Duration) error {
	for begin := time.Now(); ; {
		err := m.a.call(ctx, "tenant.withdraw", endRequest{ID: m.t.ID}, nil)
		if errors.Is(err, admin.ErrNotRunning) {
			return nil // nobody has it open, and nobody opens it
		}
		if err == nil || exitCode(err) != exitTemporary || time.Since(begin) > wait {
			if err != nil {
				err = fmt.Errorf("%w (new sessions are refused meanwhile: try again, or --abort)", err)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// head is the newest record of what is left.
func (m *move) head() (journal.Head, error) {
	v, err := volume.OpenAway(m.From)
	if err != nil {
		return journal.Head{}, err
	}
	head, _, err := journal.NewReader(v).All(func(*journal.Record, []byte) error { return nil })
	m.Records = uint64(head.Seq)
	return head, errors.Join(err, v.Close())
}

// abort lets the tenant's sessions in again, where it was.
func (m *move) abort() error { return volume.Return(m.From) }

func (m *move) show(w io.Writer, back bool) {
	switch {
	case m.a.dryRun:
		fmt.Fprintf(w, "would move tenant %s from %s to %s\n", m.t.Name, m.From, m.To)
	case back:
		fmt.Fprintf(w, "tenant %s is where it was, %s; what was copied stays in %s\n", m.t.Name, m.From, m.build)
	default:
		fmt.Fprintf(w, "tenant %s is in %s: %d records, %d contents compared, %s\nwhat is left in %s is not used any more: remove it when you like\n", m.t.Name, m.To, m.Records, m.Contents, size(m.Bytes), m.Left)
	}
}

// renameDurably renames within one file system.
func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (o *operations) withdraw(_ context.Context, in endRequest) (struct{}, error) {
	return struct{}{}, o.st.Withdraw(in.ID)
}
