package flist

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"vaultd/internal/rsync/wire"
)

// Flags of an entry on the wire (rsync.h: XMIT_*).
const (
	xTopDir       = 1 << 0
	xSameMode     = 1 << 1
	xExtended     = 1 << 2
	xSameUID      = 1 << 3
	xSameGID      = 1 << 4
	xSameName     = 1 << 5
	xLongName     = 1 << 6
	xSameTime     = 1 << 7
	xSameMajor    = 1 << 8 // devices
	xNoContent    = 1 << 8 // directories, from 30 on
	xLinked       = 1 << 9
	xSameDev      = 1 << 10 // before 30
	xUserName     = 1 << 10 // from 30 on
	xMinor8       = 1 << 11 // before 30
	xGroupName    = 1 << 11 // from 30 on
	xLinkFirst    = 1 << 12
	xIOErrorEnd   = 1 << 12
	xNSec         = 1 << 13
	xSameATime    = 1 << 14
	xCreatedAtMod = 1 << 17
)

// Bounds on what a client may send.
const (
	maxPath    = 4096
	maxEntries = 20_000_000
	maxIDs     = 1 << 20
	maxOdd     = 100
)

// decoder reads one list. The fields after c are what an entry may refer to by "the same".
type decoder struct {
	r *wire.Reader
	c *Config
	l *List

	name        []byte
	dir         string // of the entry before, cleaned
	mtime       int64
	mode        uint32
	uid, gid    uint32
	major       uint32
	atime       int64
	dev         int64
	inodes      map[[2]int64]int32
	names       arena
	odd         bool // the name that was just read could not be converted
	inDelete    bool // before 30: in a directory that is whole
	deleteBelow int
}

// Decode reads a list and puts it in order. Its errors are those of r, or *wire.Error.
func Decode(r *wire.Reader, c *Config) (*List, error) {
	d := &decoder{r: r, c: c, l: &List{}, inodes: map[[2]int64]int32{}}
	most := c.MaxEntries
	if most == 0 {
		most = maxEntries
	}
	for {
		flags, end, err := d.flags()
		if err != nil {
			return nil, err
		}
		if end {
			break
		}
		if d.l.Len() >= most {
			return nil, wire.Errorf("a list of more than %d names", most)
		}
		if err := d.entry(flags); err != nil {
			return nil, err
		}
	}
	if err := d.ids(); err != nil {
		return nil, err
	}
	if c.Proto < 30 {
		n, err := r.Int()
		if err != nil {
			return nil, err
		}
		d.l.IOError |= n
	}
	d.l.sort(c.Unsorted, true)
	return d.l, nil
}

// flags reads the flags of the next entry, or the list's end.
func (d *decoder) flags() (flags int32, end bool, err error) {
	if d.c.VarintFlags {
		if flags, err = d.r.Varint(); err != nil || flags != 0 {
			return flags, false, err
		}
		n, err := d.r.Varint()
		d.l.IOError |= n
		return 0, true, err
	}
	b, err := d.r.Byte()
	if err != nil || b == 0 {
		return 0, true, err
	}
	flags = int32(b)
	if flags&xExtended != 0 {
		high, err := d.r.Byte()
		if err != nil {
			return 0, false, err
		}
		flags |= int32(high) << 8
	}
	if flags == xExtended|xIOErrorEnd {
		if !d.c.SafeEnd {
			return 0, false, wire.Errorf("entry flags %#x", flags)
		}
		n, err := d.r.Varint()
		d.l.IOError |= n
		return 0, true, err
	}
	return flags, false, nil
}

// entry reads one entry (flist.c: recv_file_entry).
func (d *decoder) entry(flags int32) error {
	p, err := d.path(flags)
	if err != nil {
		return err
	}
	length := len(p)
	dir, base := d.split(p)
	if base == "" {
		return wire.Errorf("an empty name")
	}
	number := d.l.grow()
	e := d.l.entry(number)
	*e = Entry{group: -1, dir: dir, base: base}
	if d.odd {
		e.flags = flagOdd
	}
	if d.c.Proto >= 30 && flags&(xLinked|xLinkFirst) == xLinked {
		n, err := d.r.Varint()
		if err != nil {
			return err
		}
		if n < 0 || int(n) >= number {
			return wire.Errorf("a hard link to entry %d of %d", n, number)
		}
		return d.again(e, d.l.entry(int(n)), n)
	}
	if err := d.attributes(e, flags); err != nil {
		return err
	}
	if e.IsDir() {
		d.content(e, flags, length)
	}
	if d.c.HardLinks && flags&xLinked != 0 {
		if err := d.link(e, flags, int32(number)); err != nil {
			return err
		}
	}
	if d.c.SumLength > 0 && e.IsRegular() {
		if e.more().sum, err = d.r.Bytes(d.c.SumLength, 64); err != nil {
			return err
		}
	}
	return d.tail(e)
}

