package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"vaultd/internal/confine"
	"vaultd/internal/supervise"
	"vaultd/internal/zfshelper"
)

// begun is what a server is told when it starts.
type begun struct {
	Listeners int           `json:"listeners"`
	Listen    []string      `json:"listen"` // of the command line, where it says any
	Procs     int           `json:"procs"`  // the runtime in a confined process can not read the limits of its group
	Boot      string        `json:"boot"`
	Mode      confine.Mode  `json:"mode"`
	Spares    int           `json:"spares"`
	Alive     time.Duration `json:"alive"`     // how often it says that it is; 0: never
	Metrics   bool          `json:"metrics"`   // a listener for them follows the others
	Unmetered string        `json:"unmetered"` // why there is none, where there should be one
	Pool      bool          `json:"pool"`      // news of it come over one more descriptor, behind all listeners'
	Group     bool          `json:"group"`     // may give commands, too: see package admin
	Wait      time.Duration `json:"wait"`      // see restarts
	Expire    int           `json:"expire"`    // the user that frees; -1: who has expire/
}

// expireUID is the user of a service of its own that frees, -1 where there is none: the unit of the server hides expire/ from it, and a confined process can
// not look names of users up.
func (s *supervisor) expireUID() int {
	if s.conf.Expire.User == "" {
		return -1
	}
	as, err := lookUp("expire.user", s.conf.Expire.User)
	if err != nil {
		s.log.Error("nobody but root can say what was freed", "error", err.Error())
		return 0
	}
	return as.uid
}

// verbs are what a server can ask of its supervisor, and all that code execution in it can: see package supervise.
func (s *supervisor) verbs(ctx context.Context, leaving *atomic.Bool, listeners int, metered bool) map[string]supervise.Verb {
	every, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.log.Warn("the service manager's watchdog is not used", "error", err.Error())
	}
	group, metered := s.admin.Group(), s.metrics != nil // now: hangUp takes them away
	wait := s.restarts.begin(time.Now())
	table := map[string]supervise.Verb{
		"begin": func(json.RawMessage) (any, error) {
			return begun{Listeners: listeners, Listen: s.a.listen, Procs: s.procs, Boot: s.bootName(), Pool: s.care != nil, Mode: confine.Mode(s.conf.Confine), Spares: s.spares.Left(),
				Alive: every / 3, Group: group, Metrics: metered, Unmetered: s.unmetered, Wait: wait, Expire: s.expireUID()}, nil
		},
		"metrics": func(json.RawMessage) (any, error) { return s.a.readScrapeFiles() },
		"config": func(json.RawMessage) (any, error) {
			path, text, err := readConfig(s.a.dir, s.a.config)
			return configFile{path, text, text != nil}, err
		},
		"reloaded": func(json.RawMessage) (any, error) { return nil, s.reloaded() },
		"ready": func(args json.RawMessage) (any, error) {
			var addrs []string
			if err := json.Unmarshal(args, &addrs); err != nil {
				return nil, err
			}
			if s.wasReady.Swap(true) {
				return nil, nil
			}
			daemon.SdNotify(false, daemon.SdNotifyReady)
			if s.ready != nil {
				go s.afterReady(addrs)
			}
			return nil, nil
		},
		"dataset": func(args json.RawMessage) (any, error) {
			var id string
			if err := json.Unmarshal(args, &id); err != nil {
				return nil, err
			}
			err := s.spares.Take(ctx, id)
			return s.spares.Left(), err
		},
		"alive": func(json.RawMessage) (any, error) {
			_, err := daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			return nil, err
		},
		"leave": func(args json.RawMessage) (any, error) {
			var again bool
			if err := json.Unmarshal(args, &again); err != nil {
				return nil, err
			}
			if leaving.Swap(true) || !again {
				return nil, nil
			}
			if wait := s.restarts.again(time.Now()); wait > 5*minWait {
				s.log.Warn("the server starts again and again for datasets that come and go, or that it can not open: see vaultd pool; the next one does not before it is so old", "wait", wait.String())
			}
			return nil, nil
		},
		"catalog": func(json.RawMessage) (any, error) { return s.catalogChanged(ctx) },
	}
	if s.zfs != nil {
		for _, name := range []string{"zfs.take", "zfs.bodies", "zfs.datasets", "zfs.pool"} {
			table[name] = zfshelper.Table(ctx, s.helper)[name]
		}
	}
	return table
}

// answer answers a server until that is gone. One that breaks the protocol is broken, or in somebody else's hands: what it asks is not answered, so that it would
// wait for ever, and it is killed, whatever of what it asked before still hangs. The next one starts after a pause.
func (s *supervisor) answer(server net.Conn, verbs map[string]supervise.Verb, kill func() error) {
	supervise.ServeUntil(server, verbs, func(err error) {
		server.Close()
		if err == nil {
			return
		}
		s.log.Error("the server broke the protocol with its supervisor, and is ended", "error", err.Error())
		if err := kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			s.log.Error("end the server", "error", err.Error())
		}
	})
}

// afterReady calls ready. When that fails, all ends as by a signal.
func (s *supervisor) afterReady(addrs []string) {
	if err := s.ready(addrs); err != nil {
		s.failed <- err
		s.stop()
	}
}
