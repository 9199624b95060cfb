package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// deniedHere are calls that this architecture alone has.
var deniedHere = []uint32{unix.SYS_SEMOP}

// opens are the calls with flags of open(2), and in which argument.
var opens = map[uint32]uint32{unix.SYS_OPENAT: 2}
