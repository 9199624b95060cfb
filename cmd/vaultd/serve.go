package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	gossh "golang.org/x/crypto/ssh"
	"golang.org/x/sync/errgroup"

	"vaultd/internal/admin"
	"vaultd/internal/expect"
	"vaultd/internal/rsync"
	"vaultd/internal/scp"
	"vaultd/internal/session"
	"vaultd/internal/sftpserver"
	"vaultd/internal/shell"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/tenant"
	"vaultd/internal/zfshelper"
)

// loadConfig reads the configuration of the store that was named.
func (a *app) loadConfig() (*Config, error) {
	path, text, err := a.configText()
	conf := DefaultConfig()
	if err == nil && text != nil {
		conf, err = ParseConfig(path, text)
	}
	if err != nil {
		return nil, &configError{err}
	}
	return &conf, nil
}

func (c *Config) newTenant(name string) tenant.NewTenant { return c.Defaults.NewTenant(name) }

func (c *Config) storeConfig(log *slog.Logger) store.Config {
	return store.Config{Log: log, FloorBytes: uint64(c.Store.FreeBytes), FloorInodes: uint64(c.Store.FreeInodes),
		BarrierEvery: c.Store.BarrierInterval.Duration, SegmentEvery: c.Store.SegmentInterval.Duration}
}

func (c *Config) sshdConfig(keys []gossh.Signer) sshd.Config {
	s := c.SSH
	return sshd.Config{
		HostKeys: keys,
		Banner:   s.Banner,
		Limits: sshd.Limits{LoginGrace: s.LoginGrace.Duration, MaxAuthTries: s.MaxAuthTries, PreAuthPerAddress: s.PreAuthPerAddress,
			PreAuthTotal: s.PreAuthTotal, PreAuthRate: s.PreAuthRate, BanMax: orNone(s.BanMax), Trust: orNone(s.TrustAddresses), ConnsPerTenant: s.ConnectionsPerTenant, SessionsPerConn: s.SessionsPerConnection,
			SessionsPerTenant: s.SessionsPerTenant, KeepAlive: s.KeepAlive.Duration, KeepAliveMissed: s.KeepAliveMissed,
			Idle: s.Idle.Duration, SessionIdle: s.SessionIdle.Duration, Drain: s.Drain.Duration, StopGrace: s.StopGrace.Duration},
		Algorithms: sshd.Algorithms{KeyExchanges: s.KeyExchanges, Ciphers: s.Ciphers, MACs: s.MACs,
			HostKeys: s.HostKeyAlgorithms, PublicKeys: s.PublicKeyAlgorithms},
	}
}

func (a *app) initCommand() *cobra.Command {
	var f initFlags
	var idle bool
	c := &cobra.Command{Use: "init", Short: "Make a store: a directory with a catalog and a host key, and with --pool a dataset on ZFS for its tenants", Args: cobra.NoArgs,
		Long: "Makes what is missing of a store; what is there stays. With --pool or --dataset each tenant gets a ZFS dataset of its own below one that is mounted at tenants/ in the store: init shows what it would do and does it with --yes, or asked at a terminal. Tenants that were there before are served from former/ in the store until each is moved (vaultd tenant move). With store.user in the configuration each user gets its part of the store: run it again to put owners and modes right. On a machine where the package is installed, and for its store, the server is started.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.pool+f.dataset != "" {
				if err := a.initZFS(cmd.Context(), &f); err != nil {
					return err
				}
				return a.startAfter(cmd.Context(), idle)
			}
			conf, err := a.loadConfig()
			if err != nil {
				return err
			}
			if a.dryRun {
				return a.planInit(a.stdout, conf, !idle && a.startable())
			}
			if err := a.initStore(conf); err != nil {
				return err
			}
			if err := a.startAfter(cmd.Context(), idle); err != nil {
				return err
			}
			next := a.self("serve")
			if !idle && a.startable() {
				next = a.self("status")
			}
			fmt.Fprintf(a.stdout, "store in %s\n\nnext:\n  %s\n  %s\n", a.dir, a.self("tenant", "add", "NAME", "--key", "FILE.pub", "--quota", "500G"), next)
			return nil
		}}
	c.Flags().StringVar(&f.pool, "pool", "", "put the tenants into the dataset vaultd of this ZFS pool")
	c.Flags().StringVar(&f.dataset, "dataset", "", "put the tenants into this ZFS dataset")
	c.Flags().BoolVar(&f.yes, "yes", false, "with --pool or --dataset: ask nothing")
	c.Flags().BoolVar(&idle, "no-start", false, "leave the installed server as it is")
	a.dryRunFlag(c)
	return c
}

