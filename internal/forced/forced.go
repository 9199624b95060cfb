// Package forced reads forced commands, those of command= in an authorized_keys file and of force-command in a
// certificate, and says what role and directory come to the same here.
//
// vaultd runs no command: who logs in gets the protocols, confined by a role and a root. So a forced command is
// translated or refused, and never ignored. Known are
//
//	borg serve [--append-only] [--restrict-to-path P]... [--restrict-to-repository P]... [--storage-quota N]
//	rrsync [-ro|-wo] [-munge] [-no-del] [-no-overwrite] [-no-lock] DIR
//	rsync --server [--sender] -OPTIONS . DIR
//	internal-sftp, sftp-server [-R] [-d DIR] [-l LEVEL] [-f FACILITY] [-u UMASK] [-e]
//
// by the program's base name, also behind "exec" and behind "cd DIR;" or "cd DIR &&", against which relative directories are
// then resolved. The sources are borg's docs/usage/serve.rst, rsync's support/rrsync (the Perl and the Python one), sshd_config(5)
// and sftp-server(8).
//
// It guarantees that the Grant lets nobody read, add to or reach what the command did not, for a tenant that meets Keeps
// and Quota. Which protocol is spoken is not part of that: a role and a root hold in all of them. What is not understood to its last
// word is an error.
package forced

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"vaultd/internal/appendonly"
	"vaultd/internal/shellwords"
)

// Grant is what a forced command lets its key do.
type Grant struct {
	Role  appendonly.Role
	Path  string // the directory it was confined to, cleaned: absolute on its machine, or below the account's home; "" is all
	Keeps bool   // it could not remove or overwrite: a tenant that is strict everywhere keeps it so, others would widen it
	Quota int64  // bytes, of --storage-quota: a tenant with no larger quota keeps it so; 0 is none
}

// maxCommand is longer than any command that is known here.
const maxCommand = 4096

// Parse translates a command line, as a shell would have run it. The error's text quotes what it is about.
//
// The line is hostile when it comes with a certificate whose authority is; it is bounded and pure text work.
func Parse(line string) (Grant, error) {
	g, err := parse(line)
	if err != nil {
		return Grant{}, err
	}
	return g, nil
}

func parse(line string) (Grant, error) {
	if len(line) > maxCommand {
		return Grant{}, fmt.Errorf("a command of %d bytes", len(line))
	}
	// What a shell would expand could be anything; a control character is nothing that any of these have.
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r == 0x7f || strings.ContainsRune("$`*?[{", r) }); i >= 0 || !utf8.ValidString(line) {
		return Grant{}, errors.New("it needs a shell, or has characters that are no text")
	}
	tokens, err := shellwords.Tokens(line)
	if err != nil {
		return Grant{}, err
	}
	home := ""
	if len(tokens) > 3 && tokens[0].Text == "cd" && tokens[2].Operator && (tokens[2].Text == ";" || tokens[2].Text == "&&") {
		if home, err = clean("", shellwords.Literal(tokens[1].Text)); err != nil {
			return Grant{}, err
		}
		tokens = tokens[3:]
	}
	words := make([]string, 0, len(tokens))
	for _, t := range tokens {
		if t.Operator {
			return Grant{}, errors.New("it needs a shell: more than one command, or a redirection")
		}
		words = append(words, shellwords.Literal(t.Text))
	}
	if len(words) > 1 && words[0] == "exec" {
		words = words[1:]
	}
	if len(words) == 0 {
		return Grant{}, errors.New("no command")
	}
	switch name := path.Base(words[0]); {
	case borgName.MatchString(name):
		return borg(home, words[1:])
	case name == "rrsync":
		return rrsync(home, words[1:])
	case name == "rsync":
		return rsync(home, words[1:])
	case name == "internal-sftp", name == "sftp-server":
		return sftp(home, words[1:])
	default:
		return Grant{}, fmt.Errorf("%q is no command that is known here", clip(name))
	}
}

// clip keeps a quoted word short.
func clip(s string) string {
	if len(s) <= 60 {
		return s
	}
	return strings.ToValidUTF8(s[:60], "") + "…"
}

