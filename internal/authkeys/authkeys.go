// Package authkeys reads an authorized_keys file (sshd(8), AUTHORIZED_KEYS FILE FORMAT) and says what each line becomes here:
// a key or a CA with a role, networks, an expiry and a root; or why it becomes nothing.
//
// Guaranteed is that a line's key may afterwards do nothing that it could not before, in a tenant of the policy and quota that
// Config names. What restricted it is translated exactly, or the line is refused: a host name in from=, a command that is not one
// of package forced, an option that nobody here knows. What only vaultd's own nature makes a no-op (no-pty, permitopen=, a
// forwarding) is dropped: there is no terminal, no forwarding and no environment to have.
//
// Server paths of the old machine are made paths of the vault by taking a prefix off (Config.Strip). A start directory (sftp-server
// -d) becomes the root.
//
// The file is hostile: keys in it come from clients, and options from whoever could edit it. Everything is bounded; texts of
// errors are printable and short.
package authkeys

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"vaultd/internal/appendonly"
	"vaultd/internal/forced"
	"vaultd/internal/tenant"
)

const (
	maxFile    = 4 << 20
	maxLines   = 20_000
	maxLine    = 16 << 10 // a line of sshd's may be longer; no key's is
	maxOptions = 64
)

// Config says what the lines are read for.
type Config struct {
	Strip  []string        // directories of the old machine that become the root of Path; the longest that fits
	Path   string          // where everything is put in the vault; "" is its root
	Role   appendonly.Role // the most that any key gets; Full is all
	Daily  tenant.Ceiling  // for every key
	Zone   *time.Location  // of the old machine, for expiry-time; nil is UTC
	Strict bool            // the tenant is strict everywhere
	Quota  int64           // the tenant's, in bytes; 0 is none
}

// Line is what a line of the file becomes: Key, or CA, or nothing and why.
type Line struct {
	Number  int // from 1
	Key     *tenant.NewKey
	CA      *tenant.NewCA
	Public  tenant.PublicKey // zero when the line has none that can be read
	Refused error            // nil: it becomes a key or a CA
	Dropped []string         // options that mean nothing here
}

// Parse reads a file. The error is about all of it; each Line has its own. Blank lines and comments are not in the answer.
func Parse(data []byte, c Config) ([]Line, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("read authorized_keys: over %d bytes: %w", maxFile, tenant.ErrInvalid)
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		return nil, fmt.Errorf("read authorized_keys: there is a private key in it, which must stay on the client: %w", tenant.ErrInvalid)
	}
	if c.Zone == nil {
		c.Zone = time.UTC
	}
	for i, p := range c.Strip {
		if c.Strip[i] = path.Clean(p); !path.IsAbs(p) {
			return nil, fmt.Errorf("read authorized_keys: prefix %s is not absolute: %w", quote(p), tenant.ErrInvalid)
		}
	}
	var lines []Line
	seen := map[string]int{}
	number := 0
	for raw := range bytes.Lines(bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))) {
		number++
		text := strings.Trim(string(raw), " \t\r\n")
		if text == "" || text[0] == '#' {
			continue
		}
		if len(lines) == maxLines {
			return nil, fmt.Errorf("read authorized_keys: over %d keys: %w", maxLines, tenant.ErrInvalid)
		}
		l := c.line(text)
		l.Number = number
		if id := string(l.Public.Blob); id != "" && l.Refused == nil {
			if first := seen[id]; first > 0 {
				l.Refused = fmt.Errorf("the key of line %d again", first)
			} else {
				seen[id] = number
			}
		}
		if l.Refused != nil {
			l.Key, l.CA = nil, nil
		}
		lines = append(lines, l)
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("read authorized_keys: no key in it: %w", tenant.ErrInvalid)
	}
	return lines, nil
}

// line reads one line. As sshd does, a line that begins with a key has no options.
func (c Config) line(text string) (l Line) {
	if len(text) > maxLine || !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		l.Refused = errors.New("too long, or no UTF-8 text")
		return l
	}
	var opts []option
	rest := text
	if !keyType.MatchString(text) { // no option begins like a type of key
		if opts, rest, l.Refused = splitOptions(text); l.Refused != nil {
			return l
		}
	}
	keys, err := parseKey(rest)
	if err != nil {
		l.Refused = err
		return l
	}
	l.Public = keys[0]
	n := tenant.NewKey{Public: l.Public, Role: c.Role, Daily: c.Daily, Path: strings.Trim(c.Path, "/")}
	principals, authority, dropped, err := c.apply(&n, opts)
	l.Refused, l.Dropped = err, dropped
	if authority {
		l.CA = &tenant.NewCA{NewKey: n, Principals: principals}
	} else {
		l.Key = &n
	}
	return l
}

var keyType = regexp.MustCompile(`^(ssh|ecdsa|sk)-[a-z0-9@.-]+[ \t]`)

