package flist

import (
	"encoding/binary"
	"slices"

	"vaultd/internal/rsync/wire"
)

// maxACL bounds the users and groups named in one list of rights.
const maxACL = 1024

// Flags of an ACL and of its entries on the wire (acls.c).
const (
	aUserObj  = 1 << 0
	aGroupObj = 1 << 1
	aMaskObj  = 1 << 2
	aOtherObj = 1 << 3
	aNames    = 1 << 4

	aNameFollows = 1 << 0
	aIsUser      = 1 << 1
)

// none is a part of an ACL that is not there: the mode has it, or nothing.
const none = -1

// acl is what the wire says of one.
type acl struct {
	user, group, mask, other int8
	names                    []aclName
}

type aclName struct {
	id   uint32
	user bool
	perm uint8
}

// aclTable are the ACLs of a list: an entry refers to one that came before by its number.
type aclTable struct {
	access, def     []acl
	accessID, defID map[string]int32 // when sending: by what the attribute holds
}

// read reads an entry's ACL, and a directory's default ACL (receive_acl).
func (t *aclTable) read(r *wire.Reader, e *Entry) error {
	n, err := readACL(r, &t.access)
	if err != nil {
		return err
	}
	e.more().access = n
	if e.IsDir() {
		if n, err = readACL(r, &t.def); err != nil {
			return err
		}
		e.more().def = n
	}
	return nil
}

func readACL(r *wire.Reader, table *[]acl) (int32, error) {
	n, err := r.Varint()
	if err != nil {
		return 0, err
	}
	if n < 0 || int(n) > len(*table) {
		return 0, wire.Errorf("access list %d of %d", n, len(*table))
	}
	if n != 0 {
		return n, nil
	}
	flags, err := r.Byte()
	if err != nil {
		return 0, err
	}
	a := acl{none, none, none, none, nil}
	for _, p := range []struct {
		flag byte
		perm *int8
	}{{aUserObj, &a.user}, {aGroupObj, &a.group}, {aMaskObj, &a.mask}, {aOtherObj, &a.other}} {
		if flags&p.flag == 0 {
			continue
		}
		v, err := r.Varint()
		if err != nil {
			return 0, err
		}
		if v < 0 || v > 7 {
			return 0, wire.Errorf("access rights %#x", v)
		}
		*p.perm = int8(v)
	}
	if flags&aNames != 0 {
		if a.names, err = readNames(r); err != nil {
			return 0, err
		}
	}
	*table = append(*table, a)
	return int32(len(*table)), nil
}

func readNames(r *wire.Reader) ([]aclName, error) {
	count, err := r.Varint()
	if err != nil {
		return nil, err
	}
	if count < 0 || count > maxACL {
		return nil, wire.Errorf("an access list of %d names", count)
	}
	names := make([]aclName, 0, count)
	for range count {
		id, err := r.Varint()
		if err != nil {
			return nil, err
		}
		bits, err := r.Varint()
		if err != nil {
			return nil, err
		}
		if bits&aNameFollows != 0 || bits < 0 || bits>>2 > 7 {
			return nil, wire.Errorf("access rights %#x", bits)
		}
		names = append(names, aclName{uint32(id), bits&aIsUser != 0, uint8(bits >> 2)})
	}
	return names, nil
}

// Tags of the system.posix_acl_* attributes (linux/posix_acl_xattr.h).
const (
	tagUserObj  = 0x01
	tagUser     = 0x02
	tagGroupObj = 0x04
	tagGroup    = 0x08
	tagMask     = 0x10
	tagOther    = 0x20
	noID        = 1<<32 - 1
)

// ACL returns what the entry's access and default ACL are as system.posix_acl_access and system.posix_acl_default; nil
// where the mode says everything.
func (l *List) ACL(e *Entry) (access, def []byte) {
	if e.x == nil {
		return nil, nil
	}
	if n := e.x.access; n > 0 {
		access = l.acls.access[n-1].accessAttr(e.Mode)
	}
	if n := e.x.def; n > 0 {
		def = l.acls.def[n-1].defaultAttr()
	}
	return access, def
}

func (a acl) accessAttr(mode uint32) []byte {
	if len(a.names) == 0 && a.mask == none {
		return nil
	}
	set := func(p *int8, v uint32) {
		if *p == none {
			*p = int8(v & 7)
		}
	}
	set(&a.user, mode>>6)
	set(&a.group, mode>>3)
	set(&a.mask, mode>>3)
	set(&a.other, mode)
	return a.attr()
}

