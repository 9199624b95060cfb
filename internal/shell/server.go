package shell

import (
	"bufio"
	"context"
	"io"
	"path"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/push"
	"vaultd/internal/session"
	"vaultd/internal/shellwords"
)

// Config says what a Server knows beside its built-ins.
type Config struct {
	// Version is what the version command tells; it is shown to every client.
	Version string

	// Programs serve the commands of other protocols, by the first word's last path element
	// ("rsync", "borg"). Built-ins come first. They get the Session as it is and split the line themselves.
	Programs map[string]session.Handler

	// MaxStdin bounds, in bytes, what a checksum command reads from standard input. 0 means 1 TiB.
	MaxStdin int64
}

// Server serves exec and shell requests.
type Server struct{ cfg Config }

var _ session.Handler = (*Server)(nil)

// New checks cfg.
func New(cfg Config) *Server {
	if cfg.MaxStdin <= 0 {
		cfg.MaxStdin = 1 << 40
	}
	return &Server{cfg: cfg}
}

// Exit statuses (OPERATIONS.md).
const (
	exitFailed   = 1
	exitMisused  = 2
	exitNotFound = 4
	exitRefused  = 77
	exitUnknown  = 127
)

// call is one command at work.
type call struct {
	*session.Session
	run  *runner
	cfg  *Config
	name string // as in the table
	args []string
	json bool
	in   io.Reader
	out  *bufio.Writer // flushed when the command ends
	errs io.Writer

	brokenInput error // why standard input ended before its end
}

// path is where a path that the command was given is.
func (c *call) path(p string) string { return c.run.path(p) }

// Serve runs s.Command and returns nil or an *session.ExitError with its status; other errors are the
// server's own. It reads s.Stdin only for commands that are to read it; where that is an io.Closer, cancelling ctx
// closes it.
func (v *Server) Serve(ctx context.Context, s *session.Session) error {
	s.Report(push.Report{Protocol: "shell"}) // a program has the last word
	r := &runner{Session: s, cfg: &v.cfg, line: s.Command, dir: "/"}
	if strings.TrimSpace(s.Command) == "" { // a shell was asked for
		r.line = "help"
	}
	tokens, err := shellwords.Tokens(r.line)
	var list []pipeline
	if err == nil {
		list, err = parse(tokens)
	}
	if err == nil {
		return r.run(ctx, list)
	}
	first := path.Base(shellwords.First(s.Command))
	if p := v.cfg.Programs[first]; p != nil { // it splits its line itself, and says what is wrong
		return p.Serve(ctx, s)
	}
	why := "not a command of this server"
	if _, ok := commands[first]; ok {
		why = err.Error()
	}
	return r.unknown(s.Command, why)
}

// start takes the flags that all reports share and calls the command.
func (c *call) start(ctx context.Context, cmd command) error {
	if cmd.json {
		rest := c.args[:0:0]
		for _, a := range c.args {
			if a == "--json" {
				c.json = true
			} else {
				rest = append(rest, a)
			}
		}
		c.args = rest
	}
	return cmd.run(ctx, c)
}

// maxQuoted bounds how much of a line is repeated in a refusal.
const maxQuoted = 200

func quoteCommand(line string) string {
	if len(line) > maxQuoted {
		return appendonly.QuotePath(line[:maxQuoted]) + "…"
	}
	return appendonly.QuotePath(line)
}
