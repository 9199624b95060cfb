package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"time"

	"vaultd/internal/appendonly"
)

// A find is parsed into a tree of conditions, which then looks at every name below the starting points. Symlinks are
// not followed. What would run a program (-exec) or write a file (-fprint) is refused by name.

// found is a name that find looks at.
type found struct {
	path  string // as it is printed
	info  *appendonly.Info
	depth int
	prune bool // what is below is not looked at
}

// predicate is one condition, or action.
type predicate func(ctx context.Context, f *found) (bool, error)

// finder is one find.
type finder struct {
	*call
	words    []string
	min, max int
	late     bool // a directory comes after what is in it
	acts     bool // there is an action: nothing is printed by itself
	nesting  int
	now      time.Time
}

const findUsage = "find [PATH]... [-maxdepth N] [-name PATTERN] [-type T] [-mtime N] [-newer FILE] [-size N] [-empty] [-prune] [-print|-print0|-printf FORMAT|-delete]"

func find(ctx context.Context, c *call) error {
	f := &finder{call: c, words: c.args, max: maxTree, now: time.Now()}
	var starts []string
	for len(f.words) > 0 && !strings.HasPrefix(f.words[0], "-") && f.words[0] != "(" && f.words[0] != "!" || len(f.words) > 0 && (f.words[0] == "-P" || f.words[0] == "-H") {
		if w := f.take(); w[0] != '-' {
			starts = append(starts, w)
		}
	}
	if len(starts) == 0 {
		starts = []string{"."}
	}
	match := predicate(func(context.Context, *found) (bool, error) { return true, nil })
	if len(f.words) > 0 {
		var err error
		if match, err = f.or(); err != nil || len(f.words) > 0 {
			return c.misused(findUsage)
		}
	}
	if !f.acts {
		inner := match
		match = func(ctx context.Context, e *found) (bool, error) {
			ok, err := inner(ctx, e)
			if ok && err == nil {
				_, err = fmt.Fprintln(c.out, e.path)
			}
			return ok, err
		}
	}
	return c.each(ctx, starts, func(name string) error {
		info, err := c.FS.Stat(c.path(name))
		if err != nil {
			return err
		}
		return f.walk(ctx, match, &found{path: name, info: &info})
	})
}

func (f *finder) take() string {
	w := f.words[0]
	f.words = f.words[1:]
	return w
}

// walk looks at a name and at what is below it.
func (f *finder) walk(ctx context.Context, match predicate, e *found) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !f.late && e.depth >= f.min {
		if _, err := match(ctx, e); err != nil {
			return err
		}
	}
	if e.info.Kind == appendonly.KindDir && e.depth < f.max && !e.prune {
		if err := f.below(ctx, match, e); err != nil {
			return err
		}
	}
	if f.late && e.depth >= f.min {
		_, err := match(ctx, e)
		return err
	}
	return nil
}

func (f *finder) below(ctx context.Context, match predicate, e *found) error {
	at := strings.TrimSuffix(e.path, "/") + "/"
	return entries(f.FS, f.path(e.path), func(i *appendonly.Info) error {
		return f.walk(ctx, match, &found{path: at + i.Name, info: i, depth: e.depth + 1})
	})
}

var errExpression = errors.New("an expression that is none")

func (f *finder) or() (predicate, error) {
	left, err := f.and()
	for err == nil && len(f.words) > 0 && (f.words[0] == "-o" || f.words[0] == "-or") {
		f.take()
		a := left
		var b predicate
		b, err = f.and()
		left = func(ctx context.Context, e *found) (bool, error) {
			if ok, err := a(ctx, e); ok || err != nil {
				return ok, err
			}
			return b(ctx, e)
		}
	}
	return left, err
}

func (f *finder) and() (predicate, error) {
	left, err := f.not()
	for err == nil && len(f.words) > 0 && f.words[0] != "-o" && f.words[0] != "-or" && f.words[0] != ")" {
		if f.words[0] == "-a" || f.words[0] == "-and" {
			f.take()
		}
		a := left
		var b predicate
		b, err = f.not()
		left = func(ctx context.Context, e *found) (bool, error) {
			if ok, err := a(ctx, e); !ok || err != nil {
				return false, err
			}
			return b(ctx, e)
		}
	}
	return left, err
}

