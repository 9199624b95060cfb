// Package filter has rsync's include and exclude rules: what of a tree is transferred, and what --delete leaves alone.
//
//	filter.go  Set: rules in order, and those of merge files for as long as their directory is gone through
//	parse.go   rules as text, in the protocol, on command lines and in merge files
//	match.go   patterns
//
// The rules are those of rsync(1), FILTER RULES, as exclude.c and lib/wildmatch.c of 3.5.0 carry them out. The first rule
// that matches decides.
//
// Matching takes time in proportion to pattern and name, whatever a client sends. Rules and merge files are bounded.
//
// Concurrency: a Set belongs to one goroutine.
package filter

import (
	"path"
	"strings"

	"vaultd/internal/rsync/wire"
)

// Options are what a session's rules depend on.
type Options struct {
	Sender         bool // this side sends: rules of the receiving side do not count, and the reverse
	Proto          int
	DeleteExcluded bool   // --delete-excluded: rules without a side are the sender's
	CVSExclude     bool   // -C
	Root           string // the top of the transfer, from the tenant's root, with a slash before it
	Wanted         bool   // the client sends its rules (the receiving side may not need them)
	// Read returns a merge file's content, by its path from the tenant's root; false when there is none.
	Read func(path string) ([]byte, bool)
}

// Bounds.
const (
	maxRule      = 8192 // bytes of one rule
	maxRules     = 100_000
	maxMergeFile = 4 << 20
	maxDepth     = 32 // merge files in merge files
)

// flags of a rule.
type flags uint32

const (
	include flags = 1 << iota
	clearList
	mergeFile
	perDir
	noPrefixes
	wordSplit
	noInherit
	cvsIgnore
	excludeSelf
	absolute
	negate
	sender
	receiver
	perishable
	xattr
	directory // the pattern ended with a slash
	finish    // a merge file that is looked for above the transfer, too, the first time

	sides    = sender | receiver
	fromFile = noPrefixes | wordSplit | include | perishable | absolute | cvsIgnore // what a merge rule says of its file's rules
)

// rule is one rule.
type rule struct {
	flags
	pattern string
	match   matcher
	list    *list // of a merge file
}

// list is rules in order. What is inherited from directories above comes behind what a directory's own file says.
type list struct {
	own, inherited []*rule
	frames         []frame
}

// frame is what a list was before a directory was entered.
type frame struct{ own, inherited []*rule }

// Set is the rules of one session.
type Set struct {
	o        Options
	rules    list
	merges   []*rule // rules with a list of their own
	dirs     []entered
	count    int
	depth    int
	dir      string
	hasXAttr bool
}

// entered is a directory that is being gone through.
type entered struct {
	dir    string // in the transfer; "" the top
	merges int    // rules with a list before it
}

// New makes an empty set.
func New(o Options) *Set { return &Set{o: o, dir: o.Root} }

// Receive reads the rules that a client sends, ended by an empty one (exclude.c: recv_filter_list).
func (s *Set) Receive(r *wire.Reader) error {
	for s.o.Wanted {
		n, err := r.Int()
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		text, err := r.Bytes(int(n), maxRule)
		if err != nil {
			return err
		}
		if err := s.parse(&s.rules, string(text), 0, s.o.Proto < 29, false); err != nil {
			return err
		}
	}
	if !s.o.CVSExclude {
		return nil
	}
	if s.o.Sender || s.o.Proto < 29 {
		if err := s.Add(":C"); err != nil {
			return err
		}
	}
	if s.o.Sender {
		return s.Add("-C")
	}
	return nil
}

// Add adds a rule as --filter has it. Its errors are *wire.Error.
func (s *Set) Add(text string) error { return s.parse(&s.rules, text, 0, false, false) }

// Empty says that nothing is excluded.
func (s *Set) Empty() bool { return len(s.rules.own) == 0 }

// Enter says that the entries of dir are looked at next ("" is the top), and reads its merge files. Directories
// must be entered after the ones they are in; those that dir is not in are left.
func (s *Set) Enter(dir string) error {
	if dir == "." {
		dir = ""
	}
	for len(s.dirs) > 0 {
		if last := s.dirs[len(s.dirs)-1].dir; last != dir && (last == "" || strings.HasPrefix(dir, last+"/")) {
			break
		}
		s.leave()
	}
	s.dir = path.Join("/", s.o.Root, dir)
	s.dirs = append(s.dirs, entered{dir, len(s.merges)})
	for _, m := range s.merges {
		m.list.push(m.flags&noInherit != 0)
	}
	for i := 0; i < len(s.merges); i++ {
		m := s.merges[i]
		if i >= s.dirs[len(s.dirs)-1].merges { // came with a merge file of this very directory
			m.list.push(m.flags&noInherit != 0)
		}
		if m.flags&finish != 0 {
			m.flags &^= finish
			if err := s.above(m); err != nil {
				return err
			}
		}
		if err := s.load(m.list, path.Join(s.dir, m.pattern), m.flags, true); err != nil {
			return err
		}
	}
	return nil
}

