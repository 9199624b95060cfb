package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// target says how a client reaches one account of a server.
type target struct {
	addr string // 127.0.0.1:PORT
	port int
	user string
	key  key
}

// driver is what differs between the two servers.
type driver interface {
	// prepare makes a fresh store in data, with accounts for all keys, and returns the command that
	// serves it on addr. conf holds what is not data.
	prepare(ctx context.Context, conf, data, addr string, keys []key) ([]string, error)
	// user is the login name of the account of key i.
	user(i int) string
	// path is where a client finds name.
	path(data, name string) string
	// syncs reports whether the end of a session is a barrier, so that a client that waits for it has
	// its data on stable storage.
	syncs() bool
}

// side is one of the two servers in the comparison.
type side struct {
	driver
	label string
	conf  string // configuration, host key, log
	data  string // what it stores: the same file system for both
	used  string // where former stores lie until the end, emptied
	count int    // of former stores
	keys  []key
	port  int
	proc  *supervised
}

// start gives the side an empty store and starts it with n accounts.
func (s *side) start(ctx context.Context, n int) error {
	if err := s.stop(); err != nil {
		return err
	}
	if err := s.retire(); err != nil {
		return fmt.Errorf("put away store of %s: %w", s.label, err)
	}
	if err := os.RemoveAll(s.conf); err != nil {
		return fmt.Errorf("make store of %s: %w", s.label, err)
	}
	for _, dir := range []string{s.conf, s.data} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make store of %s: %w", s.label, err)
		}
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	s.port = port
	argv, err := s.prepare(ctx, s.conf, s.data, s.addr(), s.keys[:n])
	if err != nil {
		return fmt.Errorf("prepare %s: %w", s.label, err)
	}
	return s.launch(ctx, argv)
}

// retire moves the store away and frees its bytes, not its inodes: ext4 looks at every inode that was
// freed in the last minutes before it makes one, so that removing 5,000 files makes the next 5,000
// several times dearer for whoever comes next.
func (s *side) retire() error {
	if _, err := os.Lstat(s.data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.count++
	to := filepath.Join(s.used, fmt.Sprint(s.count))
	if err := os.MkdirAll(s.used, 0o755); err != nil {
		return err
	}
	if err := os.Rename(s.data, to); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil || info.Size() < 1<<16 {
			return err
		}
		if err := os.Chmod(p, 0o600); err != nil {
			return err
		}
		return os.Truncate(p, 0)
	})
}

// launch starts argv and waits until it speaks SSH.
func (s *side) launch(ctx context.Context, argv []string) error {
	log, err := os.Create(s.logFile())
	if err != nil {
		return fmt.Errorf("start %s: %w", s.label, err)
	}
	defer log.Close()
	if s.proc, err = startSupervised(argv, log); err != nil {
		return fmt.Errorf("start %s: %w", s.label, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if speaksSSH(s.addr()) {
			return nil
		}
		if s.proc.exited() {
			return fmt.Errorf("start %s: it ended: %s", s.label, s.logTail())
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("start %s: not listening: %w: %s", s.label, err, s.logTail())
		}
	}
}

// stop ends the server, if it runs.
func (s *side) stop() error {
	if s.proc == nil {
		return nil
	}
	err := s.proc.stop()
	s.proc = nil
	return err
}

func (s *side) addr() string    { return fmt.Sprintf("127.0.0.1:%d", s.port) }
func (s *side) logFile() string { return filepath.Join(s.conf, "log") }

// logTail is the end of what the server said, for errors.
func (s *side) logTail() string {
	b, _ := os.ReadFile(s.logFile())
	return string(b[max(0, len(b)-800):])
}

func (s *side) target(i int) target {
	return target{addr: s.addr(), port: s.port, user: s.user(i), key: s.keys[i]}
}

func (s *side) remote(name string) string { return s.path(s.data, name) }

// sync puts everything on the data's file system on stable storage: sync -f, without its process.
func (s *side) sync() error {
	d, err := os.Open(s.data)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync file system of %s: %w", s.label, err)
	}
	return nil
}

// The server is at rest once its tree used no CPU tick for quietTime. It is longer than the 2 s after
// which vaultd makes a barrier by itself, so that late work (index, store) is charged to its cause.
const (
	quietTime = 2500 * time.Millisecond
	quietMax  = 60 * time.Second
)

// settle waits until the server rests and returns the CPU its tree has used so far.
func (s *side) settle(ctx context.Context) (time.Duration, error) {
	last, since, end := time.Duration(-1), time.Now(), time.Now().Add(quietMax)
	for {
		if s.proc.exited() {
			return 0, fmt.Errorf("%s ended: %s", s.label, s.logTail())
		}
		now, err := treeCPU(s.proc.pid())
		if err != nil {
			return 0, err
		}
		// One tick of drift is a timer's, not work.
		if now-last > tick || last < 0 {
			last, since = now, time.Now()
		}
		if time.Since(since) >= quietTime {
			return now, nil
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("%s does not come to rest in %v", s.label, quietMax)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// freePort finds a port on the loopback address. Nothing else takes ports here between this and the
// server's start; if something does, the server says so and the run fails.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func speaksSSH(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	var b [4]byte
	_, err = io.ReadFull(c, b[:])
	return err == nil && string(b[:]) == "SSH-"
}

// sleep waits for d or for the end of ctx.
func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// errStopped marks what was not measured because the user ended the run.
var errStopped = errors.New("stopped")
