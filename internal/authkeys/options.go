package authkeys

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// option is one of a line's, as sshd(8) writes them: a name, or name="value".
type option struct {
	name  string // lower case: names are compared without regard to it
	value string
	given bool // has a value
}

// splitOptions takes the options off a line: up to a blank outside of quotes (sshkey.c sshkey_advance_past_options), each up to a comma
// (auth-options.c sshauthopt_parse).
func splitOptions(line string) (opts []option, rest string, err error) {
	for {
		n := strings.IndexFunc(line, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
		})
		if n < 0 {
			n = len(line)
		}
		if n == 0 {
			return nil, "", fmt.Errorf("no option and no key at %s", quote(line))
		}
		o := option{name: strings.ToLower(line[:n])}
		if line = line[n:]; strings.HasPrefix(line, "=") {
			if o.value, line, err = quoted(line[1:]); err != nil {
				return nil, "", fmt.Errorf("option %s: %w", o.name, err)
			}
			o.given = true
		}
		if opts = append(opts, o); len(opts) > maxOptions {
			return nil, "", errors.New("too many options")
		}
		switch {
		case line == "":
			return nil, "", errors.New("options without a key")
		case line[0] == ',':
			line = line[1:]
		case line[0] == ' ' || line[0] == '\t':
			return opts, strings.TrimLeft(line, " \t"), nil
		default:
			return nil, "", fmt.Errorf("option %s: %s behind it", o.name, quote(line))
		}
	}
}

// quoted takes a quoted text off s (misc.c opt_dequote): \" in it is a quote, any other backslash itself.
func quoted(s string) (value, rest string, err error) {
	if s == "" || s[0] != '"' {
		return "", "", errors.New("a value without quotes")
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == '\\' && i+1 < len(s) && s[i+1] == '"':
			i++
			b.WriteByte('"')
		case s[i] == '"':
			return b.String(), s[i+1:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	return "", "", errors.New("a quote is not closed")
}

func quote(s string) string {
	if len(s) > 40 {
		s = strings.ToValidUTF8(s[:40], "") + "…"
	}
	return strconv.QuoteToASCII(s)
}

// expiry reads expiry-time (misc.c parse_absolute_time): YYYYMMDD[HHMM[SS]], in the zone of the machine that the file was on, or
// with a Z in UTC.
func expiry(s string, zone *time.Location) (time.Time, error) {
	if cut, ok := strings.CutSuffix(strings.TrimSuffix(s, "UTC"), "Z"); ok || cut != s {
		s, zone = cut, time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if len(s) == len(layout) {
			if t, err := time.ParseInLocation(layout, s, zone); err == nil {
				return t.UTC(), nil
			}
		}
	}
	return time.Time{}, fmt.Errorf("expiry-time %s: want YYYYMMDD[HHMM[SS]][Z]", quote(s))
}

// maxNets bounds what negations make of one from=.
const maxNets = 256

// networks turns from= into prefixes that hold exactly the same addresses (auth-options and match.c match_host_and_ip: some
// pattern matches and no negated one does). Host names are not looked up here, and a wildcard that is no prefix is refused. No
// prefixes mean any address.
func networks(list string) ([]netip.Prefix, error) {
	var yes, no []netip.Prefix
	for s := range strings.SplitSeq(list, ",") {
		pattern, negated := strings.CutPrefix(strings.TrimSpace(s), "!")
		nets, err := network(pattern)
		if err != nil {
			return nil, err
		}
		if negated {
			no = append(no, nets...)
		} else {
			yes = append(yes, nets...)
		}
		if len(yes)+len(no) > maxNets {
			return nil, errors.New("from= has too many networks")
		}
	}
	if len(yes) == 0 {
		return nil, errors.New("from= has only negated patterns, so that nobody may come in")
	}
	for _, n := range no {
		var left []netip.Prefix
		for _, y := range yes {
			left = append(left, subtract(y, n)...)
		}
		if yes = left; len(yes) > maxNets {
			return nil, errors.New("from= becomes too many networks")
		}
	}
	switch {
	case len(yes) == 0:
		return nil, errors.New("from= takes back all that it allows")
	case len(no) == 0 && contains(yes, everything[0]) && contains(yes, everything[1]):
		return nil, nil
	}
	return yes, nil
}

var everything = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

func contains(list []netip.Prefix, p netip.Prefix) bool {
	for _, x := range list {
		if x == p {
			return true
		}
	}
	return false
}

// network is the prefixes of one pattern.
func network(s string) ([]netip.Prefix, error) {
	if s == "*" {
		return everything, nil
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil && p == p.Masked() && !p.Addr().Is4In6() {
		return []netip.Prefix{p}, nil
	}
	if p, ok := wildcard(s); ok {
		return []netip.Prefix{p}, nil
	}
	if strings.ContainsAny(s, "*?") {
		return nil, fmt.Errorf("from= has the pattern %s, which is no network (names are not looked up here)", quote(s))
	}
	return nil, fmt.Errorf("from= has %s, which is no address and no network (names are not looked up here)", quote(s))
}

// wildcard reads 192.0.2.*, 192.0.*.*, 10.*: what its text matches is a network. Only whole numbers, or * would match 1.2.30 too.
func wildcard(s string) (netip.Prefix, bool) {
	parts := strings.Split(s, ".")
	var b [4]byte
	bits := 0
	for i, p := range parts {
		if p == "*" {
			continue
		}
		n, err := strconv.ParseUint(p, 10, 8)
		if err != nil || i > 3 || bits != 8*i || strconv.FormatUint(n, 10) != p { // a number behind a star, 007
			return netip.Prefix{}, false
		}
		b[i] = byte(n)
		bits += 8
	}
	if bits == 0 || len(parts) > 4 || bits == 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom4(b), bits), true
}

// subtract is what of p is not in q.
func subtract(p, q netip.Prefix) []netip.Prefix {
	switch {
	case !p.Overlaps(q):
		return []netip.Prefix{p}
	case q.Bits() <= p.Bits():
		return nil
	}
	var out []netip.Prefix
	for p.Bits() < q.Bits() {
		low, high := halves(p)
		if low.Overlaps(q) {
			out, p = append(out, high), low
		} else {
			out, p = append(out, low), high
		}
	}
	return out
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	bits := p.Bits()
	b := p.Addr().AsSlice()
	low = netip.PrefixFrom(p.Addr(), bits+1)
	b[bits/8] |= 0x80 >> (bits % 8)
	a, _ := netip.AddrFromSlice(b)
	return low, netip.PrefixFrom(a, bits+1)
}
