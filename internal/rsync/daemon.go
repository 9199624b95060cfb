package rsync

import (
	"context"
	"fmt"
	"io"
	"path"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/option"
	"vaultd/internal/session"
)

// Bounds of what a client may say before a transfer begins (clientserver.c; io.c: read_args).
const (
	maxDaemonLine  = 4096
	maxDaemonWords = 1000
	maxModules     = 10_000
)

// errDaemon ends a dialogue whose client has been told why.
var errDaemon = &session.ExitError{Code: exitSyntax}

// daemon is the dialogue of an rsync daemon, spoken over ssh (clientserver.c: start_daemon, rsync_module), and the transfer
// that follows it. There is no second login: who the client is was settled by its key. A module is a directory at
// the top of the tenant; the one named after the tenant is all of it.
func (c *conn) daemon(ctx context.Context) error {
	proto, err := c.greet()
	if err != nil {
		return err
	}
	name, err := c.daemonLine('\n')
	if err != nil {
		return err
	}
	switch {
	case name == "" || name == "#list":
		return c.listModules()
	case name[0] == '#':
		return c.daemonError("Unknown command '" + printable(name) + "'")
	}
	if c.top, err = c.module(name); err != nil {
		return c.daemonError(err.Error())
	}
	if _, err := io.WriteString(c.Stdout, "@RSYNCD: OK\n"); err != nil {
		return err
	}
	end := byte('\n')
	if proto >= 30 {
		end = 0
	}
	opt, err := c.daemonOptions(end)
	if opt == nil {
		return err
	}
	c.opt = opt
	c.inModule(name)
	if aerr := c.agree(proto); aerr != nil {
		return aerr
	}
	if err != nil {
		return c.fatal(refusal(err), err)
	}
	return c.transfer(ctx)
}

// greet exchanges versions (clientserver.c: exchange_protocols).
func (c *conn) greet() (proto int, err error) {
	if _, err := fmt.Fprintf(c.Stdout, "@RSYNCD: %d.0 sha512 sha256 sha1 md5 md4\n", protocol); err != nil {
		return 0, err
	}
	line, err := c.daemonLine('\n')
	if err != nil {
		return 0, err
	}
	sub := -1
	if n, _ := fmt.Sscanf(line, "@RSYNCD: %d.%d", &proto, &sub); n < 1 {
		return 0, c.daemonError("protocol startup error")
	}
	if sub < 0 && proto >= 30 {
		return 0, c.daemonError("your client omitted the subprotocol value: " + printable(line))
	}
	if sub > 0 && proto <= protocol { // an unfinished version: the one before is known
		proto--
	}
	if proto < minProtocol {
		return 0, c.daemonError(fmt.Sprintf("protocol %d is not spoken here; %d to %d are (rsync 2.6.4 or newer)", proto, minProtocol, protocol))
	}
	return min(proto, protocol), nil
}

// daemonLine reads what comes before end. Nothing behind it is taken from the stream.
func (c *conn) daemonLine(end byte) (string, error) {
	var line []byte
	var b [1]byte
	for {
		if _, err := io.ReadFull(c.src, b[:]); err != nil {
			return "", err
		}
		if b[0] == end {
			return strings.TrimSuffix(string(line), "\r"), nil
		}
		if line = append(line, b[0]); len(line) > maxDaemonLine {
			return "", c.daemonError("line too long")
		}
	}
}

// daemonError tells the client why there is no transfer.
func (c *conn) daemonError(what string) error {
	c.Log.Warn("refused", "error", what)
	if _, err := io.WriteString(c.Stdout, "@ERROR: "+what+"\n"); err != nil {
		return err
	}
	return errDaemon
}

// listModules answers a request for the list of modules.
func (c *conn) listModules() error {
	var b strings.Builder
	line := func(name, comment string) { fmt.Fprintf(&b, "%-15s\t%s\n", name, comment) }
	line(c.Tenant, "all of "+c.Tenant)
	d, err := c.FS.OpenDir("/")
	if err != nil {
		return c.daemonError(c.line("list", "/", err))
	}
	for n := 0; n < maxModules; {
		infos, err := d.Next(batch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return c.daemonError(c.line("list", "/", err))
		}
		for i := range infos {
			if name := infos[i].Name; infos[i].Kind == appendonly.KindDir && isModule(name) && name != c.Tenant {
				line(name, "")
				n++
			}
		}
	}
	b.WriteString("@RSYNCD: EXIT\n")
	_, err = io.WriteString(c.Stdout, b.String())
	return err
}

// isModule says whether a directory of this name is a module: one whose name a line can hold.
func isModule(name string) bool { return name[0] != '.' && name[0] != '#' && printable(name) == name }

// module returns the directory of a module. The tenant's own name always stands for its root: no client can make a
// directory that takes its place.
func (c *conn) module(name string) (string, error) {
	if name == c.Tenant {
		return "/", nil
	}
	if isModule(name) && !strings.Contains(name, "/") {
		if info, err := c.FS.Stat("/" + name); err == nil && info.Kind == appendonly.KindDir {
			return "/" + name, nil
		}
	}
	return "", &unknownModule{name, c.Tenant}
}

// unknownModule says so in rsync's words, which programs look for.
type unknownModule struct{ name, tenant string }

func (e *unknownModule) Error() string {
	return fmt.Sprintf("Unknown module '%s' (%s always exists, and is all there is)", printable(e.name), e.tenant)
}

// daemonOptions reads the command line that follows, of words ended by end. With -s the rest of them comes in a second
// part. The options are nil when there is nothing to answer in the client's protocol.
func (c *conn) daemonOptions(end byte) (*option.Options, error) {
	var words []string
	for {
		w, err := c.daemonLine(end)
		if err != nil {
			return nil, err
		}
		if w == "" {
			break
		}
		if words = append(words, w); len(words) > maxDaemonWords {
			return nil, c.daemonError("too many arguments")
		}
	}
	opt, err := option.Parse(words)
	if opt.Secluded && err == nil {
		opt, err = option.ParseSecluded(opt, c.src)
		if opt == nil {
			return nil, c.daemonError(err.Error())
		}
	}
	if opt.Daemon {
		return nil, c.daemonError("a daemon inside a daemon")
	}
	return opt, err
}

// inModule makes the paths of the options begin at the module: its name is in front of those that are transferred
// (util1.c: glob_expand_module), and its directory is what a slash stands for. Steps above it end there.
func (c *conn) inModule(name string) {
	o := c.opt
	for i, p := range o.Paths {
		p = strings.TrimPrefix(p, name)
		slash := strings.HasSuffix(p, "/") || p == ""
		if p = strings.TrimPrefix(p, "/"); !strings.Contains(p, "/./") {
			p = strings.TrimPrefix(path.Clean("/"+p), "/")
		}
		if p == "" {
			p = "."
		}
		if slash && !strings.HasSuffix(p, "/") {
			p += "/"
		}
		o.Paths[i] = p
	}
	for _, p := range []*string{&o.BackupDir, &o.TempDir, &o.PartialDir, &o.FilesFrom} {
		*p = c.rooted(*p)
	}
	for i := range o.BasisDirs {
		o.BasisDirs[i] = c.rooted(o.BasisDirs[i])
	}
}

// rooted puts an absolute path below the module's directory.
func (c *conn) rooted(p string) string {
	if strings.HasPrefix(p, "/") {
		return path.Join(c.top, p)
	}
	return p
}
