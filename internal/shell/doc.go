// Package shell answers exec requests and the request for a shell with built-in commands: what
// people ask (help, version, quota, df, versions, snapshots) and what tools probe for (true, pwd,
// echo, and the checksum commands of coreutils, BSD and rclone). There is no shell behind it and no
// process is started.
//
// A command line is split into words as POSIX sh does (XCU 2.2): quotes, backslashes, and variables,
// which are all unset and expand to nothing. Whatever else would need a shell (pipes, redirections,
// command substitution, lists) is refused, never half done; * and ? are ordinary characters.
//
// A line whose first word (the last element of its path) is no built-in goes to Config.Programs, the
// seam for other protocols. The rest is refused with one line on stderr and exit status 127. Other
// statuses: 0 done, 1 failed (as coreutils: any file), 2 misused, 4 not found, 77 refused.
//
// rclone asks on first contact and remembers the answers for ever: echo ${ShellId}%ComSpec% must print
// %ComSpec% (a POSIX shell), and every checksum command without an argument, with nothing on its
// standard input, the checksum of nothing. Then it sends the command with one path, escaped by
// backslashes (backend/sftp/sftp.go: Hashes, quoteOrEscapeShellPath).
//
// It guarantees that no command waits for standard input unless it was asked to read it, and that
// names in listings and messages can not reach a terminal as control characters. It does not guarantee
// the latter for echo and for checksum lines, which repeat the client's own arguments in the tools' own format.
//
// Concurrency: a Server serves any number of sessions.
package shell
