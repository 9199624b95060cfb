package filter_test

import (
	"fmt"
	"path"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"vaultd/internal/rsync/filter"
)

// rules makes the set of a receiving side of protocol 31 over merge files.
func rules(t testing.TB, files map[string]string, lines ...string) *filter.Set {
	t.Helper()
	s := filter.New(filter.Options{Proto: 31, Read: func(p string) ([]byte, bool) {
		text, ok := files[p]
		return []byte(text), ok
	}})
	s.SetRoot("/top")
	for _, l := range lines {
		if err := s.Add(l); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
	}
	return s
}

// What patterns fit, as rsync(1), PATTERN MATCHING RULES, has it. A slash at a name's end: a directory.
func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern   string
		fits, not string
	}{
		{"foo", "foo a/foo a/b/foo foo/", "foo2 afoo foo/x"},
		{"/foo", "foo foo/", "a/foo"},
		{"foo/", "foo/ a/foo/", "foo a/foo"},
		{"a/foo", "a/foo b/a/foo", "foo xa/foo a/b/foo"},
		{"/a/foo", "a/foo", "b/a/foo"},
		{"*.o", "x.o a/x.o .o", "x.oo x/o"},
		{"a*z", "az abcz d/abz", "a/z ab"},
		{"a?c", "abc x/axc", "ac abbc a/c"},
		{"[a-c]x", "ax bx d/cx", "dx x"},
		{"[!a-c]x", "dx", "ax"},
		{"[^a]x", "bx", "ax"},
		{"[]x]", "] x", "[ y"},
		{"[[:digit:]]", "1 a/9", "a"},
		{"/a/*/c", "a/b/c", "a/c a/b/b/c"},
		{"a/**/c", "a/b/c a/b/b/c x/a/b/c", "a/c a/b"},
		{"/a/**", "a/b a/b/c", "a b/a/x"},
		{"/a/***", "a/ a/b a/b/c", "b/ a"},
		{"**/foo", "foo a/foo a/b/foo", "foo2"},
		{"**foo", "foo xfoo a/xfoo", "foo2"},
		{`\*`, "*", "x \\*"},
		{`a\*b`, "a*b", `axb a\*b`},
		{`a\b`, `a\b`, "ab"}, // without a wildcard a backslash is one
		{`a\*b?`, "a*bc", "axbc"},
		{"[", "", "[ x"},
		{"[a", "", "[a a"},
	} {
		s := rules(t, nil, "- "+c.pattern)
		for i, names := range []string{c.fits, c.not} {
			for name := range strings.FieldsSeq(names) {
				dir := strings.HasSuffix(name, "/")
				if got := s.Hidden(strings.TrimSuffix(name, "/"), dir); got != (i == 0) {
					t.Errorf("%q on %q: %v", c.pattern, name, got)
				}
			}
		}
	}
}

