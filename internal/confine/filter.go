package confine

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// denied are the system calls that the server has no use for and that lead out of Landlock, to other processes, or to the kernel's
// less travelled parts. Much of it needs a capability, which the server has not: an old kernel may have a hole there.
var denied = []uint32{
	// Sockets: those that the server has were made for it.
	unix.SYS_SOCKET, unix.SYS_SOCKETPAIR, unix.SYS_BIND, unix.SYS_LISTEN, unix.SYS_CONNECT,
	// Asynchronous calls, which no filter sees, and files by handle, which Landlock does not see.
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, unix.SYS_IO_SETUP, unix.SYS_IO_SUBMIT,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT, unix.SYS_FANOTIFY_MARK,
	// Cutting by path; the server cuts by descriptor, for which it must have opened the file for writing.
	unix.SYS_TRUNCATE,
	// Other processes.
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_PROCESS_MRELEASE,
	unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_KCMP, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO, unix.SYS_TKILL,
	unix.SYS_MOVE_PAGES, unix.SYS_MIGRATE_PAGES, unix.SYS_SETPRIORITY, unix.SYS_IOPRIO_SET, unix.SYS_SCHED_SETPARAM,
	unix.SYS_SCHED_SETSCHEDULER, unix.SYS_SCHED_SETATTR, unix.SYS_SCHED_SETAFFINITY, unix.SYS_SETPGID, unix.SYS_SETSID, unix.SYS_SHMGET, unix.SYS_SHMAT, unix.SYS_SHMCTL,
	unix.SYS_SEMGET, unix.SYS_SEMCTL, unix.SYS_SEMTIMEDOP, unix.SYS_MSGGET, unix.SYS_MSGCTL, unix.SYS_MSGSND, unix.SYS_MSGRCV,
	unix.SYS_MQ_OPEN, unix.SYS_MQ_UNLINK,
	// Files without a place, which could be executed.
	unix.SYS_MEMFD_CREATE, unix.SYS_MEMFD_SECRET,
	// Modes, owners and attributes by path: Landlock has no rule for them, and root owns more than a store. The server has descriptors.
	unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWNAT, unix.SYS_FCHOWN, unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_REMOVEXATTR,
	unix.SYS_LREMOVEXATTR,
	// Namespaces and mounts.
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_OPEN_TREE,
	unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR, unix.SYS_MKNODAT,
	// Who it is.
	unix.SYS_SETUID, unix.SYS_SETGID, unix.SYS_SETREUID, unix.SYS_SETREGID, unix.SYS_SETRESUID, unix.SYS_SETRESGID, unix.SYS_SETFSUID,
	unix.SYS_SETFSGID, unix.SYS_SETGROUPS, unix.SYS_CAPSET,
	// The kernel.
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_KEYCTL, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD, unix.SYS_SYSLOG, unix.SYS_SETHOSTNAME,
	unix.SYS_SETDOMAINNAME, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX, unix.SYS_VHANGUP,
	unix.SYS_EXECVEAT, unix.SYS_SECCOMP,
}

// newest is the last call that was looked at; what came after it does not exist for the server.
const newest = unix.SYS_MSEAL

// ioctls are the ones that the server, the runtime and the C library use.
var ioctls = []uint32{unix.FICLONERANGE, unix.TCGETS, unix.TIOCGWINSZ}

// namespaces are clone(2)'s flags that make one.
const namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID |
	unix.CLONE_NEWNET

// The verdicts of a filter.
const (
	allow  = unix.SECCOMP_RET_ALLOW
	refuse = unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)
	absent = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS) // callers have another way
)

// A filter is a program of the kernel's classic BPF over struct seccomp_data (seccomp(2)): nr u32, arch u32, ip u64, args u64[6].
type filter []unix.SockFilter

func (f *filter) add(code uint16, k uint32, yes, no uint8) {
	*f = append(*f, unix.SockFilter{Code: code, Jt: yes, Jf: no, K: k})
}

