package rsync

import (
	"errors"
	"io"
	"io/fs"

	"vaultd/internal/appendonly"
)

// base is what a file is built from: what arrived of it when a connection was lost, and behind that what stands under its
// name or under another. Either may be missing.
type base struct{ arrived, old *appendonly.File }

// have is how many bytes arrived.
func (b *base) have() int64 {
	if b.arrived == nil {
		return 0
	}
	return b.arrived.Stat().Size
}

func (b *base) size() int64 {
	n := b.have()
	if b.old != nil {
		n += b.old.Stat().Size
	}
	return n
}

func (b *base) none() bool { return b.arrived == nil && b.old == nil }

// ReadAt follows io.ReaderAt on both, one behind the other.
func (b *base) ReadAt(p []byte, off int64) (n int, err error) {
	have := b.have()
	if off < have {
		k := min(int64(len(p)), have-off)
		if n, err = b.arrived.ReadAt(p[:k], off); n == len(p) || int64(n) < k {
			return n, err
		}
	}
	if b.old == nil {
		return n, io.EOF
	}
	m, err := b.old.ReadAt(p[n:], off+int64(n)-have)
	return n + m, err
}

func (b *base) close() {
	for _, f := range []*appendonly.File{b.arrived, b.old} {
		if f != nil {
			f.Close()
		}
	}
}

// basisOf opens what the file is built from: what arrived of it before, and from. Where neither is, it comes whole.
func (g *generator) basisOf(t *transfer, from basis) (*base, error) {
	b := &base{}
	if g.sums.None() { // blocks would be told apart by their weak sums alone
		return b, nil
	}
	var err error
	if !t.have || g.opt.Append == 0 && g.FS.Ask(appendonly.OpOverwrite, t.path) == nil {
		if b.arrived, err = g.FS.Interrupted(t.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return b, err
		}
		t.going = err == nil
	}
	if t.going && !t.have || from.info == nil || from.info.Size == 0 || g.opt.WholeFile && g.opt.Append == 0 {
		return b, nil
	}
	b.old, err = g.FS.Basis(from.path)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, appendonly.ErrQuarantined) || errors.Is(err, fs.ErrNotExist) {
		return b, nil // it comes whole
	}
	if err == nil {
		t.basis = from.path
	}
	return b, err
}
