package scp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/glob"
	"vaultd/internal/push"
	"vaultd/internal/session"
	"vaultd/internal/shellwords"
)

// Bounds on what a client says.
const (
	maxLine  = 8 << 10
	maxDepth = 256 // directories in each other
	maxSize  = 1 << 62
	chunk    = 256 << 10
)

// Server serves scp sessions.
type Server struct{}

var _ session.Handler = Server{}

// options are a command line's.
type options struct {
	sink, source, recursive, preserve, dir bool
	paths                                  []string // words of SplitPatterns
}

var errUsage = errors.New("scp: use: scp [-rpdv] -t PATH, or scp [-rpv] -f PATH")

func parse(line string) (o options, err error) {
	words, err := shellwords.SplitPatterns(line)
	if err != nil {
		return o, fmt.Errorf("scp: %w", err)
	}
	for i, w := range words[1:] {
		if w == "--" {
			o.paths = words[i+2:]
			break
		}
		if len(w) < 2 || w[0] != '-' {
			o.paths = words[i+1:]
			break
		}
		for _, c := range w[1:] {
			switch c {
			case 't':
				o.sink = true
			case 'f':
				o.source = true
			case 'r':
				o.recursive = true
			case 'p':
				o.preserve = true
			case 'd':
				o.dir = true
			case 'v', 'q', 'B', 'C', '1', '2', '4', '6', 'E':
			default:
				return o, fmt.Errorf("scp: option -%c is not known here", c)
			}
		}
	}
	if o.sink == o.source || len(o.paths) == 0 || o.sink && len(o.paths) > 1 {
		return o, errUsage
	}
	return o, nil
}

// conn is one session.
type conn struct {
	*session.Session
	opt    options
	in     *bufio.Reader
	out    *bufio.Writer
	failed bool // something was: the exit status is 1
	buf    []byte
}

// errClient is what a client said instead of "done".
type errClient struct{ text string }

func (e *errClient) Error() string { return "client: " + e.text }

// Serve runs one session: s.Command is a line that begins with scp.
func (Server) Serve(ctx context.Context, s *session.Session) error {
	opt, err := parse(s.Command)
	if err != nil {
		fmt.Fprintf(s.Stderr, "vaultd: error: %v\r\n", err)
		return &session.ExitError{Code: 1}
	}
	r := push.Report{Protocol: "scp"}
	s.Report(r)
	c := &conn{Session: s, opt: opt, in: bufio.NewReaderSize(s.Stdin, 64<<10), out: bufio.NewWriterSize(s.Stdout, chunk), buf: make([]byte, chunk)}
	done := make(chan error, 1)
	go func() {
		if opt.sink {
			done <- c.sink(ctx)
		} else {
			done <- c.source(ctx)
		}
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		if in, ok := s.Stdin.(io.Closer); ok {
			in.Close()
		}
		<-done
		return context.Cause(ctx)
	}
	var said *errClient
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		err = nil // the client is gone: nobody is left to be told
		r.Left = opt.sink
		c.failed = true
	case errors.As(err, &said):
		s.Log.Info("client gave up", "error", err.Error())
		err, c.failed = nil, true
	}
	s.Report(r)
	if ferr := c.out.Flush(); err == nil {
		err = ferr
	}
	if err == nil && c.failed {
		err = &session.ExitError{Code: 1}
	}
	return err
}

// ok answers "done".
func (c *conn) ok() error {
	if err := c.out.WriteByte(0); err != nil {
		return err
	}
	return c.out.Flush()
}

// tell answers with what went wrong with a client's path; it goes on after that.
func (c *conn) tell(p string, err error) error {
	c.failed = true
	text := c.describe(p, err)
	if _, err := fmt.Fprintf(c.out, "\x01scp: %s\n", text); err != nil {
		return err
	}
	return c.out.Flush()
}

// fatal answers with what is wrong with the client's own lines, and ends the session.
func (c *conn) fatal(text string) error {
	c.failed = true
	fmt.Fprintf(c.out, "\x02scp: protocol error: %s\n", text)
	if err := c.out.Flush(); err != nil {
		return err
	}
	return &session.ExitError{Code: 1}
}

// line reads a line of the client's, without its end.
func (c *conn) line() (string, error) {
	var b []byte
	for {
		part, err := c.in.ReadSlice('\n')
		if b = append(b, part...); len(b) > maxLine {
			return "", c.fatal("line is too long")
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return "", err
		}
		return string(b[:len(b)-1]), nil
	}
}

// answer reads the client's answer: nil, an *errClient after which it goes on (again), or an error.
func (c *conn) answer() (again, err error) {
	b, err := c.in.ReadByte()
	if err != nil || b == 0 {
		return nil, err
	}
	text, err := c.line()
	if err != nil {
		return nil, err
	}
	c.failed = true
	if b == 1 {
		return &errClient{text}, nil
	}
	return nil, &errClient{text}
}

// at is where a client's path is: its directory is the root.
func (c *conn) at(p string) string {
	if p == "~" || strings.HasPrefix(p, "~/") {
		p = p[1:]
	}
	return path.Join("/", p)
}

