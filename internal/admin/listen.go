package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Listener is the bound socket. Only one exists per directory at a time.
type Listener struct {
	unix  *net.UnixListener
	dir   *os.File // open as long as the socket: its path may go through this descriptor; nil when inherited
	lock  *os.File // holds flock(2); its release is the last step of Close
	group bool     // its members may speak, too: the kernel let in who could connect
	allow func(Peer) bool
	deny  func(Peer) // told of refused peers; set by Serve before the first Accept

	once sync.Once
	err  error // of the first Close
}

// Peer is the process at the other end, as the kernel saw it at connect(2).
type Peer struct {
	UID uint32
	PID int32
}

// Listen binds the socket in dir. A socket that a dead server left is replaced; a live server is ErrRunning.
//
//	flock(admin.lock, LOCK_EX|LOCK_NB)   from here on no other server touches the names
//	bind(.admin.sock.new), fchmodat(0600, or 0660 where the directory gave it its group), listen
//	renameat(.admin.sock.new, admin.sock)
//
// The rename replaces a stale socket at once: at no moment can a client meet the name with a wider mode,
// and two servers that start together can not unlink each other's socket.
func Listen(dir string) (_ *Listener, err error) {
	l := newListener(nil, false)
	defer func() {
		if err != nil {
			err = fmt.Errorf("listen for commands: %w", errors.Join(err, l.release()))
		}
	}()
	if l.dir, err = openDir(dir); err != nil {
		return nil, err
	}
	fd := int(l.dir.Fd())
	lock, err := unix.Openat(fd, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: lockName, Err: err}
	}
	l.lock = os.NewFile(uintptr(lock), lockName)
	if err := unix.Flock(lock, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrRunning
	} else if err != nil {
		return nil, &os.PathError{Op: "lock", Path: lockName, Err: err}
	}
	for _, name := range []string{socketName, newName} {
		if err := onlySocket(fd, name); err != nil {
			return nil, err
		}
	}
	if err := unix.Unlinkat(fd, newName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, &os.PathError{Op: "remove", Path: newName, Err: err}
	}
	if l.unix, err = net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socketPath(l.dir.Name(), newName, fd)}); err != nil {
		return nil, err
	}
	l.unix.SetUnlinkOnClose(false)
	if err := l.setMode(fd); err != nil {
		return nil, err
	}
	if err := unix.Renameat(fd, newName, fd, socketName); err != nil {
		return nil, &os.PathError{Op: "rename", Path: newName, Err: err}
	}
	return l, nil
}

func newListener(u *net.UnixListener, group bool) *Listener {
	l := &Listener{unix: u, group: group, deny: func(Peer) {}}
	l.allow = func(p Peer) bool { return l.group || ownerOrRoot(p) }
	return l
}

// setMode lets in who may speak, before the socket has its name.
func (l *Listener) setMode(dir int) error {
	var d, s unix.Stat_t
	err := errors.Join(unix.Fstat(dir, &d), unix.Fstatat(dir, newName, &s, unix.AT_SYMLINK_NOFOLLOW))
	mode := uint32(0o600)
	if err == nil && d.Mode&unix.S_ISGID != 0 && s.Gid == d.Gid {
		mode, l.group = 0o660, true
	}
	if err == nil {
		err = unix.Fchmodat(dir, newName, mode, 0)
	}
	if err != nil {
		return &os.PathError{Op: "chmod", Path: newName, Err: err}
	}
	return nil
}

// File returns a copy of the listening socket, for a process that Inherit makes it a Listener of again.
func (l *Listener) File() (*os.File, error) { return l.unix.File() }

// Group reports whether the members of the socket's group may speak to us, besides our own user and root.
func (l *Listener) Group() bool { return l.group }

// Inherit makes a Listener of a socket that another process bound, as open as Group says it was there. The name and the lock stay that
// process's. f is closed.
func Inherit(f *os.File, group bool) (*Listener, error) {
	n, err := net.FileListener(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("listen for commands: %w", err)
	}
	u, ok := n.(*net.UnixListener)
	if !ok {
		return nil, fmt.Errorf("listen for commands: inherited a listener on %s", n.Addr())
	}
	u.SetUnlinkOnClose(false)
	return newListener(u, group), nil
}

// onlySocket keeps a file that is no socket from being replaced: it is not ours.
func onlySocket(dir int, name string) error {
	var st unix.Stat_t
	err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		err = errors.New("is in the way and not a socket")
	}
	if err != nil {
		return &os.PathError{Op: "bind", Path: name, Err: err}
	}
	return nil
}

// maxSocketPath is sun_path without its NUL (unix(7)).
const maxSocketPath = 107

// socketPath names a socket in dir for bind(2) and connect(2); a path that is too long for sun_path goes
// through the open directory.
func socketPath(dir, name string, fd int) string {
	if p := filepath.Join(dir, name); len(p) <= maxSocketPath {
		return p
	}
	return "/proc/self/fd/" + strconv.Itoa(fd) + "/" + name
}

func ownerOrRoot(p Peer) bool { return p.UID == 0 || p.UID == uint32(os.Geteuid()) }

// Accept implements net.Listener. Peers that may not speak to us are closed without an answer.
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.unix.AcceptUnix()
		if err != nil {
			return nil, err
		}
		p, err := peerOf(c)
		if err == nil && l.allow(p) {
			return &conn{UnixConn: c, peer: p}, nil
		}
		if err == nil {
			l.deny(p)
		}
		c.Close()
	}
}

// conn carries its peer to Server's ConnContext.
type conn struct {
	*net.UnixConn
	peer Peer
}

func peerOf(c *net.UnixConn) (Peer, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var cred *unix.Ucred
	var cerr error
	err = raw.Control(func(fd uintptr) { cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err := errors.Join(err, cerr); err != nil {
		return Peer{}, fmt.Errorf("read peer credentials: %w", err)
	}
	return Peer{UID: cred.Uid, PID: cred.Pid}, nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.unix.Addr() }

// Close implements net.Listener: the name goes first, while the lock still keeps it ours.
func (l *Listener) Close() error {
	l.once.Do(func() {
		var err error
		if l.dir != nil {
			err = unix.Unlinkat(int(l.dir.Fd()), socketName, 0)
		}
		if errors.Is(err, unix.ENOENT) {
			err = nil
		}
		l.err = errors.Join(err, l.release())
	})
	return l.err
}

func (l *Listener) release() error {
	var errs []error
	if l.unix != nil {
		errs = append(errs, l.unix.Close())
	}
	if l.dir != nil {
		errs = append(errs, l.dir.Close())
	}
	if l.lock != nil {
		errs = append(errs, l.lock.Close())
	}
	return errors.Join(errs...)
}
