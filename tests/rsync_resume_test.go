package tests

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"
)

// cut runs a command whose standard input ends after so many bytes, as a connection does that is lost: cut BYTES COMMAND ARGUMENT...
// With a minus before the number the command is killed at that point, and may not have sent all of them.
func cut() {
	n, err := strconv.ParseInt(os.Args[1], 10, 64)
	if err != nil {
		os.Exit(2)
	}
	cmd := exec.Command(os.Args[2], os.Args[3:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil || cmd.Start() != nil {
		os.Exit(2)
	}
	go func() {
		sent, _ := io.CopyN(in, os.Stdin, max(n, -n))
		if sent == max(n, -n) && n < 0 {
			cmd.Process.Kill()
		}
		in.Close()
	}()
	cmd.Wait()
	os.Exit(max(cmd.ProcessState.ExitCode(), 0))
}

// A push that is cut off anywhere, as often as one likes, with and without --partial, costs what had not arrived and no more:
// the literal bytes of the last one are counted. What was whole before the cut is not asked for again.
func TestRsyncResumesAtRandomOffsets(t *testing.T) {
	t.Parallel()
	const size = 4_000_000
	rounds := 4
	if *full {
		rounds = 60
	}
	for _, mode := range []string{"strict", "versioned"} {
		v := startVault(t, "--mode", mode, "--quota", "2G")
		for _, opts := range [][]string{{"-a"}, {"-a", "--partial"}, {"-a", "-z", "--zc=lz4"}, {"-a", "--protocol=29"}, {"-aW", "--inplace"}} {
			for range rounds {
				seed := rand.Uint64()
				t.Run(fmt.Sprint(mode, opts, seed), func(t *testing.T) {
					t.Parallel()
					r := rand.New(rand.NewPCG(seed, 0))
					p := newPair(t, v, []string{"rsync"})
					must(t, os.WriteFile(p.dir+"/src/big", noise(fmt.Sprint(seed), size), 0o644))
					p.sh("for i in 1 2 3; do head -c 3000 /dev/urandom >src/a$i; done; head -c 2000 /dev/urandom >src/z; touch -d 2020-02-02 src/* src")
					arrived, sure := int64(0), true
					for range 1 + r.IntN(3) {
						n := r.Int64N(max(1, size-arrived-10_000)) // counted from the first byte of the session
						if r.IntN(4) == 0 {
							n = r.Int64N(600) // in the handshake, the list, or the first requests
						}
						kill := r.IntN(3) == 0
						number := strconv.FormatInt(n, 10)
						if kill {
							number, sure = "-"+number, false
						}
						if !p.interrupted(number, opts) {
							break // nothing was left to cut
						}
						if !kill {
							// all but the list, the small files and the heads of frames was of big; a piece that was compressed has to come whole
							arrived += max(0, n-9000-1000-(n>>10))
							if slices.Contains(opts, "-z") {
								arrived = max(0, arrived-17<<10)
							}
						}
					}
					again := p.vault(slices.Concat(opts, []string{"--stats", "--no-h", "src/", "DEST/"})...)
					if again.code != 0 {
						t.Fatalf("status %d: %s", again.code, again.err)
					}
					m := literal.FindStringSubmatch(again.out)
					if m == nil {
						t.Fatalf("no statistics: %s", again.out)
					}
					came, err := strconv.ParseInt(m[1], 10, 64)
					must(t, err)
					// rsync cuts what arrived into blocks of about its square root; the last, short one counts where the rest of the file does not begin with it
					if most := size + 11_000 - arrived + 4096; sure && opts[0] != "-aW" && came > most {
						t.Errorf("%d bytes came again, %d had arrived: %d at most were missing", came, arrived, most)
					}
					t.Logf("%d had arrived (%v), %d came", arrived, sure, came)
					p.sh("cp -a src real")
					p.same()
				})
			}
		}
	}
}

// interrupted is a push through a connection that is lost after so many bytes, and says whether it came to that. It returns when
// the server has noticed.
func (p *pair) interrupted(bytes string, opts []string) bool {
	p.t.Helper()
	cmd := p.v.as("alice", slices.Concat([]string{"rsync"}, opts, []string{"src/", "vault:" + p.name + "/"})...)
	cmd.Env = append(cmd.Env, "RSH=cut "+bytes)
	cmd.Dir = p.dir
	r := run(p.t, cmd)
	if r.code < 0 {
		p.t.Fatalf("the client did not notice that the connection is gone: %s", r.err)
	}
	time.Sleep(200 * time.Millisecond)
	return r.code != 0
}