func (f *finder) not() (predicate, error) {
	if f.nesting++; len(f.words) == 0 || f.nesting > 1000 {
		return nil, errExpression
	}
	switch w := f.take(); w {
	case "!", "-not":
		a, err := f.not()
		return func(ctx context.Context, e *found) (bool, error) {
			ok, err := a(ctx, e)
			return !ok, err
		}, err
	case "(":
		a, err := f.or()
		if err == nil && (len(f.words) == 0 || f.take() != ")") {
			err = errExpression
		}
		return a, err
	default:
		return f.primary(w)
	}
}

// is makes a predicate of a condition on an entry.
func is(cond func(e *found) bool) predicate {
	return func(_ context.Context, e *found) (bool, error) { return cond(e), nil }
}

// primary is one word with its value.
func (f *finder) primary(w string) (predicate, error) {
	switch w {
	case "-prune":
		return is(func(e *found) bool { e.prune = true; return true }), nil
	case "-true":
		return is(func(*found) bool { return true }), nil
	case "-false":
		return is(func(*found) bool { return false }), nil
	case "-depth", "-d":
		f.late = true
		return is(func(*found) bool { return true }), nil
	case "-mount", "-xdev", "-noleaf", "-nowarn", "-follow", "-daystart":
		return is(func(*found) bool { return true }), nil
	case "-empty":
		return f.empty, nil
	case "-print", "-print0":
		f.acts = true
		end := "\n"
		if w == "-print0" {
			end = "\x00"
		}
		return func(_ context.Context, e *found) (bool, error) {
			_, err := io.WriteString(f.out, e.path+end)
			return true, err
		}, nil
	case "-delete":
		f.acts, f.late = true, true
		return func(_ context.Context, e *found) (bool, error) {
			if e.info.Kind == appendonly.KindDir {
				return true, f.FS.Rmdir(f.path(e.path))
			}
			return true, f.FS.Remove(f.path(e.path))
		}, nil
	case "-ls":
		f.acts = true
		l := listing{f.call, map[byte]string{'l': ""}}
		return func(_ context.Context, e *found) (bool, error) {
			info := *e.info
			info.Name = e.path
			return true, l.print([]appendonly.Info{info})
		}, nil
	}
	if len(f.words) == 0 {
		return nil, errExpression
	}
	return f.valued(w, f.take())
}

func (f *finder) valued(w, v string) (predicate, error) {
	switch w {
	case "-maxdepth", "-mindepth":
		n, err := strconv.ParseUint(v, 10, 16)
		if w == "-maxdepth" {
			f.max = min(maxTree, int(n))
		} else {
			f.min = int(n)
		}
		return is(func(*found) bool { return true }), err
	case "-name", "-iname":
		return matches(v, w == "-iname", func(e *found) string { return path.Base(e.path) })
	case "-path", "-ipath", "-wholename":
		// Here * stands for slashes, too.
		return matches(v, w == "-ipath", func(e *found) string { return strings.ReplaceAll(e.path, "/", "\x01") })
	case "-type":
		return is(func(e *found) bool { return strings.IndexByte(v, typeLetter(e.info.Kind)) >= 0 }), nil
	case "-newer":
		info, err := f.FS.StatFollow(f.path(v))
		if err != nil {
			return nil, err
		}
		return is(func(e *found) bool { return modified(e.info).After(modified(&info)) }), nil
	case "-newermt":
		t, err := parseTime(v)
		return is(func(e *found) bool { return modified(e.info).After(t) }), err
	case "-mtime", "-ctime", "-atime":
		return f.aged(v, 24*time.Hour)
	case "-mmin", "-cmin", "-amin":
		return f.aged(v, time.Minute)
	case "-size":
		return sized(v)
	case "-links":
		return counted(v, 1, func(e *found) int64 { return int64(e.info.Nlink) })
	case "-printf":
		f.acts = true
		return func(_ context.Context, e *found) (bool, error) {
			_, err := io.WriteString(f.out, findText(v, e))
			return true, err
		}, nil
	}
	return nil, errExpression
}

