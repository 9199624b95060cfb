package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/admin"
	"vaultd/internal/inventory"
	"vaultd/internal/metrics"
	"vaultd/internal/pool"
	"vaultd/internal/push"
	"vaultd/internal/session"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
)

// scraping feeds the metrics: from the inventory when a scrape comes, from sessions when they have ended, and from those that go on what they
// read and what was refused to them, so that a long one is seen while it lasts.
type scraping struct {
	m       *metrics.Metrics
	st      *store.Store
	state   *tenant.State
	log     *slog.Logger
	ops     *operations // set before the first scrape
	health  []*health   // the same
	live    *liveConfig
	started time.Time

	server   *metrics.Server // nil: there is no listener
	listener net.Listener
	problem  string // why there is none, where there should be

	mu      sync.Mutex          // guards watched; held through a look at all sessions, so that none is counted twice
	watched map[string]*watched // by session id
}

// watched is a session that goes on.
type watched struct {
	sess   *session.Session
	proto  string           // of the channel
	read   int64            // counted so far
	denied map[string]int64 // the same, by operation
}

func newScraping(st *store.Store, state *tenant.State, scope metrics.Scope, log *slog.Logger) *scraping {
	s := &scraping{st: st, state: state, log: log, started: time.Now(), watched: map[string]*watched{}}
	s.m = metrics.New(metrics.Sources{Version: buildVersion(), Revision: revision(), Tenants: s.tenants, Process: s.process, Pools: s.pools, Collectors: s.collectors}, scope)
	return s
}

// revision is the commit that the program was built from, where the build knows.
func revision() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		for _, s := range b.Settings {
			if s.Key == "vcs.revision" {
				return s.Value
			}
		}
	}
	return ""
}

// tenants are the inventory in the words of metrics.
func (s *scraping) tenants() []metrics.Tenant {
	s.look()
	out := make([]metrics.Tenant, 0, len(s.st.Tenants().Tenants()))
	if s.ops.each(func(t *inventory.Tenant) { out = append(out, measured(t)) }) != nil {
		return nil // without a state there is no server
	}
	return out
}

// measured is one of them.
func measured(t *inventory.Tenant) metrics.Tenant {
	u := usageFromFacts(t.Usage)
	x := metrics.Tenant{Name: t.Name, State: "active", Suspended: t.Suspended, Created: t.Created, Quota: t.Quota.Bytes, SoftQuota: t.Quota.SoftBytes, Live: u.Live,
		Versions: u.Versions, Staging: u.Staging, Snapshot: -1, Files: t.Usage.Files, MaxAge: allowedAge(t), Snapshots: t.Snapshots.Count,
		NewestSnapshot: t.Snapshots.Newest, OldestSnapshot: t.Snapshots.Oldest, SnapshotInterval: t.Interval, Verified: t.Verify.LastEnded}
	if u.Snapshots > 0 {
		x.Snapshot = u.Snapshots
	}
	switch {
	case t.Suspended:
		x.State = "suspended"
	case t.ReadOnly != "":
		x.State = "readonly"
	}
	if p := t.Pushes.Success; p != nil {
		x.LastSuccess = p.Time
	}
	if p := t.Pushes.Attempt; p != nil {
		x.LastAttempt = p.Time
	}
	switch {
	case t.Verify.Running:
		if all := u.Live + u.Versions; all > 0 {
			x.VerifyProgress = float64(t.Verify.Bytes) / float64(all)
		}
	case !t.Verify.LastEnded.IsZero():
		x.VerifyProgress = 1
	}
	return x
}

// process is how the server is.
func (s *scraping) process() metrics.Process {
	p := metrics.Process{Started: s.started, Failures: map[string]int64{}, Sessions: map[string]int{}}
	for reason, n := range s.ops.door.Stats().Failures {
		switch reason {
		case "refused":
			reason = "revoked"
		case "grace":
			reason = "protocol"
		}
		p.Failures[reason] += n
	}
	c := s.live.status()
	p.ReloadOK, p.Reloaded = c.OK, c.Loaded
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watched {
		p.Sessions[w.protocol()]++
	}
	return p
}

// toldWithin is how long the store may take to tell what its vaults look like.
const toldWithin = time.Minute

