package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"vaultd/internal/appendonly"
	"vaultd/internal/push"
	"vaultd/internal/session"
)

// hostile are names that would forge a line, or take over the terminal that shows it.
var hostile = []string{
	"a\n{\"time\":\"2026-01-01T00:00:00Z\",\"level\":\"INFO\",\"msg\":\"session\",\"tenant\":\"other\"}\nb",
	"a\r\ntime=2026-01-01T00:00:00Z level=INFO msg=session tenant=other",
	"\x1b[2J\x1b[31mred\x1b[0m\x07\x08\x08",
	"\x1b]0;title\x1b\\", "\u009b31m", "\xff\xfe\x80broken", "\u2028\u2029", "\u202eesrever", "\u0000nul", "level=ERROR msg=\"forged\"", "\"},{\"x\":\"",
	strings.Repeat("\n", 2000), "é ü 日本",
}

// writeHostile logs what a session with such names, such an error and such a command leaves.
func writeHostile(log *slog.Logger) (lines int) {
	for _, name := range hostile {
		s := &session.Session{Log: log.With("tenant", "acme", "proto", "exec", "session", "0123"), Stderr: io.Discard}
		denied := &appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/" + name, Rule: appendonly.P2, Why: "it is sealed"}
		s.Refused(denied)
		s.LogRefused(fmt.Errorf("rsync: %w", denied))
		s.Log.Info("client gave up", "error", name)
		e := push.Judge(push.Ending{Session: "0123", Protocol: "exec", Key: name, Ended: time.Now()}, push.Report{}, appendonly.Counts{})
		s.Log.LogAttrs(context.Background(), slog.LevelInfo, "session", e.Attrs()...)
		lines += 4
	}
	return lines
}

// checkLines wants one line for each record, without anything that a terminal would act on.
func checkLines(t *testing.T, text []byte, want int) {
	t.Helper()
	n := 0
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		line := sc.Text()
		n++
		if !utf8.ValidString(line) {
			t.Errorf("not UTF-8: %q", line)
		}
		for _, r := range line {
			if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || r == '\u202e' {
				t.Errorf("%U in %q", r, line)
				break
			}
		}
	}
	if n != want {
		t.Errorf("%d lines of %d records", n, want)
	}
}

// Names that clients choose forge no line, in any format.
func TestLogLines(t *testing.T) {
	t.Run("json", func(t *testing.T) {
		var b bytes.Buffer
		n := writeHostile(newLogger(&b, "auto", "debug")) // no terminal: JSON, as under systemd
		checkLines(t, b.Bytes(), n)
		for line := range bytes.Lines(b.Bytes()) {
			var l map[string]any
			if err := json.Unmarshal(line, &l); err != nil {
				t.Errorf("%q: %v", line, err)
			}
			if l["tenant"] != "acme" || l["msg"] == "refused" && (l["rule"] != "P2" || l["op"] != "remove" || l["level"] != "WARN") {
				t.Errorf("%q", line)
			}
		}
	})
	t.Run("text", func(t *testing.T) {
		var b bytes.Buffer
		n := writeHostile(newLogger(&b, "text", "debug"))
		checkLines(t, b.Bytes(), n)
	})
	t.Run("terminal", func(t *testing.T) {
		text, n := onTerminal(t, func(tty *os.File) int { return writeHostile(newLogger(tty, "auto", "debug")) })
		checkLines(t, text, n)
	})
}

// onTerminal returns what f writes to a terminal.
func onTerminal(t *testing.T, f func(*os.File) int) ([]byte, int) {
	t.Helper()
	ptm, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer ptm.Close()
	if err := unix.IoctlSetPointerInt(int(ptm.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(ptm.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(&out, ptm) // ends with an error when the other end is closed
	}()
	lines := f(tty)
	tty.Close()
	<-read
	return bytes.ReplaceAll(out.Bytes(), []byte("\r\n"), []byte("\n")), lines
}

// A session that is refused without end leaves a bounded log.
func TestLoggedRefusals(t *testing.T) {
	var b bytes.Buffer
	s := &session.Session{Log: newLogger(&b, "json", "debug"), Stderr: io.Discard}
	for range 10_000 {
		s.Refused(&appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/x", Rule: appendonly.P2})
	}
	if n := bytes.Count(b.Bytes(), []byte("\n")); n != 101 || s.Refusals() != 10_000 {
		t.Errorf("%d lines, %d refusals", n, s.Refusals())
	}
}

// Every field of the two kinds of lines that others read is in docs/logs.md.
func TestLogFieldsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "logs.md"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	s := &session.Session{Log: newLogger(&b, "json", "debug").With("tenant", "acme", "proto", "exec", "remote", "192.0.2.1:5", "session", "0123"), Stderr: io.Discard}
	s.Refused(&appendonly.DeniedError{Op: appendonly.OpRemove, Path: "/x", Rule: appendonly.P2})
	e := push.Judge(push.Ending{Exit: 1}, push.Report{Push: true, Whole: push.No}, appendonly.Counts{Denied: map[appendonly.Denial]int64{{Op: appendonly.OpRemove, Rule: appendonly.P2}: 1}})
	s.Log.LogAttrs(context.Background(), slog.LevelInfo, "session", e.Attrs()...)
	fields := map[string]bool{}
	for line := range bytes.Lines(b.Bytes()) {
		var l map[string]any
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		for k := range l {
			fields[k] = true
		}
	}
	if len(fields) < 25 {
		t.Errorf("only %d fields", len(fields))
	}
	for k := range fields {
		if !bytes.Contains(doc, []byte("`"+k+"`")) {
			t.Errorf("docs/logs.md does not tell of %q", k)
		}
	}
}
