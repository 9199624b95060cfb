// Package push says what became of a session that stored something, or tried to: an Event with a verdict.
//
// The core counts what a session did (appendonly.Counts). The protocol says what only it can know (Report: that rsync's list was whole). The
// transport knows how the session ended (Ending). Judge puts the three together, and everybody else reads the Event: the log's line of the
// session, state.db, vaultd pushes, the expectations, metrics.
//
// A session is a push when it changed something, tried to and was refused, or when its protocol says that it came to store (an rsync that found
// everything there already). Reading and listing is none, and neither are locks.
//
// Restorable says that the push left a state that is good to go back to:
//
//	rsync           the list was whole, and the session ended with status 0
//	restic (sftp)   there is a new object under snapshots/ of a repository
//	others          at least one file was closed, and none failed or was refused; the session was not cut off
//
// It is about one session. Where a client spreads one backup over several (rclone), each is judged by itself.
//
// The package is pure: it has no clock and touches no disk.
package push
