package shell

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"vaultd/internal/appendonly"
	"vaultd/internal/session"
)

// condition evaluates the words of test (POSIX, XCU test; with -a, -o and parentheses).
type condition struct {
	*call
	words []string
	depth int
}

var errCondition = errors.New("a condition that is none")

// test is test, and [ with its ].
func test(_ context.Context, c *call) error {
	words := c.args
	if c.name == "[" {
		if len(words) == 0 || words[len(words)-1] != "]" {
			return c.misused("[ CONDITION ]")
		}
		words = words[:len(words)-1]
	}
	t := &condition{call: c, words: words}
	ok, err := len(words) > 0, error(nil)
	if ok {
		ok, err = t.or()
	}
	switch {
	case err != nil || len(t.words) > 0:
		return c.misused(c.name + " CONDITION")
	case !ok:
		return &session.ExitError{Code: exitFailed}
	}
	return nil
}

func (t *condition) take() string {
	w := t.words[0]
	t.words = t.words[1:]
	return w
}

func (t *condition) or() (bool, error) {
	ok, err := t.and()
	for err == nil && len(t.words) > 0 && t.words[0] == "-o" {
		t.take()
		var more bool
		more, err = t.and()
		ok = ok || more
	}
	return ok, err
}

func (t *condition) and() (bool, error) {
	ok, err := t.not()
	for err == nil && len(t.words) > 0 && t.words[0] == "-a" {
		t.take()
		var more bool
		more, err = t.not()
		ok = ok && more
	}
	return ok, err
}

func (t *condition) not() (bool, error) {
	if t.depth++; t.depth > 1000 {
		return false, errCondition
	}
	if len(t.words) > 1 && t.words[0] == "!" {
		t.take()
		ok, err := t.not()
		return !ok, err
	}
	return t.primary()
}

func (t *condition) primary() (bool, error) {
	switch n := len(t.words); {
	case n == 0:
		return false, errCondition
	case n >= 3 && isComparison(t.words[1]):
		a, op, b := t.take(), t.take(), t.take()
		return t.compare(a, op, b)
	case n >= 3 && t.words[0] == "(":
		t.take()
		ok, err := t.or()
		if err == nil && (len(t.words) == 0 || t.take() != ")") {
			err = errCondition
		}
		return ok, err
	case n >= 2 && len(t.words[0]) == 2 && t.words[0][0] == '-':
		return t.unary(t.take()[1], t.take())
	}
	return t.take() != "", nil
}

func isComparison(op string) bool {
	switch op {
	case "=", "==", "!=", "-eq", "-ne", "-lt", "-le", "-gt", "-ge", "-nt", "-ot", "-ef":
		return true
	}
	return false
}

func (t *condition) compare(a, op, b string) (bool, error) {
	switch op {
	case "=", "==":
		return a == b, nil
	case "!=":
		return a != b, nil
	case "-nt", "-ot", "-ef":
		x, xerr := t.FS.StatFollow(t.path(a))
		y, yerr := t.FS.StatFollow(t.path(b))
		switch {
		case op == "-ef":
			return xerr == nil && yerr == nil && x.From == y.From && x.Content == y.Content && x.Name == y.Name, nil
		case op == "-ot":
			x, y, xerr, yerr = y, x, yerr, xerr
		}
		return xerr == nil && (yerr != nil || modified(&x).After(modified(&y))), nil
	}
	x, xerr := strconv.ParseInt(strings.TrimSpace(a), 10, 64)
	y, yerr := strconv.ParseInt(strings.TrimSpace(b), 10, 64)
	if xerr != nil || yerr != nil {
		return false, errCondition
	}
	switch op {
	case "-eq":
		return x == y, nil
	case "-ne":
		return x != y, nil
	case "-lt":
		return x < y, nil
	case "-le":
		return x <= y, nil
	case "-gt":
		return x > y, nil
	}
	return x >= y, nil
}

func (t *condition) unary(op byte, a string) (bool, error) {
	switch op {
	case 'n':
		return a != "", nil
	case 'z':
		return a == "", nil
	case 't':
		return false, nil // nothing here is a terminal
	case 'L', 'h':
		info, err := t.FS.Stat(t.path(a))
		return err == nil && info.Kind == appendonly.KindSymlink, nil
	}
	info, err := t.FS.StatFollow(t.path(a))
	is := func(k appendonly.Kind) (bool, error) { return err == nil && info.Kind == k, nil }
	switch op {
	case 'e', 'a':
		return err == nil, nil
	case 'd':
		return is(appendonly.KindDir)
	case 'f':
		return is(appendonly.KindFile)
	case 'p':
		return is(appendonly.KindFifo)
	case 'S':
		return is(appendonly.KindSocket)
	case 'b':
		return is(appendonly.KindBlockDev)
	case 'c':
		return is(appendonly.KindCharDev)
	case 's':
		return err == nil && info.Size > 0, nil
	case 'r':
		return err == nil && t.FS.Ask(appendonly.OpRead, t.path(a)) == nil, nil
	case 'w':
		if err == nil && info.Kind == appendonly.KindDir {
			return t.FS.Ask(appendonly.OpCreate, t.path(a)+"/.w") == nil, nil
		}
		return err == nil && t.FS.Ask(appendonly.OpOverwrite, t.path(a)) == nil, nil
	case 'x':
		return err == nil && (info.Kind == appendonly.KindDir || modeOf(&info)&0o111 != 0), nil
	}
	return false, errCondition
}