func (a acl) defaultAttr() []byte {
	if a.user == none && a.group == none && a.mask == none && a.other == none && len(a.names) == 0 {
		return nil
	}
	if a.mask == none && len(a.names) > 0 {
		a.mask = max(a.group, 0)
		for _, n := range a.names {
			a.mask |= int8(n.perm)
		}
	}
	return a.attr()
}

func (a *acl) attr() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	add := func(tag uint16, perm int8, id uint32) {
		b = binary.LittleEndian.AppendUint16(b, tag)
		b = binary.LittleEndian.AppendUint16(b, uint16(max(perm, 0)))
		b = binary.LittleEndian.AppendUint32(b, id)
	}
	named := func(user bool, tag uint16) {
		names := slices.DeleteFunc(slices.Clone(a.names), func(n aclName) bool { return n.user != user })
		slices.SortFunc(names, func(x, y aclName) int { return int(int64(x.id) - int64(y.id)) })
		for _, n := range names {
			add(tag, int8(n.perm), n.id)
		}
	}
	add(tagUserObj, a.user, noID)
	named(true, tagUser)
	add(tagGroupObj, a.group, noID)
	named(false, tagGroup)
	if a.mask != none {
		add(tagMask, a.mask, noID)
	}
	add(tagOther, a.other, noID)
	return b
}

// parseACL is the reverse of attr; false for what is no ACL.
func parseACL(b []byte) (acl, bool) {
	a := acl{none, none, none, none, nil}
	if len(b) < 4 || binary.LittleEndian.Uint32(b) != 2 || len(b)%8 != 4 || len(b) > 4+8*(maxACL+8) {
		return a, false
	}
	for b = b[4:]; len(b) > 0; b = b[8:] {
		perm := binary.LittleEndian.Uint16(b[2:]) & 7
		id := binary.LittleEndian.Uint32(b[4:])
		switch binary.LittleEndian.Uint16(b) {
		case tagUserObj:
			a.user = int8(perm)
		case tagGroupObj:
			a.group = int8(perm)
		case tagMask:
			a.mask = int8(perm)
		case tagOther:
			a.other = int8(perm)
		case tagUser, tagGroup:
			a.names = append(a.names, aclName{id, binary.LittleEndian.Uint16(b) == tagUser, uint8(perm)})
		default:
			return a, false
		}
	}
	return a, true
}

// write writes an entry's ACLs (send_acl). The mode decides where it says the same.
func (t *aclTable) write(w *wire.Writer, e *Entry, access, def []byte) {
	if t.accessID == nil {
		t.accessID, t.defID = map[string]int32{}, map[string]int32{}
	}
	a, ok := parseACL(access)
	if !ok {
		a = acl{none, none, none, none, nil}
	}
	a.user, a.other = none, none
	if a.mask == none {
		a.group = none
	} else {
		perms := int8(e.Mode >> 3 & 7)
		if a.group == perms {
			a.group = none
		}
		if a.mask = perms; len(a.names) > 0 {
			a.mask = none
		}
	}
	writeACL(w, &a, &t.access, t.accessID)
	if e.IsDir() {
		d, ok := parseACL(def)
		if !ok {
			d = acl{none, none, none, none, nil}
		}
		writeACL(w, &d, &t.def, t.defID)
	}
}

func writeACL(w *wire.Writer, a *acl, table *[]acl, ids map[string]int32) {
	key := string(append(a.attr(), byte(a.user), byte(a.group), byte(a.mask), byte(a.other)))
	n := ids[key]
	w.Varint(n)
	if n != 0 {
		return
	}
	var flags byte
	var perms []int8
	for _, p := range []struct {
		flag byte
		perm int8
	}{{aUserObj, a.user}, {aGroupObj, a.group}, {aMaskObj, a.mask}, {aOtherObj, a.other}} {
		if p.perm != none {
			flags |= p.flag
			perms = append(perms, p.perm)
		}
	}
	if len(a.names) > 0 {
		flags |= aNames
	}
	w.Byte(flags)
	for _, p := range perms {
		w.Varint(int32(p))
	}
	if len(a.names) > 0 {
		w.Varint(int32(len(a.names)))
		for _, x := range a.names {
			bits := int32(x.perm) << 2
			if x.user {
				bits |= aIsUser
			}
			w.Varint(int32(x.id))
			w.Varint(bits)
		}
	}
	*table = append(*table, *a)
	ids[key] = int32(len(*table))
}