// tail reads what stands at the end of every entry.
func (d *decoder) tail(e *Entry) error {
	if d.c.ACLs && !e.IsSymlink() {
		if err := d.l.acls.read(d.r, e); err != nil {
			return err
		}
	}
	if d.c.XAttrs {
		return d.l.readSet(d.r, e)
	}
	return nil
}

// again is a further name of first: nothing more is said of it.
func (d *decoder) again(e, first *Entry, n int32) error {
	dir, base := e.dir, e.base
	*e = *first
	e.dir, e.base = dir, base
	if e.x != nil {
		x := *e.x
		e.x = &x
	}
	if first.group < 0 {
		first.group = n
	}
	e.group = first.group
	d.mtime, d.mode, d.uid, d.gid = e.MTime, e.Mode, e.uid, e.gid // what the next entry's "the same" refers to
	if d.c.ATimes {
		d.atime = e.ATime()
	}
	if d.c.Devices && e.IsDevice() {
		d.major, _ = e.RDev()
	}
	return d.tail(e)
}

// path reads the entry's name, which may begin like the one before.
func (d *decoder) path(flags int32) ([]byte, error) {
	same := 0
	if flags&xSameName != 0 {
		b, err := d.r.Byte()
		if err != nil {
			return nil, err
		}
		if same = int(b); same > len(d.name) {
			return nil, wire.Errorf("a name with %d bytes of one of %d", same, len(d.name))
		}
	}
	var rest int32
	var err error
	if flags&xLongName != 0 {
		rest, err = d.r.Varint30(d.c.Proto)
	} else {
		var b byte
		b, err = d.r.Byte()
		rest = int32(b)
	}
	if err != nil {
		return nil, err
	}
	if rest < 0 || int(rest) >= maxPath-same {
		return nil, wire.Errorf("a name of %d bytes", int(rest)+same)
	}
	d.name = slices.Grow(d.name[:same], int(rest))[:same+int(rest)]
	if err := d.r.Full(d.name[same:]); err != nil {
		return nil, err
	}
	return d.cleaned()
}

// plain says whether a name is as it is kept: relative, without empty parts, ".", ".." and NUL.
func plain(name []byte) bool {
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			if name[i] == 0 {
				return false
			}
			continue
		}
		switch part := name[start:i]; len(part) {
		case 0:
			return false
		case 1:
			if part[0] == '.' {
				return false
			}
		case 2:
			if part[0] == '.' && part[1] == '.' {
				return false
			}
		}
		start = i + 1
	}
	return true
}

// cleaned is the name that was read as it is kept, if it is one that may be in a list: inside the transfer, without NUL. It
// is valid until the next name is read.
func (d *decoder) cleaned() ([]byte, error) {
	if d.c.Convert == nil && plain(d.name) {
		return d.name, nil
	}
	name := string(d.name)
	if strings.IndexByte(name, 0) >= 0 {
		return nil, wire.Errorf("a name with a NUL")
	}
	if d.c.Convert != nil {
		converted, err := d.c.Convert(name)
		if d.odd = err != nil; !d.odd {
			name = converted
		} else if len(d.l.Odd) < maxOdd {
			d.l.Odd = append(d.l.Odd, name)
		}
	}
	if strings.HasPrefix(name, "/") && !d.c.Relative {
		return nil, wire.Errorf("an unsafe name: %q", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return nil, wire.Errorf("an unsafe name: %q", name)
		}
	}
	if name == "" {
		return nil, wire.Errorf("an empty name")
	}
	return []byte(strings.TrimPrefix(path.Clean("/"+name), "/")), nil
}

