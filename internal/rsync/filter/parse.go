package filter

import (
	"path"
	"strings"

	"vaultd/internal/rsync/wire"
)

// cvsPatterns are those of CVS that -C excludes (rsync(1), --cvs-exclude).
const cvsPatterns = "RCS SCCS CVS CVS.adm RCSLOG cvslog.* tags TAGS .make.state .nse_depinfo *~ #* .#* ,* _$* *$ " +
	"*.old *.bak *.BAK *.orig *.rej .del-* *.a *.olb *.o *.obj *.so *.exe *.Z *.elc *.ln core .svn/ .git/ .hg/ .bzr/"

// long are the words that stand for a rule's first letter.
var long = map[string]byte{"clear": '!', "dir-merge": ':', "exclude": '-', "hide": 'H', "include": '+', "merge": '.', "protect": 'P', "risk": 'R', "show": 'S'}

// kinds are what the first letter says.
var kinds = map[byte]flags{':': perDir | mergeFile | finish, '.': mergeFile, '+': include, '-': 0, 'S': include | sender, 'H': sender,
	'R': include | receiver, 'P': receiver, '!': clearList}

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// parse adds the rules in text to l. from is what a merge rule says of them; old: only "+ " and "- " are prefixes;
// local: they are from a merge file of a directory, and a slash at their beginning is that directory.
func (s *Set) parse(l *list, text string, from flags, old, local bool) error {
	for text != "" {
		if from&wordSplit != 0 {
			if text = strings.TrimLeft(text, " \t\n\v\f\r"); text == "" {
				return nil
			}
		}
		r, pattern, rest, err := s.rule(text, from, old)
		if err != nil {
			return err
		}
		text = rest
		if err := s.add(l, r, pattern, local); err != nil {
			return err
		}
	}
	return nil
}

// rule takes the first rule off text (exclude.c: parse_rule_tok).
func (s *Set) rule(text string, from flags, old bool) (r *rule, pattern, rest string, err error) {
	r = &rule{flags: from & fromFile}
	bad := func(what string) (*rule, string, string, error) {
		return nil, "", "", wire.Errorf("filter rule %q: %s", text[:min(len(text), 200)], what)
	}
	body := text
	switch {
	case from&noPrefixes != 0:
		if from&cvsIgnore != 0 && text[0] == '!' {
			r.flags |= clearList
		}
	case old:
		switch {
		case strings.HasPrefix(text, "- "):
			r.flags, body = r.flags&^include, text[2:]
		case strings.HasPrefix(text, "+ "):
			r.flags, body = r.flags|include, text[2:]
		case text[0] == '!':
			r.flags |= clearList
		}
	default:
		var what string
		if body, what = s.prefix(r, text, from); what != "" {
			return bad(what)
		}
	}
	if from&sides != 0 {
		if r.flags&sides != 0 {
			return bad("a side in a merge file that has one")
		}
		r.flags |= from & sides
	}
	pattern = body
	if from&wordSplit != 0 {
		if i := strings.IndexFunc(body, func(c rune) bool { return c < 128 && isSpace(byte(c)) }); i >= 0 {
			pattern = body[:i]
		}
	}
	rest = body[len(pattern):]
	switch {
	case r.flags&clearList != 0:
		if from&noPrefixes == 0 && !old && pattern != "" {
			return bad("text behind !")
		}
		if len(pattern) > 1 {
			r.flags &^= clearList
		}
	case pattern == "" && r.flags&cvsIgnore == 0:
		return bad("it ends early")
	}
	if s.o.DeleteExcluded && r.flags&(sides|mergeFile|perDir) == 0 {
		r.flags |= sender
	}
	return r, pattern, rest, nil
}

// prefix takes a rule's kind and modifiers off text. what is wrong with them, if anything, comes back.
func (s *Set) prefix(r *rule, text string, from flags) (rest, what string) {
	kind, n := text[0], 1
	if kind >= 'a' && kind <= 'z' {
		for n < len(text) && (text[n] >= 'a' && text[n] <= 'z' || text[n] == '-') {
			n++
		}
		k, ok := long[text[:n]]
		if !ok {
			return "", "it is none"
		}
		kind = k
		if n < len(text) && text[n] == ',' {
			n++
		}
	} else if n < len(text) && text[n] == ',' {
		n++
	}
	f, ok := kinds[kind]
	if !ok {
		return "", "it is none"
	}
	sided := f&sides != 0
	r.flags |= f
	for ; kind != '!' && n < len(text) && text[n] != ' ' && text[n] != '_'; n++ {
		if from&wordSplit != 0 && isSpace(text[n]) {
			return text[n:], ""
		}
		if !r.modify(text[n], sided) {
			return "", "an invalid modifier"
		}
	}
	if n < len(text) {
		n++
	}
	return text[n:], ""
}

