// Package rsyncattack lets the attack suite push with rsync's protocol (31, without negotiation; main.c: client_run as the sender), by a
// client of its own: no program is started. It can store whole files and make directories and symbolic links; the rest of a file
// protocol rsync can not say, or says only of a whole tree. (A removal, --delete, is no request about one name: tests/ has it.)
package rsyncattack

import (
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/attack"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/wire"
)

var _ attack.Client = (*Client)(nil)

// Client implements attack.Client over one SSH connection. It is used by one goroutine at a time.
type Client struct {
	unable
	conn    *ssh.Client
	timeout time.Duration
}

// New returns a client that gives every push timeout (0: 30 s).
func New(conn *ssh.Client, timeout time.Duration) *Client {
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	return &Client{conn: conn, timeout: timeout}
}

const (
	proto    = 31
	transfer = 1 << 15 // rsync.h: ITEM_TRANSFER
	seed     = "--checksum-seed=7"
	// goodbyes is how many ends of phases a sender says in all.
	goodbyes = 5
)

// quote makes one word of a path for a POSIX shell.
func quote(p string) string { return "'" + strings.ReplaceAll(p, "'", `'\''`) + "'" }

// Put implements attack.Client: rsync -c -W FILE vault:DIR/.
func (c *Client) Put(p string, data []byte) error {
	sum := md5.Sum(data)
	return c.push(p, &flist.Item{Mode: 0o100644, Size: int64(len(data)), MTime: 1e9, Sum: sum[:]}, data)
}

// Mkdir implements attack.Client. To rsync a directory that is there is no error, and another entry is to be replaced (as a versioned
// tenant lets it): that a name must be free is nothing that it can say.
func (c *Client) Mkdir(p string) error {
	if c.taken(p) {
		return attack.ErrUnsupported
	}
	return c.push(p, &flist.Item{Mode: 0o040755, MTime: 1e9}, nil)
}

// isDir asks the server's own test(1); taken too.
func (c *Client) isDir(p string) bool { return c.test("test -d " + quote(p)) }

func (c *Client) taken(p string) bool {
	return c.test("test -e " + quote(p) + " || test -L " + quote(p))
}

func (c *Client) test(command string) bool {
	s, err := c.conn.NewSession()
	if err != nil {
		return false
	}
	defer s.Close()
	return s.Run(command) == nil
}

// Symlink implements attack.Client: rsync -l LINK vault:DIR/, where the name is free (see Mkdir).
func (c *Client) Symlink(target, p string) error {
	if c.taken(p) {
		return attack.ErrUnsupported
	}
	return c.push(p, &flist.Item{Mode: 0o120777, MTime: 1e9, Target: target}, nil)
}

// push sends one entry into its directory.
func (c *Client) push(p string, item *flist.Item, data []byte) error {
	dir, base := path.Dir(p), path.Base(p)
	if strings.HasSuffix(p, "/") || p == "" || base == "." || base == ".." || base == "/" {
		return attack.ErrUnsupported // the list has names, and these are none
	}
	if !c.isDir(dir) { // rsync would make it, which is another request
		return fs.ErrNotExist
	}
	item.Path = base
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
	if err := s.Start("rsync --server -lcWre.LsfxCIu " + seed + " . " + quote(dir+"/")); err != nil {
		return fmt.Errorf("%w: %w", attack.ErrLost, err)
	}
	d := &dialogue{in: wire.NewWriter(in, 1<<16), out: wire.NewReader(out, 1<<16), data: data}
	done := make(chan error, 1)
	go func() {
		err := d.talk(item)
		in.Close()
		done <- errors.Join(err, s.Wait())
	}()
	select {
	case err = <-done:
	case <-time.After(c.timeout):
		s.Close()
		<-done
		return attack.ErrLost
	}
	return d.judge(err)
}

// dialogue is one push at work.
type dialogue struct {
	in   *wire.Writer
	out  *wire.Reader
	data []byte
	said []string // what the server said beside the dialogue
	made bool     // it asked for the content
}

