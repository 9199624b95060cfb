// Package flist is rsync's file list: what it says of each entry, its order, and its form on the wire, for protocols 29
// to 32 without incremental recursion.
//
//	list.go    Entry and List
//	order.go   the order that both sides sort to, since files are named by their number in it
//	decode.go  reading a list; every length and number is bounded beside its read
//	encode.go  building and writing one
//	xattr.go   sets of extended attributes; long values travel as digests and are asked for
//	acl.go     access control lists, as the system.posix_acl_* attributes have them
//
// Formats are those of rsync 3.5.0's flist.c, xattrs.c, acls.c and uidlist.c.
//
// Concurrency: a List is not changed once it was read, but for the values of extended attributes, which it guards itself.
package flist

import "sync"

// The types in an entry's mode (stat(2)).
const (
	typeMask    = 0o170000
	typeSocket  = 0o140000
	typeLink    = 0o120000
	typeRegular = 0o100000
	typeBlock   = 0o060000
	typeDir     = 0o040000
	typeChar    = 0o020000
	typeFifo    = 0o010000
)

// Config is what the form on the wire depends on: the protocol, and options that both sides have.
type Config struct {
	Proto        int
	VarintFlags  bool // compatibility flags: varint entry flags,
	SafeEnd      bool // errors at the list's end,
	ID0Names     bool // names for the ids 0
	Owner        bool // -o
	Group        bool // -g
	Links        bool // -l
	Devices      bool
	Specials     bool
	HardLinks    bool // -H
	ATimes       bool // -U
	CRTimes      bool // -N
	XAttrs       bool // -X
	ACLs         bool // -A
	NumericIDs   bool // no names of users and groups
	Relative     bool // -R: names may begin with /
	Recursive    bool // -r; decides before protocol 30 which directories are whole
	MissingFiles bool // --delete-missing-args: mode 0 means that the name is to go
	Unsorted     bool // --iconv: files are named by the order in which they were sent
	SumLength    int  // bytes of a file's checksum; 0 without -c
	MaxEntries   int  // 0: 20,000,000
	// Convert translates names (--iconv), and with ConvertLinks symlinks' targets; nil: as they are. An entry with one that
	// can not be translated is dropped.
	Convert      func(string) (string, error)
	ConvertLinks bool
}

// Flags of an entry.
const (
	flagTopDir    = 1 << 0
	flagContent   = 1 << 1 // a directory that the list has the contents of
	flagImplied   = 1 << 2 // a directory that is only on the way to one
	flagDuplicate = 1 << 3 // dropped
	flagPruned    = 1 << 4 // dropped: an empty directory
	flagOdd       = 1 << 5 // dropped: its name could not be converted

	flagsDropped = flagDuplicate | flagPruned | flagOdd
)

// Entry is one name. The zero value of what the options do not send is meaningless.
type Entry struct {
	dir, base string
	Size      int64 // bytes of a file
	MTime     int64 // seconds since 1970
	NSec      uint32
	Mode      uint32 // type and permissions, as in stat(2)
	uid, gid  uint32
	group     int32 // the number of the first name of the same file, in the list's order; -1
	flags     uint8
	Tag       uint16 // the Builder's user's own
	x         *extra
}

// extra is what few entries have.
type extra struct {
	target       string
	sum          []byte
	major, minor uint32
	atime        int64
	crtime       int64
	xattrs       int32 // index of the set + 1
	access, def  int32 // index of the ACL + 1
}

// more returns e's extra part, made if need be.
func (e *Entry) more() *extra {
	if e.x == nil {
		e.x = &extra{}
	}
	return e.x
}

// Path is the name relative to the top of the transfer: without a slash at either end; "." is the top itself.
func (e *Entry) Path() string {
	if e.dir == "" {
		return e.base
	}
	return e.dir + "/" + e.base
}

// Dir is the path of the directory that the entry is in; "" at the top. Base is the last part of its name.
func (e *Entry) Dir() string  { return e.dir }
func (e *Entry) Base() string { return e.base }

// IsRoot says whether the entry is the top of the transfer.
func (e *Entry) IsRoot() bool { return e.dir == "" && e.base == "." }

func (e *Entry) kind() uint32    { return e.Mode & typeMask }
func (e *Entry) IsDir() bool     { return e.kind() == typeDir }
func (e *Entry) IsRegular() bool { return e.kind() == typeRegular }
func (e *Entry) IsSymlink() bool { return e.kind() == typeLink }
func (e *Entry) IsDevice() bool  { return e.kind() == typeChar || e.kind() == typeBlock }
func (e *Entry) IsSpecial() bool { return e.kind() == typeFifo || e.kind() == typeSocket }

// IsMissing says that the client asked for a name that is not there (--delete-missing-args).
func (e *Entry) IsMissing() bool { return e.Mode == 0 }