// split cuts a name into directory and last part, and keeps both in shared memory.
func (d *decoder) split(p []byte) (dir, base string) {
	if len(p) == 0 {
		return "", "."
	}
	i := bytes.LastIndexByte(p, '/')
	if i < 0 {
		d.dir = ""
		return "", d.names.keep(p)
	}
	if string(p[:i]) != d.dir {
		d.dir = string(p[:i])
	}
	return d.dir, d.names.keep(p[i+1:])
}

// attributes reads size, times, mode, owner, device number and link target.
func (d *decoder) attributes(e *Entry, flags int32) (err error) {
	r, proto := d.r, d.c.Proto
	if e.Size, err = r.Varlong30(proto, 3); err != nil {
		return err
	}
	if e.Size < 0 {
		return wire.Errorf("a file of %d bytes", e.Size)
	}
	if flags&xSameTime == 0 {
		if proto >= 30 {
			d.mtime, err = r.Varlong(4)
		} else {
			var n int32
			n, err = r.Int()
			d.mtime = int64(uint32(n))
		}
		if err != nil {
			return err
		}
	}
	if flags&xNSec != 0 && proto >= 30 {
		n, err := r.Varint()
		if err != nil {
			return err
		}
		if n < 0 || n > 999_999_999 {
			return wire.Errorf("%d nanoseconds", n)
		}
		e.NSec = uint32(n)
	}
	e.MTime = d.mtime
	if d.c.CRTimes {
		created := d.mtime
		if flags&xCreatedAtMod == 0 {
			if created, err = r.Varlong(4); err != nil {
				return err
			}
		}
		e.more().crtime = created
	}
	if flags&xSameMode == 0 {
		n, err := r.Int()
		if err != nil {
			return err
		}
		d.mode = uint32(n)
	}
	if e.Mode = d.mode; !known(e.Mode) && !(e.Mode == 0 && d.c.MissingFiles) {
		return wire.Errorf("a mode of %#o", e.Mode)
	}
	if d.c.ATimes && !e.IsDir() {
		if flags&xSameATime == 0 {
			if d.atime, err = r.Varlong(4); err != nil {
				return err
			}
		}
		e.more().atime = d.atime
	}
	if err := d.owner(e, flags); err != nil {
		return err
	}
	if err := d.device(e, flags); err != nil {
		return err
	}
	return d.target(e)
}

func known(mode uint32) bool {
	switch mode & typeMask {
	case typeSocket, typeLink, typeRegular, typeBlock, typeDir, typeChar, typeFifo:
		return mode < 1<<16
	}
	return false
}

func (d *decoder) owner(e *Entry, flags int32) error {
	if d.c.Owner && flags&xSameUID == 0 {
		n, err := d.r.Varint30(d.c.Proto)
		if err == nil && d.c.Proto >= 30 && flags&xUserName != 0 {
			err = d.idName(uint32(n), &d.l.userNames)
		}
		if err != nil {
			return err
		}
		d.uid = uint32(n)
	}
	if d.c.Group && flags&xSameGID == 0 {
		n, err := d.r.Varint30(d.c.Proto)
		if err == nil && d.c.Proto >= 30 && flags&xGroupName != 0 {
			err = d.idName(uint32(n), &d.l.groupNames)
		}
		if err != nil {
			return err
		}
		d.gid = uint32(n)
	}
	e.uid, e.gid = d.uid, d.gid
	return nil
}

func (d *decoder) device(e *Entry, flags int32) error {
	if !(d.c.Devices && e.IsDevice()) && !(d.c.Specials && e.IsSpecial() && d.c.Proto < 31) {
		if e.IsDevice() {
			e.Size = 0
		}
		return nil
	}
	if flags&xSameMajor == 0 {
		n, err := d.r.Varint30(d.c.Proto)
		if err != nil {
			return err
		}
		d.major = uint32(n)
	}
	var minor int32
	var err error
	switch {
	case d.c.Proto >= 30:
		minor, err = d.r.Varint()
	case flags&xMinor8 != 0:
		var b byte
		b, err = d.r.Byte()
		minor = int32(b)
	default:
		minor, err = d.r.Int()
	}
	if err == nil && e.IsDevice() {
		e.more().major, e.more().minor = d.major, uint32(minor)
	}
	e.Size = 0
	return err
}

