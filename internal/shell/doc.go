// Package shell answers exec requests and the request for a shell with built-in commands: what
// people ask (help, version, quota, df, versions, snapshots), what backup scripts do at the other end (mkdir, ls, find,
// test, ln, mv, rm, cp -al, cat > FILE, ...), and what tools probe for (true, uname, and the checksum commands of
// coreutils, BSD and rclone). There is no shell behind it and no process is started: what a command does, it does through
// the session's FS, and the policy decides.
//
//	server.go    Serve: a line is parsed here, or passed on to another protocol
//	line.go      lists, pipelines and redirections
//	handlers.go  the table of commands, and reports; hash.go: checksums
//	change.go    commands that change names; look.go, find.go, condition.go (test): commands that describe them
//	stream.go    commands that read contents; probe.go: who and where
//
// A command line is split into words as POSIX sh does (XCU 2.2): quotes, backslashes, patterns, and variables,
// which are all unset and expand to nothing. ; && || ! | > >> < 2> 2>&1 and line breaks mean what they do there, and
// sudo, nice, ionice, env and VAR=value before a command mean nothing. Whatever else would need a shell (command
// substitution, loops, jobs) is refused, never half done. Commands know the options that scripts use and refuse the others;
// TestLikeShell compares them with sh and coreutils.
//
// A file that a line writes appears when the command has ended, whole; not when its input broke off.
//
// A command whose first word (the last element of its path) is no built-in goes to Config.Programs, the
// seam for other protocols, also at the end of a list ("mkdir -p x && rsync --server ..."). The rest is refused with one
// line on stderr and exit status 127. Other statuses: 0 done, 1 failed (as coreutils: any file), 2 misused, 4 not found,
// 77 refused.
//
// rclone asks on first contact and remembers the answers for ever: echo ${ShellId}%ComSpec% must print
// %ComSpec% (a POSIX shell), and every checksum command without an argument, with nothing on its
// standard input, the checksum of nothing. Then it sends the command with one path, escaped by
// backslashes (backend/sftp/sftp.go: Hashes, quoteOrEscapeShellPath).
//
// It guarantees that no command waits for standard input unless it was asked to read it, that what a command keeps in
// memory is bounded, and that names in listings and messages can not reach a terminal as control characters. It does not
// guarantee the latter for what is made to be read by programs: find, readlink, cat, echo, checksum lines.
//
// Concurrency: a Server serves any number of sessions.
package shell
