package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"vaultd/internal/appendonly"
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
	cfg  *Config
	name string // as in the table
	args []string
	json bool
	out  *bufio.Writer // Stdout; flushed when the command ends
}

// Serve runs s.Command and returns nil or an *session.ExitError with its status; other errors are the
// server's own. It reads s.Stdin only for a checksum command that names no file; where that is an
// io.Closer, cancelling ctx closes it.
func (v *Server) Serve(ctx context.Context, s *session.Session) error {
	c := &call{Session: s, cfg: &v.cfg, out: bufio.NewWriter(s.Stdout)}
	if strings.TrimSpace(s.Command) == "" { // a shell was asked for
		return errors.Join(help(ctx, c), c.out.Flush())
	}
	words, err := shellwords.Split(s.Command)
	if err == nil && len(words) > 0 {
		c.name, c.args = path.Base(words[0]), words[1:]
		if cmd, ok := commands[c.name]; ok && (c.name != "rclone" || isHashsum(c.args)) {
			err := c.run(ctx, cmd)
			return errors.Join(err, c.out.Flush())
		}
	}
	first := path.Base(shellwords.First(s.Command))
	if p := v.cfg.Programs[first]; p != nil {
		return p.Serve(ctx, s)
	}
	why := "not a command of this server"
	if _, ok := commands[first]; ok && err != nil {
		why = err.Error()
	}
	s.Refused(fmt.Errorf("exec %s: %s. See: ssh HOST help", quoteCommand(s.Command), why))
	return &session.ExitError{Code: exitUnknown}
}

// run takes the flags that all reports share and calls the command.
func (c *call) run(ctx context.Context, cmd command) error {
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
