package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"vaultd/internal/admin"
	"vaultd/internal/appendonly"
	"vaultd/internal/archive"
	"vaultd/internal/expect"
	"vaultd/internal/inventory"
	"vaultd/internal/journal"
	"vaultd/internal/pool"
	"vaultd/internal/snapshot"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/volume"
)

// operations are what commands ask of a store's data: of the running server through its socket, or of
// the store itself when no server runs. Both ways end in the same functions.
type operations struct {
	st     *store.Store
	dir    string                                // the store's
	state  *tenant.State                         // what the server learned; nil: it can not be read
	common func() expect.Rule                    // of tenants without an expectation of their own
	used   func() (map[string]tenant.Use, error) // what the server learned of keys
	// forecast is the day on which a tenant is full, as things go (zero: not known), and pool how the pool is; nil: nobody knows.
	forecast func(tenantID string) time.Time
	pool     func() *pool.Report
	metering *metering           // nil without a server
	scraping *scraping           // nil without a server
	server   func() serverStatus // nil without a server
	reload   func() error
	door     *sshd.Server // nil without a server
	live     *liveConfig  // nil without a server
	expire   int          // see begun
}

func (o *operations) calls() map[string]admin.Call {
	return map[string]admin.Call{
		"reload":          admin.Handle(o.reloadCall),
		"status":          admin.Handle(o.status),
		"pool":            admin.Handle(o.poolReport),
		"inventory":       admin.Handle(func(context.Context, struct{}) (inventory.Inventory, error) { return o.inventory() }),
		"expect.suggest":  admin.Handle(o.suggest),
		"used":            admin.Handle(func(context.Context, struct{}) (map[string]tenant.Use, error) { return o.used() }),
		"snapshot.list":   admin.Handle(o.snapshots),
		"snapshot.create": admin.Handle(o.takeSnapshot),
		"versions":        admin.Handle(o.versions),
		"usage":           admin.Handle(o.usage),
		"usage.bill":      admin.Handle(o.bill),
		"usage.standings": admin.Handle(o.standings),
		"journal.verify":  admin.Handle(o.verifyJournal),
		"journal.rebuild": admin.Handle(o.rebuildIndex),
		"rebuild.tree":    admin.Handle(o.rebuildTree),
		"quota.recount":   admin.Handle(o.recount),
		"freed":           admin.Handle(fromExpire(o, o.freed)),
		"today":           admin.Handle(o.today),
		"bans":            admin.Handle(o.bans),
		"bans.clear":      admin.Handle(o.clearBans),
		"retire":          admin.Handle(o.retire),
		"explain":         admin.Handle(o.explain),
		"undo":            admin.Handle(o.undo),
		"incident":        admin.Handle(o.incident),
		"config.reload":   admin.Handle(o.reloadConfig),
		"config.show":     admin.Handle(o.showConfig),
		"tenant.clear":    admin.Handle(fromExpire(o, o.clear)),
		"tenant.release":  admin.Handle(fromExpire(o, o.release)),
		"tenant.withdraw": admin.Handle(fromExpire(o, o.withdraw)),
	}
}

func (o *operations) streams() map[string]admin.Stream {
	return map[string]admin.Stream{
		"restore":        admin.HandleStream(o.restore),
		"pushes":         admin.HandleStream(o.pushes),
		"metrics":        admin.HandleStream(o.metrics),
		"verify":         admin.HandleStream(o.verifyContents),
		"journal.export": admin.HandleStream(o.exportJournal),
		"incident.full":  admin.HandleStream(o.incidentFull),

		"snapshot.verify": admin.HandleStream(o.compareSnapshots),
	}
}

// tenantRef names a tenant in a request.
type tenantRef struct {
	Tenant string `json:"tenant"`
}

func (o *operations) find(name string) (tenant.Tenant, error) {
	t, ok := o.st.Tenants().Tenant(name)
	if !ok {
		return t, fmt.Errorf("tenant %q: %w", name, tenant.ErrNotFound)
	}
	return t, nil
}

