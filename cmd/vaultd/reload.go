package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vaultd/internal/sshd"
	"vaultd/internal/store"
)

// liveConfig is a running server's configuration. SIGHUP and `vaultd reload` read the file again: what can change while sessions
// run is in force at once, and without ending one; what can not is named. A file with a mistake changes nothing.
type liveConfig struct {
	a      *app
	level  *slog.LevelVar
	log    *slog.Logger
	store  *store.Store
	door   *sshd.Server
	verify *restarter
	expire func() error              // has the supervisor start expire again with what the file says
	scrape func(MetricsConfig) error // takes over who may read the metrics; files may have changed though their names did not
	hup    chan os.Signal

	mu     sync.Mutex // guards what follows; held through a reload
	conf   Config     // in force
	loaded time.Time  // when that was read
	tried  time.Time  // the last reload; zero: none yet
	err    string     // of the last reload
	waits  []string   // keys that the file says otherwise, and that wait for a restart
}

// restartKeys are the keys that only a restart changes: sockets and host keys belong to connections that would end, and the rest is
// fixed when a log or a vault is opened.
var restartKeys = []string{"listen", "ssh.host_keys", "ssh.key_exchanges", "ssh.ciphers", "ssh.macs", "ssh.host_key_algorithms", "ssh.public_key_algorithms",
	"confine", "store.barrier_interval", "store.segment_interval", "store.spare_slots", "store.user", "expire.user", "log.format",
	"zfs.dataset", "zfs.helper", "zfs.compression", "zfs.recordsize", "zfs.encryption", "zfs.keys", "zfs.reserve", "zfs.scrub", "zfs.poll", "metrics.listen", "metrics.tls_cert", "metrics.tls_key"}

// reloadKeys are in force as soon as they are read; defaults are read by the commands themselves.
var reloadKeys = []string{"ssh.banner", "ssh.login_grace", "ssh.max_auth_tries", "ssh.pre_auth_per_address", "ssh.pre_auth_total", "ssh.pre_auth_rate", "ssh.ban_max", "ssh.trust_addresses", "ssh.connections_per_tenant",
	"ssh.sessions_per_connection", "ssh.sessions_per_tenant", "ssh.keepalive", "ssh.keepalive_missed", "ssh.idle", "ssh.session_idle", "ssh.stop_grace", "ssh.drain",
	"store.free_bytes", "store.free_inodes", "expire.interval", "expire.cool_down", "verify.every", "verify.rate", "expect.max_age", "log.level",
	"defaults.mode", "defaults.quota", "defaults.quota_files", "defaults.seal_after", "defaults.resume_window", "defaults.durability", "defaults.snapshots",
	"defaults.lock", "defaults.keep", "defaults.push_end_snapshots", "metrics.basic_auth", "metrics.per_tenant"}

// newLiveConfig is that of a server that starts with conf. From here on SIGHUP does not end the process.
func (a *app) newLiveConfig(conf *Config, log *slog.Logger, level *slog.LevelVar, st *store.Store) *liveConfig {
	l := &liveConfig{a: a, conf: *conf, level: level, log: log, store: st, loaded: time.Now().UTC(), verify: newRestarter(),
		hup: make(chan os.Signal, 1)}
	signal.Notify(l.hup, syscall.SIGHUP)
	return l
}

// configStatus is what `vaultd status` says of the configuration.
type configStatus struct {
	Loaded time.Time `json:"loaded"`
	Tried  time.Time `json:"last_reload,omitzero"`
	OK     bool      `json:"ok"`
	Error  string    `json:"error,omitempty"`
	Waits  []string  `json:"waits_for_restart,omitempty"`
}

func (l *liveConfig) status() *configStatus {
	l.mu.Lock()
	defer l.mu.Unlock()
	return &configStatus{Loaded: l.loaded, Tried: l.tried, OK: l.err == "", Error: l.err, Waits: l.waits}
}

func (l *liveConfig) config() *Config {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.conf
	return &c
}

// values are a configuration's values by dotted key.
func (c *Config) values() map[string]reflect.Value {
	out := map[string]reflect.Value{}
	top := reflect.ValueOf(c).Elem()
	for i := range top.NumField() {
		name, v := top.Type().Field(i).Tag.Get("toml"), top.Field(i)
		if v.Kind() != reflect.Struct {
			out[name] = v
			continue
		}
		for j := range v.NumField() {
			out[name+"."+v.Type().Field(j).Tag.Get("toml")] = v.Field(j)
		}
	}
	return out
}

// differing lists the keys, sorted, of which two configurations say different things.
func differing(a, b *Config) []string {
	x, y := a.values(), b.values()
	var keys []string
	for _, k := range slices.Sorted(maps.Keys(x)) {
		if !reflect.DeepEqual(x[k].Interface(), y[k].Interface()) && (x[k].Kind() != reflect.Slice || x[k].Len()+y[k].Len() > 0) {
			keys = append(keys, k)
		}
	}
	return keys
}

// reloadReply says what a reload did, or with dry would do.
type reloadReply struct {
	Changed []string `json:"changed"`
	Waits   []string `json:"waits_for_restart"`
}

