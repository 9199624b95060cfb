package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// step is a command of a document and what it prints.
type step struct {
	line    int
	command string
	output  []string
}

// steps reads the console blocks of a document: "$ " begins a command, "> " goes on with it, the rest is what it prints.
func steps(text string) (all []step) {
	inside := false
	for i, line := range strings.Split(text, "\n") {
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			all = append(all, step{line: i + 1, command: line[2:]})
		case strings.HasPrefix(line, "> ") && len(all) > 0 && len(all[len(all)-1].output) == 0:
			all[len(all)-1].command += "\n" + line[2:]
		default:
			all[len(all)-1].output = append(all[len(all)-1].output, line)
		}
	}
	return all
}

// pattern is what a command must print: in a line, … stands for anything and blanks for some; a line that is … alone stands for any lines.
func (s step) pattern() *regexp.Regexp {
	var b strings.Builder
	for _, line := range s.output {
		if strings.TrimSpace(line) == "…" {
			b.WriteString(`(?:.*\n)*`)
			continue
		}
		parts := strings.Split(strings.TrimRight(line, " "), "…")
		for i, p := range parts {
			parts[i] = regexp.MustCompile(` +`).ReplaceAllString(regexp.QuoteMeta(p), ` *`)
		}
		b.WriteString(strings.Join(parts, `.*`) + ` *\r?\n`)
	}
	return regexp.MustCompile(`^` + b.String() + `$`)
}

// shell is one bash in which the steps are run one after the other, as a reader would.
type shell struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

const stepEnd = "--- end of step ---"

func newShell(t *testing.T, dir string) *shell {
	cmd := exec.Command("bash", "--norc", "--noprofile")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+dir, "TZ=UTC", "LC_ALL=C.UTF-8", "NO_COLOR=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	r, w, err := os.Pipe()
	must(t, err)
	cmd.Stdout, cmd.Stderr = w, w
	must(t, cmd.Start())
	w.Close()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) // the server is in its group
		in.Close()
		cmd.Wait()
		r.Close()
	})
	return &shell{t: t, cmd: cmd, in: in, out: bufio.NewReader(r)}
}

func (s *shell) run(command string) string {
	timer := time.AfterFunc(10*time.Minute, func() { syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	// In braces, or ssh would read the steps that follow.
	fmt.Fprintf(s.in, "{ %s\n} </dev/null\n(exit $?); vaultd_status=$?; echo '%s'; (exit $vaultd_status)\n", command, stepEnd)
	var b strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if strings.TrimRight(line, "\n") == stepEnd {
			return b.String()
		}
		b.WriteString(line)
		if err != nil {
			s.t.Fatalf("the shell ended: %v\n%s", err, b.String())
		}
	}
}

// The night of the attack, line by line as docs/attack.md has it.
func TestAttackDocument(t *testing.T) {
	text, err := os.ReadFile("../docs/attack.md")
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	must(t, l.Close())
	all := steps(strings.ReplaceAll(string(text), "2222", port))
	if len(all) < 40 {
		t.Fatalf("only %d commands were found", len(all))
	}
	dir := t.TempDir()
	sh := newShell(t, dir)
	for _, s := range all {
		t.Logf("$ %s", s.command)
		got := sh.run(s.command)
		if !s.pattern().MatchString(got) {
			log, _ := os.ReadFile(dir + "/serve.log")
			t.Fatalf("docs/attack.md:%d: %s\nprints\n%s\nand should print\n%s\n%.3000s", s.line, s.command, got, strings.Join(s.output, "\n"), log)
		}
	}
}
