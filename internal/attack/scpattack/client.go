// Package scpattack lets the attack suite speak the old scp protocol (OpenSSH's scp.c; see package scp). It can store and read whole
// files and make directories; the rest of a file protocol it can not say.
package scpattack

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/attack"
)

var _ attack.Client = (*Client)(nil)

// Client implements attack.Client over one SSH connection. It is used by one goroutine at a time.
type Client struct {
	unable
	conn    *ssh.Client
	timeout time.Duration
}

// New returns a client that gives every request timeout (0: 30 s).
func New(conn *ssh.Client, timeout time.Duration) *Client {
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &Client{conn: conn, timeout: timeout}
}

// quote makes one word of a path for a POSIX shell.
func quote(p string) string { return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'" }

// dialogue is one scp command at work.
type dialogue struct {
	in  io.WriteCloser
	out *bufio.Reader
}

// run starts a command and has a dialogue with it.
func (c *Client) run(command string, f func(dialogue) error) error {
	s, err := c.conn.NewSession()
	if err != nil {
		return fmt.Errorf("%w: %w", attack.ErrLost, err)
	}
	defer s.Close()
	in, ierr := s.StdinPipe()
	out, oerr := s.StdoutPipe()
	if err := errors.Join(ierr, oerr); err != nil {
		return err
	}
	if err := s.Start(command); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		err := f(dialogue{in, bufio.NewReader(out)})
		in.Close()
		s.Wait() // else the next commands would come before this one's session has ended, and be too many
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-time.After(c.timeout):
		s.Close()
		<-done
		return attack.ErrLost
	}
}

// answer reads one; what it says in words is sorted into the errors that the suite knows.
func (d dialogue) answer() error {
	b, err := d.out.ReadByte()
	if err != nil {
		return fmt.Errorf("%w: %w", attack.ErrLost, err)
	}
	if b == 0 {
		return nil
	}
	text, err := d.out.ReadString('\n')
	if err != nil {
		return fmt.Errorf("%w: %w", attack.ErrLost, err)
	}
	return said(b, text)
}

func said(b byte, text string) error {
	text = strings.TrimSpace(text)
	switch {
	case b != 1 && b != 2:
		return fmt.Errorf("answer %q %q", b, text)
	case strings.Contains(text, "refused:"), strings.Contains(text, "quota exceeded"), strings.Contains(text, "name can not be stored"),
		strings.Contains(text, "unexpected name"):
		return fmt.Errorf("%w: %s", fs.ErrPermission, text)
	case strings.Contains(text, "No such file"):
		return fmt.Errorf("%w: %s", fs.ErrNotExist, text)
	}
	return errors.New(text)
}

// Put implements attack.Client.
func (c *Client) Put(p string, data []byte) error {
	if strings.Contains(p, "\n") {
		return attack.ErrUnsupported
	}
	return c.run("scp -d -t "+quote(path.Dir(p)), func(d dialogue) error {
		if err := d.answer(); err != nil {
			return err
		}
		fmt.Fprintf(d.in, "C0644 %d %s\n", len(data), path.Base(p))
		if err := d.answer(); err != nil {
			return err
		}
		if _, err := d.in.Write(append(bytes.Clone(data), 0)); err != nil {
			return fmt.Errorf("%w: %w", attack.ErrLost, err)
		}
		return d.answer()
	})
}

// Mkdir implements attack.Client.
func (c *Client) Mkdir(p string) error {
	if strings.Contains(p, "\n") {
		return attack.ErrUnsupported
	}
	return c.run("scp -r -t "+quote(path.Dir(p)), func(d dialogue) error {
		for _, line := range []string{"", "D0755 0 " + path.Base(p) + "\n", "E\n"} {
			io.WriteString(d.in, line)
			if err := d.answer(); err != nil {
				return err
			}
		}
		return nil
	})
}

// Read implements attack.Client.
func (c *Client) Read(p string) (data []byte, err error) {
	err = c.run("scp -f "+quote(p), func(d dialogue) error {
		d.in.Write([]byte{0})
		line, err := d.out.ReadString('\n')
		if err != nil {
			return fmt.Errorf("%w: %w", attack.ErrLost, err)
		}
		if line[0] != 'C' {
			return said(line[0], line[1:])
		}
		f := strings.SplitN(line, " ", 3)
		if len(f) != 3 {
			return fmt.Errorf("line %q", line)
		}
		n, err := strconv.Atoi(f[1])
		if err != nil || n > attack.MaxRead {
			return fmt.Errorf("size of %q: %w", line, err)
		}
		d.in.Write([]byte{0})
		data = make([]byte, n)
		if _, err := io.ReadFull(d.out, data); err != nil {
			return fmt.Errorf("%w: %w", attack.ErrLost, err)
		}
		return d.answer()
	})
	return data, err
}

// Drop implements attack.Client: each command has a channel of its own, which ends with it.
func (c *Client) Drop() error { return nil }

// unable is what the protocol can not say.
type unable struct{}

func (unable) Open(string, attack.Flag, attack.Attrs) (attack.Handle, error) {
	return nil, attack.ErrUnsupported
}
func (unable) List(string) ([]attack.Info, error)   { return nil, attack.ErrUnsupported }
func (unable) Stat(string) (attack.Info, error)     { return attack.Info{}, attack.ErrUnsupported }
func (unable) Follow(string) (attack.Info, error)   { return attack.Info{}, attack.ErrUnsupported }
func (unable) Readlink(string) (string, error)      { return "", attack.ErrUnsupported }
func (unable) Setstat(string, attack.Attrs) error   { return attack.ErrUnsupported }
func (unable) Remove(string) error                  { return attack.ErrUnsupported }
func (unable) Rmdir(string) error                   { return attack.ErrUnsupported }
func (unable) Rename(string, string) error          { return attack.ErrUnsupported }
func (unable) PosixRename(string, string) error     { return attack.ErrUnsupported }
func (unable) Symlink(string, string) error         { return attack.ErrUnsupported }
func (unable) Link(string, string) error            { return attack.ErrUnsupported }
func (unable) Statvfs(string) (attack.Space, error) { return attack.Space{}, attack.ErrUnsupported }