// matches compares a name with a shell pattern.
func matches(pattern string, fold bool, of func(*found) string) (predicate, error) {
	pattern = strings.ReplaceAll(pattern, "/", "\x01")
	if fold {
		pattern = strings.ToLower(pattern)
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, err
	}
	return is(func(e *found) bool {
		name := of(e)
		if fold {
			name = strings.ToLower(name)
		}
		ok, _ := path.Match(pattern, name)
		return ok
	}), nil
}

// counted compares a number with N, +N or -N units.
func counted(v string, unit int64, of func(*found) int64) (predicate, error) {
	sign := byte(0)
	if v != "" && (v[0] == '+' || v[0] == '-') {
		sign, v = v[0], v[1:]
	}
	n, err := strconv.ParseInt(v, 10, 48)
	return is(func(e *found) bool {
		have := of(e) / unit
		switch sign {
		case '+':
			return have > n
		case '-':
			return have < n
		}
		return have == n
	}), err
}

func (f *finder) aged(v string, unit time.Duration) (predicate, error) {
	return counted(v, int64(unit/time.Second), func(e *found) int64 { return int64(f.now.Sub(modified(e.info)) / time.Second) })
}

func sized(v string) (predicate, error) {
	units := map[byte]int64{'c': 1, 'w': 2, 'b': 512, 'k': 1 << 10, 'M': 1 << 20, 'G': 1 << 30}
	unit := int64(512)
	if v != "" {
		if u, ok := units[v[len(v)-1]]; ok {
			unit, v = u, v[:len(v)-1]
		}
	}
	return counted(v, unit, func(e *found) int64 { return e.info.Size + unit - 1 })
}

func (f *finder) empty(_ context.Context, e *found) (bool, error) {
	switch e.info.Kind {
	case appendonly.KindFile:
		return e.info.Size == 0, nil
	case appendonly.KindDir:
		d, err := f.FS.OpenDir(f.path(e.path))
		if err != nil {
			return false, err
		}
		infos, err := d.Next(1)
		if err == io.EOF {
			err = nil
		}
		return len(infos) == 0, err
	}
	return false, nil
}

// findText fills a format of find -printf in.
func findText(format string, e *found) string {
	var times strings.Builder // %T takes one more letter
	for i := 0; i < len(format); i++ {
		if strings.HasPrefix(format[i:], "%T") && i+2 < len(format) {
			t := modified(e.info)
			switch format[i+2] {
			case '@':
				fmt.Fprintf(&times, "%d.%09d0", t.Unix(), t.Nanosecond())
			case '+':
				times.WriteString(t.Format("2006-01-02+15:04:05.000000000"))
			default:
				times.WriteString(dateText("%"+string(format[i+2]), t))
			}
			i += 2
			continue
		}
		times.WriteByte(format[i])
	}
	return directives(times.String(), func(d byte) (string, bool) {
		switch d {
		case 'p':
			return e.path, true
		case 'f':
			return path.Base(e.path), true
		case 'h':
			return path.Dir(e.path), true
		case 's':
			return strconv.FormatInt(e.info.Size, 10), true
		case 'y':
			return string(typeLetter(e.info.Kind)), true
		case 'd':
			return strconv.Itoa(e.depth), true
		case 'm':
			return strconv.FormatInt(int64(modeOf(e.info)), 8), true
		case 'M':
			return modeText(e.info), true
		case 'l':
			return e.info.Target, true
		case 'U', 'u':
			return strconv.FormatInt(max(0, e.info.UID), 10), true
		case 'G', 'g':
			return strconv.FormatInt(max(0, e.info.GID), 10), true
		case 'n':
			return strconv.Itoa(e.info.Nlink), true
		case 't':
			return modified(e.info).Format(time.ANSIC), true
		}
		return "", false
	})
}
