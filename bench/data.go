package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"sync/atomic"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

const (
	bigSize    = 1 << 30
	smallCount = 5000
	smallSize  = 4 << 10
	perDir     = 100
)

// material is what the clients push: random bytes, the same at each start.
type material struct {
	dir  string // on tmpfs where there is one
	big  string // 1 GiB
	tree string // smallCount files in folders of perDir
}

// newMaterial writes the material below dir.
func newMaterial(dir string) (material, error) {
	m := material{dir: dir, big: filepath.Join(dir, "big"), tree: filepath.Join(dir, "tree")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return m, fmt.Errorf("write client data: %w", err)
	}
	src := rand.NewChaCha8([32]byte{'b', 'e', 'n', 'c', 'h'})
	if err := writeRandom(m.big, src, bigSize); err != nil {
		return m, fmt.Errorf("write client data: %w", err)
	}
	if err := writeTree(m.tree, src, smallCount); err != nil {
		return m, fmt.Errorf("write client data: %w", err)
	}
	return m, nil
}

// writeTree makes count files of smallSize below dir, in folders of perDir.
func writeTree(dir string, src io.Reader, count int) error {
	for i := range count {
		sub := filepath.Join(dir, fmt.Sprintf("dir-%05d", i/perDir))
		if i%perDir == 0 {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
		}
		if err := writeRandom(filepath.Join(sub, fmt.Sprintf("file-%06d.dat", i)), src, smallSize); err != nil {
			return err
		}
	}
	return nil
}

func writeRandom(name string, src io.Reader, n int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, src, n); err != nil {
		return err
	}
	return f.Close()
}

// sameContent compares two files.
func sameContent(a, b string) error {
	fa, err := os.Open(a)
	if err != nil {
		return err
	}
	defer fa.Close()
	fb, err := os.Open(b)
	if err != nil {
		return err
	}
	defer fb.Close()
	bufA, bufB := make([]byte, 1<<20), make([]byte, 1<<20)
	for {
		n, errA := io.ReadFull(fa, bufA)
		m, errB := io.ReadFull(fb, bufB)
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return fmt.Errorf("compare %s and %s: contents differ", a, b)
		}
		if errA != nil || errB != nil {
			if isEnd(errA) && isEnd(errB) {
				return nil
			}
			return errors.Join(errA, errB)
		}
	}
}

func isEnd(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

// pushConns is how many connections pushFiles uses: SFTP handles one CLOSE at a time on each.
const pushConns = 4

// pushFiles makes count files of 16 bytes below the remote folder root, through SFTP: in root itself
// if perFolder is 0, else in folders of perFolder.
func pushFiles(ctx context.Context, t target, root string, count, perFolder int) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range pushConns {
		conn, err := t.dial()
		if err != nil {
			return err
		}
		defer conn.Close()
		client, err := sftp.NewClient(conn)
		if err != nil {
			return fmt.Errorf("start sftp: %w", err)
		}
		defer client.Close()
		if err := client.MkdirAll(root); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		worker := func() error { return pushSome(ctx, client, &next, root, count, perFolder) }
		g.Go(worker)
		g.Go(worker)
	}
	return g.Wait()
}

// pushSome takes folders (or, without folders, files) from next until none is left.
func pushSome(ctx context.Context, c *sftp.Client, next *atomic.Int64, root string, count, perFolder int) error {
	step := max(perFolder, 1)
	for ctx.Err() == nil {
		first := int(next.Add(int64(step))) - step
		if first >= count {
			return nil
		}
		dir := root
		if perFolder > 0 {
			dir = path.Join(root, fmt.Sprintf("dir-%05d", first/perFolder))
			if err := c.Mkdir(dir); err != nil {
				return fmt.Errorf("make folder: %w", err)
			}
		}
		for i := first; i < min(first+step, count) && ctx.Err() == nil; i++ {
			if err := pushOne(c, path.Join(dir, fmt.Sprintf("file-%07d.dat", i))); err != nil {
				return err
			}
		}
	}
	return context.Cause(ctx)
}

func pushOne(c *sftp.Client, name string) error {
	f, err := c.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return fmt.Errorf("push file: %w", err)
	}
	if _, err := f.Write([]byte("0123456789abcdef")); err != nil {
		f.Close()
		return fmt.Errorf("push file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("push file: %w", err)
	}
	return nil
}
