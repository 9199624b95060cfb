package filter

import (
	"path"
	"strings"
)

// matcher is a compiled pattern.
type matcher struct {
	anchored bool // begins with a slash
	slashes  int
	wild     bool
	deep     bool // has **
	deepHead bool // begins with it
	triple   bool // ends with ***
	text     string
	nodes    []node
}

// node is one element of a pattern.
type node struct {
	kind nodeKind
	b    byte
	set  *[4]uint64 // of a class
}

type nodeKind uint8

const (
	literal  nodeKind = iota
	anyByte           // ?: any but a slash
	class             // [...]: never a slash
	star              // *: not over a slash
	deepStar          // **
	never             // a class without an end: nothing matches
)

// compile prepares a pattern (exclude.c: add_rule). A slash at its end was taken off before.
func compile(p string) matcher {
	m := matcher{slashes: strings.Count(p, "/"), wild: strings.ContainsAny(p, "*[?"), text: p}
	if m.wild {
		if i := strings.Index(p, "**"); i >= 0 {
			m.deep, m.deepHead, m.triple = true, i == 0, strings.HasSuffix(p, "***")
		}
	}
	if strings.HasPrefix(p, "/") {
		m.anchored, m.text = true, p[1:]
	}
	if m.wild {
		m.nodes = nodes(m.text)
	}
	return m
}

func nodes(p string) []node {
	var out []node
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			if i++; i == len(p) {
				return append(out, node{kind: never})
			}
			out = append(out, node{b: p[i]})
		case '?':
			out = append(out, node{kind: anyByte})
		case '*':
			kind := star
			for i+1 < len(p) && p[i+1] == '*' {
				kind = deepStar
				i++
			}
			out = append(out, node{kind: kind})
		case '[':
			set, n := parseClass(p[i:])
			if n == 0 {
				return append(out, node{kind: never})
			}
			out = append(out, node{kind: class, set: set})
			i += n - 1
		default:
			out = append(out, node{b: p[i]})
		}
	}
	return out
}

// classes are those with a name.
var classes = map[string]func(c byte) bool{
	"alnum": func(c byte) bool { return isAlpha(c) || isDigit(c) }, "alpha": isAlpha, "blank": func(c byte) bool { return c == ' ' || c == '\t' },
	"cntrl": func(c byte) bool { return c < 32 || c == 127 }, "digit": isDigit, "graph": func(c byte) bool { return c > 32 && c < 127 },
	"lower": func(c byte) bool { return c >= 'a' && c <= 'z' }, "print": func(c byte) bool { return c >= 32 && c < 127 },
	"punct": func(c byte) bool { return c > 32 && c < 127 && !isAlpha(c) && !isDigit(c) }, "space": isSpace,
	"upper":  func(c byte) bool { return c >= 'A' && c <= 'Z' },
	"xdigit": func(c byte) bool { return isDigit(c) || c|0x20 >= 'a' && c|0x20 <= 'f' },
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// parseClass reads [...] at the beginning of p and returns what it contains and how long it is; 0 when it has no end.
func parseClass(p string) (*[4]uint64, int) {
	var set [4]uint64
	add := func(c byte) { set[c>>6] |= 1 << (c & 63) }
	i := 1
	negated := i < len(p) && (p[i] == '!' || p[i] == '^')
	if negated {
		i++
	}
	var before byte // the last one that a range may begin with
	for first := true; ; first = false {
		if i >= len(p) {
			return nil, 0
		}
		c := p[i]
		switch {
		case c == ']' && !first:
			if negated {
				for j := range set {
					set[j] = ^set[j]
				}
			}
			set['/'>>6] &^= 1 << ('/' & 63)
			return &set, i + 1
		case c == '\\':
			if i++; i >= len(p) {
				return nil, 0
			}
			add(p[i])
			before = p[i]
		case c == '-' && before != 0 && i+1 < len(p) && p[i+1] != ']':
			i++
			if p[i] == '\\' {
				if i++; i >= len(p) {
					return nil, 0
				}
			}
			for x := int(before); x <= int(p[i]); x++ {
				add(byte(x))
			}
			before = 0
		case c == '[' && i+1 < len(p) && p[i+1] == ':':
			end := strings.IndexByte(p[i+2:], ']')
			if end < 0 {
				return nil, 0
			}
			name := p[i+2 : i+2+end]
			if !strings.HasSuffix(name, ":") { // no named class
				add('[')
				before = '['
				break
			}
			in := classes[name[:len(name)-1]]
			if in == nil {
				return nil, 0
			}
			for x := range 256 {
				if in(byte(x)) {
					add(byte(x))
				}
			}
			i += 2 + end
			before = 0
		default:
			add(c)
			before = c
		}
		i++
	}
}

// matches says whether a rule is about a name (exclude.c: rule_matches).
func (s *Set) matches(r *rule, n subject) bool {
	m := &r.match
	yes := r.flags&negate == 0
	name := strings.TrimPrefix(n.name, "/")
	if name == "" {
		return false
	}
	switch {
	case m.slashes == 0 && !m.deep:
		name = path.Base(name)
	case r.flags&absolute != 0:
		name = strings.TrimPrefix(path.Join(s.o.Root, name), "/")
	case m.deepHead:
		name = "/" + name
	}
	if n.dir {
		if m.triple {
			name += "/"
		}
	} else if r.flags&directory != 0 {
		return !yes
	}
	if m.on(name) {
		return yes
	}
	return !yes
}

// on matches a whole name, or its end, as the pattern asks for.
func (m *matcher) on(name string) bool {
	switch {
	case !m.wild && m.anchored:
		return name == m.text
	case !m.wild:
		return name == m.text || strings.HasSuffix(name, m.text) && name[len(name)-len(m.text)-1] == '/'
	case !m.anchored && m.slashes > 0 && !m.deep:
		tail, ok := lastParts(name, m.slashes+1)
		return ok && run(m.nodes, tail)
	case !m.anchored && m.deep && !m.deepHead:
		for {
			if run(m.nodes, name) {
				return true
			}
			i := strings.IndexByte(name, '/')
			if i < 0 {
				return false
			}
			name = name[i+1:]
		}
	}
	return run(m.nodes, name)
}

// lastParts is the last n parts of a path; false when it has fewer.
func lastParts(name string, n int) (string, bool) {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '/' {
			if n--; n == 0 {
				return name[i+1:], true
			}
		}
	}
	return name, n == 1
}

// run matches a pattern against text (wildmatch). Behind a star that does not fit any longer, only the last one of each
// kind is tried again: enough, as what is before them fits in the earliest way.
func run(p []node, text string) bool {
	i, t := 0, 0
	starP, starT := -1, 0 // where to go on behind the last *, and what it has eaten
	deepP, deepT := -1, 0
	for {
		if i < len(p) {
			switch n := &p[i]; n.kind {
			case star:
				i++
				starP, starT = i, t
				continue
			case deepStar:
				i++
				deepP, deepT, starP = i, t, -1
				continue
			default:
				if t < len(text) && n.fits(text[t]) {
					i, t = i+1, t+1
					continue
				}
			}
		} else if t == len(text) {
			return true
		}
		switch {
		case starP >= 0 && starT < len(text) && text[starT] != '/':
			starT++
			i, t = starP, starT
		case deepP >= 0 && deepT < len(text):
			deepT++
			i, t, starP = deepP, deepT, -1
		default:
			return false
		}
	}
}

func (n *node) fits(c byte) bool {
	switch n.kind {
	case literal:
		return n.b == c
	case anyByte:
		return c != '/'
	case class:
		return n.set[c>>6]>>(c&63)&1 != 0
	}
	return false
}
