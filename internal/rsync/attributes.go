package rsync

import (
	"bytes"
	"maps"
	"strconv"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/rsync/flist"
	"vaultd/internal/rsync/option"
)

// itemFlags say what of an entry differs, and what is done about it (rsync.h: ITEM_*).
type itemFlags uint16

const (
	itemAccess  itemFlags = 1 << 0
	itemChange  itemFlags = 1 << 1 // of the content, by checksum
	itemSize    itemFlags = 1 << 2
	itemTime    itemFlags = 1 << 3
	itemPerms   itemFlags = 1 << 4
	itemOwner   itemFlags = 1 << 5
	itemGroup   itemFlags = 1 << 6
	itemACL     itemFlags = 1 << 7
	itemXAttr   itemFlags = 1 << 8
	itemCreated itemFlags = 1 << 10
	itemBasis   itemFlags = 1 << 11 // a byte follows: which basis
	itemName    itemFlags = 1 << 12 // a name follows
	itemNew     itemFlags = 1 << 13
	itemLocal   itemFlags = 1 << 14 // done without a transfer
	itemSend    itemFlags = 1 << 15 // transfer it

	// itemSignificant are those that are worth telling the client about.
	itemSignificant = ^(itemBasis | itemName | itemLocal)
)

// The names under which attributes that are not xattrs are kept among them. They are never sent as xattrs, and
// never taken from a client: the volume writes user.rsync.% itself.
const (
	ownPrefix    = "user.rsync.%"
	aclAccess    = "system.posix_acl_access"
	aclDefault   = "system.posix_acl_default"
	createdXAttr = ownPrefix + "crtime"
)

// attributes compares and translates metadata, as far as the options preserve it.
type attributes struct {
	o    *option.Options
	list *flist.List
}

// modeOf is the mode that is shown for info.
func modeOf(info *appendonly.Info) uint32 {
	if info.Mode == appendonly.Unset {
		return uint32(appendonly.DefaultMode(info.Kind))
	}
	return uint32(info.Mode) & 0o7777
}

// ownerOf is the number that is shown for an owner or group: root's where no client said.
func ownerOf(id int64) uint32 {
	if id == appendonly.Unset {
		return 0
	}
	return uint32(id)
}

// mode is what the entry's mode is to be (rsync.c: dest_mode). old is nil when nothing stands there.
func (a *attributes) mode(e *flist.Entry, old *appendonly.Info) uint32 {
	want := e.Mode & 0o7777
	switch {
	case a.o.Perms:
		return want
	case old == nil:
		return want & 0o755
	}
	have := modeOf(old)
	if a.o.Executability && e.IsRegular() && (want&0o111 == 0) != (have&0o111 == 0) {
		if want&0o111 == 0 {
			return have &^ 0o111
		}
		return have | (have&0o444)>>2
	}
	return have
}

// keepsTime says whether the entry's modification time is to be that of the list.
func (a *attributes) keepsTime(e *flist.Entry) bool {
	switch {
	case !a.o.Times, e.IsDir() && a.o.OmitDirTimes, e.IsSymlink() && a.o.OmitLinkTimes:
		return false
	}
	return true
}

// sameTime compares two times in seconds within --modify-window; below zero it compares nanoseconds, too.
func (a *attributes) sameTime(s1 int64, n1 uint32, s2 int64, n2 uint32) bool {
	w := int64(a.o.ModifyWindow)
	switch {
	case w < 0:
		return s1 == s2 && n1 == n2
	case s1 > s2:
		return s1-s2 <= w
	}
	return s2-s1 <= w
}

// differs says what of old's attributes is not as the list has it.
func (a *attributes) differs(e *flist.Entry, old *appendonly.Info) itemFlags {
	var f itemFlags
	sec, nsec := old.MTime.Sec(), old.MTime.Nsec()
	if a.keepsTime(e) && !a.sameTime(e.MTime, e.NSec, sec, nsec) {
		f |= itemTime
	}
	if a.o.ATimes > 0 && !e.IsDir() && !e.IsSymlink() && (old.ATime.IsZero() || old.ATime.Sec() != e.ATime()) {
		f |= itemAccess
	}
	if !e.IsSymlink() && a.mode(e, old) != modeOf(old) {
		f |= itemPerms
	}
	if a.o.Owner && ownerOf(old.UID) != e.UID() {
		f |= itemOwner
	}
	if a.o.Group && ownerOf(old.GID) != e.GID() {
		f |= itemGroup
	}
	if a.o.CRTimes && string(old.XAttrs[createdXAttr]) != created(e) {
		f |= itemCreated
	}
	if a.o.ACLs && !e.IsSymlink() && !a.sameACL(e, old) {
		f |= itemACL
	}
	if a.o.XAttrs && !a.sameXAttrs(e, old) {
		f |= itemXAttr
	}
	return f
}