// The first rule that fits decides; sides, modifiers and merge files.
func TestRules(t *testing.T) {
	files := map[string]string{"/top/.r": "- *.o\n+ keep\n", "/top/d/.r": "# comment\n\n! \n+ *.o\n", "/top/w": "x y\tz", "/top/d/.n": "- n\n", "/above": "- up\n"}
	for _, c := range []struct {
		rules string // separated by ;
		dir   string // entered, each above it before
		want  string // name=x hidden, name=. not
	}{
		{"+ a;- *", "", "a=. b=x d/a=."},
		{"- a;+ a", "", "a=x"},
		{"exclude a;include,! b", "", "a=x c=. b=."},
		{"-! *.o", "", "x.o=. x=x"},
		{"P a;H b", "", "a=x b=."}, // this side receives: what is hidden there does not count
		{"R a;- a", "", "a=."},
		{"-s a;-r b;-sr c", "", "a=. b=x c=x"},
		{"- a;!;+ b", "", "a=."},
		{": .r", "", "x.o=x keep=."},
		{": .r", "d", "d/x.o=."},
		{":n .n", "d", "d/n=x"},
		{":n .n", "d d/e", "d/e/n=."},
		{": .n", "d d/e", "d/e/n=x"},
		{".-w /top/w", "", "x=x y=x z=x a=."},
		{"-C", "", "a.o=x core=x CVS=x b=."},
		{"dir-merge,- .n", "d", "d/n=."}, // "- n" is one pattern there
		{"-x user.*", "", "user.a=."},
	} {
		s := rules(t, files, strings.Split(c.rules, ";")...)
		if err := s.Enter(""); err != nil {
			t.Fatal(err)
		}
		for d := range strings.FieldsSeq(c.dir) {
			if err := s.Enter(d); err != nil {
				t.Fatal(err)
			}
		}
		for w := range strings.FieldsSeq(c.want) {
			name, want, _ := strings.Cut(w, "=")
			if got := s.Protected(name, false); got != (want == "x") {
				t.Errorf("%s in %q: %s is protected: %v", c.rules, c.dir, name, got)
			}
		}
	}
	if s := rules(t, nil, "-x user.*"); !s.HidesXAttr("user.a") || s.HidesXAttr("trusted.a") {
		t.Error("rules for attributes")
	}
	if s := rules(t, nil, "-p a"); !s.Protected("a", false) || s.ProtectedDeep("a", false) {
		t.Error("perishable rules")
	}
}

func TestBadRules(t *testing.T) {
	for _, l := range []string{"x a", "excluded a", "-z a", "- ", "+", "!a b", "-n a", "Hs a", ":C- .x", "merge"} {
		if err := filter.New(filter.Options{Proto: 31}).Add(l); err == nil {
			t.Errorf("%q is taken", l)
		}
	}
}

// A plain shell pattern means what path.Match says.
func TestLikePathMatch(t *testing.T) {
	word := rapid.StringOfN(rapid.SampledFrom([]rune("ab*?.")), 1, 8, -1)
	rapid.Check(t, func(t *rapid.T) {
		p, name := word.Draw(t, "pattern"), rapid.StringOfN(rapid.SampledFrom([]rune("ab.")), 1, 8, -1).Draw(t, "name")
		if strings.Contains(p, "**") {
			return
		}
		want, err := path.Match(p, name)
		if err != nil {
			return
		}
		s := filter.New(filter.Options{Proto: 31})
		if err := s.Add("- " + p); err != nil {
			t.Fatal(err)
		}
		if got := s.Hidden(name, false); got != want {
			t.Fatalf("%q on %q: %v, path.Match says %v", p, name, got, want)
		}
	})
}

// The worst patterns cost no more than pattern times name.
func TestPatternsAreCheap(t *testing.T) {
	s := rules(t, nil, "- "+strings.Repeat("*a", 500)+"b", "- "+strings.Repeat("**/a", 500)+"b", "- "+strings.Repeat("[a-b]*", 300))
	name := strings.Repeat("a", 2000) + "/" + strings.Repeat("a", 2000)
	began := time.Now()
	for range 20 {
		s.Hidden(name, false)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

func FuzzRules(f *testing.F) {
	for _, l := range []string{"- *.o\n+ a/\nP [a-c]**", ": .rules\n-C\n!", "merge,w x", "dir-merge,-e .r\n- [[:alpha:]]"} {
		f.Add(l, "a/b.o")
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		s := filter.New(filter.Options{Proto: 31, Read: func(p string) ([]byte, bool) { return []byte(text), len(p)%3 == 0 }})
		for l := range strings.Lines(text) {
			if err := s.Add(strings.TrimSuffix(l, "\n")); err != nil && err.Error() == "" {
				t.Error("an error without words")
			}
		}
		for _, dir := range []string{"", "d", "d/e", "x"} {
			if s.Enter(dir) != nil {
				return
			}
			s.Protected(path.Join(dir, name), len(name)%2 == 0)
			s.ProtectedDeep(path.Join(dir, name), false)
		}
		s.LeaveAll()
		if got, again := s.Check(name, false), s.Check(name, false); got != again {
			t.Error(fmt.Sprint("it is said differently twice: ", got, again))
		}
	})
}
