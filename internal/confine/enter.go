package confine

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Enter confines the calling thread for good; the caller then executes its program on it with Exec. It locks the
// goroutine to its thread and never unlocks it. What the kernel can not enforce is left out, and Probe says what; everything else that fails is an error.
func (l Layout) Enter() error { return l.enter(abi()) }

func (l Layout) enter(version int) error {
	runtime.LockOSThread()
	if err := l.landlock(version); err != nil {
		return fmt.Errorf("enter landlock: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if err := filterFor(os.Getpid(), version).install(); err != nil {
		return fmt.Errorf("filter system calls: %w", err)
	}
	return nil
}

// landlock restricts the calling thread alone: the program that it executes has no other.
func (l Layout) landlock(version int) error {
	if version < minABI {
		return nil
	}
	files, net, scoped := handled(version)
	fd, err := ll.LandlockCreateRuleset(&ll.RulesetAttr{HandledAccessFS: uint64(files), HandledAccessNet: uint64(net), Scoped: uint64(scoped)}, 0)
	if err != nil {
		return fmt.Errorf("make ruleset: %w", err)
	}
	defer unix.Close(fd)
	if err := (ruleset{fd, files}).addAll(l); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	return ll.LandlockRestrictSelf(fd, 0)
}

// dropCapabilities empties all of the thread's sets. The bounding set goes first, while that is still allowed: without it, exec(2) as
// root would give everything back.
func dropCapabilities() error {
	for c := uintptr(0); c <= 63; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // the kernel has no more
		}
		if err != nil && !errors.Is(err, unix.EPERM) { // EPERM: we have none, and no_new_privs keeps it so
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		return err
	}
	var none [2]unix.CapUserData
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
}

// Exec executes the program on the thread that Enter confined. It dies with the thread that started it: the kernel forgets
// that wish when threads change, so it is made again here.
func (l Layout) Exec(args, env []string) error {
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("die with the supervisor: %w", err)
	}
	return fmt.Errorf("execute %s: %w", l.Program, unix.Exec(l.Program, args, env))
}
