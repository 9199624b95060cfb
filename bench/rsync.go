package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// The client's trees for rsync, made when a work first needs them.
const (
	pushCount  = 20_000
	againCount = 100_000
)

// rsyncWorks compare with the same rsync started by OpenSSH's sshd.
var rsyncWorks = []work{
	{
		name: "rsync-push-1g", durable: sessionEnd, fresh: true, material: true, wantWall: 0.9, wantCPU: 1.0,
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).rsync(ctx, b.material.big, ":"+s.remote("run"))
			return err
		},
	},
	{
		name: "rsync-push-20k", durable: sessionEnd, fresh: true, material: true, wantWall: 1.0, wantCPU: 1.25,
		action: func(ctx context.Context, b *bench, s *side) error { return pushTree(ctx, b, s, pushCount) },
	},
	{
		name: "rsync-again-100k", durable: sessionEnd, material: true, wantWall: 1.0, wantCPU: 1.0,
		setup:  func(ctx context.Context, b *bench, s *side) error { return pushTree(ctx, b, s, againCount) },
		action: func(ctx context.Context, b *bench, s *side) error { return pushTree(ctx, b, s, againCount) },
	},
	{
		name: "rsync-delta", durable: sessionEnd, fresh: true, account: versionedAccount, material: true, wantWall: 1.0,
		setup: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(versionedAccount).rsync(ctx, b.material.big, ":"+s.remote("run"))
			return err
		},
		action: func(ctx context.Context, b *bench, s *side) error {
			changed, err := b.material.changedBig()
			if err != nil {
				return err
			}
			out, err := s.target(versionedAccount).rsync(ctx, "--stats", "--no-h", changed, ":"+s.remote("run"))
			if err != nil {
				return err
			}
			n, err := literalBytes(out)
			if b.literal == nil {
				b.literal = map[*side][]float64{}
			}
			b.literal[s] = append(b.literal[s], n)
			return err
		},
	},
	{
		name: "rsync-pull-1g", durable: readOnly, material: true, wantWall: 1.0,
		setup: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).rsync(ctx, b.material.big, ":"+s.remote("big"))
			return err
		},
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).rsync(ctx, ":"+s.remote("big"), b.got())
			return err
		},
		after: func(b *bench) error {
			return errors.Join(sameContent(b.got(), b.material.big), os.Remove(b.got()))
		},
	},
	{
		name: "rsync-pull-20k", durable: readOnly, material: true, wantWall: 1.0,
		setup: func(ctx context.Context, b *bench, s *side) error { return pushTree(ctx, b, s, pushCount) },
		action: func(ctx context.Context, b *bench, s *side) error {
			_, err := s.target(0).rsync(ctx, ":"+s.remote("run")+"/", b.got()+"/")
			return err
		},
		after: func(b *bench) error {
			n := 0
			err := filepath.WalkDir(b.got(), func(_ string, d fs.DirEntry, err error) error {
				if err == nil && d.Type().IsRegular() {
					n++
				}
				return err
			})
			if err == nil && n != pushCount {
				err = fmt.Errorf("pull: %d files, want %d", n, pushCount)
			}
			return errors.Join(err, os.RemoveAll(b.got()))
		},
	},
}

// pushTree pushes the tree of count files to "run". What is made here for the first time is made in
// the round that does not count.
func pushTree(ctx context.Context, b *bench, s *side, count int) error {
	tree, err := b.material.treeOf(count)
	if err != nil {
		return err
	}
	_, err = s.target(0).rsync(ctx, tree+"/", ":"+s.remote("run")+"/")
	return err
}

// treeOf is a tree of count files of smallSize.
func (m material) treeOf(count int) (string, error) {
	dir := filepath.Join(m.dir, fmt.Sprintf("tree-%d", count))
	if _, err := os.Lstat(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	src := rand.NewChaCha8([32]byte{'t', 'r', 'e', 'e'})
	if err := writeTree(dir, src, count); err != nil {
		return "", fmt.Errorf("write client data: %w", err)
	}
	return dir, nil
}

// Of the changed file 1 % is new: stretches of changedPiece at random places.
const (
	changedPieces = 160
	changedPiece  = 64 << 10
)

// changedBig is big with 1 % of its bytes changed.
func (m material) changedBig() (string, error) {
	name := m.big + "-changed"
	if _, err := os.Lstat(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return name, err
	}
	src, err := os.Open(m.big)
	if err != nil {
		return "", err
	}
	defer src.Close()
	f, err := os.Create(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.Copy(f, src); err != nil {
		return "", fmt.Errorf("write client data: %w", err)
	}
	random := rand.NewChaCha8([32]byte{'c', 'h', 'a', 'n', 'g', 'e'})
	place := rand.New(random)
	piece := make([]byte, changedPiece)
	for range changedPieces {
		random.Read(piece)
		if _, err := f.WriteAt(piece, place.Int64N(bigSize-changedPiece)); err != nil {
			return "", fmt.Errorf("write client data: %w", err)
		}
	}
	return name, f.Close()
}

// literalBytes reads "Literal data: N bytes" of --stats.
func literalBytes(out []byte) (float64, error) {
	_, rest, ok := bytes.Cut(out, []byte("Literal data: "))
	number, _, found := bytes.Cut(rest, []byte(" bytes"))
	if !ok || !found {
		return 0, fmt.Errorf("read rsync's --stats: no literal data in %.200q", out)
	}
	return strconv.ParseFloat(string(number), 64)
}

// rsyncMillion compares the server's memory while a million files are pushed: vaultd with rsync's
// default, OpenSSH's rsync with the whole list in memory and, beside it, with its default.
func (b *bench) rsyncMillion(ctx context.Context) error {
	tree := filepath.Join(b.tmp, "million")
	if err := linkMillion(tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	peak := func(s *side, args ...string) (float64, error) {
		if err := b.startWarm(ctx, s, 1); err != nil {
			return 0, err
		}
		defer s.stop()
		m, err := measure(ctx, s, sessionEnd, func() error {
			_, err := s.target(0).rsync(ctx, append(args, tree+"/", ":"+s.remote("run")+"/")...)
			return err
		})
		b.progress("rsync-1m %s %v: %.1f s wall, %.1f s cpu, %.0f MiB", s.label, args, m.wall.Seconds(), m.cpu.Seconds(), mib(m.peak))
		return mib(m.peak), err
	}
	ours, err := peak(b.a)
	if err != nil {
		return err
	}
	whole, err := peak(b.b, "--no-inc-recursive")
	if err != nil {
		return err
	}
	theirs, err := peak(b.b)
	if err != nil {
		return err
	}
	b.report.fact(fact{what: "peak RssAnon while 1,000,000 files are pushed, MiB; rsync with --no-inc-recursive", a: []float64{ours}, b: []float64{whole}, want: 1.5,
		note: fmt.Sprintf("rsync by default: %.0f MiB", theirs)})
	return nil
}

// linkMillion makes a million names of 16-byte files in folders of 1,000, a folder a file with
// that many links: names are what costs here, and rsync without -H takes each for a file.
func linkMillion(dir string) error {
	for i := range largeCount / 1000 {
		sub := filepath.Join(dir, fmt.Sprintf("%04d", i))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		first := filepath.Join(sub, "file-0000.dat")
		if err := os.WriteFile(first, fmt.Appendf(nil, "%016d", i), 0o644); err != nil {
			return err
		}
		for j := 1; j < 1000; j++ {
			if err := os.Link(first, filepath.Join(sub, fmt.Sprintf("file-%04d.dat", j))); err != nil {
				return err
			}
		}
	}
	return nil
}