// Leave ends the directory that was entered last, LeaveAll all of them.
func (s *Set) Leave() { s.leave() }

func (s *Set) LeaveAll() {
	for len(s.dirs) > 0 {
		s.leave()
	}
}

// leave ends the directory that was entered last.
func (s *Set) leave() {
	d := s.dirs[len(s.dirs)-1]
	s.dirs = s.dirs[:len(s.dirs)-1]
	for _, m := range s.merges {
		m.list.pop()
	}
	s.merges = s.merges[:d.merges]
	s.dir = s.o.Root
	if n := len(s.dirs); n > 0 {
		s.dir = path.Join("/", s.o.Root, s.dirs[n-1].dir)
	}
}

func (l *list) push(alone bool) {
	l.frames = append(l.frames, frame{l.own, l.inherited})
	if alone {
		l.own, l.inherited = nil, nil
		return
	}
	if len(l.own) > 0 {
		l.inherited = append(append([]*rule(nil), l.own...), l.inherited...)
	}
	l.own = nil
}

func (l *list) pop() {
	if n := len(l.frames); n > 0 {
		l.own, l.inherited = l.frames[n-1].own, l.frames[n-1].inherited
		l.frames = l.frames[:n-1]
	}
}

// above reads a merge file whose name begins with a slash in the directories above the transfer (setup_merge_file).
func (s *Set) above(m *rule) error {
	if !strings.HasPrefix(m.pattern, "/") {
		return nil
	}
	from, name := path.Split(path.Clean(m.pattern))
	m.pattern = name
	here := s.dir
	defer func() { s.dir = here }()
	from = path.Clean(from)
	if from != "/" && from != here && !strings.HasPrefix(here, from+"/") {
		return nil
	}
	for dir := from; dir != here; {
		s.dir = dir
		if err := s.load(m.list, path.Join(dir, name), m.flags, true); err != nil {
			return err
		}
		if m.flags&noInherit != 0 {
			m.list.own = nil
		}
		m.list.inherited = append(append([]*rule(nil), m.list.own...), m.list.inherited...)
		m.list.own = nil
		rest := strings.TrimPrefix(strings.TrimPrefix(here, dir), "/")
		next, _, _ := strings.Cut(rest, "/")
		dir = path.Join(dir, next)
	}
	return nil
}

// Decision is what the rules say of a name.
type Decision int8

// The decisions.
const (
	Undecided Decision = iota
	Included
	Excluded
)

// Check says what the rules of this side say of a name in the transfer.
func (s *Set) Check(name string, dir bool) Decision {
	return s.check(&s.rules, subject{name: name, dir: dir})
}

// Hidden says whether a name is not to be sent.
func (s *Set) Hidden(name string, dir bool) bool { return s.Check(name, dir) == Excluded }

// Protected says whether a name that the sender does not have is to stay.
func (s *Set) Protected(name string, dir bool) bool { return s.Check(name, dir) == Excluded }

// HidesXAttr says whether an extended attribute is left out. Rules says whether there are rules for them at all.
func (s *Set) HidesXAttr(name string) bool {
	return s.hasXAttr && s.check(&s.rules, subject{name: name, xattr: true}) == Excluded
}

// ProtectedDeep is Protected for what is in a directory that is itself to go: perishable rules do not count there.
func (s *Set) ProtectedDeep(name string, dir bool) bool {
	return s.check(&s.rules, subject{name: name, dir: dir, deep: true}) == Excluded
}

// subject is a name that is looked at.
type subject struct {
	name             string
	dir, xattr, deep bool
}

func (s *Set) check(l *list, n subject) Decision {
	for _, part := range [2][]*rule{l.own, l.inherited} {
		for _, r := range part {
			if d := s.one(r, n); d != Undecided {
				return d
			}
		}
	}
	return Undecided
}

func (s *Set) one(r *rule, n subject) Decision {
	switch {
	case n.deep && r.flags&perishable != 0:
		return Undecided
	case r.flags&perDir != 0:
		return s.check(r.list, n)
	case r.flags&cvsIgnore != 0 && r.list != nil:
		return s.check(r.list, n)
	case r.flags&sides == s.other():
		return Undecided
	case n.xattr != (r.flags&xattr != 0) || !s.matches(r, n):
		return Undecided
	case r.flags&include != 0:
		return Included
	}
	return Excluded
}

// side is the flag of the rules that are this side's alone.
func (s *Set) side() flags {
	if s.o.Sender {
		return sender
	}
	return receiver
}

// SetRoot says where the top of the transfer is, from the tenant's root, before any directory is entered.
func (s *Set) SetRoot(root string) { s.o.Root, s.dir = root, root }
