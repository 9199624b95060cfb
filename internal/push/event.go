package push

import (
	"maps"
	"slices"
	"time"

	"vaultd/internal/appendonly"
)

// Result is how a push ended.
type Result string

// The results. Denied: a promise forbade something, and nothing else went wrong. Aborted: it did not come to its own end: the connection was lost,
// the key was revoked, the server stopped or was killed.
const (
	OK      Result = "ok"
	Failed  Result = "failed"
	Denied  Result = "denied"
	Aborted Result = "aborted"
)

// Results are all of them, in the order of reports.
var Results = []Result{OK, Failed, Denied, Aborted}

// Work is files and bytes.
type Work = appendonly.Work

// Denial is how often requests of one kind were refused for one promise.
type Denial struct {
	Op    string `json:"op"`   // as in appendonly's refusals: remove, overwrite, ...
	Rule  string `json:"rule"` // P1 ... P6, role, suspended, limit
	Count int64  `json:"count"`
}

// Event is a session that has ended. Every word in it is the server's own: nothing of it was named by a client, but the key.
type Event struct {
	Seq      uint64        `json:"seq,omitempty"` // of the tenant's events, from 1; 0 where it was not kept
	Time     time.Time     `json:"time"`          // when it ended; the server's clock, UTC
	Duration time.Duration `json:"duration_ns"`
	Session  string        `json:"session"`  // as in the log and in the journal
	Protocol string        `json:"protocol"` // sftp, rsync, scp, shell, ...
	Key      string        `json:"key"`      // its id in the catalog

	New       Work  `json:"new"`
	Unchanged Work  `json:"unchanged"`
	Refused   Work  `json:"refused"`
	Failed    Work  `json:"failed"`
	Retired   Work  `json:"retired"`
	Dirs      int64 `json:"dirs,omitempty"`
	Read      Work  `json:"read"`     // what it had back
	Received  int64 `json:"received"` // bytes on the channel, from the client
	Sent      int64 `json:"sent"`     // to it

	Denied []Denial `json:"denied,omitempty"` // sorted
	Result Result   `json:"result"`
	Exit   int      `json:"exit"` // the status that the client was sent

	Restorable bool   `json:"restorable"`
	Why        string `json:"why,omitempty"` // why it is not: a few words of this package's

	Push  bool            `json:"-"`               // otherwise it only read, and is not kept
	Under map[string]Work `json:"under,omitempty"` // what came, or was there, below the directories that have expectations of their own
}

// Came is what the client has now at the server, of what it sent or offered in this session.
func (e *Event) Came() Work { return e.New.Plus(e.Unchanged) }

// Denials is how many requests were refused.
func (e *Event) Denials() (n int64) {
	for _, d := range e.Denied {
		n += d.Count
	}
	return n
}

// Answer is a protocol's: yes, no, or that its rules say nothing.
type Answer uint8

// The answers.
const (
	Unsaid Answer = iota
	Yes
	No
)

// Report is what a protocol says about its session.
type Report struct {
	Protocol string // its name, where the channel's says less (exec)
	Push     bool   // the client came to store, even if everything was there already
	Whole    Answer // whether all that it came to store is there; Unsaid: what the core counted says it
	Left     bool   // the client left before its end, in whatever order the channel was closed
}

// Ending is how a session ended, as the transport knows it.
type Ending struct {
	Session, Protocol, Key string
	Began, Ended           time.Time
	Received, Sent         int64
	Exit                   int
	Cut                    bool // it did not come to its own end
}

func denials(m map[appendonly.Denial]int64) []Denial {
	var out []Denial
	for _, d := range slices.SortedFunc(maps.Keys(m), func(a, b appendonly.Denial) int {
		if a.Op != b.Op {
			return int(a.Op) - int(b.Op)
		}
		if a.Rule < b.Rule {
			return -1
		}
		return 1
	}) {
		name := Denial{d.Op.String(), string(d.Rule), m[d]}
		if n := len(out); n > 0 && out[n-1].Op == name.Op && out[n-1].Rule == name.Rule { // two operations have the same word
			out[n-1].Count += name.Count
			continue
		}
		out = append(out, name)
	}
	return out
}
