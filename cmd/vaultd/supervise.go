package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"

	"vaultd/internal/admin"
	"vaultd/internal/confine"
	"vaultd/internal/pool"
	"vaultd/internal/store"
	"vaultd/internal/supervise"
	"vaultd/internal/zfshelper"
)

// program is the running program itself, even when its file was replaced.
const program = "/proc/self/exe"

// supervisor is "vaultd serve": it has the addresses, the socket of the commands and the store's lock, and starts the server, which is confined
// and so can not be the one that does these things, and expire, which the server can not reach. It starts either again when it ends; meanwhile
// clients wait and are not refused. Both die with it, also when it is killed.
type supervisor struct {
	a      *app
	conf   *Config // Expire and Log change with reloads, and are guarded by mu
	log    *slog.Logger
	spares spareMaker
	zfs    *store.ZFS      // nil: tenants are directories
	helper zfshelper.Verbs // of zfs
	care   *pool.Care      // nil: the store is not on ZFS
	boot   string
	procs  int

	mu     sync.Mutex
	expire *restarter

	listeners []net.Listener
	admin     *admin.Listener
	metrics   net.Listener // nil: there is none
	unmetered string       // why, where there should be one
	inherit   []*os.File   // from supervise.FDLock on
	layout    confine.Layout
	ready     func(addrs []string) error
	stop      func()      // ends all as a signal does
	failed    chan error  // what ready returned
	wasReady  atomic.Bool // some generation of the server
	untried   bool        // no probe could be made for the present one
	restarts  restarts
}

// supervise serves until ctx is cancelled, then lets the server drain. ready is called once it serves.
func (a *app) supervise(ctx context.Context, conf *Config, ready func(addrs []string) error) error {
	s := &supervisor{a: a, conf: conf, log: newLogger(a.stderr, conf.Log.Format, conf.Log.Level), ready: ready, procs: runtime.GOMAXPROCS(0), expire: newRestarter(),
		failed: make(chan error, 1)}
	if err := s.prepare(ctx); err != nil {
		s.close()
		return err
	}
	ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()
	if s.care != nil {
		s.care.Look(ctx)
		go s.care.Run(ctx) // what it waits for may hang
	}
	expired := make(chan error, 1)
	go func() {
		expired <- s.expire.run(ctx, func(ctx context.Context) error { return a.keepExpiring(ctx, s.config(), s.log) })
	}()
	err := s.keepServing(ctx)
	s.stop()
	return errors.Join(err, <-expired, s.close())
}

// config is what is in force.
func (s *supervisor) config() *Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := *s.conf
	return &c
}

// reloaded starts expire again, where the file says something else for it than before: the server asked for it, and could ask all day.
func (s *supervisor) reloaded() error {
	next, err := s.a.loadConfig()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next.Expire.User = s.conf.Expire.User // waits for a restart
	if next.Expire != s.conf.Expire || next.Log != s.conf.Log {
		s.conf.Expire, s.conf.Log = next.Expire, next.Log
		s.expire.again()
	}
	return nil
}

// lockPatience is how long the server of a supervisor that was just killed may take to die with it.
const lockPatience = time.Second

// prepare takes what one server at a time can have.
func (s *supervisor) prepare(ctx context.Context) error {
	dir, err := filepath.Abs(s.a.dir)
	if err != nil {
		return err
	}
	lock, err := store.Lock(dir)
	for wait := time.Duration(0); errors.Is(err, store.ErrInUse) && wait < lockPatience && ctx.Err() == nil; wait += 50 * time.Millisecond {
		time.Sleep(50 * time.Millisecond)
		lock, err = store.Lock(dir)
	}
	if err != nil {
		return err
	}
	s.inherit = append(s.inherit, lock)
	if s.boot, err = store.BootID(); err != nil {
		return err
	}
	if err := s.prepareZFS(ctx, dir); err != nil {
		return err
	}
	if s.care, err = s.a.poolCare(s.conf, s.log); err != nil {
		return err
	}
	s.layout = confine.Layout{Store: dir, Program: program}
	for _, k := range s.conf.SSH.HostKeys {
		if !filepath.IsAbs(k) {
			k = filepath.Join(dir, k)
		}
		s.layout.Read = append(s.layout.Read, k)
	}
	if err := s.listen(); err != nil {
		return err
	}
	if s.admin, err = admin.Listen(dir); err != nil {
		return err
	}
	f, err := s.admin.File()
	if err != nil {
		return err
	}
	s.inherit = append(s.inherit, f)
	for _, l := range s.listeners {
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return err
		}
		s.inherit = append(s.inherit, f)
	}
	return s.listenMetrics()
}