// with calls f with the vault of the tenant called name.
func (o *operations) with(ctx context.Context, name string, f func(tenant.Tenant, *appendonly.Vault) error) error {
	t, err := o.find(name)
	if err != nil {
		return err
	}
	return o.st.With(ctx, t.ID, func(v *appendonly.Vault) error { return f(t, v) })
}

// reading calls f with a session of the operator's that can read everything and change nothing.
func (o *operations) reading(ctx context.Context, name string, f func(*appendonly.FS) error) error {
	return o.with(ctx, name, func(_ tenant.Tenant, v *appendonly.Vault) error {
		s := v.Session(appendonly.Who{Key: "operator", Role: appendonly.Pull, Protocol: "cli"})
		return errors.Join(f(s), s.Close(ctx))
	})
}

func (o *operations) reloadCall(context.Context, struct{}) (uint64, error) {
	err := o.reload()
	return o.st.Tenants().Seq, err
}

type snapshotRequest struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	DryRun bool   `json:"dry_run,omitempty"`
}

type snapshotReply struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`
	Instant uint64    `json:"instant"`
	Time    time.Time `json:"time"`
}

func snapshotOf(s appendonly.SnapshotInfo) snapshotReply {
	return snapshotReply{s.Name, s.Kind, uint64(s.At), s.Time.UTC()}
}

func (o *operations) snapshots(ctx context.Context, in tenantRef) ([]snapshotReply, error) {
	out := []snapshotReply{}
	err := o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		have, err := v.Snapshots()
		for _, s := range have {
			out = append(out, snapshotOf(s))
		}
		return err
	})
	return out, err
}

type takenReply struct {
	snapshotReply
	Body   *snapshot.Body `json:"body,omitempty"`    // on ZFS
	NoBody string         `json:"no_body,omitempty"` // why it has none, where it should
	Took   time.Duration  `json:"took_ns"`           // the server's work
}

func (o *operations) takeSnapshot(ctx context.Context, in snapshotRequest) (takenReply, error) {
	t, err := o.find(in.Tenant)
	if err != nil {
		return takenReply{}, err
	}
	begin := time.Now()
	if in.DryRun {
		have, err := o.snapshots(ctx, tenantRef{in.Tenant})
		for _, s := range have {
			if s.Name == in.Name {
				err = errors.Join(err, fmt.Errorf("snapshot %q: %w", in.Name, fs.ErrExist))
			}
		}
		return takenReply{snapshotReply: snapshotReply{Name: in.Name, Kind: "manual", Time: begin.UTC()}}, err
	}
	s, err := o.st.Snapshot(ctx, t, in.Name, "manual")
	out := takenReply{snapshotReply: snapshotOf(s.SnapshotInfo), Body: s.Body, Took: time.Since(begin)}
	if s.NoBody != nil {
		out.NoBody = s.NoBody.Error()
	}
	return out, err
}

// pathRequest carries a client's path as bytes: names need not be UTF-8.
type pathRequest struct {
	Tenant string `json:"tenant"`
	Path   []byte `json:"path"`
	At     string `json:"at,omitempty"`
}

type versionReply struct {
	Kind     string    `json:"kind"`
	Size     int64     `json:"size"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until,omitzero"` // absent while it is live
	SHA256   string    `json:"sha256,omitempty"`
	Key      string    `json:"key"`
	Instant  uint64    `json:"instant"`
	Modified time.Time `json:"modified"`
}

func (o *operations) versions(ctx context.Context, in pathRequest) ([]versionReply, error) {
	out := []versionReply{}
	err := o.reading(ctx, in.Tenant, func(f *appendonly.FS) error {
		have, err := f.Versions(string(in.Path))
		for _, v := range have {
			out = append(out, versionReply{Kind: v.Kind.String(), Size: v.Size, Since: v.Since.UTC(), Until: v.Gone, SHA256: v.SHA256,
				Key: v.Key, Instant: uint64(v.From), Modified: v.MTime.Time().UTC()})
		}
		return err
	})
	return out, err
}

