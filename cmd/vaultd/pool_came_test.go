package main

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"vaultd/internal/supervise"
)

// A server is to be followed when a dataset is mounted that was not: when it started, or at any look since; also when looks fail meanwhile.
func TestPresence(t *testing.T) {
	type look struct {
		out           bool
		here, missing []string
	}
	one := func(ids ...string) []string { return ids }
	for _, x := range []struct {
		name  string
		looks []look
		came  bool
	}{
		{"all there", []look{{here: one("t-a")}, {here: one("t-a")}}, false},
		{"absent when it started, and here now", []look{{missing: one("t-a")}, {here: one("t-a")}}, true},
		{"it stays said", []look{{missing: one("t-a")}, {here: one("t-a")}, {missing: one("t-a")}}, true},
		{"absent and stays so", []look{{missing: one("t-a")}, {missing: one("t-a", "t-b")}}, false},
		{"unmounted and mounted", []look{{here: one("t-a")}, {missing: one("t-a")}, {here: one("t-a")}}, true},
		{"with failures between", []look{{missing: one("t-a")}, {out: true}, {here: one("t-a")}}, true},
		{"one for another", []look{{here: one("t-b"), missing: one("t-a")}, {here: one("t-a"), missing: one("t-b")}}, true},
		{"a tenant that is removed has not come", []look{{missing: one("t-a")}, {}, {here: one("t-b")}}, false},
		{"a tenant that is new and has one has not come either", []look{{}, {here: one("t-a")}}, false},
		{"a new tenant that gets one", []look{{}, {missing: one("t-a")}, {here: one("t-a")}}, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			for _, fail := range []error{nil, errors.New("no table of mounts")} { // as another way to be out
				var now look
				p := &presence{log: slog.New(slog.DiscardHandler), look: func() (bool, []string, []string, error) {
					if now.out {
						return false, nil, nil, fail
					}
					return true, now.here, now.missing, nil
				}}
				got := false
				for _, now = range x.looks {
					got = p.came()
				}
				if got != x.came {
					t.Errorf("came: %v", got)
				}
			}
		})
	}
}

// The server that follows takes what it finds for what is there: it is followed once.
func TestPresenceOnce(t *testing.T) {
	here, missing := []string(nil), []string{"t-a"}
	look := func() (bool, []string, []string, error) { return true, here, missing, nil }
	first := &presence{look: look, log: slog.New(slog.DiscardHandler)}
	if first.came() {
		t.Fatal("it came before it was there")
	}
	here, missing = missing, nil
	if !first.came() {
		t.Fatal("it did not come")
	}
	next := &presence{look: look, log: slog.New(slog.DiscardHandler)}
	for range 3 {
		if next.came() {
			t.Error("it came again")
		}
	}
}

// A dataset that comes and goes all day has the server start a few dozen times, not for ever; when it has been quiet, the next one is followed at once.
func TestRestartsBounded(t *testing.T) {
	var r restarts
	now := time.Unix(1_800_000_000, 0)
	if wait := r.begin(now); wait != 0 {
		t.Errorf("the first server waits %v", wait)
	}
	day, n := now.Add(24*time.Hour), 0
	for wait := time.Duration(0); now.Before(day); n++ {
		now = now.Add(wait + time.Second) // it leaves as soon as it may
		r.again(now)
		wait = r.begin(now)
	}
	if n < 10 || n > 32 {
		t.Errorf("%d servers in a day", n)
	}
	now = now.Add(12 * time.Hour)
	if wait := r.again(now); wait != minWait {
		t.Errorf("after half a quiet day the next one waits %v", wait)
	}
}

// Somebody is turned away by a server with spares: it ends to be followed, but no earlier than it may, and the supervisor is told that it is for that.
func TestReplaceAgain(t *testing.T) {
	for _, x := range []struct {
		name string
		wait time.Duration
		left bool
	}{{"at once", 0, true}, {"not yet", time.Hour, false}} {
		t.Run(x.name, func(t *testing.T) {
			here, there, err := supervise.Pair()
			must(t, err)
			c, err := net.FileConn(there)
			must(t, errors.Join(err, there.Close()))
			defer here.Close()
			defer c.Close()
			var again atomic.Bool
			go supervise.Serve(here, map[string]supervise.Verb{
				"leave": func(args json.RawMessage) (any, error) {
					var b bool
					err := json.Unmarshal(args, &b)
					again.Store(b)
					return nil, err
				}})
			log := slog.New(slog.DiscardHandler)
			ended := make(chan struct{})
			r := &replacement{spares: newSpares(supervise.NewClient(c), 8, log), needed: true, renew: func() bool { return false }, wait: x.wait, start: time.Now(),
				busy: func() bool { return false }, end: func() { close(ended) }}
			if r.few() || r.turned() || r.count() != 8 {
				t.Error("it is turned away before somebody came")
			}
			r.turnAway("a dataset can not be opened")
			if r.count() != 0 {
				t.Error("it still offers room")
			}
			done := make(chan error, 1)
			go func() { done <- r.watch(t.Context()) }()
			if !x.left {
				select {
				case <-ended:
					t.Error("it ended")
				case <-time.After(3 * lookEvery):
				}
				return
			}
			<-ended
			if err := <-done; err != nil || !again.Load() {
				t.Errorf("%v, again %v", err, again.Load())
			}
		})
	}
}
