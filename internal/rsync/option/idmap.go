package option

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// IDMap says which owner or group another becomes (--usermap, --groupmap, --chown). The nil map changes nothing.
type IDMap struct{ rules []idRule }

type idRule struct {
	name    string // a pattern; "" when numbers are matched
	lo, hi  uint32
	unnamed bool // matches a number without a name
	to      uint32
}

// maxIDRules bounds a map.
const maxIDRules = 4096

// ParseIDMap reads FROM:TO,… where FROM is a pattern of names, a number, a range of numbers, or empty, and TO a number:
// the server has no user database that could turn a name into one.
func ParseIDMap(s string) (*IDMap, error) {
	m := &IDMap{}
	for rule := range strings.SplitSeq(s, ",") {
		if len(m.rules) >= maxIDRules {
			return nil, fmt.Errorf("more than %d rules", maxIDRules)
		}
		from, to, ok := strings.Cut(rule, ":")
		if !ok {
			return nil, fmt.Errorf("no colon in %q", rule)
		}
		id, err := strconv.ParseUint(to, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("%q is no number: the server has no user database, use numeric ids", to)
		}
		r := idRule{to: uint32(id)}
		lo, hi, isRange := strings.Cut(from, "-")
		n, nerr := strconv.ParseUint(lo, 10, 32)
		switch {
		case from == "":
			r.unnamed = true
		case nerr == nil && !isRange:
			r.lo, r.hi = uint32(n), uint32(n)
		case nerr == nil:
			k, err := strconv.ParseUint(hi, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q is no range of numbers", from)
			}
			r.lo, r.hi = uint32(n), uint32(k)
		default:
			r.name = from
			if _, err := path.Match(from, ""); err != nil {
				return nil, fmt.Errorf("%q is no pattern", from)
			}
		}
		m.rules = append(m.rules, r)
	}
	return m, nil
}

// Map returns what id, with the name that the client gave it, becomes.
func (m *IDMap) Map(id uint32, name string) uint32 {
	if m == nil {
		return id
	}
	for _, r := range m.rules {
		switch {
		case r.unnamed:
			if name == "" {
				return r.to
			}
		case r.name == "*":
			return r.to
		case r.name != "":
			if ok, _ := path.Match(r.name, name); ok && name != "" {
				return r.to
			}
		case id >= r.lo && id <= r.hi:
			return r.to
		}
	}
	return id
}