// initStore makes what is missing of a store.
func (a *app) initStore(conf *Config) error {
	if err := store.Create(a.dir); err != nil {
		return err
	}
	for _, name := range conf.SSH.HostKeys {
		if name != DefaultConfig().SSH.HostKeys[0] {
			continue // the operator's own
		}
		if err := makeHostKey(filepath.Join(a.dir, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make host key: %w", err)
		}
	}
	return a.share(conf)
}

// makeHostKey writes a new ed25519 key and its public half; an existing one is fs.ErrExist.
func makeHostKey(path string) error {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := gossh.MarshalPrivateKey(priv, "vaultd host key")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	key, err := gossh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	return os.WriteFile(path+".pub", gossh.MarshalAuthorizedKey(key), 0o644)
}

func (a *app) hostKeys(conf *Config) ([]gossh.Signer, error) {
	var out []gossh.Signer
	for _, name := range conf.SSH.HostKeys {
		if !filepath.IsAbs(name) {
			name = filepath.Join(a.dir, name)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read host key: %w", err)
		}
		k, err := gossh.ParsePrivateKey(b)
		if err != nil {
			return nil, fmt.Errorf("read host key %s: %w", name, err)
		}
		out = append(out, k)
	}
	return out, nil
}

func (a *app) serveCommand() *cobra.Command {
	var listen []string
	var metricsListen string
	c := &cobra.Command{Use: "serve", Short: "Serve clients until a signal comes", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		conf, err := a.loadConfig()
		if err != nil {
			return err
		}
		if len(listen) > 0 {
			conf.Listen, a.listen = listen, listen
		}
		if cmd.Flags().Changed("metrics-listen") {
			a.metricsListen = &metricsListen
		}
		return a.supervise(cmd.Context(), conf, nil)
	}}
	c.Flags().StringArrayVar(&listen, "listen", nil, "ADDRESS:PORT (repeat for several; default: the configuration's)")
	c.Flags().StringVar(&metricsListen, "metrics-listen", "", "ADDRESS:PORT of /metrics; \"\" is nowhere (default: the configuration's)")
	return c
}

// serve is the server, with what the supervisor handed over: it serves until ctx is cancelled, then drains.
func (a *app) serve(ctx context.Context, conf *Config, h *handover) error {
	level := new(slog.LevelVar)
	level.Set(logLevel(conf.Log.Level))
	log := newLeveled(a.stderr, conf.Log.Format, level)
	h.logReport(log)
	keys, err := a.hostKeys(conf)
	if err != nil {
		return err
	}
	sc, err := a.overZFS(conf.storeConfig(log), conf, zfshelper.Remote{Caller: h.parent})
	if err != nil {
		return err
	}
	if h.pool != nil {
		h.pool.log = log
	}
	known := new(facts)
	st, err := store.Open(a.dir, known.hook(h.storeConfig(sc, log)))
	if err != nil {
		return err
	}
	state, err := tenant.OpenState(store.ServerDir(a.dir), tenant.StateOptions{Log: log, Running: known.running})
	if err != nil {
		return errors.Join(err, st.Close())
	}
	known.state.Store(state)
	live := a.newLiveConfig(conf, log, level, st)
	live.expire = func() error { return h.parent.Call("reloaded", nil, nil) }
	err = a.serveStore(ctx, live, keys, st, state, known, h)
	return errors.Join(err, st.Close(), state.Close())
}