func (f *filter) load(offset uint32)    { f.add(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset, 0, 0) }
func (f *filter) arg(n uint32)          { f.load(16 + 8*n) } // its low half, on machines that begin with it; all here do
func (f *filter) give(verdict uint32)   { f.add(unix.BPF_RET|unix.BPF_K, verdict, 0, 0) }
func (f *filter) and(mask uint32)       { f.add(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask, 0, 0) }
func (f *filter) equal(k, then uint32)  { f.when(unix.BPF_JEQ, k, then) }
func (f *filter) set(mask, then uint32) { f.when(unix.BPF_JSET, mask, then) }

// when gives a verdict if what was loaded compares so with k.
func (f *filter) when(test uint16, k, then uint32) {
	f.add(unix.BPF_JMP|test|unix.BPF_K, k, 0, 1)
	f.give(then)
}

// call makes block decide about one call. It must end with a verdict.
func (f *filter) call(nr uint32, block func(*filter)) {
	var b filter
	block(&b)
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, nr, 0, uint8(len(b)))
	*f = append(*f, b...)
}

// filterFor is the filter of process pid, which keeps its number over exec(2), on a kernel with this version of Landlock. The arguments that
// are looked at are ints in the kernel, which takes their low halves.
func filterFor(pid int, version int) filter {
	var f filter
	f.load(4)
	f.add(unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K, auditArch, 1, 0)
	f.give(refuse) // another calling convention has other numbers
	f.load(0)
	f.when(unix.BPF_JGT, newest, absent) // x32's numbers are above, too
	only := func(nr, arg uint32, values ...uint32) {
		f.call(nr, func(b *filter) {
			b.arg(arg)
			for _, v := range values {
				b.equal(v, allow)
			}
			b.give(refuse)
		})
	}
	only(unix.SYS_IOCTL, 1, ioctls...)
	only(unix.SYS_KILL, 0, uint32(pid))
	only(unix.SYS_TGKILL, 0, uint32(pid))
	only(unix.SYS_PRLIMIT64, 0, 0, uint32(pid))
	f.call(unix.SYS_CLONE, func(b *filter) { // threads, and no processes: nothing is left behind when the server ends
		b.arg(0)
		b.set(namespaces, refuse)
		b.set(unix.CLONE_THREAD, allow)
		b.give(refuse)
	})
	f.call(unix.SYS_FCNTL, func(b *filter) { // signals by way of descriptors
		b.arg(1)
		for _, cmd := range []uint32{unix.F_SETOWN, unix.F_SETOWN_EX, unix.F_SETSIG} {
			b.equal(cmd, refuse)
		}
		b.give(allow)
	})
	for _, nr := range []uint32{unix.SYS_CLONE3, unix.SYS_OPENAT2} { // their flags are in memory; the volume does without
		f.equal(nr, absent)
	}
	f.call(unix.SYS_FCHMOD, func(b *filter) {
		b.arg(1)
		b.set(setID, refuse)
		b.give(allow)
	})
	f.opening(version)
	for _, nr := range slices.Concat(denied, deniedHere) {
		f.equal(nr, refuse)
	}
	f.give(allow)
	return f
}

// setID are the modes by which whoever executes a file becomes its owner: somebody outside could be waiting for one.
const setID = unix.S_ISUID | unix.S_ISGID

// opening looks at the calls that open files: none is made that is set-id, and none is cut while it is opened for reading, where Landlock sees the
// reading only.
func (f *filter) opening(version int) {
	for nr, flags := range opens {
		f.call(nr, func(b *filter) {
			b.arg(flags + 1)
			b.set(setID, refuse)
			if version < 3 {
				b.arg(flags)
				b.and(unix.O_TRUNC | unix.O_ACCMODE)
				b.equal(unix.O_TRUNC, refuse)
				b.equal(unix.O_TRUNC|unix.O_ACCMODE, refuse)
			}
			b.give(allow)
		})
	}
}

// install puts the filter on the calling thread and all that come from it, for good. It needs no_new_privs.
func (f filter) install() error {
	prog := unix.SockFprog{Len: uint16(len(f)), Filter: &f[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
