package volume

import (
	"encoding/binary"
	"strconv"
	"strings"

	"vaultd/internal/journal"
)

// fromFakeSuper is fakeSuper backwards: what a file's attributes say it is, without its times. What has no %stat is a plain file, whose mode and
// owner nobody kept. What is not as fakeSuper writes it is passed over.
func fromFakeSuper(attrs map[string][]byte) (journal.Kind, journal.Meta) {
	kind, m := journal.KindFile, journal.NoMeta()
	put := func(name string, val []byte) {
		if m.XAttrs == nil {
			m.XAttrs = map[string][]byte{}
		}
		m.XAttrs[name] = val
	}
	for name, val := range attrs {
		rest, ours := strings.CutPrefix(name, xattrPrefix)
		switch {
		case !ours:
			put(name, val)
		case name == xattrStat:
			parseStat(string(val), &kind, &m)
		case name == xattrACL:
			if acl, ok := kernelACL(val); ok {
				put("system.posix_acl_access", acl)
			}
		case name == xattrDefACL:
			if acl, ok := kernelACL(val); ok {
				put("system.posix_acl_default", acl)
			}
		case rest != "" && rest[0] != '%':
			put(rest, val)
		}
	}
	return kind, m
}

// parseStat reads "100644 0,0 1000:1000" (rsync xattrs.c: get_stat_xattr).
func parseStat(s string, kind *journal.Kind, m *journal.Meta) {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' || r == ':' })
	if len(f) != 5 {
		return
	}
	mode, err := strconv.ParseUint(f[0], 8, 32)
	if err != nil {
		return
	}
	var n [4]uint64
	for i := range n {
		if n[i], err = strconv.ParseUint(f[i+1], 10, 32); err != nil {
			return
		}
	}
	k := kindOf(uint32(mode))
	if !k.HasContent() {
		return // directories and symlinks are themselves
	}
	*kind, m.Mode, m.RDev, m.UID, m.GID = k, int32(mode&0o7777), n[0]<<32|n[1], int64(n[2]), int64(n[3])
}

// kernelACL is rsyncACL backwards; entries come in the order that the kernel wants.
func kernelACL(b []byte) ([]byte, bool) {
	const none, isUser = 0x80, 1 << 31
	le := binary.LittleEndian
	if len(b) < 16 || len(b)%8 != 0 || len(b) > 64<<10 {
		return nil, false
	}
	out := le.AppendUint32(nil, 2)
	add := func(tag uint16, perm, id uint32) {
		out = le.AppendUint32(le.AppendUint16(le.AppendUint16(out, tag), uint16(perm)), id)
	}
	fixed := func(tag uint16, i int) {
		if p := le.Uint32(b[4*i:]); p != none {
			add(tag, p&7, ^uint32(0))
		}
	}
	named := func(tag uint16, user bool) {
		for e := b[16:]; len(e) > 0; e = e[8:] {
			if access := le.Uint32(e[4:]); access&isUser != 0 == user {
				add(tag, access&7, le.Uint32(e))
			}
		}
	}
	fixed(0x01, 0)
	named(0x02, true)
	fixed(0x04, 1)
	named(0x08, false)
	fixed(0x10, 2)
	fixed(0x20, 3)
	return out, true
}
