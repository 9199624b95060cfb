package shell

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"vaultd/internal/appendonly"
)

// Commands that describe names.

// modeText is an entry's type and permissions as ls writes them.
func modeText(i *appendonly.Info) string {
	m := modeOf(i)
	b := []byte("-rwxrwxrwx")
	b[0] = typeLetter(i.Kind)
	if b[0] == 'f' {
		b[0] = '-'
	}
	for bit := range 9 {
		if m&(1<<(8-bit)) == 0 {
			b[1+bit] = '-'
		}
	}
	for _, s := range []struct {
		bit  int32
		at   int
		on   byte
		only byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if m&s.bit != 0 {
			if b[s.at] == 'x' {
				b[s.at] = s.on
			} else {
				b[s.at] = s.only
			}
		}
	}
	return string(b)
}

func modeOf(i *appendonly.Info) int32 {
	if i.Mode == appendonly.Unset {
		return appendonly.DefaultMode(i.Kind)
	}
	return i.Mode
}

// typeLetter is find's letter of a kind.
func typeLetter(k appendonly.Kind) byte {
	switch k {
	case appendonly.KindDir:
		return 'd'
	case appendonly.KindSymlink:
		return 'l'
	case appendonly.KindFifo:
		return 'p'
	case appendonly.KindSocket:
		return 's'
	case appendonly.KindCharDev:
		return 'c'
	case appendonly.KindBlockDev:
		return 'b'
	}
	return 'f'
}

func modified(i *appendonly.Info) time.Time {
	return time.Unix(i.MTime.Sec(), int64(i.MTime.Nsec())).UTC()
}

// shown is a name in a list: what could move a terminal's cursor is a question mark, as with ls -q.
func shown(name string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, name)
}

// listing is one ls.
type listing struct {
	*call
	opt map[byte]string
}