// reload reads the configuration again. An error has changed nothing.
func (l *liveConfig) reload(dry bool) (reloadReply, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := reloadReply{Changed: []string{}, Waits: []string{}}
	next, err := l.a.loadConfig()
	if err == nil && len(l.a.listen) > 0 {
		next.Listen = l.a.listen
	}
	if err == nil {
		err = l.a.checkDoor(next)
	}
	if err == nil {
		was := l.conf.values()
		for _, k := range differing(&l.conf, next) {
			if slices.Contains(reloadKeys, k) {
				out.Changed = append(out.Changed, k)
				continue
			}
			out.Waits = append(out.Waits, k)
			next.values()[k].Set(was[k]) // what is in force
		}
		if !dry {
			err = l.apply(next, out.Changed)
		}
	}
	if dry {
		return out, err
	}
	l.tried, l.err = time.Now().UTC(), ""
	if err != nil {
		l.err = err.Error()
		l.log.Error("the configuration was not reloaded: the old one is in force", "error", l.err)
		return out, err
	}
	l.conf, l.loaded, l.waits = *next, l.tried, out.Waits
	l.log.Info("configuration reloaded", "changed", strings.Join(out.Changed, " "), "waits_for_restart", strings.Join(out.Waits, " "))
	return out, nil
}

// apply puts what changed in force. l.mu is held.
func (l *liveConfig) apply(next *Config, changed []string) error {
	sc := next.sshdConfig(nil)
	if err := l.door.Adjust(sc.Limits, sc.Banner); err != nil {
		return err
	}
	if err := l.scrape(next.Metrics); err != nil {
		return err
	}
	l.level.Set(logLevel(next.Log.Level))
	l.store.SetFloor(uint64(next.Store.FreeBytes), uint64(next.Store.FreeInodes))
	if slices.ContainsFunc(changed, func(k string) bool { return strings.HasPrefix(k, "verify.") }) {
		l.verify.again()
	}
	if slices.ContainsFunc(changed, func(k string) bool { return strings.HasPrefix(k, "expire.") || k == "log.level" }) {
		return l.expire()
	}
	return nil
}

// watch reloads at SIGHUP until ctx is cancelled.
func (l *liveConfig) watch(ctx context.Context) error {
	defer signal.Stop(l.hup)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-l.hup:
			l.reload(false) // logs how it went
		}
	}
}

func (l *liveConfig) verifyAll(ctx context.Context) error {
	c := l.config().Verify
	if c.Every.Duration == 0 {
		return nil
	}
	return l.store.VerifyAll(ctx, c.Every.Duration, int64(c.Rate))
}

// restarter runs something that reads the configuration when it begins, and begins it anew when that has changed.
type restarter struct{ changed chan struct{} }

func newRestarter() *restarter { return &restarter{make(chan struct{}, 1)} }

func (r *restarter) again() {
	select {
	case r.changed <- struct{}{}:
	default: // it is to begin anew already
	}
}

// run runs f until ctx is cancelled or it fails. One that ends by itself has nothing to do until again is called.
func (r *restarter) run(ctx context.Context, f func(context.Context) error) error {
	for ctx.Err() == nil {
		fctx, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- f(fctx) }()
		var err error
		select {
		case <-r.changed:
			cancel()
			err = <-ended
		case err = <-ended:
			cancel()
			if err == nil {
				select {
				case <-ctx.Done():
				case <-r.changed:
				}
			}
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

type reloadRequest struct {
	DryRun bool `json:"dry_run,omitempty"`
}

func (o *operations) reloadConfig(_ context.Context, in reloadRequest) (reloadReply, error) {
	out, err := o.live.reload(in.DryRun)
	if err != nil {
		err = &configError{fmt.Errorf("the configuration in force is as it was:\n%w", err)}
	}
	return out, err
}

func (a *app) reloadCommand() *cobra.Command {
	c := &cobra.Command{Use: "reload", Short: "Have the running server read its configuration again, without ending a session", Args: cobra.NoArgs,
		Long: "Has the running server read its configuration file again, as SIGHUP does. Limits, banner, log level, floors, intervals and defaults are in force at once; what needs a restart is named. A file with a mistake changes nothing: all mistakes are shown, and the status says so until the next reload that works.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out reloadReply
			if err := a.serverCall(cmd.Context(), "config.reload", reloadRequest{a.dryRun}, &out); err != nil {
				return err
			}
			return a.print("vaultd.reload/v1", out, func(w io.Writer) {
				verb, now := "reloaded", "in force"
				if a.dryRun {
					verb, now = "can be reloaded", "would be in force"
				}
				fmt.Fprintf(w, "configuration %s; %s\n", verb, changes(now, out))
			})
		}}
	a.jsonFlag(c)
	a.dryRunFlag(c)
	return c
}

func changes(now string, r reloadReply) string {
	s := "nothing is different"
	if len(r.Changed) > 0 {
		s = now + ": " + strings.Join(r.Changed, ", ")
	}
	if len(r.Waits) > 0 {
		s += "\nwaits for a restart: " + strings.Join(r.Waits, ", ")
	}
	return s
}
