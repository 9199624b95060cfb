package main

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// processes are attempts on expire and on the supervisor.
func (s Scene) processes() []attempt {
	const group = "expire and the supervisor"
	both := func(do func(pid int) error) func() error {
		return func() error {
			err := do(s.Expire)
			if err != nil {
				err = do(s.Supervisor)
			}
			return err
		}
	}
	call := func(nr uintptr, args ...uintptr) error {
		var a [6]uintptr
		copy(a[:], args)
		_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		return errnoOf(e)
	}
	// SIGCONT is harmless where it works, and as hard to send as SIGKILL.
	const sig = uintptr(unix.SIGCONT)
	proc := func(name string, flags int) func() error {
		return both(func(pid int) error { return open(filepath.Join("/proc", strconv.Itoa(pid), name), flags) })
	}
	b := []byte("x")
	local, remote := []unix.Iovec{{Base: &b[0], Len: 1}}, []unix.RemoteIovec{{Base: 0x400000, Len: 1}}
	return []attempt{
		{group, "send a signal (kill)", both(func(pid int) error { return unix.Kill(pid, unix.SIGCONT) })},
		{group, "send a signal to everybody (kill -1)", func() error { return unix.Kill(-1, 0) }},
		{group, "send a signal (tgkill)", both(func(pid int) error { return unix.Tgkill(pid, pid, unix.SIGCONT) })},
		{group, "send a signal (tkill)", both(func(pid int) error { return call(unix.SYS_TKILL, uintptr(pid), sig) })},
		{group, "send a signal (rt_sigqueueinfo)", both(func(pid int) error {
			var info [128]byte
			*(*int32)(unsafe.Pointer(&info[8])) = -1 // SI_QUEUE
			return call(unix.SYS_RT_SIGQUEUEINFO, uintptr(pid), sig, uintptr(unsafe.Pointer(&info)))
		})},
		{group, "send a signal (pidfd)", both(func(pid int) error {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.PidfdSendSignal(fd, unix.SIGCONT, nil, 0)
		})},
		{group, "have the kernel send a signal (F_SETOWN)", both(func(pid int) error {
			fd, err := unix.Open(s.own("attack-own"), unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
			if err != nil {
				return err
			}
			defer clean(s.own("attack-own"))
			defer unix.Close(fd)
			_, err = unix.FcntlInt(uintptr(fd), unix.F_SETOWN, pid)
			return err
		})},
		{group, "trace them", both(unix.PtraceAttach)},
		{group, "read their memory", both(func(pid int) error { _, err := unix.ProcessVMReadv(pid, local, remote, 0); return err })},
		{group, "write their memory", both(func(pid int) error { _, err := unix.ProcessVMWritev(pid, local, remote, 0); return err })},
		{group, "open their memory", proc("mem", unix.O_RDWR)},
		{group, "read their environment", proc("environ", unix.O_RDONLY)},
		{group, "reach their files by /proc", both(func(pid int) error {
			return open(filepath.Join("/proc", strconv.Itoa(pid), "root", s.Store, "vaultd.db"), unix.O_RDWR)
		})},
		{group, "take their descriptors", both(func(pid int) error {
			fd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return call(unix.SYS_PIDFD_GETFD, uintptr(fd), 1, 0)
		})},
		{group, "limit them (prlimit)", both(func(pid int) error {
			var l unix.Rlimit
			return unix.Prlimit(pid, unix.RLIMIT_CPU, nil, &l)
		})},
		{group, "slow them down", both(func(pid int) error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) })},
		{group, "pin them to a processor", both(func(pid int) error {
			var set unix.CPUSet
			if err := unix.SchedGetaffinity(0, &set); err != nil {
				return err
			}
			return unix.SchedSetaffinity(pid, &set)
		})},
	}
}

