// Package expect judges whether a tenant's backups come as they should.
//
// An expectation (Rule) is the operator's: a restorable push at least every MaxAge, of at least so much, found missing only when a time window has
// closed, and something new at least every Changes. What was seen of the pushes (Seen) is kept by whoever sees them; Judge compares the two at an
// instant. It is pure: the clock is an argument.
//
// Pushes are seen in runs: sessions that follow each other within runGap are one run, since clients spread one backup over several sessions. The least
// size is asked of the last run.
//
// A clock that was set back makes a push look as if it came from the future: its age is 0 then, never negative.
package expect

import "time"

// State is a verdict in a word.
type State string

// The states. What is worse comes later, among equals of Level.
const (
	OK        State = "ok"
	Suspended State = "suspended" // takes nothing, by the operator's will
	Never     State = "never"     // no restorable push since the tenant was made
	Unchanged State = "unchanged" // pushes come and bring nothing new
	Small     State = "small"     // the last run brought less than it should
	FullSoon  State = "full-soon"
	Late      State = "late"
	Full      State = "full"
)

// Level is how bad a verdict is, as exit statuses of checks count.
type Level int

// The levels.
const (
	Well Level = iota
	Warning
	Critical
)

// Verdict is a judgement.
type Verdict struct {
	State State     `json:"state"`
	Level Level     `json:"level"`
	Path  string    `json:"path,omitempty"` // the directory whose expectation it is of; "": the tenant
	Why   string    `json:"why,omitempty"`  // in a few words
	Since time.Time `json:"since,omitzero"` // when it became so: what was due, and was not there
	Due   time.Time `json:"due,omitzero"`   // when it will be late, or full, if nothing happens
	Age   int64     `json:"-"`              // of the newest restorable push, in seconds; -1: there is none
}

// Seen is what was seen of the pushes to a tenant or a directory.
type Seen struct {
	Restorable time.Time `json:"restorable,omitzero"` // when the newest restorable push ended
	Fresh      time.Time `json:"fresh,omitzero"`      // when the newest restorable push ended that brought something new
	RunBegan   time.Time `json:"run_began,omitzero"`  // the last run of restorable pushes
	RunEnded   time.Time `json:"run_ended,omitzero"`
	RunFiles   int64     `json:"run_files"` // new and unchanged
	RunBytes   int64     `json:"run_bytes"`
}

// runGap is the longest time between two sessions of one run, and runMost how long a run may be: what never pauses is not one backup.
const (
	runGap  = 10 * time.Minute
	runMost = 24 * time.Hour
)

// Push takes a restorable push in, which ran from began to ended, and had so many files and bytes, fresh ones of them new.
func (s *Seen) Push(began, ended time.Time, files, bytes, fresh int64) {
	goesOn := !s.RunEnded.IsZero() && began.Sub(s.RunEnded) <= runGap && !ended.Before(s.RunBegan) && ended.Sub(s.RunBegan) <= runMost
	if !goesOn {
		s.RunBegan, s.RunFiles, s.RunBytes = began, 0, 0
	}
	s.RunFiles, s.RunBytes, s.RunEnded = s.RunFiles+files, s.RunBytes+bytes, ended
	s.Restorable = ended
	if fresh > 0 {
		s.Fresh = ended
	}
}
