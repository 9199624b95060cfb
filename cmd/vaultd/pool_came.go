package main

import (
	"log/slog"
	"sync"
	"time"
)

// presence follows, for one server, which tenants' datasets are mounted. Rules of a confinement are bound to what was mounted when it began: a dataset that was
// missing then, or at any time since, and is there, is one that this server can not open and the next one can. A tenant that left the catalog has not come.
type presence struct {
	look func() (mounted bool, here, missing []string, err error) // pool.Care.Places
	log  *slog.Logger

	mu      sync.Mutex // guards what follows
	missing map[string]bool
	some    bool
}

// came looks, and reports whether any has come since the first call. A look without the root says nothing of the tenants: that is an outage.
func (p *presence) came() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	mounted, here, missing, err := p.look()
	if err != nil || !mounted {
		return p.some
	}
	for _, id := range here {
		if p.missing[id] {
			p.some = true
			p.log.Info("a tenant's dataset has come: the next server can open it", "id", id)
		}
	}
	p.missing = make(map[string]bool, len(missing))
	for _, id := range missing {
		p.missing[id] = true
	}
	return p.some
}

// restarts bounds how often servers end for another one that may do better: after a dataset came, a vault failed, or somebody was turned away. The first time
// it is done at once; a dataset that comes and goes, or that no server can open, has each one wait twice as long as the one before.
type restarts struct {
	mu    sync.Mutex // guards what follows
	began time.Time  // the present server
	wait  time.Duration
}

// The waits. A server that lived twice as long as it had to, and an hour, begins anew.
const (
	minWait = time.Minute
	maxWait = time.Hour
)

// begin says how old a server that starts now has to become before it asks for that.
func (r *restarts) begin(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.began = now
	return r.wait
}

// again notes that the present one asked, and returns how long the next one waits.
func (r *restarts) again(now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.began) > max(2*r.wait, maxWait) {
		r.wait = 0
	}
	r.wait = min(max(2*r.wait, minWait), maxWait)
	return r.wait
}
