package sftpserver

import (
	"context"
	"io"

	"vaultd/internal/appendonly"
)

// filesystem is the part of appendonly.FS that SFTP speaks to, so that tests can have faults that
// a real one does not have on demand. It is as wide as the protocol; the contracts are FS's.
type filesystem interface {
	Stat(path string) (appendonly.Info, error)
	StatFollow(path string) (appendonly.Info, error)
	Readlink(path string) (string, error)
	Resolve(path string) (string, error)
	Open(path string) (file, error)
	OpenDir(path string) (dir, error)
	Create(path string, o appendonly.CreateOptions) (upload, error)
	Mkdir(path string, m appendonly.Meta) error
	Symlink(target, path string, m appendonly.Meta) error
	Link(old, path string) error
	Remove(path string) error
	Rmdir(path string) error
	Rename(from, to string, replace bool) error
	SetMeta(path string, m appendonly.Meta, follow bool) error
	Truncate(path string, size int64) error
	Hash(path string, h io.Writer) error
	Statfs() (appendonly.Space, error)
	Barrier(ctx context.Context) error
}

// file is *appendonly.File.
type file interface {
	io.ReaderAt
	Stat() appendonly.Info
	Close() error
}

// dir is *appendonly.Dir.
type dir interface {
	Next(n int) ([]appendonly.Info, error)
	Stat() appendonly.Info
}

// upload is *appendonly.Upload.
type upload interface {
	io.WriterAt
	io.ReaderAt
	Stat() (appendonly.Info, error)
	Truncate(size int64) error
	SetMeta(m appendonly.Meta) error
	CopyFrom(src file, srcOff, dstOff, n int64) error
	Close() error
	Abort()
}

// live is the real filesystem.
type live struct{ *appendonly.FS }

var _ filesystem = live{}

func (l live) Open(path string) (file, error) {
	f, err := l.FS.Open(path)
	if err != nil {
		return nil, err // not f: a nil *File in an interface is not nil
	}
	return f, nil
}

func (l live) OpenDir(path string) (dir, error) {
	d, err := l.FS.OpenDir(path)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (l live) Create(path string, o appendonly.CreateOptions) (upload, error) {
	u, err := l.FS.Create(path, o)
	if err != nil {
		return nil, err
	}
	return liveUpload{u}, nil
}

type liveUpload struct{ *appendonly.Upload }

func (u liveUpload) CopyFrom(src file, srcOff, dstOff, n int64) error {
	return u.Upload.CopyFrom(src.(*appendonly.File), srcOff, dstOff, n)
}
