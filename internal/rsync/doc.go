// Package rsync serves rsync over exec: pushes (rsync --server), pulls (rsync --server --sender) and the
// daemon dialogue over ssh (rsync --server --daemon), protocols 29 to 32, natively on appendonly.FS. No rsync
// program is run.
//
//	server.go     one command line: who serves it, what is refused by name
//	conn.go       handshake: versions, capabilities, checksums, compression, seed
//	push.go       a push from list to goodbye
//	generator.go  what of the list is missing or differs; generator_*.go: by kind, deleting, basis directories
//	receiver.go   what the client sends in answer, on a goroutine of its own
//	queue.go      between the two
//	base.go       what a file is built from: what arrived before, and what is there
//	attributes.go metadata: what the list says, what the vault has, how they differ
//	pull.go       a pull: the client generates and receives, we walk and send
//	status.go     errors in rsync's words
//	daemon.go     the dialogue before the same engine
//
// The wire is in rsync/wire, rsync/flist, rsync/delta, the words of the command line in rsync/option, the rules in
// rsync/filter. The protocol is the one that rsync 3.5.0 speaks (its sources were read for facts; shared/protocols/rsync.md
// has those that matter) without incremental recursion, which a server may decline.
//
// # What is different here
//
// A file appears under its name when it is whole and its checksum is right, in one step; there are no temporary
// names. What arrived of a file when the connection broke is kept, and is what the next run goes on from, with or
// without --partial, whether the file is new or replaces another one. So --inplace, --partial-dir, --temp-dir,
// --delay-updates and --preallocate are accepted and change nothing of that.
//
// In a strict vault new names are added, identical ones pass, anything else is refused one by one: a line on the
// client's stderr for each of the first 20, then a count, and the client ends with 23. Deletions are skipped with one
// line. In a versioned one --delete mirrors, and what is replaced or deleted stays readable at its instants.
//
// Owners, devices, ACLs and extended attributes are kept as metadata, whoever the server runs as, and sent back as
// they came: --fake-super and --numeric-ids are always in force on this side.
//
// The goodbye, and MSG_SUCCESS for --remove-source-files, come after a barrier (P4).
//
// Concurrency: a push has the generator on Serve's goroutine, which alone writes to the client, and the receiver on a
// second one, which alone reads. The receiver never waits for the generator: what it has to say goes through a queue. The
// generator waits for the receiver when too many transfers are under way, after flushing what it wrote. So the client
// can always go on.
package rsync