// listenMetrics takes the address of the metrics. That it can not be had is no reason to take no backups.
func (s *supervisor) listenMetrics() error {
	addr := s.conf.Metrics.Listen
	if s.a.metricsListen != nil {
		addr = *s.a.metricsListen
	}
	if addr == "" {
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		s.unmetered = err.Error()
		s.log.Error("metrics are not served", "error", s.unmetered)
		return nil
	}
	s.metrics = l
	f, err := l.(*net.TCPListener).File()
	if err == nil {
		s.inherit = append(s.inherit, f)
	}
	return err
}

// listen takes the addresses, or the sockets that the service manager made (sd_listen_fds(3)).
func (s *supervisor) listen() error {
	given, err := activation.Listeners()
	if err != nil {
		return err
	}
	if len(given) > 0 {
		s.listeners = given
		for _, l := range given {
			if _, ok := l.(*net.TCPListener); !ok {
				return fmt.Errorf("the service manager passed a socket that is not TCP: %s", l.Addr())
			}
		}
		return nil
	}
	for _, addr := range s.conf.Listen {
		l, err := net.Listen("tcp", addr)
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
	}
	return nil
}

// hangUp stops taking clients and commands: what is not accepted yet is refused.
func (s *supervisor) hangUp() error {
	var errs []error
	for _, l := range s.listeners {
		errs = append(errs, l.Close())
	}
	if s.admin != nil {
		errs = append(errs, s.admin.Close())
	}
	if s.metrics != nil {
		errs = append(errs, s.metrics.Close())
	}
	for len(s.inherit) > 1 { // but the lock
		errs = append(errs, s.inherit[1].Close())
		s.inherit = slices.Delete(s.inherit, 1, 2)
	}
	s.listeners, s.admin, s.metrics = nil, nil, nil
	return errors.Join(errs...)
}

func (s *supervisor) close() error {
	err := s.hangUp()
	for _, f := range s.inherit {
		err = errors.Join(err, f.Close())
	}
	return err
}

// The pauses between starts of a server that ends by itself.
const (
	minPause  = 100 * time.Millisecond
	maxPause  = 10 * time.Second
	longLived = time.Minute // one that ran so long begins with the shortest again
)

