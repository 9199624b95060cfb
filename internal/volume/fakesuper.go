package volume

import (
	"encoding/binary"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"vaultd/internal/journal"
)

// What rsync's --fake-super reads (rsync xattrs.c: RSYNC_PREFIX, XSTAT_SUFFIX, XACC_ACL_SUFFIX, XDEF_ACL_SUFFIX).
const (
	xattrPrefix = "user.rsync."
	xattrStat   = xattrPrefix + "%stat"
	xattrACL    = xattrPrefix + "%aacl"
	xattrDefACL = xattrPrefix + "%dacl"
	defaultMode = 0o644
)

// dress is what a staged content was given ahead of Seal.
type dress struct {
	kind  journal.Kind
	meta  journal.Meta
	whole bool // all of it
}

// dress gives the content at/name the times, owner, mode, device number and attributes of m as far as
// this user and file system can: times on the file itself, the rest as rsync --fake-super keeps it.
// Nothing is written for a plain 0644 file without owner. A file system without extended attributes,
// without room for these, or that dislikes one of them is no error: the journal has them all. bare says
// that the content was never dressed.
func (v *Volume) dress(at int, name string, kind journal.Kind, m journal.Meta, bare bool) error {
	if err := setTimes(at, name, unix.AT_SYMLINK_NOFOLLOW, m); err != nil {
		return err
	}
	attrs := fakeSuper(kind, m)
	if len(attrs) == 0 && bare {
		return nil
	}
	fd, err := openat(at, name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !bare {
		removeXattrs(fd, attrs)
	}
	return setXattrs(fd, attrs)
}

// dressFile is dress for a bare content that is open.
func dressFile(fd int, kind journal.Kind, m journal.Meta) error {
	if err := setTimes(fd, "", unix.AT_EMPTY_PATH, m); err != nil {
		return err
	}
	return setXattrs(fd, fakeSuper(kind, m))
}

// setTimes sets the times of m that are set, as far as the file system's clock reaches.
func setTimes(at int, name string, flags int, m journal.Meta) error {
	if m.MTime.IsZero() && m.ATime.IsZero() {
		return nil
	}
	ts := []unix.Timespec{timespec(m.ATime), timespec(m.MTime)}
	err := retry(func() error { return unix.UtimesNanoAt(at, name, ts, flags) })
	if name != "" && (err == unix.EINVAL || err == unix.EOVERFLOW) {
		return nil
	}
	return err
}

func setXattrs(fd int, attrs map[string][]byte) error {
	for k, val := range attrs {
		err := retry(func() error { return unix.Fsetxattr(fd, k, val, 0) })
		if err == unix.EIO || err == unix.EROFS {
			return err
		}
	}
	return nil
}

// removeXattrs drops the user attributes of an earlier dress that are not in keep.
func removeXattrs(fd int, keep map[string][]byte) {
	buf := make([]byte, 64<<10) // the kernel's limit for a list
	n, err := unix.Flistxattr(fd, buf)
	if err != nil {
		return
	}
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if _, ok := keep[name]; !ok && strings.HasPrefix(name, "user.") {
			unix.Fremovexattr(fd, name)
		}
	}
}

// timespec converts t; unset leaves the time as it is. (A Time's nanoseconds are below 10^9, where
// the kernel's special values begin.)
func timespec(t journal.Time) unix.Timespec {
	if t.IsZero() {
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	}
	return unix.Timespec{Sec: t.Sec(), Nsec: int64(t.Nsec())}
}

// fakeSuper returns the attributes that rsync --fake-super would keep for such an entry. A client's own
// user.rsync.* would be taken for rsync's and is left to the journal.
func fakeSuper(kind journal.Kind, m journal.Meta) map[string][]byte {
	attrs := make(map[string][]byte)
	mode, plain := uint32(defaultMode), m.UID == journal.Unset && m.GID == journal.Unset
	if m.Mode != journal.Unset {
		mode = uint32(m.Mode) & 0o7777
	}
	if !plain || kind != journal.KindFile || mode != defaultMode {
		attrs[xattrStat] = fmt.Appendf(nil, "%o %d,%d %d:%d", typeBits(kind)|mode,
			m.RDev>>32, uint32(m.RDev), max(m.UID, 0), max(m.GID, 0))
	}
	for name, val := range m.XAttrs {
		switch {
		case name == "" || strings.IndexByte(name, 0) >= 0 || strings.HasPrefix(name, xattrPrefix):
		case name == "system.posix_acl_access":
			if b, ok := rsyncACL(val); ok {
				attrs[xattrACL] = b
			}
		case name == "system.posix_acl_default":
			if b, ok := rsyncACL(val); ok {
				attrs[xattrDefACL] = b
			}
		case strings.HasPrefix(name, "user."):
			attrs[name] = val
		default:
			attrs[xattrPrefix+name] = val
		}
	}
	return attrs
}

// typeBits is st_mode's file type of a content of kind k.
func typeBits(k journal.Kind) uint32 {
	switch k {
	case journal.KindFifo:
		return unix.S_IFIFO
	case journal.KindSocket:
		return unix.S_IFSOCK
	case journal.KindCharDev:
		return unix.S_IFCHR
	case journal.KindBlockDev:
		return unix.S_IFBLK
	}
	return unix.S_IFREG
}

// rsyncACL translates a POSIX ACL from the kernel's form (linux/posix_acl_xattr.h: version 2, then
// tag u16, perm u16, id u32) to the one in %aacl (rsync acls.c: user, group, mask and other as u32, 0x80
// for none, then id u32, access u32 with bit 31 for users).
func rsyncACL(b []byte) ([]byte, bool) {
	const none, isUser = 0x80, 1 << 31
	le := binary.LittleEndian
	if len(b) < 4 || len(b)%8 != 4 || le.Uint32(b) != 2 {
		return nil, false
	}
	fixed := [4]uint32{none, none, none, none}
	var named []byte
	for b = b[4:]; len(b) > 0; b = b[8:] {
		tag, perm, id := le.Uint16(b), uint32(le.Uint16(b[2:])), le.Uint32(b[4:])
		if perm > 7 {
			return nil, false
		}
		switch tag {
		case 0x01: // ACL_USER_OBJ
			fixed[0] = perm
		case 0x02: // ACL_USER
			named = le.AppendUint32(le.AppendUint32(named, id), perm|isUser)
		case 0x04: // ACL_GROUP_OBJ
			fixed[1] = perm
		case 0x08: // ACL_GROUP
			named = le.AppendUint32(le.AppendUint32(named, id), perm)
		case 0x10: // ACL_MASK
			fixed[2] = perm
		case 0x20: // ACL_OTHER
			fixed[3] = perm
		default:
			return nil, false
		}
	}
	var out []byte
	for _, p := range fixed {
		out = le.AppendUint32(out, p)
	}
	return append(out, named...), true
}