type usageReply struct {
	Tenant     string `json:"tenant"`
	Live       int64  `json:"live_bytes"`
	Versions   int64  `json:"versions_bytes"`
	Staging    int64  `json:"staging_bytes"`
	Journal    int64  `json:"journal_bytes"`
	Used       int64  `json:"used_bytes"`
	Limit      int64  `json:"limit_bytes"` // 0: unlimited
	Files      int64  `json:"files"`
	FilesLimit int64  `json:"files_limit"`
	ReadOnly   string `json:"read_only,omitempty"` // why nothing more is taken

	Expire *expireOutcome `json:"expire,omitempty"` // of vaultd status alone
}

func usageOf(name string, v *appendonly.Vault) usageReply {
	u := v.Usage()
	r := usageReply{Tenant: name, Live: u.Live, Versions: u.Versions, Staging: u.Staging, Journal: u.Journal, Used: u.Used(), Limit: u.Limit,
		Files: u.Files, FilesLimit: u.FilesLimit}
	if err := v.Err(); err != nil {
		r.ReadOnly = err.Error()
	}
	return r
}

func (o *operations) usage(ctx context.Context, in tenantRef) (out usageReply, err error) {
	err = o.with(ctx, in.Tenant, func(t tenant.Tenant, v *appendonly.Vault) error {
		out = usageOf(t.Name, v)
		return nil
	})
	return out, err
}

type verifyReply struct {
	Records uint64 `json:"records"`
	Chain   string `json:"chain"` // of the newest record
	Torn    int64  `json:"torn_bytes"`
}

// verifyJournal reads the whole journal again and checks its chain.
func (o *operations) verifyJournal(ctx context.Context, in tenantRef) (out verifyReply, err error) {
	err = o.journalOf(ctx, in.Tenant, func(r *journal.Reader) error {
		head, torn, err := r.All(func(*journal.Record, []byte) error { return ctx.Err() })
		out = verifyReply{uint64(head.Seq), head.Chain.String(), torn}
		return err
	})
	return out, err
}

// exportJournal writes every line of the journal.
func (o *operations) exportJournal(ctx context.Context, in tenantRef, w io.Writer) error {
	return o.journalOf(ctx, in.Tenant, func(r *journal.Reader) error {
		_, _, err := r.All(func(_ *journal.Record, line []byte) error {
			if _, err := w.Write(line); err != nil {
				return err
			}
			return ctx.Err()
		})
		return err
	})
}

// journalOf reads a tenant's journal beside the vault, which may be open and writing: closed segments
// do not change, and of the open one the whole lines count.
func (o *operations) journalOf(ctx context.Context, name string, f func(*journal.Reader) error) error {
	t, err := o.find(name)
	if err != nil {
		return err
	}
	err = o.st.ReadVolume(ctx, t.ID, func(v *volume.Volume) error { return f(journal.NewReader(v)) })
	if _, missing := o.st.Dataset(t.ID); errors.Is(missing, fs.ErrNotExist) {
		return nil // nobody has come yet: no journal is a whole one
	}
	return err
}

type rebuildReply struct {
	Records uint64        `json:"records"`
	Took    time.Duration `json:"took_ns"`
}

// rebuildIndex makes the index anew from the journal. The tenant must not be in use.
func (o *operations) rebuildIndex(ctx context.Context, in tenantRef) (rebuildReply, error) {
	t, err := o.find(in.Tenant)
	if err != nil {
		return rebuildReply{}, err
	}
	begin := time.Now()
	records, err := o.st.RebuildIndex(ctx, t.ID)
	return rebuildReply{records, time.Since(begin)}, err
}

type mendedReply struct {
	Mended int `json:"mended"`
}

func (o *operations) rebuildTree(ctx context.Context, in tenantRef) (out mendedReply, err error) {
	err = o.with(ctx, in.Tenant, func(_ tenant.Tenant, v *appendonly.Vault) error {
		out.Mended, err = v.RebuildTree()
		return err
	})
	return out, err
}

type recountReply struct {
	Before usageReply `json:"before"`
	After  usageReply `json:"after"`
}

// recount derives the account from the journal again.
func (o *operations) recount(ctx context.Context, in tenantRef) (out recountReply, err error) {
	if out.Before, err = o.usage(ctx, in); err != nil {
		return out, err
	}
	if _, err = o.rebuildIndex(ctx, in); err != nil {
		return out, err
	}
	out.After, err = o.usage(ctx, in)
	return out, err
}

