package sftpserver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"vaultd/internal/appendonly"
)

// Packet types, draft-ietf-secsh-filexfer-02 section 3.
const (
	fxpInit          = 1
	fxpVersion       = 2
	fxpOpen          = 3
	fxpClose         = 4
	fxpRead          = 5
	fxpWrite         = 6
	fxpLstat         = 7
	fxpFstat         = 8
	fxpSetstat       = 9
	fxpFsetstat      = 10
	fxpOpendir       = 11
	fxpReaddir       = 12
	fxpRemove        = 13
	fxpMkdir         = 14
	fxpRmdir         = 15
	fxpRealpath      = 16
	fxpStat          = 17
	fxpRename        = 18
	fxpReadlink      = 19
	fxpSymlink       = 20
	fxpStatus        = 101
	fxpHandle        = 102
	fxpName          = 104
	fxpAttrs         = 105
	fxpExtended      = 200
	fxpExtendedReply = 201
)

// Flags of OPEN, section 6.3.
const (
	flagRead   = 1 << 0
	flagWrite  = 1 << 1
	flagAppend = 1 << 2
	flagCreate = 1 << 3
	flagTrunc  = 1 << 4
	flagExcl   = 1 << 5
)

// Flags of ATTRS, section 5.
const (
	attrSize     = 1 << 0
	attrOwner    = 1 << 1
	attrMode     = 1 << 2
	attrTimes    = 1 << 3
	attrExtended = 1 << 31
)

const (
	// maxPacket is the greatest length field taken: what RequestServer takes, and OpenSSH's
	// SFTP_MAX_MSG_LENGTH.
	maxPacket = 256 << 10
	// maxData is the greatest payload of a READ or WRITE, told to clients; the rest of a packet is for its header.
	maxData = 255 << 10
	// maxHandle is the longest handle string, section 6.3.
	maxHandle = 256
	// maxNames ends a READDIR reply. Old libssh2 takes no packet over 80,000 bytes; an entry has less than 1 KiB.
	maxNames = 60 << 10
	// minPacket is type and request id (INIT: version).
	minPacket = 5
)

// errMalformed: a field does not fit into its packet. It becomes BAD_MESSAGE.
var errMalformed = errors.New("malformed packet")

// decoder reads the fields of one packet. What it returns aliases the packet. After a field that does
// not fit, everything is zero and err says why; so handlers decode all, then look at err once.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) take(n int) []byte {
	if d.err != nil || n > len(d.b) {
		d.fail(errMalformed)
		return nil
	}
	v := d.b[:n]
	d.b = d.b[n:]
	return v
}

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uint32() uint32 {
	if v := d.take(4); v != nil {
		return binary.BigEndian.Uint32(v)
	}
	return 0
}