// talk goes through the whole push (main.c, sender.c: send_files).
func (d *dialogue) talk(item *flist.Item) error {
	d.in.Int(proto)
	if err := d.in.Flush(); err != nil {
		return err
	}
	if _, err := d.out.Int(); err != nil { // the server's protocol
		return err
	}
	if _, err := d.out.Varint(); err != nil { // compatibility flags
		return err
	}
	if _, err := d.out.Int(); err != nil { // the seed
		return err
	}
	d.out.Multiplexed(func(code wire.Code, text []byte) error {
		switch code {
		case wire.CodeErrorXfer, wire.CodeError, wire.CodeWarning, wire.CodeInfo:
			d.said = append(d.said, strings.TrimSpace(string(text)))
		}
		return nil
	})
	d.in.Multiplexed()
	b := flist.NewBuilder(d.in, &flist.Config{Proto: proto, SafeEnd: true, ID0Names: true, Links: true, Recursive: true, SumLength: md5.Size})
	b.Add(item)
	b.Finish(0)
	if err := d.in.Flush(); err != nil {
		return err
	}
	for {
		n, err := d.out.Index(proto)
		if err != nil {
			return err
		}
		if n == wire.Done { // everything was asked for: end all phases
			for range goodbyes {
				d.in.Index(wire.Done, proto)
			}
			if err := d.in.Flush(); err != nil {
				return err
			}
			_, err := io.Copy(io.Discard, d.out)
			return err
		}
		if err := d.answer(n); err != nil {
			return err
		}
	}
}

// answer sends the content that was asked for, whole; other requests only tell what was done.
func (d *dialogue) answer(n int32) error {
	flags, err := d.out.Short()
	if err != nil {
		return err
	}
	if flags&(1<<11) != 0 { // ITEM_BASIS_TYPE_FOLLOWS
		if _, err := d.out.Byte(); err != nil {
			return err
		}
	}
	if flags&(1<<12) != 0 { // ITEM_XNAME_FOLLOWS
		if _, err := d.out.VString(4096); err != nil {
			return err
		}
	}
	d.in.Index(n, proto)
	d.in.Short(flags &^ (1<<11 | 1<<12))
	if flags&transfer == 0 {
		return d.in.Flush()
	}
	var head [4]int32
	for i := range head {
		if head[i], err = d.out.Int(); err != nil {
			return err
		}
	}
	if err := d.out.Discard(int64(head[0]) * (4 + int64(head[2]))); err != nil { // sums of its blocks
		return err
	}
	d.made = true
	for range head {
		d.in.Int(0)
	}
	for rest := d.data; len(rest) > 0; {
		n := min(len(rest), 32<<10)
		d.in.Int(int32(n))
		d.in.Write(rest[:n])
		rest = rest[n:]
	}
	d.in.Int(0)
	sum := md5.Sum(d.data)
	d.in.Write(sum[:])
	return d.in.Flush()
}

// judge sorts how a push ended into the errors that the suite knows.
func (d *dialogue) judge(err error) error {
	var exit *ssh.ExitError
	text := strings.Join(d.said, "; ")
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &exit):
		return fmt.Errorf("%w: %w", attack.ErrLost, err)
	case strings.Contains(text, "no such file"):
		return fmt.Errorf("%w: %s", fs.ErrNotExist, text)
	case strings.Contains(text, "refused: "):
		return fmt.Errorf("%w: %s", fs.ErrPermission, text)
	}
	return fmt.Errorf("status %d: %s", exit.ExitStatus(), text)
}

// Drop implements attack.Client: each push has a channel of its own, which ends with it.
func (c *Client) Drop() error { return nil }

// unable is what the protocol can not say.
type unable struct{}

func (unable) Open(string, attack.Flag, attack.Attrs) (attack.Handle, error) {
	return nil, attack.ErrUnsupported
}
func (unable) Read(string) ([]byte, error)          { return nil, attack.ErrUnsupported }
func (unable) List(string) ([]attack.Info, error)   { return nil, attack.ErrUnsupported }
func (unable) Stat(string) (attack.Info, error)     { return attack.Info{}, attack.ErrUnsupported }
func (unable) Follow(string) (attack.Info, error)   { return attack.Info{}, attack.ErrUnsupported }
func (unable) Readlink(string) (string, error)      { return "", attack.ErrUnsupported }
func (unable) Setstat(string, attack.Attrs) error   { return attack.ErrUnsupported }
func (unable) Remove(string) error                  { return attack.ErrUnsupported }
func (unable) Rmdir(string) error                   { return attack.ErrUnsupported }
func (unable) Rename(string, string) error          { return attack.ErrUnsupported }
func (unable) PosixRename(string, string) error     { return attack.ErrUnsupported }
func (unable) Link(string, string) error            { return attack.ErrUnsupported }
func (unable) Statvfs(string) (attack.Space, error) { return attack.Space{}, attack.ErrUnsupported }
