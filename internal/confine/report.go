package confine

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Mode is how serious the configuration is about it.
type Mode string

// On refuses to serve when what should be refused works, Report says so and serves, and Off enters nothing.
const (
	On         Mode = "on"
	ReportOnly Mode = "report"
	Off        Mode = "off"
)

// Report says what is enforced, and what is not, in words for the operator.
type Report struct {
	Mode        Mode     `json:"mode"`
	ABI         int      `json:"landlock_abi"` // 0: the kernel has no Landlock, or it is switched off
	Physical    bool     `json:"p1_physical"`  // the kernel keeps P1 against the server itself
	Enforced    []string `json:"enforced"`
	NotEnforced []string `json:"not_enforced"`
	Failed      []string `json:"failed,omitempty"` // what Check found
}

// never is what no kernel enforces; the package doc says what follows from it.
const never = "modes and attributes of files that the server can read, and times of files that its user owns, can be changed: Landlock has no rule for them"

// abi is the kernel's version of Landlock; 0 when it has none.
func abi() int {
	v, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return v
}

// minABI is the first version with which the server can work: without REFER no content gets a name.
const minABI = 2

// Probe says what Enter would enforce on this kernel.
func Probe() Report { return probe(abi()) }

func probe(v int) Report {
	r := Report{Mode: On, ABI: v, Physical: v >= minABI}
	say := func(ok bool, text string) {
		if ok {
			r.Enforced = append(r.Enforced, text)
		} else {
			r.NotEnforced = append(r.NotEnforced, text)
		}
	}
	say(v >= minABI, "sealed contents and closed journal segments can not be written, cut, removed or renamed (P1)")
	say(v >= minABI, "the catalog can not be written, and expire's state not be reached")
	say(v >= minABI, "no file can be read or written but the store's, and no program executed but the server itself")
	say(true, "no sockets but those it was given: it connects to nothing")
	say(v >= 4, "a second refusal of TCP, by Landlock")
	say(true, "no signals to, tracing of or limits for other processes")
	say(v >= 6, "a second refusal of signals and abstract sockets, by Landlock")
	say(true, "no capabilities, no new privileges, no namespaces, mounts, handles, io_uring or devices")
	if v == 2 {
		r.Enforced = append(r.Enforced, "cutting files is refused by the filter of system calls, as this kernel's Landlock (before Linux 6.2) does not know it")
	}
	r.NotEnforced = append(r.NotEnforced, never)
	return r
}

// Unconfined is the report of a server whose configuration says off.
func Unconfined() Report {
	r := Report{Mode: Off, ABI: abi(), Enforced: []string{}}
	full := probe(minABI)
	r.NotEnforced = append(full.Enforced, full.NotEnforced...)
	return r
}

// Summary is the report in one line.
func (r Report) Summary() string {
	switch {
	case r.Mode == Off:
		return "the server is not confined: P1 is kept by the program and not by the kernel"
	case len(r.Failed) > 0:
		return fmt.Sprintf("the server is not confined as it should be: %d of what must be refused works", len(r.Failed))
	case !r.Physical && r.ABI == 0:
		return "P1 is not physical: this kernel has no Landlock, or it is switched off (lsm=landlock,... on its command line)"
	case !r.Physical:
		return fmt.Sprintf("P1 is not physical: this kernel's Landlock (ABI %d) is too old; Linux 6.2 has what it takes", r.ABI)
	}
	return fmt.Sprintf("the server is confined (Landlock ABI %d)", r.ABI)
}

// handled are the rights that a version of Landlock knows, and that are refused where no rule allows them.
func handled(v int) (landlock.AccessFSSet, landlock.AccessNetSet, landlock.ScopedSet) {
	var files landlock.AccessFSSet
	var net landlock.AccessNetSet
	var scoped landlock.ScopedSet
	if v >= minABI {
		files = 1<<14 - 1 // up to REFER
	}
	if v >= 3 {
		files |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if v >= 4 {
		net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	if v >= 5 {
		files |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	if v >= 6 {
		scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | unix.LANDLOCK_SCOPE_SIGNAL
	}
	if v >= 9 {
		files |= unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
	}
	if v >= 10 {
		net |= unix.LANDLOCK_ACCESS_NET_BIND_UDP | unix.LANDLOCK_ACCESS_NET_CONNECT_SEND_UDP
	}
	return files, net, scoped
}
