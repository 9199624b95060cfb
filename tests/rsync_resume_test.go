package tests

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// breakOff runs a command whose standard input ends after so many bytes, as a connection does that is lost: breakoff BYTES COMMAND ARGUMENT...
// With a minus before the number the command is killed at that point, and may not have sent all of them.
func breakOff() {
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

var literal = regexp.MustCompile(`Literal data: ([0-9]+)`)

// literalBytes pushes, and returns how many bytes came as they are.
func (p *pair) literalBytes(opts ...string) int64 {
	p.t.Helper()
	r := p.vault(append(opts, "--stats", "--no-h", "src/", "DEST/")...)
	m := literal.FindStringSubmatch(r.out)
	if r.code != 0 || m == nil {
		p.t.Fatalf("status %d: %s%s", r.code, r.out, r.err)
	}
	n, err := strconv.ParseInt(m[1], 10, 64)
	must(p.t, err)
	return n
}

// A file that changed between the cut and the next push comes out right, and what is still true of what arrived is used.
func TestRsyncResumesChangedFiles(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"strict", "versioned"} {
		v := startVault(t, "--mode", mode, "--quota", "2G")
		for _, change := range []string{"echo more >>src/big", "printf X | dd of=src/big bs=1 seek=100000 conv=notrunc status=none", "truncate -s 3000000 src/big", "{ echo before; cat src/big; } >x; mv x src/big", "echo another >src/big"} {
			t.Run(fmt.Sprintf("%s %q", mode, change), func(t *testing.T) {
				t.Parallel()
				p := newPair(t, v, []string{"rsync"})
				p.sh("head -c 9000000 /dev/urandom >src/big; echo small >src/a")
				for range 3 { // each lost connection leaves more
					p.interrupted("2000000", []string{"-a"})
				}
				p.sh(change + "; touch -d 2026-01-02 src") // rsync leaves what differs in nanoseconds only
				if n := p.literalBytes("-a"); n > 3_200_000 {
					t.Errorf("%d bytes came again, about 3,000,000 were missing", n)
				}
				p.sh("cp -a src real")
				p.same()
			})
		}
	}
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
					news := int64(size)
					if mode == "versioned" && r.IntN(3) > 0 { // over a file that is another one, or ends as the new one does
						was := noise("was", size)
						if r.IntN(2) == 0 && opts[0] != "-aW" {
							news = size / 2
							copy(was[news:], noise(fmt.Sprint(seed), size)[news:])
						}
						p.sh("mv src new; mkdir src; touch -d 2019-01-01 src")
						must(t, os.WriteFile(p.dir+"/src/big", was, 0o644))
						if r := p.vault("-a", "src/", "DEST/"); r.code != 0 {
							t.Fatalf("status %d: %s", r.code, r.err)
						}
						p.sh("rm -r src; mv new src")
					}
					arrived, sure := int64(0), true
					for range 1 + r.IntN(3) {
						n := r.Int64N(max(1, news-arrived-10_000)) // counted from the first byte of the session
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
					came := p.literalBytes(opts...)
					// rsync cuts what arrived into blocks of about its square root; the last, short one counts where the rest of the file does not begin with it
					if most := news + 11_000 - arrived + 6000; sure && opts[0] != "-aW" && came > most {
						t.Errorf("%d bytes came again, %d had arrived: %d at most were missing", came, arrived, most)
					}
					t.Logf("%d of %d had arrived (%v), %d came", arrived, news, sure, came)
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
	cmd.Env = append(cmd.Env, "RSH=breakoff "+bytes)
	cmd.Dir = p.dir
	r := run(p.t, cmd)
	if r.code < 0 {
		p.t.Fatalf("the client did not notice that the connection is gone: %s", r.err)
	}
	time.Sleep(200 * time.Millisecond)
	return r.code != 0
}