func (a *app) serveStore(ctx context.Context, live *liveConfig, keys []gossh.Signer, st *store.Store, state *tenant.State, known *facts, h *handover) error {
	conf, log := live.config(), live.log
	acc := newAccess(st, state)
	known.door.Store(acc)
	sftp, err := sftpserver.New(sftpserver.Config{UID: uint32(os.Getuid()), GID: uint32(os.Getgid())})
	if err != nil {
		return err
	}
	sc := conf.sshdConfig(keys)
	sc.Access, sc.Log = acc, log
	count := newScraping(st, state, conf.Metrics.PerTenant.Scope, log)
	known.count.Store(count)
	sc.Subsystems = map[string]session.Handler{"sftp": count.watch("sftp", sftp)}
	rs, err := rsync.New(rsync.Config{})
	if err != nil {
		return err
	}
	sc.Exec = count.watch("shell", shell.New(shell.Config{Version: buildVersion(), Programs: map[string]session.Handler{"rsync": rs, "scp": scp.Server{}}}))
	door, err := sshd.New(sc)
	if err != nil {
		return &configError{err}
	}
	rememberAddresses(door, st, state)
	live.door = door
	var listeners []net.Listener
	var addrs []string
	for _, l := range h.listeners {
		listeners, addrs = append(listeners, l), append(addrs, l.Addr().String())
	}
	started := time.Now()
	reload := func() error { return errors.Join(acc.reload(), h.spares.follow("catalog")) }
	ops := &operations{st: st, dir: a.dir, state: state, expire: h.Expire, common: func() expect.Rule { return live.config().Expect.rule() }, reload: reload, used: func() (map[string]tenant.Use, error) { return state.LastUsed(), nil },
		server: func() serverStatus {
			s := door.Stats()
			return serverStatus{Started: started.UTC(), Listen: addrs, Sessions: s.Sessions, Logins: s.Connections, Version: buildVersion(),
				Waiting: s.PreAuth, Failures: s.Failures, Bans: len(door.Bans()), Abandoned: s.Abandoned, Config: live.status(), Confinement: h.report, SpareSlots: h.spares.count(), Metrics: count.status()}
		}, door: door, live: live}
	if h.pool != nil {
		ops.pool = h.pool.report
	}
	acc.standing = ops.standing
	meter := newMetering(st, state, log)
	ops.metering, ops.forecast, ops.scraping = meter, meter.forecast, count
	acc.soft, acc.unwritten, acc.observers = meter.notice, count.m.AuditError, append(acc.observers, count.ended)
	count.ops, count.health = ops, []*health{&meter.health}
	if err := count.listen(h, live); err != nil {
		return err
	}
	console := &admin.Server{Calls: ops.calls(), Streams: ops.streams(), ExitCode: exitCode, Log: log}

	ctx, end := context.WithCancel(ctx)
	defer end()
	h.pool.bound(console)
	replace := h.replacement(door, console, func() bool { return h.pool.renew(st) }, end)
	if h.pool != nil {
		go h.pool.run(ctx, st, door.Abandon)
	}
	g, gctx := errgroup.WithContext(ctx)
	// What sessions rely on goes on until the last of them has ended: barriers, keys that expire, processors; and what counts and shows them.
	sctx, quiet := context.WithCancel(context.WithoutCancel(gctx))
	defer quiet()
	g.Go(func() error { defer quiet(); return door.Serve(gctx, listeners...) })
	g.Go(func() error { return console.Serve(gctx, h.admin) })
	g.Go(func() error { return st.Run(sctx) })
	g.Go(func() error { return known.settle(sctx, st) })
	g.Go(func() error { return acc.watch(sctx) })
	g.Go(func() error { return meter.run(sctx) })
	g.Go(func() error { return count.serve(sctx) })
	g.Go(func() error { return live.verify.run(gctx, live.verifyAll) })
	g.Go(func() error { return live.watch(gctx) })
	g.Go(func() error { return replace.watch(gctx) })
	if os.Getenv("GOMAXPROCS") == "" {
		g.Go(func() error { return governProcs(sctx, h.Procs) })
	}
	if os.Getenv("GOGC") == "" {
		g.Go(func() error { return governHeap(sctx) })
	}
	for _, addr := range addrs {
		fmt.Fprintf(a.stderr, "vaultd: listening on %s\n", addr)
	}
	g.Go(func() error { return h.parent.Call("ready", addrs, nil) })
	return g.Wait()
}

func (a *app) checkCommand() *cobra.Command {
	var activated bool
	c := &cobra.Command{Use: "check", Short: "Check the configuration; all mistakes are shown at once", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		conf, err := a.loadConfig()
		if err != nil {
			return err
		}
		return a.checkSurroundings(conf, activated)
	}}
	c.Flags().BoolVar(&activated, "activated", false, "the service manager has the addresses already (vaultd.socket): do not try them")
	return c
}

func (a *app) configCommand() *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "The configuration file"}
	c.AddCommand(&cobra.Command{Use: "default", Short: "Print a configuration file with every key, its meaning and its default", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error {
		_, err := io.WriteString(a.stdout, DefaultConfigTOML())
		return err
	}}, a.configShow())
	return c
}

// knownHosts is the line that lets clients know this server's key.
func (a *app) knownHosts(conf *Config, addr string) string {
	keys, err := a.hostKeys(conf)
	if err != nil || len(keys) == 0 {
		return ""
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("[%s]:%s %s", host, port, strings.TrimSpace(string(gossh.MarshalAuthorizedKey(keys[0].PublicKey()))))
}
