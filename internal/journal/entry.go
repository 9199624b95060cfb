package journal

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"
)

// Entry is what a name stands for from one instant on.
type Entry struct {
	Kind     Kind
	Fresh    bool      // closed, not sealed: invisible at every instant but now
	Linked   bool      // the content has, or had, further names
	Managed  bool      // generations of this file are written by a protocol, not by its client
	From     Seq       // since this record
	Since    time.Time // server's clock at From
	Received time.Time // server's clock when the content was closed, whatever its name was
	Dir      DirID     // of a directory
	ID       ID        // of the content
	Size     int64
	SHA256   Hash // zero: see Index.Hash
	Meta     Meta
	Target   string // of a symlink
	Key      string // id of the key that made it, or its content if it is a further name of one
}

// Settle is how long the key that made an entry may still set its times, mode and owner, as tools do
// after closing a file. Such a change amends the entry and makes no new version.
const Settle = 10 * time.Minute

// Settling reports whether key's change of the entry's metadata at now amends it.
func (e *Entry) Settling(key string, now time.Time) bool {
	age := now.Sub(e.Received)
	return e.Fresh || key == e.Key && age >= 0 && age < Settle
}

// MinCharge and RecordCharge are what a version and a record cost at least, in bytes, so that no flood of them is free.
const (
	MinCharge    = 4096
	RecordCharge = 600
)

// Charge is what a content of size bytes is charged.
func Charge(size int64) int64 { return max(size, MinCharge) }

// Totals is the account of a journal.
type Totals struct {
	Live    int64 // bytes charged for contents that have a live name
	Past    int64 // bytes charged for contents that have none any more
	Records int64 // records that clients caused
	Files   int64 // live names, directories included
	Fresh   int64 // live names that are not sealed
}

const (
	flagFresh = 1 << iota
	flagLinked
	flagManaged
	flagHash
	flagXAttrs
	flagMTime
	flagATime
)

var errEntry = errors.New("index entry is damaged")

// append is the index's form of an entry: see doc.go.
func (e *Entry) append(b []byte) []byte {
	var flags byte
	for _, f := range []struct {
		on  bool
		bit byte
	}{{e.Fresh, flagFresh}, {e.Linked, flagLinked}, {e.Managed, flagManaged}, {!e.SHA256.IsZero(), flagHash},
		{len(e.Meta.XAttrs) > 0, flagXAttrs}, {e.Meta.MTime.set, flagMTime}, {e.Meta.ATime.set, flagATime}} {
		if f.on {
			flags |= f.bit
		}
	}
	b = append(b, flags, byte(e.Kind))
	b = binary.AppendUvarint(b, uint64(e.From))
	b = binary.AppendVarint(b, e.Since.UnixNano())
	b = binary.AppendVarint(b, e.Since.UnixNano()-e.Received.UnixNano())
	b = binary.AppendVarint(b, int64(e.Meta.Mode))
	b = binary.AppendVarint(b, e.Meta.UID)
	b = binary.AppendVarint(b, e.Meta.GID)
	if flags&flagMTime != 0 {
		b = e.Meta.MTime.append(b)
	}
	if flags&flagATime != 0 {
		b = e.Meta.ATime.append(b)
	}
	b = appendString(b, e.Key)
	switch {
	case e.Kind == KindDir:
		b = binary.AppendUvarint(b, uint64(e.Dir))
	case e.Kind == KindSymlink:
		b = appendString(b, e.Target)
	default:
		b = append(b, e.ID[:]...)
		b = binary.AppendVarint(b, e.Size)
		b = binary.AppendUvarint(b, e.Meta.RDev)
		if flags&flagHash != 0 {
			b = append(b, e.SHA256[:]...)
		}
	}
	if flags&flagXAttrs != 0 {
		b = binary.AppendUvarint(b, uint64(len(e.Meta.XAttrs)))
		names := make([]string, 0, len(e.Meta.XAttrs))
		for n := range e.Meta.XAttrs {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			b = appendString(b, n)
			b = appendString(b, string(e.Meta.XAttrs[n]))
		}
	}
	return b
}

func (t Time) append(b []byte) []byte {
	return binary.AppendUvarint(binary.AppendVarint(b, t.sec), uint64(t.nsec))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader decodes what append wrote; after an error everything it returns is zero.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) string() string { return string(r.bytes(r.uvarint())) }

// like is string where it is likely to be the same as before: that one is used then.
func (r *reader) like(before string) string {
	if b := r.bytes(r.uvarint()); string(b) != before {
		return string(b)
	}
	return before
}

func (r *reader) time() Time { return Time{sec: r.varint(), nsec: uint32(r.uvarint()), set: true} }

func decodeEntry(b []byte) (*Entry, error) {
	e := &Entry{}
	return e, e.decode(b)
}

// decode makes e what append wrote. Nothing that e referred to before is written to.
func (e *Entry) decode(b []byte) error {
	r := &reader{b: b}
	head := r.bytes(2)
	if r.bad {
		return errEntry
	}
	flags := head[0]
	*e = Entry{Kind: Kind(head[1]), Fresh: flags&flagFresh != 0, Linked: flags&flagLinked != 0, Managed: flags&flagManaged != 0, Key: e.Key}
	e.From = Seq(r.uvarint())
	since := r.varint()
	e.Since, e.Received = time.Unix(0, since), time.Unix(0, since-r.varint())
	e.Meta.Mode, e.Meta.UID, e.Meta.GID = int32(r.varint()), r.varint(), r.varint()
	if flags&flagMTime != 0 {
		e.Meta.MTime = r.time()
	}
	if flags&flagATime != 0 {
		e.Meta.ATime = r.time()
	}
	e.Key = r.like(e.Key)
	switch {
	case e.Kind == KindDir:
		e.Dir = DirID(r.uvarint())
	case e.Kind == KindSymlink:
		e.Target = r.string()
		e.Size = int64(len(e.Target))
	default:
		copy(e.ID[:], r.bytes(uint64(len(e.ID))))
		e.Size = r.varint()
		e.Meta.RDev = r.uvarint()
		if flags&flagHash != 0 {
			copy(e.SHA256[:], r.bytes(uint64(len(e.SHA256))))
		}
	}
	if flags&flagXAttrs != 0 {
		n := r.uvarint()
		e.Meta.XAttrs = make(map[string][]byte, min(n, 64))
		for range n {
			if r.bad {
				break
			}
			name := r.string()
			e.Meta.XAttrs[name] = []byte(r.string())
		}
	}
	if r.bad {
		return errEntry
	}
	return nil
}
