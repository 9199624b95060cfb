package flist

import (
	"strings"

	"vaultd/internal/rsync/wire"
)

// Item is what a Builder is told of one name.
type Item struct {
	Path         string // relative to the top; "." is the top
	Mode         uint32
	Size         int64 // of a file
	MTime        int64
	NSec         uint32
	UID, GID     uint32
	Major, Minor uint32 // of a device
	ATime        int64
	CRTime       int64
	Target       string // of a symlink
	Sum          []byte // with -c
	Links        any    // a key that all names of one file have, and no others; nil: it has one
	XAttrs       map[string][]byte
	Access, Def  []byte // ACLs, as attributes
	Top          bool   // a directory that the user named
	Implied      bool   // a directory that is only on the way to what the user named
	NoContent    bool   // a directory whose contents are not sent
	Tag          uint16 // for Entry.Tag
}

// Builder makes a list and sends it on the way.
type Builder struct {
	w *wire.Writer
	c *Config
	l *List

	last        string
	lastDir     string
	mtime       int64
	mode        uint32
	uid, gid    uint32
	major       uint32
	atime       int64
	have        bool // there was one before
	files       map[any]int32
	names       arena
	unconverted bool
}

// NewBuilder writes a list to w.
func NewBuilder(w *wire.Writer, c *Config) *Builder {
	return &Builder{w: w, c: c, l: &List{}, files: map[any]int32{}}
}

// Add sends one more name (flist.c: send_file_entry).
func (b *Builder) Add(it *Item) {
	name := it.Path
	if b.c.Convert != nil {
		converted, err := b.c.Convert(name)
		sent := *it
		if err == nil && b.c.ConvertLinks && it.Target != "" {
			sent.Target, err = b.c.Convert(it.Target)
		}
		if err != nil {
			b.unconverted = true
			if len(b.l.Odd) < maxOdd {
				b.l.Odd = append(b.l.Odd, it.Path)
			}
			return
		}
		name, it = converted, &sent
	}
	e := b.entry(it)
	here := int32(b.l.Len())
	flags := b.flags(it, &e)
	first := int32(-1)
	if b.c.HardLinks && it.Links != nil && !e.IsDir() {
		flags |= xLinked
		n, seen := b.files[it.Links]
		if !seen {
			n = here
			b.files[it.Links] = here
			if b.c.Proto >= 30 {
				flags |= xLinkFirst
			}
		} else {
			first = n
		}
		e.group = n
	}
	b.head(name, flags, &e)
	abbreviated := b.c.Proto >= 30 && first >= 0
	if abbreviated {
		b.w.Varint(first)
	} else {
		b.body(it, &e, flags)
	}
	b.mtime, b.mode, b.uid, b.gid = e.MTime, e.Mode, e.uid, e.gid
	if b.c.ATimes && !e.IsDir() {
		b.atime = it.ATime
	}
	if b.sendsDevice(&e) {
		b.major = it.Major
	}
	b.have = true
	b.last = name
	if b.c.ACLs && !e.IsSymlink() {
		b.l.acls.write(b.w, &e, it.Access, it.Def)
	}
	if b.c.XAttrs {
		b.l.writeSet(b.w, &e, it.XAttrs)
	}
	*b.l.entry(b.l.grow()) = e
}

// entry is the item as the list keeps it.
func (b *Builder) entry(it *Item) Entry {
	e := Entry{Size: it.Size, MTime: it.MTime, NSec: it.NSec, Mode: it.Mode, uid: it.UID, gid: it.GID, group: -1, Tag: it.Tag}
	if i := strings.LastIndexByte(it.Path, '/'); i >= 0 {
		if it.Path[:i] != b.lastDir {
			b.lastDir = strings.Clone(it.Path[:i])
		}
		e.dir, e.base = b.lastDir, b.names.keepString(it.Path[i+1:])
	} else {
		e.base = b.names.keepString(it.Path)
	}
	if e.IsSymlink() {
		e.more().target = it.Target
		e.Size = int64(len(it.Target))
	}
	if e.IsDevice() {
		e.more().major, e.more().minor = it.Major, it.Minor
		e.Size = 0
	}
	return e
}

