package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// ProbeDir is a dataset in SpareDir that no tenant gets: what Check tries, it tries on it. MakeProbe fills it.
const ProbeDir = "probe"

// The files of the probe: a sealed content, a closed segment, and a name in the tree.
const (
	probeContent = "store/00/probe"
	probeSegment = "journal/000000000001.jsonl"
	probeName    = "files/name"
)

// MakeProbe puts into the probe what Check tries to destroy. It is called before the server is confined, by who is not; an earlier server may have
// left anything where it can make names, so what is not as it should be is taken away first, and no symlink is followed.
func (l Layout) MakeProbe() error {
	at := func(name string) string { return filepath.Join(l.Store, SpareDir, ProbeDir, name) }
	if err := os.MkdirAll(at("store/00"), 0o750); err != nil {
		return err
	}
	const text = "probe\n"
	for _, name := range []string{probeContent, probeSegment, probeName} {
		if st, err := os.Lstat(at(name)); err == nil && st.Mode().IsRegular() {
			if b, err := os.ReadFile(at(name)); err == nil && string(b) == text { // on a full disk it could not be made again
				continue
			}
		}
		if err := os.RemoveAll(at(name)); err != nil {
			return err
		}
		f, err := os.OpenFile(at(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o640)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// attempt is something that is tried. It must not leave anything behind that the next start would mind.
type attempt struct {
	what string
	do   func() error
}

// Check tries, inside, what must be refused and what must work, and returns what went otherwise. It must be called before the server has threads
// that were not there when the program began, and looks from two of them.
func (l Layout) Check() []string {
	forbidden, needed := l.forbidden(), l.needed()
	if abi() < minABI {
		needed = nil
		forbidden = forbidden[len(forbidden)-unconditional:]
	}
	var failed []string
	look := func() {
		for _, a := range forbidden {
			if a.do() == nil {
				failed = append(failed, a.what+" was not refused")
			}
		}
		for _, a := range needed {
			if err := a.do(); err != nil {
				failed = append(failed, fmt.Sprintf("%s is refused: %v", a.what, err))
			}
		}
	}
	look()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		look()
	}()
	<-done
	return failed
}

// unconditional is how many attempts at the end of forbidden are refused on every kernel.
const unconditional = 4

func (l Layout) forbidden() []attempt {
	at := func(name string) string { return filepath.Join(l.Store, SpareDir, ProbeDir, name) }
	open := func(path string, flags int) func() error {
		return func() error {
			fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	var list []attempt
	for _, f := range []struct{ what, path string }{{"a sealed content", at(probeContent)}, {"a journal segment", at(probeSegment)}, {"a name in the tree", at(probeName)},
		{"the catalog", filepath.Join(l.Store, catalog)}} {
		list = append(list,
			attempt{"opening " + f.what + " for writing", open(f.path, unix.O_WRONLY)},
			attempt{"cutting " + f.what, open(f.path, unix.O_RDONLY|unix.O_TRUNC)})
	}
	for _, f := range []struct{ what, path string }{{"a sealed content", at(probeContent)}, {"a journal segment", at(probeSegment)}} {
		list = append(list,
			attempt{"removing " + f.what, func() error { return unix.Unlink(f.path) }},
			attempt{"renaming away " + f.what, func() error { return unix.Rename(f.path, at("staging/away")) }},
			attempt{"linking " + f.what + " to where it could be written", func() error { return unix.Link(f.path, at("staging/link")) }})
	}
	return append(list,
		attempt{"reaching expire's state", open(filepath.Join(l.Store, "expire"), unix.O_RDONLY|unix.O_DIRECTORY)},
		attempt{"reading the root directory", open("/", unix.O_RDONLY|unix.O_DIRECTORY)},
		// From here on unconditional.
		attempt{"cutting a file by its path", func() error { return refused(unix.Truncate(at("staging"), 0), unix.EPERM) }},
		attempt{"making a socket", func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
		attempt{"a namespace of its own", func() error { return unix.Unshare(unix.CLONE_NEWUTS) }},
		attempt{"a signal to the supervisor", func() error { return unix.Kill(os.Getppid(), 0) }})
}

// refused turns an error that another check gave into none: the call was made.
func refused(err, want error) error {
	if errors.Is(err, want) {
		return err
	}
	return nil
}

func (l Layout) needed() []attempt {
	at := func(name string) string { return filepath.Join(l.Store, SpareDir, ProbeDir, name) }
	return []attempt{
		{"making, writing and publishing a content", func() error {
			err := os.WriteFile(at("staging/new"), []byte("new"), 0o640)
			if err == nil {
				err = os.Link(at("staging/new"), at("files/new"))
			}
			return errors.Join(err, os.Remove(at("files/new")), os.Remove(at("staging/new")))
		}},
		{"giving a sealed content a name", func() error {
			return errors.Join(os.Link(at(probeContent), at("files/again")), os.Remove(at("files/again")))
		}},
		{"reading a sealed content", func() error { _, err := os.ReadFile(at(probeContent)); return err }},
		{"reading the catalog", func() error { _, err := os.ReadFile(filepath.Join(l.Store, catalog)); return err }},
	}
}