func (r *rule) modify(c byte, sided bool) bool {
	merge := r.flags&mergeFile != 0
	switch c {
	case '-', '+':
		if !merge || r.flags&noPrefixes != 0 {
			return false
		}
		r.flags |= noPrefixes
		if c == '+' {
			r.flags |= include
		}
	case '/':
		r.flags |= absolute
	case '!':
		r.flags |= negate
		return !merge
	case 'C':
		if r.flags&noPrefixes != 0 || sided {
			return false
		}
		r.flags |= noPrefixes | wordSplit | noInherit | cvsIgnore
	case 'e':
		r.flags |= excludeSelf
		return merge
	case 'n':
		r.flags |= noInherit
		return merge
	case 'w':
		r.flags |= wordSplit
		return merge
	case 'p':
		r.flags |= perishable
	case 'r':
		r.flags |= receiver
		return !sided
	case 's':
		r.flags |= sender
		return !sided
	case 'x':
		r.flags |= xattr
	default:
		return false
	}
	return true
}

// add puts a rule into l (parse_filter_str, add_rule).
func (s *Set) add(l *list, r *rule, pattern string, local bool) error {
	if s.count++; s.count > maxRules {
		return wire.Errorf("more than %d filter rules", maxRules)
	}
	if len(pattern) >= 4096 {
		return nil // as rsync does
	}
	if r.flags&clearList != 0 {
		l.own, l.inherited = nil, nil
		return nil
	}
	if r.flags&mergeFile != 0 {
		return s.addMerge(l, r, pattern)
	}
	if r.flags&cvsIgnore != 0 && pattern == "" { // -C among the rules
		r.list = &list{}
		from := noPrefixes | wordSplit
		if s.o.Proto >= 30 {
			from |= perishable
		}
		l.own = append(l.own, r)
		return s.parse(r.list, cvsPatterns, from, false, false)
	}
	if r.flags&sides == s.other() && local {
		return nil
	}
	s.place(l, r, pattern, local)
	return nil
}

func (s *Set) other() flags { return sides &^ s.side() }

// place compiles a rule's pattern and appends it.
func (s *Set) place(l *list, r *rule, pattern string, local bool) {
	if len(pattern) > 1 && strings.HasSuffix(pattern, "/") {
		pattern = pattern[:len(pattern)-1]
		r.flags |= directory
	}
	if local && r.flags&absolute == 0 && strings.HasPrefix(pattern, "/") {
		r.flags |= absolute
		pattern = strings.TrimSuffix(s.dir, "/") + pattern
	}
	if r.flags&xattr != 0 {
		s.hasXAttr = true
	}
	r.pattern = pattern
	r.match = compile(pattern)
	l.own = append(l.own, r)
}

// addMerge adds a merge rule: a file that is read now, or one in each directory.
func (s *Set) addMerge(l *list, r *rule, pattern string) error {
	if pattern == "" {
		pattern = ".cvsignore"
	}
	if r.flags&excludeSelf != 0 {
		s.place(l, &rule{}, path.Base(pattern), false)
		r.flags &^= excludeSelf
	}
	if r.flags&perDir == 0 {
		name := pattern
		if !strings.HasPrefix(name, "/") {
			name = path.Join(s.dir, name)
		}
		return s.load(l, path.Clean(name), r.flags, false)
	}
	base := path.Base(pattern)
	for _, m := range s.merges {
		if path.Base(m.pattern) == base {
			return nil // it is there already
		}
	}
	r.pattern, r.list = pattern, &list{}
	s.merges = append(s.merges, r)
	l.own = append(l.own, r)
	return nil
}

// load reads a merge file.
func (s *Set) load(l *list, name string, from flags, local bool) error {
	if s.o.Read == nil || s.depth >= maxDepth {
		return nil
	}
	data, ok := s.o.Read(name)
	if !ok {
		return nil
	}
	if len(data) > maxMergeFile {
		return wire.Errorf("a merge file of more than %d bytes", maxMergeFile)
	}
	s.depth++
	defer func() { s.depth-- }()
	from &= fromFile | sides
	if from&wordSplit != 0 {
		return s.parse(l, string(data), from, false, local)
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r", "\n"), "\n") {
		if line == "" || line[0] == ';' || line[0] == '#' {
			continue
		}
		if err := s.parse(l, line, from, false, local); err != nil {
			return err
		}
	}
	return nil
}
