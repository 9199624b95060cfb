// Package journal is the truth about a tenant's names, metadata and times: a log of records, each of
// which changes one thing, and the index that answers questions from them.
//
// # Segments
//
// The log is cut into segments. The open one (staging/journal-open) is appended to; it is closed at
// snapshots, every few minutes while something changes, and when the vault is closed, and gets the name
// of its first record: journal/000000000001.jsonl. Closed segments are never touched again. A
// segment begins with a "segment" record and ends, when it was closed, with a "barrier" that covers all of it.
//
// # Records
//
// A record is a line of JSON. Every line has seq (counted from 1, without gaps), time (the server's
// clock), op, and last chain: the SHA-256, in hex, of the chain before it (32 bytes; zeros before the
// first) followed by the line's own bytes from the opening brace up to, and without, `,"chain":"`. So
// sha256sum can check it:
//
//	segment   what (the machine's boot id), prev (the chain before; for whoever has only this segment), format
//	session   key, session, note (fingerprint, address and protocol): who is behind records with this session
//	create    path, id, kind, size, sha256, metadata, fresh, managed, key: path stands for this content
//	mkdir     path, metadata
//	symlink   path, target, metadata
//	node      path, kind, id, rdev, metadata: a fifo, socket or device
//	link      path, to, id: to is a further name of path's content
//	move      path, to, id, fresh: a name, or a directory with all below it, goes elsewhere
//	seal      path: a fresh name is sealed where it is
//	restore   path, id, kind, size, sha256, metadata, managed: path stands again for this content of the past, which no live name had
//	remove    path: the name stands for nothing any more; the content stays
//	meta      path, metadata: all of it, as it is from now on
//	hash      id, sha256: the digest of a content that was published without one
//	snapshot  note (its name), what (push, manual, or a schedule): this record is the instant
//	barrier   covers: the contents of all records up to that one were on stable storage before this was written
//	epoch     note: the server's clock was set; from here on times begin anew
//	damage    path, id, note; what "good": it is right again: what verification found
//	free      freed, dropped: retention let go of these contents (id, size) and snapshots (by their instants)
//	void      path, id: after a crash, this content was not what its record said; it was never acknowledged
//
// Metadata is mode (octal), uid, gid, mtime and atime (seconds, with nine decimals if need be), rdev,
// xattrs (base64); what a client never set is absent. Paths are relative to the tenant's root. A path
// or target that is not UTF-8 stands in base64 in path64, to64 or target64.
//
// "fresh" names are closed uploads that are not sealed yet: no instant shows them.
//
// # Index
//
// The index (index.db, bbolt) is derived from the records and can be deleted. It knows no paths but
// directories by number (the seq of their mkdir; the root is 0), so that moving a directory changes
// one row. Rows, by the first byte of the key; numbers are big-endian:
//
//	L dir name              what a live name stands for
//	P dir name 0 ^from      what it stood for: to, time at to, entry; newest first
//	K id dir name           the live names of a content that has, or had, several
//	D dir                   where a directory is: parent, name
//	F dir name              live names that are fresh
//	S seq                   snapshots
//	T epoch second          the first record of each second; E epoch: the epochs
//	H id                    late digests; V id: contents that are void; X id: contents that retention let go of
//	M                       the newest record seen, totals, what each key added today, and how the last process ended
//
// An entry holds the seq since which it stands (from), so a name at an instant is one seek.
//
// Changes gather in memory (an ordered map over the database) and are written in batches, after the
// journal that they come from is stable: the index never knows more than the journal does, and nobody
// who changes something waits for it.
//
// It guarantees that a record that was changed, inserted, removed or reordered, or a segment that is
// not this journal's, is ErrCorrupt when it is read; that a name at an instant is what it was. It does
// not notice a journal that was cut at the end of a segment and is all there otherwise: whoever
// remembers a Head does (the index, and later the expire process).
//
// Concurrency: see Log and Index.
package journal
