package appendonly

import "fmt"

// Mode says what a client may do to what is sealed (DESIGN.md §2).
type Mode uint8

// The two modes.
const (
	Strict    Mode = iota // write-once names
	Versioned             // names may move on; what they were stays readable at its instants
)

func (m Mode) String() string { return [...]string{"strict", "versioned"}[m] }

// MarshalText writes "strict" or "versioned".
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (m *Mode) UnmarshalText(b []byte) error {
	switch string(b) {
	case "strict":
		*m = Strict
	case "versioned":
		*m = Versioned
	default:
		return fmt.Errorf("parse mode %q: want strict or versioned", b)
	}
	return nil
}

// Role says what a key may do at all.
type Role uint8

// The roles of keys.
const (
	Full Role = iota // read and add
	Push             // add, list and stat; never read content
	Pull             // read; never change anything
)

func (r Role) String() string { return [...]string{"full", "push", "pull"}[r] }

// MarshalText writes "full", "push" or "pull".
func (r Role) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (r *Role) UnmarshalText(b []byte) error {
	switch string(b) {
	case "full":
		*r = Full
	case "push":
		*r = Push
	case "pull":
		*r = Pull
	default:
		return fmt.Errorf("parse role %q: want full, push or pull", b)
	}
	return nil
}

// State is what the asking key finds under a name.
type State uint8

// The states of a name, as seen by one key.
const (
	StateAbsent     State = iota
	StateOpen             // this key's unfinished upload, running or interrupted
	StateFresh            // this key's closed upload under a temporary name
	StateFreshOther       // another key's
	StateSettling         // sealed, or a link or special made, less than 10 minutes ago by this key
	StateRepeated         // sealed; this key has just put the same content again
	StateSealed           // any other content that a name stands for
	StateManaged          // a file that a protocol manages itself
	StateNewDir           // a directory that this key made less than 10 minutes ago
	StateDir              // any other directory
	StateLink             // a symbolic link
	StateScratch          // a lock inside a recognised repository
	StateView             // the past
	StateReserved         // /.vault and what is not a view in it
	numStates
)

var stateNames = [numStates]string{"absent", "open", "fresh", "fresh-other", "settling", "repeated", "sealed", "managed",
	"new-dir", "dir", "link", "scratch", "view", "reserved"}

func (s State) String() string { return stateNames[s] }

// Effect is what the core may do.
type Effect uint8

// The effects. None of them ends a sealed content.
const (
	Deny   Effect = iota
	Allow         // do it: nothing that is sealed is touched
	Amend         // change the entry where it is
	Ignore        // answer that it was done, and do nothing
	Keep          // do it; what the name stood for becomes a version
	Drop          // end an unfinished upload or a lock for ever
)

func (e Effect) String() string {
	return [...]string{"deny", "allow", "amend", "ignore", "keep", "drop"}[e]
}

// Query is one question to Decide.
type Query struct {
	Mode      Mode
	Role      Role
	Suspended bool // the tenant is read-only
	Op        Op
	State     State
	Own       bool // this key made what the name stands for
}

// Verdict is Decide's answer. Rule, Why and Hint are set when Effect is Deny.
type Verdict struct {
	Effect Effect
	Rule   Rule
	Why    string
	Hint   string
}

func yes(e Effect) Verdict { return Verdict{Effect: e} }

func no(r Rule, why, hint string) Verdict { return Verdict{Deny, r, why, hint} }

// The refusals, in the words that clients are shown.
var (
	noRead       = no(RuleRole, "this key may add files and not read them", "Use a key with the role full or pull")
	noWrite      = no(RuleRole, "this key may only read", "Use a key with the role full or push")
	noSuspended  = no(RuleHold, "this vault is suspended: it can be read and takes nothing", "Ask its operator")
	noChange     = no(P1, "it is sealed: what was stored stays as it is", "Store it under a new name")
	noRemoval    = no(P2, "it is sealed: names that stand for stored data stay", "Old data is removed by the vault's own retention")
	noMeta       = no(P2, "it is sealed: its attributes stay as they are", "Attributes can be set for 10 minutes by the key that stored it")
	noOther      = no(P2, "another key is still writing it", "Store it under a new name")
	noManaged    = no(P2, "this file belongs to its repository and is kept with all its generations", "Use the repository's own program")
	noView       = no(P2, "the past is read-only", "Copy what you need to a new name")
	noReserved   = no(P2, "the name .vault is reserved for the past", "Use another name")
	noThrough    = no(P5, "it is a symbolic link, and writing never follows one", "Name the file itself")
	noUnfinished = no(P2, "the upload under this name is not finished", "Close it first")
	noKind       = no(P2, "what stands there is of another kind", "Use a new name")
)

