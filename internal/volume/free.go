package volume

import (
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"vaultd/internal/journal"
)

// Freer is the one hand that ends sealed contents. The expire process opens it; nothing that speaks to clients does.
// It reads closed journal segments and can do nothing else.
type Freer struct{ v *Volume }

// OpenFreer opens the volume in dir for freeing.
func OpenFreer(dir string) (*Freer, error) {
	v, err := Open(dir)
	if err != nil {
		return nil, err
	}
	return &Freer{v}, nil
}

// Close closes its descriptors.
func (f *Freer) Close() error { return f.v.Close() }

// Segments and ReadSegment are Volume's.
func (f *Freer) Segments() ([]string, error) { return f.v.Segments() }

// ReadSegment opens a closed segment.
func (f *Freer) ReadSegment(name string) (io.ReadCloser, error) { return f.v.ReadSegment(name) }

// The reasons for which a content stays although retention let go of it. Each is a disagreement between the journal and
// the disk, which somebody has to look at.
var (
	ErrLinked = errors.New("content still has a name in the live tree")
	ErrSize   = errors.New("content does not have the size that the journal has of it")
)

// Free ends a sealed content of so many bytes (-1: of any number): fstatat(store, xx/id); unlinkat(store, xx/id). It reports whether the content
// was there; one that is still in staging is left alone and is not. A content with a name in the live tree is never ended,
// whatever the journal says: should one get a name between the two calls, it is under that name all the same, as the name is a
// link. It is durable after Sync.
func (f *Freer) Free(id journal.ID, size int64) (bool, error) {
	v := f.v
	if err := v.enter(); err != nil {
		return false, fail("free", id.String(), err)
	}
	defer v.leave()
	var st unix.Stat_t
	err := unix.Fstatat(v.store, storeName(id), &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return false, nil
	case err != nil:
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = errNotRegular
	case st.Nlink != 1:
		err = ErrLinked
	case size >= 0 && st.Size != size:
		err = fmt.Errorf("%w: %d bytes, recorded as %d", ErrSize, st.Size, size)
	default:
		err = retry(func() error { return unix.Unlinkat(v.store, storeName(id), 0) })
	}
	return err == nil, fail("free", id.String(), err)
}

// Has reports whether a content is in the store.
func (f *Freer) Has(id journal.ID) (bool, error) {
	if err := f.v.enter(); err != nil {
		return false, fail("stat", id.String(), err)
	}
	defer f.v.leave()
	var st unix.Stat_t
	err := unix.Fstatat(f.v.store, storeName(id), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil, fail("stat", id.String(), err)
}

// Staged reports whether a content is in staging: published, and not moved into the store yet.
func (f *Freer) Staged(id journal.ID) (bool, error) {
	if err := f.v.enter(); err != nil {
		return false, fail("stat", id.String(), err)
	}
	defer f.v.leave()
	var st unix.Stat_t
	err := unix.Fstatat(f.v.staging, id.String(), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOENT {
		return false, nil
	}
	return err == nil, fail("stat", id.String(), err)
}

// Sync makes what Free did durable: syncfs(2).
func (f *Freer) Sync() error {
	if err := f.v.enter(); err != nil {
		return fail("sync", "", err)
	}
	defer f.v.leave()
	return fail("sync", "", retry(func() error { return unix.Syncfs(f.v.store) }))
}
