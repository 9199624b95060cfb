package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sync/errgroup"

	"vaultd/internal/appendonly"
	"vaultd/internal/glob"
	"vaultd/internal/session"
	"vaultd/internal/shellwords"
)

// simple is one command of a line.
type simple struct {
	words     []string // patterns
	starts    []int    // of the words in the line
	end       int      // of the last
	redirects []redirect
}

type redirect struct {
	operator string
	target   string // of a file
}

// pipeline is commands joined by |, and the operator that joins it to the pipeline before: ; && or ||.
type pipeline struct {
	join     string
	not      bool
	commands []simple
}

// prefixes are words before a command that change nothing about it here, with the options of theirs that take a value.
var prefixes = map[string]string{"sudo": "u", "doas": "u", "nice": "n", "ionice": "cn", "exec": "", "command": "", "env": ""}

// parse reads the tokens of a line.
func parse(tokens []shellwords.Token) ([]pipeline, error) {
	var list []pipeline
	p := pipeline{join: ";"}
	var c simple
	endCommand := func() error {
		c.strip()
		if len(c.words) == 0 {
			return shellwords.ErrShell
		}
		p.commands = append(p.commands, c)
		c = simple{}
		return nil
	}
	for i := 0; i < len(tokens); i++ {
		t := tokens[i]
		switch {
		case !t.Operator && t.Text == "!" && len(c.words) == 0 && len(p.commands) == 0:
			p.not = !p.not
		case !t.Operator:
			c.words, c.starts, c.end = append(c.words, t.Text), append(c.starts, t.Start), t.End
		case t.Text == "|":
			if err := endCommand(); err != nil {
				return nil, err
			}
		case t.Text == ";" || t.Text == "&&" || t.Text == "||":
			if t.Text == ";" && len(c.words) == 0 && len(p.commands) == 0 && !p.not {
				continue // an empty line
			}
			if err := endCommand(); err != nil {
				return nil, err
			}
			list = append(list, p)
			p = pipeline{join: t.Text}
		case strings.Contains(t.Text, ">&"):
			c.redirects = append(c.redirects, redirect{operator: t.Text})
		default:
			if i++; i == len(tokens) || tokens[i].Operator {
				return nil, shellwords.ErrShell
			}
			c.redirects = append(c.redirects, redirect{t.Text, shellwords.Literal(tokens[i].Text)})
		}
	}
	if len(c.words) == 0 && len(p.commands) == 0 && !p.not && p.join == ";" {
		return list, nil
	}
	if err := endCommand(); err != nil {
		return nil, err
	}
	return append(list, p), nil
}

// strip takes off variables that are set for the command, and what only says how it is to run.
func (c *simple) strip() {
	skip := func() { c.words, c.starts = c.words[1:], c.starts[1:] }
	for len(c.words) > 0 {
		name, _, assigned := strings.Cut(c.words[0], "=")
		valued, known := prefixes[path.Base(c.words[0])]
		switch {
		case assigned && isName(name):
			skip()
		case known && len(c.words) > 1:
			if c.words[0] == "command" && c.words[1] == "-v" { // it asks, and does not run
				return
			}
			skip()
			for len(c.words) > 1 && len(c.words[0]) > 1 && c.words[0][0] == '-' {
				takesNext := len(c.words[0]) == 2 && strings.IndexByte(valued, c.words[0][1]) >= 0
				skip()
				if takesNext && len(c.words) > 1 {
					skip()
				}
			}
		default:
			return
		}
	}
}

func isName(s string) bool {
	for i := range len(s) {
		if c := s[i] | 0x20; s[i] != '_' && (c < 'a' || c > 'z') && (i == 0 || s[i] < '0' || s[i] > '9') {
			return false
		}
	}
	return s != ""
}

// name is the command's, as in the table.
func (c *simple) name() string { return path.Base(shellwords.Literal(c.words[0])) }

// in is the command as it stands in its line.
func (c *simple) in(line string) string { return line[c.starts[0]:c.end] }

// runner carries out one line.
type runner struct {
	*session.Session
	cfg  *Config
	line string
	dir  string // where relative paths begin: cd changes it
}

// errExit ends a line early: exit.
var errExit = errors.New("exit")

// run carries out the pipelines in turn and returns how the last one ended.
func (r *runner) run(ctx context.Context, list []pipeline) error {
	var status error
	for i := range list {
		p := &list[i]
		if p.join == "&&" && status != nil || p.join == "||" && status == nil {
			continue
		}
		err := r.pipeline(ctx, p)
		var exit *session.ExitError
		if errors.Is(err, errExit) {
			errors.As(err, &exit)
			if exit == nil || exit.Code == 0 {
				return nil
			}
			return exit
		}
		if err != nil && !errors.As(err, &exit) {
			return err
		}
		if status = err; p.not {
			if status = nil; err == nil {
				status = &session.ExitError{Code: exitFailed}
			}
		}
	}
	return status
}