// clean resolves a directory against the home, which is "" when it is not known. The home itself is "".
func clean(home, dir string) (string, error) {
	switch {
	case dir == "~" || strings.HasPrefix(dir, "~/"):
		home, dir = "", strings.TrimLeft(dir[1:], "/")
	case dir == "", strings.HasPrefix(dir, "~"), strings.Contains(dir, "%"):
		return "", fmt.Errorf("the directory %q", clip(dir))
	}
	if slices.Contains(strings.Split(dir, "/"), "..") {
		return "", fmt.Errorf("the directory %q leads out of itself", clip(dir))
	}
	if !path.IsAbs(dir) {
		dir = path.Join(home, dir)
	}
	if dir = path.Clean(dir); dir == "." {
		dir = ""
	}
	return dir, nil
}

// outermost is the directory that holds all others of the list; an error when there is none: a key has one root.
func outermost(home string, dirs []string) (string, error) {
	var all []string
	for _, d := range dirs {
		c, err := clean(home, d)
		if err != nil {
			return "", err
		}
		all = append(all, c)
	}
	for _, top := range all {
		if !slices.ContainsFunc(all, func(d string) bool { return !below(d, top) }) {
			return top, nil
		}
	}
	return "", fmt.Errorf("%d directories, and a key has one root; make a key for each", len(all))
}

func below(d, top string) bool {
	switch {
	case d == top, top == "/" && path.IsAbs(d), top == "" && !path.IsAbs(d):
		return true
	case top == "" || top == "/":
		return false
	}
	return strings.HasPrefix(d, top+"/")
}

// borgName is borg's, also as hosters call their versions of it: borg1, borg-1.4.
var borgName = regexp.MustCompile(`^borg[-0-9.]*$`)

// borg follows borg's archiver.py do_serve and remote.py: a forced command's restrictions win over what the client asks. Append
// only is what vaultd is anyway; without it, too, the key gets no more.
func borg(home string, args []string) (Grant, error) {
	var g Grant
	var dirs, repos []string
	serve := false
	for i := 0; i < len(args); i++ {
		name, value, given := strings.Cut(args[i], "=")
		want := func() error {
			if given {
				return nil
			}
			if i++; i == len(args) {
				return fmt.Errorf("%s without a value", name)
			}
			value = args[i]
			return nil
		}
		var err error
		switch name {
		case "serve":
			if serve {
				err = errors.New("serve twice")
			}
			serve = true
		case "--append-only", "--critical", "--error", "--warning", "--info", "-v", "--verbose", "--debug", "--log-json", "-p", "--progress", "--show-version", "--show-rc":
			if given {
				err = fmt.Errorf("%s with a value", name)
			}
		case "--restrict-to-path":
			err = want()
			dirs = append(dirs, value)
		case "--restrict-to-repository":
			err = want()
			repos = append(repos, value)
		case "--storage-quota":
			if err = want(); err == nil {
				g.Quota, err = borgSize(value)
			}
		case "--umask", "--lock-wait", "--remote-path", "--debug-topic":
			err = want()
		default:
			err = fmt.Errorf("borg's option %q is not known", clip(args[i]))
		}
		if err != nil {
			return Grant{}, err
		}
	}
	if !serve {
		return Grant{}, errors.New("borg without serve")
	}
	var err error
	g.Path, err = borgRoot(home, dirs, repos)
	return g, err
}

// borgRoot is what a borg reaches that must stay below one of dirs and in one of repos, where there are any (remote.py open).
func borgRoot(home string, dirs, repos []string) (string, error) {
	if len(dirs)+len(repos) == 0 {
		return home, nil
	}
	if len(repos) == 0 {
		return outermost(home, dirs)
	}
	root, err := clean(home, repos[0])
	if err != nil {
		return "", err
	}
	for _, r := range repos[1:] { // not outermost: what lies beside a repository in another was not to be reached
		if other, err := clean(home, r); err != nil || other != root {
			return "", errors.New("more than one repository, and a key has one root; make a key for each")
		}
	}
	if len(dirs) > 0 {
		if top, err := outermost(home, dirs); err != nil || !below(root, top) {
			return "", errors.New("a repository that is not below its paths")
		}
	}
	return root, nil
}

// borgSize follows borg's helpers.parse_file_size: powers of 1000.
func borgSize(s string) (int64, error) {
	unit, digits := int64(1), s
	if s != "" {
		if i := strings.IndexByte("KMGTP", s[len(s)-1]&^0x20); i >= 0 && s[len(s)-1] > '9' {
			digits = s[:len(s)-1]
			for range i + 1 {
				unit *= 1000
			}
		}
	}
	var n int64
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' || n > 1<<40 {
			return 0, fmt.Errorf("the quota %q", clip(s))
		}
		n = n*10 + int64(c-'0')
	}
	if n == 0 || n > (1<<62)/unit {
		return 0, fmt.Errorf("the quota %q", clip(s))
	}
	return n * unit, nil
}

