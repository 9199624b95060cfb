package tests

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rogpeppe/go-internal/txtar"
)

// volatile is what is different in every run of a script, and what a golden file has in its place.
var volatile = []struct {
	re   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(` {2,}`), "  "}, // columns are as wide as what was in them
	{regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d UTC`), "TIME"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d_\d\d\.\d\d\.\d\d`), "STAMP"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d`), "DAY"},
	{regexp.MustCompile(`t-[a-z2-7]{12}`), "TENANT-ID"},
	{regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`), "FINGERPRINT"},
	{regexp.MustCompile(`"public_key":"[^"]*"`), `"public_key":"KEY"`},
	{regexp.MustCompile(`"(id|key)":"[A-Za-z0-9_-]{16}"`), `"$1":"KEY-ID"`},
	{regexp.MustCompile(`(?m)(^| )[A-Za-z0-9_-]{16}( |$)`), "${1}KEY-ID${2}"},
	{regexp.MustCompile(`\b[0-9a-f]{64}\b`), "HASH"},
	{regexp.MustCompile(`"(took_ns|journal_bytes|used_bytes)":\d+`), `"$1":N`},
	{regexp.MustCompile(`(?m)^TIME  \S+  `), "TIME  WHO  "},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`"who":"[^"]*"`), `"who":"WHO"`},
	{regexp.MustCompile(`(?m) +$`), ""},
}

// golden lets the scripts' golden files be written anew: go test ./tests -run 'TestScript/NAME$' -golden. Read the difference.
var golden = flag.Bool("golden", false, "write the scripts' golden files instead of comparing them")

// testdata is the scripts' directory, whatever the working directory is.
var testdata = func() string {
	dir, err := filepath.Abs("testdata")
	if err != nil {
		panic(err)
	}
	return dir
}()

// rewrite replaces one file of a script.
func rewrite(script, name, text string) error {
	a, err := txtar.ParseFile(script)
	if err != nil {
		return err
	}
	for i := range a.Files {
		if a.Files[i].Name == name {
			a.Files[i].Data = []byte(text)
		}
	}
	return os.WriteFile(script, txtar.Format(a), 0o644)
}

func cmdGolden(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: golden FILE")
	}
	normal := func(s string) string {
		if s != "" && !strings.HasSuffix(s, "\n") {
			s += "\n"
		}
		s = strings.ReplaceAll(s, ts.Getenv("WORK"), "WORK")
		for _, v := range volatile {
			s = v.re.ReplaceAllString(s, v.with)
		}
		return s
	}
	got, want := normal(ts.ReadFile("stdout")), normal(ts.ReadFile(args[0]))
	if got != want && *golden {
		ts.Check(rewrite(filepath.Join(testdata, ts.Name()+".txtar"), args[0], got))
		return
	}
	if got != want {
		ts.Fatalf("%s has\n%s\nand the command said\n%s", args[0], want, got)
	}
}