func (d *decoder) target(e *Entry) error {
	if !d.c.Links || !e.IsSymlink() {
		return nil
	}
	n, err := d.r.Varint30(d.c.Proto)
	if err != nil {
		return err
	}
	b, err := d.r.Bytes(int(n), maxPath-1)
	if err != nil {
		return err
	}
	if len(b) == 0 || strings.IndexByte(string(b), 0) >= 0 {
		return wire.Errorf("a symlink's target that can not be one")
	}
	e.more().target = string(b)
	if d.c.Convert != nil && d.c.ConvertLinks {
		converted, err := d.c.Convert(e.x.target)
		if err != nil {
			e.flags |= flagOdd
			converted = e.x.target
		}
		e.x.target = converted
	}
	e.Size = int64(len(e.x.target))
	return nil
}

// content says whether the contents of a directory are in the list.
func (d *decoder) content(e *Entry, flags int32, length int) {
	switch {
	case d.c.Proto >= 30 && flags&xNoContent == 0:
		e.flags |= flagContent
		if flags&xTopDir != 0 {
			e.flags |= flagTopDir
		}
	case d.c.Proto >= 30:
		if flags&xTopDir != 0 {
			e.flags |= flagImplied
		}
	case flags&xTopDir != 0:
		d.inDelete, d.deleteBelow = d.c.Recursive, length
		if e.IsRoot() {
			d.deleteBelow = 0
		}
		e.flags |= flagTopDir | flagContent
	case d.inDelete:
		if p := e.Path(); !d.c.Relative || d.deleteBelow == 0 || len(p) > d.deleteBelow && p[d.deleteBelow] == '/' {
			e.flags |= flagContent
		} else {
			d.inDelete = false
		}
	}
}

// link reads which file the entry is a name of.
func (d *decoder) link(e *Entry, flags, here int32) error {
	if d.c.Proto >= 30 {
		e.group = here
		return nil
	}
	var err error
	if flags&xSameDev == 0 {
		if d.dev, err = d.r.Long(); err != nil {
			return err
		}
	}
	inode, err := d.r.Long()
	if err != nil {
		return err
	}
	key := [2]int64{d.dev, inode}
	first, ok := d.inodes[key]
	if !ok {
		first = here
		d.inodes[key] = here
	}
	e.group = first
	return nil
}

// ids reads the names of the numbers that occurred (uidlist.c: recv_id_list).
func (d *decoder) ids() error {
	if d.c.NumericIDs {
		return nil
	}
	for _, t := range []struct {
		have  bool
		names *map[uint32]string
	}{{d.c.Owner || d.c.ACLs, &d.l.userNames}, {d.c.Group || d.c.ACLs, &d.l.groupNames}} {
		if !t.have {
			continue
		}
		for {
			n, err := d.r.Varint30(d.c.Proto)
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			if err := d.idName(uint32(n), t.names); err != nil {
				return err
			}
		}
		if d.c.ID0Names {
			if err := d.idName(0, t.names); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *decoder) idName(id uint32, names *map[uint32]string) error {
	n, err := d.r.Byte()
	if err != nil {
		return err
	}
	b, err := d.r.Bytes(int(n), 255)
	if err != nil {
		return err
	}
	if *names == nil {
		*names = map[uint32]string{}
	}
	if len(*names) >= maxIDs {
		return wire.Errorf("more than %d users or groups", maxIDs)
	}
	(*names)[id] = string(b)
	return nil
}

// MapIDs replaces owners and groups.
func (l *List) MapIDs(user, group func(id uint32, name string) uint32) {
	for i := range l.Len() {
		e := l.entry(i)
		e.uid = user(e.uid, l.userNames[e.uid])
		e.gid = group(e.gid, l.groupNames[e.gid])
	}
}

// arena keeps short strings in large pieces of memory.
type arena struct{ b *strings.Builder }

// room is where n more bytes fit.
func (a *arena) room(n int) *strings.Builder {
	if a.b == nil || a.b.Cap()-a.b.Len() < n {
		a.b = &strings.Builder{}
		a.b.Grow(max(n, 64<<10))
	}
	return a.b
}

func (a *arena) keep(s []byte) string {
	b := a.room(len(s))
	at := b.Len()
	b.Write(s)
	return b.String()[at:]
}

func (a *arena) keepString(s string) string {
	b := a.room(len(s))
	at := b.Len()
	b.WriteString(s)
	return b.String()[at:]
}