// UID and GID are the owner's and group's numbers, on the side that the list describes.
func (e *Entry) UID() uint32 { return e.uid }
func (e *Entry) GID() uint32 { return e.gid }

// Target is where a symlink points to.
func (e *Entry) Target() string {
	if e.x == nil {
		return ""
	}
	return e.x.target
}

// Sum is the file's checksum (-c); nil when there is none.
func (e *Entry) Sum() []byte {
	if e.x == nil {
		return nil
	}
	return e.x.sum
}

// ATime and CRTime are the times of the last access and of creation, in seconds since 1970.
func (e *Entry) ATime() int64 {
	if e.x == nil {
		return 0
	}
	return e.x.atime
}

func (e *Entry) CRTime() int64 {
	if e.x == nil {
		return 0
	}
	return e.x.crtime
}

// RDev is a device's number.
func (e *Entry) RDev() (major, minor uint32) {
	if e.x == nil {
		return 0, 0
	}
	return e.x.major, e.x.minor
}

// Group is the number of the first entry that is another name of the same file, or the entry's own when it is that;
// -1 when it has one name.
func (e *Entry) Group() int { return int(e.group) }

// NoContent says that a directory's contents are not in the list, and what is there must not be taken for surplus.
func (e *Entry) NoContent() bool { return e.flags&flagContent == 0 }

// IsTop says that a directory was named by the user, or is on the way to what was.
func (e *Entry) IsTop() bool { return e.flags&(flagTopDir|flagImplied) != 0 }

// List is a list in the order of both sides.
type List struct {
	IOError int32    // what the sender could not read (rsync.h: IOERR_*)
	Odd     []string // names that could not be converted, as they came or stand here; the first ones

	chunks [][]Entry // entries in the order of arrival, in pieces: a list that grows is not copied
	order  []int32   // of both sides: the place in chunks of each entry; nil: as they are
	place  []int32   // the reverse, with Config.Unsorted: what goes over the wire is the order of arrival; else nil
	live   int

	userNames, groupNames map[uint32]string

	acls    aclTable
	mu      sync.Mutex // guards xattrs
	xattrs  []xattrSet
	xattrID map[string]int32 // when sending
}

// chunk is how many entries there are in a piece.
const chunk = 1024

// grow makes room for one more entry at the end, and returns its place.
func (l *List) grow() int {
	last := len(l.chunks) - 1
	if last < 0 || len(l.chunks[last]) == chunk {
		l.chunks = append(l.chunks, make([]Entry, 0, chunk))
		last++
	}
	l.chunks[last] = l.chunks[last][:len(l.chunks[last])+1]
	return l.Len() - 1
}

// entry is the entry at a place in chunks; at is entry i in order.
func (l *List) entry(place int) *Entry { return &l.chunks[place/chunk][place%chunk] }

func (l *List) at(i int) *Entry {
	if l.order != nil {
		i = int(l.order[i])
	}
	return l.entry(i)
}

// Len is one more than the largest number of an entry. Count is how many entries there are.
func (l *List) Len() int {
	if len(l.chunks) == 0 {
		return 0
	}
	return (len(l.chunks)-1)*chunk + len(l.chunks[len(l.chunks)-1])
}

func (l *List) Count() int { return l.live }

// At returns entry i in order; nil for one that was dropped.
func (l *List) At(i int) *Entry {
	if e := l.at(i); e.flags&flagsDropped == 0 {
		return e
	}
	return nil
}

// First returns the first entry; nil when there is none.
func (l *List) First() *Entry {
	for i := range l.Len() {
		if e := l.At(i); e != nil {
			return e
		}
	}
	return nil
}

// Wire is the number by which the other side knows entry i.
func (l *List) Wire(i int) int32 {
	if l.place == nil {
		return int32(i)
	}
	return l.order[i]
}

// FromWire is the reverse of Wire; false for a number that no entry has.
func (l *List) FromWire(n int32) (int, bool) {
	if n < 0 || int(n) >= l.Len() {
		return 0, false
	}
	if l.place == nil {
		return int(n), true
	}
	return int(l.place[n]), true
}

// Children calls yield for the entries directly in directory i.
func (l *List) Children(i int, yield func(*Entry)) {
	dir := l.at(i).Path()
	if l.at(i).IsRoot() {
		dir = ""
	}
	for j := i + 1; j < l.Len(); j++ {
		e := l.at(j)
		if dir != "" && !below(e.dir, dir) {
			return
		}
		if e.dir == dir && e.flags&flagsDropped == 0 {
			yield(e)
		}
	}
}

// below says whether p is dir or something in it.
func below(p, dir string) bool {
	return len(p) >= len(dir) && p[:len(dir)] == dir && (len(p) == len(dir) || p[len(dir)] == '/')
}

// UserName and GroupName are the names that the sender gave numbers; "" when it gave none.
func (l *List) UserName(id uint32) string  { return l.userNames[id] }
func (l *List) GroupName(id uint32) string { return l.groupNames[id] }
