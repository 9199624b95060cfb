// Package sftpserver serves SFTP version 3 (draft-ietf-secsh-filexfer-02) from one tenant's appendonly.FS.
//
// github.com/pkg/sftp's RequestServer moves the bytes: OPEN, READ, WRITE, CLOSE, OPENDIR, REMOVE,
// RMDIR, RENAME, REALPATH, READLINK and SYMLINK. It never sees the channel: a framing layer (conn)
// stands between, checks every packet, and answers itself what RequestServer can not do, or does by
// path where the protocol means a handle: INIT, STAT, LSTAT, FSTAT, READDIR (access times, replies of
// bounded size), SETSTAT, FSETSTAT, MKDIR (attributes), and all extensions:
//
//	posix-rename@openssh.com 1, hardlink@openssh.com 1, statvfs@openssh.com 2, fstatvfs@openssh.com 2,
//	fsync@openssh.com 1, lsetstat@openssh.com 1, limits@openssh.com 1, expand-path@openssh.com 1,
//	users-groups-by-id@openssh.com 1, home-directory 1, copy-data 1         (OpenSSH's PROTOCOL)
//	check-file-name 1, check-file-handle 1, check-file 1 (paramiko's name for the latter)
//	                                      (draft-ietf-secsh-filexfer-extensions-00, section 3)
//
// It guarantees: a file is published by the client's CLOSE and by nothing else (a lost connection, an
// EOF with open handles and a shutdown abort the upload, which the FS keeps for resuming); FSTAT and
// FSETSTAT act on the open file whatever its path has become; attributes of OPEN and MKDIR count (modes
// less a umask of 022, as in OpenSSH's server); requests that touch the same bytes of a file take effect
// in the order in which they came, although RequestServer has eight workers; memory per session is
// bounded, whatever the client sends or does not read; no path of the server reaches a client.
//
// It does not promise durability at CLOSE (fsync@openssh.com does), and serves no other version.
//
// What is refused, and how the client sees it: a *appendonly.DeniedError is PERMISSION_DENIED (3) with
// its text, and one line on stderr; an unknown type or extension is OP_UNSUPPORTED (8); a packet whose
// fields do not fit is BAD_MESSAGE (5), and the session goes on; a packet with no room for a request
// id, or longer than 256 KiB, ends the session. Everything else is in status.go.
//
// Concurrency: Serve may run for many sessions at once. Of one session, the reader (RequestServer's
// receiving goroutine) runs the framing layer and all requests answered by it; before it answers, it
// waits until RequestServer has answered everything before, so replies keep the order of requests.
package sftpserver
