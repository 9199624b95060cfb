package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"vaultd/internal/admin"
	"vaultd/internal/confine"
	"vaultd/internal/sshd"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
)

// confinedCommand is the server: what "vaultd serve" starts, twice in the same process. With --enter it gives up all that it does not need, and
// executes itself without; that second program is confined from its first instruction on, in all its threads.
func (a *app) confinedCommand() *cobra.Command {
	var enter, untried, bare bool
	var read []string
	c := &cobra.Command{Use: "serve-confined", Hidden: true, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		dir, err := filepath.Abs(a.dir)
		if err != nil {
			return err
		}
		layout := confine.Layout{Store: dir, Read: read, Program: program, Bare: bare}
		if !enter {
			return a.serveConfined(cmd.Context(), layout, untried)
		}
		if err := ownsStore(dir); err != nil {
			return err
		}
		if err := layout.Enter(); err != nil {
			return fmt.Errorf(`confine the server: %w (confine = "off" serves without)`, err)
		}
		var args []string
		for _, arg := range os.Args {
			if arg != "--enter" {
				args = append(args, arg)
			}
		}
		return layout.Exec(args, os.Environ())
	}}
	c.Flags().BoolVar(&enter, "enter", false, "confine this process first")
	c.Flags().BoolVar(&bare, "bare", false, "the tenants' storage is not there")
	c.Flags().BoolVar(&untried, "untried", false, "there is no probe to try the confinement on")
	c.Flags().StringArrayVar(&read, "read", nil, "a file that may be read besides the store's")
	return c
}

// ownsStore refuses to confine root on somebody else's store: without capabilities it is an ordinary user that may not even read it.
func ownsStore(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, confine.ServerDir), &st); err != nil {
		return &os.PathError{Op: "stat", Path: dir, Err: err}
	}
	if os.Geteuid() == 0 && st.Uid != 0 {
		return fmt.Errorf("confine the server: it gives up root's powers, and the store belongs to user %d: start it as that user", st.Uid)
	}
	return nil
}

// handover is what a server has from its supervisor.
type handover struct {
	begun
	layout    confine.Layout
	parent    *supervise.Client
	lock      *os.File
	admin     *admin.Listener
	listeners []*pausable
	metrics   net.Listener // nil: there is none
	report    confine.Report
	spares    *spares
	pool      *poolWatch // nil: the store is not on ZFS
}

// storeConfig completes what a server's store is opened with.
func (h *handover) storeConfig(c store.Config, log *slog.Logger) store.Config {
	h.spares = newSpares(h.parent, h.Spares, log)
	c.Lock, c.Boot = h.lock, h.Boot
	c = h.pool.guard(c)
	switch z, ok := c.Driver.(*store.ZFS); {
	case ok:
		c.Driver = askingZFS{z, h.spares, h.Mode != confine.Off}
	case h.Mode != confine.Off:
		c.Driver = asking{store.Directory{Dir: filepath.Join(h.layout.Store, confine.TenantsDir)}, h.spares}
	}
	return c
}

// replacement watches for the moment to be followed by another server, which ends this one with end.
func (h *handover) replacement(door *sshd.Server, console *admin.Server, renew func() bool, end func()) *replacement {
	var commands atomic.Int64
	for name, f := range console.Calls {
		console.Calls[name] = func(ctx context.Context, in json.RawMessage) (any, error) {
			commands.Add(1)
			defer commands.Add(-1)
			return f(ctx, in)
		}
	}
	for name, f := range console.Streams {
		console.Streams[name] = func(ctx context.Context, in json.RawMessage, w io.Writer) error {
			commands.Add(1)
			defer commands.Add(-1)
			return f(ctx, in, w)
		}
	}
	return &replacement{spares: h.spares, needed: h.Mode != confine.Off, renew: renew, start: time.Now(), wait: h.Wait, listeners: h.listeners, end: end, busy: func() bool {
		s := door.Stats()
		return s.PreAuth+s.Connections > 0 || s.Sessions > 0 || commands.Load() > 0
	}}
}