// restore streams what a path stood for as a tar.
func (o *operations) restore(ctx context.Context, in pathRequest, w io.Writer) error {
	return o.reading(ctx, in.Tenant, func(f *appendonly.FS) error {
		path := string(in.Path)
		if in.At != "" {
			path = "/.vault/at/" + in.At + "/" + path
			if snaps, err := f.Snapshots(); err == nil {
				for _, s := range snaps {
					if s.Name == in.At {
						path = "/.vault/snapshots/" + in.At + "/" + string(in.Path)
					}
				}
			}
		}
		return archive.Write(ctx, f, path, w)
	})
}

// call asks the running server, or does the work on the store itself when none runs.
func (a *app) call(ctx context.Context, name string, in, out any) error {
	c, err := admin.Dial(a.dir)
	if err == nil {
		defer c.Close()
		return c.Call(ctx, name, in, out)
	}
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	if as, other := a.served(); other {
		return a.asServer(ctx, as, func(c *admin.Client) error { return c.Call(ctx, name, in, out) })
	}
	return a.local(func(o *operations) error {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		res, err := o.calls()[name](ctx, body)
		if err != nil || out == nil {
			return err
		}
		if body, err = json.Marshal(res); err != nil {
			return err
		}
		return json.Unmarshal(body, out)
	})
}

// stream is call for answers that are bytes.
func (a *app) stream(ctx context.Context, name string, in any, read func(io.Reader) error) error {
	c, err := admin.Dial(a.dir)
	if err == nil {
		defer c.Close()
		body, err := c.Stream(ctx, name, in)
		if err != nil {
			return err
		}
		return errors.Join(read(body), body.Close())
	}
	if !errors.Is(err, admin.ErrNotRunning) {
		return err
	}
	if as, other := a.served(); other {
		return a.asServer(ctx, as, func(c *admin.Client) error {
			body, err := c.Stream(ctx, name, in)
			if err != nil {
				return err
			}
			return errors.Join(read(body), body.Close())
		})
	}
	return a.local(func(o *operations) error {
		body, err := json.Marshal(in)
		if err != nil {
			return err
		}
		pr, pw := io.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			pw.CloseWithError(o.streams()[name](ctx, body, pw))
		}()
		err = read(pr)
		pr.CloseWithError(io.ErrClosedPipe)
		<-ended
		return err
	})
}

// local opens the store without a server.
func (a *app) local(f func(*operations) error) error {
	if err := a.mayOpen(); err != nil {
		return err
	}
	conf, err := a.loadConfig()
	if err != nil {
		return err
	}
	log, known := newLogger(a.stderr, "text", "warn"), new(facts)
	verbs, err := a.helper(conf, log)
	if err != nil {
		return err
	}
	sc, err := a.overZFS(conf.storeConfig(log), conf, verbs)
	if err != nil {
		return err
	}
	st, err := store.Open(a.dir, known.hook(sc))
	if err != nil {
		return err
	}
	state, serr := tenant.OpenState(store.ServerDir(a.dir), tenant.StateOptions{Log: log}) // what needs it says so
	if serr == nil {
		known.state.Store(state)
	}
	o := &operations{st: st, dir: a.dir, state: state, expire: -1, common: conf.Expect.rule, reload: st.Reload, used: func() (map[string]tenant.Use, error) {
		if serr != nil {
			return nil, serr
		}
		return state.LastUsed(), nil
	}}
	err = errors.Join(f(o), st.Close())
	if serr == nil {
		err = errors.Join(err, state.Close())
	}
	return err
}

// reload tells a running server that the catalog changed. Without one there is nobody to tell.
func (a *app) reload(ctx context.Context) error {
	c, err := admin.Dial(a.dir)
	if errors.Is(err, admin.ErrNotRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.Call(ctx, "reload", struct{}{}, nil); err != nil {
		return fmt.Errorf("the change is stored, but the running server did not take it over: %w", err)
	}
	return nil
}
