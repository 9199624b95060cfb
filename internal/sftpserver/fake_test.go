package sftpserver_test

import (
	"context"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"

	"vaultd/internal/appendonly"
	"vaultd/internal/sftpserver"
)

// fakeFS is a strict vault in memory, as simple as the protocol's tests allow: names are written once,
// uploads are published by Close. hook, if set, sees each operation first and may fail or delay it.
type fakeFS struct {
	hook func(op, path string) error

	mu       sync.Mutex
	seq      appendonly.Seq
	nodes    map[string]*node
	aborted  []string // paths of uploads that were aborted
	barriers int
	open     int // files and uploads that were not closed
}

// fakeSpace is the greatest file that a fakeFS takes.
const fakeSpace = 32 << 20

type node struct {
	appendonly.Info
	data []byte
}

var _ sftpserver.Filesystem = (*fakeFS)(nil)

func newFake() *fakeFS {
	f := &fakeFS{nodes: map[string]*node{}}
	f.add("/", appendonly.KindDir, nil, appendonly.NoMeta())
	return f
}

func clean(p string) string { return path.Clean("/" + p) }

func missing(op, p string) error { return &fs.PathError{Op: op, Path: p, Err: fs.ErrNotExist} }

// add enters a node; mu is held, or the FS is not yet shared.
func (f *fakeFS) add(p string, k appendonly.Kind, data []byte, m appendonly.Meta) *node {
	f.seq++
	n := &node{Info: appendonly.Info{Name: path.Base(p), Kind: k, Size: int64(len(data)), Meta: m, Nlink: 1, From: f.seq, Sealed: true}, data: data}
	if n.MTime.IsZero() {
		n.MTime = appendonly.Unix(1700000000, 0)
	}
	f.nodes[p] = n
	return n
}

func (f *fakeFS) put(p, content string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.add(clean(p), appendonly.KindFile, []byte(content), appendonly.NoMeta())
}

func (f *fakeFS) content(p string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.nodes[clean(p)]
	if n == nil {
		return "", false
	}
	return string(n.data), true
}

func (f *fakeFS) enter(op, p string) error {
	if f.hook != nil {
		return f.hook(op, p)
	}
	return nil
}

func (f *fakeFS) look(op, p string) (*node, error) {
	if err := f.enter(op, p); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := f.nodes[clean(p)]; n != nil {
		return n, nil
	}
	return nil, missing(op, p)
}

func (f *fakeFS) info(n *node) appendonly.Info {
	f.mu.Lock()
	defer f.mu.Unlock()
	return n.Info
}

func (f *fakeFS) Stat(p string) (appendonly.Info, error) {
	n, err := f.look("stat", p)
	if err != nil {
		return appendonly.Info{}, err
	}
	return f.info(n), nil
}

func (f *fakeFS) StatFollow(p string) (appendonly.Info, error) {
	n, err := f.look("stat", p)
	if err == nil && n.Kind == appendonly.KindSymlink {
		n, err = f.look("stat", path.Join(path.Dir(clean(p)), n.Target))
	}
	if err != nil {
		return appendonly.Info{}, err
	}
	return f.info(n), nil
}

func (f *fakeFS) Readlink(p string) (string, error) {
	n, err := f.look("readlink", p)
	if err != nil {
		return "", err
	}
	if n.Kind != appendonly.KindSymlink {
		return "", &fs.PathError{Op: "readlink", Path: p, Err: appendonly.ErrNotSymlink}
	}
	return n.Target, nil
}

func (f *fakeFS) Resolve(p string) (string, error) { return clean(p), f.enter("resolve", p) }

type fakeFile struct {
	*fakeFS
	n *node
}

func (f *fakeFS) Open(p string) (sftpserver.File, error) {
	n, err := f.look("open", p)
	if err != nil {
		return nil, err
	}
	if n.Kind != appendonly.KindFile {
		return nil, &fs.PathError{Op: "open", Path: p, Err: appendonly.ErrIsDir}
	}
	f.mu.Lock()
	f.open++
	f.mu.Unlock()
	return &fakeFile{f, n}, nil
}

