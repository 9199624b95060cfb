package shellwords_test

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"vaultd/internal/shellwords"
)

func TestSplitWords(t *testing.T) {
	for _, c := range []struct {
		line string
		want []string
		err  error
	}{
		{"", nil, nil},
		{" \t ", nil, nil},
		{"md5sum", []string{"md5sum"}, nil},
		{"  a \t b  ", []string{"a", "b"}, nil},
		// rclone: everything odd is backslash-escaped, a newline is in single quotes
		{`md5sum /a\ b\'c\"d\\e\$f`, []string{"md5sum", `/a b'c"d\e$f`}, nil},
		{"md5sum /new'\n'line", []string{"md5sum", "/new\nline"}, nil},
		{"echo ${ShellId}%ComSpec%", []string{"echo", "%ComSpec%"}, nil},
		{"echo $HOME/x a$b", []string{"echo", "/x", "a"}, nil},
		{"echo ${A} $B", []string{"echo"}, nil},           // nothing is no word
		{`echo "${A}" ''`, []string{"echo", "", ""}, nil}, // unless quoted
		{`"a b"'c d'e\ f`, []string{"a bc de f"}, nil},
		{`"a\"b\\c\$d\e"`, []string{`a"b\c$d\e`}, nil},
		{"a\\\nb \"c\\\nd\"", []string{"ab", "cd"}, nil}, // continued lines
		{"a# '#'", []string{"a#", "#"}, nil},
		{"5$ $% *.go ~/x", []string{"5$", "$%", "*.go", "~/x"}, nil},
		{"\xff\xfe \x01", []string{"\xff\xfe", "\x01"}, nil},
		{"'a", nil, shellwords.ErrQuote},
		{`"a`, nil, shellwords.ErrQuote},
		{`a\`, nil, shellwords.ErrQuote},
		{"a; b", nil, shellwords.ErrShell},
		{"a | b", nil, shellwords.ErrShell},
		{"a && b", nil, shellwords.ErrShell},
		{"a > b", nil, shellwords.ErrShell},
		{"a\nb", nil, shellwords.ErrShell},
		{"a `b`", nil, shellwords.ErrShell},
		{"a \"`b`\"", nil, shellwords.ErrShell},
		{"a $(b)", nil, shellwords.ErrShell},
		{`a "$(b)"`, nil, shellwords.ErrShell},
		{"a ${b:-c}", nil, shellwords.ErrShell},
		{"a ${", nil, shellwords.ErrShell},
		{"a $1 $?", nil, shellwords.ErrShell},
		{"# a", nil, shellwords.ErrShell},
		{strings.Repeat("a", 128<<10+1), nil, shellwords.ErrTooLong},
		{strings.Repeat("a ", 5000), nil, shellwords.ErrTooLong},
	} {
		got, err := shellwords.Split(c.line)
		if !errors.Is(err, c.err) || !slices.Equal(got, c.want) {
			t.Errorf("%.60q: %q, %v; want %q, %v", c.line, got, err, c.want, c.err)
		}
	}
}

// What is split here must be split so by a real shell: printf writes each word and a NUL. Globs and
// tildes are the only difference, and they are switched off or left out.
func TestSplitLikeASh(t *testing.T) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{`a\ b 'c  d' "e\f\"g" \\ \' ''`, "${X}%ComSpec% a$X.b", `"$X" "" $X 'a'"b"c`, "'\n' \"\n\" a\\\nb",
		`\$ "\$" '$' $% 5$ "a$"`, `a#b "#" \#`, `-n -e \n "\n" '\n'`, "\"a\tb\"\tc", `%s "*" \*`} {
		words, err := shellwords.Split(line)
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		cmd := exec.Command(sh, "-fc", `printf '%s\0' `+line)
		cmd.Env = []string{}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(words, "\x00") + "\x00"; got != string(out) {
			t.Errorf("%q: %q, sh has %q", line, got, out)
		}
	}
}

func FuzzSplitWords(f *testing.F) {
	for _, s := range []string{`a\ b 'c' "d"`, "echo ${ShellId}%ComSpec%", "'", "$", "${", "\\", "a;b", "\xff", `"$`, "a\\\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		words, err := shellwords.Split(line)
		if err != nil {
			return
		}
		// Quoted again, the words are the same: nothing was lost or made up.
		var b strings.Builder
		for _, w := range words {
			if len(w) > len(line) {
				t.Fatalf("%q has the word %q", line, w)
			}
			b.WriteString("'" + strings.ReplaceAll(w, "'", `'\''`) + "' ")
		}
		if b.Len() > 128<<10 {
			return
		}
		again, err := shellwords.Split(b.String())
		if err != nil || !slices.Equal(again, words) {
			t.Fatalf("%q: %q, quoted and split again %q, %v", line, words, again, err)
		}
		if first := shellwords.First(line); len(words) > 0 && first != words[0] {
			t.Fatalf("%q: first word %q, want %q", line, first, words[0])
		}
	})
}