// Decide says whether, and how, an operation may be done on a name in a state. It is the whole
// policy: nothing else in the program allows or refuses an operation of a client, and a second guard
// that knows nothing of it stands below (Volume: link(2) refuses a taken name, sealed content has no
// write descriptor).
func Decide(q Query) Verdict {
	switch q.Op {
	case OpStat, OpList:
		return yes(Allow)
	case OpRead:
		if q.Role == Push {
			return noRead
		}
		return yes(Allow)
	case OpHash:
		if q.Role == Push && !q.Own {
			return noRead
		}
		return yes(Allow)
	}
	switch {
	case q.Role == Pull:
		return noWrite
	case q.Suspended:
		return noSuspended
	case q.State == StateView:
		return noView
	case q.State == StateReserved:
		return noReserved
	case q.State == StateFreshOther:
		return noOther
	case q.State == StateManaged && q.Op != OpReplace:
		return noManaged
	}
	switch q.Op {
	case OpCreate, OpMkdir, OpSymlink, OpMknod:
		if q.State == StateAbsent || q.State == StateOpen || q.State == StateScratch && q.Op == OpCreate {
			return yes(Allow)
		}
		return noKind
	case OpRepeat, OpExtend, OpOverwrite:
		return decidePublish(q)
	case OpReplace:
		switch q.State {
		case StateAbsent:
			return yes(Allow)
		case StateManaged:
			return yes(Keep)
		}
		return noChange
	case OpTruncate:
		if q.State == StateOpen {
			return yes(Amend)
		}
		return decidePublish(q)
	case OpSetTimes, OpSetMeta, OpTighten:
		return decideMeta(q)
	}
	return decideName(q)
}

// decidePublish rules on new content under a taken name.
func decidePublish(q Query) Verdict {
	switch q.State {
	case StateFresh, StateScratch:
		return yes(Allow)
	case StateSettling, StateRepeated, StateSealed:
		switch {
		case q.Op == OpRepeat:
			return yes(Ignore)
		case q.Mode == Versioned, q.Op == OpExtend && q.Own:
			return yes(Keep)
		}
		return noChange
	case StateLink:
		return noThrough
	case StateAbsent, StateOpen:
		return yes(Allow)
	}
	return noKind
}

// decideMeta rules on attributes. Directories take times from anybody who may write: they say
// nothing of what is stored.
func decideMeta(q Query) Verdict {
	switch q.State {
	case StateOpen, StateFresh, StateSettling, StateNewDir:
		return yes(Amend)
	case StateScratch:
		return yes(Ignore)
	case StateDir:
		if q.Op == OpSetTimes || q.Mode == Versioned {
			return yes(Keep)
		}
	case StateAbsent:
		return noKind
	}
	switch {
	case q.Mode == Versioned:
		return yes(Keep)
	case q.State == StateRepeated, q.Op == OpTighten:
		return yes(Ignore)
	}
	return noMeta
}

// decideName rules on removing, moving and linking.
func decideName(q Query) Verdict {
	switch q.State {
	case StateOpen, StateFresh, StateScratch:
		switch q.Op {
		case OpRemove:
			return yes(Drop)
		case OpRename:
			return yes(Allow)
		}
		return noUnfinished
	case StateAbsent:
		return noKind
	}
	dir := q.State == StateDir || q.State == StateNewDir
	switch q.Op {
	case OpLink:
		if dir || q.State == StateLink {
			return noKind
		}
		return yes(Allow)
	case OpRmdir:
		if !dir {
			return noKind
		}
		if q.State == StateNewDir {
			return yes(Keep)
		}
	case OpRemove:
		if dir {
			return noKind
		}
	}
	if q.Mode == Versioned {
		return yes(Keep)
	}
	return noRemoval
}