func (f *fakeFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.enter("read", f.n.Name); err != nil {
		return 0, err
	}
	if off >= int64(len(f.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *fakeFile) Stat() appendonly.Info { return f.info(f.n) }

func (f *fakeFile) Close() error {
	f.mu.Lock()
	f.open--
	f.mu.Unlock()
	return nil
}

type fakeDir struct {
	n    *node
	list []appendonly.Info
}

func (f *fakeFS) OpenDir(p string) (sftpserver.Dir, error) {
	n, err := f.look("list", p)
	if err != nil {
		return nil, err
	}
	if n.Kind != appendonly.KindDir {
		return nil, &fs.PathError{Op: "list", Path: p, Err: appendonly.ErrNotDir}
	}
	d := &fakeDir{n: n}
	f.mu.Lock()
	defer f.mu.Unlock()
	for q, n := range f.nodes {
		if q != "/" && path.Dir(q) == clean(p) {
			i := n.Info
			i.Name = path.Base(q)
			d.list = append(d.list, i)
		}
	}
	slices.SortFunc(d.list, func(a, b appendonly.Info) int { return strings.Compare(a.Name, b.Name) })
	return d, nil
}

func (d *fakeDir) Stat() appendonly.Info { return d.n.Info }

func (d *fakeDir) Next(n int) ([]appendonly.Info, error) {
	if len(d.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(d.list))
	l := d.list[:n]
	d.list = d.list[n:]
	return l, nil
}

type fakeUpload struct {
	*fakeFS
	mu   sync.Mutex
	path string
	data []byte
	meta appendonly.Meta
}

func (f *fakeFS) Create(p string, o appendonly.CreateOptions) (sftpserver.Upload, error) {
	n, err := f.look("create", p)
	switch {
	case err == nil && o.Exclusive:
		return nil, &fs.PathError{Op: "create", Path: p, Err: fs.ErrExist}
	case err == nil && n.Kind == appendonly.KindFile:
		return nil, &appendonly.DeniedError{Op: appendonly.OpOverwrite, Path: clean(p), Rule: appendonly.P1, Why: "the file is sealed"}
	case err == nil:
		return nil, &fs.PathError{Op: "create", Path: p, Err: appendonly.ErrIsDir}
	case !o.Create:
		return nil, err
	case f.hook != nil && f.hook("create", p) != nil:
		return nil, err
	}
	f.mu.Lock()
	f.open++
	f.mu.Unlock()
	return &fakeUpload{fakeFS: f, path: clean(p), meta: o.Meta}, nil
}

func (u *fakeUpload) WriteAt(p []byte, off int64) (int, error) {
	if err := u.enter("write", u.path); err != nil {
		return 0, err
	}
	if off+int64(len(p)) > fakeSpace {
		return 0, syscall.ENOSPC
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if need := off + int64(len(p)); int64(len(u.data)) < need {
		u.data = append(u.data, make([]byte, need-int64(len(u.data)))...)
	}
	return copy(u.data[off:], p), nil
}

func (u *fakeUpload) ReadAt(p []byte, off int64) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if off >= int64(len(u.data)) {
		return 0, io.EOF
	}
	n := copy(p, u.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (u *fakeUpload) Stat() (appendonly.Info, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return appendonly.Info{Name: path.Base(u.path), Kind: appendonly.KindFile, Size: int64(len(u.data)), Meta: u.meta, Nlink: 1}, nil
}

func (u *fakeUpload) Truncate(size int64) error {
	if size > fakeSpace {
		return syscall.ENOSPC
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.data = append(u.data[:min(int64(len(u.data)), size)], make([]byte, max(0, size-int64(len(u.data))))...)
	return nil
}

func (u *fakeUpload) SetMeta(m appendonly.Meta) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	merge(&u.meta, m)
	return nil
}

func merge(to *appendonly.Meta, m appendonly.Meta) {
	if m.Mode != appendonly.Unset {
		to.Mode = m.Mode
	}
	if m.UID != appendonly.Unset {
		to.UID, to.GID = m.UID, m.GID
	}
	if !m.MTime.IsZero() {
		to.MTime, to.ATime = m.MTime, m.ATime
	}
}

func (u *fakeUpload) CopyFrom(src sftpserver.File, srcOff, dstOff, n int64) error {
	b := make([]byte, n)
	if _, err := src.ReadAt(b, srcOff); err != nil && err != io.EOF {
		return err
	}
	_, err := u.WriteAt(b, dstOff)
	return err
}

func (u *fakeUpload) Close() error {
	if err := u.enter("close", u.path); err != nil {
		return err
	}
	u.fakeFS.mu.Lock()
	defer u.fakeFS.mu.Unlock()
	u.fakeFS.open--
	if u.fakeFS.nodes[u.path] != nil {
		return &fs.PathError{Op: "close", Path: u.path, Err: fs.ErrExist}
	}
	u.fakeFS.add(u.path, appendonly.KindFile, u.data, u.meta)
	return nil
}

func (u *fakeUpload) Abort() {
	u.fakeFS.mu.Lock()
	defer u.fakeFS.mu.Unlock()
	u.fakeFS.open--
	u.fakeFS.aborted = append(u.fakeFS.aborted, u.path)
}

func (f *fakeFS) make(op, p string, k appendonly.Kind, m appendonly.Meta) (*node, error) {
	if n, err := f.look(op, p); n != nil {
		return nil, &fs.PathError{Op: op, Path: p, Err: fs.ErrExist}
	} else if err != nil && err.Error() != missing(op, p).Error() {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.add(clean(p), k, nil, m), nil
}

func (f *fakeFS) Mkdir(p string, m appendonly.Meta) error {
	_, err := f.make("mkdir", p, appendonly.KindDir, m)
	return err
}

func (f *fakeFS) Symlink(target, p string, m appendonly.Meta) error {
	n, err := f.make("symlink", p, appendonly.KindSymlink, m)
	if err == nil {
		n.Target = target
	}
	return err
}

func (f *fakeFS) Link(old, p string) error {
	n, err := f.look("link", old)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes[clean(p)] = n
	return nil
}

func (f *fakeFS) Remove(p string) error {
	if _, err := f.look("remove", p); err != nil {
		return err
	}
	return &appendonly.DeniedError{Op: appendonly.OpRemove, Path: clean(p), Rule: appendonly.P2, Why: "the file is sealed"}
}

func (f *fakeFS) Rmdir(p string) error {
	if _, err := f.look("rmdir", p); err != nil {
		return err
	}
	return &fs.PathError{Op: "rmdir", Path: p, Err: appendonly.ErrNotEmpty}
}

func (f *fakeFS) Rename(from, to string, replace bool) error {
	n, err := f.look("rename", from)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nodes[clean(to)] != nil && !replace {
		return &fs.PathError{Op: "rename", Path: to, Err: fs.ErrExist}
	}
	delete(f.nodes, clean(from))
	f.nodes[clean(to)] = n
	return nil
}

func (f *fakeFS) SetMeta(p string, m appendonly.Meta, follow bool) error {
	n, err := f.look("setstat", p)
	if err == nil && follow && n.Kind == appendonly.KindSymlink {
		n, err = f.look("setstat", n.Target)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	merge(&n.Meta, m)
	return nil
}

func (f *fakeFS) Truncate(p string, _ int64) error {
	if _, err := f.look("truncate", p); err != nil {
		return err
	}
	return &appendonly.DeniedError{Op: appendonly.OpTruncate, Path: clean(p), Rule: appendonly.P1, Why: "the file is sealed"}
}

func (f *fakeFS) Hash(p string, h io.Writer) error {
	n, err := f.look("hash", p)
	if err != nil {
		return err
	}
	_, err = h.Write(n.data)
	return err
}

func (f *fakeFS) Statfs() (appendonly.Space, error) {
	return appendonly.Space{Total: 1 << 30, Free: 1 << 29}, nil
}

func (f *fakeFS) Barrier(context.Context) error {
	f.mu.Lock()
	f.barriers++
	f.mu.Unlock()
	return f.enter("barrier", "")
}
