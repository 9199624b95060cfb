package shell

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
)

// Commands by which tools find out where they are, and small ones that scripts are made of.

func cd(_ context.Context, c *call) error {
	to := "/"
	args := c.args
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) > 1 {
		return c.misused("cd [DIR]")
	}
	if len(args) == 1 {
		to = args[0]
	}
	info, err := c.FS.StatFollow(c.path(to))
	if err == nil && info.Kind != appendonly.KindDir {
		err = appendonly.ErrNotDir
	}
	var dir string
	if err == nil {
		dir, err = c.FS.Resolve(c.path(to))
	}
	if err != nil {
		return c.failed(to, err)
	}
	c.run.dir = dir
	return nil
}

func fail(context.Context, *call) error { return &session.ExitError{Code: exitFailed} }

// exit ends the line.
func exit(_ context.Context, c *call) error {
	code := 0
	if len(c.args) > 0 {
		n, err := strconv.ParseUint(c.args[0], 10, 8)
		if err != nil {
			return c.misused("exit [STATUS]")
		}
		code = int(n)
	}
	return errors.Join(errExit, &session.ExitError{Code: code})
}

func uname(_ context.Context, c *call) error {
	opt, _, ok := c.options("asnrvmo", nil)
	if !ok {
		return c.misused("uname [-asnrvmo]")
	}
	var out []string
	for _, f := range []struct{ letter, text string }{{"s", "Linux"}, {"n", "vault"}, {"r", "vaultd"}, {"v", c.cfg.Version}, {"m", "x86_64"}, {"o", "GNU/Linux"}} {
		if has(opt, f.letter+"a") || len(opt) == 0 && f.letter == "s" {
			out = append(out, f.text)
		}
	}
	fmt.Fprintln(c.out, strings.Join(out, " "))
	return nil
}

func hostname(_ context.Context, c *call) error {
	fmt.Fprintln(c.out, "vault")
	return nil
}

func whoami(_ context.Context, c *call) error {
	fmt.Fprintln(c.out, c.Tenant)
	return nil
}

// id tells a user who is not root: tools must not try what only root can.
func id(_ context.Context, c *call) error {
	opt, _, ok := c.options("ungGr", nil)
	switch {
	case !ok:
		return c.misused("id [-u|-g] [-n]")
	case has(opt, "n"):
		fmt.Fprintln(c.out, c.Tenant)
	case len(opt) > 0:
		fmt.Fprintln(c.out, "1000")
	default:
		fmt.Fprintf(c.out, "uid=1000(%[1]s) gid=1000(%[1]s) groups=1000(%[1]s)\n", c.Tenant)
	}
	return nil
}

// which tells of each word whether it is a command: which, type, command -v.
func which(ctx context.Context, c *call) error {
	opt, names, ok := c.options("vVap", nil)
	if !ok || c.name == "command" && !has(opt, "v") {
		return c.misused(c.name + " NAME...")
	}
	var status error
	for _, n := range names {
		_, builtIn := commands[path.Base(n)]
		if _, program := c.cfg.Programs[path.Base(n)]; !builtIn && !program {
			status = &session.ExitError{Code: exitFailed}
			continue
		}
		fmt.Fprintf(c.out, "/usr/bin/%s\n", shown(path.Base(n)))
	}
	return status
}

func basename(_ context.Context, c *call) error {
	_, names, ok := c.options("", nil)
	if !ok || len(names) == 0 || len(names) > 2 {
		return c.misused(c.name + " PATH")
	}
	if c.name == "dirname" {
		fmt.Fprintln(c.out, path.Dir(strings.TrimRight(names[0], "/")))
		return nil
	}
	base := path.Base(names[0])
	if len(names) == 2 && base != names[1] {
		base = strings.TrimSuffix(base, names[1])
	}
	fmt.Fprintln(c.out, base)
	return nil
}

// date tells the server's clock in UTC.
func date(_ context.Context, c *call) error {
	format := "%a %b %e %H:%M:%S UTC %Y"
	for _, a := range c.args {
		switch {
		case strings.HasPrefix(a, "+"):
			format = a[1:]
		case a == "-u" || a == "--utc":
		case a == "-I" || a == "--iso-8601":
			format = "%F"
		default:
			return c.misused("date [-u] [+FORMAT]")
		}
	}
	fmt.Fprintln(c.out, dateText(format, time.Now().UTC()))
	return nil
}

// dateText fills a format of strftime in.
func dateText(format string, t time.Time) string {
	layouts := map[byte]string{'Y': "2006", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'M': "04", 'S': "05", 'y': "06", 'F': "2006-01-02", 'T': "15:04:05",
		'a': "Mon", 'A': "Monday", 'b': "Jan", 'B': "January", 'j': "002", 'I': "03", 'p': "PM", 'R': "15:04", 'z': "-0700", 'Z': "MST", 'D': "01/02/06"}
	return directives(format, func(d byte) (string, bool) {
		switch d {
		case 's':
			return strconv.FormatInt(t.Unix(), 10), true
		case 'N':
			return fmt.Sprintf("%09d", t.Nanosecond()), true
		case 'u':
			return strconv.Itoa((int(t.Weekday())+6)%7 + 1), true
		case 'w':
			return strconv.Itoa(int(t.Weekday())), true
		}
		layout, ok := layouts[d]
		return t.Format(layout), ok
	})
}

// printf knows %s, %d, %q's plain form and %%, and repeats the format while there are arguments.
func printf(_ context.Context, c *call) error {
	if len(c.args) == 0 {
		return c.misused("printf FORMAT [ARGUMENT]...")
	}
	args := c.args[1:]
	for {
		used := 0
		text := directives(c.args[0], func(d byte) (string, bool) {
			if d != 's' && d != 'd' && d != 'i' && d != 'b' {
				return "", false
			}
			used++
			if used > len(args) {
				if d == 's' || d == 'b' {
					return "", true
				}
				return "0", true
			}
			return args[used-1], true
		})
		if _, err := c.out.WriteString(text); err != nil {
			return err
		}
		if args = args[min(used, len(args)):]; used == 0 || len(args) == 0 {
			return nil
		}
	}
}
