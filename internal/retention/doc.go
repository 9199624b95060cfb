// Package retention says what may be freed, and frees it. Only the expire process uses it (DESIGN.md §8): nothing that
// speaks to clients knows how a content ends.
//
// # What is kept
//
// A version is what a name stood for between two instants. Its content is kept as long as one of these is so:
//
//   - it has a live name;
//   - it ended less than lock ago. A lock can be lengthened and never shortened: the longest that was ever seen counts;
//   - it stood at an instant that is kept: a snapshot that the schedule picks (the newest of each of the last N hours, days,
//     weeks, months and years that have one), or one that is held;
//   - it stood at the instant of the newest snapshot, whatever the schedule says;
//   - verification found it damaged (it is evidence), or it is the newest good version before one of its name that is. Both stay
//     until the damaged one is put right;
//   - a policy under which it would have been kept was in force less than CoolDown ago.
//
// On ZFS, a snapshot's body stays as long as its name is kept, and its name as long as it has a body.
//
// Of a tenant that was removed nothing is live and no schedule counts; lock and holds do (removal.go).
//
// A tenant without a schedule keeps everything. A snapshot whose instant is not kept loses its name once it is older than the lock.
// Of a tenant that is paused nothing goes at all: whether what is newest is also good is for a person to say.
//
// # What age is
//
// The journal is written by the server, and whoever breaks into the server writes it. So age is not what records say: it
// counts from when this process first saw them, on a clock of its own, which only advances while the machine is up and which no
// setting of the wall clock moves (Clock). A machine that is off for a part of each day has a clock that falls behind by that
// part: everything is kept for longer, and the days of the schedule are as long as the machine was up.
//
// The times by which the schedule sorts snapshots are the server's, as far as they lie between the snapshot before (and the run
// before, which did not see it) and that clock: they can not be dated back or ahead, and not spread over a time without any.
//
// # Order
//
// A run reads the closed segments that are new (chain checked against what it remembers), notes when it saw them, plans, and goes
// through the plan in groups, first the names of snapshots, then contents: it writes what is to go into a chain of its own and makes
// that stable, ends the contents, makes that stable, stores that they are gone, writes that it is done, and tells the server, which
// journals it. The policy is read again before each record. Killed anywhere, the next run finds out what is gone, tells
// that, and plans anew: what a killed run had only written down is no reason to end it. A disk that is full stops it before
// anything is ended that could not be written down.
//
// It refuses, and frees nothing of, a tenant whose journal does not go on from what it remembers (ErrForeign: rewritten, cut, of
// another tenant), or whose own chain is shorter than it was or damaged (ErrChain), or whose state is no state of this tenant's
// (ErrState). Before it frees anything it reads the whole journal again, once a day. A state that is missing begins anew:
// everything is young then; the longest lock, and what is gone, are in the chain.
//
// # Files, in expire/<tenant id>/ of the store
//
//	state.db   bbolt: "meta" (clock, head), "seen" (record number -> clock), "snaps", "policies", "freed"
//	index.db   an index of its own, derived from the journal; can be deleted
//	chain/     a journal of its own (package journal): policy, free, barrier (done) records
//	chain-open its open segment
//	outcome.json how the last run ended, for people (written by the command)
//	removed.json of a removed tenant: nothing is left of it
//
// Trust: who can write here can have contents freed before their time; who can write the journal can not.
package retention
