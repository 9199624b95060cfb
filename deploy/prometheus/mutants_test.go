package prometheus_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"vaultd/deploy/prometheus"
)

// TestMutants changes the rules one thing at a time (an operator, a number, a duration, a matcher), and wants promtool's unit tests to fail each time: a
// test that passes whatever the rule says proves nothing.
func TestMutants(t *testing.T) {
	unnoticed := map[string]string{}
	for _, u := range equivalent {
		unnoticed[u.rule+": "+u.change] = u.why
	}
	for _, file := range glob(t, "rules/*.yml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		tests := glob(t, strings.TrimSuffix(filepath.Join("tests", filepath.Base(file)), ".yml")+"*.yml")
		for _, m := range mutants(string(text)) {
			name := m.rule + ": " + m.change
			why, same := unnoticed[name]
			delete(unnoticed, name)
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				out, err := testMutant(t, file, m.text, tests)
				switch {
				case err == nil && !same:
					t.Errorf("no unit test fails")
				case err != nil && !strings.Contains(out, "FAILED"):
					t.Errorf("the mutant is no valid rule: %v\n%s", err, out)
				case err != nil && same:
					t.Errorf("a unit test fails, though it should not matter: %s\n%s", why, out)
				}
			})
		}
	}
	for name := range unnoticed {
		t.Errorf("%s: there is no such mutant any more", name)
	}
}

// testMutant runs the tests with one file of rules exchanged.
func testMutant(t *testing.T, file, text string, tests []string) (string, error) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, prometheus.Files); err != nil { // a test may need another file's rules, too
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tests"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := []string{"test", "rules"}
	for _, name := range tests {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, filepath.Join(dir, name))
	}
	out, err := exec.Command("promtool", args...).CombinedOutput()
	return string(out), err
}

// mutant is a file of rules with one thing changed.
type mutant struct{ rule, change, text string }

var (
	ruleStart = regexp.MustCompile(`(?m)^      - (?:record|alert): (\S+)\n`)
	exprPart  = regexp.MustCompile(`(?m)^        expr:(?: >-\n(?:          .*\n)+| .*\n)`)
	forPart   = regexp.MustCompile(`(?m)^        for: (\S+)\n`)
	token     = regexp.MustCompile(`"[^"]*"|=~|!~|!=|==|<=|>=|[<>=]|\[\w+\]|offset \w+|\b(?:and|or|unless)\b|\b(?:max|min|sum|count|avg)\b|[a-zA-Z_:][\w:]*|\d[\d.e]*\w*`)
)

// mutants are all that this test knows to change in a file, whose rules are written the way ours are.
func mutants(text string) []mutant {
	var all []mutant
	starts := ruleStart.FindAllStringSubmatchIndex(text, -1)
	for i, s := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		seen := map[string]int{}
		change := func(from, to int, with string) {
			what := fmt.Sprintf("%s -> %s", text[from:to], with)
			if seen[what]++; seen[what] > 1 {
				what += fmt.Sprintf(" (%d)", seen[what])
			}
			all = append(all, mutant{text[s[2]:s[3]], what, text[:from] + with + text[to:]})
		}
		body := text[s[1]:end]
		if e := exprPart.FindStringIndex(body); e != nil {
			from := s[1] + e[0] + len("        expr:")
			for _, tok := range token.FindAllStringIndex(text[from:s[1]+e[1]], -1) {
				if word := text[from+tok[0] : from+tok[1]]; strings.Contains(word, "|") { // the same list of words at each place where it stands
					if seen[word]++; seen[word] == 1 {
						for _, with := range mutations(word) {
							all = append(all, mutant{text[s[2]:s[3]], word + " -> " + with, text[:from] + strings.ReplaceAll(text[from:s[1]+e[1]], word, with) + text[s[1]+e[1]:]})
						}
					}
					continue
				}
				for _, with := range mutations(text[from+tok[0] : from+tok[1]]) {
					change(from+tok[0], from+tok[1], with)
				}
			}
		}
		if f := forPart.FindStringSubmatchIndex(body); f != nil {
			d := body[f[2]:f[3]]
			for _, percent := range []time.Duration{50, 150} {
				change(s[1]+f[2], s[1]+f[3], scale(d, percent))
			}
		}
	}
	return all
}

func mutations(tok string) []string {
	switch tok {
	case ">":
		return []string{"<"}
	case "<":
		return []string{">"}
	case "<=":
		return []string{">"}
	case "==":
		return []string{"!="}
	case "!=":
		return []string{"="}
	case "=":
		return []string{"!="}
	case "=~":
		return []string{"!~"}
	case "and":
		return []string{"unless"}
	case "unless", "or":
		return []string{"and"}
	case "0":
		return []string{"-1"}
	}
	if inner, ok := strings.CutPrefix(tok, "["); ok {
		inner = strings.TrimSuffix(inner, "]")
		return []string{"[" + scale(inner, 50) + "]", "[" + scale(inner, 200) + "]"}
	}
	if d, ok := strings.CutPrefix(tok, "offset "); ok {
		return []string{"offset " + scale(d, 50), "offset " + scale(d, 200)}
	}
	if words := strings.Split(strings.Trim(tok, `"`), "|"); tok[0] == '"' && len(words) > 1 {
		var out []string
		for i := range words {
			out = append(out, `"`+strings.Join(append(append([]string{}, words[:i]...), words[i+1:]...), "|")+`"`)
		}
		return out
	}
	if n, err := strconv.ParseFloat(tok, 64); err == nil {
		return []string{fmt.Sprint(n * 0.9), fmt.Sprint(n * 1.1)}
	}
	return nil
}

// scale is a duration of Prometheus's times percent.
func scale(d string, percent time.Duration) string {
	unit := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[d[len(d)-1]]
	n, err := strconv.Atoi(d[:len(d)-1])
	if err != nil || unit == 0 {
		panic("internal error: a duration like " + d)
	}
	return fmt.Sprintf("%ds", time.Duration(n)*unit*percent/100/time.Second)
}

// equivalent are the mutants that no test can tell from the rule, or need not, and why.
var equivalent = []struct{ rule, change, why string }{
	{"tenant:vaultd_push_bytes:median1w", "0.5 -> 0.45", "what is usual is not that exact"},
	{"tenant:vaultd_push_bytes:median1w", "0.5 -> 0.55", "what is usual is not that exact"},
	{"tenant:vaultd_push_bytes:median1w", "offset 1d -> offset 43200s", "half a day of a week does not move its median"},
}
