package journal

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Seq numbers the records of one tenant's journal from 1. An instant is a Seq: the state after
// that record. Seq 0 is before the first record; Now is the live state.
type Seq uint64

// Now as an instant means the live state, whatever its sequence number is.
const Now Seq = 1<<63 - 1

// DirID names a directory whatever it is called: the Seq of the record that made it. The root is 0.
type DirID uint64

// ID names one stored content: 48 bits of milliseconds, then 80 random bits. It is never reused.
type ID [16]byte

// NewID returns a fresh ID.
func NewID() ID {
	var id ID
	rand.Read(id[:])
	ms := uint64(time.Now().UnixMilli())
	for i := 5; i >= 0; i-- {
		id[i] = byte(ms)
		ms >>= 8
	}
	return id
}

// ParseID reads the 32 hex digits that String writes.
func ParseID(s string) (ID, error) {
	var id ID
	if len(s) != 2*len(id) {
		return id, fmt.Errorf("parse content id: %d characters, want %d", len(s), 2*len(id))
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return id, fmt.Errorf("parse content id: %w", err)
	}
	return id, nil
}

func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id names nothing (directories, symlinks).
func (id ID) IsZero() bool { return id == ID{} }

// MarshalText and UnmarshalText are the journal's form: 32 hex digits.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (id *ID) UnmarshalText(b []byte) error {
	v, err := ParseID(string(b))
	if err == nil {
		*id = v
	}
	return err
}

// Shard is the two hex digits of the directory under store/ that holds id. It follows the clock in
// steps of 256 ms, so that what is written together lies together and every shard fills.
func (id ID) Shard() string { return hex.EncodeToString(id[4:5]) }

// Kind is what a name stands for.
type Kind uint8

// The kinds of entries. Devices, fifos and sockets are metadata on an empty content.
const (
	KindNone Kind = iota
	KindFile
	KindDir
	KindSymlink
	KindFifo
	KindSocket
	KindCharDev
	KindBlockDev
)

var kindNames = [...]string{"none", "file", "dir", "symlink", "fifo", "socket", "chardev", "blockdev"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText writes the name of the kind.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads the name of a kind.
func (k *Kind) UnmarshalText(b []byte) error {
	for i, n := range kindNames {
		if n == string(b) {
			*k = Kind(i)
			return nil
		}
	}
	return fmt.Errorf("parse kind %q: unknown", b)
}

// IsSpecial reports whether k is a device, fifo or socket.
func (k Kind) IsSpecial() bool { return k >= KindFifo }

// HasContent reports whether entries of kind k own a content in the store.
func (k Kind) HasContent() bool { return k == KindFile || k.IsSpecial() }

// Unset marks an owner or a mode that no client ever set.
const Unset = -1

// Meta is what a client may say of an entry beside its bytes. Nothing of it has an effect on the
// server's own file system rights.
type Meta struct {
	Mode   int32             // permission bits with setuid, setgid and sticky (07777); Unset
	UID    int64             // Unset, or 0..2^32-1
	GID    int64             // Unset, or 0..2^32-1
	MTime  Time              // zero: the time of the record
	ATime  Time              // zero: never set
	RDev   uint64            // device number of devices: major<<32 | minor
	XAttrs map[string][]byte // extended attributes and ACLs, by their full name
}

// NoMeta is a Meta with nothing set.
func NoMeta() Meta { return Meta{Mode: Unset, UID: Unset, GID: Unset} }

// Equal reports whether a and b are the same.
func (a Meta) Equal(b Meta) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.MTime == b.MTime && a.ATime == b.ATime &&
		a.RDev == b.RDev && maps.EqualFunc(a.XAttrs, b.XAttrs, func(x, y []byte) bool { return string(x) == string(y) })
}

// Time is a client's time stamp: seconds since 1970 (any 64-bit value; rsync's exceed
// time.Time's formats) and nanoseconds, or unset, which is the zero value and not 1970.
type Time struct {
	sec  int64
	nsec uint32
	set  bool
}

// Unix is the time stamp of these seconds and nanoseconds since 1970.
func Unix(sec int64, nsec uint32) Time { return Time{sec, nsec % 1e9, true} }

// At converts t.
func At(t time.Time) Time { return Unix(t.Unix(), uint32(t.Nanosecond())) }

// Sec returns the seconds since 1970.
func (t Time) Sec() int64 { return t.sec }

// Nsec returns the nanoseconds within the second.
func (t Time) Nsec() uint32 { return t.nsec }

// Time converts to the standard library's type.
func (t Time) Time() time.Time { return time.Unix(t.sec, int64(t.nsec)) }

// IsZero reports whether t was never set.
func (t Time) IsZero() bool { return !t.set }

// ErrCorrupt is wrapped by every error that means the journal's bytes are not what was written.
var ErrCorrupt = errors.New("journal is damaged")
