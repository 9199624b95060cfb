// Package shellattack lets the attack suite speak command lines over SSH's exec (RFC 4254 §6.5): what a thief types, or a script of a
// thief's does. The server's built-in commands answer (package shell); what they can not say is not applicable.
package shellattack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/attack"
)

var (
	_ attack.Client = (*Client)(nil)
	_ attack.Handle = (*handle)(nil)
)

// Client implements attack.Client over one SSH connection. It is used by one goroutine at a time.
type Client struct {
	conn    *ssh.Client
	timeout time.Duration
	drops   int // handles of before are gone
}

// New returns a client that gives every command timeout (0: 30 s).
func New(conn *ssh.Client, timeout time.Duration) *Client {
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &Client{conn: conn, timeout: timeout}
}

// quote makes one word of a path for a POSIX shell. A relative one keeps its meaning when it begins with a dash.
func quote(p string) string {
	if strings.HasPrefix(p, "-") {
		p = "./" + p
	}
	return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'"
}

// refusedStatus is how the server's commands end when the policy refused (package shell).
const refusedStatus = 77

// run runs one command line and returns what it printed.
func (c *Client) run(line string, stdin []byte) ([]byte, error) {
	s, err := c.conn.NewSession()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", attack.ErrLost, err)
	}
	defer s.Close()
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = bytes.NewReader(stdin), limited{&out}, limited{&errs}
	done := make(chan error, 1)
	go func() { done <- s.Run(line) }()
	select {
	case err = <-done:
	case <-time.After(c.timeout):
		s.Close()
		<-done
		return nil, attack.ErrLost
	}
	var exit *ssh.ExitError
	switch text := strings.TrimSpace(errs.String()); {
	case err == nil:
		return out.Bytes(), nil
	case !errors.As(err, &exit):
		return nil, fmt.Errorf("%w: %w", attack.ErrLost, err)
	case exit.ExitStatus() == refusedStatus:
		return nil, fmt.Errorf("%w: %s", fs.ErrPermission, text)
	case strings.Contains(text, "no such file"):
		return nil, fmt.Errorf("%w: %s", fs.ErrNotExist, text)
	default:
		return nil, fmt.Errorf("status %d: %s", exit.ExitStatus(), text)
	}
}

// limited keeps the beginning of what a server prints.
type limited struct{ b *bytes.Buffer }

