// Package scp serves the old scp protocol, over exec: what `scp -O`, clients before OpenSSH 9.0 and many appliances speak.
//
// There is no specification; the source is OpenSSH's scp.c (sink, source, rsource, response) and what such clients send:
//
//	scp [-v] [-r] [-p] [-d] -t PATH        the client sends ("sink")
//	scp [-v] [-r] [-p] -f PATH...          the client receives ("source")
//
//	C<mode> <size> <name>\n  a file: its bytes follow the answer, then a status
//	D<mode> 0 <name>\n       a directory: what follows is in it, until
//	E\n                      it ends
//	T<mtime> 0 <atime> 0\n   times of the next C or D, with -p
//
// Each line and each file's bytes are answered with \0 (done), or \1 or \2 and a line of text: the client goes on after \1 and gives
// up after \2.
//
// It guarantees that a file has its name when all of its bytes and the client's status came, and not before: an upload that is cut
// short shows nothing (what came can be continued by other protocols). Names with a slash, "." and ".." are refused. It
// does not know symbolic links: they are followed, inside the tenant's tree, as scp does.
//
// Everything goes through the Session's FS; policy, quota and journal are behind that.
package scp
