package sftpattack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	"vaultd/internal/attack"
)

// Packet types and status codes of draft-ietf-secsh-filexfer-02 §3 and §7.
const (
	typeInit          = 1
	typeVersion       = 2
	typeOpen          = 3
	typeClose         = 4
	typeWrite         = 6
	typeLstat         = 7
	typeFstat         = 8
	typeSetstat       = 9
	typeFsetstat      = 10
	typeOpendir       = 11
	typeReaddir       = 12
	typeRemove        = 13
	typeMkdir         = 14
	typeRmdir         = 15
	typeStat          = 17
	typeRename        = 18
	typeReadlink      = 19
	typeSymlink       = 20
	typeStatus        = 101
	typeHandle        = 102
	typeName          = 104
	typeAttrs         = 105
	typeExtended      = 200
	typeExtendedReply = 201

	codeOK          = 0
	codeEOF         = 1
	codeNoSuchFile  = 2
	codeDenied      = 3
	codeUnsupported = 8
)

// maxPacket bounds what a server may send; OpenSSH's clients accept 256 KiB.
const maxPacket = 1 << 20

// StatusError is a refusal or fault as the server told it.
type StatusError struct {
	Code uint32
	Text string
}

func (e *StatusError) Error() string { return fmt.Sprintf("status %d: %s", e.Code, e.Text) }

// Is makes status 2 fs.ErrNotExist, 3 fs.ErrPermission, 8 attack.ErrUnsupported and 1 io.EOF.
func (e *StatusError) Is(target error) bool {
	switch e.Code {
	case codeEOF:
		return target == io.EOF
	case codeNoSuchFile:
		return target == fs.ErrNotExist
	case codeDenied:
		return target == fs.ErrPermission
	case codeUnsupported:
		return target == attack.ErrUnsupported
	}
	return false
}

// packet is a request being encoded: length, type and id are filled in by finish.
type packet []byte

func newPacket(typ byte) packet { return append(make(packet, 0, 256), 0, 0, 0, 0, typ, 0, 0, 0, 0) }

func (p packet) u32(v uint32) packet { return binary.BigEndian.AppendUint32(p, v) }
func (p packet) u64(v uint64) packet { return binary.BigEndian.AppendUint64(p, v) }

func (p packet) str(s string) packet { return append(p.u32(uint32(len(s))), s...) }

func (p packet) attrs(a attack.Attrs) packet {
	var flags uint32
	at := len(p)
	p = p.u32(0)
	if a.Size != nil {
		flags |= 1
		p = p.u64(*a.Size)
	}
	if a.UID != nil && a.GID != nil {
		flags |= 2
		p = p.u32(*a.UID).u32(*a.GID)
	}
	if a.Mode != nil {
		flags |= 4
		p = p.u32(*a.Mode)
	}
	if a.ATime != nil && a.MTime != nil {
		flags |= 8
		p = p.u32(*a.ATime).u32(*a.MTime)
	}
	binary.BigEndian.PutUint32(p[at:], flags)
	return p
}

func (p packet) finish(id uint32) []byte {
	binary.BigEndian.PutUint32(p, uint32(len(p)-4))
	binary.BigEndian.PutUint32(p[5:], id)
	return p
}

var errShort = errors.New("reply is cut short")

// reader decodes a reply; after the first error everything is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) take(n uint32) []byte {
	if r.err != nil || uint64(n) > uint64(len(r.b)) {
		r.err = errShort
		return make([]byte, min(n, 8)) // enough for a number; a string is thrown away
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) u32() uint32 { return binary.BigEndian.Uint32(r.take(4)) }
func (r *reader) u64() uint64 { return binary.BigEndian.Uint64(r.take(8)) }
func (r *reader) str() string { return string(r.take(r.u32())) }

func (r *reader) attrs() attack.Info {
	var i attack.Info
	flags := r.u32()
	if flags&1 != 0 {
		i.Size = r.u64()
	}
	if flags&2 != 0 {
		i.UID, i.GID = r.u32(), r.u32()
	}
	if flags&4 != 0 {
		i.Mode = r.u32()
	}
	if flags&8 != 0 {
		_ = r.u32()
		i.MTime = time.Unix(int64(r.u32()), 0)
	}
	if flags&(1<<31) != 0 {
		for n := r.u32(); n > 0 && r.err == nil; n-- {
			_, _ = r.str(), r.str()
		}
	}
	return i
}

// status is nil for OK.
func (r *reader) status() error {
	e := &StatusError{Code: r.u32(), Text: r.str()}
	if e.Code == codeOK && r.err == nil {
		return nil
	}
	return e
}

// readPacket reads one packet and returns its type and body, with a reply's id still in it.
func readPacket(r io.Reader) (byte, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxPacket {
		return 0, nil, fmt.Errorf("read packet: length %d", n)
	}
	body := make([]byte, n-1)
	_, err := io.ReadFull(r, body)
	return head[4], body, err
}