func (l limited) Write(p []byte) (int, error) {
	if room := attack.MaxRead - l.b.Len(); room < len(p) {
		l.b.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return l.b.Write(p)
}

func (c *Client) do(format string, paths ...string) error {
	words := make([]any, len(paths))
	for i, p := range paths {
		words[i] = quote(p)
	}
	_, err := c.run(fmt.Sprintf(format, words...), nil)
	return err
}

// Put implements attack.Client.
func (c *Client) Put(p string, data []byte) error {
	_, err := c.run("cat > "+quote(p), data)
	return err
}

// Read implements attack.Client.
func (c *Client) Read(p string) ([]byte, error) { return c.run("cat "+quote(p), nil) }

// List implements attack.Client: the names alone.
func (c *Client) List(p string) ([]attack.Info, error) {
	dir := quote(strings.TrimSuffix(p, "/") + "/")
	out, err := c.run("test -d "+dir+" && find "+dir+" -mindepth 1 -maxdepth 1 -print0", nil)
	if err != nil {
		return nil, err
	}
	var list []attack.Info
	for name := range bytes.SplitSeq(out, []byte{0}) {
		if len(name) > 0 {
			list = append(list, attack.Info{Name: string(name[bytes.LastIndexByte(name, '/')+1:])})
		}
	}
	return list, nil
}

func (c *Client) stat(options, p string) (attack.Info, error) {
	out, err := c.run("stat "+options+" -c '%s %a %Y %F' "+quote(p), nil)
	if err != nil {
		return attack.Info{}, err
	}
	f := strings.SplitN(strings.TrimSpace(string(out)), " ", 4)
	if len(f) != 4 {
		return attack.Info{}, fmt.Errorf("stat prints %q", out)
	}
	n, nerr := strconv.ParseUint(f[0], 10, 64)
	mode, merr := strconv.ParseUint(f[1], 8, 32)
	sec, serr := strconv.ParseInt(f[2], 10, 64)
	i := attack.Info{Size: n, Mode: uint32(mode), MTime: time.Unix(sec, 0)}
	switch f[3] {
	case "directory":
		i.Mode |= 0o040000
	case "symbolic link":
		i.Mode |= 0o120000
	case "regular file", "regular empty file":
		i.Mode |= 0o100000
	}
	return i, errors.Join(nerr, merr, serr)
}

// Stat implements attack.Client.
func (c *Client) Stat(p string) (attack.Info, error) { return c.stat("", p) }

// Follow implements attack.Client.
func (c *Client) Follow(p string) (attack.Info, error) { return c.stat("-L", p) }

// Readlink implements attack.Client.
func (c *Client) Readlink(p string) (string, error) {
	out, err := c.run("readlink "+quote(p), nil)
	return strings.TrimSuffix(string(out), "\n"), err
}

// Setstat implements attack.Client. There is no command for lengths and owners.
func (c *Client) Setstat(p string, a attack.Attrs) error {
	if a.Size != nil || a.UID != nil {
		return attack.ErrUnsupported
	}
	var errs []error
	if a.Mode != nil {
		errs = append(errs, c.do(fmt.Sprintf("chmod %o %%s", *a.Mode), p))
	}
	if a.MTime != nil {
		errs = append(errs, c.do(fmt.Sprintf("touch -c -d @%d %%s", *a.MTime), p))
	}
	return errors.Join(errs...)
}

// Remove implements attack.Client.
func (c *Client) Remove(p string) error { return c.do("rm %s", p) }

// Rmdir implements attack.Client.
func (c *Client) Rmdir(p string) error { return c.do("rmdir %s", p) }

// Mkdir implements attack.Client.
func (c *Client) Mkdir(p string) error { return c.do("mkdir %s", p) }

// Rename implements attack.Client; mv -n would be silent about a taken name.
func (c *Client) Rename(from, to string) error {
	return c.do("! test -e %s && mv -T %s %s", to, from, to)
}

// PosixRename implements attack.Client.
func (c *Client) PosixRename(from, to string) error { return c.do("mv -f -T %s %s", from, to) }

// Symlink implements attack.Client.
func (c *Client) Symlink(target, p string) error { return c.do("ln -s -T %s %s", target, p) }

// Link implements attack.Client.
func (c *Client) Link(old, p string) error { return c.do("ln -T %s %s", old, p) }

// Statvfs implements attack.Client.
func (c *Client) Statvfs(string) (attack.Space, error) { return attack.Space{}, attack.ErrUnsupported }

// Drop implements attack.Client: each command has a channel of its own, which ends with it.
func (c *Client) Drop() error {
	c.drops++
	return nil
}

// Open implements attack.Client: redirections write a file anew or at its end, and nothing else.
func (c *Client) Open(p string, f attack.Flag, a attack.Attrs) (attack.Handle, error) {
	how := "> "
	switch {
	case f&attack.Write == 0 || f&attack.Exclusive != 0 || a != (attack.Attrs{}):
		return nil, attack.ErrUnsupported
	case f&attack.Append != 0:
		how = ">> "
	case f&attack.Truncate == 0:
		return nil, attack.ErrUnsupported
	}
	return &handle{c: c, path: p, how: how, drops: c.drops}, nil
}

// handle is a redirection: one command, which Close runs with all that was written.
type handle struct {
	c         *Client
	path, how string
	data      []byte
	drops     int
	closed    bool
}

var errClosed = errors.New("it is closed")

// WriteAt implements attack.Handle.
func (h *handle) WriteAt(p []byte, off uint64) error {
	switch {
	case h.closed || h.drops != h.c.drops:
		return errClosed
	case off != uint64(len(h.data)) && h.how == "> ":
		return attack.ErrUnsupported
	}
	h.data = append(h.data, p...)
	return nil
}

// Setstat implements attack.Handle.
func (h *handle) Setstat(attack.Attrs) error { return attack.ErrUnsupported }

// Stat implements attack.Handle.
func (h *handle) Stat() (attack.Info, error) { return attack.Info{}, attack.ErrUnsupported }

// CopyFrom implements attack.Handle.
func (h *handle) CopyFrom(attack.Handle, uint64, uint64, uint64) error { return attack.ErrUnsupported }

// Close implements attack.Handle.
func (h *handle) Close() error {
	if h.closed || h.drops != h.c.drops {
		return errClosed
	}
	h.closed = true
	_, err := h.c.run("cat "+h.how+quote(h.path), h.data)
	return err
}