// source sends what the command line names.
func (c *conn) source(ctx context.Context) error {
	if _, err := c.answer(); err != nil { // it is ready
		return err
	}
	names, err := glob.Expand(c.FS, c.at, c.opt.paths)
	if err != nil {
		return c.tell("", err)
	}
	for _, n := range names {
		if err := c.send(ctx, c.at(n), path.Base(c.at(n)), 0); err != nil {
			return err
		}
	}
	return nil
}

// send sends one name with all below it.
func (c *conn) send(ctx context.Context, p, name string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	info, err := c.FS.StatFollow(p)
	if err != nil {
		return c.tell(p, err)
	}
	switch {
	case strings.Contains(name, "\n"):
		return c.tell(p, errLineBreak)
	case info.Kind == appendonly.KindDir && c.opt.recursive:
		if depth == maxDepth {
			return c.tell(p, appendonly.ErrLoop)
		}
		return c.sendDir(ctx, p, name, info, depth)
	case info.Kind != appendonly.KindFile:
		return c.tell(p, appendonly.ErrNotRegular)
	}
	return c.sendFile(ctx, p, name, info)
}

// head sends a line of a file or directory, after its times, and reads the answers.
func (c *conn) head(info appendonly.Info, line string) (again, err error) {
	if c.opt.preserve {
		atime := info.ATime
		if atime.IsZero() {
			atime = info.MTime
		}
		fmt.Fprintf(c.out, "T%d 0 %d 0\n", max(info.MTime.Sec(), 0), max(atime.Sec(), 0))
		if err := c.out.Flush(); err != nil {
			return nil, err
		}
		if again, err = c.answer(); again != nil || err != nil {
			return again, err
		}
	}
	if _, err := io.WriteString(c.out, line); err != nil {
		return nil, err
	}
	if err := c.out.Flush(); err != nil {
		return nil, err
	}
	return c.answer()
}

func modeOf(info appendonly.Info, otherwise int32) int32 {
	if info.Mode == appendonly.Unset {
		return otherwise
	}
	return info.Mode & 0o7777
}

func (c *conn) sendDir(ctx context.Context, p, name string, info appendonly.Info, depth int) error {
	if name == "/" || name == "." {
		name = c.Tenant
	}
	if again, err := c.head(info, fmt.Sprintf("D%04o 0 %s\n", modeOf(info, 0o755), name)); again != nil || err != nil {
		return err
	}
	d, err := c.FS.OpenDir(p)
	if err == nil {
		err = d.Each(func(i *appendonly.Info) error {
			err := c.send(ctx, path.Join(p, i.Name), i.Name, depth+1)
			if err != nil {
				return &stop{err}
			}
			return nil
		})
	}
	var s *stop
	if errors.As(err, &s) {
		return s.err
	}
	if err != nil {
		if err := c.tell(p, err); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c.out, "E\n"); err != nil {
		return err
	}
	if err := c.out.Flush(); err != nil {
		return err
	}
	_, err = c.answer()
	return err
}

// stop carries an error that ends the session out of a listing.
type stop struct{ err error }

func (s *stop) Error() string { return s.err.Error() }

func (c *conn) sendFile(ctx context.Context, p, name string, info appendonly.Info) error {
	f, err := c.FS.Open(p)
	if err != nil {
		return c.tell(p, err)
	}
	defer f.Close()
	if again, err := c.head(info, fmt.Sprintf("C%04o %d %s\n", modeOf(info, 0o644), info.Size, name)); again != nil || err != nil {
		return err
	}
	var broken error
	for off := int64(0); off < info.Size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		b := c.buf[:min(int64(len(c.buf)), info.Size-off)]
		if broken == nil {
			if n, err := f.ReadAt(b, off); n < len(b) {
				broken = err
			}
		}
		if broken != nil {
			clear(b) // the length was promised; the client is told afterwards
		}
		if _, err := c.out.Write(b); err != nil {
			return err
		}
		off += int64(len(b))
	}
	if broken != nil {
		err = c.tell(p, broken)
	} else {
		err = c.ok()
	}
	if err != nil {
		return err
	}
	_, err = c.answer()
	return err
}

// header is a C, D or T line.
type header struct {
	mode         int32
	size         int64
	name         string
	mtime, atime time.Time
}

var errHeader = errors.New("bad line")

// parseEntry reads what follows the C or D of a line: mode, size and name.
func parseEntry(s string) (h header, err error) {
	mode, rest, ok := strings.Cut(s, " ")
	size, name, ok2 := strings.Cut(rest, " ")
	m, merr := strconv.ParseUint(mode, 8, 12)
	n, serr := strconv.ParseInt(size, 10, 64)
	if !ok || !ok2 || merr != nil || serr != nil || len(mode) > 5 || n < 0 || n > maxSize {
		return h, errHeader
	}
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return h, errors.New("unexpected name")
	}
	return header{mode: int32(m), size: n, name: name}, nil
}

// parseTimes reads what follows the T of a line: mtime, microseconds, atime, microseconds.
func parseTimes(s string) (mtime, atime time.Time, err error) {
	f := strings.Split(s, " ")
	if len(f) != 4 {
		return mtime, atime, errHeader
	}
	var n [4]int64
	for i := range f {
		if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil || i%2 == 1 && (n[i] < 0 || n[i] > 999999) {
			return mtime, atime, errHeader
		}
	}
	return time.Unix(n[0], n[1]*1000), time.Unix(n[2], n[3]*1000), nil
}