// want is the metadata with which an entry is to be stored: the list's where the options preserve it, otherwise old's
// (nil: nothing stands there), otherwise nothing said.
func (a *attributes) want(e *flist.Entry, old *appendonly.Info) appendonly.Meta {
	m := appendonly.NoMeta()
	if old != nil {
		m = old.Meta
	}
	m.Mode = int32(a.mode(e, old))
	if a.keepsTime(e) {
		m.MTime = appendonly.Unix(e.MTime, e.NSec)
	}
	if a.o.ATimes > 0 && !e.IsDir() {
		m.ATime = appendonly.Unix(e.ATime(), 0)
	}
	if a.o.Owner {
		m.UID = int64(e.UID())
	}
	if a.o.Group {
		m.GID = int64(e.GID())
	}
	if e.IsDevice() {
		major, minor := e.RDev()
		m.RDev = uint64(major)<<32 | uint64(minor)
	}
	m.XAttrs = a.wantXAttrs(e, old)
	return m
}

// replacing is the metadata of a new content under a name where old was: nothing of that but its permissions stays, as where a
// new inode takes the name.
func (a *attributes) replacing(e *flist.Entry, old *appendonly.Info) appendonly.Meta {
	m := a.want(e, nil)
	if old != nil {
		m.Mode = int32(a.mode(e, old))
	}
	return m
}

// wantXAttrs is the xattr part of want: nil where nothing is said.
func (a *attributes) wantXAttrs(e *flist.Entry, old *appendonly.Info) map[string][]byte {
	var have map[string][]byte
	if old != nil {
		have = old.XAttrs
	}
	if !a.o.XAttrs && !a.o.ACLs && !a.o.CRTimes {
		return have
	}
	out := map[string][]byte{}
	for name, value := range have {
		if a.covers(name) {
			continue
		}
		out[name] = value
	}
	if a.o.XAttrs {
		maps.Copy(out, ownNames(a.list.XAttrValues(e)))
	}
	if a.o.ACLs && !e.IsSymlink() {
		access, def := a.list.ACL(e)
		for name, acl := range map[string][]byte{aclAccess: access, aclDefault: def} {
			if acl != nil {
				out[name] = acl
			}
		}
	}
	if a.o.CRTimes {
		out[createdXAttr] = []byte(created(e))
	}
	return out
}

// covers says whether the options make the list decide about an attribute of this name.
func (a *attributes) covers(name string) bool {
	switch {
	case name == aclAccess || name == aclDefault:
		return a.o.ACLs
	case name == createdXAttr:
		return a.o.CRTimes
	}
	return a.o.XAttrs
}

// ownNames drops what a client may not say.
func ownNames(all map[string][]byte) map[string][]byte {
	for name := range all {
		if strings.HasPrefix(name, ownPrefix) || name == aclAccess || name == aclDefault {
			delete(all, name)
		}
	}
	return all
}

// shown are the xattrs that a pull may send.
func shown(all map[string][]byte) map[string][]byte {
	return ownNames(maps.Clone(all))
}

func (a *attributes) sameACL(e *flist.Entry, old *appendonly.Info) bool {
	access, def := a.list.ACL(e)
	return bytes.Equal(access, old.XAttrs[aclAccess]) && bytes.Equal(def, old.XAttrs[aclDefault])
}

func (a *attributes) sameXAttrs(e *flist.Entry, old *appendonly.Info) bool {
	return a.list.SameXAttrs(e, shown(old.XAttrs))
}

// created is an entry's time of creation as it is kept.
func created(e *flist.Entry) string { return strconv.FormatInt(e.CRTime(), 10) }

// createdAt is an entry's time of creation, as a client said; else that of its last change.
func createdAt(info *appendonly.Info) int64 {
	if n, err := strconv.ParseInt(string(info.XAttrs[createdXAttr]), 10, 64); err == nil {
		return n
	}
	return info.MTime.Sec()
}

// typeOf is the type of an entry of this kind, as in stat(2).
func typeOf(k appendonly.Kind) uint32 {
	switch k {
	case appendonly.KindDir:
		return 0o040000
	case appendonly.KindSymlink:
		return 0o120000
	case appendonly.KindFifo:
		return 0o010000
	case appendonly.KindSocket:
		return 0o140000
	case appendonly.KindCharDev:
		return 0o020000
	case appendonly.KindBlockDev:
		return 0o060000
	}
	return 0o100000
}