// pipeline runs its commands beside each other. As in a shell, the last one's status is that of all.
func (r *runner) pipeline(ctx context.Context, p *pipeline) error {
	if len(p.commands) == 1 {
		c := &p.commands[0]
		if program := r.program(c); program != nil {
			r.Command = c.in(r.line)
			return program.Serve(ctx, r.Session)
		}
		return r.command(ctx, &p.commands[0], r.Stdin, r.Stdout)
	}
	g, ctx := errgroup.WithContext(ctx)
	var in io.Reader = r.Stdin
	var status error
	for i := range p.commands {
		c, from, last := &p.commands[i], in, i == len(p.commands)-1
		var out io.Writer = r.Stdout
		var end *io.PipeWriter
		if !last {
			next, w := io.Pipe()
			in, out, end = next, w, w
		}
		g.Go(func() error {
			err := r.protected(ctx, c, from, out)
			var exit *session.ExitError
			if end != nil {
				cause := err // of an end that is none
				if errors.As(err, &exit) {
					cause = nil
				}
				end.CloseWithError(cause)
			}
			if pipe, ok := from.(*io.PipeReader); ok {
				pipe.Close() // who writes to it ends
			}
			if last {
				status = err
			}
			if errors.As(err, &exit) || !last && errors.Is(err, io.ErrClosedPipe) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return status
}

// program is the protocol that serves a command; nil for a built-in, and where the command's streams are not the session's.
func (r *runner) program(c *simple) session.Handler {
	if _, ok := commands[c.name()]; ok && (c.name() != "rclone" || isHashsum(c.words[1:])) {
		return nil
	}
	for _, d := range c.redirects {
		if d.operator != "2>" || d.target != "/dev/null" {
			return nil
		}
	}
	return r.cfg.Programs[c.name()]
}

// protected is command for a goroutine of its own: a panic there would end the server.
func (r *runner) protected(ctx context.Context, c *simple, in io.Reader, out io.Writer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("run command: panic: %v", p)
		}
	}()
	return r.command(ctx, c, in, out)
}

// command runs one built-in with its redirections.
func (r *runner) command(ctx context.Context, s *simple, in io.Reader, out io.Writer) (err error) {
	c := &call{Session: r.Session, run: r, cfg: r.cfg, name: s.name(), in: in, errs: r.Stderr}
	cmd, ok := commands[c.name]
	if c.args, err = glob.Expand(r.FS, r.path, s.words[1:]); err != nil {
		return c.failed(strings.Join(s.words, " "), err)
	}
	if !ok || c.name == "rclone" && !isHashsum(c.args) {
		return r.unknown(s.in(r.line), "not a command of this server")
	}
	var file *output
	for _, d := range s.redirects {
		switch {
		case d.operator == "2>&1" || d.operator == "1>&2" || d.operator == ">&2":
			if d.operator == "2>&1" {
				c.errs = out
			} else {
				out = c.errs
			}
		case d.operator == "<":
			f, err := r.FS.Open(r.path(d.target))
			if err != nil {
				return c.failed(d.target, err)
			}
			defer f.Close()
			c.in = io.NewSectionReader(f, 0, f.Stat().Size)
		case d.target == "/dev/null":
			if strings.HasPrefix(d.operator, "2") || d.operator == "&>" {
				c.errs = io.Discard
			}
			if !strings.HasPrefix(d.operator, "2") {
				out = io.Discard
			}
		case strings.HasPrefix(d.operator, "2") || d.operator == "&>" || file != nil:
			return r.unknown(s.in(r.line), "only standard output can go to a file")
		default:
			if file, err = r.create(d.target, strings.HasSuffix(d.operator, ">>")); err != nil {
				return c.failed(d.target, err)
			}
			defer file.abort()
			out = file
		}
	}
	c.out = bufio.NewWriter(out)
	if err = c.start(ctx, cmd); c.brokenInput != nil {
		return c.brokenInput
	}
	var exit *session.ExitError
	refused := errors.As(err, &exit)
	if ferr := c.out.Flush(); ferr != nil && !refused {
		if file != nil {
			return c.failed(file.name, ferr)
		}
		err = errors.Join(err, ferr)
	}
	if file == nil || err != nil && !refused {
		return err
	}
	if ferr := file.publish(); ferr != nil {
		return c.failed(file.name, ferr)
	}
	return err
}

// unknown refuses a command.
func (r *runner) unknown(command, why string) error {
	r.Refused(&session.CommandError{Command: quoteCommand(command), Why: why})
	return &session.ExitError{Code: exitUnknown}
}

// path is where a path of the line is.
func (r *runner) path(p string) string {
	switch {
	case p == "~" || strings.HasPrefix(p, "~/"):
		return "/" + strings.TrimPrefix(p[1:], "/")
	case r.dir == "/" || strings.HasPrefix(p, "/"):
		return p
	}
	return path.Join(r.dir, p)
}

// output is a file that a command's standard output goes to. It appears when the command has ended, whole.
type output struct {
	name string
	up   *appendonly.Upload
	at   int64
}

func (r *runner) create(name string, more bool) (*output, error) {
	up, err := r.FS.Create(r.path(name), appendonly.CreateOptions{Create: true, Truncate: !more, Append: more, Meta: appendonly.NoMeta()})
	if err != nil {
		return nil, err
	}
	o := &output{name: name, up: up}
	if more {
		info, err := up.Stat()
		if err != nil {
			up.Discard()
			return nil, err
		}
		o.at = info.Size
	}
	return o, nil
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.up.WriteAt(p, o.at)
	o.at += int64(n)
	return n, err
}

func (o *output) publish() error {
	up := o.up
	o.up = nil
	err := up.Close()
	if err != nil {
		up.Discard()
	}
	return err
}

// abort keeps nothing of a file that was not published.
func (o *output) abort() {
	if o.up != nil {
		o.up.Discard()
	}
}