func TestSplitPatterns(t *testing.T) {
	for line, want := range map[string][]string{
		`rsync . /data/my\ dir/*~\$x`: {"rsync", ".", "/data/my dir/*~$x"},
		`a\*b*`:                       {`a\*b*`},
		`'a*?[\'*`:                    {`a\*\?\[\\*`},
		`"a*\$[b]"[c]`:                {`a\*$\[b][c]`},
	} {
		got, err := shellwords.SplitPatterns(line)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", line, got, err, want)
		}
		plain, err := shellwords.Split(line)
		for i := range plain {
			if l := shellwords.Literal(got[i]); err != nil || l != plain[i] {
				t.Errorf("%s: %q is %q literally, want %q", line, got[i], l, plain[i])
			}
		}
	}
}

func TestTokens(t *testing.T) {
	for _, c := range []struct{ line, want string }{
		{"a b", "a b"}, {"a;b&&c||d|e", "a {;} b {&&} c {||} d {|} e"}, {"a 2>/dev/null >f", "a {2>} /dev/null {>} f"}, {"a >>f <g 2>&1", "a {>>} f {<} g {2>&1}"},
		{"a\nb", "a {;} b"}, {"'a;b' \"c|d\" e\\;f", "a;b c|d e;f"}, {"a ''", "a "}, {"$x a", "a"}, {"a2>b", "a2 {>} b"}, {"a 12>b", "a 12 {>} b"}, {"'*' *", "\\* *"},
		{"a&b", ""}, {"a <<b", ""}, {"(a)", ""}, {"`a`", ""}, {"#a", ""}, {"a '", ""}, {"a & b", ""},
	} {
		tokens, err := shellwords.Tokens(c.line)
		var got []string
		for _, tok := range tokens {
			if tok.Operator {
				got = append(got, "{"+tok.Text+"}")
			} else {
				got = append(got, tok.Text)
			}
			if tok.Start >= tok.End || tok.End > len(c.line) {
				t.Errorf("%q: token %+v", c.line, tok)
			}
		}
		if (err != nil) != (c.want == "") || err == nil && strings.Join(got, " ") != c.want {
			t.Errorf("%q: %q, %v; want %q", c.line, got, err, c.want)
		}
	}
}

func FuzzTokens(f *testing.F) {
	for _, l := range []string{"a 2>&1 | b", "a\\", "'", "$(a)", "${a}b;c"} {
		f.Add(l)
	}
	f.Fuzz(func(t *testing.T, line string) {
		tokens, err := shellwords.Tokens(line)
		if err != nil {
			return
		}
		at := 0
		for _, tok := range tokens {
			if tok.Start < at || tok.End <= tok.Start || tok.End > len(line) {
				t.Fatalf("%q: token %+v after %d", line, tok, at)
			}
			at = tok.End
		}
	})
}
