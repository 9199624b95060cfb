package appendonly

import (
	"errors"
	"io/fs"
	"slices"
	"time"

	"vaultd/internal/journal"
)

// ParseOp finds an operation by the name that String gives it.
func ParseOp(name string) (Op, bool) {
	i := slices.Index(opNames[:], name)
	return Op(max(i, 0)), i >= 0
}

// OpNames lists the operations by their names.
func OpNames() []string { return slices.Compact(slices.Clone(opNames[:])) }

// Explanation is one question to Decide with its answer, and what it was made of.
type Explanation struct {
	Query
	Verdict
	Path      string  // in the tenant: cleaned, relative
	Asked     string  // as the session has it: below its root
	Prefix    *Prefix // that gave the path its mode; nil: the tenant's own
	Temporary bool    // the name is one that tools give to unfinished uploads
	Lock      bool    // the name is one for locks of a repository
	Entry     *Info   // what stands there; nil: nothing
	Key       string  // that made it
	Since     time.Time
	Received  time.Time
	Settles   time.Time // until then its key may set its attributes; zero: not any more
	Lost      bool      // the path leads nowhere: State is not known
	// Err is what the client would be told; nil: it would be done. An operation that Decide allows can still fail
	// for want of something (no such directory, a full quota).
	Err error
}

// Explain asks Decide what it would say to op at path in this session, and changes nothing. What it returns is of the state now.
func (f *FS) Explain(op Op, path string) (Explanation, error) {
	f.v.mu.Lock()
	defer f.v.mu.Unlock()
	s, err := f.spot(op, path)
	x := Explanation{Path: s.rel, Asked: s.path, Query: f.query(op, &s)}
	if err != nil {
		var denied *DeniedError
		var said *fs.PathError
		if !errors.As(err, &denied) && !errors.As(err, &said) {
			return x, err
		}
		if denied != nil {
			x.Verdict = Verdict{Deny, denied.Rule, denied.Why, denied.Hint}
		}
		x.Err, x.Lost = err, true
		return x, nil
	}
	x.Temporary, x.Lock = isTemporary(s.loc.Name), s.locks
	x.Prefix = f.v.policy.prefixAt(s.rel)
	if e := s.entry; e != nil {
		info := infoOf(s.loc.Name, e)
		x.Entry, x.Key, x.Since, x.Received = &info, e.Key, e.Since, e.Received
		if e.Settling(e.Key, f.v.cfg.Now()) && !e.Fresh {
			x.Settles = e.Received.Add(journal.Settle)
		}
	}
	if op == OpExtend && s.entry != nil && s.mode == Strict && !f.v.goesOn(s.entry, f.who.Key) {
		x.Query.Op = OpOverwrite // as Ask: only the same key extends, and not for ever
	}
	if s.state == StateAbsent {
		switch op {
		case OpOverwrite, OpRepeat, OpExtend:
			x.Query.Op = OpCreate
		case OpCreate, OpMkdir, OpSymlink, OpMknod, OpReplace, OpTruncate:
		default: // whether the key may do such things at all comes before whether the name is there
			if op != OpRead && op != OpStat && op != OpList && op != OpHash {
				x.Err = f.writes(op, &s)
			} else if x.Verdict = Decide(x.Query); x.Verdict.Effect == Deny {
				x.Err = denied(op, s.path, x.Verdict)
			}
			var no *DeniedError
			if errors.As(x.Err, &no) {
				x.Verdict = Verdict{Deny, no.Rule, no.Why, no.Hint}
			} else {
				x.Err = pathError(op, s.path, fs.ErrNotExist)
			}
			return x, nil
		}
	}
	x.Verdict = Decide(x.Query)
	if x.Verdict.Effect == Deny {
		x.Err = denied(x.Query.Op, s.path, x.Verdict)
	}
	return x, nil
}

// prefixAt returns the prefix that gives a cleaned path its mode; nil when none does.
func (p *Policy) prefixAt(rel string) *Prefix {
	var found *Prefix
	for i := range p.Prefixes {
		if x := &p.Prefixes[i]; within(rel, x.Path) && (found == nil || len(x.Path) > len(found.Path)) {
			found = x
		}
	}
	return found
}

// StatAt describes what path stood for at an instant, without following a link at its end; fs.ErrNotExist when nothing.
func (f *FS) StatAt(path string, when Seq) (Info, error) {
	rel, err := clean(OpStat, path)
	if err != nil {
		return Info{}, err
	}
	n, err := f.walk(OpStat, rel, when, false)
	if err != nil {
		return Info{}, err
	}
	return f.infoOfNode(n)
}