func ls(ctx context.Context, c *call) error {
	opt, names, ok := c.options("1aAlhRrtSdFpngiUQ", map[string]byte{"all": 'a', "almost-all": 'A', "reverse": 'r', "recursive": 'R', "directory": 'd', "human-readable": 'h'})
	if !ok {
		return c.misused("ls [-1aAldhrRtS] [PATH]...")
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	l := listing{c, opt}
	var files []appendonly.Info
	var dirs []string
	status := c.each(ctx, names, func(name string) error {
		info, err := c.FS.StatFollow(c.path(name))
		if i, lerr := c.FS.Stat(c.path(name)); lerr == nil && (err != nil || has(opt, "d") || has(opt, "l") && i.Kind == appendonly.KindSymlink) {
			info, err = i, nil
		}
		if err == nil && info.Kind == appendonly.KindDir && !has(opt, "d") {
			dirs = append(dirs, name)
			return nil
		}
		info.Name = name
		files = append(files, info)
		if err != nil {
			files = files[:len(files)-1]
		}
		return err
	})
	l.order(files)
	if err := l.print(files); err != nil {
		return err
	}
	first := len(files) == 0
	if err := c.each(ctx, dirs, func(name string) error {
		if !first {
			fmt.Fprintln(c.out)
		}
		first = false
		return l.directory(ctx, name, len(names) > 1 || has(opt, "R"))
	}); err != nil {
		return err
	}
	return status
}

// directory lists one, and with -R those in it.
func (l *listing) directory(ctx context.Context, name string, headed bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	infos, err := l.read(name)
	if err != nil {
		return err
	}
	if headed {
		fmt.Fprintf(l.out, "%s:\n", shown(name))
	}
	if err := l.print(infos); err != nil || !has(l.opt, "R") {
		return err
	}
	for i := range infos {
		if infos[i].Kind == appendonly.KindDir {
			fmt.Fprintln(l.out)
			if err := l.directory(ctx, path.Join(name, infos[i].Name), true); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxListed bounds how many names of a directory ls puts in order.
const maxListed = 1 << 20

func (l *listing) read(name string) ([]appendonly.Info, error) {
	d, err := l.FS.OpenDir(l.path(name))
	if err != nil {
		return nil, err
	}
	var all []appendonly.Info
	for len(all) < maxListed {
		infos, err := d.Next(listBatch)
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		for i := range infos {
			if infos[i].Name[0] != '.' || has(l.opt, "aA") {
				all = append(all, infos[i])
			}
		}
	}
	l.order(all)
	if has(l.opt, "a") {
		dots := []appendonly.Info{d.Stat(), d.Stat()}
		dots[0].Name, dots[1].Name = ".", ".."
		all = append(dots, all...)
	}
	return all, nil
}

// order puts entries in the order that the options ask for.
func (l *listing) order(all []appendonly.Info) {
	slices.SortStableFunc(all, func(a, b appendonly.Info) int { return strings.Compare(a.Name, b.Name) })
	switch {
	case has(l.opt, "t"):
		slices.SortStableFunc(all, func(a, b appendonly.Info) int { return modified(&b).Compare(modified(&a)) })
	case has(l.opt, "S"):
		slices.SortStableFunc(all, func(a, b appendonly.Info) int { return cmp.Compare(b.Size, a.Size) })
	}
	if has(l.opt, "r") {
		slices.Reverse(all)
	}
}

func (l *listing) print(infos []appendonly.Info) error {
	for i := range infos {
		e := &infos[i]
		name := shown(e.Name)
		if has(l.opt, "Fp") && e.Kind == appendonly.KindDir {
			name += "/"
		}
		if !has(l.opt, "lng") {
			if _, err := fmt.Fprintln(l.out, name); err != nil {
				return err
			}
			continue
		}
		if e.Kind == appendonly.KindSymlink {
			name += " -> " + shown(e.Target)
		}
		size := strconv.FormatInt(e.Size, 10)
		if has(l.opt, "h") {
			size = strings.ReplaceAll(humanize.IBytes(uint64(max(0, e.Size))), " ", "")
		}
		if _, err := fmt.Fprintf(l.out, "%s %d %d %d %s %s %s\n", modeText(e), e.Nlink, max(0, e.UID), max(0, e.GID), size, lsTime(modified(e)), name); err != nil {
			return err
		}
	}
	return nil
}

// lsTime is a time as POSIX has it for ls -l.
func lsTime(t time.Time) string {
	if age := time.Since(t); age < 0 || age > 182*24*time.Hour {
		return t.Format("Jan _2  2006")
	}
	return t.Format("Jan _2 15:04")
}

// kindWords are what stat calls a kind.
func kindWords(i *appendonly.Info) string {
	switch i.Kind {
	case appendonly.KindDir:
		return "directory"
	case appendonly.KindSymlink:
		return "symbolic link"
	case appendonly.KindFifo:
		return "fifo"
	case appendonly.KindSocket:
		return "socket"
	case appendonly.KindCharDev:
		return "character special file"
	case appendonly.KindBlockDev:
		return "block special file"
	}
	if i.Size == 0 {
		return "regular empty file"
	}
	return "regular file"
}

func stat(ctx context.Context, c *call) error {
	const usage = "stat [-L] [-c FORMAT] FILE..."
	opt, names, ok := c.options("Lc:f", map[string]byte{"format": 'c', "printf": 'c', "dereference": 'L'})
	if !ok || len(names) == 0 || has(opt, "f") {
		return c.misused(usage)
	}
	format, given := opt['c']
	if !given {
		format = "  File: %N\n  Size: %s\t%F\nAccess: (%a/%A)  Uid: %u   Gid: %g\nModify: %y"
	}
	return c.each(ctx, names, func(name string) error {
		of := c.FS.Stat
		if has(opt, "L") {
			of = c.FS.StatFollow
		}
		info, err := of(c.path(name))
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.out, statText(format, name, &info))
		return err
	})
}

// statText fills a format of stat -c in.
func statText(format, name string, i *appendonly.Info) string {
	return directives(format, func(d byte) (string, bool) {
		t := modified(i)
		switch d {
		case 'n':
			return name, true
		case 'N':
			return "'" + shown(name) + "'", true
		case 's':
			return strconv.FormatInt(i.Size, 10), true
		case 'b':
			return strconv.FormatInt((i.Size+511)/512, 10), true
		case 'B':
			return "512", true
		case 'F':
			return kindWords(i), true
		case 'a':
			return strconv.FormatInt(int64(modeOf(i)), 8), true
		case 'A':
			return modeText(i), true
		case 'u', 'U':
			return strconv.FormatInt(max(0, i.UID), 10), true
		case 'g', 'G':
			return strconv.FormatInt(max(0, i.GID), 10), true
		case 'h':
			return strconv.Itoa(i.Nlink), true
		case 'Y', 'X', 'Z':
			return strconv.FormatInt(t.Unix(), 10), true
		case 'y', 'x', 'z':
			return t.Format("2006-01-02 15:04:05.000000000 -0700"), true
		}
		return "", false
	})
}

// directives replaces %c by what f has for c, and \n, \t and \0 by what they stand for. What f does not know stays.
func directives(format string, f func(byte) (string, bool)) string {
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if i+1 == len(format) || format[i] != '%' && format[i] != '\\' {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i-1] == '\\' {
			switch format[i] {
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case '0':
				b.WriteByte(0)
			case '\\':
				b.WriteByte('\\')
			default:
				b.WriteString(format[i-1 : i+1])
			}
			continue
		}
		if text, ok := f(format[i]); ok {
			b.WriteString(text)
		} else if format[i] == '%' {
			b.WriteByte('%')
		} else {
			b.WriteString(format[i-1 : i+1])
		}
	}
	return b.String()
}

// du adds up lengths: what is stored of them once or compressed is the provider's business.
func du(ctx context.Context, c *call) error {
	const usage = "du [-s] [-k|-m|-b|-h] [-d DEPTH] [PATH]..."
	opt, names, ok := c.options("skmbhcaxd:B:", map[string]byte{"summarize": 's', "bytes": 'b', "apparent-size": 'x', "human-readable": 'h', "max-depth": 'd', "block-size": 'B'})
	if !ok {
		return c.misused(usage)
	}
	if len(names) == 0 {
		names = []string{"."}
	}
	depth := maxTree
	if v, given := opt['d']; given {
		n, err := strconv.Atoi(v)
		if err != nil || n < 0 {
			return c.misused(usage)
		}
		depth = n
	}
	if has(opt, "s") {
		depth = 0
	}
	unit := int64(1024)
	switch {
	case has(opt, "b") || opt['B'] == "1":
		unit = 1
	case has(opt, "m") || opt['B'] == "M" || opt['B'] == "1M":
		unit = 1 << 20
	}
	show := func(n int64, name string) error {
		text := strconv.FormatInt((n+unit-1)/unit, 10)
		if has(opt, "h") {
			text = strings.ReplaceAll(humanize.IBytes(uint64(n)), " ", "")
		}
		_, err := fmt.Fprintf(c.out, "%s\t%s\n", text, shown(name))
		return err
	}
	var total int64
	status := c.each(ctx, names, func(name string) error {
		info, err := c.FS.Stat(c.path(name))
		if err != nil {
			return err
		}
		if info.Kind != appendonly.KindDir {
			total += info.Size
			return show(info.Size, name)
		}
		n, err := c.sum(ctx, name, 0, depth, show)
		total += n
		return err
	})
	if has(opt, "c") {
		status = errors.Join(status, show(total, "total"))
	}
	return status
}

// maxTree bounds how deep commands go.
const maxTree = 4096

// sum is the length of everything below a directory. Directories down to depth are shown.
func (c *call) sum(ctx context.Context, name string, at, depth int, show func(int64, string) error) (int64, error) {
	if err := ctx.Err(); err != nil || at > maxTree {
		return 0, err
	}
	var n int64
	err := entries(c.FS, c.path(name), func(i *appendonly.Info) error {
		if i.Kind != appendonly.KindDir {
			n += i.Size
			return nil
		}
		below, err := c.sum(ctx, path.Join(name, i.Name), at+1, depth, show)
		n += below
		return err
	})
	if err != nil {
		return n, err
	}
	if at <= depth {
		return n, show(n, name)
	}
	return n, nil
}

func readlink(ctx context.Context, c *call) error {
	opt, names, ok := c.options("fnem", map[string]byte{"canonicalize": 'f'})
	if !ok || len(names) == 0 {
		return c.misused("readlink [-f] PATH...")
	}
	return c.each(ctx, names, func(name string) error {
		if has(opt, "fem") || c.name == "realpath" {
			return c.real(name)
		}
		target, err := c.FS.Readlink(c.path(name))
		if err == nil {
			_, err = fmt.Fprintln(c.out, target)
		}
		return err
	})
}

// real writes a path without links and dots.
func (c *call) real(name string) error {
	p, err := c.FS.Resolve(c.path(name))
	if err != nil {
		return err
	}
	for range 40 { // as many links as the kernel follows
		info, err := c.FS.Stat(p)
		if err != nil || info.Kind != appendonly.KindSymlink {
			break // a last part that is missing may be asked for
		}
		if path.IsAbs(info.Target) {
			p = path.Clean(info.Target)
		} else {
			p = path.Join(path.Dir(p), info.Target)
		}
	}
	_, err = fmt.Fprintln(c.out, p)
	return err
}
