package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/pkg/sftp"
)

// work is something both servers do in turn, and what the project asks of the ratio.
type work struct {
	name     string
	durable  durability
	fresh    bool // each run starts on an empty store
	account  int  // of each side; see vaultd.prepare
	material bool // needs the client data
	wantWall float64
	wantCPU  float64 // 0: nothing is asked
	// unsyncedWant is asked of the walls without any sync for the baseline; 0: they are only shown.
	unsyncedWant float64
	setup        func(context.Context, *bench, *side) error // untimed, after each start
	action       func(context.Context, *bench, *side) error // timed
	after        func(*bench) error                         // untimed
}

// works are the timed comparisons in the order of the report. Where the project's table does not say
// whether the baseline is synced, both readings are judged.
var works = append(sftpWorks, rsyncWorks...)

var sftpWorks = []work{
	{
		name: "put-1g", durable: sessionEnd, fresh: true, material: true, wantWall: 0.8, wantCPU: 1.15, unsyncedWant: 0.8,
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).sftp(ctx, fmt.Sprintf("put %q %q\n", b.material.big, s.remote("run")))
			return err
		},
	},
	{
		name: "get-1g", durable: readOnly, material: true, wantWall: 1.0, wantCPU: 0.9,
		setup: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).sftp(ctx, fmt.Sprintf("put %q %q\n", b.material.big, s.remote("big")))
			return err
		},
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).sftp(ctx, fmt.Sprintf("get %q %q\n", s.remote("big"), b.got()))
			return err
		},
		after: func(b *bench) error {
			if err := sameContent(b.got(), b.material.big); err != nil {
				return err
			}
			return os.Remove(b.got())
		},
	},
	{
		name: "put-5000", durable: sessionEnd, fresh: true, material: true, wantWall: 1.0, wantCPU: 1.3,
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).sftp(ctx, fmt.Sprintf("put -r %q %q\n", b.material.tree, s.remote("run")))
			return err
		},
	},
	{
		name: "rclone-5000", durable: syncForBoth, fresh: true, material: true, wantWall: 0.9, unsyncedWant: 0.9,
		action: rcloneCopy(""),
	},
	{
		name: "rclone-nohash", durable: syncForBoth, fresh: true, material: true, wantWall: 0.9, unsyncedWant: 0.9,
		action: rcloneCopy("disable_hashcheck = true\n"),
	},
	{
		name: "restic", durable: sessionEnd, fresh: true, material: true, wantWall: 0.9, unsyncedWant: 0.9,
		action: func(ctx context.Context, b *bench, s *side) error {
			cache, err := os.MkdirTemp(b.tmp, "restic-")
			if err != nil {
				return err
			}
			defer os.RemoveAll(cache)
			return s.target(0).restic(ctx, cache, s.remote("run"), b.material.big, b.material.tree)
		},
	},
	{
		name: "connect", durable: readOnly, wantCPU: 0.2,
		action: func(ctx context.Context, _ *bench, s *side) error {
			for range connections {
				if err := connectOnce(ctx, s.target(0)); err != nil {
					return err
				}
			}
			return nil
		},
	},
}

// rcloneCopy copies the small files. By default rclone has the server hash every file, for which
// OpenSSH starts a shell and md5sum each time; without, both sides do the same SFTP and nothing else.
func rcloneCopy(config string) func(context.Context, *bench, *side) error {
	return func(ctx context.Context, b *bench, s *side) error {
		return s.target(0).rclone(ctx, filepath.Join(b.tmp, "rclone.conf"), config, b.material.tree, s.remote("run"))
	}
}

// connections is how many sessions "connect" makes, one after the other.
const connections = 200

// connectOnce connects, authenticates, starts sftp up to its VERSION, and leaves.
func connectOnce(ctx context.Context, t target) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	conn, err := t.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	c, err := sftp.NewClient(conn)
	if err != nil {
		return fmt.Errorf("start sftp: %w", err)
	}
	return c.Close()
}

// both are the samples of one work on the two sides, in the order of the runs.
type both struct{ a, b []sample }

// compare runs w on both sides, interleaved.
func (b *bench) compare(ctx context.Context, w work) (both, error) {
	for _, s := range b.sides() {
		defer s.stop()
		if w.fresh {
			continue
		}
		if err := b.ready(ctx, w, s); err != nil {
			return both{}, err
		}
	}
	return b.interleave(ctx, w)
}

// ready starts s on an empty store, sets w up and waits until s rests.
func (b *bench) ready(ctx context.Context, w work, s *side) error {
	if err := b.startWarm(ctx, s, w.account+1); err != nil {
		return err
	}
	if w.setup != nil {
		if err := w.setup(ctx, b, s); err != nil {
			return fmt.Errorf("set up %s: %w", s.label, err)
		}
	}
	_, err := s.settle(ctx)
	return err
}

// interleave runs w on A and B in turn. Round 0 warms up and does not count: it alone pays for
// memory that a virtual machine's host has not given it yet.
func (b *bench) interleave(ctx context.Context, w work) (both, error) {
	var got both
	for round := range b.runs + 1 {
		for _, s := range b.sides() {
			m, err := b.once(ctx, w, s)
			if err != nil {
				return got, fmt.Errorf("%s: %w", s.label, err)
			}
			b.progress("%s run %d %s: %.2f s wall, %.2f s cpu", w.name, round, s.label, m.wall.Seconds(), m.cpu.Seconds())
			switch {
			case round == 0:
			case s == b.a:
				got.a = append(got.a, m)
			default:
				got.b = append(got.b, m)
			}
		}
	}
	return got, nil
}

func (b *bench) once(ctx context.Context, w work, s *side) (sample, error) {
	if w.fresh {
		if err := b.ready(ctx, w, s); err != nil {
			return sample{}, err
		}
		defer s.stop()
	}
	m, err := measure(ctx, s, w.durable, func() error { return w.action(ctx, b, s) })
	if err == nil && w.after != nil {
		err = w.after(b)
	}
	return m, err
}

// startWarm starts s on an empty store and makes one session on each account, so that no run pays for what is
// done once.
func (b *bench) startWarm(ctx context.Context, s *side, accounts int) error {
	if err := s.start(ctx, accounts); err != nil {
		return err
	}
	for i := range accounts {
		if err := connectOnce(ctx, s.target(i)); err != nil {
			return fmt.Errorf("first session on %s: %w: %s", s.label, err, s.logTail())
		}
	}
	return nil
}
