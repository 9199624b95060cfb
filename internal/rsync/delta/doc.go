// Package delta is what rsync sends instead of a file: sums of the blocks that the other side has, and in answer literal
// bytes and the numbers of blocks, plain or compressed, with a checksum of the whole.
//
//	checksum.go  the strong checksums, as each protocol seeds them; negotiation
//	sums.go      block sums: their head, writing them while a file is read, the table of those that came
//	match.go     finding the blocks in a file (sending)
//	token.go     the stream of literals and block numbers; codec.go: its compressed forms
//
// Formats are those of rsync 3.5.0's checksum.c, generator.c, match.c and token.c. Memory does not grow with files, but for
// the table of sums, which is bounded by their number.
//
// Concurrency: nothing here is shared; one goroutine at a time.
package delta