// collectors are what keeps values current.
func (s *scraping) collectors() []metrics.Collector {
	told := s.st.Told()
	out := []metrics.Collector{{Name: "inventory", OK: time.Since(told) < toldWithin, Success: told}}
	if s.ops.pool != nil {
		if r := s.ops.pool(); r != nil {
			c := metrics.Collector{Name: "pool", OK: r.Failure == "" && r.Reading != nil, Took: r.Took}
			if r.Reading != nil {
				c.Success = r.Reading.At
			}
			out = append(out, c)
		}
	}
	for _, h := range s.health {
		h.hmu.Lock()
		out = append(out, metrics.Collector{Name: h.name, OK: h.ok, Took: h.took, Success: h.success})
		h.hmu.Unlock()
	}
	return out
}

// pools are the pool below the store, as its supervisor saw it last; none where there is none, or nothing is known yet.
func (s *scraping) pools() []metrics.Pool {
	if s.ops.pool == nil {
		return nil
	}
	r := s.ops.pool()
	if r == nil {
		return nil
	}
	p := metrics.Pool{Name: r.Pool}
	if x := r.Reading; x != nil {
		p.State, p.Size, p.Allocated, p.Free, p.Fragmentation = strings.ToLower(x.Health), x.Size, x.Allocated, x.Free, float64(x.Fragmentation)/100
		p.Scrubbed = x.Scrub.Ended
		p.Errors = map[string]uint64{"read": x.Errors.Read, "write": x.Errors.Write, "checksum": x.Errors.Checksum, "data": x.Data}
	}
	switch r.State { // of which no reading tells
	case pool.Gone, pool.Silent:
		p.State = "unavail"
	case pool.Suspended:
		p.State = "suspended"
	}
	return []metrics.Pool{p}
}

// read counts what a verification read.
func (s *scraping) read(id string, bytes, wrong int64) {
	if t, ok := s.st.Tenants().TenantByID(id); ok {
		s.m.Verified(t.Name, bytes, wrong)
	}
}

// watch has a handler's sessions watched from their beginning until ended is told of them.
func (s *scraping) watch(proto string, h session.Handler) session.Handler {
	return session.HandlerFunc(func(ctx context.Context, sess *session.Session) error {
		w := &watched{sess: sess, proto: proto, denied: map[string]int64{}}
		s.mu.Lock()
		s.watched[sess.ID] = w
		s.mu.Unlock()
		sess.OnRefused = func(err error) { s.refused(w, err) }
		return h.Serve(ctx, sess)
	})
}

func (w *watched) protocol() string {
	if p := w.sess.Reported().Protocol; p != "" {
		return p
	}
	return w.proto
}

// refused counts what the core does not know of: command lines. It is called under a lock of the session's.
func (s *scraping) refused(w *watched, err error) {
	if errors.As(err, new(*session.CommandError)) {
		s.m.Denied(w.sess.Tenant, "shell", "exec", 1)
	}
}

// look counts what sessions that go on did since the last time.
func (s *scraping) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.watched {
		c := w.sess.FS.Counts()
		denied := map[string]int64{}
		for d, n := range c.Denied {
			denied[operation(d.Op.String(), string(d.Rule))] += n
		}
		if c.OverQuota > 0 {
			denied["quota"] = c.OverQuota
		}
		s.more(w, w.sess.Tenant, w.protocol(), c.Read.Bytes, denied)
	}
}

// operation is the label for a refusal: one that would have led out of the tenant is about its path, whatever it was to do.
func operation(op, rule string) string {
	if rule == "P5" {
		return "path"
	}
	return op
}

// more counts what is new. mu is held.
func (s *scraping) more(w *watched, tenant, protocol string, read int64, denied map[string]int64) {
	s.m.Restored(tenant, protocol, read-w.read)
	w.read = max(w.read, read)
	for op, n := range denied {
		s.m.Denied(tenant, protocol, op, n-w.denied[op])
		w.denied[op] = max(w.denied[op], n)
	}
}

// ended counts a session that has ended.
func (s *scraping) ended(tenantID string, e push.Event) {
	s.m.Session(e.Protocol)
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.watched[e.Session]
	delete(s.watched, e.Session)
	t, ok := s.st.Tenants().TenantByID(tenantID)
	if !ok {
		return
	}
	if w == nil { // it ended before its protocol began
		w = &watched{denied: map[string]int64{}}
	}
	denied := map[string]int64{}
	for _, d := range e.Denied {
		denied[operation(d.Op, d.Rule)] += d.Count
	}
	if w.sess != nil {
		if n := w.sess.FS.Counts().OverQuota; n > 0 {
			denied["quota"] = n
		}
	}
	s.more(w, t.Name, e.Protocol, e.Read.Bytes, denied)
	if e.Push {
		s.m.Push(t.Name, e.Protocol, string(e.Result), e.New.Files, e.New.Bytes, e.Duration)
	}
}