func rrsync(home string, args []string) (g Grant, err error) {
	ro, wo := false, false
	for len(args) > 1 {
		switch args[0] {
		case "-ro":
			ro = true
		case "-wo":
			wo = true
		case "-no-del", "-no-overwrite":
			g.Keeps = true
		case "-munge", "-no-lock": // no link leads out here, and pushes do not get into each other's way
		default:
			return Grant{}, fmt.Errorf("rrsync's option %q is not known", clip(args[0]))
		}
		args = args[1:]
	}
	switch {
	case len(args) == 0 || strings.HasPrefix(args[0], "-"):
		return Grant{}, errors.New("rrsync without a directory")
	case ro && wo:
		return Grant{}, errors.New("rrsync -ro -wo")
	case ro:
		g.Role = appendonly.Pull
	case wo:
		g.Role = appendonly.Push
	}
	g.Path, err = clean(home, args[0])
	return g, err
}

// rsyncBundle is the bundle of short options that a client sends. Those that follow links (-K, -L, -k) lead nowhere here.
var rsyncBundle = regexp.MustCompile(`^-([a-zA-Z]+|[a-zA-Z]*e[0-9]*\.[a-zA-Z]*)$`)

// rsync reads what sshd logs as the command of a client, and what people then make a forced one. Its directory may have been a
// single file: a root is no more than that file's directory would be, and is refused when it is entered.
func rsync(home string, args []string) (g Grant, err error) {
	if len(args) == 0 || args[0] != "--server" {
		return Grant{}, errors.New("rsync without --server")
	}
	g.Role = appendonly.Push
	removes, adds := false, false
	for args = args[1:]; len(args) > 0 && args[0] != "."; args = args[1:] {
		name, _, _ := strings.Cut(args[0], "=")
		switch {
		case name == "--sender":
			g.Role = appendonly.Pull
		case strings.HasPrefix(name, "--delete"):
			removes = true
		case name == "--ignore-existing":
			adds = true
		case slices.Contains(rsyncOptions, name), rsyncBundle.MatchString(name):
		default:
			return Grant{}, fmt.Errorf("rsync's option %q is not known", clip(args[0]))
		}
	}
	g.Keeps = g.Role == appendonly.Push && (adds || !removes)
	if len(args) < 2 {
		return Grant{}, errors.New("rsync without a directory")
	}
	g.Path, err = outermost(home, args[1:])
	return g, err
}

var rsyncOptions = []string{"--append", "--append-verify", "--bwlimit", "--checksum-choice", "--compress-choice", "--compress-level", "--delay-updates",
	"--fake-super", "--force", "--fsync", "--ignore-errors", "--inplace", "--log-format", "--mkpath",
	"--modify-window", "--no-implied-dirs", "--no-r", "--no-relative", "--numeric-ids", "--partial", "--preallocate", "--remove-source-files",
	"--safe-links", "--size-only", "--stats", "--timeout", "--use-qsort"}

// sftp follows sftp-server(8). A start directory confined nobody; here it becomes the root, so that a client's relative names
// mean what they did and nothing beside it is reached.
func sftp(home string, args []string) (g Grant, err error) {
	for i := 0; i < len(args); i++ {
		switch args[i] {
		case "-R":
			g.Role = appendonly.Pull
		case "-e":
		case "-d", "-l", "-f", "-u":
			if i++; i == len(args) {
				return Grant{}, fmt.Errorf("%s without a value", args[i-1])
			}
			if args[i-1] == "-d" {
				if g.Path, err = clean(home, args[i]); err != nil {
					return Grant{}, err
				}
			}
		default:
			return Grant{}, fmt.Errorf("the SFTP server's option %q is not known", clip(args[i]))
		}
	}
	if g.Path == "" {
		g.Path = home
	}
	return g, nil
}

// Narrow is the role of who needs the leave of both; false when nothing is left.
func Narrow(a, b appendonly.Role) (appendonly.Role, bool) {
	switch {
	case a == b || b == appendonly.Full:
		return a, true
	case a == appendonly.Full:
		return b, true
	}
	return a, false
}