func (d *decoder) uint64() uint64 {
	if v := d.take(8); v != nil {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

// bytes reads a string. Its length is at most the packet's, whatever the length field says.
func (d *decoder) bytes() []byte {
	n := d.uint32()
	if uint64(n) > uint64(len(d.b)) {
		d.fail(errMalformed)
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) string() string { return string(d.bytes()) }

// path reads a name. NUL can be in no name, and the framing layer uses it for its own.
func (d *decoder) path() string {
	b := d.bytes()
	if bytes.IndexByte(b, 0) >= 0 {
		d.fail(appendonly.ErrBadName)
		return ""
	}
	return string(b)
}

// attrs are the attributes of a file as they are on the wire; flags say which are set.
type attrs struct {
	flags        uint32
	size         uint64
	uid, gid     uint32
	mode         uint32
	atime, mtime uint32
}

// attrs reads ATTRS. Extended attributes must fit and are ignored.
func (d *decoder) attrs() attrs {
	a := attrs{flags: d.uint32()}
	if a.flags&attrSize != 0 {
		a.size = d.uint64()
	}
	if a.flags&attrOwner != 0 {
		a.uid, a.gid = d.uint32(), d.uint32()
	}
	if a.flags&attrMode != 0 {
		a.mode = d.uint32()
	}
	if a.flags&attrTimes != 0 {
		a.atime, a.mtime = d.uint32(), d.uint32()
	}
	if a.flags&attrExtended != 0 {
		for n := d.uint32(); n > 0 && d.err == nil; n-- { // ends with the packet: each pair takes 8 bytes
			d.bytes()
			d.bytes()
		}
	}
	if d.err != nil {
		return attrs{}
	}
	return a
}

// beginPacket starts a packet in b; endPacket fills in its length.
func beginPacket(b []byte, typ byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0, typ), id)
}

func endPacket(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

func appendUint64s(b []byte, v ...uint64) []byte {
	for _, n := range v {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func appendStatus(b []byte, id, code uint32, text string) []byte {
	b = beginPacket(b, fxpStatus, id)
	b = binary.BigEndian.AppendUint32(b, code)
	b = appendString(b, text)
	return endPacket(appendString(b, "")) // language: none
}

// appendAttrs writes all attributes of version 3 but extended ones.
func appendAttrs(b []byte, a attrs) []byte {
	b = binary.BigEndian.AppendUint32(b, attrSize|attrOwner|attrMode|attrTimes)
	b = binary.BigEndian.AppendUint64(b, a.size)
	for _, v := range [...]uint32{a.uid, a.gid, a.mode, a.atime, a.mtime} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

// appendLongName writes what "ls -l" shows, as OpenSSH's ls_file does: times in UTC, owners as numbers.
func appendLongName(b []byte, name string, nlink int, a attrs, now time.Time) []byte {
	b = appendMode(b, a.mode)
	b = append(b, ' ')
	b = appendPadded(b, uint64(max(nlink, 1)), 4, true)
	b = append(b, ' ')
	b = appendPadded(b, uint64(a.uid), 8, false)
	b = append(b, ' ')
	b = appendPadded(b, uint64(a.gid), 8, false)
	b = append(b, ' ')
	b = appendPadded(b, a.size, 8, true)
	b = append(b, ' ')
	t, layout := time.Unix(int64(a.mtime), 0).UTC(), "Jan _2 15:04"
	if age := now.Sub(t); age > 182*24*time.Hour || age < -time.Hour {
		layout = "Jan _2  2006"
	}
	b = t.AppendFormat(b, layout)
	b = append(b, ' ')
	return append(b, name...)
}

func appendPadded(b []byte, v uint64, width int, right bool) []byte {
	var digits [20]byte
	s := strconv.AppendUint(digits[:0], v, 10)
	if !right {
		b = append(b, s...)
	}
	for n := len(s); n < width; n++ {
		b = append(b, ' ')
	}
	if right {
		b = append(b, s...)
	}
	return b
}

// File types in the permissions attribute, as in stat(2).
const (
	typeMask   = 0170000
	typeSocket = 0140000
	typeLink   = 0120000
	typeFile   = 0100000
	typeBlock  = 0060000
	typeDir    = 0040000
	typeChar   = 0020000
	typeFifo   = 0010000
)

var typeLetters = map[uint32]byte{typeSocket: 's', typeLink: 'l', typeFile: '-', typeBlock: 'b',
	typeDir: 'd', typeChar: 'c', typeFifo: 'p'}

func appendMode(b []byte, mode uint32) []byte {
	letter, ok := typeLetters[mode&typeMask]
	if !ok {
		letter = '?'
	}
	b = append(b, letter)
	start := len(b)
	for i := range 9 {
		if mode>>(8-i)&1 != 0 {
			b = append(b, "rwxrwxrwx"[i])
		} else {
			b = append(b, '-')
		}
	}
	for i, letter := range "sst" { // setuid, setgid, sticky stand where x would, as a capital where there is none
		if mode>>(11-i)&1 == 0 {
			continue
		}
		x := &b[start+3*i+2]
		if *x != 'x' {
			letter += 'A' - 'a'
		}
		*x = byte(letter)
	}
	return b
}
