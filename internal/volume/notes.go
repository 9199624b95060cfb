package volume

import (
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
)

const (
	noteSuffix = ".note"
	tmpSuffix  = ".tmp"
	// maxNote bounds one note in bytes; the core's are a few hundred.
	maxNote = 1 << 20
)

// noteKey names a note's file.
type noteKey struct {
	area appendonly.Area
	file string
}

// noteFile escapes a note's name so that it is one component: '/', '%' and what is not printable become %XX.
func noteFile(name string) (string, error) {
	file := url.PathEscape(name) + noteSuffix
	if name == "" {
		return "", refused{unix.EINVAL}
	}
	if len(file) > maxName {
		return "", refused{unix.ENAMETOOLONG}
	}
	return file, nil
}

func (v *Volume) area(a appendonly.Area) int {
	switch a {
	case appendonly.AreaStaging:
		return v.staging
	case appendonly.AreaScratch:
		return v.scratch
	}
	panic(fmt.Sprintf("internal error: note area %d", a))
}

// PutNote keeps data under name: a new one is written under its name (so that it may be found empty
// or short after a crash), an existing one is replaced by rename and is always whole while the machine
// runs. Sync makes it stable.
func (v *Volume) PutNote(area appendonly.Area, name string, data []byte) error {
	if err := v.enter(); err != nil {
		return fail("put note", name, err)
	}
	defer v.leave()
	return fail("put note", name, v.putNote(area, name, data))
}

func (v *Volume) putNote(area appendonly.Area, name string, data []byte) error {
	file, err := noteFile(name)
	if err != nil {
		return err
	}
	if len(data) > maxNote {
		return refused{unix.EFBIG}
	}
	at := v.area(area)
	target := file
	fd, err := openat(at, file, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, fileMode)
	if err == unix.EEXIST {
		v.mu.Lock()
		v.tmp++
		file = fmt.Sprintf("%d-%d%s", os.Getpid(), v.tmp, tmpSuffix)
		v.mu.Unlock()
		fd, err = openat(at, file, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC, fileMode)
	}
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if e := unix.Fchmod(fd, fileMode); err == nil {
		err = e
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil && file != target {
		err = unix.Renameat(at, file, at, target)
	}
	if err != nil {
		unix.Unlinkat(at, file, 0) // a half-written note is worse than none
		return err
	}
	v.markNote(area, target)
	return nil
}

// RemoveNote drops a note. A missing one is no error.
func (v *Volume) RemoveNote(area appendonly.Area, name string) error {
	if err := v.enter(); err != nil {
		return fail("remove note", name, err)
	}
	defer v.leave()
	file, err := noteFile(name)
	if err != nil {
		return fail("remove note", name, err)
	}
	err = retry(func() error { return unix.Unlinkat(v.area(area), file, 0) })
	if err == unix.ENOENT {
		return nil
	}
	if err == nil {
		v.markNote(area, file)
	}
	return fail("remove note", name, err)
}

func (v *Volume) markNote(area appendonly.Area, file string) {
	v.mu.Lock()
	v.notes[noteKey{area, file}] = struct{}{}
	v.mu.Unlock()
}

// Notes reads all notes of an area. Other files there, and notes that go away meanwhile, are passed over.
func (v *Volume) Notes(area appendonly.Area) (map[string][]byte, error) {
	if err := v.enter(); err != nil {
		return nil, fail("read notes", "", err)
	}
	defer v.leave()
	at := v.area(area)
	list, err := readDirAt(at)
	if err != nil {
		return nil, fail("read notes", "", err)
	}
	notes := make(map[string][]byte)
	for _, e := range list {
		escaped, ok := strings.CutSuffix(e.Name, noteSuffix)
		name, err := url.PathUnescape(escaped)
		if !ok || err != nil {
			continue
		}
		fd, err := openat(at, e.Name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return nil, fail("read notes", name, err)
		}
		f := os.NewFile(uintptr(fd), name)
		b, err := io.ReadAll(io.LimitReader(f, maxNote))
		f.Close()
		if err != nil {
			return nil, fail("read notes", name, err)
		}
		notes[name] = b
	}
	return notes, nil
}