// kernel are ways out through the kernel.
func (s Scene) kernel() []attempt {
	const group = "the kernel"
	call := func(nr uintptr, args ...uintptr) func() error {
		return func() error {
			var a [6]uintptr
			copy(a[:], args)
			_, _, e := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
			return errnoOf(e)
		}
	}
	dir := s.data(s.Own, "files")
	return []attempt{
		{group, "mount a file system", func() error { return unix.Mount("none", dir, "tmpfs", 0, "") }},
		{group, "mount a directory elsewhere", func() error { return unix.Mount(s.data(s.Victim, "store"), dir, "", unix.MS_BIND, "") }},
		{group, "mount with the new calls", func() error { _, err := unix.Fsopen("tmpfs", 0); return err }},
		{group, "copy a mount (open_tree)", func() error { _, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE); return err }},
		{group, "unmount something", func() error { return unix.Unmount("/proc", unix.MNT_DETACH) }},
		{group, "change its root (pivot_root)", func() error { return unix.PivotRoot(dir, dir) }},
		{group, "change its root (chroot)", func() error { return unix.Chroot(dir) }},
		{group, "a user namespace (unshare)", func() error { return unix.Unshare(unix.CLONE_NEWUSER) }},
		{group, "a mount namespace (unshare)", func() error { return unix.Unshare(unix.CLONE_NEWNS) }},
		{group, "a process in a namespace (clone)", call(unix.SYS_CLONE, unix.CLONE_NEWUSER|unix.CLONE_VM)},
		{group, "a process (clone3)", call(unix.SYS_CLONE3, 0, 0)},
		{group, "enter another's namespace", func() error {
			fd, err := unix.Open("/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Setns(fd, 0)
		}},
		{group, "io_uring", func() error {
			var p [120]byte
			return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)))()
		}},
		{group, "asynchronous input and output (io_setup)", func() error {
			var ctx uintptr
			return call(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)))()
		}},
		{group, "a file's handle", func() error { _, _, err := unix.NameToHandleAt(unix.AT_FDCWD, dir, 0); return err }},
		{group, "watch a whole file system (fanotify)", func() error { _, err := unix.FanotifyInit(0, unix.O_RDONLY); return err }},
		{group, "load a module", func() error { return unix.InitModule([]byte("x"), "") }},
		{group, "load a kernel", call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0)},
		{group, "reboot", call(unix.SYS_REBOOT, 0, 0, 0, 0)},
		{group, "set the clock", func() error {
			var t unix.Timespec
			if err := unix.ClockGettime(unix.CLOCK_REALTIME, &t); err != nil {
				return err
			}
			return unix.ClockSettime(unix.CLOCK_REALTIME, &t)
		}},
		{group, "load a BPF program", call(unix.SYS_BPF, 0, 0, 0)},
		{group, "performance events", call(unix.SYS_PERF_EVENT_OPEN, 0, 0, 0, 0, 0)},
		{group, "handle its page faults", call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC)},
		{group, "keys of the kernel's", func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, false); return err }},
		{group, "switch on swap", call(unix.SYS_SWAPON, 0, 0)},
		{group, "become another user", func() error { _, _, e := unix.RawSyscall(unix.SYS_SETUID, 12345, 0, 0); return errnoOf(e) }},
		{group, "get a capability back", func() error {
			data := [2]unix.CapUserData{{Effective: 1 << unix.CAP_DAC_READ_SEARCH, Permitted: 1 << unix.CAP_DAC_READ_SEARCH}}
			return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0])
		}},
		{group, "a call by another convention (x32)", call(0x40000000|unix.SYS_GETPID, 0)},
		{group, "a call that is newer than the filter", call(unix.SYS_MSEAL+1, 0)},
		{group, "type into a terminal (TIOCSTI)", func() error {
			return reading(s.HostKey, func(fd int) error { // the filter does not ask what the descriptor is
				err := unix.IoctlSetPointerInt(fd, unix.TIOCSTI, 'x')
				if errors.Is(err, unix.ENOTTY) {
					return nil // the call got there
				}
				return err
			})
		}},
	}
}

// elsewhere are attempts outside of the store.
func (s Scene) elsewhere() []attempt {
	const group = "the rest of the machine"
	socket := func(family, kind, proto int) func() error {
		return func() error {
			fd, err := unix.Socket(family, kind, proto)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}
	}
	return []attempt{
		{group, "change the mode of any file", func() error { return unix.Chmod(s.Program, 0o755) }},
		{group, "change the owner of any file", func() error { return unix.Chown(s.Program, -1, -1) }},
		{group, "change the attributes of any file", func() error { return unix.Setxattr(s.HostKey, "user.attack", []byte("x"), 0) }},
		{group, "make a program set-uid, for somebody outside", func() error {
			p, err := s.fresh("attack-setuid")
			if err != nil {
				return err
			}
			defer clean(p)
			return reading(p, func(fd int) error { return unix.Fchmod(fd, 0o4755) })
		}},
		{group, "make a new file set-uid", func() error {
			p := s.own("attack-setuid")
			defer clean(p)
			fd, err := unix.Open(p, unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o4755)
			if err == nil {
				unix.Close(fd)
			}
			return err
		}},
		{group, "make a TCP socket", socket(unix.AF_INET, unix.SOCK_STREAM, 0)},
		{group, "make a TCP socket (IPv6)", socket(unix.AF_INET6, unix.SOCK_STREAM, 0)},
		{group, "make a UDP socket", socket(unix.AF_INET, unix.SOCK_DGRAM, 0)},
		{group, "make a raw socket", socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)},
		{group, "make a local socket, to a service manager or a container engine", socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)},
		{group, "make a pair of sockets", func() error { _, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); return err }},
		{group, "make a netlink socket", socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)},
		{group, "make a socket of the kernel's cryptography", socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0)},
		{group, "execute another program", func() error { return unix.Exec(s.Program, []string{s.Program}, nil) }},
		{group, "execute what it uploaded", func() error {
			p := s.own("attack-program")
			b, err := os.ReadFile("/proc/self/exe")
			if err == nil {
				err = os.WriteFile(p, b, 0o755)
			}
			if err != nil {
				return err
			}
			defer clean(p)
			return unix.Exec(p, []string{p}, nil)
		}},
		{group, "execute from memory", func() error {
			fd, err := unix.MemfdCreate("x", 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			b, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				return err
			}
			if _, err := unix.Write(fd, b); err != nil {
				return err
			}
			return unix.Exec("/proc/self/fd/"+strconv.Itoa(fd), []string{"x"}, nil)
		}},
		{group, "list the root directory", func() error { return open("/", unix.O_RDONLY|unix.O_DIRECTORY) }},
		{group, "read /etc/passwd", func() error { return open("/etc/passwd", unix.O_RDONLY) }},
		{group, "read the environment of process 1", func() error { return open("/proc/1/environ", unix.O_RDONLY) }},
		{group, "write to /tmp", func() error { return os.WriteFile("/tmp/attack-confined", []byte("x"), 0o600) }},
		{group, "write to /proc/self/mem", func() error { return open("/proc/self/mem", unix.O_RDWR) }},
		{group, "write to /proc/sys", func() error { return open("/proc/sys/kernel/core_pattern", unix.O_WRONLY) }},
		{group, "open a device", func() error { return open("/dev/null", unix.O_RDWR) }},
		{group, "open the kernel's log", func() error { return open("/dev/kmsg", unix.O_WRONLY) }},
	}
}
