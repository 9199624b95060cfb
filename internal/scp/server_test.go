package scp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
	"vaultd/internal/volume/volumetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a tenant in memory.
type fixture struct {
	t     testing.TB
	vault *appendonly.Vault
}

func newFixture(t testing.TB, mode appendonly.Mode) *fixture {
	vol := volumetest.New(t)
	v, err := appendonly.Open(appendonly.Config{Volume: vol, Segments: vol, IndexPath: filepath.Join(t.TempDir(), "index.db"),
		Policy: appendonly.Policy{Mode: mode, ResumeWindow: time.Hour}, Boot: "b"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return &fixture{t, v}
}

// say runs a command with all that the client says, and returns what it hears.
func (f *fixture) say(command, in string) (out, errs string, err error) {
	fs := f.vault.Session(appendonly.Who{Key: "key", Protocol: "scp"})
	var o, e bytes.Buffer
	err = Server{}.Serve(context.Background(), &session.Session{Tenant: "t", FS: fs, Command: command, Stdin: strings.NewReader(in), Stdout: &o, Stderr: &e,
		Log: slog.New(slog.DiscardHandler)})
	if cerr := fs.Close(context.Background()); cerr != nil {
		f.t.Error(cerr)
	}
	return o.String(), e.String(), err
}

// tree lists what is live: "name=content".
func (f *fixture) tree() (all []string) {
	fs := f.vault.Session(appendonly.Who{Key: "key", Protocol: "scp"})
	defer fs.Close(context.Background())
	var walk func(dir string)
	walk = func(dir string) {
		d, err := fs.OpenDir(dir)
		if err != nil {
			f.t.Fatal(err)
		}
		err = d.Each(func(i *appendonly.Info) error {
			p := dir + i.Name
			if i.Kind == appendonly.KindDir {
				all = append(all, p+"/")
				walk(p + "/")
				return nil
			}
			c, err := fs.Open(p)
			if err != nil {
				return err
			}
			b, err := io.ReadAll(io.NewSectionReader(c, 0, i.Size))
			all = append(all, p+"="+string(b))
			return errors.Join(err, c.Close())
		})
		if err != nil {
			f.t.Fatal(err)
		}
	}
	walk("/")
	return all
}

// Each row is what a client says, and what it hears and leaves.
func TestSink(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	tests := []struct {
		name, command, in string
		out               string // ends with
		fails             bool
		tree              string
	}{
		{"a file", "scp -t a", "C0644 2 a\nhi\x00", "\x00\x00\x00", false, "/a=hi"},
		{"into a directory", "scp -t .", "C0644 2 a\nhi\x00C0644 0 b\n\x00", "\x00\x00\x00\x00\x00", false, "/a=hi /b="},
		{"times and a tree", "scp -prt .", "T1 0 2 0\nD0700 0 d\nC0644 2 a\nhi\x00E\n", "\x00\x00\x00\x00\x00\x00", false, "/d/ /d/a=hi"},
		{"bundled and spread options", "scp -v -r -d -p -t -- .", "C0644 1 a\nh\x00", "\x00", false, "/a=h"},
		{"cut in the bytes", "scp -t a", "C0644 5 a\nhi", "\x00\x00", true, ""},
		{"cut before the status", "scp -t a", "C0644 2 a\nhi", "\x00\x00", true, ""},
		{"cut in a line", "scp -t a", "C0644 2", "\x00", true, ""},
		{"the client could not read it", "scp -t a", "C0644 2 a\nhi\x01scp: read error\n", "could not read it\n", true, ""},
		{"the client gives up", "scp -t a", "\x02scp: lost\n", "\x00", true, ""},
		{"the client goes on", "scp -t .", "\x01scp: no x\nC0644 1 a\nh\x00", "\x00", true, "/a=h"},
		{"a name with a slash", "scp -t .", "C0644 2 ../a\nhi\x00", "unexpected name\n", true, ""},
		{"dot dot", "scp -rt .", "D0755 0 ..\nC0644 2 a\nhi\x00E\n", "unexpected name\n", true, ""},
		{"dot", "scp -t .", "C0644 2 .\nhi\x00", "unexpected name\n", true, ""},
		{"no name", "scp -t .", "C0644 2 \nhi\x00", "unexpected name\n", true, ""},
		{"a name with NUL", "scp -t .", "C0644 2 a\x00b\nhi\x00", "unexpected name\n", true, ""},
		{"a reserved name", "scp -t .", "C0644 2 .vault\nhi\x00", "(P2). Use another name\n", true, ""},
		{"a huge size", "scp -t a", "C0644 99999999999999999999 a\n", "bad line\n", true, ""},
		{"a negative size", "scp -t a", "C0644 -1 a\n", "bad line\n", true, ""},
		{"a promise of 4 EiB", "scp -t a", "C0644 4000000000000000000 a\nhi", "\x00\x00", true, ""},
		{"a bad mode", "scp -t a", "C99999 1 a\n", "bad line\n", true, ""},
		{"setuid", "scp -pt a", "C4755 1 a\nh\x00", "\x00", false, "/a=h"},
		{"bad times", "scp -pt a", "T1 0 2\n", "times are not delimited\n", true, ""},
		{"huge times", "scp -pt a", "T9223372036854775807 0 9223372036854775807 0\nC0644 1 a\nh\x00", "\x00", false, "/a=h"},
		{"an end too many", "scp -rt .", "E\n", "did not begin\n", true, ""},
		{"a directory without -r", "scp -t .", "D0755 0 d\n", "without -r\n", true, ""},
		{"a line without end", "scp -t a", long + long, "line is too long\n", true, ""},
		{"nonsense", "scp -t a", "Xyz\n", "expected control record\n", true, ""},
		{"-d and no directory", "scp -d -t a", "C0644 2 a\nhi\x00", "No such file or directory\n", true, ""},
		{"no parent", "scp -t no/a", "C0644 2 a\nhi\x00", "No such file or directory\n", true, ""},
		{"deep", "scp -rt .", strings.Repeat("D0755 0 d\n", maxDepth+1), "in each other\n", true, strings.TrimSpace(deep())},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t, appendonly.Strict)
			out, errs, err := f.say(tt.command, tt.in)
			if !strings.HasSuffix(out, tt.out) {
				t.Errorf("heard %q (%q), want at the end %q", out, errs, tt.out)
			}
			var exit *session.ExitError
			if tt.fails != errors.As(err, &exit) || err != nil && exit == nil {
				t.Errorf("ended with %v", err)
			}
			if got := strings.Join(f.tree(), " "); got != tt.tree {
				t.Errorf("left %q, want %q", got, tt.tree)
			}
		})
	}
}