// serveConfined takes over what the supervisor passed, tries what it must not be able to do, and serves.
func (a *app) serveConfined(ctx context.Context, layout confine.Layout, untried bool) error {
	// The service manager may signal all processes of the service, and the supervisor passes its signal on: twice is not "at once" here.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM, syscall.SIGINT)
	signal.Ignore(syscall.SIGHUP) // until there is a configuration to read again
	parent, err := supervise.Inherited()
	if err != nil {
		return err
	}
	h := &handover{layout: layout, parent: parent}
	if err := parent.Call("begin", nil, &h.begun); err != nil {
		return err
	}
	h.report = confine.Unconfined()
	if h.Mode != confine.Off { // before there are threads that serve
		h.report = confine.Probe()
		h.report.Mode = h.Mode
		if untried {
			h.report.NotEnforced = append(h.report.NotEnforced, "whether all this holds was not tried: the disk is full, or not there")
		} else if h.report.Failed = layout.Check(); len(h.report.Failed) > 0 {
			h.report.Physical = false
		}
	}
	if h.Mode == confine.On && len(h.report.Failed) > 0 {
		return &configError{fmt.Errorf(`confine the server: what it should and should not do differs: %s (confine = "report" serves all the same)`, strings.Join(h.report.Failed, "; "))}
	}
	if err := h.inherit(); err != nil {
		return err
	}
	a.parent = parent
	conf, err := a.loadConfig()
	if err != nil {
		return err
	}
	if len(h.Listen) > 0 {
		conf.Listen, a.listen = h.Listen, h.Listen
	}
	if h.Alive > 0 {
		go h.sayAlive()
	}
	return a.serve(ctx, conf, h)
}

func (h *handover) inherit() error {
	all := h.Listeners
	if h.Metrics {
		all++
	}
	for fd := supervise.FDLock; fd < supervise.FDListen+all; fd++ {
		unix.CloseOnExec(fd)
	}
	h.lock = os.NewFile(supervise.FDLock, "lock")
	var err error
	if h.admin, err = admin.Inherit(os.NewFile(supervise.FDAdmin, "admin.sock"), h.Group); err != nil {
		return err
	}
	for i := range all {
		f := os.NewFile(uintptr(supervise.FDListen+i), "listener")
		l, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if i == h.Listeners {
			h.metrics = l
			continue
		}
		tcp, ok := l.(*net.TCPListener)
		if !ok {
			return fmt.Errorf("inherited a listener on %s, which is not TCP", l.Addr())
		}
		h.listeners = append(h.listeners, newPausable(tcp))
	}
	if h.Pool {
		h.pool, err = newPoolWatch(uintptr(supervise.FDListen + all))
	}
	return err
}

// sayAlive tells the service manager's watchdog, as long as the process is.
func (h *handover) sayAlive() {
	for ; ; time.Sleep(h.Alive) {
		if h.parent.Call("alive", nil, nil) != nil {
			return
		}
	}
}

// logReport says at the start what is enforced.
func (h *handover) logReport(log *slog.Logger) {
	level := slog.LevelInfo
	if !h.report.Physical {
		level = slog.LevelWarn
	}
	attrs := []any{"landlock_abi", h.report.ABI, "not_enforced", h.report.NotEnforced}
	if len(h.report.Failed) > 0 {
		attrs = append(attrs, "failed", h.report.Failed)
	}
	log.Log(context.Background(), level, h.report.Summary(), attrs...)
}

// configFile is the supervisor's answer to "config".
type configFile struct {
	Path  string `json:"path"`
	Text  []byte `json:"text"`
	There bool   `json:"there"`
}

// asking is the directory driver of a server that can not make a dataset: it asks for one of the spares.
type asking struct {
	store.Directory
	spares *spares
}

// Create implements store.Driver.
func (d asking) Create(_ context.Context, id string) error { return d.spares.take(id) }

var _ store.Driver = asking{}

// askingZFS is the ZFS driver of a server that asks its supervisor.
type askingZFS struct {
	*store.ZFS
	spares   *spares
	confined bool
}

var _ store.Driver = askingZFS{}

// Create implements store.Driver. What is made for a server that is confined, its successor can use.
func (d askingZFS) Create(_ context.Context, id string) error {
	err := d.spares.take(id)
	if errors.Is(err, store.ErrNoSpare) && !d.confined {
		return nil
	}
	return err
}

// Path implements store.Driver. A dataset that came to its place after this server had started is its successor's, too.
func (d askingZFS) Path(id string) (string, error) {
	path, err := d.ZFS.Path(id)
	if err != nil || !d.confined {
		return path, err
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrPermission) { // the supervisor may have seen the same path mounted at the start
		if err := d.spares.take(id); !errors.Is(err, store.ErrNoSpare) {
			d.spares.turnAway("a tenant's dataset can not be opened: if it was mounted after this server had started, the next one can")
		}
		return "", &store.UnavailableError{Why: "its dataset was mounted after this server had started, or is not the server's user's"}
	}
	if err != nil {
		return "", &os.PathError{Op: "open", Path: path, Err: err}
	}
	return path, unix.Close(fd)
}