// keepServing runs one server after the other. The kernel's promise that a child dies with its parent is about the thread that forks, which
// therefore stays this one.
func (s *supervisor) keepServing(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := time.Duration(0)
	for ctx.Err() == nil {
		begin := time.Now()
		leave, err := s.generation(ctx)
		select {
		case e := <-s.failed:
			return errors.Join(e, err)
		default:
		}
		if leave && ctx.Err() == nil {
			pause = 0
			continue
		}
		if ctx.Err() != nil || !s.wasReady.Load() {
			return err
		}
		if time.Since(begin) > longLived {
			pause = 0
		}
		if pause > 0 || err == nil {
			pause = min(max(2*pause, minPause), maxPause)
		}
		s.log.Error("the server ended and is started again", "error", fmt.Sprint(err), "in", pause.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = max(pause, minPause)
	}
	return nil
}

// generation runs one server until it ends. leave says that it wanted to be followed by another one.
func (s *supervisor) generation(ctx context.Context) (leave bool, err error) {
	began := s.poolBefore()
	s.layout.Bare, s.untried = began.Out, began.Out
	if !began.Out {
		if err := s.prepareDatasets(ctx); err != nil {
			return false, err
		}
	}
	here, there, err := supervise.Pair()
	if err != nil {
		return false, err
	}
	defer here.Close()
	cmd := exec.Command(program, s.args()...)
	cmd.Args[0] = "vaultd"
	cmd.Stdout, cmd.Stderr, cmd.Env = s.a.stdout, s.a.stderr, childEnviron()
	cmd.ExtraFiles = append([]*os.File{there}, s.inherit...)
	listeners := len(s.listeners)
	stopNews, err := s.passNews(cmd)
	if err != nil {
		return false, errors.Join(err, there.Close())
	}
	defer stopNews()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = cmd.Start()
	there.Close()
	if err != nil {
		return false, err
	}
	var leaving atomic.Bool
	answered := make(chan struct{})
	asked, forget := context.WithCancel(context.WithoutCancel(ctx)) // what the server asks is done also while it drains
	defer forget()
	verbs := s.verbs(asked, &leaving, listeners, s.metrics != nil)
	watch, unwatch := context.WithCancel(ctx)
	defer unwatch()
	if s.care != nil {
		go s.watchPool(watch, began, func() {
			leaving.Store(true)
			cmd.Process.Kill()
		})
	}
	go func() { defer close(answered); s.answer(here, verbs, cmd.Process.Kill) }()
	ended := make(chan struct{})
	relayed := make(chan struct{})
	go func() { defer close(relayed); s.relay(ctx, cmd.Process, ended) }()
	err = s.wait(ctx, cmd)
	close(ended)
	<-relayed
	forget()
	here.Close()
	<-answered
	return leaving.Load(), outcome(err)
}

// prepareDatasets makes what a server needs to be there before it is confined.
func (s *supervisor) prepareDatasets(ctx context.Context) error {
	spoiled, err := s.spares.Prepare(ctx, s.conf.Store.SpareSlots)
	if err := s.unlessStorage(err); err != nil {
		return err
	}
	for _, path := range spoiled {
		s.log.Error("a dataset is neither a tenant's nor as it was made: somebody wrote to it, its tenant's entry is lost (vaultd adopt), or it was made before encryption was switched on; it is not used", "path", path)
	}
	err = s.layout.MakeProbe()
	s.untried = err != nil
	return s.unlessStorage(err)
}

func (s *supervisor) args() []string {
	args := []string{"serve-confined", "--dir", s.a.dir}
	if s.a.config != "" {
		args = append(args, "--config", s.a.config)
	}
	for _, f := range s.layout.Read {
		args = append(args, "--read", f)
	}
	if confine.Mode(s.conf.Confine) != confine.Off {
		args = append(args, "--enter")
	}
	if s.layout.Bare {
		args = append(args, "--bare")
	}
	if s.untried {
		args = append(args, "--untried")
	}
	return args
}

// outcome is how a server ended. It has said why itself.
func outcome(err error) error {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Exited() {
		return &statusError{exit.ExitCode()}
	}
	return err
}

// relay passes signals on to the server until it ended, and asks it to end when ctx is cancelled.
func (s *supervisor) relay(ctx context.Context, server *os.Process, ended <-chan struct{}) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGQUIT)
	defer signal.Stop(signals)
	done := ctx.Done()
	for {
		select {
		case <-ended:
			return
		case sig := <-signals:
			server.Signal(sig)
		case <-done:
			done = nil
			daemon.SdNotify(false, daemon.SdNotifyStopping)
			if err := s.hangUp(); err != nil {
				s.log.Error("stop listening", "error", err.Error())
			}
			server.Signal(syscall.SIGTERM)
		}
	}
}

// childEnviron is the environment without what a service manager said to this process alone.
func childEnviron() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains([]string{"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}, name)
	})
}