// flags are those that a comparison with the entry before gives.
func (b *Builder) flags(it *Item, e *Entry) uint32 {
	var f uint32
	if e.IsDir() {
		switch {
		case it.Implied:
			f = xTopDir
			if b.c.Proto >= 30 {
				f |= xNoContent
			}
		case it.NoContent:
			if b.c.Proto >= 30 {
				f = xNoContent
			}
		case it.Top:
			f = xTopDir
		}
	}
	set := func(same bool, flag uint32) {
		if same && b.have {
			f |= flag
		}
	}
	set(e.Mode == b.mode, xSameMode)
	set(b.c.Owner && e.uid == b.uid || !b.c.Owner, xSameUID)
	set(b.c.Group && e.gid == b.gid || !b.c.Group, xSameGID)
	set(e.MTime == b.mtime, xSameTime)
	if b.c.Proto >= 31 && e.NSec != 0 {
		f |= xNSec
	}
	if b.c.ATimes && !e.IsDir() {
		set(it.ATime == b.atime, xSameATime)
	}
	if b.sendsDevice(e) {
		if it.Major == b.major && b.have {
			f |= xSameMajor
		}
		if b.c.Proto < 30 && it.Minor <= 0xff {
			f |= xMinor8
		}
	}
	if b.c.CRTimes && b.c.VarintFlags && it.CRTime == it.MTime {
		f |= xCreatedAtMod
	}
	return f
}

func (b *Builder) sendsDevice(e *Entry) bool {
	return b.c.Devices && e.IsDevice() || b.c.Specials && e.IsSpecial() && b.c.Proto < 31
}

// head writes flags and name.
func (b *Builder) head(name string, f uint32, e *Entry) {
	same := 0
	for same < len(name) && same < len(b.last) && same < 255 && name[same] == b.last[same] {
		same++
	}
	rest := name[same:]
	if same > 0 {
		f |= xSameName
	}
	if len(rest) > 255 {
		f |= xLongName
	}
	switch {
	case b.c.VarintFlags:
		if f == 0 {
			f = xExtended
		}
		b.w.Varint(int32(f))
	default:
		if f == 0 && !e.IsDir() {
			f |= xTopDir
		}
		if f&0xff00 != 0 || f == 0 {
			b.w.Short(uint16(f | xExtended))
		} else {
			b.w.Byte(byte(f))
		}
	}
	if same > 0 {
		b.w.Byte(byte(same))
	}
	if len(rest) > 255 {
		b.w.Varint30(b.c.Proto, int32(len(rest)))
	} else {
		b.w.Byte(byte(len(rest)))
	}
	b.w.Write([]byte(rest))
}

// body writes what a further name of a file does not repeat.
func (b *Builder) body(it *Item, e *Entry, f uint32) {
	w, proto := b.w, b.c.Proto
	w.Varlong30(proto, e.Size, 3)
	if f&xSameTime == 0 {
		if proto >= 30 {
			w.Varlong(e.MTime, 4)
		} else {
			w.Int(int32(e.MTime))
		}
	}
	if f&xNSec != 0 {
		w.Varint(int32(e.NSec))
	}
	if b.c.CRTimes && f&xCreatedAtMod == 0 {
		w.Varlong(it.CRTime, 4)
	}
	if f&xSameMode == 0 {
		w.Int(int32(e.Mode))
	}
	if b.c.ATimes && !e.IsDir() {
		if f&xSameATime == 0 {
			w.Varlong(it.ATime, 4)
		}
	}
	if b.c.Owner && f&xSameUID == 0 {
		w.Varint30(proto, int32(e.uid))
	}
	if b.c.Group && f&xSameGID == 0 {
		w.Varint30(proto, int32(e.gid))
	}
	if b.sendsDevice(e) {
		if f&xSameMajor == 0 {
			w.Varint30(proto, int32(it.Major))
		}
		switch {
		case proto >= 30:
			w.Varint(int32(it.Minor))
		case f&xMinor8 != 0:
			w.Byte(byte(it.Minor))
		default:
			w.Int(int32(it.Minor))
		}
	}
	if b.c.Links && e.IsSymlink() {
		w.Varint30(proto, int32(len(it.Target)))
		w.Write([]byte(it.Target))
	}
	if b.c.HardLinks && f&xLinked != 0 && proto < 30 {
		w.Long(1) // one device
		w.Long(int64(e.group) + 1)
	}
	if b.c.SumLength > 0 && e.IsRegular() {
		sum := make([]byte, b.c.SumLength)
		copy(sum, it.Sum)
		w.Write(sum)
	}
}

// Finish ends the list: ioError says what could not be read. Names of users and groups are not sent: none are known here.
func (b *Builder) Finish(ioError int32) *List {
	if b.unconverted {
		ioError |= 1
	}
	w, c := b.w, b.c
	switch {
	case c.VarintFlags:
		w.Varint(0)
		w.Varint(ioError)
	case ioError != 0 && c.SafeEnd:
		w.Short(xExtended | xIOErrorEnd)
		w.Varint(ioError)
	default:
		w.Byte(0)
	}
	if !c.NumericIDs {
		for _, have := range []bool{c.Owner || c.ACLs, c.Group || c.ACLs} {
			if !have {
				continue
			}
			w.Varint30(c.Proto, 0)
			if c.ID0Names {
				w.Byte(0)
			}
		}
	}
	if c.Proto < 30 {
		w.Int(ioError)
	}
	b.l.IOError = ioError
	b.l.sort(c.Unsorted, false)
	return b.l
}