func deep() string {
	var b strings.Builder
	p := "/"
	for range maxDepth {
		p += "d/"
		b.WriteString(p + " ")
	}
	return b.String()
}

// What is refused is refused with a line, and the next file is taken.
func TestRefused(t *testing.T) {
	f := newFixture(t, appendonly.Strict)
	if _, _, err := f.say("scp -t a", "C0644 2 a\nhi\x00"); err != nil {
		t.Fatal(err)
	}
	out, _, err := f.say("scp -t .", "C0644 2 a\nHO\x00C0644 1 b\nx\x00")
	if err == nil || !strings.Contains(out, "\x01scp: refused: overwrite") || strings.Join(f.tree(), " ") != "/a=hi /b=x" {
		t.Errorf("heard %q, %v; left %q", out, err, f.tree())
	}
	if out, _, err := f.say("scp -t a", "C0644 2 a\nhi\x00"); err != nil || out != "\x00\x00\x00" {
		t.Errorf("the same again: %q, %v", out, err)
	}
}

func TestSource(t *testing.T) {
	f := newFixture(t, appendonly.Versioned)
	if _, _, err := f.say("scp -prt .", "T10 0 20 0\nD0700 0 d\nT1 0 2 0\nC0640 2 a\nhi\x00T3 0 4 0\nC0644 0 b\n\x00E\nC0644 1 x\nx\x00"); err != nil {
		t.Fatal(err)
	}
	yes := strings.Repeat("\x00", 50)
	for _, tt := range []struct{ command, in, out string }{
		{"scp -f x", yes, "C0644 1 x\nx\x00"},
		{"scp -pf d/a", yes, "T1 0 2 0\nC0640 2 a\nhi\x00"},
		{"scp -rpf d", yes, "T10 0 20 0\nD0700 0 d\nT1 0 2 0\nC0640 2 a\nhi\x00T3 0 4 0\nC0644 0 b\n\x00E\n"},
		{"scp -f d/*", yes, "C0640 2 a\nhi\x00C0644 0 b\n\x00"},
		{"scp -f 'd/*'", yes, "\x01scp: \"/d/*\": No such file or directory\n"},
		{"scp -f d x", yes, "\x01scp: \"/d\": not a regular file\nC0644 1 x\nx\x00"},
		{"scp -f x d/a", "\x00\x01scp: no space\n\x00\x00\x00\x00", "C0644 1 x\nC0640 2 a\nhi\x00"},
		{"scp -f x d/a", "\x00\x02scp: enough\n", "C0644 1 x\n"},
		{"scp -f ../../x", yes, "C0644 1 x\nx\x00"},
		{"scp -f .vault/at/0s/x", yes, "C0644 1 x\nx\x00"},
		{"scp -f x", "", ""},
		{"scp -f x", "\x00", "C0644 1 x\n"},
	} {
		out, _, _ := f.say(tt.command, tt.in)
		if out != tt.out {
			t.Errorf("%s: heard %q, want %q", tt.command, out, tt.out)
		}
	}
}

func TestUsage(t *testing.T) {
	f := newFixture(t, appendonly.Strict)
	for _, line := range []string{"scp", "scp a", "scp -t", "scp -f", "scp -t a b", "scp -t -f a", "scp -S prog -t a", "scp -o x -t a", "scp -t 'a"} {
		out, errs, err := f.say(line, "")
		var exit *session.ExitError
		if out != "" || !strings.HasPrefix(errs, "vaultd: error: scp: ") || !errors.As(err, &exit) || exit.Code != 1 {
			t.Errorf("%s: %q %q %v", line, out, errs, err)
		}
	}
}

// Whatever a client says, it gets an answer or an end, and nothing but whole files is left.
func FuzzSink(f *testing.F) {
	f.Add("C0644 2 a\nhi\x00", true)
	f.Add("T1 0 2 0\nD0755 0 d\nC0644 2 a\nhi\x00E\n", true)
	f.Add("\x01x\n\x02y\n", false)
	f.Fuzz(func(t *testing.T, in string, recursive bool) {
		x := newFixture(t, appendonly.Versioned)
		command := "scp -pt ."
		if recursive {
			command = "scp -rpt ."
		}
		out, _, err := x.say(command, in)
		var exit *session.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatalf("%v after %q", err, out)
		}
		for _, n := range x.tree() {
			if strings.Contains(n, "/../") || strings.HasPrefix(n, "/.vault") {
				t.Errorf("left %q", n)
			}
		}
	})
}

func Example() {
	h, err := parseEntry("0644 12 a name")
	fmt.Printf("%04o %d %q %v\n", h.mode, h.size, h.name, err)
	// Output: 0644 12 "a name" <nil>
}
