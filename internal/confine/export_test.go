package confine

import "golang.org/x/sys/unix"

// EnterAs is Enter on a kernel whose Landlock is older than this one's.
func (l Layout) EnterAs(version int) error { return l.enter(version) }

// ProbeAs is Probe on such a kernel.
func ProbeAs(version int) Report { return probe(version) }

// Verdict runs the filter on a system call (struct seccomp_data of seccomp(2)).
func Verdict(pid, version int, arch, nr uint32, args ...uint64) uint32 {
	words := map[uint32]uint32{0: nr, 4: arch}
	for i, a := range args {
		words[uint32(16+8*i)], words[uint32(20+8*i)] = uint32(a), uint32(a>>32)
	}
	f, acc := filterFor(pid, version), uint32(0)
	for pc := 0; ; pc++ {
		in := f[pc]
		yes := false
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			acc = words[in.K]
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return in.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			yes = acc == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			yes = acc > in.K
		case unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K:
			yes = acc&in.K != 0
		default:
			panic("unknown instruction")
		}
		if yes {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
}

// The verdicts, and this machine's convention.
const (
	Allow     = allow
	Refuse    = refuse
	Absent    = absent
	AuditArch = auditArch
)