// listen takes over the listener, if there is one, and what guards it. That the files which guard it can not be used is a reason not to serve metrics, and none
// not to take backups.
func (s *scraping) listen(h *handover, live *liveConfig) error {
	s.live = live
	files := func() (sec metrics.Security, err error) {
		var f scrapeFiles
		if err := h.parent.Call("metrics", nil, &f); err != nil {
			return sec, err
		}
		return f.security()
	}
	live.scrape = func(c MetricsConfig) error {
		s.m.SetScope(c.PerTenant.Scope)
		if s.server == nil {
			return nil
		}
		sec, err := files()
		if err == nil {
			s.server.Secure(sec)
		}
		return err
	}
	s.problem = h.Unmetered
	if h.metrics == nil {
		return nil
	}
	sec, err := files()
	if err != nil {
		s.problem = err.Error()
		s.log.Error("metrics are not served", "error", s.problem)
		return h.metrics.Close()
	}
	s.listener, s.server = h.metrics, metrics.NewServer(s.m, sec, s.log)
	addr, ok := s.listener.Addr().(*net.TCPAddr)
	if ok && !addr.IP.IsLoopback() && (sec.Certificate == nil || sec.Users == nil) {
		s.log.Warn("metrics name the tenants, and are served beyond this machine without a certificate or a password", "listen", addr.String())
	}
	return nil
}

// serve answers scrapes until ctx is cancelled.
func (s *scraping) serve(ctx context.Context) error {
	if s.server == nil {
		return nil
	}
	s.log.Info("metrics", "listen", s.listener.Addr().String())
	return s.server.Serve(ctx, s.listener)
}

// metricsStatus is where metrics are served.
type metricsStatus struct {
	Listen string `json:"listen,omitempty"`
	Error  string `json:"error,omitempty"` // why they are not
}

func (s *scraping) status() metricsStatus {
	out := metricsStatus{Error: s.problem}
	if s.listener != nil {
		out.Listen = s.listener.Addr().String()
	}
	return out
}

// metrics streams what a scrape gets.
func (o *operations) metrics(_ context.Context, _ struct{}, w io.Writer) error {
	if o.scraping == nil {
		return errors.New("metrics are a running server's")
	}
	return o.scraping.m.WriteText(w)
}

func (a *app) metricsCommand() *cobra.Command {
	var file string
	c := &cobra.Command{Use: "metrics", Short: "Print the running server's metrics in Prometheus's text format", Args: cobra.NoArgs,
		Long: "Prints what a scrape of [metrics] listen gets, also where nothing listens. With --textfile FILE it is written whole, by way of a new file, for node_exporter's --collector.textfile.directory; a file of an earlier time stays when no server runs, and node_textfile_mtime_seconds tells its age.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if a.dryRun && file == "" {
				return &usageError{errors.New("--dry-run goes with --textfile")}
			}
			text, err := a.metricsText(cmd.Context())
			if err != nil {
				return err
			}
			if file == "" {
				_, err = a.stdout.Write(text)
				return err
			}
			if a.dryRun {
				fmt.Fprintf(a.stdout, "would write %d bytes to %s\n", len(text), file)
				return nil
			}
			return writeWhole(file, text)
		}}
	c.Flags().StringVar(&file, "textfile", "", "write to FILE, whole or not at all")
	a.dryRunFlag(c)
	return c
}

// metricsText asks the server; all of it or an error.
func (a *app) metricsText(ctx context.Context) ([]byte, error) {
	var b bytes.Buffer
	c, err := admin.Dial(a.dir)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	body, err := c.Stream(ctx, "metrics", struct{}{})
	if err != nil {
		return nil, err
	}
	_, err = b.ReadFrom(body)
	return b.Bytes(), errors.Join(err, body.Close())
}

// writeWhole replaces a file at once. The new one lies beside it under a name that node_exporter does not read (*.prom only).
func writeWhole(path string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.new")
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