// parseKey reads what stands behind the options: with them, x/crypto's reader would have a say in where they end.
func parseKey(text string) ([]tenant.PublicKey, error) {
	if !keyType.MatchString(text) {
		return nil, errors.New("no public key")
	}
	keys, err := tenant.ParsePublicKeys([]byte(text))
	if err != nil {
		return nil, errors.New(plainText(err))
	}
	return keys, nil
}

// plainText is an error of ParsePublicKeys without what it says of a file.
func plainText(err error) string {
	s := strings.TrimPrefix(err.Error(), "parse public key: ")
	s = strings.TrimPrefix(s, "line 1: ")
	return strings.TrimSuffix(s, ": "+tenant.ErrInvalid.Error())
}

// options are those that are known, and whether they have a value; noOps are for what vaultd has not.
var (
	options = map[string]bool{"command": true, "from": true, "expiry-time": true, "principals": true,
		"cert-authority": false, "no-touch-required": false, "verify-required": false}
	noOps = map[string]bool{"restrict": false, "no-agent-forwarding": false, "agent-forwarding": false, "no-port-forwarding": false,
		"port-forwarding": false, "no-x11-forwarding": false, "x11-forwarding": false, "no-pty": false, "pty": false, "no-user-rc": false,
		"user-rc": false, "permitopen": true, "permitlisten": true, "tunnel": true, "environment": true}
)

// apply narrows n by a line's options.
func (c Config) apply(n *tenant.NewKey, opts []option) (principals []string, authority bool, dropped []string, err error) {
	seen := map[string]bool{}
	var faults []error
	authority = slices.ContainsFunc(opts, func(o option) bool { return o.name == "cert-authority" })
	// sshd asks only security keys for touch and verification.
	security := authority || n.Public.Type == ssh.KeyAlgoSKED25519 || n.Public.Type == ssh.KeyAlgoSKECDSA256
	for _, o := range opts {
		valued, known := options[o.name]
		if v, none := noOps[o.name]; none && v == o.given {
			dropped = append(dropped, o.name)
			continue
		}
		var fault error
		switch {
		case !known:
			fault = fmt.Errorf("option %s is not known", quote(o.name))
		case valued != o.given:
			fault = fmt.Errorf("option %s with a value, or without one", o.name)
		case valued && seen[o.name]:
			fault = fmt.Errorf("option %s twice", o.name)
		case o.name == "command":
			fault = c.command(n, o.value)
		case o.name == "from":
			n.From, fault = networks(o.value)
		case o.name == "expiry-time":
			n.Expires, fault = expiry(o.value, c.Zone)
		case o.name == "principals":
			if principals = strings.Split(o.value, ","); !authority {
				fault = errors.New("principals= without cert-authority")
			}
		case o.name == "cert-authority":
		case !security:
			dropped = append(dropped, o.name)
		case o.name == "no-touch-required":
			n.NoTouch = true
		case o.name == "verify-required":
			n.Verify = true
		}
		if seen[o.name] = true; fault != nil {
			faults = append(faults, fault)
		}
	}
	return principals, authority, dropped, join(faults)
}

// join puts all that is wrong with a line into one line.
func join(faults []error) error {
	if len(faults) == 0 {
		return nil
	}
	texts := make([]string, len(faults))
	for i, f := range faults {
		texts[i] = f.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// command narrows n to a forced command.
func (c Config) command(n *tenant.NewKey, line string) error {
	g, err := forced.Parse(line)
	if err != nil {
		return fmt.Errorf("command= can not be told as a role and a directory: %w", err)
	}
	role, ok := forced.Narrow(n.Role, g.Role)
	switch {
	case !ok:
		return fmt.Errorf("command= is for %s, and --role says %s", g.Role, n.Role)
	case g.Keeps && !c.Strict:
		return errors.New("command= may not remove or overwrite, and in a versioned tenant or directory the key could; import it into a strict one")
	case g.Quota > 0 && (c.Quota == 0 || c.Quota > g.Quota):
		return fmt.Errorf("command= has a quota of %d bytes, and the tenant has more: vaultd tenant set --quota, or a tenant for this key", g.Quota)
	}
	dir, err := c.below(g.Path)
	if err != nil {
		return err
	}
	n.Role, n.Path = role, dir
	return nil
}

// below turns a directory of the old machine into one of the vault. A relative one was below the account's home, which is
// the root here.
func (c Config) below(dir string) (string, error) {
	if path.IsAbs(dir) {
		best := ""
		for _, p := range c.Strip {
			if (dir == p || strings.HasPrefix(dir, strings.TrimSuffix(p, "/")+"/")) && len(p) > len(best) {
				best = p
			}
		}
		if best == "" {
			return "", fmt.Errorf("command= confines to %s, which is below no --strip-prefix", quote(dir))
		}
		dir = strings.TrimPrefix(dir, best)
	}
	return strings.Trim(path.Join("/", c.Path, dir), "/"), nil
}
