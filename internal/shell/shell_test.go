package shell_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/shell"
	"vaultd/internal/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type testLog struct{ t testing.TB }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

// host is a tenant that can be asked.
type host struct {
	notices []string
	t       testing.TB
	log     *slog.Logger
	vault   *appendonly.Vault
	cfg     shell.Config
}

func newHost(t testing.TB) *host {
	h := &host{t: t, log: slog.New(slog.NewTextHandler(testLog{t}, nil)), cfg: shell.Config{Version: "1.2.3"}}
	mem := volumetest.New(t)
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	v, err := appendonly.Open(appendonly.Config{Volume: mem, Segments: mem, IndexPath: filepath.Join(t.TempDir(), "index.db"),
		Policy: appendonly.Policy{Mode: appendonly.Versioned}, Now: func() time.Time { return now }, Log: h.log, BarrierEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	h.vault = v
	return h
}

func (h *host) put(path, data string) {
	h.t.Helper()
	f := h.vault.Session(appendonly.Who{Key: "k1", Session: "s1"})
	u, err := f.Create(path, appendonly.CreateOptions{Create: true, Truncate: true})
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := u.WriteAt([]byte(data), 0); err != nil {
		h.t.Fatal(err)
	}
	if err := errors.Join(u.Close(), f.Close(h.t.Context())); err != nil {
		h.t.Fatal(err)
	}
}

// noStdin fails the test when it is read: no command waits for what it does not need.
type noStdin struct{ t testing.TB }

func (n noStdin) Read([]byte) (int, error) {
	n.t.Error("standard input was read")
	return 0, io.EOF
}

// ask runs a command as key k2 and returns what it wrote and its exit status.
func (h *host) ask(line string, stdin io.Reader) (out, errs string, code int) {
	h.t.Helper()
	return h.askAs(appendonly.Full, line, stdin)
}

func (h *host) askAs(role appendonly.Role, line string, stdin io.Reader) (out, errs string, code int) {
	h.t.Helper()
	f := h.vault.Session(appendonly.Who{Key: "k2", Role: role, Session: "s2"})
	defer f.Close(h.t.Context())
	if stdin == nil {
		stdin = noStdin{h.t}
	}
	var stdout, stderr bytes.Buffer
	s := &session.Session{FS: f, Command: line, Stdin: stdin, Stdout: &stdout, Stderr: &stderr, Log: h.log}
	if h.notices != nil {
		s.Notices = func() []string { return h.notices }
	}
	err := shell.New(h.cfg).Serve(h.t.Context(), s)
	var exit *session.ExitError
	switch {
	case errors.As(err, &exit):
		code = exit.Code
	case err != nil:
		h.t.Errorf("%.60q: %v", line, err)
	}
	return stdout.String(), stderr.String(), code
}

const (
	md5Empty = "d41d8cd98f00b204e9800998ecf8427e"
	md5Hello = "5d41402abc4b2a76b9719d911017c592"
)

func TestCommands(t *testing.T) {
	h := newHost(t)
	h.put("/hello", "hello")
	h.put("/a b", "hello")
	h.put(`/back\slash`, "hello")
	h.put("/new\nline", "hello")
	const sha1Hello = "aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d"
	const sha256Hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	for _, c := range []struct {
		line, out string
		errs      string // a part of stderr; "" wants none
		code      int
	}{
		{line: "true anything"},
		{line: "pwd", out: "/\n"},
		{line: "version", out: "vaultd 1.2.3\n"},
		{line: "echo ${ShellId}%ComSpec%", out: "%ComSpec%\n"},
		{line: "echo  -n  'a  b' \\n", out: "a  b n"},
		{line: "md5sum /hello", out: md5Hello + "  /hello\n"},
		{line: "/usr/bin/md5sum -b -- hello", out: md5Hello + "  hello\n"},
		{line: `md5sum /a\ b`, out: md5Hello + "  /a b\n"},
		{line: `md5sum /back\\slash`, out: `\` + md5Hello + `  /back\\slash` + "\n"},
		{line: "md5sum /new'\n'line", out: `\` + md5Hello + `  /new\nline` + "\n"},
		{line: "sha1sum hello", out: sha1Hello + "  hello\n"},
		{line: "sha256sum hello", out: sha256Hello + "  hello\n"},
		{line: "md5 -r hello", out: md5Hello + " hello\n"},
		{line: "md5 hello", out: "MD5 (hello) = " + md5Hello + "\n"},
		{line: "sha1 -r hello", out: sha1Hello + " hello\n"},
		{line: "sha256 -r hello", out: sha256Hello + " hello\n"},
		{line: "rclone md5sum hello", out: md5Hello + "  hello\n"},
		{line: "rclone sha1sum hello", out: sha1Hello + "  hello\n"},
		{line: "rclone hashsum SHA256 hello", out: sha256Hello + "  hello\n"},
		{line: "crc32 hello", out: "3610a686\n"},
		{line: "crc32 hello hello", out: "3610a686\thello\n3610a686\thello\n"},
		{line: "b3sum hello", out: "ea8f163db38682925e4491c5e58d4bb3506ef8c14eb78a86e908c5624a67200f  hello\n"},
		{line: "md5sum none", errs: `md5sum "none": no such file or directory`, code: 1},
		{line: "md5sum none hello", out: md5Hello + "  hello\n", errs: "no such file", code: 1},
		{line: "md5sum /", errs: "directory", code: 1},
		{line: "md5sum -c hello", errs: "use: md5sum", code: 2},
		{line: "rclone hashsum nonsense hello", errs: "use: rclone", code: 2},
		{line: "xxhsum hello", errs: "use: xxhsum", code: 2},
		{line: "md5sum 'esc\x1b[2J'", errs: `"esc\x1b[2J"`, code: 1},
		{line: "df none", errs: "no such file", code: 4},
		{line: "df / /", errs: "use: df", code: 2},
		{line: "quota now", errs: "use: quota", code: 2},
		{line: "versions", errs: "use: versions", code: 2},
		{line: "versions none", errs: "no such file", code: 4},
		{line: "snapshots", out: "no snapshots yet\n"},
		{line: "reboot -f /", errs: `vaultd: refused: exec "reboot -f /": not a command of this server. See: ssh HOST help`, code: 127},
		{line: "rm -rf /", errs: "use: rm -r with a directory below /", code: 2},
		{line: "rclone serve restic", errs: "not a command of this server", code: 127},
		{line: "rclone", errs: "not a command", code: 127},
		{line: "md5sum hello; reboot", out: md5Hello + "  hello\n", errs: `exec "reboot"`, code: 127},
		{line: "md5sum hello & true", errs: "this needs a shell", code: 127},
		{line: "md5sum 'hello", errs: "a quote is not closed", code: 127},
		{line: "''", errs: "not a command", code: 127},
		{line: "\x1b]0,owned\x07", errs: `exec "\x1b]0,owned\a": not a command`, code: 127},
		{line: "uname -s; lsb_release", out: "Linux\n", errs: "not a command of this server", code: 127},
		{line: strings.Repeat("x", 1<<20), errs: "not a command of this server", code: 127},
		{line: "echo " + strings.Repeat("x", 1<<20), errs: "the command line is too long", code: 127},
	} {
		out, errs, code := h.ask(c.line, nil)
		if out != c.out || code != c.code || !strings.Contains(errs, c.errs) || c.errs == "" && errs != "" {
			t.Errorf("%.60q: %q, %q, status %d; want %q, %q, %d", c.line, out, errs, code, c.out, c.errs, c.code)
		}
		if strings.ContainsAny(errs, "\x1b\x07") || strings.Count(errs, "\n") > 1 || len(errs) > 1000 {
			t.Errorf("%.60q: stderr is not one harmless line: %.300q", c.line, errs)
		}
	}
}

// What rclone asks on first contact: the checksum of nothing, from standard input
// (rclone, backend/sftp/sftp.go: Hashes; the values are its own).
func TestEmptyStdin(t *testing.T) {
	h := newHost(t)
	for line, want := range map[string]string{
		"md5sum":                "d41d8cd98f00b204e9800998ecf8427e",
		"md5 -r":                "d41d8cd98f00b204e9800998ecf8427e",
		"rclone md5sum":         "d41d8cd98f00b204e9800998ecf8427e",
		"sha1sum":               "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"sha1 -r":               "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"rclone sha1sum":        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
		"crc32":                 "00000000",
		"rclone hashsum crc32":  "00000000",
		"sha256sum":             "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"rclone hashsum sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"b3sum":                 "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		"rclone hashsum blake3": "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
		"rclone hashsum xxh3":   "2d06800538d394c2",
		"xxh128sum":             "99aa06d3014798d86001c324468d497f",
		"xxhsum -H2":            "99aa06d3014798d86001c324468d497f",
		"rclone hashsum xxh128": "99aa06d3014798d86001c324468d497f",
		"md5sum -":              "d41d8cd98f00b204e9800998ecf8427e",
	} {
		out, errs, code := h.ask(line, strings.NewReader(""))
		got, _, _ := strings.Cut(strings.TrimSpace(out), " ") // as rclone's parseHash
		if got != want || errs != "" || code != 0 || !strings.HasSuffix(out, "\n") {
			t.Errorf("%s: %q, %q, status %d; want %s", line, out, errs, code, want)
		}
	}
}

func TestStdin(t *testing.T) {
	h := newHost(t)
	if out, _, code := h.ask("md5sum", strings.NewReader("hello")); out != md5Hello+"  -\n" || code != 0 {
		t.Errorf("%q, status %d", out, code)
	}
	h.cfg.MaxStdin = 4
	if out, errs, code := h.ask("md5sum", strings.NewReader("hello")); out != "" || code != 1 || !strings.Contains(errs, "longer than") {
		t.Errorf("too long: %q, %q, status %d", out, errs, code)
	}
	if out, _, code := h.ask("md5sum", strings.NewReader("four")); !strings.HasSuffix(out, "  -\n") || code != 0 {
		t.Errorf("just short enough: %q, status %d", out, code)
	}
}

// The same bytes on standard output and status as the real tool gives.
func TestLikeCoreutils(t *testing.T) {
	h := newHost(t)
	dir := t.TempDir()
	for _, tool := range []string{"md5sum", "sha1sum", "sha256sum", "sha512sum"} {
		path, err := exec.LookPath(tool)
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{}, {"-b"}, {"missing"}} {
			cmd := exec.Command(path, args...)
			cmd.Dir, cmd.Stdin = dir, strings.NewReader("data")
			want, _ := cmd.Output()
			out, _, code := h.ask(strings.Join(append([]string{tool}, args...), " "), strings.NewReader("data"))
			// coreutils marks -b with an asterisk, which stands for nothing here
			if out != strings.Replace(string(want), " *", "  ", 1) || code != cmd.ProcessState.ExitCode() {
				t.Errorf("%s %q: %q, status %d; the tool: %q, %d", tool, args, out, code, want, cmd.ProcessState.ExitCode())
			}
		}
	}
}

func TestShellRequest(t *testing.T) {
	h := newHost(t)
	for _, line := range []string{"", "  ", "help"} {
		out, errs, code := h.ask(line, nil)
		if !strings.Contains(out, "/.vault/at/2d/PATH") || errs != "" || code != 0 {
			t.Errorf("%q: %q, %q, status %d", line, out, errs, code)
		}
	}
}

// What the operator is about to change is told by those commands that ask how things are.
func TestNotices(t *testing.T) {
	h := newHost(t)
	for line, want := range map[string]string{"notices": "nothing is about to change\n", "notices --json": `{"schema":"vaultd.notices/v1","notices":[]}` + "\n",
		"status": "all is well: 0 B used, no limit\n"} {
		if out, errs, code := h.ask(line, nil); out != want || errs != "" || code != 0 {
			t.Errorf("%s: %q, %q, status %d", line, out, errs, code)
		}
	}
	h.notices = []string{"it ends", "tomorrow"}
	for line, want := range map[string]string{"notices": "it ends\ntomorrow\n", "notices --json": `"notices":["it ends","tomorrow"]`,
		"status": "look at what is about to change: 0 B used, no limit\nNOTICE: it ends\nNOTICE: tomorrow\n", "status --json": `"notices":["it ends","tomorrow"]`,
		"help": "\nNOTICE: it ends\n\nNOTICE: tomorrow\n", "": "NOTICE: tomorrow\n"} {
		if out, errs, code := h.ask(line, nil); !strings.Contains(out, want) || errs != "" || code != 0 {
			t.Errorf("%s: %q, %q, status %d", line, out, errs, code)
		}
	}
	// Nothing that a program reads is disturbed.
	for _, line := range []string{"true", "echo x", "version", "quota --json"} {
		if out, errs, _ := h.ask(line, nil); strings.Contains(out+errs, "it ends") {
			t.Errorf("%s: %q, %q", line, out, errs)
		}
	}
	if _, _, code := h.ask("status now", nil); code != 2 {
		t.Errorf("status %d", code)
	}
}

func TestReports(t *testing.T) {
	h := newHost(t)
	h.put("/f", "one")
	h.put("/f", "twoo")
	h.put("/bad\xff\x1b", "x")
	if _, err := h.vault.Snapshot(t.Context(), "first", "manual"); err != nil {
		t.Fatal(err)
	}
	decode := func(line string, v any) {
		t.Helper()
		out, errs, code := h.ask(line, nil)
		if err := json.Unmarshal([]byte(out), v); err != nil || errs != "" || code != 0 {
			t.Fatalf("%s: %q, %q, status %d: %v", line, out, errs, code, err)
		}
	}
	var q struct {
		Schema string
		Used   int64 `json:"used_bytes"`
		Files  int64
	}
	decode("quota --json", &q)
	if q.Schema != "vaultd.quota/v1" || q.Used < 8 || q.Files < 2 {
		t.Errorf("quota %+v", q)
	}
	var d struct {
		Schema string
		Total  uint64 `json:"total_bytes"`
		Used   uint64 `json:"used_bytes"`
		Free   uint64 `json:"free_bytes"`
	}
	decode("df --json /", &d)
	if d.Schema != "vaultd.df/v1" || d.Total != 1<<40 || d.Used+d.Free != d.Total {
		t.Errorf("df %+v", d)
	}
	var v struct {
		Schema   string
		Path     string
		Bytes    []byte `json:"path_bytes"`
		Versions []struct {
			Until  *time.Time
			Size   int64 `json:"size_bytes"`
			SHA256 string
		}
	}
	decode("versions --json /f", &v)
	if v.Schema != "vaultd.versions/v1" || v.Path != "/f" || v.Bytes != nil || len(v.Versions) != 2 ||
		v.Versions[0].Size != 4 || v.Versions[0].Until != nil || v.Versions[1].Size != 3 || v.Versions[1].Until == nil || len(v.Versions[1].SHA256) != 64 {
		t.Errorf("versions %+v", v)
	}
	decode("versions --json '/bad\xff\x1b'", &v)
	if string(v.Bytes) != "/bad\xff\x1b" {
		t.Errorf("bytes of an odd name %q", v.Bytes)
	}
	var s struct {
		Schema    string
		Snapshots []struct{ Name, Kind string }
	}
	decode("snapshots --json", &s)
	if s.Schema != "vaultd.snapshots/v1" || len(s.Snapshots) != 1 || s.Snapshots[0].Name != "first" {
		t.Errorf("snapshots %+v", s)
	}
	for line, want := range map[string]string{
		"quota":       "earlier versions",
		"versions /f": "2026-11-22T10:00:00Z  now",
		"snapshots":   "2026-11-22T10:00:00Z  first  manual",
		"df -h":       "1.0TiB 512GiB 512GiB",
	} {
		if out, _, code := h.ask(line, nil); !strings.Contains(out, want) || code != 0 {
			t.Errorf("%s: %q, status %d; want %q in it", line, out, code, want)
		}
	}
	// rclone's parseUsage: the second line's fields 2 to 4 are KiB, and there are at least six
	out, _, _ := h.ask("df -k /", nil)
	f := strings.Fields(strings.Split(out, "\n")[1])
	if len(f) != 6 || f[1] != "1073741824" || f[2] != "536870912" || f[3] != "536870912" || f[4] != "50%" {
		t.Errorf("df -k: %q", out)
	}
}

// A push key may not learn what others stored by its checksum: the refusal is status 77.
func TestRefusedHash(t *testing.T) {
	h := newHost(t)
	h.put("/f", "one")
	out, errs, code := h.askAs(appendonly.Push, "md5sum /f", nil)
	if out != "" || code != 77 || !strings.HasPrefix(errs, "vaultd: refused: hash ") {
		t.Errorf("%q, %q, status %d", out, errs, code)
	}
}

func TestPrograms(t *testing.T) {
	h := newHost(t)
	served := ""
	p := session.HandlerFunc(func(_ context.Context, s *session.Session) error {
		served = s.Command
		return &session.ExitError{Code: 23}
	})
	h.cfg.Programs = map[string]session.Handler{"rsync": p, "rclone": p, "echo": p}
	for line, want := range map[string]bool{
		"rsync --server . x": true, "/usr/bin/rsync --server": true, "rsync `odd`": true, "rclone serve restic --stdio x": true,
		"rclone md5sum": false, "echo a": false, "rsyncd": false,
	} {
		served = ""
		_, _, code := h.ask(line, strings.NewReader(""))
		if (served == line) != want || want != (code == 23) {
			t.Errorf("%q: served %q, status %d", line, served, code)
		}
	}
}

// Cancelling wakes a command that waits for standard input.
func TestCancelled(t *testing.T) {
	h := newHost(t)
	f := h.vault.Session(appendonly.Who{Key: "k2", Session: "s2"})
	defer f.Close(t.Context())
	here, there := net.Pipe()
	defer there.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- shell.New(shell.Config{}).Serve(ctx, &session.Session{FS: f, Command: "md5sum", Stdin: here, Stdout: io.Discard, Stderr: io.Discard, Log: h.log})
	}()
	if _, err := there.Write([]byte("some")); err != nil {
		t.Fatal(err)
	}
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Serve does not return")
	}
}
