package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// deniedHere are calls that this architecture alone has.
var deniedHere = []uint32{unix.SYS_CREAT, unix.SYS_FORK, unix.SYS_VFORK, unix.SYS_MKNOD, unix.SYS_SEMOP, unix.SYS_IOPL, unix.SYS_IOPERM,
	unix.SYS_MODIFY_LDT, unix.SYS_USELIB, unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN}

// opens are the calls with flags of open(2), and in which argument.
var opens = map[uint32]uint32{unix.SYS_OPEN: 1, unix.SYS_OPENAT: 2}
